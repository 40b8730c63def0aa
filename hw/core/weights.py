"""Weight memory: one row of ``lanes`` weights per cycle, which bounds the core's throughput.

A *job* is the computation of one output position of one group of ``lanes`` output channels at one
timestep. An *event* (:mod:`hw.core.scan`) is one active input of a job, for which a row of weights
is read.
"""

from collections.abc import Sequence

from amaranth import (
    Array,
    Cat,
    ClockSignal,
    Const,
    Instance,
    Module,
    Mux,
    ResetInserter,
    Signal,
    Value,
)
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import WORD_BITS
from hw.core.scan import event_layout
from hw.parts.memories import (
    BLOCK_RAM_SHAPES,
    N_SPRAMS,
    SPRAM_BITS,
    SPRAM_DEPTH,
    has_block_ram_shapes,
    has_spram,
)
from hw.parts.pipeline import delayed, unreset
from hw.spec import Config, SpecError

GROUP_BITS = 72
"""Number of neighbouring bits of a row that are stored in block RAMs with a common set of address
registers, which can be placed near them (:class:`BlockRows`). It is a multiple of every width that
a block RAM can have."""


def row_layout(config: Config) -> data.StructLayout:
    """Return the layout of a row of weights as it is sent to the accumulators, with flags of its
    event (active input).

    ``weights`` has lane 0 in the lowest bits. ``add`` and ``last`` are as in
    :func:`hw.core.scan.event_layout`. If ``add`` is 0, the event only ends the sums of an output
    position; ``weights`` is then 0, too. There is one exception: with SPRAM and without a queue of
    sums, ``weights`` may then have any value, because the accumulators add only if ``add`` is set.
    """
    return data.StructLayout(
        {
            "weights": config.lanes * config.weight_bits,
            "add": 1,
            "last": 1,
        }
    )


def word_layout(config: Config) -> data.StructLayout:
    """Return the layout of a request for a word: the 32-bit word ``word`` of row ``row``."""
    n_words = config.lanes * config.weight_bits // WORD_BITS
    return data.StructLayout({"row": range(config.weight_depth), "word": range(max(n_words, 2))})


def row_write_layout(config: Config) -> data.StructLayout:
    """Return the layout of a row of weights to write: its index and its contents."""
    return data.StructLayout(
        {"row": range(config.weight_depth), "data": config.lanes * config.weight_bits}
    )


def row_of(weight: Value, config: Config) -> Value:
    """Return the row of weight memory that contains the row of weights at the address ``weight``.

    It is that row itself, unless the address counts halves of rows
    (:attr:`hw.spec.Config.half_row`).
    """
    if not config.half_rows:
        return weight
    n_bits = (config.weight_depth - 1).bit_length()
    return Mux(weight[-1], weight[1 : 1 + n_bits], weight[:n_bits])


class WeightMemory(wiring.Component):
    """Read the row of weights of each event (active input), from a memory of ``weight_depth`` rows.

    The memory is in SPRAM on an iCE40 UltraPlus, and in block RAM on other devices. Addresses are
    registered, because the block RAMs of a large device are spread across it. The output is
    registered twice, because the output register of a block RAM itself comes too late in a cycle to
    be followed by logic.

    Reads too close to a write are undefined. If ``write.valid`` is high in cycle ``n``, these are
    all reads that begin in the cycles ``n - 2`` to ``n``, and a read of the written row that begins
    in cycle ``n + 1``. The rule covers both kinds of memory. ::

        W0 address registered    W1 block RAM read    W2 block RAM chosen, row registered

    With :attr:`hw.spec.Config.weight_registers`, as many registers lie between W1 and W2.

    Members
    -------
    events : events of the scanner (:mod:`hw.core.scan`), taken whenever the pipeline advances.
    rows : the same events, with their weights, in order. The pipeline advances in each cycle in
        which ``rows.ready`` is high.
    word : word to read for the descriptor loader or the host, while there are no events.
    word_data : the word that was requested :attr:`hw.spec.Config.weight_latency` cycles before.
    write : rows to write.
    offchip : rows of weights from memory outside the FPGA, on devices that have it. They replace
        the output of the last stage; while one arrives, no event may be in the pipeline. Without a
        row, all payload bits are 0.
    aborted : drop the events in the pipeline.
    """

    def __init__(self, config: Config):
        self._config = config
        members: dict[str, wiring.Member] = {
            "events": In(stream.Signature(event_layout(config))),
            "rows": Out(stream.Signature(row_layout(config))),
            "word": In(stream.Signature(word_layout(config), always_ready=True)),
            "word_data": Out(WORD_BITS),
            "write": In(stream.Signature(row_write_layout(config), always_ready=True)),
            "aborted": In(1),
        }
        if config.offchip_depth:
            members["offchip"] = In(stream.Signature(row_layout(config), always_ready=True))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, event, word, write = self._config, self.events.p, self.word.p, self.write.p
        row_bits, latency = config.lanes * config.weight_bits, config.weight_latency
        move = self.rows.ready
        adds, row = Signal(), Signal(row_bits)
        read_row, read_en = Signal.like(word.row), Signal()
        m.d.comb += [
            self.events.ready.eq(move),
            adds.eq(self.events.valid & event.add),
            read_en.eq(adds | self.word.valid),
            read_row.eq(Mux(self.word.valid, word.row, row_of(event.weight, config))),
            self.rows.p.weights.eq(row),
        ]
        # What is under way, which an abort drops.
        under_way = Module()
        m.submodules.under_way = ResetInserter(self.aborted)(under_way)
        flags = delayed(
            under_way,
            Cat(self.events.valid, adds, event.last & self.events.valid),
            latency - 1,
            move,
            reset=True,
        )
        if config.offchip_depth:
            flags |= Cat(self.offchip.valid, self.offchip.p.add, self.offchip.p.last)
        flags = delayed(under_way, flags, 1, move, reset=True)
        m.d.comb += [
            Cat(self.rows.valid, self.rows.p.add, self.rows.p.last).eq(flags),
        ]
        index = delayed(m, word.word, latency)
        words = [row.word_select(n, WORD_BITS) for n in range(row_bits // WORD_BITS)]
        m.d.comb += self.word_data.eq(Array(words)[index] if len(words) > 1 else row)
        if has_spram(platform):
            # The output of an SPRAM comes early in a cycle, so that the address, which has fewer
            # bits, is delayed instead of the data.
            read = delayed(m, Cat(read_en, read_row), latency - 1, move)
            m.submodules.spram = spram = SpramRows(config)
            m.d.comb += [
                spram.row.eq(Mux(self.write.valid, write.row, read[1:])),
                spram.en.eq((read[0] & move) | self.write.valid),
                spram.write.eq(self.write.valid),
                spram.write_data.eq(write.data),
                row.eq(spram.read_data),
            ]
            if config.sum_queue:  # accumulators that are always enabled need zeros between rows
                with m.If(~self.rows.p.add):
                    m.d.comb += self.rows.p.weights.eq(0)
            return m
        shapes = BLOCK_RAM_SHAPES if has_block_ram_shapes(platform) else None
        read_data, write_data = Value.cast(row), Value.cast(write.data)
        if config.half_rows:
            # Bits that are at the same place in both halves of a row are stored side by side.
            places = [half + n for n in range(row_bits // 2) for half in (0, row_bits // 2)]
            read_data, write_data = (Cat(d[n] for n in places) for d in (read_data, write_data))
        width = GROUP_BITS if shapes else row_bits
        for first in range(0, row_bits, width):
            bits = slice(first, first + width)
            group = BlockRows(
                config.weight_depth,
                len(read_data[bits]),
                shapes,
                first // width,
                n_registers=config.weight_registers,
                joined=config.offchip_depth > 0,
                paired=config.half_rows > 0,
            )
            m.submodules[f"rows{first}"] = group
            if config.offchip_depth:
                m.d.comb += group.other.eq(self.offchip.p.weights[bits])
            m.d.comb += [
                group.move.eq(move),
                group.read_row.eq(read_row),
                group.read_en.eq(read_en),
                read_data[bits].eq(group.read_data),
                group.write_row.eq(write.row),
                group.write_en.eq(self.write.valid),
                group.write_data.eq(write_data[bits]),
            ]
            if config.half_rows:
                upper = event.weight[-1] & event.weight[0] & ~self.word.valid
                m.d.comb += group.read_upper.eq(upper)
        return m


def _ports(depth: int, row_bits: int) -> dict[str, wiring.Member]:
    """Return the members of :class:`BlockRows` for ``depth`` rows of ``row_bits`` bits, by name."""
    return {
        "move": In(1),
        "read_row": In(range(depth)),
        "read_en": In(1),
        "read_data": Out(row_bits),
        "write_row": In(range(depth)),
        "write_en": In(1),
        "write_data": In(row_bits),
    }


def banks(depth: int, shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Divide a memory of ``depth`` rows into banks of block RAM, each as deep as one block RAM.

    A bank of block RAM stores some of the memory's rows. It consists of block RAMs side by side,
    each of which has a column of the rows' bits. (A bank of the core, :class:`hw.core.bank.Bank`,
    contains a whole weight memory.)

    Parameters
    ----------
    shapes : (depth, width in bits) that a block RAM can have, the deepest first.

    Returns
    -------
    (rows, width of a column in bits) of each bank, the deepest first.
    """
    result = []
    while depth > 0:
        rows, width = next((s for s in shapes if s[0] <= depth), shapes[-1])
        result.append((rows, width))
        depth -= rows
    return result


class BlockRows(wiring.Component):
    """Store rows of weights, or a part of every row, in block RAM.

    Such a part is a *group* of :data:`GROUP_BITS` neighbouring bits; a weight memory has a
    component of this class for each group.

    With ``shapes``, the rows are divided into a few deep banks of narrow columns, see
    :func:`banks`. So the data of a column go to few block RAMs, one in each bank, and the
    multiplexer between the banks is small. Without ``shapes``, synthesis would choose many shallow
    and wide block RAMs, for which a full device does not have enough wires.

    Each group has address registers of its own, which can be placed near its block RAMs. Synthesis
    would merge the registers of two groups if both their reset values and their inputs were the
    same. So these differ, depending on ``number``: the registers start with zeros or with ones, and
    hold the address or its complement, which only permutes the rows of a block RAM. There are four
    combinations, so that at most four groups have registers of their own.

    Parameters
    ----------
    depth : number of rows.
    row_bits : width of a row, or of the group's part of it.
    shapes : (depth, width in bits) that a block RAM can have, the deepest first; None leaves the
        shape to synthesis.
    number : index of the group in its row.
    n_registers : number of registers behind the block RAMs
        (:attr:`hw.spec.Config.weight_registers`). With ``shapes``, the first one is left out here,
        because :mod:`hw.tools.netlist` switches on that of the block RAMs.
    joined : add the input ``other``, through which rows from memory outside the FPGA reach the
        output.
    paired : add the input ``read_upper``, which chooses a half of the row.

    Members
    -------
    move : the pipeline that contains this memory advances in this cycle.
    read_row, read_en : row to read, and whether to read in this cycle.
    read_data : the row, :attr:`hw.spec.Config.weight_latency` cycles after the request, counting
        only cycles with ``move``; 0 if there was no request.
    write_row, write_data, write_en : row to write, its contents, and whether to write in this
        cycle.
    other : only if ``joined``: value that ``read_data`` takes in the next cycle instead of 0 if
        there was no request.
    read_upper : only if ``paired``: in ``read_data``, each bit with an even index has the value of
        the bit after it.
    """

    def __init__(
        self,
        depth: int,
        row_bits: int,
        shapes: Sequence[tuple[int, int]] | None = None,
        number: int = 0,
        *,
        n_registers: int = 0,
        joined: bool = False,
        paired: bool = False,
    ):
        self._depth, self._row_bits, self._number = depth, row_bits, number
        self._banks = banks(depth, shapes) if shapes else [(depth, row_bits)]
        self._n_registers, self._joined, self._paired = n_registers, joined, paired
        self._n_in_ram = min(n_registers, 1) if shapes else 0
        super().__init__(
            _ports(depth, row_bits)
            | ({"other": In(row_bits)} if joined else {})
            | ({"read_upper": In(1)} if paired else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        n_bits = (self._depth - 1).bit_length()
        begin, complement = -(self._number & 1), -(self._number >> 1 & 1)

        def address(name: str) -> Signal:
            return Signal(n_bits, name=name, init=begin & (1 << n_bits) - 1, reset_less=True)

        read_row, write_row = address("read_row"), address("write_row")
        read_en, write_en = Signal(), Signal()
        write_data = unreset(self._row_bits)
        m.d.sync += [
            write_row.eq(self.write_row ^ complement),
            write_en.eq(self.write_en),
            write_data.eq(self.write_data),
        ]
        with m.If(self.move):
            m.d.sync += [read_row.eq(self.read_row ^ complement), read_en.eq(self.read_en)]
        row = Signal(self._row_bits)  # row that was read
        first = 0
        for b, (n_rows, width) in enumerate(self._banks):
            # Each bank begins at a multiple of its size, since the banks before it are larger.
            row_bits = (n_rows - 1).bit_length()
            above = (first // n_rows ^ complement) & (1 << max(n_bits - row_bits, 0)) - 1
            reads, writes, was_read = (
                Signal(name=f"{s}{b}") for s in ("reads", "writes", "was_read")
            )
            m.d.comb += [
                reads.eq(self.move & read_en & (read_row[row_bits:] == above)),
                writes.eq(write_en & (write_row[row_bits:] == above)),
            ]
            with m.If(self.move & read_en):
                m.d.sync += was_read.eq(reads)
            columns = []
            for at in range(0, self._row_bits, width):
                bits = write_data[at : at + width]
                m.submodules[f"bank{b}_{at}"] = rows = memory.Memory(
                    shape=len(bits), depth=n_rows, init=[]
                )
                read, write = rows.read_port(), rows.write_port()
                m.d.comb += [
                    read.addr.eq(read_row),
                    read.en.eq(reads),
                    write.addr.eq(write_row),
                    write.en.eq(writes),
                    write.data.eq(bits),
                ]
                columns.append(delayed(m, read.data, self._n_registers - self._n_in_ram, self.move))
            was_read = delayed(m, was_read, self._n_registers, self.move)
            with m.If(was_read | (b == 0)):  # the first bank, unless another one was read
                m.d.comb += row.eq(Cat(columns))
            first += n_rows
        if self._paired:
            upper = delayed(m, self.read_upper, 2 + self._n_registers, self.move)
            bits = Value.cast(row)
            row = Cat(
                bits[n] if n % 2 else Mux(upper, bits[n + 1], bits[n]) for n in range(len(bits))
            )
        # Silent events leave zeros; resetting a register is free on an ECP5.
        reads2 = delayed(m, read_en, 1 + self._n_registers, self.move, reset=True)
        with m.If(self.move):
            m.d.sync += self.read_data.eq(row)
            with m.If(~reads2):
                m.d.sync += self.read_data.eq(self.other if self._joined else 0)
        return m


def spram_grid(config: Config) -> tuple[int, int]:
    """Return (number of SPRAMs side by side, number of SPRAMs in depth) of weight memory.

    SPRAMs side by side store the bits of the same rows, and SPRAMs in depth store different rows.
    The memory takes the product of both numbers.

    Raises
    ------
    SpecError
        The rows need more SPRAMs than the device has, or the configuration has ``half_rows``.
    """
    if config.half_rows:
        raise SpecError("Config.half_rows = 1 is not supported on a device with SPRAM: use 0")
    row_bits = config.lanes * config.weight_bits
    n_columns, n_banks = -(-row_bits // SPRAM_BITS), -(-config.weight_depth // SPRAM_DEPTH)
    if n_columns * n_banks > N_SPRAMS:
        raise SpecError(
            f"Config.weight_depth = {config.weight_depth} is not supported: rows of {row_bits} "
            f"bits take more than this device's {N_SPRAMS} SPRAMs of {SPRAM_DEPTH} words of "
            f"{SPRAM_BITS} bits"
        )
    return n_columns, n_banks


class SpramRows(wiring.Component):
    """Store rows of weights in the SPRAMs of an iCE40 UltraPlus.

    The device has four of them, with 16,384 words of 16 bits, one port each and no initial contents
    (Lattice FPGA-DS-02008).

    Members
    -------
    row, en, write, write_data : address, enable, direction and data of the single port; a cycle
        with ``write`` does not read.
    read_data : the row, one cycle after ``en`` without ``write``.
    """

    def __init__(self, config: Config):
        self._n_columns, self._n_banks = spram_grid(config)
        row_bits = config.lanes * config.weight_bits
        super().__init__(
            {
                "row": In(range(config.weight_depth)),
                "en": In(1),
                "write": In(1),
                "write_data": In(row_bits),
                "read_data": Out(row_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address_bits = (SPRAM_DEPTH - 1).bit_length()
        bank = Signal(range(max(self._n_banks, 2)))
        read_bank = Signal.like(bank)
        m.d.comb += bank.eq(self.row[address_bits:])
        with m.If(self.en):
            m.d.sync += read_bank.eq(bank)
        for b in range(self._n_banks):
            words = []
            for column in range(self._n_columns):
                word = Signal(SPRAM_BITS, name=f"word{b}_{column}")
                words.append(word)
                m.submodules[f"spram{b}_{column}"] = Instance(
                    "SB_SPRAM256KA",
                    i_CLOCK=ClockSignal(),
                    i_ADDRESS=self.row[:address_bits],
                    i_CHIPSELECT=self.en & (bank == b),
                    i_WREN=self.write,
                    i_MASKWREN=Const(0b1111, 4),
                    i_DATAIN=self.write_data.word_select(column, SPRAM_BITS),
                    o_DATAOUT=word,
                    i_STANDBY=0,
                    i_SLEEP=0,
                    i_POWEROFF=1,  # active low
                )
            with m.If(read_bank == b):
                m.d.comb += self.read_data.eq(Cat(words))
        return m
