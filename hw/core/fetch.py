"""The fetch unit, which reads the input spikes of jobs and drops the chunks that are all silent.

A *job* is one output position, group of output channels, and timestep. Its input spikes are read
in *chunks* of up to ``chunk_bits`` bits, one per cycle. A chunk is active if any of its bits is
set, otherwise it is silent.
"""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import Phase, address_widths, step_layout
from hw.core.spikes import SpikeMemory
from hw.parts.pipeline import delayed, delayed_in_memory, thermometer, unreset
from hw.parts.queue import Queue
from hw.protocol import N_PIECES
from hw.spec import (
    CHUNK_DEPTH,
    CHUNK_ROOM,
    FETCH_LATENCY,
    GRANULE_BITS,
    JOB_DEPTH,
    JOB_ROOM,
    PIECE_BITS,
    Config,
)


def chunk_layout(config: Config) -> data.StructLayout:
    """Return the layout of a chunk: up to ``chunk_bits`` input spikes of one job.

    ``bits`` holds the spikes, whose weights begin at row ``weight`` of weight memory. ``last``
    marks the last active chunk of a job; ``tail`` is as in :func:`hw.core.nest.step_layout`.
    """
    return data.StructLayout(
        {
            "bits": config.chunk_bits,
            "weight": address_widths(config)["weight"],
            "last": 1,
            "tail": 1,
        }
    )


def job_layout(config: Config) -> data.StructLayout:
    """Return the layout of a job in the queue from the fetch unit to the fire unit.

    ``silent`` marks a job without any active input. In a gated layer, ``identity`` holds the spikes
    of the residual block's shortcut, which the gate combines with those of the job. The other
    fields are as in :func:`hw.core.nest.step_layout`.
    """
    widths = address_widths(config)
    return data.StructLayout(
        {name: widths[name] for name in ("param", "slot", "target")}
        | dict.fromkeys(("fresh", "end", "pool_first", "pool_last", "tail"), 1)
        | {"phase": 2, "silent": 1, "identity": config.lanes}
    )


class Merger(wiring.Component):
    """Drop the chunks without an active input, and mark the last active chunk of each job.

    An active chunk is held until the next active chunk of its job or the end of the job arrives, so
    that ``last`` is always set on the last *active* chunk. A job without any active input produces
    no chunk. The merger takes one chunk and emits at most one per cycle, and never stalls.

    Members
    -------
    chunk : chunks; ``last`` marks the last chunk of a job, active or not.
    active : the chunk has an active input.
    merged : the active chunks; ``last`` marks the last active chunk of a job.
    silent : for each job, whether it has no active input; arrives no later than the job's last
        merged chunk.
    """

    def __init__(self, config: Config):
        layout = chunk_layout(config)
        super().__init__(
            {
                "chunk": In(stream.Signature(layout, always_ready=True)),
                "active": In(1),
                "merged": Out(stream.Signature(layout, always_ready=True)),
                "silent": Out(stream.Signature(1, always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunk = self.chunk.p
        held = unreset(chunk.shape())
        holds = Signal()
        complete = Signal()  # the held chunk is the last of its job
        m.d.comb += [self.merged.p.eq(held), self.merged.p.last.eq(complete)]
        with m.If(holds & complete):
            m.d.comb += self.merged.valid.eq(1)
            m.d.sync += holds.eq(0)
        with m.If(self.chunk.valid):
            with m.If(holds & ~complete & self.active):
                m.d.comb += self.merged.valid.eq(1)
            with m.If(self.active):
                m.d.sync += [held.eq(chunk), holds.eq(1)]
            m.d.sync += complete.eq(chunk.last)
            m.d.comb += [
                self.silent.valid.eq(chunk.last),
                self.silent.payload.eq(~self.active & ~(holds & ~complete)),
            ]
        return m


class Fetch(wiring.Component):
    """Read the input spikes of jobs in chunks, clear invalid bits, and queue the active chunks.

    The loop nest names one chunk per step (:func:`hw.core.nest.step_layout`). The read port of
    spike memory serves one slot per cycle: a slot is used for a chunk, for the identity spikes of a
    job (those of a residual block's shortcut), or for a granule (8 bits) that the host reads. So a
    job of a gated layer takes one slot more than it has chunks. The pipeline never stalls: a slot
    is used for a chunk only while the queues have room for everything that is under way. ::

        F0 slot chosen    F1-F6 spike memory    F7 masked    F8 silent chunks dropped    queues

    Members
    -------
    steps : iterations of the loop nest.
    gated, body_bits, tail_bits : fields of the current layer, stable while it runs: whether it
        has identity spikes, and how many bits of each piece (:data:`hw.spec.PIECE_BITS` bits of a
        chunk) are valid: ``tail_bits`` in the last chunk of a contiguous stretch of inputs,
        ``body_bits`` in the others.
    host_bit, host_granule : bit addresses that the host reads, and for each the granule read.
    read_bit, gather, window : ports of :class:`hw.core.spikes.SpikeMemory`.
    chunks : chunks with active inputs, for the scanner.
    jobs : all jobs, for the fire unit.
    """

    LATENCY = FETCH_LATENCY
    """Cycles from a slot until its chunk is masked and known to be active or silent."""

    def __init__(self, config: Config):
        self._config = config
        source_bits = address_widths(config)["source"]
        super().__init__(
            {
                "steps": In(stream.Signature(step_layout(config))),
                "gated": In(1),
                "body_bits": In(data.ArrayLayout(8, N_PIECES)),
                "tail_bits": In(data.ArrayLayout(8, N_PIECES)),
                "host_bit": In(stream.Signature(source_bits)),
                "host_granule": Out(stream.Signature(GRANULE_BITS, always_ready=True)),
                "read_bit": Out(source_bits),
                "gather": Out(1),
                "window": In(config.chunk_bits),
                "chunks": Out(stream.Signature(chunk_layout(config))),
                "jobs": Out(stream.Signature(job_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        step = self.steps.p

        m.submodules.merger = merger = Merger(config)
        m.submodules.chunks = chunks = Queue(chunk_layout(config), CHUNK_DEPTH, always_ready=True)
        m.submodules.jobs = jobs = Queue(job_layout(config), JOB_DEPTH, always_ready=True)
        wiring.connect(m, chunks.o, wiring.flipped(self.chunks))
        wiring.connect(m, jobs.o, wiring.flipped(self.jobs))
        # Keep a margin for everything under way when `room` falls: the slots in the pipeline, the
        # chunk held in the merger, and the cycle that `room`, a register, is late.
        room = Signal()
        m.d.sync += room.eq((chunks.level <= CHUNK_ROOM) & (jobs.level <= JOB_ROOM))

        # F0: choose whose slot this is; identity spikes come first, then the host.
        chunk_slot, identity_slot, host_slot = Signal(), Signal(), Signal()
        identity_due = Signal()
        m.d.sync += identity_due.eq(chunk_slot & step.last & self.gated)
        with m.If(identity_due):
            m.d.comb += [
                identity_slot.eq(1),
                self.read_bit.eq(Cat(Const(0, (GRANULE_BITS - 1).bit_length()), step.identity)),
            ]
        with m.Elif(self.host_bit.valid):
            m.d.comb += [host_slot.eq(1), self.host_bit.ready.eq(1)]
            m.d.comb += self.read_bit.eq(self.host_bit.payload)
        with m.Elif(room):
            m.d.comb += [chunk_slot.eq(self.steps.valid), self.gather.eq(1)]
            m.d.comb += self.read_bit.eq(step.source)
        m.d.comb += self.steps.ready.eq(identity_slot | (chunk_slot & ~(step.last & self.gated)))

        # F6: the window arrives. The mask is computed in parallel.
        slots = delayed(m, Cat(chunk_slot, host_slot), SpikeMemory.LATENCY, reset=True)
        cut5 = delayed(m, step.cut, SpikeMemory.LATENCY - 1)
        mask = unreset(config.chunk_bits)
        for k in range(config.chunk_bits // PIECE_BITS):
            n_bits = Mux(cut5, self.tail_bits[k], self.body_bits[k])
            n_bits = n_bits[: PIECE_BITS.bit_length()]
            m.d.sync += mask.word_select(k, PIECE_BITS).eq(thermometer(n_bits, PIECE_BITS))
        m.d.comb += [
            self.host_granule.valid.eq(slots[1]),
            self.host_granule.payload.eq(self.window),
        ]
        # F7: clear the bits that are no inputs. The window is now that of the next slot: the
        # identity spikes, if this slot ends a job of a gated layer.
        bits7 = unreset(config.chunk_bits)
        m.d.sync += bits7.eq(self.window & mask)
        valid7 = delayed(m, slots[0], 1, reset=True)
        tag_layout = data.StructLayout(
            {
                name: field.shape
                for name, field in step_layout(config)
                if name not in ("source", "identity", "cut")
            }
        )
        tag = Signal(tag_layout)
        m.d.comb += [tag[name].eq(step[name]) for name, _ in tag_layout]
        tags = data.View(tag_layout, delayed_in_memory(m, tag, self.LATENCY))
        m.d.comb += [
            merger.chunk.valid.eq(valid7),
            merger.chunk.p.bits.eq(bits7),
            merger.chunk.p.weight.eq(tags.weight),
            merger.chunk.p.last.eq(tags.last),
            merger.chunk.p.tail.eq(tags.tail),
            # In a layer of pixels, only bit-planes have inputs; the timesteps after them have none.
            merger.active.eq(
                bits7.any() & (tags.phase != Phase.FIRST) & (tags.phase != Phase.LATER)
            ),
            chunks.i.valid.eq(merger.merged.valid),
            chunks.i.p.eq(merger.merged.p),
            jobs.i.valid.eq(merger.silent.valid),
            jobs.i.p.silent.eq(merger.silent.payload),
            jobs.i.p.identity.eq(self.window),
        ]
        for name in ("param", "slot", "target", "fresh", "end", "pool_first", "tail", "phase"):
            m.d.comb += jobs.i.p[name].eq(tags[name])
        # A bit-plane writes no spikes.
        m.d.comb += jobs.i.p.pool_last.eq(tags.pool_last & (tags.phase != Phase.PLANE))
        return m
