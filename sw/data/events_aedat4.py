"""Decode AEDAT 4.0, the format of iniVation's program DV.

The file is a header line, a FlatBuffer that says what the file contains, and packets. Each packet
is a FlatBuffer of one stream, such as events or images, and may be compressed with LZ4 or
Zstandard. iniVation's page on AEDAT 4.0 and its FlatBuffers schemas specify the format.

No library for the format is used, because the existing ones crash the whole process on some damaged
files.
"""

from __future__ import annotations

import importlib
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sw.data.events_base import EVENT, MAX_EVENTS, EventError, Events, Info, Recording, make

MAX_PACKET_BYTES = 1 << 26
"""Largest size of a decompressed packet, in bytes. Packets of DV have about 100 kB."""
_MAGIC = b"#!AER-DAT4.0\r\n"
_EVENT = np.dtype(
    {
        "names": ["t", "x", "y", "p"],
        "formats": ["<i8", "<i2", "<i2", "u1"],
        "offsets": [0, 8, 10, 12],
        "itemsize": 16,
    }
)
_NONE, _LZ4, _ZSTD = (0,), (1, 2), (3, 4)
"""Numbers that stand for each compression method in the header."""
_EVENTS = "EVTS"
"""Identifier of packets and streams of events."""
_CUT = "the file is cut or damaged: copy it again"


@dataclass(frozen=True, kw_only=True)
class _Header:
    """Fields of the file's header.

    ``compression`` is a number for the method by which packets are compressed, and ``description``
    an XML text that describes the streams. ``table_at`` is the offset of the table of packets at
    the end of the file, or -1 without one. ``start`` is the offset of the first packet.
    """

    compression: int
    table_at: int
    description: str
    start: int


def read(raw: bytes) -> Recording:
    """Return the events of an AEDAT 4.0 file as a recording, without its other streams.

    Raises
    ------
    EventError
        The file is cut or damaged, has no or several streams of events, or is compressed and the
        package for it is not installed.
    """
    header = _header(raw)
    number, form, sensor = _stream(header.description)
    parts, n_events = [np.empty(0, EVENT)], 0
    for stream, content in _packets(raw, header):
        if stream != number:
            continue
        parts.append(_events(_decompressed(content, header.compression)))
        n_events += len(parts[-1])
        if n_events > MAX_EVENTS:
            raise EventError(f"more than {MAX_EVENTS} events: cut the recording to a part")
    return Recording(events=np.concatenate(parts), info=Info(form=form, sensor=sensor))


def _header(raw: bytes) -> _Header:
    at = len(_MAGIC)
    size = _number(raw, "<I", at)
    end = at + 4 + size
    if end > len(raw):
        raise EventError(f"the header does not end: {_CUT}")
    buffer = raw[at + 4 : end]
    table = _root(buffer, b"IOHE")
    text = _reference(buffer, table, 2)
    if not text:
        raise EventError(f"the header describes no streams: {_CUT}")
    n_text = _number(buffer, "<I", text)
    description = buffer[text + 4 : text + 4 + n_text]
    if len(description) < n_text:
        raise EventError(f"the header does not end: {_CUT}")
    where = [_field(buffer, table, n) for n in (0, 1)]
    header = _Header(
        compression=_number(buffer, "<i", where[0]) if where[0] else 0,
        table_at=_number(buffer, "<q", where[1]) if where[1] else -1,
        description=description.decode("utf-8", "replace"),
        start=end,
    )
    if header.table_at != -1 and not header.start <= header.table_at <= len(raw):
        raise EventError(f"its table of packets lies outside the file: {_CUT}")
    return header


def _stream(description: str) -> tuple[int, str, tuple[int, int] | None]:
    """Parse the XML ``description`` of a file's streams, and return the facts about its stream of
    events.

    Returns
    -------
    The stream's number; the file's format with the camera if it is named, for
    :attr:`sw.data.events_base.Info.form`; and the sensor's (height, width), or None if it is not
    stated.

    Raises
    ------
    EventError
        The description is damaged, or has no or several streams of events.
    """
    if "<!DOCTYPE" in description:
        raise EventError(f"its description of streams declares entities: {_CUT}")
    try:
        streams = ElementTree.fromstring(description).findall("./node[@name='outInfo']/node")
    except ElementTree.ParseError as error:
        raise EventError(f"its description of streams is no XML ({error}): {_CUT}") from error
    kinds = {s.get("name", ""): s.findtext("attr[@key='typeIdentifier']", "") for s in streams}
    found = [s for s in streams if kinds[s.get("name", "")] == _EVENTS]
    if len(found) != 1 or not found[0].get("name", "").isdecimal():
        listed = ", ".join(f"{name[:20]}: {kind[:20]}" for name, kind in kinds.items())
        raise EventError(
            f"it has {len(found)} streams of events (streams {listed or 'none'}): export one with "
            "iniVation's DV"
        )
    info = {a.get("key"): (a.text or "") for a in found[0].findall("node[@name='info']/attr")}
    size = [info.get(key, "") for key in ("sizeY", "sizeX")]
    sensor = None
    if all(n.isdecimal() and 0 < len(n) < 6 for n in size):
        sensor = int(size[0]), int(size[1])
    source = info.get("source", "")
    return (
        int(found[0].get("name", "")),
        "AEDAT 4.0" + (f" of {source[:40]}" * bool(source)),
        sensor,
    )


def _packets(raw: bytes, header: _Header) -> Iterator[tuple[int, bytes]]:
    """Yield the stream's number and the content, maybe compressed, of every packet in a file.

    Raises
    ------
    EventError
        The file ends within a packet.
    """
    place = header.start
    end = len(raw) if header.table_at == -1 else header.table_at
    while place < end:
        stream, size = _number(raw, "<i", place), _number(raw, "<i", place + 4)
        place += 8
        if size < 0 or place + size > end:
            raise EventError(f"the file ends within a packet: {_CUT}")
        yield stream, raw[place : place + size]
        place += size


def _decompressed(content: bytes, compression: int) -> bytes:
    """Return the decompressed content of a packet.

    ``compression`` is the number that the header gives for the method of compression.

    Raises
    ------
    EventError
        The content is damaged, larger than :data:`MAX_PACKET_BYTES`, or the package for its
        compression is not installed.
    """
    if compression in _NONE:
        return content
    if compression not in _LZ4 + _ZSTD:
        raise EventError(f"its compression {compression} is not known: export it again with LZ4")
    package = "lz4" if compression in _LZ4 else "zstandard"
    try:
        library: Any = importlib.import_module("lz4.frame" if package == "lz4" else "zstandard")
    except ImportError as error:
        raise EventError(
            f"it is compressed, which needs {package}: pip install 'spikefold[events]'"
        ) from error
    errors = (RuntimeError, EOFError, MemoryError, getattr(library, "ZstdError", OSError))
    try:
        if package == "lz4":
            decoder = library.LZ4FrameDecompressor()
            found = decoder.decompress(content, MAX_PACKET_BYTES + 1)
            whole = decoder.eof
        else:
            limited = library.ZstdDecompressor(max_window_size=MAX_PACKET_BYTES)
            with limited.stream_reader(content) as reader:
                found = reader.read(MAX_PACKET_BYTES + 1)
            whole = True  # the size of the FlatBuffer is checked
    except errors as error:
        raise EventError(f"a packet cannot be decompressed ({error}): {_CUT}") from error
    if len(found) > MAX_PACKET_BYTES or not whole:
        raise EventError(f"a packet is no whole frame of {package}: {_CUT}")
    return found


def _events(packet: bytes) -> Events:
    """Return the events in a packet, which is a FlatBuffer with its size in front.

    Raises
    ------
    EventError
        The packet is damaged.
    """
    buffer = packet[4:]
    if _number(packet, "<I", 0) != len(buffer):
        raise EventError(f"a packet of events has another size than it says: {_CUT}")
    vector = _reference(buffer, _root(buffer, _EVENTS.encode()), 0)
    if not vector:
        return np.empty(0, EVENT)
    n = _number(buffer, "<I", vector)
    if vector + 4 + n * _EVENT.itemsize > len(buffer):
        raise EventError(f"a packet ends within its events: {_CUT}")
    found = np.frombuffer(buffer, _EVENT, n, vector + 4)
    return make(found["t"], found["x"], found["y"], found["p"])


# ---- FlatBuffers ---------------------------------------------------------------------------------


def _number(buffer: bytes, form: str, at: int) -> int:
    """Return the integer at the offset ``at``; ``form`` is its format for :mod:`struct`.

    Raises
    ------
    EventError
        The offset lies outside the buffer, because the file is damaged.
    """
    if not 0 <= at <= len(buffer) - struct.calcsize(form):
        raise EventError(f"an offset leaves its packet: {_CUT}")
    return struct.unpack_from(form, buffer, at)[0]


def _root(buffer: bytes, identifier: bytes) -> int:
    """Return the offset of the main table of a FlatBuffer.

    Raises
    ------
    EventError
        The buffer's own identifier differs from ``identifier``, so it holds other contents.
    """
    if buffer[4:8] != identifier:
        raise EventError(f"a packet of {identifier.decode()} was expected: {_CUT}")
    return _number(buffer, "<I", 0)


def _field(buffer: bytes, table: int, number: int) -> int:
    """Return the offset of field ``number`` of the FlatBuffers table at the offset ``table``.

    It is 0 if the field is not stored, because it has its default value.
    """
    fields = table - _number(buffer, "<i", table)
    at = 4 + 2 * number
    if at >= _number(buffer, "<H", fields):
        return 0
    offset = _number(buffer, "<H", fields + at)
    return table + offset if offset else 0


def _reference(buffer: bytes, table: int, number: int) -> int:
    """Return the offset of the text or vector that a table's field refers to.

    It is 0 if there is none. For ``table`` and ``number``, see :func:`_field`.
    """
    at = _field(buffer, table, number)
    return at + _number(buffer, "<I", at) if at else 0
