"""From iterations of the nest to chunks with active inputs, jobs and identity spikes."""

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import address_widths, step_layout
from hw.core.pipeline import delayed, population
from hw.core.spikes import SpikeMemory
from hw.spec import GRANULE_BITS, Config

FIFO_DEPTH = 32


def chunk_layout(config: Config) -> data.StructLayout:
    """Active inputs of (a part of) a job: ``bits`` with ``count`` ones, whose weights begin at row
    ``weight``. ``count`` is 0 only if the whole job is silent."""
    return data.StructLayout(
        {
            "bits": config.chunk_bits,
            "count": range(config.chunk_bits + 1),
            "weight": address_widths(config)["weight"],
            "first": 1,
            "last": 1,
            "tail": 1,
        }
    )


def job_layout(config: Config) -> data.StructLayout:
    """What the fire unit must know of a job, see :func:`hw.core.nest.step_layout`."""
    widths = address_widths(config)
    return data.StructLayout(
        {name: widths[name] for name in ("target", "param", "slot")}
        | dict.fromkeys(("end", "fresh", "pool_first", "pool_last", "tail"), 1)
    )


class Merger(wiring.Component):
    """Drop silent chunks without losing where jobs begin and end.

    A chunk is held back until the next active one of its job, or the job's end, is known; so
    ``last`` always sits on the last *active* chunk, and only a job that is silent as a whole
    leaves one empty chunk. One chunk in, at most one out per cycle; never stalls.
    """

    def __init__(self, config: Config):
        layout = chunk_layout(config)
        super().__init__(
            {
                "chunk": In(stream.Signature(layout, always_ready=True)),
                "merged": Out(stream.Signature(layout, always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunk = self.chunk.p
        held = Signal(chunk.shape())
        holds = Signal()
        complete = Signal()  # the held chunk is the last of its job
        silent_so_far = Signal()  # chunks of this job were dropped, its first one among them
        active = Signal()
        keep = Signal()  # the arriving chunk takes the place of the held one
        m.d.comb += active.eq(chunk.count != 0)
        m.d.comb += [self.merged.p.eq(held), self.merged.p.last.eq(complete)]
        with m.If(holds & complete):
            m.d.comb += self.merged.valid.eq(1)
            m.d.sync += holds.eq(0)
        with m.If(self.chunk.valid):
            with m.If(holds & ~complete):
                m.d.comb += keep.eq(active)
                with m.If(active):
                    m.d.comb += self.merged.valid.eq(1)
                with m.Elif(chunk.last):
                    m.d.sync += complete.eq(1)
            with m.Else():
                m.d.comb += keep.eq(active | chunk.last)
                m.d.sync += silent_so_far.eq(~keep & (chunk.first | silent_so_far))
            with m.If(keep):
                m.d.sync += [held.eq(chunk), holds.eq(1), complete.eq(chunk.last)]
                m.d.sync += held.first.eq(chunk.first | silent_so_far)
        return m


class Fetch(wiring.Component):
    """Read the window of every step, mask and count it, and queue what is active.

    A gated layer's job takes one more slot, in which its identity spikes are read through the same
    port and the same shifter. The host reads spikes in slots of its own. The pipeline never stalls:
    a slot is started only while the queues have room for all that is under way. ::

        F0 slot chosen     F1-F5 spike memory     F6 tail masked
        F7 counted in quarters     F8 counted     F9 merged     queue

    Members
    -------
    steps : iterations of the nest.
    gated, tail_mask : of the layer that runs, stable while it does.
    host_bit, host_granule : the host's own reads, one granule each.
    read_bit, window : to the spike memory.
    chunks, jobs, identities : the three queues; per job at least one chunk, one job, and (if
        ``gated``) one word of identity spikes, all in job order.
    """

    LATENCY = SpikeMemory.LATENCY + 4

    def __init__(self, config: Config):
        self._config = config
        source_bits = address_widths(config)["source"]
        super().__init__(
            {
                "steps": In(stream.Signature(step_layout(config))),
                "gated": In(1),
                "tail_mask": In(config.chunk_bits),
                "host_bit": In(stream.Signature(source_bits)),
                "host_granule": Out(stream.Signature(GRANULE_BITS, always_ready=True)),
                "read_bit": Out(source_bits),
                "window": In(config.chunk_bits),
                "chunks": Out(stream.Signature(chunk_layout(config))),
                "jobs": Out(stream.Signature(job_layout(config))),
                "identities": Out(stream.Signature(config.lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        step = self.steps.p
        chunk_bits = config.chunk_bits

        m.submodules.merger = merger = Merger(config)
        queues = {}
        for name in ("chunks", "jobs", "identities"):
            port = getattr(self, name)
            width = len(Value.cast(port.payload))
            queue = fifo.SyncFIFOBuffered(width=width, depth=FIFO_DEPTH)
            m.submodules[name] = queue
            queues[name] = queue
            m.d.comb += [
                port.valid.eq(queue.r_rdy),
                port.payload.eq(queue.r_data),
                queue.r_en.eq(port.ready),
            ]
        # Room for all that may be under way when it falls: a job is queued at once; the others
        # come out of the pipeline, one chunk may be held, and `room` itself is a register.
        room = Signal()
        under_way = {
            "chunks": self.LATENCY + 6,
            "jobs": 4,
            "identities": SpikeMemory.LATENCY + 4,
        }
        m.d.sync += room.eq(
            Cat(queue.level <= FIFO_DEPTH - under_way[name] for name, queue in queues.items()).all()
        )

        # F0: whose slot is it?
        chunk_slot, identity_slot, host_slot = Signal(), Signal(), Signal()
        identity_due = Signal()
        identity_bit = Signal.like(step.identity)
        with m.If(identity_due):
            m.d.comb += [identity_slot.eq(1), self.read_bit.eq(identity_bit)]
            m.d.sync += identity_due.eq(0)
        with m.Elif(self.host_bit.valid):
            m.d.comb += [host_slot.eq(1), self.host_bit.ready.eq(1)]
            m.d.comb += self.read_bit.eq(self.host_bit.payload)
        with m.Elif(room):
            m.d.comb += [self.steps.ready.eq(1), chunk_slot.eq(self.steps.valid)]
            m.d.comb += self.read_bit.eq(step.source)
            m.d.sync += identity_bit.eq(step.identity)
            m.d.sync += identity_due.eq(self.steps.valid & step.last & self.gated)
        job = queues["jobs"]
        job_record = Signal(job_layout(config))
        m.d.comb += [job_record[name].eq(step[name]) for name, _ in job_record.shape()]
        m.d.comb += [job.w_en.eq(chunk_slot & step.last), job.w_data.eq(job_record)]

        # F5: the window arrives.
        slots = delayed(m, Cat(chunk_slot, identity_slot, host_slot), SpikeMemory.LATENCY)
        tags = delayed(
            m, Cat(step.weight, step.first, step.last, step.tail, step.cut), SpikeMemory.LATENCY
        )
        identity = queues["identities"]
        m.d.comb += [
            identity.w_en.eq(slots[1]),
            identity.w_data.eq(self.window),
            self.host_granule.valid.eq(slots[2]),
            self.host_granule.payload.eq(self.window),
        ]
        # F6: bits beyond the run's end are not of this job.
        bits6 = Signal(chunk_bits)
        m.d.sync += bits6.eq(self.window & Mux(tags[-1], self.tail_mask, (1 << chunk_bits) - 1))
        # F7, F8: how many are active.
        quarter = chunk_bits // 4
        quarters = [Signal(range(quarter + 1), name=f"quarter{i}") for i in range(4)]
        m.d.sync += [quarters[i].eq(population(bits6.word_select(i, quarter))) for i in range(4)]
        count8 = Signal(range(chunk_bits + 1))
        m.d.sync += count8.eq((quarters[0] + quarters[1]) + (quarters[2] + quarters[3]))
        # F9: merged and queued.
        m.d.comb += [
            merger.chunk.valid.eq(delayed(m, slots[0], 3)),
            merger.chunk.p.bits.eq(delayed(m, bits6, 2)),
            merger.chunk.p.count.eq(count8),
            Cat(
                merger.chunk.p.weight,
                merger.chunk.p.first,
                merger.chunk.p.last,
                merger.chunk.p.tail,
            ).eq(delayed(m, tags[:-1], 3)),
            queues["chunks"].w_en.eq(merger.merged.valid),
            queues["chunks"].w_data.eq(merger.merged.p),
        ]
        return m
