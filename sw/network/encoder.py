"""The encoder, a network's first layer, computed on the host. NumPy only, no torch.

The encoder reads the pixels of an image, the same at every timestep, and fires the spikes that the
other layers process.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hw.spec import N_PLANES, carried_over, fire
from sw.network.network import Layer, Network, Shape

PIXEL_MAX = (1 << N_PLANES) - 1
"""Largest value of a pixel of an image, before any rounding: 255."""


def pixel_max(pixel_bits: int) -> int:
    """Return the largest value of a pixel of ``pixel_bits`` bits."""
    return (1 << pixel_bits) - 1


def rounded(images: NDArray[np.uint8], pixel_bits: int) -> NDArray[np.uint8]:
    """Return images whose pixels, 0 to 255, are rounded to ``pixel_bits`` bits.

    0 stays 0, and 255 becomes the largest value of that width. No pixel lies halfway between two
    rounded values, so rounding is never ambiguous.

    >>> rounded(np.array([0, 8, 9, 25, 26, 255], np.uint8), 4).tolist()
    [0, 0, 1, 1, 2, 15]
    """
    if pixel_bits == N_PLANES:
        return images
    scaled = images.astype(np.uint16) * pixel_max(pixel_bits)
    return ((scaled + PIXEL_MAX // 2) // PIXEL_MAX).astype(np.uint8)


BATCH = 100
"""Number of images that are encoded at once."""


class InputError(ValueError):
    """Error that images or frames have a type, shape or values that a network does not take.

    The message says what input the network takes.
    """


class Takes(Protocol):
    """Fields of a network that say which input it takes, and which classes it distinguishes.

    :class:`sw.network.network.Network` has these fields. Functions that only check or read input
    take any object with them.
    """

    @property
    def timesteps(self) -> int: ...
    @property
    def image_shape(self) -> Shape: ...
    @property
    def encoder(self) -> object | None: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


def check_input(network: Takes, images: NDArray[np.uint8]) -> None:
    """Check that a network's input has the right type, shape and values.

    Parameters
    ----------
    images : uint8 images (N, C, H, W) if the network has an encoder, else uint8 frames
        (N, T, C, H, W) of 0 and 1.

    Raises
    ------
    InputError
        The network cannot take the images.
    """
    if network.encoder is not None:
        shape, what = network.image_shape, "images (N, C, H, W)"
    else:
        shape = (network.timesteps, *network.image_shape)
        what = "binary frames (N, T, C, H, W)"
    if images.dtype != np.uint8 or images.shape[1:] != shape or images.ndim != len(shape) + 1:
        raise InputError(
            f"the network takes {what} of type uint8 and shape (N, "
            f"{', '.join(map(str, shape))}), not {images.dtype} {images.shape}"
        )
    if network.encoder is None and images.size and images.max() > 1:
        raise InputError(
            f"the network takes {what}: the values must be 0 or 1, the largest is {images.max()}"
        )


def encode(network: Network, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the encoder's spikes, which the network's next layer reads.

    They equal the spikes that :func:`sw.network.reference.run` returns under the name
    :data:`sw.network.network.INPUT`.

    Parameters
    ----------
    images : uint8 images (N, C, H, W); or, if the network has no encoder, binary frames
        (N, T, C, H, W), which are returned unchanged.

    Returns
    -------
    uint8 array (N, T, C, H, W) of 0 and 1.

    Raises
    ------
    InputError
        The network cannot take the images.
    """
    check_input(network, images)
    if network.encoder is None:
        return images
    images = rounded(images, network.pixel_bits)
    parts = [
        _encode(network.encoder, network.timesteps, images[start : start + BATCH])
        for start in range(0, len(images), BATCH)
    ]
    shape = network.encoder.map_shape(network.image_shape)
    return np.concatenate(parts) if parts else np.zeros((0, network.timesteps, *shape), np.uint8)


def inputs(network: Network, images: NDArray[np.uint8], pixels: bool) -> NDArray[np.uint8]:
    """Return a device's input for images (N, C, H, W) or binary frames (N, T, C, H, W).

    This is the images themselves (N, C, H, W) if the device takes ``pixels``, else spikes
    (N, T, C, H, W).

    Raises
    ------
    InputError
        The network cannot take the images.
    """
    if not pixels:
        return encode(network, images)
    check_input(network, images)
    return images


def _encode(layer: Layer, timesteps: int, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the spikes (N, T, O, H', W') of the encoder ``layer`` for rounded images (N, C, H, W).

    H' and W' are the height and width of the encoder's map, after pooling.
    """
    assert layer.threshold is not None
    drive = _drive(layer, images) + layer.bias[0, 0, 0].astype(np.int64)
    threshold = layer.threshold.astype(np.int64)
    left = np.zeros_like(drive)
    spikes = np.empty((timesteps, *drive.shape), np.bool_)  # (T, N, H, W, C)
    for t in range(timesteps):
        spikes[t], membrane = fire(left + drive, threshold, layer.reset)
        left = carried_over(
            membrane, spikes[t], threshold, layer.reset, layer.leak, *layer.leak_shifts
        )
    pool_y, pool_x = layer.pool
    _, height, width = layer.map_shape(images.shape[1:])  # type: ignore[arg-type]
    pooled = np.zeros((timesteps, len(images), height, width, layer.n_out), np.bool_)
    for y in range(pool_y):
        for x in range(pool_x):
            pooled |= spikes[:, :, y : height * pool_y : pool_y, x : width * pool_x : pool_x]
    return np.ascontiguousarray(pooled.transpose(1, 0, 4, 2, 3)).view(np.uint8)


def _drive(layer: Layer, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the weighted sums (N, H', W', O) of the pixels that each neuron reads, without bias.

    H' and W' are the height and width of the output before pooling. The sums are computed as a
    matrix product, in the fastest type that holds every partial sum exactly.
    """
    weight = np.broadcast_to(
        layer.weight[0, 0, 0], (*layer.weight.shape[3:5], *layer.kernel)
    ).reshape(layer.n_out, -1)
    worst = PIXEL_MAX * int(np.abs(weight.astype(np.int64)).sum(axis=1).max(initial=0))
    dtype = np.float32 if worst < 1 << 24 else np.float64 if worst < 1 << 53 else np.int64
    (pad_y, pad_x), (stride_y, stride_x) = layer.padding, layer.stride
    padded = np.pad(images, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, layer.kernel, axis=(2, 3))
    windows = windows[:, :, ::stride_y, ::stride_x].transpose(0, 2, 3, 1, 4, 5)
    gathered = windows.astype(dtype).reshape(*windows.shape[:3], -1)
    return (gathered @ weight.T.astype(dtype)).astype(np.int64)
