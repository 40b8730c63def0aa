"""Tests of HDF5 recordings, in the forms in which data sets have them."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sw.data import events, events_hdf5
from sw.data.events import EventError
from tests import recordings
from tests.recordings import load

MISSING = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason="pip install 'spikefold[events]'"
    )
    for name in ("h5py", "hdf5plugin")
}
"""Marks of tests that need an optional package."""


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
