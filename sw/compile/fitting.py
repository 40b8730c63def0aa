"""Check of whether a network fits a board, and the changes that would make it fit (remedies)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from hw.boards.configs import BOARDS, CONFIGS, board_name
from hw.spec import Config, signed_range
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.network.network import Layer, Network


@dataclass(frozen=True, kw_only=True)
class BoardReport:
    """Result of checking whether a network fits a board, with remedies if it does not fit."""

    board: str
    """Name of the board, as the option ``--board`` takes it."""
    fits: bool
    usage: dict[str, tuple[int, int]]
    """(needed, available) for each memory; if the network does not fit, only for what is too small.
    """
    problem: str | None = None
    """Why the network does not fit; None if it fits."""
    remedies: tuple[str, ...] = ()
    """Changes as texts, each of which would make it fit (:func:`remedies`)."""


def _with_layers(network: Network, layers: Iterable[Layer], bits: int) -> Network:
    """Return a copy of the network with other layers and ``bits``-bit weights, to check its size.

    The weights are clipped to this width, so the copy computes nothing useful.
    """
    low, high = signed_range(bits)
    return replace(
        network,
        weight_bits=bits,
        layers=tuple(replace(layer, weight=np.clip(layer.weight, low, high)) for layer in layers),
    )


def _fits(network: Network, config: Config) -> bool:
    try:
        compile_network(network, config)
    except FitError:
        return False
    return True


def _coarser(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Yield (description, layer) for every way in which the layer could share more of its weights.

    They can be shared over timesteps, positions, or both, and so can biases and thresholds. The
    variant with the fewest weights comes last.
    """
    threshold = layer.threshold
    over_places = (*layer.weight.shape[1:3], *layer.bias.shape[1:3])
    if threshold is not None:
        over_places += threshold.shape[:2]
    times = (slice(0, 1),) if max(layer.weight.shape[0], layer.bias.shape[0]) > 1 else ()
    places = (slice(0, 1), slice(0, 1)) if max(over_places) > 1 else ()

    def cut(times: tuple[slice, ...], places: tuple[slice, ...]) -> Layer:
        axes = (times or (slice(None),)) + places
        return replace(
            layer,
            weight=layer.weight[axes],
            bias=layer.bias[axes],
            threshold=None if threshold is None else threshold[places or ...],
        )

    if times:
        yield "shared over timesteps", cut(times, ())
    if places:
        yield "shared over positions", cut((), places)
    if times and places:
        yield "shared over positions and timesteps", cut(times, places)


def _coarser_fit(network: Network, config: Config) -> str | None:
    """Return a text that says which layers must share weights so that the network fits.

    Layers are taken in the order of their number of weights, the largest first, until the network
    fits. Return None if it does not fit even with shared weights in all layers.
    """
    layers = {layer.name: layer for layer in network.layers}
    changes: list[str] = []  # the coarsest granularity of each layer before this one
    for layer in sorted(network.layers, key=lambda layer: -layer.weight.size):
        change = None
        for what, coarser in _coarser(layer):
            change = f"{layer.name} {what}"
            layers[layer.name] = coarser
            if _fits(_with_layers(network, layers.values(), config.weight_bits), config):
                return ", ".join([*changes, change])
        if change:
            changes.append(change)
    return None


def remedies(network: Network, config: Config) -> tuple[str, ...]:
    """Return changes to a network as texts, each of which would make it fit the device.

    One is narrower weights, of the largest width that fits. The other is sharing of weights in as
    few of the largest layers as possible: with weights of the present width if this suffices, else
    with narrower ones. If nothing helps, the only text says that the network must be smaller.
    """
    found = []
    present = min(network.weight_bits, config.weight_bits)
    configs = {bits: config.with_weight_bits(bits) for bits in (8, 4, 2) if bits <= present}
    for bits, narrower in configs.items():
        if bits < network.weight_bits and _fits(
            _with_layers(network, network.layers, bits), narrower
        ):
            found.append(f"--bits {bits} --board {board_name(narrower)}")
            break
    for bits, narrower in configs.items():
        change = _coarser_fit(network, narrower)
        if change:
            width = "" if bits == network.weight_bits else f", and --bits {bits}"
            found.append(f"{change}{width} (train with this coarser granularity)")
            break
    return tuple(found) or (_too_large(network, configs[min(configs)]),)


def _too_large(network: Network, config: Config) -> str:
    """Return the remedy for a network that does not fit even with all weights shared.

    This is to make it smaller; the text names the memories that are too small.
    """
    coarsest = [[layer, *(c for _, c in _coarser(layer))][-1] for layer in network.layers]
    try:
        compile_network(_with_layers(network, coarsest, config.weight_bits), config)
    except FitError as error:
        short = " and ".join(error.needs) or str(error)
        return (
            f"only a smaller network: short of {short} even with all weights shared in "
            f"{config.weight_bits} bits"
        )
    raise AssertionError("_coarser_fit would have found this granularity")


def board_report(network: Network, config: Config) -> BoardReport:
    """Return whether ``network`` fits a device built with ``config``, and how full the device gets.

    If it does not fit, the report says why, and which changes would make it fit.
    """
    board = board_name(config)
    try:
        program = compile_network(network, config)
    except FitError as error:
        return BoardReport(
            board=board,
            fits=False,
            usage=error.needs,
            problem=str(error),
            remedies=remedies(network, config),
        )
    return BoardReport(board=board, fits=True, usage=program.usage())


def all_boards(network: Network) -> list[BoardReport]:
    """Return a report for every known board, with gateware for the network's width of weights."""
    return [
        board_report(network, CONFIGS[name].with_weight_bits(network.weight_bits))
        for name in BOARDS
    ]
