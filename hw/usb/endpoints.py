"""The endpoints of the serial port, which start anew whenever a host resets or configures the
device.

The data toggles and buffers of LUNA's endpoints survive a bus reset. After a reset, a host starts
with DATA0, so that its first packet could be taken for a repeated one and dropped. Therefore the
endpoints for data have an input ``restart``.
"""

from __future__ import annotations

from amaranth import Elaboratable, Module, ResetInserter, Signal
from luna.gateware.stream import StreamInterface
from luna.gateware.usb.usb2.endpoint import EndpointInterface
from luna.gateware.usb.usb2.endpoints.stream import USBStreamOutEndpoint
from luna.gateware.usb.usb2.transfer import USBInTransferManager

from hw.usb.descriptors import DATA_ENDPOINT, MAX_PACKET_BYTES, STATUS_ENDPOINT


class DataOut(Elaboratable):
    """Receive bytes from the host. A packet for which there is no space is refused with NAK.

    Attributes
    ----------
    interface : connection to the USB device.
    restart : forget buffered bytes, and expect DATA0 next.
    stream : the received bytes.
    zeros : high for one cycle when an undamaged packet of zero bytes only has arrived, before any
        of these bytes is on ``stream``.
    """

    def __init__(self):
        self._endpoint = USBStreamOutEndpoint(
            endpoint_number=DATA_ENDPOINT, max_packet_size=MAX_PACKET_BYTES
        )
        self.interface = self._endpoint.interface
        self.stream = self._endpoint.stream
        self.restart = Signal()
        self.zeros = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.endpoint = ResetInserter({"usb": self.restart})(self._endpoint)
        tokenizer, rx = self.interface.tokenizer, self.interface.rx
        some, only_zeros = Signal(), Signal()
        m.d.comb += self.zeros.eq(
            self.interface.rx_complete
            & tokenizer.is_out
            & (tokenizer.endpoint == DATA_ENDPOINT)
            & some
            & only_zeros
        )
        with m.If(tokenizer.new_token):
            m.d.usb += [some.eq(0), only_zeros.eq(1)]
        with m.Elif(rx.valid & rx.next):
            m.d.usb += [some.eq(1), only_zeros.eq(only_zeros & (rx.payload == 0))]
        return m


class DataIn(Elaboratable):
    """Send bytes to the host, in packets that end when no more bytes are waiting.

    If the last packet of a transfer is full, an empty packet follows. Without it, the host would
    wait for more bytes before it gives the last ones to a program.

    Attributes
    ----------
    interface : connection to the USB device.
    restart : forget buffered bytes, and begin with DATA0.
    stream : the bytes to send; ``last`` marks a byte after which no other is waiting.
    """

    def __init__(self):
        self.interface = EndpointInterface()
        self.stream = StreamInterface()
        self.restart = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        manager = USBInTransferManager(MAX_PACKET_BYTES)
        m.submodules.manager = ResetInserter({"usb": self.restart})(manager)
        interface, tokenizer = self.interface, self.interface.tokenizer
        halted = interface.clear_endpoint_halt_in
        addressed = tokenizer.endpoint == DATA_ENDPOINT
        m.d.comb += [
            manager.generate_zlps.eq(1),
            manager.active.eq(addressed),
            *manager.transfer_stream.stream_eq(self.stream),
            manager.reset_sequence.eq(
                halted.enable & halted.direction & (halted.number == DATA_ENDPOINT)
            ),
            *interface.tx.stream_eq(manager.packet_stream),
            interface.tx_pid_toggle.eq(manager.data_pid),
            interface.tokenizer.connect(manager.tokenizer),
            manager.handshakes_out.connect(interface.handshakes_out),
            # An acknowledgement to another device on the same hub is none for this one: the
            # tokenizer has forgotten the last token then.
            manager.handshakes_in.ack.eq(interface.handshakes_in.ack & tokenizer.is_in & addressed),
        ]
        return m


class StatusIn(Elaboratable):
    """Answer the host's requests for notifications with NAK, because there are never any.

    Attributes
    ----------
    interface : connection to the USB device.
    """

    def __init__(self):
        self.interface = EndpointInterface()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tokenizer = self.interface.tokenizer
        m.d.comb += self.interface.handshakes_out.nak.eq(
            tokenizer.is_in & (tokenizer.endpoint == STATUS_ENDPOINT) & tokenizer.ready_for_response
        )
        return m
