"""The accumulators: ``lanes`` additions per cycle, and nothing else."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.pipeline import storage
from hw.spec import Config


class Lanes(wiring.Component):
    """Add a row of weights to the accumulators.

    Members
    -------
    move : the pipeline moves on this cycle: false while a job's sums wait to be taken, which they
        never do where there is a queue.
    add : an event takes place; ``first`` it begins a job, ``last`` it ends one.
    weights : row of weights, lane 0 in the lowest bits.
    sums : accumulators of a whole job.
    """

    def __init__(self, config: Config):
        self._config = config
        sums = data.ArrayLayout(signed(config.membrane_bits), config.lanes)
        super().__init__(
            {
                "move": Out(1),
                "add": In(1),
                "first": In(1),
                "last": In(1),
                "weights": In(config.lanes * config.weight_bits),
                "sums": Out(stream.Signature(sums)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.move.eq(~(self.sums.valid & ~self.sums.ready))
        with m.If(self.move):
            m.d.sync += self.sums.valid.eq(self.add & self.last)
        for lane in range(self._config.lanes):
            weight = Signal(signed(self._config.weight_bits), name=f"weight{lane}")
            m.d.comb += weight.eq(self.weights.word_select(lane, self._config.weight_bits))
            total = storage(signed(self._config.membrane_bits), f"total{lane}")
            m.d.comb += self.sums.p[lane].eq(total)
            with m.If(self.move & self.add):
                m.d.sync += total.eq(Mux(self.first, weight, total + weight))
        return m
