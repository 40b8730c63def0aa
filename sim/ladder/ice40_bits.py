"""Netlist of an iCE40 bitstream: which cells its bits configure, and how they are connected.

``iceunpack`` turns the file into bits of tiles. The database of :mod:`sim.ladder.chipdb` tells what
each bit means. The result has the cells that nextpnr writes after routing (``ICESTORM_LC`` and so
on), although nothing of nextpnr's result is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.ladder.chipdb import Bel, Chip
from sim.ladder.ice40_cells import PLLTYPE_PAD
from sim.ladder.netlist import Bit, Cell, LadderError, Netlist
from sim.ladder.unpacking import FILE, TEXT, unpacked

LUT_ORDER = (4, 14, 15, 5, 6, 16, 17, 7, 3, 13, 12, 2, 1, 11, 10, 0)
"""Index of each bit of a look-up table among the bits of its logic cell (Project IceStorm)."""
CARRY_ENABLE, DFF_ENABLE, SET_NORESET, ASYNC_SR = 8, 9, 18, 19
"""Indices of the other bits of a logic cell."""
LOGIC = 1
"""Number of the type of tile that has logic cells."""
MAX_TILE = (16, 54)
"""Largest number of rows and of columns of bits in a tile."""


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Configuration bits of a bitstream, by their positions on the device.

    Attributes
    ----------
    device : kind of the device, such as ``"5k"``.
    tiles : bits of the tile at (x, y), by row and column in the tile: uint8 (y, x, row, column).
    extra : positions (bank, x, y) of the bits outside of tiles that are 1.
    ram : initial contents of the block RAM in the tile (x, y): 16 numbers of 256 bits, the lowest
        addresses first.
    """

    device: str
    tiles: NDArray[np.uint8]
    extra: set[tuple[int, int, int]]
    ram: dict[tuple[int, int], list[int]]


def unpack(bitstream: Path) -> Bits:
    """Return the configuration bits of a bitstream file.

    Raises
    ------
    BuildError
        ``iceunpack`` is missing, or it failed because the file is damaged.
    """
    return parse(unpacked(bitstream, "iceunpack", FILE, TEXT))


def parse(text: str) -> Bits:
    """Return the bits in a text in the format of Project IceStorm (``.asc``)."""
    tiles = np.zeros((64, 64, *MAX_TILE), np.uint8)
    device, extra, ram = "", set(), {}
    for block in re.split(r"^\.", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.splitlines()
        kind, *words = head.split()
        lines = [line for line in lines if line]
        if kind == "device":
            device = words[0]
        elif kind == "extra_bit":
            extra.add(tuple(map(int, words)))
        elif kind == "ram_data":
            ram[int(words[0]), int(words[1])] = [int(line, 16) for line in lines]
        elif kind.endswith("_tile"):
            x, y = map(int, words)
            for row, line in enumerate(lines):
                tiles[y, x, row, : len(line)] = np.frombuffer(line.encode(), np.uint8) - ord("0")
    return Bits(device=device, tiles=tiles, extra=extra, ram=ram)


def netlist(bits: Bits, package: str, pins: dict[str, str]) -> Netlist:
    """Return the netlist that a bitstream configures.

    Parameters
    ----------
    package : package of the device, such as ``"sg48"``.
    pins : for each signal of the board's top module, the pin of the package to which it goes.

    Raises
    ------
    LadderError
        The bits use something of the device that is not supported, or contradict each other.
    """
    return _Extraction(bits, Chip(bits.device), package, pins).netlist()


class _Extraction:
    """Extraction of the netlist from the configuration bits of a bitstream.

    For each kind of cell, a method with the name of the kind returns the cells at one place of the
    device (:class:`sim.ladder.chipdb.Bel`): ``_lc`` for logic cells, ``_io`` for pins and so on.
    Its result is empty if the bitstream does not use the place.
    """

    def __init__(self, bits: Bits, chip: Chip, package: str, pins: dict[str, str]):
        self._bits, self._chip = bits, chip
        places = chip.package(package)
        self._pads = {places[pin]: name for name, pin in pins.items()}
        self._ports: dict[str, Bit] = {
            name: chip.n_wires + i for i, name in enumerate(self._pads.values())
        }
        self._roots = self._routes()
        self._driven = {bel.wires[pin] for bel in chip.bels for pin in bel.outputs}
        # A bitstream has no order of the inputs of a logic cell but that of their wires.
        pips = chip.pips[chip.pips["mask"] == 0]
        self._inputs = {
            dst: src
            for src, dst in zip(pips["src"].tolist(), pips["dst"].tolist(), strict=True)
            if chip.wire_name(src) + "_lut" == chip.wire_name(dst)
        }

    def _routes(self) -> NDArray[np.int64]:
        """Return, for each wire, the wire at the start of its path through closed switches.

        The result is indexed by the number of a wire. A wire to which no closed switch leads is its
        own start.

        Raises
        ------
        LadderError
            A wire is connected to two sources, or wires are connected in a circle.
        """
        switches, pips = self._chip.switches, self._chip.pips
        value = np.zeros(len(switches), np.int64)
        for i in range(5):
            bit = self._bits.tiles[
                switches["y"], switches["x"], switches["bits"][:, i, 0], switches["bits"][:, i, 1]
            ]
            value = np.where(i < switches["n"], 2 * value + bit, value)
        closed = pips[(pips["mask"] != 0) & (value[pips["switch"]] == pips["mask"])]
        targets, counts = np.unique(closed["dst"], return_counts=True)
        if (counts > 1).any():
            name = self._chip.wire_name(int(targets[counts > 1][0]))
            raise LadderError(f"the wire {name} is connected to two sources")
        roots = np.arange(self._chip.n_wires)
        roots[closed["dst"]] = closed["src"]
        for _ in range(self._chip.n_wires.bit_length()):
            roots = roots[roots]
        if (roots[roots] != roots).any():
            raise LadderError("wires are connected in a circle")
        return roots

    def _setting(self, x: int, y: int, name: str) -> int:
        """Return the value of a setting of the tile (x, y) as a number, whose lowest bit is the
        setting's first bit."""
        places = self._chip.tile_bits[self._chip.tile_types[y, x]][name]
        found = self._bits.tiles[y, x, places[:, 0], places[:, 1]].tolist()
        return sum(bit << i for i, bit in enumerate(found))

    def _pins(self, bel: Bel) -> dict[str, Bit]:
        """Return the nets of the connected pins of the cell at a place of the device.

        A net is numbered like the wire that drives it.

        Raises
        ------
        LadderError
            A pin is routed to a wire that no cell drives.
        """
        found: dict[str, Bit] = {}
        for pin, wire in bel.wires.items():
            wire = self._inputs.get(wire, wire)
            root = int(self._roots[wire])
            if root in self._driven:
                found[pin] = root
            elif root != wire:
                raise LadderError(
                    f"{pin} of {bel.kind} at ({bel.x}, {bel.y}) is routed to the wire "
                    f"{self._chip.wire_name(root)}, which has no driver"
                )
        return found

    def netlist(self) -> Netlist:
        """Return the cells and pins of the device."""
        cells = []
        for index, bel in enumerate(self._chip.bels):
            make = getattr(self, f"_{bel.kind}", None)
            if make is not None:
                cells += make(index, bel)
            elif self._others_used(index):
                raise LadderError(f"the bitstream uses a cell {bel.kind}: this is not supported")
        return Netlist(cells=cells, ports=self._ports)

    def _others_used(self, index: int) -> bool:
        """Return whether the bitstream sets a bit of the cell with this index, whose kind is not
        supported."""
        for x, y, name in self._chip.settings.get(index, {}).values():
            full = next((k for k in self._tile(x, y) if k.endswith(f".{name}")), None)
            if full is not None and self._setting(x, y, full):
                return True
        return False

    def _tile(self, x: int, y: int) -> dict[str, NDArray[np.int8]]:
        return self._chip.tile_bits[self._chip.tile_types[y, x]]

    def _cell(self, kind: str, bel: Bel, parameters: dict[str, str], pins: dict[str, Bit]) -> Cell:
        name = f"{bel.kind}{bel.z} at ({bel.x}, {bel.y})"
        return Cell(name=name, type=kind, parameters=parameters, pins=pins)

    def _lc(self, index: int, bel: Bel) -> list[Cell]:
        x, y = bel.x, bel.y
        bits = self._setting(x, y, f"LC_{bel.z}")
        init = sum((bits >> place & 1) << i for i, place in enumerate(LUT_ORDER))
        one = {
            "CARRY_ENABLE": bits >> CARRY_ENABLE & 1,
            "DFF_ENABLE": bits >> DFF_ENABLE & 1,
            "SET_NORESET": bits >> SET_NORESET & 1,
            "ASYNC_SR": bits >> ASYNC_SR & 1,
            "NEG_CLK": self._setting(x, y, "NegClk"),
            "CIN_CONST": int(bel.z == 0 and self._setting(x, y, "CarryInSet")),
        }
        one["CIN_SET"] = one["CIN_CONST"]
        parameters = {"LUT_INIT": f"{init:016b}"} | {key: str(bit) for key, bit in one.items()}
        return [self._cell("ICESTORM_LC", bel, parameters, self._pins(bel))]

    def _ram(self, index: int, bel: Bel) -> list[Cell]:
        x, y = bel.x, bel.y
        if not self._setting(x, y, "RamConfig.PowerUp"):
            if any(pin.startswith("W") for pin in self._pins(bel)):
                raise LadderError(f"the block RAM at ({x}, {y}) is connected, but off")
            return []
        if any(self._setting(x, y + 1, f"RamCascade.CBIT_{i}") for i in range(4, 8)):
            raise LadderError(f"the block RAM at ({x}, {y}) is cascaded")
        mode = [self._setting(x, y + 1, f"RamConfig.CBIT_{i}") for i in range(4)]
        parameters = {
            "WRITE_MODE": f"{mode[1]}{mode[0]}",
            "READ_MODE": f"{mode[3]}{mode[2]}",
            "NEG_CLK_R": str(self._setting(x, y, "NegClk")),
            "NEG_CLK_W": str(self._setting(x, y + 1, "NegClk")),
        }
        for i, row in enumerate(self._bits.ram.get((x, y), [])):
            parameters[f"INIT_{i:X}"] = f"{row:0256b}"
        return [self._cell("ICESTORM_RAM", bel, parameters, self._pins(bel))]

    def _spram(self, index: int, bel: Bel) -> list[Cell]:
        x, y, name = self._chip.settings[index]["SPRAM_EN"]
        if not self._setting(x, y, f"IpConfig.{name}"):
            return []
        return [self._cell("ICESTORM_SPRAM", bel, {}, self._pins(bel))]

    def _io(self, index: int, bel: Bel) -> list[Cell]:
        kind = sum(self._setting(bel.x, bel.y, f"IOB_{bel.z}.PINTYPE_{i}") << i for i in range(6))
        name = self._pads.get(index)
        if name is None:
            if kind >> 2:
                raise LadderError(f"a pin that the board does not name is driven: {bel}")
            return []
        if not kind >> 2:  # no output
            x, y, number = self._chip.input_enables[bel.x, bel.y, bel.z]
            if not self._setting(x, y, f"IoCtrl.IE_{number}"):
                raise LadderError(f"the input buffer of the pin {name} is off")
        pins = self._pins(bel) | {"PACKAGE_PIN": self._ports[name]}
        pins.pop("GLOBAL_BUFFER_OUTPUT", None)  # of :meth:`_gb`
        if self._pll_at(bel):
            pins.pop("D_IN_0", None)  # which the PLL drives
        return [self._cell("SB_IO", bel, {"PIN_TYPE": f"{kind:06b}"}, pins)]

    def _pll_at(self, pad: Bel) -> Bel | None:
        """Return the PLL whose output replaces the input of this pad, or None.

        The output of a PLL has no wire of its own; it uses the wire of a certain pad's input.
        """
        for index, bel in enumerate(self._chip.bels):
            if bel.kind == "pll" and bel.wires["PLLOUT_A"] == pad.wires["D_IN_0"]:
                return bel if any(self._pll_parameters(index)["PLLTYPE"]) else None
        return None

    def _pll_parameters(self, index: int) -> dict[str, list[int]]:
        """Return the bits of each parameter of the PLL with this index, the lowest bit first."""
        found: dict[str, list[int]] = {}
        for name, (x, y, bit) in sorted(self._chip.settings[index].items()):
            if f"PLL.{bit}" in self._tile(x, y):
                base = re.sub(r"_\d+$", "", name)
                found.setdefault(base, []).append(self._setting(x, y, f"PLL.{bit}"))
        return found

    def _pll(self, index: int, bel: Bel) -> list[Cell]:
        bits = self._pll_parameters(index)
        if not any(bits["PLLTYPE"]):
            return []
        parameters = {
            name: "".join(str(bit) for bit in reversed(values)) for name, values in bits.items()
        }
        pins = {
            pin: net
            for pin, net in self._pins(bel).items()
            if pin in ("REFERENCECLK", "LOCK", "BYPASS", "RESETB", "PLLOUT_A", "PLLOUT_A_GLOBAL")
        }
        for number, pad in enumerate(self._chip.bels):
            if pad.kind == "io" and pad.wires["D_IN_0"] == bel.wires["PLLOUT_A"]:
                if number in self._pads and int(parameters["PLLTYPE"], 2) == PLLTYPE_PAD:
                    pins["PACKAGEPIN"] = self._ports[self._pads[number]]
                if not self._of_pad(pad):
                    del pins["PLLOUT_A_GLOBAL"]
        return [self._cell("ICESTORM_PLL", bel, parameters, pins)]

    def _of_pad(self, pad: Bel) -> bool:
        """Return whether a pad drives its global network; a configuration bit outside of tiles
        decides this."""
        return any(
            place == (pad.x, pad.y, pad.z) and bit in self._bits.extra
            for place, bit in self._chip.global_pads
        )

    def _gb(self, index: int, bel: Bel) -> list[Cell]:
        output = bel.wires["GLOBAL_BUFFER_OUTPUT"]
        for number, pad in enumerate(self._chip.bels):
            if pad.wires.get("GLOBAL_BUFFER_OUTPUT") == output and pad.kind == "io":
                if not self._of_pad(pad):
                    continue
                if self._pll_at(pad):
                    return []
                if number not in self._pads:
                    raise LadderError(f"a pin that the board does not name is an input: {pad}")
                source: Bit = self._ports[self._pads[number]]
                break
        else:
            pins = self._pins(bel)
            if "USER_SIGNAL_TO_GLOBAL_BUFFER" not in pins:
                return []
            source = pins["USER_SIGNAL_TO_GLOBAL_BUFFER"]
        pins = {"GLOBAL_BUFFER_OUTPUT": output, "USER_SIGNAL_TO_GLOBAL_BUFFER": source}
        return [self._cell("SB_GB", bel, {}, pins)]
