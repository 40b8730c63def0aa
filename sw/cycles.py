"""How many cycles a program takes on given spikes, without running it. NumPy only.

The scanner is a queue with a server. A chunk arrives when the fetch unit, at one slot per cycle,
has read it, and takes one cycle per active input; a job that would end less than ``spacing``
cycles after the one before is stretched. The fetch unit waits while the queue is full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sw.compiler import LayerPlan, Placement, Program

LAYER_OVERHEAD = 73
"""Cycles of a layer that are not the scanner's: 44 to load the descriptor, the rest to fill and
drain the pipeline. The last job's beats in the fire unit come on top."""
QUEUE_DEPTH = 24
"""Active chunks between fetch unit and scanner when the fetch unit stops, on average: at least
those that fill the queue to its mark, at most those that were under way then as well."""


def active_inputs(
    plan: LayerPlan, source: Placement, spikes: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Active inputs of every chunk (n_jobs, n_chunks), in the order in which the core reads them.

    ``spikes`` is the source map (T, C, H, W).
    """
    bits = np.unpackbits(np.frombuffer(source.pack(spikes), np.uint8), bitorder="little")
    before = np.concatenate([[0], np.cumsum(bits, dtype=np.int64)])
    starts = np.array([plan.source_base - source.start])
    for count, stride in zip(plan.counts[:0:-1], plan.source_strides[:0:-1], strict=True):
        starts = (starts[:, None] + np.arange(count) * stride).reshape(-1)
    offsets = np.arange(plan.counts[0]) * plan.source_strides[0]
    ends = np.minimum(offsets + plan.source_strides[0], plan.run_bits)
    last = len(bits)
    counts = (
        before[np.minimum(starts[:, None] + ends, last)]
        - before[np.minimum(starts[:, None] + offsets, last)]
    )
    return counts.reshape(plan.n_jobs, -1)


def layer_cycles(plan: LayerPlan, active: NDArray[np.int64]) -> int:
    """Cycles of a layer whose chunks have ``active`` inputs (n_jobs, n_chunks)."""
    needed = active.copy()
    needed[:, -1] += np.maximum(plan.spacing - active.sum(axis=1), 0)
    fetched, served = 0, 0
    begins: list[int] = []  # when each chunk that takes time left the queue
    for job in needed.tolist():
        for n_cycles in job:
            fetched += 1
            if n_cycles:
                if len(begins) >= QUEUE_DEPTH:
                    fetched = max(fetched, begins[-QUEUE_DEPTH])
                begins.append(max(served, fetched))
                served = begins[-1] + n_cycles
        fetched += plan.gated
    return max(served, fetched) + LAYER_OVERHEAD + plan.fire_beats


def predict_cycles(program: Program, maps: dict[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Cycles per layer, given every map's spikes (T, C, H, W)."""
    return {
        plan.name: layer_cycles(
            plan, active_inputs(plan, program.placements[plan.source], maps[plan.source])
        )
        for plan in program.layers
    }
