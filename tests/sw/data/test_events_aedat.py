"""Tests of AEDAT recordings: the header tells version, camera and streams."""

from __future__ import annotations

import importlib
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from sw.data import events, events_aedat, events_aedat4
from sw.data.events import EventError
from tests import recordings
from tests.recordings import load

MISSING = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason="pip install 'spikefold[events]'"
    )
    for name in ("lz4", "zstandard")
}
"""Pytest marks that skip a test if an optional package is not installed, by name of the package."""


@MISSING["lz4"]
@MISSING["zstandard"]
@pytest.mark.parametrize("compression", [1, 2, 3, 4])
def test_compressed_aedat_4(compression: int, tmp_path: Path) -> None:
    written = events.make([1, 5, 5, 9], [0, 345, 7, 8], [259, 0, 7, 8], [0, 1, 1, 0])
    raw = recordings.aedat4(written, compression, per_packet=3)
    np.testing.assert_array_equal(load(tmp_path / "a.aedat", raw).events, written)
    for bad in (raw[:-60], raw.replace(raw[-75:-65], bytes(10))):
        with pytest.raises(EventError, match="cut or damaged: copy it again"):
            load(tmp_path / "a.aedat", bad)


@MISSING["lz4"]
def test_a_packet_that_expands_without_bounds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_aedat4, "MAX_PACKET_BYTES", 1 << 16)
    content = importlib.import_module("lz4.frame").compress(bytes(1 << 20))
    assert len(content) < 1 << 14
    raw = recordings.aedat4_header(recordings.streams("EVTS"), 1)
    with pytest.raises(EventError, match="a packet is no whole frame of lz4"):
        load(tmp_path / "a.aedat4", raw + struct.pack("<ii", 0, len(content)) + content)


@pytest.mark.parametrize(("compression", "package"), [(1, "lz4"), (3, "zstandard")])
def test_compression_without_its_package_says_what_to_install(
    compression: int, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "lz4.frame" if package == "lz4" else package
    monkeypatch.setitem(sys.modules, module, None)
    header = recordings.aedat4_header(recordings.streams("EVTS"), compression)
    packet = recordings.aedat4_packet(events.make([1], [2], [3], [1]))
    with pytest.raises(EventError, match=rf"needs {package}: pip install 'spikefold\[events\]'"):
        load(tmp_path / "a.aedat4", header + packet)


def test_aedat_2_tells_the_camera_by_the_header(tmp_path: Path) -> None:
    # The same address is another pixel of a DVS128 than of a DAVIS.
    def file(chip: str, *words: int) -> bytes:
        line = f"# AEChip: {chip}\r\n" if chip else ""
        body = b"".join(struct.pack(">II", word, 1000 + n) for n, word in enumerate(words))
        return f"#!AER-DAT2.0\r\n{line}".encode() + body

    path = tmp_path / "a.aedat"
    (event,) = load(path, file("", 10 << 8 | 20 << 1 | 1)).events
    assert event.tolist() == (1000, 107, 117, False)
    (event,) = load(path, file("ch.unizh.ini.jaer.chip.retina.DVS128", 10 << 8 | 20 << 1)).events
    assert event.tolist() == (1000, 107, 117, True)
    davis = "eu.seebetter.ini.chips.davis.DAVIS240C"
    pixel, image, trigger = 10 << 22 | 20 << 12 | 1 << 11, 1 << 31 | 5 << 12, 1 << 10
    found = load(path, file(davis, pixel, image, trigger))
    assert [event.tolist() for event in found.events] == [(1000, 219, 169, True)]
    assert found.info.sensor == (180, 240)
    # Triggers of a DVS128 are left out as well.
    assert not len(load(path, file("DVS128", 1 << 15, 1 << 31)).events)
    for chip, word, message in (
        ("", 10 << 22, "the addresses are not those of a DVS128, and the header names no other"),
        ("", 1 << 15, "the addresses are not those of a DVS128, and the header names no other"),
        ("DVS128", 10 << 22, "the addresses are not those of a DVS128: convert the file to AEDAT"),
        ("eu.seebetter.ini.chips.davis.DavisRGBW640", 0, "of the camera 'eu.*RGBW640', whose addr"),
        ("x.Davis346mini", 0, "whose addresses are not known .known are DVS128, DAVIS128, DAVIS2"),
        (davis, 300 << 22, "but a DAVIS240 has 240 x 180 pixels: the file is damaged, or of"),
    ):
        with pytest.raises(EventError, match=message):
            load(path, file(chip, word))


def test_aedat_headers_end_where_the_events_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.aedat"
    chip = "eu.seebetter.ini.chips.davis.DAVIS240C"
    # The first byte of this event is "#", like that of a header line.
    written = events.make([5, 10], [239, 3], [39, 4], [0, 1])
    raw = recordings.aedat2(written, chip)
    assert raw.split(b"\r\n")[3].startswith(b"#")
    np.testing.assert_array_equal(load(path, raw).events, written)
    marked = raw.replace(b"DAVIS240C\r\n", b"DAVIS240C\r\n#End Of ASCII Header\r\n")
    np.testing.assert_array_equal(load(path, marked).events, written)
    for raw, message in (
        (b"#!AER-DAT2.0\r\n# a camera\r\n12345", "ends within an event of 8 bytes: copy it again"),
        (b"#!AER-DAT1.0\r\n" + bytes(8), "ends within an event of 6 bytes: copy it again"),
        (b"#!AER-DAT2.0\r\n# a camera", "the header does not end: the file is cut"),
        (b"#!AER-DAT3.1\r\n# no end", "the header does not end: the file is cut"),
        (
            b"#!AER-DAT3.0\r\n" + bytes(8),
            "its first line is '#!AER-DAT3.0', expected #!AER-DAT and",
        ),
        (b"#!AER-DAT5.0\r\n" + bytes(8), "its first line is '#!AER-DAT5.0', expected"),
        (b"#!AER-DA", "its first line is '#!AER-DA', expected"),
        (b"# no version\r\n" + bytes(6), "its first bytes 23 20 .* are those of no known format"),
        (b"", "the file is empty"),
    ):
        with pytest.raises(EventError, match=message):
            load(path, raw)


def test_aedat_3(tmp_path: Path) -> None:
    path = tmp_path / "b.aedat"
    header = f"#!AER-DAT3.1\r\n#Format: RAW\r\n{recordings.END}".encode()

    def packet(kind: int, overflow: int, rows: list[tuple[int, int]], source: int = 1) -> bytes:
        n = len(rows)
        head = struct.pack("<HHIIIIII", kind, source, 8, 4, overflow, n, n, n)
        return head + b"".join(struct.pack("<II", *row) for row in rows)

    rows = [(5 << 17 | 6 << 2 | 1 << 1 | 1, 50), (7 << 17 | 8 << 2, 60), (9 << 17 | 1, 70)]
    raw = header + packet(2, 0, [(1, 1)]) + packet(1, 1, rows)
    found = load(path, raw)
    # The second event is marked invalid; the other packet holds no polarity events.
    assert [event.tolist() for event in found.events] == [
        ((1 << 31) + 50, 5, 6, True),
        ((1 << 31) + 70, 9, 0, False),
    ]
    assert found.info.sensor is None
    wide = struct.pack("<HHIIIIII", 1, 1, 16, 4, 0, 1, 1, 1) + bytes(16)
    for bad, message in (
        (raw[:-3], "the file ends within a packet: copy"),
        (raw[: len(header) + 20], "the file ends within a packet's header: copy"),
        (raw.replace(b"RAW", b"Serial-TS"), "packets in the form 'Serial-TS': only RAW is read"),
        (header + wide, "events have 16 bytes in a packet, expected 8"),
        (raw + packet(1, 0, rows, source=2), "the events come from 2 cameras: export each"),
        (raw.replace(b"RAW\r\n", b"RAW\r\n#Source 1: DVS128\r\n")
         + packet(1, 0, [(200 << 17 | 1, 9)]),
         "events reach row 6 and column 200, but the file says that the sensor is 128 x 128"),
    ):  # fmt: skip
        with pytest.raises(EventError, match=message):
            load(path, bad)


def test_a_cut_aedat_4_is_refused_whatever_its_name(tmp_path: Path) -> None:
    written = events.make(np.arange(20), np.arange(20), np.arange(20), np.ones(20))
    raw = recordings.aedat4(written, per_packet=10)
    first = len(recordings.aedat4_header(recordings.streams("EVTS", "IMUS")))
    whole = {first}
    for part in (written[:10], written[10:]):
        whole |= {max(whole) + len(recordings.aedat4_packet(part))}
        whole |= {max(whole) + 13}
    for cut in range(14, len(raw)):
        if cut in whole:
            continue
        with pytest.raises(EventError, match=r"a\.aedat cannot be read as a recording: .*copy it"):
            load(tmp_path / "a.aedat", raw[:cut])
    for n, cut in enumerate(sorted(whole)):  # a recording that was not closed ends with a packet
        assert len(load(tmp_path / "a.aedat", raw[:cut]).events) == (n + 1) // 2 * 10
    # The table of packets, which begins where the header says, is not read as a packet.
    at = raw.index(b"\xff" * 8)
    closed = raw[:at] + struct.pack("<q", len(raw)) + raw[at + 8 :]
    np.testing.assert_array_equal(load(tmp_path / "a.aedat", closed + b"a table").events, written)
    with pytest.raises(EventError, match="its table of packets lies outside the file"):
        load(tmp_path / "a.aedat", closed[:-1])


@pytest.mark.parametrize(
    ("description", "compression", "message"),
    [
        (recordings.streams("EVTS", "EVTS"), 0, r"it has 2 streams of events .streams 0: EVTS, 1"),
        (recordings.streams("IMUS"), 0, r"it has 0 streams of events .streams 0: IMUS.: export"),
        ("<dv></dv>", 0, r"it has 0 streams of events .streams none"),
        ("<dv><", 0, "its description of streams is no XML"),
        ('<!DOCTYPE d [<!ENTITY a "b">]><dv>&a;</dv>', 0, "declares entities"),
        (recordings.streams("EVTS"), 9, "its compression 9 is not known: export it again with LZ4"),
        (recordings.streams("EVTS", size=(2, 2)), 0, "says that the sensor is 2 x 2"),
    ],
)
def test_streams_of_aedat_4(
    description: str, compression: int, message: str, tmp_path: Path
) -> None:
    header = recordings.aedat4_header(description, compression)
    packet = recordings.aedat4_packet(events.make([1], [2], [3], [1]))
    with pytest.raises(EventError, match=message):
        load(tmp_path / "a.aedat4", header + packet)


def test_cameras_are_known_by_all_their_names() -> None:
    for name, known in (
        ("DVS128", "DVS128"),
        (" eu.seebetter.ini.chips.davis.Davis346cBSI ", "DAVIS346"),
        ("eu.seebetter.ini.chips.davis.Davis346BColor", "DAVIS346"),
        ("DAVIS208PixelParade", "DAVIS208"),
        ("DAVIS240B", "DAVIS240"),
        ("SBRet21", "DAVIS240"),
        ("DavisRGBW640", None),
        ("CochleaAMS1c", None),
        ("", None),
    ):
        assert events_aedat.camera(name) == known


def test_names_in_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    found = events.make([1], [2], [3], [1])
    named = recordings.aedat3(found, "cam\x1b[2Jera")
    assert load(tmp_path / "a.aedat", named).info.form == "AEDAT 3.1 of a cam\\x1b[2Jera"
    two = recordings.aedat4_header(recordings.streams("EVTS", "\x85S", "EVTS"))
    with pytest.raises(EventError, match=r"0: EVTS, 1: \\x85S, 2: EVTS"):
        load(tmp_path / "a.aedat", two)
