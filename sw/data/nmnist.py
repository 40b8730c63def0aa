"""Read N-MNIST: MNIST's digits, seen by a moving 34 x 34 event camera (Orchard et al. 2015)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data import events
from sw.data.dataset import Parts, Split
from sw.data.files import open_arrays, recordings_by_class
from sw.data.source import Source

LABELS = tuple(str(n) for n in range(10))
SENSOR = (34, 34)
NPZ_NAME = "nmnist_small.npz"
N_VALIDATION = 5000


def _holds(folder: Path) -> bool:
    return (folder / NPZ_NAME).is_file() or all(
        (folder / part / "0").is_dir() for part in ("Train", "Test")
    )


def _read(folder: Path, timesteps: int) -> Parts:
    packed = folder / NPZ_NAME
    if packed.is_file():
        arrays = open_arrays(packed)
        train, test = (_joined_recordings(arrays, part, timesteps) for part in ("train", "test"))
        return Parts(
            train=train,
            test=test,
            n_validation=len(train) // 50 * 10,
            note=f"subset of N-MNIST: its first {len(train)} training and {len(test)} test samples",
        )
    train, test = (
        recordings_by_class(folder / part, LABELS, timesteps, SENSOR) for part in ("Train", "Test")
    )
    return Parts(train=train, test=test, n_validation=N_VALIDATION)


def _joined_recordings(arrays: dict[str, NDArray[Any]], part: str, timesteps: int) -> Split:
    """Return N recordings, binned into ``timesteps`` frames each, whose events are in ``arrays``.

    ``part`` is ``train`` or ``test``. The arrays ``{part}_x``, ``{part}_y`` and ``{part}_p`` have
    the column, row and polarity of every event, and ``{part}_dt`` the microseconds since the
    previous event of its recording. All recordings' events follow one another. ``{part}_offsets``
    (N + 1) has the position where each recording begins, and at last the position where the last
    one ends. ``{part}_labels`` (N) has the classes.
    """
    x, y, p, dt = (arrays[f"{part}_{key}"] for key in ("x", "y", "p", "dt"))
    bounds = arrays[f"{part}_offsets"].astype(np.int64)
    found = np.empty((len(bounds) - 1, timesteps, 2, *SENSOR), np.uint8)
    for n, (start, stop) in enumerate(itertools.pairwise(bounds)):
        own = slice(start, stop)
        times = np.cumsum(dt[own], dtype=np.int64)
        found[n] = events.frames(events.make(times, x[own], y[own], p[own]), timesteps, SENSOR)
    return Split(images=found, labels=arrays[f"{part}_labels"].astype(np.int64))


SOURCE = Source(
    name="nmnist",
    files=f"Train and Test with a folder of .bin recordings for every digit; or {NPZ_NAME}, a "
    "subset whose recordings are in one file",
    labels=LABELS,
    holds=_holds,
    read=_read,
    url="https://www.garrickorchard.com/datasets/n-mnist",
)
