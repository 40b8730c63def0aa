"""Watch a board at work: a live terminal view of images per second, utilisation, spikes per layer
and errors of the link.

A port belongs to one program at a time, so that the monitor itself runs a network on the board, on
test images over and over. A virtual board's rates are those of its simulated clock.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hw.boards import BOARDS
from sw import netfile, report, run
from sw.board import Board, Boards, Inference, program_for
from sw.commands import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    command,
    write_output,
)
from sw.compiler import FitError, Program
from sw.data import DataError
from sw.encoder import InputError
from sw.network import Network

INTERVAL_S = 0.5
WINDOW_S = 10.0
"""Rates are means over this time."""

N_HISTORY = 60
BAR_WIDTH = 24
BARS = "▁▂▃▄▅▆▇█"
SCREENSHOT_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is shown; means over the window unless said otherwise. JSON values."""

    seconds: float
    """Since the beginning, by the wall clock."""
    n_images: int
    """Since the beginning."""
    n_correct: int | None
    images_per_s: float
    latency_ms: float
    """Median."""
    core_busy: float
    """Share of the time that the core is at work, all boards together."""
    lanes_busy: float
    """Share of the additions that the lanes could do in a run's cycles."""
    line_busy: float
    """Share of the line's rate in use, in the direction that has more."""
    synaptic_ops_per_s: float
    spikes: dict[str, float]
    """Per image, by layer."""
    rates: dict[str, float]
    """Share of a layer's neurons that fire in a timestep."""
    cycles: dict[str, float]
    n_bad_frames: int
    """Damaged frames received by the host, since the beginning, as all that follow."""
    n_repeated: int
    n_recoveries: int
    n_boards: int
    failures: list[str]
    """What became of boards that have failed."""


@dataclass(frozen=True)
class _Moment:
    at: float
    n_bytes_out: int
    n_bytes_in: int
    n_images: int


@dataclass
class Monitor:
    """Runs samples and keeps count."""

    board: Board | Boards
    network: Network
    labels: NDArray[Any] | None = None
    recent: deque[tuple[float, Inference]] = field(default_factory=deque)
    moments: deque[_Moment] = field(default_factory=deque)
    n_images: int = 0
    n_correct: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.moments.append(self._moment())

    def _clock(self) -> float:
        """Seconds: simulated ones if there is one virtual board, else those on the wall."""
        if isinstance(self.board, Board):
            n_cycles = self.board.device.clock_cycles()
            if n_cycles is not None:
                return n_cycles / self.board.config.clk_hz
        return time.monotonic()

    def _moment(self) -> _Moment:
        links = [board.device.transport.counters for board in self.board.boards]
        return _Moment(
            self._clock(),
            sum(link.n_bytes_out for link in links),
            sum(link.n_bytes_in for link in links),
            self.n_images,
        )

    def add(self, inference: Inference) -> None:
        """Counts an outcome."""
        if self.labels is not None:
            label = self.labels[self.n_images % len(self.labels)]
            self.n_correct += int(inference.prediction == label)
        self.n_images += 1
        self.recent.append((time.monotonic(), inference))

    def snapshot(self) -> Snapshot:
        """What there is to show."""
        now = self._moment()
        self.moments.append(now)
        while len(self.moments) > 2 and now.at - self.moments[0].at > WINDOW_S:
            self.moments.popleft()
        first = self.moments[0]
        while len(self.recent) > max(now.n_images - first.n_images, 1):
            self.recent.popleft()
        seconds = max(now.at - first.at, 1e-9)
        outcomes = [inference for _, inference in self.recent]
        boards = self.board.boards
        config, program = self.board.config, self.board.program
        names = [layer.name for layer in program.layers]
        n = max(len(outcomes), 1)

        def mean(counter: str) -> dict[str, float]:
            return {
                name: sum(getattr(one.counters[name], counter) for one in outcomes) / n
                for name in names
            }

        n_ops = sum(sum(c.n_synaptic_ops for c in one.counters.values()) for one in outcomes)
        n_cycles = sum(one.n_cycles for one in outcomes)
        spikes = mean("n_spikes")
        shapes = self.network.map_shapes()
        links = [board.device.transport.counters for board in boards]
        n_bytes = max(now.n_bytes_out - first.n_bytes_out, now.n_bytes_in - first.n_bytes_in)
        baud = sum(board.device.transport.baud for board in boards)
        failures = self.board.failures if isinstance(self.board, Boards) else []
        return Snapshot(
            seconds=time.monotonic() - self.started,
            n_images=self.n_images,
            n_correct=None if self.labels is None else self.n_correct,
            images_per_s=(now.n_images - first.n_images) / seconds,
            latency_ms=1e3 * float(np.median([one.latency_s for one in outcomes] or [0.0])),
            core_busy=n_cycles / (config.clk_hz * seconds * len(boards)),
            lanes_busy=n_ops / (config.lanes * n_cycles) if n_cycles else 0.0,
            line_busy=10 * n_bytes / (baud * seconds),
            synaptic_ops_per_s=n_ops / seconds,
            spikes=spikes,
            rates={
                name: spikes[name] / (self.network.timesteps * float(np.prod(shapes[name])))
                for name in names
                if name in shapes
            },
            cycles=mean("n_cycles"),
            n_bad_frames=sum(link.n_bad_frames for link in links),
            n_repeated=sum(link.n_repeated for link in links),
            n_recoveries=sum(link.n_recoveries for link in links),
            n_boards=len(boards),
            failures=[f"{board.port}: {error}" for board, error in failures],
        )


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A share, 0 to 1, as a bar."""
    n_full = round(min(max(share, 0.0), 1.0) * width)
    return "━" * n_full + "╌" * (width - n_full)


def sparkline(values: list[float]) -> str:
    """Values as small bars, the largest full."""
    most = max(values, default=0.0) or 1.0
    return "".join(BARS[min(int(v / most * len(BARS)), len(BARS) - 1)] for v in values)


def view(snapshot: Snapshot, title: str, history: list[float], simulated: bool) -> Panel:
    """The terminal view."""
    unit = "images/s of the simulated clock" if simulated else "images/s"
    gauges = Table.grid(padding=(0, 2))
    speed = Text(f"{snapshot.images_per_s:,.1f}", "bold green")
    gauges.add_row("speed", speed + Text(f" {unit}", "default"), sparkline(history))
    for name, share, style in (
        ("core at work", snapshot.core_busy, "cyan"),
        ("lanes in use", snapshot.lanes_busy, "cyan"),
        ("line in use", snapshot.line_busy, "magenta"),
    ):
        gauges.add_row(name, Text(bar(share), style), f"{share:.1%}")
    gauges.add_row(
        "additions", f"{snapshot.synaptic_ops_per_s / 1e6:,.1f} million/s", Text("", "default")
    )
    done = f"{snapshot.n_images:,} in {snapshot.seconds:,.0f} s"
    if snapshot.n_correct is not None and snapshot.n_images:
        done += f", {snapshot.n_correct / snapshot.n_images:.1%} right"
    gauges.add_row("images", done, "")

    layers = Table(box=None, padding=(0, 2), expand=True)
    layers.add_column("layer", no_wrap=True)
    layers.add_column("firing", no_wrap=True)
    for name in ("rate", "spikes", "cycles"):
        layers.add_column(name, justify="right")
    most = max(snapshot.rates.values(), default=0.0) or 1.0
    for name, n_spikes in snapshot.spikes.items():
        rate = snapshot.rates.get(name)
        # An output layer has no spikes.
        shown = rate is not None and n_spikes > 0
        layers.add_row(
            name,
            Text(bar(rate / most), "yellow") if shown and rate is not None else "",
            f"{rate:.2%}" if shown else "",
            f"{n_spikes:,.0f}" if shown else "",
            f"{snapshot.cycles[name]:,.0f}",
        )

    trouble = snapshot.n_bad_frames + snapshot.n_repeated + snapshot.n_recoveries
    link = Text(
        f"link: {snapshot.n_bad_frames:,} damaged frames, {snapshot.n_repeated:,} requests sent "
        f"again, begun anew {snapshot.n_recoveries:,} times",
        "red" if trouble else "green",
    )
    lost = [Text(failure, "bold red") for failure in snapshot.failures]
    return Panel(
        Group(gauges, Text(), layers, Text(), link, *lost), title=title, subtitle="Ctrl-C ends"
    )


def as_text(snapshot: Snapshot) -> str:
    """A line for where there is no terminal."""
    right = (
        f", {snapshot.n_correct / snapshot.n_images:.1%} right"
        if snapshot.n_correct is not None and snapshot.n_images
        else ""
    )
    return (
        f"{snapshot.n_images} images in {snapshot.seconds:.1f} s{right}; "
        f"{snapshot.images_per_s:.1f} images/s, core at work {snapshot.core_busy:.1%}, line in use "
        f"{snapshot.line_busy:.1%}; {snapshot.n_bad_frames} damaged frames, {snapshot.n_repeated} "
        f"requests sent again, begun anew {snapshot.n_recoveries} times"
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
        "network", nargs="?", type=Path, default=run.NETWORK, help="network file (the shipped one)"
    )
    parser.add_argument(
        "--board",
        nargs="?",
        const=run.FIND,
        default=run.VIRTUAL,
        metavar="PORT",
        help="serial port; sim, or sim:BOARD for another board's configuration "
        f"({', '.join(BOARDS)}); several, separated by commas; without a value the board is looked "
        "for (default: sim)",
    )
    parser.add_argument("--baud", type=int, help="fastest rate to use (the board's own)")
    run.add_inputs(parser)
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
    title = f"{arguments.network.name} on {report.board_name(board.config)} ({board.port})"
    history: deque[float] = deque(maxlen=N_HISTORY)
    last: Snapshot | None = None
    live = console.is_terminal and not arguments.json
    end = None if arguments.seconds is None else time.monotonic() + arguments.seconds

    def endless() -> Iterator[NDArray[np.uint8]]:
        n = 0
        while arguments.n is None or n < arguments.n:
            yield run.frame_for(network, samples[n % len(samples)], board.program.pixels)
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
    samples, labels = run.find_inputs(arguments, file.network)
    port = run.port_of(arguments.board, file.program)
    with Board.open(port, arguments.baud) as board:
        program, _ = program_for(file.network, file.program, board.config)
        run.load(board, program)
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


if __name__ == "__main__":
    sys.exit(main())
