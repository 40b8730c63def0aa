from __future__ import annotations

import struct
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


def test_aedat_2_files(tmp_path: Path) -> None:
    path = tmp_path / "a.aedat"
    header = b"#!AER-DAT2.0\r\n# a camera\r\n"
    words = [(10 << 8 | 20 << 1 | 1, 1000), (127 << 8 | 0 << 1 | 0, 1005)]
    path.write_bytes(header + b"".join(struct.pack(">II", *word) for word in words))
    found = events.read(path)
    assert found["x"].tolist() == [107, 127] and found["y"].tolist() == [117, 0]
    assert found["p"].tolist() == [False, True] and found["t"].tolist() == [1000, 1005]
    for raw, message in (
        (header + b"12345", "the file ends within an event"),
        (header[:-2], "the header does not end"),
        (b"#!AER-DAT3.1\r\n# no end", "the header does not end"),
    ):
        path.write_bytes(raw)
        with pytest.raises(EventError, match=rf"a\.aedat is damaged or no recording: {message}"):
            events.read(path)


def test_aedat_3_files(tmp_path: Path) -> None:
    path = tmp_path / "b.aedat"
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"

    def packet(kind: int, overflow: int, rows: list[tuple[int, int]]) -> bytes:
        n = len(rows)
        head = struct.pack("<HHIIIIII", kind, 1, 8, 4, overflow, n, n, n)
        return head + b"".join(struct.pack("<II", *row) for row in rows)

    rows = [(5 << 17 | 6 << 2 | 1 << 1 | 1, 50), (7 << 17 | 8 << 2, 60), (9 << 17 | 1, 70)]
    raw = header + packet(2, 0, [(1, 1)]) + packet(1, 1, rows)
    path.write_bytes(raw)
    found = events.read(path)
    # The second event is marked invalid; the other packet holds no polarity events.
    assert found["x"].tolist() == [5, 9] and found["y"].tolist() == [6, 0]
    assert found["p"].tolist() == [True, False]
    assert found["t"].tolist() == [(1 << 31) + 50, (1 << 31) + 70]
    for cut in (len(raw) - 3, len(header) + 20):
        path.write_bytes(raw[:cut])
        with pytest.raises(EventError, match="ends within"):
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
        ("d.txt", r"d\.txt: recordings end in \.bin, \.aedat, \.npy, \.npz"),
        ("e.npz", r"e\.npz is damaged or no recording: .*x"),
        ("f.npy", r"f\.npy is damaged or no recording"),
        ("h.npz", r"h\.npz is damaged or no recording"),
        ("none.npy", r"none\.npy is damaged or no recording: .*No such file"),
    ):
        with pytest.raises(EventError, match=message):
            events.read(tmp_path / name)
    for raw in damaged_arrays():
        (tmp_path / "g.npz").write_bytes(raw)
        with pytest.raises(EventError, match=r"g\.npz is damaged or no recording: \S"):
            events.read(tmp_path / "g.npz")
