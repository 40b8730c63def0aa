"""Encoders of event recordings in all supported formats, and random recordings.

The encoders were written from the specifications of the formats, not from the decoders that they
test.
"""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from sw.data import events

CHIPS = {
    "ch.unizh.ini.jaer.chip.retina.DVS128": (128, 128),
    "eu.seebetter.ini.chips.davis.DAVIS240C": (180, 240),
    "eu.seebetter.ini.chips.davis.Davis346red": (260, 346),
    "eu.seebetter.ini.chips.davis.Davis640": (480, 640),
}
"""Names of camera chips (Java classes) in jAER's files, with the (height, width) of each."""
END = "#!END-HEADER\r\n"


def load(path: Path, raw: bytes) -> events.Recording:
    """Write the bytes ``raw`` to a file, and return the recording that is read from it."""
    path.write_bytes(raw)
    return events.load(path)


def columns(n: int, size: tuple[int, int], end: int) -> st.SearchStrategy[np.ndarray]:
    """Return a hypothesis strategy for recordings of up to ``n`` events before time ``end``, in
    order of time."""
    gaps = st.integers(0, max(1, (end - 1) // 200))
    rows = st.tuples(gaps, st.integers(0, size[1] - 1), st.integers(0, size[0] - 1), st.booleans())

    def build(found: list[tuple[int, int, int, bool]]) -> np.ndarray:
        table = np.array(found, np.int64).reshape(-1, 4)
        return events.make(np.cumsum(table[:, 0]), *table[:, 1:].T)

    return st.lists(rows, min_size=1, max_size=n).map(build)


def rows_of(found: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return each event as integers (t, x, y, p)."""
    return [tuple(int(event[name]) for name in "txyp") for event in found]  # type: ignore[misc]


def aedat2(found: np.ndarray, chip: str = "", version: str = "2.0") -> bytes:
    """Encode events as jAER does, in AEDAT 2.0 or 1.0.

    The header names the camera ``chip``, unless that is empty.
    """
    header = f"#!AER-DAT{version}\r\n# This is a raw AE data file - do not edit\r\n"
    header += f"# AEChip: {chip}\r\n" if chip else ""
    height, width = CHIPS.get(chip, (128, 128))
    body = b""
    for t, x, y, p in rows_of(found):
        x, y = width - 1 - x, height - 1 - y
        address = y << 22 | x << 12 | p << 11 if "davis" in chip else y << 8 | x << 1 | 1 - p
        body += struct.pack(">HI" if version == "1.0" else ">II", address, t & 0xFFFFFFFF)
    return header.encode() + body


def aedat3(found: np.ndarray, camera: str = "DAVIS240C", per_packet: int = 7) -> bytes:
    """Encode events as cAER does, in AEDAT 3.1, with ``per_packet`` events in a packet.

    A packet of another kind of data precedes each packet of events.
    """
    header = f"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: {camera}\r\n" + END
    raw = header.encode()
    for start in range(0, len(found), per_packet):
        rows = rows_of(found[start : start + per_packet])
        overflow = rows[0][0] >> 31
        rows = [row for row in rows if row[0] >> 31 == overflow]
        assert len(rows) == len(found[start : start + per_packet]), "one overflow in a packet"
        body = b"".join(
            struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t & 0x7FFFFFFF) for t, x, y, p in rows
        )
        raw += struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + bytes(8)
        raw += struct.pack("<HHIIIIII", 1, 1, 8, 4, overflow, *(len(rows),) * 3) + body
    return raw


def streams(*kinds: str, size: tuple[int, int] = (260, 346)) -> str:
    """Return the XML description of the streams in an AEDAT 4.0 file, numbered from 0."""
    nodes = "".join(
        f'<node name="{n}" path="/mainloop/Recorder/outInfo/{n}/">'
        f'<attr key="typeIdentifier" type="string">{kind}</attr>'
        f'<node name="info" path="/mainloop/Recorder/outInfo/{n}/info/">'
        f'<attr key="sizeX" type="int">{size[1]}</attr>'
        f'<attr key="sizeY" type="int">{size[0]}</attr>'
        '<attr key="source" type="string">DAVIS346_00000002</attr></node></node>'
        for n, kind in enumerate(kinds)
    )
    return f'<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/">{nodes}</node></dv>'


def aedat4_header(description: str, compression: int = 0, table_at: int = -1) -> bytes:
    """Encode the header of an AEDAT 4.0 file, a FlatBuffer.

    ``description`` is the XML description of the streams. ``compression`` is the format's code for
    the kind of compression, 0 for none. ``table_at`` is the position of the table of packets in the
    file, in bytes, or -1 without a table.
    """
    text = description.encode()
    # 0 root, 4 identifier, 8 offsets of fields, 20 table: offsets, text, position, compression; 40
    body = struct.pack("<I4s5H2x", 20, b"IOHE", 10, 20, 16, 8, 4)
    body += struct.pack("<iIqi", 12, 40 - 24, table_at, compression)
    body += struct.pack("<I", len(text)) + text + b"\0"
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(body)) + body


def aedat4_packet(
    found: np.ndarray, stream: int = 0, compress: Callable[[bytes], bytes] = bytes
) -> bytes:
    """Encode events as a packet of an AEDAT 4.0 file.

    The packet is the number of the stream, the size in bytes, and a FlatBuffer of the events, which
    the function ``compress`` compresses.
    """
    data = b"".join(struct.pack("<qhhB3x", *row) for row in rows_of(found))
    # 0 root, 4 identifier, 8 offsets of fields, 16 table: offsets, vector; 24 length, 28 events
    body = struct.pack("<I4s3H2xiII", 16, b"EVTS", 6, 8, 4, 8, 24 - 20, len(found)) + data
    content = compress(struct.pack("<I", len(body)) + body)
    return struct.pack("<ii", stream, len(content)) + content


def aedat4(found: np.ndarray, compression: int = 0, per_packet: int = 9) -> bytes:
    """Encode events as iniVation's DV does, in AEDAT 4.0, with a stream of events and one of motion
    data.

    ``compression`` is the format's code: 0 for none, 1 or 2 for LZ4, another number for Zstandard.
    A packet has ``per_packet`` events.
    """
    compress: Callable[[bytes], bytes] = bytes
    if compression in (1, 2):
        compress = importlib.import_module("lz4.frame").compress
    elif compression:
        compress = importlib.import_module("zstandard").ZstdCompressor().compress
    raw = aedat4_header(streams("EVTS", "IMUS"), compression)
    for start in range(0, len(found), per_packet):
        raw += aedat4_packet(found[start : start + per_packet], 0, compress)
        raw += struct.pack("<ii", 1, 5) + b"other"
    return raw


def dat(found: np.ndarray, size: tuple[int, int] | None = (480, 640), version: int = 2) -> bytes:
    """Encode events as a ``.dat`` file of Prophesee.

    The header states the sensor's ``size`` (height, width), unless that is None, and the
    ``version`` of the format.
    """
    header = f"% Data file containing CD events\n% Version {version}\n"
    header += f"% Width {size[1]}\n% Height {size[0]}\n" if size else ""
    body = b"".join(
        struct.pack("<II", t & 0xFFFFFFFF, x | y << 14 | p << 28) for t, x, y, p in rows_of(found)
    )
    return header.encode() + b"\x0c\x08" + body


def raw_header(encoding: str, size: tuple[int, int] = (720, 1280), order: str = "") -> bytes:
    """Return the header of Prophesee's ``.raw`` file."""
    name = {"2.0": "EVT2", "2.1": "EVT21", "3.0": "EVT3"}[encoding]
    name += f";endianness={order}" if order else ""
    lines = [
        "date 2023-03-29 16:37:46",
        f"evt {encoding}",
        f"format {name};height={size[0]};width={size[1]}",
        f"geometry {size[1]}x{size[0]}",
        "end",
    ]
    return "".join(f"% {line}\n" for line in lines).encode()


def evt2(found: np.ndarray) -> bytes:
    """Encode events in Prophesee's format EVT 2.0, as a ``.raw`` file."""
    words, high = [], None
    for t, x, y, p in rows_of(found):
        if high != t >> 6:
            high = t >> 6
            words += [8 << 28 | high & 0xFFFFFFF, 0xA << 28]  # and a trigger, which is no event
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return raw_header("2.0") + np.array(words, "<u4").tobytes()


def evt21(found: np.ndarray, order: str = "little") -> bytes:
    """Encode events in Prophesee's format EVT 2.1 (a ``.raw`` file), one event per 64-bit word.

    ``order`` is the byte order of the sensor: ``little`` for GenX320, ``legacy`` for IMX636.
    """
    words, high = [], None
    for t, x, y, p in rows_of(found):
        if high != t >> 6:
            high = t >> 6
            words.append((8 << 28 | high & 0xFFFFFFF) << 32)
        base = x // 32 * 32
        words.append((p << 28 | (t & 63) << 22 | base << 11 | y) << 32 | 1 << (x - base))
    if order == "legacy":
        words = [(word & 0xFFFFFFFF) << 32 | word >> 32 for word in words]
    return raw_header("2.1", order=order) + np.array(words, "<u8").tobytes()


def evt3(found: np.ndarray, vectors: bool = False) -> bytes:
    """Encode events in Prophesee's format EVT 3.0, as a ``.raw`` file.

    With ``vectors``, each event is encoded as a vector: words of 12 or 8 bits, one bit per pixel,
    in which only the event's bit is set.
    """
    words: list[int] = []
    time = None
    for t, x, y, p in rows_of(found):
        if time != t:
            if time is None or time >> 12 != t >> 12:
                first = 0 if time is None else (time >> 12) + 1
                step = range(first, (t >> 12) + 1) if t >> 12 >= 4096 else [t >> 12]
                words += [8 << 12 | high & 0xFFF for high in step]
            words += [6 << 12 | t & 0xFFF]
            time = t
        words.append(y)
        if vectors:
            # The base lies a vector of 12 and one of 8 before those that hold the event.
            base = max(0, x - 25)
            words.append(3 << 12 | p << 11 | base)
            place = base
            for kind, width in ((4, 12), (5, 8), (4, 12), (5, 8)):
                hit = 1 << (x - place) if place <= x < place + width else 0
                words.append(kind << 12 | hit)
                place += width
        else:
            words.append(2 << 12 | p << 11 | x)
    return raw_header("3.0") + np.array(words, "<u2").tobytes()


def atis_bin(found: np.ndarray) -> bytes:
    """Encode events as a ``.bin`` file of N-MNIST."""
    return b"".join(
        struct.pack(">BBI", x, y, p << 31 | t << 8)[:5] for t, x, y, p in rows_of(found)
    )


def npy(found: np.ndarray) -> bytes:
    """Encode events as an ``.npy`` file with a structured array."""
    file = io.BytesIO()
    np.save(file, found)
    return file.getvalue()


def npz(found: np.ndarray) -> bytes:
    """Encode events as an ``.npz`` file with an array each for t, x, y and p."""
    file = io.BytesIO()
    np.savez(file, **{name: found[name] for name in "txyp"})
    return file.getvalue()


def write_hdf5(path: Path, found: np.ndarray, form: str = "dsec") -> None:
    """Write events to an HDF5 file with the layout ``form``.

    Layouts are those of DSEC (``dsec``) and of tonic's caches (``tonic``), and one with times in
    seconds (``seconds``).
    """
    import h5py

    with h5py.File(path, "w") as file:
        if form == "tonic":
            file.create_dataset("data/0", data=found, compression="lzf")
            file.create_dataset("target/0", data=3)
            return
        s = "s" if form == "seconds" else ""
        for name in "txyp":
            values = found[name] / 1e6 if s and name == "t" else found[name]
            file.create_dataset(f"events/{name}{s}", data=values)
        if not s:
            file["events/t"][...] -= 1000
            file.create_dataset("t_offset", data=np.int64(1000))
            file.create_dataset("ms_to_idx", data=np.arange(5, dtype=np.uint64))
