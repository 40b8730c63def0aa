"""A user's own data: arrays, IDX files, or folders of images and recordings by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sw.data import events
from sw.data.dataset import DataError, Dataset, dataset
from sw.data.files import (
    IMAGE_SUFFIXES,
    decode,
    open_arrays,
    read_idx,
)


def load_own(path: Path, timesteps: int) -> Dataset:
    """A user's own data.

    ``path`` is an ``.npz`` with ``x_train, y_train, x_test, y_test`` (uint8 images (N, H, W) or
    (N, C, H, W), or frames of 0 and 1 (N, T, C, H, W)); or a folder with the four IDX files; or a
    folder with ``train`` and ``test``, each of which has a folder for every class, with image files
    or event recordings in it. A tenth of the training data is held for validation.

    Raises
    ------
    DataError
        None of these, or damaged.
    """
    if path.suffix == ".npz":
        arrays = open_arrays(path)
        try:
            train, test = ((arrays[f"x_{s}"], arrays[f"y_{s}"]) for s in ("train", "test"))
        except KeyError as error:
            raise DataError(
                f"{path} lacks {error}: it needs x_train, y_train, x_test, y_test"
            ) from error
        classes = None
    elif (path / "train").is_dir():
        classes = sorted(p.name for p in (path / "train").iterdir() if p.is_dir())
        files = [_files_by_class(path / part, classes) for part in ("train", "test")]
        if files[0][0][0].suffix in events.SUFFIXES:
            samples = _recordings([paths for paths, _ in files], timesteps)
        else:
            samples = [_images(paths) for paths, _ in files]
        train, test = ((x, y) for x, (_, y) in zip(samples, files, strict=True))
    else:
        train, test = (_idx_pair(path, part) for part in ("train", "t10k"))
        classes = None
    train, test = (
        (images[:, None] if images.ndim == 3 else images, labels.astype(np.int64))
        for images, labels in (train, test)
    )
    for images, _ in (train, test):
        if images.dtype != np.uint8 or images.ndim not in (4, 5):
            raise DataError(
                f"{path}: images are {images.dtype} {images.shape}, expected uint8 (N, H, W), "
                f"(N, C, H, W) or frames (N, T, C, H, W)"
            )
        if images.ndim == 5 and images.max(initial=0) > 1:
            raise DataError(f"{path}: frames hold values up to {images.max()}, expected 0 and 1")
    if classes is None:
        classes = [f"class {n}" for n in range(int(train[1].max(initial=0)) + 1)]
    per_class = max(1, int(np.bincount(train[1], minlength=len(classes)).min()) // 10)
    return dataset(path.stem, classes, train, test, per_class * len(classes), str(path))


def _files_by_class(folder: Path, classes: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """The files in the folders of all classes, and which class each is of."""
    found = [(p, n) for n, name in enumerate(classes) for p in sorted((folder / name).glob("*"))]
    if not found:
        raise DataError(f"{folder} holds no files in folders {', '.join(classes)}")
    return [path for path, _ in found], np.array([n for _, n in found])


def _recordings(parts: Sequence[Sequence[Path]], timesteps: int) -> list[NDArray[np.uint8]]:
    """Frames of each part, all of the size that the events of all of them need."""
    read = [[events.read(path) for path in paths] for paths in parts]
    height, width = (
        1 + max(int(r[axis].max(initial=0)) for part in read for r in part) for axis in ("y", "x")
    )
    return [np.stack([events.frames(r, timesteps, (height, width)) for r in part]) for part in read]


def _images(paths: Sequence[Path]) -> NDArray[np.uint8]:
    images = [_image(p) for p in paths if p.suffix.lower() in IMAGE_SUFFIXES]
    if len({image.shape for image in images}) != 1 or len(images) != len(paths):
        raise DataError(
            f"{paths[0].parents[1]}: image files ({', '.join(IMAGE_SUFFIXES)}) of one size are "
            f"expected"
        )
    return np.stack(images)


def _image(path: Path) -> NDArray[np.uint8]:
    try:
        return decode(path.read_bytes(), "RGB")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _idx_pair(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    found = []
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        names = (f"{part}-{what}", f"{part}-{what}.gz")
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise DataError(
                f"{folder} holds no data that is known: neither {names[0]} nor a folder train; "
                f"sw.data.own.load_own says what there may be"
            )
        found.append(read_idx(path))
    return found[0], found[1]
