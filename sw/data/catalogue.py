"""Data sets by name, and loading of data sets and files. NumPy only (Pillow for images in
files)."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from sw import shipped
from sw.data import cifar10, cifar10_dvs, dvs_gesture, fashion_mnist, mitbih, nmnist, own
from sw.data.dataset import DataError, Dataset, Split, assemble
from sw.data.events import EventError
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
"""All data sets that :func:`load` knows, by name."""
NAMES = tuple(SOURCES)
DEFAULT = fashion_mnist.SOURCE.name
"""Name of the data set of :func:`load_samples`, and of checkpoints that name none."""


def load_samples() -> Split:
    """Load the first test images of Fashion-MNIST, which come with Spikefold."""
    with np.load(shipped.SAMPLES) as arrays:
        return Split(images=arrays["images"], labels=arrays["labels"])


def load(
    data_dir: str | Path | None = None,
    n_validation: int | None = None,
    *,
    name: str = DEFAULT,
    timesteps: int = 4,
) -> Dataset:
    """Load a data set; unless it has a validation split, an equal number of every class is taken
    from the training data.

    Parameters
    ----------
    data_dir : folder of the data set, or one that has it in a sub-folder of its name. None: the
        folder in ``$SPIKEFOLD_DATA``, else known places and the download cache in
        ``~/.cache/spikefold``, else a download where the authors offer one. :func:`describe` says
        what files it holds.
    n_validation : size of the validation split, a multiple of the number of classes. None: as the
        data set has it.
    name : one of :data:`NAMES`, or the path of a user's own data (:func:`sw.data.own.read`).
    timesteps : number of frames that event recordings are binned into.

    Raises
    ------
    DataError
        The data is not found (the message lists the places), incomplete or damaged.
    """
    source = SOURCES.get(name)
    if source is not None:
        place = find(source, data_dir)
    else:
        place = Path(name).expanduser()
        if not place.exists():
            raise DataError(
                f"no data set {name!r}: use one of {', '.join(NAMES)}, or the path of your own data"
            )
    try:
        if source is None:
            parts, labels = own.read(place, timesteps)
            return assemble(parts, place.stem, labels, str(place), n_validation=n_validation)
        return assemble(
            source.read(place, timesteps),
            source.name,
            source.labels,
            str(place),
            metric=source.metric,
            n_validation=n_validation,
        )
    except EventError as error:
        raise DataError(str(error)) from error
    except KeyError as error:
        raise DataError(f"{place} is incomplete: it lacks {error}") from error
    except (IndexError, OSError, ValueError) as error:
        raise DataError(f"{place} is incomplete or damaged: {error}") from error


def class_names(name: object, n_classes: int) -> tuple[str, ...]:
    """Name the classes of data whose labels are not at hand: those of the data set ``name`` if it
    is known and has as many, else ``class 0`` and so on."""
    source = SOURCES.get(name) if isinstance(name, str) else None
    if source is not None and len(source.labels) == n_classes:
        return source.labels
    return tuple(f"class {n}" for n in range(n_classes))


def describe() -> str:
    """Say which files every data set may be given as: indented paragraphs for ``--help``."""
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
