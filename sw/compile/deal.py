"""The dealing of channels to banks: the rank of every channel of every map. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sw.network.network import Layer, Shape


def _joined_maps(shapes: Mapping[str, Shape], layers: tuple[Layer, ...]) -> list[list[str]]:
    """Return the maps in groups: those that gates join must have the same ranks."""
    group = {name: [name] for name in shapes}
    for layer in layers:
        if layer.identity is None or layer.name not in group:
            continue
        first, second = group[layer.identity], group[layer.name]
        if first is not second:
            first += second
            group |= dict.fromkeys(second, first)
    return list({id(names): names for names in group.values()}.values())


def _even(rates: NDArray[np.float64], banks: int) -> NDArray[np.int64]:
    """Return ranks with which the banks' summed rates are nearly even.

    The channel with the highest rate goes to the bank with the lowest sum so far that has room.
    """
    n_slots = -(-len(rates) // banks)
    n_last = len(rates) - (n_slots - 1) * banks  # banks that have a channel in the last slot
    room = np.where(np.arange(banks) < n_last, n_slots, n_slots - 1)
    total, used = np.zeros(banks), np.zeros(banks, np.int64)
    ranks = np.zeros(len(rates), np.int64)
    for channel in np.argsort(-rates, kind="stable"):
        bank = min(np.flatnonzero(used < room), key=lambda b: (total[b], b))
        ranks[channel] = used[bank] * banks + bank
        used[bank] += 1
        total[bank] += rates[channel]
    return ranks


def deal(
    shapes: Mapping[str, Shape],
    layers: tuple[Layer, ...],
    rates: Mapping[str, NDArray[np.float64]],
    banks: int,
) -> dict[str, tuple[int, ...]]:
    """Return the rank of every channel (C,) by map, see
    :attr:`sw.compile.program.Placement.ranks`.

    Parameters
    ----------
    shapes : shape (C, H, W) of every map of spikes.
    rates : spikes per inference of each channel (C,), by map, as far as they are known. Maps
        without rates keep the order of their channels.
    """
    ranks = {}
    for names in _joined_maps(shapes, layers):
        known = [rates[name] for name in names if name in rates]
        n_channels = shapes[names[0]][0]
        together = _even(np.sum(known, axis=0), banks) if known else np.arange(n_channels)
        ranks |= dict.fromkeys(names, tuple(together.tolist()))
    return ranks
