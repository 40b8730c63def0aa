"""Tests that a session counts only its own transfers, not those before it."""

from __future__ import annotations

import numpy as np

from hw.boards.configs import CONFIGS
from sw.driver.board import Board
from sw.driver.results import Results
from sw.driver.session import classify
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice


def test_errors_of_the_link_before_the_session_are_not_counted() -> None:
    network = random_network(11, n_layers=2)
    device = FakeDevice(network, CONFIGS["sim"])
    board = Board(device)
    board.load(network)
    device.transport.counters.n_repeated += 7
    device.transport.counters.n_recoveries += 3
    results = Results(network="", sha256="", board="", clk_hz=1, n_requested=3)
    classify(board, network, random_input(network, np.random.default_rng(1), 3), results)
    assert results.n_done == 3
    assert (results.n_repeated, results.n_recoveries) == (0, 0)
    device.gateware.reset()  # survived by one recovery
    classify(board, network, random_input(network, np.random.default_rng(2), 3), results)
    assert results.n_done == 6 and results.n_recoveries == 1
