"""Small data sets for tests: easily classified images, and records of heartbeats."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from sw.data.dataset import Dataset, Split
from sw.data.fashion_mnist import LABELS
from tests.trained import images


def easy_split(n_images: int, seed: int) -> Split:
    """Return random images of two classes: one bright in the upper half, one in the lower."""
    pixels = images(n_images, seed) // 4
    labels = (np.arange(n_images) % 2).astype(np.uint8)
    pixels[labels == 0, :, :5] += 180
    pixels[labels == 1, :, 6:] += 180
    return Split(images=pixels, labels=labels)


def easy_data() -> Dataset:
    """Return a data set of :func:`easy_split` images, which a small network learns in seconds."""
    return Dataset(
        name="fashion-mnist",
        labels=LABELS,
        train=easy_split(160, 1),
        validation=easy_split(40, 2),
        test=easy_split(60, 3),
        sha256="0" * 64,
        place="memory",
    )


def write_record(folder: Path, record: int, signal: np.ndarray, beats_at: list[tuple[int, int]]):
    """Write a record in the MIT-BIH database's format 212, and its annotations.

    The second signal is zero everywhere; ``beats_at`` holds pairs of a heartbeat's sample number
    and its annotation code.
    """
    raw = bytearray()
    for value in signal:
        value = int(value) & 0xFFF
        raw += bytes([value & 0xFF, value >> 8, 0])
    (folder / f"{record}.dat").write_bytes(bytes(raw))
    words = struct.pack("<H", 28 << 10 | 5) + struct.pack("<HH", 63 << 10 | 3, 0x4E28) + b"\0\0"
    before = 5
    for sample, code in beats_at:
        gap = sample - before
        if gap > 1023:
            words += struct.pack("<HHH", 59 << 10, gap >> 16, gap & 0xFFFF)
            gap = 0
        words += struct.pack("<HH", code << 10 | gap, 62 << 10 | 1)
        before = sample
    (folder / f"{record}.atr").write_bytes(words + b"\0\0")
