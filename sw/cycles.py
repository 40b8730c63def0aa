"""How many cycles a program takes on given spikes, without running it. NumPy only.

Three stages work side by side. The fetch unit reads a chunk per cycle, and an identity per job of a
gated layer; the scanner takes a cycle per active input; the fire unit begins jobs in order, at
least ``spacing`` cycles apart, and not before their sums are there. A job whose sums must wait for
the fire unit holds the scanner up; the fetch unit waits while the queues are full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hw.protocol import HEADER_WORDS, LEVEL_WORDS
from hw.spec import MEMBRANE_LATENCY, N_PLANES
from sw.compiler import LayerPlan, Placement, Program

PIPELINE_CYCLES = 30
"""Cycles of a layer that are neither a job's nor a descriptor's word: to fill and to drain."""
SCAN_CYCLES = 7
"""From a chunk's arrival at the scanner to its sums' at the fire unit, beyond its active inputs."""
SUM_QUEUE_CYCLES = 3
"""More, if there is a queue in between; two of its places are only on the way."""
CHUNK_QUEUE = 24
"""Active chunks between fetch unit and scanner when the fetch unit stops, on average: at least
those that fill the queue to its mark, at most those under way then as well."""
JOB_QUEUE = 60
"""The same for jobs between fetch unit and the end of the fire unit."""
JOB_CYCLES = 12 + MEMBRANE_LATENCY + 2
"""From a job's arrival in that queue until it has left, beyond its wait for the fire unit and its
beats."""


def active_inputs(
    plan: LayerPlan, source: Placement, spikes: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Active inputs of every chunk (n_jobs, n_chunks), in the order in which the core reads them.

    ``spikes`` is the source map (T, C, H, W), or the image's bit-planes.
    """
    bits = np.unpackbits(np.frombuffer(source.pack(spikes), np.uint8), bitorder="little")
    before = np.concatenate([[0], np.cumsum(bits, dtype=np.int64)])
    starts = np.array([plan.source_base - source.start])
    for count, stride in zip(plan.counts[:0:-1], plan.source_strides[:0:-1], strict=True):
        starts = (starts[:, None] + np.arange(count) * stride).reshape(-1)
    n_chunks = plan.counts[0]
    starts = starts[:, None] + np.arange(n_chunks) * plan.source_strides[0]
    counts = np.zeros(starts.shape, np.int64)
    for offset, body, tail in plan.pieces:
        valid = np.full(n_chunks, body)
        valid[-1] = tail
        begins = np.minimum(starts + offset, len(bits))
        counts += before[np.minimum(begins + valid, len(bits))] - before[begins]
    if plan.pixels:  # the timesteps that follow the bit-planes have no input of their own
        by_level = np.moveaxis(counts.reshape(plan.counts[::-1]), -1 - plan.time_level, 0)
        by_level[N_PLANES:] = 0
    return counts.reshape(plan.n_jobs, -1)


def layer_cycles(plan: LayerPlan, active: NDArray[np.int64], sum_queue: int) -> int:
    """Cycles of a layer whose chunks have ``active`` inputs (n_jobs, n_chunks), with room for
    ``sum_queue`` jobs' sums between lanes and fire unit."""
    fetched, served, fired = 0, 0, -plan.spacing
    scan = SCAN_CYCLES + (SUM_QUEUE_CYCLES if sum_queue else 0)
    sum_queue = max(sum_queue - 2, 0)
    begins: list[int] = []  # when each active chunk left its queue
    fires: list[int] = []  # when each job began in the fire unit
    taken: list[int] = []  # the same, of those that had sums
    for job in active.tolist():
        if len(fires) >= JOB_QUEUE:
            fetched = max(fetched, fires[-JOB_QUEUE] + plan.n_beats + JOB_CYCLES)
        held = 0  # active inputs of a chunk that waits for the next active one, or the job's end
        for n_active in job:
            fetched += 1
            if n_active:
                if len(begins) >= CHUNK_QUEUE:
                    fetched = max(fetched, begins[-CHUNK_QUEUE])
                if held:
                    begins.append(max(served, fetched))
                    served = begins[-1] + held
                held = n_active
        if held:
            begins.append(max(served, fetched))
            served = begins[-1] + held
        fetched += plan.gated
        if not held:
            fired = max(fetched, fired + plan.spacing)
        else:
            fired = max(served + scan, fired + plan.spacing)
            taken.append(fired)
            if len(taken) > sum_queue:  # the lanes hold the sums until there is room
                served = max(served, taken[-1 - sum_queue] - scan)
        fires.append(fired)
    words = HEADER_WORDS + LEVEL_WORDS * len(plan.counts)
    return max(fired, fetched) + words + PIPELINE_CYCLES + plan.n_beats


def predict_cycles(program: Program, maps: dict[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Cycles per layer, given every map's spikes (T, C, H, W), the host's included."""
    cycles = {}
    for plan in program.layers:
        active = active_inputs(plan, program.placements[plan.source], maps[plan.source])
        cycles[plan.name] = layer_cycles(plan, active, program.config.sum_queue)
    return cycles
