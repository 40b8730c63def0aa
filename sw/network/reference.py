"""The integer reference: the computation of a network that the gateware must match bit for bit.

All results are exact integers. Weighted sums are computed in floating point, which is faster, only
where a worst-case bound proves that the type holds every partial sum exactly.

A *map* is the spikes (T, C, H, W) that a layer writes, and that other layers read by its name. In
shapes, N is the number of images and T that of timesteps. C and O are input and output channels,
and H' and W' the height and width of a layer's output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sw.network.encoder import check_input, pixel_max, rounded
from sw.network.engine import drive, fire, inputs_of, join_and_pool, summed
from sw.network.network import INPUT, Layer, Network

BATCH = 100
"""Default number of images that are computed at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """Spikes, logits and predictions of a network for N images.

    Attributes
    ----------
    spikes : spikes of every map by name, uint8 arrays (N, T, C, H, W) of 0 and 1,
        :data:`sw.network.network.INPUT` first. Empty if they were not kept.
    n_spikes : number of spikes in every map by name, int64 arrays (N, T).
    logits : int64 array (N, n_classes).
    predictions : int64 array (N,) of classes. The predicted class is the one with the largest
        logit; among equal logits, the one with the lowest index.
    """

    spikes: dict[str, NDArray[np.uint8]]
    n_spikes: dict[str, NDArray[np.int64]]
    logits: NDArray[np.int64]
    predictions: NDArray[np.int64]


def run(
    network: Network, images: NDArray[np.uint8], *, keep_spikes: bool = True, batch: int = BATCH
) -> Trace:
    """Run a network in exact integers.

    Parameters
    ----------
    images : uint8 images (N, C, H, W), or, if the network has no encoder, binary uint8 frames
        (N, T, C, H, W).
    keep_spikes : whether to return the spikes of all maps (about 140 kB per image for the shipped
        network).
    batch : number of images that are computed at once.

    Returns
    -------
    The numbers of spikes of every map, the logits and the predictions; and, if wanted, the spikes.

    Raises
    ------
    sw.network.encoder.InputError
        The network cannot take the images.
    """
    check_input(network, images)
    names = list(network.map_shapes())
    kept: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names}
    counts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in names}
    logits = [np.zeros((0, network.n_classes), np.int64)]
    for start in tqdm(range(0, len(images), batch), "reference", leave=False, disable=None):
        maps, scores = _run(network, torch.from_numpy(images[start : start + batch]))
        logits.append(scores.numpy())
        for name, spikes in maps.items():
            counts[name].append(spikes.sum((2, 3, 4), dtype=torch.int64).numpy())
            if keep_spikes:
                kept[name].append(spikes.numpy())
    shapes = network.map_shapes()
    empty = {name: np.zeros((0, network.timesteps, *shapes[name]), np.uint8) for name in names}
    all_logits = np.concatenate(logits)
    return Trace(
        spikes={n: np.concatenate([empty[n], *kept[n]]) for n in names} if keep_spikes else {},
        n_spikes={
            n: np.concatenate([np.zeros((0, network.timesteps), np.int64), *counts[n]])
            for n in names
        },
        logits=all_logits,
        predictions=all_logits.argmax(axis=1),
    )


def densities(network: Network, trace: Trace) -> dict[str, float]:
    """Return the spike density of every map by name, one number per map.

    The density is the mean number of spikes per neuron, timestep and image in ``trace``.
    """
    return {
        name: float(trace.n_spikes[name].mean()) / int(np.prod(shape))
        for name, shape in network.map_shapes().items()
    }


def channel_rates(trace: Trace) -> dict[str, list[float]]:
    """Return, for each map by name, the spike rate of every channel, rounded to four decimals.

    The rate is the mean number of spikes of a neuron of the channel at a timestep, over all images.
    The trace must have kept its spikes.
    """
    return {
        name: spikes.mean(axis=(0, 1, 3, 4)).round(4).tolist()
        for name, spikes in trace.spikes.items()
    }


@torch.no_grad()
def _run(network: Network, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Run a network on one batch of images or frames.

    Return the spikes (N, T, C, H, W) of every map by name, and the logits (N, n_classes).
    """
    timesteps = network.timesteps
    maps: dict[str, Tensor] = {}
    if network.encoder is None:
        maps[INPUT] = images
    else:
        pixels = torch.from_numpy(rounded(images.numpy(), network.pixel_bits))
        most = pixel_max(network.pixel_bits)
        maps[INPUT] = run_layer(network.encoder, pixels[:, None], timesteps, most, None)
    for layer in network.layers[:-1]:
        identity = None if layer.identity is None else maps[layer.identity]
        maps[layer.name] = run_layer(layer, inputs_of(layer, maps), timesteps, 1, identity)
    last = network.layers[-1]
    sums = drive(last, inputs_of(last, maps), exact_type(_worst_sum(last, 1)))
    logits = sums[..., 0, 0].to(torch.int64).sum(1) + summed(last.bias, torch.int64)
    return maps, logits


def run_layer(
    layer: Layer, source: Tensor, timesteps: int, input_max: int, identity: Tensor | None
) -> Tensor:
    """Return the spikes that one layer writes, after gate and pooling. Output layers write none.

    Parameters
    ----------
    source : tensor (N, T, C, H, W), the layer's input (:func:`sw.network.engine.inputs_of`). It has
        one timestep instead of T if the input is the same at all timesteps.
    input_max : largest value of each map that the layer reads: 1 for spikes, up to 255 for pixels.
    identity : map (N, T, O, H, W) with which the layer's gate joins the spikes of its neurons; None
        if the layer has no gate.

    Returns
    -------
    uint8 tensor (N, T, O, H', W') of 0 and 1, where H' and W' are the size after pooling.
    """
    return join_and_pool(layer, _fire(layer, source, timesteps, input_max), identity)


@torch.no_grad()
def membranes(
    layer: Layer, maps: Mapping[str, NDArray[np.uint8]]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the membranes of a layer at every timestep, and its spikes before gate and pooling.

    The membranes are those that are compared with the threshold: after the leak and the input of
    the timestep, and before the reset.

    Parameters
    ----------
    maps : maps (N, T, C, H, W) of 0 and 1 by name, at least those that the layer reads.

    Returns
    -------
    Two arrays (N, T, O, H', W'): the membranes in int64, and the spikes in uint8. H' and W' are the
    size before pooling.
    """
    source = inputs_of(layer, {name: torch.from_numpy(maps[name]) for name in layer.sources})
    channels, height, width = layer.conv_shape(source.shape[2:])  # type: ignore[arg-type]
    values = torch.empty((*source.shape[:2], channels, height, width), dtype=torch.int64)
    spikes = _fire(layer, source, source.shape[1], 1, values)
    return values.numpy(), spikes.numpy()


def _fire(
    layer: Layer, source: Tensor, timesteps: int, input_max: int, membranes: Tensor | None = None
) -> Tensor:
    """Return the spikes (N, T, O, H', W') of a layer's neurons, before gate and pooling.

    The number types are the fastest in which the computation is exact. If ``membranes`` is given,
    the membranes that are compared with the threshold are written into it. For the other
    parameters, see :func:`run_layer`.
    """
    assert layer.threshold is not None
    worst = _worst_sum(layer, input_max)
    drives = drive(layer, source, exact_type(worst))
    # No leak or reset moves a membrane away from 0, so this bounds every intermediate value.
    worst_membrane = timesteps * (worst + int(np.abs(layer.bias.astype(np.int64)).max()))
    worst_membrane += int(layer.threshold.max())
    membrane_type = torch.int32 if worst_membrane < 1 << 31 else torch.int64
    return fire(layer, drives, timesteps, membrane_type, membranes)


def _worst_sum(layer: Layer, input_max: int) -> int:
    """Return an upper bound on the magnitude of any partial weighted sum in a layer.

    The maps that the layer reads have values from 0 to ``input_max``. The bound is the largest
    input times the sum of the weights' magnitudes, for the neuron with the largest such sum.
    """
    taps = np.abs(layer.weight.astype(np.int64)).sum(axis=(4, 5, 6))
    repeats = int(np.prod(layer.kernel)) // int(np.prod(layer.weight.shape[5:]))
    return input_max * layer.n_summed * repeats * int(taps.max())


def exact_type(worst: int) -> torch.dtype:
    """Return the fastest torch type that represents all integers up to the magnitude ``worst``."""
    if worst < 1 << 24:
        return torch.float32
    return torch.float64 if worst < 1 << 53 else torch.int64
