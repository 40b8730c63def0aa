"""Conversion of netlists of iCE40 devices to Verilog: cells after synthesis (``SB_*``) and after
routing.

The semantics of the cells are from Lattice's "iCE Technology Library" and Yosys' ``cells_sim.v``.
Inputs that are not connected are 0, but clock enables are 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from sim.ladder.boundary import Boundary
from sim.ladder.netlist import Bit, Cell, LadderError, Netlist
from sim.ladder.verilog import CLOCK, PLL_LOCK, Writer, lut

MODELS = Path(__file__).with_name("ice40.v")
"""Path of a Verilog file with models of the memories."""

IO_TYPES = ("SB_IO", "SB_GB_IO")
PLL_TYPES = ("SB_PLL40_CORE", "SB_PLL40_PAD", "ICESTORM_PLL")
PLLTYPE_PAD = 0b010
"""Value of the parameter ``PLLTYPE`` of a PLL whose input clock comes from its own pad."""
PLL_OUTPUTS = ("PLLOUTGLOBAL", "PLLOUTCORE", "PLLOUT_A_GLOBAL", "PLLOUT_A")


def verilog(netlist: Netlist, boundary: Boundary) -> str:
    """Return the Verilog of a device's netlist, for simulation.

    Raises
    ------
    LadderError
        A cell is not supported, the pins are not those of the board, or the PLL makes another clock
        than that of the board.
    """
    writer = Writer()
    by_type: dict[str, list[Cell]] = {}
    for cell in netlist.cells:
        by_type.setdefault(cell.type, []).append(cell)
    pads = [cell for kind in IO_TYPES for cell in by_type.pop(kind, [])]
    plls = [cell for kind in PLL_TYPES for cell in by_type.pop(kind, [])]
    if len(plls) != 1:
        raise LadderError(f"the device has {len(plls)} PLLs in place of one")
    boundary.join(writer, netlist.ports)
    for cell in pads:
        _join_inputs(writer, cell)
    for cell in by_type.pop("SB_GB", []):
        writer.join(cell.pins["GLOBAL_BUFFER_OUTPUT"], _buffered(cell, plls[0], netlist, boundary))
    for pin in PLL_OUTPUTS:
        if pin in plls[0].pins:
            writer.join(plls[0].pins[pin], CLOCK)
    for cell in pads:
        _io(writer, cell)
    for kind, cells in by_type.items():
        write = next((w for pattern, w in _CELLS if re.fullmatch(pattern, kind)), None)
        if write is None:
            raise LadderError(f"cells of the type {kind} are not supported")
        for cell in cells:
            write(writer, cell)
    _pll(writer, plls[0], netlist, boundary)
    return boundary.text(writer, netlist.ports) + PLL_LOCK + MODELS.read_text()


def _io(writer: Writer, cell: Cell) -> None:
    """Write the Verilog that drives a pin, if the pin is an output.

    While its output enable is 0, a pull-up makes the pin 1.

    Raises
    ------
    LadderError
        The output has a register or an open drain.
    """
    kind, pad = cell.number("PIN_TYPE"), cell.pins["PACKAGE_PIN"]
    if kind >> 2 in (0b0110, 0b1010):
        level = writer.read(cell.pins["D_OUT_0"])
        if kind >> 2 == 0b1010:
            level = f"{writer.read(cell.pins.get('OUTPUT_ENABLE'), 1)} ? {level} : 1'b1"
        writer.assign(pad, level, cell.name)
    elif kind >> 2:
        raise LadderError(f"{cell.name} is an output with a register or an open drain: {kind:06b}")


def _join_inputs(writer: Writer, cell: Cell) -> None:
    """Join the outputs of a pin's input buffer with the net of the pin itself.

    Raises
    ------
    LadderError
        The input has a register.
    """
    for pin in ("D_IN_0", "GLOBAL_BUFFER_OUTPUT"):
        if pin in cell.pins:
            if cell.number("PIN_TYPE") & 3 != 1:
                raise LadderError(f"{cell.name} is an input with a register")
            writer.join(cell.pins[pin], cell.pins["PACKAGE_PIN"])


def _buffered(cell: Cell, pll: Cell, netlist: Netlist, boundary: Boundary) -> Bit:
    """Return the net that the buffer ``cell`` drives into a global network (low-skew wires) of the
    device.

    In nextpnr's netlist after routing, the buffers of the PLL's output and of the board's clock
    have no input from which to follow the net. A buffer without input is assumed to be the one of
    the board's clock if it drives the PLL's reference input, and the one of the PLL's output if it
    does not.
    """
    source = cell.pins.get("USER_SIGNAL_TO_GLOBAL_BUFFER")
    if source is not None:
        return source
    reference = pll.pins.get("REFERENCECLK")
    is_clock = reference is not None and reference == cell.pins["GLOBAL_BUFFER_OUTPUT"]
    if not is_clock and any(pin in pll.pins for pin in PLL_OUTPUTS):
        raise LadderError(f"{cell.name} has neither an input nor the PLL's output")
    return netlist.ports[boundary.clock] if is_clock else CLOCK


def _pll(writer: Writer, cell: Cell, netlist: Netlist, boundary: Boundary) -> None:
    """Check the PLL's input, feedback and frequency, and write the Verilog that drives its lock
    signal."""
    reference = cell.pins.get("PACKAGEPIN", cell.pins.get("REFERENCECLK"))
    # nextpnr shows no net between a PLL and its own pad.
    of_pad = cell.number("PLLTYPE") == PLLTYPE_PAD and reference is None
    if not of_pad and not writer.same(reference, netlist.ports[boundary.clock]):
        raise LadderError(f"the reference of {cell.name} is not the clock of the board")
    if cell.text("FEEDBACK_PATH") not in ("SIMPLE", "001"):
        raise LadderError(f"{cell.name} has the feedback path {cell.text('FEEDBACK_PATH')}")
    boundary.check_clock(
        Fraction(cell.number("DIVF") + 1, (cell.number("DIVR") + 1) << cell.number("DIVQ"))
    )
    off = f"{writer.read(cell.pins.get('BYPASS'))} | ~{writer.read(cell.pins.get('RESETB'), 1)}"
    writer.lock(cell.pins.get("LOCK"), off, cell.name)


def _lut4(writer: Writer, cell: Cell) -> None:
    inputs = [writer.read(cell.pins.get(f"I{i}")) for i in range(4)]
    writer.assign(cell.pins.get("O"), lut(cell.number("LUT_INIT"), inputs), cell.name)


def _carry(writer: Writer, cell: Cell) -> None:
    a, b, carry = (writer.read(cell.pins.get(pin)) for pin in ("I0", "I1", "CI"))
    writer.assign(cell.pins.get("CO"), _majority(a, b, carry), cell.name)


def _majority(a: str, b: str, carry: str) -> str:
    return f"({a} & {b}) | (({a} | {b}) & {carry})"


def _dff(writer: Writer, cell: Cell) -> None:
    kind = cell.type.removeprefix("SB_DFF")
    if not re.fullmatch("N?E?(S[SR])?", kind):
        raise LadderError(f"{cell.name} is a flip-flop with an asynchronous reset: {cell.type}")
    writer.flip_flop(
        cell.pins.get("Q"),
        writer.read(cell.pins.get("D")),
        writer.read(cell.pins.get("C")),
        cell.name,
        enable=writer.read(cell.pins.get("E"), 1),
        reset=writer.read(cell.pins.get("S", cell.pins.get("R"))),
        value=int(kind.endswith("SS")),
        enabled_reset=True,
        falling=kind.startswith("N"),
    )


def _logic_cell(writer: Writer, cell: Cell) -> None:
    """Write the Verilog of a logic cell: a look-up table, a carry, and perhaps a flip-flop after
    the table."""
    inputs = [writer.read(cell.pins.get(f"I{i}")) for i in range(4)]
    table = lut(cell.number("LUT_INIT"), inputs)
    carry = writer.read(cell.pins.get("CIN"))
    if cell.number("CIN_CONST"):
        carry = f"1'b{cell.number('CIN_SET')}"
    if "COUT" in cell.pins:
        enabled = cell.number("CARRY_ENABLE")
        sums = _majority(inputs[1], inputs[2], carry) if enabled else "1'b0"
        writer.assign(cell.pins["COUT"], sums, cell.name)
    writer.assign(cell.pins.get("LO"), table, cell.name)
    if not cell.number("DFF_ENABLE"):
        writer.assign(cell.pins.get("O"), table, cell.name)
        return
    if cell.number("ASYNC_SR") and "SR" in cell.pins:
        raise LadderError(f"{cell.name} has an asynchronous reset")
    writer.flip_flop(
        cell.pins.get("O"),
        table,
        writer.read(cell.pins.get("CLK")),
        cell.name,
        enable=writer.read(cell.pins.get("CEN"), 1),
        reset=writer.read(cell.pins.get("SR")),
        value=cell.number("SET_NORESET"),
        enabled_reset=True,
        falling=bool(cell.number("NEG_CLK")),
    )


def _block_ram(writer: Writer, cell: Cell) -> None:
    if cell.number("NEG_CLK_R") or cell.number("NEG_CLK_W"):
        raise LadderError(f"{cell.name} takes its inputs at the falling edge")
    parameters = {name: str(cell.number(name)) for name in ("READ_MODE", "WRITE_MODE")}
    rows = [cell.number(f"INIT_{row:X}") for row in range(16)]
    parameters["INIT"] = f"4096'h{sum(row << 256 * i for i, row in enumerate(rows)):x}"
    inputs = {pin: writer.read(cell.pins.get(pin)) for pin in ("RCLK", "RE", "WCLK", "WE")}
    inputs |= {pin: writer.read(cell.pins.get(pin), 1) for pin in ("RCLKE", "WCLKE")}
    for pin, width in (("RADDR", 11), ("WADDR", 11), ("MASK", 16), ("WDATA", 16)):
        inputs[pin] = writer.read_bus(cell.bus(pin, width))
    outputs = {"RDATA": cell.bus("RDATA", 16)}
    writer.instance("ice40_ram", cell.name, parameters, inputs, outputs)


def _spram(writer: Writer, cell: Cell) -> None:
    pins = ("WREN", "CHIPSELECT", "CLOCK", "STANDBY", "SLEEP", "POWEROFF")
    inputs = {pin: writer.read(cell.pins.get(pin)) for pin in pins}
    for pin, width in (("ADDRESS", 14), ("DATAIN", 16), ("MASKWREN", 4)):
        inputs[pin] = writer.read_bus(cell.bus(pin, width))
    writer.instance("ice40_spram", cell.name, {}, inputs, {"DATAOUT": cell.bus("DATAOUT", 16)})


_CELLS: tuple[tuple[str, Callable[[Writer, Cell], None]], ...] = (
    ("SB_LUT4", _lut4),
    ("SB_CARRY", _carry),
    ("SB_DFF.*", _dff),
    ("ICESTORM_LC", _logic_cell),
    ("SB_RAM40_4K|ICESTORM_RAM", _block_ram),
    ("SB_SPRAM256KA|ICESTORM_SPRAM", _spram),
)
"""Functions that write the Verilog of a cell, each with the pattern of the cell types it is for."""
