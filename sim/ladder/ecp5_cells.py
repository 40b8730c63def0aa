"""Conversion of netlists of ECP5 devices, after synthesis or after routing, to Verilog for
simulation.

The semantics of the cells are from Lattice's "ECP5 and ECP5-5G Family Data Sheet" (FPGA-DS-02012),
"ECP5 and ECP5-5G Memory Usage Guide" (FPGA-TN-02204) and Yosys' ``common_sim.vh``. Inputs that are
not connected are 1; after routing, a parameter such as ``CEMUX`` can invert an input or make it a
constant.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from sim.ladder.boundary import Boundary
from sim.ladder.netlist import Cell, LadderError, Netlist
from sim.ladder.verilog import CLOCK, PLL_LOCK, Writer, lut

MODELS = Path(__file__).with_name("ecp5.v")
"""Path of a Verilog file with models of the memories."""
N_INIT_WORDS, BITS_OF_INIT_PAIR = 64, 20
"""Number of parameters that hold the contents of a block RAM, and number of bits in a parameter for
each pair of 9-bit bytes."""
WIDTHS = (1, 2, 4, 9, 18, 36)
"""Possible widths in bits of a port of a block RAM."""


def verilog(netlist: Netlist, boundary: Boundary) -> str:
    """Return the Verilog of a device's netlist, for simulation.

    Raises
    ------
    LadderError
        A cell is not supported, the pins are not those of the board, or the PLL makes another clock
        than that of the board.
    """
    writer = Writer()
    boundary.join(writer, netlist.ports)
    for cell in netlist.cells:
        if cell.type == "TRELLIS_IO" and cell.text("DIR") == "INPUT":
            writer.join(cell.pins["O"], cell.pins["B"])
        elif cell.type == "DCCA":
            writer.join(cell.pins["CLKO"], cell.pins["CLKI"])
        elif cell.type == "EHXPLLL":
            writer.join(cell.pins["CLKOS"], CLOCK)
    for cell in netlist.cells:
        if cell.type == "EHXPLLL":
            _pll(writer, cell, netlist, boundary)
        elif cell.type != "DCCA":
            if cell.type not in _CELLS:
                raise LadderError(f"cells of the type {cell.type} are not supported")
            _CELLS[cell.type](writer, cell)
    return boundary.text(writer, netlist.ports) + PLL_LOCK + MODELS.read_text()


def _read(writer: Writer, cell: Cell, pin: str) -> str:
    """Return the Verilog expression of an input of a cell.

    The parameter ``CEMUX`` of the input ``CE``, for example, may invert the input or replace it by
    a constant.
    """
    mode = cell.text(f"{pin}MUX", pin)
    if mode in ("0", "1"):
        return f"1'b{mode}"
    level = writer.read(cell.pins.get(pin), 1)
    if mode == "INV":
        return {"1'b0": "1'b1", "1'b1": "1'b0"}.get(level, f"~{level}")
    return level


def _io(writer: Writer, cell: Cell) -> None:
    """Write the Verilog that drives an output pin. While its output is off, a pull-up makes the pin
    1."""
    direction = cell.text("DIR")
    if direction == "OUTPUT":
        off, level = writer.read(cell.pins.get("T"), 0), writer.read(cell.pins.get("I"))
        writer.assign(cell.pins["B"], f"{off} ? 1'b1 : {level}", cell.name)
    elif direction != "INPUT":
        raise LadderError(f"{cell.name} is a pin with the direction {direction}")


def _pll(writer: Writer, cell: Cell, netlist: Netlist, boundary: Boundary) -> None:
    """Check the PLL's input, feedback and frequency, and write the Verilog that drives its lock
    signal."""
    if not writer.same(cell.pins.get("CLKI"), netlist.ports[boundary.clock]):
        raise LadderError(f"the reference of {cell.name} is not the clock of the board")
    feedback = cell.text("FEEDBK_PATH"), cell.pins.get("CLKFB")
    if feedback != ("CLKOP", cell.pins.get("CLKOP")):
        raise LadderError(f"the feedback of {cell.name} does not come from CLKOP")
    factor = cell.number("CLKOP_DIV", 1) * cell.number("CLKFB_DIV", 1)
    divisor = cell.number("CLKI_DIV", 1) * cell.number("CLKOS_DIV", 1)
    boundary.check_clock(Fraction(factor, divisor))
    off = " | ".join(writer.read(cell.pins.get(pin)) for pin in ("RST", "STDBY"))
    writer.lock(cell.pins.get("LOCK"), off, cell.name)


def _table(writer: Writer, cell: Cell, suffix: str = "", init: str = "INIT") -> str:
    inputs = [_read(writer, cell, f"{pin}{suffix}") for pin in "ABCD"]
    return lut(cell.number(f"{init}{suffix}"), inputs)


def _carry(
    writer: Writer, cell: Cell, carry: str, suffix: str, init: str, inject: str
) -> tuple[str, str]:
    """Return the Verilog expressions of the sum and the carry of one half of a carry cell.

    Each half adds one bit, with a look-up table. ``carry`` is the expression of the carry that
    comes in; the names of this half's inputs end with ``suffix``. ``init`` names the parameter with
    the contents of the look-up table, and ``inject`` the parameter that can keep the incoming carry
    out of the sum.
    """
    table = _table(writer, cell, suffix, init)
    if cell.text(inject, "YES") == "YES":
        return table, f"({table} & {carry})"
    inputs = [_read(writer, cell, f"{pin}{suffix}") for pin in "AB"]
    generate = lut(cell.number(f"{init}{suffix}") & 15, inputs)
    return f"({table} ^ {carry})", f"({table} ? {carry} : {generate})"


def _lut4(writer: Writer, cell: Cell) -> None:
    writer.assign(cell.pins.get("Z"), _table(writer, cell), cell.name)


def _ccu2c(writer: Writer, cell: Cell) -> None:
    carry = writer.read(cell.pins.get("CIN"), 1)
    middle, carry_middle = _carry(writer, cell, carry, "0", "INIT", "INJECT1_0")
    writer.assign(cell.pins.get("S0"), middle, cell.name)
    name = writer.wire(carry_middle)
    last, carry_last = _carry(writer, cell, name, "1", "INIT", "INJECT1_1")
    writer.assign(cell.pins.get("S1"), last, cell.name)
    writer.assign(cell.pins.get("COUT"), carry_last, cell.name)


def _mux(select: str, high: str, low: str) -> Callable[[Writer, Cell], None]:
    """Return a function that writes the Verilog of a multiplexer cell whose inputs have these
    names."""

    def write(writer: Writer, cell: Cell) -> None:
        s, one, zero = (writer.read(cell.pins.get(pin), 1) for pin in (select, high, low))
        writer.assign(cell.pins.get("Z"), f"{s} ? {one} : {zero}", cell.name)

    return write


def _comb(writer: Writer, cell: Cell) -> None:
    """Write the Verilog of a combinational cell; after routing, a slice of the device has two of
    them.

    The cell is a look-up table, half of a carry cell, or one bit of a RAM made of look-up tables.
    """
    mode = cell.text("MODE", "LOGIC")
    if mode == "RAMW_BLOCK":
        return
    if mode == "DPRAM":
        _table_ram(writer, cell)
        return
    if mode == "CCU2":
        carry = writer.read(cell.pins.get("FCI"), 1)
        table, following = _carry(writer, cell, carry, "", "INITVAL", "CCU2_INJECT1")
        writer.assign(cell.pins.get("FCO"), following, cell.name)
    elif mode == "LOGIC":
        table = _table(writer, cell, init="INITVAL")
    else:
        raise LadderError(f"{cell.name} has the mode {mode}")
    writer.assign(cell.pins.get("F"), table, cell.name)
    if "OFX" in cell.pins:
        select = _read(writer, cell, "M")
        if "FXA" in cell.pins or "FXB" in cell.pins:
            high, low = (writer.read(cell.pins.get(pin), 1) for pin in ("FXB", "FXA"))
        else:
            high, low = writer.read(cell.pins.get("F1"), 1), table
        writer.assign(cell.pins["OFX"], f"{select} ? {high} : {low}", cell.name)


def _table_ram(writer: Writer, cell: Cell) -> None:
    inputs = {pin: _read(writer, cell, pin) for pin in ("WCK", "WRE", "WD")}
    inputs["WAD"] = writer.read_bus(cell.bus("WAD", 4, ""), 1)
    inputs["RAD"] = writer.read_bus([cell.pins.get(pin) for pin in "DBCA"], 1)
    parameters = {"INIT": f"16'd{cell.number('INITVAL')}", "WIDTH": "1"}
    writer.instance("ecp5_table_ram", cell.name, parameters, inputs, {"DO": [cell.pins.get("F")]})


def _dpr16x4(writer: Writer, cell: Cell) -> None:
    inputs = {pin: _read(writer, cell, pin) for pin in ("WCK", "WRE")}
    for pin, name in (("WAD", "WAD"), ("RAD", "RAD"), ("DI", "WD")):
        inputs[name] = writer.read_bus(cell.bus(pin, 4), 1)
    parameters = {"INIT": f"64'd{cell.number('INITVAL')}", "WIDTH": "4"}
    writer.instance("ecp5_table_ram", cell.name, parameters, inputs, {"DO": cell.bus("DO", 4)})


def _ram_write(writer: Writer, cell: Cell) -> None:
    """Write the Verilog of a cell ``TRELLIS_RAMW``, which has no logic of its own.

    It only passes the address and the data of a write on to the cells of a small RAM.
    """
    outputs = ("WADO0", "WADO1", "WADO2", "WADO3", "WDO0", "WDO1", "WDO2", "WDO3")
    for output, pin in zip(outputs, ["D0", "B0", "C0", "A0", "C1", "A1", "D1", "B1"], strict=True):
        writer.assign(cell.pins.get(output), writer.read(cell.pins.get(pin), 1), cell.name)


def _flip_flop(writer: Writer, cell: Cell) -> None:
    reset = _read(writer, cell, "LSR") if "LSR" in cell.pins else "1'b0"
    if reset != "1'b0" and cell.text("SRMODE") != "LSR_OVER_CE":
        raise LadderError(f"{cell.name} has a reset of the kind {cell.text('SRMODE')!r}")
    value = int(cell.text("REGSET", "RESET") == "SET")
    writer.flip_flop(
        cell.pins.get("Q"),
        writer.read(cell.pins.get("M" if cell.text("SD") == "0" else "DI"), 1),
        _read(writer, cell, "CLK"),
        cell.name,
        enable=_read(writer, cell, "CE"),
        reset=reset,
        value=value,
        init=value,
    )


def _block_ram(writer: Writer, cell: Cell) -> None:
    width_a, width_b = (cell.number(f"DATA_WIDTH_{port}", 18) for port in "AB")
    registered = {port: cell.text(f"REGMODE_{port}", "NOREG") == "OUTREG" for port in "AB"}
    for port in "AB":
        if cell.text(f"CSDECODE_{port}", "0b000") != "0b000":
            raise LadderError(f"{cell.name} has CSDECODE_{port} = {cell.text(f'CSDECODE_{port}')}")
        if registered[port] and _read(writer, cell, f"OCE{port}") != "1'b1":
            raise LadderError(f"{cell.name} does not always enable the register of its port {port}")
    if not {width_a, width_b} <= set(WIDTHS) or (width_a == 36) != (width_b == 36):
        raise LadderError(f"{cell.name} has ports of {width_a} and {width_b} bits")
    if width_a == 36 and registered["A"] != registered["B"]:
        raise LadderError(f"{cell.name} has a register in one half of its 36 bits only")
    inputs: dict[str, str] = {}
    for port in "AB":
        if _read(writer, cell, f"RST{port}") != "1'b0":
            raise LadderError(f"{cell.name} resets the output of its port {port}")
        clock = _read(writer, cell, f"CLK{port}")
        if clock not in (CLOCK, "1'b0", "1'b1"):
            raise LadderError(f"{cell.name} is clocked by another signal than the PLL's output")
        selected = [_read(writer, cell, f"CS{port}{i}") for i in range(3)]
        enabled = _read(writer, cell, f"CE{port}") if clock == CLOCK else "1'b0"
        inputs[f"EN{port}"] = " & ".join([enabled, *(f"~{level}" for level in selected)])
        inputs[f"WE{port}"] = _read(writer, cell, f"WE{port}")
        for pin, width in (("AD", 14), ("DI", 18)):
            bits = [_read(writer, cell, f"{pin}{port}{i}") for i in reversed(range(width))]
            inputs[f"{pin}{port}"] = "{" + ", ".join(bits) + "}"
    parameters = {
        "WIDTH_A": str(width_a),
        "WIDTH_B": str(width_b),
        "KEEPS_A": str(int(cell.text("WRITEMODE_A", "NORMAL") == "NORMAL")),
        "KEEPS_B": str(int(cell.text("WRITEMODE_B", "NORMAL") == "NORMAL")),
        "REGISTERED_A": str(int(registered["A"])),
        "REGISTERED_B": str(int(registered["B"])),
        "INIT": f"18432'h{_contents(cell):x}",
    }
    outputs = {f"DO{port}": cell.bus(f"DO{port}", 18, "") for port in "AB"}
    writer.instance("ecp5_ram", cell.name, parameters, {"CLK": CLOCK} | inputs, outputs)


def _contents(cell: Cell) -> int:
    """Return the initial contents of a block RAM as one number.

    The RAM has 2048 bytes of 9 bits. The first byte is in the lowest bits of the number.
    """
    found = 0
    for word in range(N_INIT_WORDS):
        value = cell.number(f"INITVAL_{word:02X}")
        for pair in range(16 if value else 0):
            bits = value >> BITS_OF_INIT_PAIR * pair & 0x3FFFF
            found |= bits << 18 * (16 * word + pair)
    return found


_CELLS: dict[str, Callable[[Writer, Cell], None]] = {
    "TRELLIS_IO": _io,
    "LUT4": _lut4,
    "CCU2C": _ccu2c,
    "PFUMX": _mux("C0", "ALUT", "BLUT"),
    "L6MUX21": _mux("SD", "D1", "D0"),
    "TRELLIS_COMB": _comb,
    "TRELLIS_RAMW": _ram_write,
    "TRELLIS_DPR16X4": _dpr16x4,
    "TRELLIS_FF": _flip_flop,
    "DP16KD": _block_ram,
}
"""Function that writes the Verilog of a cell, by the cell's type."""
