"""Show the speed, utilisation and spikes of a board in a terminal while it classifies images.

A :class:`Monitor` collects the results of the images, and summarises the last seconds as a
:class:`Snapshot`, which :func:`view` draws. Several boards can work together as one.
"""

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

from sw.driver.any_board import AnyBoard
from sw.driver.inference import Inference
from sw.driver.transport import LinkCounters
from sw.network.network import Network

INTERVAL_S = 0.5
"""Time in seconds between two snapshots."""
WINDOW_S = 10.0
"""Length in seconds of the window over which speeds, shares and counts are averaged."""
N_HISTORY = 60
"""Number of past speeds, one per snapshot, in the small chart beside the speed."""
BAR_WIDTH = 24
"""Width of a bar in characters."""
SPARKS = "▁▂▃▄▅▆▇█"
"""Characters of a sparkline (a bar chart in one line of text), lowest bar first."""
SCREENSHOT_WIDTH = 100
"""Width in characters of the picture of the live view that is saved as SVG."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Figures of the boards at one moment, all of them JSON values.

    They are means over the last :data:`WINDOW_S` seconds unless stated otherwise.

    Attributes
    ----------
    seconds, n_images, n_correct : seconds by the wall clock, number of images, and number of
        correct predictions, all since the start. ``n_correct`` is None if labels are unknown.
    images_per_s : images classified per second.
    latency_ms : median time in milliseconds from when the driver takes an image until its result is
        complete. It includes the wait for earlier images.
    core_busy : share of the clock cycles in which the core computes, as a mean over boards.
    lanes_busy : share of the core's adders (lanes) that add a weight, while the core computes.
    line_busy : share of the serial line's capacity in use, in the busier direction.
    synaptic_ops_per_s : additions of a weight to a membrane per second.
    spikes : number of spikes per image, by layer.
    rates : share of a layer's neurons that fire in a timestep, by layer, without the output layer.
    cycles : clock cycles per image, by layer.
    n_bad_frames, n_repeated, n_recoveries : damaged frames received by the host, requests sent
        again, and restarts of the link, all since the start.
    n_boards : number of boards that work.
    failures : a text for each board that has failed: its serial port and the error.
    """

    seconds: float
    n_images: int
    n_correct: int | None
    images_per_s: float
    latency_ms: float
    core_busy: float
    lanes_busy: float
    line_busy: float
    synaptic_ops_per_s: float
    spikes: dict[str, float]
    rates: dict[str, float]
    cycles: dict[str, float]
    n_bad_frames: int
    n_repeated: int
    n_recoveries: int
    n_boards: int
    failures: list[str]


@dataclass(frozen=True)
class _Moment:
    """Number of images and counters of the link since the start, at one moment.

    ``at_s`` is the time in seconds by the board's clock. The differences between two moments give
    the speeds between them.
    """

    at_s: float
    link: LinkCounters
    n_images: int


@dataclass
class Monitor:
    """Collector of the results of a board.

    It summarises the results of a window: the last :data:`WINDOW_S` seconds.

    Attributes
    ----------
    labels : labels of the images; None if unknown. The images are classified in the order of the
        labels, over and over.
    recent : results of the images within the window.
    moments : totals at the time of each snapshot within the window.
    n_images, n_correct : number of images and of correct predictions since the start.
    started : start of the monitor, by the wall clock in seconds.
    """

    board: AnyBoard
    network: Network
    labels: NDArray[Any] | None = None
    recent: deque[Inference] = field(default_factory=deque)
    moments: deque[_Moment] = field(default_factory=deque)
    n_images: int = 0
    n_correct: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.moments.append(self._moment())

    def _moment(self) -> _Moment:
        return _Moment(self.board.clock_s(), self.board.counters, self.n_images)

    def add(self, inference: Inference) -> None:
        """Count the result of one image. Results must be added in the order of the labels."""
        if self.labels is not None:
            label = self.labels[self.n_images % len(self.labels)]
            self.n_correct += int(inference.prediction == label)
        self.n_images += 1
        self.recent.append(inference)

    def snapshot(self) -> Snapshot:
        """Return the figures of the window that ends now.

        This also records the present totals of images and of the link's counters, from which later
        windows can begin, and drops results and totals older than the window.
        """
        now = self._moment()
        first = self._start_of_window(now)
        seconds = max(now.at_s - first.at_s, 1e-9)
        outcomes = list(self.recent)
        devices = self.board.devices
        config, program = self.board.config, self.board.program
        names = [layer.name for layer in program.layers]

        def mean(counter: str) -> dict[str, float]:
            n = max(len(outcomes), 1)
            return {
                name: sum(getattr(one.counters[name], counter) for one in outcomes) / n
                for name in names
            }

        n_ops = sum(sum(c.n_synaptic_ops for c in one.counters.values()) for one in outcomes)
        n_cycles = sum(one.n_cycles for one in outcomes)
        spikes = mean("n_spikes")
        shapes = self.network.map_shapes()
        n_bytes = max(
            now.link.n_bytes_out - first.link.n_bytes_out,
            now.link.n_bytes_in - first.link.n_bytes_in,
        )
        baud = sum(device.transport.baud for device in devices)
        return Snapshot(
            seconds=time.monotonic() - self.started,
            n_images=self.n_images,
            n_correct=None if self.labels is None else self.n_correct,
            images_per_s=(now.n_images - first.n_images) / seconds,
            latency_ms=1e3 * float(np.median([one.latency_s for one in outcomes] or [0.0])),
            core_busy=n_cycles / (config.clk_hz * seconds * len(devices)),
            lanes_busy=n_ops / (config.banks * config.lanes * n_cycles) if n_cycles else 0.0,
            line_busy=10 * n_bytes / (baud * seconds),
            synaptic_ops_per_s=n_ops / seconds,
            spikes=spikes,
            rates={
                name: spikes[name] / (self.network.timesteps * float(np.prod(shapes[name])))
                for name in names
                if name in shapes
            },
            cycles=mean("n_cycles"),
            n_bad_frames=now.link.n_bad_frames,
            n_repeated=now.link.n_repeated,
            n_recoveries=now.link.n_recoveries,
            n_boards=len(devices),
            failures=[f"{device.port}: {error}" for device, error in self.board.failures],
        )

    def _start_of_window(self, now: _Moment) -> _Moment:
        """Move the window so that it ends at ``now``, and return the recorded totals at its start.

        ``now`` is appended to :attr:`moments`. Totals and results from before the window are
        dropped.
        """
        self.moments.append(now)
        while len(self.moments) > 2 and now.at_s - self.moments[0].at_s > WINDOW_S:
            self.moments.popleft()
        first = self.moments[0]
        while len(self.recent) > max(now.n_images - first.n_images, 1):
            self.recent.popleft()
        return first


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Return a share between 0 and 1 as a horizontal bar of ``width`` characters."""
    n_full = round(min(max(share, 0.0), 1.0) * width)
    return "━" * n_full + "╌" * (width - n_full)


def sparkline(values: list[float]) -> str:
    """Return a bar chart of values in one line of text, the largest at full height."""
    most = max(values, default=0.0) or 1.0
    return "".join(SPARKS[min(int(v / most * len(SPARKS)), len(SPARKS) - 1)] for v in values)


def view(snapshot: Snapshot, title: str, history: list[float], simulated: bool) -> Panel:
    """Return a snapshot as a panel of text for a terminal.

    Parameters
    ----------
    history : past speeds in images per second, oldest first.
    simulated : whether the board is a simulation, whose speeds refer to the simulated clock.
    """
    failures = [Text(failure, "bold red") for failure in snapshot.failures]
    parts = (_gauges(snapshot, history, simulated), Text(), _layers(snapshot), Text())
    return Panel(Group(*parts, _link(snapshot), *failures), title=title, subtitle="Ctrl-C ends")


def _gauges(snapshot: Snapshot, history: list[float], simulated: bool) -> Table:
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
        done += f", {snapshot.n_correct / snapshot.n_images:.1%} correct"
    gauges.add_row("images", done, "")
    return gauges


def _layers(snapshot: Snapshot) -> Table:
    layers = Table(box=None, padding=(0, 2), expand=True)
    layers.add_column("layer", no_wrap=True)
    layers.add_column("firing", no_wrap=True)
    for name in ("rate", "spikes", "cycles"):
        layers.add_column(name, justify="right")
    most = max(snapshot.rates.values(), default=0.0) or 1.0
    for name, n_spikes in snapshot.spikes.items():
        rate = snapshot.rates.get(name, 0.0)
        fires = name in snapshot.rates and n_spikes > 0  # an output layer has no spikes
        layers.add_row(
            name,
            Text(bar(rate / most), "yellow") if fires else "",
            f"{rate:.2%}" if fires else "",
            f"{n_spikes:,.0f}" if fires else "",
            f"{snapshot.cycles[name]:,.0f}",
        )
    return layers


def _link(snapshot: Snapshot) -> Text:
    trouble = snapshot.n_bad_frames + snapshot.n_repeated + snapshot.n_recoveries
    return Text(
        f"link: {snapshot.n_bad_frames:,} damaged frames, {snapshot.n_repeated:,} requests sent "
        f"again, {snapshot.n_recoveries:,} restarts",
        "red" if trouble else "green",
    )


def as_text(snapshot: Snapshot) -> str:
    """Return a snapshot as one line of text, for output that goes to a file or a pipe."""
    correct = (
        f", {snapshot.n_correct / snapshot.n_images:.1%} correct"
        if snapshot.n_correct is not None and snapshot.n_images
        else ""
    )
    return (
        f"{snapshot.n_images} images in {snapshot.seconds:.1f} s{correct}; "
        f"{snapshot.images_per_s:.1f} images/s, core at work {snapshot.core_busy:.1%}, line in use "
        f"{snapshot.line_busy:.1%}; {snapshot.n_bad_frames} damaged frames, {snapshot.n_repeated} "
        f"requests sent again, {snapshot.n_recoveries} restarts of the link"
    )
