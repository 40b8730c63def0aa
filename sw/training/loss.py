"""Loss of training: cross-entropy, distillation from a teacher, and a penalty on spikes.

In training, a network has two sets of class scores: from its spikes, and from its auxiliary pathway
(:mod:`sw.model.resnet`). The cross-entropies of both are added.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sw.convert import fold
from sw.data.dataset import Split
from sw.model.functional import widened
from sw.model.resnet import SpikingResNet
from sw.training.recipes import TrainConfig

COST_LANES = 16
"""Number of output channels whose weights :func:`rows_per_spike` counts as one row.

It stands for a board's number of lanes, which is 8 to 32, but it is the same for all boards.
Another value would change the effect of ``spike_penalty``, and so the results of the recorded
training runs.
"""


def rows_per_spike(model: SpikingResNet) -> dict[str, float]:
    """Return how many rows of weights a device reads for one spike, by name of the spike's map.

    A map is a layer's output. A row is a word of the weight memory: the weights of
    :data:`COST_LANES` output channels for one input. Reading it takes a clock cycle.

    The number is a sum over the layers that read the map. A layer contributes the product of two
    numbers: how many of its kernel windows contain a position, on average and without regard to the
    map's borders; and how many rows hold the weights of all its output channels.
    """
    rows: dict[str, float] = {}
    for part in fold.trained_layers(model):
        windows, n_out = 1.0, part.module.weight.shape[0]
        if isinstance(part.module, nn.Conv2d):
            windows = math.prod(part.module.kernel_size) / math.prod(part.module.stride)
        if not part.reads_image:
            groups = -(-n_out // COST_LANES)
            for name in part.sources:
                rows[name] = rows.get(name, 0.0) + windows * groups
    return rows


def spike_cost(maps: dict[str, Tensor], rows: dict[str, float]) -> Tensor:
    """Return the estimated cycles of a device, as a share of those that it would take if every
    neuron fired at every timestep.

    ``maps`` has the spikes (T, N, C, H, W) by name of the map, and ``rows`` is the result of
    :func:`rows_per_spike`, the cycles that one spike of a map costs. The result is a differentiable
    scalar from 0 to 1: the mean over all neurons, timesteps and samples, weighted by cost.
    """
    total = sum(spikes[:, 0].numel() * rows[name] for name, spikes in maps.items() if name in rows)
    read = [
        spikes.sum() / spikes.shape[1] * rows[name] for name, spikes in maps.items() if name in rows
    ]
    return torch.stack(read).sum() / total


def class_counts(split: Split, most: int) -> NDArray[np.int64]:
    """Return the number of samples of each class in an epoch, (n_classes,).

    ``most`` is the largest number of samples of a class, ``TrainConfig.max_per_class``; 0 means no
    limit.
    """
    counts = np.bincount(split.labels.astype(np.int64))
    return np.minimum(counts, most) if most else counts


def class_weights(split: Split, power: float, most: int = 0) -> Tensor:
    """Return weights (n_classes,) of the classes in the loss, larger for rarer classes.

    A weight is proportional to the class's number of samples in an epoch to the power of
    ``-power``. Over all samples of an epoch, the mean weight is 1. ``most`` limits the number of
    samples of a class, as in :func:`class_counts`.
    """
    counts = class_counts(split, most)
    weights = np.maximum(1, counts) ** -power
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


@torch.no_grad()
def answers(teacher: SpikingResNet, images: Tensor, temperature: float) -> Tensor:
    """Return the class probabilities (N, n_classes) that the teacher assigns to ``images``.

    The teacher's logits are divided by ``temperature``: values above 1 bring the probabilities
    closer to each other. Logits are computed in bfloat16 on a GPU, which is precise enough to learn
    from, and in float32 on a CPU, where bfloat16 is slower.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
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

    The network has class scores from spikes and, in training, from the auxiliary pathway. The loss
    is the sum of their cross-entropies (Chen et al., arXiv 2301.11929), plus
    ``config.spike_penalty`` times :func:`spike_cost`. ``weights`` are those of
    :func:`class_weights`; with None, all classes have equal weights. ``rows`` is the result of
    :func:`rows_per_spike`.

    With a ``teacher``, each cross-entropy ``CE`` is replaced by ``(1 - w) CE + w t^2 KL``, where
    ``w = config.teacher_weight`` and ``t = config.temperature`` (Hinton et al., arXiv 1503.02531).
    ``KL`` is the Kullback-Leibler divergence of the network's class probabilities from those of the
    teacher for the same images. For both, logits are first divided by ``t``.
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
