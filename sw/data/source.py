"""Describe the data sets that are known by name, and find their folders.

A description says which files a data set consists of, how they are read, and whether they can be
downloaded.
"""

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
    """Description of a data set that is known by name (:data:`sw.data.catalogue.SOURCES` lists
    all).

    Attributes
    ----------
    name : name for the option ``--data``, and of its folder in the download cache.
    files : files that its folder must contain, in words.
    labels : names of the classes.
    holds : function of a folder that returns whether it contains the data.
    read : function of a folder and a number of timesteps that reads the data, and bins event
        recordings into that many frames. If it raises OSError, ValueError, IndexError or KeyError,
        :func:`sw.data.catalogue.load` raises DataError instead.
    url : address of the authors' download or page.
    download : function that downloads the data into a folder, which need not exist; None if it can
        be downloaded by hand only.
    places : pairs of a folder in which another program may have installed the data, and a text that
        names this program. The folders are searched before the cache.
    metric : metric by which training chooses the best model, ``accuracy`` or ``balanced``
        (:class:`sw.data.dataset.Dataset`).
    read_parts : function of a folder that reads the training data, divided in several ways for
        cross-validation (:func:`sw.data.catalogue.load_parts`). It raises the same errors as
        ``read``. None if the data set defines no parts.
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
    read_parts: Callable[[Path], list[Parts]] | None = None


def cache_dir(name: str) -> Path:
    """Return the folder that a data set is downloaded into: ``$XDG_CACHE_HOME/spikefold/NAME``, by
    default ``~/.cache/spikefold/NAME``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spikefold" / name


def find(source: Source, data_dir: str | Path | None = None) -> Path:
    """Return the folder that holds a data set; download the data if necessary.

    If ``data_dir`` or else ``$SPIKEFOLD_DATA`` names a folder, only this folder and its sub-folder
    with the data set's name are searched. Otherwise, the folders in ``source.places`` are searched,
    and then the cache (:func:`cache_dir`). If none has the data, it is downloaded into the cache.

    Raises
    ------
    DataError
        The data is not found, and cannot be downloaded; the message lists the folders searched.
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
