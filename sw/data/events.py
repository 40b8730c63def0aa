"""Read recordings of event cameras, and bin them into binary frames. It needs only NumPy.

A recording is a structured array of dtype :data:`EVENT`, in order of time. The formats are AEDAT
2.0 of the 128 x 128 sensor DVS128, AEDAT 3.1, the ``.bin`` files of N-MNIST (Orchard et al. 2015),
and NumPy files with ``t, x, y, p`` as fields (``.npy``) or as arrays (``.npz``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.files import ARRAY_ERRORS

EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.bool_)])
"""Type of an event: time in microseconds, column, row, and polarity (True: brighter)."""
SUFFIXES = (".bin", ".aedat", ".npy", ".npz")
"""Suffixes of the names of recordings' files."""

Events = NDArray[Any]


class EventError(ValueError):
    """Raised for a file that is no recording, or for events that do not suit the sensor.

    The message says what is wrong.
    """


def make(t: Any, x: Any, y: Any, p: Any) -> Events:
    """Make a recording from arrays of times, columns, rows and polarities, all of the same length.

    Polarities above 0 mean brighter, so they may be 0 and 1, or -1 and 1.
    """
    events = np.empty(len(t), EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, np.asarray(p) > 0
    return events


def frames(
    events: Events, timesteps: int, shape: tuple[int, int], sensor: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Bin a recording into one binary frame per timestep, which is 1 where any event occurred.

    The time from the first to the last event is divided into ``timesteps`` equal parts. A recording
    without events gives frames of 0.

    Parameters
    ----------
    events : structured array with fields ``t, x, y, p`` of any numeric types; polarities above 0
        count as 1.
    shape : (height, width) of a frame.
    sensor : (height, width) of the sensor, whose positions are scaled to ``shape``; None if it is
        as large as a frame.

    Returns
    -------
    uint8 (timesteps, 2, height, width) of 0 and 1; polarity 0 is darker, 1 brighter.

    Raises
    ------
    EventError
        An event lies outside the sensor.
    """
    result = np.zeros((timesteps, 2, *shape), np.uint8)
    if not len(events):
        return result
    height, width = sensor or shape
    t = events["t"].astype(np.int64)
    y, x = events["y"].astype(np.int64), events["x"].astype(np.int64)
    if min(y.min(), x.min()) < 0 or y.max() >= height or x.max() >= width:
        raise EventError(
            f"events lie at rows {y.min()} to {y.max()} and columns {x.min()} to {x.max()}, the "
            f"sensor is {height} x {width}"
        )
    t = t - t.min()
    step = t * timesteps // (t.max() + 1)
    row, column = y * shape[0] // height, x * shape[1] // width
    result[step, (events["p"] > 0).astype(np.int64), row, column] = 1
    return result


def read(path: Path) -> Events:
    """Read a recording from a file. Its suffix and its header tell the format.

    Raises
    ------
    EventError
        The file cannot be read, is damaged, or its suffix is not one of :data:`SUFFIXES`.
    """
    try:
        if path.suffix == ".bin":
            return _read_bin(path.read_bytes())
        if path.suffix == ".aedat":
            raw = path.read_bytes()
            return _read_aedat3(raw) if raw.startswith(b"#!AER-DAT3") else _read_aedat2(raw)
        if path.suffix in (".npy", ".npz"):
            with path.open("rb") as file:
                return _from_arrays(np.load(file))
    except (KeyError, IndexError, TypeError, *ARRAY_ERRORS) as error:
        raise EventError(f"{path} is damaged or no recording: {error}") from error
    raise EventError(f"{path}: recordings end in {', '.join(SUFFIXES)}")


def _read_bin(raw: bytes) -> Events:
    """Decode a ``.bin`` file of N-MNIST.

    An event has five bytes: column, row, and a 24-bit big-endian number whose top bit is the
    polarity, and whose other 23 bits are the time in microseconds.
    """
    if len(raw) % 5:
        raise EventError(f"{len(raw)} bytes are not whole events of 5")
    data = np.frombuffer(raw, np.uint8).reshape(-1, 5).astype(np.int64)
    t = (data[:, 2] & 0x7F) << 16 | data[:, 3] << 8 | data[:, 4]
    return make(t, data[:, 0], data[:, 1], data[:, 2] >> 7)


def _read_aedat2(raw: bytes) -> Events:
    """Decode an AEDAT 2.0 file of a DVS128 sensor.

    An event is two big-endian 32-bit words: an address, which holds position and polarity, and the
    time in microseconds. The file counts columns and rows from the opposite edges, and its polarity
    1 means darker; both are converted.
    """
    start = _header_end(raw)
    if (len(raw) - start) % 8:
        raise EventError("the file ends within an event")
    words = np.frombuffer(raw, ">u4", offset=start).reshape(-1, 2).astype(np.int64)
    address = words[:, 0]
    x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F)
    return make(words[:, 1], x, y, 1 - (address & 1))


def _read_aedat3(raw: bytes) -> Events:
    """Decode an AEDAT 3.1 file.

    It consists of packets, each with a header of 28 bytes. Packets of type 1 hold the camera's
    events, of 8 bytes each; other packets are skipped.
    """
    marker = b"#!END-HEADER\r\n"
    place = raw.find(marker)
    if place < 0:
        raise EventError("the header does not end")
    place += len(marker)
    parts = []
    while place < len(raw):
        if place + 28 > len(raw):
            raise EventError("the file ends within a packet's header")
        kind, _source = np.frombuffer(raw, "<u2", 2, place)
        size, _, overflow, _, number, _ = np.frombuffer(raw, "<u4", 6, place + 4).astype(np.int64)
        place += 28
        if place + size * number > len(raw):
            raise EventError("the file ends within a packet")
        if kind == 1:
            words = np.frombuffer(raw, "<u4", 2 * number, place).reshape(-1, 2).astype(np.int64)
            data = words[words[:, 0] & 1 == 1]  # bit 0: valid
            address, t = data[:, 0], data[:, 1] + (overflow << 31)
            parts.append(make(t, address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, address >> 1 & 1))
        place += int(size * number)
    return np.concatenate(parts) if parts else np.empty(0, EVENT)


def _header_end(raw: bytes) -> int:
    """Return the offset of the first byte after the header, whose lines begin with ``#``."""
    place = 0
    while raw[place : place + 1] == b"#":
        end = raw.find(b"\n", place)
        if end < 0:
            raise EventError("the header does not end")
        place = end + 1
    return place


def _from_arrays(found: Any) -> Events:
    return make(found["t"], found["x"], found["y"], found["p"])
