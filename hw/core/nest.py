"""The loop nest: nested counters that generate all memory addresses of a layer.

A *level* is one of the nested loops. A *job* is the computation of one output position of one group
of ``lanes`` output channels at one timestep (:class:`hw.core.core.Core`). A *chunk* is the part of
a job's inputs that a bank reads in one cycle.
"""

import enum

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import encode_one_hot, unreset
from hw.protocol import LEVEL_WORDS, WORD_BYTES, Header, Level
from hw.spec import N_LEVELS, N_PLANES, OFFCHIP_PARAM_BITS, OFFCHIP_WEIGHT_BITS, Config

WORD_BITS = 8 * WORD_BYTES
"""Number of bits of a word of a descriptor."""

FLAGS = ("last", "end", "cut", "fresh", "pool_first", "pool_last", "tail")
"""Names of the one-bit fields of a step (:func:`step_layout`)."""


class Phase(enum.IntEnum):
    """Kind of a job (the work on one output position and channel group): a timestep, or bit-planes
    of an image.

    A layer that takes the pixels of an image processes their bits before its timesteps. Each bit is
    a plane of binary inputs, and each job takes one plane per bank; see
    :class:`hw.core.fire.FireUnit`.
    """

    SPIKES = 0
    """Job of a timestep in a layer that takes spikes."""
    PLANE = 1
    """Job that adds up bit-planes of pixels; each plane weighs half as much as the one before
    it."""
    FIRST = 2
    """First timestep of a layer that takes pixels. Its input is the weighted sums of all
    bit-planes, which the membranes contain by then."""
    LATER = 3
    """Later timestep of a layer that takes pixels. Its input is the same weighted sums, which were
    stored in the first timestep."""


def address_widths(config: Config) -> dict[str, int]:
    """Return the name of each memory address that the loop nest generates, with its width in bits.

    Addresses wrap at these widths. :class:`hw.protocol.Level` has fields with the same names.
    """
    granule = (config.spike_bytes - 1).bit_length()
    weight, param = (config.weight_depth - 1).bit_length(), (config.param_depth - 1).bit_length()
    weight += 2 * config.half_rows  # the half of the row, and whether the address counts halves
    if config.offchip_depth:
        weight, param = OFFCHIP_WEIGHT_BITS, OFFCHIP_PARAM_BITS
    return {
        "source": (8 * config.spike_bytes - 1).bit_length(),
        "identity": granule,
        "weight": weight,
        "target": granule,
        "param": param,
        "slot": (config.membrane_slots - 1).bit_length(),
    }


def word_of(layout: type[data.Struct], field: str) -> tuple[int, slice]:
    """Return the place of a field in a structure: the index of its 32-bit word, and its bits in
    that word."""
    place = data.Layout.cast(layout)[field]
    word, start = divmod(place.offset, WORD_BITS)
    return word, slice(start, start + place.width)


def step_layout(config: Config) -> data.StructLayout:
    """Return the layout of a step: one iteration of the loop nest, which reads one chunk of inputs.

    The chunks of a job are consecutive steps. A step has the addresses of
    :func:`address_widths` and these fields:

    - ``last``: the chunk is the last of its job
    - ``end``: the job is the last of the layer
    - ``cut``: the chunk is the last of a contiguous stretch of inputs; the layer's ``tail_bits``
      (:class:`hw.protocol.Header`) say how many of its bits are inputs
    - ``fresh``: the job is of the first timestep, so that membranes start from 0
    - ``pool_first``, ``pool_last``: the job is the first or last of its pooling window
    - ``tail``: the channel group is the layer's last, of which only ``tail_lanes`` channels are
      real (:class:`hw.protocol.Header`)
    - ``phase``: a :class:`Phase`
    """
    return data.StructLayout(address_widths(config) | dict.fromkeys(FLAGS, 1) | {"phase": 2})


class LoopNest(wiring.Component):
    """Generate the addresses of a layer with ``N_LEVELS`` nested loops, one iteration per cycle.

    Level 0 is the innermost loop. Each address is affine in the loop indices, with one stride per
    level. When level ``l`` advances and all inner levels start again, the address moves by
    ``stride[l] - sum((count[i] - 1) * stride[i] for i < l)``, where ``count[i]`` is the number of
    iterations of level ``i``. The host computes these increments, so that one adder per address is
    enough. A level with a stride of 0 uses the same address in all of its iterations. The first
    words of the header have the layout of a level; they hold the addresses of the first iteration,
    as increments from 0.

    With :attr:`hw.spec.Config.direct_timesteps`, a job of the phases ``FIRST`` and ``LATER`` has a
    single iteration: the levels of the job do not advance. The host's increments take that into
    account. ::

        N0 counters: find the level     N1 flags registered,     N2 addresses and flags of the
           that advances (one-hot)         increments read          iteration out

    Members
    -------
    header : header of the layer's descriptor, stable from ``start`` until the last iteration is
        taken.
    word : 32-bit words of the descriptor while they are loaded, before ``start``.
    header_en, header_word : while ``header_en`` is high, ``word`` is word ``header_word`` of the
        header.
    level_en, level, level_word : while ``level_en`` is high, ``word`` is word ``level_word`` of
        level ``level``.
    clear : reset the addresses to 0 and all levels to one iteration; needed before the first word.
    start : begin; not allowed while steps remain to be taken.
    steps : the iterations, see :func:`step_layout`.
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
        proceed = Signal()  # the pipeline advances
        # One row of increments per level, and one from 0 to the first iteration.
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

        # N0: down counters with registered flags, to keep the logic between registers short.
        running = Signal()
        count = [unreset(count_bits, f"count{i}") for i in range(N_LEVELS)]
        zero, last, single = (unreset(N_LEVELS) for _ in range(3))
        m.d.sync += single.eq(Cat(value == 0 for value in limit))
        ended = last
        direct = Signal()  # the iteration is of a timestep after bit-planes
        if self._config.direct_timesteps:
            # A job that goes directly to the fire unit has one step.
            ended = Signal(N_LEVELS)
            m.d.comb += ended.eq(last | Mux(direct, self.header.job_levels, 0))
        advance = Signal()
        m.d.comb += [
            proceed.eq(~self.steps.valid | self.steps.ready),
            advance.eq(running & proceed),
        ]
        moving = Signal(N_LEVELS)  # one-hot: the innermost level that is not in its last iteration
        m.d.comb += moving.eq(~ended & (ended + 1))
        begin = Signal()
        m.d.sync += begin.eq(self.start & ~running)
        with m.If(begin):
            m.d.sync += [running.eq(1), zero.eq(-1), last.eq(single)]
            m.d.sync += [count[i].eq(limit[i]) for i in range(N_LEVELS)]
        with m.Elif(advance):
            with m.If(ended.all()):
                m.d.sync += running.eq(0)
            for i in range(N_LEVELS):
                with m.If(moving[i]):
                    m.d.sync += [count[i].eq(count[i] - 1), last[i].eq(count[i] == 1)]
                    m.d.sync += zero[i].eq(0)
                with m.If(ended[: i + 1].all()):
                    m.d.sync += [count[i].eq(limit[i]), last[i].eq(single[i]), zero[i].eq(1)]

        # N1: the level whose increments lead to the next iteration, and the flags of this one.
        with m.If(proceed):
            m.d.sync += level_row.eq(Mux(running, encode_one_hot(moving), N_LEVELS))
        h = self.header
        flags, flags2 = (
            unreset(data.StructLayout(dict.fromkeys(FLAGS, 1) | {"phase": 2})) for _ in range(2)
        )
        flags_valid = Signal()

        def at_first(levels: Value) -> Value:
            """Return whether every level in the mask ``levels`` is in its first iteration."""
            return (zero | ~levels).all()

        def at_last(levels: Value) -> Value:
            """Return whether every level in the mask ``levels`` is in its last iteration."""
            return (ended | ~levels).all()

        with m.If(proceed):
            m.d.sync += [
                flags_valid.eq(advance),
                flags.last.eq(at_last(h.job_levels)),
                flags.end.eq(ended.all()),
                flags.cut.eq(last[0]),
                flags.fresh.eq(at_first(h.time_levels)),
                flags.pool_first.eq(at_first(h.pool_levels)),
                flags.pool_last.eq(at_last(h.pool_levels)),
                flags.tail.eq(at_last(h.tail_levels)),
            ]

        if self._config.pixels:
            # Count the iterations of the level of timesteps, up to the second timestep.
            n_first = N_PLANES // self._config.banks
            n_planes = Signal(range(n_first + 2))
            outer = h.time_levels & -h.time_levels  # the level of timesteps
            outside = ~(outer | (outer - 1))
            with m.If(begin | (advance & (moving & outside).any())):
                m.d.sync += n_planes.eq(0)
                if self._config.direct_timesteps:
                    m.d.sync += direct.eq(0)
            with m.Elif(advance & (moving & h.time_levels).any() & (n_planes != n_first + 1)):
                m.d.sync += n_planes.eq(n_planes + 1)
                if self._config.direct_timesteps:
                    m.d.sync += direct.eq(h.pixels & (n_planes >= n_first - 1))
            phase = Mux(
                n_planes < n_first,
                Phase.PLANE,
                Mux(n_planes == n_first, Phase.FIRST, Phase.LATER),
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
