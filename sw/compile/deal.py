"""Order in which the channels of each map are dealt to the banks of a device. NumPy only.

All banks of a device add up the weights of their own active inputs at the same time, so that the
bank with the most of them decides how long a job takes. Channels that spike often are therefore
spread over the banks: ``statistics[map]["channel_rates"]`` of a network
(:class:`sw.network.network.Network`) holds the mean number of spikes of a neuron at a timestep, for
each channel of the map. Without it, channels keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sw.network.network import Layer, Network, Shape

RATES = "channel_rates"
"""Key of a map's spike rates in the statistics of a network."""


def channel_rates(network: Network) -> dict[str, NDArray[np.float64]]:
    """Return the spike rate of every channel, by map, as far as the network's statistics have it.

    Statistics that do not have a number for each channel of their map are left out.
    """
    found = {}
    for name, (channels, _, _) in network.map_shapes().items():
        of_map = network.statistics.get(name)
        rates = of_map.get(RATES) if isinstance(of_map, Mapping) else None
        if isinstance(rates, Sequence) and len(rates) == channels:
            found[name] = np.array(rates, np.float64)
    return found


def orders(
    layers: Sequence[Layer],
    shapes: Mapping[str, Shape],
    rates: Mapping[str, NDArray[np.float64]],
    banks: int,
) -> dict[str, tuple[int, ...]]:
    """Return the channel of each rank, by map; the channel of rank ``q`` is in bank ``q % banks``.

    Maps that a gate joins have the same order, because their spikes are joined bit by bit.

    Parameters
    ----------
    rates : spike rates (C,) of maps; others keep their order, unless a gate joins them with these.
    """
    result: dict[str, tuple[int, ...]] = {}
    for group in _joined_maps(layers, shapes):
        n_channels = shapes[group[0]][0]
        known = [rates[name] for name in group if name in rates]
        order = deal(np.sum(known, axis=0), banks) if known else tuple(range(n_channels))
        result |= dict.fromkeys(group, order)
    return result


def deal(rates: NDArray[np.float64], banks: int) -> tuple[int, ...]:
    """Return the channel of each rank such that the summed rates of all banks are about even.

    Channels are dealt from the highest rate on, each to the bank with the lowest sum that has room.

    >>> deal(np.array([8.0, 4.0, 3.0, 1.0, 1.0]), banks=2)
    (0, 1, 3, 2, 4)
    """
    n_channels = len(rates)
    hands: list[list[int]] = [[] for _ in range(banks)]
    room = [len(range(bank, n_channels, banks)) for bank in range(banks)]
    sums = [0.0] * banks
    for channel in np.argsort(-rates, kind="stable").tolist():
        open_banks = [bank for bank in range(banks) if len(hands[bank]) < room[bank]]
        lightest = min(open_banks, key=lambda bank: sums[bank])
        hands[lightest].append(channel)
        sums[lightest] += float(rates[channel])
    return tuple(hands[rank % banks][rank // banks] for rank in range(n_channels))


def _joined_maps(layers: Sequence[Layer], shapes: Mapping[str, Shape]) -> list[list[str]]:
    """Return groups of maps: those that gates join, directly or through others, are together."""
    groups = {name: [name] for name in shapes}
    for layer in layers:
        if layer.identity is None:
            continue
        ours, theirs = groups[layer.name], groups[layer.identity]
        if ours is not theirs:
            ours += theirs
            groups |= dict.fromkeys(theirs, ours)
    unique = {id(group): group for group in groups.values()}
    return list(unique.values())
