"""Folding: checkpoint to a float network in which only binary spikes meet weights.

With batch-norm in eval mode, ``gamma * (conv(W, a * o) - mean) / sqrt(var + eps) + beta`` is
``conv(W * a * g, o) + (beta - mean * g)`` with ``g = gamma / sqrt(var + eps)``: the Real-Spike
coefficient ``a`` of the map that a layer reads (Guo et al., arXiv 2210.06686) and the batch-norm
behind it both move into the layer's weights and bias. A coefficient that varies over positions or
timesteps makes the weights vary with it. A tap that reads outside the map gets weight 0.
Everything here is float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from hw.spec import Gate, Leak, Reset
from sw import checkpoint
from sw.data import LABELS
from sw.encoder import PIXEL_MAX, InputError
from sw.engine import drive, fire, join_and_pool, summed
from sw.model import Block, Coefficient, NeuronConfig, SpikingResNet
from sw.network import INPUT, Shape

Float = NDArray[np.float64]
DOUBLE = torch.float64


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedLayer:
    """A :class:`sw.network.Layer` before quantisation; same fields, float64 numbers."""

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
class FoldedNetwork:
    """A :class:`sw.network.Network` before quantisation. The encoder takes pixels 0 to 255."""

    timesteps: int
    image_shape: Shape
    encoder: FoldedLayer
    layers: tuple[FoldedLayer, ...]
    labels: tuple[str, ...]
    provenance: dict[str, Any]
    calibration: NDArray[np.uint8] | None = None
    """Training images (N, C, H, W) to set integer biases with."""


def fold(values: Mapping[str, Any] | str | Path) -> FoldedNetwork:
    """Fold a checkpoint, which is left as it is; the auxiliary pathway is dropped.

    Parameters
    ----------
    values : what :func:`sw.checkpoint.load` returns, or a path.

    Raises
    ------
    sw.checkpoint.CheckpointError, sw.model.ModelError
        Not a checkpoint; an unsupported configuration, such as an ``ADD`` gate.
    """
    if isinstance(values, str | Path):
        values = checkpoint.load(values)
    provenance = {
        key: values[key]
        for key in ("model_config", "train_config", "command", "code", "data", "results")
        if key in values
    }
    n_classes = int(values["model_config"]["n_classes"])
    labels = LABELS if n_classes == len(LABELS) else tuple(f"class {n}" for n in range(n_classes))
    folded = fold_model(checkpoint.build(dict(values)), labels, provenance)
    images = values.get("calibration")
    return folded if images is None else replace(folded, calibration=images.numpy())


def fold_model(
    model: SpikingResNet, labels: tuple[str, ...], provenance: dict[str, Any]
) -> FoldedNetwork:
    """Fold a network; see :func:`fold`."""
    config = model.config
    pool = (config.stem_pool, config.stem_pool)
    encoder = _firing("stem", "image", model.conv1, model.bn1, None, config.neuron, pool=pool)
    encoder = _scaled(encoder, 1 / PIXEL_MAX)
    layers: list[FoldedLayer] = []
    source, coefficient, shape = INPUT, model.coefficient, model.map_shape
    for name in model.block_names:
        block = model.block(name)
        layers += _fold_block(name, block, source, coefficient, shape, config.neuron)
        source, coefficient, shape = f"{name}.conv2", block.coefficient2, block.shape
    layers.append(_fold_classifier(model.fc, source, coefficient, shape, config.timesteps))
    return FoldedNetwork(
        timesteps=config.timesteps,
        image_shape=config.image_shape,
        encoder=encoder,
        layers=tuple(layers),
        labels=labels,
        provenance=provenance,
    )


def _fold_block(
    name: str,
    block: Block,
    source: str,
    coefficient: Coefficient,
    shape: Shape,
    neuron: NeuronConfig,
) -> list[FoldedLayer]:
    identity = source
    layers: list[FoldedLayer] = []
    a = _spread(coefficient, shape)
    layers.append(_firing(f"{name}.conv1", source, block.conv1, block.bn1, a, neuron))
    if block.downsample is not None:
        identity = f"{name}.downsample"
        conv, norm = block.downsample[0], block.downsample[1]
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        layers.append(_firing(identity, source, conv, norm, a, neuron))
    layers.append(
        _firing(
            f"{name}.conv2",
            f"{name}.conv1",
            block.conv2,
            block.bn2,
            _spread(block.coefficient1, block.shape),
            neuron,
            gate=Gate[block.gate],
            identity=identity,
        )
    )
    return layers


def _spread(coefficient: Coefficient, shape: Shape) -> Tensor | None:
    """Coefficient (T|1, C, H|1, W|1) in float64, None if there is none."""
    if coefficient.value is None:
        return None
    a = coefficient.value.detach().to(DOUBLE)
    return a.expand(a.shape[0], shape[0], *a.shape[2:])


def _firing(
    name: str,
    source: str,
    conv: nn.Conv2d,
    norm: nn.BatchNorm2d,
    a: Tensor | None,
    neuron: NeuronConfig,
    *,
    gate: Gate = Gate.NONE,
    identity: str | None = None,
    pool: tuple[int, int] = (1, 1),
) -> FoldedLayer:
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight.detach().to(DOUBLE) / (norm.running_var.to(DOUBLE) + norm.eps).sqrt()
    bias = norm.bias.detach().to(DOUBLE) - norm.running_mean.to(DOUBLE) * gain
    weight = conv.weight.detach().to(DOUBLE) * gain[:, None, None, None]
    kernel = (int(conv.kernel_size[0]), int(conv.kernel_size[1]))
    stride = (int(conv.stride[0]), int(conv.stride[1]))
    padding = (int(conv.padding[0]), int(conv.padding[1]))  # type: ignore[arg-type]
    return FoldedLayer(
        name=name,
        source=source,
        kernel=kernel,
        stride=stride,
        padding=padding,
        weight=_fold_coefficient(weight, a, kernel, stride, padding).numpy(),
        bias=bias[None, None, None].numpy(),
        threshold=np.full((1, 1, len(bias)), neuron.threshold),
        leak=Leak[neuron.leak],
        leak_shift=neuron.leak_shift,
        reset=Reset[neuron.reset],
        gate=gate,
        identity=identity,
        pool=pool,
    )


def _fold_coefficient(
    weight: Tensor,
    a: Tensor | None,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Kernel (o, c, ky, kx) times the coefficient (t|1, c, H|1, W|1) of the map that it reads: the
    folded weight (t|1, y|1, x|1, o, c, ky, kx)."""
    if a is None:
        return weight[None, None, None].contiguous()
    if a.shape[2:] == (1, 1):
        return (weight * a[:, None])[:, None, None].contiguous()
    (pad_y, pad_x), (stride_y, stride_x) = padding, stride
    padded = nn.functional.pad(a, (pad_x, pad_x, pad_y, pad_y))
    windows = padded.unfold(2, kernel[0], stride_y).unfold(3, kernel[1], stride_x)
    here = windows.permute(0, 2, 3, 1, 4, 5)  # (t, y, x, c, ky, kx)
    return (weight * here[:, :, :, None]).contiguous()


def _fold_classifier(
    fc: nn.Linear, source: str, coefficient: Coefficient, shape: Shape, timesteps: int
) -> FoldedLayer:
    """Means over positions and timesteps, coefficient and classifier, as one output layer; all
    positions of the map are one kernel, of full length only along axes where weights differ."""
    _, height, width = shape
    weight = fc.weight.detach().to(DOUBLE)[None, :, :, None, None] / (timesteps * height * width)
    a = _spread(coefficient, shape)
    if a is not None:
        weight = weight * a[:, None]
    return FoldedLayer(
        name="fc",
        source=source,
        kernel=(height, width),
        weight=weight[:, None, None].contiguous().numpy(),
        bias=fc.bias.detach().to(DOUBLE)[None, None, None].numpy(),
        output=True,
    )


def _scaled(layer: FoldedLayer, factor: float) -> FoldedLayer:
    """The layer for inputs that are larger by ``1 / factor``."""
    return replace(layer, weight=layer.weight * factor)


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
    """Run a folded network in float64 on uint8 images (N, C, H, W).

    Raises
    ------
    sw.encoder.InputError
        The images do not suit the network.
    """
    if images.dtype != np.uint8 or images.shape[1:] != network.image_shape:
        raise InputError(
            f"the network takes uint8 images (N, {', '.join(map(str, network.image_shape))}), "
            f"not {images.dtype} {images.shape}"
        )
    logits: list[Float] = []
    kept: dict[str, list[NDArray[np.uint8]]] = {}
    for start in tqdm(range(0, len(images), batch), "folded", leave=False, disable=None):
        part = torch.from_numpy(images[start : start + batch])
        maps = {INPUT: _run_layer(network.encoder, part[:, None], network.timesteps, None)}
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
