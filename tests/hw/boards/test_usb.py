"""Tests of recognising boards by their USB bridges."""

from __future__ import annotations

from collections import Counter

import pytest

from hw.boards.board_file import SHIPPED
from hw.boards.configs import BOARDS, USB_BOARDS
from hw.boards.usb import BRIDGES, bridge_of, firmware_advice


def test_every_board_with_a_serial_port_has_one_bridge() -> None:
    boards = [board for bridge in BRIDGES for board in bridge.boards]
    # The FPGA of some boards is a second one.
    assert Counter(boards) - Counter(set(boards)) == Counter(USB_BOARDS)
    # The USB-serial port of a DE10-Nano belongs to its processor.
    assert set(boards) == {*BOARDS, *SHIPPED} - {"de10-nano"}


@pytest.mark.parametrize(
    ("vid", "pid", "location", "board"),
    [
        (0x0403, 0x6015, "1-2", "ulx3s-85f"),
        (0x0403, 0x6015, None, "ulx3s-85f"),
        (0x0403, 0x6010, "3-1.4:1.1", "icebreaker"),
        (0x0403, 0x6010, "1-2:x.1", "icebreaker"),
        (0x0403, 0x6010, "20-2", "icebreaker"),
        (0x0403, 0x6010, "3-1.4:1.0", None),  # the channel of the SPI flash
        (0x0D28, 0x0204, "1-1:1.1", "colorlight-i5"),
        (0x1209, 0x0001, "1-1:1.0", "ulx3s-85f-usb"),
        (0x1A86, 0x7523, "1-1", None),
        (None, None, None, None),
    ],
)
def test_bridges(vid: int | None, pid: int | None, location: str | None, board: str | None) -> None:
    bridge = bridge_of(vid, pid, location)
    assert (bridge is not None and board in bridge.boards) if board else bridge is None


def test_devices_with_the_same_test_ids_are_told_apart_by_their_names() -> None:
    assert bridge_of(0x1209, 0x0001, "1-1:1.0", "Spikefold USB serial port") is not None
    assert bridge_of(0x1209, 0x0001, "1-1:1.0", "Somebody's coffee machine") is None
    assert bridge_of(0x0403, 0x6015, "1-2", "FT231X USB UART") is not None


def test_firmware_of_the_bl616() -> None:
    assert "a quarter of the rate" in firmware_advice(0x0403, 0x6010, "2024122312")
    assert firmware_advice(0x0403, 0x6010, "2023030621").endswith("(Tang, 'Update debugger')")
    for serial in ("2025012315", "2026010100", "ibJQ8FvV", "", None):
        assert firmware_advice(0x0403, 0x6010, serial) == ""
    assert firmware_advice(0x0403, 0x6015, "2024122312") == ""
