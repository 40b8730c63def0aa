"""Read recordings of event cameras, and bin them into binary frames.

A recording in memory is a structured array of dtype :data:`EVENT`. The first bytes of a file tell
its format: AEDAT 1.0, 2.0, 3.1 and 4.0; Prophesee's ``.dat`` and ``.raw``; HDF5; and NumPy files
with ``t``, ``x``, ``y`` and ``p`` as fields (``.npy``) or as arrays (``.npz``). Only the ``.bin``
files of N-MNIST and N-Caltech101 (Orchard et al. 2015) have no such bytes. They are recognised by
their name, and because their times never go back.

NumPy is enough for all formats but HDF5 and compressed AEDAT 4.0.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.text import printable
from sw.data import events_aedat, events_aedat4, events_hdf5, events_prophesee
from sw.data.events_base import (
    EVENT,
    FIELDS,
    MAX_DURATION_US,
    MAX_EVENTS,
    EventError,
    Events,
    Info,
    Recording,
    make,
    microseconds,
    polarities,
    positions,
)
from sw.files import ARRAY_ERRORS

__all__ = [
    "EVENT",
    "SUFFIXES",
    "EventError",
    "Events",
    "Info",
    "Recording",
    "binned",
    "frames",
    "has_header",
    "is_named",
    "load",
    "make",
    "read",
    "summary",
]

FILE_SUFFIXES = (".aedat", ".aedat4", ".bin", ".dat", ".raw", ".h5", ".hdf5")
"""Endings, in lower case, of the names of files that always hold a recording."""
SUFFIXES = (*FILE_SUFFIXES, ".npy", ".npz")
"""Endings, in lower case, of the names of recordings' files. They only tell which files of a folder
are recordings; the format follows from the first bytes of a file."""
MAX_BYTES = 1 << 32
"""Size of the largest file that is read, in bytes."""
_ATIS_OVERFLOW_ROW, _ATIS_OVERFLOW_US = 240, 1 << 13
"""Row that marks an overflow entry in a ``.bin`` file, and the microseconds that such an entry adds
to the time. Overflow entries are no events."""
_NUMPY, _ZIP, _HDF5, _AEDAT, _PROPHESEE = b"\x93NUMPY", b"PK\3\4", b"\x89HDF\r\n\x1a\n", b"#!", b"%"


def is_named(path: Path) -> bool:
    """Return whether a file's name ends with one of :data:`SUFFIXES`, as the names of recordings
    do.
    """
    return path.suffix.lower() in SUFFIXES


def has_header(path: Path) -> bool:
    """Return whether a file has the first bytes of AEDAT, of Prophesee's formats or of HDF5.

    Such files are taken for recordings. NumPy files are not, because they may hold anything.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return start.startswith((b"#!AER-DAT", _HDF5, _PROPHESEE + b" "))


def frames(
    events: Events, timesteps: int, shape: tuple[int, int], sensor: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Bin a recording into one binary frame per timestep, which is 1 where any event occurred.

    The time from the first to the last event is divided into ``timesteps`` equal parts. A recording
    without events gives frames of 0.

    Parameters
    ----------
    events : structured array with fields ``t, x, y, p`` of any numeric types. Times are whole
        microseconds, or seconds if any has a fraction; polarities are 0 and 1, or -1 and 1.
    shape : (height, width) of a frame.
    sensor : (height, width) of the sensor, whose positions are scaled to ``shape``; None if it is
        as large as a frame.

    Returns
    -------
    uint8 (timesteps, 2, height, width) of 0 and 1; polarity 0 is darker, 1 brighter.

    Raises
    ------
    EventError
        An event lies outside the sensor, a field is missing, or its values are no times, positions
        or polarities.
    """
    missing = [name for name in FIELDS if name not in (events.dtype.names or ())]
    if missing or events.ndim != 1:
        raise EventError(
            f"a recording is an array (N,) with fields t, x, y, p; this one is {events.shape} and "
            f"lacks {', '.join(missing) or 'none'}"
        )
    result = np.zeros((timesteps, 2, *shape), np.uint8)
    if not len(events):
        return result
    height, width = sensor or shape
    t, _ = microseconds(events["t"])
    y, x = positions(events["y"], "y"), positions(events["x"], "x")
    if y.max() >= height or x.max() >= width:
        raise EventError(
            f"events lie at rows {y.min()} to {y.max()} and columns {x.min()} to {x.max()}, the "
            f"sensor is {height} x {width}"
        )
    t = t - t.min()
    duration = int(t.max()) + 1
    _check_duration(duration)
    step = t * timesteps // duration
    row, column = y * shape[0] // height, x * shape[1] // width
    result[step, polarities(events["p"]).astype(np.int64), row, column] = 1
    return result


def _check_duration(duration_us: int) -> None:
    if duration_us > MAX_DURATION_US:
        raise EventError(
            f"the recording takes {duration_us} microseconds: its times are damaged, or in a unit "
            "smaller than microseconds"
        )


def binned(
    path: Path, timesteps: int, shape: tuple[int, int], sensor: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], Info]:
    """Read a recording, and return it as binary frames (:func:`frames`), with its description.

    ``shape`` is the (height, width) of a frame, and ``sensor`` the (height, width) of the sensor.
    If ``sensor`` is None, the size that the file states is used or, without one, ``shape``.

    Raises
    ------
    EventError
        The recording cannot be read (:func:`load`) or binned (:func:`frames`); the message begins
        with the path.
    """
    found = load(path)
    try:
        return frames(found.events, timesteps, shape, sensor or found.info.sensor), found.info
    except EventError as error:
        raise EventError(f"{path}: {error}") from error


def read(path: Path) -> Events:
    """Return the events of a recording in a file; see :func:`load` for errors."""
    return load(path).events


def load(path: Path) -> Recording:
    """Return the events of a recording in a file, and its description.

    Raises
    ------
    EventError
        The file cannot be read, is damaged, or is in an unknown format.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EventError(f"more than {MAX_BYTES} bytes: cut the recording to a part")
        with path.open("rb") as file:
            start = file.read(16)
        found = _load(path, start)
        return _completed(found)
    except (KeyError, IndexError, TypeError, *ARRAY_ERRORS) as error:  # EventError is a ValueError
        raise EventError(
            f"{path} cannot be read as a recording: {printable(str(error))}"
        ) from error


def _load(path: Path, start: bytes) -> Recording:
    """Return the recording in a file, whose first bytes ``start`` tell the format."""
    if not start:
        raise EventError("the file is empty")
    if start.startswith(_HDF5):
        return events_hdf5.read(path)
    if start.startswith((_NUMPY, _ZIP)):
        return _read_arrays(path)
    raw = path.read_bytes()
    if start.startswith(_AEDAT):
        match = re.match(rb"#!AER-DAT(\d\.\d)\r?\n", raw)
        version = match[1].decode() if match else ""
        if version == "4.0":
            return events_aedat4.read(raw)
        if version in ("1.0", "2.0", "3.1"):
            return events_aedat.read(raw, version)
        line = raw[:40].partition(b"\n")[0].decode("latin-1").strip()
        raise EventError(
            f"its first line is {line!r}, expected #!AER-DAT and 1.0, 2.0, 3.1 or 4.0: convert it "
            "to AEDAT 4 with iniVation's DV"
        )
    if start.startswith(_PROPHESEE):
        return events_prophesee.read(raw)
    if path.suffix.lower() == ".bin":
        return _read_bin(raw)
    raise EventError(
        f"its first bytes {start[:8].hex(' ')} are those of no known format. Recordings are AEDAT "
        "1.0, 2.0, 3.1 or 4.0, Prophesee's .dat or .raw, HDF5, .npy or .npz with t, x, y, p, or "
        ".bin files of N-MNIST"
    )


def _completed(found: Recording) -> Recording:
    """Return a recording whose description also has the number and the duration of its events.

    Raises
    ------
    EventError
        Events lie outside the sensor that the file states, or the recording is too long.
    """
    events, info = found.events, found.info
    if info.sensor is not None and len(events):
        height, width = info.sensor
        last = int(events["y"].max()), int(events["x"].max())
        if last[0] >= height or last[1] >= width:
            raise EventError(
                f"events reach row {last[0]} and column {last[1]}, but the file says that the "
                f"sensor is {height} x {width}"
            )
    duration = int(events["t"].max()) - int(events["t"].min()) if len(events) else 0
    _check_duration(duration)
    return dataclasses.replace(
        found,
        info=dataclasses.replace(
            info, form=printable(info.form), n_events=len(events), duration_us=duration
        ),
    )


def _read_bin(raw: bytes) -> Recording:
    """Return the recording in a ``.bin`` file of N-MNIST or N-Caltech101.

    An event has five bytes: column, row, and a 24-bit big-endian number whose top bit is the
    polarity, and whose other 23 bits are the time in microseconds.

    Raises
    ------
    EventError
        The times go back or the last event is cut, so that the file is another kind of ``.bin``
        file.
    """
    if len(raw) % 5:
        raise EventError(f"{len(raw)} bytes are not whole events of 5")
    data = np.frombuffer(raw, np.uint8).reshape(-1, 5).astype(np.int64)
    t = (data[:, 2] & 0x7F) << 16 | data[:, 3] << 8 | data[:, 4]
    is_overflow = data[:, 1] == _ATIS_OVERFLOW_ROW
    t = t + np.cumsum(is_overflow) * _ATIS_OVERFLOW_US
    kept = ~is_overflow
    if (np.diff(t[kept]) < 0).any():
        raise EventError("its times go back, unlike those in a .bin file of N-MNIST")
    events = make(t[kept], data[kept, 0], data[kept, 1], data[kept, 2] >> 7)
    return Recording(events=events, info=Info(form=".bin of N-MNIST"))


def _read_arrays(path: Path) -> Recording:
    """Return the recording in a NumPy file, which has the events as fields or as arrays.

    Raises
    ------
    EventError
        An array is missing, the arrays are too large, or their values are no events.
    """
    if path.stat().st_size and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(entry.file_size for entry in archive.infolist())
        if n_bytes > MAX_BYTES:
            raise EventError(f"more than {MAX_BYTES} bytes of arrays: cut the recording to a part")
    with path.open("rb") as file:
        found: Any = np.load(file)
        arrays = {}
        for name in FIELDS:
            try:
                arrays[name] = np.asarray(found[name])
            except (KeyError, IndexError, ValueError) as error:
                raise EventError(
                    f"it has no {name}: t, x, y and p are needed, as fields of an .npy file or as "
                    "arrays of an .npz file"
                ) from error
    if arrays["t"].size > MAX_EVENTS:
        raise EventError(f"more than {MAX_EVENTS} events: cut the recording to a part")
    times, unit = microseconds(arrays["t"])
    events = make(times, arrays["x"], arrays["y"], arrays["p"])
    return Recording(events=events, info=Info(form="NumPy arrays", time_unit=unit))


def summary(infos: Iterable[Info]) -> list[str]:
    """Return a description of recordings for the user.

    It has one line for each combination of format with camera, sensor size and unit of time.
    """
    groups: dict[tuple[Any, ...], list[Info]] = {}
    for info in infos:
        groups.setdefault((info.form, info.sensor, info.time_unit), []).append(info)
    return [_line(group) for group in groups.values()]


def _line(group: list[Info]) -> str:
    first = group[0]
    counts = sorted(info.n_events for info in group)
    seconds = [f"{us / 1e6:.3g}" for us in sorted(info.duration_us for info in group)]
    sensor = "of a size that the file does not say"
    if first.sensor is not None:
        sensor = f"{first.sensor[0]} x {first.sensor[1]} (height x width)"
    n_outside = sum(info.n_outside for info in group)
    return (
        f"{len(group)} recording{'s' * (len(group) > 1)}, {first.form}: sensor {sensor}, "
        f"{_span([f'{n:,}' for n in counts])} event{'s' * (counts[-1] != 1)} in "
        f"{_span(seconds)} s, times in {first.time_unit}"
        + (f"; left out because they lie outside the sensor: {n_outside:,}" * bool(n_outside))
    )


def _span(values: list[str]) -> str:
    """Return the first and the last of sorted values as a text, such as ``3 to 7``.

    If they are equal, the text is that one value.
    """
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
