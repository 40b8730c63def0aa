"""``python -m hw.area``: report the area of each block of a board's gateware, and of a lane.

A block is a component of the gateware, such as the fire unit of a core. The area is the number of
LUTs, flip-flops and memories after synthesis by Yosys. The numbers of nextpnr after placement,
which are in the manifests of bitstreams, are 10 to 14 % higher.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from amaranth.vendor import GowinPlatform

from hw.boards.configs import BOARDS_HELP, config_by_name
from hw.boards.platforms import target
from hw.spec import Config, SpecError
from hw.tools.command import EXIT_OK, CommandParser, ending, exit_codes
from hw.tools.netlist import TOP, BuildError, netlist
from hw.tools.place import synthesised

CELL_COSTS = {
    # ECP5, Lattice FPGA-TN-02200: a carry cell takes two LUTs; a distributed RAM takes four, of two
    # slices (two hold the bits, two the write port).
    "LUT4": {"lut": 1},
    "CCU2C": {"lut": 2},
    "TRELLIS_DPR16X4": {"lut": 4},
    "TRELLIS_FF": {"ff": 1},
    "DP16KD": {"block_ram": 1},
    # iCE40: the cells of a carry chain contain the LUTs behind it.
    "SB_LUT4": {"lut": 1},
    "SB_RAM40_4K": {"block_ram": 1},
    "SB_SPRAM256KA": {"spram": 1},
}
"""Number of each resource that a cell takes, by type of the cell and name of the resource."""

COUNTED = ("lut", "ff", "block_ram", "spram")
"""Resources in the report, in the order of its columns."""


def blocks(design: dict) -> dict[str, Counter[str]]:
    """Count the resources that each block of a synthesised design takes.

    Parameters
    ----------
    design : flattened netlist in Yosys' JSON format.

    Returns
    -------
    Number of each resource of :data:`COUNTED`, by name of the block.
    """
    module = design["modules"][TOP]
    names: dict[int, str] = {}

    def rank(name: str) -> tuple[bool, int, int]:
        """Return a key that sorts the names of the same wire, so that the best name comes first.

        Names from the sources come before those that Yosys generated (``$...``). Within each of
        these two kinds, names in more deeply nested components come first, then shorter names.
        """
        return name.startswith("$"), -name.count("."), len(name)

    for name, net in module["netnames"].items():
        for bit in net["bits"]:
            if isinstance(bit, int) and (bit not in names or rank(name) < rank(names[bit])):
                names[bit] = name
    taken: dict[str, Counter[str]] = {}
    for cell_name, cell in module["cells"].items():
        kind = cell["type"]
        cost = CELL_COSTS.get(kind) or ({"ff": 1} if kind.startswith("SB_DFF") else {})
        if not cost:
            continue
        named = (
            names[bit]
            for port, bits in cell["connections"].items()
            if cell["port_directions"][port] == "output"
            for bit in bits
            if bit in names
        )
        name = next(named, "") if cell_name.startswith("$") else cell_name
        taken.setdefault(_block(name), Counter()).update(cost)
    return taken


def _block(name: str) -> str:
    """Return the name of the block (component) to which a cell belongs.

    For the cell ``top.core.banks.bank0.fetch.merger.holds`` it is ``core.banks.bank0.fetch``.
    """
    path = [part.partition("$")[0] for part in name.split(".")[:-1] if "__" not in part]
    path = path[1:] if path[:1] == [TOP] else path
    depth = 4 if path[:2] == ["core", "banks"] else 2
    return ".".join(path[:depth]) or "other"


def total(taken: dict[str, Counter[str]]) -> Counter[str]:
    """Return the sum of the resources of all blocks; ``taken`` has those of each block by name."""
    return sum(taken.values(), Counter())


def with_lanes(config: Config, lanes: int) -> Config:
    """Return ``config`` with another number of lanes and the same size of weight memory in bits."""
    depth = config.weight_depth * config.lanes // lanes
    return replace(config, lanes=lanes, weight_depth=depth)


def areas(
    board: str, lanes: list[int], membrane_bits: int | None = None
) -> Iterator[tuple[int, dict[str, Counter[str]]]]:
    """Synthesise a board with each number of lanes and count the resources of its blocks.

    Parameters
    ----------
    membrane_bits : width of membranes in bits, by default the board's. A bank's sums that are wider
        are narrowed to the same width.

    Yields
    ------
    Number of lanes, and the resources of each block as from :func:`blocks`.

    Raises
    ------
    SpecError
        The board is unknown, or its device does not support the configuration.
    BuildError
        Synthesis failed, or the board has a Gowin device, whose cells are not counted.
    """
    config = config_by_name(board)
    if isinstance(target(board).platform(), GowinPlatform):
        raise BuildError(f"{board}: only cells of ECP5 and iCE40 are counted, not those of Gowin")
    if membrane_bits is not None:
        sum_bits = min(config.sum_bits, membrane_bits)
        config = replace(config, membrane_bits=membrane_bits, sum_bits=sum_bits)
    for n_lanes in lanes:
        source = netlist(board, with_lanes(config, n_lanes))
        folder = synthesised(source, source.folder)
        design = json.loads((folder / f"{TOP}.json").read_text())
        yield n_lanes, blocks(design)


def table(results: dict[int, dict[str, Counter[str]]]) -> str:
    """Return the resources as a Markdown table with a row per block, the largest block first.

    Each number of lanes has a column for each resource. If there are several numbers of lanes, a
    line with the cost of one lane follows the table.
    """
    totals = {n: total(taken) for n, taken in results.items()}
    columns = [(n, r) for n in results for r in COUNTED if totals[n][r]]
    few, many = min(results), max(results)

    def row(name: str, counts: dict[int, Counter[str]]) -> str:
        return f"| {name} | " + " | ".join(f"{counts[n][r]:,}" for n, r in columns) + " |"

    lines = [
        "| | " + " | ".join(f"{r.replace('_', ' ')}, {n} lanes" for n, r in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    names = sorted({name for taken in results.values() for name in taken})
    for name in sorted(names, key=lambda name: -results[many].get(name, Counter())["lut"]):
        lines.append(
            row(f"`{name}`", {n: taken.get(name, Counter()) for n, taken in results.items()})
        )
    lines.append(row("all", totals))
    if few < many:
        cost = {r: (totals[many][r] - totals[few][r]) / (many - few) for r in ("lut", "ff")}
        lines += ["", f"A lane costs {cost['lut']:.1f} LUTs and {cost['ff']:.1f} flip-flops."]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m hw.area",
        description="Synthesise a board and report the area of each block. With several numbers "
        "of lanes, report the cost of a lane, too.",
        epilog="examples:\n"
        "  python -m hw.area icebreaker\n"
        "  python -m hw.area ulx3s-25f/w4 --lanes 16 32 64   # half a minute each\n"
        "  python -m hw.area ulx3s-25f/w4 --lanes 16 64 --membrane-bits 18\n\n" + exit_codes(),
    )
    parser.add_argument("board", metavar="BOARD", help=f"one of {BOARDS_HELP}")
    parser.add_argument(
        "--lanes", type=int, nargs="+", metavar="N", help="numbers of lanes (default: the board's)"
    )
    parser.add_argument(
        "--membrane-bits",
        type=int,
        metavar="N",
        help="width of sums and membranes (default: the board's)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


@ending(BuildError, SpecError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m hw.area`` with the arguments ``argv``, and return its exit code."""
    args = _parser().parse_args(argv)
    lanes = sorted(set(args.lanes or [config_by_name(args.board).lanes]))
    results = {}
    for n_lanes, taken in areas(args.board, lanes, args.membrane_bits):
        results[n_lanes] = taken
        print(f"{args.board}, {n_lanes} lanes: {dict(total(taken))}", file=sys.stderr)
    print(json.dumps(results, indent=2) if args.json else table(results), end="")
    return EXIT_OK
