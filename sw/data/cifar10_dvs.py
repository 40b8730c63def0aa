"""Read CIFAR10-DVS: images of CIFAR-10, moved in front of a 128 x 128 event camera (Li et al.
2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sw.data.cifar10 import LABELS
from sw.data.dataset import Parts, Split
from sw.data.files import recordings_by_class
from sw.data.source import Source

SENSOR = (128, 128)


def _holds(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in LABELS)


def _read(folder: Path, timesteps: int) -> Parts:
    whole = recordings_by_class(folder, LABELS, timesteps, SENSOR)
    counts = np.bincount(whole.labels, minlength=len(LABELS))
    number = np.concatenate([np.arange(n) for n in counts])  # within the class
    is_test = number >= (counts - counts // 10)[whole.labels]
    train, test = (
        Split(images=whole.images[chosen], labels=whole.labels[chosen])
        for chosen in (~is_test, is_test)
    )
    per_class = max(1, int(counts.min()) // 20)
    return Parts(train=train, test=test, n_validation=per_class * len(LABELS))


SOURCE = Source(
    name="cifar10-dvs",
    files=f"a folder of .aedat recordings for every class, named {', '.join(LABELS)}; the last "
    "tenth of each is for testing",
    labels=LABELS,
    holds=_holds,
    read=_read,
    url="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
)
