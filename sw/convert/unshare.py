"""Copies of shared weights: what finer coefficients would cost, before a network is trained so.

A Real-Spike coefficient of its own for every element, or for every element and timestep, becomes a
weight of its own for every position, or position and timestep, when it is folded. The functions
here give an integer network such weights by copying those that it has. It computes the same, but
takes the memory, the cycles and the bandwidth of a network that was trained with such coefficients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.network.network import Layer, Network, Shape

UNSHARED = ("element", "element/per-timestep")
"""What weights can be unshared over: positions, or positions and timesteps."""


def unshare(network: Network, over: str) -> Network:
    """Return a network with weights of their own for every position of every layer but the last.

    Parameters
    ----------
    over : one of :data:`UNSHARED`; with ``element/per-timestep``, every timestep has weights of its
        own, too.

    The encoder and the output layer stay as they are.
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
