"""Whether a network fits a board, and what would make it fit."""

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
    """Whether a network fits a board, and if not, what would."""

    board: str
    fits: bool
    usage: dict[str, tuple[int, int]]
    """(rows needed, rows available) per memory; only what is short if it does not fit."""
    problem: str | None = None
    remedies: tuple[str, ...] = ()


def _with_layers(network: Network, layers: Iterable[Layer], bits: int) -> Network:
    """The network with other layers and narrower weights, which need not mean anything: only their
    shapes count."""
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
    """The layer in coarser granularities, finest first, with what they are called."""
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
    """The fewest of the largest layers that have to share weights, or None if that is no help."""
    layers = {layer.name: layer for layer in network.layers}
    changes: list[str] = []  # of layers that have been made as coarse as they can be
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
    """What would make a network fit: the widest of the narrower weights that does, and the fewest
    of the largest layers that have to share weights, at the present width or a narrower one."""
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
            found.append(f"{change}{width} (train with a coarser granularity there)")
            break
    return tuple(found) or (_smaller(network, configs[min(configs)]),)


def _smaller(network: Network, config: Config) -> str:
    """What to say if no granularity helps: the memories that stay short."""
    coarsest = [[layer, *(c for _, c in _coarser(layer))][-1] for layer in network.layers]
    try:
        compile_network(_with_layers(network, coarsest, config.weight_bits), config)
    except FitError as error:
        short = " and ".join(error.needs) or str(error)
        return (
            f"only a smaller network: short of {short} even with all weights shared in "
            f"{config.weight_bits} bits"
        )
    raise AssertionError("then a coarser granularity would have been found")


def board_report(network: Network, config: Config) -> BoardReport:
    """Whether ``network`` fits a device built with ``config``, and what would."""
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
    """Every known board, built for the network's weight width."""
    return [
        board_report(network, CONFIGS[name].with_weight_bits(network.weight_bits))
        for name in BOARDS
    ]
