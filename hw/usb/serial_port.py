"""A serial port over USB: bytes in and out of a full-speed CDC-ACM device.

The device is LUNA's (github.com/greatscottgadgets/luna), with its transceiver that consists of FPGA
logic only. The class gives every operating system a serial port, without a driver of ours.
"""

import warnings
from typing import TYPE_CHECKING
from unittest.mock import patch

from amaranth import Fragment, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.fifo import AsyncFIFO
from amaranth.lib.wiring import In, Out

from hw.usb.pins import UsbPins

if TYPE_CHECKING:
    from hw.usb.device import SerialDevice

CROSSING_BYTES = 16
"""Depth in bytes of the queues between the clock domains."""
GATHER_CYCLES = 12
"""Number of cycles at 12 MHz (1 us) for which the last byte of a packet is held back, in case more
bytes follow, so that a reply is not split into several packets."""

USB_HZ = 12e6
"""Frequency of the domain ``usb``."""
ANSWER_CYCLES = (1, 7)
"""First and last cycle of the domain ``usb`` after the end of a packet in which an answer may
begin. LUNA's own first cycle is 2, for the gap that USB demands between packets. Here 1 is enough,
because the transceiver alone delays the answer by more than this gap."""


class UsbSerialPort(wiring.Component):
    """Give a host a serial port over USB, and pass on the bytes of both directions.

    The clock domain ``sync`` is that of ``rx`` and ``tx``. Besides it, the component needs the
    domains ``usb_io`` of 48 MHz and ``usb`` of 12 MHz, whose clocks come from the same PLL. No byte
    is lost: packets are refused while ``rx`` is not taken, and wait while the host does not ask for
    those of ``tx``. The rate that the host sets has no effect.

    Members
    -------
    pins : see :class:`hw.usb.pins.UsbPins`.
    rx : received bytes.
    line_break : high for one cycle at a break. It is the host's request SEND_BREAK, or a zero byte
        that the host sends at the rate :data:`hw.protocol.BREAK_BAUD`. Bytes that arrived before
        it and were not taken from ``rx`` are dropped.
    tx : bytes to send.
    """

    pins: Out(UsbPins())
    rx: Out(stream.Signature(8))
    line_break: Out(1)
    tx: In(stream.Signature(8))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with warnings.catch_warnings():
            # LUNA uses classes that Amaranth 0.5 has deprecated. Elaborating it here keeps the
            # warnings of all its parts out of those of the rest.
            warnings.simplefilter("ignore", DeprecationWarning)
            from luna.gateware.usb.usb2.packet import USBInterpacketTimer

            from hw.usb.device import SerialDevice

            device = SerialDevice()
            with patch.dict(USBInterpacketTimer._FS_RX_TO_TX_DELAY, {USB_HZ: ANSWER_CYCLES}):
                m.submodules.device = Fragment.get(device, platform)
        transceiver = device.transceiver
        m.d.comb += [
            transceiver.dp_i.eq(self.pins.d_p_i),
            transceiver.dn_i.eq(self.pins.d_n_i),
            self.pins.d_p_o.eq(transceiver.dp_o),
            self.pins.d_n_o.eq(transceiver.dn_o),
            self.pins.oe.eq(transceiver.oe),
            self.pins.pullup.eq(transceiver.pullup),
        ]
        self._receive(m, device)
        self._send(m, device)
        return m

    def _receive(self, m: Module, device: "SerialDevice") -> None:
        """Pass on bytes and breaks from the USB device to ``rx`` and ``line_break``.

        A queue takes the bytes to the clock domain ``sync``. A break empties it: both ends of the
        queue drop all bytes until none is left, and only then is the break reported.
        """
        m.submodules.received = fifo = AsyncFIFO(
            width=8, depth=CROSSING_BYTES, w_domain="usb", r_domain="sync"
        )
        breaking, breaking_here = Signal(), Signal()
        done, done_there = Signal(), Signal()
        # Later than the bytes that were written before it, so that the queue is known to be empty.
        m.submodules.breaking = FFSynchronizer(breaking, breaking_here, o_domain="sync", stages=3)
        # Later than the end of the packet that is a break reaches the endpoint's stream.
        m.submodules.done = FFSynchronizer(done, done_there, o_domain="usb", stages=8)
        out = device.rx
        m.d.comb += [
            fifo.w_data.eq(out.payload),
            fifo.w_en.eq(out.valid & ~breaking),
            out.ready.eq(fifo.w_rdy | breaking),
        ]
        with m.If(device.line_break):
            m.d.usb += breaking.eq(1)
        with m.Elif(done_there & ~out.valid):
            m.d.usb += breaking.eq(0)
        m.d.comb += [
            self.rx.payload.eq(fifo.r_data),
            self.rx.valid.eq(fifo.r_rdy & ~breaking_here),
            fifo.r_en.eq(self.rx.ready | breaking_here),
            self.line_break.eq(breaking_here & ~fifo.r_rdy & ~done),
        ]
        with m.If(~breaking_here):
            m.d.sync += done.eq(0)
        with m.Elif(~fifo.r_rdy):
            m.d.sync += done.eq(1)

    def _send(self, m: Module, device: "SerialDevice") -> None:
        """Pass on bytes from ``tx`` to the USB device, which sends them to the host.

        A byte that no other follows waits for :data:`GATHER_CYCLES` before it ends the packet, so
        that a reply is not split into several packets.
        """
        m.submodules.sent = fifo = AsyncFIFO(
            width=8, depth=CROSSING_BYTES, w_domain="sync", r_domain="usb"
        )
        m.d.comb += [
            fifo.w_data.eq(self.tx.payload),
            fifo.w_en.eq(self.tx.valid),
            self.tx.ready.eq(fifo.w_rdy),
        ]
        held = Signal()
        byte = Signal(8)
        waited = Signal(range(GATHER_CYCLES + 1))
        out = device.tx
        late = waited == GATHER_CYCLES
        m.d.comb += [
            out.payload.eq(byte),
            out.valid.eq(held & (fifo.r_rdy | late)),
            out.last.eq(late),
            fifo.r_en.eq(~held | (out.valid & out.ready)),
        ]
        with m.If(fifo.r_en):
            m.d.usb += [byte.eq(fifo.r_data), held.eq(fifo.r_rdy), waited.eq(0)]
        with m.Elif(~late & ~fifo.r_rdy):
            m.d.usb += waited.eq(waited + 1)
