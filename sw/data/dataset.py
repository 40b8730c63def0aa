"""Data sets in memory: splits, labels, and the checks that all of them pass. NumPy only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data import events

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SPLIT_SEED = 20261121
"""Seed of the validation split; apart from the training seed, so that every run validates on the
same images."""
N_CALIBRATION = 200
"""Training samples that a checkpoint carries, for :func:`sw.convert.quantize.quantize`."""


class DataError(RuntimeError):
    """Data not found, or damaged; the message names the places and what to do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Images ``uint8 (N, C, H, W)``, or binary frames ``uint8 (N, T, C, H, W)``, and integer labels
    ``(N,)``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Training, validation and test data; ``sha256`` covers all images and labels."""

    train: Split
    validation: Split
    test: Split
    sha256: str
    place: str
    """Where it was found."""
    name: str = "fashion-mnist"
    labels: tuple[str, ...] = LABELS
    note: str = ""
    """What to say beside a figure, such as that it is a subset."""
    metric: str = "accuracy"
    """What models are selected by: ``accuracy``, or ``balanced`` accuracy (mean over classes)."""


def spread(n: int, most: int) -> NDArray[np.int64]:
    """Up to ``most`` of ``n`` indices, evenly: of data sorted by class, some of every class."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def calibration_samples(dataset: Dataset) -> NDArray[np.uint8]:
    """A copy of some training images, to set integer biases with
    (:func:`sw.convert.quantize.quantize`)."""
    return dataset.train.images[spread(len(dataset.train), N_CALIBRATION)]


def split(labels: NDArray[np.integer], n_validation: int) -> tuple[NDArray[np.intp], ...]:
    """Indices of training and validation images: the last ones of every class in a seeded order.

    Raises
    ------
    DataError
        Not the same number of every class, or nothing left of one.
    """
    counts = np.bincount(labels)
    per_class, rest = divmod(n_validation, len(counts))
    if rest or not 0 < per_class < counts.min():
        raise DataError(
            f"cannot take {n_validation} validation images from {len(labels)}: use a multiple of "
            f"{len(counts)} that leaves every class some for training"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    validation = np.sort(
        np.concatenate([order[labels[order] == n][-per_class:] for n in range(len(counts))])
    )
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def dataset(
    name: str,
    labels: Sequence[str],
    train: tuple[NDArray[np.uint8], NDArray[np.integer]],
    test: tuple[NDArray[np.uint8], NDArray[np.integer]],
    n_validation: int,
    place: str,
    note: str = "",
) -> Dataset:
    """A data set from arrays, its validation split taken from the training data."""
    for what, (images, targets) in (("training", train), ("test", test)):
        if not len(images) or len(images) != len(targets):
            raise DataError(f"{name}: {len(images)} {what} samples, {len(targets)} labels")
        if targets.min() < 0 or targets.max() >= len(labels):
            raise DataError(
                f"{name}: {what} labels from {targets.min()} to {targets.max()}, expected 0 to "
                f"{len(labels) - 1}"
            )
    shapes = train[0].shape[1:], test[0].shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(f"{name}: training samples are {shapes[0]}, test samples {shapes[1]}")
    kept, held = split(train[1], n_validation)
    return Dataset(
        train=Split(images=train[0][kept], labels=train[1][kept]),
        validation=Split(images=train[0][held], labels=train[1][held]),
        test=Split(images=test[0], labels=test[1]),
        sha256=digest_of(*train, *test),
        place=place,
        name=name,
        labels=tuple(labels),
        note=note,
    )


def digest_of(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def from_objects(
    name: str,
    train: Iterable[tuple[Any, int]],
    test: Iterable[tuple[Any, int]],
    *,
    labels: Sequence[str],
    timesteps: int,
    sensor: tuple[int, int] | None = None,
    n_validation: int,
) -> Dataset:
    """A data set from any objects that give pairs of (sample, target), such as tonic's.

    Parameters
    ----------
    train, test : samples are recordings (structured arrays with fields ``t, x, y, p``), which are
        binned; or frames (T, C, H, W) of any numbers, of which those above 0 are spikes.
    sensor : (height, width), for recordings.
    n_validation : taken from the training data, a multiple of the number of classes.

    Raises
    ------
    DataError
        A sample is neither, frames differ in shape, or labels are not below ``len(labels)``.
    """

    def collect(pairs: Iterable[tuple[Any, int]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        samples, targets = [], []
        for sample, target in tqdm(pairs, name, leave=False, disable=None):
            array = np.asarray(sample)
            if array.dtype.names is not None:
                if sensor is None:
                    raise DataError(f"{name}: samples are recordings; say the sensor's size")
                array = events.frames(array, timesteps, sensor)
            if array.ndim != 4 or len(array) != timesteps:
                raise DataError(
                    f"{name}: a sample has shape {array.shape}, expected a recording with fields "
                    f"t, x, y, p or frames ({timesteps}, C, H, W)"
                )
            samples.append((array > 0).astype(np.uint8))
            targets.append(int(target))
        if not samples:
            raise DataError(f"{name}: there are no samples")
        if len({array.shape for array in samples}) > 1:
            raise DataError(f"{name}: frames differ in shape")
        return np.stack(samples), np.array(targets)

    return dataset(name, labels, collect(train), collect(test), n_validation, "memory")
