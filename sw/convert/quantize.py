"""Quantisation of a folded float network to integers, with one scale per neuron.

A neuron's weights, bias and threshold are divided by its scale and rounded. The neuron has the same
scale at all timesteps, even if its weights differ between them. The scale is the threshold divided
by an integer, which becomes the integer threshold. So the threshold is represented exactly. Of
several candidates for this integer, the one with the least squared error of the weights is taken;
the largest weights may be clipped. Neurons of a channel that share weights and thresholds share the
scale, too. The output layer has one scale for all classes, because their logits are compared with
each other. The encoder, which is the first layer of a network for images, has 8-bit weights unless
other ones are asked for; a device can compute it only if its weights fit the device's.

Rounding changes a layer's weights, and also the spikes that the layer reads. So it changes the mean
of a channel's weighted sums. With calibration images, this change is measured and subtracted from
the channel's bias, before the bias is rounded. All these sums are exact, so that the result depends
on the network and the images alone. A network that was fine-tuned with quantised weights
(:mod:`sw.training.finetune`) keeps the scales that it was tuned with, and is not calibrated, unless
other widths are asked for than it was tuned with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hw.spec import N_PLANES, PARAM_BITS, signed_range
from sw.convert.folded import FoldedLayer, FoldedNetwork, Scales, exact, simulate
from sw.data.dataset import Split
from sw.network import reference
from sw.network.bounds import Bounds, layer_bounds
from sw.network.encoder import PIXEL_MAX, pixel_max, rounded
from sw.network.engine import inputs_of
from sw.network.network import INPUT, Layer, Network

WEIGHT_BITS = (2, 4, 8)
"""Widths of weights, in bits, that devices support."""
ENCODER_WEIGHT_BITS = 8
"""Default width of the encoder's weights in bits."""
PIXEL_BITS = range(1, N_PLANES + 1)
"""Widths in bits to which pixels can be rounded."""
ENCODER_PARAM_BITS = PARAM_BITS
"""Width in bits of the encoder's biases and thresholds. It is the device's width, because some
devices can compute the encoder."""
HOST_PARAM_BITS = 32
"""Width in bits of biases and thresholds in the network file. An imported encoder may use all of
these bits, but an encoder with numbers above :data:`ENCODER_PARAM_BITS` runs on the host only."""
CLIP_RATIOS = np.geomspace(1.15, 0.15, 40)
"""Ratios that define the candidates for a scale. A ratio is the float weight that the largest
integer represents, divided by the largest weight of the neuron or of the output layer. With a ratio
below 1, the largest weights are clipped."""

Float = NDArray[np.float64]


class QuantizeError(ValueError):
    """Error that a network cannot be quantised with the given options; the message says why."""


def quantize(
    folded: FoldedNetwork,
    weight_bits: int = 8,
    *,
    param_bits: int = PARAM_BITS,
    pixel_bits: int = N_PLANES,
    encoder_bits: int = ENCODER_WEIGHT_BITS,
    calibration: NDArray[np.uint8] | None = None,
) -> Network:
    """Quantise a folded network, and return the integer network.

    Parameters
    ----------
    weight_bits : width of the weights in bits: 2, 4 or 8.
    param_bits : width of biases and thresholds in bits.
    pixel_bits : width in bits to which the pixels of images are rounded, 1 to 8.
    encoder_bits : width of the encoder's weights in bits: 2, 4 or 8.
    calibration : a few hundred uint8 images (N, C, H, W), or frames (N, T, C, H, W), to correct
        biases with. If it is None, the images in ``folded`` are used, which come from the
        checkpoint. If there are none, biases are not corrected.

    Raises
    ------
    QuantizeError
        A width is not supported. Or another width than 8 is given for pixels or for the encoder's
        weights, but the network has no encoder. Or a bias or threshold does not fit ``param_bits``,
        whichever scale is chosen. Or a threshold does not fit with the scale that the network was
        fine-tuned with.
    """
    return quantize_with_scales(
        folded,
        weight_bits,
        param_bits=param_bits,
        pixel_bits=pixel_bits,
        encoder_bits=encoder_bits,
        calibration=calibration,
    )[0]


def quantize_with_scales(
    folded: FoldedNetwork,
    weight_bits: int,
    *,
    param_bits: int = PARAM_BITS,
    pixel_bits: int = N_PLANES,
    encoder_bits: int = ENCODER_WEIGHT_BITS,
    calibration: NDArray[np.uint8] | None = None,
) -> tuple[Network, Scales, dict[str, Float]]:
    """Quantise a folded network like :func:`quantize`; also return scales and bias corrections.

    Returns
    -------
    Three things: the integer network, its scales, and a dict that holds, for every layer's name,
    the amounts (o,) that calibration added to the float biases of the layer's channels.
    """
    if weight_bits not in WEIGHT_BITS:
        raise QuantizeError(f"weight_bits = {weight_bits}: use one of {WEIGHT_BITS}")
    for name, bits, usual, accepted in (
        ("pixel_bits", pixel_bits, N_PLANES, PIXEL_BITS),
        ("encoder_bits", encoder_bits, ENCODER_WEIGHT_BITS, WEIGHT_BITS),
    ):
        if bits not in accepted:
            raise QuantizeError(f"{name} = {bits}: use one of {', '.join(map(str, accepted))}")
        if folded.encoder is None and bits != usual:
            raise QuantizeError(
                f"{name} = {bits}: the network takes binary frames, not images; leave it at {usual}"
            )
    fixed = folded.scales
    if (pixel_bits, encoder_bits) != (N_PLANES, ENCODER_WEIGHT_BITS):
        fixed = None
    if fixed is not None and (fixed.weight_bits, fixed.param_bits) != (weight_bits, param_bits):
        fixed = None
    images = folded.calibration if calibration is None else calibration
    if fixed is not None:
        images = None
    thresholds: dict[str, NDArray[np.int32]] = {}
    shifts: dict[str, Float] = {}
    output = 0.0
    float_maps = {} if images is None else simulate(folded, images, keep_spikes=True).spikes
    maps: dict[str, Tensor] = {}
    if images is not None and folded.encoder is None:
        maps[INPUT] = torch.from_numpy(images)

    def convert(layer: FoldedLayer, weight_bits: int, param_bits: int, input_max: int) -> Layer:
        nonlocal output
        is_encoder = layer is folded.encoder
        rates = None
        source = before = None
        gain = PIXEL_MAX / pixel_max(pixel_bits) if is_encoder else 1.0
        if images is not None:
            if is_encoder:
                source = torch.from_numpy(rounded(images, pixel_bits)[:, None])
                before = images[:, None].sum(0, dtype=np.float64)
            else:
                source = inputs_of(layer, maps)
            after = source.sum(0, dtype=torch.float64).numpy()
            if not is_encoder:
                exact_maps = {name: torch.from_numpy(float_maps[name]) for name in layer.sources}
                before = inputs_of(layer, exact_maps).sum(0, dtype=torch.float64).numpy()
            assert before is not None
            rates = before, after, len(images)
        result, scale, shifts[layer.name] = _quantize_layer(
            layer, weight_bits, param_bits, rates, fixed, gain
        )
        if result.threshold is None:
            output = scale
        else:
            thresholds[layer.name] = result.threshold
        if source is not None and not layer.output:
            identity = None if layer.identity is None else maps[layer.identity]
            maps[INPUT if is_encoder else layer.name] = reference.run_layer(
                result, source, folded.timesteps, input_max, identity
            )
        return result

    network = Network(
        timesteps=folded.timesteps,
        image_shape=folded.image_shape,
        encoder=None
        if folded.encoder is None
        else convert(folded.encoder, encoder_bits, ENCODER_PARAM_BITS, pixel_max(pixel_bits)),
        pixel_bits=pixel_bits,
        layers=tuple(convert(layer, weight_bits, param_bits, 1) for layer in folded.layers),
        weight_bits=weight_bits,
        labels=folded.labels,
        provenance={**folded.provenance, "weight_bits": weight_bits},
    )
    scales = Scales(
        weight_bits=weight_bits, param_bits=param_bits, thresholds=thresholds, output=output
    )
    return network, scales, shifts


def measure(network: Network, split: Split) -> Network:
    """Run a network on the validation data ``split``, and return a copy with measurements added.

    ``provenance["validation_accuracy"]`` is the accuracy in percent. ``statistics`` holds, by name
    of the layer, the densities of its input spikes and of its output spikes. A density is the mean
    number of spikes per neuron and timestep.
    """
    trace = reference.run(network, split.images, keep_spikes=False)
    density = reference.densities(network, trace)
    statistics: dict[str, Any] = {INPUT: {"output_density": density[INPUT]}}
    for layer in network.layers:
        read = [density[name] for name in layer.sources]
        statistics[layer.name] = {"input_density": sum(read) / len(read)}
        if not layer.output:
            statistics[layer.name]["output_density"] = density[layer.name]
    accuracy = 100 * float((trace.predictions == split.labels).mean())
    return replace(
        network,
        provenance={**network.provenance, "validation_accuracy": accuracy},
        statistics=statistics,
    )


def proved_bounds(network: Network) -> dict[str, Bounds]:
    """Return bounds of each layer's accumulators, membranes and logits, by name of the layer.

    A layer has one lower and one upper bound, for all of these values together. No input makes a
    value exceed them (:mod:`sw.network.bounds`). The encoder, the layer that reads pixels, is left
    out: the host computes it in 64 bits. For a device that computes the encoder itself,
    :mod:`sw.compile.compiler` determines the bounds.
    """
    return {layer.name: layer_bounds(layer, network.timesteps) for layer in network.layers}


def _quantize_layer(
    layer: FoldedLayer,
    weight_bits: int,
    param_bits: int,
    rates: tuple[Float, Float, int] | None,
    fixed: Scales | None,
    gain: float,
) -> tuple[Layer, float, Float]:
    """Quantise one layer, and calibrate its biases if ``rates`` are given.

    Parameters
    ----------
    rates : three things: the layer's input in the float network; its input in the integer network;
        and the number of calibration images. Both inputs are summed over these images, and are
        arrays (T|1, C, H, W) of whole numbers. None without calibration.
    fixed : scales that the network was fine-tuned with; None to choose them.
    gain : value in the float network of an input of 1 in the integer network.

    Returns
    -------
    The integer layer, its scale if it is the output layer (otherwise 0), and the amounts (o,) that
    calibration added to the float biases.
    """
    low, high = signed_range(weight_bits)
    param_max = signed_range(param_bits)[1]
    float_weight, layer = layer.weight, replace(layer, weight=layer.weight * gain)
    weight, bias = layer.weight, layer.bias
    scale, threshold = 0.0, None
    if layer.output:
        scale = fixed.output if fixed else _output_scale(weight, bias, low, high, param_max)
        divisor = np.full((1, 1, 1), scale)
    else:
        assert layer.threshold is not None
        if fixed and fixed.thresholds[layer.name].max() > param_max:
            raise QuantizeError(
                f"layer {layer.name!r}: its threshold {fixed.thresholds[layer.name].max()} exceeds "
                f"{param_max}, the largest parameter: the network was tuned for wider ones. Tune "
                f"it again: python -m sw.train --init CHECKPOINT --bits {weight_bits} --out OUT"
            )
        threshold = (
            fixed.thresholds[layer.name]
            if fixed
            else _integer_thresholds(layer, low, high, param_max)
        )
        divisor = layer.threshold / threshold
    per_weight = divisor[None, :, :, :, None, None, None]
    quantised = np.rint(weight / per_weight).clip(low, high)
    shift = np.zeros(bias.shape[-1:])
    if rates is not None:
        before, after, n_images = rates
        moved = _mean_drive(layer, float_weight, before, n_images)
        moved = moved - _mean_drive(layer, quantised * per_weight, after, n_images)
        bias = bias + moved
        shift = moved[0, 0, 0]
    integer_bias = np.rint(bias / divisor[None])
    integer_bias = integer_bias.clip(-param_max, param_max)
    return integer_layer(layer, quantised, integer_bias, threshold), scale, shift


def integer_layer(
    layer: FoldedLayer, weight: Float, bias: Float, threshold: NDArray[Any] | None
) -> Layer:
    """Return a copy of ``layer`` in integers, with the given weights, biases and thresholds.

    All three must already be whole numbers that fit their widths.
    """
    return Layer(
        **layer.structure(),
        weight=weight.astype(np.int8),
        bias=bias.astype(np.int32),
        threshold=None if threshold is None else threshold.astype(np.int32),
    )


def _integer_thresholds(
    layer: FoldedLayer, low: int, high: int, param_max: int
) -> NDArray[np.int32]:
    """Choose the integer thresholds of a layer, and with them its scales.

    The result has the shape (rows, columns, output channels), with one row or column if all
    positions share their thresholds.

    A neuron's scale is its float threshold divided by its integer threshold. :data:`CLIP_RATIOS`
    gives the candidates, and the one with the least squared error of the neuron's weights is taken.
    ``low`` and ``high`` are the least and largest integer weight, and ``param_max`` is the largest
    integer bias or threshold.

    Raises
    ------
    QuantizeError
        A bias would exceed ``param_max`` even with a threshold of 1.
    """
    assert layer.threshold is not None
    _, rows, columns, n_out = layer.weight.shape[:4]
    weight = np.moveaxis(layer.weight, 0, 3).reshape(rows, columns, n_out, -1)
    threshold = np.broadcast_to(layer.threshold, weight.shape[:3])
    largest_bias = np.abs(layer.bias).max(axis=(0, 1, 2))
    # With larger integers than these, threshold or bias would exceed param_bits.
    most = np.minimum(param_max, param_max * threshold / np.maximum(largest_bias, 1e-12))
    if most.min() < 1:
        raise QuantizeError(
            f"layer {layer.name!r}: a bias is over {param_max} times its threshold, so no scale "
            f"brings both into the width of parameters; train with more weight decay"
        )
    largest = np.abs(weight).max(axis=-1)
    largest = np.where(largest > 0, largest, threshold)
    best = np.ones(weight.shape[:3])
    least = np.full(weight.shape[:3], np.inf)
    for ratio in CLIP_RATIOS:
        integer = np.rint(threshold * high / (ratio * largest)).clip(1, np.floor(most))
        error = _squared_error(weight, (threshold / integer)[..., None], low, high)
        better = error < least
        best, least = np.where(better, integer, best), np.where(better, error, least)
    return best.astype(np.int32)


def _output_scale(weight: Float, bias: Float, low: int, high: int, param_max: int) -> float:
    """Choose the scale of an output layer, one number for all classes.

    Of several candidates, the scale with the least squared error of the layer's weights is taken.
    ``low`` and ``high`` are the least and largest integer weight, and ``param_max`` is the largest
    integer bias.
    """
    largest = float(np.abs(weight).max()) or 1.0
    floor = float(np.abs(bias).max()) / param_max
    candidates = [max(floor, ratio * largest / high) for ratio in CLIP_RATIOS]
    flat = weight.reshape(-1)
    return min(candidates, key=lambda s: float(_squared_error(flat, np.array(s), low, high)))


def _squared_error(weight: Float, scale: Float, low: int, high: int) -> Float:
    """Return the squared error of weights quantised with ``scale``, summed over the last axis.

    The result has one number for each of the other axes' entries. ``scale`` can be broadcast to
    ``weight``. The integer weights are clipped to the range from ``low`` to ``high``.
    """
    return ((np.rint(weight / scale).clip(low, high) * scale - weight) ** 2).sum(axis=-1)


def _mean_drive(layer: FoldedLayer, weight: Float, inputs: Float, n_images: int) -> Float:
    """Return every channel's mean weighted sum (1, 1, 1, o) of its inputs, without the bias.

    ``weight`` are the weights, in floats or rounded. ``inputs`` (t|1, C, H, W) are whole numbers:
    the inputs, summed over ``n_images`` images. The mean is over images, positions and timesteps;
    in an output layer, sums are added over timesteps and the mean is over images only. The result
    is the same in any order of summation (:func:`sw.convert.folded.exact`).
    """
    (pad_y, pad_x), (stride_y, stride_x) = layer.padding, layer.stride
    padded = np.pad(inputs, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, layer.kernel, axis=(2, 3))
    windows = windows[:, :, ::stride_y, ::stride_x].transpose(0, 2, 3, 1, 4, 5)
    times = max(len(windows), len(weight))
    height, width = windows.shape[1:3]
    n_repeats = math.prod(layer.kernel) // math.prod(weight.shape[5:]) * times * height * width
    weight = exact(weight, n_repeats, float(inputs.max(initial=0)))
    total = np.einsum(
        "tyxcij,tyxocij->o",
        np.broadcast_to(windows, (times, *windows.shape[1:])),
        np.broadcast_to(weight, (times, height, width, *weight.shape[3:5], *layer.kernel)),
    )[None, None, None]
    return total / n_images if layer.output else total / (n_images * height * width * times)
