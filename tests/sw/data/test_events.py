"""Tests of recordings in memory: times, positions, frames, descriptions, and arrays in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sw.data import events
from sw.data.events import EventError
from tests.damage import damaged_arrays


def test_each_event_is_in_the_frame_of_its_time() -> None:
    recording = events.make(
        [100, 149, 150, 199, 200], [0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [0] * 4 + [1]
    )
    found = events.frames(recording, 2, (3, 5))
    assert found.shape == (2, 2, 3, 5) and found.dtype == np.uint8
    assert [tuple(place) for place in np.argwhere(found)] == [
        (0, 0, 0, 0),
        (0, 0, 0, 1),
        (0, 0, 1, 2),
        (1, 0, 1, 3),
        (1, 1, 2, 4),
    ]


def test_frames_are_binary_and_may_be_smaller_than_the_sensor() -> None:
    recording = events.make([0, 0, 5], [0, 1, 127], [0, 1, 127], [1, 1, 1])
    found = events.frames(recording, 1, (32, 32), (128, 128))
    assert found.max() == 1 and found.sum() == 2
    assert found[0, 1, 0, 0] == found[0, 1, 31, 31] == 1


def test_an_empty_recording_gives_empty_frames_and_one_event_one_spike() -> None:
    empty = events.frames(np.empty(0, events.EVENT), 4, (3, 5))
    assert empty.shape == (4, 2, 3, 5) and not empty.any()
    assert events.frames(events.make([7], [1], [1], [0]), 4, (3, 5)).sum() == 1


def test_events_outside_the_sensor_are_refused() -> None:
    with pytest.raises(EventError, match="columns 0 to 5"):
        events.frames(events.make([0, 1], [0, 5], [0, 0], [0, 0]), 2, (3, 5))


def test_nmnist_files(tmp_path: Path) -> None:
    path = tmp_path / "0.bin"
    path.write_bytes(bytes([3, 4, 0x80 | 0x01, 0x02, 0x03, 33, 0, 0x7F, 0xFF, 0xFF]))
    found = events.read(path)
    assert found["x"].tolist() == [3, 33] and found["y"].tolist() == [4, 0]
    assert found["p"].tolist() == [True, False]
    assert found["t"].tolist() == [0x010203, 0x7FFFFF]
    path.write_bytes(bytes(7))
    with pytest.raises(EventError, match="whole events"):
        events.read(path)


def test_arrays_are_read_and_other_files_refused(tmp_path: Path) -> None:
    recording = events.make([1, 2], [3, 4], [5, 6], [0, 1])
    np.save(tmp_path / "a.npy", recording)
    np.savez(tmp_path / "b.npz", **{name: recording[name] for name in ("t", "x", "y", "p")})
    for name in ("a.npy", "b.npz"):
        assert np.array_equal(events.read(tmp_path / name), recording)
    signed = recording.astype([(name, np.int64) for name in recording.dtype.names])
    signed["p"] = [-1, 1]
    np.save(tmp_path / "c.npy", signed)
    assert np.array_equal(events.read(tmp_path / "c.npy"), recording)
    frames = events.frames(recording, 2, (7, 5))
    assert np.array_equal(events.frames(signed, 2, (7, 5)), frames)
    assert frames.sum(axis=(0, 2, 3)).tolist() == [1, 1]
    (tmp_path / "d.txt").write_text("hello")
    np.savez(tmp_path / "e.npz", t=[1])
    np.savez(tmp_path / "h.npz", t=1, x=1, y=1, p=1)
    np.save(tmp_path / "f.npy", np.zeros((3, 4)))
    for name, message in (
        ("d.txt", r"d\.txt cannot be read as a recording: its first bytes 68 65 .* of no known"),
        ("e.npz", r"e\.npz cannot be read as a recording: it has no x: t, x, y and p are needed"),
        ("f.npy", r"f\.npy cannot be read as a recording: it has no t"),
        ("h.npz", r"h\.npz cannot be read as a recording: t, x, y and p have shapes \(\), \(\)"),
        ("none.npy", r"none\.npy cannot be read as a recording: .*No such file"),
    ):
        with pytest.raises(EventError, match=message):
            events.read(tmp_path / name)
    for raw in damaged_arrays():
        (tmp_path / "g.npz").write_bytes(raw)
        with pytest.raises(EventError, match=r"g\.npz cannot be read as a recording: \S"):
            events.read(tmp_path / "g.npz")


def test_times_in_seconds_keep_their_fractions(tmp_path: Path) -> None:
    expected = events.make([1_000_000, 1_250_000, 1_999_999], [0, 1, 2], [0, 1, 2], [0, 1, 1])
    kind = np.dtype([("t", "f8"), ("x", "f4"), ("y", "u2"), ("p", "i1")])
    seconds = np.array([(1.0, 0, 0, -1), (1.25, 1, 1, 1), (1.999999, 2, 2, 1)], kind)
    np.save(tmp_path / "a.npy", seconds)
    np.savez(tmp_path / "b.npz", **{name: seconds[name] for name in "txyp"})
    for name in ("a.npy", "b.npz"):
        found = events.load(tmp_path / name)
        np.testing.assert_array_equal(found.events, expected)
        assert (found.info.time_unit, found.info.duration_us) == ("seconds", 999_999)
    np.testing.assert_array_equal(
        events.frames(seconds, 4, (3, 3)), events.frames(expected, 4, (3, 3))
    )
    assert [int(f.sum()) for f in events.frames(seconds, 4, (3, 3))] == [1, 1, 0, 1]
    whole = seconds.copy()
    whole["t"] = [3.0, 8.0, 1e15]
    np.save(tmp_path / "c.npy", whole)
    found = events.load(tmp_path / "c.npy")
    assert found.events["t"].tolist() == [3, 8, 10**15]
    assert found.info.time_unit == "microseconds"


@pytest.mark.parametrize(
    ("t", "x", "p", "message"),
    [
        ([0.5, np.nan], [1, 2], [0, 1], "times are not all finite: leave those events out"),
        ([0.5, 1e300], [1, 2], [0, 1], "times lie between .* store them as whole microseconds"),
        (np.array([0, 2**63], np.uint64), [1, 2], [0, 1], "times lie between 0 and 9223372036854"),
        (["1", "2"], [1, 2], [0, 1], "times are of type <U1: store them as numbers"),
        (np.array([1, 2], "M8[us]"), [1, 2], [0, 1], "times are of type datetime64"),
        ([1, 2], [1, -1], [0, 1], "x lies between -1 and 1: columns and rows are whole numbers"),
        ([1, 2], [1, 65541], [0, 1], "x lies between 1 and 65541: columns and rows are whole"),
        ([1, 2], [1, 1.5], [0, 1], "x has fractions such as 1.5: round them"),
        ([1, 2], [1, np.inf], [0, 1], "x are not all finite"),
        ([1, 2], [1, 2], [0, np.nan], "polarities are not all finite"),
        ([1, 2], [1, 2], [1, 2], r"polarities have values such as 1, 2: store 0 \(darker\) and 1"),
        ([1, 2], [1, 2], [-1, 0], "polarities have values such as -1, 0: store"),
        ([1, 2], [1, 2], [2, 2], "polarities have values such as 2: store"),
        ([1, 2], [1, 2, 3], [0, 1], r"t, x, y and p have shapes \(2,\), \(3,\), \(2,\), \(2,\)"),
    ],
)
def test_numbers_that_are_no_events(t: object, x: object, p: object, message: str) -> None:
    with pytest.raises(EventError, match=message):
        events.make(t, x, [0, 0], p)


def test_frames_of_something_else_are_refused() -> None:
    for wrong, message in (
        (np.zeros(3), r"an array \(N,\) with fields t, x, y, p; this one is \(3,\) and lacks t, x"),
        (np.zeros(3, [("t", int), ("x", int), ("y", int)]), "lacks p"),
        (np.zeros((2, 3), events.EVENT), r"this one is \(2, 3\) and lacks none"),
    ):
        with pytest.raises(EventError, match=message):
            events.frames(wrong, 2, (3, 3))
    apart = events.make([-(1 << 61), 1 << 61], [0, 1], [0, 1], [0, 1])
    with pytest.raises(
        EventError, match="takes 4611686018427387905 microseconds: its times are damaged"
    ):
        events.frames(apart, 4, (3, 3))


def test_recordings_are_described_by_kind() -> None:
    kind = {"form": "AEDAT 2.0 of a DVS128", "sensor": (128, 120)}
    infos = [
        events.Info(**kind, n_events=1200, duration_us=1_500_000),
        events.Info(form="NumPy arrays", time_unit="seconds", n_events=1, duration_us=0),
        events.Info(**kind, n_events=900, duration_us=80_000),
    ]
    assert events.summary(infos) == [
        "2 recordings, AEDAT 2.0 of a DVS128: sensor 128 x 120 (height x width), 900 to 1,200 "
        "events in 0.08 to 1.5 s, times in microseconds",
        "1 recording, NumPy arrays: sensor of a size that the file does not say, 1 event in 0 s, "
        "times in seconds",
    ]
    assert events.summary([]) == []


def test_files_larger_than_memory_allows_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", **{name: np.zeros(100_000) for name in "txyp"})
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    for bound, message in ((1 << 20, "bytes of arrays: cut"), (99, "than 99 bytes: cut the rec")):
        monkeypatch.setattr(events, "MAX_BYTES", bound)
        with pytest.raises(EventError, match=message):
            events.read(tmp_path / "a.npz")
    monkeypatch.undo()
    monkeypatch.setattr(events, "MAX_EVENTS", 99_999)
    with pytest.raises(EventError, match="more than 99999 events: cut the recording to a part"):
        events.read(tmp_path / "a.npz")
