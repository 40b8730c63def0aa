"""Folding of a trained network into layers with weights, biases and thresholds only.

A trained layer multiplies its binary input spikes ``o`` by a learned Real-Spike coefficient ``a``
(Guo et al., arXiv 2210.06686), convolves them, and applies batch-norm. In eval mode it computes
``gamma * (conv(W, a * o) - mean) / sqrt(var + eps) + beta``. With
``g = gamma / sqrt(var + eps)``, this equals ``conv(W * a * g, o) + (beta - mean * g)``. So
coefficient and batch-norm become part of weight and bias, and the device only has to add a weight
for every spike.

A coefficient may differ from position to position or from timestep to timestep. Then the folded
weights do, too. If the coefficient differs from position to position, weights whose input lies in
the padding become 0. All numbers are float64.

:func:`trained_layers` lists a network's layers. :meth:`TrainedLayer.folded` is differentiable, and
:mod:`sw.training.finetune` trains through it.

In shapes, t, y and x are timestep and position of a neuron, o and c its output and input channel,
and ky and kx the position in the kernel; ``|1`` marks an axis that has length 1 if numbers are
shared along it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hw.spec import Gate, Leak, Reset
from sw.convert.folded import DOUBLE, FoldedLayer, FoldedNetwork, Scales
from sw.data import catalogue
from sw.model import checkpoint
from sw.model.checkpoint import CheckpointError
from sw.model.config import ADD, LEARNED, ModelError, NeuronConfig
from sw.model.modules import Coefficient, Norm
from sw.model.resnet import SpikingResNet
from sw.network.encoder import PIXEL_MAX
from sw.network.network import IMAGE, INPUT, MAX_ADDENDS, Shape, conv_size

MAX_WEIGHTS = 1 << 27
"""Largest number of weights of a folded network: as many as the largest device can hold."""


def fold(values: Mapping[str, Any] | str | Path) -> FoldedNetwork:
    """Return the folded network of a checkpoint.

    The auxiliary pathway, extra layers that only help training, is left out.

    Parameters
    ----------
    values : checkpoint that :func:`sw.model.checkpoint.load` returned, or the path of its file.

    Raises
    ------
    sw.model.checkpoint.CheckpointError
        The file is no checkpoint, or is damaged.
    sw.model.config.ModelError
        The device cannot run the network; see :func:`check`.
    """
    if isinstance(values, str | Path):
        values = checkpoint.load(values)
    public = checkpoint.public(values)
    provenance = {
        key: public[key]
        for key in ("model_config", "train_config", "command", "code", "data", "results")
        if key in public
    }
    model = checkpoint.build(dict(values))
    n_classes = model.config.n_classes
    data = values.get("data", {})
    names = catalogue.class_names(data.get("name", catalogue.DEFAULT), n_classes)
    labels = data.get("labels", names)
    if not isinstance(labels, list | tuple) or [type(x) for x in labels] != [str] * n_classes:
        raise CheckpointError(
            f"the checkpoint is damaged: {n_classes} classes, but their labels are {labels}"
        )
    folded = fold_model(model, tuple(labels), provenance)
    scales = None
    if values.get("quantisation") is not None:
        scales = Scales.from_dict(values["quantisation"])
        scales.check(folded)
    return replace(folded, calibration=checkpoint.calibration(dict(values)), scales=scales)


def fold_model(
    model: SpikingResNet, labels: tuple[str, ...], provenance: dict[str, Any]
) -> FoldedNetwork:
    """Return the folded network of a model in memory.

    Parameters
    ----------
    labels : names of the classes.
    provenance : JSON values that say where the network comes from; the result keeps them.

    Raises
    ------
    sw.model.config.ModelError
        The device cannot run the network; see :func:`check`.
    """
    check(model)
    trained = trained_layers(model)
    largest = max(trained, key=lambda layer: layer.n_folded)
    if sum(layer.n_folded for layer in trained) > MAX_WEIGHTS:
        raise ModelError(
            f"the folded network has more than {MAX_WEIGHTS} weights, layer {largest.name!r} alone "
            f"{largest.n_folded}: no device holds as many. Train with a coarser granularity"
        )
    layers = tuple(layer.layer() for layer in trained)
    config = model.config
    return FoldedNetwork(
        timesteps=config.timesteps,
        image_shape=config.image_shape,
        encoder=None if config.frames else layers[0],
        layers=layers if config.frames else layers[1:],
        labels=labels,
        provenance=provenance,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedLayer:
    """A layer of a trained PyTorch network, with all modules that become one folded layer.

    Fields that are not described here are those of :class:`sw.network.network.AnyLayer`.
    """

    name: str
    source: str
    addends: tuple[str, ...] = ()
    shape: Shape
    """Shape (C, H, W) of the layer's input."""
    module: nn.Conv2d | nn.Linear
    """Convolution, or the fully connected classifier in the output layer."""
    norm: Norm | None = None
    """Batch-norm after the convolution; None in the output layer, which has none."""
    coefficient: Coefficient | None = None
    """Real-Spike coefficient by which the layer's input spikes are multiplied; None without one."""
    neuron: NeuronConfig | None = None
    """Configuration of the layer's neurons; None in the output layer."""
    gate: Gate = Gate.NONE
    identity: str | None = None
    pool: tuple[int, int] = (1, 1)
    timesteps: int = 1
    """Number of timesteps over which an output layer averages."""
    input_max: int = 1
    """Integer input of the folded layer that corresponds to 1.0 in training: 1 for spikes, 255 for
    pixels."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all maps whose sum the layer reads."""
        return (self.source, *self.addends)

    @property
    def reads_image(self) -> bool:
        """Whether the layer's input is pixels instead of spikes."""
        return self.source == IMAGE

    @property
    def n_folded(self) -> int:
        """Number of weights that the layer has after folding; see :meth:`folded`."""
        value = None if self.coefficient is None else self.coefficient.value
        n_times = max(
            1 if value is None else value.shape[0], 1 if self.norm is None else self.norm.timesteps
        )
        n_positions = 1
        if value is not None and value.shape[2:] != (1, 1):
            n_positions = math.prod(self.shape[1:])
            if isinstance(self.module, nn.Conv2d):
                kernel, stride = pair(self.module.kernel_size), pair(self.module.stride)
                padding = pair(self.module.padding)
                n_positions = math.prod(conv_size(self.shape[1:], kernel, stride, padding))
        return n_times * n_positions * self.module.weight.numel()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the layer's weight and bias with batch-norm and coefficient folded in.

        The weight has the axes (timestep, y, x, output channel, input channel, kernel y, kernel x).
        An axis timestep, y or x has length 1 if weights are shared along it. In a classifier, whose
        kernel is as large as the map, this also holds for kernel y and kernel x. The bias has the
        axes (timestep or 1, 1, 1, output channel). Both are float64, and gradients flow through
        them to the module's parameters.
        """
        a = self._spread()
        if isinstance(self.module, nn.Linear):
            return self._folded_classifier(self.module, a)
        norm, conv = self.norm, self.module
        assert norm is not None and norm.running_mean is not None and norm.running_var is not None
        mean, var = (
            statistic.to(DOUBLE).reshape(norm.timesteps, -1)
            for statistic in (norm.running_mean, norm.running_var)
        )
        gain = norm.weight.to(DOUBLE) / (var + norm.eps).sqrt()
        bias = norm.bias.to(DOUBLE) - mean * gain
        weight = conv.weight.to(DOUBLE) * gain[:, :, None, None, None]
        kernel, stride, padding = (pair(v) for v in (conv.kernel_size, conv.stride, conv.padding))
        weight = _fold_coefficient(weight, a, kernel, stride, padding)
        if self.input_max != 1:
            weight = weight * (1 / self.input_max)
        return weight, bias[:, None, None]

    def _folded_classifier(self, fc: nn.Linear, a: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the folded weight and bias of the classifier ``fc``.

        In training, the classifier reads spikes multiplied by the coefficient ``a`` and averaged
        over positions and timesteps. The folded classifier is a convolution whose kernel is as
        large as the map. The weight's axes for kernel positions and timesteps have length 1 if
        weights are shared along them.
        """
        _, height, width = self.shape
        divisor = self.timesteps * height * width
        weight = fc.weight.to(DOUBLE)[None, :, :, None, None] / divisor
        if a is not None:
            weight = weight * a[:, None]
        return weight[:, None, None], fc.bias.to(DOUBLE)[None, None, None]

    def _spread(self) -> Tensor | None:
        """Return the coefficient (T|1, C, H|1, W|1) of the layer's input spikes in float64.

        A coefficient that all channels share is repeated for each of them. The result is None if
        the layer's input spikes have no coefficient.
        """
        if self.coefficient is None or self.coefficient.value is None:
            return None
        a = self.coefficient.value.to(DOUBLE)
        return a.expand(a.shape[0], self.shape[0], *a.shape[2:])

    def structure(self) -> dict[str, Any]:
        """Return the fields of the folded layer by name, except weight, bias and threshold.

        The fields are those of :class:`sw.network.network.AnyLayer`.
        """
        where = {"name": self.name, "source": self.source, "addends": self.addends}
        if isinstance(self.module, nn.Linear):
            return where | {"kernel": self.shape[1:], "output": True}
        conv, neuron = self.module, self.neuron
        assert neuron is not None
        return where | {
            "kernel": pair(conv.kernel_size),
            "stride": pair(conv.stride),
            "padding": pair(conv.padding),
            "leak": Leak[neuron.leak],
            "leak_shift": neuron.leak_shift,
            "finer_shifts": neuron.finer_shifts,
            "reset": Reset[neuron.reset],
            "gate": self.gate,
            "identity": self.identity,
            "pool": self.pool,
        }

    @torch.no_grad()
    def layer(self) -> FoldedLayer:
        """Return the folded layer, with NumPy arrays and without gradients."""
        weight, bias = (tensor.cpu().contiguous().numpy() for tensor in self.folded())
        threshold = None
        if self.neuron is not None:
            threshold = np.full((1, 1, weight.shape[3]), self.neuron.threshold)
        return FoldedLayer(weight=weight, bias=bias, threshold=threshold, **self.structure())


def pair(values: Any) -> tuple[int, int]:
    """Return a convolution's kernel size, stride or padding as (vertical, horizontal) ints."""
    return int(values[0]), int(values[1])


def check(model: SpikingResNet) -> None:
    """Check that devices can run the network.

    Raises
    ------
    sw.model.config.ModelError
        No device can run the network: it has ReLUs instead of spiking neurons, or learned leaks (a
        device's leaks are sums of shifts, :class:`hw.spec.Leak`). Or a gate joins spikes with a sum
        of spikes, because the block before has the gate ``ADD`` (:data:`sw.model.config.ADD`). Or a
        sum has too many maps.
    """
    if not model.config.spiking:
        raise ModelError(
            "a network of ReLUs (spiking = false) is a reference or a teacher only: no device "
            "runs it. Train one that spikes with it: python -m sw.train --teacher CHECKPOINT"
        )
    for name, neuron in model.neurons().items():
        if neuron.config.leak == LEARNED:
            raise ModelError(
                f"layer {name!r}: its leak is {LEARNED}, the device's are shifts; round it and "
                f"fine-tune: python -m sw.train --init CHECKPOINT --round-leaks --out OUT"
            )
    before: str | None = None  # the last block, if its output is a sum of spikes
    n_maps = 1
    for name in model.block_names:
        block = model.block(name)
        if block.gate == ADD:
            n_maps = 1 + (n_maps if block.downsample is None else 1)
            if n_maps > MAX_ADDENDS + 1:
                raise ModelError(
                    f"block {name!r}: its output is the sum of {n_maps} maps, and at most "
                    f"{MAX_ADDENDS + 1} can be added: use another gate in some blocks of the stage"
                )
        elif before is not None and block.downsample is None:
            raise ModelError(
                f"block {name!r}: its gate {block.gate} would join spikes with the sums of block "
                f"{before!r}: use ADD in both, or a stride or another number of channels in "
                f"{name!r}, which lead the sums through neurons"
            )
        before, n_maps = (name, n_maps) if block.gate == ADD else (None, 1)


def trained_layers(model: SpikingResNet) -> list[TrainedLayer]:
    """Return a network's layers in the order they run; the last one is the classifier.

    A gate ``ADD``, which sums maps of spikes, adds no layer: the layers that read its sum read all
    of these maps. The auxiliary pathway, extra layers that only help training, is left out.
    """
    config = model.config
    stem = TrainedLayer(
        name="conv1" if config.frames else "stem",
        source=INPUT if config.frames else IMAGE,
        shape=config.image_shape,
        module=model.conv1,
        norm=model.bn1,
        neuron=model.neuron.config,
        pool=model.stem_pool,
        input_max=1 if config.frames else PIXEL_MAX,
    )
    found = [stem]
    sources = ("conv1" if config.frames else INPUT,)
    coefficient, shape = model.coefficient, model.map_shape
    for name in model.block_names:
        block = model.block(name)
        identity = sources
        branch, inner = sources, coefficient
        for n in range(1, block.n_convs):
            found.append(
                TrainedLayer(
                    name=f"{name}.conv{n}",
                    source=branch[0],
                    addends=branch[1:],
                    shape=block.shapes[n - 1],
                    module=block.conv(n),
                    norm=block.norm(n),
                    coefficient=inner,
                    neuron=block.neuron(n).config,
                )
            )
            branch, inner = (f"{name}.conv{n}",), block.coefficient(n)
        if block.downsample is not None:
            identity = (f"{name}.downsample",)
            conv, norm = block.downsample[0], block.downsample[1]
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, Norm)
            found.append(
                TrainedLayer(
                    name=identity[0],
                    source=sources[0],
                    addends=sources[1:],
                    shape=shape,
                    module=conv,
                    norm=norm,
                    coefficient=coefficient,
                    neuron=model.neurons()[identity[0]].config,
                )
            )
        last = block.n_convs
        found.append(
            TrainedLayer(
                name=f"{name}.conv{last}",
                source=branch[0],
                addends=branch[1:],
                shape=block.shapes[last - 1],
                module=block.conv(last),
                norm=block.norm(last),
                coefficient=inner,
                neuron=block.neuron(last).config,
                gate=Gate.NONE if block.gate == ADD else Gate[block.gate],
                identity=None if block.gate == ADD else identity[0],
            )
        )
        sources = (f"{name}.conv{last}",)
        if block.gate == ADD:
            sources = (*identity, *sources)
        coefficient, shape = block.coefficient(last), block.shape
    classifier = TrainedLayer(
        name="fc",
        source=sources[0],
        addends=sources[1:],
        shape=shape,
        module=model.fc,
        coefficient=coefficient,
        timesteps=config.timesteps,
    )
    return [*found, classifier]


def _fold_coefficient(
    weight: Tensor,
    a: Tensor | None,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Multiply a convolution's weight by the coefficient ``a`` of its input spikes.

    ``weight`` is (t|1, o, c, ky, kx), ``a`` is (t|1, c, H|1, W|1) or None, and the result is
    (t|1, y|1, x|1, o, c, ky, kx). The other parameters are those of the convolution. If ``a``
    differs from position to position, each neuron has weights of its own.
    """
    if a is None:
        return weight[:, None, None]
    if a.shape[2:] == (1, 1):
        return (weight * a[:, None])[:, None, None]
    (pad_y, pad_x), (stride_y, stride_x) = padding, stride
    padded = nn.functional.pad(a, (pad_x, pad_x, pad_y, pad_y))
    windows = padded.unfold(2, kernel[0], stride_y).unfold(3, kernel[1], stride_x)
    here = windows.permute(0, 2, 3, 1, 4, 5)  # (t, y, x, c, ky, kx)
    return weight[:, None, None] * here[:, :, :, None]
