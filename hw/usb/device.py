"""The USB device itself: LUNA's device core, with the endpoints and requests of a serial port."""

from __future__ import annotations

from amaranth import Elaboratable, Module, Signal
from luna.gateware.stream import StreamInterface
from luna.gateware.usb.usb2.device import USBDevice

from hw.usb.descriptors import serial_port_descriptors
from hw.usb.endpoints import DataIn, DataOut, StatusIn
from hw.usb.requests import SerialRequests
from hw.usb.transceiver import Transceiver


class SerialDevice(Elaboratable):
    """Full-speed CDC-ACM device in the clock domains ``usb_io`` (48 MHz) and ``usb`` (12 MHz).

    Attributes
    ----------
    transceiver : the transceiver, whose signals are those of the pins D+ and D-.
    rx, tx : received bytes, and bytes to send; both in the domain ``usb``.
    line_break : high for one cycle at a break, see :class:`hw.usb.serial_port.UsbSerialPort`.
    """

    def __init__(self):
        self.transceiver = Transceiver()
        self.rx = StreamInterface()
        self.tx = StreamInterface()
        self.line_break = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transceiver = self.transceiver
        m.submodules.usb = usb = USBDevice(bus=self.transceiver)
        control = usb.add_standard_control_endpoint(serial_port_descriptors())
        requests = SerialRequests()
        control.add_request_handler(requests)
        data_out, data_in = DataOut(), DataIn()
        # The names of the submodules come from the classes, of which there is one instance each.
        for endpoint in (data_out, data_in, StatusIn()):
            usb.add_endpoint(endpoint)
        restart = usb.reset_detected | control.interface.config_changed
        m.d.comb += [
            usb.connect.eq(1),
            data_out.restart.eq(restart),
            data_in.restart.eq(restart),
            *self.rx.stream_eq(data_out.stream),
            *data_in.stream.stream_eq(self.tx),
            self.line_break.eq(requests.send_break | (data_out.zeros & requests.at_break_rate)),
        ]
        return m
