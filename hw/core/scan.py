"""The scanner, which turns chunks of input spikes into events, one active input per cycle.

An *event* is one active input (set bit) of a job; it adds one row of weights to the accumulators.
A chunk holds up to ``chunk_bits`` inputs, in pieces of :data:`hw.spec.PIECE_BITS` bits.
"""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.fetch import chunk_layout
from hw.core.nest import address_widths
from hw.parts.pipeline import delayed, encode_one_hot, more_than_one, select_one_hot, unreset
from hw.protocol import N_PIECES
from hw.spec import PIECE_BITS, Config


def event_layout(config: Config) -> data.StructLayout:
    """Return the layout of an event: one active input, with the row of its weights.

    ``weight`` is the address of the row in weight memory. ``last`` marks the last event of a job;
    ``tail`` is as in :func:`hw.core.nest.step_layout`.
    """
    return data.StructLayout({"weight": address_widths(config)["weight"], "last": 1, "tail": 1})


class Scanner(wiring.Component):
    """Emit an event for every set bit of the chunks that arrive, one per cycle.

    No cycle is lost between two chunks or jobs. ::

        E0 lowest one of the first      E1 index of the bit in the      E2 weight row added up,
           piece that is not empty         piece (one-hot to binary)       event out

    Members
    -------
    chunks : chunks with active inputs, from the fetch unit.
    piece_weights : field of the current layer's :class:`hw.protocol.Header`.
    room : the next active input may enter the pipeline in this cycle.
    move : the pipeline advances in this cycle.
    event : one active input; held while the pipeline does not advance.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "chunks": In(stream.Signature(chunk_layout(config))),
                "piece_weights": In(data.ArrayLayout(8, N_PIECES)),
                "room": In(1),
                "move": In(1),
                "event": Out(stream.Signature(event_layout(config), always_ready=True)),
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

        emit, is_last_bit = Signal(), Signal()
        chosen = Signal(n_pieces)
        left = [Signal(PIECE_BITS, name=f"left{k}") for k in range(n_pieces)]
        stays = Cat(more_than_one(piece) for piece in pieces)
        m.d.comb += [
            *(value.eq(piece & (piece - 1)) for value, piece in zip(left, pieces, strict=True)),
            chosen.eq(occupied & -occupied),
            is_last_bit.eq(~(chosen & stays).any() & ((occupied & ~chosen) == 0)),
            emit.eq(holds & self.room & self.move),
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
        with m.If(self.move):
            m.d.sync += [
                lowest.eq(
                    select_one_hot(chosen, [piece & -piece for piece in pieces])[:PIECE_BITS]
                ),
                piece_weight.eq(
                    select_one_hot(chosen, [self.piece_weights[k] for k in range(n_pieces)])
                ),
            ]
        # E1 to E2
        index = unreset((PIECE_BITS - 1).bit_length())
        piece_weight2 = unreset(8)
        tags = delayed(m, Cat(is_last_bit & last, tail, weight), 2, self.move)
        valid = delayed(m, holds & self.room, 2, self.move, reset=True)
        event = unreset(event_layout(self._config))
        m.d.comb += self.event.p.eq(event)
        with m.If(self.move):
            m.d.sync += [index.eq(encode_one_hot(lowest)), piece_weight2.eq(piece_weight)]
            m.d.sync += [
                self.event.valid.eq(valid),
                Cat(event.last, event.tail).eq(tags[:2]),
                event.weight.eq(tags[2:] + piece_weight2 + index),
            ]
        return m
