"""Decode the AEDAT formats 1.0, 2.0 and 3.1, which cameras of iniVation and INI write.

Format 4.0 is in :mod:`sw.data.events_aedat4`. iniVation's pages on AEDAT specify the formats. They
leave open what the bits of an event's address mean and from which corner columns and rows count.
These are taken from the event extractors of jAER, the program that wrote most files of the formats
1.0 and 2.0.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from sw.data.events_base import EVENT, EventError, Events, Info, Recording, make, unwrapped

DVS128 = "DVS128"
SENSORS = {
    DVS128: (128, 128),
    "DAVIS128": (128, 128),
    "DAVIS208": (192, 208),
    "DAVIS240": (180, 240),
    "DAVIS346": (260, 346),
    "DAVIS640": (480, 640),
}
"""(height, width) in pixels of the sensor of each known camera."""
_COLOURS = r"(?:mono|rgb|rgbw|color|pixelparade|pixelparadecolor)?"
_CHIPS = {
    DVS128: r"dvs128|tmpdiff128",
    "DAVIS128": rf"davis128{_COLOURS}",
    "DAVIS208": rf"davis208{_COLOURS}|davis192pixelparade",
    "DAVIS240": r"davis240[abc]?|sbret[12][01]",
    "DAVIS346": rf"davis346(?:[ab]{_COLOURS}|blue|red(?:color)?|c?bsi|zynq)?",
    "DAVIS640": rf"davis640{_COLOURS}",
}
"""Regular expressions for the names, in lower case, that files give to the cameras. Cameras whose
addresses have another format, such as DAVIS346mini and the RGBW sensors, are left out on
purpose."""
_PACKET_HEADER_BYTES = 28
_POLARITY = 1
"""Type number of AEDAT 3.1 packets that hold polarity events, the events of pixels."""
_END_3 = b"#!END-HEADER\r\n"
_END_2 = "#End Of ASCII Header"
_TEXT = re.compile(rb"#[^\x00-\x08\x0a-\x0c\x0e-\x1f]*")


def camera(name: str) -> str | None:
    """Return the key in :data:`SENSORS` of the camera that a file names; None if it is unknown.

    Files of jAER name the Java class of the camera.

    >>> camera("eu.seebetter.ini.chips.davis.Davis346red"), camera("CDAVIS")
    ('DAVIS346', None)
    """
    last = name.strip().rpartition(".")[2].lower()
    return next((key for key, names in _CHIPS.items() if re.fullmatch(names, last)), None)


def read(raw: bytes, version: str) -> Recording:
    """Return the recording in an AEDAT file of version 1.0, 2.0 or 3.1, whose bytes are ``raw``.

    Raises
    ------
    EventError
        The file is damaged, or its camera is unknown.
    """
    return _read_3(raw) if version == "3.1" else _read_1_or_2(raw, version)


def _read_1_or_2(raw: bytes, version: str) -> Recording:
    """Return the recording in a file of AEDAT 1.0 or 2.0.

    After the header, each event is big-endian: an address of 16 bits (1.0) or 32 bits (2.0), and 32
    bits of time in microseconds. The header line ``AEChip`` names the camera. Without this line,
    the camera must be a DVS128, which was the only one at first.

    Raises
    ------
    EventError
        The file is damaged, its camera is not known, or it names no camera and the addresses are
        not those of a DVS128.
    """
    lines, start = _header(raw)
    chip = next((n.partition(":")[2] for n in lines if re.match("# ?AEChip:", n)), "")
    found = camera(chip) if chip else DVS128
    known = [name for name in SENSORS if version == "2.0" or name == DVS128]
    if found not in known:
        raise EventError(
            f"AEDAT {version} of the camera {chip.strip()[:80]!r}, whose addresses are not known "
            f"(known are {', '.join(known)}): convert it to AEDAT 4 with iniVation's DV, or to "
            ".npz with arrays t, x, y, p"
        )
    pair = np.dtype([("address", ">u2" if version == "1.0" else ">u4"), ("t", ">i4")])
    if (len(raw) - start) % pair.itemsize:
        raise EventError(f"the file ends within an event of {pair.itemsize} bytes: copy it again")
    pairs = np.frombuffer(raw, pair, offset=start)
    t = unwrapped(pairs["t"].astype(np.int64), 32)
    events = _addresses(pairs["address"].astype(np.int64), t, found, named=bool(chip))
    form = f"AEDAT {version} of a {found}" + ("" if chip else " (the file names no camera)")
    return Recording(events=events, info=Info(form=form, sensor=SENSORS[found]))


def _addresses(address: NDArray[np.int64], t: NDArray[np.int64], name: str, named: bool) -> Events:
    """Return the events with the addresses (N,) of the camera ``name`` and the times ``t``.

    Addresses count columns from the right and rows from the bottom; the events returned count them
    from the left and from the top. Words that are no events of pixels (triggers, and samples of
    images and of motion) are left out. ``named`` says whether the file names the camera. If not,
    the camera may be another one, so that addresses with unknown bits are an error.

    Raises
    ------
    EventError
        The addresses are not those of this camera.
    """
    height, width = SENSORS[name]
    if name == DVS128:
        special = (address >> 15 & 1) | (address >> 31 & 1)
        if (address >> 16 & 0x7FFF).any() or (not named and special.any()):
            raise EventError(
                "the addresses are not those of a DVS128"
                + ("" if named else ", and the header names no other camera in a line '# AEChip:'")
                + ": convert the file to AEDAT 4, or to .npz with arrays t, x, y, p"
            )
        x, y, p = address >> 1 & 0x7F, address >> 8 & 0x7F, 1 - (address & 1)
    else:
        special = (address >> 31 & 1) | (address >> 10 & 1)
        x, y, p = address >> 12 & 0x3FF, address >> 22 & 0x1FF, address >> 11 & 1
    kept = special == 0
    x, y = x[kept], y[kept]
    if x.max(initial=0) >= width or y.max(initial=0) >= height:
        raise EventError(
            f"events lie at columns up to {x.max()} and rows up to {y.max()}, but a {name} has "
            f"{width} x {height} pixels: the file is damaged, or of another camera"
        )
    return make(t[kept], width - 1 - x, height - 1 - y, p[kept])


def _header(raw: bytes) -> tuple[list[str], int]:
    """Return the header's lines, and the offset of the first byte after them.

    A header line begins with ``#`` and is text. The first event may begin with the same byte, but
    unlike text, it contains control characters.

    Raises
    ------
    EventError
        The header does not end, because the file is cut.
    """
    lines: list[str] = []
    place = 0
    while raw[place : place + 1] == b"#":
        match = _TEXT.match(raw, place)
        end = match.end() if match else place
        if end == len(raw):
            raise EventError("the header does not end: the file is cut, copy it again")
        if raw[end : end + 1] != b"\n":
            break
        lines.append(raw[place:end].decode("latin-1").rstrip("\r"))
        place = end + 1
        if lines[-1].startswith(_END_2):
            break
    return lines, place


def _read_3(raw: bytes) -> Recording:
    """Return the recording in a file of AEDAT 3.1.

    The file consists of packets, each with a header of 28 bytes. Packets of type 1 hold the
    camera's events, of 8 bytes each; other packets are skipped.
    """
    place = raw.find(_END_3)
    if place < 0:
        raise EventError("the header does not end: the file is cut, copy it again")
    lines = raw[:place].decode("latin-1").split("\r\n")
    place += len(_END_3)
    form = next((n.partition(":")[2].strip() for n in lines if n.startswith("#Format:")), "RAW")
    if form != "RAW":
        raise EventError(
            f"AEDAT 3.1 with packets in the form {form[:20]!r}: only RAW is read, convert the file "
            "with iniVation's DV"
        )
    names = dict(re.findall(r"^#Source (\d+): (.*)$", "\n".join(lines), re.MULTILINE))
    parts, sources = [np.empty(0, EVENT)], set()
    while place < len(raw):
        if place + _PACKET_HEADER_BYTES > len(raw):
            raise EventError("the file ends within a packet's header: copy it again")
        kind, source = map(int, np.frombuffer(raw, "<u2", 2, place))
        size, _, overflow, _, number, _ = map(int, np.frombuffer(raw, "<u4", 6, place + 4))
        place += _PACKET_HEADER_BYTES
        if place + size * number > len(raw):
            raise EventError("the file ends within a packet: copy it again")
        if kind == _POLARITY:
            if size != 8:
                raise EventError(f"events have {size} bytes in a packet, expected 8: damaged")
            words = np.frombuffer(raw, "<u4", 2 * number, place).reshape(-1, 2).astype(np.int64)
            data = words[words[:, 0] & 1 == 1]  # bit 0: valid
            address, t = data[:, 0], (data[:, 1] & 0x7FFFFFFF) + (overflow << 31)
            parts.append(make(t, address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, address >> 1 & 1))
            sources.add(source)
        place += size * number
    if len(sources) > 1:
        raise EventError(
            f"the events come from {len(sources)} cameras: export each to a file of its own"
        )
    name = names.get(str(max(sources, default=0)), "").strip()
    found = camera(name)
    form = "AEDAT 3.1" + (f" of a {found or name[:40]}" if name else "")
    sensor = SENSORS[found] if found else None
    return Recording(events=np.concatenate(parts), info=Info(form=form, sensor=sensor))
