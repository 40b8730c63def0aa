"""Tests of the torch reference against :mod:`tests.golden`, a slow second implementation in NumPy
that shares no code with it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.spec import Gate, Leak, Reset
from sw.network import reference
from sw.network.encoder import InputError
from sw.network.network import INPUT, Layer, Network
from tests import golden
from tests.networks import GRANULARITIES, random_input, random_network


def assert_equals_golden(network: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    trace = reference.run(network, images, batch=2)
    for n, image in enumerate(images):
        frames = image
        if network.encoder is not None:
            most = 2**network.pixel_bits - 1
            pixels = np.rint(image.astype(np.float64) * most / 255).astype(np.int64)
            repeated = np.repeat(pixels[None], network.timesteps, axis=0)
            frames = golden.run_layer(network.encoder, repeated, None)
        maps, logits = golden.run_network(network, frames)
        np.testing.assert_array_equal(trace.logits[n], logits)
        assert list(maps) == list(trace.spikes)
        for name, spikes in maps.items():
            assert trace.spikes[name].dtype == np.uint8
            np.testing.assert_array_equal(trace.spikes[name][n], spikes, err_msg=name)
            np.testing.assert_array_equal(trace.n_spikes[name][n], spikes.sum(axis=(1, 2, 3)))
    np.testing.assert_array_equal(trace.predictions, trace.logits.argmax(axis=1))
    return trace.spikes


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_random_networks(seed: int) -> None:
    network = random_network(seed)
    assert_equals_golden(network, random_input(network, np.random.default_rng(seed), 3))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("leak", list(Leak))
@pytest.mark.parametrize("reset", list(Reset))
def test_every_granularity_leak_and_reset(granularity: str, leak: Leak, reset: Reset) -> None:
    first = 3000 + 3 * GRANULARITIES.index(granularity) + 30 * leak + 300 * reset
    densities = []
    for seed in range(first, first + 3):
        network = random_network(
            seed, n_layers=4, timesteps=4, granularity=granularity, leak=leak, reset=reset
        )
        images = random_input(network, np.random.default_rng(seed), 2)
        maps = assert_equals_golden(network, images)
        densities += [spikes.mean() for name, spikes in maps.items() if name != "input"]
    assert any(0 < density < 1 for density in densities), "nothing spiked: nothing proved"


def test_random_networks_use_everything_and_spike() -> None:
    """Check that the random networks of the tests above contain every feature, and that they
    spike.
    """
    seen: set[object] = set()
    densities = []
    for seed in range(80):
        network = random_network(seed)
        trace = reference.run(network, random_input(network, np.random.default_rng(seed), 2))
        densities += [s.mean() for name, s in trace.spikes.items() if name != "input"]
        for layer in network.layers:
            seen |= {layer.gate, layer.leak, layer.reset, layer.stride[0], layer.pool[1]}
            seen |= {("maps", layer.n_summed > 1), ("stacked", layer.stacked)}
            seen |= {(axis, n > 1) for axis, n in enumerate(layer.weight.shape[:3])}
    wanted = {*Gate, *Leak, *Reset, *((axis, full) for axis in range(3) for full in (True, False))}
    wanted |= {("maps", True), ("stacked", True)}
    assert wanted <= seen
    assert np.mean([0.02 < d < 0.7 for d in densities]) > 0.5


def wide_network(n_in: int, weight: int, bias: int) -> Network:
    """Return a network with a neuron of ``n_in`` inputs, whose sums are too large for float32."""
    fan = np.full((1, 1, 1, 1, n_in, 1, 1), weight, np.int8)
    fan[..., : n_in // 2, :, :] = -weight + 1
    return Network(
        timesteps=2,
        image_shape=(n_in, 1, 1),
        encoder=None,
        layers=(
            Layer(
                name="wide",
                source="input",
                kernel=(1, 1),
                weight=fan,
                bias=np.full((1, 1, 1, 1), bias, np.int32),
                threshold=np.full((1, 1, 1), 1, np.int32),
            ),
            Layer(
                name="fc",
                source="input",
                kernel=(1, 1),
                weight=np.concatenate([fan, fan - 1], axis=3),
                bias=np.zeros((1, 1, 1, 2), np.int32),
                output=True,
            ),
        ),
        weight_bits=8,
        labels=("a", "b"),
    )


def test_sums_beyond_float32_stay_exact() -> None:
    network = wide_network(200_001, 127, -100)
    frames = np.ones((1, 2, 200_001, 1, 1), np.uint8)
    logits = reference.run(network, frames).logits[0]
    weight = network.layers[1].weight.astype(np.int64)
    np.testing.assert_array_equal(logits, 2 * weight.sum(axis=(0, 1, 2, 4, 5, 6)))
    # One weight for 200,001 columns of a kernel adds up just the same.
    output = dataclasses.replace(
        network.layers[1], kernel=(1, 200_001), weight=np.full((1, 1, 1, 2, 1, 1, 1), 127, np.int8)
    )
    shared = dataclasses.replace(network, image_shape=(1, 1, 200_001), layers=(output,))
    logits = reference.run(shared, frames.reshape(1, 2, 1, 1, 200_001)).logits[0]
    assert logits.tolist() == [2 * 127 * 200_001] * 2
    assert reference.exact_type((1 << 24) - 1) == reference.torch.float32
    assert reference.exact_type(1 << 24) == reference.torch.float64
    assert reference.exact_type(1 << 53) == reference.torch.int64


def test_membranes_beyond_32_bits_stay_exact() -> None:
    network = wide_network(3, 1, 2**31 - 1)
    layer = dataclasses.replace(
        network.layers[0],
        threshold=np.full((1, 1, 1), 2**31 - 1, np.int32),
        bias=np.array([[[[2**30]]], [[[2**31 - 1]]]], np.int32),
    )
    network = dataclasses.replace(network, layers=(layer, network.layers[1]))
    assert_equals_golden(network, np.zeros((1, 2, 3, 1, 1), np.uint8))


def test_spikes_can_be_left_out_and_no_image_is_fine() -> None:
    network = random_network(4)
    images = random_input(network, np.random.default_rng(4), 3)
    full = reference.run(network, images)
    lean = reference.run(network, images, keep_spikes=False)
    assert lean.spikes == {}
    np.testing.assert_array_equal(lean.logits, full.logits)
    for name, density in reference.densities(network, lean).items():
        assert density == pytest.approx(full.spikes[name].mean())
    none = reference.run(network, images[:0])
    assert none.logits.shape == (0, network.n_classes)
    assert all(len(spikes) == 0 for spikes in none.spikes.values())


def test_unsuitable_input_is_refused() -> None:
    network = random_network(1, encoder=True)
    with pytest.raises(InputError, match="images"):
        reference.run(network, np.zeros((1, 9, 9), np.uint8))
    with pytest.raises(InputError, match="float"):
        reference.run(network, np.zeros((1, *network.image_shape)))  # type: ignore[arg-type]
    network = random_network(1, encoder=False)
    frames = np.full((1, network.timesteps, *network.image_shape), 2, np.uint8)
    with pytest.raises(InputError, match="0 or 1, the largest is 2"):
        reference.run(network, frames)


def test_membranes_by_hand() -> None:
    """Check that the membranes and spikes of one neuron are those computed by hand.

    Its input spikes at every timestep; the weight is 5, the bias -1 and the threshold 9. Between
    timesteps, the membrane loses a quarter, rounded down. A spike subtracts the threshold.
    """
    layer = Layer(
        name="layer",
        source="input",
        kernel=(1, 1),
        weight=np.full((1, 1, 1, 1, 1, 1, 1), 5, np.int8),
        bias=np.full((1, 1, 1, 1), -1, np.int32),
        threshold=np.full((1, 1, 1), 9, np.int32),
        leak=Leak.SUBTRACT,
        leak_shift=2,
        reset=Reset.SOFT,
    )
    values, spikes = reference.membranes(layer, {INPUT: np.ones((1, 6, 1, 1, 1), np.uint8)})
    assert values.dtype == np.int64 and spikes.dtype == np.uint8
    assert values.reshape(-1).tolist() == [4, 7, 10, 5, 8, 10]
    assert spikes.reshape(-1).tolist() == [0, 0, 1, 0, 0, 1]


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_membranes_go_with_the_spikes(seed: int) -> None:
    network = random_network(seed)
    trace = reference.run(network, random_input(network, np.random.default_rng(seed), 2))
    for layer in network.layers[:-1]:
        values, spikes = reference.membranes(layer, trace.spikes)
        assert layer.threshold is not None
        threshold = np.broadcast_to(layer.threshold, (*spikes.shape[3:], layer.n_out))
        np.testing.assert_array_equal(values >= threshold.transpose(2, 0, 1), spikes)
        if layer.gate == Gate.NONE and layer.pool == (1, 1):
            np.testing.assert_array_equal(spikes, trace.spikes[layer.name])
