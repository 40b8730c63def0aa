"""USB descriptors of the device: a CDC-ACM serial port, which all operating systems know.

The class is described in "Universal Serial Bus Communications Class Subclass Specification for
PSTN Devices", revision 1.2, of the USB Implementers Forum.
"""

from __future__ import annotations

from usb_protocol.emitters import DeviceDescriptorCollection
from usb_protocol.emitters.descriptors import cdc
from usb_protocol.types import USBTransferType

from hw.usb.identity import MANUFACTURER, PRODUCT, PRODUCT_ID, VENDOR_ID

MAX_PACKET_BYTES = 64
"""Largest packet of a bulk endpoint at full speed (USB 2.0, section 5.8.3)."""
STATUS_ENDPOINT = 3
"""Number of the endpoint for notifications. The class CDC-ACM requires it, but the device never
sends any."""
DATA_ENDPOINT = 4
"""Number of the endpoints for data in both directions."""
STATUS_INTERVAL_MS = 255
"""Time in ms between two requests of the host for notifications. It is the largest that USB allows,
which leaves most bandwidth to data."""

_CDC, _ABSTRACT_CONTROL_MODEL, _CDC_DATA = 0x02, 0x02, 0x0A
_LINE_CODING, _SEND_BREAK = 1 << 1, 1 << 2
"""Capabilities of a serial port: the requests for its settings, and SEND_BREAK."""


def serial_port_descriptors() -> DeviceDescriptorCollection:
    """Return the descriptors of a device with one serial port."""
    descriptors = DeviceDescriptorCollection()
    with descriptors.DeviceDescriptor() as device:
        device.idVendor = VENDOR_ID
        device.idProduct = PRODUCT_ID
        device.bDeviceClass = 0xEF  # composed of functions that an association descriptor groups
        device.bDeviceSubclass = 0x02
        device.bDeviceProtocol = 0x01
        device.iManufacturer = MANUFACTURER
        device.iProduct = PRODUCT
        device.bNumConfigurations = 1
    with descriptors.ConfigurationDescriptor() as configuration:
        with configuration.InterfaceAssociationDescriptor() as association:
            association.bFirstInterface = 0
            association.bInterfaceCount = 2
            association.bFunctionClass = _CDC
            association.bFunctionSubClass = _ABSTRACT_CONTROL_MODEL
            association.bFunctionProtocol = 0
        with configuration.InterfaceDescriptor() as control:
            control.bInterfaceNumber = 0
            control.bInterfaceClass = _CDC
            control.bInterfaceSubclass = _ABSTRACT_CONTROL_MODEL
            control.bInterfaceProtocol = 0
            control.add_subordinate_descriptor(cdc.HeaderDescriptorEmitter())
            calls = cdc.CallManagementFunctionalDescriptorEmitter()
            calls.bDataInterface = 1
            control.add_subordinate_descriptor(calls)
            abilities = cdc.ACMFunctionalDescriptorEmitter()
            abilities.bmCapabilities = _LINE_CODING | _SEND_BREAK
            control.add_subordinate_descriptor(abilities)
            union = cdc.UnionFunctionalDescriptorEmitter()
            union.bControlInterface = 0
            union.bSubordinateInterface0 = 1
            control.add_subordinate_descriptor(union)
            with control.EndpointDescriptor() as status:
                status.bEndpointAddress = 0x80 | STATUS_ENDPOINT
                status.bmAttributes = USBTransferType.INTERRUPT
                status.wMaxPacketSize = 16
                status.bInterval = STATUS_INTERVAL_MS
        with configuration.InterfaceDescriptor() as data:
            data.bInterfaceNumber = 1
            data.bInterfaceClass = _CDC_DATA
            data.bInterfaceSubclass = 0
            data.bInterfaceProtocol = 0
            for address in (0x80 | DATA_ENDPOINT, DATA_ENDPOINT):
                with data.EndpointDescriptor() as endpoint:
                    endpoint.bEndpointAddress = address
                    endpoint.bmAttributes = USBTransferType.BULK
                    endpoint.wMaxPacketSize = MAX_PACKET_BYTES
                    endpoint.bInterval = 0
    return descriptors
