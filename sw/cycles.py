"""How many cycles a program takes on given spikes, without running it. NumPy only.

The scanner is a queue with a server: job ``k`` needs ``max(1, active inputs)`` cycles, ends at
least ``spacing`` cycles after the one before, and cannot end before its last chunk has been
fetched, one slot per cycle. The largest of these chains of constraints is the layer's time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sw.compiler import LayerPlan, Placement, Program

LAYER_OVERHEAD = 64
"""Cycles of a layer that are not the scanner's: 41 to load the descriptor, the rest to fill and
drain the pipeline."""


def active_inputs(
    plan: LayerPlan, source: Placement, spikes: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Active inputs of every job (n_jobs,), in the order in which the core runs them.

    ``spikes`` is the source map (T, C, H, W).
    """
    bits = np.unpackbits(np.frombuffer(source.pack(spikes), np.uint8), bitorder="little")
    before = np.concatenate([[0], np.cumsum(bits, dtype=np.int64)])
    starts = np.array([plan.source_base - source.start])
    for count, stride in zip(plan.counts[:0:-1], plan.source_strides[:0:-1], strict=True):
        starts = (starts[:, None] + np.arange(count) * stride).reshape(-1)
    ends = np.minimum(starts + plan.chunk_run, len(bits))
    n_runs = int(np.prod(plan.counts[1 : plan.job_levels]))
    return (before[ends] - before[starts]).reshape(-1, n_runs).sum(axis=1)


def layer_cycles(plan: LayerPlan, active: NDArray[np.int64]) -> int:
    """Cycles of a layer whose jobs have ``active`` inputs (n_jobs,)."""
    needed = np.maximum(active, plan.spacing)
    served = np.cumsum(needed)
    slots_per_job = int(np.prod(plan.counts[: plan.job_levels])) + plan.gated
    fetched = slots_per_job * np.arange(1, len(active) + 1)
    # end[k] = max over j <= k of fetched[j] + needed[j] + ... + needed[k]
    waited = np.maximum.accumulate(fetched - (served - needed))
    return int(np.maximum(waited[-1], 0) + served[-1]) + LAYER_OVERHEAD


def predict_cycles(program: Program, maps: dict[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Cycles per layer, given every map's spikes (T, C, H, W)."""
    return {
        plan.name: layer_cycles(
            plan, active_inputs(plan, program.placements[plan.source], maps[plan.source])
        )
        for plan in program.layers
    }
