"""Read recordings in HDF5 files, such as those of DSEC and TUM-VIE and the caches of tonic.

The events are either four arrays ``x``, ``y``, ``t``, ``p`` (or ``xs`` and so on) in one group, or
one array with fields ``x``, ``y``, ``t``, ``p``.
"""

from __future__ import annotations

import contextlib
import importlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data import hdf5_filters
from sw.data.events_base import (
    FIELDS,
    MAX_EVENTS,
    SECONDS,
    EventError,
    Info,
    Recording,
    make,
    microseconds,
)

_MAX_OBJECTS = 10_000
"""Largest number of groups and arrays in a file that are searched for events."""
_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)
"""Exceptions that h5py raises for damaged files."""


def read(path: Path) -> Recording:
    """Return the events of an HDF5 file as a recording.

    Raises
    ------
    EventError
        h5py, or the package for the file's compression, is not installed; or the file is damaged,
        or does not have exactly one set of events.
    """
    try:
        library: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise EventError("HDF5 files need h5py: pip install 'spikefold[events]'") from error
    with contextlib.suppress(ImportError):  # adds rare compressions, if it is installed
        importlib.import_module("hdf5plugin")
    try:
        with library.File(path, "r") as file:
            return _read(library, file)
    except EventError:
        raise
    except _ERRORS as error:
        raise EventError(f"HDF5 cannot read it: {str(error)[:200]}") from error


def _read(library: Any, file: Any) -> Recording:
    found = _find(library, file)
    if len(found) != 1:
        raise EventError(
            f"it has {len(found)} sets of events"
            + (f" ({', '.join(list(found)[:6])})" if found else "")
            + ": one is needed, as arrays x, y, t, p in one group or as an array of these fields; "
            "store one in a file of its own"
        )
    ((name, columns),) = found.items()
    n = {column.shape for column in columns.values()}
    if len(n) != 1 or len(next(iter(n))) != 1:
        raise EventError(f"the arrays of {name} have shapes {', '.join(map(str, n))}, not (N,)")
    if next(iter(n))[0] > MAX_EVENTS:
        raise EventError(f"{name} has more than {MAX_EVENTS} events: cut it to a part")
    values = {key: column.values for key, column in columns.items()}
    times, unit = microseconds(values["t"])
    events = make(times, values["x"], values["y"], values["p"])
    offset = _own(library, file, "t_offset")
    if offset is not None and unit != SECONDS and offset.shape == ():
        events["t"] += microseconds(np.asarray(offset[()]).reshape(1))[0]
    return Recording(
        events=events,
        info=Info(form=f"HDF5 ({name})", sensor=_sensor(file, name), time_unit=unit),
    )


def _find(library: Any, file: Any) -> dict[str, dict[str, _Column | _Field]]:
    """Return every set of events in a file, by the name of its group or array.

    A set is a dict of its columns ``t``, ``x``, ``y`` and ``p``. ``library`` is the module h5py.

    Raises
    ------
    EventError
        The file has too many arrays, too large ones, or ones whose values are in other files.
    """
    found: dict[str, dict[str, _Column | _Field]] = {}
    seen = 0

    def visit(name: str, item: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > _MAX_OBJECTS:
            raise EventError(f"it has more than {_MAX_OBJECTS} arrays: it is no recording")
        if isinstance(item, library.Dataset):
            _check_stored(name, item)
            if set(FIELDS) <= set(item.dtype.names or ()):
                if item.ndim != 1 or item.shape[0] > MAX_EVENTS:
                    raise EventError(f"{name} has shape {item.shape}, not (N,) of few events")
                table = _Column(library, item)
                found[name] = {key: _Field(table, key) for key in FIELDS}
            return
        for ending in ("", "s"):
            names = {key: key + ending for key in FIELDS}
            columns = {key: _own(library, item, n) for key, n in names.items()}
            if all(column is not None for column in columns.values()):
                found[name] = {key: _Column(library, columns[key]) for key in FIELDS}

    visit("/", file)
    file.visititems(visit)
    return found


def _own(library: Any, group: Any, name: str) -> Any:
    """Return the array ``name`` of a group, or None if the group itself has no such array.

    Links to other files and to other places in the file are not followed. ``library`` is the module
    h5py.
    """
    if not isinstance(group.get(name, getlink=True), library.HardLink):
        return None
    item = group[name]
    return item if isinstance(item, library.Dataset) else None


class _Column:
    """An array (N,) in a file, which is read when its values are first needed."""

    def __init__(self, library: Any, array: Any) -> None:
        self._library, self._array, self.shape = library, array, array.shape

    @cached_property
    def values(self) -> NDArray[Any]:
        return hdf5_filters.read(self._library, self._array)


class _Field:
    """One field of a structured array (N,) in a file."""

    def __init__(self, table: _Column, key: str) -> None:
        self._table, self._key, self.shape = table, key, table.shape

    @property
    def values(self) -> NDArray[Any]:
        return self._table.values[self._key]


def _check_stored(name: str, item: Any) -> None:
    """Check that the values of an array are in the file itself.

    Raises
    ------
    EventError
        The values are in other files. Those are never opened, because a recording may come from an
        untrusted source.
    """
    if item.is_virtual or item.external:
        raise EventError(f"{name} refers to other files: store its values in the file itself")


def _sensor(file: Any, name: str) -> tuple[int, int] | None:
    """Return the sensor's (height, width); None if the file does not state it.

    It is taken from the attributes of the group or array ``name``, which holds the events, or else
    of a group around it.
    """
    place = file[name]
    while True:
        found = _sensor_of(place.attrs)
        if found is not None or place.name == "/":
            return found
        place = place.parent


def _sensor_of(attributes: Any) -> tuple[int, int] | None:
    values = {key: attributes.get(key) for key in ("height", "width", "geometry")}
    if isinstance(values["geometry"], str):
        width, _, height = values["geometry"].partition("x")
        values |= {"height": height, "width": width}
    with contextlib.suppress(TypeError, ValueError):
        size = int(values["height"]), int(values["width"])
        if min(size) > 0:
            return size
    return None
