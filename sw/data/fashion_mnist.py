"""Fashion-MNIST: four IDX files or one ``.npz``, downloaded if they are nowhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sw.data.dataset import LABELS, DataError, Dataset, Split, split
from sw.data.files import DATA_DIR_VARIABLE, cache_dir, fetch, read_idx
from sw.files import ARRAY_ERRORS, write_whole

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where the package ``dataset-fashion-mnist`` puts its files."""
NPZ_NAME = "fashion_mnist.npz"
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
N_VALIDATION = 5000

IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "train_labels": ("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
    "test_images": ("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
    "test_labels": ("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
}
"""File name, and MD5 of its ``.gz`` as the data set's authors publish it."""


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


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in IDX_FILES.values():
        target = folder / f"{name}.gz"
        if target.is_file():
            continue
        write_whole(target, fetch(URL + target.name, md5))


def load(data_dir: str | Path | None, n_validation: int) -> Dataset:
    """Fashion-MNIST, with a stratified validation split of the training data.

    Raises
    ------
    DataError
        Not found anywhere (lists the places), a damaged file, or ``n_validation`` is not a multiple
        of the ten classes.
    """
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
