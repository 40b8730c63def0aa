"""The accumulators: ``lanes`` additions per cycle, and nothing else."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.spec import Config


class Lanes(wiring.Component):
    """Add a row of weights to the accumulators.

    Members
    -------
    add : an event takes place; ``read`` it brings weights, ``first`` it begins a job, ``last`` it
        ends one.
    weights : row of weights, lane 0 in the lowest bits.
    sums : accumulators; those of a whole job in the cycle in which ``done``.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "add": In(1),
                "read": In(1),
                "first": In(1),
                "last": In(1),
                "weights": In(config.lanes * config.weight_bits),
                "sums": Out(data.ArrayLayout(signed(config.membrane_bits), config.lanes)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.done.eq(self.add & self.last)
        for lane in range(self._config.lanes):
            weight = Signal(signed(self._config.weight_bits), name=f"weight{lane}")
            m.d.comb += weight.eq(self.weights.word_select(lane, self._config.weight_bits))
            with m.If(self.add):
                m.d.sync += self.sums[lane].eq(
                    Mux(self.first, 0, self.sums[lane]) + Mux(self.read, weight, 0)
                )
        return m
