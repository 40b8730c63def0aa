from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.spec import Reset
from sw.network import encoder, reference
from sw.network.network import IMAGE, Layer, Network
from tests.networks import random_input, random_network


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_encoder_equals_the_reference(seed: int) -> None:
    network = random_network(seed, encoder=True, n_layers=1)
    images = random_input(network, np.random.default_rng(seed), 3)
    spikes = encoder.encode(network, images)
    assert spikes.dtype == np.uint8
    np.testing.assert_array_equal(spikes, reference.run(network, images).spikes["input"])


@pytest.mark.parametrize("bits", range(1, 9))
def test_pixels_are_rounded_to_the_nearest_of_equally_spaced_values(bits: int) -> None:
    pixels = np.arange(256, dtype=np.uint8)
    got = encoder.rounded(pixels, bits)
    assert got.dtype == np.uint8
    assert [int(n) for n in got] == [round(int(p) * (2**bits - 1) / 255) for p in pixels]


def test_sums_beyond_float32_stay_exact() -> None:
    """Check that the encoder's sums are exact beyond the range of float32.

    Thresholds equal the sum of 1,600 weighted pixels, or exceed it by 1.
    """
    rng = np.random.default_rng(8)
    weight = rng.integers(90, 128, (1, 1, 1, 64, 1, 40, 40), np.int8)
    images = rng.integers(200, 256, (1, 1, 40, 40), np.uint8)
    sums = (weight[0, 0, 0, :, 0].astype(np.int64) * images[0, 0]).sum(axis=(1, 2))
    assert sums.min() > 1 << 24
    above = np.arange(64) % 2
    stem = Layer(
        name="stem",
        source=IMAGE,
        kernel=(40, 40),
        weight=weight,
        bias=np.zeros((1, 1, 1, 64), np.int32),
        threshold=(sums + above)[None, None].astype(np.int32),
        reset=Reset.SOFT,
    )
    output = Layer(
        name="fc",
        source="input",
        kernel=(1, 1),
        weight=np.ones((1, 1, 1, 2, 64, 1, 1), np.int8),
        bias=np.zeros((1, 1, 1, 2), np.int32),
        output=True,
    )
    network = Network(
        timesteps=1,
        image_shape=(1, 40, 40),
        encoder=stem,
        layers=(output,),
        weight_bits=8,
        labels=("a", "b"),
    )
    spikes = encoder.encode(network, images)
    assert spikes.ravel().tolist() == (1 - above).tolist()
    np.testing.assert_array_equal(spikes, reference.run(network, images).spikes["input"])


def test_many_images_are_encoded_like_few() -> None:
    network = random_network(5, encoder=True)
    images = random_input(network, np.random.default_rng(5), encoder.BATCH + 7)
    spikes = encoder.encode(network, images)
    assert len(spikes) == len(images)
    for n in (0, encoder.BATCH - 1, encoder.BATCH, len(images) - 1):
        np.testing.assert_array_equal(spikes[n], encoder.encode(network, images[n : n + 1])[0])
    assert encoder.encode(network, images[:0]).shape == (0, *spikes.shape[1:])


def test_frames_pass_unchanged() -> None:
    network = random_network(6, encoder=False)
    frames = random_input(network, np.random.default_rng(6), 2)
    np.testing.assert_array_equal(encoder.encode(network, frames), frames)


def test_unsuitable_images_are_refused() -> None:
    network = random_network(7, encoder=True)
    with pytest.raises(encoder.InputError, match=r"images \(N, C, H, W\)"):
        encoder.encode(network, np.zeros((2, *network.image_shape), np.float32))  # type: ignore[arg-type]
    with pytest.raises(encoder.InputError, match=r"not uint8 \(5, 5\)"):
        encoder.encode(network, np.zeros((5, 5), np.uint8))


def test_encoder_does_not_import_torch() -> None:
    code = "import sys, sw.network.encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
