"""Turn labels into class numbers from 0.

Labels may be numbers, names, truth values or one-hot rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data.dataset import DataError

Numbers = NDArray[np.int64]


def class_name(value: Any) -> str:
    """Return the name of the class with this label.

    A text is its own name. The name for the number 3 is ``class 3``.
    """
    return value if isinstance(value, str) else f"class {value}"


def default_names(n_classes: int) -> tuple[str, ...]:
    """Return names for ``n_classes`` classes that have no other names: ``class 0``, ``class 1``,
    ..."""
    return tuple(map(class_name, range(n_classes)))


def plain(labels: NDArray[Any], what: str) -> NDArray[Any]:
    """Return labels (N,) as integers or texts.

    Parameters
    ----------
    labels : integers, whole floats, truth values or texts, (N,) or (N, 1); or rows (N, K) with a
        single 1, whose column is the label.
    what : name of the data, with which messages begin.

    Raises
    ------
    DataError
        The labels are none of these.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    forms = f"{what}: labels are whole numbers, names (text), or rows with a single 1 (one-hot)"
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        if not np.isin(labels, (0, 1)).all() or not (labels.sum(axis=1) == 1).all():
            raise DataError(f"{forms}: the rows of shape {labels.shape} are something else")
        return labels.argmax(axis=1).astype(np.int64)
    if labels.ndim != 1:
        raise DataError(f"{forms}, one for each sample, not an array of shape {labels.shape}")
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "U":
        return labels
    if labels.dtype.kind not in "biuf":
        raise DataError(f"{forms}, not {labels.dtype}")
    whole = np.isfinite(labels) & (labels == np.floor(labels))
    if not whole.all():
        raise DataError(f"{forms}, not {labels[~whole][0]}")
    return labels.astype(np.int64)


def numbered(
    labels: Mapping[str, NDArray[Any]], what: str
) -> tuple[dict[str, Numbers], tuple[str, ...]]:
    """Return the number of each sample's class, and the names of the classes.

    Classes are numbered from 0 on, in the order of their labels.

    Parameters
    ----------
    labels : labels (N,) of every part of the data set, in a form that :func:`plain` takes. The
        first part is the training data, which must have samples of all classes.
    what : name of the data set, with which messages begin.

    Returns
    -------
    The numbers (N,) by part, and the names in the order of the numbers.

    Raises
    ------
    DataError
        A part has labels that are no classes, or a class that the training data lacks; or there is
        only one class.
    """
    found = {part: plain(values, f"{what}: {part} data") for part, values in labels.items()}
    first = next(iter(found))
    values = np.unique(found[first])
    for part, own in found.items():
        if len(own) and own.dtype.kind != values.dtype.kind:
            raise DataError(f"{what}: the labels of {part} and {first} data differ in type")
        missing = np.setdiff1d(own, values)
        if len(missing) and len(values):
            raise DataError(
                f"{what}: {part} data has samples of {class_name(missing[0].item())!r}, "
                f"{first} data has none: leave them out or add some to both"
            )
    if len(values) == 1:
        raise DataError(
            f"{what}: all labels are {values[0]!s}; a network needs at least two classes to tell "
            "apart"
        )
    numbers = {part: np.searchsorted(values, own) for part, own in found.items()}
    return numbers, tuple(class_name(value) for value in values.tolist())


def as_named(labels: NDArray[Any], names: Sequence[str], wanted: Sequence[str]) -> Numbers | None:
    """Return labels renumbered from the class names ``names`` to the class names ``wanted``.

    Parameters
    ----------
    labels : integers (N,), indices into ``names``.

    Returns
    -------
    Integers (N,), the indices of the same classes in ``wanted``. Classes are matched by name if
    ``wanted`` contains all ``names``. Otherwise they keep their index if both lists are equally
    long and one of them has only default names (:func:`default_names`). In all other cases the
    result is None.
    """
    if set(names) <= set(wanted):
        return np.array([wanted.index(name) for name in names], np.int64)[labels]
    unnamed = default_names(len(names))
    if len(names) == len(wanted) and unnamed in (tuple(names), tuple(wanted)):
        return labels.astype(np.int64)
    return None
