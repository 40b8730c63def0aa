"""From chunks to events: one active input, one row of weights, per cycle."""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.fetch import chunk_layout
from hw.core.nest import address_widths
from hw.core.pipeline import delayed, encode
from hw.spec import Config


def event_layout(config: Config) -> data.StructLayout:
    """``read`` the weights in row ``weight`` (not in a silent job) and add them; ``first`` and
    ``last`` event of a job; ``tail`` as in :func:`hw.core.nest.step_layout`."""
    return data.StructLayout(
        {
            "weight": address_widths(config)["weight"],
            "read": 1,
            "first": 1,
            "last": 1,
            "tail": 1,
        }
    )


class Scanner(wiring.Component):
    """Find first set, every cycle: an active input each, no bubble between chunks or jobs. ::

        E0 lowest one     E1 index     E2 row = chunk's row + index, event out

    Two jobs end at least ``spacing`` cycles apart, which is what the fire unit needs.

    Members
    -------
    chunks : from the fetch unit.
    spacing : cycles, of the layer that runs.
    event : taken at once.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "chunks": In(stream.Signature(chunk_layout(config))),
                "spacing": In(8),
                "event": Out(stream.Signature(event_layout(config), always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = chunk_layout(self._config)
        chunk = Signal(layout)
        holds = Signal()
        emit = Signal()
        is_last_bit = Signal()
        wait = Signal(8)
        lowest = Signal(self._config.chunk_bits)
        m.d.comb += [
            lowest.eq(chunk.bits & -chunk.bits),
            is_last_bit.eq(chunk.count[1:] == 0),
            emit.eq(holds & ~(is_last_bit & chunk.last & (wait != 0))),
            self.chunks.ready.eq(~holds | (emit & is_last_bit)),
        ]
        with m.If(emit):
            m.d.sync += [
                chunk.bits.eq(chunk.bits & (chunk.bits - 1)),
                chunk.count.eq(chunk.count - 1),
                chunk.first.eq(0),
            ]
            with m.If(is_last_bit):
                m.d.sync += holds.eq(0)
        with m.If(self.chunks.valid & self.chunks.ready):
            m.d.sync += [chunk.eq(self.chunks.p), holds.eq(1)]
        with m.If(emit & is_last_bit & chunk.last):
            m.d.sync += wait.eq(self.spacing - (self.spacing != 0))
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)

        # E1: one-hot; E2: index; event: row.
        one_hot = Signal(self._config.chunk_bits)
        index = Signal((self._config.chunk_bits - 1).bit_length())
        m.d.sync += [one_hot.eq(lowest), index.eq(encode(one_hot))]
        tags = Cat(
            chunk.weight, chunk.count != 0, chunk.first, is_last_bit & chunk.last, chunk.tail
        )
        tags, valid = delayed(m, tags, 2), delayed(m, emit, 2)
        weight_bits = len(chunk.weight)
        event = self.event.p
        m.d.sync += [
            self.event.valid.eq(valid),
            event.weight.eq(tags[:weight_bits] + index),
            Cat(event.read, event.first, event.last, event.tail).eq(tags[weight_bits:]),
        ]
        return m
