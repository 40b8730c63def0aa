"""Spike memory: bit-addressed for windows that are read, granule-addressed for what is written."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.pipeline import delayed
from hw.spec import GRANULE_BITS, Config


def granule_write_layout(config: Config) -> data.StructLayout:
    """``count`` granules to write from granule address ``granule`` on."""
    n_granules = config.lanes // GRANULE_BITS
    return data.StructLayout(
        {
            "granule": (config.spike_bytes - 1).bit_length(),
            "count": range(n_granules + 1),
            "bits": config.lanes,
        }
    )


class SpikeMemory(wiring.Component):
    """Two banks of ``chunk_bits`` words, even and odd, so that two neighbouring words, and with
    them any unaligned window of ``chunk_bits`` bits, are read in one cycle. A bank is made of
    byte-wide memories, so that a run of granules is written at any granule address in one cycle.

    Reading takes 5 cycles, one window a cycle, never stalls::

        R0 word -> bank rows   R1 banks read   R2 banks -> low, high word
        R3 shift by 0 to 7     R4 shift by granules, window out

    Members
    -------
    read_bit : address of the window's first bit.
    window : ``chunk_bits`` bits, :attr:`LATENCY` cycles later.
    write : granules to store; always ready. A window read less than two cycles after a write
        of its granules may not see it.
    """

    LATENCY = 5

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "read_bit": In((8 * config.spike_bytes - 1).bit_length()),
                "window": Out(config.chunk_bits),
                "write": In(stream.Signature(granule_write_layout(config), always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word_bits = self._config.chunk_bits
        n_columns = 2 * word_bits // GRANULE_BITS  # byte-wide memories of both banks
        depth = self._config.spike_bytes // n_columns
        word_shift = (word_bits - 1).bit_length()
        row_bits = range(depth)

        # Write: granule i of the run goes to column (granule + i) mod n_columns.
        w = self.write.p
        column_bits = (n_columns - 1).bit_length()
        column, row = w.granule[:column_bits], w.granule[column_bits:]
        n_granules = len(w.bits) // GRANULE_BITS
        write_row, next_row = Signal(row_bits), Signal(row_bits)
        write_en, write_wraps = Signal(n_columns), Signal(n_columns)
        write_data = [Signal(GRANULE_BITS, name=f"write_data{i}") for i in range(n_columns)]
        m.d.sync += [write_row.eq(row), next_row.eq(row + 1)]
        for i in range(n_columns):
            distance = Signal(column_bits, name=f"distance{i}")
            m.d.comb += distance.eq(i - column)
            m.d.sync += [
                write_en[i].eq(self.write.valid & (distance < w.count)),
                write_wraps[i].eq(column > i),
                write_data[i].eq(
                    w.bits.word_select(distance[: (n_granules - 1).bit_length()], GRANULE_BITS)
                ),
            ]

        # R0, R1: a window starts in one bank and ends in the other.
        word = self.read_bit[word_shift:]
        read_row = [Signal(row_bits, name=f"read_row{bank}") for bank in range(2)]
        m.d.sync += [read_row[0].eq((word + 1) >> 1), read_row[1].eq(word >> 1)]
        offset = self.read_bit[: word_shift + 1]
        banks: list[list[Signal]] = [[], []]
        for i in range(n_columns):
            bank = i * GRANULE_BITS // word_bits
            m.submodules[f"column{i}"] = column_memory = memory.Memory(
                shape=GRANULE_BITS, depth=depth, init=[]
            )
            read = column_memory.read_port()
            write = column_memory.write_port()
            m.d.comb += [
                read.addr.eq(read_row[bank]),
                read.en.eq(1),
                write.addr.eq(Mux(write_wraps[i], next_row, write_row)),
                write.data.eq(write_data[i]),
                write.en.eq(write_en[i]),
            ]
            banks[bank].append(read.data)

        # R2: order the banks. R3, R4: shift.
        even, odd = Cat(banks[0]), Cat(banks[1])
        at2 = Signal(word_shift + 1)
        m.d.comb += at2.eq(delayed(m, offset, 2))
        both = Signal(2 * word_bits)
        m.d.sync += both.eq(Mux(at2[-1], Cat(odd, even), Cat(even, odd)))
        at3 = delayed(m, at2[:word_shift], 1)
        fine = Signal(2 * word_bits - GRANULE_BITS)
        m.d.sync += fine.eq(both >> at3[:3])
        at4 = delayed(m, at3[3:], 1)
        m.d.sync += self.window.eq(fine >> Cat(0, 0, 0, at4).as_unsigned())
        return m
