"""Read DVS128 Gesture: hand gestures, seen by a 128 x 128 event camera (Amir et al. 2017)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data import events
from sw.data.dataset import Parts, Split
from sw.data.source import Source

LABELS = (
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
SENSOR = (128, 128)
TRAIN_LIST, TEST_LIST = "trials_to_train.txt", "trials_to_test.txt"


def _holds(folder: Path) -> bool:
    return (folder / TRAIN_LIST).is_file()


def _read(folder: Path, timesteps: int) -> Parts:
    train, test = (_gestures(folder, name, timesteps) for name in (TRAIN_LIST, TEST_LIST))
    per_class = max(1, int(np.bincount(train.labels).min()) // 10)
    return Parts(train=train, test=test, n_validation=per_class * len(LABELS))


def _gestures(folder: Path, list_name: str, timesteps: int) -> Split:
    """Return the gestures in the recordings that the file ``list_name`` names.

    A recording contains several gestures. Beside the recording lies a file with the same name, but
    ``_labels.csv`` instead of the suffix, which has the class, start and end of each gesture. A
    gesture is binned into ``timesteps`` binary frames.
    """
    found: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    names = [line.strip() for line in (folder / list_name).read_text().splitlines()]
    for name in tqdm([n for n in names if n], list_name, leave=False, disable=None):
        recording = events.read(folder / name)
        table = (folder / name).with_name(Path(name).stem + "_labels.csv")
        for row in csv.DictReader(io.StringIO(table.read_text())):
            start, stop = int(row["startTime_usec"]), int(row["endTime_usec"])
            inside = recording[(recording["t"] >= start) & (recording["t"] < stop)]
            found.append(events.frames(inside, timesteps, SENSOR))
            labels.append(int(row["class"]) - 1)
    return Split(images=np.stack(found), labels=np.array(labels))


SOURCE = Source(
    name="dvs-gesture",
    files=f".aedat recordings, each with its _labels.csv, and their names in {TRAIN_LIST} and "
    f"{TEST_LIST}",
    labels=LABELS,
    holds=_holds,
    read=_read,
    url="https://research.ibm.com/interactive/dvsgesture/",
)
