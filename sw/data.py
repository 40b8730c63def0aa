"""Data sets: found where a user has them, split with a seed, known by a hash. NumPy only.

Fashion-MNIST is here, the others are in :mod:`sw.datasets`; :func:`load` is for all.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sw.files import ARRAY_ERRORS, write_whole

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DATA_DIR_VARIABLE = "SPIKEFOLD_DATA"
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where the package ``dataset-fashion-mnist`` puts its files."""
NPZ_NAME = "fashion_mnist.npz"
SAMPLES_PATH = Path(__file__).parent / "samples" / "fashion-mnist.npz"
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
TIMEOUT_S = 60
SPLIT_SEED = 20261121
"""Seed of the validation split; apart from the training seed, so that every run validates on the
same images."""
N_VALIDATION = 5000
N_CALIBRATION = 200
"""Training samples that a checkpoint carries, for :func:`sw.quantize.quantize`."""

IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "train_labels": ("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
    "test_images": ("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
    "test_labels": ("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
}
"""File name, and MD5 of its ``.gz`` as the data set's authors publish it."""


class DataError(RuntimeError):
    """Data not found, or damaged; the message names the places and what to do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Images ``uint8 (N, C, H, W)``, or binary frames ``uint8 (N, T, C, H, W)``, and integer labels
    ``(N,)``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Training, validation and test data; ``sha256`` covers all images and labels."""

    train: Split
    validation: Split
    test: Split
    sha256: str
    place: str
    """Where it was found."""
    name: str = "fashion-mnist"
    labels: tuple[str, ...] = LABELS
    note: str = ""
    """What to say beside a figure, such as that it is a subset."""
    metric: str = "accuracy"
    """What models are selected by: ``accuracy``, or ``balanced`` accuracy (mean over classes)."""


def load(
    data_dir: str | Path | None = None,
    n_validation: int = N_VALIDATION,
    *,
    name: str = "fashion-mnist",
    timesteps: int = 4,
) -> Dataset:
    """A data set, with a stratified validation split of the training data.

    Parameters
    ----------
    data_dir : folder of the data set. None: the folder in ``$SPIKEFOLD_DATA``, else known places
        and the download cache in ``~/.cache/spikefold``, else a download where there is an official
        one. For Fashion-MNIST the folder holds the four IDX files (``.gz`` or not) or
        ``fashion_mnist.npz`` (``x_train, y_train, x_test, y_test``); for the others see
        :mod:`sw.datasets`.
    n_validation : size of the validation split of Fashion-MNIST, a multiple of the 10 classes.
    name : one of :data:`sw.datasets.NAMES`, or the path of a user's own data
        (:func:`sw.datasets.load_own`).
    timesteps : frames that event recordings are binned into.

    Raises
    ------
    DataError
        Not found anywhere (lists the places), or a damaged file.
    """
    if name != "fashion-mnist":
        from sw import datasets  # which needs this module's classes

        return datasets.load(name, data_dir, timesteps)
    folder = find(data_dir)
    arrays = _read(folder)
    images, labels = arrays["train_images"], arrays["train_labels"]
    digest = hashlib.sha256()
    for key in IDX_FILES:
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    train, validation = split(labels, n_validation)
    return Dataset(
        train=Split(images=images[train, None], labels=labels[train]),
        validation=Split(images=images[validation, None], labels=labels[validation]),
        test=Split(images=arrays["test_images"][:, None], labels=arrays["test_labels"]),
        sha256=digest.hexdigest(),
        place=str(folder),
    )


def spread(n: int, most: int) -> NDArray[np.int64]:
    """Up to ``most`` of ``n`` indices, evenly: of data sorted by class, some of every class."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def calibration(dataset: Dataset) -> NDArray[np.uint8]:
    """A copy of some training images, to set integer biases with
    (:func:`sw.quantize.quantize`)."""
    return dataset.train.images[spread(len(dataset.train), N_CALIBRATION)]


def load_samples() -> Split:
    """The first test images, which come with the repository."""
    with np.load(SAMPLES_PATH) as arrays:
        return Split(images=arrays["images"], labels=arrays["labels"])


def find(data_dir: str | Path | None = None) -> Path:
    """Folder that holds the data set; downloads it if it is nowhere and no folder was named."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        for place in (folder, folder / "fashion-mnist"):
            if _holds_data(place):
                return place
        origin = "the folder given" if data_dir else f"${DATA_DIR_VARIABLE}"
        raise DataError(
            f"{folder} ({origin}) holds neither {NPZ_NAME} nor the four files "
            f"{', '.join(name for name, _ in IDX_FILES.values())} (.gz or not)"
        )
    cache = cache_dir()
    for folder in (DEBIAN_DIR, cache):
        if _holds_data(folder):
            return folder
    try:
        _download(cache)
    except (OSError, DataError) as error:
        raise DataError(
            f"Fashion-MNIST was not found in {DEBIAN_DIR} (Debian package dataset-fashion-mnist) "
            f"nor in {cache}, and the download from {URL} failed: {error}. Name a folder that "
            f"holds it, with --data-dir or in ${DATA_DIR_VARIABLE}"
        ) from error
    return cache


def cache_dir(name: str = "fashion-mnist") -> Path:
    """Folder of downloads, after the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spikefold" / name


def _holds_data(folder: Path) -> bool:
    if (folder / NPZ_NAME).is_file():
        return True
    return all(_idx_path(folder, name) is not None for name, _ in IDX_FILES.values())


def _idx_path(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read(folder: Path) -> dict[str, NDArray[np.uint8]]:
    npz = folder / NPZ_NAME
    if npz.is_file():
        keys = dict(zip(IDX_FILES, ("x_train", "y_train", "x_test", "y_test"), strict=True))
        try:
            with npz.open("rb") as raw, np.load(raw) as file:
                arrays = {name: file[key] for name, key in keys.items()}
        except (KeyError, TypeError, *ARRAY_ERRORS) as error:
            raise DataError(f"{npz} is damaged or something else: {error}") from error
    else:
        arrays = {}
        for key, (name, _) in IDX_FILES.items():
            path = _idx_path(folder, name)
            assert path is not None
            arrays[key] = read_idx(path)
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if (
            images.dtype != np.uint8
            or images.shape[1:] != (28, 28)
            or labels.shape != images.shape[:1]
            or labels.max(initial=0) >= len(LABELS)
        ):
            raise DataError(
                f"{folder}: {part} data has images {images.dtype} {images.shape} and labels "
                f"{labels.shape}, expected uint8 (N, 28, 28) and N labels below {len(LABELS)}"
            )
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    return arrays


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: two zero bytes, type 8, number of axes, their lengths as
    big-endian 32-bit numbers, data."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    n_axes = raw[3] if len(raw) >= 4 else 0
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * n_axes:
        raise DataError(f"{path} is no IDX file of bytes")
    shape = struct.unpack(f">{n_axes}I", raw[4 : 4 + 4 * n_axes])
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes)
    if data.size != int(np.prod(shape)):
        raise DataError(f"{path} is truncated: {data.size} bytes of data for shape {shape}")
    return data.reshape(shape)


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in IDX_FILES.values():
        target = folder / f"{name}.gz"
        if target.is_file():
            continue
        write_whole(target, fetch(URL + target.name, md5))


def fetch(url: str, md5: str) -> bytes:
    """A file from the network.

    Raises
    ------
    OSError, DataError
        It does not come, or is another.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
        raw = reply.read()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{url.rpartition('/')[2]} has MD5 {found}, expected {md5}")
    return raw


def split(labels: NDArray[np.integer], n_validation: int) -> tuple[NDArray[np.intp], ...]:
    """Indices of training and validation images: the last ones of every class in a seeded order.

    Raises
    ------
    DataError
        Not the same number of every class, or nothing left of one.
    """
    counts = np.bincount(labels)
    per_class, rest = divmod(n_validation, len(counts))
    if rest or not 0 < per_class < counts.min():
        raise DataError(
            f"cannot take {n_validation} validation images from {len(labels)}: use a multiple of "
            f"{len(counts)} that leaves every class some for training"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    validation = np.sort(
        np.concatenate([order[labels[order] == n][-per_class:] for n in range(len(counts))])
    )
    return np.setdiff1d(np.arange(len(labels)), validation), validation
