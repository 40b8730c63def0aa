"""Functions that shuffle and augment the training samples and cut them into batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sw.data.dataset import Split
from sw.model.resnet import to_input
from sw.training.recipes import TrainConfig


def augment(images: Tensor, shift_px: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return samples that are shifted at random and, with ``flip``, mirrored at random.

    Samples are uint8 images ``(N, C, H, W)`` or frames ``(N, T, C, H, W)``. Each is shifted by up
    to ``shift_px`` pixels along both axes, or along the columns only if its height is 1; pixels
    that enter are 0. All frames of a sample are changed alike.
    """
    if images.ndim == 5:
        moved = augment(images.flatten(1, 2), shift_px, flip, generator)
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
    return images


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
    continues identically. If several processes (``n_processes``) train together, each gets an equal
    part of every batch, chosen by its ``rank``, a number from 0. The last batch is dropped if it is
    incomplete.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    images = torch.from_numpy(split.images).to(device)
    labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
    order = torch.randperm(len(labels), generator=generator)
    share = config.batch_size // n_processes
    own = slice(rank * share, (rank + 1) * share)
    for chosen in order.to(device).split(config.batch_size):
        if len(chosen) == config.batch_size:
            picked = augment(images[chosen], config.shift_px, config.flip, generator)
            yield to_input(picked[own]), labels[chosen[own]]
