"""The sequencer: layer after layer, from descriptors in program memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import DESCRIPTOR_WORDS, Header, LayerCounters, Level, Result, Run, n_bytes
from hw.spec import N_LEVELS, Config

WORD_BITS = 32
HEADER_WORDS = n_bytes(Header) * 8 // WORD_BITS
LEVEL_WORDS = n_bytes(Level) * 8 // WORD_BITS


class Sequencer(wiring.Component):
    """Load a descriptor, start the nest, wait for the last job, store the counters; after the
    final layer start the argmax and report.

    Members
    -------
    run, done, busy : as in :class:`hw.bus.CoreBus`.
    word_row, word : to program memory, read with one cycle of latency.
    header, tail_mask, spacing : of the layer that runs.
    level, level_index, level_en, start : to the nest.
    finished : from the fire unit.
    read, n_synapses, n_spikes : what happens this cycle, to be counted.
    counters, counters_row, counters_en : to counter memory.
    argmax_start, argmax_done, argmax_index : to the argmax unit.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "run": In(stream.Signature(Run)),
                "done": Out(stream.Signature(Result)),
                "busy": Out(1),
                "word_row": Out(range(config.program_words)),
                "word": In(WORD_BITS),
                "header": Out(Header),
                "tail_mask": Out(config.chunk_bits),
                "spacing": Out(8),
                "level": Out(Level),
                "level_index": Out(range(N_LEVELS)),
                "level_en": Out(1),
                "start": Out(1),
                "finished": In(1),
                "read": In(1),
                "n_synapses": In(range(config.lanes + 1)),
                "n_spikes": In(range(config.lanes + 1)),
                "counters": Out(LayerCounters),
                "counters_row": Out(range(config.max_layers)),
                "counters_en": Out(1),
                "argmax_start": Out(1),
                "argmax_done": In(1),
                "argmax_index": In(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        n_fetched = Signal(range(DESCRIPTOR_WORDS + 1))
        n_loaded = Signal(range(DESCRIPTOR_WORDS + 1))
        fetching, arriving = Signal(), Signal()
        part = Signal(range(LEVEL_WORDS))
        result = Signal(Result)
        counting = Signal()
        counters = self.counters

        m.d.comb += self.done.p.eq(result)
        m.d.sync += [
            arriving.eq(fetching),
            self.level_en.eq(0),
            self.spacing.eq(
                Mux(self.header.spacing > config.fire_beats, self.header.spacing, config.fire_beats)
            ),
            self.tail_mask.eq(Cat(self.header.tail_bits > i for i in range(config.chunk_bits))),
        ]
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
        # A word arrives: the header first, then each level, both shifted in from above.
        with m.If(arriving):
            m.d.sync += n_loaded.eq(n_loaded + 1)
            with m.If(n_loaded < HEADER_WORDS):
                header = self.header.as_value()
                m.d.sync += header.eq(Cat(header, self.word)[WORD_BITS:])
            with m.Else():
                level = self.level.as_value()
                m.d.sync += [
                    level.eq(Cat(level, self.word)[WORD_BITS:]),
                    part.eq(part + 1),
                ]
                with m.If(part == LEVEL_WORDS - 1):
                    m.d.sync += [self.level_en.eq(1), part.eq(0)]
        with m.If(self.level_en):
            m.d.sync += self.level_index.eq(self.level_index + 1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.run.ready.eq(1)
                with m.If(self.run.valid):
                    m.d.sync += [
                        self.busy.eq(1),
                        self.word_row.eq(self.run.p.entry),
                        self.counters_row.eq(0),
                        result.tag.eq(self.run.p.tag),
                        result.n_cycles.eq(0),
                    ]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [
                    n_fetched.eq(0),
                    n_loaded.eq(0),
                    part.eq(0),
                    self.level_index.eq(0),
                    counters.eq(0),
                    counting.eq(1),
                ]
                m.next = "LOAD"
            with m.State("LOAD"):
                with m.If(n_fetched != DESCRIPTOR_WORDS):
                    m.d.comb += fetching.eq(1)
                    m.d.sync += [n_fetched.eq(n_fetched + 1), self.word_row.eq(self.word_row + 1)]
                with m.If((n_loaded == DESCRIPTOR_WORDS) & ~self.level_en):
                    m.next = "SETTLE"
            with m.State("SETTLE"):  # registers derived from the levels and the header
                m.d.comb += self.start.eq(1)
                m.next = "RUN"
            with m.State("RUN"), m.If(self.finished):
                m.next = "COUNT"
            with m.State("COUNT"):  # the last spikes are being added
                m.d.sync += counting.eq(0)
                m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += self.counters_en.eq(1)
                m.d.sync += self.counters_row.eq(self.counters_row + 1)
                with m.If(self.header.final):
                    m.d.comb += self.argmax_start.eq(1)
                    m.next = "ARGMAX"
                with m.Else():
                    m.next = "BEGIN"
            with m.State("ARGMAX"), m.If(self.argmax_done):
                m.d.sync += [result.argmax.eq(self.argmax_index), self.busy.eq(0)]
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.next = "IDLE"
        return m
