"""The link: a serial line on one side, the core's bus on the other."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.bus import CoreBus
from hw.link.cobs import CobsDecoder, CobsEncoder
from hw.link.dispatch import Dispatcher
from hw.link.frame import CrcAppender, FrameBuffer
from hw.link.uart import UartReceiver, UartTransmitter
from hw.spec import Config


class Link(wiring.Component):
    """Receives requests, executes them on the core, sends replies.

    ::

        rx - UartReceiver - FIFO - CobsDecoder - FrameBuffer -.
                                                          Dispatcher - bus
        tx - UartTransmitter --- CobsEncoder --- CrcAppender -'

    Members
    -------
    rx, tx : serial line, ``clk_hz // baud`` cycles a bit.
    bus : the core.
    busy : something is being received, executed or sent. While it is low and ``rx`` is high,
        nothing changes.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({"rx": In(1), "tx": Out(1), "bus": In(CoreBus(config)), "busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        divisor = config.clk_hz // config.baud
        m.submodules.receiver = receiver = UartReceiver(divisor)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=config.rx_buffer_bytes)
        m.submodules.decoder = decoder = CobsDecoder()
        m.submodules.frame_buffer = frames = FrameBuffer(config.max_payload_bytes)
        m.submodules.dispatcher = dispatcher = Dispatcher(config)
        m.submodules.crc_appender = crc_appender = CrcAppender()
        m.submodules.encoder = encoder = CobsEncoder()
        m.submodules.transmitter = transmitter = UartTransmitter(divisor)

        wiring.connect(m, receiver.o, fifo.w_stream)
        wiring.connect(m, fifo.r_stream, decoder.i)
        wiring.connect(m, decoder.o, frames.i)
        wiring.connect(m, frames.o, dispatcher.i)
        wiring.connect(m, dispatcher.o, crc_appender.i)
        wiring.connect(m, crc_appender.o, encoder.i)
        wiring.connect(m, encoder.o, transmitter.i)
        wiring.connect(m, wiring.flipped(self.bus), dispatcher.bus)

        n_bad_frames = Signal(16)
        n_overruns = Signal(16)
        for count, event in (
            (n_bad_frames, frames.dropped),
            (n_overruns, receiver.overrun | receiver.framing_error),
        ):
            with m.If(event & (count != 0xFFFF)):
                m.d.sync += count.eq(count + 1)

        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            dispatcher.n_payload_bytes.eq(frames.n_payload_bytes),
            dispatcher.n_bad_frames.eq(n_bad_frames),
            dispatcher.n_overruns.eq(n_overruns),
            self.busy.eq(
                receiver.busy
                | (fifo.level != 0)
                | frames.busy
                | dispatcher.busy
                | encoder.busy
                | transmitter.busy
            ),
        ]
        return m
