"""Tests of serial ports at other machines, with servers that run on this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from hw.protocol import BREAK_BAUD, DEFAULT_BAUD, Space, row_bytes
from sw.driver.device import Device
from sw.driver.errors import DeviceNotFound, LinkLost, NotABoard
from sw.driver.group import open_boards
from sw.driver.ports import SCHEMES
from tests.sw.fake_board import CONFIG, FakeBoard
from tests.sw.serial_server import SerialServer

# pyserial calls methods of threads that Python has deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore:set(Daemon|Name)\(\) is:DeprecationWarning")

ROW_BYTES = row_bytes(Space.WEIGHT, CONFIG)


@pytest.fixture
def fake() -> Iterator[FakeBoard]:
    board = FakeBoard()
    yield board
    board.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_board_at_another_machine(fake: FakeBoard, scheme: str) -> None:
    data = random.Random(0).randbytes(300 * ROW_BYTES)
    with SerialServer(fake.port, scheme) as server:
        for _ in range(2):  # a client may come back
            with Device.open(server.address) as board:
                assert board.config == CONFIG
                assert board.port == server.address
                board.memory.write(Space.WEIGHT, 7, data)
                assert board.memory.read(Space.WEIGHT, 7, 300) == data
                board.recover()
                assert board.memory.read(Space.WEIGHT, 7, 300) == data
                counters = board.transport.counters
                assert (counters.n_repeated, counters.n_recoveries) == (0, 1)


def test_rfc2217_sends_breaks_and_changes_the_rate(fake: FakeBoard) -> None:
    with SerialServer(fake.port, "rfc2217") as server, Device.open(server.address) as board:
        assert board.transport.baud == CONFIG.baud
        kept = [
            baud
            for baud, last in zip(server.bauds, [0, *server.bauds], strict=False)
            if baud != last
        ]
        assert kept == [DEFAULT_BAUD, BREAK_BAUD, DEFAULT_BAUD, CONFIG.baud]


def test_rate_that_a_server_refuses_is_not_used(fake: FakeBoard) -> None:
    with SerialServer(fake.port, "rfc2217") as server:
        server.refuses.add(CONFIG.baud)
        with Device.open(server.address) as board:
            assert DEFAULT_BAUD < board.transport.baud < CONFIG.baud
            assert board.config == CONFIG


def test_socket_keeps_the_rate_and_sends_no_break(fake: FakeBoard) -> None:
    fake.n_breaks_lost = 1  # becomes 0 with a break
    with SerialServer(fake.port, "socket") as server, Device.open(server.address) as board:
        board.recover()
        assert board.transport.baud == DEFAULT_BAUD
        assert fake.divisor is None
        assert fake.n_breaks_lost == 1


def test_rate_cannot_be_chosen_over_a_socket(fake: FakeBoard) -> None:
    with SerialServer(fake.port, "socket") as server:
        with pytest.raises(
            DeviceNotFound, match=r"at 2000000 bits per second: .* must use 1000000"
        ):
            Device.open(server.address, baud=2_000_000)
        with Device.open(server.address, baud=DEFAULT_BAUD) as board:
            assert board.config == CONFIG


def test_faults_are_injected_between_driver_and_server(fake: FakeBoard) -> None:
    data = random.Random(1).randbytes(100 * ROW_BYTES)
    faults = "?faults=0.05&kinds=flip+drop&seed=3"
    with SerialServer(fake.port, "socket") as server, Device.open(server.address + faults) as board:
        board.transport.timeout_s = 0.05
        board.memory.write(Space.WEIGHT, 0, data)
        assert board.memory.read(Space.WEIGHT, 0, 100) == data
        assert board.transport.counters.n_repeated > 0


def test_boards_at_other_machines_work_as_one(fake: FakeBoard) -> None:
    second = FakeBoard()
    try:
        with (
            SerialServer(fake.port, "socket") as a,
            SerialServer(second.port, "rfc2217") as b,
            open_boards(f"{a.address}, {b.address}") as group,
        ):
            assert [device.port for device in group.devices] == [a.address, b.address]
            assert group.port == f"{a.address},{b.address}"
    finally:
        second.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_end_of_the_connection_is_a_lost_link(fake: FakeBoard, scheme: str) -> None:
    with SerialServer(fake.port, scheme) as server, Device.open(server.address) as board:
        server.disconnect()
        with pytest.raises(LinkLost, match=f"lost the board on {server.address}"):
            for _ in range(3):  # the first write may succeed before the end is noticed
                board.status()


def test_silent_board_behind_a_socket_is_explained(fake: FakeBoard) -> None:
    fake.silent = True
    with (
        SerialServer(fake.port, "socket") as server,
        pytest.raises(NotABoard, match=r"at 1000000 bits per second.* or use rfc2217://"),
    ):
        Device.open_with(server.address, lambda port: port, timeout_s=0.01)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("socket://localhost", "it is no host and port: use rfc2217://HOST:PORT"),
        ("socket://:2217", "it is no host and port"),
        ("rfc2217://localhost:0", "it is no host and port"),
        ("socket://localhost:2217/dev/ttyUSB0", "it is no host and port"),
        ("rfc2217://localhost:66666", "its port is no number from 1 to 65535"),
        ("socket://localhost:tty", "its port is no number from 1 to 65535"),
        ("socket://me:secret@localhost:2217", "neither protocol has a user name or password"),
        ("telnet://localhost:23", "addresses of kind 'telnet' are not supported"),
        ("loop://", "addresses of kind 'loop' are not supported"),
        ("rfc2217://localhost:2217?odd=1", "unknown option: 'odd'"),
    ],
)
def test_wrong_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(DeviceNotFound, match=f"^cannot open {address[:9]}") as error:
        Device.open(address)
    assert message in str(error.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_address_without_a_server_is_refused(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    with pytest.raises(DeviceNotFound, match=r"refused.* Start a server"):
        Device.open(f"{scheme}://127.0.0.1:{number}")
