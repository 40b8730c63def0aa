"""Hold data sets in memory, check them, and split them into training, validation and test data.

A sample is an image, or a sequence of binary frames, one per timestep. This module needs only
NumPy.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data import events

SPLIT_SEED = 20261121
"""Seed of the validation split. It does not depend on the seed of training, so that every run
validates on the same samples."""
N_CALIBRATION = 200
"""Largest number of training samples in a checkpoint. The export corrects biases with them
(:mod:`sw.convert.quantize`)."""


class DataError(RuntimeError):
    """Raised for data that is missing or damaged; the message says where, and what to do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """N samples and their labels, such as all training data.

    Attributes
    ----------
    images : uint8, either images (N, C, H, W) or binary frames (N, T, C, H, W).
    labels : integers (N,), classes from 0 on.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """Contents of a data set's files, before :func:`assemble` makes a :class:`Dataset` of them.

    Attributes
    ----------
    train, test : training and test data.
    validation : validation data; None if the files have none, and then :func:`assemble` takes
        ``n_validation`` samples from ``train``.
    n_validation : number of samples that are then taken, a multiple of the number of classes. It is
        not used if ``validation`` is given.
    note : remark to print with every result on this data, such as that it is a subset.
    form : text that describes the form of the files, and any conversion of their values.
    """

    train: Split
    test: Split
    validation: Split | None = None
    n_validation: int = 0
    note: str = ""
    form: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A data set in memory, divided into training, validation and test data.

    Attributes
    ----------
    labels : names of the classes.
    sha256 : checksum of all images and labels.
    place : path at which the data was found.
    note : remark to print with every result on this data, such as that it is a subset.
    metric : metric by which training chooses the best model: ``accuracy``, or ``balanced``
        accuracy, which is the mean over classes of the recall.
    own : whether it is a user's own data, which is found by its path and not by its name.
    form : text that describes the form of the files, and any conversion of their values.
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
    own: bool = False
    form: str = ""

    def record(self) -> dict[str, Any]:
        """Return a description of this data set for the checkpoint of a network trained on it.

        The values are JSON values. ``path``, the absolute path of a user's own data, says where to
        find it again. Data sets that are known by name have no ``path``.
        """
        found: dict[str, Any] = {
            "name": self.name,
            "sha256": self.sha256,
            "labels": list(self.labels),
            "note": self.note,
            "metric": self.metric,
        }
        if self.own:
            found |= {"own": True, "form": self.form, "path": str(Path(self.place).resolve())}
        return found


def spread(n: int, most: int) -> NDArray[np.int64]:
    """Return up to ``most`` evenly spaced indices from 0 to ``n`` - 1.

    Samples chosen with them come from all classes, even if the samples are sorted by class.
    """
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def calibration_samples(dataset: Dataset) -> NDArray[np.uint8]:
    """Return up to :data:`N_CALIBRATION` training samples, evenly spaced, for the quantisation.

    :func:`sw.convert.quantize.quantize` runs the network on them to correct its biases.
    """
    return dataset.train.images[spread(len(dataset.train), N_CALIBRATION)]


def split(labels: NDArray[np.integer], n_validation: int) -> tuple[NDArray[np.intp], ...]:
    """Choose at random which training samples become validation data, equally many of every class.

    The random order depends on :data:`SPLIT_SEED` only, so the choice is always the same.

    Parameters
    ----------
    labels : integers (N,), the class of each sample.
    n_validation : number of samples to choose, a multiple of the number of classes.

    Returns
    -------
    Indices of the samples left for training, and of those for validation, both ascending.

    Raises
    ------
    DataError
        ``n_validation`` is no multiple of the number of classes, or leaves a class without training
        samples.
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
    own: bool = False,
) -> Dataset:
    """Check data that was read from files, and return it as a :class:`Dataset`.

    If ``parts`` has no validation data, it is taken from the training data (:func:`split`).

    Parameters
    ----------
    labels : names of the classes.
    place : path at which the data was found.
    metric : metric by which training chooses the best model, ``accuracy`` or ``balanced``.
    own : whether it is a user's own data.
    n_validation : number of training samples to take for validation; None for
        ``parts.n_validation``.

    Raises
    ------
    DataError
        A part has no samples, not as many labels as samples, or a label that is no class. Or the
        samples of two parts differ in shape. Or the validation split cannot be made, for example
        because a class has no training samples. Or ``n_validation`` is given although ``parts``
        has validation data.
    """
    validation = parts.validation
    given = {"training": parts.train}
    given |= {} if validation is None else {"validation": validation}
    given["test"] = parts.test
    for what, part in given.items():
        _check_part(part, name, what, len(labels))
        shapes = parts.train.images.shape[1:], part.images.shape[1:]
        if shapes[0] != shapes[1]:
            raise DataError(f"{name}: training samples are {shapes[0]}, {what} samples {shapes[1]}")
    train = parts.train
    if validation is None:
        n = parts.n_validation if n_validation is None else n_validation
        missing = sorted(set(range(len(labels))) - set(train.labels.tolist()))
        if missing:
            raise DataError(
                f"{name}: there are no training samples of "
                f"{', '.join(repr(labels[n]) for n in missing[:5])}: every class needs some"
            )
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
        sha256=_digest(given.values()),
        place=place,
        note=parts.note,
        metric=metric,
        own=own,
        form=parts.form,
    )


def _check_part(part: Split, name: str, what: str, n_classes: int) -> None:
    """Check that a part of a data set has samples, and a valid label for each.

    A label is valid if it is from 0 to ``n_classes`` - 1. ``name`` is the name of the data set and
    ``what`` the name of the part, both for messages.

    Raises
    ------
    DataError
        The part has no samples, or a label is missing or invalid.
    """
    n, targets = len(part.images), part.labels
    if targets.ndim != 1 or not n or n != len(targets):
        labels = f"{len(targets)} labels" if targets.ndim == 1 else f"labels {targets.shape}"
        raise DataError(f"{name}: {n} {what} samples, {labels}")
    if targets.min() < 0 or targets.max() >= n_classes:
        raise DataError(
            f"{name}: {what} labels from {targets.min()} to {targets.max()}, expected 0 to "
            f"{n_classes - 1}"
        )


def _digest(splits: Iterable[Split]) -> str:
    """Return the SHA-256 checksum, in hexadecimal, of the images and labels of all splits."""
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
    """Make a data set of any objects that yield pairs (sample, class), such as data sets of the
    tonic library.

    Parameters
    ----------
    train, test : pairs of a sample and its class. A sample is either an event recording (a
        structured array with fields ``t, x, y, p``), which is binned into frames; or frames
        (T, C, H, W) of numbers, of which those above 0 become 1 and all others 0.
    labels : names of the classes.
    timesteps : number of frames T of a sample.
    sensor : (height, width) of the sensor; needed for recordings.
    n_validation : number of training samples that are held back for validation, a multiple of the
        number of classes.

    Raises
    ------
    DataError
        A sample is neither a recording nor frames, or frames differ in shape. Or a class is not
        from 0 to ``len(labels)`` - 1. Or a sample is a recording, but ``sensor`` is None, or the
        events do not suit the sensor. Or the validation data cannot be taken.
    """

    def collect(pairs: Iterable[tuple[Any, int]]) -> Split:
        samples, targets = [], []
        for sample, target in tqdm(pairs, name, leave=False, disable=None):
            array = np.asarray(sample)
            if array.dtype.names is not None:
                if sensor is None:
                    raise DataError(f"{name}: samples are recordings; say the sensor's size")
                try:
                    array = events.frames(array, timesteps, sensor)
                except events.EventError as error:
                    raise DataError(f"{name}: sample {len(samples)}: {error}") from error
            if array.ndim != 4 or len(array) != timesteps or array.dtype.kind not in "biuf":
                raise DataError(
                    f"{name}: sample {len(samples)} is {array.dtype} {array.shape}, expected a "
                    f"recording with fields t, x, y, p or frames ({timesteps}, C, H, W) of numbers"
                )
            samples.append((array > 0).astype(np.uint8))
            try:
                targets.append(operator.index(target))
            except TypeError as error:
                raise DataError(
                    f"{name}: the class of sample {len(samples) - 1} is {target!r}: number the "
                    "classes from 0"
                ) from error
        if not samples:
            raise DataError(f"{name}: there are no samples")
        if len({array.shape for array in samples}) > 1:
            raise DataError(f"{name}: frames differ in shape")
        return Split(images=np.stack(samples), labels=np.array(targets))

    parts = Parts(train=collect(train), test=collect(test), n_validation=n_validation)
    return assemble(parts, name, labels, "memory")
