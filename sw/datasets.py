"""The data sets beside Fashion-MNIST, and a user's own. NumPy only (Pillow for encoded images).

Each loader takes the folder that holds the data. What the folder may contain:

``nmnist``
    ``Train`` and ``Test`` with a folder of ``.bin`` recordings for every digit; or
    ``nmnist_small.npz``, recordings one after another (see :func:`_packed_recordings`).
``dvs-gesture``
    ``.aedat`` recordings, each with its ``_labels.csv``, listed in ``trials_to_train.txt`` and
    ``trials_to_test.txt``.
``cifar10-dvs``
    a folder of ``.aedat`` recordings for every class; the last tenth of each is for testing.
``cifar10``
    the six ``.bin`` files of the binary version (downloaded if it is nowhere); or
    ``cifar10_jpeg.npz``, JPEG copies of the images, one after another.
``mitbih``
    the records ``.dat``, ``.hea`` and ``.atr`` of the MIT-BIH Arrhythmia Database; or
    ``mitbih_beats_aami.npz``, their beats.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import itertools
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw import beats, events
from sw.beats import BeatError
from sw.data import (
    DATA_DIR_VARIABLE,
    DataError,
    Dataset,
    Split,
    cache_dir,
    fetch,
    read_idx,
    split,
)
from sw.events import EventError
from sw.files import ARRAY_ERRORS, write_whole

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
GESTURES = (
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
DVS128 = (128, 128)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")


def load(name: str, data_dir: str | Path | None, timesteps: int) -> Dataset:
    """A data set by name, or a user's own by its path; see :func:`sw.data.load`.

    Raises
    ------
    DataError
        No such name, not found, or damaged.
    """
    if name in LOADERS:
        holds, loader = LOADERS[name]
        place = find(name, data_dir, holds)
    else:
        loader, place = load_own, Path(name).expanduser()
        if not place.exists():
            raise DataError(
                f"no data set {name!r}: use one of {', '.join(NAMES)}, or an own one's path"
            )
    try:
        return loader(place, timesteps)
    except (BeatError, EventError) as error:
        raise DataError(str(error)) from error
    except KeyError as error:
        raise DataError(f"{place} is incomplete: it lacks {error}") from error
    except (IndexError, OSError, ValueError) as error:
        raise DataError(f"{place} is incomplete or damaged: {error}") from error


def find(name: str, data_dir: str | Path | None, holds: Callable[[Path], bool]) -> Path:
    """The folder of a data set: the one named, or ``$SPIKEFOLD_DATA`` or its folder ``name``, or
    the cache's, into which CIFAR-10 is downloaded."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        for place in (folder, folder / name):
            if holds(place):
                return place
        raise DataError(f"{folder} does not hold {name}; sw/datasets.py says what its files are")
    cache = cache_dir(name)
    if holds(cache):
        return cache
    if name == "cifar10":
        try:
            _download_cifar10(cache)
        except (OSError, DataError, tarfile.TarError, KeyError) as error:
            raise DataError(
                f"CIFAR-10 is not in {cache}, and the download from {CIFAR10_URL} failed: {error}. "
                f"Name its folder with --data-dir or in ${DATA_DIR_VARIABLE}"
            ) from error
        return cache
    raise DataError(
        f"{name} is not in {cache}, and its authors offer no plain download: get it from them and "
        f"name its folder with --data-dir or in ${DATA_DIR_VARIABLE}"
    )


def dataset(
    name: str,
    labels: Sequence[str],
    train: tuple[NDArray[np.uint8], NDArray[np.integer]],
    test: tuple[NDArray[np.uint8], NDArray[np.integer]],
    n_validation: int,
    place: str,
    note: str = "",
) -> Dataset:
    """A data set from arrays, its validation split taken from the training data."""
    for what, (images, targets) in (("training", train), ("test", test)):
        if not len(images) or len(images) != len(targets):
            raise DataError(f"{name}: {len(images)} {what} samples, {len(targets)} labels")
        if targets.min() < 0 or targets.max() >= len(labels):
            raise DataError(
                f"{name}: {what} labels from {targets.min()} to {targets.max()}, expected 0 to "
                f"{len(labels) - 1}"
            )
    shapes = train[0].shape[1:], test[0].shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(f"{name}: training samples are {shapes[0]}, test samples {shapes[1]}")
    kept, held = split(train[1], n_validation)
    return Dataset(
        train=Split(images=train[0][kept], labels=train[1][kept]),
        validation=Split(images=train[0][held], labels=train[1][held]),
        test=Split(images=test[0], labels=test[1]),
        sha256=_digest(*train, *test),
        place=place,
        name=name,
        labels=tuple(labels),
        note=note,
    )


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def from_objects(
    name: str,
    train: Iterable[tuple[Any, int]],
    test: Iterable[tuple[Any, int]],
    *,
    labels: Sequence[str],
    timesteps: int,
    sensor: tuple[int, int] | None = None,
    n_validation: int,
) -> Dataset:
    """A data set from any objects that give pairs of (sample, target), such as tonic's.

    Parameters
    ----------
    train, test : samples are recordings (structured arrays with fields ``t, x, y, p``), which are
        binned; or frames (T, C, H, W) of any numbers, of which those above 0 are spikes.
    sensor : (height, width), for recordings.
    n_validation : taken from the training data, a multiple of the number of classes.

    Raises
    ------
    DataError
        A sample is neither, frames differ in shape, or labels are not below ``len(labels)``.
    """

    def collect(pairs: Iterable[tuple[Any, int]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        samples, targets = [], []
        for sample, target in tqdm(pairs, name, leave=False, disable=None):
            array = np.asarray(sample)
            if array.dtype.names is not None:
                if sensor is None:
                    raise DataError(f"{name}: samples are recordings; say the sensor's size")
                array = events.frames(array, timesteps, sensor)
            if array.ndim != 4 or len(array) != timesteps:
                raise DataError(
                    f"{name}: a sample has shape {array.shape}, expected a recording with fields "
                    f"t, x, y, p or frames ({timesteps}, C, H, W)"
                )
            samples.append((array > 0).astype(np.uint8))
            targets.append(int(target))
        if not samples:
            raise DataError(f"{name}: there are no samples")
        if len({array.shape for array in samples}) > 1:
            raise DataError(f"{name}: frames differ in shape")
        return np.stack(samples), np.array(targets)

    return dataset(name, labels, collect(train), collect(test), n_validation, "memory")


# --- N-MNIST ------------------------------------------------------------------------------------


def _holds_nmnist(folder: Path) -> bool:
    return (folder / "nmnist_small.npz").is_file() or all(
        (folder / part / "0").is_dir() for part in ("Train", "Test")
    )


def _nmnist(folder: Path, timesteps: int) -> Dataset:
    labels = [str(n) for n in range(10)]
    packed = folder / "nmnist_small.npz"
    if packed.is_file():
        arrays = _open(packed)
        train, test = (
            _packed_recordings(arrays, part, timesteps, (34, 34)) for part in ("train", "test")
        )
        note = (
            f"subset of N-MNIST: its first {len(train[1])} training and {len(test[1])} test samples"
        )
        return dataset("nmnist", labels, train, test, len(train[1]) // 50 * 10, str(folder), note)
    train, test = (
        _recordings_by_class(folder / part, labels, timesteps, (34, 34))
        for part in ("Train", "Test")
    )
    return dataset("nmnist", labels, train, test, 5000, str(folder))


def _packed_recordings(
    arrays: dict[str, NDArray[Any]], part: str, timesteps: int, sensor: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Recordings one after another: ``{part}_x, _y, _p``, ``_dt`` (since the event before in the
    same recording), ``_offsets`` (N + 1) and ``_labels`` (N)."""
    x, y, p, dt = (arrays[f"{part}_{key}"] for key in ("x", "y", "p", "dt"))
    bounds = arrays[f"{part}_offsets"].astype(np.int64)
    found = np.empty((len(bounds) - 1, timesteps, 2, *sensor), np.uint8)
    for n, (start, stop) in enumerate(itertools.pairwise(bounds)):
        part_of = slice(start, stop)
        times = np.cumsum(dt[part_of], dtype=np.int64)
        found[n] = events.frames(
            events.make(times, x[part_of], y[part_of], p[part_of]), timesteps, sensor
        )
    return found, arrays[f"{part}_labels"].astype(np.int64)


def _recordings_by_class(
    folder: Path, classes: Sequence[str], timesteps: int, sensor: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A folder for every class with recordings in it, in order of their names."""
    paths = [
        (path, n)
        for n, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if path.suffix in events.SUFFIXES
    ]
    if not paths:
        raise DataError(f"{folder} holds no recordings ({', '.join(events.SUFFIXES)})")
    found = np.empty((len(paths), timesteps, 2, *sensor), np.uint8)
    for n, (path, _) in enumerate(tqdm(paths, folder.name, leave=False, disable=None)):
        found[n] = events.frames(events.read(path), timesteps, sensor)
    return found, np.array([label for _, label in paths])


# --- DVS128 Gesture and CIFAR10-DVS ---------------------------------------------------------------


def _holds_gesture(folder: Path) -> bool:
    return (folder / "trials_to_train.txt").is_file()


def _gesture(folder: Path, timesteps: int) -> Dataset:
    def part(trials: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        found: list[NDArray[np.uint8]] = []
        targets: list[int] = []
        names = [line.strip() for line in (folder / trials).read_text().splitlines()]
        for name in tqdm([n for n in names if n], trials, leave=False, disable=None):
            recording = events.read(folder / name)
            table = (folder / name).with_name(Path(name).stem + "_labels.csv")
            for row in csv.DictReader(io.StringIO(table.read_text())):
                start, stop = int(row["startTime_usec"]), int(row["endTime_usec"])
                inside = recording[(recording["t"] >= start) & (recording["t"] < stop)]
                found.append(events.frames(inside, timesteps, DVS128))
                targets.append(int(row["class"]) - 1)
        return np.stack(found), np.array(targets)

    train, test = part("trials_to_train.txt"), part("trials_to_test.txt")
    per_class = max(1, int(np.bincount(train[1]).min()) // 10)
    return dataset("dvs-gesture", GESTURES, train, test, per_class * len(GESTURES), str(folder))


def _holds_cifar10_dvs(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in CIFAR10_LABELS)


def _cifar10_dvs(folder: Path, timesteps: int) -> Dataset:
    images, labels = _recordings_by_class(folder, CIFAR10_LABELS, timesteps, DVS128)
    counts = np.bincount(labels, minlength=len(CIFAR10_LABELS))
    place = np.concatenate([np.arange(n) for n in counts])  # within the class
    is_test = place >= (counts - counts // 10)[labels]
    n_validation = max(1, int(counts.min()) // 20) * len(CIFAR10_LABELS)
    return dataset(
        "cifar10-dvs",
        CIFAR10_LABELS,
        (images[~is_test], labels[~is_test]),
        (images[is_test], labels[is_test]),
        n_validation,
        str(folder),
    )


# --- CIFAR-10 -------------------------------------------------------------------------------------


def _holds_cifar10(folder: Path) -> bool:
    return (folder / "cifar10_jpeg.npz").is_file() or (folder / CIFAR10_TRAIN[0]).is_file()


def _download_cifar10(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(fetch(CIFAR10_URL, CIFAR10_MD5))) as archive:
        for name in (*CIFAR10_TRAIN[1:], "test_batch.bin", CIFAR10_TRAIN[0]):
            member = archive.extractfile(f"cifar-10-batches-bin/{name}")
            assert member is not None
            write_whole(folder / name, member.read())


def _cifar10(folder: Path, timesteps: int) -> Dataset:
    n_validation = 5000
    jpeg = folder / "cifar10_jpeg.npz"
    if jpeg.is_file():
        arrays = _open(jpeg)
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


def decode(raw: bytes, mode: str, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """An image file's pixels (C, H, W); ``mode`` is ``L`` (grey) or ``RGB``, ``size`` the (width,
    height) that it is scaled to.

    Raises
    ------
    DataError
        Pillow is not installed, or this is no image.
    """
    try:
        image = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DataError("image files need Pillow: pip install pillow") from error
    try:
        found = image.open(io.BytesIO(raw)).convert(mode)
        pixels = np.asarray(found if size is None else found.resize(size), np.uint8)
    except image.UnidentifiedImageError as error:  # Pillow's words name an object in memory
        raise DataError("no image, or a damaged one") from error
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise DataError(f"no image: {error}") from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


# --- MIT-BIH --------------------------------------------------------------------------------------


def _holds_mitbih(folder: Path) -> bool:
    return (folder / "mitbih_beats_aami.npz").is_file() or (folder / "100.atr").is_file()


def _mitbih(folder: Path, timesteps: int) -> Dataset:
    packed = folder / "mitbih_beats_aami.npz"
    if packed.is_file():
        arrays = _open(packed)
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
        sha256=_digest(*(a for s in splits for a in (s.images, s.labels))),
        place=str(folder),
        name="mitbih",
        labels=beats.CLASSES,
        note="inter-patient (DS1/DS2); classes N, S, V, F, without the unclassifiable beats",
        metric="balanced",
    )


# --- A user's own ---------------------------------------------------------------------------------


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
        arrays = _open(path)
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
                f"sw.datasets.load_own says what there may be"
            )
        found.append(read_idx(path))
    return found[0], found[1]


def _open(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            return dict(file)
    except (TypeError, *ARRAY_ERRORS) as error:  # the first: a single array
        raise DataError(f"{path} is damaged or something else: {error}") from error


LOADERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, int], Dataset]]] = {
    "nmnist": (_holds_nmnist, _nmnist),
    "dvs-gesture": (_holds_gesture, _gesture),
    "cifar10-dvs": (_holds_cifar10_dvs, _cifar10_dvs),
    "cifar10": (_holds_cifar10, _cifar10),
    "mitbih": (_holds_mitbih, _mitbih),
}
NAMES = ("fashion-mnist", *LOADERS)
"""Data sets that :func:`sw.data.load` knows by name."""
