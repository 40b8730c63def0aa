"""UART with 8 data bits, no parity and 1 stop bit."""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from hw.link.rate import DIVISOR_BITS

MIN_DIVISOR = 4
"""Smallest number of clock cycles per bit; with fewer, the receiver can miss a bit of a sender that
is slightly faster."""

N_DATA_BITS = 8


class UartReceiver(wiring.Component):
    """Receive bytes from a serial line, sampling once in the middle of each bit.

    Members
    -------
    divisor_less_1 : clock cycles per bit, less one; at least ``MIN_DIVISOR - 1``.
    rx : serial line, asynchronous, high when idle.
    o : received bytes. The line cannot be stopped: when a byte is complete while the one before it
        still waits on ``o``, the new byte is lost.
    overrun : high for one cycle for each byte lost in this way.
    framing_error : high for one cycle for each byte whose stop bit was low; the byte is dropped.
    line_break : high together with ``framing_error`` if all data bits were low, too.
    busy : a byte is arriving or waits on ``o``.
    """

    divisor_less_1: In(DIVISOR_BITS)
    rx: In(1)
    o: Out(stream.Signature(8))
    overrun: Out(1)
    framing_error: Out(1)
    line_break: Out(1)
    busy: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rx = Signal(init=1)
        last_rx = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, rx, init=1)
        m.d.sync += last_rx.eq(rx)

        timer = Signal(DIVISOR_BITS)
        bits_left = Signal(range(N_DATA_BITS + 2))
        shift = Signal(N_DATA_BITS)
        receiving = Signal()
        m.d.comb += self.busy.eq(receiving | ~rx | self.o.valid)

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(~receiving):
            m.d.sync += [
                # Detect an edge, not a level: after a missing stop bit the line must first go high.
                receiving.eq(last_rx & ~rx),
                timer.eq((self.divisor_less_1 >> 1) - 1),
                bits_left.eq(N_DATA_BITS + 1),
            ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self.divisor_less_1),
                bits_left.eq(bits_left - 1),
                shift.eq(Cat(shift[1:], rx)),
            ]
            with m.If(bits_left == N_DATA_BITS + 1):
                # If the line is high again in the middle of the start bit, it was a glitch.
                m.d.sync += receiving.eq(~rx)
            with m.Elif(bits_left == 0):
                m.d.sync += receiving.eq(0)
                with m.If(~rx):
                    m.d.comb += [self.framing_error.eq(1), self.line_break.eq(shift == 0)]
                with m.Elif(self.o.valid & ~self.o.ready):
                    m.d.comb += self.overrun.eq(1)
                with m.Else():
                    m.d.sync += [self.o.payload.eq(shift), self.o.valid.eq(1)]
        return m


class UartTransmitter(wiring.Component):
    """Send bytes over a serial line, without gaps while bytes are waiting on ``i``.

    Members
    -------
    divisor_less_1 : clock cycles per bit, less one.
    i : bytes to send.
    tx : serial line, high when idle.
    busy : a byte is being sent.
    """

    divisor_less_1: In(DIVISOR_BITS)
    i: In(stream.Signature(8))
    tx: Out(1, init=1)
    busy: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(DIVISOR_BITS)
        bits_left = Signal(range(N_DATA_BITS + 2))
        # Bits that follow the one on the line; ones are shifted in behind them, as the stop bit.
        shift = Signal(N_DATA_BITS, init=-1)
        bit_ends = Signal()
        m.d.comb += [
            bit_ends.eq(timer == 0),
            self.busy.eq(~(bit_ends & (bits_left == 0))),
            self.i.ready.eq(~self.busy),
        ]
        with m.If(~bit_ends):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(bits_left != 0):
            m.d.sync += [
                timer.eq(self.divisor_less_1),
                bits_left.eq(bits_left - 1),
                Cat(self.tx, shift).eq(Cat(shift, 1)),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += [
                timer.eq(self.divisor_less_1),
                bits_left.eq(N_DATA_BITS + 1),
                self.tx.eq(0),
                shift.eq(self.i.payload),
            ]
        return m
