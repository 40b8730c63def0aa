"""How many cycles a program takes on given spikes, without running it: the exact number, which the
device's counters show. NumPy only.

The pipeline is followed chunk by chunk and job by job, in the cycles of :mod:`hw.core`: the fetch
unit gives a slot to each chunk, and to an identity per job of a gated layer, while its queues have
room; the scanner takes a cycle per active input, while there is room for the sums of all jobs under
way, or, without a queue for them, stands still, with the lanes, while they wait; the fire unit
begins jobs in order, at least ``spacing`` cycles apart, and not before their sums are there.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from hw.protocol import HEADER_WORDS, LEVEL_WORDS
from hw.spec import MEMBRANE_LATENCY, N_PLANES, SUMS_UNHEARD, Config
from sw.compile.program import LayerPlan, Part, Placement, Program

# The fetch unit stops when more than these are queued: active chunks, jobs.
CHUNK_ROOM, JOB_ROOM = 20, 54
ROOM_LATENCY = 2
"""From a change of a queue's level to the slot that it allows or forbids."""
CHUNK_LATENCY = 7
"""From a slot to the end of the fetch pipeline: a job is queued, a chunk that was held back moves
on. A job's last chunk moves on a cycle later."""
QUEUE_LATENCY = 2
"""From writing to an empty queue until it can be read."""
LANES_LATENCY = 7
"""From an active input in the scanner, if it was the job's last, to the sums being there for the
fire unit."""
LAYER_CYCLES = 11
"""Cycles of a part that neither its jobs nor its descriptor's words take."""
NEVER = -(1 << 60)


def active_inputs(plan: Part, source: Placement, spikes: NDArray[np.uint8]) -> NDArray[np.int64]:
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


class _Queue:
    """When a queue's entries came and went. It is asked about later and later cycles."""

    def __init__(self, room: int):
        self.room = room
        self.came: list[int] = []
        self.went: list[int] = []
        self._n_came = self._n_went = 0

    def ready(self, cycle: int) -> int:
        """The first cycle from ``cycle`` on at whose end no more than ``room`` are left of all
        that is known to come."""
        while True:
            while self._n_came < len(self.came) and self.came[self._n_came] <= cycle:
                self._n_came += 1
            while self._n_went < len(self.went) and self.went[self._n_went] <= cycle:
                self._n_went += 1
            if self._n_came - self._n_went <= self.room:
                return cycle
            cycle = self.went[self._n_went]


class _Moves:
    """The time of scanner and lanes, which without a queue stands still while sums wait: a *move*
    is a cycle in which they do not. Asked about later and later moves."""

    def __init__(self) -> None:
        self._passed = 0
        self._waits: deque[tuple[int, int]] = deque()

    def wait(self, move: int, n_cycles: int) -> None:
        """``n_cycles`` pass before ``move`` takes place."""
        self._waits.append((move, n_cycles))

    def cycle(self, move: int) -> int:
        """In which ``move`` takes place."""
        return move + self._passed + sum(n for first, n in self._waits if first <= move)

    def since(self, cycle: int) -> int:
        """The last move that takes place up to ``cycle``."""
        move = cycle - self._passed
        for first, n_cycles in self._waits:
            if move < first:
                break
            move = max(first - 1, move - n_cycles)
        return move

    def forget(self, move: int) -> None:
        """What lies before ``move`` is not asked about any more."""
        while self._waits and self._waits[0][0] <= move:
            self._passed += self._waits.popleft()[1]


def part_cycles(plan: Part, active: NDArray[np.int64], config: Config) -> int:
    """Cycles of a core's part of a layer whose chunks have ``active`` inputs (n_jobs, n_chunks),
    with room for ``config.sum_queue`` jobs' sums between scanner and fire unit."""
    slot = -1
    queues = chunks, jobs = _Queue(CHUNK_ROOM), _Queue(JOB_ROOM)
    moves, sums = _Moves(), _Queue(config.sum_queue - SUMS_UNHEARD)
    scanned = NEVER  # the move of the last active input so far
    began = NEVER  # the cycle in which the fire unit began its last job so far

    def take(n_active: int, queued: int) -> None:
        """The scanner takes a chunk that came into the queue in cycle ``queued``."""
        nonlocal scanned
        there = queued + QUEUE_LATENCY
        if chunks.went:
            there = max(there, chunks.went[-1] + 1)
        begins = max(scanned, moves.since(there))
        chunks.came.append(queued)
        chunks.went.append(max(there, moves.cycle(scanned)))
        moves.forget(begins)
        scanned = begins
        if config.sum_queue:
            for n_left in range(n_active, 0, -1):
                scanned = sums.ready(scanned + 1)
                if not sums.came or scanned >= sums.came[-1]:  # no more to be heard of
                    scanned += n_left - 1
                    break
        else:
            scanned += n_active

    for job in active.tolist():
        held = 0  # active inputs of a chunk that waits for the next active one, or the job's end
        for n_active in job:
            slot += 1
            while True:
                ready = max(queue.ready(slot - ROOM_LATENCY) for queue in queues) + ROOM_LATENCY
                if ready == slot:
                    break
                slot = ready
            if n_active:
                if held:
                    take(held, slot + CHUNK_LATENCY)
                held = n_active
        known = slot + CHUNK_LATENCY
        jobs.came.append(known)
        slot += plan.gated
        begins = max(began + plan.spacing, known + QUEUE_LATENCY)
        if held:
            take(held, known + 1)
            arrives = scanned + LANES_LATENCY
            summed = moves.cycle(arrives - 1) + 1
            begins = max(begins, summed)
            if config.sum_queue:
                sums.came.append(scanned + SUMS_UNHEARD)
                sums.went.append(begins + plan.n_beats + 1)
            elif begins > summed:
                moves.wait(arrives, begins - summed)
        began = begins
        jobs.went.append(began + plan.n_beats - 1)
    n_words = HEADER_WORDS + LEVEL_WORDS * len(plan.counts)
    last_job = config.param_latency + plan.n_beats + MEMBRANE_LATENCY
    return began + last_job + LAYER_CYCLES + n_words


def predict_cycles(program: Program, maps: dict[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Cycles per layer, of the core that takes longest, given every map's spikes (T, C, H, W), the
    host's included."""

    def cycles(plan: LayerPlan, part: Part) -> int:
        active = active_inputs(part, program.placements[plan.source], maps[plan.source])
        return part_cycles(part, active, program.config)

    return {
        plan.name: max(cycles(plan, part) for part in plan.parts if part) for plan in program.layers
    }
