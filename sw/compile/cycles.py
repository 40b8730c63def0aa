"""Prediction of the exact number of cycles that a program takes on given spikes. NumPy only.

The predicted numbers equal those of the device's counters. A *job* is the computation of one
output position of ``lanes`` channels at one timestep; a *chunk* is the part of its inputs that the
core reads in one cycle. The prediction follows jobs and chunks through the pipeline of
:mod:`hw.core`:

- The fetch unit reads spike memory once per cycle, in a *slot*, while its queues have room. Each
  chunk takes one slot. In a gated layer, each job takes one more slot for its *identity* spikes,
  those with which the gate joins the spikes of its neurons.
- The scanner takes one cycle per active input, whose weights the lanes add to the job's sums.
- Sums wait in a queue for the fire unit, and the scanner waits while the queue is full. On a device
  without this queue (``Config.sum_queue`` is 0), scanner and lanes stall while sums wait.
- The fire unit begins jobs in order and at least ``spacing`` cycles apart, each when its sums are
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
    N_PLANES,
    QUEUE_LATENCY,
    ROOM_LATENCY,
    SUMS_IN_FLIGHT,
    Config,
)
from sw.compile.program import LayerPlan, Part, Placement, Program

NEVER = -(1 << 60)
"""Number that stands for the cycle of an event that has not taken place: earlier than any cycle."""


def active_inputs(plan: Part, source: Placement, spikes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the inputs that spike in each chunk of a core's jobs, in the order of reading.

    Parameters
    ----------
    plan : the core's part of the layer.
    source : place in spike memory of the map that the layer reads.
    spikes : that map (T, C, H, W), or the bit-planes of an image.

    Returns
    -------
    int64 array (number of jobs, number of chunks per job).
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
    if plan.pixels:  # the iterations after the bit-planes are timesteps, which read no input
        by_level = np.moveaxis(counts.reshape(plan.counts[::-1]), -1 - plan.time_level, 0)
        by_level[N_PLANES:] = 0
    return counts.reshape(plan.n_jobs, -1)


class _Queue:
    """Record of the cycles in which entries came to a hardware queue and left it.

    ``room`` is the largest number of entries at which the unit before the queue may go on. Calls of
    :meth:`ready` must be in the order of time.
    """

    def __init__(self, room: int):
        self.room = room
        self.came: list[int] = []
        self.went: list[int] = []
        self._n_came = self._n_went = 0

    def ready(self, cycle: int) -> int:
        """Return the first cycle from ``cycle`` on that ends with at most ``room`` entries queued.

        Only the entries recorded so far count.
        """
        while True:
            while self._n_came < len(self.came) and self.came[self._n_came] <= cycle:
                self._n_came += 1
            while self._n_went < len(self.went) and self.went[self._n_went] <= cycle:
                self._n_went += 1
            if self._n_came - self._n_went <= self.room:
                return cycle
            cycle = self.went[self._n_went]


class _Moves:
    """Conversion between clock cycles and the cycles in which scanner and lanes do not stall.

    The latter are called *moves* and numbered without gaps. On a device without a queue of sums,
    scanner and lanes stall while a job's sums wait for the fire unit. On a device with such a
    queue, the numbers of moves and cycles are the same. Calls must be in the order of time.
    """

    def __init__(self) -> None:
        self._passed = 0
        self._waits: deque[tuple[int, int]] = deque()

    def wait(self, move: int, n_cycles: int) -> None:
        """Record a stall of ``n_cycles`` just before ``move``."""
        self._waits.append((move, n_cycles))

    def cycle(self, move: int) -> int:
        """Return the cycle in which ``move`` takes place."""
        return move + self._passed + sum(n for first, n in self._waits if first <= move)

    def since(self, cycle: int) -> int:
        """Return the last move that takes place in ``cycle`` or earlier."""
        move = cycle - self._passed
        for first, n_cycles in self._waits:
            if move < first:
                break
            move = max(first - 1, move - n_cycles)
        return move

    def forget(self, move: int) -> None:
        """Replace the records of all stalls before ``move`` by their sum.

        Later calls must not ask about earlier moves.
        """
        while self._waits and self._waits[0][0] <= move:
            self._passed += self._waits.popleft()[1]


def part_cycles(plan: Part, active: NDArray[np.int64], config: Config) -> int:
    """Predict the number of cycles that a core takes for its part of a layer.

    Parameters
    ----------
    plan : the core's part of the layer.
    active : number of spiking inputs of each chunk, as :func:`active_inputs` returns it.
    """
    slot = -1
    queues = chunks, jobs = _Queue(CHUNK_ROOM), _Queue(JOB_ROOM)
    moves, sums = _Moves(), _Queue(config.sum_queue - SUMS_IN_FLIGHT)
    scanned = NEVER  # the move of the last active input so far
    began = NEVER  # the cycle in which the fire unit began its last job so far

    def take(n_active: int, queued: int) -> None:
        """Let the scanner process a chunk that entered its queue in cycle ``queued``.

        The chunk has ``n_active`` active inputs.
        """
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
    """Predict the number of cycles of each layer by name; of several cores, the slowest counts.

    Parameters
    ----------
    maps : the maps (T, C, H, W) of one image by name, including the one that the host writes
        (:func:`sw.compile.costs.device_maps`).
    """

    def cycles(plan: LayerPlan, part: Part) -> int:
        active = active_inputs(part, program.placements[plan.source], maps[plan.source])
        return part_cycles(part, active, program.config)

    return {
        plan.name: max(cycles(plan, part) for part in plan.parts if part) for plan in program.layers
    }
