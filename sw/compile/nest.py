"""Compilation of one layer: its loop nest, and its rows of weights and parameters.

:mod:`sw.compile.levels` explains levels and jobs, :mod:`sw.compile.chunks` chunks, pieces and runs,
:mod:`sw.compile.rows` rows, channel groups and lanes. The *fire unit* of the core updates neurons;
a *membrane slot* keeps the membranes of one job's neurons until their next timestep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.spec import GRANULE_BITS, N_LEVELS, N_PLANES, PARAM_BITS, Config, Reset
from sw.compile.chunks import Chunks, cut_window
from sw.compile.levels import Level, Strides, Turns, increments, interleaved, interleavings
from sw.compile.program import FitError, LayerPlan, Placement
from sw.compile.rows import halved_rows, pack_rows, param_rows, row_strides, weight_rows
from sw.network.encoder import pixel_max
from sw.network.network import Layer

N_ADDRESS_VALUES = 1 << 16
"""Number of different addresses of granules (8 bits of spike memory) in a descriptor. These
addresses have 16 bits and wrap around."""


@dataclass(frozen=True, kw_only=True)
class LayerContext:
    """Everything on which the compilation of one layer depends."""

    layer: Layer
    timesteps: int
    placements: Mapping[str, Placement]
    config: Config
    final: bool
    """Whether the layer is the last one of the network."""
    pixels: bool
    """Whether the layer reads the bit-planes of an image (one bit of every pixel each)."""
    pixel_bits: int
    """Width of the image's pixels. If it is less than the number of bit-planes, the highest planes
    are 0."""

    @property
    def input_max(self) -> int:
        """Largest value that an input of the layer can have: 1 for spikes, up to 255 for pixels."""
        return pixel_max(self.pixel_bits) if self.pixels else 1

    @property
    def source(self) -> Placement:
        """Place in spike memory of the map that the layer reads; of several maps, the first one.

        All maps that a layer reads have the same layout.
        """
        return self.placements[self.sources[0]]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the maps that the layer reads, in the order of their addresses."""
        return tuple(sorted(self.layer.sources, key=lambda name: self.placements[name].start))

    @property
    def map_pitch(self) -> int:
        """Distance in bits from one of the maps that the layer reads to the next.

        It is 0 if the layer reads only one map.
        """
        starts = [self.placements[name].start for name in self.sources]
        return starts[1] - starts[0] if len(starts) > 1 else 0

    @property
    def identity(self) -> Placement | None:
        """Place in spike memory of the map that the layer's gate joins with the layer's own spikes.

        It is None without a gate.
        """
        return self.placements[self.layer.identity] if self.layer.identity else None

    @property
    def target(self) -> Placement | None:
        """Place in spike memory of the map that the layer writes; None for an output layer."""
        return self.placements.get(self.layer.name)

    @property
    def n_groups(self) -> int:
        """Number of groups of ``lanes`` output channels in the layer; the last may be smaller."""
        return -(-self.layer.n_out // self.config.lanes)

    @property
    def n_beats(self) -> int:
        """Number of cycles in which the fire unit updates the neurons of one job."""
        if self.n_groups > 1:
            return self.config.fire_beats
        return -(-self.layer.n_out // self.config.fire_lanes)

    @property
    def halved(self) -> bool:
        """Whether two of the layer's rows of weights are stored in one row of weight memory.

        The layer then uses at most half of the lanes.
        """
        return self.config.half_rows > 0 and self.layer.n_out <= self.config.lanes // 2

    @property
    def n_plane_steps(self) -> int:
        """Number of iterations of the time loop that come before the first timestep.

        A layer that reads pixels first processes their bits, one after another. A bit-plane is one
        bit of all pixels; in each of these iterations, every bank processes one plane. The number
        is 0 in other layers.
        """
        return N_PLANES // self.config.banks if self.pixels else 0

    @property
    def n_direct(self) -> int:
        """Number of timesteps whose jobs go directly to the fire unit, because they have no inputs
        (:attr:`hw.spec.Config.direct_timesteps`)."""
        return self.timesteps if self.pixels and self.config.direct_timesteps else 0

    @property
    def lane_order(self) -> tuple[int, ...]:
        """Output channels in the order of the lanes that compute them, group after group.

        This is the order in which the output map's channels are dealt to the banks
        (:mod:`sw.compile.deal`). In an output layer, it is the order of the classes.
        """
        return self.target.order if self.target else tuple(range(self.layer.n_out))


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """Result of compiling one layer: descriptor, and rows of weights and parameters.

    ``plan`` says how the core runs the layer, for the prediction of its cycles and for reports.
    """

    plan: LayerPlan
    header: dict[str, Any]
    """Values of the fields of :class:`hw.protocol.Header`, by name."""
    levels: list[dict[str, int]]
    """Values of the fields of :class:`hw.protocol.Level` by name, for each level, innermost first.
    """
    weights: bytes
    """Rows of weight memory of all banks; row ``r`` is for bank ``r % banks``."""
    params: bytes
    """Rows of parameter memory."""
    halved: bool
    """Whether the addresses of the layer's weights count halves of rows
    (:attr:`hw.spec.Config.half_row`)."""
    job_rows: int
    """Number of rows of weights that a job reads, in all banks together, if all of its inputs
    spike."""


@dataclass(frozen=True, kw_only=True)
class _Geometry:
    """Shape of a layer's output, and the strides of the core's addresses along its axes."""

    height: int
    width: int
    """Height and width of the output map, after pooling."""
    column: Strides
    row: Strides
    """Strides from one position before pooling to the next (``column``: in x, ``row``: in y). Their
    ``target`` is 0, because spikes are written after pooling."""
    target_column: int
    target_row: int
    """Strides from one position after pooling to the next (``target_column``: in x, ``target_row``:
    in y), in granules (8 bits) of the map that the layer writes; 0 in an output layer."""
    group: Strides
    """Strides from one channel group to the next."""
    time: Strides
    """Strides from one timestep to the next."""
    weight_pitch: int
    """Number of rows of a bank's weight memory from the weights of one kernel row to the weights of
    the next."""
    map: Strides
    """Strides from one of the maps that the layer reads to the next. Its ``weight`` is 0 if the
    maps share their weights."""
    source_base: int
    """Address in bits, in spike memory, of the input window of the layer's first job."""
    identity_base: int
    """Address in spike memory, in granules (8 bits), of the first job's identity spikes, which the
    gate joins with the layer's own spikes."""
    target_base: int
    """Address in spike memory, in granules (8 bits), of the layer's output in the first iteration
    of the time loop. In a layer that reads pixels, nothing is written until timestep 0,
    ``n_plane_steps`` iterations later."""


def compile_layer(context: LayerContext) -> CompiledLayer:
    """Compile a layer: choose the order of its jobs, and lay out its weights and parameters.

    Returns
    -------
    The contents of the layer's descriptor, and its rows of weights and parameters. In the
    descriptor, the addresses of weights and parameters count from the layer's own first rows.

    Raises
    ------
    FitError
        The device has too few membrane slots, loop levels or iterations for the layer, or lacks the
        logic for its leak or reset; or a bias or threshold has too many bits.
    """
    layer, config = context.layer, context.config
    lacking = lacking_neurons(layer, config)
    if lacking is not None:
        raise FitError(lacking)
    weights, params = _weights_of(context), _params_of(context)
    stored = halved_rows(weights) if context.halved else weights
    geometry = _geometry(context, weights, params)
    chunks = _chunks(context, geometry)
    spacing, levels = _order_jobs(context, geometry, chunks)
    time = _time_level(context, geometry)
    shifts = (*layer.leak_shifts, 0, 0, 0)
    header = {
        "source": geometry.source_base,
        "spacing": spacing,
        "leak_shift": shifts[0],
        "leak_shift2": shifts[1],
        "leak_shift3": shifts[2],
        "job_levels": _mask(levels, "in_job"),
        "gate": layer.gate,
        "reset": layer.reset,
        "identity": geometry.identity_base,
        "target": geometry.target_base,
        "time_levels": _mask(levels, "is_time"),
        "pool_levels": _mask(levels, "is_pool"),
        "tail_levels": _mask(levels, "is_group"),
        "tail_lanes": _tail_lanes(context),
        "last_beat": context.n_beats - 1,
        "n_levels": len(levels),
        "leak": layer.leak,
        "output": int(layer.output),
        "final": int(context.final),
        "n_classes": layer.n_out if layer.output else 0,
        "pixels": int(context.pixels),
        "granule_rows": context.source.granule_rows,
        "body_bits": chunks.body_bits,
        "tail_bits": chunks.tail_bits,
        "piece_rows": chunks.piece_rows,
        "piece_weights": chunks.piece_weights,
    }
    plan = LayerPlan(
        name=layer.name,
        sources=context.sources,
        n_jobs=math.prod(level.count for level in levels if not level.in_job),
        spacing=spacing,
        n_beats=context.n_beats,
        counts=tuple(level.count for level in levels),
        source_strides=tuple(level.strides.source for level in levels),
        pieces=chunks.pieces(config),
        source_base=geometry.source_base,
        gated=layer.identity is not None,
        n_plane_steps=context.n_plane_steps,
        time_level=levels.index(time) if time in levels else 0,
        weight_rows=stored.size // config.lanes,
        param_rows=params.size // (2 * config.fire_lanes),
    )
    return CompiledLayer(
        plan=plan,
        header=header,
        levels=[
            {"last": level.count - 1} | vars(moves)
            for level, moves in zip(levels, increments(levels, context.n_direct), strict=True)
        ],
        weights=pack_rows(stored, config.weight_bits),
        params=pack_rows(params, PARAM_BITS),
        halved=context.halved,
        job_rows=layer.kernel[0] * layer.kernel[1] * len(context.source.order),
    )


def lacking_neurons(layer: Layer, config: Config) -> str | None:
    """Return a text that says why the device cannot run a layer's neurons, with a remedy; None if
    it can.
    """
    if config.full_neurons:
        return None
    remedy = "use a board with an ECP5 or Gowin device"
    if layer.finer_shifts:
        return (
            f"layer {layer.name!r}: its leak has {len(layer.leak_shifts)} shifts, those of this "
            f"device have one; {remedy}, or leaks of one shift (--nearest-leak 1 of the export, or "
            "training with finer_shifts = ())"
        )
    if layer.reset == Reset.DELAYED:
        return (
            f"layer {layer.name!r}: this device has no delayed reset; {remedy}, or another reset "
            "(training with reset = 'SOFT')"
        )
    return None


# ---- shapes and strides


def _kept(context: LayerContext) -> tuple[int, int]:
    """Return how many rows, and how many columns, of the convolution's output are pooled.

    Pooling drops the rows and columns at the end that lie in no complete window.
    """
    _, height, width = context.layer.map_shape(context.source.shape)
    pool_y, pool_x = context.layer.pool
    return height * pool_y, width * pool_x


def _weights_of(context: LayerContext) -> NDArray[np.int8]:
    """Return the weights (y, x, group, t, map, ky, run, bank, lanes) in the order of weight memory.

    :func:`sw.compile.rows.weight_rows` explains the axes. Output positions that lie in no complete
    pooling window are left out, because the core does not compute them.
    """
    layer, source = context.layer, context.source
    maps = [layer.sources.index(name) for name in context.sources]
    rows = weight_rows(
        layer, context.config, source, maps, context.lane_order, source.position_rows
    )
    if layer.output:
        return rows
    _, conv_height, conv_width = layer.conv_shape(source.shape)
    kept_y, kept_x = _kept(context)
    return rows[
        : kept_y if rows.shape[0] == conv_height else None,
        : kept_x if rows.shape[1] == conv_width else None,
    ]


def _params_of(context: LayerContext) -> NDArray[np.int16]:
    """Return the biases and thresholds (y, x, group, t, lanes, 2) in the order of parameter memory.

    :func:`sw.compile.rows.param_rows` explains the axes. Output positions in no complete pooling
    window are left out, and so are lanes that the fire unit never processes, because the layer has
    few channels.
    """
    layer, config = context.layer, context.config
    _, conv_height, conv_width = layer.conv_shape(context.source.shape)
    rows = param_rows(layer, config, context.lane_order, (conv_height, conv_width), _kept(context))
    return rows[..., : context.n_beats * config.fire_lanes, :]


def _geometry(
    context: LayerContext, weights: NDArray[np.int8], params: NDArray[np.int16]
) -> _Geometry:
    layer, config = context.layer, context.config
    source, identity, target = context.source, context.identity, context.target
    weight_y, weight_x, weight_g, weight_t, weight_map, weight_pitch, _ = row_strides(
        weights.shape[:7], 1
    )
    param_y, param_x, param_g, param_t = row_strides(params.shape[:4], context.n_beats)
    source_y, source_x = layer.stride[0] * source.row, layer.stride[1] * source.pixel
    group_granules = config.bank_lanes // GRANULE_BITS

    identity_y = identity_x = identity_t = identity_g = identity_base = 0
    if identity is not None:
        identity_y = identity.row // GRANULE_BITS
        identity_x = identity.pixel // GRANULE_BITS
        identity_t = identity.plane // GRANULE_BITS
        identity_g = group_granules
        identity_base = identity.base // GRANULE_BITS

    # An output layer writes rows of results.
    target_y, target_x, target_t, target_g, target_base = 0, 0, 0, config.fire_beats, 0
    if target is not None:
        target_y = target.row // GRANULE_BITS
        target_x = target.pixel // GRANULE_BITS
        target_t = target.plane // GRANULE_BITS
        target_g = group_granules
        # The time loop passes the bit-planes, for which nothing is written, before timestep 0.
        target_base = target.base // GRANULE_BITS - context.n_plane_steps * target_t
        target_base %= N_ADDRESS_VALUES

    pad_y, pad_x = layer.padding
    _, height, width = layer.map_shape(source.shape)
    return _Geometry(
        height=height,
        width=width,
        column=Strides(source=source_x, weight=weight_x, identity=identity_x, param=param_x),
        row=Strides(source=source_y, weight=weight_y, identity=identity_y, param=param_y),
        target_column=target_x,
        target_row=target_y,
        group=Strides(weight=weight_g, identity=identity_g, target=target_g, param=param_g),
        time=Strides(
            source=source.plane,
            weight=weight_t,
            identity=identity_t,
            target=target_t,
            param=param_t,
        ),
        weight_pitch=weight_pitch,
        map=Strides(source=context.map_pitch, weight=weight_map),
        source_base=source.base - pad_y * source.row - pad_x * source.pixel,
        identity_base=identity_base,
        target_base=target_base,
    )


def _tail_lanes(context: LayerContext) -> int:
    """Return how many lanes the last channel group uses, one for each of its output channels."""
    return context.layer.n_out - (context.n_groups - 1) * context.config.lanes


# ---- the loop nest


def _chunks(context: LayerContext, geometry: _Geometry) -> Chunks:
    source = context.source
    addresses = (
        geometry.source_base,
        geometry.row.source,
        geometry.column.source,
        geometry.map.source,
        source.row,
        source.pixel,
        source.plane,
    )
    aligned = not any(n % GRANULE_BITS for n in addresses)
    return cut_window(context.layer, source, geometry.weight_pitch, aligned, context.config)


def _time_level(context: LayerContext, geometry: _Geometry) -> Level:
    """Return the loop over timesteps.

    If the layer reads pixels, the first ``n_plane_steps`` iterations of the loop read bit-planes
    (one bit of every pixel each), and the timesteps follow. In an output layer this loop is inside
    the job, which adds up all timesteps.
    """
    output = context.layer.output
    return Level(
        count=context.n_plane_steps + context.timesteps,
        strides=geometry.time,
        in_job=output,
        is_time=not output,
    )


def _order_jobs(
    context: LayerContext, geometry: _Geometry, chunks: Chunks
) -> tuple[int, list[Level]]:
    """Choose the order of a layer's jobs; return their spacing and the levels of the loop nest.

    The spacing is the smallest number of cycles between the starts of two successive jobs in the
    fire unit. The order is the first of :func:`sw.compile.levels.interleavings` for which the core
    has enough loop levels. Levels are innermost first. Levels of one iteration are left out,
    because they move no address.

    Level 0 is the innermost loop over the chunks of a job. The chunk in this loop's last iteration
    may have fewer inputs, and the core expects such a chunk in the last iteration of level 0. So
    this loop is kept even if it has one iteration, unless the device then has too few levels.

    Raises
    ------
    FitError
        The device has too few membrane slots, loop levels or iterations.
    """
    layer, config = context.layer, context.config
    pool_y, pool_x = layer.pool
    n_children = pool_y * pool_x
    maps = Level(count=len(layer.sources), strides=geometry.map, in_job=True)
    if n_children > config.membrane_slots:
        raise FitError(
            f"layer {layer.name!r}: pooling {layer.pool} needs {n_children} membrane slots; the "
            f"device has {config.membrane_slots}"
        )
    in_window = [
        Level(count=pool_x, strides=replace(geometry.column, slot=1), is_pool=True),
        Level(count=pool_y, strides=replace(geometry.row, slot=pool_x), is_pool=True),
    ]
    column = Level(
        count=geometry.width,
        strides=replace(geometry.column * pool_x, target=geometry.target_column),
    )
    row = Level(
        count=geometry.height, strides=replace(geometry.row * pool_y, target=geometry.target_row)
    )
    group = Level(count=context.n_groups, strides=geometry.group, is_group=True)
    time = _time_level(context, geometry)
    if layer.output:  # it has no membranes to wait for
        ways = [(context.n_beats, Turns())]
    else:
        ways = interleavings(
            row.count, column.count, group.count, n_children, context.n_beats, config
        )
    for spacing, turns in ways:
        outer = interleaved(column, row, group, time, turns, n_children)
        others = [*chunks.levels[1:], maps, *in_window, *outer]
        levels = [chunks.levels[0], *(level for level in others if level.count > 1)]
        if len(levels) > N_LEVELS and chunks.levels[0].count == 1:
            del levels[0]
        if len(levels) <= N_LEVELS:
            _check_counts(context, levels)
            return spacing, levels
    remedies = ["do not share its kernel columns"]
    if n_children > 1:
        remedies.insert(0, "drop its pooling")
    if layer.addends:
        remedies.insert(0, "let it read one map, by a gate in place of a sum")
    raise FitError(
        f"layer {layer.name!r} needs more than the {N_LEVELS} loop levels of the device; "
        + " or ".join(remedies)
    )


def _check_counts(context: LayerContext, levels: list[Level]) -> None:
    """Raise :class:`FitError` if one of a layer's loops has more iterations than the device can
    count."""
    longest = max(level.count for level in levels)
    limit = 1 << context.config.count_bits
    if longest > limit:
        raise FitError(
            f"layer {context.layer.name!r} needs a loop of {longest} iterations; the device's "
            f"loops have at most {limit}"
        )


def _mask(levels: list[Level], flag: str) -> int:
    """Return a mask with one bit for each loop of a layer.

    Bit ``i`` is the field ``flag`` of the loop ``levels[i]``.
    """
    return sum(1 << i for i, level in enumerate(levels) if getattr(level, flag))
