"""USB bridges of the known boards, by which their serial ports are recognised among all ports.

The FPGA of some boards is a USB device itself, which counts as a bridge here, too. When boards are
searched, nothing is sent to ports of other devices, such as printers and modems.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from serial.tools import list_ports

from hw.boards.board_file import SHIPPED
from hw.boards.configs import BOARDS, USB_BOARDS
from hw.usb.identity import PRODUCT, PRODUCT_ID, VENDOR_ID

_GOOD_FIRMWARE = "2025012315"
"""Firmware version of the BL616, the USB bridge of the Tang Nano 20K, with which users report no
damaged bytes (github.com/sipeed/sipeed_wiki/issues/763)."""
_ULX3S = tuple(board for board in BOARDS if board.startswith("ulx3s"))


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """Chip between USB and a board's serial line, as the operating system sees it."""

    vid: int
    """USB vendor ID."""
    pid: int
    """USB product ID."""
    interface: int | None
    """Number of the USB interface that carries the serial line; None if any interface may. For
    example, one of the two interfaces of an FT2232H is used to program the board."""
    boards: tuple[str, ...]
    """Names of the boards that have this bridge."""
    product: str | None = None
    """Name that the device must report over USB, if other devices have the same IDs; None if any
    name will do."""


BRIDGES = (
    # FT231X, from the schematic of the ULX3S (github.com/emard/ulx3s).
    Bridge(vid=0x0403, pid=0x6015, interface=None, boards=_ULX3S),
    # FT2232H, channel B, and the BL616 of the Tang Nano 20K, which behaves like one.
    Bridge(
        vid=0x0403,
        pid=0x6010,
        interface=1,
        boards=(
            *("icebreaker", "ice40-hx8k", "tang-nano-20k", "tang-20k-sdram"),
            *(name for name in SHIPPED if name in ("arty-a7-100t", "basys3")),
        ),
    ),
    # The FPGA itself, by the connector US2 of the ULX3S.
    Bridge(vid=VENDOR_ID, pid=PRODUCT_ID, interface=None, boards=USB_BOARDS, product=PRODUCT),
    # DAPLink on the extension board of the Colorlight i5.
    Bridge(
        vid=0x0D28,
        pid=0x0204,
        interface=None,
        boards=("colorlight-i5", "colorlight-sdram"),
    ),
)
"""USB bridges of all known boards that have a USB serial port."""


def interface_of(location: str | None) -> int | None:
    """Return the number of a port's USB interface, or None if the operating system does not say it.

    Parameters
    ----------
    location : location of the port as pyserial reports it, such as ``"1-2:1.1"``.

    >>> interface_of("1-2:1.1"), interface_of("1-2"), interface_of(None)
    (1, None, None)
    """
    found = re.search(r":\w+\.(\d+)$", location or "")
    return int(found[1]) if found else None


def bridge_of(
    vid: int | None, pid: int | None, location: str | None, product: str | None = None
) -> Bridge | None:
    """Return the USB bridge of a known board to which a serial port may belong, or None.

    ``vid`` and ``pid`` are the port's USB vendor and product ID, ``product`` is the name that the
    device gives itself. If the bridge has several USB interfaces, the port must be the one with the
    serial line. What the operating system does not say is accepted.
    """
    interface = interface_of(location)
    for bridge in BRIDGES:
        if (
            (bridge.vid, bridge.pid) == (vid, pid)
            and (None in (interface, bridge.interface) or interface == bridge.interface)
            and (None in (product, bridge.product) or product == bridge.product)
        ):
            return bridge
    return None


def firmware_advice(vid: int | None, pid: int | None, serial_number: str | None) -> str:
    """Return advice for the user if a USB bridge has firmware with known faults on the serial line.

    The text begins with a space; it is empty if nothing is known. The BL616 of a Tang Nano 20K
    reports the date of its firmware as serial number, such as 2024122312. The version of that date
    runs the line at a quarter of the rate (github.com/trabucayre/openFPGALoader/issues/511); others
    damage bytes.
    """
    version = serial_number or ""
    if (vid, pid) != (0x0403, 0x6010) or not re.fullmatch(r"20\d{8}", version):
        return ""
    if version >= _GOOD_FIRMWARE:
        return ""
    known = ", which runs the line at a quarter of the rate" if version == "2024122312" else ""
    return (
        f" This is the BL616 of a Tang board with firmware {version}{known}. Update it to "
        f"{_GOOD_FIRMWARE} or later, as Sipeed's wiki describes (Tang, 'Update debugger')"
    )


def port_advice(port: str) -> str:
    """Return :func:`firmware_advice` for the USB bridge of a serial port; empty if it has none."""
    for info in list_ports.comports():
        if info.device == port:
            return firmware_advice(info.vid, info.pid, info.serial_number)
    return ""
