"""Tests of all formats of recordings: files are written by encoders of these tests and read again,
and damaged files are refused.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from sw.data import events, events_base
from sw.data.events import EventError
from tests import recordings
from tests.recordings import columns, load

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
    "AEDAT 4.0 of DAVIS346_00000002": (recordings.aedat4, (260, 346), 1 << 49, "a.AEDAT"),
    "Prophesee .dat": (recordings.dat, (480, 640), 1 << 31, "a.raw"),
    "Prophesee EVT 2.0": (recordings.evt2, (720, 1280), 1 << 33, "a.RAW"),
    "Prophesee EVT 2.1": (recordings.evt21, (720, 1280), 1 << 33, "a.raw"),
    "Prophesee EVT 3.0": (recordings.evt3, (720, 1280), 1 << 25, "a.raw"),
    "NumPy arrays": (recordings.npy, (480, 640), 1 << 49, "a.txt"),
    ".bin of N-MNIST": (recordings.atis_bin, (240, 256), 1 << 23, "a.BIN"),
}  # fmt: skip
"""Recording formats to test, by the text with which a description names them.

Each has an encoder, the sensor's (height, width) in pixels, an exclusive upper bound on times in
microseconds, and a file name. If the first bytes of a file tell its format, the name is that of
another format, to check that the name does not matter.
"""
SILENT = (".bin of N-MNIST", "NumPy arrays")
"""Formats that do not state the size of the sensor."""


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


@pytest.mark.parametrize("n_files", [150, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_raise_nothing_else(form: str, n_files: int, tmp_path: Path) -> None:
    """Check that reading damaged recordings raises no exception but ``EventError``.

    Bytes are changed, mostly in the header, and files are cut.
    """
    encode, size, end, name = FORMATS[form]
    rng = random.Random(f"{form} {n_files}")
    gap = min(end // 40, 1 << 20)
    whole = encode(events.make(np.arange(12) * gap, *(np.arange(12) % n for n in (*size[::-1], 2))))
    n_refused = 0
    for _ in range(n_files):
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
