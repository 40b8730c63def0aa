"""Tests of injected faults: their options, their effect on frames, and the driver's reaction."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from hw.boards.configs import CONFIGS
from sw.compile.compiler import compile_network
from sw.driver import faults
from sw.driver.board import Board
from sw.driver.device import Device
from sw.driver.errors import FaultSpecError
from sw.driver.faults import FaultyPort, Plan, parse
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice, FakePort

CONFIG = CONFIGS["sim"]


def test_options_are_parsed() -> None:
    assert parse("faults=1e-2") == Plan(0.01, faults.KINDS, 0)
    assert parse("faults=0.5&kinds=flip+reset&seed=9") == Plan(0.5, ("flip", "reset"), 9)
    assert parse("latency=2") == Plan(0.0, faults.KINDS, latency_ms=2.0)
    with pytest.raises(FaultSpecError, match="/dev/nowhere has a latency of its own"):
        Device.open("/dev/nowhere?latency=2")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flip=1", r"give \?faults=PROBABILITY, for example \?faults=1e-2"),
        ("faults=often", "give .faults=PROBABILITY"),
        ("faults=2", "the probability must be 0 to 1"),
        ("faults=0.1&kinds=flip+smash", "unknown: smash. Kinds of faults are flip, drop"),
        ("faults=0.1&speed=3", "unknown: speed"),
        ("latency=-1", "the latency 0 or more and less than 1000"),
        ("latency=slow", "&latency=MILLISECONDS"),
    ],
)
def test_invalid_options(spec: str, message: str) -> None:
    with pytest.raises(FaultSpecError, match=message):
        Device.open(f"sim?{spec}")


@pytest.mark.parametrize("kind", faults.ON_BYTES)
def test_every_fault_changes_a_frame(kind: str) -> None:
    rng = random.Random(0)
    frame = bytes(range(20)) + b"\x7e"
    assert all(faults.ON_BYTES[kind](frame, rng) != frame for _ in range(50))


class Loopback(FakePort):
    """Fake port that returns the bytes that are written to it."""

    def __init__(self) -> None:
        self.raw = b""

    @property
    def in_waiting(self) -> int:
        return len(self.raw)

    def write(self, raw: bytes, /) -> int:
        self.raw += raw
        return len(raw)

    def read(self, size: int, /) -> bytes:
        taken, self.raw = self.raw[:size], self.raw[size:]
        return taken


def test_nothing_changes_without_faults_and_all_faults_are_counted() -> None:
    frames = b"".join(bytes([n]) * 5 + b"\x7e" for n in range(100))
    clean = FaultyPort(Loopback(), Plan(0.0, faults.KINDS))
    clean.write(frames)
    assert clean.read(10_000) == frames and not clean.injected
    lossy = FaultyPort(Loopback(), Plan(1.0, ("lose",)))
    lossy.write(frames)
    assert lossy.read(10_000) == b"" and lossy.injected == Counter(lose=100)
    # Resets are signals to the process of a virtual board, and there is none here.
    assert not FaultyPort(Loopback(), Plan(1.0, ("reset",))).kinds


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_are_right_despite_faults(seed: int) -> None:
    network = random_network(11, n_layers=3, timesteps=2, encoder=False)
    device = FakeDevice(network, CONFIG)
    kinds = tuple(kind for kind in faults.ON_BYTES if kind != "garbage")
    port = FaultyPort(device.transport.port, Plan(0.05, kinds, seed))
    device.transport.port = port
    device.transport.timeout_s = 0.01
    samples = random_input(network, np.random.default_rng(seed), 12)
    with Board(device) as board:
        board.load(network)
        found = board.infer(samples)
    clean = Board(FakeDevice(network, CONFIG))
    clean.load(compile_network(network, CONFIG))
    np.testing.assert_array_equal(found, clean.infer(samples))
    assert port.injected and device.transport.counters.n_repeated
