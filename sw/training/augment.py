"""Functions that shuffle and augment the training samples and cut them into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sw.data.dataset import Split
from sw.model.resnet import to_input
from sw.training.recipes import TrainConfig

ERASED_AREA = (0.02, 0.4)
"""Smallest and largest share of a sample's area that is erased."""
ERASED_RATIO = (0.3, 1 / 0.3)
"""Smallest and largest ratio of height to width of an erased rectangle."""


def augment(
    images: Tensor,
    shift_px: int,
    flip: bool,
    generator: torch.Generator,
    erase: float = 0.0,
) -> Tensor:
    """Return samples that are shifted, mirrored and partly erased at random.

    Samples are uint8 images ``(N, C, H, W)`` or frames ``(N, T, C, H, W)``; all frames of a sample
    are changed alike. Each sample is shifted by up to ``shift_px`` pixels along both axes, or only
    sideways if its height is 1; pixels shifted in from outside are 0. With ``flip``, each sample is
    mirrored left to right with probability 1/2. ``erase`` is the probability that a random
    rectangle of a sample is erased (:func:`erased`).
    """
    if images.ndim == 5:
        moved = augment(images.flatten(1, 2), shift_px, flip, generator)
        moved = erased(moved, erase, generator, filling=0) if erase else moved
        return moved.unflatten(1, images.shape[1:3])
    n_images, _, height, width = images.shape
    if shift_px:
        shift_y = shift_px if height > 1 else 0
        padded = F.pad(images, (shift_px, shift_px, shift_y, shift_y))
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        limits = torch.tensor([[2 * shift_y + 1], [2 * shift_px + 1]])
        offsets = (torch.rand(2, n_images, generator=generator) * limits).long()
        offsets = offsets.to(images.device)
        index = torch.arange(n_images, device=images.device)
        images = windows[index, :, offsets[0], offsets[1]]
    if flip:
        mirrored = torch.rand(n_images, generator=generator) < 0.5
        mirrored = mirrored.to(images.device)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
    return erased(images, erase, generator) if erase else images


def erased(
    images: Tensor, probability: float, generator: torch.Generator, filling: int | None = None
) -> Tensor:
    """Return uint8 images ``(N, C, H, W)``, in some of which a random rectangle is erased.

    Each image is chosen with the given ``probability``. The rectangle has a random share of the
    image's area, in the range :data:`ERASED_AREA`, and a random ratio of height to width, in the
    range :data:`ERASED_RATIO`. A side that would be longer than the image is shortened to fit. In a
    signal of height 1, a range of columns is erased. The erased pixels become random numbers from 0
    to 255, or ``filling`` if that is not None. Source: Zhong et al., arXiv 1708.04896.
    """
    n_images, _, height, width = images.shape
    chosen, area, ratio, *place = torch.rand(5, n_images, generator=generator)
    area = height * width * (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0]))
    low, high = map(math.log, ERASED_RATIO)
    ratio = torch.exp(low + ratio * (high - low)) if height > 1 else 1 / area
    inside = (chosen < probability)[:, None, None]
    for axis, (size, side) in enumerate(((height, area * ratio), (width, area / ratio))):
        n_erased = side.sqrt().round().clamp(1, size)
        start = (place[axis] * (size - n_erased + 1)).floor()
        at = torch.arange(size) - start[:, None]
        within = (at >= 0) & (at < n_erased[:, None])
        inside = inside & (within[:, :, None] if axis == 0 else within[:, None, :])
    noise = (
        torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
        if filling is None
        else torch.full((1, 1, 1, 1), filling, dtype=torch.uint8)
    )
    return torch.where(inside[:, None].to(images.device), noise.to(images.device), images)


def capped(order: Tensor, labels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return the indices of at most ``most`` samples of each class, in random order.

    ``order`` lists the indices of all N samples at random, and ``labels`` (N,) their classes by
    index. Of a class with more than ``most`` samples, the first ones in ``order`` are taken.
    """
    own = labels[order]
    kept = [order[(own == label).nonzero()[:most, 0]] for label in own.unique()]
    chosen = torch.cat(kept)
    return chosen[torch.randperm(len(chosen), generator=generator)]


def batches(
    split: Split,
    config: TrainConfig,
    epoch: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    n_processes: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the shuffled and augmented batches of an epoch: pairs of network input and labels.

    Everything random depends on ``config.seed`` and ``epoch`` alone, so that a resumed run
    continues identically. From a class with more than ``config.max_per_class`` samples, this number
    of samples is drawn anew for each epoch. If several processes (``n_processes``) train together,
    each gets an equal part of every batch, chosen by its ``rank``, a number from 0. The last batch
    is dropped if it is incomplete.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    images = torch.from_numpy(split.images).to(device)
    labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
    order = torch.randperm(len(labels), generator=generator)
    if config.max_per_class:
        order = capped(order, labels.cpu(), config.max_per_class, generator)
    share = config.batch_size // n_processes
    own = slice(rank * share, (rank + 1) * share)
    for chosen in order.to(device).split(config.batch_size):
        if len(chosen) == config.batch_size:
            picked = augment(images[chosen], config.shift_px, config.flip, generator, config.erase)
            yield to_input(picked[own]), labels[chosen[own]]
