"""Read and download the files of data sets: IDX files (the format of MNIST), NumPy archives, images
and event recordings."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data import events
from sw.data.dataset import DataError, Split
from sw.data.pixels import OPAQUE
from sw.files import ARRAY_ERRORS

TIMEOUT_S = 60
"""Longest time in seconds to wait for a download's next bytes."""
MAX_16_BIT = (1 << 16) - 1
"""Largest pixel of an image with 16 bits per channel."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
"""Suffixes of the image files that :func:`decode` is used for."""


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the path of file ``name``, or of its compressed form ``name.gz``; None if the folder
    has neither."""
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes, compressed (``.gz``) or not.

    Its header is two zero bytes, the type 8, the number of axes, and the length of each axis as a
    big-endian 32-bit number. The data follow.

    Raises
    ------
    DataError
        The file cannot be read, is not an IDX file of bytes, or is truncated.
    """
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
    """Download the file at ``url``, check its MD5 checksum, and return its bytes.

    Raises
    ------
    OSError
        The download failed.
    DataError
        The checksum of the file is not ``md5``, so the file is damaged or of another version.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
        raw = reply.read()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{url.rpartition('/')[2]} has MD5 {found}, expected {md5}")
    return raw


def decode(raw: bytes, mode: str, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of an image file, such as PNG or JPEG, as uint8 (C, H, W).

    ``raw`` is the contents of the file.

    Parameters
    ----------
    mode : Pillow's name of the colours to convert to: ``L`` (grey) or ``RGB``.
    size : (width, height) to scale the image to; None to leave its size.

    Raises
    ------
    DataError
        Pillow is not installed; or the bytes are no image, or one that is transparent in places, or
        one with pixels of more than 16 bits.
    """
    try:
        image = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DataError("image files need Pillow: pip install pillow") from error
    try:
        found = _plain_image(image, image.open(io.BytesIO(raw))).convert(mode)
        pixels = np.asarray(found if size is None else found.resize(size), np.uint8)
    except image.UnidentifiedImageError as error:  # Pillow's message names an object in memory
        raise DataError("no image, or a damaged one") from error
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise DataError(f"no image: {error}") from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _plain_image(library: Any, image: Any) -> Any:
    """Return a Pillow image with 8-bit pixels and without transparency.

    Pillow's own conversion would clip 16-bit pixels, and drop the transparency. ``library`` is the
    module ``PIL.Image``.

    Raises
    ------
    DataError
        The image is transparent in places, or its pixels are neither of 8 nor of 16 bits.
    """
    if image.mode.startswith("I"):  # 16 bits; older versions of Pillow hold them in 32
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > MAX_16_BIT:
            raise DataError("its pixels have more than 16 bits: save it with 8 bits per channel")
        return library.fromarray(np.rint(wide * (255 / MAX_16_BIT)).astype(np.uint8))
    if image.mode == "F":
        raise DataError("its pixels are floats: save it with 8 bits per channel")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < OPAQUE:
            raise DataError(
                "it is transparent in places: flatten it onto a background, for example with "
                "'magick IN.png -background white -flatten OUT.png'"
            )
    return image


def open_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an ``.npz`` file, by name.

    Raises
    ------
    DataError
        The file cannot be read, or is not an ``.npz`` file.
    """
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            return dict(file)
    except (TypeError, *ARRAY_ERRORS) as error:  # TypeError: an .npy file, which is a single array
        if "Object arrays" in str(error):
            raise DataError(
                f"{path} holds an array of Python objects, which is not read: save images as "
                "numbers and labels as numbers or text, such as labels.astype(str)"
            ) from error
        raise DataError(f"{path} is damaged or something else: {error}") from error


def recordings_by_class(
    folder: Path, classes: Sequence[str], timesteps: int, sensor: tuple[int, int]
) -> Split:
    """Return all event recordings in a folder that has a sub-folder for every class, as frames.

    Samples are in the order of ``classes``, and within a class in the order of file names.

    Parameters
    ----------
    classes : names of the sub-folders.
    timesteps : number of binary frames that a recording is binned into.
    sensor : (height, width) of the sensor and of the frames.

    Raises
    ------
    DataError
        There are no recordings.
    sw.data.events.EventError
        A recording is damaged, or has events outside the sensor.
    """
    paths = [
        (path, n)
        for n, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if events.is_named(path)
    ]
    if not paths:
        raise DataError(f"{folder} holds no recordings ({', '.join(events.SUFFIXES)})")
    found = np.empty((len(paths), timesteps, 2, *sensor), np.uint8)
    for n, (path, _) in enumerate(tqdm(paths, folder.name, leave=False, disable=None)):
        found[n] = events.binned(path, timesteps, sensor, sensor)[0]
    return Split(images=found, labels=np.array([label for _, label in paths]))
