"""Tests of Prophesee's recordings: headers, and the encodings as specified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from sw.data import events
from sw.data.events import EventError
from tests import recordings
from tests.recordings import columns, load


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
        (header("evt 4.0", "end") + body, "its encoding '4.0' is not known: convert it to EVT 3.0"),
        (header("format EVT4;height=1", "evt 2.0", "end"), "its encoding 'EVT4' is not known"),
        (header("date today", "end") + body, "it names no encoding: convert it to"),
        (header("format EVT2;endianness=big", "end") + body, "words are in the order 'big', expe"),
        (header("format EVT21", "end"), "it names no order of words, expected 'endian"),
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
    assert "left out because they lie outside the sensor: 1" in events.summary([found.info])[0]


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
def test_evt_21_in_both_orders(found: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "orders.raw"
    for order in ("little", "legacy"):
        np.testing.assert_array_equal(load(path, recordings.evt21(found, order)).events, found)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(found=columns(30, (720, 1280), 1 << 22))
def test_evt_3_vectors(found: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "vectors.raw"
    np.testing.assert_array_equal(load(path, recordings.evt3(found, vectors=True)).events, found)
