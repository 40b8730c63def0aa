"""Tests of the predicted images per second: by hand, and against a virtual board's clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.boards.configs import CONFIGS
from sw import shipped
from sw.cli import throughput
from sw.driver.board import Board
from sw.driver.pace import Work, images_per_s
from sw.driver.results import Results
from sw.driver.session import classify
from sw.network import netfile
from sw.network.network import Network
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice

WORK = Work(n_bytes_out=300, n_bytes_acks=10, n_bytes_done=50, n_cycles=100)
"""Bytes and cycles of one inference. At 10 baud and 1 Hz, a byte and a cycle take a second each."""


@pytest.mark.parametrize(
    ("changes", "n_buffers", "seconds"),
    [
        ({}, 2, 300),  # the line to the board is always busy
        ({"n_cycles": 600}, 2, 600),  # the core is always busy
        ({"n_bytes_done": 700}, 2, 800),  # an input that comes during an announcement waits
        ({"n_cycles": 280, "n_bytes_done": 100}, 2, 380),  # and here, too
        ({"n_cycles": 280, "n_bytes_done": 100}, 3, 300),  # with three, the line is always busy
        ({}, 1, 450),  # one buffer: nothing overlaps
    ],
)
def test_the_slowest_of_line_core_and_buffers_counts(
    changes: dict[str, int], n_buffers: int, seconds: float
) -> None:
    work = replace(WORK, **changes)
    speed = images_per_s([work], baud=10, clk_hz=1, n_buffers=n_buffers)
    assert 1 / speed == pytest.approx(seconds, rel=0.005)


def test_samples_that_differ_wait_for_each_other() -> None:
    long = replace(WORK, n_cycles=1000)
    speed = images_per_s([WORK, long], baud=10, clk_hz=1, n_buffers=2)
    # The long run's buffer is free at its end only, and the short run hides but a part of the line.
    assert 2 / speed == pytest.approx(1000 + 50 + 300)


def test_spikes_read_back_and_repetitions_do_not_count() -> None:
    """Check that the predicted speed does not count what only a check of spikes transfers, or what
    is sent again after a reset.
    """
    network = random_network(11, n_layers=2)
    images = random_input(network, np.random.default_rng(1), 3)
    speeds = []
    for checked in (None, "spikes"):
        device = FakeDevice(network, CONFIGS["sim"])
        board = Board(device)
        board.load(network)
        results = Results(
            network="", sha256="", board="", clk_hz=1_000_000, n_requested=3, baud=1_000_000
        )
        if checked:
            device.gateware.reset()
        classify(board, network, images, results, checked=checked)
        speeds.append(results.system_images_per_s)
    assert speeds[0] == pytest.approx(speeds[1], rel=0.02), "sequence numbers may need escapes"


def predicted_and_simulated(name: str, baud: int, network: Network, n: int) -> tuple[float, float]:
    """Return the images per second of a run of ``n`` images: as predicted, and as measured.

    They are measured by the simulated clock, from the first result to the last.
    """
    images = random_input(network, np.random.default_rng(1), n)
    with Board.open(name, baud) as board:
        board.load(network)
        work, clock_s = [], []
        for inference in board.stream(images):
            work.append(inference.work)
            if len(work) in (1, n):  # reading it more often would delay the host
                clock_s.append(board.clock_s())
        predicted = images_per_s(
            work, baud=baud, clk_hz=board.config.clk_hz, n_buffers=len(board.program.inputs)
        )
    return predicted, (n - 1) / (clock_s[-1] - clock_s[0])


def test_prediction_is_what_the_simulated_clock_shows_if_the_line_is_slower() -> None:
    network = throughput.network(CONFIGS["sim"])
    predicted, simulated = predicted_and_simulated("sim", 3_000_000, network, 8)
    assert predicted == pytest.approx(simulated, rel=0.02)


def test_prediction_is_what_the_simulated_clock_shows_if_the_core_is_slower() -> None:
    network = netfile.load(shipped.NETWORK).network
    predicted, simulated = predicted_and_simulated("sim", 12_000_000, network, 5)
    assert predicted == pytest.approx(simulated, rel=0.02)
