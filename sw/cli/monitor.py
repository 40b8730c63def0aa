"""Watch a board at work: a live terminal view of images per second, utilisation, spikes per layer
and errors of the link.

A port belongs to one program at a time, so that the monitor itself runs a network on the board, on
test images over and over. A virtual board's rates are those of its simulated clock.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live

from hw.boards.configs import BOARDS, board_name
from sw import shipped
from sw.cli import options
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_INTERRUPTED, EXIT_OK, command
from sw.compile.program import FitError, Program
from sw.data.dataset import DataError
from sw.driver import session
from sw.driver.group import open_boards
from sw.driver.inference import program_for
from sw.files import write_output
from sw.network import netfile
from sw.network.encoder import InputError
from sw.reporting.live import (
    INTERVAL_S,
    N_HISTORY,
    SCREENSHOT_WIDTH,
    Monitor,
    Snapshot,
    as_text,
    view,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sw.monitor",
        description=__doc__,
        epilog=f"""examples:
  python -m sw.monitor --board                     the board that is plugged in
  python -m sw.monitor --board sim -n 50 --picture monitor.svg
  python -m sw.monitor net.spikefold --board /dev/ttyUSB0 --json | jq .images_per_s

Where there is no terminal, a summary at the end is all. Ctrl-C ends it like -n and --seconds do.
exit codes: {EXIT_OK} ended, {EXIT_BAD_INPUT} bad input, {EXIT_DEVICE} no device or lost,
{EXIT_INTERRUPTED} interrupted before the first image""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "network",
        nargs="?",
        type=Path,
        default=shipped.NETWORK,
        help="network file (the shipped one)",
    )
    parser.add_argument(
        "--board",
        nargs="?",
        const=options.FIND,
        default=options.VIRTUAL,
        metavar="PORT",
        help="serial port; sim, or sim:BOARD for another board's configuration "
        f"({', '.join(BOARDS)}); several, separated by commas; without a value the board is looked "
        "for (default: sim)",
    )
    parser.add_argument("--baud", type=int, help="fastest rate to use (the board's own)")
    options.add_inputs(parser)
    parser.add_argument("-n", type=int, metavar="N", help="end after N images")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after S seconds")
    parser.add_argument(
        "--json", action="store_true", help="a JSON object per line, twice a second"
    )
    parser.add_argument("--picture", type=Path, metavar="SVG", help="draw the last view to a file")
    return parser


def _watch(
    arguments: argparse.Namespace, monitor: Monitor, samples: NDArray[Any], console: Console
) -> tuple[Snapshot, str, list[float]]:
    """Runs until it is told to end; gives the last snapshot, the title and the history."""
    board, network = monitor.board, monitor.network
    simulated = any(one.device.virtual for one in board.boards)
    title = f"{arguments.network.name} on {board_name(board.config)} ({board.port})"
    history: deque[float] = deque(maxlen=N_HISTORY)
    last: Snapshot | None = None
    live = console.is_terminal and not arguments.json
    end = None if arguments.seconds is None else time.monotonic() + arguments.seconds

    def endless() -> Iterator[NDArray[np.uint8]]:
        n = 0
        while arguments.n is None or n < arguments.n:
            yield session.frame_for(network, samples[n % len(samples)], board.program.pixels)
            n += 1

    def show(screen: Live | None) -> None:
        nonlocal last
        last = monitor.snapshot()
        history.append(last.images_per_s)
        if arguments.json:
            print(json.dumps(asdict(last)), flush=True)
        if screen is not None:
            screen.update(view(last, title, list(history), simulated), refresh=True)

    screen = Live(console=console, auto_refresh=False) if live else None
    stream = board.stream(endless())
    try:
        if screen is not None:
            screen.start()
        due = time.monotonic()
        for inference in stream:
            monitor.add(inference)
            now = time.monotonic()
            if now >= due:
                show(screen)
                due = now + INTERVAL_S
            if end is not None and now >= end:
                break
        show(screen)
    except KeyboardInterrupt:
        if last is None:
            raise
    finally:
        stream.close()  # aborts what is under way
        if screen is not None:
            screen.stop()
    assert last is not None
    return last, title, list(history)


@command(netfile.NetworkFileError, DataError, InputError, FitError)
def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if (arguments.n is not None and arguments.n < 1) or (
        arguments.seconds is not None and not arguments.seconds > 0
    ):
        parser.error("-n and --seconds take numbers above 0")
    console = Console(highlight=False)
    file = netfile.load(arguments.network, Program)
    samples, labels = options.find_inputs(arguments, file.network)
    port = options.port_of(arguments.board, file.program)
    with open_boards(port, arguments.baud) as board:
        program, _ = program_for(file.network, file.program, board.config)
        options.load(board, program)
        monitor = Monitor(board, file.network, labels)
        last, title, history = _watch(arguments, monitor, samples, console)
        simulated = any(one.device.virtual for one in board.boards)
    if not arguments.json and not console.is_terminal:
        print(as_text(last))
    if arguments.picture is not None:
        paper = Console(
            record=True, width=SCREENSHOT_WIDTH, file=io.StringIO(), force_terminal=True
        )
        paper.print(view(last, title, history, simulated))
        write_output(arguments.picture, paper.export_svg(title="python -m sw.monitor").encode())
    return EXIT_OK
