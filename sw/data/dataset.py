"""Data sets in memory: their splits, and the checks that every data set passes. NumPy only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data import events

SPLIT_SEED = 20261121
"""Seed of the validation split. It does not depend on the seed of training, so that every run
validates on the same samples."""
N_CALIBRATION = 200
"""Number of training samples that a checkpoint carries for :func:`sw.convert.quantize.quantize`."""


class DataError(RuntimeError):
    """Data was not found or is damaged; the message names the places and says what to do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Samples and their labels.

    Attributes
    ----------
    images : uint8, images (N, C, H, W) or binary frames (N, T, C, H, W).
    labels : integers (N,), indices into the names of the classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """What the files of a data set hold, as a reader returns it.

    Attributes
    ----------
    validation : None if it is to be taken from ``train``, ``n_validation`` samples of it.
    n_validation : a multiple of the number of classes; unused if there is ``validation``.
    note : what to say beside every figure on this data, such as that it is a subset.
    """

    train: Split
    test: Split
    validation: Split | None = None
    n_validation: int = 0
    note: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Training, validation and test data.

    Attributes
    ----------
    labels : names of the classes.
    sha256 : digest of all images and labels.
    place : where the data was found.
    note : what to say beside every figure on this data, such as that it is a subset.
    metric : what models are selected by: ``accuracy``, or ``balanced`` accuracy, which is the mean
        over classes of the share of each that is recognised.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    sha256: str
    place: str
    note: str = ""
    metric: str = "accuracy"


def spread(n: int, most: int) -> NDArray[np.int64]:
    """Choose up to ``most`` of ``n`` indices, evenly spaced, so that samples sorted by class are
    drawn from every class."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def calibration_samples(dataset: Dataset) -> NDArray[np.uint8]:
    """Copy the training samples that integer biases are set with
    (:func:`sw.convert.quantize.quantize`)."""
    return dataset.train.images[spread(len(dataset.train), N_CALIBRATION)]


def split(labels: NDArray[np.integer], n_validation: int) -> tuple[NDArray[np.intp], ...]:
    """Divide samples into training and validation, with the same number of every class in the
    latter: the last ones of each class in a random order that is always the same.

    Returns
    -------
    Indices of the training samples and of the validation samples, both ascending.

    Raises
    ------
    DataError
        ``n_validation`` is no multiple of the number of classes, or would take all of a class.
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


def assemble(
    parts: Parts,
    name: str,
    labels: Sequence[str],
    place: str,
    *,
    metric: str = "accuracy",
    n_validation: int | None = None,
) -> Dataset:
    """Check the parts of a data set, and take the validation split from its training data.

    Parameters
    ----------
    labels : names of the classes.
    place : where the data was found.
    n_validation : size of the validation split; None for that of ``parts``.

    Raises
    ------
    DataError
        The numbers of samples and labels differ, a label is no class, shapes differ between parts,
        or the validation split cannot be made.
    """
    given = [parts.train, *([parts.validation] if parts.validation else []), parts.test]
    for what, part in (("training", parts.train), ("test", parts.test)):
        n, targets = len(part.images), part.labels
        if not n or n != len(targets):
            raise DataError(f"{name}: {n} {what} samples, {len(targets)} labels")
        if targets.min() < 0 or targets.max() >= len(labels):
            raise DataError(
                f"{name}: {what} labels from {targets.min()} to {targets.max()}, expected 0 to "
                f"{len(labels) - 1}"
            )
    shapes = parts.train.images.shape[1:], parts.test.images.shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(f"{name}: training samples are {shapes[0]}, test samples {shapes[1]}")
    train, validation = parts.train, parts.validation
    if validation is None:
        n = parts.n_validation if n_validation is None else n_validation
        train, validation = (
            Split(images=train.images[chosen], labels=train.labels[chosen])
            for chosen in split(train.labels, n)
        )
    elif n_validation is not None:
        raise DataError(
            f"{name} comes with a validation split of {len(validation)} samples: leave the number "
            "of validation samples out"
        )
    return Dataset(
        name=name,
        labels=tuple(labels),
        train=train,
        validation=validation,
        test=parts.test,
        sha256=_digest(given),
        place=place,
        note=parts.note,
        metric=metric,
    )


def _digest(splits: Iterable[Split]) -> str:
    """Return the SHA-256 of the images and labels of all splits in turn."""
    digest = hashlib.sha256()
    for part in splits:
        for array in (part.images, part.labels):
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
    """Make a data set from any objects that give pairs of (sample, target), such as tonic's.

    Parameters
    ----------
    train, test : pairs whose samples are recordings (structured arrays with fields ``t, x, y, p``),
        which are binned into frames; or frames (T, C, H, W) of any numbers, of which those above 0
        are spikes.
    labels : names of the classes.
    sensor : (height, width) of the sensor; needed for recordings.
    n_validation : number of training samples that are held for validation, a multiple of the number
        of classes.

    Raises
    ------
    DataError
        A sample is neither, frames differ in shape, or labels are not below ``len(labels)``.
    """

    def collect(pairs: Iterable[tuple[Any, int]]) -> Split:
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
        return Split(images=np.stack(samples), labels=np.array(targets))

    parts = Parts(train=collect(train), test=collect(test), n_validation=n_validation)
    return assemble(parts, name, labels, "memory")
