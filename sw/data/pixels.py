"""Bring arrays of samples to the form of a network's input: uint8, channels before rows.

Images are (N, C, H, W) with pixels from 0 to 255, frames (N, T, C, H, W) of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data.dataset import DataError

MOST_CHANNELS = 4
"""Largest length of a sample's last axis that is taken for channels; RGBA images have four."""
OPAQUE = 255
"""Value of an opaque pixel's alpha channel."""


def channels_last(shape: Sequence[int]) -> bool:
    """Return whether the last three axes of a sample of this shape are rows, columns and channels.

    This is assumed if the last axis has at most :data:`MOST_CHANNELS` entries and both others have
    more. Otherwise the axes are taken for channels, rows and columns.
    """
    first, second, last = shape[-3:]
    return last <= MOST_CHANNELS < min(first, second)


def arranged(samples: NDArray[Any], what: str) -> NDArray[Any]:
    """Return samples as images (N, C, H, W) or frames (N, T, C, H, W).

    Parameters
    ----------
    samples : images (N, H, W), (N, C, H, W) or (N, H, W, C); or frames (N, T, C, H, W) or
        (N, T, H, W, C). :func:`channels_last` tells which.
    what : name of the data, with which messages begin.

    Raises
    ------
    DataError
        The samples have another number of axes.
    """
    if samples.ndim == 2:
        raise DataError(
            f"{what}: samples are flat, {samples.shape}: reshape them to images (N, H, W) or "
            "(N, C, H, W), or signals to (N, C, 1, length)"
        )
    if samples.ndim not in (3, 4, 5):
        raise DataError(
            f"{what}: samples of shape {samples.shape}, expected (N, H, W), (N, C, H, W) or "
            "frames (N, T, C, H, W)"
        )
    if samples.ndim == 3:
        return samples[:, None]
    return np.moveaxis(samples, -1, -3) if channels_last(samples.shape) else samples


def as_pixels(parts: Sequence[NDArray[Any]], what: str) -> tuple[list[NDArray[np.uint8]], str]:
    """Return images of any numeric type as uint8 pixels, and a text that describes the
    conversion.

    Images in uint8 stay as they are, and the text is then empty. Others are converted if their
    meaning is unambiguous: truth values, floats from 0 to 1, and whole numbers from 0 to 255.

    Parameters
    ----------
    parts : images of each part of the data (training, validation, test). All are taken to have the
        same range, which follows from the largest value of all parts.
    what : name of the data, with which messages begin.

    Raises
    ------
    DataError
        The values have another range, are not finite, or are no numbers.
    """
    kinds = {part.dtype.kind for part in parts}
    if all(part.dtype == np.uint8 for part in parts):
        return [part.astype(np.uint8, copy=False) for part in parts], ""
    if not kinds <= set("biuf") or len(kinds) > 1:
        types = ", ".join(sorted({str(part.dtype) for part in parts}))
        raise DataError(f"{what}: images are {types}: use uint8 pixels from 0 to 255")
    if kinds == {"b"}:
        return [np.where(part, OPAQUE, 0).astype(np.uint8) for part in parts], "truth values"
    filled = [part for part in parts if part.size]
    low = min((float(part.min()) for part in filled), default=0.0)
    high = max((float(part.max()) for part in filled), default=0.0)
    dtype = parts[0].dtype
    if not np.isfinite([low, high]).all():
        raise DataError(
            f"{what}: images of type {dtype} have values that are not finite (nan or inf): leave "
            "these samples out, or set the values, for example by np.nan_to_num"
        )
    if low < 0:
        raise DataError(
            f"{what}: images of type {dtype} have values from {low:g} to {high:g}; use pixels from "
            "0 to 255, or from 0 to 1 in floats, without subtracting a mean, for example "
            f"np.clip((x - ({low:g})) / {high - low:g}, 0, 1)"
        )
    if kinds == {"f"} and high <= 1:
        return [np.rint(part * 255).astype(np.uint8) for part in parts], "floats from 0 to 1"
    if high > 255 or any((part != np.floor(part)).any() for part in filled):
        raise DataError(
            f"{what}: images of type {dtype} have values up to {high:g}; scale them to uint8 "
            f"pixels from 0 to 255, for example (x / {_full_scale(high):g} * 255).astype('uint8')"
        )
    return [part.astype(np.uint8) for part in parts], f"{dtype} from 0 to 255"


def _full_scale(high: float) -> int:
    """Return the likely full scale of pixels whose largest value is ``high``.

    It is the largest number with as many bits, such as 4095 (12 bits) for 3000.
    """
    return (1 << max(8, int(high).bit_length())) - 1


def as_frames(parts: Sequence[NDArray[Any]], what: str) -> list[NDArray[np.uint8]]:
    """Return the binary frames of all parts of a data set, converted from any number type to uint8.

    Parts are, for example, training and test data. ``what`` is the name of the data, with which the
    error's message begins.

    Raises
    ------
    DataError
        A value is neither 0 nor 1.
    """
    for part in parts:
        if part.dtype.kind not in "biuf" or not np.isin(part, (0, 1)).all():
            found = f"values up to {part.max()}" if part.dtype.kind in "iuf" else str(part.dtype)
            raise DataError(
                f"{what}: frames hold {found}, expected 0 and 1 only (for example x > 0)"
            )
    return [part.astype(np.uint8, copy=False) for part in parts]


def without_alpha(images: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """Return RGBA images (N, 4, H, W) without their fourth channel, as RGB images (N, 3, H, W).

    ``what`` is the name of the data, with which the error's message begins.

    Raises
    ------
    DataError
        The fourth channel is not opaque everywhere, so that data would be lost.
    """
    if (images[:, 3] != OPAQUE).any():
        raise DataError(
            f"{what}: images have four channels, of which the last is not {OPAQUE} everywhere: if "
            "it is transparency, flatten the images onto a background; if all are data, give them "
            "as (N, 4, H, W)"
        )
    return images[:, :3]


def samples(parts: Sequence[NDArray[Any]], what: str) -> tuple[list[NDArray[np.uint8]], str]:
    """Return the samples of all parts of a data set in the form of a network's input.

    The second result is a text that describes the conversion; it is empty without one.

    Parameters
    ----------
    parts : images or frames of each part (training, validation, test) as :func:`arranged` takes
        them, of the types that :func:`as_pixels` or :func:`as_frames` takes.
    what : name of the data, with which messages begin.

    Raises
    ------
    DataError
        The samples have another shape, type or range.
    """
    placed = [arranged(part, what) for part in parts]
    if len({part.ndim for part in placed}) > 1:
        raise DataError(f"{what}: samples are {' and '.join(str(p.shape[1:]) for p in placed)}")
    turned = (
        ["channels last"] if any(p is not q for p, q in zip(placed, parts, strict=True)) else []
    )
    turned = turned if parts[0].ndim > 3 else []
    if placed[0].ndim == 5:
        return as_frames(placed, what), ", ".join(turned)
    found, scaled = as_pixels(placed, what)
    if turned and found[0].shape[1] == MOST_CHANNELS:
        found = [without_alpha(part, what) for part in found]
        turned = ["RGBA"]
    return found, ", ".join([*turned, *([scaled] if scaled else [])])
