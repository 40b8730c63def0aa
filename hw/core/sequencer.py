"""The sequencer, which runs layer after layer from descriptors in weight memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import WORD_BITS
from hw.core.weights import WeightMemory
from hw.parts.pipeline import delayed, unreset
from hw.protocol import (
    HEADER_WORDS,
    LEVEL_WORDS,
    Header,
    LayerCounters,
    Result,
    Run,
    descriptor_rows,
)
from hw.spec import N_LEVELS, Config

ROW_LATENCY = WeightMemory.LATENCY
"""Cycles from ``row`` to its ``row_data``."""


class Sequencer(wiring.Component):
    """Execute the layers of a run (one inference) in order.

    For each layer: load its descriptor, start the loop nest, wait for the last job, store the
    counters, and wait until the other cores have finished the layer, too. After the final layer:
    start the argmax and report the result.

    Members
    -------
    run, done, busy : as in :class:`hw.bus.CoreBus`.
    loading, row, row_data : while ``loading``, weight memory reads the row at address ``row``,
        which arrives on ``row_data`` :data:`ROW_LATENCY` cycles later.
    header : header of the current layer's descriptor.
    word, header_en, header_word, level_en, level, level_word, clear, start : see
        :class:`hw.core.nest.LoopNest`.
    finished : the fire unit has written the layer's last job.
    read, n_synapses, n_spikes : what happens in this cycle, to be added to the layer's counters:
        ``read`` is high if a row of weights is read, ``n_synapses`` is the number of its weights
        that are not padding, and ``n_spikes`` is the number of spikes written.
    bank : which of the two banks of parameter memory takes the results and counters of the run in
        progress. The other bank holds those of the run that was reported on ``done`` last.
    counter_data, counter_index, counter_en : row of counters to write into parameter memory, and
        its index, 0 for the first row of the first layer.
    argmax_start, argmax_done, argmax_index : ports ``start``, ``done`` and ``index`` of
        :class:`hw.core.argmax.Argmax`.
    meets : this core has finished its part of the current layer.
    all_met : all cores have finished their parts, so that the next layer may begin.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "run": In(stream.Signature(Run)),
                "done": Out(stream.Signature(Result)),
                "busy": Out(1),
                "loading": Out(1),
                "row": Out(range(config.weight_depth)),
                "row_data": In(config.lanes * config.weight_bits),
                "header": Out(Header),
                "word": Out(WORD_BITS),
                "header_en": Out(1),
                "header_word": Out(4),
                "level_en": Out(1),
                "level": Out(range(N_LEVELS)),
                "level_word": Out(range(LEVEL_WORDS)),
                "clear": Out(1),
                "start": Out(1),
                "finished": In(1),
                "read": In(1),
                "n_synapses": In(range(config.lanes + 1)),
                "n_spikes": In(range(config.lanes + 1)),
                "bank": Out(1),
                "counter_data": Out(32 * config.fire_lanes),
                "counter_index": Out(range(config.max_layers * config.counter_rows)),
                "counter_en": Out(1),
                "argmax_start": Out(1),
                "argmax_done": In(1),
                "argmax_index": In(16),
                "meets": Out(1),
                "all_met": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        row_words = config.lanes * config.weight_bits // WORD_BITS
        result = unreset(Result)
        counting = Signal()
        counters = unreset(LayerCounters)

        m.d.comb += self.done.p.eq(result)
        with m.If(self.busy):
            m.d.sync += result.n_cycles.eq(result.n_cycles + 1)
        with m.If(counting):
            m.d.sync += [
                counters.n_cycles.eq(counters.n_cycles + 1),
                counters.n_weight_reads.eq(counters.n_weight_reads + self.read),
                counters.n_synaptic_ops.eq(
                    counters.n_synaptic_ops + Mux(self.read, self.n_synapses, 0)
                ),
                counters.n_spikes.eq(counters.n_spikes + self.n_spikes),
            ]

        # One word of the descriptor is read per cycle: word `part` of row `row`.
        base = Signal.like(self.row)
        part = Signal(range(max(row_words, 2)))
        asking = Signal()
        arriving = delayed(m, self.loading & asking, ROW_LATENCY, reset=True)
        arriving_part = delayed(m, part, ROW_LATENCY)
        m.d.sync += [self.header_en.eq(0), self.level_en.eq(0)]
        n_header = Signal(range(HEADER_WORDS + 1))
        n_level = Signal(range(N_LEVELS * LEVEL_WORDS + 1))
        complete = n_level == Cat(0, 0, self.header.n_levels)
        with m.If(self.loading & asking):
            m.d.sync += part.eq(part + 1)
            with m.If(part == row_words - 1):
                m.d.sync += [part.eq(0), self.row.eq(self.row + 1)]
        with m.If(self.loading & arriving):
            m.d.sync += self.word.eq(
                self.row_data.word_select(arriving_part, WORD_BITS)
                if row_words > 1
                else self.row_data
            )
            with m.If(n_header != HEADER_WORDS):
                m.d.sync += [
                    self.header_en.eq(1),
                    self.header_word.eq(n_header),
                    n_header.eq(n_header + 1),
                ]
            with m.Elif(~complete):
                m.d.sync += [
                    self.level_en.eq(1),
                    Cat(self.level_word, self.level).eq(n_level),
                    n_level.eq(n_level + 1),
                ]
        held = unreset(Header)
        m.d.comb += self.header.eq(held)
        for i in range(HEADER_WORDS):
            with m.If(self.header_en & (self.header_word == i)):
                m.d.sync += held.as_value().word_select(i, WORD_BITS).eq(self.word)

        # The counters are stored in rows of parameter memory, in the order of LayerCounters.
        n_stored = Signal(range(max(config.counter_rows, 2)))
        row_bits = len(self.counter_data)
        m.d.comb += self.counter_data.eq(counters.as_value().word_select(n_stored, row_bits))

        settling = Signal(range(4))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.run.ready.eq(1)
                with m.If(self.run.valid):
                    m.d.sync += [
                        self.busy.eq(1),
                        base.eq(self.run.p.entry),
                        self.counter_index.eq(0),
                        result.tag.eq(self.run.p.tag),
                        result.n_cycles.eq(0),
                    ]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += self.clear.eq(1)
                m.d.sync += [
                    self.row.eq(base),
                    base.eq(base + descriptor_rows(config)),
                    part.eq(0),
                    asking.eq(1),
                    n_header.eq(0),
                    n_level.eq(0),
                    settling.eq(0),
                    counters.eq(0),
                    counting.eq(1),
                ]
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.loading.eq(1)
                with m.If((n_header == HEADER_WORDS) & ~self.header_en & complete):
                    m.next = "SETTLE"
            with m.State("SETTLE"):  # wait for registers derived from levels and header
                m.d.sync += settling.eq(settling + 1)
                with m.If(settling == 1):
                    m.d.comb += self.start.eq(~self.header.idle)
                    m.next = "RUN"
            with m.State("RUN"), m.If(self.finished | self.header.idle):
                m.d.sync += settling.eq(0)
                m.next = "COUNT"
            with m.State("COUNT"):  # wait until the last spikes have been counted
                m.d.sync += [settling.eq(settling + 1), n_stored.eq(0)]
                with m.If(settling == 1):
                    m.d.sync += counting.eq(0)
                    m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += self.counter_en.eq(1)
                m.d.sync += [
                    self.counter_index.eq(self.counter_index + 1),
                    n_stored.eq(n_stored + 1),
                ]
                with m.If(n_stored == config.counter_rows - 1):
                    with m.If(self.header.final):
                        m.d.comb += self.argmax_start.eq(1)
                        m.next = "ARGMAX"
                    with m.Else():
                        m.next = "MEET"
            with m.State("MEET"):
                m.d.comb += self.meets.eq(1)
                with m.If(self.all_met):
                    m.next = "BEGIN"
            with m.State("ARGMAX"), m.If(self.argmax_done):
                m.d.sync += [
                    result.argmax.eq(self.argmax_index),
                    self.busy.eq(0),
                ]
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.d.sync += self.bank.eq(~self.bank)
                    m.next = "IDLE"
        return m
