"""Levels of the loop nest that runs a layer: trip counts, strides, and the order of its jobs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

from hw.spec import MEMBRANE_LATENCY, Config


@dataclass(frozen=True, kw_only=True)
class Strides:
    """Distances by which the addresses of a layer move along one axis.

    The units are those of :class:`hw.protocol.Level`: bits of spike memory for the source, granules
    for identity and target, rows of weight and parameter memory, membrane slots.
    """

    source: int = 0
    weight: int = 0
    identity: int = 0
    target: int = 0
    param: int = 0
    slot: int = 0

    def __mul__(self, n: int) -> Strides:
        return Strides(**{f.name: n * getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Level:
    """One loop of a layer; the flags tell which axis it runs over."""

    count: int
    """Number of iterations."""
    strides: Strides
    in_job: bool = False
    """Whether its iterations are accumulated into one job."""
    is_time: bool = False
    """Whether it runs over timesteps; membranes start from 0 at its first iteration."""
    is_pool: bool = False
    """Whether it runs over the positions of a pooling window, whose spikes are ORed."""
    is_group: bool = False
    """Whether it runs over channel groups."""


def increments(levels: Sequence[Level]) -> list[Strides]:
    """Return how far addresses move when a level advances and all inner ones restart, per level."""
    moves = []
    span = (0,) * len(fields(Strides))
    for level in levels:
        strides = astuple(level.strides)
        moves.append(
            Strides(
                **{
                    f.name: stride - passed
                    for f, stride, passed in zip(fields(Strides), strides, span, strict=True)
                }
            )
        )
        span = tuple(
            passed + (level.count - 1) * stride
            for passed, stride in zip(span, strides, strict=True)
        )
    return moves


@dataclass(frozen=True)
class Turns:
    """Numbers of neighbouring columns, rows and channel groups whose jobs take turns."""

    columns: int = 1
    rows: int = 1
    groups: int = 1


def interleavings(
    height: int, width: int, groups: int, n_children: int, n_beats: int, config: Config
) -> list[tuple[int, Turns]]:
    """Return (spacing of jobs in cycles, turns) of every interleaving, the best one first.

    A neuron's next timestep must not begin before its membrane from the previous one is written.
    Jobs of other neurons fill the time; each needs a membrane slot.

    Parameters
    ----------
    height, width, groups : positions and channel groups of the layer.
    n_children : positions of a pooling window, which are always computed one after another.
    n_beats : cycles that a job takes in the fire unit.
    """
    ways = []
    for turns in itertools.product(_divisors(width), _divisors(height), _divisors(groups)):
        slots = math.prod(turns) * n_children
        if slots <= config.membrane_slots:
            spacing = max(n_beats, -(-MEMBRANE_LATENCY // slots))
            n_levels = sum(n > 1 for n in turns)
            ways.append((spacing, n_levels, slots, turns))
    return [(spacing, Turns(*turns)) for spacing, _, _, turns in sorted(ways)]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def interleaved(
    column: Level, row: Level, group: Level, time: Level, turns: Turns, n_children: int
) -> list[Level]:
    """Return the levels outside a pooling window, innermost first: the positions and groups that
    take turns, the timesteps, and the remaining groups, columns and rows.

    Parameters
    ----------
    column, row, group : loops over all output columns, rows and channel groups.
    time : the loop over timesteps.
    """

    def in_turns(level: Level, n: int, slot: int) -> Level:
        return replace(level, count=n, strides=replace(level.strides, slot=slot))

    def remaining(level: Level, n: int) -> Level:
        return replace(level, count=level.count // n, strides=level.strides * n)

    return [
        in_turns(column, turns.columns, n_children),
        in_turns(row, turns.rows, n_children * turns.columns),
        in_turns(group, turns.groups, n_children * turns.columns * turns.rows),
        time,
        remaining(group, turns.groups),
        remaining(column, turns.columns),
        remaining(row, turns.rows),
    ]
