"""Comparison of an ECP5 bitstream with the configuration that was routed.

``ecpunpack`` of Project Trellis turns the file into settings of tiles: *arcs*, which connect wires,
*words*, such as the contents of tables and the dividers of a PLL, and *enums*, which choose the
mode of a cell or a pin. nextpnr writes such settings as text before they are packed into bits.
Several settings may stand for the same bits, so the two texts may name different settings for equal
bits. Therefore each text is converted to the bits that it stands for (:mod:`sim.ladder.trellis`),
and all bits of the device are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sim.ladder.netlist import LadderError
from sim.ladder.trellis import Configured, Database, Place, configure
from sim.ladder.unpacking import FILE, TEXT, unpacked


@dataclass
class Configuration:
    """Configuration of a device in text form.

    Attributes
    ----------
    device : name of the device.
    blocks : names of one or several tiles, and the settings of these tiles, such as
        ``arc: A0 H02W0501``.
    memories : for the number of each block RAM, its contents as words in hexadecimal.
    """

    device: str = ""
    blocks: list[tuple[list[str], list[str]]] = field(default_factory=list)
    memories: dict[str, list[str]] = field(default_factory=dict)


def unpack(bitstream: Path) -> str:
    """Return the configuration in a bitstream file as text.

    Raises
    ------
    BuildError
        ``ecpunpack`` is missing, or it failed because the file is damaged.
    """
    return unpacked(bitstream, "ecpunpack", "--input", FILE, "--textcfg", TEXT)


def parse(text: str) -> Configuration:
    """Read a configuration in text form."""
    found = Configuration()
    for block in re.split(r"^\.", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.splitlines()
        kind, *names = head.split()
        lines = [line for line in lines if line]
        if kind == "device":
            found.device = " ".join(names)
        elif kind in ("tile", "tile_group"):
            found.blocks.append((names, lines))
        elif kind == "bram_init":
            found.memories[names[0]] = " ".join(lines).split()
    return found


def compare(routed: str, unpacked: str, database: Database | None = None) -> str:
    """Compare the configuration of a routed design with that of a bitstream.

    Parameters
    ----------
    routed : configuration of the routed design, as text that nextpnr wrote.
    unpacked : configuration in the bitstream, as text from :func:`unpack`.
    database : database of the device; by default the one that comes with nextpnr.

    Returns
    -------
    Text that says what was compared: the bits of all arcs, words and enums of all tiles, and the
    contents of all block RAMs.

    Raises
    ------
    LadderError
        Something differs; the message has the first differences.
    """
    wanted, found = parse(routed), parse(unpacked)
    if wanted.device != found.device:
        raise LadderError(f"routed for {wanted.device}, but the bits are for {found.device}")
    database = database or Database.installed(wanted.device)
    ours, theirs = configure(database, wanted.blocks), configure(database, found.blocks)
    problems = [f"{line} is not in the database" for line in ours.unsupported + theirs.unsupported]
    problems += _differences(ours, theirs)
    for number in sorted({*wanted.memories, *found.memories}):
        if _nonzero(wanted.memories.get(number)) != _nonzero(found.memories.get(number)):
            problems.append(f"the contents of the block RAM {number} differ")
    if problems:
        raise LadderError(f"{len(problems)} settings differ: {'; '.join(problems[:3])}")
    counts = Counter(line.partition(":")[0] for _, lines in wanted.blocks for line in lines)
    return (
        f"{sum(ours.bits.values()):,} bits of {counts['arc']:,} arcs, {counts['word']:,} words and "
        f"{counts['enum']:,} modes, contents of {len({*wanted.memories, *found.memories})} block "
        "RAMs"
    )


def _differences(routed: Configured, bits: Configured) -> list[str]:
    """Return a line for each bit that is 1 in one configuration only.

    Lines ``unknown:`` of nextpnr's text set single bits whose meaning Project Trellis does not
    know. Bits that only such lines set are not compared, because the text of ``ecpunpack`` leaves
    out those that belong to a default.
    """
    return [
        f"frame {place[0]} bit {place[1]} is {int(bits.bits.get(place, False))} in the bitstream: "
        f"{_lines(place, routed, bits)}"
        for place in sorted({*routed.bits, *bits.bits})
        if routed.bits.get(place, False) != bits.bits.get(place, False)
        and not (routed.lines[place] and all(" unknown: " in s for s in routed.lines[place]))
    ]


def _lines(place: Place, routed: Configured, bits: Configured) -> str:
    ours, theirs = routed.lines[place], bits.lines[place]
    return f"routed {', '.join(ours) or 'nothing'}; unpacked {', '.join(theirs) or 'nothing'}"


def _nonzero(words: list[str] | None) -> list[str]:
    """Return the contents of a block RAM, or an empty list if there are none or all are 0."""
    return [] if words is None or not any(int(word, 16) for word in words) else words
