"""Copy shared weights, to measure what finer spike coefficients would cost, without training.

A Real-Spike coefficient (:mod:`sw.convert.fold`) is a trained factor of spikes. If every element of
a map has a coefficient of its own, the weights of every position differ once the coefficients are
folded into them. If the coefficients also differ between timesteps, so do the weights.

The functions here give an integer network such weights, by copying those that it has. The network's
results do not change. But it needs as much memory, cycles and bandwidth as a network that was
trained with such coefficients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.network.network import Layer, Network, Shape

UNSHARED = ("element", "element/per-timestep")
"""Choices for :func:`unshare`: separate weights per position, or per position and timestep."""


def unshare(network: Network, over: str) -> Network:
    """Return a copy of a network in which positions no longer share weights.

    This holds for biases and thresholds, too. The encoder and the output layer stay as they are.

    Parameters
    ----------
    over : one of :data:`UNSHARED`. With ``element``, every position has weights of its own. With
        ``element/per-timestep``, every position has weights of its own at every timestep.
    """
    shapes = network.map_shapes()
    timesteps = network.timesteps if over == UNSHARED[1] else 1
    return replace(
        network,
        layers=tuple(
            layer if layer.output else _unshared(layer, shapes[layer.source], timesteps)
            for layer in network.layers
        ),
    )


def _unshared(layer: Layer, source: Shape, timesteps: int) -> Layer:
    assert layer.threshold is not None
    _, height, width = layer.conv_shape(source)
    axes = (max(timesteps, layer.weight.shape[0]), height, width)
    bias_axes = (max(timesteps, layer.bias.shape[0]), height, width)
    return replace(
        layer,
        weight=_copied(layer.weight, (*axes, *layer.weight.shape[3:])),
        bias=_copied(layer.bias, (*bias_axes, layer.n_out)),
        threshold=_copied(layer.threshold, (height, width, layer.n_out)),
    )


def _copied(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return np.array(np.broadcast_to(values, shape))
