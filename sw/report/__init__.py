"""What a network costs: memory, operations, cycles, and the boards it fits. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hw.boards import BOARDS, CONFIGS
from hw.spec import Config, signed_range
from sw.bounds import layer_bounds
from sw.compiler import (
    PIXELS,
    FitError,
    Program,
    bit_planes,
    compile_network,
    device_layers,
)
from sw.cycles import predict_cycles
from sw.encoder import PIXEL_MAX
from sw.network import Layer, Network, Shape

Maps = dict[str, NDArray[np.uint8]]
"""Spikes (T, C, H, W) of every map of one image, by name."""


PJ_PER_ACCUMULATION = 0.9
"""Energy of an addition by the papers' convention (32-bit floating point at 45 nm: Horowitz, ISSCC
2014); says nothing about this device's own energy."""
PJ_PER_MULTIPLICATION = 4.6
"""The same of a multiplication with its addition."""


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer. Operations and cycles are per image, means over the images measured on."""

    name: str
    source: str
    n_neurons: int
    fan_in: int
    """Inputs of a neuron away from the border."""
    n_synapses: int
    """Pairs of an input and a neuron over all timesteps, padding left out."""
    n_weights: int
    unshared: bool
    """Every position has weights of its own."""
    per_timestep: bool
    membrane_bits: int
    """Width that is proved sufficient for any input."""
    input_density: float | None = None
    n_synaptic_ops: float | None = None
    n_cycles: float | None = None


@dataclass(frozen=True, kw_only=True)
class BoardReport:
    """Whether a network fits a board, and if not, what would."""

    board: str
    fits: bool
    usage: dict[str, tuple[int, int]]
    """(rows needed, rows available) per memory; only what is short if it does not fit."""
    problem: str | None = None
    remedies: tuple[str, ...] = ()


def wilson(n_correct: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval that covers a share with 95 % (Wilson, JASA 22, 1927)."""
    if not n:
        return 0.0, 1.0
    share = n_correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(centre - half, 0.0), min(centre + half, 1.0)


def board_name(config: Config) -> str:
    """Name that :func:`hw.boards.config_by_name` takes for this configuration."""
    usual = CONFIGS.get(config.name)
    plain = usual is not None and usual.weight_bits == config.weight_bits
    return config.name if plain else f"{config.name}/w{config.weight_bits}"


def _n_uses(n_in: int, kernel: int, stride: int, padding: int, n_out: int) -> NDArray[np.int64]:
    """How many outputs along one axis read each of ``n_in`` inputs."""
    read = np.arange(n_out)[:, None] * stride + np.arange(kernel) - padding
    return np.bincount(read[(read >= 0) & (read < n_in)], minlength=n_in)


def fan_out(layer: Layer, source: Shape) -> NDArray[np.int64]:
    """Synapses of one input at every position (H, W) of the source map. Outputs that pooling drops
    do not count: the device does not compute them."""
    _, height, width = layer.conv_shape(source)
    kept = height // layer.pool[0] * layer.pool[0], width // layer.pool[1] * layer.pool[1]
    rows, columns = (
        _n_uses(n, k, s, p, o)
        for n, k, s, p, o in zip(
            source[1:], layer.kernel, layer.stride, layer.padding, kept, strict=True
        )
    )
    return layer.n_out * rows[:, None] * columns


def n_synaptic_ops(layer: Layer, spikes: NDArray[np.uint8]) -> int:
    """Additions of one weight to one neuron that source spikes (T, C, H, W) cause."""
    return int((spikes.sum(axis=(0, 1), dtype=np.int64) * fan_out(layer, spikes.shape[1:])).sum())


def layer_reports(network: Network, program: Program | None = None) -> list[LayerReport]:
    """What follows from the network alone, for every layer that the device has."""
    shapes = network.map_shapes() | {PIXELS: network.image_shape}
    reports = []
    for layer in device_layers(network, program is not None and program.pixels):
        source = shapes[layer.source]
        t, y, x, _, _, ky, kx = layer.weight.shape
        reports.append(
            LayerReport(
                name=layer.name,
                source=layer.source,
                n_neurons=int(np.prod(layer.conv_shape(source))),
                fan_in=source[0] * layer.kernel[0] * layer.kernel[1],
                n_synapses=network.timesteps * source[0] * int(fan_out(layer, source).sum()),
                n_weights=layer.weight.size,
                unshared=y * x * (ky * kx if layer.output else 1) > 1,
                per_timestep=t > 1,
                membrane_bits=layer_bounds(
                    layer, network.timesteps, PIXEL_MAX if layer.source == PIXELS else 1
                ).n_bits,
            )
        )
    return reports


def device_maps(network: Network, images: NDArray[np.uint8], spikes: Maps) -> list[Maps]:
    """Per image, every map that a device may have: ``spikes`` (N, T, C, H, W) by name, and the
    bit-planes of the first of the ``images`` if the network has an encoder."""
    n_images = len(next(iter(spikes.values())))
    return [
        {name: maps[n] for name, maps in spikes.items()}
        | ({} if network.encoder is None else {PIXELS: bit_planes(images[n])})
        for n in range(n_images)
    ]


def measured(network: Network, program: Program | None, images: list[Maps]) -> list[LayerReport]:
    """:func:`layer_reports` with densities, operations and predicted cycles: means over ``images``,
    whose maps include the one that the host writes.

    Without a program (the network does not fit) there are no cycles.
    """
    cycles = [predict_cycles(program, maps) for maps in images] if program else []
    return [
        replace(
            report,
            input_density=float(np.mean([maps[layer.source].mean() for maps in images])),
            n_synaptic_ops=float(
                np.mean([n_synaptic_ops(layer, maps[layer.source]) for maps in images])
            ),
            n_cycles=float(np.mean([c[layer.name] for c in cycles])) if cycles else None,
        )
        for report, layer in zip(
            layer_reports(network, program),
            device_layers(network, program is not None and program.pixels),
            strict=True,
        )
    ]


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


def as_text(layers: list[LayerReport], weight_bits: int, config: Config) -> str:
    """The layers as a table, with totals, for a terminal."""

    def optional(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    def total(name: str) -> float | None:
        values = [getattr(layer, name) for layer in layers]
        return None if None in values else sum(values)

    rows = [
        (
            "layer",
            "neurons",
            "fan-in",
            "synapses",
            "weights",
            "granularity",
            "membrane",
            "density",
            "syn. ops",
            "cycles",
        )
    ]
    for layer in layers:
        granularity = ("unshared" if layer.unshared else "shared") + (
            ", per timestep" if layer.per_timestep else ", static"
        )
        rows.append(
            (
                layer.name,
                f"{layer.n_neurons:,}",
                f"{layer.fan_in:,}",
                f"{layer.n_synapses:,}",
                f"{layer.n_weights:,} x {weight_bits} bit",
                granularity,
                f"{layer.membrane_bits} of {config.membrane_bits} bit",
                optional(layer.input_density, ".1%"),
                optional(layer.n_synaptic_ops, ",.0f"),
                optional(layer.n_cycles, ",.0f"),
            )
        )
    rows.append(
        (
            "total",
            f"{total('n_neurons'):,}",
            "",
            f"{total('n_synapses'):,}",
            f"{total('n_weights'):,}",
            "",
            "",
            "",
            optional(total("n_synaptic_ops"), ",.0f"),
            optional(total("n_cycles"), ",.0f"),
        )
    )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {0, 5}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def board_text(report: BoardReport) -> str:
    """One board for a terminal: memories in use, or what is short and what would help."""
    usage = ", ".join(
        f"{memory} {used:,} of {rows:,}" + (f" ({used / rows:.0%})" if report.fits else "")
        for memory, (used, rows) in report.usage.items()
    )
    if report.fits:
        return f"{report.board}: fits; {usage}"
    lines = [f"{report.board}: does not fit; {usage or report.problem}"]
    lines += [f"  would fit with {remedy}" for remedy in report.remedies]
    return "\n".join(lines)
