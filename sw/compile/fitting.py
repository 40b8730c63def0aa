"""Check of whether a network fits a board, and the changes that would make it fit (remedies)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from hw.boards.configs import BOARDS, CONFIGS, board_name, is_known
from hw.spec import Config, signed_range
from sw.compile.compiler import compile_network
from sw.compile.nest import lacking_neurons
from sw.compile.program import FitError
from sw.network.network import Layer, Network


@dataclass(frozen=True, kw_only=True)
class BoardReport:
    """Result of checking whether a network fits a board, with remedies if it does not fit."""

    board: str
    """Name of the board, as the option ``--board`` takes it."""
    fits: bool
    usage: dict[str, tuple[int, int]]
    """If the network fits, the number of rows (needed, available) in each memory by name. If not,
    only what is too small is listed (:attr:`sw.compile.program.FitError.needs`)."""
    problem: str | None = None
    """Why the network does not fit; None if it fits."""
    remedies: tuple[str, ...] = ()
    """Texts that each describe a change with which the network would fit (:func:`remedies`)."""


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
    if network.n_weights > config.n_weights:
        return False  # quicker than compiling a network that is much too large
    try:
        compile_network(network, config)
    except FitError:
        return False
    return True


def _coarser(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Yield (description, layer) for every way in which the layer could share more of its weights.

    Weights can be shared over timesteps, positions, or both, and so can biases and thresholds. The
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


def _with_timesteps(network: Network, timesteps: int) -> Network:
    """Return a copy of the network that runs only its first timesteps."""

    def cut(layer: Layer) -> Layer:
        return replace(layer, weight=layer.weight[:timesteps], bias=layer.bias[:timesteps])

    return replace(network, timesteps=timesteps, layers=tuple(map(cut, network.layers)))


def _fewer_timesteps(network: Network, config: Config) -> int | None:
    """Return the largest number of timesteps, below the present one, with which the network fits.

    Return None if it does not fit even with one timestep.
    """
    if network.timesteps == 1 or not _fits(_with_timesteps(network, 1), config):
        return None
    fits, too_many = 1, network.timesteps
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _fits(_with_timesteps(network, middle), config):
            fits = middle
        else:
            too_many = middle
    return fits


def remedies(network: Network, config: Config) -> tuple[str, ...]:
    """Return texts that each describe a change with which a network would fit the device.

    There is at most one text of each of these kinds:

    - weights of the largest width with which the network fits, on the same board built for that
      width. If the board is built for wider weights than the network has, the network may keep its
      width, and only the board is built anew;
    - sharing of weights in as few of the largest layers as possible;
    - fewer timesteps.

    The texts on sharing and on timesteps may also ask for narrower weights, but only if narrower
    weights alone do not help. If no kind helps, the only text asks for several of these changes
    together, or says that the network must be smaller, and where. If the device cannot run the
    neurons of a layer, the only text says how to change them.
    """
    lacking = [text for layer in network.layers if (text := lacking_neurons(layer, config))]
    if lacking:
        return (lacking[0].partition("; use ")[2],)
    found = []
    present = min(network.weight_bits, config.weight_bits)
    configs = {bits: config.with_weight_bits(bits) for bits in (8, 4, 2) if bits <= present}
    clipped = {bits: _with_layers(network, network.layers, bits) for bits in configs}
    for bits, narrower in configs.items():
        changed = bits < network.weight_bits or narrower.weight_bits != config.weight_bits
        if changed and _fits(clipped[bits], narrower):
            found.append(f"--bits {bits}{_narrower_board(narrower)}")
            break
    # With narrower weights only if these alone do not suffice.
    widths = {b: c for b, c in configs.items() if b == network.weight_bits or not found}
    for bits, narrower in widths.items():
        change = _coarser_fit(network, narrower)
        if change:
            found.append(f"{change}{_width(bits, network)} (train with this coarser granularity)")
            break
    for bits, narrower in widths.items():
        timesteps = _fewer_timesteps(clipped[bits], narrower)
        if timesteps:
            times = f"{timesteps} of {network.timesteps} timesteps"
            found.append(f"{times}{_width(bits, network)} (train with fewer)")
            break
    return tuple(found) or (_everything(network, configs),)


def _width(bits: int, network: Network) -> str:
    """Return the part of a remedy that asks for ``bits``-bit weights.

    It is empty if the network has this width already.
    """
    return "" if bits == network.weight_bits else f", and --bits {bits}"


SMALLER = {
    "weight": ("channels", "blocks"),
    "param": ("channels", "layers"),
    "offchip": ("channels", "timesteps", "rows and columns"),
    "spike": ("channels", "rows and columns (more stride or pooling in the first layers)"),
    "layers": ("blocks",),
    "result": ("classes",),
    "membrane_bits": ("inputs of a neuron (channels or kernel)",),
    "sum_bits": ("inputs of a neuron (channels or kernel)",),
}
"""Properties of a network to reduce if it needs too much of a resource, by the resource's name in
:attr:`sw.compile.program.FitError.needs`."""


def _narrower_board(config: Config) -> str:
    """Return the part of a remedy that says how to get a device with this configuration.

    ``config`` is the configuration of a known board with another width of weights.
    """
    if is_known(config):
        return f" --board {board_name(config)}"
    sizes = f"weight_bits = {config.weight_bits}, weight_depth = {config.weight_depth}"
    if not config.sum_queue:
        sizes += f", lanes = {config.lanes}"
    return f", and a board file and bitstream with {sizes}"


def _everything(network: Network, configs: dict[int, Config]) -> str:
    """Return the remedy for a network that no single change makes fit.

    First, all weights are shared and timesteps are left out together. If the network then fits,
    that is the remedy. If it does not fit with any width of weights, the network must be smaller:
    the text then names the resources that are still too small, and the properties of the network to
    reduce (:data:`SMALLER`).

    ``configs`` has the device's configuration for each width of weights in bits.
    """
    coarsest = [[layer, *(c for _, c in _coarser(layer))][-1] for layer in network.layers]
    for bits, config in configs.items():
        timesteps = _fewer_timesteps(_with_layers(network, coarsest, bits), config)
        if timesteps:
            times = f"{timesteps} of {network.timesteps} timesteps"
            return f"all weights shared and {times}{_width(bits, network)} (train with both)"
    short = {bits: _needs(_smallest(network, coarsest, bits), c) for bits, c in configs.items()}
    bits = min(short, key=lambda bits: len(short[bits]))
    advice = dict.fromkeys(text for name in short[bits] for text in SMALLER.get(name, ()))
    times = " and one timestep" if network.timesteps > 1 else ""
    return (
        f"only a smaller network: short of {' and '.join(short[bits])} even with all weights "
        f"shared in {bits} bits{times}" + (f"; use less of: {', '.join(advice)}" if advice else "")
    )


def _smallest(network: Network, coarsest: list[Layer], bits: int) -> Network:
    return _with_timesteps(_with_layers(network, coarsest, bits), 1)


def _needs(network: Network, config: Config) -> list[str]:
    """Return the names of the resources that are too small for a network that does not fit.

    If the network does not fit for another reason, the only entry is this reason.
    """
    try:
        compile_network(network, config)
    except FitError as error:
        return [*error.needs] or [str(error)]
    raise AssertionError("a coarser granularity would have been found to fit")


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
    """Return a report for every known board as it is built, with its own width of weights.

    A network with narrower weights may fit if the gateware is built for this width; the report of
    such a board lists this as a remedy.
    """
    return [board_report(network, CONFIGS[name]) for name in BOARDS]
