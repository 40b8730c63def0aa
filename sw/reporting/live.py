"""A board at work: snapshots of its counters, drawn for a terminal."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sw.driver.board import Board
from sw.driver.group import Boards
from sw.driver.inference import Inference
from sw.network.network import Network

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
