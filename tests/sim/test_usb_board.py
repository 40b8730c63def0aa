"""Tests of the virtual board with a serial port over USB: the driver at D+ and D-."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hw.boards.configs import config_by_name
from hw.protocol import Space, row_bytes
from sim.stub_core import StubCore
from sim.virtual_board import executable
from sw.driver.device import Device

pytestmark = pytest.mark.slow

CONFIG = config_by_name("ulx3s-85f-usb")
ROW_BYTES = row_bytes(Space.WEIGHT, CONFIG)
N_ROWS = 100


@pytest.fixture(scope="module")
def program() -> Path:
    return executable(CONFIG, core=lambda: StubCore(CONFIG))


@contextmanager
def board(program: Path, *options: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Run a virtual board within a ``with`` block.

    The block gets the path of the board's serial port, the board's process ID, and a dictionary
    that receives the board's counts when the block ends.
    """
    counted: dict[str, Any] = {}
    with subprocess.Popen(
        [program, "--stats", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            yield process.stdout.readline().strip(), process.pid, counted
        finally:
            process.terminate()
            for line in process.stderr:
                counted |= json.loads(line)


def opened(port: str) -> Device:
    """Open the board on ``port`` with so much patience that no request is repeated, however busy
    the machine is."""
    return Device.open_with(port, lambda line: line, timeout_s=10)


def write_and_read(device: Device, seed: int) -> None:
    data = random.Random(seed).randbytes(N_ROWS * ROW_BYTES)
    device.memory.write(Space.WEIGHT, seed, data)
    assert device.memory.read(Space.WEIGHT, seed, N_ROWS) == data
    assert [device.run(entry).argmax for entry in (5, 6, 7)] == [5, 6, 7]


def test_driver_needs_nothing_special(program):
    with board(program) as (port, _, counted):
        for seed in range(3):  # clients come and go; each begins with a break
            with opened(port) as device:
                assert device.config == CONFIG
                assert device.transport.baud == CONFIG.baud
                write_and_read(device, seed)
                assert device.transport.counters.n_repeated == 0
                assert device.status().n_overruns == 0
    assert counted["violations"] == 0
    assert counted["damaged"] == 0
    assert counted["resets"] == 1


def test_usb_repeats_what_is_damaged_and_the_driver_sees_nothing_of_it(program):
    with board(program, "--usb-errors=0.03") as (port, _, counted), opened(port) as device:
        write_and_read(device, 1)
        assert device.transport.counters.n_repeated == 0
        assert device.transport.counters.n_bad_frames == 0
        assert device.status().n_bad_frames == 0
    assert counted["damaged"] > 10
    assert counted["violations"] == 0


def test_board_that_is_reset_is_enumerated_again(program):
    with board(program) as (port, pid, counted):
        with opened(port) as device:
            write_and_read(device, 1)
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.5)
        with opened(port) as device:
            write_and_read(device, 2)
    assert counted["resets"] == 2
    assert counted["violations"] == 0


def test_trace_is_written(program, tmp_path):
    path = tmp_path / "usb.vcd"
    with board(program, f"--vcd={path}") as (port, _, _), opened(port):
        pass
    assert path.read_text().startswith("$timescale")
    assert path.stat().st_size > 10_000
