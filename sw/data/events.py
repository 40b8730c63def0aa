"""Event recordings: readers of the formats in use, and binning into binary frames. NumPy only.

A recording is a structured array of :data:`EVENT`, in order of time. Formats: AEDAT 2.0 and 3.1 of
128x128 sensors, the N-MNIST ``.bin`` (Orchard et al. 2015), and ``.npy``/``.npz`` with ``t, x, y,
p`` as fields or arrays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.files import ARRAY_ERRORS

EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.bool_)])
"""Time in microseconds, column, row, polarity (True: brighter)."""
SUFFIXES = (".bin", ".aedat", ".npy", ".npz")

Events = NDArray[Any]


class EventError(ValueError):
    """A file is no recording, or a damaged one; the message names the file or the field."""


def make(t: Any, x: Any, y: Any, p: Any) -> Events:
    """Make a recording from four arrays of the same length; polarities are 0 and 1, or -1 and 1."""
    events = np.empty(len(t), EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, np.asarray(p) > 0
    return events


def frames(
    events: Events, timesteps: int, shape: tuple[int, int], sensor: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Bin a recording into binary frames, 1 where there was an event in the timestep.

    The time from the first to the last event is divided into equal parts, every event belongs to
    one, and a recording without events gives empty frames.

    Parameters
    ----------
    events : with fields ``t, x, y, p`` of any numeric types; polarities above 0 are 1.
    shape : (height, width) of a frame.
    sensor : (height, width) of the sensor, if frames are to be smaller.

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
    """Read the recording in a file, whose format follows from its suffix and header.

    Raises
    ------
    EventError
        No format of :data:`SUFFIXES`, or a damaged file.
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
    """Read a file of N-MNIST, which has five bytes an event: x, y, and polarity above 23 bits of
    microseconds."""
    if len(raw) % 5:
        raise EventError(f"{len(raw)} bytes are not whole events of 5")
    data = np.frombuffer(raw, np.uint8).reshape(-1, 5).astype(np.int64)
    t = (data[:, 2] & 0x7F) << 16 | data[:, 3] << 8 | data[:, 4]
    return make(t, data[:, 0], data[:, 1], data[:, 2] >> 7)


def _read_aedat2(raw: bytes) -> Events:
    """Read a file in AEDAT 2.0 of a DVS128, which holds pairs of big-endian 32-bit address and
    time; the sensor counts columns and rows from the other end, and polarity 1 is darker."""
    start = _header_end(raw)
    if (len(raw) - start) % 8:
        raise EventError("the file ends within an event")
    words = np.frombuffer(raw, ">u4", offset=start).reshape(-1, 2).astype(np.int64)
    address = words[:, 0]
    x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F)
    return make(words[:, 1], x, y, 1 - (address & 1))


def _read_aedat3(raw: bytes) -> Events:
    """Read a file in AEDAT 3.1, which holds packets with a header of 28 bytes; polarity events are
    type 1, of 8 bytes."""
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
    """Return the offset at which the lines that begin with # end."""
    place = 0
    while raw[place : place + 1] == b"#":
        end = raw.find(b"\n", place)
        if end < 0:
            raise EventError("the header does not end")
        place = end + 1
    return place


def _from_arrays(found: Any) -> Events:
    return make(found["t"], found["x"], found["y"], found["p"])
