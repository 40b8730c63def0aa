"""Read heartbeats of the MIT-BIH Arrhythmia Database as input images of a network.

The database (Moody and Mark 2001; PhysioNet) has 48 electrocardiogram records of two leads, sampled
at 360 Hz, in which every beat is annotated. The classes follow the AAMI standard: N (normal and
bundle branch block), S (supraventricular ectopic), V (ventricular ectopic), F (fusion), Q
(unclassifiable; so few that it is left out). The records for training (DS1) and for testing (DS2)
are from different patients, as in de Chazal et al. 2004, which leaves out the four records of
patients with pacemakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sw.data.dataset import DataError, Parts, Split
from sw.data.files import open_arrays
from sw.data.source import Source

LABELS = ("N", "S", "V", "F")
"""Classes of the data set: those of AAMI without Q, of which the records have only 15 beats."""
DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209)
DS1 = (*DS1, 215, 220, 223, 230)
DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228)
DS2 = (*DS2, 231, 232, 233, 234)
VALIDATION = (101, 118, 205, 223)
"""Records of DS1 that are held back for validation; together they have beats of all classes."""
FOLDS = (
    (101, 118, 122, 208, 230),
    (106, 116, 205, 207),
    (108, 112, 114, 203, 209),
    (109, 115, 201, 223),
    (119, 124, 215, 220),
)
"""Records of DS1 in the parts of a cross-validation (:mod:`sw.training.crossval`). Each part has S
and V beats. F beats cannot be divided evenly, because nine tenths of them are from one record."""
N_SAMPLES = 128
"""Number of samples of a beat, at 180 Hz."""
N_CHANNELS = 4
"""Number of channels of a beat's image, see :func:`as_images`."""
N_AROUND = 10
"""Number of neighbours on each side of a beat. A beat's intervals are divided by the median
interval of these neighbours and the beat itself."""
R_INDEX = 50
"""Index of the R peak, the main peak of a heartbeat, among the samples of a beat."""
NPZ_NAME = "mitbih_beats_aami.npz"

_AAMI = {
    **dict.fromkeys((1, 2, 3, 34, 11), 0),  # N L R e j
    **dict.fromkeys((8, 4, 7, 9), 1),  # A a J S
    **dict.fromkeys((5, 10), 2),  # V E
    6: 3,  # F
    **dict.fromkeys((12, 38, 13), 4),  # / f Q
}
"""Class of each annotation code of the WFDB library (ecgcodes.h): an index into N, S, V, F, Q."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Beats:
    """N heartbeats, record after record, and in the order of time within each record.

    Attributes
    ----------
    samples : uint16 (N, 128), the signal around each beat at 180 Hz, in steps of the
        analogue-to-digital converter.
    labels : integers (N,), 0 to 4 for the classes N, S, V, F, Q.
    records : integers (N,), number of the record of each beat.
    intervals : uint16 (N, 2), time from the previous beat and time to the next beat, in units of
        1/360 s; 0 at the ends of a record, where there is no such beat.
    """

    samples: NDArray[np.uint16]
    labels: NDArray[np.integer]
    records: NDArray[np.integer]
    intervals: NDArray[np.uint16]

    def chosen(self, which: NDArray[np.bool_]) -> Beats:
        """Return the beats that the mask ``which`` (N,) selects."""
        return Beats(
            samples=self.samples[which],
            labels=self.labels[which],
            records=self.records[which],
            intervals=self.intervals[which],
        )


def known(beats: Beats) -> Beats:
    """Return the beats whose class is in :data:`LABELS`; unclassifiable beats are left out."""
    return beats.chosen(beats.labels < len(LABELS))


def as_images(beats: Beats) -> NDArray[np.uint8]:
    """Return an image of each beat, uint8 (N, 4, 1, 128): 4 channels, one row, 128 columns of time.

    Channel 0 is the signal of the beat, minus the median of the beat's samples, and divided by the
    median height (maximum minus minimum) of the record's beats. Channel 1 is the difference of
    channel 0 from the usual beat, which is the median, sample by sample, over all beats of the
    record. Channel 2 is the time from the previous beat, the same number in all columns. Channel 3
    is the time to the next beat, likewise. Both times are divided by the median interval of this
    beat and of the :data:`N_AROUND` beats on each side. So an early beat stands out at any heart
    rate. All channels are scaled to whole numbers from 0 to 255, and clipped.
    """
    result = np.empty((len(beats.labels), N_CHANNELS, 1, N_SAMPLES), np.uint8)
    samples = beats.samples.astype(np.float64)
    centred = samples - np.median(samples, axis=1, keepdims=True)
    heights = np.ptp(samples, axis=1)
    for record in np.unique(beats.records):
        own = beats.records == record
        scale = max(1.0, float(np.median(heights[own])))
        signal = 110 * centred[own] / scale
        result[own, 0, 0] = np.clip(np.rint(100 + signal), 0, 255)
        unusual = signal - np.median(signal, axis=0)
        result[own, 1, 0] = np.clip(np.rint(128 + unusual), 0, 255)
        relative = _relative_intervals(beats.intervals[own].astype(np.float64))
        result[own, 2:, 0] = np.clip(np.rint(128 * relative), 0, 255)[:, :, None]
    return result


def _relative_intervals(intervals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intervals (N, 2) of a record, divided by the median interval of the beats around
    each.

    An interval of 0, at the ends of a record, becomes 1.
    """
    before = intervals[:, 0]
    median = max(1.0, float(np.median(before)))
    around = np.pad(np.where(before > 0, before, median), N_AROUND, constant_values=median)
    usual = np.median(sliding_window_view(around, 2 * N_AROUND + 1), axis=1)[:, None]
    return np.where(intervals > 0, intervals / usual, 1.0)


def read_records(folder: Path, records: Sequence[int]) -> Beats:
    """Return the first lead of all beats of some records, from the database's own files.

    A beat is 128 samples at 180 Hz around the annotated R peak, its main peak. Each of these
    samples is the mean of two samples at 360 Hz. Beats too near to an end of the record are left
    out.

    Raises
    ------
    DataError
        A file is missing or damaged.
    """
    samples, labels, numbers, intervals = [], [], [], []
    for record in records:
        try:
            signal = read_212((folder / f"{record}.dat").read_bytes())
            times, codes = read_annotations((folder / f"{record}.atr").read_bytes())
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"record {record} in {folder}: {error}") from error
        is_beat = np.isin(codes, list(_AAMI))
        times, codes = times[is_beat], codes[is_beat]
        gaps = np.diff(times)
        before, after = np.append(0, gaps), np.append(gaps, 0)
        for n, time in enumerate(times):
            start = int(time) // 2 * 2 - 2 * R_INDEX
            if start < 0 or start + 2 * N_SAMPLES > len(signal):
                continue
            window = signal[start : start + 2 * N_SAMPLES].reshape(-1, 2)
            samples.append((window.sum(1) // 2).astype(np.uint16))
            labels.append(_AAMI[int(codes[n])])
            numbers.append(record)
            intervals.append((min(before[n], 65535), min(after[n], 65535)))
    if not samples:
        raise DataError(f"{folder} holds no beats of records {records}")
    return Beats(
        samples=np.stack(samples),
        labels=np.array(labels, np.uint8),
        records=np.array(numbers, np.uint16),
        intervals=np.array(intervals, np.uint16),
    )


def read_212(raw: bytes) -> NDArray[np.int64]:
    """Return the first of the two signals in a ``.dat`` file in WFDB's format 212.

    Three bytes hold one 12-bit sample of each signal.
    """
    if len(raw) % 3:
        raise ValueError(f"{len(raw)} bytes are not whole pairs of samples of 3")
    data = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int64)
    first = (data[:, 1] & 0x0F) << 8 | data[:, 0]
    return np.where(first >= 2048, first - 4096, first)


def read_annotations(raw: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the annotations in an ``.atr`` file, in the MIT format: their sample numbers and
    codes.

    A 16-bit word is one annotation: its upper 6 bits are the code, and its lower 10 bits are the
    number of samples since the previous annotation. Words with codes from 59 on are no annotations.
    With code 59, the next two words hold an interval that is too long for 10 bits. The other codes
    hold details of an annotation, and are skipped.
    """
    words = np.frombuffer(raw[: len(raw) // 2 * 2], "<u2").astype(np.int64)
    times, codes = [], []
    time = place = 0
    while place < len(words) and words[place]:
        code, low = int(words[place] >> 10), int(words[place] & 0x3FF)
        place += 1
        if code == 59:  # SKIP: 32 bits follow, high word first
            interval = int(words[place]) << 16 | int(words[place + 1])
            time += interval - (1 << 32 if interval >> 31 else 0)
            place += 2
        elif code == 63:  # AUX: text of that many bytes follows
            place += (low + 1) // 2
        elif code < 59:  # 60 to 62 hold details of the previous annotation
            time += low
            times.append(time)
            codes.append(code)
    return np.array(times, np.int64), np.array(codes, np.int64)


def _holds(folder: Path) -> bool:
    return (folder / NPZ_NAME).is_file() or (folder / "100.atr").is_file()


def _beats(folder: Path, what: str) -> Beats:
    """Return the beats of all records for training or testing; ``what`` is ``train`` or
    ``test``.
    """
    packed = folder / NPZ_NAME
    if not packed.is_file():
        return known(read_records(folder, DS1 if what == "train" else DS2))
    arrays = open_arrays(packed)
    return known(
        Beats(
            samples=arrays[f"x_{what}"],
            labels=arrays[f"y_{what}"],
            records=arrays[f"rec_{what}"],
            intervals=arrays[f"rr_{what}"],
        )
    )


def _read(folder: Path, timesteps: int) -> Parts:
    train = _beats(folder, "train")
    held = np.isin(train.records, VALIDATION)
    return Parts(
        train=_split(train.chosen(~held)),
        validation=_split(train.chosen(held)),
        test=_split(_beats(folder, "test")),
        note="inter-patient (DS1/DS2); classes N, S, V, F, without the unclassifiable beats",
    )


def _read_parts(folder: Path) -> list[Parts]:
    train = _beats(folder, "train")
    found = []
    for n, records in enumerate(FOLDS):
        held = np.isin(train.records, records)
        next_held = np.isin(train.records, FOLDS[(n + 1) % len(FOLDS)])
        found.append(
            Parts(
                train=_split(train.chosen(~(held | next_held))),
                validation=_split(train.chosen(next_held)),
                test=_split(train.chosen(held)),
                note=f"part {n + 1} of {len(FOLDS)} of DS1, by patient",
            )
        )
    return found


def _split(beats: Beats) -> Split:
    return Split(images=as_images(beats), labels=beats.labels.astype(np.int64))


SOURCE = Source(
    name="mitbih",
    files=f"the .dat and .atr files of the database's records; or {NPZ_NAME}, their beats in one "
    "file",
    labels=LABELS,
    holds=_holds,
    read=_read,
    url="https://physionet.org/content/mitdb/1.0.0/",
    metric="balanced",
    read_parts=_read_parts,
)
