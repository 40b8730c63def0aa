"""The class: index of the first largest logit."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.spec import Config


class Argmax(wiring.Component):
    """Walk result memory, one logit per cycle and two more per row.

    Members
    -------
    start : begin; ``n_classes`` (at least 1) is held stable until ``done``.
    row, logits : to result memory, read with one cycle of latency.
    index : of the first largest logit, from ``done`` until the next ``start``.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "n_classes": In(16),
                "row": Out(range(config.result_rows)),
                "logits": In(data.ArrayLayout(signed(config.membrane_bits), config.fire_lanes)),
                "index": Out(16),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, n_lanes = self._config.membrane_bits, self._config.fire_lanes
        logits = Signal(width * n_lanes)  # shifted down, the next one in the lowest bits
        lane = Signal(range(max(n_lanes, 2)))
        candidate = Signal(16)
        best = Signal(signed(width))
        logit = logits[:width].as_signed()
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [self.row.eq(0), candidate.eq(0)]
                with m.If(self.start):
                    m.next = "READ"
            with m.State("READ"):
                m.next = "LATCH"
            with m.State("LATCH"):
                m.d.sync += [
                    logits.eq(self.logits.as_value()),
                    lane.eq(0),
                    self.row.eq(self.row + 1),
                ]
                m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If((candidate == 0) | (logit > best)):
                    m.d.sync += [best.eq(logit), self.index.eq(candidate)]
                m.d.sync += [
                    candidate.eq(candidate + 1),
                    lane.eq(lane + 1),
                    logits.eq(logits >> width),
                ]
                with m.If(candidate + 1 >= self.n_classes):
                    m.next = "DONE"
                with m.Elif(lane == n_lanes - 1):
                    m.next = "READ"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
