"""CIFAR-10: 32 x 32 colour images of ten classes (Krizhevsky 2009)."""

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

from sw.data.dataset import Parts, Split
from sw.data.files import decode, fetch, open_arrays
from sw.data.source import Source
from sw.files import write_whole

LABELS = (
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
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
TRAIN_FILES = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST_FILE = "test_batch.bin"
JPEG_NAME = "cifar10_jpeg.npz"
N_VALIDATION = 5000


def _holds(folder: Path) -> bool:
    return (folder / JPEG_NAME).is_file() or (folder / TRAIN_FILES[0]).is_file()


def _read(folder: Path, timesteps: int) -> Parts:
    jpeg = folder / JPEG_NAME
    if jpeg.is_file():
        arrays = open_arrays(jpeg)
        train, test = (_encoded_images(arrays, part) for part in ("train", "test"))
        note = "JPEG copy of CIFAR-10: lossy, figures are near those of the original, not equal"
    else:
        train = _binary([folder / name for name in TRAIN_FILES])
        test = _binary([folder / TEST_FILE])
        note = ""
    return Parts(train=train, test=test, n_validation=N_VALIDATION, note=note)


def _binary(paths: Sequence[Path]) -> Split:
    """Return the samples in files of CIFAR-10's binary version, one file after another.

    In this version, a sample is one byte of label and 3 x 32 x 32 bytes of pixels.
    """
    raw = b"".join(path.read_bytes() for path in paths)
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    return Split(images=images, labels=records[:, 0].astype(np.int64))


def _encoded_images(arrays: dict[str, NDArray[Any]], part: str) -> Split:
    """Return N samples whose images are JPEG files, concatenated in one array of bytes.

    ``part`` is ``train`` or ``test``. The array ``{part}_jpeg`` has the bytes of all files. The
    array ``{part}_offsets`` (N + 1) has the position where each file begins, and at last the
    position where the last file ends. The array ``{part}_labels`` (N) has the classes.
    """
    raw, bounds = arrays[f"{part}_jpeg"].tobytes(), arrays[f"{part}_offsets"].astype(np.int64)
    pairs = list(itertools.pairwise(bounds))
    images = [
        decode(raw[start:stop], "RGB")
        for start, stop in tqdm(pairs, part, leave=False, disable=None)
    ]
    return Split(images=np.stack(images), labels=arrays[f"{part}_labels"].astype(np.int64))


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(fetch(URL, MD5))) as archive:
        # The file that _holds looks for is written last: an interrupted download is begun again.
        for name in (*TRAIN_FILES[1:], TEST_FILE, TRAIN_FILES[0]):
            member = archive.extractfile(f"cifar-10-batches-bin/{name}")
            assert member is not None
            write_whole(folder / name, member.read())


SOURCE = Source(
    name="cifar10",
    files=f"the files {TRAIN_FILES[0]} to {TRAIN_FILES[-1]} and {TEST_FILE} of the binary version; "
    f"or {JPEG_NAME}, JPEG copies of the images in one file",
    labels=LABELS,
    holds=_holds,
    read=_read,
    url=URL,
    download=_download,
)
