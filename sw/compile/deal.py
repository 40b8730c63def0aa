"""Order in which the channels of each map are dealt to the banks of a device. NumPy only.

The channels of a map are dealt to the banks in turn, like cards. The *rank* of a channel is its
index in the order of dealing, from 0: the channel of rank ``q`` is in bank ``q % banks``.

All banks of a device add up the weights of their own active inputs at the same time, so that the
bank with the most active inputs decides how long this takes. Channels that spike often are
therefore spread over the banks. To this end, ``statistics[map]["channel_rates"]`` of a network
(:class:`sw.network.network.Network`) holds one number for each channel of the map: the mean number
of spikes of a neuron at a timestep. Without these numbers, channels keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sw.network.network import Layer, Network, Shape

RATES = "channel_rates"
"""Key of a map's spike rates in the statistics of a network."""


def channel_rates(network: Network) -> dict[str, NDArray[np.float64]]:
    """Return, for each map by name, the spike rates (C,) of its channels.

    They are taken from the network's statistics. A map is left out if the statistics do not have a
    number for each of its channels.
    """
    found = {}
    for name, (channels, _, _) in network.map_shapes().items():
        of_map = network.statistics.get(name)
        rates = of_map.get(RATES) if isinstance(of_map, Mapping) else None
        if (
            isinstance(rates, Sequence)
            and len(rates) == channels
            and all(isinstance(rate, int | float) for rate in rates)
        ):
            found[name] = np.array(rates, np.float64)
    return found


def orders(
    layers: Sequence[Layer],
    shapes: Mapping[str, Shape],
    rates: Mapping[str, NDArray[np.float64]],
    banks: int,
) -> dict[str, tuple[int, ...]]:
    """Return, for each map, its channels in the order in which they are dealt to the banks.

    Maps that a gate joins have the same order, because their spikes are joined bit by bit. Maps
    that a layer reads together have the same order, because their weights lie in the same banks.

    Parameters
    ----------
    layers, shapes : the network's layers, and the shapes (C, H, W) of its maps by name.
    rates : spike rates (C,) by map. A map without rates keeps its order of channels, unless a gate
        or a layer joins it with a map that has rates.
    """
    result: dict[str, tuple[int, ...]] = {}
    for group in _joined_maps(layers, shapes):
        n_channels = shapes[group[0]][0]
        known = [rates[name] for name in group if name in rates]
        order = deal(np.sum(known, axis=0), banks) if known else tuple(range(n_channels))
        result |= dict.fromkeys(group, order)
    return result


def deal(rates: NDArray[np.float64], banks: int) -> tuple[int, ...]:
    """Return an order of dealing in which the summed rates of all banks are about even.

    The result holds the channels in this order: entry ``q`` goes to bank ``q % banks``. This fixes
    how many channels each bank gets. To find the order, the channels are taken from the highest
    rate to the lowest. Each is given to the bank with the lowest sum of rates, among those that do
    not have all their channels yet.

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
    """Divide the names of all maps into lists; every name is in one of them.

    Maps that a gate joins or a layer reads together, directly or through other maps, are in the
    same list.
    """
    groups = {name: [name] for name in shapes}
    for layer in layers:
        pairs = [(layer.source, name) for name in layer.addends]
        if layer.identity is not None:
            pairs.append((layer.name, layer.identity))
        for one, other in pairs:
            ours, theirs = groups[one], groups[other]
            if ours is not theirs:
                ours += theirs
                groups |= dict.fromkeys(theirs, ours)
    unique = {id(group): group for group in groups.values()}
    return list(unique.values())
