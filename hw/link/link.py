"""The link, which connects the host's serial line to the bus of the core."""

from amaranth import Module, Signal
from amaranth.lib import wiring
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


class Link(wiring.Component):
    """Receive requests, execute them on the core, and send replies. ::

        rx - UartReceiver - Queue - FrameReceiver - Dispatcher - bus
        tx - UartTransmitter ------------ FrameSender -'

    Members
    -------
    rx, tx : serial line, at the rate that :class:`hw.link.rate.RateControl` sets.
    bus : connection to the core.
    busy : something is being received, executed or sent. While it is low and ``rx`` is high, the
        link only waits for a request.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({"rx": In(1), "tx": Out(1), "bus": In(CoreBus(config)), "busy": Out(1)})

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

        wiring.connect(m, receiver.o, queue.i)
        wiring.connect(m, queue.o, frames.i)
        # Without this register, paths through frames, dispatcher and sender would be the longest.
        m.submodules.register = register = StreamRegister(PacketByte)
        wiring.connect(m, frames.o, register.i)
        wiring.connect(m, register.o, dispatcher.i)
        wiring.connect(m, dispatcher.o, sender.i)
        wiring.connect(m, sender.o, transmitter.i)
        wiring.connect(m, wiring.flipped(self.bus), dispatcher.bus)

        garbled = receiver.framing_error & ~receiver.line_break
        for count, event in (
            (dispatcher.n_bad_frames, frames.dropped),
            (dispatcher.n_overruns, receiver.overrun | garbled),
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
            rate.line_break.eq(receiver.line_break),
            queue.clear.eq(receiver.line_break),
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
