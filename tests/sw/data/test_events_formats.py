"""Tests of all formats of recordings: what an encoder writes is read again, the header decides on
the format, and damaged files are refused."""

from __future__ import annotations

import importlib
import importlib.util
import random
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sw.data import events, events_aedat, events_aedat4, events_base, events_hdf5
from sw.data.events import EventError
from tests import recordings

CHIPS = list(recordings.CHIPS)
MISSING = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason="pip install 'spikefold[events]'"
    )
    for name in ("lz4", "zstandard", "h5py", "hdf5plugin")
}

Encoder = Callable[[np.ndarray], bytes]
FORMATS: dict[str, tuple[Encoder, tuple[int, int], int, str]] = {
    "AEDAT 1.0 of a DVS128 (the file names no camera)": (
        lambda found: recordings.aedat2(found, version="1.0"), (128, 128), 1 << 31, "a.DAT"),
    **{
        f"AEDAT 2.0 of a {name}": (
            lambda found, chip=chip: recordings.aedat2(found, chip), size, 1 << 31, "a.aedat")
        for name, (chip, size) in zip(
            ("DVS128", "DAVIS240", "DAVIS346", "DAVIS640"), recordings.CHIPS.items(), strict=True)
    },
    "AEDAT 3.1 of a DAVIS240": (recordings.aedat3, (180, 240), 1 << 31, "a.bin"),
    "AEDAT 4.0 of DAVIS346_00000002": (recordings.aedat4, (260, 346), 1 << 60, "a.AEDAT"),
    "Prophesee .dat": (recordings.dat, (480, 640), 1 << 31, "a.raw"),
    "Prophesee EVT 2.0": (recordings.evt2, (720, 1280), 1 << 33, "a.RAW"),
    "Prophesee EVT 2.1": (recordings.evt21, (720, 1280), 1 << 33, "a.raw"),
    "Prophesee EVT 3.0": (recordings.evt3, (720, 1280), 1 << 25, "a.raw"),
    "NumPy arrays": (recordings.npy, (480, 640), 1 << 60, "a.txt"),
    ".bin of N-MNIST": (recordings.atis_bin, (240, 256), 1 << 23, "a.BIN"),
}  # fmt: skip
"""Encoder, sensor, bound on times, and a file name, which is misleading where it may be, by the
form that a description names."""
SILENT = (".bin of N-MNIST", "NumPy arrays")
"""Formats that do not say how large the sensor is."""


def columns(n: int, size: tuple[int, int], end: int) -> st.SearchStrategy[np.ndarray]:
    """Return a strategy for recordings of up to ``n`` events, in order of time."""
    gaps = st.integers(0, max(1, (end - 1) // 200))
    rows = st.tuples(gaps, st.integers(0, size[1] - 1), st.integers(0, size[0] - 1), st.booleans())

    def build(found: list[tuple[int, int, int, bool]]) -> np.ndarray:
        table = np.array(found, np.int64).reshape(-1, 4)
        return events.make(np.cumsum(table[:, 0]), *table[:, 1:].T)

    return st.lists(rows, min_size=1, max_size=n).map(build)


def load(path: Path, raw: bytes) -> events.Recording:
    path.write_bytes(raw)
    return events.load(path)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read_again(form: str, tmp_path: Path) -> None:
    encode, size, end, name = FORMATS[form]

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(columns(30, size, end))
    def check(written: np.ndarray) -> None:
        found = load(tmp_path / name, encode(written))
        np.testing.assert_array_equal(found.events, written)
        assert found.info == events.Info(
            form=form,
            sensor=None if form in SILENT else size,
            n_events=len(written),
            duration_us=int(written["t"][-1] - written["t"][0]),
        )

    check()


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


@MISSING["h5py"]
@pytest.mark.parametrize("form", ["dsec", "tonic", "seconds"])
def test_hdf5(form: str, tmp_path: Path) -> None:
    written = events.make([1000, 250_001, 1_500_003], [0, 639, 7], [479, 0, 8], [0, 1, 1])
    path = tmp_path / "a.bin"
    recordings.write_hdf5(path, written, form)
    found = events.load(path)
    np.testing.assert_array_equal(found.events, written)
    unit = "seconds" if form == "seconds" else "microseconds"
    assert (found.info.time_unit, found.info.duration_us) == (unit, 1_499_003)
    assert "HDF5" in found.info.form


@MISSING["h5py"]
@MISSING["hdf5plugin"]
def test_hdf5_with_dsecs_compression(tmp_path: Path) -> None:
    import h5py

    written = events.make([1, 2], [3, 4], [5, 6], [0, 1])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "txyp":
            blosc = importlib.import_module("hdf5plugin").Blosc(cname="zstd")
            file.create_dataset(f"events/{name}", data=written[name], compression=blosc)
    np.testing.assert_array_equal(events.read(tmp_path / "a.h5"), written)


@MISSING["h5py"]
def test_hdf5_says_the_sensor_and_is_refused_with_a_remedy(tmp_path: Path) -> None:
    import h5py

    written = events.make([1, 2], [3, 4], [5, 6], [0, 1])

    def stored(fill: Callable[..., object]) -> Path:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            fill(file)
        return path

    def with_sizes(file: h5py.File) -> None:
        file["CD/events"] = written
        file.attrs["geometry"] = "640x480"

    assert events.load(stored(with_sizes)).info.sensor == (480, 640)

    def linked(file: h5py.File) -> None:
        for name in "xyp":
            file[f"events/{name}"] = written[name]
        file["events/t"] = h5py.ExternalLink("other.h5", "t")

    def external(file: h5py.File) -> None:
        for name in "txyp":
            store = [("other.raw", 0, 16)]
            file.create_dataset(f"events/{name}", (2,), np.int64, external=store)

    def huge(file: h5py.File) -> None:
        for name in "txyp":
            file.create_dataset(f"events/{name}", (1 << 40,), np.int64, chunks=(1024,))

    def lengths(file: h5py.File) -> None:
        for n, name in enumerate("txyp"):
            file[f"events/{name}"] = np.zeros(2 + n)

    def two(file: h5py.File) -> None:
        file["left"] = file["right"] = written

    def table(file: h5py.File) -> None:
        file["events"] = np.zeros((5, 4))

    for fill, message in (
        (linked, r"it has 0 sets of events: one is needed, as arrays x, y, t, p"),
        (external, "refers to other files: store its values in the file itself"),
        (huge, "has more than 100000000 events: cut it to a part"),
        (lengths, "the arrays of events have shapes .* not \\(N,\\)"),
        (two, r"it has 2 sets of events \(left, right\): one is needed"),
        (table, "it has 0 sets of events: one is needed"),
    ):
        with pytest.raises(EventError, match=message):
            events.read(stored(fill))
    raw = stored(with_sizes).read_bytes()
    for cut in (100, len(raw) // 2):
        with pytest.raises(EventError, match=r"a\.h5 cannot be read as a recording: HDF5 cannot"):
            load(tmp_path / "a.h5", raw[:cut])


@MISSING["h5py"]
def test_hdf5_of_an_unknown_compression_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("Can't read data (required filter 'blosc' is not registered)")

    path = tmp_path / "a.h5"
    recordings.write_hdf5(path, events.make([1], [2], [3], [1]))
    monkeypatch.setattr(events_hdf5, "_read", fail)
    with pytest.raises(EventError, match=r"compression needs hdf5plugin: pip install 'spikefold\["):
        events.read(path)


def test_hdf5_without_h5py_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EventError, match=r"HDF5 files need h5py: pip install 'spikefold\[events"):
        load(tmp_path / "a.h5", b"\x89HDF\r\n\x1a\n")


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


def test_prophesee_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    written = events.make([70, 75], [639, 0], [0, 479], [1, 0])
    body = recordings.evt2(written).partition(b"% end\n")[2]

    def header(*lines: str) -> bytes:
        return "".join(f"% {line}\n" for line in lines).encode()

    # Files of older cameras have no size and no end line, but the name of the camera's plugin.
    found = load(path, header("evt 2.0", "plugin_name hal_plugin_gen31_fx3") + body)
    np.testing.assert_array_equal(found.events, written)
    assert found.info.sensor == (480, 640)
    assert load(path, header("evt 2.0", "plugin_name mine", "end") + body).info.sensor is None
    assert load(path, header("format EVT2;height=480;width=640", "end") + body).info.sensor
    dat = recordings.dat(written)
    for raw, message in (
        (header("evt 4.0", "end") + body, "its encoding '4.0' is not known: convert it to EVT 2.0"),
        (header("format EVT4;height=1", "evt 2.0", "end"), "its encoding 'EVT4' is not known"),
        (header("date today", "end") + body, "its encoding 'is not named' is not known"),
        (header("format EVT2;endianness=big", "end") + body, "its words are big-endian: convert"),
        (header("evt 2.0", "geometry 640x100", "end") + body,
         "1 of 2 events lie outside the sensor of 100 x 640 pixels: the file is damaged"),
        (header("evt 2.0", "end") + body[:-1], "the file ends within a word of 4 bytes: copy it"),
        (b"% evt 2.0", "the header does not end"),
        (dat[:-1], "the file ends within an event of 8 bytes: copy it again"),
        (dat[: dat.index(b"\x0c\x08") + 1], "the file ends within its header: copy it again"),
        (dat.replace(b"\x0c\x08", b"\x0e\x08"), "it holds events of type 14 and 8 bytes, not"),
        (dat[:-1] + b"\xff", "its events have bits that a .dat file does not use"),
        (recordings.dat(written, version=1), "a .dat file of version 1; version 2 is read"),
    ):  # fmt: skip
        with pytest.raises(EventError, match=message):
            load(path, raw)
    assert load(path, recordings.dat(written, size=None)).info.sensor is None


def test_few_events_outside_the_sensor_are_left_out_and_counted(tmp_path: Path) -> None:
    n = 200
    written = events.make(np.arange(n), np.arange(n) % 5, np.full(n, 7), np.ones(n))
    written["y"][50] = 725
    found = load(tmp_path / "a.raw", recordings.evt3(written))
    np.testing.assert_array_equal(found.events, np.delete(written, 50))
    assert "1 events outside the sensor left out" in events.summary([found.info])[0]


def test_evt_3_follows_the_specification(tmp_path: Path) -> None:
    def decode(*words: int) -> list[tuple[int, ...]]:
        raw = recordings.raw_header("3.0") + np.array(words, "<u2").tobytes()
        return [event.tolist() for event in load(tmp_path / "a.raw", raw).events]

    time, row = (0x8002, 0x6005), 0x0007
    at = 2 << 12 | 5
    # Vectors go on where the last one ended, and every bit is an event.
    assert decode(*time, row, 0x3000 | 1 << 11 | 100, 0x4801, 0x5082, 0x4002) == [
        (at, 100 + bit, 7, True) for bit in (0, 11, 12 + 1, 12 + 7, 12 + 8 + 1)
    ]
    # Nothing is known before the first upper part of the time, row and base.
    assert decode(0x6005, row, 0x2009, *time, 0x2009) == [(at, 9, 7, False)]
    assert decode(*time, 0x2009, 0x4001, row, 0x4001) == []
    # The lower part of the time is 0 after a change of the upper one, and not after a repetition.
    assert decode(*time, row, 0x8003, 0x2001) == [(3 << 12, 1, 7, False)]
    assert decode(*time, row, 0x8002, 0x2001) == [(at, 1, 7, False)]
    # The upper part counts on after its overflow.
    assert decode(0x8FFF, 0x6000, row, 0x8000, 0x6001, 0x2001) == [(1 << 24 | 1, 1, 7, False)]
    # A row of type 1 is not one of pixels.
    assert decode(*time, 0x1007, 0x2001, row, 0x2002) == [(at, 2, 7, False)]
    # Triggers and other words are no events.
    assert decode(*time, row, 0xA001, 0xE000, 0x7003, 0xF001, 0x2801) == [(at, 1, 7, True)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(found=columns(30, (720, 1280), 1 << 22))
def test_evt_3_vectors(found: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "vectors.raw"
    np.testing.assert_array_equal(load(path, recordings.evt3(found, vectors=True)).events, found)


def test_times_that_overflow_go_on(tmp_path: Path) -> None:
    for encode, n_bits in ((recordings.dat, 32), (recordings.aedat2, 32)):
        times = (1 << n_bits) + np.array([-5, -1, 0, 7, 900])
        sample = events.make(times, np.arange(5), np.arange(5), np.ones(5))
        found = load(tmp_path / "a.x", encode(sample)).events["t"]
        assert (np.diff(found) == np.diff(times)).all()
    wraps = np.array([5, 3, 250, 200, 0, 255, 1])  # two steps back are no overflows
    assert events_base.unwrapped(wraps, 8).tolist() == [5, 3, 250, 200, 256, 511, 513]


def test_bin_files_without_order_are_no_recordings(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    # Row 240 marks 8192 microseconds more.
    marked = bytes([3, 4, 0, 0, 9, 0, 240, 0, 0, 0, 5, 6, 0x80, 0, 1])
    assert [event.tolist() for event in load(path, marked).events] == [
        (9, 3, 4, False),
        (8193, 5, 6, True),
    ]
    for raw, message in (
        (bytes([3, 4, 0, 0, 9, 5, 6, 0, 0, 8]), "its times go back, unlike those in a .bin file"),
        (bytes(7), "7 bytes are not whole events of 5"),
    ):
        with pytest.raises(EventError, match=message):
            load(path, raw)
    with pytest.raises(EventError, match="are those of no known format"):
        load(tmp_path / "a.dat", marked)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_raise_nothing_else(form: str, tmp_path: Path) -> None:
    """Bytes are changed and cut anywhere, mostly in the header: all errors are of our own."""
    encode, size, end, name = FORMATS[form]
    rng = random.Random(form)
    gap = min(end // 40, 1 << 20)
    whole = encode(events.make(np.arange(12) * gap, *(np.arange(12) % n for n in (*size[::-1], 2))))
    n_refused = 0
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(min(len(raw), rng.choice((30, 700, 10_000))))
            raw[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        if rng.random() < 0.3:
            del raw[rng.randrange(len(raw)) :]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy warns of odd headers
                found = load(tmp_path / name, bytes(raw))
            events.frames(found.events, 3, (8, 8), (events_base.MAX_POSITION + 1,) * 2)
        except EventError as error:
            n_refused += 1
            assert str(error).startswith(str(tmp_path / name)), error
    assert n_refused > 20


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
