from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from hw.spec import Leak, Reset, after_spike
from sw.convert import fold, quantize
from sw.convert.folded import FoldedLayer, FoldedNetwork, exact, simulate
from sw.data.dataset import Split
from sw.network import encoder, reference
from sw.network.engine import drive
from sw.network.network import IMAGE, AnyLayer, Layer, Network
from tests import golden
from tests.networks import random_input, random_network
from tests.trained import KEEP_SOFT, LIF, images, lived_in, small_config

LABELS = tuple("abcdefghij")


def folded_network(**changes: object) -> FoldedNetwork:
    return fold.fold_model(lived_in(small_config(**changes)), LABELS, {"train_config": {"seed": 1}})


@pytest.mark.parametrize("weight_bits", [2, 4, 8])
@pytest.mark.parametrize("calibrated", [False, True])
def test_integers_fit_and_scales_are_one_per_neuron(weight_bits: int, calibrated: bool) -> None:
    """Check that quantised numbers fit their widths, and that each neuron has one scale.

    The scale holds for all timesteps. Weights differ from the float weights by at most half a step,
    or are clipped. Thresholds represent 1 exactly.
    """
    folded = folded_network()
    network = quantize.quantize(folded, weight_bits, calibration=images(20) if calibrated else None)
    low, high = -(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1
    assert network.weight_bits == weight_bits
    assert network.provenance["train_config"] == {"seed": 1}
    for before, after in zip(folded.layers, network.layers, strict=True):
        assert after.weight.shape == before.weight.shape
        assert np.abs(after.bias).max() < 1 << 15
        if after.threshold is None:
            continue
        assert after.threshold.max() < 1 << 15
        assert after.threshold.shape == (*before.weight.shape[1:3], before.weight.shape[3])
        scale = 1 / after.threshold[None, :, :, :, None, None, None]
        error = np.abs(after.weight * scale - before.weight)
        clipped = (after.weight == low) | (after.weight == high)
        assert np.all((error <= scale / 2 * (1 + 1e-9)) | clipped)
        if not calibrated:
            found = after.bias / after.threshold[None]
            assert np.all(np.abs(found - before.bias) <= 0.5 / after.threshold[None] + 1e-9)
    # The output layer has one scale for all classes and timesteps.
    before, after = folded.layers[-1].weight, network.layers[-1].weight
    inside = (after != 0) & (after != low) & (after != high)
    if weight_bits == 8:
        scale = (before[inside] * after[inside]).sum() / (after[inside].astype(float) ** 2).sum()
        assert np.all(np.abs(before[inside] - after[inside] * scale) <= scale * 0.55)


def test_the_encoder_has_8_bits_by_default() -> None:
    stem = quantize.quantize(folded_network(stem_coefficient="none"), 2).encoder
    assert stem is not None
    assert len(np.unique(stem.weight)) > 16


@pytest.mark.parametrize("bits", range(1, 8))
def test_pixels_of_fewer_bits_keep_the_drive_of_the_encoder(bits: int) -> None:
    """Check that the encoder fires nearly the same spikes if pixels have fewer than 8 bits.

    Pixels are then smaller numbers, and the weights are larger by the same factor.
    """
    folded = folded_network()
    assert folded.encoder is not None
    usual, rounding = quantize.quantize(folded, 8), quantize.quantize(folded, 8, pixel_bits=bits)
    assert rounding.pixel_bits == bits and usual.pixel_bits == 8
    assert rounding.encoder is not None and usual.encoder is not None
    black_and_white = np.random.default_rng(bits).choice((0, 255), (20, *folded.image_shape))
    spikes = [
        encoder.encode(network, black_and_white.astype(np.uint8)) for network in (usual, rounding)
    ]
    assert spikes[0].any() and (spikes[0] != spikes[1]).mean() < 0.02


def test_the_encoder_may_have_weights_of_other_widths() -> None:
    network = quantize.quantize(folded_network(), 8, encoder_bits=4)
    assert network.encoder is not None and np.abs(network.encoder.weight).max() <= 8
    assert np.abs(network.layers[0].weight).max() > 8
    for name, bits in (("pixel_bits", 0), ("pixel_bits", 9), ("encoder_bits", 3)):
        with pytest.raises(quantize.QuantizeError, match=f"{name} = {bits}: use one of"):
            quantize.quantize(folded_network(), 8, **{name: bits})


@pytest.mark.parametrize("changes", [{}, {"neuron": LIF}, {"neuron": KEEP_SOFT}])
def test_8_bits_are_close_to_the_float_network(changes: dict) -> None:
    folded = folded_network(**changes)
    pixels = images(60)
    network = quantize.quantize(folded, 8)
    before = simulate(folded, pixels, keep_spikes=True)
    after = reference.run(network, pixels)
    for name, spikes in before.spikes.items():
        assert np.mean(spikes != after.spikes[name]) < 0.1, name
    assert np.mean(before.predictions == after.predictions) > 0.9
    assert [layer.leak for layer in network.layers] == [layer.leak for layer in folded.layers]
    assert [layer.gate for layer in network.layers] == [layer.gate for layer in folded.layers]


def test_more_bits_are_more_exact() -> None:
    folded = folded_network()
    pixels = images(60)
    before = simulate(folded, pixels, keep_spikes=True).spikes["layer1.0.conv2"]
    wrong = [
        np.mean(
            before
            != reference.run(quantize.quantize(folded, bits), pixels).spikes["layer1.0.conv2"]
        )
        for bits in (2, 4, 8)
    ]
    assert wrong[0] > wrong[1] > wrong[2]


def mean_drive(layer: AnyLayer[Any, Any], source: np.ndarray) -> np.ndarray:
    """Return the drive of each channel (o,), the mean over images, timesteps and positions.

    The drive is the weighted sum of the layer's input ``source``, plus the bias.
    """
    drives = drive(layer, torch.from_numpy(source), torch.float64).numpy()
    return (drives.transpose(0, 1, 3, 4, 2) + layer.bias).mean(axis=(0, 1, 2, 3))


@pytest.mark.parametrize("weight_bits", [2, 8])
def test_calibration_restores_mean_drives(weight_bits: int) -> None:
    """Check that calibration restores every channel's mean weighted input of the float network.

    The remaining error is at most half a step, from the rounding of the bias. Without calibration,
    it exceeds a step.
    """
    folded = folded_network()
    pixels = images(50)
    wanted = simulate(folded, pixels, keep_spikes=True).spikes
    moved = 0.0
    for calibration in (None, pixels):
        network = quantize.quantize(folded, weight_bits, calibration=calibration)
        spikes = reference.run(network, pixels).spikes
        for before, after in zip(folded.layers[:-1], network.layers[:-1], strict=True):
            assert after.threshold is not None
            scale = (1 / after.threshold).mean(axis=(0, 1))
            if (1 / after.threshold).std(axis=(0, 1)).any():
                continue  # positions with scales of their own: no one mean in steps
            error = mean_drive(after, spikes[after.source]) * scale - mean_drive(
                before, wanted[before.source]
            )
            if calibration is None:
                moved = max(moved, float((np.abs(error) / scale).max()))
            else:
                assert np.all(np.abs(error) <= 0.5 * scale + 1e-9), after.name
    assert moved > 1, "nothing to restore: the test proves nothing"
    carried = quantize.quantize(dataclasses.replace(folded, calibration=pixels), 2)
    np.testing.assert_array_equal(
        carried.layers[0].bias, quantize.quantize(folded, 2, calibration=pixels).layers[0].bias
    )


def test_clipping_pays_for_outliers() -> None:
    """Check that one large weight among many small ones is clipped, so that the small ones do not
    become 0.
    """
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.1, (1, 1, 1, 1, 500, 1, 1))
    weight[..., 0, 0, 0] = 0.6
    layer = FoldedLayer(
        name="outlier",
        source="input",
        kernel=(1, 1),
        weight=weight,
        bias=np.zeros((1, 1, 1, 1)),
        threshold=np.ones((1, 1, 1)),
    )
    output = dataclasses.replace(layer, name="fc", threshold=None, output=True)
    encoder = dataclasses.replace(layer, name="stem", weight=weight[..., :1, :, :])
    network = quantize.quantize(
        FoldedNetwork(
            timesteps=1,
            image_shape=(1, 1, 1),
            encoder=dataclasses.replace(
                encoder,
                source=IMAGE,
                weight=np.ones((1, 1, 1, 500, 1, 1, 1)),
                bias=np.zeros((1, 1, 1, 500)),
                threshold=np.ones((1, 1, 500)),
            ),
            layers=(layer, output),
            labels=("a",),
            provenance={},
        ),
        4,
    )
    threshold = network.layers[0].threshold
    assert threshold is not None
    assert int(threshold[0, 0, 0]) > 1.3 * 7 / 0.6
    assert network.layers[0].weight.max() == 7


def test_large_biases_keep_their_value_at_the_cost_of_the_scale() -> None:
    """Check that a bias of -3 thresholds keeps its value, within 0.1 %, although it does not fit 16
    bits with the best scale.

    The weights are so small that their best scale needs a threshold of about 100,000, above 16
    bits.
    """
    folded = folded_network()
    first = folded.layers[0]
    tiny = dataclasses.replace(first, weight=first.weight * 1e-3, bias=first.bias * 0 - 3)
    folded = dataclasses.replace(folded, layers=(tiny, *folded.layers[1:]))
    layer = quantize.quantize(folded, 8).layers[0]
    assert layer.threshold is not None
    np.testing.assert_allclose(layer.bias / layer.threshold[None], -3, rtol=1e-3)
    assert 10_000 < layer.threshold.max() < 1 << 15


@pytest.mark.parametrize("bits", [1, 3, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(quantize.QuantizeError, match=f"weight_bits = {bits}"):
        quantize.quantize(folded_network(), bits)


def test_a_bias_beyond_all_scales_is_refused() -> None:
    folded = folded_network()
    layer = dataclasses.replace(folded.layers[2], bias=folded.layers[2].bias + 40_000)
    folded = dataclasses.replace(folded, layers=(*folded.layers[:2], layer, *folded.layers[3:]))
    message = f"{layer.name}': a bias is over 32767 times its threshold, .* more weight decay"
    with pytest.raises(quantize.QuantizeError, match=message):
        quantize.quantize(folded, 8)


def test_measure_reports_accuracy_and_densities() -> None:
    network = quantize.quantize(folded_network(), 8)
    pixels = images(30)
    trace = reference.run(network, pixels)
    labels = trace.predictions.astype(np.uint8)
    labels[:6] = (labels[:6] + 1) % 10
    measured = quantize.measure(network, Split(images=pixels, labels=labels))
    assert measured.provenance["validation_accuracy"] == pytest.approx(80)
    for layer in network.layers[:-1]:
        values = measured.statistics[layer.name]
        assert values["output_density"] == pytest.approx(trace.spikes[layer.name].mean())
        assert values["input_density"] == pytest.approx(trace.spikes[layer.source].mean())


def one_neuron(rng: np.random.Generator, leak: Leak, reset: Reset, n_in: int) -> Network:
    def layer(name: str, **changes: object) -> Layer:
        values: dict = {
            "name": name,
            "source": "input",
            "kernel": (1, 1),
            "weight": rng.integers(-8, 8, (3, 1, 1, 1, n_in, 1, 1), np.int8),
            "bias": rng.integers(-4, 5, (3, 1, 1, 1), np.int32),
            "threshold": rng.integers(1, 9, (1, 1, 1), np.int32),
            "leak": leak,
            "leak_shift": 0 if leak == Leak.NONE else 1,
            "finer_shifts": () if leak == Leak.NONE else (3,),
            "reset": reset,
        }
        return Layer(**{**values, **changes})

    output = layer(
        "fc",
        bias=rng.integers(-9, 9, (1, 1, 1, 1), np.int32),
        threshold=None,
        leak=Leak.NONE,
        leak_shift=0,
        finer_shifts=(),
        output=True,
    )
    return Network(
        timesteps=3,
        image_shape=(n_in, 1, 1),
        encoder=None,
        layers=(layer("neuron"), output),
        weight_bits=4,
        labels=("a",),
    )


@pytest.mark.parametrize("leak", list(Leak))
@pytest.mark.parametrize("reset", list(Reset))
def test_bounds_are_what_the_worst_inputs_reach(leak: Leak, reset: Reset) -> None:
    """Check that no membrane or logit of a small network exceeds the proved bounds.

    All 2**9 inputs of 3 synapses over 3 timesteps are tried; the logits must reach their bounds.
    """
    for seed in range(20):
        network = one_neuron(np.random.default_rng(seed), leak, reset, 3)
        bounds = quantize.proved_bounds(network)
        neuron, output = network.layers
        assert neuron.threshold is not None
        membranes, logits = [], []
        for bits in itertools.product((0, 1), repeat=9):
            frames = np.array(bits, np.uint8).reshape(3, 3, 1, 1)
            logits.append(int(golden.run_layer(output, frames, None)[0]))
            v = last = 0
            threshold = int(neuron.threshold[0, 0, 0])
            for t in range(3):
                kept = (v >> 1) - (v >> 3)
                v = {Leak.NONE: v, Leak.SUBTRACT: v - kept, Leak.KEEP: kept}[leak]
                v -= threshold * (reset == Reset.DELAYED and last >= threshold)
                v += int((frames[t].ravel() * neuron.weight[t].ravel()).sum())
                v += int(neuron.bias[t, 0, 0, 0])
                membranes.append(v)
                last = v
                if v >= threshold:
                    v = after_spike(v, threshold, reset)
        assert bounds["neuron"].low <= min(membranes), f"seed {seed}"
        assert bounds["neuron"].high >= max(membranes), f"seed {seed}"
        assert bounds["fc"].low <= min(logits) and max(logits) <= bounds["fc"].high
        low, high = bounds["neuron"].low, bounds["neuron"].high
        n_bits = bounds["neuron"].n_bits
        assert -(1 << (n_bits - 1)) <= low and high < 1 << (n_bits - 1)
        assert low < -(1 << (n_bits - 2)) or high >= 1 << (n_bits - 2), "one bit less would do"


def test_bounds_hold_for_what_random_networks_do() -> None:
    for seed in range(40):
        network = random_network(seed)
        bounds = quantize.proved_bounds(network)
        assert list(bounds) == [layer.name for layer in network.layers]
        trace = reference.run(network, random_input(network, np.random.default_rng(seed), 3))
        assert trace.logits.min() >= bounds[network.layers[-1].name].low, f"seed {seed}"
        assert trace.logits.max() <= bounds[network.layers[-1].name].high, f"seed {seed}"


def test_a_network_tuned_for_wider_parameters_is_refused() -> None:
    folded = fold.fold_model(lived_in(small_config()), tuple("abcdefghij"), {})
    _, scales, _ = quantize.quantize_with_scales(folded, 4)
    same = quantize.quantize(dataclasses.replace(folded, scales=scales), 4)
    assert same.layers[1].threshold is not None
    scales.thresholds["layer1.0.conv2"][..., 2] = 1 << 15
    message = r"'layer1\.0\.conv2': its threshold 32768.*--bits 4"
    with pytest.raises(quantize.QuantizeError, match=message):
        quantize.quantize(dataclasses.replace(folded, scales=scales), 4)


def reordered(folded: FoldedNetwork, seed: int) -> FoldedNetwork:
    """Return the same network with the channels of maps in another order.

    Maps that a gate joins are left alone. Sums over the reordered channels have their summands in
    another order.
    """
    rng = np.random.default_rng(seed)
    joined = {layer.identity for layer in folded.layers} | {
        layer.name for layer in folded.layers if layer.identity is not None
    }
    orders = {
        layer.name: rng.permutation(layer.n_out)
        for layer in folded.layers
        if layer.name not in joined and not layer.output
    }
    layers = []
    for layer in folded.layers:
        if layer.name in orders:
            order = orders[layer.name]
            assert layer.threshold is not None
            layer = dataclasses.replace(
                layer,
                weight=layer.weight[:, :, :, order],
                bias=layer.bias[..., order],
                threshold=layer.threshold[..., order],
            )
        if layer.source in orders:
            layer = dataclasses.replace(
                layer, weight=layer.weight[:, :, :, :, orders[layer.source]]
            )
        layers.append(layer)
    return dataclasses.replace(folded, layers=tuple(layers))


def test_sums_do_not_depend_on_their_order() -> None:
    """Check that logits and bias corrections do not depend on the order of summation.

    The order may change with the number of threads. Here it is changed by reordering channels.
    """
    folded, pixels = folded_network(), images(40)
    others = [reordered(folded, seed) for seed in range(3)]
    logits = simulate(folded, pixels).logits
    _, _, shifts = quantize.quantize_with_scales(folded, 4, calibration=pixels)
    for other in others:
        assert any(
            not np.array_equal(a.weight, b.weight)
            for a, b in zip(folded.layers, other.layers, strict=True)
        )
        np.testing.assert_array_equal(simulate(other, pixels).logits, logits)
        _, _, found = quantize.quantize_with_scales(other, 4, calibration=pixels)
        np.testing.assert_array_equal(found["fc"], shifts["fc"])
        for name, shift in shifts.items():
            np.testing.assert_array_equal(np.sort(found[name]), np.sort(shift))


def test_exact_weights_are_almost_the_same() -> None:
    weight = np.random.default_rng(1).normal(size=(1, 1, 1, 4, 64, 3, 3))
    rounded = exact(weight, 1, 255)
    np.testing.assert_allclose(rounded, weight, rtol=0, atol=2.0**-36)
    assert not np.array_equal(rounded, weight)
    assert exact(0 * weight, 1, 1).max() == 0
