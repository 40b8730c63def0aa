"""Prediction of the number of cycles that a program takes on given spikes. NumPy only.

The predicted numbers equal those of the device's counters. They are estimates only for layers with
weights or parameters in memory outside the FPGA (:class:`_Bus`).

A *job* is the computation of one output position of ``lanes`` channels at one timestep. A *bank* of
the core has the spikes and weights of some of the input channels. A *chunk* is the part of a job's
inputs that a bank reads in one cycle; an input is *active* if it is a spike. The prediction follows
jobs and chunks through the pipeline of :class:`hw.core.core.Core`:

- The walk (:mod:`hw.core.walk`) gives out at most one *slot* per cycle. In a slot, every bank reads
  its spike memory once. Each chunk takes a slot. In a gated layer, each job takes one more slot, to
  read its identity spikes, which the gate joins with the layer's own spikes. The walk gives out no
  slot for a chunk while a queue that this slot may fill is too full. Each bank receives a slot one
  cycle after the bank before it.
- The scanner of a bank goes through the active inputs of the queued chunks, and the lanes add their
  weights. This takes one cycle per active input, and one cycle for a job without any.
- The sums of a finished job wait for the fire unit, which updates the neurons. If a bank has a
  queue of sums (``Config.sum_queue``), its scanner waits while this queue is full. Without a queue,
  scanner and lanes stall as long as any sums wait.
- The fire unit begins jobs in order, at least :attr:`LayerPlan.spacing` cycles apart. It begins a
  job when the sums of all banks are available. It takes one cycle for each *beat*, which is the
  sums of ``fire_lanes`` channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hw.protocol import HEADER_WORDS, LEVEL_WORDS
from hw.spec import (
    FETCH_LATENCY,
    FIRE_LATENCY,
    JOB_ROOM,
    QUEUE_LATENCY,
    ROOM_LATENCY,
    SUMS_IN_FLIGHT,
    Config,
)
from sw.compile.program import LayerPlan, Placement, Program

OFFCHIP_LATENCY = 24
"""Estimated number of cycles from the request for a row outside the FPGA until the row is added
up."""

OFFCHIP_OVERHEAD = 1.02
"""Estimated number of cycles in which the bus of the memory outside the FPGA is busy, per cycle in
which it brings data. The additional cycles are for refresh, and for those changes of the memory's
open page that delay data."""

NEVER = -(1 << 60)
"""Number that stands for the cycle of an event that has not taken place: earlier than any cycle."""


def active_inputs(
    plan: LayerPlan, places: Mapping[str, Placement], maps: Mapping[str, NDArray[np.uint8]]
) -> NDArray[np.int64]:
    """Count the active inputs (spikes) of every chunk, in the order in which the banks read the
    chunks.

    Parameters
    ----------
    plan : how the core runs the layer.
    places : regions of spike memory by name of the map.
    maps : all maps (T, C, H, W) that the layer reads by name, or the bit-planes (N_PLANES, C, H, W)
        of an image.

    Returns
    -------
    int64 array (banks, n_jobs, n_chunks), where n_jobs is the number of jobs of the layer, and
    n_chunks the number of chunks of a job.
    """
    source, last = places[plan.sources[0]], places[plan.sources[-1]]
    bits = np.zeros((source.banks, last.start + last.n_bits - source.start), np.uint8)
    for name in plan.sources:
        place = places[name]
        start = place.start - source.start
        bits[:, start : start + place.n_bits] = place.bank_bits(maps[name])
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


def _direct_jobs(plan: LayerPlan, config: Config) -> list[bool]:
    """Return for each job of a layer, in order, whether it goes directly to the fire unit.

    These are the timesteps of a layer that reads pixels, on a device with
    :attr:`hw.spec.Config.direct_timesteps`.
    """
    direct = np.zeros(plan.counts[::-1], np.bool_)
    if config.direct_timesteps and plan.n_plane_steps:
        np.moveaxis(direct, -1 - plan.time_level, 0)[plan.n_plane_steps :] = True
    return direct.reshape(plan.n_jobs, -1)[:, 0].tolist()


class _Queue:
    """Record of the cycles in which entries entered and left a hardware queue.

    The unit that writes to the queue may write while at most ``room`` entries are in it. Calls of
    :meth:`ready` must be in the order of time.
    """

    def __init__(self, room: int):
        self.room = room
        self.came: list[int] = []
        self.went: list[int] = []
        self._n_came = self._n_went = 0

    def ready(self, cycle: int) -> int:
        """Return the first cycle, from ``cycle`` on, at whose end the queue may be written.

        It may be written while it has at most ``room`` entries. Only the entries recorded so far
        count.
        """
        if len(self.came) - self._n_went <= self.room:  # even if all entries had come already
            return cycle
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

    Cycles without a stall are called *moves*, and are numbered without gaps. On a device without a
    queue of sums, scanner and lanes stall while a job's sums wait for the fire unit. On a device
    with such a queue, the numbers of moves and cycles are the same. Calls must be in the order of
    time.
    """

    def __init__(self) -> None:
        self._passed = 0
        self._waits: deque[tuple[int, int]] = deque()

    def wait(self, move: int, n_cycles: int) -> None:
        """Record a stall of ``n_cycles`` just before ``move``.

        ``move`` is a number that counts only cycles without a stall.
        """
        self._waits.append((move, n_cycles))

    def cycle(self, move: int) -> int:
        """Return the clock cycle of ``move``, a number that counts only cycles without a stall."""
        if not self._waits:
            return move + self._passed
        return move + self._passed + sum(n for first, n in self._waits if first <= move)

    def since(self, cycle: int) -> int:
        """Return the last move (cycle without a stall) that takes place in ``cycle`` or earlier."""
        move = cycle - self._passed
        for first, n_cycles in self._waits:
            if move < first:
                break
            move = max(first - 1, move - n_cycles)
        return move

    def forget(self, move: int) -> None:
        """Replace the records of all stalls before ``move`` by their sum, to keep the list short.

        ``move`` is a number that counts only cycles without a stall. Later calls must not ask about
        earlier cycles.
        """
        while self._waits and self._waits[0][0] <= move:
            self._passed += self._waits.popleft()[1]


class _Bank:
    """Timing of one bank: the cycles in which it queues and scans its chunks.

    The bank drops chunks without spikes. It must mark the last chunk of each job. Therefore it
    holds back a chunk with spikes until the job's next chunk with spikes, or the job's end.

    For each job, :meth:`chunk` is called once per chunk, then :meth:`end_job` and :meth:`taken`.
    """

    def __init__(self, number: int, config: Config):
        self.chunks = _Queue(config.chunk_room(number))
        self._sums = _Queue(config.sum_queue - SUMS_IN_FLIGHT)
        self._moves = _Moves()
        self._scanned = NEVER
        """Move (see :class:`_Moves`) in which the last event so far leaves the scanner. An event is
        an active input, or the end of a job that has none."""
        self._held = 0
        """Number of active inputs of the chunk that is held back; 0 if none is."""
        self._lanes_latency = config.lanes_latency
        self._queued = config.sum_queue > 0
        self._released = 1 + (number + 1 if config.banks > 1 else 0)
        """Number of cycles from a job's last cycle in the fire unit until its entry in the bank's
        queue of sums is free again."""

    def chunk(self, n_active: int, known: int) -> None:
        """Process a chunk of a job; ``n_active`` is the number of spikes in it.

        ``known`` is the cycle in which the bank knows whether the chunk has spikes.
        """
        if n_active:
            if self._held:
                self._scan(self._held, known)
            self._held = n_active

    def end_job(self, known: int) -> int:
        """Process the end of a job.

        ``known`` is the cycle in which the bank knows whether the job's last chunk has spikes.

        Returns
        -------
        The first cycle in which the job's sums are in the bank's queue of sums. A bank without this
        queue has a register for the sums of one job instead.
        """
        self._scan(self._held, known + 1)
        self._held = 0
        arrives = self._scanned + self._lanes_latency
        self._arrives = arrives
        return self._moves.cycle(arrives - 1) + 1

    def taken(self, begins: int, summed: int, n_beats: int) -> None:
        """Record that the fire unit begins, in cycle ``begins``, to process the sums of the last
        job.

        The job's sums were available in all banks in cycle ``summed``. The fire unit takes
        ``n_beats`` cycles for it.
        """
        if self._queued:
            self._sums.came.append(self._scanned + SUMS_IN_FLIGHT)
            self._sums.went.append(begins + n_beats + self._released)
        elif begins > summed:
            self._moves.wait(self._arrives, begins - summed)

    def _scan(self, n_active: int, queued: int) -> None:
        """Let the scanner process a chunk that enters its queue in cycle ``queued``.

        ``n_active`` is the number of the chunk's active inputs.
        """
        chunks, moves, sums = self.chunks, self._moves, self._sums
        n_events = max(n_active, 1)  # an empty chunk ends a silent job
        available = queued + QUEUE_LATENCY
        if chunks.went:
            available = max(available, chunks.went[-1] + 1)
        scanned = max(self._scanned, moves.since(available))
        chunks.came.append(queued)
        chunks.went.append(max(available, moves.cycle(self._scanned)))
        moves.forget(scanned)
        if not self._queued:
            self._scanned = scanned + n_events
            return
        for n_left in range(n_events, 0, -1):
            scanned = sums.ready(scanned + 1)
            if not sums.came or scanned >= sums.came[-1]:  # no later change of the queue
                scanned += n_left - 1
                break
        self._scanned = scanned


class _Bus:
    """Time that the bus of the memory outside the FPGA takes for the rows of a layer.

    All banks share the bus. The model assumes that it delivers rows without gaps while requests
    wait, and takes :data:`OFFCHIP_OVERHEAD` cycles for each cycle of data. In reality gaps come at
    certain times, for example when the memory refreshes itself. So this part of the prediction is
    an estimate.
    """

    def __init__(self, plan: LayerPlan, config: Config):
        self._plan, self._config = plan, config
        self._row_cycles = config.offchip_row_cycles * OFFCHIP_OVERHEAD
        self._free = 0.0

    def job(self, n_active: int, summed: int) -> int:
        """Return the cycle in which all rows of a job have been added up.

        The result is 0 if the job reads no rows from memory outside the FPGA.

        ``n_active`` is the number of the job's active inputs, and ``summed`` the cycle in which the
        job's sums would be available if all rows were on the FPGA.
        """
        n_rows = self._plan.bus_rows(n_active, 1, self._config)
        if not n_rows:
            return 0
        start = max(self._free, summed - n_active)
        self._free = start + n_rows * self._row_cycles
        return round(self._free) + OFFCHIP_LATENCY


def layer_cycles(plan: LayerPlan, active: NDArray[np.int64], config: Config) -> int:
    """Return the number of cycles that a layer takes, including the loading of its descriptor.

    Parameters
    ----------
    plan : how the core runs the layer.
    active : numbers of active inputs, one for every chunk, as :func:`active_inputs` returns them.
    """
    banks = [_Bank(number, config) for number in range(config.banks)]
    bus = _Bus(plan, config) if plan.weights_offchip or plan.params_offchip else None
    jobs = _Queue(JOB_ROOM)
    rooms = [(jobs, ROOM_LATENCY)]
    rooms += [(bank.chunks, ROOM_LATENCY + number) for number, bank in enumerate(banks)]
    # Cycles from a bank's sums until the fire unit knows of them: they are joined bank by bank.
    joins = [config.banks - max(number, 1) for number in range(config.banks)]
    slot = -1
    began = NEVER  # the cycle in which the fire unit began its last job so far
    direct = _direct_jobs(plan, config)
    for n, job in enumerate(active.swapaxes(0, 1).transpose(0, 2, 1).tolist()):
        if direct[n]:
            slot = jobs.ready(slot + 1 - ROOM_LATENCY) + ROOM_LATENCY
            jobs.came.append(slot)
            began = max(began + plan.spacing, slot + QUEUE_LATENCY)
            jobs.went.append(began + plan.n_beats - 1)
            continue
        for of_banks in job:
            slot += 1
            agreed = 0  # number of queues in a row that have room in the slot
            while agreed < len(rooms):
                for queue, latency in rooms:
                    ready = queue.ready(slot - latency) + latency
                    agreed = agreed + 1 if ready == slot else 1
                    slot = ready
            for number, bank in enumerate(banks):
                if of_banks[number]:
                    bank.chunk(of_banks[number], slot + number + FETCH_LATENCY)
        summed = max(
            bank.end_job(slot + number + FETCH_LATENCY) + joins[number]
            for number, bank in enumerate(banks)
        )
        jobs.came.append(slot)
        slot += plan.gated
        if bus is not None:
            summed = max(summed, bus.job(sum(map(sum, job)), summed))
        begins = max(began + plan.spacing, summed)
        for bank in banks:
            bank.taken(begins, summed, plan.n_beats)
        began = begins
        jobs.went.append(began + plan.n_beats - 1)
    n_words = HEADER_WORDS + LEVEL_WORDS * len(plan.counts)
    last_job = config.param_latency + plan.n_beats + FIRE_LATENCY
    return began + last_job + config.layer_cycles + n_words


def predict_cycles(program: Program, maps: dict[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Return the number of cycles that each layer takes for one image, by name of the layer.

    Parameters
    ----------
    maps : all maps (T, C, H, W) of the image by name, including the one that the host writes
        (:func:`sw.compile.costs.device_maps`).
    """
    return {
        plan.name: layer_cycles(
            plan,
            active_inputs(plan, program.placements, maps),
            program.config,
        )
        for plan in program.layers
    }
