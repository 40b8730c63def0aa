"""The fetch unit of a bank, which queues the chunks of input spikes that are not silent.

A *job* is the computation of one output position of one group of output channels at one timestep. A
*chunk* is the part of a job's inputs that a bank reads from spike memory in one cycle; it is silent
if none of these inputs is a spike. A chunk consists of *pieces* of :data:`hw.spec.PIECE_BITS` bits.
A *slot* is one cycle's read of spike memory: of a chunk, of spikes of a residual block's shortcut,
or of a byte for the host (:class:`hw.core.walk.Walk`).
"""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import address_widths
from hw.core.spikes import SpikeMemory
from hw.core.walk import slot_layout
from hw.parts.pipeline import delayed, delayed_in_memory, thermometer, unreset
from hw.parts.queue import Queue
from hw.spec import (
    CHUNK_DEPTH,
    FETCH_LATENCY,
    GRANULE_BITS,
    PIECE_BITS,
    Config,
)


def window_layout(config: Config) -> data.StructLayout:
    """Return the layout of those fields of the running layer's descriptor that the banks need.

    The fields are those of :class:`hw.protocol.Header` with the same names. Fields that are arrays
    have one number for each piece (:data:`hw.spec.PIECE_BITS`) of this device's chunks.
    """
    n_pieces = config.chunk_bits // PIECE_BITS
    pieces = data.ArrayLayout(8, n_pieces)
    valid_bits = data.ArrayLayout(PIECE_BITS.bit_length(), n_pieces)
    return data.StructLayout(
        {
            "body_bits": valid_bits,
            "tail_bits": valid_bits,
            "piece_rows": pieces,
            "piece_weights": pieces,
            "granule_rows": 2,
        }
    )


def chunk_layout(config: Config) -> data.StructLayout:
    """Return the layout of a chunk: up to ``chunk_bits`` input spikes of one job, read in one
    cycle.

    ``bits`` are the spikes; the row of weights of the first bit is row ``weight``. ``last`` marks
    the last chunk of a job; ``tail`` is as in :func:`hw.core.nest.step_layout`.
    """
    return data.StructLayout(
        {
            "bits": config.chunk_bits,
            "weight": address_widths(config)["weight"],
            "last": 1,
            "tail": 1,
        }
    )


class Merger(wiring.Component):
    """Drop silent chunks (groups of inputs without a spike), and mark each job's last active chunk.

    A job is one output position, group of output channels and timestep. An active chunk (one with a
    spike) is held back until the job's next active chunk or last chunk arrives. Only then is it
    known whether the chunk that is held back is the last active one. Of a job without any spike,
    only the last chunk is kept, which is empty. The merger takes one chunk and emits at most one
    per cycle, and never stalls.

    Members
    -------
    chunk : chunks, active and silent; ``last`` marks the last chunk of a job, whether it is active
        or silent.
    merged : the chunks that are kept; ``last`` marks the last kept chunk of a job.
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
        held = unreset(chunk.shape())
        holds = Signal()
        complete = Signal()  # the held chunk is the last of its job
        active, continues = Signal(), Signal()
        m.d.comb += [
            active.eq(chunk.bits.any()),
            continues.eq(holds & ~complete),  # the held chunk is of the same job
            self.merged.p.eq(held),
            self.merged.p.last.eq(complete),
            self.merged.valid.eq(holds & (complete | (self.chunk.valid & active))),
        ]
        with m.If(holds & complete):
            m.d.sync += holds.eq(0)
        with m.If(self.chunk.valid):
            with m.If(active | (chunk.last & ~continues)):
                m.d.sync += [held.eq(chunk), holds.eq(1)]
            m.d.sync += complete.eq(chunk.last)
        return m


class Fetch(wiring.Component):
    """Read what each slot requests from spike memory, and queue the chunks with active inputs.

    A chunk is the inputs of a job (output position, channel group and timestep) that the bank reads
    in one cycle. A read returns a window of ``chunk_bits`` bits, in pieces of
    :data:`hw.spec.PIECE_BITS` bits. If the slot reads a chunk, only the first bits of each piece
    are inputs of the job, as many as the layer's ``body_bits`` or ``tail_bits`` say
    (:class:`hw.protocol.Header`). The other bits are masked, which means set to 0. The pipeline
    never stalls. ::

        F0 slot    F1-F6 spike memory    F7 masked    F8 silent chunks dropped    queue

    Parameters
    ----------
    number : number ``n`` of the bank, from 0. A slot arrives ``n`` cycles later than in bank 0, and
        ``room`` takes ``n`` cycles to reach bank 0.

    Members
    -------
    slot : what to read in this cycle, see :func:`hw.core.walk.slot_layout`.
    layer : fields of the running layer's descriptor, stable while the layer runs.
    read_bit, gather, window : to and from spike memory, see :class:`hw.core.spikes.SpikeMemory`.
    granule : granules (bytes of spikes) that were read for the host.
    chunks : chunks for the scanner, which goes through their active inputs.
    identities : the identity spikes (:class:`hw.core.walk.Walk`) that this bank has of each job;
        meaningless in a layer without a gate.
    room : the queue of chunks has room for another one, in addition to all chunks that are still in
        the pipeline.
    """

    LATENCY = FETCH_LATENCY
    """Number of cycles from a slot (read of spike memory) until it is known whether the inputs that
    it read (a chunk) are all silent."""

    def __init__(self, config: Config, number: int = 0):
        self._config, self._number = config, number
        super().__init__(
            {
                "slot": In(slot_layout(config)),
                "layer": In(window_layout(config)),
                "read_bit": Out(address_widths(config)["source"]),
                "gather": Out(1),
                "window": In(config.chunk_bits),
                "granule": Out(stream.Signature(GRANULE_BITS, always_ready=True)),
                "chunks": Out(stream.Signature(chunk_layout(config))),
                "identities": Out(stream.Signature(config.bank_lanes)),
                "room": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, slot, layer = self._config, self.slot, self.layer
        m.submodules.merger = merger = Merger(config)
        m.submodules.chunks = chunks = Queue(chunk_layout(config), CHUNK_DEPTH, always_ready=True)
        wiring.connect(m, chunks.o, wiring.flipped(self.chunks))
        m.submodules.identities = identities = Queue(
            config.bank_lanes, config.identity_depth, always_ready=True
        )
        wiring.connect(m, identities.o, wiring.flipped(self.identities))
        m.d.sync += self.room.eq(chunks.level <= config.chunk_room(self._number))
        m.d.comb += [self.read_bit.eq(slot.bit), self.gather.eq(slot.gather)]

        # F6: the window arrives. The mask is computed in parallel.
        chunk6, host6 = delayed(m, Cat(slot.chunk, slot.host[0]), SpikeMemory.LATENCY, reset=True)
        cut5, silent5 = delayed(m, Cat(slot.cut, slot.silent), SpikeMemory.LATENCY - 1)
        mask = unreset(config.chunk_bits)
        for k in range(config.chunk_bits // PIECE_BITS):
            n_bits = Mux(cut5, layer.tail_bits[k], layer.body_bits[k])
            m.d.sync += mask.word_select(k, PIECE_BITS).eq(thermometer(n_bits, PIECE_BITS))
        with m.If(silent5):
            m.d.sync += mask.eq(0)
        m.d.comb += [self.granule.valid.eq(host6), self.granule.payload.eq(self.window)]
        # F7: clear the bits that are no inputs of the job. The window is now that of the next slot:
        # the identity spikes, if this slot ends a job of a gated layer.
        bits7 = unreset(config.chunk_bits)
        m.d.sync += bits7.eq(self.window & mask)
        valid7 = delayed(m, chunk6, 1, reset=True)
        tags = Cat(slot.weight, slot.last, slot.tail)
        chunk = merger.chunk.p
        m.d.comb += [
            merger.chunk.valid.eq(valid7),
            chunk.bits.eq(bits7),
            Cat(chunk.weight, chunk.last, chunk.tail).eq(delayed_in_memory(m, tags, self.LATENCY)),
            identities.i.valid.eq(valid7 & chunk.last),
            identities.i.p.eq(self.window),
            chunks.i.valid.eq(merger.merged.valid),
            chunks.i.p.eq(merger.merged.p),
        ]
        return m
