"""The requests of the class CDC-ACM: settings of the serial port, and SEND_BREAK."""

from __future__ import annotations

import enum

from amaranth import Array, Cat, Module, Mux, Signal
from luna.gateware.stream.generator import StreamSerializer
from luna.gateware.usb.stream import USBInStreamInterface
from luna.gateware.usb.usb2.request import USBRequestHandler
from usb_protocol.types import USBRequestType

from hw.protocol import BREAK_BAUD

LINE_CODING_BYTES = 7
"""Length of the settings of a serial port: rate (4 bytes), stop bits, parity, data bits."""
RATE_BYTES = 4


class ClassRequest(enum.IntEnum):
    """Requests of the class CDC-ACM that this device knows (PSTN subclass specification, revision
    1.2, section 6.3)."""

    SET_LINE_CODING = 0x20
    GET_LINE_CODING = 0x21
    SET_CONTROL_LINE_STATE = 0x22
    SEND_BREAK = 0x23


class SerialRequests(USBRequestHandler):
    """Answer the requests of the class CDC-ACM; all others of the class are stalled.

    Of the settings, only the rate has an effect: while it is :data:`hw.protocol.BREAK_BAUD`, zero
    bytes are a break, as they are on a UART.

    Attributes
    ----------
    send_break : high for one cycle when SEND_BREAK begins a break.
    at_break_rate : the host has set the rate to :data:`hw.protocol.BREAK_BAUD`.
    """

    def __init__(self):
        super().__init__()
        self.send_break = Signal()
        self.at_break_rate = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        interface, setup = self.interface, self.interface.setup
        coding = Array(Signal(8, name=f"coding{i}") for i in range(LINE_CODING_BYTES))
        index = Signal(range(LINE_CODING_BYTES + 1))
        m.submodules.transmitter = transmitter = StreamSerializer(
            data_length=LINE_CODING_BYTES,
            domain="usb",
            stream_type=USBInStreamInterface,
            max_length_width=3,
        )
        short = setup.length < LINE_CODING_BYTES
        m.d.comb += [
            *(transmitter.data[i].eq(coding[i]) for i in range(LINE_CODING_BYTES)),
            transmitter.max_length.eq(Mux(short, setup.length, LINE_CODING_BYTES)),
        ]
        with m.If(~interface.rx.valid):  # no data packet is arriving
            m.d.usb += index.eq(0)
        with m.If(setup.type == USBRequestType.CLASS), m.Switch(setup.request):
            with m.Case(ClassRequest.SET_LINE_CODING):
                m.d.comb += interface.claim.eq(1)
                with m.If(interface.rx.valid & interface.rx.next & (index != len(coding))):
                    m.d.usb += [coding[index].eq(interface.rx.payload), index.eq(index + 1)]
                with m.If(interface.rx_ready_for_response):  # the packet's CRC was correct
                    rate = Cat(*(coding[i] for i in range(RATE_BYTES)))
                    m.d.comb += interface.handshakes_out.ack.eq(1)
                    m.d.usb += self.at_break_rate.eq(rate == BREAK_BAUD)
                with m.If(interface.status_requested):
                    m.d.comb += self.send_zlp()
            with m.Case(ClassRequest.GET_LINE_CODING):
                m.d.comb += [interface.claim.eq(1), *transmitter.stream.attach(interface.tx)]
                with m.If(interface.data_requested):
                    m.d.comb += transmitter.start.eq(1)
                with m.If(interface.status_requested):
                    m.d.comb += interface.handshakes_out.ack.eq(1)
            with m.Case(ClassRequest.SET_CONTROL_LINE_STATE):
                m.d.comb += interface.claim.eq(1)
                with m.If(interface.status_requested):
                    m.d.comb += self.send_zlp()
            with m.Case(ClassRequest.SEND_BREAK):
                m.d.comb += [
                    interface.claim.eq(1),
                    # The value is the length of the break in ms; 0 ends one of any length.
                    self.send_break.eq(setup.received & (setup.value != 0)),
                ]
                with m.If(interface.status_requested):
                    m.d.comb += self.send_zlp()
        return m
