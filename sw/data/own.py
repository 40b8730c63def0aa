"""Read a user's own data set: arrays, IDX files (the format of MNIST), or a folder of images or
event recordings for every class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data import events, labels, pixels
from sw.data.dataset import SPLIT_SEED, DataError, Parts, Split
from sw.data.files import IMAGE_SUFFIXES, decode, find_idx, open_arrays, read_idx

FILES = (
    "an .npz file with the arrays x_train and y_train (or train_images and train_labels, or x and "
    "y), and if there are any x_val, y_val, x_test, y_test. Samples: images (N, H, W), (N, C, H, "
    "W) or (N, H, W, C), in uint8 from 0 to 255 or in floats from 0 to 1; or frames of 0 and 1, "
    "(N, T, C, H, W). Labels: whole numbers, text, or one-hot rows; or a folder with the four IDX "
    "files, named as Fashion-MNIST's; or a folder with train and, if there are any, val and test, "
    f"each with a folder of image files ({', '.join(IMAGE_SUFFIXES)}) or event recordings "
    f"({', '.join(events.SUFFIXES)}) for every class; or one folder with the folders of the "
    "classes. A fifth of every class is for testing, and a tenth for validation, where these parts "
    "are missing"
)
"""Forms that a user's own data may have, in words."""
TEST_SHARE = 5
"""One in this number of samples of every class is used for testing if the data has no test part."""
VALIDATION_SHARE = 10
"""About one in this number of training samples is used for validation if the data has no validation
part."""
PARTS = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of the parts of a data set in folders and arrays, in lower case."""
IGNORED = ("thumbs.db", "desktop.ini")
"""Names, in lower case, of files that operating systems put into a user's folders."""

Labels = NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Raw:
    """Samples of one part of the data as they were read: of any type, with labels of any kind."""

    images: NDArray[Any]
    labels: Labels


def read(path: Path, timesteps: int) -> tuple[Parts, tuple[str, ...]]:
    """Read a user's own data set, in any of the forms in :data:`FILES`.

    Without a test part, a fifth of the samples of every class become test data. They are chosen at
    random, but the same ones every time. Without a validation part, the result's ``n_validation``
    is about a tenth of the training data, equally many samples of every class, and
    :func:`sw.data.dataset.assemble` takes them from there. Event recordings are binned into
    ``timesteps`` frames.

    Returns
    -------
    The data, and the names of the classes: the names of the folders, or the labels themselves; a
    label that is a number, such as 3, becomes ``class 3``.

    Raises
    ------
    DataError
        The path has none of these forms; its files are damaged; or its samples or labels cannot be
        understood.
    """
    raw, form = _read(path, timesteps)
    for part, found in raw.items():
        n_images, n_labels = (len(x) if np.ndim(x) else 0 for x in (found.images, found.labels))
        if n_images != n_labels:
            raise DataError(f"{path}: {n_images} {part} samples, {n_labels} labels")
        if not n_images:
            raise DataError(f"{path}: there are no {part} samples")
    numbers, names = labels.numbered({part: r.labels for part, r in raw.items()}, str(path))
    images, converted = pixels.samples([r.images for r in raw.values()], str(path))
    split = {
        part: Split(images=samples, labels=numbers[part])
        for part, samples in zip(raw, images, strict=True)
    }
    forms = [form, *([converted] if converted else [])]
    if "test" not in split:
        split["training"], split["test"] = _split_off(split["training"], names, path)
        forms.append("a fifth of each class for testing")
    counts = np.bincount(split["training"].labels, minlength=len(names))
    per_class = 0
    if "validation" not in split:
        _require(counts, 2, "one for training and one for validation", names, path)
        per_class = max(1, int(counts.min()) // VALIDATION_SHARE)
    parts = Parts(
        train=split["training"],
        test=split["test"],
        validation=split.get("validation"),
        n_validation=per_class * len(names),
        form=", ".join(forms),
    )
    return parts, names


def _read(path: Path, timesteps: int) -> tuple[dict[str, _Raw], str]:
    """Return the parts of a data set (training, validation, test) by name, training data first, and
    a text that names the kind of their files.
    """
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise DataError(f"{path} is no .npz file and no folder; your own data is {FILES}")
        return _arrays(path), ".npz file"
    parts = {
        part: folder
        for part, wanted in PARTS.items()
        for folder in sorted(_folders(path))
        if folder.name.lower() in wanted
    }
    if "training" in parts:
        return _by_class(parts, timesteps)
    if any(find_idx(path, f"{part}-images-idx3-ubyte") for part in ("train", "t10k")):
        return {
            part: _idx(path, stem) for part, stem in (("training", "train"), ("test", "t10k"))
        }, "IDX files"
    if _folders(path):
        return _by_class({"training": path}, timesteps)
    raise DataError(
        f"{path} holds neither train-images-idx3-ubyte nor a folder train, nor folders of classes; "
        f"your own data is {FILES}"
    )


def _require(
    counts: NDArray[np.int64], least: int, why: str, names: Sequence[str], path: Path
) -> None:
    """Check that every class has at least ``least`` training samples.

    ``counts`` has the number of samples of each class, and ``names`` the names of the classes.

    Raises
    ------
    DataError
        A class has fewer samples. The message ends with ``why``, the reason that so many are
        needed.
    """
    if len(counts) and counts.min() < least:
        rare = int(counts.argmin())
        raise DataError(
            f"{path}: {names[rare]!r} has {counts[rare]} training samples; every class needs at "
            f"least {least}, {why}"
        )


def _split_off(split: Split, names: Sequence[str], path: Path) -> tuple[Split, Split]:
    """Divide samples into training and test data, and return both.

    A fifth of the samples of every class is for testing. The choice is random, but the same samples
    in the same order are always divided in the same way.
    """
    counts = np.bincount(split.labels, minlength=len(names))
    _require(counts, 3, "for training, validation and test", names, path)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(split.labels))
    taken = np.zeros(len(order), np.bool_)
    for n, count in enumerate(counts):
        taken[order[split.labels[order] == n][: max(1, count // TEST_SHARE)]] = True
    train, test = (
        Split(images=split.images[chosen], labels=split.labels[chosen])
        for chosen in (~taken, taken)
    )
    return train, test


# ---- arrays and IDX files


def _arrays(path: Path) -> dict[str, _Raw]:
    """Return the parts of a data set (training, validation, test), by name, from an ``.npz`` file.

    The file has an array of samples and one of labels for every part.

    Raises
    ------
    DataError
        An array is missing.
    """
    arrays = open_arrays(path)
    found: dict[tuple[str, bool], NDArray[Any]] = {}
    for name, array in arrays.items():
        key = _key(name)
        if key in found:
            raise DataError(f"{path} has several arrays that could be {name!r}: rename one")
        if key is not None:
            found[key] = array
    parts = [part for part in PARTS if (part, False) in found]
    lacking = [f"y of {part}" for part in parts if (part, True) not in found]
    if "training" not in parts or lacking:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; it needs x_train and y_train, and "
            "x_test and y_test if the test data is chosen already"
        )
    return {part: _Raw(images=found[part, False], labels=found[part, True]) for part in parts}


def _key(name: str) -> tuple[str, bool] | None:
    """Return the part of the data set that an array of this name belongs to, and whether the array
    holds labels.

    Return None if no part of a data set has an array of this name.
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    kinds = dict.fromkeys(("x", "images", "image", "data"), False)
    kinds |= dict.fromkeys(("y", "labels", "label", "targets", "target"), True)
    kind = [kinds[word] for word in words if word in kinds]
    part = [part for part, names in PARTS.items() for word in words if word in names]
    if len(kind) != 1 or len(part) > 1 or len(kind) + len(part) != len(words):
        return None
    return (part[0] if part else "training"), kind[0]


def _idx(folder: Path, part: str) -> _Raw:
    images, numbers = (
        _idx_file(folder, f"{part}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return _Raw(images=images, labels=numbers)


def _idx_file(folder: Path, name: str) -> NDArray[np.uint8]:
    path = find_idx(folder, name)
    if path is None:
        raise DataError(f"{folder} lacks {name}; it needs all four IDX files of MNIST's form")
    return read_idx(path)


# ---- folders of classes


def _folders(path: Path) -> list[Path]:
    """Return the sub-folders of a folder, except hidden ones."""
    return [p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]


def _by_class(parts: dict[str, Path], timesteps: int) -> tuple[dict[str, _Raw], str]:
    """Return the parts of a data set, by name, and a text that names the kind of their files.

    Each part is a folder with a folder for every class. Event recordings are binned into
    ``timesteps`` binary frames.
    """
    files: dict[str, list[Path]] = {}
    names: dict[str, list[str]] = {}
    for part, folder in parts.items():
        found = [(p, place.name) for place in sorted(_folders(folder)) for p in _files(place)]
        if not found:
            classes = ", ".join(sorted(p.name for p in _folders(folder))) or "of classes"
            raise DataError(f"{folder} holds no files in folders {classes}")
        files[part] = [path for path, _ in found]
        names[part] = [name for _, name in found]
    paths = [path for part in files.values() for path in part]
    if _kind(paths) == "recordings":
        samples, note = _recordings(list(files.values()), timesteps)
        form = f"folders with {note}"
    else:
        samples, form = _images(list(files.values())), "folders of images"
    return {
        part: _Raw(images=images, labels=np.array(names[part]))
        for part, images in zip(files, samples, strict=True)
    }, form


def _files(folder: Path) -> list[Path]:
    """Return the files in the folder of a class, except hidden ones and :data:`IGNORED`."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name.lower() not in IGNORED
    ]


def _kind(paths: Sequence[Path]) -> str:
    """Return whether files are ``images`` or ``recordings``, by their suffixes or first bytes.

    Raises
    ------
    DataError
        A file is neither, or the files are of both kinds.
    """
    first: dict[str, Path] = {}
    for path in paths:
        kind = None
        if path.suffix.lower() in IMAGE_SUFFIXES:
            kind = "images"
        elif path.is_file() and (events.is_named(path) or events.has_header(path)):
            kind = "recordings"
        if kind is None or path.is_dir():
            raise DataError(
                f"{path} is neither an image file ({', '.join(IMAGE_SUFFIXES)}) nor an event "
                f"recording ({', '.join(events.SUFFIXES)}): move it out of the folder of its class"
            )
        first.setdefault(kind, path)
    if len(first) > 1:
        raise DataError(
            f"{first['images']} is an image, {first['recordings']} a recording: a data set has "
            "files of one kind"
        )
    return next(iter(first))


def _recordings(
    parts: Sequence[Sequence[Path]], timesteps: int
) -> tuple[list[NDArray[np.uint8]], str]:
    """Return the event recordings of a data set, binned into ``timesteps`` frames each.

    ``parts`` has the files of each part of the data set: training, validation and test. Frames are
    as large as the sensor. If the files do not say its size, frames are just large enough for the
    events of all parts.

    Returns
    -------
    Frames of each part, uint8 (N, T, C, H, W), and a text that describes the recordings.

    Raises
    ------
    DataError
        The recordings are of sensors of different sizes.
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


def _images(parts: Sequence[Sequence[Path]]) -> list[NDArray[np.uint8]]:
    """Return the images of all parts as RGB, uint8 (N, 3, H, W); all must have the same size."""
    read = [[_image(path) for path in paths] for paths in parts]
    first, size = parts[0][0], read[0][0].shape
    for paths, images in zip(parts, read, strict=True):
        for path, image in zip(paths, images, strict=True):
            if image.shape != size:
                raise DataError(
                    f"{path} has {image.shape[2]} x {image.shape[1]} pixels, {first} has "
                    f"{size[2]} x {size[1]}: image files of one size are expected; scale them, for "
                    f"example with 'magick mogrify -resize {size[2]}x{size[1]}! *.png'"
                )
    return [np.stack(images) for images in read]


def _image(path: Path) -> NDArray[np.uint8]:
    try:
        return decode(path.read_bytes(), "RGB")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
