"""From iterations of the nest to chunks with active inputs, jobs and identity spikes."""

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import Phase, address_widths, step_layout
from hw.core.pipeline import delayed, storage
from hw.core.spikes import SpikeMemory
from hw.protocol import N_PIECES
from hw.spec import GRANULE_BITS, PIECE_BITS, Config

CHUNK_DEPTH = 32
"""Active chunks, and identities, that may wait."""
JOB_DEPTH = 64
"""Jobs that may be under way between here and their last spike."""


def chunk_layout(config: Config) -> data.StructLayout:
    """Active inputs of (a part of) a job, at least one: ``bits``, whose weights begin at row
    ``weight``; ``last`` if no more follow in this job."""
    return data.StructLayout(
        {
            "bits": config.chunk_bits,
            "weight": address_widths(config)["weight"],
            "last": 1,
            "tail": 1,
        }
    )


def job_layout(config: Config) -> data.StructLayout:
    """What the fire unit must know when it begins a job, see :func:`hw.core.nest.step_layout`."""
    widths = address_widths(config)
    return data.StructLayout(
        {name: widths[name] for name in ("param", "slot")} | {"fresh": 1, "phase": 2}
    )


def record_layout(config: Config) -> data.StructLayout:
    """What the fire unit must know when it ends a job, see :func:`hw.core.nest.step_layout`."""
    return data.StructLayout(
        {"target": address_widths(config)["target"]}
        | dict.fromkeys(("end", "pool_first", "pool_last", "tail"), 1)
    )


class Merger(wiring.Component):
    """Drop silent chunks without losing where jobs begin and end.

    A chunk is held back until the next active one of its job, or the job's end, is known; so
    ``last`` always sits on the last *active* chunk, and a job that is silent as a whole leaves no
    chunk, only its verdict. One chunk in, at most one out per cycle; never stalls.

    Members
    -------
    chunk, active, last : a chunk, whether it has an active input, whether it is its job's last.
    merged : active chunks.
    silent : per job, whether it had no active input; not after its last chunk's way out.
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
        held = storage(chunk.shape())
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
    """Read the window of every step, mask it, and queue what is active.

    A gated layer's job takes one more slot, in which its identity spikes are read through the same
    port and the same shifter. The host reads spikes in slots of its own. The pipeline never stalls:
    a slot is started only while the queues have room for all that is under way. ::

        F0 slot chosen     F1-F6 spike memory     F7 masked     F8 active?     F9 merged     queue

    Members
    -------
    steps : iterations of the nest.
    gated, body_bits, tail_bits : of the layer that runs, stable while it does; how many bits of
        each piece count, in a run's last chunk and in all others.
    host_bit, host_granule : the host's own reads, one granule each.
    read_bit, gather, window : to the spike memory.
    chunks : what the scanner is to work on.
    jobs, records, silent, identities : for the fire unit, one each per job and in job order;
        ``identities`` only if ``gated``.
    """

    LATENCY = SpikeMemory.LATENCY + 3

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
                "records": Out(stream.Signature(record_layout(config))),
                "silent": Out(stream.Signature(1)),
                "identities": Out(stream.Signature(config.lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        step = self.steps.p

        m.submodules.merger = merger = Merger(config)
        queues, depth = {}, {}
        for name in ("chunks", "jobs", "records", "silent", "identities"):
            port = getattr(self, name)
            width = len(Value.cast(port.payload))
            depth[name] = CHUNK_DEPTH if name in ("chunks", "identities") else JOB_DEPTH
            queue = fifo.SyncFIFOBuffered(width=width, depth=depth[name])
            m.submodules[name] = queue
            queues[name] = queue
            m.d.comb += [
                port.valid.eq(queue.r_rdy),
                port.payload.eq(queue.r_data),
                queue.r_en.eq(port.ready),
            ]
        # Room for all that may be under way when it falls: a job is queued at once; the others
        # come out of the pipeline, one chunk may be held, and `room` itself is a register. What
        # ends a job leaves its queue last, so there are never more jobs or verdicts than records.
        room = Signal()
        under_way = {
            "chunks": self.LATENCY + 5,
            "records": 4,
            "identities": SpikeMemory.LATENCY + 4,
        }
        m.d.sync += room.eq(
            Cat(queues[name].level <= depth[name] - n for name, n in under_way.items()).all()
        )

        # F0: whose slot is it?
        chunk_slot, identity_slot, host_slot = Signal(), Signal(), Signal()
        identity_due = Signal()
        identity_granule = storage(step.identity.shape())
        with m.If(identity_due):
            m.d.comb += [
                identity_slot.eq(1),
                self.read_bit.eq(Cat(Const(0, (GRANULE_BITS - 1).bit_length()), identity_granule)),
            ]
            m.d.sync += identity_due.eq(0)
        with m.Elif(self.host_bit.valid):
            m.d.comb += [host_slot.eq(1), self.host_bit.ready.eq(1)]
            m.d.comb += self.read_bit.eq(self.host_bit.payload)
        with m.Elif(room):
            m.d.comb += [self.steps.ready.eq(1), chunk_slot.eq(self.steps.valid)]
            m.d.comb += [self.read_bit.eq(step.source), self.gather.eq(1)]
            m.d.sync += identity_granule.eq(step.identity)
            m.d.sync += identity_due.eq(self.steps.valid & step.last & self.gated)
        for name, layout in (("jobs", job_layout(config)), ("records", record_layout(config))):
            entry = Signal(layout)
            m.d.comb += [entry[field].eq(step[field]) for field, _ in layout]
            if name == "records":  # a bit-plane leaves no spikes
                m.d.comb += entry.pool_last.eq(step.pool_last & (step.phase != Phase.PLANE))
            m.d.comb += [
                queues[name].w_en.eq(chunk_slot & step.last),
                queues[name].w_data.eq(entry),
            ]

        # F6: the window arrives.
        slots = Cat(chunk_slot, identity_slot, host_slot)
        slots = delayed(m, slots, SpikeMemory.LATENCY, reset=True)
        summed = (step.phase == Phase.FIRST) | (step.phase == Phase.AGAIN)
        tags = delayed(m, Cat(step.weight, step.last, step.tail, summed), SpikeMemory.LATENCY)
        cut5 = delayed(m, step.cut, SpikeMemory.LATENCY - 1)
        mask = storage(config.chunk_bits)
        for k in range(config.chunk_bits // PIECE_BITS):
            n_bits = Mux(cut5, self.tail_bits[k], self.body_bits[k])
            m.d.sync += mask.word_select(k, PIECE_BITS).eq(
                Cat(n_bits > i for i in range(PIECE_BITS))
            )
        identity = queues["identities"]
        m.d.comb += [
            identity.w_en.eq(slots[1]),
            identity.w_data.eq(self.window),
            self.host_granule.valid.eq(slots[2]),
            self.host_granule.payload.eq(self.window),
        ]
        # F7: bits beyond the run's end are not of this job; timesteps of pixels have no input.
        bits7 = storage(config.chunk_bits)
        m.d.sync += bits7.eq(Mux(tags[-1], 0, self.window & mask))
        # F8: is any active?
        bits8, occupied8 = storage(config.chunk_bits), storage(config.chunk_bits // PIECE_BITS)
        pieces = (bits7.word_select(k, PIECE_BITS) for k in range(len(occupied8)))
        m.d.sync += [bits8.eq(bits7), occupied8.eq(Cat(piece.any() for piece in pieces))]
        # F9: merged and queued.
        m.d.comb += [
            merger.chunk.valid.eq(delayed(m, slots[0], 2, reset=True)),
            merger.chunk.p.bits.eq(bits8),
            Cat(merger.chunk.p.weight, merger.chunk.p.last, merger.chunk.p.tail).eq(
                delayed(m, tags[:-1], 2)
            ),
            merger.active.eq(occupied8.any()),
            queues["chunks"].w_en.eq(merger.merged.valid),
            queues["chunks"].w_data.eq(merger.merged.p),
            queues["silent"].w_en.eq(merger.silent.valid),
            queues["silent"].w_data.eq(merger.silent.payload),
        ]
        return m
