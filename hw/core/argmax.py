"""Argmax of the logits, which is the predicted class."""

from itertools import pairwise

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import unreset
from hw.spec import Config


class Argmax(wiring.Component):
    """Find the index of the largest logit, the first if several are equal.

    The logits are in parameter memory, ``fire_lanes`` of them per row. The search takes two
    cycles per logit, and another :attr:`hw.spec.Config.param_latency` cycles per row.

    Members
    -------
    start, n_classes : ``start`` begins a search among ``n_classes`` logits; ``n_classes`` is at
        least 1 and stable until ``done``.
    row : row of logits to read; row 0 has the first logits.
    logits : contents of that row, :attr:`hw.spec.Config.param_latency` cycles later.
    busy : a search is in progress; while it is, parameter memory must read ``row`` in every cycle.
    index : index of the first largest logit, valid from ``done`` until the next ``start``.
    done : high for one cycle at the end.
    """

    def __init__(self, config: Config):
        self._config = config
        index = range(config.result_rows * config.fire_lanes)
        super().__init__(
            {
                "start": In(1),
                "n_classes": In(12),
                "row": Out(range(config.result_rows)),
                "logits": In(data.ArrayLayout(signed(32), config.fire_lanes)),
                "busy": Out(1),
                "index": Out(index),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n_lanes = self._config.fire_lanes
        lane = Signal(range(max(n_lanes, 2)))
        candidate = Signal.like(self.index)
        best, logit = (unreset(signed(self._config.membrane_bits)) for _ in range(2))
        m.d.sync += logit.eq(self.logits[lane])
        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.sync += [self.row.eq(0), lane.eq(0), candidate.eq(0)]
                with m.If(self.start):
                    m.next = "READ0"
            reads = [f"READ{n}" for n in range(self._config.param_latency)]
            for state, after in pairwise([*reads, "PICK"]):
                with m.State(state):
                    m.next = after
            with m.State("PICK"):
                m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If((candidate == 0) | (logit > best)):
                    m.d.sync += [best.eq(logit), self.index.eq(candidate)]
                m.d.sync += [candidate.eq(candidate + 1), lane.eq(lane + 1)]
                m.next = "PICK"
                with m.If(lane == n_lanes - 1):
                    m.d.sync += [lane.eq(0), self.row.eq(self.row + 1)]
                    m.next = "READ0"
                with m.If(candidate + 1 >= self.n_classes[: len(candidate) + 1]):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
