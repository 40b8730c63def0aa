"""Conversion of a Gowin device's netlist, after synthesis, to Verilog for simulation.

The semantics of the cells are from Gowin's "Gowin BSRAM & SSRAM User Guide" (UG285), "Gowin
Configurable Function Unit User Guide" (UG288) and Yosys' ``cells_sim.v``. Inputs that are not
connected are 0.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from sim.ladder.boundary import Boundary
from sim.ladder.netlist import Cell, LadderError, Netlist
from sim.ladder.verilog import CLOCK, PLL_LOCK, Writer, lut

MODELS = Path(__file__).with_name("gowin.v")
"""Path of a Verilog file with models of the memories."""
ADDSUB = 2
"""Value of an adder cell's parameter ``ALU_MODE`` with which it adds or, while ``I3`` is 0,
subtracts."""
CONSTANTS = {"VCC": ("V", "1"), "GND": ("G", "0")}
"""Types of cells that drive a constant, each with its pin and its level."""


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
        if cell.type == "IBUF":
            writer.join(cell.pins["O"], cell.pins["I"])
        elif cell.type == "rPLL":
            writer.join(cell.pins["CLKOUT"], CLOCK)
        elif cell.type in CONSTANTS:
            pin, level = CONSTANTS[cell.type]
            writer.join(cell.pins[pin], level)
    for cell in netlist.cells:
        if cell.type == "rPLL":
            _pll(writer, cell, netlist, boundary)
        elif re.fullmatch(r"DFF[SR]?E?", cell.type):
            _flip_flop(writer, cell)
        elif re.fullmatch(r"LUT[1-4]", cell.type):
            levels = [writer.read(cell.pins.get(f"I{i}")) for i in range(int(cell.type[3]))]
            writer.assign(cell.pins.get("F"), lut(cell.number("INIT"), levels), cell.name)
        elif re.fullmatch(r"MUX2_LUT[5-8]", cell.type):
            select, high, low = (writer.read(cell.pins.get(pin)) for pin in ("S0", "I1", "I0"))
            writer.assign(cell.pins.get("O"), f"{select} ? {high} : {low}", cell.name)
        elif cell.type in _CELLS:
            _CELLS[cell.type](writer, cell)
        elif cell.type != "IBUF" and cell.type not in CONSTANTS:
            raise LadderError(f"cells of the type {cell.type} are not supported")
    return boundary.text(writer, netlist.ports) + PLL_LOCK + MODELS.read_text()


def _pll(writer: Writer, cell: Cell, netlist: Netlist, boundary: Boundary) -> None:
    """Check the PLL's input, feedback and frequency, and write the Verilog that drives its lock
    signal."""
    if not writer.same(cell.pins.get("CLKIN"), netlist.ports[boundary.clock]):
        raise LadderError(f"the reference of {cell.name} is not the clock of the board")
    if cell.text("CLKFB_SEL") != "internal":
        raise LadderError(f"{cell.name} has the feedback {cell.text('CLKFB_SEL')}")
    boundary.check_clock(Fraction(cell.number("FBDIV_SEL") + 1, cell.number("IDIV_SEL") + 1))
    off = " | ".join(writer.read(cell.pins.get(pin)) for pin in ("RESET", "RESET_P"))
    writer.lock(cell.pins.get("LOCK"), off, cell.name)


def _flip_flop(writer: Writer, cell: Cell) -> None:
    value = int("SET" in cell.pins)
    writer.flip_flop(
        cell.pins.get("Q"),
        writer.read(cell.pins.get("D")),
        writer.read(cell.pins.get("CLK")),
        cell.name,
        enable=writer.read(cell.pins.get("CE"), 1),
        reset=writer.read(cell.pins.get("SET", cell.pins.get("RESET"))),
        value=value,
        init=value,
    )


def _adder(writer: Writer, cell: Cell) -> None:
    if cell.number("ALU_MODE") != ADDSUB:
        raise LadderError(f"{cell.name} has the mode {cell.text('ALU_MODE')}")
    a, b, adds, carry = (writer.read(cell.pins.get(pin)) for pin in ("I0", "I1", "I3", "CIN"))
    differ = writer.wire(f"{a} ^ {b} ^ ~{adds}")
    writer.assign(cell.pins.get("SUM"), f"{differ} ^ {carry}", cell.name)
    writer.assign(cell.pins.get("COUT"), f"{differ} ? {carry} : {a}", cell.name)


def _output(writer: Writer, cell: Cell) -> None:
    """Write the Verilog that drives an output pin. While its output is off, a pull-up makes the pin
    1."""
    off, level = writer.read(cell.pins.get("OEN")), writer.read(cell.pins.get("I"))
    writer.assign(cell.pins["O"], f"{off} ? 1'b1 : {level}", cell.name)


def _table_ram(writer: Writer, cell: Cell) -> None:
    inputs = {pin: writer.read(cell.pins.get(pin)) for pin in ("CLK", "WRE")}
    inputs |= {pin: writer.read_bus(cell.bus(pin, 4)) for pin in ("WAD", "RAD", "DI")}
    contents = [cell.number(f"INIT_{i}") for i in range(4)]
    rows = [sum((bits >> row & 1) << i for i, bits in enumerate(contents)) for row in range(16)]
    init = sum(row << 4 * i for i, row in enumerate(rows))
    writer.instance(
        "gowin_table_ram", cell.name, {"INIT": f"64'd{init}"}, inputs, {"DO": cell.bus("DO", 4)}
    )


def _port(writer: Writer, cell: Cell, port: str, width: int) -> dict[str, str]:
    """Return the Verilog expressions of the inputs of one block RAM port, by the inputs' names.

    The names are those of the block RAM's Verilog model, ``gowin.v``.

    Parameters
    ----------
    port : letter of the port; an empty string if the block RAM has a single port.
    width : number of bits of the port's data input.

    Raises
    ------
    LadderError
        The port uses a reset, or another clock than the PLL's output.
    """
    if writer.read(cell.pins.get(f"RESET{port}")) != "1'b0":
        raise LadderError(f"{cell.name} resets the output of its port {port}")
    clock = writer.read(cell.pins.get(f"CLK{port}"))
    if clock not in (CLOCK, "1'b0", "1'b1"):
        raise LadderError(f"{cell.name} is clocked by another signal than the PLL's output")
    enabled = writer.read(cell.pins.get(f"CE{port}")) if clock == CLOCK else "1'b0"
    selected = [writer.read(bit) for bit in cell.bus(f"BLKSEL{port}", 3)]
    found = {
        f"EN{port}": " & ".join([enabled, *(f"~{level}" for level in selected)]),
        f"AD{port}": writer.read_bus(cell.bus(f"AD{port}", 14)),
    }
    if f"WRE{port}" in cell.pins:
        found[f"WRE{port}"] = writer.read(cell.pins[f"WRE{port}"])
        found[f"DI{port}"] = writer.read_bus(cell.bus(f"DI{port}", width))
    return found


def _check_ram(cell: Cell, widths: tuple[int, ...]) -> None:
    """Check that a block RAM uses only what its Verilog model in ``gowin.v`` supports.

    Raises
    ------
    LadderError
        The block RAM has output registers, block selection or initial contents, or a port whose
        width is not in ``widths``.
    """
    for name, text in cell.parameters.items():
        if name.startswith(("READ_MODE", "BLK_SEL", "INIT")) and cell.number(name):
            raise LadderError(f"{cell.name} has {name} = {text}")
        if name.startswith("BIT_WIDTH") and cell.number(name) not in widths:
            raise LadderError(f"{cell.name} has a port of {cell.number(name)} bits")


def _dual_port(writer: Writer, cell: Cell) -> None:
    _check_ram(cell, (9, 18))
    widths = [cell.number(f"BIT_WIDTH_{i}") for i in range(2)]
    parameters = {"WIDTH_A": str(widths[0]), "WIDTH_B": str(widths[1])}
    inputs = {"CLK": CLOCK} | _port(writer, cell, "A", 18) | _port(writer, cell, "B", 18)
    outputs = {f"DO{port}": cell.bus(f"DO{port}", 18) for port in "AB"}
    writer.instance("gowin_dual_port", cell.name, parameters, inputs, outputs)


def _write_and_read(writer: Writer, cell: Cell) -> None:
    _check_ram(cell, (36,))
    inputs = {"CLK": CLOCK} | _port(writer, cell, "A", 36) | _port(writer, cell, "B", 36)
    inputs["DI"] = writer.read_bus(cell.bus("DI", 36))
    outputs = {"DO": cell.bus("DO", 36)}
    writer.instance("gowin_write_and_read", cell.name, {}, inputs, outputs)


def _single_port(writer: Writer, cell: Cell) -> None:
    _check_ram(cell, (9,))
    inputs = {"CLK": CLOCK} | _port(writer, cell, "", 36)
    writer.instance("gowin_single_port", cell.name, {}, inputs, {"DO": cell.bus("DO", 36)})


_CELLS = {
    "ALU": _adder,
    "TBUF": _output,
    "RAM16SDP4": _table_ram,
    "DPX9B": _dual_port,
    "SDPX9B": _write_and_read,
    "SPX9": _single_port,
}
"""Function that writes the Verilog of a cell, by the cell's type. Types that are matched by
patterns are missing."""
