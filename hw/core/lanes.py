"""The accumulators of a bank, which add ``lanes`` weights per cycle.

A *job* is the computation of one output position of one group of ``lanes`` output channels at one
timestep (:class:`hw.core.core.Core`). Its *sums* are one number per lane.
"""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.sums import sums_layout
from hw.core.weights import row_layout
from hw.parts.pipeline import unreset
from hw.spec import Config


class Lanes(wiring.Component):
    """Add rows of weights to the accumulators, one weight per lane, until the job ends.

    A job is one output position, group of ``lanes`` output channels and timestep.

    With a queue of sums (``sum_queue > 0``), the result of a job's last addition goes directly into
    the queue, and the accumulators are cleared for the next job. Clearing a register is free on an
    ECP5, whereas a multiplexer between a sum and a weight takes as much logic as the adder.

    Without a queue, the sums stay in the accumulators until they are taken, and the first addition
    of a job loads the weight. An iCE40 has the multiplexer for free in the adder's cells, but would
    need one more cell per bit if the adder's output left the lane without a register.

    Members
    -------
    rows : rows of weights, in order, with gaps of any length between them. With a queue of sums,
        rows are always taken. Without a queue, they wait while the sums of the job before have not
        been taken.
    clear : reset the sums of the current job.
    sums : for each job, the bank's sums, one per lane, when all weights have been added.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "rows": In(stream.Signature(row_layout(config))),
                "clear": In(1),
                "sums": Out(stream.Signature(sums_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, row = self._config, self.rows.p
        ends = Signal()
        m.d.comb += ends.eq(self.rows.valid & row.last)
        weights = [
            row.weights.word_select(lane, config.weight_bits).as_signed()
            for lane in range(config.lanes)
        ]
        totals = [unreset(signed(config.sum_bits), f"total{lane}") for lane in range(config.lanes)]
        if config.sum_queue:
            m.d.comb += [self.rows.ready.eq(1), self.sums.valid.eq(ends)]
            for lane, (total, weight) in enumerate(zip(totals, weights, strict=True)):
                m.d.comb += self.sums.p[lane].eq(total + weight)
                with m.If(self.rows.valid):  # the weights of a silent job's event are 0
                    m.d.sync += total.eq(self.sums.p[lane])
                with m.If(ends | self.clear):
                    m.d.sync += total.eq(0)
            return m

        move = Signal()
        m.d.comb += [move.eq(~self.sums.valid | self.sums.ready), self.rows.ready.eq(move)]
        begins = Signal(init=1)  # the next addition is the first of its job
        with m.If(move):
            m.d.sync += self.sums.valid.eq(ends)
        with m.If(move & self.rows.valid):
            m.d.sync += begins.eq(row.last)
        with m.If(self.clear):
            m.d.sync += [self.sums.valid.eq(0), begins.eq(1)]
        for lane, (total, weight) in enumerate(zip(totals, weights, strict=True)):
            m.d.comb += self.sums.p[lane].eq(total)
            with m.If(move & self.rows.valid & (row.add | begins)):
                m.d.sync += total.eq(Mux(begins, weight, total + weight))
                with m.If(~row.add):
                    m.d.sync += total.eq(0)  # a silent job
        return m
