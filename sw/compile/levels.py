"""Levels of the loop nest that runs a layer: trip counts, strides, and the order of its jobs.

A *level* is one of the nested loops by which the core computes a layer. Each iteration moves the
addresses of the core's memories by the level's strides. A *channel group* is ``Config.lanes``
output channels, which the core computes side by side. A *job* is the computation of one output
position of one channel group at one timestep.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

from hw.spec import Config


@dataclass(frozen=True, kw_only=True)
class Strides:
    """Distances by which the core's addresses move in one iteration of a loop, one per address.

    ``source`` (the map that the layer reads) is in bits of a bank's spike memory. ``identity`` (the
    map that its gate joins with the layer's own spikes) and ``target`` (the map that it writes) are
    in granules of 8 bits. An output layer writes logits instead: its ``target`` is in rows of
    :attr:`hw.protocol.Space.RESULT`. ``weight`` is in rows of a bank's weight memory, ``param`` in
    rows of parameter memory. ``slot`` counts membrane slots, each of which keeps the membranes of
    one job's neurons until their next timestep.
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
    """One loop of the nest that runs a layer; the flags tell over which axis it runs."""

    count: int
    """Number of iterations."""
    strides: Strides
    in_job: bool = False
    """Whether all iterations are part of the same job, which accumulates their inputs."""
    is_time: bool = False
    """Whether the level runs over timesteps; membranes start from 0 at its first iteration."""
    is_pool: bool = False
    """Whether the level runs over the positions of a pooling window, whose spikes are ORed."""
    is_group: bool = False
    """Whether the level runs over channel groups."""


def increments(levels: Sequence[Level], n_direct: int = 0) -> list[Strides]:
    """Return, for each loop of a nest, how far it moves every address when it advances.

    When a loop advances by one iteration, all loops inside it go back to their first iteration. So
    an address moves by the loop's own stride, less the distance by which the inner loops have moved
    it from their first to their last iteration. For example, if a loop of 3 iterations with a
    stride of 8 lies in one with a stride of 100, the outer one moves the address by
    ``100 - 2 * 8 = 84``.

    Parameters
    ----------
    levels : the loops of the nest, innermost first.
    n_direct : number of timesteps whose jobs go directly to the fire unit
        (:attr:`hw.spec.Config.direct_timesteps`). They come last in the loop over timesteps. The
        loops inside such a job do not advance, so that its addresses, which nobody uses, fall
        behind by the distance of these loops. The loops around that over timesteps make up for it.

    Returns
    -------
    For each loop, innermost first, one distance per address, which may be negative.
    """
    names = [field.name for field in fields(Strides)]
    moves = []
    span = behind = (0,) * len(names)
    job_span, n_jobs, in_time = span, 1, True
    for level in levels:
        if level.is_time:
            behind = tuple(n_direct * n_jobs * distance for distance in job_span)
        strides = astuple(level.strides)
        lost = span if in_time else tuple(s - b for s, b in zip(span, behind, strict=True))
        moves.append(
            Strides(**{n: s - passed for n, s, passed in zip(names, strides, lost, strict=True)})
        )
        span = tuple(
            passed + (level.count - 1) * stride
            for passed, stride in zip(span, strides, strict=True)
        )
        if level.in_job:
            job_span = span
        else:
            n_jobs *= level.count
        in_time = in_time and not level.is_time
    return moves


@dataclass(frozen=True)
class Turns:
    """Numbers of neighbouring output columns, rows and channel groups whose jobs are interleaved.

    All their jobs of one timestep are computed before the first job of the next timestep. A channel
    group is ``Config.lanes`` output channels; a job is one position of one group at one timestep.
    """

    columns: int = 1
    rows: int = 1
    groups: int = 1


def interleavings(
    height: int, width: int, groups: int, n_children: int, n_beats: int, config: Config
) -> list[tuple[int, Turns]]:
    """Return every possible interleaving of a layer's jobs as (spacing, turns), the best first.

    A neuron's next timestep must not begin before the core has written the neuron's new membrane.
    The jobs of other neurons fill this time; ``turns`` says which (:class:`Turns`). Each of these
    jobs needs a membrane slot, which keeps the membranes of its neurons until their next timestep.
    The spacing is the smallest number of cycles between the starts of two successive jobs in the
    fire unit, which updates the neurons.

    The best interleaving has the smallest spacing; among equals, the fewest loop levels, and then
    the fewest slots. The list is empty if the pooling window alone needs more slots than the device
    has.

    Parameters
    ----------
    height, width, groups : numbers of rows and columns of the layer's output after pooling, and of
        its channel groups.
    n_children : number of positions of a pooling window, which are always computed one after
        another.
    n_beats : number of cycles that a job takes in the fire unit.
    """
    ways = []
    for turns in itertools.product(_divisors(width), _divisors(height), _divisors(groups)):
        slots = math.prod(turns) * n_children
        if slots <= config.membrane_slots:
            spacing = max(n_beats, -(-config.membrane_latency // slots))
            n_levels = sum(n > 1 for n in turns)
            ways.append((spacing, n_levels, slots, turns))
    return [(spacing, Turns(*turns)) for spacing, _, _, turns in sorted(ways)]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def interleaved(
    column: Level, row: Level, group: Level, time: Level, turns: Turns, n_children: int
) -> list[Level]:
    """Return the outer levels of a layer's loop nest, innermost first, with interleaved jobs.

    They lie around the loops over the positions of a pooling window. The innermost three run over
    the interleaved columns, rows and channel groups. Around them is the loop over timesteps. The
    outermost three run over the remaining groups, columns and rows. A level may have a single
    iteration.

    Parameters
    ----------
    column, row, group : loops over all output columns, rows and channel groups.
    time : the loop over timesteps.
    turns : numbers of columns, rows and groups whose jobs are interleaved.
    n_children : number of positions of a pooling window, each of which needs a membrane slot.
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
