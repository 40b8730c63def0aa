"""MIT-BIH Arrhythmia Database: heartbeats as one-dimensional signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sw.data import beats
from sw.data.dataset import Dataset, Split, digest_of
from sw.data.files import open_arrays


def holds_mitbih(folder: Path) -> bool:
    return (folder / "mitbih_beats_aami.npz").is_file() or (folder / "100.atr").is_file()


def mitbih(folder: Path, timesteps: int) -> Dataset:
    packed = folder / "mitbih_beats_aami.npz"
    if packed.is_file():
        arrays = open_arrays(packed)
        parts = [
            beats.Beats(
                samples=arrays[f"x_{part}"],
                labels=arrays[f"y_{part}"],
                records=arrays[f"rec_{part}"],
                intervals=arrays[f"rr_{part}"],
            )
            for part in ("train", "test")
        ]
    else:
        parts = [beats.read_records(folder, part) for part in (beats.DS1, beats.DS2)]
    train, test = (beats.known(part) for part in parts)
    held = np.isin(train.records, beats.VALIDATION)
    splits = [
        Split(images=beats.as_images(part), labels=part.labels.astype(np.int64))
        for part in (train.chosen(~held), train.chosen(held), test)
    ]
    return Dataset(
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        sha256=digest_of(*(a for s in splits for a in (s.images, s.labels))),
        place=str(folder),
        name="mitbih",
        labels=beats.CLASSES,
        note="inter-patient (DS1/DS2); classes N, S, V, F, without the unclassifiable beats",
        metric="balanced",
    )
