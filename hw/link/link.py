"""The link, which connects the host's serial line to the bus of the core."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus import CoreBus
from hw.link.dispatch import Dispatcher
from hw.link.frame import FrameReceiver, FrameSender
from hw.link.packet import PacketByte
from hw.link.rate import RateControl
from hw.link.uart import UartReceiver, UartTransmitter
from hw.parts.queue import Queue
from hw.parts.register import StreamRegister
from hw.protocol import Opcode
from hw.spec import Config


class SerialPort(wiring.Signature):
    """A serial port as streams of bytes, seen from the port.

    Members
    -------
    rx : bytes received from the host.
    line_break : high for one cycle at a break.
    tx : bytes to send to the host.
    """

    def __init__(self):
        super().__init__(
            {
                "rx": Out(stream.Signature(8)),
                "line_break": Out(1),
                "tx": In(stream.Signature(8)),
            }
        )


class Link(wiring.Component):
    """Receive requests, execute them on the core, and send replies. ::

        rx - UartReceiver - Queue - FrameReceiver - Dispatcher - bus
        tx - UartTransmitter ------------ FrameSender -'

    With ``usb``, there is a second serial port, connected through streams of bytes instead of pins.
    One port is in use at a time: the port on which the last break arrived, or the UART if no break
    has arrived since the reset. A host sends a break when it opens a port. Bytes that arrive at the
    other port are dropped.

    Parameters
    ----------
    config : configuration of the device.
    usb : whether there is a second serial port, over USB.

    Members
    -------
    rx, tx : serial line, at the rate that :class:`hw.link.rate.RateControl` sets.
    bus : connection to the core.
    busy : something is being received, executed or sent. While it is low and ``rx`` is high, the
        link only waits for a request.
    usb : the second serial port, if there is one, see :class:`SerialPort`.
    """

    def __init__(self, config: Config, *, usb: bool = False):
        self.config = config
        self._has_usb = usb
        super().__init__(
            {"rx": In(1), "tx": Out(1), "bus": In(CoreBus(config)), "busy": Out(1)}
            | ({"usb": In(SerialPort())} if usb else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.rate = rate = RateControl(config)
        m.submodules.receiver = receiver = UartReceiver()
        m.submodules.queue = queue = Queue(8, config.rx_buffer_bytes)
        twice = Opcode.WRITE_PACKED if config.packed_writes else None
        m.submodules.frames = frames = FrameReceiver(config.max_payload_bytes, twice=twice)
        m.submodules.dispatcher = dispatcher = Dispatcher(config)
        m.submodules.sender = sender = FrameSender()
        m.submodules.transmitter = transmitter = UartTransmitter()

        if not self._has_usb:
            wiring.connect(m, receiver.o, queue.i)
        wiring.connect(m, queue.o, frames.i)
        # Without this register, paths through frames, dispatcher and sender would be the longest.
        m.submodules.register = register = StreamRegister(PacketByte)
        wiring.connect(m, frames.o, register.i)
        wiring.connect(m, register.o, dispatcher.i)
        wiring.connect(m, dispatcher.o, sender.i)
        if not self._has_usb:
            wiring.connect(m, sender.o, transmitter.i)
        wiring.connect(m, wiring.flipped(self.bus), dispatcher.bus)

        garbled = receiver.framing_error & ~receiver.line_break
        overrun, line_break = receiver.overrun | garbled, receiver.line_break
        if self._has_usb:
            line_break, over_usb = self._choose_port(m, receiver, queue, sender, transmitter)
            overrun &= ~over_usb
        for count, event in (
            (dispatcher.n_bad_frames, frames.dropped),
            (dispatcher.n_overruns, overrun),
        ):
            so_far = Signal.like(count)
            m.d.comb += count.eq(so_far)
            with m.If(event):
                m.d.sync += so_far.eq(so_far + 1)

        sending = sender.busy | transmitter.busy
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            receiver.divisor_less_1.eq(rate.divisor_less_1),
            transmitter.divisor_less_1.eq(rate.divisor_less_1),
            rate.wanted.eq(dispatcher.divisor_less_1),
            rate.agree.eq(dispatcher.set_rate),
            rate.sending.eq(sending),
            rate.passed.eq(frames.passed),
            rate.line_break.eq(line_break),
            queue.clear.eq(line_break),
            sender.fold.eq(dispatcher.fold),
            dispatcher.folded_intact.eq(sender.folded_intact),
            dispatcher.n_data_bytes.eq(frames.n_data_bytes),
            self.busy.eq(
                receiver.busy
                | queue.busy
                | frames.busy
                | register.o.valid
                | dispatcher.busy
                | sending
                | rate.busy
            ),
        ]
        return m

    def _choose_port(
        self,
        m: Module,
        receiver: UartReceiver,
        queue: Queue,
        sender: FrameSender,
        transmitter: UartTransmitter,
    ) -> tuple[Signal, Signal]:
        """Connect the port that is in use, which is the UART or the port over USB.

        Returns
        -------
        Two signals: one that is high for a cycle at a break on either port, and one that is high
        while the port over USB is in use.
        """
        usb, over_usb, line_break = self.usb, Signal(), Signal()
        m.d.comb += [
            line_break.eq(receiver.line_break | usb.line_break),
            queue.i.payload.eq(Mux(over_usb, usb.rx.payload, receiver.o.payload)),
            queue.i.valid.eq(Mux(over_usb, usb.rx.valid, receiver.o.valid)),
            # The port that is not in use gets rid of its bytes.
            receiver.o.ready.eq(over_usb | queue.i.ready),
            usb.rx.ready.eq(~over_usb | queue.i.ready),
            transmitter.i.payload.eq(sender.o.payload),
            transmitter.i.valid.eq(~over_usb & sender.o.valid),
            usb.tx.payload.eq(sender.o.payload),
            usb.tx.valid.eq(over_usb & sender.o.valid),
            sender.o.ready.eq(Mux(over_usb, usb.tx.ready, transmitter.i.ready)),
        ]
        with m.If(line_break):
            m.d.sync += over_usb.eq(usb.line_break)
        return line_break, over_usb
