"""The accumulators: ``lanes`` additions per cycle, and nothing else."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.sums import sums_layout
from hw.parts.pipeline import unreset
from hw.spec import Config


class Lanes(wiring.Component):
    """Add a row of weights to the accumulators.

    Where a queue takes the sums, a job's last addition goes there at once, and leaves 0 for the
    next job: to clear a register is free, where to choose between a sum and a weight takes as much
    logic as the adder. Where there is none they stay in the accumulators until they are taken; an
    iCE40, which is meant there, chooses for free, and would need a cell more per bit for a sum that
    is not only registered.

    Members
    -------
    move : the pipeline moves on this cycle: false while a job's sums wait to be taken, which they
        never do where there is a queue.
    add, ends : an event takes place, which may be the last of a job.
    clear : forget what has been added.
    weights : row of weights, lane 0 in the lowest bits.
    sums : of a whole job.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "move": Out(1),
                "add": In(1),
                "ends": In(1),
                "clear": In(1),
                "weights": In(config.lanes * config.weight_bits),
                "sums": Out(stream.Signature(sums_layout(config, config.lanes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queued = self._config.sum_queue > 0
        m.d.comb += self.move.eq(~(self.sums.valid & ~self.sums.ready))
        adds, ends = Signal(), Signal()
        m.d.comb += [adds.eq(self.move & self.add), ends.eq(self.move & self.ends)]
        begins = Signal(init=1)  # without a queue: the next addition is the first one of its job
        if queued:
            m.d.comb += self.sums.valid.eq(self.ends)
        else:
            with m.If(self.move):
                m.d.sync += self.sums.valid.eq(self.ends)
            with m.If(adds):
                m.d.sync += begins.eq(ends)
            with m.If(self.clear):
                m.d.sync += [self.sums.valid.eq(0), begins.eq(1)]
        for lane in range(self._config.lanes):
            weight = self.weights.word_select(lane, self._config.weight_bits).as_signed()
            total = unreset(signed(self._config.membrane_bits), f"total{lane}")
            if queued:
                m.d.comb += self.sums.p[lane].eq(total + weight)
                with m.If(adds):
                    m.d.sync += total.eq(self.sums.p[lane])
                with m.If(ends | self.clear):
                    m.d.sync += total.eq(0)
            else:
                m.d.comb += self.sums.p[lane].eq(total)
                with m.If(adds):
                    m.d.sync += total.eq(Mux(begins, weight, total + weight))
        return m
