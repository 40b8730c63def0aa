"""MIT-BIH Arrhythmia Database: heartbeats as inputs of a network.

The database (Moody and Mark 2001; PhysioNet) has 48 records of two leads at 360 Hz with every beat
annotated. The classes are AAMI's: N (normal and bundle branch block), S (supraventricular ectopic),
V (ventricular ectopic), F (fusion), Q (unclassifiable). Training and test patients are those of de
Chazal et al. 2004 (DS1, DS2), which leave out the paced records.
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
"""AAMI's classes without Q, of which there are 15 beats."""
DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209)
DS1 = (*DS1, 215, 220, 223, 230)
DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228)
DS2 = (*DS2, 231, 232, 233, 234)
VALIDATION = (101, 118, 205, 223)
"""Patients of DS1 that are held for validation; together they have beats of all classes."""
N_SAMPLES = 128
"""Number of samples of a beat, at 180 Hz."""
N_CHANNELS = 4
"""Number of channels of a beat's image, see :func:`as_images`."""
N_AROUND = 10
"""Number of beats to each side whose median interval an interval is relative to."""
R_INDEX = 50
"""Index of the sample at the R peak."""
NPZ_NAME = "mitbih_beats_aami.npz"

_AAMI = {
    **dict.fromkeys((1, 2, 3, 34, 11), 0),  # N L R e j
    **dict.fromkeys((8, 4, 7, 9), 1),  # A a J S
    **dict.fromkeys((5, 10), 2),  # V E
    6: 3,  # F
    **dict.fromkeys((12, 38, 13), 4),  # / f Q
}
"""Class by annotation code of the WFDB library (ecgcodes.h)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Beats:
    """N beats, in the order of time within each record.

    Attributes
    ----------
    samples : uint16 (N, 128), in units of the converter.
    labels : (N,) 0 to 4: N, S, V, F, Q.
    records : (N,) numbers of the records.
    intervals : uint16 (N, 2), to the beat before and the beat after in 1/360 s; 0 if there is none.
    """

    samples: NDArray[np.uint16]
    labels: NDArray[np.integer]
    records: NDArray[np.integer]
    intervals: NDArray[np.uint16]

    def chosen(self, which: NDArray[np.bool_]) -> Beats:
        """Return the beats for which ``which`` (N,) is true."""
        return Beats(
            samples=self.samples[which],
            labels=self.labels[which],
            records=self.records[which],
            intervals=self.intervals[which],
        )


def known(beats: Beats) -> Beats:
    """Return the beats of the classes in :data:`LABELS`."""
    return beats.chosen(beats.labels < len(LABELS))


def as_images(beats: Beats) -> NDArray[np.uint8]:
    """Make images of beats, uint8 (N, 4, 1, 128). Channel 0 is the signal, channel 1 its difference
    from the patient's usual beat, channels 2 and 3 are constant: the intervals before and after.

    The signal is centred on the beat's median and scaled by the record's median beat height; the
    usual beat is the median over all beats of the record. An interval is relative to the median of
    those around it, :data:`N_AROUND` beats to each side, so that an early beat stands out at any
    heart rate.
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
    """Divide a record's intervals (N, 2) by the median interval around each; 1 if there is none."""
    before = intervals[:, 0]
    median = max(1.0, float(np.median(before)))
    around = np.pad(np.where(before > 0, before, median), N_AROUND, constant_values=median)
    usual = np.median(sliding_window_view(around, 2 * N_AROUND + 1), axis=1)[:, None]
    return np.where(intervals > 0, intervals / usual, 1.0)


def read_records(folder: Path, records: Sequence[int]) -> Beats:
    """Read the beats of some records, first lead.

    A beat is 128 samples at 180 Hz (means of pairs) around the annotated R peak; beats too near an
    end of the record are left out.

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
    """Decode the first of two signals in WFDB's format 212: three bytes hold a sample of each, of
    12 bits."""
    if len(raw) % 3:
        raise ValueError(f"{len(raw)} bytes are not whole pairs of samples of 3")
    data = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int64)
    first = (data[:, 1] & 0x0F) << 8 | data[:, 0]
    return np.where(first >= 2048, first - 4096, first)


def read_annotations(raw: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decode annotations in MIT format into sample numbers and codes.

    A 16-bit word has the code in its upper 6 bits and the time since the annotation before in its
    lower 10; codes from 59 on are long intervals and additions.
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
        elif code < 59:  # 60 to 62 are numbers that belong to the annotation before
            time += low
            times.append(time)
            codes.append(code)
    return np.array(times, np.int64), np.array(codes, np.int64)


def _holds(folder: Path) -> bool:
    return (folder / NPZ_NAME).is_file() or (folder / "100.atr").is_file()


def _read(folder: Path, timesteps: int) -> Parts:
    packed = folder / NPZ_NAME
    if packed.is_file():
        arrays = open_arrays(packed)
        parts = [
            Beats(
                samples=arrays[f"x_{part}"],
                labels=arrays[f"y_{part}"],
                records=arrays[f"rec_{part}"],
                intervals=arrays[f"rr_{part}"],
            )
            for part in ("train", "test")
        ]
    else:
        parts = [read_records(folder, part) for part in (DS1, DS2)]
    train, test = (known(part) for part in parts)
    held = np.isin(train.records, VALIDATION)
    return Parts(
        train=_split(train.chosen(~held)),
        validation=_split(train.chosen(held)),
        test=_split(test),
        note="inter-patient (DS1/DS2); classes N, S, V, F, without the unclassifiable beats",
    )


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
)
