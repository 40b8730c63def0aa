"""Tests of programs for devices with several banks: a Python model of the device runs them and must
compute the network's spikes and logits.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hw.spec import GRANULE_BITS, N_PLANES, Config, Gate
from sw.compile.compiler import compile_network
from sw.compile.cycles import active_inputs
from sw.compile.deal import RATES, deal, orders
from sw.compile.program import PIXELS, Program, bit_planes
from sw.network.encoder import encode, rounded
from sw.network.network import INPUT, Layer, Network, Shape
from tests.golden import run_network
from tests.networks import random_input, random_network
from tests.sw.machine import Machine

CONFIG = Config(
    fire_lanes=8, weight_depth=1 << 17, param_depth=1 << 14, spike_bytes=1 << 15, result_rows=32
)
CHANNELS = (1, 3, 5, 12, 20, 36, 48, 96)
BANKS = (1, 2, 4, 8)


def build(banks: int, chunk_bits: int = 32) -> Config:
    """Return a configuration whose memories hold every network of these tests."""
    lanes = max(32, GRANULE_BITS * banks)
    return replace(CONFIG, banks=banks, chunk_bits=chunk_bits, lanes=lanes)


def with_rates(network: Network, seed: int) -> Network:
    """Return the network with random spike rates of the channels of most maps."""
    rng = np.random.default_rng(seed)
    statistics = {
        name: {RATES: rng.random(shape[0]).round(3).tolist()}
        for name, shape in network.map_shapes().items()
        if rng.random() < 0.8
    }
    return replace(network, statistics=statistics)


def check(network: Network, configs: list[Config], seed: int = 0) -> list[Program]:
    """Check that the model of a device computes the network's maps and logits in each
    configuration.

    Return the compiled program of each configuration.
    """
    sample = random_input(network, np.random.default_rng(seed), 1)
    frames = sample[0] if network.encoder is None else encode(network, sample)[0]
    maps, logits = run_network(network, frames)
    programs = []
    for config in configs:
        program = compile_network(network, config)
        machine = Machine(program)
        buffer = len(program.inputs) - 1
        found, found_logits = machine.run(sample[0] if program.pixels else frames, buffer)
        for name, spikes in maps.items():
            assert np.array_equal(found[name], spikes), (name, config)
        assert np.array_equal(found_logits, logits)
        pixels = rounded(sample[0], network.pixel_bits)
        maps_of_device = maps | ({PIXELS: bit_planes(pixels)} if program.pixels else {})
        for plan, active in zip(program.layers, machine.active, strict=True):
            counts = active_inputs(plan, program.placements, maps_of_device)
            assert np.array_equal(counts.sum(axis=2), active)
        programs.append(program)
    return programs


@pytest.mark.parametrize("seed", range(24))
def test_banks_compute_random_networks(seed: int) -> None:
    """Check that devices with any number of banks compute random networks, with few, many and odd
    numbers of channels.

    Half of the networks have spike rates, by which the compiler deals channels to banks.
    """
    n_layers = 2 + seed % 3
    net = random_network(seed, channels=CHANNELS, n_layers=n_layers, timesteps=1 + seed % 3)
    net = with_rates(net, seed) if seed % 2 else net
    check(net, [build(banks, 32 if (seed + n) % 2 else 64) for n, banks in enumerate(BANKS)])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("chunk_bits", [32, 64])
def test_every_number_of_channels_in_every_bank(channels: int, chunk_bits: int) -> None:
    """Check that devices with any number of banks compute networks with any number of channels.

    The networks have a gate. Their third layer has 40 channels, whatever the number in the layers
    before it.
    """
    rng = np.random.default_rng(channels)
    shape = (channels, 4, 5)
    layers = (
        layer_of("one", INPUT, rng, channels, channels, 3),
        layer_of("two", "one", rng, channels, channels, 1, gate=Gate.XOR, identity=INPUT),
        layer_of("three", "two", rng, channels, 40, 3, stride=(2, 2)),
        Layer(
            name="fc",
            source="three",
            kernel=(2, 3),
            weight=rng.integers(-8, 8, (1, 1, 1, 10, 40, 2, 3)).astype(np.int8),
            bias=rng.integers(-8, 8, (1, 1, 1, 10)).astype(np.int32),
            output=True,
        ),
    )
    net = Network(
        timesteps=2,
        image_shape=shape,
        encoder=None,
        layers=layers,
        weight_bits=8,
        labels=tuple("0123456789"),
    )
    programs = check(with_rates(net, 1), [build(banks, chunk_bits) for banks in BANKS], seed=3)
    for program in programs:
        # No bank has rows of weights for the bits that fill up a position of up to 16.
        per_bank = -(-channels // program.config.banks)
        rows = program.layers[0].weight_rows // program.config.banks
        groups = -(-channels // program.config.lanes)
        if GRANULE_BITS < per_bank < 16 or per_bank in (1, 2, 4, 8):
            assert rows == groups * 9 * per_bank


def layer_of(
    name: str,
    source: str,
    rng: np.random.Generator,
    n_in: int,
    n_out: int,
    kernel: int,
    **options: Any,
) -> Layer:
    """Return a convolution with random weights, which keeps the size of its map."""
    fields: dict[str, Any] = {
        "name": name,
        "source": source,
        "kernel": (kernel, kernel),
        "padding": (kernel // 2, kernel // 2),
        "weight": rng.integers(-8, 9, (1, 1, 1, n_out, n_in, kernel, kernel)).astype(np.int8),
        "bias": rng.integers(-2, 3, (1, 1, 1, n_out)).astype(np.int32),
        "threshold": rng.integers(2, 9, (1, 1, n_out)).astype(np.int32),
    }
    return Layer(**(fields | options))


@pytest.mark.parametrize("seed", range(6))
def test_banks_compute_the_encoder(seed: int) -> None:
    """Check that devices compute the encoder right, each bank on its own share of the bit-planes.

    A bit-plane is one bit of every pixel of the image.
    """
    net = random_network(1000 + seed, encoder=True, n_layers=2, weight_bits=8)
    programs = check(net, [build(banks, 32) for banks in BANKS])
    for program in programs:
        assert program.pixels
        assert program.layers[0].n_plane_steps == N_PLANES // program.config.banks
        assert program.placements[PIXELS].n_rows % program.config.banks == 0


def test_a_region_is_consecutive_rows_of_the_host() -> None:
    """Check that the packed rows of a spike map have each channel's spikes in the byte of its bank.

    The host transfers consecutive rows and numbers them across banks: row ``r`` is byte
    ``r // banks`` of bank ``r % banks``.
    """
    net = random_network(3, channels=(20,), encoder=False)
    program = compile_network(with_rates(net, 0), build(4))
    rng = np.random.default_rng(0)
    for place in program.placements.values():
        spikes = (rng.random((place.timesteps, *place.shape)) < 0.5).astype(np.uint8)
        raw = np.frombuffer(place.pack(spikes), np.uint8)
        assert len(raw) == place.n_rows and place.first_row == place.start // 8 * 4
        assert np.array_equal(place.unpack(raw.tobytes()), spikes)
        for rank, channel in enumerate(place.order):
            bit = place.base - place.start + rank // 4  # of timestep 0, position (0, 0)
            byte = raw[bit // GRANULE_BITS * 4 + rank % 4]
            assert byte >> bit % GRANULE_BITS & 1 == spikes[0, channel, 0, 0]
    assert program.spike_bytes == sum(
        place.n_rows for place in (*program.placements.values(), *program.inputs[1:])
    )


def test_joined_maps_have_the_same_order() -> None:
    rng = np.random.default_rng(0)
    layers = (
        layer_of("a", INPUT, rng, 6, 6, 1),
        layer_of("b", "a", rng, 6, 6, 1, gate=Gate.OR, identity="a"),
        layer_of("c", "b", rng, 6, 6, 1),
        layer_of("d", "c", rng, 6, 6, 1, gate=Gate.AND, identity="b"),
    )
    shapes: dict[str, Shape] = dict.fromkeys((INPUT, "a", "b", "c", "d"), (6, 1, 1))
    rates = {name: rng.random(6) for name in ("a", "b", "d")}
    found = orders(layers, shapes, rates, 2)
    assert found["a"] == found["b"] == found["d"] == deal(rates["a"] + rates["b"] + rates["d"], 2)
    assert found["c"] == found[INPUT] == tuple(range(6))


@pytest.mark.parametrize("banks", BANKS)
@pytest.mark.parametrize("n_channels", [1, 3, 8, 21, 64])
def test_rates_of_banks_are_about_even(banks: int, n_channels: int) -> None:
    rates: NDArray[np.float64] = np.random.default_rng(n_channels).random(n_channels) ** 3
    order = deal(rates, banks)
    assert sorted(order) == list(range(n_channels))
    sums = [rates[list(order[bank::banks])].sum() for bank in range(banks)]
    if n_channels == 64:
        assert max(sums) < 1.05 * min(sums)
        natural = [rates[bank::banks].sum() for bank in range(banks)]
        assert max(sums) <= max(natural) + 1e-9
