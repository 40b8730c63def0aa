"""Loss: cross-entropy of both streams, distillation from a teacher, and the cost of spikes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sw.convert import fold
from sw.data.dataset import Split
from sw.model.functional import widened
from sw.model.resnet import SpikingResNet
from sw.training.recipes import TrainConfig

COST_LANES = 16
"""Number of output channels whose weights :func:`rows_per_spike` counts as one row.

It is a constant of the loss, not of a board (boards have 8 to 32 lanes): another value changes
what ``spike_penalty`` means, and so the results of the recorded training runs."""


def rows_per_spike(model: SpikingResNet) -> dict[str, float]:
    """Return the number of weight rows that the device reads for one spike, by map.

    That is a spike's cost in cycles: summed over the layers that read the map, the mean number of
    windows that contain a position times the groups of :data:`COST_LANES` output channels.
    """
    rows: dict[str, float] = {}
    for part in fold.trained_layers(model):
        windows, n_out = 1.0, part.module.weight.shape[0]
        if isinstance(part.module, nn.Conv2d):
            windows = math.prod(part.module.kernel_size) / math.prod(part.module.stride)
        if not part.reads_image:
            groups = -(-n_out // COST_LANES)
            rows[part.source] = rows.get(part.source, 0.0) + windows * groups
    return rows


def spike_cost(maps: dict[str, Tensor], rows: dict[str, float]) -> Tensor:
    """Return the mean spike density over all maps, weighted by cost (:func:`rows_per_spike`).

    It estimates the device's cycles as a share of those it would take if every neuron fired at
    every timestep. ``maps`` are (T, N, C, H, W) by name.
    """
    total = sum(spikes[:, 0].numel() * rows[name] for name, spikes in maps.items() if name in rows)
    read = [
        spikes.sum() / spikes.shape[1] * rows[name] for name, spikes in maps.items() if name in rows
    ]
    return torch.stack(read).sum() / total


def class_weights(split: Split, power: float) -> Tensor:
    """Return a weight (n_classes,) per class: frequency to minus ``power``, 1 on sample average."""
    counts = np.bincount(split.labels.astype(np.int64))
    weights = np.maximum(1, counts) ** -power
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


@torch.no_grad()
def answers(teacher: SpikingResNet, images: Tensor, temperature: float) -> Tensor:
    """Return the teacher's class probabilities (N, n_classes), softened by the temperature.

    They are computed in bfloat16 where that is fast, which is precise enough to learn from.
    """
    fast = images.is_cuda or torch.cpu._is_avx512_bf16_supported()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=fast):
        logits = teacher(images).spike
    return F.softmax(widened(logits) / temperature, 1)


def loss_of(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    rows: dict[str, float],
    weights: Tensor | None,
    teacher: SpikingResNet | None = None,
) -> Tensor:
    """Return the mean loss of a batch.

    It is the sum of both heads' cross-entropies (Chen et al., arXiv 2301.11929), plus
    ``config.spike_penalty`` times :func:`spike_cost`. ``weights`` are those of
    :func:`class_weights`, None for equal ones.

    With a teacher, which sees the same images, a head's cross-entropy is weighted by ``1 - w``, and
    by ``w = config.teacher_weight`` the Kullback-Leibler divergence between its probabilities and
    the teacher's, both softened by the temperature, times the temperature squared (Hinton et al.,
    arXiv 1503.02531).
    """
    maps: dict[str, Tensor] = {}
    taught = None if teacher is None else answers(teacher, images, config.temperature)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.amp):
        logits = net(images, maps.__setitem__ if config.spike_penalty else None)
    loss = torch.zeros((), device=images.device)
    for head in logits:
        if head is not None:
            each = F.cross_entropy(
                widened(head), labels, reduction="none", label_smoothing=config.label_smoothing
            )
            if taught is not None:
                own = F.log_softmax(widened(head) / config.temperature, 1)
                apart = F.kl_div(own, taught, reduction="none").sum(1)
                each = each + config.teacher_weight * (config.temperature**2 * apart - each)
            loss = loss + (each if weights is None else each * weights[labels]).mean()
    if config.spike_penalty:
        loss = loss + config.spike_penalty * spike_cost(maps, rows)
    return loss
