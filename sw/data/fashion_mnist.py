"""Read and download Fashion-MNIST: 28 x 28 grey images of clothes (Xiao et al. 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sw.data.dataset import DataError, Parts, Split
from sw.data.files import fetch, find_idx, open_arrays, read_idx
from sw.data.source import Source
from sw.files import write_whole

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
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
NPZ_NAME = "fashion_mnist.npz"
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
N_VALIDATION = 5000

IDX_FILES = {
    "x_train": ("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "y_train": ("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
    "x_test": ("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
    "y_test": ("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
}
"""Name of the IDX file of each array, and the MD5 checksum of the compressed file (``.gz``), which
the authors of the data set publish. The keys are the arrays' names in the file :data:`NPZ_NAME`."""


def _holds(folder: Path) -> bool:
    if (folder / NPZ_NAME).is_file():
        return True
    return all(find_idx(folder, name) is not None for name, _ in IDX_FILES.values())


def _read(folder: Path, timesteps: int) -> Parts:
    npz = folder / NPZ_NAME
    if npz.is_file():
        arrays = open_arrays(npz)
    else:
        paths = {key: find_idx(folder, name) for key, (name, _) in IDX_FILES.items()}
        arrays = {key: read_idx(path) for key, path in paths.items() if path is not None}
    splits = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
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
        splits.append(Split(images=images[:, None], labels=labels.astype(np.uint8)))
    return Parts(train=splits[0], test=splits[1], n_validation=N_VALIDATION)


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in IDX_FILES.values():
        target = folder / f"{name}.gz"
        if not target.is_file():
            write_whole(target, fetch(URL + target.name, md5))


SOURCE = Source(
    name="fashion-mnist",
    files=f"the IDX files {', '.join(name for name, _ in IDX_FILES.values())}, packed (.gz) or "
    f"not; or {NPZ_NAME} with the arrays {', '.join(IDX_FILES)}",
    labels=LABELS,
    holds=_holds,
    read=_read,
    url=URL,
    download=_download,
    places=((DEBIAN_DIR, "Debian package dataset-fashion-mnist"),),
)
