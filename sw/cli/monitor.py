"""Watch a working board live: speed, utilisation, spikes per layer and errors of the serial link.

Only one program can use a serial port at a time, so the monitor itself runs a network on the board
and feeds it test samples over and over. Speeds of a virtual board are those of its simulated clock.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live

from hw.boards.configs import board_name
from sw.cli import options
from sw.cli.commands import (
    EXIT_OK,
    CommandParser,
    as_called,
    check_output,
    command,
    exit_codes,
)
from sw.compile.program import FitError
from sw.data.dataset import DataError
from sw.driver import session
from sw.driver.group import open_boards
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
    parser = CommandParser(
        prog="python -m sw.monitor",
        description=__doc__,
        epilog=f"""examples:
  python -m sw.monitor --board                     the board that is plugged in
  python -m sw.monitor --board sim -n 50 --picture monitor.svg
  python -m sw.monitor net.spikefold --board /dev/ttyUSB0 --json | jq .images_per_s

Output that is no terminal gets only a summary at the end. Ctrl-C ends the monitor like -n and
--seconds do; only before the first image is that an interruption.

{exit_codes(done="ended", device=True)}""",
    )
    options.add_network(parser)
    options.add_board(parser)
    options.add_inputs(parser)
    parser.add_argument("-n", type=int, metavar="N", help="end after N images")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after S seconds")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object per line, twice a second"
    )
    parser.add_argument("--picture", type=Path, metavar="SVG", help="write the last view to a file")
    return parser


@dataclass(frozen=True)
class _Watched:
    """Last view of a monitor: its title, its measurements, and recent speeds for the chart.

    ``history`` has the images per second of the last snapshots, oldest first.
    """

    last: Snapshot
    title: str
    history: list[float]


def _watch(
    arguments: argparse.Namespace, monitor: Monitor, samples: NDArray[Any], console: Console
) -> _Watched:
    """Classify samples over and over, and show the monitor's measurements in the terminal.

    End after ``-n`` samples, after ``--seconds``, or on Ctrl-C, and return the last view.
    """
    board, network = monitor.board, monitor.network
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
            screen.update(view(last, title, list(history), board.virtual), refresh=True)

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
    return _Watched(last, title, list(history))


def _draw(path: Path, watched: _Watched, simulated: bool) -> None:
    """Draw the last view of the monitor as an SVG file at ``path``.

    ``simulated`` says whether the speeds were measured by a simulated clock.
    """
    paper = Console(record=True, width=SCREENSHOT_WIDTH, file=io.StringIO(), force_terminal=True)
    paper.print(view(watched.last, watched.title, watched.history, simulated))
    write_output(path, paper.export_svg(title=as_called("python -m sw.monitor")).encode())


@command(netfile.NetworkFileError, DataError, InputError, FitError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.monitor`` with the arguments ``argv`` and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if (arguments.n is not None and arguments.n < 1) or (
        arguments.seconds is not None and not arguments.seconds > 0
    ):
        parser.error("-n and --seconds take numbers above 0")
    check_output(arguments.picture)
    console = Console(highlight=False)
    file = netfile.load(arguments.network)
    samples, labels = options.find_inputs(arguments, file.network)
    port = options.port_of(arguments.board, file.config)
    with open_boards(port, arguments.baud) as board:
        options.load(board, file)
        monitor = Monitor(board, file.network, labels)
        watched = _watch(arguments, monitor, samples, console)
        simulated = board.virtual
    if not arguments.json and not console.is_terminal:
        print(as_text(watched.last))
    if arguments.picture is not None:
        _draw(arguments.picture, watched, simulated)
    return EXIT_OK
