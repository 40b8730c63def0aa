"""The scanner, which turns chunks of input spikes into events, one active input per cycle.

A *job* is the computation of one output position of one group of output channels at one timestep. A
*chunk* is up to ``chunk_bits`` of a job's inputs, in *pieces* of :data:`hw.spec.PIECE_BITS` bits.
An *event* is one active input (set bit) of a job; it adds one row of weights to the accumulators. A
job without active inputs has one event, too, which adds nothing and marks its end.
"""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.fetch import chunk_layout, window_layout
from hw.core.nest import address_widths
from hw.parts.pipeline import delayed, encode_one_hot, more_than_one, select_one_hot, unreset
from hw.spec import GRANULE_BITS, PIECE_BITS, Config


def event_layout(config: Config) -> data.StructLayout:
    """Return the layout of an event: an active input, the end of a job, or both.

    ``add`` marks an active input, whose weights are in row ``weight``. ``last`` marks the last
    event of a job. ``tail`` is as in :func:`hw.core.nest.step_layout`.
    """
    return data.StructLayout(
        {
            "weight": address_widths(config)["weight"],
            "add": 1,
            "last": 1,
            "tail": 1,
        }
    )


class Scanner(wiring.Component):
    """Emit an event for each set bit (active input) of a chunk, one per cycle, lowest bit first.

    A chunk is up to ``chunk_bits`` inputs of a job (output position, channel group and timestep).
    There are no idle cycles between chunks or jobs. A job without active inputs has one chunk,
    which is empty; it takes one cycle, too, for the event that ends the job. ::

        E0 lowest set bit of the        E1 index of the bit in the      E2 weight row added up,
           first nonempty piece            piece (one-hot to binary)       event out

    Members
    -------
    chunks : chunks from the fetch unit.
    layer : fields of the running layer's descriptor, stable while the layer runs.
    room : an event may enter the pipeline in this cycle.
    event : events; the pipeline advances in each cycle in which the next stage is ready.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "chunks": In(stream.Signature(chunk_layout(config))),
                "layer": In(window_layout(config)),
                "room": In(1),
                "event": Out(stream.Signature(event_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n_pieces = self._config.chunk_bits // PIECE_BITS
        incoming = self.chunks.p
        pieces = [unreset(PIECE_BITS, f"piece{k}") for k in range(n_pieces)]
        occupied = unreset(n_pieces)
        weight = unreset(incoming.weight.shape())
        last, tail = unreset(1), unreset(1)
        holds = Signal()
        move = self.event.ready

        emit, is_last_bit = Signal(), Signal()
        chosen = Signal(n_pieces)
        left = [Signal(PIECE_BITS, name=f"left{k}") for k in range(n_pieces)]
        stays = Cat(more_than_one(piece) for piece in pieces)
        m.d.comb += [
            *(value.eq(piece & (piece - 1)) for value, piece in zip(left, pieces, strict=True)),
            chosen.eq(occupied & -occupied),
            is_last_bit.eq(~(chosen & stays).any() & ((occupied & ~chosen) == 0)),
            emit.eq(holds & self.room & move),
            self.chunks.ready.eq(~holds | (emit & is_last_bit)),
        ]
        with m.If(emit):
            for k in range(n_pieces):
                with m.If(chosen[k]):
                    m.d.sync += [pieces[k].eq(left[k]), occupied[k].eq(stays[k])]
            with m.If(is_last_bit):
                m.d.sync += holds.eq(0)
        with m.If(self.chunks.valid & self.chunks.ready):
            m.d.sync += [
                holds.eq(1),
                weight.eq(incoming.weight),
                last.eq(incoming.last),
                tail.eq(incoming.tail),
            ]
            for k in range(n_pieces):
                bits = incoming.bits.word_select(k, PIECE_BITS)
                m.d.sync += [pieces[k].eq(bits), occupied[k].eq(bits.any())]

        # E0 to E1
        lowest = unreset(PIECE_BITS)
        piece_weight = unreset(8)
        with m.If(move):
            m.d.sync += [
                lowest.eq(
                    select_one_hot(chosen, [piece & -piece for piece in pieces])[:PIECE_BITS]
                ),
                piece_weight.eq(
                    select_one_hot(chosen, [self.layer.piece_weights[k] for k in range(n_pieces)])
                ),
            ]
        # E1 to E2
        index = Signal((PIECE_BITS - 1).bit_length())
        m.d.comb += index.eq(encode_one_hot(lowest))
        row = unreset(len(index))  # the granule's first row, and the bit in the granule
        granule_bits = (GRANULE_BITS - 1).bit_length()
        with m.If(move), m.Switch(self.layer.granule_rows):
            for n in range(granule_bits + 1):
                with m.Case(n):
                    m.d.sync += row.eq(Cat(index[:n], index[granule_bits:]))
        piece_weight2 = delayed(m, piece_weight, 1, move)
        tags = Cat(is_last_bit & last, tail, occupied.any(), weight)
        tags2 = delayed(m, tags, 2, move)
        valid2 = delayed(m, holds & self.room, 2, move, reset=True)
        event = unreset(event_layout(self._config))
        m.d.comb += self.event.p.eq(event)
        with m.If(move):
            m.d.sync += [
                self.event.valid.eq(valid2),
                Cat(event.last, event.tail, event.add, event.weight).eq(tags2),
                event.weight.eq(tags2[-len(weight) :] + piece_weight2 + row),
            ]
        return m
