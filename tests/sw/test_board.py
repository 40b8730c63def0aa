"""A session: what is loaded, what comes back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw.boards import CONFIGS
from sw.board import Board, load_bytes, program_for
from sw.compiler import FitError, compile_network
from sw.network import INPUT
from tests.golden import run_network
from tests.networks import random_network
from tests.sw.fake_device import FakeDevice

CONFIG = dataclasses.replace(CONFIGS["sim"], weight_depth=1 << 17, param_depth=1 << 14)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_what_the_device_computed_comes_back(seed: int) -> None:
    network = random_network(seed)
    try:
        program = compile_network(network, CONFIG)
    except FitError:
        assume(False)
        raise
    board = Board(FakeDevice(network, CONFIG))
    written: list[int] = []
    board.load(program, written.append)
    assert sum(written) == load_bytes(program)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        shape = (network.timesteps, *network.map_shapes()[INPUT])
        spikes = rng.integers(0, 2, shape, np.uint8)
        maps, logits = run_network(network, spikes)
        inference = board.observe(spikes, maps=True)
        np.testing.assert_array_equal(inference.logits, logits)
        assert inference.prediction == int(np.argmax(logits))
        assert inference.maps.keys() == maps.keys()
        for name, expected in maps.items():
            np.testing.assert_array_equal(inference.maps[name], expected)
        assert [c.n_spikes for c in inference.counters.values()][:-1] == [
            int(maps[layer.name].sum()) for layer in network.layers[:-1]
        ]


def test_a_program_for_another_device_is_refused_and_compiled_again() -> None:
    network = random_network(5)
    board = Board(FakeDevice(network, CONFIG))
    other = compile_network(network, dataclasses.replace(CONFIG, name="other", lanes=32))
    with pytest.raises(ValueError, match="for 'other', the device is 'sim'"):
        board.load(other)
    with pytest.raises(RuntimeError, match="no program"):
        board.infer([np.zeros(1, np.uint8)])
    program, note = program_for(network, other, CONFIG)
    assert program.config == CONFIG and note and "made for 'other'" in note
    assert program_for(network, None, CONFIG)[1] is not None


def test_a_program_for_an_equal_device_of_another_name_is_kept() -> None:
    network = random_network(5)
    program = compile_network(network, CONFIG)
    twin = dataclasses.replace(CONFIG, name="twin", clk_hz=25_000_000, baud=115200)
    assert program_for(network, program, twin) == (program, None)
