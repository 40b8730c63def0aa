"""Contents of weight and parameter memory: rows of weights, of parameters, and descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.protocol import Descriptor, Space, descriptor_rows, pack, row_bytes, unpack
from hw.spec import GRANULE_BITS, N_LEVELS, PARAM_BITS, PIECE_BITS, Config, signed_range
from sw.compile.program import FitError, Placement
from sw.network.network import Layer


def pack_rows(values: NDArray[np.integer[Any]], bits: int) -> bytes:
    """Return numbers as two's complement fields of ``bits`` bits, the first one in the lowest bits.

    A row must fill whole bytes; ``bits`` is 2, 4, 8 or 16.
    """
    if bits in (8, 16):
        return values.astype(f"<i{bits // 8}").tobytes()
    fields = values.astype(np.int8).view(np.uint8).reshape(-1, 8 // bits) & ((1 << bits) - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (fields << shifts).sum(axis=1, dtype=np.uint8).tobytes()


def position_rows(source: Placement, aligned: bool) -> int:
    """Return how many rows of weights each position of a run takes in a bank.

    Rows that no input needs are left out where the scanner can count without them: in granules of
    1, 2 or 4 inputs, and in pieces of 9 to 15.

    Parameters
    ----------
    aligned : whether every run begins at a granule.
    """
    if aligned and source.pixel == GRANULE_BITS:
        return 1 << (source.channels - 1).bit_length()
    if aligned and source.pixel == PIECE_BITS:
        return source.channels
    return source.pixel


def weight_rows(
    layer: Layer,
    config: Config,
    source: Placement,
    n_rows: int,
    out_ranks: Sequence[int],
) -> NDArray[np.int8]:
    """Return a layer's weights in the order of weight memory: (bank, y, x, group, t, ky, run,
    lanes).

    Shared axes have length 1. Lanes without an output channel have weights of 0.

    Parameters
    ----------
    n_rows : rows of a position, see :func:`position_rows`. Rows without a channel have weights of
        0.
    out_ranks : rank of each output channel, which is that of its lane.
    """
    t, y, x, _, n_in, ky, kx = layer.weight.shape
    n_lanes = -(-layer.n_out // config.lanes) * config.lanes
    weights = layer.weight.transpose(0, 1, 2, 5, 6, 4, 3)
    lanes = list(out_ranks)
    if source.ranks is None:  # every bank has a bit-plane of all channels
        padded = np.zeros((config.banks, t, y, x, ky, kx, n_rows, n_lanes), np.int8)
        padded[..., :n_in, :][..., list(out_ranks)] = weights
    else:
        dealt = np.zeros((t, y, x, ky, kx, n_rows * config.banks, n_lanes), np.int8)
        in_order = np.zeros((*weights.shape[:-1], n_lanes), np.int8)
        in_order[..., list(out_ranks)] = weights
        dealt[..., list(source.ranks), :] = in_order
        padded = dealt.reshape(t, y, x, ky, kx, n_rows, config.banks, n_lanes)
        padded = np.moveaxis(padded, -2, 0)
    run = (kx - 1) * n_rows + source.channels
    flat = padded.reshape(config.banks, t, y, x, ky, kx * n_rows, n_lanes)[..., :run, :]
    flat = flat.reshape(*flat.shape[:-1], -1, config.lanes)
    return np.ascontiguousarray(flat.transpose(0, 2, 3, 6, 1, 4, 5, 7))


def param_rows(
    layer: Layer,
    config: Config,
    conv: tuple[int, int],
    kept: tuple[int, int],
    out_ranks: Sequence[int],
) -> NDArray[np.int16]:
    """Return biases and thresholds in the order of parameter memory: (y, x, group, t, lanes, 2).

    Axes along which both are shared have length 1.

    Parameters
    ----------
    conv : rows and columns of the map before pooling.
    kept : rows and columns of them that pooling windows cover; the others get no parameters.
    out_ranks : rank of each output channel, which is that of its lane.

    Raises
    ------
    FitError
        A bias or threshold exceeds PARAM_BITS.
    """
    threshold = layer.threshold
    if threshold is None:
        threshold = np.ones((1, 1, layer.n_out), np.int32)
    t = layer.bias.shape[0]
    y = max(layer.bias.shape[1], threshold.shape[0])
    x = max(layer.bias.shape[2], threshold.shape[1])
    groups = -(-layer.n_out // config.lanes)
    low, high = signed_range(PARAM_BITS)
    for what, values in (("bias", layer.bias), ("threshold", threshold)):
        if values.size and (values.min() < low or values.max() > high):
            raise FitError(
                f"layer {layer.name!r}: a {what} of {values.min()} to {values.max()} exceeds "
                f"{PARAM_BITS} bits; quantise with a coarser scale"
            )
    # Lanes without an output channel have no weights and no bias: a threshold of 1 keeps them
    # silent.
    rows = np.zeros((y, x, t, groups * config.lanes, 2), np.int16)
    rows[..., 1] = 1
    lanes = list(out_ranks)
    rows[..., lanes, 0] = layer.bias.transpose(1, 2, 0, 3)
    rows[..., lanes, 1] = threshold[:, :, None]
    rows = rows[: kept[0] if y == conv[0] else None, : kept[1] if x == conv[1] else None]
    rows = rows.reshape(*rows.shape[:3], groups, config.lanes, 2)
    return np.ascontiguousarray(rows.transpose(0, 1, 3, 2, 4, 5))


def row_strides(shape: tuple[int, ...], n_rows: int) -> list[int]:
    """Return the stride of every axis of an array, in memory rows.

    An entry of the array takes ``n_rows`` rows. Axes of length 1 are shared: their stride is 0.
    """
    strides = []
    for n in reversed(shape):
        strides.append(n_rows if n > 1 else 0)
        n_rows *= n
    return strides[::-1]


def interleave_banks(images: Sequence[bytes], size: int) -> bytes:
    """Return one memory space in which the rows of all banks' images, of equal length, alternate.

    A row has ``size`` bytes.
    """
    rows = [np.frombuffer(image, np.uint8).reshape(-1, size) for image in images]
    return np.stack(rows, axis=1).tobytes()


def descriptor_bytes(
    name: str, header: dict[str, Any], levels: list[dict[str, int]], config: Config
) -> bytes:
    """Return the descriptor of layer ``name`` as whole rows of weight memory.

    Raises
    ------
    FitError
        A value does not fit its field.
    """
    levels = levels + [{}] * (N_LEVELS - len(levels))
    packed = pack(Descriptor, {"header": header, "levels": levels})
    fields: Any = unpack(Descriptor, packed)
    for values, unpacked in ((header, fields.header), *zip(levels, fields.levels, strict=True)):
        for field, value in values.items():
            kept = getattr(unpacked, field)
            if isinstance(value, tuple):
                kept = tuple(kept[i] for i in range(len(value)))
            if kept != value:  # packing has truncated it
                raise FitError(
                    f"layer {name!r}: {field} of {value} does not fit its descriptor field"
                )
    n_bytes = descriptor_rows(config) * row_bytes(Space.WEIGHT, config)
    return packed.ljust(n_bytes, b"\0")
