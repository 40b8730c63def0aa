"""Tests of random networks on virtual boards, one after another through the driver.

Every spike of every map, every logit and every counter must equal the PyTorch integer reference,
and every layer must take the predicted cycles.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw.spec import SUMS_IN_FLIGHT, Config, Leak
from sim.virtual_board import virtual_board
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.compile.program import FitError
from sw.driver.board import Board
from sw.driver.device import Device
from sw.network import encoder, reference
from sw.network.network import INPUT, Network
from tests.networks import random_input, random_network
from tests.sw.compile.test_sums import full_nest

# Small memories load faster; networks that do not fit are left out.
SIZES = {"spike_bytes": 2048, "param_depth": 1024}
CONFIGS = {
    "8-bit": Config(name="test-w8", weight_depth=2048, **SIZES),
    "4-bit": Config(
        name="test-w4",
        weight_bits=4,
        lanes=8,
        fire_lanes=2,
        weight_depth=4096,
        chunk_bits=32,
        membrane_slots=8,
        sum_queue=0,
        **SIZES,
    ),
    "2-bit, 2 banks": Config(
        name="test-w2",
        weight_bits=2,
        fire_lanes=4,
        weight_depth=4096,
        sum_queue=SUMS_IN_FLIGHT,
        banks=2,
        **SIZES,
    ),
    "4-bit, 4 banks": Config(
        name="test-4-banks",
        weight_bits=4,
        lanes=32,
        fire_lanes=4,
        weight_depth=1024,
        chunk_bits=32,
        membrane_slots=8,
        banks=4,
        weight_registers=1,
        half_rows=1,
        direct_timesteps=1,
        **SIZES,
    ),
    "8-bit, 8 banks": Config(
        name="test-8-banks",
        lanes=64,
        fire_lanes=16,
        weight_depth=512,
        chunk_bits=32,
        banks=8,
        **SIZES,
    ),
}


SLOW = {"8-bit, 8 banks"}
"""Devices that take minutes to compile and simulate."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CONFIGS
    ],
)
def board(request) -> Iterator[Board]:
    with virtual_board(CONFIGS[request.param]) as port, Device.open(port) as device:
        yield Board(device)


def check(board: Board, network: Network, seed: int, n_images: int = 2) -> None:
    """Run random input on the board, and compare what it returns with the integer reference.

    The cycles of each layer must be those that the compiler predicts.
    """
    try:
        program = compile_network(network, board.config)
    except FitError:
        assume(False)
    images = random_input(network, np.random.default_rng(seed), n_images)
    trace = reference.run(network, images)
    frames = encoder.inputs(network, images, program.pixels)
    board.load(program)
    for i in range(n_images):
        result = board.observe(frames[i], maps=True)
        for name, spikes in trace.spikes.items():
            assert np.array_equal(result.maps[name], spikes[i]), f"map {name} of image {i}"
        assert np.array_equal(result.logits, trace.logits[i])
        assert result.prediction == trace.predictions[i]
        predicted = predict_cycles(program, result.maps)
        for layer in network.layers:
            counters = result.counters[layer.name]
            n_spikes = 0 if layer.output else int(trace.spikes[layer.name][i].sum())
            assert counters.n_spikes == n_spikes
            assert counters.n_cycles == predicted[layer.name]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_networks(board: Board, seed: int) -> None:
    bits = [b for b in (2, 4, 8) if b <= board.config.weight_bits]
    network = random_network(
        seed, weight_bits=bits[seed % len(bits)], full_neurons=board.config.full_neurons
    )
    check(board, network, seed)


def test_sums(board: Board) -> None:
    """Check networks whose layers read sums of several maps, among them the input map.

    The host writes inputs to several regions of spike memory in turn; all of them are used.
    """
    if board.config.weight_bits >= 4:
        check(board, full_nest(), 0)
    ways: set[object] = set()
    for seed in range(1000):
        network = random_network(
            seed,
            n_layers=4,
            weight_bits=board.config.weight_bits,
            full_neurons=board.config.full_neurons,
            sums=1.0,
        )
        own = {
            (layer.output, layer.stacked, INPUT in layer.sources, len(layer.sources) > 2)
            for layer in network.layers
            if layer.addends
        }
        if own <= ways:
            continue
        try:
            program = compile_network(network, board.config)
        except FitError:
            continue
        check(board, network, seed)
        images = random_input(network, np.random.default_rng(seed), len(program.inputs))
        frames = encoder.inputs(network, images, program.pixels)
        logits = [result.logits for result in board.stream(frames)]
        assert np.array_equal(logits, reference.run(network, images).logits)
        ways |= own
        if len(ways) >= 6:
            return
    raise AssertionError(f"only {len(ways)} kinds of sums were run")


@pytest.mark.parametrize("leak", Leak)
@pytest.mark.parametrize("granularity", ["shared", "element", "element per-timestep"])
def test_every_granularity_and_neuron(board: Board, granularity: str, leak: Leak) -> None:
    """Check three random networks for each granularity of weights and each leak.

    Output positions share weights (``shared``), have weights of their own (``element``), or have
    weights of their own for each timestep (``element per-timestep``). A seed whose network does not
    fit the device is skipped.
    """
    n_checked, seed = 0, 0
    while n_checked < 3:
        seed += 1
        network = random_network(
            seed,
            granularity=granularity,
            leak=leak,
            weight_bits=board.config.weight_bits,
            n_layers=3,
            timesteps=3,
            full_neurons=board.config.full_neurons,
        )
        try:
            compile_network(network, board.config)
        except FitError:
            continue
        check(board, network, seed)
        n_checked += 1
