"""Tests of the Verilog that is written for a netlist: look-up tables, drivers, iCE40 and ECP5
cells."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from sim.ladder import ecp5_cells, ice40_cells
from sim.ladder.boundary import Boundary
from sim.ladder.netlist import Cell, LadderError, Netlist
from sim.ladder.verilog import Writer, lut

PINS = Boundary(
    clock="clk",
    rx="rx",
    tx="tx",
    led="led",
    led_inverted=True,
    input_hz=12_000_000,
    clk_hz=30_000_000,
)
PORTS = {"clk": 1, "rx": 2, "tx": 3, "led": 4}


def evaluate(expression: str, levels: dict[str, int]) -> int:
    """Return the value of an expression that :func:`sim.ladder.verilog.lut` has returned."""
    tokens = re.findall(r"1'b[01]|\w+|[()~&|^?:]", expression)

    def operand() -> int:
        token = tokens.pop(0)
        if token == "~":
            return 1 - operand()
        if token != "(":
            return int(token[-1]) if token.startswith("1'b") else levels[token]
        first, operator, second = operand(), tokens.pop(0), operand()
        if operator == "?":
            assert tokens.pop(0) == ":"
            third = operand()
            found = second if first else third
        else:
            found = {"&": first & second, "|": first | second, "^": first ^ second}[operator]
        assert tokens.pop(0) == ")"
        return found

    found = operand()
    assert not tokens
    return found


@pytest.mark.parametrize("inputs", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "1'b1", "c"]])
def test_tables_have_their_contents(inputs: list[str]) -> None:
    for init in range(1 << (1 << len(inputs))):
        expression = lut(init, inputs)
        for levels in itertools.product((0, 1), repeat=len(inputs)):
            given = dict(zip(inputs, levels, strict=True))
            if given.get("1'b1", 1):
                index = sum(level << i for i, level in enumerate(levels))
                assert evaluate(expression, given) == init >> index & 1, (init, expression)


def test_a_net_has_one_driver() -> None:
    writer = Writer()
    writer.assign(7, writer.read(8), "one")
    with pytest.raises(LadderError, match="other drives a net of one"):
        writer.assign(7, "1'b0", "other")
    with pytest.raises(LadderError, match="1 nets have no driver, the first is 8"):
        writer.text("n7", "1'b0")


def test_joined_nets_are_one_wire() -> None:
    writer = Writer()
    writer.join(7, 8)
    writer.join(8, "rx")
    writer.assign(9, writer.read(7), "a table")
    assert writer.read(7) == "rx" and "assign n9 = rx;" in writer.text("n9", "1'b0")
    assert writer.same(7, 8) and not writer.same(9, 10)


def ice40(cells: list[Cell], **pll: str) -> str:
    """Return the Verilog of an iCE40 device with these cells and the other cells that it needs."""
    parameters = {"DIVR": "0000", "DIVF": "1001111", "DIVQ": "101", "FEEDBACK_PATH": "SIMPLE"}
    source = {"REFERENCECLK": 5, "PLLOUTGLOBAL": 6, "LOCK": 7}
    others = [
        Cell(
            name="clk",
            type="SB_IO",
            parameters={"PIN_TYPE": "000001"},
            pins={"PACKAGE_PIN": 1, "D_IN_0": 5},
        ),
        Cell(
            name="rx",
            type="SB_IO",
            parameters={"PIN_TYPE": "000001"},
            pins={"PACKAGE_PIN": 2, "D_IN_0": 8},
        ),
        Cell(
            name="tx",
            type="SB_IO",
            parameters={"PIN_TYPE": "101001"},
            pins={"PACKAGE_PIN": 3, "D_OUT_0": 9, "OUTPUT_ENABLE": "1"},
        ),
        Cell(
            name="led",
            type="SB_IO",
            parameters={"PIN_TYPE": "011001"},
            pins={"PACKAGE_PIN": 4, "D_OUT_0": 7},
        ),
        Cell(name="pll", type="SB_PLL40_CORE", parameters=parameters | pll, pins=source),
    ]
    return ice40_cells.verilog(Netlist(cells=[*others, *cells], ports=dict(PORTS)), PINS)


FLIP_FLOP = Cell(name="q", type="SB_DFFESS", pins={"C": 6, "D": 8, "E": 7, "S": "0", "Q": 9})


def test_ice40_device() -> None:
    text = ice40([FLIP_FLOP])
    assert "always @(posedge clk) if (n7) begin n9_q <= rx; end" in text
    assert "assign tx = n3;" in text and "assign activity = ~n4;" in text
    assert "off(rst | 1'b0 | ~1'b1)" in text


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (replace(FLIP_FLOP, type="SB_DFFES"), "q is a flip-flop with an asynchronous reset"),
        (replace(FLIP_FLOP, type="SB_DFFNE"), "q is clocked by another signal"),
        (replace(FLIP_FLOP, pins=FLIP_FLOP.pins | {"C": 8}), "q is clocked by another signal"),
        (replace(FLIP_FLOP, type="SB_MAC16"), "cells of the type SB_MAC16 are not supported"),
    ],
)
def test_what_an_ice40_must_not_have(cell: Cell, message: str) -> None:
    with pytest.raises(LadderError, match=message):
        ice40([cell])


def test_another_clock_is_refused() -> None:
    with pytest.raises(LadderError, match="makes 30375000 Hz of 12000000 Hz, not 30000000 Hz"):
        ice40([FLIP_FLOP], DIVF="1010000")
    with pytest.raises(LadderError, match="has the feedback path DELAY"):
        ice40([FLIP_FLOP], FEEDBACK_PATH="DELAY")


def test_ice40_logic_cell() -> None:
    cell = Cell(
        name="lc",
        type="ICESTORM_LC",
        parameters={"LUT_INIT": f"{0x6666:016b}", "DFF_ENABLE": "1", "CARRY_ENABLE": "1"},
        pins={"I0": 8, "I1": 7, "CLK": 6, "CEN": 7, "SR": 8, "O": 9, "COUT": 10},
    )
    text = ice40([cell])
    assert "if (n7) begin if (rx) n9_q <= 1'b0; else n9_q <= (n7 ^ rx); end" in text
    assert "assign n10 = (n7 & 1'b0) | ((n7 | 1'b0) & 1'b0);" in text


def ecp5(cells: list[Cell]) -> str:
    """Return the Verilog of an ECP5 device with these cells and the other cells that it needs."""
    divisors = {"CLKI_DIV": "1", "CLKFB_DIV": "1", "CLKOP_DIV": f"{50:b}", "CLKOS_DIV": f"{20:b}"}
    pins = {"CLKI": 5, "CLKOP": 10, "CLKFB": 10, "CLKOS": 6, "LOCK": 7, "RST": "0", "STDBY": "0"}
    others = [
        Cell(name="clk", type="TRELLIS_IO", parameters={"DIR": "INPUT"}, pins={"B": 1, "O": 5}),
        Cell(name="rx", type="TRELLIS_IO", parameters={"DIR": "INPUT"}, pins={"B": 2, "O": 8}),
        Cell(name="tx", type="TRELLIS_IO", parameters={"DIR": "OUTPUT"}, pins={"B": 3, "I": 9}),
        Cell(name="led", type="TRELLIS_IO", parameters={"DIR": "OUTPUT"}, pins={"B": 4, "I": 7}),
        Cell(
            name="pll",
            type="EHXPLLL",
            parameters=divisors | {"FEEDBK_PATH": "CLKOP"},
            pins=pins,
        ),
    ]
    return ecp5_cells.verilog(Netlist(cells=[*others, *cells], ports=dict(PORTS)), PINS)


def test_ecp5_flip_flop_and_table() -> None:
    parameters = {"CEMUX": "INV", "REGSET": "SET", "SRMODE": "LSR_OVER_CE", "SD": "0"}
    pins = {"CLK": 6, "CE": 7, "LSR": 8, "M": 11, "DI": 8, "Q": 9}
    table = Cell(
        name="t",
        type="TRELLIS_COMB",
        parameters={"INITVAL": f"{0x8000:016b}"},
        pins={"A": 8, "B": 7, "F": 11},
    )
    cells = [Cell(name="q", type="TRELLIS_FF", parameters=parameters, pins=pins), table]
    text = ecp5(cells)
    assert "reg n9_q = 1'b1;" in text and "assign n11 = (n7 & rx);" in text
    assert "if (rx) n9_q <= 1'b1; else if (~n7) n9_q <= n11;" in text


def test_ecp5_block_ram_contents_and_limits() -> None:
    parameters = {
        "DATA_WIDTH_A": f"{9:b}",
        "DATA_WIDTH_B": f"{9:b}",
        "INITVAL_01": f"{0x1FF << 20:b}",
    } | {f"RST{port}MUX": "INV" for port in "AB"}
    pins = {"CLKA": 6, "CLKB": 6, "WEA": 7, "DIA0": 8, "DOB0": 9}
    ram = Cell(name="ram", type="DP16KD", parameters=parameters, pins=pins)
    # The second pair of bytes of the second word begins at byte 34, of 9 bits each.
    assert f"INIT(18432'h{0x1FF << 9 * 34:x})" in ecp5([ram])
    registered = replace(
        ram, parameters=parameters | {"REGMODE_B": "OUTREG"}, pins=pins | {"OCEB": "1"}
    )
    assert "REGISTERED_A(0)" in ecp5([registered]) and "REGISTERED_B(1)" in ecp5([registered])
    with pytest.raises(LadderError, match="does not always enable the register of its port B"):
        ecp5([replace(registered, pins=registered.pins | {"OCEB": 8})])
    for name, value, message in (
        ("DATA_WIDTH_B", f"{36:b}", "ports of 9 and 36 bits"),
        ("RSTAMUX", "RSTA", "resets the output of its port A"),
        ("CLKAMUX", "INV", "clocked by another signal"),
    ):
        with pytest.raises(LadderError, match=message):
            ecp5([replace(ram, parameters=parameters | {name: value})])
