"""Tests of several virtual boards at once, and of loading rows into a simulated core without the
serial line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from hw.protocol import Space, row_bytes
from sw.driver import check
from sw.driver.board import Board
from sw.driver.device import Device
from sw.driver.errors import LinkLost
from sw.driver.group import open_boards
from sw.driver.virtual_board import VirtualBoard
from sw.network.network import Network
from tests.networks import random_input, random_network


def a_network(seed: int) -> Network:
    return random_network(seed, n_layers=2, timesteps=2, weight_bits=8, encoder=True)


def check_on(board: Board, seed: int) -> None:
    """Load a network into a board, and compare all of its spikes with the integer reference."""
    network = a_network(seed)
    images = random_input(network, np.random.default_rng(seed), 3)
    board.load(network)
    found = list(board.stream(images, maps=True))
    assert check.against_reference(network, images, found, 0) == []


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with Board.open("sim") as opened:
        yield opened


def test_boards_of_a_group_are_processes_that_share_the_work() -> None:
    network = a_network(3)
    images = random_input(network, np.random.default_rng(0), 24)
    with open_boards("sim,sim") as group:
        group.load(network)
        before = [device.clock_cycles() for device in group.devices]
        found = list(group.stream(images))
        after = [device.clock_cycles() for device in group.devices]
        assert group.failures == []
    assert check.against_reference(network, images, found, 0) == []
    assert all(
        a is not None and b is not None and b > a for a, b in zip(before, after, strict=True)
    )


def test_threads_use_boards_of_their_own_at_once() -> None:
    errors: list[BaseException] = []
    together = threading.Barrier(2, timeout=60)

    def work(seed: int) -> None:
        try:
            with Board.open("sim") as board:
                together.wait()
                check_on(board, seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("direct", [True, False])
def test_network_is_the_same_past_the_line_and_over_it(board: Board, direct: bool) -> None:
    network = a_network(3)
    memory, counters = board.device.memory, board.device.transport.counters
    (program,) = board.compiled(network)
    for space, image in program.images.items():  # so that everything has to be written
        memory.write(space, 0, bytes(byte ^ 0xFF for byte in image))
    n_before = counters.n_bytes_out
    with contextlib.nullcontext() if direct else board.device.over_the_line():
        assert board.device.direct == direct
        loaded = board.load(network)
    assert board.device.direct
    n_out = counters.n_bytes_out - n_before
    assert loaded.n_written == loaded.n_bytes
    assert (n_out < loaded.n_bytes // 2) == direct
    for space, image in program.images.items():
        assert memory.read(space, 0, len(image) // row_bytes(space, program.config)) == image


def test_rows_past_the_line_take_no_simulated_time(board: Board) -> None:
    size = row_bytes(Space.PARAM, board.config)
    rows = np.random.default_rng(0).bytes(40 * size)
    before = board.device.clock_cycles()
    board.device.preload({Space.PARAM: rows, Space.SPIKE: rows})
    assert board.device.clock_cycles() == before
    assert board.device.memory.read(Space.PARAM, 0, 40) == rows
    assert board.device.memory.read(Space.SPIKE, 0, len(rows)) == rows


def test_damage_past_the_line_is_found_and_corrected_over_it(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = VirtualBoard.write_rows

    def damaged(self: VirtualBoard, space: int, row: int, size: int, rows: bytes) -> None:
        original(self, space, row, size, rows[:-1] + bytes([rows[-1] ^ 1]))

    monkeypatch.setattr(VirtualBoard, "write_rows", damaged)
    check_on(board, 5)
    program = board.program
    for space, image in program.images.items():
        n = len(image) // row_bytes(space, program.config)
        assert board.device.memory.read(space, 0, n) == image


def test_faults_and_latency_are_those_of_the_line() -> None:
    with Device.open("sim?latency=0.01") as device:
        assert not device.direct


def test_board_that_has_ended_is_lost() -> None:
    with Device.open("sim") as device:
        assert device.direct
        assert device._virtual_board is not None
        device._virtual_board._process.kill()
        with pytest.raises(LinkLost, match=r"has ended\. Open it again"):
            device.preload({Space.SPIKE: bytes(100)})
