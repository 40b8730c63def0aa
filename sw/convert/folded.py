"""The folded network: float64 layers of weights, biases and spiking neurons, and nothing else.

Batch-norm and other linear steps are folded into the weights (:mod:`sw.convert.fold`). A map, the
array (C, H, W) that a layer writes at each timestep, holds binary spikes, so the layers that read
it only add a weight for every spike. :mod:`sw.convert.quantize` turns a folded network into
integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sw.model.checkpoint import CheckpointError
from sw.network.encoder import PIXEL_MAX, InputError
from sw.network.engine import drive, fire, inputs_of, join_and_pool, summed
from sw.network.network import INPUT, AnyLayer, Shape

Float = NDArray[np.float64]
DOUBLE = torch.float64
"""PyTorch type of all numbers of a folded network."""


class FoldedLayer(AnyLayer[np.float64, np.float64]):
    """A layer of a folded network: weights, biases and thresholds in float64, not yet quantised."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scales:
    """Quantisation scales of a network.

    The integer weight times the neuron's scale approximates the float weight.

    A network that was fine-tuned with quantised weights (:mod:`sw.training.finetune`) keeps the
    scales that it was tuned with. ``weight_bits`` is the width of the integer weights in bits, and
    ``param_bits`` the width of the integer biases and thresholds.
    """

    weight_bits: int
    param_bits: int
    thresholds: dict[str, NDArray[np.int32]]
    """Integer thresholds (y|1, x|1, o), by name of the layer. The axis of rows y or columns x has
    length 1 if thresholds are shared along it. A neuron's scale is its float threshold divided by
    its integer threshold."""
    output: float
    """Scale of the output layer, shared by all its classes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the scales as a dict of tensors and numbers, to be stored in a checkpoint."""
        thresholds = {name: torch.from_numpy(v) for name, v in self.thresholds.items()}
        return {**vars(self), "thresholds": thresholds, "output": float(self.output)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scales:
        """Restore the scales from the dict that :meth:`to_dict` returned.

        Raises
        ------
        sw.model.checkpoint.CheckpointError
            The dict is damaged.
        """
        try:
            thresholds = {name: v.numpy() for name, v in values["thresholds"].items()}
            found = cls(**{**values, "thresholds": thresholds})
            bits = int(found.weight_bits), int(found.param_bits)
            ok = bits == (found.weight_bits, found.param_bits) and 0 < found.output < np.inf
            ok &= all(v.dtype == np.int32 and v.min() >= 1 for v in thresholds.values())
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint is damaged: its quantisation scales cannot be read: {error}"
            ) from error
        if not ok:
            raise CheckpointError(
                "the checkpoint is damaged: its quantisation scales are not positive numbers"
            )
        return found

    def check(self, network: FoldedNetwork) -> None:
        """Check that there are thresholds for exactly the spiking layers of a network.

        The thresholds must have the shapes of these layers' neurons.

        Raises
        ------
        sw.model.checkpoint.CheckpointError
            Thresholds are missing or have other shapes: the checkpoint is damaged, or the scales
            are those of another network.
        """
        layers = [layer for layer in (network.encoder, *network.layers) if layer is not None]
        wanted = {layer.name: layer.weight.shape[1:4] for layer in layers if not layer.output}
        found = {name: v.shape for name, v in self.thresholds.items()}
        wrong = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
        if wrong:
            raise CheckpointError(
                f"the checkpoint is damaged: its quantisation scales do not fit the neurons of "
                f"{', '.join(wrong)}"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedNetwork:
    """A network in float64, before quantisation.

    ``encoder`` is the first layer of a network for images, and takes pixels from 0 to 255. It is
    None if the input is binary frames. Fields that are not described here are as in
    :class:`sw.network.network.Network`.
    """

    timesteps: int
    image_shape: Shape
    encoder: FoldedLayer | None
    layers: tuple[FoldedLayer, ...]
    labels: tuple[str, ...]
    provenance: dict[str, Any]
    calibration: NDArray[np.uint8] | None = None
    """Training images (N, C, H, W), or frames (N, T, C, H, W), with which quantisation corrects
    biases; None if there are none."""
    scales: Scales | None = None
    """Quantisation scales that the network was fine-tuned with; None if it was not fine-tuned."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatTrace:
    """Results of running a folded network on N images: logits and, if they were kept, spikes."""

    logits: Float
    """Logits, an array (N, n_classes)."""
    spikes: dict[str, NDArray[np.uint8]]
    """Spikes (N, T, C, H, W), by name of the map; empty if they were not kept."""

    @property
    def predictions(self) -> NDArray[np.int64]:
        """Predicted classes (N,): those with the largest logit, the first one if there is a tie."""
        return self.logits.argmax(axis=1)


def exact(weight: Float, n_repeats: int, most: float) -> Float:
    """Round weights slightly, so that float64 holds every sum of weighted inputs exactly.

    Sums are then the same in any order. So results depend neither on the number of threads nor on
    the matrix library, both of which change the order of summation. Weights are rounded to
    multiples of a power of two, which is about 2**-52 of the largest possible sum.

    Parameters
    ----------
    weight : weights of a layer (t|1, y|1, x|1, o, c, ky|1, kx|1).
    n_repeats : number of times that a weight may be used in a sum: in a layer whose kernel
        positions or timesteps share their weights, once for each of them.
    most : largest input, a whole number like all inputs.
    """
    largest = float(np.abs(weight).sum(axis=(4, 5, 6)).max(initial=0)) * n_repeats * most
    step = 2.0 ** (math.frexp(largest)[1] - 52)
    return weight if largest == 0 else np.rint(weight / step) * step


def _exact_layer(layer: FoldedLayer, timesteps: int, most: int) -> FoldedLayer:
    """Return a layer whose weights are rounded so that float64 sums are exact (:func:`exact`).

    ``most`` is the largest value of the maps that the layer reads.
    """
    n_repeats = math.prod(layer.kernel) // math.prod(layer.weight.shape[5:])
    n_repeats *= timesteps if layer.output else 1
    return replace(layer, weight=exact(layer.weight, n_repeats, most * layer.n_summed))


@torch.no_grad()
def simulate(
    network: FoldedNetwork,
    images: NDArray[np.uint8],
    *,
    keep_spikes: bool = False,
    batch: int = 100,
) -> FloatTrace:
    """Run a folded network on images in float64, and return its logits, and its spikes if wanted.

    The result is the same on any machine, because all weighted sums are exact (:func:`exact`).

    Parameters
    ----------
    images : uint8 images (N, C, H, W), or binary frames (N, T, C, H, W) if the network has no
        encoder.
    keep_spikes : whether to return the spikes of all maps as well.
    batch : number of images that are computed at once.

    Raises
    ------
    sw.network.encoder.InputError
        The images have another shape or dtype than the network's input.
    """
    times = () if network.encoder is not None else (network.timesteps,)
    shape = (*times, *network.image_shape)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise InputError(
            f"the network takes uint8 {'frames' if times else 'images'} "
            f"(N, {', '.join(map(str, shape))}), not {images.dtype} {images.shape}"
        )
    encoder = network.encoder and _exact_layer(network.encoder, network.timesteps, PIXEL_MAX)
    *layers, last = (_exact_layer(layer, network.timesteps, 1) for layer in network.layers)
    logits: list[Float] = []
    kept: dict[str, list[NDArray[np.uint8]]] = {}
    for start in tqdm(range(0, len(images), batch), "folded", leave=False, disable=None):
        part = torch.from_numpy(images[start : start + batch])
        maps = {INPUT: part}
        if encoder is not None:
            maps[INPUT] = _run_layer(encoder, part[:, None], network.timesteps, None)
        for layer in layers:
            identity = None if layer.identity is None else maps[layer.identity]
            maps[layer.name] = _run_layer(
                layer, inputs_of(layer, maps), network.timesteps, identity
            )
        sums = drive(last, inputs_of(last, maps), DOUBLE)[..., 0, 0].sum(1)
        logits.append((sums + summed(last.bias, DOUBLE)).numpy())
        if keep_spikes:
            for name, spikes in maps.items():
                kept.setdefault(name, []).append(spikes.numpy())
    return FloatTrace(
        logits=np.concatenate(logits) if logits else np.zeros((0, len(network.labels))),
        spikes={name: np.concatenate(parts) for name, parts in kept.items()},
    )


def _run_layer(
    layer: FoldedLayer, source: Tensor, timesteps: int, identity: Tensor | None
) -> Tensor:
    drives = drive(layer, source, DOUBLE)
    return join_and_pool(layer, fire(layer, drives, timesteps, DOUBLE), identity)
