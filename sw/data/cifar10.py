"""CIFAR-10: the binary version, or JPEG copies of its images."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data.dataset import Dataset, dataset
from sw.data.files import decode, fetch, open_arrays
from sw.files import write_whole

CIFAR10_LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_TRAIN = tuple(f"data_batch_{n}.bin" for n in range(1, 6))


def holds_cifar10(folder: Path) -> bool:
    return (folder / "cifar10_jpeg.npz").is_file() or (folder / CIFAR10_TRAIN[0]).is_file()


def download_cifar10(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(fetch(CIFAR10_URL, CIFAR10_MD5))) as archive:
        for name in (*CIFAR10_TRAIN[1:], "test_batch.bin", CIFAR10_TRAIN[0]):
            member = archive.extractfile(f"cifar-10-batches-bin/{name}")
            assert member is not None
            write_whole(folder / name, member.read())


def cifar10(folder: Path, timesteps: int) -> Dataset:
    n_validation = 5000
    jpeg = folder / "cifar10_jpeg.npz"
    if jpeg.is_file():
        arrays = open_arrays(jpeg)
        train, test = (_encoded_images(arrays, part) for part in ("train", "test"))
        note = "JPEG copy of CIFAR-10: lossy, figures are near those of the original, not equal"
    else:
        train = _cifar10_bin([folder / name for name in CIFAR10_TRAIN])
        test = _cifar10_bin([folder / "test_batch.bin"])
        note = ""
    return dataset("cifar10", CIFAR10_LABELS, train, test, n_validation, str(folder), note)


def _cifar10_bin(paths: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Records of a label and 3 x 32 x 32 bytes."""
    raw = b"".join(path.read_bytes() for path in paths)
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _encoded_images(
    arrays: dict[str, NDArray[Any]], part: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Image files one after another: ``{part}_jpeg``, ``_offsets`` (N + 1) and ``_labels`` (N)."""
    raw, bounds = arrays[f"{part}_jpeg"].tobytes(), arrays[f"{part}_offsets"].astype(np.int64)
    pairs = list(itertools.pairwise(bounds))
    images = [
        decode(raw[start:stop], "RGB")
        for start, stop in tqdm(pairs, part, leave=False, disable=None)
    ]
    return np.stack(images), arrays[f"{part}_labels"].astype(np.int64)
