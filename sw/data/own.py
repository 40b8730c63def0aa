"""Read a user's own data set: arrays, IDX files (the format of MNIST), or a folder of images or
event recordings for every class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sw.data import events
from sw.data.dataset import DataError, Parts, Split
from sw.data.files import IMAGE_SUFFIXES, decode, find_idx, open_arrays, read_idx

FILES = (
    "an .npz file with x_train, y_train, x_test, y_test: uint8 images (N, H, W) or (N, C, H, W), "
    "or frames of 0 and 1 (N, T, C, H, W); or a folder with the four IDX files, named as "
    "Fashion-MNIST's; or a folder with train and test, each with a folder of image files "
    f"({', '.join(IMAGE_SUFFIXES)}) or event recordings ({', '.join(events.SUFFIXES)}) for every "
    "class"
)
"""Forms that a user's own data may have, in words."""


def read(path: Path, timesteps: int) -> tuple[Parts, tuple[str, ...]]:
    """Read a user's own data set, in any of the forms in :data:`FILES`.

    About a tenth of the training data will be held back for validation, equally many samples of
    every class. Event recordings are binned into ``timesteps`` frames.

    Returns
    -------
    The data, and the names of the classes: those of the folders, or else ``class 0`` and so on.

    Raises
    ------
    DataError
        The path has none of these forms, or its files are damaged.
    """
    classes: tuple[str, ...] | None = None
    note = ""
    if path.suffix == ".npz":
        train, test = _arrays(path)
    elif (path / "train").is_dir():
        classes = tuple(sorted(p.name for p in (path / "train").iterdir() if p.is_dir()))
        (train, test), note = _folders(path, classes, timesteps)
    else:
        train, test = (_idx(path, part) for part in ("train", "t10k"))
    train, test = (_checked(part, path) for part in (train, test))
    if classes is None:
        classes = tuple(f"class {n}" for n in range(int(train.labels.max(initial=0)) + 1))
    per_class = max(1, int(np.bincount(train.labels, minlength=len(classes)).min()) // 10)
    return Parts(train=train, test=test, n_validation=per_class * len(classes), note=note), classes


def _checked(part: Split, path: Path) -> Split:
    """Raise :class:`DataError` unless the samples are uint8 images, or frames of 0 and 1.

    Return them with a channel axis: images (N, H, W) become (N, 1, H, W).
    """
    images = part.images[:, None] if part.images.ndim == 3 else part.images
    if images.dtype != np.uint8 or images.ndim not in (4, 5):
        raise DataError(
            f"{path}: images are {images.dtype} {images.shape}, expected uint8 (N, H, W), "
            f"(N, C, H, W) or frames (N, T, C, H, W)"
        )
    if images.ndim == 5 and images.max(initial=0) > 1:
        raise DataError(f"{path}: frames hold values up to {images.max()}, expected 0 and 1")
    return Split(images=images, labels=part.labels.astype(np.int64))


def _arrays(path: Path) -> list[Split]:
    arrays = open_arrays(path)
    try:
        return [Split(images=arrays[f"x_{s}"], labels=arrays[f"y_{s}"]) for s in ("train", "test")]
    except KeyError as error:
        raise DataError(
            f"{path} lacks {error}: it needs x_train, y_train, x_test, y_test"
        ) from error


def _folders(path: Path, classes: Sequence[str], timesteps: int) -> tuple[list[Split], str]:
    """Return training and test data, and a remark on recordings, which is empty for images."""
    files = [_files_by_class(path / part, classes) for part in ("train", "test")]
    paths = [paths for paths, _ in files]
    note = ""
    if events.is_named(paths[0][0]) or events.has_header(paths[0][0]):
        samples, note = _recordings(paths, timesteps)
    else:
        samples = [_images(part) for part in paths]
    splits = [
        Split(images=images, labels=labels)
        for images, (_, labels) in zip(samples, files, strict=True)
    ]
    return splits, note


def _files_by_class(folder: Path, classes: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """Return the files in the sub-folders of all classes, and the class (N,) of each file."""
    found = [(p, n) for n, name in enumerate(classes) for p in sorted((folder / name).glob("*"))]
    if not found:
        raise DataError(f"{folder} holds no files in folders {', '.join(classes)}")
    return [path for path, _ in found], np.array([n for _, n in found])


def _recordings(
    parts: Sequence[Sequence[Path]], timesteps: int
) -> tuple[list[NDArray[np.uint8]], str]:
    """Read and bin the recordings of both parts, which are training and test data.

    Frames are as large as the sensor. If the files do not say its size, frames are just large
    enough for the events of both parts.

    Returns
    -------
    Frames of both parts, and a description of the recordings.
    """
    read = [[events.load(path) for path in paths] for paths in parts]
    infos = [r.info for part in read for r in part]
    note = "; ".join(events.summary(infos))
    sensors = {info.sensor for info in infos}
    size = sensors.pop()
    if sensors:
        raise DataError(f"{parts[0][0].parents[2]}: recordings are of several sensors: {note}")
    if size is None:
        found = [r.events for part in read for r in part]
        size = (
            1 + max(int(events_["y"].max(initial=0)) for events_ in found),
            1 + max(int(events_["x"].max(initial=0)) for events_ in found),
        )
    return [
        np.stack([events.frames(r.events, timesteps, size) for r in part]) for part in read
    ], note


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


def _idx(folder: Path, part: str) -> Split:
    images, labels = (
        _idx_file(folder, f"{part}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return Split(images=images, labels=labels)


def _idx_file(folder: Path, name: str) -> NDArray[np.uint8]:
    path = find_idx(folder, name)
    if path is None:
        raise DataError(
            f"{folder} holds neither {name} nor a folder train; your own data is {FILES}"
        )
    return read_idx(path)
