"""The loop nest of a layer: chunks of its input, interleaving of jobs, strides."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hw.protocol import (
    N_PIECES,
)
from hw.spec import (
    GRANULE_BITS,
    MEMBRANE_LATENCY,
    N_LEVELS,
    N_PLANES,
    PARAM_BITS,
    PIECE_BITS,
    Config,
)
from sw.compile.placement import rows_per_chunk
from sw.compile.program import FitError, Part, Placement
from sw.compile.rows import pack_rows, row_strides, rows_of_params, rows_of_weights
from sw.network.network import Layer


def _increments(counts: Iterable[int], strides: Iterable[int]) -> list[int]:
    """By how much an address moves when each level advances and all inner ones start again."""
    moves, span = [], 0
    for count, stride in zip(counts, strides, strict=True):
        moves.append(stride - span)
        span += (count - 1) * stride
    return moves


@dataclass
class _Level:
    """A loop of a layer: its trip count and every stride."""

    count: int
    source: int = 0
    weight: int = 0
    identity: int = 0
    target: int = 0
    param: int = 0
    slot: int = 0
    in_job: bool = False
    is_time: bool = False
    is_pool: bool = False
    is_group: bool = False


def _interleavings(
    height: int, width: int, groups: int, n_children: int, n_beats: int, config: Config
) -> list[tuple[int, tuple[int, int, int]]]:
    """Ways to take turns between neighbouring columns, rows and channel groups, so that no job
    waits for its own membrane: (spacing of jobs, how many of each), the best ones first."""

    def divisors(n: int) -> list[int]:
        return [d for d in range(1, n + 1) if n % d == 0]

    ways = []
    for turns in itertools.product(divisors(width), divisors(height), divisors(groups)):
        slots = int(np.prod(turns)) * n_children
        if slots <= config.membrane_slots:
            spacing = max(n_beats, -(-MEMBRANE_LATENCY // slots))
            ways.append((spacing, sum(n > 1 for n in turns), slots, turns))
    return [(spacing, turns) for spacing, _, _, turns in sorted(ways)]


@dataclass(frozen=True)
class _Chunks:
    """How the bits of a job are cut into chunks: ``levels``, and per piece of a chunk the fields of
    :class:`hw.protocol.Header`."""

    levels: tuple[_Level, ...]
    body_bits: tuple[int, ...]
    tail_bits: tuple[int, ...]
    piece_rows: tuple[int, ...]
    piece_weights: tuple[int, ...]

    def pieces(self, config: Config) -> tuple[tuple[int, int, int], ...]:
        """As in :class:`LayerPlan`."""
        return tuple(
            (k * PIECE_BITS + self.piece_rows[k] * config.chunk_bits, body, tail)
            for k, (body, tail) in enumerate(zip(self.body_bits, self.tail_bits, strict=True))
            if body or tail
        )


def _cut(
    layer: Layer, source: Placement, run: int, wky: int, aligned: bool, config: Config
) -> _Chunks:
    """Cut a kernel's rows of ``run`` bits, whose weights are ``wky`` rows apart, into chunks.

    ``aligned``: every run begins with a granule; else a window lacks its last bits.
    """
    kernel_y, kernel_x = layer.kernel
    merged_x = layer.weight.shape[6] == kernel_x  # a kernel row is one run
    n_pieces = config.chunk_bits // PIECE_BITS
    missing = 0 if aligned else GRANULE_BITS

    row_bytes_, rest = divmod(source.row, GRANULE_BITS)
    n_rows = 0 if rest or not merged_x else rows_per_chunk(row_bytes_, kernel_y, config)
    offsets = [r * source.row // PIECE_BITS for r in range(n_rows)]
    if (
        n_rows > 1
        and run <= PIECE_BITS - max(missing - 1, 0)
        and max((n_rows - 1) * wky, *(o // n_pieces for o in offsets)) < 1 << GRANULE_BITS
    ):
        n_chunks = -(-kernel_y // n_rows)
        n_tail = kernel_y - (n_chunks - 1) * n_rows
        fields = np.zeros((4, N_PIECES), int)
        for r, offset in enumerate(offsets):
            fields[:, offset % n_pieces] = run, run * (r < n_tail), offset // n_pieces, r * wky
        level = _Level(n_chunks, source=n_rows * source.row, weight=n_rows * wky, in_job=True)
        return _Chunks((level,), *(tuple(int(v) for v in row) for row in fields))

    if merged_x and source.row == run == wky:  # kernel rows follow each other, weights as well
        run, kernel_y = run * kernel_y, 1
    step = config.chunk_bits - missing
    n_chunks = -(-run // step)
    starts = [k * PIECE_BITS for k in range(n_pieces)]
    none = (0,) * (N_PIECES - n_pieces)

    def valid(n_bits: int) -> tuple[int, ...]:
        return tuple(min(max(n_bits - start, 0), PIECE_BITS) for start in starts) + none

    levels = [_Level(n_chunks, source=step, weight=step, in_job=True)]
    if not merged_x:
        levels.append(_Level(kernel_x, source=source.pixel, in_job=True))
    levels.append(_Level(kernel_y, source=source.row, weight=wky, in_job=True))
    return _Chunks(
        tuple(levels),
        valid(step),
        valid(run - (n_chunks - 1) * step),
        (0,) * N_PIECES,
        tuple(starts) + none,
    )


def compile_part(
    layer: Layer,
    timesteps: int,
    placements: dict[str, Placement],
    config: Config,
    rows: slice,
    part: slice,
    weight_base: int,
    param_base: int,
    final: bool,
    pixels: bool,
) -> tuple[Part, dict[str, Any], list[dict[str, int]], bytes, bytes]:
    """Output ``rows`` of the channel groups ``part``: how they run, header and levels of the
    descriptor, and its rows of weights and of parameters."""
    source = placements[layer.source]
    _, conv_height, conv_width = layer.conv_shape(source.shape)
    _, height, width = layer.map_shape(source.shape)
    pool_y, pool_x = layer.pool
    groups = -(-layer.n_out // config.lanes)
    tail_lanes = layer.n_out - (groups - 1) * config.lanes
    n_beats = config.fire_beats if groups > 1 else -(-layer.n_out // config.fire_lanes)

    weight_rows = rows_of_weights(layer, config, source.pixel)
    if not layer.output:  # rows and columns that pooling drops have no weights
        kept_y, kept_x = height * pool_y, width * pool_x
        weight_rows = weight_rows[
            : kept_y if weight_rows.shape[0] == conv_height else None,
            : kept_x if weight_rows.shape[1] == conv_width else None,
        ]
    conv_rows = slice(rows.start * pool_y, rows.stop * pool_y)
    weight_rows = weight_rows[
        conv_rows if weight_rows.shape[0] > 1 else slice(None),
        :,
        part,
    ]
    run = weight_rows.shape[5]
    wy, wx, wg, wt, wky, _ = row_strides(weight_rows.shape[:6], 1)
    param_rows = rows_of_params(
        layer, config, (conv_height, conv_width), (height * pool_y, width * pool_x)
    )[..., : n_beats * config.fire_lanes, :]
    param_rows = param_rows[conv_rows if param_rows.shape[0] > 1 else slice(None), :, part]
    py, px, pg, pt = row_strides(param_rows.shape[:4], n_beats)

    # A position's stride in source, weight and param; and where its spikes come from and go to.
    sy, sx = layer.stride[0] * source.row, layer.stride[1] * source.pixel
    g = GRANULE_BITS
    identity = placements[layer.identity] if layer.identity else None
    iy, ix, it, ig = (0, 0, 0, 0)
    if identity is not None:
        iy, ix, it = identity.row // g, identity.pixel // g, identity.plane // g
        ig = config.lanes // g
    target = placements.get(layer.name)
    n_planes = N_PLANES if pixels else 0
    if target is not None:
        ty, tx, tt, tg = target.row // g, target.pixel // g, target.plane // g, config.lanes // g
        target_base = (target.base // g - n_planes * tt) & 0xFFFF  # bit-planes write nothing
    else:
        ty, tx, tt, tg = 0, 0, 0, config.fire_beats
        target_base = 0

    # This part of it.
    height = rows.stop - rows.start
    target_base += rows.start * ty + part.start * tg
    identity_base = 0
    if identity is not None:
        identity_base = identity.base // g + conv_rows.start * iy + part.start * ig
    if part.stop < groups:
        tail_lanes = config.lanes
    groups = part.stop - part.start

    pad_y, pad_x = layer.padding
    source_base = source.base - pad_y * source.row - pad_x * source.pixel
    source_base += conv_rows.start * sy
    aligned = not any(n % g for n in (source_base, sy, sx, source.row, source.pixel, source.plane))
    chunks = _cut(layer, source, run, wky, aligned, config)
    time = _Level(
        n_planes + timesteps,
        source=source.plane,
        weight=wt,
        identity=it,
        target=tt,
        param=pt,
        in_job=layer.output,
        is_time=not layer.output,
    )
    n_children = pool_y * pool_x
    if n_children > config.membrane_slots:
        raise FitError(
            f"layer {layer.name!r}: pooling {layer.pool} needs {n_children} membrane slots of "
            f"{config.membrane_slots}"
        )
    inner = [
        *chunks.levels[1:],
        _Level(pool_x, sx, wx, ix, 0, px, slot=1, is_pool=True),
        _Level(pool_y, sy, wy, iy, 0, py, slot=pool_x, is_pool=True),
    ]

    def outer(turns_x: int, turns_y: int, turns_group: int) -> list[_Level]:
        def across(count: int, step: int, slot: int = 0) -> _Level:
            """``count`` columns, ``step`` columns apart."""
            n = step * pool_x
            return _Level(count, n * sx, n * wx, n * ix, step * tx, n * px, slot)

        def down(count: int, step: int, slot: int = 0) -> _Level:
            """``count`` rows, ``step`` rows apart."""
            n = step * pool_y
            return _Level(count, n * sy, n * wy, n * iy, step * ty, n * py, slot)

        def group(count: int, step: int, slot: int = 0) -> _Level:
            """``count`` channel groups, ``step`` groups apart."""
            n = step
            return _Level(count, 0, n * wg, n * ig, n * tg, n * pg, slot, is_group=True)

        return [
            across(turns_x, 1, n_children),
            down(turns_y, 1, n_children * turns_x),
            group(turns_group, 1, n_children * turns_x * turns_y),
            time,
            group(groups // turns_group, turns_group),
            across(width // turns_x, turns_x),
            down(height // turns_y, turns_y),
        ]

    if layer.output:  # has no membranes
        ways = [(n_beats, (1, 1, 1))]
    else:
        ways = _interleavings(height, width, groups, n_children, n_beats, config)
    spacing, nest = 0, []
    for spacing, turns in ways:
        spacing = max(spacing, config.cores)  # so that their spikes can be written in turns
        nest = [
            chunks.levels[0],
            *(level for level in inner + outer(*turns) if level.count > 1),
        ]
        if len(nest) <= N_LEVELS:
            break
    else:
        raise FitError(
            f"layer {layer.name!r} needs more than the {N_LEVELS} loop levels of the core; drop "
            "its pooling or do not share its kernel columns"
        )

    def mask(attribute: str) -> int:
        return sum(1 << i for i, level in enumerate(nest) if getattr(level, attribute))

    counts = [level.count for level in nest]
    if max(counts) > 1 << config.count_bits:
        raise FitError(
            f"layer {layer.name!r} needs a loop of {max(counts)} iterations; the core's have at "
            f"most {1 << config.count_bits}"
        )
    moves = {
        name: _increments(counts, [getattr(level, name) for level in nest])
        for name in ("source", "weight", "identity", "target", "param", "slot")
    }
    header = {
        "source": source_base,
        "spacing": spacing,
        "leak_shift": layer.leak_shift,
        "weight": weight_base,
        "job_levels": mask("in_job"),
        "gate": layer.gate,
        "reset": layer.reset,
        "identity": identity_base,
        "target": target_base,
        "param": param_base,
        "time_levels": mask("is_time"),
        "pool_levels": mask("is_pool"),
        "tail_levels": mask("is_group"),
        "tail_lanes": tail_lanes,
        "last_beat": n_beats - 1,
        "n_levels": len(nest),
        "leak": layer.leak,
        "output": int(layer.output),
        "final": int(final),
        "n_classes": layer.n_out if layer.output else 0,
        "pixels": int(pixels),
        "body_bits": chunks.body_bits,
        "tail_bits": chunks.tail_bits,
        "piece_rows": chunks.piece_rows,
        "piece_weights": chunks.piece_weights,
    }
    levels_of = [
        {"last": level.count - 1} | {name: move[i] for name, move in moves.items()}
        for i, level in enumerate(nest)
    ]
    plan = Part(
        n_jobs=int(np.prod([level.count for level in nest if not level.in_job])),
        spacing=spacing,
        n_beats=n_beats,
        counts=tuple(counts),
        source_strides=tuple(level.source for level in nest),
        pieces=chunks.pieces(config),
        source_base=source_base,
        gated=identity is not None,
        pixels=pixels,
        time_level=nest.index(time) if time in nest else 0,
        weight_rows=weight_rows.size // config.lanes,
        param_rows=param_rows.size // (2 * config.fire_lanes),
    )
    return (
        plan,
        header,
        levels_of,
        pack_rows(weight_rows, config.weight_bits),
        pack_rows(param_rows, PARAM_BITS),
    )
