"""The counters of a layer: cycles, weight reads, synaptic operations, spikes."""

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import unreset
from hw.protocol import LayerCounters
from hw.spec import Config


class Counters(wiring.Component):
    """Count cycles, weight reads, operations and spikes of one layer; the host reads the counts
    after the run.

    Members
    -------
    clear : reset the counts to 0.
    counting : high in each cycle of the layer; nothing is counted while it is low.
    n_real, n_tail : numbers of rows of weights, read by all banks together, to add to the counts in
        this cycle. ``n_tail`` is the number for the last group of output channels, ``n_real`` that
        for all other groups, which have ``lanes`` channels each.
    tail_lanes : number of output channels in the last group.
    n_spikes : number of spikes to add to their count in this cycle.
    counters : the counts since ``clear``.
    """

    def __init__(self, config: Config):
        self._config = config
        count = range(config.banks + 1)
        super().__init__(
            {
                "clear": In(1),
                "counting": In(1),
                "n_real": In(count),
                "n_tail": In(count),
                "tail_lanes": In(range(config.lanes + 1)),
                "n_spikes": In(range(config.lanes + 1)),
                "counters": Out(LayerCounters),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        counters = unreset(LayerCounters)
        # Additions of this cycle: a product with a small number, from additions.
        n_synapses = Signal(range(config.banks * config.lanes + 1))
        n_tail_synapses: Value = Mux(self.n_tail[0], self.tail_lanes, 0)
        for i in range(1, len(self.n_tail)):
            n_tail_synapses = n_tail_synapses + Mux(self.n_tail[i], self.tail_lanes << i, 0)
        n_reads = Signal(range(config.banks + 1))
        m.d.sync += [
            n_reads.eq(self.n_real + self.n_tail),
            n_synapses.eq((self.n_real << (config.lanes - 1).bit_length()) + n_tail_synapses),
        ]
        m.d.comb += self.counters.eq(counters)
        with m.If(self.counting):
            m.d.sync += [
                counters.n_cycles.eq(counters.n_cycles + 1),
                counters.n_weight_reads.eq(counters.n_weight_reads + n_reads),
                counters.n_synaptic_ops.eq(counters.n_synaptic_ops + n_synapses),
                counters.n_spikes.eq(counters.n_spikes + self.n_spikes),
            ]
        with m.If(self.clear):
            m.d.sync += counters.eq(0)
        return m
