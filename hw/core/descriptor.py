"""The loader of descriptors, which reads the description of a layer from weight memory."""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import WORD_BITS
from hw.core.weights import word_layout
from hw.parts.pipeline import unreset
from hw.protocol import HEADER_WORDS, LEVEL_WORDS, Header, Space, descriptor_rows, n_rows
from hw.spec import N_LEVELS, Config


def word_request_layout(config: Config) -> data.StructLayout:
    """Return the layout of a request for a word of weight memory.

    ``bank`` is the bank that has the word (one-hot). ``place`` says which word it is: the row in
    that bank, and the index of the 32-bit word in the row.
    """
    return data.StructLayout({"place": word_layout(config), "bank": config.banks})


class DescriptorLoader(wiring.Component):
    """Read the descriptors of layers one after another, and pass their words on to the loop nest.

    A descriptor is a header and the levels of a loop nest (:class:`hw.protocol.Descriptor`); the
    header says how many levels (nested loops) there are. One 32-bit word is requested per cycle,
    until the last level has arrived. Successive rows of a descriptor are in successive banks.

    Members
    -------
    entry, go_to : while ``go_to`` is high, choose the descriptor that begins at row ``entry`` of
        :attr:`hw.protocol.Space.WEIGHT`; ``start`` then loads it.
    start : load the chosen descriptor, or the one that follows the descriptor loaded last.
    requests : words to read; always taken while no layer runs.
    words : the words, in order.
    loaded : all words of the descriptor have arrived and been passed on.
    header : header of the layer.
    word, header_en, header_word, level_en, level, level_word : see :class:`hw.core.nest.LoopNest`.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "entry": In(range(n_rows(Space.WEIGHT, config))),
                "go_to": In(1),
                "start": In(1),
                "requests": Out(stream.Signature(word_request_layout(config), always_ready=True)),
                "words": In(stream.Signature(WORD_BITS, always_ready=True)),
                "loaded": Out(1),
                "header": Out(Header),
                "word": Out(WORD_BITS),
                "header_en": Out(1),
                "header_word": Out(range(HEADER_WORDS)),
                "level_en": Out(1),
                "level": Out(range(N_LEVELS)),
                "level_word": Out(range(LEVEL_WORDS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        index_bits = (config.banks - 1).bit_length()
        row_words = config.lanes * config.weight_bits // WORD_BITS

        # Words asked for: word `word` of row `row` of the bank whose bit is set.
        base = Signal.like(self.entry)
        row = Signal.like(self.entry)
        place = self.requests.p.place
        asking, part = Signal(), Signal(range(max(row_words, 2)))
        n_under_way = Signal(range(2 * config.banks + 16))
        m.d.comb += [
            self.requests.valid.eq(asking),
            place.row.eq(row[index_bits:]),
            place.word.eq(part),
            *(self.requests.p.bank[n].eq(row[:index_bits] == n) for n in range(config.banks)),
        ]
        with m.If(self.go_to):
            m.d.sync += base.eq(self.entry)
        with m.If(asking):
            m.d.sync += part.eq(part + 1)
            with m.If(part == row_words - 1):
                m.d.sync += [part.eq(0), row.eq(row + 1)]
        m.d.sync += n_under_way.eq(n_under_way + asking - self.words.valid)

        # Words that arrive: the header, then the levels; words behind them are dropped.
        n_header = Signal(range(HEADER_WORDS + 1))
        n_level = Signal(range(N_LEVELS * LEVEL_WORDS + 1))
        complete = Signal()
        m.d.comb += complete.eq(
            (n_header == HEADER_WORDS)
            & ~self.header_en
            & (n_level == Cat(0, 0, self.header.n_levels))
        )
        m.d.sync += [self.header_en.eq(0), self.level_en.eq(0)]
        with m.If(self.words.valid):
            m.d.sync += self.word.eq(self.words.p)
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

        loading = Signal()
        m.d.comb += self.loaded.eq(loading & ~asking & (n_under_way == 0))
        with m.If(complete):
            m.d.sync += asking.eq(0)
        with m.If(self.loaded):
            m.d.sync += loading.eq(0)
        with m.If(self.start):
            m.d.sync += [
                loading.eq(1),
                asking.eq(1),
                part.eq(0),
                row.eq(base),
                base.eq(base + descriptor_rows(config)),
                n_header.eq(0),
                n_level.eq(0),
                n_under_way.eq(0),
            ]
        return m
