"""N-MNIST: recordings of digits by an event camera."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data import events
from sw.data.dataset import Dataset, dataset
from sw.data.dvs import recordings_by_class
from sw.data.files import open_arrays


def holds_nmnist(folder: Path) -> bool:
    return (folder / "nmnist_small.npz").is_file() or all(
        (folder / part / "0").is_dir() for part in ("Train", "Test")
    )


def nmnist(folder: Path, timesteps: int) -> Dataset:
    labels = [str(n) for n in range(10)]
    packed = folder / "nmnist_small.npz"
    if packed.is_file():
        arrays = open_arrays(packed)
        train, test = (
            _packed_recordings(arrays, part, timesteps, (34, 34)) for part in ("train", "test")
        )
        note = (
            f"subset of N-MNIST: its first {len(train[1])} training and {len(test[1])} test samples"
        )
        return dataset("nmnist", labels, train, test, len(train[1]) // 50 * 10, str(folder), note)
    train, test = (
        recordings_by_class(folder / part, labels, timesteps, (34, 34))
        for part in ("Train", "Test")
    )
    return dataset("nmnist", labels, train, test, 5000, str(folder))


def _packed_recordings(
    arrays: dict[str, NDArray[Any]], part: str, timesteps: int, sensor: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Recordings one after another: ``{part}_x, _y, _p``, ``_dt`` (since the event before in the
    same recording), ``_offsets`` (N + 1) and ``_labels`` (N)."""
    x, y, p, dt = (arrays[f"{part}_{key}"] for key in ("x", "y", "p", "dt"))
    bounds = arrays[f"{part}_offsets"].astype(np.int64)
    found = np.empty((len(bounds) - 1, timesteps, 2, *sensor), np.uint8)
    for n, (start, stop) in enumerate(itertools.pairwise(bounds)):
        part_of = slice(start, stop)
        times = np.cumsum(dt[part_of], dtype=np.int64)
        found[n] = events.frames(
            events.make(times, x[part_of], y[part_of], p[part_of]), timesteps, sensor
        )
    return found, arrays[f"{part}_labels"].astype(np.int64)
