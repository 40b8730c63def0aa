"""A known data set: what its folder holds, where it is looked for, and how it is read."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sw.data.dataset import DataError, Parts

DATA_DIR_VARIABLE = "SPIKEFOLD_DATA"
"""Environment variable with the folder of a data set, or of several in sub-folders."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that is known by name; :data:`sw.data.catalogue.SOURCES` lists all of them.

    Attributes
    ----------
    name : for ``--data``; also the name of its folder in the cache.
    files : what a folder must contain, in words.
    labels : names of the classes.
    holds : tell whether a folder contains the data.
    read : read the folder; event recordings are binned into the given number of timesteps. It may
        raise OSError, ValueError, IndexError or KeyError, which become DataError.
    url : where the data comes from.
    download : download the data into a folder, which need not exist; None if its authors offer no
        plain download.
    places : folders that are looked into before the cache, and what puts the data into each.
    metric : what models are selected by, see :class:`sw.data.dataset.Dataset`.
    """

    name: str
    files: str
    labels: tuple[str, ...]
    holds: Callable[[Path], bool]
    read: Callable[[Path, int], Parts]
    url: str
    download: Callable[[Path], None] | None = None
    places: tuple[tuple[Path, str], ...] = ()
    metric: str = "accuracy"


def cache_dir(name: str) -> Path:
    """Return the folder that a data set is downloaded into, after the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spikefold" / name


def find(source: Source, data_dir: str | Path | None = None) -> Path:
    """Return the folder that holds a data set.

    A folder that is named, as ``data_dir`` or in ``$SPIKEFOLD_DATA``, is the only one that is
    looked into, beside its sub-folder with the data set's name. Otherwise it is the first of the
    data set's known places and the cache, into which the data is downloaded if it can be.

    Raises
    ------
    DataError
        The data is not found; the message lists the places.
    """
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        for place in (folder, folder / source.name):
            if source.holds(place):
                return place
        origin = "the folder given" if data_dir else f"${DATA_DIR_VARIABLE}"
        raise DataError(f"{folder} ({origin}) does not hold {source.name}: it needs {source.files}")
    cache = cache_dir(source.name)
    for place in (*(folder for folder, _ in source.places), cache):
        if source.holds(place):
            return place
    places = "".join(f"{folder} ({origin}) or " for folder, origin in source.places)
    missing = f"{source.name} is not in {places}{cache}"
    advice = f"its folder with --data-dir or in ${DATA_DIR_VARIABLE}"
    if source.download is None:
        raise DataError(
            f"{missing}, and its authors offer no plain download: get it from {source.url} and "
            f"name {advice}"
        )
    try:
        source.download(cache)
    except (OSError, DataError, tarfile.TarError, KeyError) as error:
        raise DataError(
            f"{missing}, and the download from {source.url} failed: {error}. Name {advice}"
        ) from error
    return cache
