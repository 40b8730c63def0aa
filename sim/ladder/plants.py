"""Deliberate bugs at every level from folding to pins, each with the check (rung) that must catch
it.

:mod:`sim.ladder.rungs` describes the rungs. A bug in the sources is planted in a copy of the
project. A bug of a tool, such as a router that connects the wrong wire, is planted in the netlist
or in the bits that the tool has written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from hw.tools.folders import ROOT
from sim.ladder import devices, ecp5_bits, ice40_bits
from sim.ladder.devices import ECP5, ICE40
from sim.ladder.ice40_bits import LUT_ORDER, Bits
from sim.ladder.netlist import Cell, LadderError, Netlist
from sim.ladder.rungs import RUNGS, Climb
from sw.driver.errors import DeviceError

OF_SOURCES = ("folded", "integers", "cocotb", "verilog", "synthesis")
"""Rungs (checks) that are run on a bug in the sources, in this order. The last one fails for every
bug that changes the netlist, because it finds the bitstream stale."""

PATIENCE_S = 30.0
"""Time in seconds that the driver waits for a reply; short, because a device with a bug may never
send one."""


@dataclass(frozen=True, kw_only=True)
class SourceBug:
    """Bug in a source file of the project: the text ``old``, which occurs once, is replaced by
    ``new``."""

    name: str
    caught_by: str
    """Name of the first rung (check) that must fail because of the bug."""
    file: str
    old: str
    new: str

    @property
    def family(self) -> str:
        """Family of devices on one of whose boards the changed sources are checked."""
        return ICE40


@dataclass(frozen=True, kw_only=True)
class ToolBug:
    """Bug of a tool, imitated by a function that changes the tool's output.

    Exactly one of the three functions below is given.

    Attributes
    ----------
    cells : changes the netlist of an iCE40.
    bits : changes the bits of an iCE40's bitstream.
    settings : changes the bits of an ECP5's bitstream, as text (:mod:`sim.ladder.ecp5_bits`).
    """

    name: str
    caught_by: str
    """Name of the rung (check) that reads the tool's result and must fail."""
    cells: Callable[[Netlist], Netlist] | None = None
    bits: Callable[[Bits], Bits] | None = None
    settings: Callable[[str], str] | None = None

    @property
    def family(self) -> str:
        """Family of devices in whose bitstreams the bug is planted."""
        return ICE40 if self.settings is None else ECP5


SOURCE_BUGS = (
    SourceBug(
        name="folding: the epsilon of batch-norm is left out",
        caught_by="folded",
        file="sw/convert/fold.py",
        old="(var + norm.eps).sqrt()",
        new="var.sqrt()",
    ),
    SourceBug(
        name="folding: the classifier averages over timesteps only",
        caught_by="folded",
        file="sw/convert/fold.py",
        old="divisor = self.timesteps * height * width",
        new="divisor = self.timesteps",
    ),
    SourceBug(
        name="integers: leaks round up",
        caught_by="integers",
        file="hw/spec.py",
        old="[membrane >> shift for shift in shifts]",
        new="[-(-membrane >> shift) for shift in shifts]",
    ),
    SourceBug(
        name="integers: the output's bias is added at every timestep",
        caught_by="integers",
        file="sw/network/reference.py",
        old="+ summed(last.bias, torch.int64)",
        new="+ timesteps * summed(last.bias, torch.int64)",
    ),
    SourceBug(
        name="compiler: kernels are mirrored",
        caught_by="cocotb",
        file="sw/compile/rows.py",
        old="by_bank[..., :n_in, :, :] = weight[..., list(source.order), :, :]",
        new="by_bank[..., :n_in, :, :] = weight[..., list(source.order), :, ::-1]",
    ),
    SourceBug(
        name="core: the first weight is added to the last job's sum",
        caught_by="cocotb",
        file="hw/core/lanes.py",
        old="Mux(begins, weight, total + weight)",
        new="total + weight",
    ),
    SourceBug(
        name="core: a neuron fires only above its threshold",
        caught_by="cocotb",
        file="hw/core/fire.py",
        old="fires[j].eq(~excess[-1] & ~plane3)",
        new="fires[j].eq((excess > 0) & ~plane3)",
    ),
    SourceBug(
        name="link: the start bits of the device are twice as long",
        caught_by="verilog",
        file="hw/link/uart.py",
        old="timer.eq(self.divisor_less_1),\n                bits_left.eq(N_DATA_BITS + 1)",
        new="timer.eq(self.divisor_less_1 << 1),\n                bits_left.eq(N_DATA_BITS + 1)",
    ),
    SourceBug(
        name="driver: parts of a long read overlap",
        caught_by="verilog",
        file="sw/driver/memory.py",
        old="self._rows(Opcode.READ, space, row + at, min(step, n_rows - at))",
        new="self._rows(Opcode.READ, space, row + at - (at > 0), min(step, n_rows - at))",
    ),
    SourceBug(
        name="prediction: one word of a descriptor is not counted",
        caught_by="verilog",
        file="sw/compile/cycles.py",
        old="n_words = HEADER_WORDS + LEVEL_WORDS * len(plan.counts)",
        new="n_words = HEADER_WORDS + LEVEL_WORDS * len(plan.counts) - 1",
    ),
    SourceBug(
        name="board: the reset is shorter than the block RAM needs",
        caught_by="synthesis",
        file="hw/boards/clocks.py",
        old="RESET_SECONDS = 20e-6",
        new="RESET_SECONDS = 1e-6",
    ),
)


SUM_TABLE = 0xC66C
"""Contents of a look-up table that adds one bit of a weight to one bit of an accumulator."""


def _changed(
    netlist: Netlist, wanted: Callable[[Cell], bool], change: Callable[[Cell], Cell]
) -> Netlist:
    """Return a copy of a netlist in which the first cell that is ``wanted`` has been changed."""
    index = next(i for i, cell in enumerate(netlist.cells) if wanted(cell))
    cells = list(netlist.cells)
    cells[index] = change(cells[index])
    return replace(netlist, cells=cells)


def _with_parameter(cell: Cell, name: str, bits: int) -> Cell:
    """Return a copy of a cell in which a parameter is XORed with ``bits``."""
    width = len(cell.parameters[name])
    value = f"{cell.number(name) ^ bits:0{width}b}"
    return replace(cell, parameters=cell.parameters | {name: value})


def _is_sum(cell: Cell) -> bool:
    """Return whether an iCE40 cell adds one bit of a weight to one bit of an accumulator."""
    return (
        cell.type in ("SB_LUT4", "ICESTORM_LC")
        and cell.number("LUT_INIT") == SUM_TABLE
        and ".lanes." in cell.name
    )


def _swapped(cell: Cell, one: str, other: str) -> Cell:
    pins = cell.pins | {one: cell.pins[other], other: cell.pins[one]}
    return replace(cell, pins=pins)


def _bit(bits: Bits, change: Callable[[Bits], None]) -> Bits:
    """Return a copy of a bitstream's bits, in which the function ``change`` has planted a bug."""
    copy = replace(bits, tiles=bits.tiles.copy(), extra=set(bits.extra))
    change(copy)
    return copy


def _flip_table(bits: Bits) -> None:
    """Invert one bit of each of the eight look-up tables of a logic tile.

    The tile is the first whose eight cells all use their carry and their flip-flop, as accumulators
    do.
    """
    chip = ice40_bits.Chip(bits.device)
    for y, x in zip(*(chip.tile_types == ice40_bits.LOGIC).nonzero(), strict=True):
        places = chip.tile_bits[ice40_bits.LOGIC]
        tables = [places[f"LC_{i}"] for i in range(8)]
        tile = bits.tiles[y, x]
        if all(tile[tuple(t[8])] and tile[tuple(t[9])] for t in tables):
            for table in tables:
                tile[tuple(table[LUT_ORDER[6]])] ^= 1
            return
    raise LadderError("no tile of logic has eight sums")


def _set(bits: Bits, kind: str, name: str, value: int) -> None:
    """Set a one-bit setting of one cell to ``value``.

    The cell is the first of this kind whose setting has another value.
    """
    chip = ice40_bits.Chip(bits.device)
    for index, bel in enumerate(chip.bels):
        if bel.kind == kind:
            x, y, bit = chip.settings.get(index, {}).get(name, (bel.x, bel.y, name))
            places = chip.tile_bits[chip.tile_types[y, x]]
            found = next((places[k] for k in places if k.endswith(bit)), None)
            if found is not None and bits.tiles[y, x][tuple(found[0])] != value:
                bits.tiles[y, x][tuple(found[0])] = value
                return
    raise LadderError(f"no {kind} has {name}")


def _open_switches(bits: Bits) -> None:
    """Open all switches of the tile in the middle of the device, which cuts the wires through
    it."""
    chip = ice40_bits.Chip(bits.device)
    switches = chip.switches
    y, x = chip.height // 2, chip.width // 2
    here = switches[(switches["x"] == x) & (switches["y"] == y) & (switches["n"] > 0)]
    for switch in here:
        for row, column in switch["bits"][: switch["n"]]:
            bits.tiles[y, x, row, column] = 0


def _edit(pattern: str, new: str) -> Callable[[str], str]:
    """Return a function that replaces the first match of a regular expression in a text.

    It raises a :class:`sim.ladder.netlist.LadderError` if there is no match.
    """

    def edit(text: str) -> str:
        found, n = re.subn(pattern, new, text, count=1)
        if not n:
            raise LadderError(f"nothing matches {pattern!r}")
        return found

    return edit


TOOL_BUGS = (
    ToolBug(
        name="synthesis: one bit of an adder is wrong",
        caught_by="synthesis",
        cells=lambda n: _changed(n, _is_sum, lambda cell: _with_parameter(cell, "LUT_INIT", 4)),
    ),
    ToolBug(
        name="synthesis: flip-flops with a set are reset",
        caught_by="synthesis",
        cells=lambda n: replace(
            n,
            cells=[
                replace(c, type=c.type[:-2] + "SR", pins=c.pins | {"R": c.pins["S"]})
                if c.type.endswith("SS")
                else c
                for c in n.cells
            ],
        ),
    ),
    ToolBug(
        name="packing: the inputs of a table are swapped",
        caught_by="routed",
        cells=lambda n: _changed(
            n,
            lambda cell: _is_sum(cell) and {"I0", "I1"} <= cell.pins.keys(),
            lambda c: _swapped(c, "I0", "I1"),
        ),
    ),
    ToolBug(
        name="packing: carry chains begin with a 0",
        caught_by="routed",
        cells=lambda n: replace(
            n,
            cells=[_with_parameter(c, "CIN_SET", 1) if c.number("CIN_SET") else c for c in n.cells],
        ),
    ),
    ToolBug(
        name="bits: a bit of a row of tables is wrong",
        caught_by="bitstream",
        bits=lambda bits: _bit(bits, _flip_table),
    ),
    ToolBug(
        name="bits: the switches of a tile are open",
        caught_by="bitstream",
        bits=lambda bits: _bit(bits, _open_switches),
    ),
    ToolBug(
        name="bits: the PLL divides by another number",
        caught_by="bitstream",
        bits=lambda bits: _bit(bits, lambda b: _set(b, "pll", "DIVF_0", 0)),
    ),
    ToolBug(
        name="bits: a block RAM has no power",
        caught_by="bitstream",
        bits=lambda bits: _bit(bits, lambda b: _set(b, "ram", "RamConfig.PowerUp", 0)),
    ),
    ToolBug(
        name="bits: a clock does not reach its global network",
        caught_by="bitstream",
        bits=lambda bits: replace(bits, extra=set()),
    ),
    ToolBug(
        name="bits: the PLL of an ECP5 divides by another number",
        caught_by="bitstream",
        settings=_edit(r"word: CLKOP_DIV 0", "word: CLKOP_DIV 1"),
    ),
    ToolBug(
        name="bits: an output pin of an ECP5 is an input",
        caught_by="bitstream",
        settings=_edit(r"enum: (PIO.).BASE_TYPE OUTPUT_\w+", r"enum: \1.BASE_TYPE INPUT_LVCMOS33"),
    ),
    ToolBug(
        name="bits: a pin of an ECP5 has no pull-up",
        caught_by="bitstream",
        settings=_edit(r"PULLMODE UP", "PULLMODE NONE"),
    ),
    ToolBug(
        name="bits: a block RAM of an ECP5 is narrower",
        caught_by="bitstream",
        settings=_edit(r"(PDPW16KD.DATA_WIDTH_R) 36", r"\1 9"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Caught:
    """Result of planting one bug: which rung (check) had to fail, and which did."""

    name: str
    expected: str
    """Name of the rung (check) that must catch the bug."""
    rung: str | None
    """Name of the rung (check) that failed, or None if none did."""
    message: str
    """Error message of the check that failed; empty if none failed."""

    @property
    def as_expected(self) -> bool:
        """Whether the rung (check) that must catch the bug is the one that failed."""
        return self.rung == self.expected


@contextmanager
def _copy_of_project(bug: SourceBug) -> Iterator[Path]:
    """Yield a temporary folder with a copy of the project in which the bug is planted.

    Raises
    ------
    LadderError
        The text that the bug replaces does not occur exactly once.
    """
    with tempfile.TemporaryDirectory(prefix="spikefold-") as name:
        folder = Path(name)
        ignored = shutil.ignore_patterns("__pycache__")
        for part in ("hw", "sw", "sim", "bitstreams"):
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = folder / bug.file
        text = path.read_text()
        if text.count(bug.old) != 1:
            raise LadderError(f"{bug.file} has {bug.old!r} {text.count(bug.old)} times, not once")
        path.write_text(text.replace(bug.old, bug.new))
        yield folder


def plant_in_sources(bug: SourceBug, board: str) -> Caught:
    """Plant a bug in a copy of the project, run the rungs (checks) on it, and return which one
    failed."""
    with _copy_of_project(bug) as folder:
        words = [sys.executable, "-m", "sim.ladder", board, "--no-record", "--again", "--json"]
        words += ["--networks", "4", "--patience", str(PATIENCE_S)]
        words += [*(w for rung in OF_SOURCES for w in ("--rung", rung))]
        done = subprocess.run(
            words,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        last = json.loads(done.stdout)[-1]
    except (ValueError, IndexError):
        raise LadderError(f"{bug.name}: the ladder ended with {done.stderr[-500:]}") from None
    failed = last["state"] == "FAILED"
    return Caught(
        name=bug.name,
        expected=bug.caught_by,
        rung=last["rung"] if failed else None,
        message=last["detail"] if failed else "",
    )


def plant_in_tools(bug: ToolBug, climb: Climb) -> Caught:
    """Plant a bug in a tool's output, run the rung (check) that must catch it, and return whether
    this rung fails."""
    rung = next(rung for rung in RUNGS if rung.name == bug.caught_by)
    read, unpack = devices.read_json, ice40_bits.unpack
    cells, bits, settings = bug.cells, bug.bits, bug.settings
    text_of = ecp5_bits.unpack
    with (
        mock.patch.object(
            devices, "read_json", lambda path: read(path) if cells is None else cells(read(path))
        ),
        mock.patch.object(
            ice40_bits, "unpack", lambda path: unpack(path) if bits is None else bits(unpack(path))
        ),
        mock.patch.object(
            ecp5_bits,
            "unpack",
            lambda path: text_of(path) if settings is None else settings(text_of(path)),
        ),
    ):
        try:
            rung.run(climb)
        except (LadderError, DeviceError) as error:
            return Caught(name=bug.name, expected=rung.name, rung=rung.name, message=str(error))
    return Caught(name=bug.name, expected=rung.name, rung=None, message="")


def row(one: Caught) -> str:
    """Return a row of a Markdown table: the bug, the rung (check) that caught it, and its
    message."""
    message = one.message.splitlines()[0][:100] if one.message else ""
    mark = "" if one.as_expected else f" (expected: {one.expected})"
    return f"| {one.name} | {one.rung or 'nothing'}{mark} | {message} |"
