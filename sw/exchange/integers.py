"""Conversion of imported networks to integers.

A NIR file that was written from an integer network is converted back exactly. Any other network is
quantised, which rounds its numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hw.spec import N_PLANES, PARAM_BITS, Leak, Reset, signed_range
from sw.convert import quantize
from sw.convert.folded import FoldedLayer, FoldedNetwork
from sw.exchange.assembly import Imported
from sw.exchange.graph import TOLERANCE, Float
from sw.network.network import IMAGE, Layer, Network


def quantised(
    imported: Imported,
    weight_bits: int,
    *,
    param_bits: int = PARAM_BITS,
    pixel_bits: int = N_PLANES,
    encoder_bits: int = quantize.ENCODER_WEIGHT_BITS,
    calibration: NDArray[np.uint8] | None = None,
) -> Network:
    """Return an imported network in integers, without rounding if that is possible.

    If :func:`as_integers` cannot convert the network exactly, it is quantised by
    :func:`sw.convert.quantize.quantize`.

    Parameters
    ----------
    weight_bits : width of the weights in bits.
    param_bits : width of biases and thresholds in bits.
    pixel_bits, encoder_bits : widths of the pixels and of the encoder's weights in bits. If one of
        them differs from its default, the network is always quantised.
    calibration : images (N, C, H, W) or binary frames (N, T, C, H, W) to correct biases with, if
        the network is quantised; see :func:`sw.convert.quantize.quantize`.

    Raises
    ------
    sw.convert.quantize.QuantizeError
        A bias or a threshold does not fit its width, whichever quantisation scale is chosen.
    """
    exact = None
    if (pixel_bits, encoder_bits) == (N_PLANES, quantize.ENCODER_WEIGHT_BITS):
        exact = as_integers(imported, weight_bits, param_bits)
    if exact is not None:
        return exact
    network = quantize.quantize(
        imported.folded,
        weight_bits,
        param_bits=param_bits,
        pixel_bits=pixel_bits,
        encoder_bits=encoder_bits,
        calibration=calibration,
    )
    weights = {layer.name: layer.weight for layer in imported.folded.layers}
    ors = or_layers(imported.folded)
    layers = [
        _or_layer(layer, weights[layer.name]) if layer.name in ors else layer
        for layer in network.layers
    ]
    return replace(network, layers=tuple(layers))


def or_layers(network: FoldedNetwork) -> set[str]:
    """Return the names of the layers that only compute ORs of spikes; quantisation must not change
    them.
    """
    return {layer.name for layer in network.layers if _is_or(layer)}


def _is_or(layer: FoldedLayer) -> bool:
    """Return whether a layer only computes ORs: a neuron fires if and only if one of the inputs
    with a weight of 1 is a spike."""
    return (
        layer.threshold is not None
        and bool(((layer.weight == 0) | (layer.weight == 1)).all())
        and not layer.bias.any()
        and bool(((layer.threshold > 0) & (layer.threshold <= 1)).all())
        and (layer.leak, layer.reset) == (Leak.NONE, Reset.HARD)
    )


def _or_layer(layer: Layer, weight: Float) -> Layer:
    """Return a quantised layer of ORs with its original weights of 0 and 1, which ``weight`` holds,
    and with thresholds of 1 and biases of 0.

    Quantisation may have scaled these numbers and corrected the biases; an OR needs neither.
    """
    assert layer.threshold is not None
    return replace(
        layer,
        weight=weight.astype(np.int8),
        bias=np.zeros_like(layer.bias),
        threshold=np.ones_like(layer.threshold),
    )


def as_integers(imported: Imported, weight_bits: int, param_bits: int) -> Network | None:
    """Convert an imported network to integers without changing any spike. Return None if that is
    not possible.

    Each layer's weights, biases and thresholds are multiplied by the layer's entry in
    ``imported.multipliers``. The result is None in any of these cases:

    - a multiplied weight or bias is no integer;
    - a number exceeds its width, ``weight_bits`` or ``param_bits``;
    - the output layer's biases differ from position to position;
    - the network has a leak, because the device rounds a leaking membrane to an integer.
    """
    folded, multipliers = imported.folded, imported.multipliers
    encoder = None
    if folded.encoder is not None:
        encoder = _integers(
            folded.encoder,
            multipliers[IMAGE],
            quantize.ENCODER_WEIGHT_BITS,
            quantize.HOST_PARAM_BITS,
            folded.timesteps,
        )
        if encoder is None:
            return None
    layers = []
    for layer in folded.layers:
        integers = _integers(
            layer, multipliers[layer.name], weight_bits, param_bits, folded.timesteps
        )
        if integers is None:
            return None
        layers.append(integers)
    return Network(
        timesteps=folded.timesteps,
        image_shape=folded.image_shape,
        encoder=encoder,
        layers=tuple(layers),
        weight_bits=weight_bits,
        labels=folded.labels,
        provenance={**folded.provenance, "weight_bits": weight_bits},
    )


def _integers(
    layer: FoldedLayer, multiplier: Float, weight_bits: int, param_bits: int, timesteps: int
) -> Layer | None:
    """Return a layer in integers, with weights, biases and thresholds times ``multiplier``.

    ``multiplier`` (y|1, x|1, o) has one factor for every output channel o and position (y, x) of a
    neuron; y and x have length 1 if all positions share their factors. The widths are in bits. The
    result is None if the layer's spikes would change; see :func:`as_integers`.
    """
    if layer.threshold is not None and layer.reset != Reset.HARD:
        scaled = layer.threshold * multiplier
        nearest = np.rint(scaled)
        if (np.abs(nearest - scaled) > TOLERANCE * np.maximum(1, scaled)).any():
            return None
        if (scaled > nearest).any():
            # The neurons fire only above an integer, and subtract that integer. With all numbers
            # ``timesteps + 1`` times as large, subtracting 1 more at each spike changes no spike.
            multiplier = multiplier * (timesteps + 1)
    weight = layer.weight * multiplier[None, :, :, :, None, None, None]
    bias = layer.bias * multiplier[None]
    low, high = signed_range(weight_bits)
    param_high = signed_range(param_bits)[1]
    rounded, rounded_bias = np.rint(weight), np.rint(bias)
    threshold = None if layer.threshold is None else np.ceil(layer.threshold * multiplier)
    if (
        layer.leak != Leak.NONE
        or bool((np.abs(rounded - weight) > TOLERANCE * np.maximum(1, np.abs(weight))).any())
        or bool((np.abs(rounded_bias - bias) > TOLERANCE * np.maximum(1, np.abs(bias))).any())
        or rounded.min() < low
        or rounded.max() > high
        or np.abs(rounded_bias).max() > param_high
        or (threshold is not None and threshold.max() > param_high)
        or (layer.output and rounded_bias.shape[:3] != (1, 1, 1))
    ):
        return None
    return quantize.integer_layer(layer, rounded, rounded_bias, threshold)
