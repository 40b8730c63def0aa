"""Tests of the driver with a fake board behind a pseudo terminal, and with faults of the serial
line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import termios
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import serial
from serial.tools import list_ports

from hw.protocol import (
    DEFAULT_BAUD,
    PROTOCOL_VERSION,
    Identity,
    Opcode,
    Space,
    Status,
    decode_frame,
    encode_frame,
    identity,
    pack,
)
from sw.driver.device import Device
from sw.driver.errors import (
    DeviceError,
    DeviceNotFound,
    InvalidMessage,
    LinkLost,
    LinkTimeout,
    MemoryFault,
    NotABoard,
    RequestRefused,
    RunLost,
    SpecMismatch,
)
from sw.driver.memory import CHECK_FRAMES
from tests.sw.fake_board import CONFIG, FakeBoard

REMEDY = r"Load a bitstream of this release onto the board \('python -m hw\.flash BOARD'\)"


@pytest.fixture
def fake() -> Iterator[FakeBoard]:
    board = FakeBoard()
    yield board
    board.close()


@contextlib.contextmanager
def opened(fake: FakeBoard) -> Iterator[Device]:
    with Device.open(fake.port) as board:
        board.transport.timeout_s = 0.05
        yield board


FRAME = bytes.fromhex("05 01 2c d6 a9 4b 7e")


def test_wire_bytes_are_pinned():
    assert encode_frame(bytes([0x05, Opcode.IDENTIFY])) == FRAME
    assert encode_frame(bytes([0x7E, 0x7D])) == bytes.fromhex("7d5e 7d5d 06 4b d1 de 7e")
    assert decode_frame(FRAME[:-1]) == bytes([0x05, Opcode.IDENTIFY])


@pytest.mark.parametrize("bit", range(8 * len(FRAME)))
def test_no_flipped_bit_is_decoded(bit):
    """Check that a frame in which any one bit is inverted is never decoded.

    If the end marker is damaged, the bytes up to the next end marker are not decoded either.
    """
    frame = bytearray(FRAME)
    frame[bit // 8] ^= 1 << bit % 8
    assert all(decode_frame(part) is None for part in bytes(frame).split(b"\x7e") if part)


@pytest.mark.parametrize("seed", range(5))
def test_decoding_undoes_encoding(seed):
    rng = random.Random(seed)
    packets = [bytes(rng.choices(range(0x7C, 0x80), k=rng.randrange(2, 40))) for _ in range(200)]
    wire = b"".join(map(encode_frame, packets))
    assert [decode_frame(raw) for raw in wire.split(b"\x7e")[:-1]] == packets


def test_board_describes_itself(fake):
    with opened(fake) as board:
        assert board.config == CONFIG
        assert board.identity.protocol_version == PROTOCOL_VERSION
        assert board.port == fake.port
        assert board.status().n_overruns == 3


def test_long_transfers_are_split_pipelined_and_reported(fake):
    data = os.urandom(300 * 16)
    progress = []
    with opened(fake) as board:
        board.transport.timeout_s = 5.0  # so that nothing is repeated on a busy machine
        board.memory.write(Space.WEIGHT, 100, data, progress.append)
        assert sum(progress) == len(data) and len(progress) > 10
        assert fake.memories[Space.WEIGHT][1600 : 1600 + len(data)] == data
        # Several requests were sent ahead, so that the line did not idle between them.
        assert fake.max_pending_bytes > CONFIG.max_payload_bytes + 8
        progress.clear()
        fake.max_pending_bytes = 0
        assert board.memory.read(Space.WEIGHT, 100, 300, progress.append) == data
        assert sum(progress) == len(data)
        assert board.transport.counters.n_repeated == 0
    # READ requests take the board long, so that many of them wait; all must fit the buffer.
    assert fake.max_pending_bytes <= CONFIG.rx_buffer_bytes


@pytest.mark.parametrize("works_at", [12_000_000, 3_000_000, 2_000_000, 7])
def test_fastest_rate_that_works_is_agreed_on(fake, works_at, monkeypatch):
    monkeypatch.setattr("sw.driver.ports.is_virtual", lambda path: False)
    fake.works_at = works_at
    with opened(fake) as board:
        assert board.transport.baud == (DEFAULT_BAUD if works_at == 7 else works_at)
        assert board.status().n_overruns == 3


@pytest.mark.parametrize(
    ("wanted", "agreed"), [(4_000_000, 4_000_000), (5_000_000, 3_000_000), (900_000, 900_000)]
)
def test_user_may_limit_the_rate(fake, wanted, agreed):
    """Check that the driver chooses the fastest rate up to the given one that the board can
    make.
    """
    with Device.open(fake.port, wanted) as board:
        assert board.transport.baud == agreed


def test_only_rows_that_differ_are_written(fake):
    data = bytearray(os.urandom(500 * 16))
    images = {Space.WEIGHT: bytes(data), Space.PARAM: os.urandom(64 * 40)}
    with opened(fake) as board:
        for expected in (sum(map(len, images.values())), 0):
            progress = []
            assert board.memory.fill(images, progress.append) == expected
            assert sum(progress) == sum(map(len, images.values()))
            for space, image in images.items():
                assert fake.memories[space][: len(image)] == image
        data[499 * 16 + 5] ^= 1
        images[Space.WEIGHT] = bytes(data)
        n_writes = sum(opcode == Opcode.WRITE for _, opcode in fake.requests)
        n_frame_rows = (CONFIG.max_payload_bytes - 6) // 16
        n_left = 500 % (CHECK_FRAMES * n_frame_rows)
        assert board.memory.fill(images) == n_left * 16
        assert fake.memories[Space.WEIGHT][: len(data)] == data
        n_written = sum(opcode == Opcode.WRITE for _, opcode in fake.requests) - n_writes
        assert n_written == -(-n_left // n_frame_rows)
        with pytest.raises(RequestRefused, match=r"CHECK of .* rows of WEIGHT from row"):
            board.memory.fill({Space.WEIGHT: bytes(584 * 16)})
        with pytest.raises(
            ValueError, match="WEIGHT has rows of 16 bytes: 17 bytes are not whole rows"
        ):
            board.memory.fill({Space.WEIGHT: bytes(17)})


def test_board_that_accepts_any_crc_is_refused_and_nothing_is_written(fake):
    fake.accepts_any_crc = True
    with opened(fake) as board:
        message = r"accepts a wrong CRC for row 0 of WEIGHT: it does not compare CRCs"
        with pytest.raises(MemoryFault, match=message):
            board.memory.fill({Space.WEIGHT: bytes(500 * 16), Space.PARAM: bytes(64 * 40)})
        assert Opcode.WRITE not in {opcode for _, opcode in fake.requests}
        assert board.memory.fill({}) == 0


def test_requests_after_a_reset_are_refused_until_the_driver_recovers(fake):
    with opened(fake) as board:
        fake.reset()
        with pytest.raises(RequestRefused, match="WAS_RESET, the board was reset and its mem"):
            board.memory.read(Space.WEIGHT, 0, 1)
        board.recover()
        assert board.memory.read(Space.WEIGHT, 0, 1) == bytes(16)
        assert board.transport.counters.n_recoveries == 1


def test_other_board_in_its_place_is_refused(fake):
    with opened(fake) as board:
        fake.identity = pack(Identity, identity(dataclasses.replace(CONFIG, name="other")))
        with pytest.raises(SpecMismatch, match="was replaced: it is 'other' now, not 'fake'"):
            board.recover()


def test_an_empty_transfer_sends_no_request(fake):
    with opened(fake) as board:
        n_before = len(fake.requests)
        board.memory.write(Space.WEIGHT, 0, b"")
        assert board.memory.read(Space.WEIGHT, 0, 0) == b""
        assert len(fake.requests) == n_before


@pytest.mark.parametrize("fault", ["drop_replies", "damage_replies"])
def test_requests_with_lost_replies_are_repeated(fake, fault):
    data = os.urandom(40 * 16)
    with opened(fake) as board:
        setattr(fake, fault, {fake.n_replies + n for n in (0, 1, 3, 9)})
        board.memory.write(Space.WEIGHT, 0, data)
        assert board.memory.read(Space.WEIGHT, 0, 40) == data
        assert board.transport.counters.n_repeated > 0


def test_late_and_double_replies_are_not_mistaken_for_others(fake):
    with opened(fake) as board:
        fake.repeat_replies = True
        board.transport.timeout_s = 0.02
        fake.reply_delay_s = 0.05
        for i in range(5):
            board.memory.write(Space.SPIKE, i, bytes([i + 1]))
            assert board.memory.read(Space.SPIKE, i, 1) == bytes([i + 1])
        assert board.transport.counters.n_repeated > 0


def test_silence_is_a_timeout_that_names_the_request(fake):
    with opened(fake) as board:
        board.transport.timeout_s = 0.01
        fake.silent = True
        message = (
            f"no answer from {fake.port} to READ of 3 rows of PARAM from row 7, even after "
            rf"{board.transport.n_retries} repetitions\. Is the board still powered, and its bitstr"
        )
        with pytest.raises(LinkTimeout, match=message):
            board.memory.read(Space.PARAM, 7, 3)
        assert board.transport.counters.n_repeated == board.transport.n_retries


def test_refusal_names_request_and_status_and_the_board_stays_usable(fake):
    with opened(fake) as board:
        rows = bytes(16 * 20)
        with pytest.raises(RequestRefused, match=r"WEIGHT from row 50\d: BAD_ADDRESS") as refused:
            board.memory.write(Space.WEIGHT, 500, rows)
        assert refused.value.status == Status.BAD_ADDRESS
        board.memory.write(Space.WEIGHT, 492, rows)


def test_partial_row_is_refused_before_anything_is_sent(fake):
    with opened(fake) as board:
        n_before = len(fake.requests)
        with pytest.raises(ValueError, match="rows of 16 bytes: 17 bytes are not whole rows"):
            board.memory.write(Space.WEIGHT, 0, bytes(17))
        assert len(fake.requests) == n_before


def test_runs_have_results(fake):
    with opened(fake) as board:
        for entry in range(3):
            result = board.run(entry)
            assert result.argmax == entry + 1
        assert fake.n_runs == 3


def test_lost_announcement_is_replaced_by_the_status(fake, monkeypatch):
    with opened(fake) as board:
        fake.done_is_lost = True
        assert board.run(7).argmax == 8
        assert fake.n_runs == 1


def test_lost_acknowledgement_of_a_run_does_not_run_it_twice(fake):
    with opened(fake) as board:
        fake.drop_replies = {fake.n_replies}
        assert board.run(7).argmax == 8
        assert fake.n_runs == 1
        assert [opcode for _, opcode in fake.requests].count(Opcode.RUN) == 2


def test_run_without_end_is_aborted(fake):
    with opened(fake) as board:
        fake.run_never_ends = True
        with pytest.raises(LinkTimeout, match=r"did not end within 0\.1 s"):
            board.run(0, timeout_s=0.1)
        assert fake.requests[-1][1] == Opcode.ABORT


@pytest.mark.parametrize("n_requests", [3, 10])
def test_unplugging_is_noticed(fake, n_requests):
    with opened(fake) as board:
        fake.unplug_after = n_requests
        message = rf"lost the board on {fake.port}: .*\. Was it unplugged or switched off\?"
        with pytest.raises(LinkLost, match=message):
            board.memory.write(Space.WEIGHT, 0, bytes(16 * 500))


def test_interrupt_leaves_a_board_that_the_next_program_can_use(fake, monkeypatch):
    fake.run_never_ends = True

    def interrupt(*_):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), opened(fake) as board:
        monkeypatch.setattr(board, "status", interrupt)
        board.run(0)
    fake.run_never_ends = False
    with opened(fake) as board:
        assert board.run(1).argmax == 2


def test_foreign_device_is_no_board(fake):
    fake.identity = b"ELSE" + fake.identity[4:]
    with pytest.raises(NotABoard, match="no Spikefold board"):
        Device.open(fake.port)


def test_silent_port_is_no_board(fake, monkeypatch):
    monkeypatch.setattr("sw.driver.ports.is_virtual", lambda path: False)
    fake.silent = True
    with pytest.raises(NotABoard, match=r"Is its bitstream loaded\?"):
        Device.open(fake.port)


def test_lost_break_is_repeated(fake, monkeypatch):
    """Check that a board at another rate is found although the first break is lost.

    A break returns the board to the default rate; an earlier program may have changed the rate.
    """
    monkeypatch.setattr("sw.driver.ports.is_virtual", lambda path: False)
    fake.works_at, fake.divisor, fake.n_breaks_lost = 12_000_000, 7, 1
    with Device.open(fake.port) as board:
        assert board.config == CONFIG


def test_what_was_not_sent_is_dropped_before_a_break(fake, monkeypatch):
    dropped = []
    monkeypatch.setattr(serial.Serial, "reset_output_buffer", lambda self: dropped.append(self))
    with opened(fake) as board:
        n_before = len(dropped)
        board.recover()
        assert len(dropped) > n_before > 0


@pytest.mark.parametrize("more", [b"", b"newer fields"])
def test_other_version_is_refused(fake, more):
    raw = fake.identity
    fake.identity = raw[:4] + (PROTOCOL_VERSION + 1).to_bytes(2, "little") + raw[6:] + more
    with pytest.raises(
        SpecMismatch,
        match=f"version {PROTOCOL_VERSION + 1}, this software version {PROTOCOL_VERSION}. {REMEDY}",
    ):
        Device.open(fake.port)


def test_other_definitions_are_refused(fake):
    fake.identity = pack(Identity, identity(CONFIG) | {"spec_hash": 0xDEADBEEF})
    message = (
        "'fake' on .* built from different definitions: .* 00000000deadbeef, this software's is "
        "[0-9a-f]{16}"
    )
    with pytest.raises(SpecMismatch, match=message):
        Device.open(fake.port)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_bits": 5}, "Config.weight_bits = 5 "),
        ({"baud": 0}, "Config.baud = 0 "),
        ({"clk_hz": 0}, "Config.baud = 12000000 "),
        ({"banks": 0}, "Config.banks = 0 "),
        ({"max_payload_bytes": 0}, "Config.max_payload_bytes = 0 "),
        ({"name": int.from_bytes(b"\x1b[2J", "little")}, r"Config.name = '\\x1b\[2J' "),
    ],
)
def test_impossible_configuration_is_refused(fake, changes, message):
    fake.identity = pack(Identity, identity(CONFIG) | changes)
    with pytest.raises(SpecMismatch, match=f"does not support: {message}.*{REMEDY}") as refused:
        Device.open(fake.port)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("n", [6, 50, -1])
def test_identity_of_another_length_is_refused(fake, n):
    fake.identity = fake.identity[:n]
    message = (
        f"describes itself in {len(fake.identity)} bytes, which this software does not expect, "
        f"although the board speaks protocol version {PROTOCOL_VERSION}. {REMEDY}"
    )
    with pytest.raises(SpecMismatch, match=message):
        Device.open(fake.port)


@pytest.mark.parametrize("n", [0, 3, 5])
def test_what_is_too_short_for_an_identity_is_no_board(fake, n):
    fake.identity = fake.identity[:n]
    with pytest.raises(NotABoard, match="answers, but is no Spikefold board"):
        Device.open(fake.port)


@pytest.mark.parametrize("call", ["tcsetattr", "tcflush", "tcdrain"])
def test_port_that_hangs_up_while_it_is_opened(fake, monkeypatch, call):
    def hang_up(*_):
        raise termios.error(5, "Input/output error")

    monkeypatch.setattr(termios, call, hang_up)
    found = (DeviceNotFound, LinkLost)
    with pytest.raises(
        found, match=rf"(cannot open|lost the board on) {fake.port}: .*Input/output"
    ):
        Device.open(fake.port)
    monkeypatch.setattr(list_ports, "comports", lambda: [usb(fake.port)])
    with pytest.raises(DeviceNotFound, match=rf"{fake.port} \(USB serial\): .*Input/output error"):
        Device.open()


@pytest.mark.parametrize("more", [-8, -1, 1, 500])
def test_announcement_of_another_length_is_described(fake, monkeypatch, more):
    def run(request):
        (done,) = FakeBoard._run(fake, request)
        return [(done + bytes(500))[: len(done) + more]]

    with opened(fake) as board:
        monkeypatch.setattr(fake, "_run", run)
        message = f"the end of a run with {8 + more} bytes, not 8. .*python -m hw.flash BOARD"
        with pytest.raises(InvalidMessage, match=message):
            board.run(3)
        monkeypatch.undo()
        assert board.run(3).argmax == 4


def test_announcement_of_a_failure_is_described(fake, monkeypatch):
    def run(request):
        (done,) = FakeBoard._run(fake, request)
        return [done[:2] + bytes([5]) + done[3:]]

    with opened(fake) as board:
        monkeypatch.setattr(fake, "_run", run)
        with pytest.raises(InvalidMessage, match="announced the end of a run with the status 5"):
            board.run(3)


def test_unknown_state_is_described(fake):
    with opened(fake) as board:
        fake._state = 9
        with pytest.raises(InvalidMessage, match=r"the unknown state 9\. .* hw\.flash BOARD"):
            board.status()


def test_port_in_use_is_refused(fake):
    with (
        opened(fake),
        pytest.raises(DeviceNotFound, match="Another program is using it: end that program first"),
    ):
        Device.open(fake.port)


def test_missing_port_is_named():
    message = "cannot open /dev/there-is-none: .*No such file or directory"
    with pytest.raises(DeviceNotFound, match=message):
        Device.open("/dev/there-is-none")


def test_port_without_permission_says_which_groups_have_it(monkeypatch):
    def refuse(*_, **__):
        raise serial.SerialException(13, "could not open port: [Errno 13] Permission denied")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(DeviceNotFound, match=r"open /dev/ttyUSB0: .*group of serial ports \(dialo"):
        Device.open("/dev/ttyUSB0")


def test_device_that_knows_no_identify_is_no_board(fake, monkeypatch):
    monkeypatch.setattr(fake, "_execute", lambda *_: (Status.BAD_OPCODE, b"", []))
    with pytest.raises(NotABoard, match="answers, but is no Spikefold board"):
        Device.open(fake.port)


def test_search_does_not_skip_a_board_of_different_definitions(fake, monkeypatch):
    fake.identity = pack(Identity, identity(CONFIG) | {"spec_hash": 0xDEADBEEF})
    monkeypatch.setattr(list_ports, "comports", lambda: [usb(fake.port)])
    with pytest.raises(SpecMismatch, match="Load a bitstream of this release onto the board"):
        Device.open()


def test_port_that_takes_no_data(fake, monkeypatch):
    def full(_: bytes) -> None:
        raise serial.SerialTimeoutException("Write timeout")

    with opened(fake) as board:
        monkeypatch.setattr(board.transport.port, "write", full)
        with pytest.raises(LinkTimeout, match=f"{fake.port} accepts no data: Write timeout"):
            board.status()


def test_invalid_replies_are_described(fake, monkeypatch):
    with opened(fake) as board:
        monkeypatch.setattr(fake, "_execute", lambda *_: (77, b"", []))
        with pytest.raises(InvalidMessage, match="answered STATUS with the unknown status 77"):
            board.status()
        monkeypatch.setattr(fake, "_execute", lambda *_: (Status.OK, b"", []))
        message = "to READ of 1 rows of SPIKE from row 0 has 0 bytes, not 1. .* hw.flash BOARD"
        with pytest.raises(InvalidMessage, match=message):
            board.memory.read(Space.SPIKE, 0, 1)


def test_run_that_the_board_has_lost(fake, monkeypatch):
    with opened(fake) as board:
        monkeypatch.setattr(fake, "_run", lambda *_: [])
        with pytest.raises(RunLost, match="lost the run that it had started: was it reset"):
            board.run()


def usb(port: str, pid: int = 0x6015, location: str = "1-2", serial: str = "") -> SimpleNamespace:
    """Return a USB serial port as the operating system lists it; by default that of an FT231X
    chip.
    """
    return SimpleNamespace(
        device=port,
        description="USB serial",
        vid=0x0403,
        pid=pid,
        location=location,
        serial_number=serial,
        product=None,
    )


def test_board_is_found_among_other_ports(fake, monkeypatch):
    other = FakeBoard()
    other.silent = True
    ports = [usb("/dev/aa-not-there"), usb(other.port), usb(fake.port)]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    try:
        with Device.open() as board:
            assert board.port == fake.port
    finally:
        other.close()


def test_ports_of_other_devices_are_not_opened(fake, monkeypatch):
    """Check that the search for boards opens no port of another device.

    The first channel of an FT2232H is such a port, too, because it leads to a board's SPI flash.
    """
    others = [usb(fake.port, 0x6001), usb(fake.port, 0x6010, "1-2:1.0")]
    monkeypatch.setattr(list_ports, "comports", lambda: others)
    with pytest.raises(DeviceNotFound, match=f"not tried.* name it: --board {fake.port}"):
        Device.open()
    assert fake.requests == []
    monkeypatch.setattr(list_ports, "comports", lambda: [usb(fake.port, 0x6010, "1-2:1.1")])
    with Device.open() as board:
        assert board.port == fake.port


def test_known_firmware_of_a_silent_bridge_is_said(fake, monkeypatch):
    fake.silent = True
    info = usb(fake.port, 0x6010, "1-2:1.1", "2024122312")
    monkeypatch.setattr(list_ports, "comports", lambda: [info])
    for port in (None, fake.port):
        with pytest.raises(DeviceError, match="firmware 2024122312, which runs the line at a quar"):
            Device.open(port)


def test_ports_seen_are_listed_when_there_is_no_board(fake, monkeypatch):
    fake.silent = True
    builtin = SimpleNamespace(
        device="/dev/ttyS0", description="n/a", vid=None, pid=None, location=None, serial_number=""
    )
    monkeypatch.setattr(list_ports, "comports", lambda: [builtin, usb(fake.port)])
    with pytest.raises(DeviceNotFound) as error:
        Device.open()
    assert "/dev/ttyS0 (n/a): not USB, not tried" in str(error.value)
    assert f"{fake.port} (USB serial): nothing on" in str(error.value)
    assert "--board sim" in str(error.value)


def test_no_ports_at_all(monkeypatch):
    monkeypatch.setattr(list_ports, "comports", list)
    with pytest.raises(DeviceNotFound, match="Serial ports:\n  none"):
        Device.open()
