"""The accumulators, which add ``lanes`` weights per cycle."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.sums import sums_layout
from hw.parts.pipeline import unreset
from hw.spec import Config


class Lanes(wiring.Component):
    """Add a row of weights to the accumulators, one weight per lane, for every event.

    An event is one active input of a job; the weights in its row are those of its synapses to the
    ``lanes`` output channels of the job.

    With a queue of sums (``sum_queue > 0``), the result of a job's last addition goes directly into
    the queue and the accumulators are cleared for the next job: clearing a register is free on an
    ECP5, whereas a multiplexer between a sum and a weight takes as much logic as the adder.

    Without a queue, the sums stay in the accumulators until they are taken, and the first addition
    of a job loads the weight. An iCE40 has the multiplexer for free in the adder's cells, but would
    need one more cell per bit if the adder's output left the lane without a register.

    Members
    -------
    move : the pipeline from scanner to lanes advances in this cycle. It is low while a job's sums
        wait to be taken, which happens only without a queue.
    add, ends : ``add`` marks an event; ``ends`` marks the last event of a job.
    clear : reset the sums of the current job.
    weights : row of weights of the event, lane 0 in the lowest bits.
    sums : sums of each job, when all its events have been added.
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
        begins = Signal(init=1)  # only without a queue: the next addition is the first of its job
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
