"""List the boards that are attached, and say which network files fit them; or test a board.

The serial port of each board is opened for a moment. This disturbs neither its memories nor its
computations; only --self-test overwrites the memories.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from serial.tools import list_ports

from hw.boards.configs import board_name, config_by_name
from hw.protocol import PROTOCOL_VERSION, spec_hash
from hw.spec import Config, SpecError
from sw.cli import options
from sw.cli.commands import (
    EXIT_NO,
    EXIT_OK,
    CommandParser,
    check_output,
    command,
    exit_codes,
)
from sw.compile import fitting
from sw.driver.device import Device
from sw.driver.discovery import BoardIdentity, find_boards
from sw.driver.selftest import N_NETWORKS, Step, self_test
from sw.files import write_output
from sw.network import netfile
from sw.network.encoder import InputError
from sw.network.netfile import NetworkFileError

PATIENCE_S = 60.0
"""Longest time in seconds that a virtual board may take to answer in the self-test. With a shorter
limit, a slow simulation would look like a line that loses requests."""


def describe(port: str, identity: BoardIdentity, files: list[Path]) -> dict[str, Any]:
    """Return a description of a board, and how each network file fits it, as JSON values.

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

    The result's entries: ``network`` is the path of the file, and ``fits`` is True or False.
    ``usage`` has the needed and the available size of each memory. If the network does not fit,
    ``why`` gives the reason, and ``remedies`` lists changes that would make it fit.

    Raises
    ------
    sw.network.netfile.NetworkFileError
        The file is missing, damaged or no network file.
    """
    found = fitting.board_report(netfile.load(path).network, config)
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


def fitting_text(path: Path) -> str:
    """Return text for a terminal that says which known boards the network in a file fits.

    Raises
    ------
    sw.network.netfile.NetworkFileError
        The file is missing, damaged or no network file.
    """
    reports = fitting.all_boards(netfile.load(path).network)
    fits = ", ".join(report.board for report in reports if report.fits)
    return f"  {path}: fits {fits or 'none of the known boards; --config BOARD says why'}"


def step_line(step: Step) -> str:
    """Return one line about a part of the self-test."""
    word = {True: "passed", False: "FAILED", None: "left out"}[step.passed]
    return f"{word:<8}  {step.name:<14}  {step.seconds:5.1f} s  {step.detail}"


def report_text(port: str, steps: Sequence[Step]) -> str:
    """Return the report of a self-test as text: the machine, the port's USB bridge, and every
    part."""
    usb = "no USB device"
    for info in list_ports.comports():
        if info.device == port and info.vid is not None:
            usb = (
                f"USB {info.vid:04x}:{info.pid:04x}, location {info.location}, serial number "
                f"{info.serial_number}, {info.manufacturer} {info.product}"
            )
    failed = [step.name for step in steps if step.passed is False]
    lines = [
        f"Self-test of a Spikefold board: {'FAILED: ' + ', '.join(failed) if failed else 'passed'}",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Spikefold {metadata.version('spikefold')}, "
        f"Python {platform.python_version()}, {platform.platform()}",
        f"port {port}: {usb}",
        "",
        *map(step_line, steps),
    ]
    return "\n".join(lines) + "\n"


def _self_test(arguments: argparse.Namespace) -> int:
    """Test a board, print each part as its result is known, and write the report.

    Returns the command's exit code.
    """
    if arguments.networks or arguments.config:
        raise InputError(
            "--self-test takes a port, and neither network files nor --config: to test the virtual "
            "board of a configuration, use --self-test sim:BOARD"
        )
    if arguments.n_networks < 0 or arguments.seed < 0:
        raise InputError("--n-networks and --seed take 0 or more")
    if arguments.baud is not None and arguments.baud < 1:
        raise InputError("--baud takes at least 1")
    check_output(arguments.report)
    steps: list[Step] = []
    with Device.open(options.port_of(arguments.self_test, None), arguments.baud) as device:
        port = device.port
        if device.virtual:
            device.transport.timeout_s = PATIENCE_S
        for step in self_test(
            device,
            n_networks=arguments.n_networks,
            seed=arguments.seed,
            baud=arguments.baud,
        ):
            steps.append(step)
            if not arguments.json:
                print(step_line(step), flush=True)
    passed = all(step.passed is not False for step in steps)
    write_output(arguments.report, report_text(port, steps).encode())
    if arguments.json:
        print(json.dumps({"passed": passed, "port": port, "steps": [asdict(s) for s in steps]}))
    else:
        print(
            f"{'passed' if passed else 'FAILED: attach the report to an issue'}; the report is in "
            f"{arguments.report}"
        )
    return EXIT_OK if passed else EXIT_NO


@command(NetworkFileError, SpecError, InputError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.boards`` with the arguments ``argv`` and return its exit code."""
    parser = CommandParser(
        prog="python -m sw.boards",
        description=__doc__,
        epilog=f"""examples:
  python -m sw.boards
  python -m sw.boards net.spikefold other.spikefold --json
  python -m sw.boards net.spikefold --config icebreaker    a board that is not attached
  python -m sw.boards --self-test                     test the board that is attached
  python -m sw.boards --self-test sim:icebreaker      try that on the virtual board

{exit_codes("no board is attached, or the self-test failed", device=True)}""",
    )
    parser.add_argument("networks", nargs="*", type=Path, help="network files to fit")
    parser.add_argument("--config", metavar="BOARD", help="a known board, attached or not")
    test = parser.add_argument_group(
        "self-test",
        "Test identity, every rate of the line, every bit of the memories, and random networks "
        "against the integer reference. This takes up to two minutes and overwrites the memories.",
    )
    test.add_argument(
        "--self-test",
        nargs="?",
        const=options.FIND,
        metavar="PORT",
        help="port of the board, as --board of sw.run takes it (the board that is attached)",
    )
    test.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        default=Path("self-test.txt"),
        help="file for the report, to attach to an issue (default: %(default)s)",
    )
    test.add_argument(
        "--n-networks",
        type=int,
        metavar="N",
        default=N_NETWORKS,
        help="number of random networks (default: %(default)s)",
    )
    test.add_argument("--seed", type=int, default=0, help="seed of random contents and networks")
    test.add_argument("--baud", type=int, help="fastest rate of the line (the board's own)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.self_test is not None:
        return _self_test(arguments)
    others: list[str] = []
    if arguments.config:
        config = config_by_name(arguments.config)
        identity = BoardIdentity(config, PROTOCOL_VERSION, spec_hash(config))
        boards = [describe("not attached", identity, arguments.networks)]
    else:
        found, others = find_boards()
        boards = [describe(port, identity, arguments.networks) for port, identity in found]
    # Without a board, too, a damaged file is refused. Each is read once, as it may be a pipe.
    fits = [] if boards else [fitting_text(path) for path in arguments.networks]
    if arguments.json:
        print(json.dumps({"boards": boards, "others": others}, indent=1))
    else:
        for board in boards:
            print(as_text(board))
        if not boards:
            print("no board is attached. Plug one in, or use the virtual board: --board sim")
            print(*fits, sep="\n", end="\n" if fits else "")
        for line in others:
            print(f"  {line}")
    return EXIT_OK if boards else EXIT_NO
