"""Decode Prophesee's recordings: ``.dat`` files, and ``.raw`` files with EVT 2.0, 2.1 or 3.0.

All files begin with a header of lines of text, each of which begins with ``%``. Prophesee's pages
on file and encoding formats specify the files.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from sw.data.events_base import EventError, Events, Info, Recording, latest, make, unwrapped

_MAX_HEADER_BYTES = 1 << 16
_SENSORS = {
    r"genx320": (320, 320),
    r"gen3\d?": (480, 640),
    r"gen4\d?|imx636|imx646": (720, 1280),
}
"""(height, width) of known sensors, for files that do not state it. A key is a regular expression
for a part, between underscores, of the header's value ``plugin_name``."""
_DAT_TYPES = (0, 12)
"""Type numbers of ``.dat`` files that hold events of pixels."""
_MAX_OUTSIDE = 0.01
"""Largest share of events outside the sensor. Cameras send a few; more are a sign of damage."""


def read(raw: bytes) -> Recording:
    """Return the recording in a ``.dat`` or ``.raw`` file, whose header tells the format.

    Raises
    ------
    EventError
        The file is damaged, or in another format or version.
    """
    header, start = _header(raw)
    if "Data" in header or "Version" in header:
        return _read_dat(raw, header, start)
    encoding, options = _encoding(header)
    order = options.get("endianness", header.get("endianness", ""))
    size = {"2.0": 4, "3.0": 2, "2.1": 8}.get(encoding)
    if size is None:
        raise EventError(
            (f"its encoding {encoding[:20]!r} is not known" if encoding else "it names no encoding")
            + ": convert it to EVT 3.0 or to .dat with Prophesee's Metavision Studio"
        )
    if (len(raw) - start) % size:
        raise EventError(f"the file ends within a word of {size} bytes: copy it again")
    if order not in ("", "little", "legacy") or (encoding == "2.1" and not order):
        raise EventError(
            (
                f"its words are in the order {order[:20]!r}"
                if order
                else "it names no order of words"
            )
            + ", expected 'endianness=little' or 'legacy' in the header: convert it to EVT 3.0 or "
            "to .dat with Prophesee's Metavision Studio"
        )
    words = np.frombuffer(raw, f"<u{size}", offset=start)
    if encoding == "2.1" and order == "legacy":  # the upper half of a word is sent first
        words = words << np.uint64(32) | words >> np.uint64(32)
    decode = {"2.0": _decode_evt2, "3.0": _decode_evt3, "2.1": _decode_evt21}[encoding]
    t, x, y, p = decode(words)
    sensor = _sensor(header, options)
    return _recording(f"EVT {encoding}", sensor, t, x, y, p)


def _recording(
    form: str,
    sensor: tuple[int, int] | None,
    t: NDArray[np.int64],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    p: NDArray[np.int64],
) -> Recording:
    """Return a recording of the events inside the sensor.

    ``form`` is the file's format, and ``sensor`` the (height, width), or None if unknown. ``t``,
    ``x``, ``y`` and ``p`` are the events' times, columns, rows and polarities.

    Raises
    ------
    EventError
        So many events lie outside the sensor that the file must be damaged.
    """
    kept = np.ones(len(t), np.bool_)
    if sensor is not None:
        kept = (x < sensor[1]) & (y < sensor[0])
    n_outside = len(kept) - int(kept.sum())
    if n_outside > _MAX_OUTSIDE * len(kept):
        raise EventError(
            f"{n_outside} of {len(kept)} events lie outside the sensor of "
            f"{' x '.join(map(str, sensor or ()))} pixels: the file is damaged, copy it again"
        )
    events: Events = make(t[kept], x[kept], y[kept], p[kept])
    info = Info(form=f"Prophesee {form}", sensor=sensor, n_outside=n_outside)
    return Recording(events=events, info=info)


def _header(raw: bytes) -> tuple[dict[str, str], int]:
    """Return the header's values by keyword, and the offset of the first byte after it."""
    header: dict[str, str] = {}
    place = 0
    while raw[place : place + 1] == b"%" and raw[place + 1 : place + 2] in (b" ", b"\n", b"\r"):
        end = raw.find(b"\n", place, _MAX_HEADER_BYTES)
        if end < 0:
            raise EventError("the header does not end: the file is cut, copy it again")
        line = raw[place + 1 : end].decode("latin-1").strip()
        place = end + 1
        if line == "end":
            break
        keyword, _, value = line.partition(" ")
        header[keyword] = value.strip()
    return header, place


def _encoding(header: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the encoding that a header states, such as ``3.0``, and the options of its line
    ``format``."""
    name, *rest = header.get("format", "").split(";")
    options = {key.strip(): value.strip() for key, _, value in (r.partition("=") for r in rest)}
    names = {"EVT2": "2.0", "EVT21": "2.1", "EVT3": "3.0"}
    return names.get(name.strip(), name.strip() or header.get("evt", "")), options


def _sensor(header: dict[str, str], options: dict[str, str]) -> tuple[int, int] | None:
    """Return the sensor's (height, width) as stated in the header or in ``options``.

    If they do not state it, the size is that of the camera that the header names. The result is
    None if the camera is unknown, too.
    """
    width, _, height = header.get("geometry", "").partition("x")
    sizes = [
        (height, width),
        (options.get("height", ""), options.get("width", "")),
        (header.get("Height", ""), header.get("Width", "")),
    ]
    for size in sizes:
        if all(re.fullmatch(r"[1-9]\d{0,4}", n) for n in size):
            return int(size[0]), int(size[1])
    parts = header.get("plugin_name", "").split("_")
    return next(
        (s for name, s in _SENSORS.items() if any(re.fullmatch(name, p) for p in parts)), None
    )


def _read_dat(raw: bytes, header: dict[str, str], start: int) -> Recording:
    """Return the recording in a ``.dat`` file, of which ``start`` bytes are lines of text.

    After these, two bytes hold the type and the size of an event. Then each event has two
    little-endian words of 32 bits: the time in microseconds; and 14 bits of column, 14 bits of row,
    and the polarity.

    Raises
    ------
    EventError
        The version or the type of events is not supported, or the file is damaged.
    """
    version = header.get("Version", "")
    if version != "2":
        raise EventError(
            f"a .dat file of version {version or 'unknown'}; version 2 is read: convert it with "
            "Prophesee's Metavision Studio"
        )
    if len(raw) < start + 2:
        raise EventError("the file ends within its header: copy it again")
    kind, size = raw[start], raw[start + 1]
    if kind not in _DAT_TYPES or size != 8:
        raise EventError(
            f"it holds events of type {kind} and {size} bytes, not those of pixels (type 0 or 12, "
            "8 bytes)"
        )
    if (len(raw) - start - 2) % 8:
        raise EventError("the file ends within an event of 8 bytes: copy it again")
    pairs = np.frombuffer(raw, "<u4", offset=start + 2).reshape(-1, 2).astype(np.int64)
    data = pairs[:, 1]
    if (data >> 29).any():
        raise EventError("its events have bits that a .dat file does not use: it is damaged")
    t = unwrapped(pairs[:, 0], 32)
    x, y, p = data & 0x3FFF, data >> 14 & 0x3FFF, data >> 28
    return _recording(".dat", _sensor(header, {}), t, x, y, p)


Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _decode_evt2(words: NDArray[np.uint32]) -> Columns:
    """Decode words of EVT 2.0, and return times, columns, rows and polarities.

    The highest four bits of a word are its type. Words of type 8 hold the upper 28 bits of the time
    in microseconds. Words of type 0 (darker) and 1 (brighter) are events. They hold the lower 6
    bits of the time, the column and the row.
    """
    data = words.astype(np.int64)
    high, seen = _high_times(data, data >> 28 == 8, 28)
    chosen = (data >> 28 <= 1) & seen
    data, high = data[chosen], high[chosen]
    return high << 6 | data >> 22 & 0x3F, data >> 11 & 0x7FF, data & 0x7FF, data >> 28


def _decode_evt21(words: NDArray[np.uint64]) -> Columns:
    """Decode words of EVT 2.1, and return times, columns, rows and polarities.

    The upper 32 bits are a word of EVT 2.0. The lower 32 bits stand for 32 neighbouring columns,
    beginning at the column in the upper half; a bit of 1 is an event in its column.
    """
    upper, valid = (words >> np.uint64(32)).astype(np.int64), words & np.uint64(0xFFFFFFFF)
    high, seen = _high_times(upper, upper >> 28 == 8, 28)
    chosen = np.flatnonzero((upper >> 28 <= 1) & seen)
    bits = valid[chosen, None] >> np.arange(32, dtype=np.uint64) & np.uint64(1)
    which, column = np.nonzero(bits)
    data, high = upper[chosen][which], high[chosen][which]
    return high << 6 | data >> 22 & 0x3F, (data >> 11 & 0x7FF) + column, data & 0x7FF, data >> 28


def _high_times(
    data: NDArray[np.int64], is_high: NDArray[np.bool_], n_bits: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the upper bits of the current time at every word of a file.

    ``data`` (N,) are the words. A word for which ``is_high`` (N,) is True sets the upper bits: its
    lowest ``n_bits`` bits are valid until the next such word. In the file, this number starts again
    from 0 when it overflows; the result continues to count instead.

    The second result is a mask (N,) of the words at which the upper bits are known: the first word
    that sets them, and all words after it.
    """
    places = np.flatnonzero(is_high)
    counts = unwrapped(data[places] & ((1 << n_bits) - 1), n_bits)
    current = np.cumsum(is_high) - 1
    seen = current >= 0
    if not len(places):
        return np.zeros(len(data), np.int64), seen
    return counts[np.maximum(current, 0)], seen


def _decode_evt3(words: NDArray[np.uint16]) -> Columns:
    """Decode words of EVT 3.0, and return times, columns, rows and polarities.

    A word has four bits of type and 12 bits of data. Most words only set a value for the events
    that follow: the row, the upper or the lower 12 bits of the time, or the first column of a
    series of vector words. A word for a single event holds its column. A vector word holds one bit
    for each of 12 or 8 neighbouring columns. They follow the columns of the vector word before.
    """
    data = words.astype(np.int64)
    kind, value = data >> 12, data & 0xFFF
    high, seen = _high_times(value, kind == 8, 12)
    changes = np.zeros(len(data), np.bool_)
    changes[1:] = high[1:] != high[:-1]
    at_low, at_row, at_base = latest(kind == 6), latest(kind <= 1), latest(kind == 3)
    # The lower part counts from 0 when the upper one has changed, until it is sent.
    low = np.where((at_low >= 0) & (at_low > latest(changes)), value[at_low], 0)
    row = np.where(kind[at_row] == 0, value[at_row] & 0x7FF, -1)  # type 1 is no row of pixels
    known = seen & (at_row >= 0) & (row >= 0)
    widths = np.where(kind == 4, 12, np.where(kind == 5, 8, 0))
    travelled = np.cumsum(widths)
    singles = np.flatnonzero((kind == 2) & known)
    vectors = np.flatnonzero((widths > 0) & known & (at_base >= 0))
    bits = (value[vectors, None] >> np.arange(12) & 1) * (np.arange(12) < widths[vectors, None])
    which, column = np.nonzero(bits)
    hits = vectors[which]
    base = at_base[hits]
    first = (value[base] & 0x7FF) + travelled[hits] - widths[hits] - travelled[base]
    words_of = np.concatenate([singles, hits])
    order = np.argsort(words_of, kind="stable")
    x = np.concatenate([value[singles] & 0x7FF, first + column])[order]
    p = np.concatenate([value[singles] >> 11, value[base] >> 11])[order]
    at = words_of[order]
    return high[at] << 12 | low[at], x, row[at], p
