"""Checks whether a network fits a board, and remedies if it does not."""

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
    """Result of fitting a network to a board, with remedies if it does not fit."""

    board: str
    fits: bool
    usage: dict[str, tuple[int, int]]
    """(needed, available) per memory; if the network does not fit, only of what is too small."""
    problem: str | None = None
    remedies: tuple[str, ...] = ()


def _with_layers(network: Network, layers: Iterable[Layer], bits: int) -> Network:
    """Return the network with other layers and narrower weights, for their sizes only.

    Weights are clipped, so the network no longer computes anything useful.
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
    """Yield (name, layer) of every coarser granularity of the layer, the finest first."""
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
    """Return which layers must share weights so that the network fits; None if all do not suffice.

    Layers are taken from the largest on, as few as possible.
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
    """Return changes to a network, each of which would make it fit.

    These are the widest narrower weights that fit, and sharing of weights in as few of the largest
    layers as possible, at the present width of weights or else a narrower one.
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
    """Return the remedy for a network that fits with no granularity, with what it exceeds."""
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
    """Check whether ``network`` fits a device built with ``config``."""
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
    """Check every known board, built for the network's weight width."""
    return [
        board_report(network, CONFIGS[name].with_weight_bits(network.weight_bits))
        for name in BOARDS
    ]
