"""Bring a user's samples to the shape and type of a network's input, if there is only one way."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data.labels import class_name, default_names
from sw.data.pixels import as_frames, as_pixels


def as_input(
    samples: NDArray[Any], shape: tuple[int, ...], what: str, *, frames: bool
) -> NDArray[Any]:
    """Return samples in the shape (N, ...) and the type of a network's input.

    Samples of another shape are rearranged if they can only mean one thing: a single sample
    without the axis N, flat samples, axes of length 1 left out or added, and channels last. Others
    are returned as they are, for :func:`sw.network.encoder.check_input` to refuse.

    Parameters
    ----------
    samples : images or frames of numbers; images as :func:`sw.data.pixels.as_pixels` takes them.
    shape : shape of one sample, (C, H, W) or (T, C, H, W).
    what : name of the data, with which messages begin.
    frames : whether the network takes binary frames.

    Raises
    ------
    sw.data.dataset.DataError
        The samples have the right shape, but not the values of pixels or frames.
    """
    placed = _placed(samples, shape)
    if placed is None:
        return samples
    return as_frames([placed], what)[0] if frames else as_pixels([placed], what)[0][0]


def _placed(samples: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Return samples rearranged as an array (N, ...), where ``shape`` is the shape of one sample.

    Return None if their present shape does not tell how to rearrange them.
    """
    if samples.shape[1:] == shape:
        return samples
    for batch in (samples, samples[None]):
        own = batch.shape[1:]
        if own == shape:
            return batch
        if batch.ndim == len(shape) + 1 and _last_first(own) == shape:
            return np.moveaxis(batch, -1, -3)
        if prod(own) == prod(shape) and (len(own) == 1 or _squeezed(own) == _squeezed(shape)):
            return batch.reshape(len(batch), *shape)
    return None


def _last_first(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a sample's shape with its last axis, the channels, moved before the rows."""
    return (*shape[:-3], shape[-1], *shape[-3:-1])


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def as_classes(labels: NDArray[Any], names: Sequence[str]) -> NDArray[Any]:
    """Return labels (N,) that are names of a network's classes as the indices of these names.

    ``names`` are the names of the classes, in order. A label that is a number, such as 5, stands
    for the name ``class 5`` (:func:`sw.data.labels.class_name`). Labels are returned as they are if
    one of them is no name, or if ``names`` are just ``class 0``, ``class 1`` and so on.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or not len(labels):
        return labels
    own = [class_name(value) for value in labels.tolist()]
    if tuple(names) == default_names(len(names)) or not set(own) <= set(names):
        return labels
    return np.array([list(names).index(name) for name in own])
