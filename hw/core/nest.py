"""The loop nest: one affine counter that addresses every memory of a layer."""

import enum

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import encode_one_hot, unreset
from hw.protocol import LEVEL_WORDS, WORD_BYTES, Header, Level
from hw.spec import N_LEVELS, N_PLANES, Config

WORD_BITS = 8 * WORD_BYTES

FLAGS = ("last", "end", "cut", "fresh", "pool_first", "pool_last", "tail")
"""One-bit fields of a step."""


class Phase(enum.IntEnum):
    """What a job is in the life of its neurons, see :class:`hw.core.fire.FireUnit`."""

    SPIKES = 0
    """A timestep of a layer that takes spikes."""
    PLANE = 1
    """A bit-plane of a layer that takes pixels: half the worth of the plane before."""
    FIRST = 2
    """The first timestep of such a layer: the membranes hold the weighted sums of pixels."""
    LATER = 3
    """A later timestep: the sums are the ones of the first."""


def address_widths(config: Config) -> dict[str, int]:
    """Width in bits of each address of a step. Addresses wrap at these widths."""
    granule = (config.spike_bytes - 1).bit_length()
    return {
        "source": (8 * config.spike_bytes - 1).bit_length(),
        "identity": granule,
        "weight": (config.weight_depth - 1).bit_length(),
        "target": granule,
        "param": (config.param_depth - 1).bit_length(),
        "slot": (config.membrane_slots - 1).bit_length(),
    }


def word_of(layout: type[data.Struct], field: str) -> tuple[int, slice]:
    """In which word of a descriptor's part a field lies, and where in it."""
    place = data.Layout.cast(layout)[field]
    word, start = divmod(place.offset, WORD_BITS)
    return word, slice(start, start + place.width)


def step_layout(config: Config) -> data.StructLayout:
    """One iteration of the nest: a chunk of input bits and where it stands in its job.

    ``last`` marks the chunk that ends a job, ``end`` the last job of the layer, ``cut`` the last
    chunk of a run (of which only ``tail_bits`` count), ``fresh`` the first timestep (membranes
    start from 0), ``pool_first``/``pool_last`` the jobs that begin and end a pooling window,
    ``tail`` a channel group that is not full; ``phase`` is a :class:`Phase`.
    """
    return data.StructLayout(address_widths(config) | dict.fromkeys(FLAGS, 1) | {"phase": 2})


class LoopNest(wiring.Component):
    """Walk ``N_LEVELS`` nested loops, level 0 innermost, one iteration per cycle.

    Each address is a sum of strides. When level ``l`` advances and all inner levels start again,
    every address moves by a fixed increment, ``stride[l] - sum((count[i]-1) * stride[i], i < l)``,
    which the host has computed: so one adder per address is enough, and a stride of 0 shares
    along that level. The header's first words are laid out as a level's: the increments from 0 to
    the first iteration. ::

        N0 counters: which level advances?   N1 flags registered   N2 addresses and flags of the
           (one-hot, no priority chain)                            iteration; increments to the next

    Members
    -------
    header : held stable from ``start`` until the last iteration is taken.
    word : a descriptor's words as they are loaded, before ``start``.
    header_en, header_word : ``word`` is this one of the header.
    level_en, level, level_word : ``word`` is this one of a level.
    clear : before the first word: all levels have one iteration, addresses are 0.
    start : begin; not while steps are left to take.
    steps : the iterations.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "header": In(Header),
                "word": In(WORD_BITS),
                "header_en": In(1),
                "header_word": In(4),
                "level_en": In(1),
                "level": In(range(N_LEVELS)),
                "level_word": In(range(LEVEL_WORDS)),
                "clear": In(1),
                "start": In(1),
                "steps": Out(stream.Signature(step_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        addresses = address_widths(self._config)
        increments = {}
        proceed = Signal()  # the pipeline moves
        # One row of increments per level, and one that leads from nothing to the first iteration.
        level_row = unreset(range(N_LEVELS + 1))
        for n in range(LEVEL_WORDS):
            fields = {
                name: width for name, width in addresses.items() if word_of(Level, name)[0] == n
            }
            m.submodules[f"table{n}"] = table = memory.Memory(
                shape=data.StructLayout(fields), depth=N_LEVELS + 1, init=[]
            )
            write, read = table.write_port(), table.read_port()
            m.d.comb += [
                write.en.eq(
                    Mux(
                        self.level_en,
                        self.level_word == n,
                        self.header_en & (self.header_word == n),
                    )
                ),
                write.addr.eq(Mux(self.level_en, self.level, N_LEVELS)),
                read.addr.eq(level_row),
                read.en.eq(proceed),
            ]
            for name in fields:
                m.d.comb += write.data[name].eq(self.word[word_of(Level, name)[1]])
                increments[name] = read.data[name]

        count_bits = self._config.count_bits
        last_word, last_bits = word_of(Level, "last")
        limit = [unreset(count_bits, f"limit{i}") for i in range(N_LEVELS)]
        for i in range(N_LEVELS):
            with m.If(self.clear):
                m.d.sync += limit[i].eq(0)
            with m.Elif(self.level_en & (self.level_word == last_word) & (self.level == i)):
                m.d.sync += limit[i].eq(self.word[last_bits][:count_bits])

        # N0: down counters with registered flags, so that nothing here is deeper than one level.
        running = Signal()
        count = [unreset(count_bits, f"count{i}") for i in range(N_LEVELS)]
        zero, last, single = (unreset(N_LEVELS) for _ in range(3))
        m.d.sync += single.eq(Cat(value == 0 for value in limit))
        advance = Signal()
        m.d.comb += [
            proceed.eq(~self.steps.valid | self.steps.ready),
            advance.eq(running & proceed),
        ]
        moving = Signal(N_LEVELS)  # one-hot: the innermost level that is not at its end
        m.d.comb += moving.eq(~last & (last + 1))
        begin = Signal()
        m.d.sync += begin.eq(self.start & ~running)
        with m.If(begin):
            m.d.sync += [running.eq(1), zero.eq(-1), last.eq(single)]
            m.d.sync += [count[i].eq(limit[i]) for i in range(N_LEVELS)]
        with m.Elif(advance):
            with m.If(last.all()):
                m.d.sync += running.eq(0)
            for i in range(N_LEVELS):
                with m.If(moving[i]):
                    m.d.sync += [count[i].eq(count[i] - 1), last[i].eq(count[i] == 1)]
                    m.d.sync += zero[i].eq(0)
                with m.If(last[: i + 1].all()):
                    m.d.sync += [count[i].eq(limit[i]), last[i].eq(single[i]), zero[i].eq(1)]

        # N1: the level that leads to the next iteration, and the flags of this one.
        with m.If(proceed):
            m.d.sync += level_row.eq(Mux(running, encode_one_hot(moving), N_LEVELS))
        h = self.header
        flags, flags2 = (
            unreset(data.StructLayout(dict.fromkeys(FLAGS, 1) | {"phase": 2})) for _ in range(2)
        )
        flags_valid = Signal()

        def at_first(levels: Value) -> Value:
            return (zero | ~levels).all()

        def at_last(levels: Value) -> Value:
            return (last | ~levels).all()

        with m.If(proceed):
            m.d.sync += [
                flags_valid.eq(advance),
                flags.last.eq(at_last(h.job_levels)),
                flags.end.eq(last.all()),
                flags.cut.eq(last[0]),
                flags.fresh.eq(at_first(h.time_levels)),
                flags.pool_first.eq(at_first(h.pool_levels)),
                flags.pool_last.eq(at_last(h.pool_levels)),
                flags.tail.eq(at_last(h.tail_levels)),
            ]

        if self._config.pixels:
            # Iterations of the level of timesteps, up to the first that repeats a sum.
            n_planes = Signal(range(N_PLANES + 2))
            outer = h.time_levels & -h.time_levels  # the level itself; then all that are outside
            outside = ~(outer | (outer - 1))
            with m.If(begin | (advance & (moving & outside).any())):
                m.d.sync += n_planes.eq(0)
            with m.Elif(advance & (moving & h.time_levels).any() & (n_planes != N_PLANES + 1)):
                m.d.sync += n_planes.eq(n_planes + 1)
            phase = Mux(
                n_planes < N_PLANES,
                Phase.PLANE,
                Mux(n_planes == N_PLANES, Phase.FIRST, Phase.LATER),
            )
            with m.If(proceed):
                m.d.sync += flags.phase.eq(Mux(h.pixels, phase, Phase.SPIKES))

        # N2
        for name, width in addresses.items():
            address = unreset(width, f"{name}_address")
            with m.If(self.clear):
                m.d.sync += address.eq(0)
            with m.Elif(begin | (self.steps.valid & self.steps.ready)):
                m.d.sync += address.eq(address + increments[name])
            m.d.comb += self.steps.p[name].eq(address)
        with m.If(proceed):
            m.d.sync += [self.steps.valid.eq(flags_valid), flags2.eq(flags)]
        m.d.comb += [self.steps.p[name].eq(flags2[name]) for name in (*FLAGS, "phase")]
        return m
