"""Spike memory, which stores the spikes of all feature maps, one bit each.

It is read in windows of ``chunk_bits`` bits, which may begin at any bit, and written in *granules*
of 8 bits. A window consists of *pieces* of :data:`hw.spec.PIECE_BITS` bits.
"""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import delayed, unreset
from hw.spec import GRANULE_BITS, PIECE_BITS, SPIKE_LATENCY, Config


def granule_write_layout(config: Config) -> data.StructLayout:
    """Return the layout of a write to the spike memory of one bank.

    The first ``count`` granules (bytes) of ``bits`` are stored, the first at address ``granule``.
    """
    n_granules = config.bank_lanes // GRANULE_BITS
    return data.StructLayout(
        {
            "granule": (config.spike_bytes - 1).bit_length(),
            "count": range(n_granules + 1),
            "bits": config.bank_lanes,
        }
    )


class SpikeMemory(wiring.Component):
    """Store spikes as bits, in ``chunk_bits / 8`` byte-wide memories, called columns.

    Neighbouring granules (bytes of spikes) lie in neighbouring columns, so that several consecutive
    granules can be read or written at any granule address in one cycle.

    Usually the pieces of a window are contiguous. To gather inputs from several rows of a feature
    map instead, piece ``k`` is read at an address that is ``piece_rows[k]`` memory rows higher than
    in a contiguous window. A column delivers one byte per cycle, so no two pieces may use the same
    column; the compiler chooses the distance between rows of the feature map accordingly. The bytes
    that are read begin at a multiple of 8 bits. So if the address is not a multiple of 8, the last
    ``address % 8`` bits of the window are not valid; if the pieces are gathered, the same holds for
    each piece.

    A read takes :attr:`LATENCY` cycles. One window per cycle can be read, and reads never stall::

        R0 rows of the pieces    R1 rows of the columns    R2 columns read
        R3, R4 columns rotated   R5 shifted by 0 to 7, window out

    Members
    -------
    read_bit : address of the window's first bit.
    gather, piece_rows : while ``gather`` is high, the pieces are offset by ``piece_rows``, one
        number per piece; while it is low, the window is contiguous.
    window : the window, :attr:`LATENCY` cycles after its address.
    write : granules to store; always ready. A window that is read less than three cycles after a
        write to its granules may return their old values.
    """

    LATENCY = SPIKE_LATENCY
    """Number of cycles from an address on ``read_bit`` until ``window`` has the spikes at that
    address."""

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "read_bit": In((8 * config.spike_bytes - 1).bit_length()),
                "gather": In(1),
                "piece_rows": In(data.ArrayLayout(8, config.chunk_bits // PIECE_BITS)),
                "window": Out(config.chunk_bits),
                "write": In(stream.Signature(granule_write_layout(config), always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n_columns = self._config.chunk_bits // GRANULE_BITS
        n_pieces = self._config.chunk_bits // PIECE_BITS
        depth = self._config.spike_bytes // n_columns
        column_bits = (n_columns - 1).bit_length()
        row_shape = range(depth)

        # Write: granule i of the write goes to column (granule + i) mod n_columns.
        w = self.write.p
        column, row = w.granule[:column_bits], w.granule[column_bits:]
        n_granules = len(w.bits) // GRANULE_BITS
        write_row, next_row = unreset(row_shape), unreset(row_shape)
        write_en, write_wraps = Signal(n_columns), unreset(n_columns)
        write_data = [unreset(GRANULE_BITS, f"write_data{i}") for i in range(n_columns)]
        m.d.sync += [write_row.eq(row), next_row.eq(row + 1)]
        for i in range(n_columns):
            distance = Signal(column_bits, name=f"distance{i}")
            m.d.comb += distance.eq(i - column)
            m.d.sync += [
                write_en[i].eq(self.write.valid & (distance < w.count)),
                write_wraps[i].eq(column > i),
                write_data[i].eq(
                    w.bits.word_select(distance[: (n_granules - 1).bit_length()], GRANULE_BITS)
                    if n_granules > 1
                    else w.bits
                ),
            ]

        # R0: the row in which each piece begins.
        first_row = self.read_bit[3 + column_bits :]
        piece_row = [unreset(row_shape, f"piece_row{k}") for k in range(n_pieces)]
        for k in range(n_pieces):
            m.d.sync += piece_row[k].eq(first_row + Mux(self.gather, self.piece_rows[k], 0))
        # R1: columns to the left of the window's first column are read one row further down.
        offset = delayed(m, self.read_bit[: 3 + column_bits], 1)
        columns = []
        for i in range(n_columns):
            distance = Signal(column_bits, name=f"read_distance{i}")
            m.d.comb += distance.eq(i - offset[3:])
            beginning = Signal(row_shape, name=f"beginning{i}")
            with m.Switch(distance[1:]):
                for k in range(n_pieces):
                    with m.Case(k):
                        m.d.comb += beginning.eq(piece_row[k])
            read_row = unreset(row_shape, f"read_row{i}")
            m.d.sync += read_row.eq(beginning + (offset[3:] > i))
            m.submodules[f"column{i}"] = column_memory = memory.Memory(
                shape=GRANULE_BITS, depth=depth, init=[]
            )
            read = column_memory.read_port()
            write = column_memory.write_port()
            m.d.comb += [
                read.addr.eq(read_row),
                read.en.eq(1),
                write.addr.eq(Mux(write_wraps[i], next_row, write_row)),
                write.data.eq(write_data[i]),
                write.en.eq(write_en[i]),
            ]
            columns.append(read.data)
        # R3: rotate by half the columns if needed; R4: rotate by the rest; R5: shift by bits.
        half = len(Cat(columns)) // 2
        swapped = unreset(2 * half)
        at3 = delayed(m, offset, 2)
        at4 = delayed(m, at3[:-1], 1)
        at5 = delayed(m, at4[:3], 1)
        m.d.sync += swapped.eq(
            Mux(at3[-1], Cat(Cat(columns)[half:], Cat(columns)[:half]), Cat(columns))
        )
        rotated = unreset(2 * half)
        with m.Switch(at4[3:]):
            for i in range(n_columns // 2):
                with m.Case(i):
                    m.d.sync += rotated.eq(swapped.rotate_right(i * GRANULE_BITS))
        window = unreset(2 * half)
        m.d.sync += window.eq(rotated >> at5)
        m.d.comb += self.window.eq(window)
        return m
