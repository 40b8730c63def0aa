"""Contents of weight and parameter memory: rows of weights, of parameters, and descriptors.

A *row* is what is read at once: ``lanes`` weights from the weight memory of a bank, or
``fire_lanes`` parameters, which are pairs of bias and threshold, from parameter memory. A *group*
is ``lanes`` output channels, which the core computes side by side, each in one *lane*. A *bank* has
the spikes and weights of some of the input channels; :mod:`sw.compile.deal` says of which. A
*descriptor* tells the core how to run a layer; it is stored in rows of weight memory. *Levels* are
the nested loops that run a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.protocol import Descriptor, Space, descriptor_rows, pack, row_bytes, unpack
from hw.spec import N_LEVELS, PARAM_BITS, Config, signed_range
from sw.compile.program import FitError, Placement
from sw.network.network import Layer


def pack_rows(values: NDArray[np.integer[Any]], bits: int) -> bytes:
    """Return the bytes of integers in two's complement of ``bits`` bits each.

    Integers that share a byte are packed with the first in the lowest bits; an integer of 16 bits
    takes two bytes, the low one first. ``bits`` is 2, 4, 8 or 16. The last axis of ``values`` must
    fill whole bytes.
    """
    if bits in (8, 16):
        return values.astype(f"<i{bits // 8}").tobytes()
    fields = values.astype(np.int8).view(np.uint8).reshape(-1, 8 // bits) & ((1 << bits) - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (fields << shifts).sum(axis=1, dtype=np.uint8).tobytes()


def weight_rows(
    layer: Layer,
    config: Config,
    source: Placement,
    maps: Sequence[int],
    target: Sequence[int],
    n_rows: int,
) -> NDArray[np.int8]:
    """Return a layer's weights in the order of weight memory.

    Each bank has the weights of its own input channels. If the banks divide the bit-planes of an
    image (one bit of every pixel each) among them instead, each bank has the weights of all
    channels. Rows without an input channel and lanes without an output channel have weights of 0.
    If the layer reads several maps, each with weights of its own, the weights of each map follow
    those of the one before it.

    Parameters
    ----------
    source : place of the map that the layer reads, or of one of several.
    maps : order in which the device reads the layer's maps, as indices of
        :attr:`sw.network.network.AnyLayer.sources`.
    target : output channels in the order of the lanes. A lane computes one channel of a group.
    n_rows : number of rows in a bank for one position of a kernel row. There may be more rows than
        channels in a bank, because a position is padded to whole bytes in spike memory. The rows of
        the padding are left out at the last position, because nothing follows it.

    Returns
    -------
    Array with the axes (y, x, group, t, map, ky, run, bank, lanes): output row and column, group of
    output channels, timestep, map, kernel row, row of weights for that kernel row in a bank, bank,
    and output channel in the group. An axis along which weights are shared has length 1.
    """
    t, y, x, n_out, _, ky, kx = layer.weight.shape
    depth, banks = source.bank_channels, config.banks
    groups = -(-n_out // config.lanes)
    n_maps, n_in = len(maps) if layer.stacked else 1, len(source.order)
    weight = layer.weight[:, :, :, list(target)].reshape(t, y, x, n_out, n_maps, n_in, ky, kx)
    if layer.stacked:
        weight = weight[:, :, :, :, list(maps)]
    n_slots = depth * (1 if source.by_plane else banks)
    by_bank = np.zeros((t, y, x, n_out, n_maps, n_slots, ky, kx), np.int8)
    by_bank[..., :n_in, :, :] = weight[..., list(source.order), :, :]
    padded = np.zeros((t, y, x, groups * config.lanes, n_maps, banks, ky, kx, n_rows), np.int8)
    padded[:, :, :, :n_out, ..., :depth] = by_bank.reshape(
        t, y, x, n_out, n_maps, depth, -1, ky, kx
    ).transpose(0, 1, 2, 3, 4, 6, 7, 8, 5)
    run = (kx - 1) * n_rows + depth
    flat = padded.reshape(t, y, x, groups, config.lanes, n_maps, banks, ky, kx * n_rows)
    return np.ascontiguousarray(flat[..., :run].transpose(1, 2, 3, 0, 5, 7, 8, 6, 4))


def halved_rows(rows: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return rows of weights of which only the lower half of the lanes is used, two in each row.

    The lower lanes of row ``n`` of a bank hold row ``2 * n`` of ``rows``, and the upper lanes row
    ``2 * n + 1`` (:attr:`hw.spec.Config.half_row`). If the number of rows is odd, the last half is
    0.

    Parameters
    ----------
    rows : array whose last two axes are bank and lane (:func:`weight_rows`). All axes before them
        number the rows of a bank.

    Returns
    -------
    Array with the axes (row, bank, lane).
    """
    *_, banks, lanes = rows.shape
    halves = rows.reshape(-1, banks, lanes)[..., : lanes // 2]
    halves = np.pad(halves, ((0, len(halves) % 2), (0, 0), (0, 0)))
    pairs = halves.reshape(-1, 2, banks, lanes // 2).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(pairs).reshape(-1, banks, lanes)


def param_rows(
    layer: Layer,
    config: Config,
    target: Sequence[int],
    conv: tuple[int, int],
    kept: tuple[int, int],
) -> NDArray[np.int16]:
    """Return a layer's biases and thresholds in the order of parameter memory.

    Parameters
    ----------
    target : output channels in the order of the lanes.
    conv : number of rows and of columns of the layer's output before pooling.
    kept : how many of these rows and columns lie in complete pooling windows. The others get no
        parameters, because the core does not compute them.

    Returns
    -------
    Array with the axes (y, x, group, t, lanes, 2): output row and column, group of output channels,
    timestep, output channel in the group, and bias or threshold. An axis along which biases and
    thresholds are shared has length 1.

    Raises
    ------
    FitError
        A bias or threshold does not fit into :data:`hw.spec.PARAM_BITS` bits.
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
    rows[..., : layer.n_out, 0] = layer.bias.transpose(1, 2, 0, 3)[..., list(target)]
    rows[..., : layer.n_out, 1] = threshold[:, :, None, list(target)]
    rows = rows[: kept[0] if y == conv[0] else None, : kept[1] if x == conv[1] else None]
    rows = rows.reshape(*rows.shape[:3], groups, config.lanes, 2)
    return np.ascontiguousarray(rows.transpose(0, 1, 3, 2, 4, 5))


def row_strides(shape: tuple[int, ...], n_rows: int) -> list[int]:
    """Return, for each axis of an array in memory, the distance in rows between its entries.

    The last axis varies fastest, and each entry takes ``n_rows`` rows. An axis of length 1 has a
    distance of 0, because all indices along it share its only entry.
    """
    strides = []
    for n in reversed(shape):
        strides.append(n_rows if n > 1 else 0)
        n_rows *= n
    return strides[::-1]


def descriptor_bytes(
    name: str, header: dict[str, Any], levels: list[dict[str, int]], config: Config
) -> bytes:
    """Return the bytes of a layer's descriptor, padded to whole rows of weight memory.

    Parameters
    ----------
    name : name of the layer, for messages.
    header : values of the fields of :class:`hw.protocol.Header`; fields that are left out are 0.
    levels : values of the fields of :class:`hw.protocol.Level`, innermost level first.

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
                    f"layer {name!r} is too large for the device's addresses ({field} {value} does "
                    "not fit its descriptor field): use fewer channels, smaller maps or fewer "
                    "timesteps"
                )
    n_bytes = descriptor_rows(config) * row_bytes(Space.WEIGHT, config)
    return packed.ljust(n_bytes, b"\0")
