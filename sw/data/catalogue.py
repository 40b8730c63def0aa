"""The data sets beside Fashion-MNIST, and a user's own. NumPy only (Pillow for encoded images).

Each loader takes the folder that holds the data. What the folder may contain:

``nmnist``
    ``Train`` and ``Test`` with a folder of ``.bin`` recordings for every digit; or
    ``nmnist_small.npz``, recordings one after another (see :func:`_packed_recordings`).
``dvs-gesture``
    ``.aedat`` recordings, each with its ``_labels.csv``, listed in ``trials_to_train.txt`` and
    ``trials_to_test.txt``.
``cifar10-dvs``
    a folder of ``.aedat`` recordings for every class; the last tenth of each is for testing.
``cifar10``
    the six ``.bin`` files of the binary version (downloaded if it is nowhere); or
    ``cifar10_jpeg.npz``, JPEG copies of the images, one after another.
``mitbih``
    the records ``.dat``, ``.hea`` and ``.atr`` of the MIT-BIH Arrhythmia Database; or
    ``mitbih_beats_aami.npz``, their beats.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sw import shipped
from sw.data import fashion_mnist
from sw.data.beats import BeatError
from sw.data.cifar10 import CIFAR10_URL, cifar10, download_cifar10, holds_cifar10
from sw.data.dataset import DataError, Dataset, Split
from sw.data.dvs import cifar10_dvs, gesture, holds_cifar10_dvs, holds_gesture
from sw.data.events import EventError
from sw.data.fashion_mnist import N_VALIDATION
from sw.data.files import DATA_DIR_VARIABLE, cache_dir
from sw.data.mitbih import holds_mitbih, mitbih
from sw.data.nmnist import holds_nmnist, nmnist
from sw.data.own import load_own


def load_samples() -> Split:
    """The first test images, which come with the repository."""
    with np.load(shipped.SAMPLES) as arrays:
        return Split(images=arrays["images"], labels=arrays["labels"])


def load(
    data_dir: str | Path | None = None,
    n_validation: int = N_VALIDATION,
    *,
    name: str = "fashion-mnist",
    timesteps: int = 4,
) -> Dataset:
    """A data set, with a stratified validation split of the training data.

    Parameters
    ----------
    data_dir : folder of the data set. None: the folder in ``$SPIKEFOLD_DATA``, else known places
        and the download cache in ``~/.cache/spikefold``, else a download where there is an official
        one. For Fashion-MNIST the folder holds the four IDX files (``.gz`` or not) or
        ``fashion_mnist.npz`` (``x_train, y_train, x_test, y_test``); for the others see
        :mod:`sw.data.catalogue`.
    n_validation : size of the validation split of Fashion-MNIST, a multiple of the 10 classes.
    name : one of :data:`sw.data.catalogue.NAMES`, or the path of a user's own data
        (:func:`sw.data.own.load_own`).
    timesteps : frames that event recordings are binned into.

    Raises
    ------
    DataError
        Not found anywhere (lists the places), or a damaged file.
    """
    if name == "fashion-mnist":
        return fashion_mnist.load(data_dir, n_validation)
    if name in LOADERS:
        holds, loader = LOADERS[name]
        place = find(name, data_dir, holds)
    else:
        loader, place = load_own, Path(name).expanduser()
        if not place.exists():
            raise DataError(
                f"no data set {name!r}: use one of {', '.join(NAMES)}, or an own one's path"
            )
    try:
        return loader(place, timesteps)
    except (BeatError, EventError) as error:
        raise DataError(str(error)) from error
    except KeyError as error:
        raise DataError(f"{place} is incomplete: it lacks {error}") from error
    except (IndexError, OSError, ValueError) as error:
        raise DataError(f"{place} is incomplete or damaged: {error}") from error


def find(name: str, data_dir: str | Path | None, holds: Callable[[Path], bool]) -> Path:
    """The folder of a data set: the one named, or ``$SPIKEFOLD_DATA`` or its folder ``name``, or
    the cache's, into which CIFAR-10 is downloaded."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        for place in (folder, folder / name):
            if holds(place):
                return place
        raise DataError(
            f"{folder} does not hold {name}; sw/data/catalogue.py says what its files are"
        )
    cache = cache_dir(name)
    if holds(cache):
        return cache
    if name == "cifar10":
        try:
            download_cifar10(cache)
        except (OSError, DataError, tarfile.TarError, KeyError) as error:
            raise DataError(
                f"CIFAR-10 is not in {cache}, and the download from {CIFAR10_URL} failed: {error}. "
                f"Name its folder with --data-dir or in ${DATA_DIR_VARIABLE}"
            ) from error
        return cache
    raise DataError(
        f"{name} is not in {cache}, and its authors offer no plain download: get it from them and "
        f"name its folder with --data-dir or in ${DATA_DIR_VARIABLE}"
    )


LOADERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, int], Dataset]]] = {
    "nmnist": (holds_nmnist, nmnist),
    "dvs-gesture": (holds_gesture, gesture),
    "cifar10-dvs": (holds_cifar10_dvs, cifar10_dvs),
    "cifar10": (holds_cifar10, cifar10),
    "mitbih": (holds_mitbih, mitbih),
}
NAMES = ("fashion-mnist", *LOADERS)
"""Data sets that :func:`sw.data.catalogue.load` knows by name."""
