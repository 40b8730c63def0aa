"""List the boards that are attached, and say which network files fit them.

Each serial port is opened for a moment. What a board holds or computes is not disturbed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hw.boards.configs import board_name, config_by_name
from hw.protocol import PROTOCOL_VERSION, spec_hash
from hw.spec import Config, SpecError
from sw.cli.commands import EXIT_NO, EXIT_OK, CommandParser, command, exit_codes
from sw.compile import fitting
from sw.compile.program import Program
from sw.driver.discovery import BoardIdentity, find_boards
from sw.network import netfile
from sw.network.netfile import NetworkFileError


def describe(port: str, identity: BoardIdentity, files: list[Path]) -> dict[str, Any]:
    """Return what a board is and how each network file fits it, as JSON values.

    ``port`` is the board's serial port; ``identity`` has its configuration and versions.
    """
    config = identity.config
    return {
        "port": port,
        "board": board_name(config),
        "gateware": f"{identity.spec_hash:016x}",
        "clk_hz": config.clk_hz,
        "baud": config.baud,
        "weight_bits": config.weight_bits,
        "lanes": config.lanes,
        "networks": [fit(path, config) for path in files],
    }


def fit(path: Path, config: Config) -> dict[str, Any]:
    """Return whether the network in a file fits a device built with ``config``, as JSON values.

    ``fits`` is the answer, and ``network`` the path of the file. ``usage`` has the needed and the
    available size of each memory; ``why`` says what is too small, if anything is, and ``remedies``
    what would make the network fit. The report of ``python -m sw.export`` says the same.

    Raises
    ------
    sw.network.netfile.NetworkFileError
        The file is missing, damaged or no network file.
    """
    found = fitting.board_report(netfile.load(path, Program).network, config)
    return {
        "network": str(path),
        "fits": found.fits,
        "usage": found.usage,
        "why": found.problem,
        "remedies": list(found.remedies),
    }


def as_text(board: dict[str, Any]) -> str:
    """Return the values of :func:`describe` as text for a terminal."""
    lines = [
        f"{board['port']}: {board['board']}, {board['lanes']} lanes of {board['weight_bits']} "
        f"bits, {board['clk_hz'] / 1e6:g} MHz, {board['baud']:,} baud, gateware {board['gateware']}"
    ]
    for network in board["networks"]:
        if network["fits"]:
            used = ", ".join(
                f"{memory} {needed / available:.0%}"
                for memory, (needed, available) in network["usage"].items()
            )
            lines.append(f"  {network['network']}: fits ({used})")
        else:
            lines.append(f"  {network['network']}: does not fit: {network['why']}")
            lines += [f"    would fit with {remedy}" for remedy in network["remedies"]]
    return "\n".join(lines)


@command(NetworkFileError, SpecError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.boards`` with the arguments ``argv`` and return its exit code."""
    parser = CommandParser(
        prog="python -m sw.boards",
        description=__doc__,
        epilog=f"""examples:
  python -m sw.boards
  python -m sw.boards net.spikefold other.spikefold --json
  python -m sw.boards net.spikefold --config icebreaker    a board that is not attached

{exit_codes("no board is attached")}""",
    )
    parser.add_argument("networks", nargs="*", type=Path, help="network files to fit")
    parser.add_argument("--config", metavar="BOARD", help="a known board, attached or not")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    others: list[str] = []
    if arguments.config:
        config = config_by_name(arguments.config)
        identity = BoardIdentity(config, PROTOCOL_VERSION, spec_hash(config))
        boards = [describe("not attached", identity, arguments.networks)]
    else:
        found, others = find_boards()
        boards = [describe(port, identity, arguments.networks) for port, identity in found]
    if arguments.json:
        print(json.dumps({"boards": boards, "others": others}, indent=1))
    else:
        for board in boards:
            print(as_text(board))
        if not boards:
            print("no board is attached. Plug one in, or use the virtual board: --board sim")
        for line in others:
            print(f"  {line}")
    return EXIT_OK if boards else EXIT_NO
