"""A register for streams, which divides long paths of logic."""

from amaranth import Module, ShapeLike, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class StreamRegister(wiring.Component):
    """Store one item of a stream between two components. An item passes at most every second cycle.

    ``o.valid`` and ``i.ready`` depend only on registers, not on inputs of the same cycle. So no
    path of logic leads through the component, in either direction.

    Parameters
    ----------
    shape : shape of an item.

    Members
    -------
    i, o : items in and out.
    """

    def __init__(self, shape: ShapeLike):
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        item = Signal(self._shape, reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid), self.o.p.eq(item)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), item.eq(self.i.p)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
