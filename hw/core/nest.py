"""The loop nest: one affine counter that addresses every memory of a layer."""

from amaranth import Cat, Module, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import Header, Level
from hw.spec import N_LEVELS, Config

FLAGS = ("first", "last", "end", "cut", "fresh", "pool_first", "pool_last", "tail")
"""One-bit fields of a step."""


def address_widths(config: Config) -> dict[str, int]:
    """Width in bits of each address of a step. Addresses wrap at these widths."""
    source = (8 * config.spike_bytes - 1).bit_length()
    return {
        "source": source,
        "identity": source,
        "weight": (config.weight_depth - 1).bit_length(),
        "target": (max(config.spike_bytes, config.result_rows) - 1).bit_length(),
        "param": (config.param_depth - 1).bit_length(),
        "slot": (config.membrane_slots - 1).bit_length(),
    }


def step_layout(config: Config) -> data.StructLayout:
    """One iteration of the nest: a chunk of input bits and where it stands in its job.

    ``first``/``last`` mark the chunks that begin and end a job, ``end`` the last job of the layer,
    ``cut`` the last chunk of a run (of which only ``tail_bits`` count), ``fresh`` the first
    timestep (membranes start from 0), ``pool_first``/``pool_last`` the jobs that begin and end a
    pooling window, ``tail`` a channel group that is not full.
    """
    return data.StructLayout(address_widths(config) | dict.fromkeys(FLAGS, 1))


class LoopNest(wiring.Component):
    """Walk ``N_LEVELS`` nested loops, level 0 innermost, one iteration per cycle.

    Each address is a sum of strides. When level ``l`` advances and all inner levels start again,
    every address moves by a fixed increment, ``stride[l] - sum((count[i]-1) * stride[i], i < l)``,
    which the host has computed: so one adder per address is enough, and a stride of 0 shares
    along that level. ::

        N0 counters: which level advances?   N1 increments read,        N2 addresses of the
           (one-hot, no priority chain)         flags registered           iteration, output

    Members
    -------
    level : rows of the level table, written before ``start`` while ``level_en``.
    header : held stable from ``start`` until the last iteration is taken.
    start : begin; ignored unless idle.
    steps : the iterations.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "header": In(Header),
                "level": In(Level),
                "level_index": In(range(N_LEVELS)),
                "level_en": In(1),
                "start": In(1),
                "steps": Out(stream.Signature(step_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        addresses = address_widths(self._config)
        row_layout = data.StructLayout({name: signed(width) for name, width in addresses.items()})
        m.submodules.table = table = memory.Memory(shape=row_layout, depth=N_LEVELS, init=[])
        table_write = table.write_port()
        increment = table.read_port()
        m.d.comb += [table_write.en.eq(self.level_en), table_write.addr.eq(self.level_index)]
        for name in addresses:
            m.d.comb += table_write.data[name].eq(self.level[name])

        limit = [Signal(16, name=f"limit{i}") for i in range(N_LEVELS)]
        with m.If(self.level_en), m.Switch(self.level_index):
            for i in range(N_LEVELS):
                with m.Case(i):
                    m.d.sync += limit[i].eq(self.level.last)

        # N0: down counters with registered flags, so that nothing here is deeper than one level.
        running = Signal()
        count = [Signal(16, name=f"count{i}") for i in range(N_LEVELS)]
        zero = Signal(N_LEVELS)
        last = Signal(N_LEVELS)
        single = Signal(N_LEVELS)
        m.d.sync += single.eq(Cat(value == 0 for value in limit))
        advance = Signal()
        proceed = Signal()  # the pipeline moves
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

        # N1: the increment that leads to the next iteration, and the flags of this one.
        m.d.comb += [
            increment.addr.eq(
                Cat(moving[1::2].any(), (moving & 0b11001100).any(), moving[4:].any())
            ),
            increment.en.eq(proceed),
        ]
        h = self.header
        flags = Signal(data.StructLayout(dict.fromkeys(FLAGS, 1)))
        flags_valid = Signal()

        def at_first(levels: Value) -> Value:
            return (zero | ~levels).all()

        def at_last(levels: Value) -> Value:
            return (last | ~levels).all()

        with m.If(proceed):
            m.d.sync += [
                flags_valid.eq(advance),
                flags.first.eq(at_first(h.job_levels)),
                flags.last.eq(at_last(h.job_levels)),
                flags.end.eq(last.all()),
                flags.cut.eq(last[0]),
                flags.fresh.eq(at_first(h.time_levels)),
                flags.pool_first.eq(at_first(h.pool_levels)),
                flags.pool_last.eq(at_last(h.pool_levels)),
                flags.tail.eq((last & h.tail_levels).any()),
            ]

        # N2: running addresses.
        for name, width in addresses.items():
            address = Signal(width, name=f"{name}_address")
            base = 0 if name == "slot" else h[name]
            with m.If(begin):
                m.d.sync += address.eq(base)
            with m.Elif(proceed & flags_valid):
                m.d.sync += address.eq(address + increment.data[name])
            with m.If(proceed):
                m.d.sync += self.steps.p[name].eq(address)
        with m.If(proceed):
            m.d.sync += self.steps.valid.eq(flags_valid)
            m.d.sync += [self.steps.p[name].eq(flags[name]) for name in FLAGS]
        return m
