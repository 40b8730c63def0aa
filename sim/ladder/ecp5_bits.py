"""Comparison of an ECP5 bitstream with the configuration that was routed.

``ecpunpack`` of Project Trellis turns the file into settings of tiles: *arcs*, which connect wires,
*words*, such as the contents of tables, and *enums*, which choose a mode. nextpnr writes the same
settings as text before they are packed into bits. A setting whose bits are all 0 is the default of
its tile. The bits do not show whether the design chose that default explicitly, so that the setting
may be missing in either text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from sim.ladder.netlist import LadderError
from sim.ladder.unpacking import FILE, TEXT, unpacked

DEFAULTS = {
    "LSRMODE": {"LSR"},
    "MODE": {"LOGIC", "NONE"},
    "SD": {"1"},
    "LSRMUX": {"LSR"},
    "SRMODE": {"LSR_OVER_CE"},
    "CLKMUX": {"CLK"},
    "CEMUX": {"CE"},
    "WREMUX": {"WRE"},
    "REGSET": {"SET"},
}
"""Default values, whose bits are all 0, of the mode settings (enums) of logic tiles, by the last
part of the setting's name."""
FIXED_ARCS = re.compile(r"arc: (\w*JECLK\d \w*SYNCECLK\d|JDI[A-D] JPADDI[A-D]_PIO)")
"""Pattern of arcs (connections) outside of logic tiles that have no bits: those of unused edge
clocks, and of input pins."""
LOGIC_TILE = "PLC2"
TABLE_DEFAULT = "1" * 16
"""Contents of a look-up table whose bits in the bitstream are all 0."""

Settings = dict[str, set[str]]
"""Settings of each tile; a setting is a line such as ``arc: A0 H02W0501``."""


def unpack(bitstream: Path) -> str:
    """Return the configuration in a bitstream file as text.

    Raises
    ------
    BuildError
        ``ecpunpack`` is missing, or it failed because the file is damaged.
    """
    return unpacked(bitstream, "ecpunpack", "--input", FILE, "--textcfg", TEXT)


def parse(text: str) -> tuple[Settings, dict[str, list[str]]]:
    """Return the settings of each tile and the contents of block RAMs, from a configuration as
    text.

    The contents of a block RAM are a list of words in hexadecimal, by the number of the block RAM.
    """
    tiles: Settings = defaultdict(set)
    memories: dict[str, list[str]] = {}
    for block in re.split(r"^\.", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.splitlines()
        kind, *names = head.split()
        lines = [line for line in lines if line]
        if kind == "tile":
            tiles[names[0]].update(lines)
        elif kind == "bram_init":
            memories[names[0]] = " ".join(lines).split()
    return tiles, memories


def compare(routed: str, unpacked: str) -> str:
    """Compare the configuration of a routed design with that of a bitstream.

    Parameters
    ----------
    routed, unpacked : texts of nextpnr and of :func:`unpack`.

    Returns
    -------
    Text that says how much was compared: all arcs of all tiles, all words and modes of logic tiles,
    and the contents of all block RAMs.

    Raises
    ------
    LadderError
        Something differs; the message has the first differences.
    """
    (wanted, memories), (found, contents) = parse(routed), parse(unpacked)
    problems: list[str] = []
    counts: dict[str, int] = defaultdict(int)
    for tile in sorted({*wanted, *found}):
        ours, theirs = wanted.get(tile, set()), found.get(tile, set())
        for line in ours | theirs:
            kind = line.partition(":")[0]
            is_logic = tile.endswith(f":{LOGIC_TILE}")
            if kind != "arc" and not is_logic:
                continue
            counts[kind] += 1
            if (line in ours) != (line in theirs) and not _explained(line, ours, theirs):
                problems.append(f"{tile}: {line} is only in the {_side(line in ours)}")
    for number in sorted({*memories, *contents}):
        counts["memory"] += 1
        if _nonzero(memories.get(number)) != _nonzero(contents.get(number)):
            problems.append(f"the contents of the block RAM {number} differ")
    if problems:
        raise LadderError(f"{len(problems)} settings differ: {'; '.join(problems[:3])}")
    return (
        f"{counts['arc']:,} arcs, {counts['word']:,} words and {counts['enum']:,} modes of logic, "
        f"contents of {counts['memory']} block RAMs"
    )


def _side(in_routed: bool) -> str:
    return "routed design" if in_routed else "bitstream"


def _nonzero(words: list[str] | None) -> list[str]:
    """Return the contents of a block RAM, or an empty list if there are none or all are 0."""
    return [] if words is None or not any(int(word, 16) for word in words) else words


def _explained(line: str, ours: set[str], theirs: set[str]) -> bool:
    """Return whether a setting may be in one of two texts only, although both stand for the same
    bits.

    ``line`` is the setting, ``ours`` are the settings of its tile in the routed design, and
    ``theirs`` those in the bitstream. The setting may be missing if its bits have the default
    value. It may also be one of two settings of a carry cell that share a bit: one lets the carry
    into the sum, the other sets a multiplexer.
    """
    kind, name, *values = line.split()
    if FIXED_ARCS.fullmatch(line):
        return True
    if kind == "arc:" and re.fullmatch(r"F[0-7]", name):
        number = int(name[1])
        inject = f"SLICE{'ABCD'[number // 2]}.CCU2.INJECT1_{number % 2} NO"
        if line in ours:
            return values == [f"{name}_SLICE"]
        return f"enum: {inject}" in ours
    if kind == "word:" and name.endswith(".INIT"):
        return values == [TABLE_DEFAULT]
    if kind == "enum:":
        last = name.rpartition(".")[2]
        if last.startswith("INJECT1"):
            carry = f"enum: {name.partition('.')[0]}.MODE CCU2"
            return carry not in ours or values == ["YES"]
        return set(values) <= DEFAULTS.get(last, set())
    return False
