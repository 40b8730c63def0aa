"""Read a network's input samples from a user's files (arrays, images, event recordings), or as raw
bytes from a pipe.

A network with an encoder takes images. Any other takes binary frames, one per timestep.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sw.data import events
from sw.data.dataset import DataError
from sw.data.events import FILE_SUFFIXES, EventError, Info
from sw.data.files import IMAGE_SUFFIXES, decode
from sw.data.samples import as_classes, as_input
from sw.files import ARRAY_ERRORS
from sw.network import encoder
from sw.network.encoder import InputError, Takes
from sw.network.network import Network

ARRAY_SUFFIXES = (".npy", ".npz")
"""Suffixes of NumPy files, which hold either an array of samples or an event recording."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's name for the colours of an image, by the image's number of channels."""
POLL_S = 0.01
"""Seconds that :func:`stream` waits for a sample before it yields None."""


def read(
    paths: Iterable[str | Path],
    network: Network,
    sensor: tuple[int, int] | None = None,
    tell: Callable[[str], object] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    """Read the samples of all files, in the order of ``paths``, and their labels.

    Parameters
    ----------
    paths : files of any of these kinds: ``.npy`` with an array of samples; ``.npz`` with an array
        ``images`` and perhaps ``labels``; PNG, JPEG and other images, which are scaled to the
        network's input size; event recordings (:mod:`sw.data.events`).
    sensor : (height, width) of the sensor of the recordings. If it is None, the size that a
        recording's file states is used or, without one, the network's input size.
    tell : function that is called with each line that describes recordings: their format, sensor,
        duration and unit of time.

    Returns
    -------
    Samples as uint8, images (N, C, H, W) or frames (N, T, C, H, W); and labels (N,), or None if any
    file has none.

    Raises
    ------
    InputError
        A file cannot be read, or does not suit the network.
    """
    parts: list[NDArray[np.uint8]] = []
    labels: list[NDArray[Any]] = []
    infos: list[Info] = []
    for path in map(Path, paths):
        if _holds_recording(path):
            found, info = _recording(path, network, sensor)
            infos.append(info)
            classes = None
        else:
            found, classes = _read(path, network)
        parts.append(found)
        if classes is not None:
            labels.append(classes)
    if not parts:
        raise InputError("no file was named")
    if tell is not None:
        for line in events.summary(infos):
            tell(line)
    return np.concatenate(parts), np.concatenate(labels) if len(labels) == len(parts) else None


def _holds_recording(path: Path) -> bool:
    """Return whether a file holds an event recording.

    Its first bytes decide; if they belong to no known format, its name does.
    """
    suffix = path.suffix.lower()
    if suffix in ARRAY_SUFFIXES and _holds_events(path):
        return True
    return suffix in FILE_SUFFIXES or events.has_header(path)


def _read(path: Path, network: Network) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return _image(path, network), None
    if suffix not in ARRAY_SUFFIXES:
        known = (*ARRAY_SUFFIXES, *IMAGE_SUFFIXES, *FILE_SUFFIXES)
        raise InputError(f"{path}: inputs end in {', '.join(known)}")
    return read_images(path, network)


def read_images(path: str | Path, network: Takes) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the samples in a NumPy file, and their labels or None if it has none.

    An ``.npy`` file is an array of samples. An ``.npz`` file has an array ``images`` and perhaps
    ``labels``. Samples may have another shape or type than the network's input if there is only one
    way to convert them (:func:`sw.data.samples.as_input`). Labels may be names of the network's
    classes.

    Raises
    ------
    InputError
        The file cannot be read, its samples do not suit the network in shape, type or values, or a
        label is no class.
    """
    labels = None
    try:
        with Path(path).open("rb") as file:
            values = np.load(file)
            if isinstance(values, np.ndarray):
                images = values
            elif "images" in values:
                images = values["images"]
                labels = values.get("labels")
            else:
                raise InputError(
                    f"{path} holds {', '.join(values) or 'nothing'}; name the array 'images' "
                    "(and the classes 'labels'), or those of a recording t, x, y, p"
                )
    except ARRAY_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no .npy or .npz file of plain arrays: {error}") from error
    try:
        frames = network.encoder is None
        images = as_input(images, sample_shape(network), str(path), frames=frames)
        encoder.check_input(network, images)
    except DataError as error:
        raise InputError(str(error)) from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if labels is not None:
        labels = as_classes(labels, network.labels)
    if labels is not None and labels.shape != images.shape[:1]:
        raise InputError(f"{path}: {len(images)} images but labels of shape {labels.shape}")
    if labels is not None:
        check_labels(labels, len(network.labels), str(path))
    return images, labels


def check_labels(labels: NDArray[Any], n_classes: int, what: str) -> None:
    """Check that all labels are whole numbers from 0 to ``n_classes`` - 1.

    Raises
    ------
    InputError
        A label is no such number; the message begins with ``what``, the name of the input.
    """
    is_class = np.zeros(labels.shape, np.bool_)
    if labels.dtype.kind in "biuf":
        is_class = np.isin(labels, np.arange(n_classes))
    if not is_class.all():
        raise InputError(
            f"{what}: labels are whole numbers from 0 to {n_classes - 1}, the network's classes, "
            f"not {labels[~is_class][0]}"
        )


def _image(path: Path, network: Network) -> NDArray[np.uint8]:
    n_channels, height, width = network.image_shape
    if network.encoder is None or n_channels not in MODES:
        raise InputError(
            f"{path} is an image; the network takes "
            + ("spikes" if network.encoder is None else f"{n_channels} channels")
        )
    try:
        image = decode(path.read_bytes(), MODES[n_channels], (width, height))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise InputError(f"{path}: {error}") from error
    return image[None]


def _holds_events(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            values = np.load(file)
            names = values.dtype.names if isinstance(values, np.ndarray) else values
            return {"t", "x", "y", "p"} <= set(names or ())
    except ARRAY_ERRORS:
        return False  # read_images fails, too, and its message says why


def _recording(
    path: Path, network: Network, sensor: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], Info]:
    n_channels, height, width = network.image_shape
    if network.encoder is not None or n_channels != 2:
        raise InputError(
            f"{path} is an event recording, for networks that take frames of two polarities; this "
            f"one takes {'images' if network.encoder is not None else 'frames'} of "
            f"{network.image_shape}"
        )
    try:
        frames, info = events.binned(path, network.timesteps, (height, width), sensor)
    except EventError as error:
        advice = ". Name its height and width with --sensor" if "sensor is" in str(error) else ""
        raise InputError(f"{error}{advice}") from error
    return frames[None], info


def sample_shape(network: Takes) -> tuple[int, ...]:
    """Return the shape of one input sample of the network: (C, H, W) of an image if it has an
    encoder, else (T, C, H, W) of frames."""
    frames = () if network.encoder is not None else (network.timesteps,)
    return (*frames, *network.image_shape)


def stream(source: BinaryIO, network: Network) -> Iterator[NDArray[np.uint8] | None]:
    """Read samples from a stream of raw bytes, such as a pipe, and yield each when it is complete.

    A sample is uint8 of shape :func:`sample_shape`. While the next one is incomplete, yield None
    every :data:`POLL_S` seconds, so that the caller can do other work. For example,
    :meth:`sw.driver.any_board.AnyBoard.stream` then yields the results that are ready.

    Raises
    ------
    InputError
        The source cannot be read or ends within a sample, or a frame has values other than 0 and 1.
    """
    shape = sample_shape(network)
    n_bytes = int(np.prod(shape))
    arrived: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=64)

    def collect() -> None:
        while True:
            try:
                raw = source.read(n_bytes)
            except (OSError, ValueError) as error:  # ValueError: it was closed
                arrived.put(error)
                return
            arrived.put(raw or None)
            if not raw:
                return

    # A blocked read cannot be interrupted. In a daemon thread it does not keep the program from
    # ending.
    threading.Thread(target=collect, daemon=True).start()
    n_samples = 0
    while True:
        try:
            raw = arrived.get(timeout=POLL_S)
        except queue.Empty:
            yield None
            continue
        if raw is None:
            return
        if isinstance(raw, Exception):
            raise InputError(f"the input cannot be read: {raw}") from raw
        if len(raw) < n_bytes:
            raise InputError(
                f"the input ends within sample {n_samples}: {len(raw)} of {n_bytes} bytes "
                f"(uint8 {shape})"
            )
        sample = np.frombuffer(raw, np.uint8).reshape(shape)
        encoder.check_input(network, sample[None])
        yield sample
        n_samples += 1
