"""Tests of HDF5 recordings with the layouts and compressions of published data sets."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sw.data import events, hdf5_filters
from sw.data.events import EventError
from tests import recordings
from tests.recordings import load

MISSING = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason="pip install 'spikefold[events]'"
    )
    for name in ("h5py",)
}
"""Pytest marks that skip a test if an optional package is not installed, by name of the package."""


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


def compressed(kind: str, raw: bytes) -> tuple[int, tuple[int, ...], bytes]:
    """Compress a chunk as an HDF5 filter does; return the filter's number, its settings and the
    chunk.
    """
    if kind.startswith("blosc"):
        blosc = pytest.importorskip("blosc")
        _, codec, shuffle = kind.split()
        raw = blosc.compress(raw, typesize=8, shuffle=int(shuffle), cname=codec)
        return 32001, (2, 2, 8, len(raw), 5, int(shuffle), 0), raw
    if kind == "zstandard":
        return 32015, (3,), pytest.importorskip("zstandard").compress(raw)
    block = pytest.importorskip("lz4.block")
    size = 64 if kind == "lz4 blocks" else len(raw)
    stored = b""
    for at in range(0, len(raw), size):
        part = raw[at : at + size]
        packed = block.compress(part, store_size=False)
        packed = packed if len(packed) < len(part) else part
        stored += len(packed).to_bytes(4, "big") + packed
    return 32004, (size,), len(raw).to_bytes(8, "big") + size.to_bytes(4, "big") + stored


def write_compressed(
    path: Path, columns: dict[str, np.ndarray], kind: str, n_chunk: int = 100, before: int = 0
) -> None:
    """Write arrays in compressed chunks of ``n_chunk`` values; h5py cannot compress them itself.

    ``before`` is the number of an HDF5 filter that is applied before the compression: 2 for
    HDF5's own filter "shuffle", or 0 for none.
    """
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            chunks = []
            for start in range(0, len(values), n_chunk):
                part = np.zeros(n_chunk, values.dtype)
                part[: len(values) - start] = values[start : start + n_chunk]
                raw, size = part.tobytes(), values.dtype.itemsize
                if before:
                    raw = np.frombuffer(raw, np.uint8).reshape(-1, size).T.tobytes()
                chunks.append((start, compressed(kind, raw)))
            code, settings, _ = chunks[0][1]
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((n_chunk,))
            if before:
                properties.set_shuffle()
            properties.set_filter(code, h5py.h5z.FLAG_OPTIONAL, settings)
            space = h5py.h5s.create_simple(values.shape)
            link = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            link.set_create_intermediate_group(True)
            kind_of = h5py.h5t.py_create(values.dtype)
            array = h5py.h5d.create(file.id, name.encode(), kind_of, space, properties, link)
            for start, (_, _, raw) in chunks:
                array.write_direct_chunk((start,), raw)


KINDS = ["blosc zstd 1", "blosc lz4 2", "blosc blosclz 0", "zstandard", "lz4", "lz4 blocks"]


def some_events() -> np.ndarray:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.integers(0, 9, 250)) + 1
    return events.make(times, *rng.integers(0, 2, (3, 250)))


@MISSING["h5py"]
@pytest.mark.parametrize("before", [0, 2], ids=["", "shuffled"])
@pytest.mark.parametrize("kind", KINDS)
def test_hdf5_in_compressions_that_h5py_lacks(kind: str, before: int, tmp_path: Path) -> None:
    """Check that recordings compressed by filters that h5py lacks are read, such as those of
    DSEC.
    """
    written = some_events()
    path = tmp_path / "a.h5"
    columns = {f"events/{name}": written[name].astype("<i8") for name in "txyp"}
    write_compressed(path, columns, kind, before=before)
    np.testing.assert_array_equal(events.read(path), written)
    write_compressed(path, {"events": written}, kind, before=before)
    np.testing.assert_array_equal(events.read(path), written)


@MISSING["h5py"]
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_chunks_raise_nothing_else(kind: str, tmp_path: Path) -> None:
    written = some_events()
    code, settings, raw = compressed(kind, written["t"].tobytes())
    decode = hdf5_filters.DECODERS[code]
    limit = written["t"].nbytes
    assert decode(raw, settings, limit) == written["t"].tobytes()
    rng = random.Random(1)
    n_refused = 0
    for _ in range(100):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(rng.choice((16, len(raw))))] = rng.randrange(256)
        cut = rng.choice((len(raw), rng.randrange(len(raw))))
        try:
            assert len(decode(bytes(damaged[:cut]), settings, limit)) <= limit + 1
        except EventError:
            n_refused += 1
    assert n_refused > 30


@MISSING["h5py"]
def test_hdf5_of_another_compression_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    zeros = {f"events/{name}": np.zeros(200, np.int64) for name in "txyp"}
    monkeypatch.setattr(sys.modules[__name__], "compressed", lambda *_: (300, (), b"?"))
    write_compressed(path, zeros, "")
    with pytest.raises(EventError, match=r"filter 300 of HDF5, is not known: .*h5repack"):
        events.read(path)
    for code, package in ((32001, "blosc"), (32004, "lz4"), (32015, "zstandard")):
        monkeypatch.setitem(sys.modules, "lz4.block" if package == "lz4" else package, None)
        with pytest.raises(EventError, match=f"needs {package}: pip install 'spikefold.events.'"):
            hdf5_filters.DECODERS[code](b"?", (), 1)


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


def test_hdf5_without_h5py_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EventError, match=r"HDF5 files need h5py: pip install 'spikefold\[events"):
        load(tmp_path / "a.h5", b"\x89HDF\r\n\x1a\n")


@MISSING["h5py"]
def test_damaged_hdf5_raises_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    recordings.write_hdf5(path, events.make(np.arange(50), *np.ones((3, 50), int)))
    whole = path.read_bytes()
    rng = random.Random(1)
    n_refused = 0
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(rng.choice((100, 2500, len(raw))))] = rng.choice((0, 1, 127, 255))
        try:
            load(path, bytes(raw))
        except EventError as error:
            n_refused += 1
            assert str(error).startswith(str(path))
    assert n_refused > 20
