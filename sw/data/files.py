"""Files of data sets: where they are looked for, downloads, IDX files, encoded images."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import os
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data.dataset import DataError
from sw.files import ARRAY_ERRORS

DATA_DIR_VARIABLE = "SPIKEFOLD_DATA"
TIMEOUT_S = 60


def cache_dir(name: str = "fashion-mnist") -> Path:
    """Folder of downloads, after the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spikefold" / name


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


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")


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


def open_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            return dict(file)
    except (TypeError, *ARRAY_ERRORS) as error:  # the first: a single array
        raise DataError(f"{path} is damaged or something else: {error}") from error
