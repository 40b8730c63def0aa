"""Tests of the portable Verilog: simulated as a virtual board, it returns the exact results to the
driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw.boards.configs import load_board
from hw.tools import portable
from sim.virtual_board import virtual_board
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.driver.board import Board
from sw.driver.device import Device
from tests.networks import random_network
from tests.sim.test_board_networks import CONFIGS, check

USER = """
name = "mine"
[clock]
hz = 50_000_000
[core]
lanes = 32
banks = 4
chunk_bits = 32
fire_lanes = 4
weight_bits = 4
weight_depth = 1024
spike_bytes = 2048
param_depth = 1024
baud = 12_500_000
"""


def run_networks(board: Board, n: int = 3) -> None:
    """Run the first ``n`` random networks that fit, and compare every spike and counter with those
    of the integer reference."""
    seed = 0
    while n:
        seed += 1
        network = random_network(seed, weight_bits=board.config.weight_bits)
        try:
            compile_network(network, board.config)
        except FitError:
            continue
        check(board, network, seed)
        n -= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["8-bit", "4-bit", "2-bit, 2 banks"])
def test_portable_verilog_of_configurations(name: str) -> None:
    config = CONFIGS[name]
    verilog = portable.portable_verilog(portable.Board(config=config, clock_hz=config.clk_hz))
    with virtual_board(config, verilog=verilog) as port, Device.open(port) as device:
        assert device.config == config
        run_networks(Board(device))


@pytest.mark.slow
def test_portable_verilog_and_virtual_board_of_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(USER)
    described = load_board(str(path))
    verilog, *others = portable.write(described, tmp_path / "out")
    assert not others
    with (
        virtual_board(described.config, verilog=verilog.read_text()) as port,
        Device.open(port) as device,
    ):
        assert device.config == described.config
        run_networks(Board(device))
    with Board.open(f"sim:{path}") as board:
        assert board.config == described.config
        run_networks(board, 1)
