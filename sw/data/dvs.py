"""DVS128 Gesture and CIFAR10-DVS: ``.aedat`` recordings of a 128 x 128 event camera."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data import events
from sw.data.cifar10 import CIFAR10_LABELS
from sw.data.dataset import DataError, Dataset, dataset

GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other",
)
DVS128 = (128, 128)


def recordings_by_class(
    folder: Path, classes: Sequence[str], timesteps: int, sensor: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A folder for every class with recordings in it, in order of their names."""
    paths = [
        (path, n)
        for n, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if path.suffix in events.SUFFIXES
    ]
    if not paths:
        raise DataError(f"{folder} holds no recordings ({', '.join(events.SUFFIXES)})")
    found = np.empty((len(paths), timesteps, 2, *sensor), np.uint8)
    for n, (path, _) in enumerate(tqdm(paths, folder.name, leave=False, disable=None)):
        found[n] = events.frames(events.read(path), timesteps, sensor)
    return found, np.array([label for _, label in paths])


def holds_gesture(folder: Path) -> bool:
    return (folder / "trials_to_train.txt").is_file()


def gesture(folder: Path, timesteps: int) -> Dataset:
    def part(trials: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        found: list[NDArray[np.uint8]] = []
        targets: list[int] = []
        names = [line.strip() for line in (folder / trials).read_text().splitlines()]
        for name in tqdm([n for n in names if n], trials, leave=False, disable=None):
            recording = events.read(folder / name)
            table = (folder / name).with_name(Path(name).stem + "_labels.csv")
            for row in csv.DictReader(io.StringIO(table.read_text())):
                start, stop = int(row["startTime_usec"]), int(row["endTime_usec"])
                inside = recording[(recording["t"] >= start) & (recording["t"] < stop)]
                found.append(events.frames(inside, timesteps, DVS128))
                targets.append(int(row["class"]) - 1)
        return np.stack(found), np.array(targets)

    train, test = part("trials_to_train.txt"), part("trials_to_test.txt")
    per_class = max(1, int(np.bincount(train[1]).min()) // 10)
    return dataset("dvs-gesture", GESTURES, train, test, per_class * len(GESTURES), str(folder))


def holds_cifar10_dvs(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in CIFAR10_LABELS)


def cifar10_dvs(folder: Path, timesteps: int) -> Dataset:
    images, labels = recordings_by_class(folder, CIFAR10_LABELS, timesteps, DVS128)
    counts = np.bincount(labels, minlength=len(CIFAR10_LABELS))
    place = np.concatenate([np.arange(n) for n in counts])  # within the class
    is_test = place >= (counts - counts // 10)[labels]
    n_validation = max(1, int(counts.min()) // 20) * len(CIFAR10_LABELS)
    return dataset(
        "cifar10-dvs",
        CIFAR10_LABELS,
        (images[~is_test], labels[~is_test]),
        (images[is_test], labels[is_test]),
        n_validation,
        str(folder),
    )
