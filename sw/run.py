"""Classify images on a device, and check what it did against the PyTorch integer reference.

``python -m sw.run --board sim`` runs the shipped network on the virtual board.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hw.boards import BOARDS, CONFIGS, config_by_name
from hw.protocol import spec_hash
from hw.spec import SpecError
from sw import data, encoder, inputs, netfile, report
from sw.board import Board, Boards, Inference, Loaded, load_bytes, program_for
from sw.commands import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    INTERRUPTED,
    check_output,
    command,
    write_output,
)
from sw.compiler import PIXELS, FitError, Program
from sw.data import DataError
from sw.datasets import NAMES
from sw.encoder import InputError
from sw.link import DeviceError
from sw.network import Network

NETWORK = Path(__file__).parent / "networks" / "fashion-mnist.spikefold"
"""The shipped network."""
VIRTUAL = "sim"
FIND = "auto"
CHECKS = ("counts", "spikes")
BATCH = 50
"""Images that are encoded, and checked, at once."""
N_MISMATCHES_SHOWN = 10
THUMBNAILS_PER_ROW = 4
SHADES = " .:-=+*#%@"

EXIT_MISMATCH = 1


@dataclass(frozen=True, kw_only=True)
class LayerTotal:
    """Means per image over a run."""

    n_cycles: float
    n_weight_reads: float
    n_synaptic_ops: float
    n_spikes: float


@dataclass(kw_only=True)
class Results:
    """Everything a run found out; JSON values. Rates are of the images done."""

    network: str
    sha256: str
    board: str
    clk_hz: int
    n_requested: int
    predictions: list[int] = field(default_factory=list)
    labels: list[int] | None = None
    n_cycles: list[int] = field(default_factory=list)
    logits: list[list[int]] = field(default_factory=list)
    layers: dict[str, LayerTotal] = field(default_factory=dict)
    link_s: list[float] = field(default_factory=list)
    """Per image, as ``compute_s`` and ``latency_s``, see :class:`sw.board.Inference`."""
    compute_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    load_s: float = 0.0
    baud: int = 0
    n_bytes_out: int = 0
    """Sent while running, all images together."""
    n_bytes_in: int = 0
    n_repeated: int = 0
    """Requests sent again."""
    n_recoveries: int = 0
    """Times that the link had to be begun anew."""
    check: str | None = None
    n_checked: int = 0
    mismatches: list[str] = field(default_factory=list)
    stopped: str | None = None
    """Why the run ended before the last image."""

    @property
    def n_done(self) -> int:
        return len(self.predictions)

    @property
    def n_correct(self) -> int | None:
        if self.labels is None:
            return None
        return sum(p == y for p, y in zip(self.predictions, self.labels, strict=False))

    @property
    def n_synaptic_ops(self) -> float:
        """Mean per image."""
        return sum(layer.n_synaptic_ops for layer in self.layers.values())

    @property
    def line_s(self) -> float:
        """Seconds that an image's bytes take on the line, at its rate; both directions at once."""
        n_bytes = max(self.n_bytes_out, self.n_bytes_in)
        return 10 * n_bytes / self.baud / max(self.n_done, 1) if self.baud else 0.0

    @property
    def core_s(self) -> float:
        """Seconds that an image takes in the core, at its clock."""
        return float(np.mean(self.n_cycles)) / self.clk_hz if self.n_cycles else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the derived figures."""
        done = max(self.n_done, 1)
        derived: dict[str, Any] = {
            "n_done": self.n_done,
            "n_correct": self.n_correct,
            "accuracy": None if self.n_correct is None else self.n_correct / done,
            "accuracy_interval": None
            if self.n_correct is None
            else report.wilson(self.n_correct, self.n_done),
            "latency_ms": {
                name: percentiles_ms(getattr(self, name))
                for name in ("link_s", "compute_s", "latency_s")
            },
            "energy_pj": report.PJ_PER_ACCUMULATION * self.n_synaptic_ops,
            "line_ms": 1e3 * self.line_s,
            "core_ms": 1e3 * self.core_s,
            "images_per_s": self.n_done / self.wall_s if self.wall_s else None,
            "mean_cycles": float(np.mean(self.n_cycles)) if self.n_cycles else None,
        }
        return asdict(self) | derived


def percentiles_ms(seconds: list[float]) -> dict[str, float] | None:
    """Median and 99th percentile, in milliseconds."""
    if not seconds:
        return None
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99)}


# ---- checking ------------------------------------------------------------------------------------


def differences(
    index: int,
    network: Network,
    inference: Inference,
    logits: NDArray[np.int64],
    maps: dict[str, NDArray[np.uint8]],
) -> Iterator[str]:
    """What an inference did otherwise than the reference: prediction, logits, spikes and additions
    of every layer, and every spike if they were read back."""
    prediction = int(np.argmax(logits))
    if inference.prediction != prediction:
        yield f"image {index}: class {inference.prediction}, the reference says {prediction}"
    if not np.array_equal(inference.logits, logits):
        n_class = int(np.flatnonzero(inference.logits != logits)[0])
        yield (
            f"image {index}: logit {n_class} is {inference.logits[n_class]}, the reference says "
            f"{logits[n_class]}"
        )
    for layer in network.layers:
        counters = inference.counters.get(layer.name)
        if counters is None:
            continue
        expected = report.n_synaptic_ops(layer, maps[layer.source])
        if counters.n_synaptic_ops != expected:
            yield (
                f"image {index}, layer {layer.name}: {counters.n_synaptic_ops} synaptic "
                f"operations, the reference says {expected}"
            )
        if not layer.output and counters.n_spikes != (spikes := int(maps[layer.name].sum())):
            yield (
                f"image {index}, layer {layer.name}: {counters.n_spikes} spikes, the reference "
                f"says {spikes}"
            )
    for name, found in inference.maps.items():
        if name == PIXELS:  # what the host wrote
            continue
        wrong = np.argwhere(found != maps[name])
        if len(wrong):
            t, c, y, x = wrong[0]
            yield (
                f"image {index}, map {name}: {len(wrong)} of {found.size} spikes differ, first at "
                f"timestep {t}, channel {c}, row {y}, column {x}: {found[t, c, y, x]}, the "
                f"reference says {maps[name][t, c, y, x]}"
            )


def check(
    network: Network, images: NDArray[np.uint8], inferences: list[Inference], first: int
) -> list[str]:
    """Differences of ``inferences`` on ``images`` from the PyTorch reference, numbered from
    ``first``."""
    from sw import reference  # torch is needed only here

    trace = reference.run(network, images)
    found: list[str] = []
    for n, inference in enumerate(inferences):
        maps = {name: spikes[n] for name, spikes in trace.spikes.items()}
        found += differences(first + n, network, inference, trace.logits[n], maps)
    return found


# ---- the run -------------------------------------------------------------------------------------


def classify(
    board: Board | Boards,
    network: Network,
    images: NDArray[np.uint8],
    results: Results,
    *,
    checked: str | None = None,
    quiet: bool = False,
) -> None:
    """Run all images and fill ``results``. If the device goes away, what is done is kept and
    ``results.stopped`` says at which image and why; the same for Ctrl-C.

    Parameters
    ----------
    checked : None, or one of :data:`CHECKS`: what to compare with the reference.
    """
    tally = _Tally(board, results)
    with tqdm(total=len(images), unit=" images", disable=quiet or None, file=sys.stderr) as bar:
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            frames = encoder.inputs(network, batch, board.program.pixels)
            done = []
            with tally.outcomes(frames, maps=checked == "spikes") as outcomes:
                for inference in outcomes:
                    done.append(inference)
                    bar.update()
            if checked and done and results.stopped != INTERRUPTED:
                try:
                    results.mismatches += check(network, batch[: len(done)], done, first)
                    results.n_checked += len(done)
                except KeyboardInterrupt:
                    results.stopped = INTERRUPTED
            if results.stopped:
                return


def classify_live(
    board: Board | Boards,
    network: Network,
    source: BinaryIO,
    results: Results,
    on_result: Callable[[Inference], object],
    n: int | None = None,
) -> None:
    """Runs samples as they come in, see :func:`sw.inputs.stream`, until they end, or ``n``; fills
    ``results`` like :func:`classify`."""

    def frames() -> Iterator[NDArray[np.uint8] | None]:
        n_taken = 0
        for sample in inputs.stream(source, network):
            yield None if sample is None else frame_for(network, sample, board.program.pixels)
            n_taken += sample is not None
            if n_taken == n:
                return

    with _Tally(board, results).outcomes(frames()) as outcomes:
        for inference in outcomes:
            on_result(inference)
    results.n_requested = max(results.n_requested, results.n_done)


def frame_for(network: Network, sample: NDArray[np.uint8], pixels: bool) -> NDArray[np.uint8]:
    """What a device takes for one sample, see :func:`sw.encoder.inputs`."""
    return encoder.inputs(network, sample[None], pixels)[0]


class _Tally:
    """Fills :class:`Results` with outcomes."""

    def __init__(self, board: Board | Boards, results: Results):
        self.board, self.results = board, results
        self.counted = [f.name for f in fields(LayerTotal)]
        self.names = [plan.name for plan in board.program.layers]
        self.totals = np.zeros((len(self.names), len(self.counted)))
        self.links = [one.device.transport.counters for one in board.boards]
        self.before = self._n_bytes()

    def _n_bytes(self) -> tuple[int, int]:
        return sum(k.n_bytes_out for k in self.links), sum(k.n_bytes_in for k in self.links)

    @contextlib.contextmanager
    def outcomes(
        self, frames: Iterable[NDArray[np.uint8] | None], *, maps: bool = False
    ) -> Iterator[Iterator[Inference]]:
        """Runs samples. If the device goes away, or Ctrl-C comes, ``stopped`` says so."""
        results = self.results
        started = time.perf_counter()
        stream = self.board.stream(frames, maps=maps)
        try:
            yield map(self._added, stream)
        except DeviceError as error:
            results.stopped = f"at image {results.n_done}: {error}"
        except KeyboardInterrupt:
            results.stopped = INTERRUPTED
        finally:
            stream.close()  # ends what is under way
            self._finish(time.perf_counter() - started)

    def _finish(self, seconds: float) -> None:
        results = self.results
        results.wall_s += seconds
        results.n_repeated = sum(link.n_repeated for link in self.links)
        results.n_recoveries = sum(link.n_recoveries for link in self.links)
        n_out, n_in = self._n_bytes()
        results.n_bytes_out, results.n_bytes_in = n_out - self.before[0], n_in - self.before[1]
        if results.n_done:
            results.layers = {
                name: LayerTotal(
                    **dict(zip(self.counted, (row / results.n_done).tolist(), strict=True))
                )
                for name, row in zip(self.names, self.totals, strict=True)
            }

    def _added(self, inference: Inference) -> Inference:
        results = self.results
        results.predictions.append(inference.prediction)
        results.n_cycles.append(inference.n_cycles)
        results.logits.append(inference.logits.tolist())
        results.link_s.append(inference.link_s)
        results.compute_s.append(inference.compute_s)
        results.latency_s.append(inference.latency_s)
        self.totals += [[getattr(c, n) for n in self.counted] for c in inference.counters.values()]
        return inference


# ---- output --------------------------------------------------------------------------------------


def thumbnails(
    images: NDArray[np.uint8],
    labels: NDArray[Any] | None,
    predictions: list[int],
    names: tuple[str, ...],
) -> str:
    """Images (N, C, H, W), or frames (N, T, C, H, W), as characters, side by side, with what they
    are and what the device says."""
    blocks = []
    for n, image in enumerate(images):
        grey = image.reshape(-1, *image.shape[-2:]).mean(axis=0)
        if image.ndim == 4:  # spikes
            grey *= 255 / (grey.max() or 1)
        if len(grey) == 1:  # a signal
            grey = grey.repeat(2, axis=0)
        halves = grey[: len(grey) // 2 * 2].reshape(-1, 2, grey.shape[1]).mean(axis=1)
        lines = ["".join(SHADES[int(v) * len(SHADES) // 256] for v in row) for row in halves]
        width = grey.shape[1]
        answer = f"device: {names[predictions[n]]}"
        label = "" if labels is None else f"label:  {names[int(labels[n])]}"
        blocks.append([line.ljust(width) for line in (*lines, label, answer)])
    rows = []
    for start in range(0, len(blocks), THUMBNAILS_PER_ROW):
        group = blocks[start : start + THUMBNAILS_PER_ROW]
        rows.append("\n".join("  ".join(parts).rstrip() for parts in zip(*group, strict=True)))
    return "\n\n".join(rows)


def _latencies(results: Results) -> list[tuple[str, list[float]]]:
    return [
        ("link", results.link_s),
        ("compute", results.compute_s),
        ("in all", results.latency_s),
    ]


def _latency_line(name: str, seconds: list[float]) -> str:
    values = percentiles_ms(seconds)
    assert values is not None
    return f"latency    {name}: p50 {values['p50']:.2f} ms, p99 {values['p99']:.2f} ms"


def as_text(results: Results) -> str:
    """Results for a terminal."""
    n = results.n_done
    lines = []
    if results.stopped:
        lines += [
            f"STOPPED {results.stopped}",
            f"the results of {n} of {results.n_requested} images:",
        ]
    if not n:
        return "\n".join([*lines, "no image was classified"])
    if results.n_correct is not None:
        low, high = report.wilson(results.n_correct, n)
        lines.append(
            f"accuracy   {results.n_correct / n:.2%} ({results.n_correct} of {n}; 95 % interval "
            f"{low:.2%} to {high:.2%})"
        )
    else:
        lines.append(f"classes    {' '.join(map(str, results.predictions))}")
    cycles = float(np.mean(results.n_cycles))
    lines += [
        f"speed      {n / results.wall_s:.1f} images/s; loading took {results.load_s:.1f} s",
        *(_latency_line(name, values) for name, values in _latencies(results) if values),
        f"core       {cycles:,.0f} cycles per image: {1e3 * cycles / results.clk_hz:.3f} ms at "
        f"{results.clk_hz / 1e6:g} MHz",
    ]
    if results.line_s and results.core_s:
        needs = {"link": results.line_s, "core": results.core_s}
        slower, faster = sorted(needs, key=lambda name: -needs[name])
        lines.append(
            f"bottleneck {slower}: {1e3 * needs[slower]:.3f} ms per image against "
            f"{1e3 * needs[faster]:.3f} ms of the {faster}, at {results.baud:,} baud and "
            f"{results.clk_hz / 1e6:g} MHz"
        )
    if results.n_repeated or results.n_recoveries:
        lines.append(
            f"link       {results.n_repeated} requests sent again, begun anew "
            f"{results.n_recoveries} times"
        )
    if results.layers:
        lines.append(
            f"energy     {report.PJ_PER_ACCUMULATION * results.n_synaptic_ops / 1e6:.3f} µJ per "
            f"image, not measured: by the convention of {report.PJ_PER_ACCUMULATION} pJ an addition"
        )
        width = max(len("layer"), *map(len, results.layers))
        lines.append(
            f"{'layer':<{width}}  {'cycles':>10}  {'weight reads':>12}  {'synaptic ops':>12}  "
            f"{'spikes':>9}   (means per image)"
        )
        total = LayerTotal(
            **{
                f.name: sum(getattr(t, f.name) for t in results.layers.values())
                for f in fields(LayerTotal)
            }
        )
        for name, row in (*results.layers.items(), ("total", total)):
            lines.append(
                f"{name:<{width}}  {row.n_cycles:>10,.0f}  {row.n_weight_reads:>12,.0f}  "
                f"{row.n_synaptic_ops:>12,.0f}  {row.n_spikes:>9,.0f}"
            )
    if results.check:
        what = "predictions, logits, synaptic operations and spike counts"
        what += " and every spike" if results.check == "spikes" else ""
        if results.mismatches:
            lines.append(
                f"MISMATCH: {len(results.mismatches)} differences from the PyTorch reference in "
                f"{results.n_checked} images"
            )
            lines += [f"  {m}" for m in results.mismatches[:N_MISMATCHES_SHOWN]]
        else:
            lines.append(
                f"check      {results.n_checked} images: {what} equal the PyTorch reference"
            )
    return "\n".join(lines)


# ---- command -------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sw.run",
        description="Classify images on a device.",
        epilog=f"""examples:
  python -m sw.run --board sim                    shipped network and images, virtual board
  python -m sw.run --board sim --check            and compare every spike with PyTorch
  python -m sw.run net.spikefold --board          the board that is plugged in
  python -m sw.run net.spikefold --board /dev/ttyUSB0 --data fashion-mnist -n 1000 --json
  python -m sw.run net.spikefold --board --input shirt.png shoe.jpg
  python -m sw.run events.spikefold --board --input recording.bin --sensor 34 34
  ffmpeg -i camera.mp4 -vf scale=28:28 -pix_fmt gray -f rawvideo - | python -m sw.run --live

exit codes: {EXIT_OK} done, {EXIT_MISMATCH} differs from the reference, {EXIT_BAD_INPUT} bad input,
{EXIT_DEVICE} no device or lost, {EXIT_INTERRUPTED} interrupted""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "network", nargs="?", type=Path, default=NETWORK, help="network file (the shipped one)"
    )
    parser.add_argument(
        "--board",
        nargs="?",
        const=FIND,
        default=VIRTUAL,
        metavar="PORT",
        help="serial port; sim, or sim:BOARD for another board's configuration "
        f"({', '.join(BOARDS)}); without a value the board is looked for (default: sim)",
    )
    parser.add_argument("--baud", type=int, help="fastest rate to use (the board's own)")
    add_inputs(parser).add_argument(
        "--live",
        action="store_true",
        help="classify raw samples (uint8, one after another) as they come in on standard input, "
        "a line for each; with --json a JSON object for each",
    )
    parser.add_argument("-n", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--check",
        nargs="?",
        const="spikes",
        choices=CHECKS,
        help="compare with the PyTorch integer reference: predictions, logits and every spike, or "
        "with 'counts' the layers' spike counts in place of the spikes (default: spikes)",
    )
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="draw the first N images with the answers"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def add_inputs(parser: argparse.ArgumentParser) -> Any:
    """Options that say what is classified; gives the group of those that exclude each other."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="NAME",
        help=f"test samples of a data set: {', '.join(NAMES)}, or a path of own data (the shipped "
        "Fashion-MNIST images)",
    )
    source.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=".npy or .npz files of samples, images (PNG, JPEG, ...), event recordings (.bin, "
        ".aedat, or .npy and .npz with t, x, y, p)",
    )
    parser.add_argument("--data-dir", type=Path, help="folder of the data set")
    parser.add_argument(
        "--sensor",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the recordings' sensor (the network's)",
    )
    return source


def port_of(board: str, program: Program | None) -> str | None:
    """What :meth:`sw.device.Board.open` takes for ``--board``. The virtual board is one that the
    network was compiled for, if it has a name."""
    if board == FIND:
        return None
    name, question, options = board.partition("?")
    if name == VIRTUAL and program is not None:
        kind = report.board_name(program.config)
        with contextlib.suppress(SpecError):
            wanted, usual = spec_hash(config_by_name(kind)), spec_hash(CONFIGS[VIRTUAL])
            if wanted == spec_hash(program.config) and wanted != usual:
                return f"{VIRTUAL}:{kind}{question}{options}"
    return board


def find_inputs(
    arguments: argparse.Namespace, network: Network
) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    """Samples as :func:`add_inputs` has them, and their labels.

    Raises
    ------
    DataError, InputError
        What was named cannot be read, or the network does not take it; a folder is of no data set.
    """
    check_data_dir(arguments)
    if arguments.input:
        sensor = None if arguments.sensor is None else tuple(arguments.sensor)
        return inputs.read(arguments.input, network, sensor)
    if arguments.sensor is not None:
        raise InputError("--sensor is the size of the recordings of --input: name them")
    if arguments.data:
        found = data.load(arguments.data_dir, name=arguments.data, timesteps=network.timesteps)
        split, what = found.test, f"the samples of {found.name}"
    else:
        split, what = data.load_samples(), "Fashion-MNIST's"
    try:
        encoder.check_input(network, split.images)
        inputs.check_labels(split.labels, network.n_classes, "the data set")
    except InputError as error:
        raise InputError(f"{error}. That is {what}; give others with --data or --input") from error
    return split.images, split.labels


def check_data_dir(arguments: argparse.Namespace) -> None:
    """Raise :class:`InputError` if there is a folder of a data set that is not named."""
    if arguments.data_dir and not arguments.data:
        raise InputError(f"--data-dir {arguments.data_dir}: name the data set in it with --data")


def load(board: Board | Boards, program: Program) -> Loaded:
    """Loads a program, with a progress bar."""
    n_bytes = load_bytes(program) * len(board.boards)
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="loading", disable=None) as bar:
        return board.load(program, bar.update)


@command(netfile.NetworkFileError, DataError, InputError, FitError)
def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.n is not None and arguments.n < 1:
        parser.error("-n takes a number of at least 1")

    def say(text: str) -> None:
        print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    if arguments.live and (arguments.check or arguments.show):
        parser.error("--check and --show need files: they do not go with --live")
    if arguments.check and find_spec("torch") is None:
        parser.error("--check compares with PyTorch, which is not installed here ('make host')")
    if arguments.live and arguments.data_dir:
        parser.error("--data-dir is the folder of a data set: it does not go with --live")
    check_output(arguments.out)
    images, labels = np.zeros(0, np.uint8), None
    file = netfile.load(arguments.network, Program)
    network = file.network
    if not arguments.live:
        images, labels = find_inputs(arguments, network)
        images = images[: arguments.n]
        labels = None if labels is None else labels[: arguments.n]
    port = port_of(arguments.board, file.program)
    if port is not None and port.startswith(VIRTUAL):
        say(f"starting the virtual board {port} (compiled once, which takes a minute or two)")
    with Board.open(port, arguments.baud) as board:
        program, note = program_for(network, file.program, board.config)
        if note:
            say(f"{note}; {file.stale}" if file.stale else note)
        loaded = load(board, program)
        if loaded.n_written < loaded.n_bytes // 2:
            say("the network was in the board already")
        results = Results(
            network=str(arguments.network),
            sha256=file.sha256,
            board=f"{report.board_name(board.config)} ({board.port})",
            clk_hz=board.config.clk_hz,
            n_requested=len(images),
            labels=None if labels is None else [int(y) for y in labels],
            check=arguments.check,
            load_s=loaded.seconds,
            baud=board.boards[0].device.transport.baud,
        )
        shape = "x".join(map(str, inputs.sample_shape(network)))
        say(
            f"{arguments.network.name} on {results.board}: "
            + (f"samples of {shape} bytes" if arguments.live else f"{len(images)} images")
            + f", {network.timesteps} timesteps, {len(network.layers)} layers"
        )
        if arguments.live:

            def show(inference: Inference) -> None:
                print(_live_line(inference, results, network, arguments.json), flush=True)

            classify_live(board, network, sys.stdin.buffer, results, show, arguments.n)
        else:
            classify(board, network, images, results, checked=arguments.check)
    return _finish(arguments, results, network, images, labels)


def _live_line(inference: Inference, results: Results, network: Network, as_json: bool) -> str:
    """An outcome while others are still to come."""
    number, latency_ms = results.n_done - 1, 1e3 * inference.latency_s
    name = network.labels[inference.prediction] if network.labels else str(inference.prediction)
    if as_json:
        values = {
            "sample": number,
            "prediction": inference.prediction,
            "label": name,
            "logits": inference.logits.tolist(),
            "n_cycles": inference.n_cycles,
            "latency_ms": latency_ms,
        }
        return json.dumps(values)
    return f"{number}: {name} (class {inference.prediction}), {latency_ms:.1f} ms"


def _finish(
    arguments: argparse.Namespace,
    results: Results,
    network: Network,
    images: NDArray[np.uint8],
    labels: NDArray[Any] | None,
) -> int:
    """Print and write what there is; returns the exit code."""
    document = json.dumps(results.to_dict(), indent=1)
    if arguments.json:
        print(json.dumps(results.to_dict()) if arguments.live else document)
    else:
        n_shown = min(arguments.show, results.n_done)
        if n_shown:
            print(thumbnails(images[:n_shown], labels, results.predictions, network.labels), "\n")
        print(as_text(results))
    if arguments.out:  # last: what cannot be written has been seen at least
        write_output(arguments.out, document.encode())
    if results.stopped:
        return EXIT_INTERRUPTED if results.stopped == INTERRUPTED else EXIT_DEVICE
    return EXIT_MISMATCH if results.mismatches else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
