"""The driver against a board in Python behind a pseudo terminal, with every fault of a cable."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import tty
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from serial.tools import list_ports

from hw.protocol import (
    PROTOCOL_VERSION,
    REPLY,
    Address,
    DeviceStatus,
    Identity,
    Opcode,
    Result,
    RunState,
    Space,
    Status,
    identity,
    n_rows,
    pack,
    row_bytes,
    unpack,
)
from hw.spec import Config
from sw import device
from sw.device import (
    Board,
    DeviceNotFound,
    LinkLost,
    LinkTimeout,
    NotABoard,
    RequestRefused,
    SpecMismatch,
    decode_frame,
    encode_frame,
)

CONFIG = Config(name="fake", rx_buffer_bytes=600, max_payload_bytes=128, weight_depth=512)


class FakeBoard:
    """Memories and the protocol, in a thread. Faults are attributes, changed while it runs."""

    def __init__(self, config: Config = CONFIG):
        self.config = config
        self.memories = {s: bytearray(row_bytes(s, config) * n_rows(s, config)) for s in Space}
        self.identity = pack(Identity, identity(config))
        self.requests: list[tuple[int, int]] = []
        """Sequence number and opcode of each request received."""
        self.max_pending_bytes = 0
        """Most bytes that had arrived and were unanswered."""
        self.drop_replies: set[int] = set()
        """Replies to drop, counted from the first one."""
        self.damage_replies: set[int] = set()
        self.repeat_replies = False
        self.done_is_lost = False
        self.run_never_ends = False
        self.silent = False
        self.reply_delay_s = 0.0
        self.unplug_after: int | None = None
        self.n_runs = 0
        self._n_replies = 0
        self._state, self._result = RunState.IDLE, {}
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self._slave: int | None = slave
        self.port = os.ttyname(slave)
        self._stop = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self._unplug()

    def _unplug(self) -> None:
        if self._slave is not None:
            os.close(self._master)
            os.close(self._slave)
            self._slave = None

    def _serve(self) -> None:
        received = bytearray()
        while not self._stop:
            if not select.select([self._master], [], [], 0.01)[0]:
                continue
            received += os.read(self._master, 4096)
            self.max_pending_bytes = max(self.max_pending_bytes, len(received))
            while b"\0" in received:
                raw, _, received = received.partition(b"\0")
                packet = decode_frame(bytes(raw))
                if packet is None or self.silent:
                    continue
                if self.unplug_after is not None and len(self.requests) >= self.unplug_after:
                    self._unplug()
                    return
                time.sleep(self.reply_delay_s)
                for reply in self._answer(packet[0], packet[1], packet[2:]):
                    self._send(reply)

    def _send(self, packet: bytes) -> None:
        number = self._n_replies
        self._n_replies += 1
        frame = bytearray(encode_frame(packet))
        if number in self.drop_replies:
            return
        if number in self.damage_replies:
            frame[len(frame) // 2] ^= 1
        os.write(self._master, bytes(frame) * (2 if self.repeat_replies else 1))

    def _answer(self, seq: int, opcode: int, payload: bytes) -> list[bytes]:
        self.requests.append((seq, opcode))
        status, data, more = self._execute(seq, opcode, payload)
        return [bytes([seq, opcode | REPLY, status]) + data, *more]

    def _execute(self, seq: int, opcode: int, payload: bytes) -> tuple[Status, bytes, list[bytes]]:
        if opcode == Opcode.IDENTIFY:
            return Status.OK, self.identity, []
        if opcode == Opcode.STATUS:
            state = {"state": self._state, "result": self._result, "n_overruns": 3}
            return Status.OK, pack(DeviceStatus, state), []
        if opcode == Opcode.ABORT:
            self._state = RunState.IDLE
            return Status.OK, b"", []
        if opcode == Opcode.RUN:
            tag, entry = payload[0], int.from_bytes(payload[1:3], "little")
            if self._state == RunState.IDLE or self._result.get("tag") != tag:
                self.n_runs += 1
            self._result = {"tag": tag, "argmax": entry + 1, "n_cycles": 1000 * self.n_runs}
            if self.run_never_ends:
                self._state = RunState.RUNNING
                return Status.OK, b"", []
            self._state = RunState.DONE
            done = bytes([seq, Opcode.DONE | REPLY, Status.OK]) + pack(Result, self._result)
            return Status.OK, b"", [] if self.done_is_lost else [done]
        address: Any = unpack(Address, payload[:4])
        space, row = Space(int(address.space)), int(address.row)
        size, memory = row_bytes(space, self.config), self.memories[space]
        if opcode == Opcode.WRITE:
            data = payload[4:]
            if row * size + len(data) > len(memory):
                return Status.BAD_ADDRESS, b"", []
            memory[row * size : row * size + len(data)] = data
            return Status.OK, b"", []
        count = int.from_bytes(payload[4:6], "little")
        return Status.OK, bytes(memory[row * size : (row + count) * size]), []


@pytest.fixture
def fake() -> Iterator[FakeBoard]:
    board = FakeBoard()
    yield board
    board.close()


@contextlib.contextmanager
def opened(fake: FakeBoard) -> Iterator[Board]:
    with Board.open(fake.port) as board:
        board.transport.timeout_s = 0.05
        yield board


def test_wire_bytes_are_pinned():
    assert encode_frame(bytes([0x05, Opcode.IDENTIFY])) == bytes.fromhex("05 05 01 0d 24 00")
    assert encode_frame(bytes([0x00, Opcode.ABORT])) == bytes.fromhex("01 04 06 82 36 00")
    assert decode_frame(bytes.fromhex("05 05 01 0d 24")) == bytes([0x05, Opcode.IDENTIFY])


@pytest.mark.parametrize("bit", range(48))
def test_no_flipped_bit_is_decoded(bit):
    """Not even a flipped bit of the delimiter, before another one."""
    frame = bytearray(bytes.fromhex("05 05 01 0d 24 00"))
    frame[bit // 8] ^= 1 << bit % 8
    assert all(decode_frame(part) is None for part in bytes(frame).split(b"\0") if part)


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
        board.write(Space.WEIGHT, 100, data, progress.append)
        assert sum(progress) == len(data) and len(progress) > 10
        assert fake.memories[Space.WEIGHT][1600 : 1600 + len(data)] == data
        progress.clear()
        assert board.read(Space.WEIGHT, 100, 300, progress.append) == data
        assert sum(progress) == len(data)
        assert board.transport.n_repeated == 0
    assert fake.max_pending_bytes <= CONFIG.rx_buffer_bytes
    # More than one request was under way, or the line would idle between them.
    assert fake.max_pending_bytes > CONFIG.max_payload_bytes + 8


def test_nothing_to_transfer_is_no_request(fake):
    with opened(fake) as board:
        n_before = len(fake.requests)
        board.write(Space.WEIGHT, 0, b"")
        assert board.read(Space.WEIGHT, 0, 0) == b""
        assert len(fake.requests) == n_before


@pytest.mark.parametrize("fault", ["drop_replies", "damage_replies"])
def test_lost_replies_are_asked_for_again(fake, fault):
    data = os.urandom(40 * 16)
    with opened(fake) as board:
        setattr(fake, fault, {2, 3, 5, 9})
        board.write(Space.WEIGHT, 0, data)
        assert board.read(Space.WEIGHT, 0, 40) == data
        assert board.transport.n_repeated > 0


def test_late_and_double_replies_are_not_mistaken_for_others(fake):
    with opened(fake) as board:
        fake.repeat_replies = True
        board.transport.timeout_s = 0.02
        fake.reply_delay_s = 0.05
        for i in range(5):
            board.write(Space.SPIKE, i, bytes([i + 1]))
            assert board.read(Space.SPIKE, i, 1) == bytes([i + 1])
        assert board.transport.n_repeated > 0


def test_silence_is_a_timeout_that_names_the_request(fake):
    with opened(fake) as board:
        board.transport.timeout_s = 0.01
        fake.silent = True
        with pytest.raises(LinkTimeout, match="READ of 3 rows of PARAM from row 7"):
            board.read(Space.PARAM, 7, 3)
        assert board.transport.n_repeated == board.transport.n_retries


def test_refusal_names_request_and_status_and_the_board_stays_usable(fake):
    with opened(fake) as board:
        rows = bytes(16 * 20)
        with pytest.raises(RequestRefused, match=r"WEIGHT from row 50\d: BAD_ADDRESS") as refused:
            board.write(Space.WEIGHT, 500, rows)
        assert refused.value.status == Status.BAD_ADDRESS
        board.write(Space.WEIGHT, 492, rows)


def test_partial_row_is_refused_before_anything_is_sent(fake):
    with opened(fake) as board:
        n_before = len(fake.requests)
        with pytest.raises(ValueError, match="rows of 16 bytes: 17 are not whole"):
            board.write(Space.WEIGHT, 0, bytes(17))
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
        fake.drop_replies = {2}
        assert board.run(7).argmax == 8
        assert fake.n_runs == 1
        assert [opcode for _, opcode in fake.requests].count(Opcode.RUN) == 2


def test_run_without_end_is_aborted(fake):
    with opened(fake) as board:
        fake.run_never_ends = True
        with pytest.raises(LinkTimeout, match=r"not over after 0\.1 s"):
            board.run(0, timeout_s=0.1)
        assert fake.requests[-1][1] == Opcode.ABORT


@pytest.mark.parametrize("n_requests", [3, 10])
def test_unplugging_is_noticed(fake, n_requests):
    with opened(fake) as board:
        fake.unplug_after = n_requests
        with pytest.raises(LinkLost, match="unplugged"):
            board.write(Space.WEIGHT, 0, bytes(16 * 500))


def test_interrupt_leaves_a_board_that_the_next_program_can_use(fake, monkeypatch):
    fake.run_never_ends = True

    def interrupt(*_):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), opened(fake) as board:
        monkeypatch.setattr(board.transport, "wait_done", interrupt)
        board.run(0)
    fake.run_never_ends = False
    with opened(fake) as board:
        assert board.run(1).argmax == 2


def test_foreign_device_is_no_board(fake):
    fake.identity = b"ELSE" + fake.identity[4:]
    with pytest.raises(NotABoard, match="no Spikefold board"):
        Board.open(fake.port, 115200)


def test_silent_port_is_no_board(fake):
    fake.silent = True
    with pytest.raises(NotABoard, match="tried 115,200 baud"):
        Board.open(fake.port, 115200)


@pytest.mark.parametrize("more", [b"", b"newer fields"])
def test_other_version_is_refused(fake, more):
    raw = fake.identity
    fake.identity = raw[:4] + (PROTOCOL_VERSION + 1).to_bytes(2, "little") + raw[6:] + more
    with pytest.raises(SpecMismatch, match="protocol version 2, this software version 1"):
        Board.open(fake.port)


def test_other_definitions_are_refused(fake):
    fake.identity = pack(Identity, identity(CONFIG) | {"spec_hash": 0xDEADBEEF})
    with pytest.raises(SpecMismatch, match="00000000deadbeef"):
        Board.open(fake.port)


def test_impossible_configuration_is_refused(fake):
    fake.identity = pack(Identity, identity(CONFIG) | {"weight_bits": 5})
    with pytest.raises(SpecMismatch, match="weight_bits = 5"):
        Board.open(fake.port)


def test_port_in_use_is_refused(fake):
    with opened(fake), pytest.raises(DeviceNotFound, match="another program"):
        Board.open(fake.port)


def test_missing_port_is_named():
    with pytest.raises(DeviceNotFound, match="/dev/there-is-none"):
        Board.open("/dev/there-is-none")


def usb(port: str) -> SimpleNamespace:
    return SimpleNamespace(device=port, description="USB serial", vid=0x0403)


def test_board_is_found_among_other_ports(fake, monkeypatch):
    other = FakeBoard()
    other.silent = True
    ports = [usb("/dev/aa-not-there"), usb(other.port), usb(fake.port)]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    monkeypatch.setattr(device, "BAUDS", (115200,))
    try:
        with Board.open() as board:
            assert board.port == fake.port
    finally:
        other.close()


def test_ports_seen_are_listed_when_there_is_no_board(fake, monkeypatch):
    fake.silent = True
    builtin = SimpleNamespace(device="/dev/ttyS0", description="n/a", vid=None)
    monkeypatch.setattr(list_ports, "comports", lambda: [builtin, usb(fake.port)])
    monkeypatch.setattr(device, "BAUDS", (115200,))
    with pytest.raises(DeviceNotFound) as error:
        Board.open()
    assert "/dev/ttyS0 (n/a): not USB, not tried" in str(error.value)
    assert f"{fake.port} (USB serial): nothing on" in str(error.value)
    assert "--board sim" in str(error.value)


def test_no_ports_at_all(monkeypatch):
    monkeypatch.setattr(list_ports, "comports", list)
    with pytest.raises(DeviceNotFound, match="Serial ports seen:\n  none"):
        Board.open()
