"""Prediction of the exact number of cycles that a program takes on given spikes. NumPy only.

It equals what the device's counters show. The pipeline of :mod:`hw.core` is followed chunk by chunk
and job by job:

- The fetch unit uses a slot for each chunk, and in a gated layer one for each job's identity
  spikes, while its queues have room.
- The scanner takes a cycle per active input. With a queue of sums it waits while the queue has no
  place for another job's; without, scanner and lanes stall while a job's sums wait.
- The fire unit begins jobs in order, at least ``spacing`` cycles apart, once their sums are
  available.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from hw.protocol import HEADER_WORDS, LEVEL_WORDS
from hw.spec import (
    CHUNK_ROOM,
    FETCH_LATENCY,
    JOB_ROOM,
    LANES_LATENCY,
    LAYER_CYCLES,
    MEMBRANE_LATENCY,
    QUEUE_LATENCY,
    ROOM_LATENCY,
    SUMS_IN_FLIGHT,
    Config,
)
from sw.compile.program import LayerPlan, Placement, Program

NEVER = -(1 << 60)
"""Cycle before all others, of an event that has not taken place."""


def active_inputs(
    plan: LayerPlan, source: Placement, spikes: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Count the active inputs of every chunk, in the order in which the banks read them.

    Parameters
    ----------
    spikes : source map (T, C, H, W), or the image's bit-planes.

    Returns
    -------
    int64 array (banks, n_jobs, n_chunks).
    """
    bits = source.bank_bits(spikes)
    before = np.pad(np.cumsum(bits, axis=1, dtype=np.int64), ((0, 0), (1, 0)))
    n_bits = bits.shape[1]
    starts = np.array([plan.source_base - source.start])
    for count, stride in zip(plan.counts[:0:-1], plan.source_strides[:0:-1], strict=True):
        starts = (starts[:, None] + np.arange(count) * stride).reshape(-1)
    n_chunks = plan.counts[0]
    starts = starts[:, None] + np.arange(n_chunks) * plan.source_strides[0]
    counts = np.zeros((source.banks, *starts.shape), np.int64)
    for offset, body, tail in plan.pieces:
        valid = np.full(n_chunks, body)
        valid[-1] = tail
        begins = np.minimum(starts + offset, n_bits)
        counts += before[:, np.minimum(begins + valid, n_bits)] - before[:, begins]
    if plan.n_plane_steps:  # the timesteps after the bit-planes read no input
        by_level = counts.reshape(source.banks, *plan.counts[::-1])
        np.moveaxis(by_level, -1 - plan.time_level, 0)[plan.n_plane_steps :] = 0
    return counts.reshape(source.banks, plan.n_jobs, -1)


class _Queue:
    """Cycles in which entries came to a queue and left it.

    Calls of :meth:`ready` must be in the order of time.
    """

    def __init__(self, room: int):
        self.room = room
        self.came: list[int] = []
        self.went: list[int] = []
        self._n_came = self._n_went = 0

    def ready(self, cycle: int) -> int:
        """Return the first cycle, ``cycle`` or later, at whose end at most ``room`` of the entries
        that are known so far are queued."""
        while True:
            while self._n_came < len(self.came) and self.came[self._n_came] <= cycle:
                self._n_came += 1
            while self._n_went < len(self.went) and self.went[self._n_went] <= cycle:
                self._n_went += 1
            if self._n_came - self._n_went <= self.room:
                return cycle
            cycle = self.went[self._n_went]


class _Moves:
    """Conversion between cycles and moves of scanner and lanes.

    Without a queue of sums, scanner and lanes stall while sums wait; a *move* is a cycle in which
    they do not stall. Calls must be in the order of time.
    """

    def __init__(self) -> None:
        self._passed = 0
        self._waits: deque[tuple[int, int]] = deque()

    def wait(self, move: int, n_cycles: int) -> None:
        """Note a stall of ``n_cycles`` before ``move``."""
        self._waits.append((move, n_cycles))

    def cycle(self, move: int) -> int:
        """Return the cycle in which ``move`` takes place."""
        return move + self._passed + sum(n for first, n in self._waits if first <= move)

    def since(self, cycle: int) -> int:
        """Return the last move that takes place up to ``cycle``."""
        move = cycle - self._passed
        for first, n_cycles in self._waits:
            if move < first:
                break
            move = max(first - 1, move - n_cycles)
        return move

    def forget(self, move: int) -> None:
        """Drop stalls before ``move``, about which no more calls follow."""
        while self._waits and self._waits[0][0] <= move:
            self._passed += self._waits.popleft()[1]


def layer_cycles(plan: LayerPlan, active: NDArray[np.int64], config: Config) -> int:
    """Return the number of cycles that a layer takes on a device with a single bank.

    Parameters
    ----------
    active : number of active inputs of every chunk (n_jobs, n_chunks).
    """
    slot = -1
    queues = chunks, jobs = _Queue(CHUNK_ROOM), _Queue(JOB_ROOM)
    moves, sums = _Moves(), _Queue(config.sum_queue - SUMS_IN_FLIGHT)
    scanned = NEVER  # the move of the last active input so far
    began = NEVER  # the cycle in which the fire unit began its last job so far

    def take(n_active: int, queued: int) -> None:
        """Let the scanner process a chunk that entered its queue in cycle ``queued``."""
        nonlocal scanned
        available = queued + QUEUE_LATENCY
        if chunks.went:
            available = max(available, chunks.went[-1] + 1)
        begins = max(scanned, moves.since(available))
        chunks.came.append(queued)
        chunks.went.append(max(available, moves.cycle(scanned)))
        moves.forget(begins)
        scanned = begins
        if config.sum_queue:
            for n_left in range(n_active, 0, -1):
                scanned = sums.ready(scanned + 1)
                if not sums.came or scanned >= sums.came[-1]:  # no later change of the queue
                    scanned += n_left - 1
                    break
        else:
            scanned += n_active

    for job in active.tolist():
        held = 0  # active inputs of the chunk that is held until the next one, or the job's end
        for n_active in job:
            slot += 1
            while True:
                ready = max(queue.ready(slot - ROOM_LATENCY) for queue in queues) + ROOM_LATENCY
                if ready == slot:
                    break
                slot = ready
            if n_active:
                if held:
                    take(held, slot + FETCH_LATENCY)
                held = n_active
        known = slot + FETCH_LATENCY
        jobs.came.append(known)
        slot += plan.gated
        begins = max(began + plan.spacing, known + QUEUE_LATENCY)
        if held:
            take(held, known + 1)
            arrives = scanned + LANES_LATENCY
            summed = moves.cycle(arrives - 1) + 1
            begins = max(begins, summed)
            if config.sum_queue:
                sums.came.append(scanned + SUMS_IN_FLIGHT)
                sums.went.append(begins + plan.n_beats + 1)
            elif begins > summed:
                moves.wait(arrives, begins - summed)
        began = begins
        jobs.went.append(began + plan.n_beats - 1)
    n_words = HEADER_WORDS + LEVEL_WORDS * len(plan.counts)
    last_job = config.param_latency + plan.n_beats + MEMBRANE_LATENCY
    return began + last_job + LAYER_CYCLES + n_words


def predict_cycles(program: Program, maps: dict[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Return the number of cycles of each layer.

    Parameters
    ----------
    maps : spikes (T, C, H, W) of every map by name, the one that the host writes included.
    """
    return {
        plan.name: max(
            layer_cycles(plan, of_bank, program.config)
            for of_bank in active_inputs(plan, program.placements[plan.source], maps[plan.source])
        )
        for plan in program.layers
    }
