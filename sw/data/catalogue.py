"""Load a data set by its name, or a user's own data by its path.

It needs only NumPy, and Pillow for image files.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hw.text import did_you_mean
from sw import shipped
from sw.data import cifar10, cifar10_dvs, dvs_gesture, fashion_mnist, mitbih, nmnist, own
from sw.data.dataset import DataError, Dataset, Split, assemble
from sw.data.events import EventError
from sw.data.labels import default_names
from sw.data.source import DATA_DIR_VARIABLE, Source, find

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        fashion_mnist.SOURCE,
        nmnist.SOURCE,
        dvs_gesture.SOURCE,
        cifar10_dvs.SOURCE,
        cifar10.SOURCE,
        mitbih.SOURCE,
    )
}
"""All data sets that :func:`load` knows, by their names."""
NAMES = tuple(SOURCES)
"""Names of all data sets that :func:`load` knows."""
DEFAULT = fashion_mnist.SOURCE.name
"""Name of the data set of :func:`load_samples`, and of checkpoints that name none."""


def load_samples() -> Split:
    """Return the few test images of Fashion-MNIST that are part of Spikefold, with their labels."""
    with np.load(shipped.SAMPLES) as arrays:
        return Split(images=arrays["images"], labels=arrays["labels"])


def load(
    data_dir: str | Path | None = None,
    n_validation: int | None = None,
    *,
    name: str = DEFAULT,
    timesteps: int = 4,
) -> Dataset:
    """Load a data set, and return it divided into training, validation and test data.

    If it has no validation split, one is taken from the training data, with an equal number of
    samples of every class.

    Parameters
    ----------
    data_dir : folder with the files of the data set (:func:`describe` lists them), or a folder with
        a sub-folder of the data set's name. If None, the folder in ``$SPIKEFOLD_DATA`` is used, or
        else :func:`sw.data.source.find` looks in the usual places and then downloads the data.
    n_validation : number of training samples to take for validation, a multiple of the number of
        classes; None for the data set's default number. It must be None if the data set has a
        validation split.
    name : one of :data:`NAMES`, or the path of a user's own data (:func:`sw.data.own.read`), for
        which ``data_dir`` is ignored.
    timesteps : number of frames that event recordings are binned into.

    Raises
    ------
    DataError
        The data is not found (the message lists the places), incomplete or damaged; or
        ``n_validation`` does not suit it.
    """
    source = SOURCES.get(name)
    if source is not None:
        place = find(source, data_dir)
    else:
        place = Path(name).expanduser()
        if not place.exists():
            raise DataError(_not_found(name))
    with _damage(place):
        if source is None:
            parts, labels = own.read(place, timesteps)
            return assemble(
                parts, place.resolve().stem, labels, str(place), n_validation=n_validation, own=True
            )
        return assemble(
            source.read(place, timesteps),
            source.name,
            source.labels,
            str(place),
            metric=source.metric,
            n_validation=n_validation,
        )


@contextlib.contextmanager
def _damage(place: Path) -> Iterator[None]:
    """Turn errors of reading damaged data in the body of a ``with`` statement into DataError.

    ``place`` is the path of the data, for the message.
    """
    try:
        yield
    except EventError as error:
        raise DataError(str(error)) from error
    except KeyError as error:
        raise DataError(f"{place} is incomplete: it lacks {error}") from error
    except (IndexError, OSError, ValueError) as error:
        raise DataError(f"{place} is incomplete or damaged: {error}") from error


def load_parts(data_dir: str | Path | None, name: str) -> list[Dataset]:
    """Return the training data of a data set, divided in several ways for cross-validation.

    The data set defines parts of its training data, and there are as many results as parts. In each
    result, one part is the test data, another the validation data, and the rest the training data.
    The data set's own test data is not read.

    Parameters
    ----------
    data_dir : folder with the files of the data set; None to search the usual places, as
        :func:`load` does.
    name : one of :data:`NAMES`.

    Raises
    ------
    DataError
        The data set defines no parts; or its data is not found, incomplete or damaged.
    """
    source = SOURCES.get(name)
    if source is None or source.read_parts is None:
        able = ", ".join(known.name for known in SOURCES.values() if known.read_parts)
        raise DataError(f"{name} defines no parts for cross-validation: use {able}")
    place = find(source, data_dir)
    with _damage(place):
        return [
            assemble(parts, source.name, source.labels, str(place), metric=source.metric)
            for parts in source.read_parts(place)
        ]


def _not_found(name: str) -> str:
    """Return the message for a name that is neither a known data set nor an existing path."""
    path = Path(name).expanduser()
    if len(path.parts) > 1 or path.suffix or name.startswith((".", "~")):
        nearby = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, nearby)
        return f"{name}: no such file or folder{f'; {hint}'.rstrip() if hint else ''}"
    hint = did_you_mean(name, NAMES)
    return (
        f"no data set {name!r}: {hint}use one of {', '.join(NAMES)}, or the path of your own data"
    )


def class_names(name: object, n_classes: int) -> tuple[str, ...]:
    """Return names for ``n_classes`` classes, without loading any data.

    They are the names of data set ``name`` if it is known and has as many classes, else ``class
    0``, ``class 1`` and so on.
    """
    source = SOURCES.get(name) if isinstance(name, str) else None
    if source is not None and len(source.labels) == n_classes:
        return source.labels
    return default_names(n_classes)


def describe() -> str:
    """Return a text for ``--help`` that says which files each data set consists of."""
    options = {"initial_indent": "    ", "subsequent_indent": "    ", "width": 78}
    known = [
        f"  {source.name}{'' if source.download is None else ' (downloaded if it is nowhere)'}\n"
        + textwrap.fill(source.files, **options)  # type: ignore[arg-type]
        for source in SOURCES.values()
    ]
    return "\n".join(
        [
            f"data sets, and what --data-dir (or ${DATA_DIR_VARIABLE}), or its sub-folder of that "
            "name, holds:",
            *known,
            "  your own data (--data PATH)",
            textwrap.fill(own.FILES, **options),  # type: ignore[arg-type]
        ]
    )
