"""The folded network: float64 layers in which only binary spikes meet weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from hw.spec import Gate, Leak, Reset
from sw.model.checkpoint import CheckpointError
from sw.network.encoder import InputError
from sw.network.engine import drive, fire, join_and_pool, summed
from sw.network.network import INPUT, Shape

Float = NDArray[np.float64]
DOUBLE = torch.float64


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedLayer:
    """A :class:`sw.network.network.Layer` before quantisation; same fields, float64 numbers."""

    name: str
    source: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    weight: Float
    """(t|1, y|1, x|1, o, c, ky|1, kx|1)"""
    bias: Float
    """(t|1, y|1, x|1, o)"""
    threshold: Float | None = None
    """(y|1, x|1, o)"""
    leak: Leak = Leak.NONE
    leak_shift: int = 0
    reset: Reset = Reset.HARD
    gate: Gate = Gate.NONE
    identity: str | None = None
    pool: tuple[int, int] = (1, 1)
    output: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Scales:
    """How a network was turned into integers, kept with one that was fine-tuned as integers."""

    weight_bits: int
    param_bits: int
    thresholds: dict[str, NDArray[np.int32]]
    """(y|1, x|1, o) by layer; a neuron's scale is its threshold divided by the integer one."""
    output: float
    """Scale of the output layer."""

    def to_dict(self) -> dict[str, Any]:
        """Values for a checkpoint."""
        thresholds = {name: torch.from_numpy(v) for name, v in self.thresholds.items()}
        return {**vars(self), "thresholds": thresholds, "output": float(self.output)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scales:
        """Inverse of :meth:`to_dict`.

        Raises
        ------
        sw.model.checkpoint.CheckpointError
            They are no scales.
        """
        try:
            thresholds = {name: v.numpy() for name, v in values["thresholds"].items()}
            found = cls(**{**values, "thresholds": thresholds})
            bits = int(found.weight_bits), int(found.param_bits)
            ok = bits == (found.weight_bits, found.param_bits) and 0 < found.output < np.inf
            ok &= all(v.dtype == np.int32 and v.min() >= 1 for v in thresholds.values())
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint is damaged: no scales of integers: {error}"
            ) from error
        if not ok:
            raise CheckpointError("the checkpoint is damaged: its scales of integers are none")
        return found

    def check(self, network: FoldedNetwork) -> None:
        """Refuse scales of another network's.

        Raises
        ------
        sw.model.checkpoint.CheckpointError
        """
        layers = [layer for layer in (network.encoder, *network.layers) if layer is not None]
        wanted = {layer.name: layer.weight.shape[1:4] for layer in layers if not layer.output}
        found = {name: v.shape for name, v in self.thresholds.items()}
        wrong = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
        if wrong:
            raise CheckpointError(
                f"the checkpoint is damaged: its scales do not fit neurons of {', '.join(wrong)}"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedNetwork:
    """A :class:`sw.network.network.Network` before quantisation. The encoder takes pixels 0 to 255; there
    is none if the input is binary frames."""

    timesteps: int
    image_shape: Shape
    encoder: FoldedLayer | None
    layers: tuple[FoldedLayer, ...]
    labels: tuple[str, ...]
    provenance: dict[str, Any]
    calibration: NDArray[np.uint8] | None = None
    """Training images (N, C, H, W), or frames, to set integer biases with."""
    scales: Scales | None = None
    """Of a network that was fine-tuned in integers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatTrace:
    """``logits`` float64 (N, n_classes); ``spikes`` uint8 (N, T, C, H, W) by map, if kept."""

    logits: Float
    spikes: dict[str, NDArray[np.uint8]]

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The first largest logit (N,)."""
        return self.logits.argmax(axis=1)


@torch.no_grad()
def simulate(
    network: FoldedNetwork,
    images: NDArray[np.uint8],
    *,
    keep_spikes: bool = False,
    batch: int = 100,
) -> FloatTrace:
    """Run a folded network in float64 on uint8 images (N, C, H, W), or binary frames
    (N, T, C, H, W) if it has no encoder.

    Raises
    ------
    sw.network.encoder.InputError
        The images do not suit the network.
    """
    times = () if network.encoder is not None else (network.timesteps,)
    shape = (*times, *network.image_shape)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise InputError(
            f"the network takes uint8 {'frames' if times else 'images'} "
            f"(N, {', '.join(map(str, shape))}), not {images.dtype} {images.shape}"
        )
    logits: list[Float] = []
    kept: dict[str, list[NDArray[np.uint8]]] = {}
    for start in tqdm(range(0, len(images), batch), "folded", leave=False, disable=None):
        part = torch.from_numpy(images[start : start + batch])
        maps = {INPUT: part}
        if network.encoder is not None:
            maps[INPUT] = _run_layer(network.encoder, part[:, None], network.timesteps, None)
        for layer in network.layers[:-1]:
            identity = None if layer.identity is None else maps[layer.identity]
            maps[layer.name] = _run_layer(layer, maps[layer.source], network.timesteps, identity)
        last = network.layers[-1]
        sums = drive(last, maps[last.source], DOUBLE)[..., 0, 0].sum(1)
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
