"""Tests of the virtual board and its simulated link: damaged frames, random bytes and too many
requests."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serial

from hw.boards.configs import config_by_name
from hw.protocol import (
    BREAK_BAUD,
    DEFAULT_BAUD,
    END,
    Identity,
    Opcode,
    RunState,
    Space,
    Status,
    decode_frame,
    encode_frame,
    identity,
    pack,
    row_bytes,
)
from hw.spec import Config
from sim.stub_core import StubCore
from sim.virtual_board import executable, main, virtual_board
from sw.cli.commands import EXIT_BAD_INPUT
from sw.driver.device import Device
from sw.driver.errors import DeviceNotFound
from tests.hw.wire import rate_payload, reply, request, rows_payload, run_payload

CONFIG = Config(name="stub", weight_depth=256, spike_bytes=2048, param_depth=256)
ROW_BYTES = row_bytes(Space.WEIGHT, CONFIG)
DELIMITER = bytes([END])


def stub() -> StubCore:
    # Runs last so long that the link has nothing left to send and its clock stops.
    return StubCore(CONFIG, run_cycles=5000)


@pytest.fixture(scope="module")
def program() -> Path:
    return executable(CONFIG, core=stub)


@pytest.fixture(scope="module")
def port(program: Path) -> Iterator[str]:
    with virtual_board(CONFIG, core=stub) as path:
        yield path


@pytest.fixture
def line(port: str) -> Iterator[serial.Serial]:
    with fast_line(port) as opened:
        yield opened


@contextmanager
def fast_line(port: str) -> Iterator[serial.Serial]:
    """Open a serial port without the driver, acknowledge the board's reset with an ABORT, and set
    the board's highest rate."""
    with serial.Serial(port, BREAK_BAUD, timeout=5, exclusive=True) as opened:
        opened.write(b"\0")
        opened.flush()
        time.sleep(0.05)  # a terminal takes bytes before the board has seen at which rate they are
        opened.baudrate = DEFAULT_BAUD
        opened.reset_input_buffer()
        opened.write(DELIMITER)
        assert ask(opened, Opcode.ABORT) == reply(1, Opcode.ABORT)
        divisor = CONFIG.clk_hz // CONFIG.baud
        assert ask(opened, Opcode.RATE, rate_payload(divisor)) == reply(1, Opcode.RATE)
        opened.flush()
        opened.baudrate = CONFIG.baud
        assert ask(opened, Opcode.STATUS) is not None
        yield opened


def receive(line: serial.Serial) -> bytes | None:
    return decode_frame(line.read_until(DELIMITER)[:-1])


def ask(line: serial.Serial, opcode: Opcode, payload: bytes = b"", seq: int = 1) -> bytes | None:
    line.write(encode_frame(request(seq, opcode, payload)))
    return receive(line)


def n_bad_frames(port: str) -> int:
    with Device.open(port) as board:
        return board.status().n_bad_frames


def test_clients_come_and_go(port):
    for _ in range(3):
        with fast_line(port) as line:
            described = reply(1, Opcode.IDENTIFY, pack(Identity, identity(CONFIG)))
            assert ask(line, Opcode.IDENTIFY) == described


def test_driver_needs_nothing_special(port):
    data = random.Random(0).randbytes(200 * ROW_BYTES)
    with Device.open(port) as board:
        assert board.config == CONFIG
        board.memory.write(Space.WEIGHT, 56, data)
        assert board.memory.read(Space.WEIGHT, 56, 200) == data
        assert [board.run(entry).argmax for entry in (5, 6, 7)] == [5, 6, 7]
        assert board.status().state == RunState.DONE
        assert board.transport.baud == CONFIG.baud
        assert board.transport.counters.n_repeated == 0


def test_frame_in_single_bytes_and_twice(line):
    frame = encode_frame(request(9, Opcode.WRITE, rows_payload(Space.SPIKE, 3, 1) + b"\x77"))
    for byte in frame:
        line.write(bytes([byte]))
        time.sleep(0.002)
    assert receive(line) == reply(9, Opcode.WRITE)
    line.write(frame + frame)
    for _ in range(2):
        assert receive(line) == reply(9, Opcode.WRITE)
    assert ask(line, Opcode.READ, rows_payload(Space.SPIKE, 3, 1)) == reply(1, Opcode.READ, b"\x77")


def damaged_frames() -> list[bytes]:
    """Return damaged copies of a WRITE frame: one for each bit that can flip, and one for each
    shorter length."""
    payload = rows_payload(Space.WEIGHT, 1, 1) + bytes(range(0xA0, 0xA0 + ROW_BYTES))
    frame = encode_frame(request(5, Opcode.WRITE, payload))
    flipped = [
        bytes(byte ^ (1 << bit % 8 if i == bit // 8 else 0) for i, byte in enumerate(frame))
        for bit in range(8 * len(frame))
    ]
    return flipped + [frame[:n] for n in range(1, len(frame) - 1)]


def test_damaged_write_changes_nothing_and_is_counted(port):
    before = random.Random(1).randbytes(256 * ROW_BYTES)
    with Device.open(port) as board:
        board.memory.write(Space.WEIGHT, 0, before)
        n_before = board.status().n_bad_frames
    damaged = damaged_frames()
    with fast_line(port) as line:
        for frame in damaged:
            line.write(frame + DELIMITER)
        # No damaged frame is answered: the first reply is that to the next undamaged frame.
        assert ask(line, Opcode.ABORT, seq=77) == reply(77, Opcode.ABORT)
    with Device.open(port) as board:
        assert board.memory.read(Space.WEIGHT, 0, 256) == before
        status = board.status()
        assert status.n_bad_frames - n_before >= len(damaged)
        assert status.n_overruns == 0


@pytest.mark.parametrize("seed", range(3))
def test_board_works_after_garbage(port, seed):
    rng = random.Random(seed)
    n_before = n_bad_frames(port)
    with fast_line(port) as line:
        for _ in range(20):
            # Ends and escapes are frequent, so that the garbage contains many short frames.
            choices = (END, 0x7D, 0, rng.randrange(256), rng.randrange(256))
            line.write(bytes(rng.choice(choices) for _ in range(1000)))
        line.write(DELIMITER)
        answer = ask(line, Opcode.IDENTIFY, seq=200)
        assert answer == reply(200, Opcode.IDENTIFY, pack(Identity, identity(CONFIG)))
    assert n_bad_frames(port) > n_before + 100


def test_overload_is_counted_and_survived(program):
    """Check that the board counts lost bytes and still works after more requests than its buffer
    holds.

    The buffer becomes full because the board is sending long replies.
    """
    with virtual_board(CONFIG, core=stub) as port:
        with fast_line(port) as line:
            read = encode_frame(request(1, Opcode.READ, rows_payload(Space.SPIKE, 0, 500)))
            line.write(read * 400)
            time.sleep(0.5)
        with Device.open(port) as board:
            status = board.status()
            assert status.n_overruns > 0
            assert board.run(3).argmax == 3


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_idle_board_takes_no_processor_time_and_ends_with_its_parent(program):
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as board:
        assert board.stdout is not None and board.stdin is not None
        path = board.stdout.readline().decode().strip()
        with fast_line(path) as line:
            assert ask(line, Opcode.ABORT) == reply(1, Opcode.ABORT)
            time.sleep(0.2)
            before = cpu_s(board.pid)
            time.sleep(0.5)
            assert cpu_s(board.pid) - before <= 0.05
            # The end of its standard input ends the board.
            board.stdin.close()
            assert board.wait(timeout=5) == 0


def test_port_vanishes_with_the_board():
    with virtual_board(CONFIG, core=stub) as path:
        assert Path(path).exists()
    assert not Path(path).exists()


def test_sim_is_a_port_like_any_other():
    """Check that ``sim`` opens a serial port with the real core behind it, and that the port then
    disappears."""
    with Device.open("sim") as board:
        assert board.config == config_by_name("sim")
        assert Path(board.port).exists()
        assert board.memory.read(Space.COUNTER, 0, 1) == bytes(
            row_bytes(Space.COUNTER, board.config)
        )
    assert not Path(board.port).exists()


def test_unknown_virtual_board_is_refused(capfd):
    with pytest.raises(DeviceNotFound, match="'fpga9000' did not start"):
        Device.open("sim:fpga9000")
    assert "known are sim" in capfd.readouterr().err


def test_link_is_made_and_removed_and_stats_are_printed(tmp_path):
    link = tmp_path / "port"
    command = [sys.executable, "-m", "sim.virtual_board", "--link", str(link), "--stats"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as board:
        assert board.stdout is not None and board.stdin is not None
        assert board.stdout.readline().strip() == str(link)
        with Device.open(str(link)) as opened:
            assert opened.config.name == "sim"
        _, errors = board.communicate(timeout=10)
    assert board.returncode == 0
    assert '"mcycles_per_s"' in errors
    assert not link.is_symlink()


def test_file_in_the_way_of_a_link_is_kept(tmp_path, capsys):
    path = tmp_path / "port"
    path.write_text("mine")
    assert main(["--link", str(path)]) == EXIT_BAD_INPUT
    assert "exists and is no link" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_unknown_configuration_is_refused(capsys):
    assert main(["--config", "fpga9000"]) == EXIT_BAD_INPUT
    assert "known are sim" in capsys.readouterr().err


def test_loading_keeps_the_line_busy(program):
    """Check that at least 90 % of the byte times on the line carry rows while memories are
    loaded."""
    data = random.Random(2).randbytes(256 * ROW_BYTES)
    with subprocess.Popen(
        [program, "--stats"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as board:
        assert board.stdout is not None
        with Device.open(board.stdout.readline().strip()) as opened:
            for _ in range(100):  # many, so that opening the port takes a small part of the time
                opened.memory.write(Space.WEIGHT, 0, data)
        _, stats = board.communicate(timeout=10)
    n_byte_times = json.loads(stats)["n_cycles"] / (10 * CONFIG.clk_hz // CONFIG.baud)
    assert 100 * len(data) / n_byte_times >= 0.9


def cycles_of_session(program: Path, *options: str) -> list[tuple[bytes, int]]:
    """Return, for each step of a fixed series of requests, the replies and the number of cycles
    that the board has taken."""
    rows = rows_payload(Space.WEIGHT, 7, 2)

    def run(entry: int, tag: int) -> bytes:
        return encode_frame(request(tag, Opcode.RUN, run_payload(tag, entry, n_result_rows=2)))

    exchanges = [
        (1, encode_frame(request(1, Opcode.WRITE, rows + bytes(range(2 * ROW_BYTES))))),
        (1, encode_frame(request(2, Opcode.READ, rows))),
        (2, run(5, 3)),
        (2, run(6, 4)),
        (4, run(7, 6) + run(8, 7)),  # the second waits until the first has ended
        (2, run(9, 8) + encode_frame(request(9, Opcode.ABORT))),
        (1, b"noise" + DELIMITER + encode_frame(request(10, Opcode.STATUS))),
    ]
    results = []
    with subprocess.Popen(
        [program, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as board:
        assert board.stdout is not None

        def n_cycles() -> int:
            board.send_signal(signal.SIGUSR2)
            assert board.stdout is not None
            return json.loads(board.stdout.readline())["n_cycles"]

        path = board.stdout.readline().strip()
        n_cycles()  # the board runs when it answers: it takes the break below at the break's rate
        with fast_line(path) as line:
            for n_replies, requests in exchanges:
                time.sleep(0.05)  # until the board is idle
                before = n_cycles()
                line.write(requests)
                replies = b"".join(line.read_until(DELIMITER) for _ in range(n_replies))
                time.sleep(0.05)
                results.append((replies, n_cycles() - before))
        board.terminate()
    return results


def test_clocks_that_stop_change_neither_replies_nor_cycles(program):
    """Check that replies and cycles are the same whether idle clocks stop or always run.

    The virtual board stops the clock of the link while the link has nothing to do, and the clock of
    the core while the core has nothing to do.
    """
    results = cycles_of_session(program)
    assert all(replies.endswith(DELIMITER) for replies, _ in results)
    assert results == cycles_of_session(program, "--every-cycle")


def test_rate_that_the_client_has_not_set_is_not_understood(port):
    """Check that a board does not answer at a rate that was not agreed on, and that the driver then
    finds the board again.

    The driver sends a break, which sets the board to its default rate.
    """
    with fast_line(port) as line:
        line.baudrate = CONFIG.baud // 3
        line.timeout = 0.3
        assert ask(line, Opcode.IDENTIFY) is None
    with Device.open(port) as board:
        assert board.config == CONFIG


def test_reset_is_noticed_and_memories_are_out_of_reach_until_an_abort(program):
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as board:
        assert board.stdout is not None
        path = board.stdout.readline().decode().strip()
        with fast_line(path) as line:
            row = encode_frame(request(1, Opcode.READ, rows_payload(Space.WEIGHT, 0, 1)))
            os.kill(board.pid, signal.SIGUSR1)
            time.sleep(0.2)
            line.baudrate = DEFAULT_BAUD
            line.write(DELIMITER + row)
            assert receive(line) == reply(1, Opcode.READ, status=Status.WAS_RESET)
            assert ask(line, Opcode.ABORT) == reply(1, Opcode.ABORT)
            line.write(row)
            assert receive(line) == reply(1, Opcode.READ, bytes(ROW_BYTES))
        board.terminate()
