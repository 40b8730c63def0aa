"""Classify images on a board. With --check, every spike is compared with the integer reference.

The reference is the same network in PyTorch, in the device's exact integers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.boards.configs import board_name
from sw.cli import options
from sw.cli.commands import (
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_NO,
    EXIT_OK,
    CommandParser,
    check_output,
    command,
    exit_codes,
)
from sw.compile import costs
from sw.compile.program import FitError
from sw.data import inputs, metrics
from sw.data.dataset import DataError
from sw.driver.group import open_boards
from sw.driver.inference import Inference
from sw.driver.loading import exported_for_another
from sw.driver.results import INTERRUPTED, LayerMeans, Results, percentiles_ms
from sw.driver.session import CHECKS, classify, classify_live
from sw.files import write_output
from sw.network import netfile
from sw.network.encoder import InputError
from sw.network.network import Network

N_MISMATCHES_SHOWN = 10
"""Largest number of differences from the reference that are listed."""
THUMBNAILS_PER_ROW = 4
"""Number of small pictures of samples beside each other."""
SHADES = " .:-=+*#%@"
"""Characters of thumbnails, from dark to bright."""


def thumbnails(
    images: NDArray[np.uint8],
    labels: NDArray[Any] | None,
    predictions: list[int],
    names: tuple[str, ...],
) -> str:
    """Return small pictures of samples, drawn with text characters, side by side.

    Below each picture are the label, if known, and the device's prediction.

    Parameters
    ----------
    images : images (N, C, H, W) or binary frames (N, T, C, H, W).
    labels, predictions : numbers of the true and of the predicted classes.
    names : names of the classes.
    """
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


def as_text(results: Results) -> str:
    """Return the results of a run as text for a terminal."""
    lines = []
    if results.stopped:
        lines += [
            f"STOPPED {results.stopped}",
            f"the results of {results.n_done} of {results.n_requested} images:",
        ]
    if not results.n_done:
        return "\n".join([*lines, "no image was classified"])
    lines += [_accuracy(results), *_speed(results), *_link(results)]
    if results.layers:
        lines += _layers(results)
    if results.check:
        lines += _check(results)
    return "\n".join(lines)


def _accuracy(results: Results) -> str:
    if results.n_correct is None:
        return f"classes    {' '.join(map(str, results.predictions))}"
    n = results.n_done
    low, high = metrics.wilson(results.n_correct, n)
    return (
        f"accuracy   {results.n_correct / n:.2%} ({results.n_correct} of {n}; 95 % interval "
        f"{low:.2%} to {high:.2%})"
    )


def _speed(results: Results) -> Iterator[str]:
    yield (
        f"speed      {results.n_done / results.wall_s:.1f} images/s; loading took "
        f"{results.load_s:.1f} s"
    )
    for name, seconds in (
        ("link", results.link_s),
        ("compute", results.compute_s),
        ("in all", results.latency_s),
    ):
        values = percentiles_ms(seconds)
        if values is not None:
            yield f"latency    {name}: p50 {values['p50']:.2f} ms, p99 {values['p99']:.2f} ms"
    cycles = float(np.mean(results.n_cycles))
    yield (
        f"core       {cycles:,.0f} cycles per image: {1e3 * cycles / results.clk_hz:.3f} ms at "
        f"{results.clk_hz / 1e6:g} MHz"
    )
    if results.line_s and results.core_s:
        needs = {"link": results.line_s, "core": results.core_s}
        slower, faster = sorted(needs, key=lambda name: -needs[name])
        yield (
            f"bottleneck {slower}: {1e3 * needs[slower]:.3f} ms per image, the {faster} takes "
            f"{1e3 * needs[faster]:.3f} ms"
        )
    if results.system_images_per_s:
        boards = f" on {results.n_boards} boards" if results.n_boards > 1 else ""
        yield (
            f"whole system  {results.system_images_per_s:,.0f} images/s{boards} at "
            f"{results.baud:,} baud and {results.clk_hz / 1e6:g} MHz"
        )


def _link(results: Results) -> Iterator[str]:
    if results.n_repeated or results.n_recoveries:
        yield (
            f"link       {results.n_repeated} requests sent again, {results.n_recoveries} restarts"
        )


def _layers(results: Results) -> Iterator[str]:
    yield (
        f"energy     {costs.PJ_PER_ACCUMULATION * results.n_synaptic_ops / 1e6:.3f} µJ per image, "
        f"not measured: by the convention of {costs.PJ_PER_ACCUMULATION} pJ an addition"
    )
    width = max(len("layer"), *map(len, results.layers))
    yield (
        f"{'layer':<{width}}  {'cycles':>10}  {'weight reads':>12}  {'synaptic ops':>12}  "
        f"{'spikes':>9}   (means per image)" + ("   SDRAM bus" if results.bus_use else "")
    )
    total = LayerMeans(
        **{
            field.name: sum(getattr(means, field.name) for means in results.layers.values())
            for field in fields(LayerMeans)
        }
    )
    for name, row in (*results.layers.items(), ("total", total)):
        yield (
            f"{name:<{width}}  {row.n_cycles:>10,.0f}  {row.n_weight_reads:>12,.0f}  "
            f"{row.n_synaptic_ops:>12,.0f}  {row.n_spikes:>9,.0f}"
            + (f"{results.bus_use[name]:>32.1%}" if name in results.bus_use else "")
        )


def _check(results: Results) -> Iterator[str]:
    if results.mismatches:
        yield (
            f"MISMATCH: {len(results.mismatches)} differences from the PyTorch reference in "
            f"{results.n_checked} images"
        )
        yield from (f"  {mismatch}" for mismatch in results.mismatches[:N_MISMATCHES_SHOWN])
        return
    what = "predictions, logits, synaptic operations and spike counts"
    if not results.layers:  # run without the counters of layers
        what = "predictions, logits"
    what += " and every spike" if results.check == "spikes" else ""
    yield f"check      {results.n_checked} images: {what} equal the PyTorch reference"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sw.run",
        description=__doc__,
        epilog=f"""examples:
  python -m sw.run --board sim                    shipped network and images, virtual board
  python -m sw.run --board sim --check            and compare every spike with PyTorch
  python -m sw.run net.spikefold --board          the board that is plugged in
  python -m sw.run net.spikefold --board /dev/ttyUSB0 --data fashion-mnist -n 1000 --json
  python -m sw.run net.spikefold --board --input shirt.png shoe.jpg
  python -m sw.run events.spikefold --board --input recording.bin --sensor 34 34
  ffmpeg -i camera.mp4 -vf scale=28:28 -pix_fmt gray -f rawvideo - | python -m sw.run --live

{exit_codes("differs from the reference", device=True)}""",
    )
    options.add_network(parser)
    options.add_board(parser)
    options.add_inputs(parser).add_argument(
        "--live",
        action="store_true",
        help="classify raw samples (uint8, one after another) as they arrive on standard input, "
        "and print a line for each, or with --json a JSON object",
    )
    parser.add_argument("-n", type=int, metavar="N", help="classify only the first N images")
    parser.add_argument(
        "--check",
        nargs="?",
        const="spikes",
        choices=CHECKS,
        help="compare predictions, logits and every spike with the PyTorch integer reference; with "
        "'counts', the number of spikes of each layer in place of the spikes (default: spikes)",
    )
    parser.add_argument(
        "--no-counters",
        dest="counters",
        action="store_false",
        help="do without the counters of every layer (cycles, operations, spikes): the results are "
        "shorter, so that a serial line carries more images per second",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="draw the first N images and predictions",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line; end the program if options exclude each other."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.n is not None and arguments.n < 1:
        parser.error("-n takes a number of at least 1")
    if arguments.live and (arguments.check or arguments.show):
        parser.error("--check and --show need files: they cannot be used with --live")
    if arguments.check and find_spec("torch") is None:
        parser.error("--check compares with PyTorch, which is not installed ('make host' has none)")
    if arguments.check == "counts" and not arguments.counters:
        parser.error("--check counts compares the counters: it cannot be used with --no-counters")
    if arguments.live and arguments.data_dir:
        parser.error("--data-dir is the folder of a data set: it cannot be used with --live")
    return arguments


@command(netfile.NetworkFileError, DataError, InputError, FitError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.run`` with the arguments ``argv`` and return its exit code."""
    arguments = _arguments(argv)

    def say(text: str) -> None:
        print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    check_output(arguments.out)
    images, labels = np.zeros(0, np.uint8), None
    file = netfile.load(arguments.network)
    network = file.network
    if not arguments.live:
        images, labels = options.find_inputs(arguments, network)
        images = images[: arguments.n]
        labels = None if labels is None else labels[: arguments.n]
    port = options.port_of(arguments.board, file.config)
    if port is not None and port.startswith(options.VIRTUAL):
        say(f"starting the virtual board {port}")
    with open_boards(port, arguments.baud) as board:
        note = exported_for_another(file, board.config)
        if note:
            say(note)
        loaded = options.load(board, file)
        if loaded.n_written < loaded.n_bytes // 2:
            say("the board already held the network")
        results = Results(
            network=str(arguments.network),
            sha256=file.sha256,
            board=f"{board_name(board.config)} ({board.port})",
            clk_hz=board.config.clk_hz,
            n_requested=len(images),
            labels=None if labels is None else [int(y) for y in labels],
            check=arguments.check,
            load_s=loaded.seconds,
            baud=board.devices[0].transport.baud,
            n_boards=len(board.devices),
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

            classify_live(
                board,
                network,
                sys.stdin.buffer,
                results,
                show,
                arguments.n,
                counters=arguments.counters,
            )
        else:
            classify(
                board,
                network,
                images,
                results,
                checked=arguments.check,
                counters=arguments.counters,
            )
    return _finish(arguments, results, network, images, labels)


def _live_line(inference: Inference, results: Results, network: Network, as_json: bool) -> str:
    """Return the line that ``--live`` prints for one sample's outcome: text, or a JSON object."""
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
    """Print the results of the run, write them to ``--out``, and return the exit code."""
    document = json.dumps(results.to_dict(), indent=1)
    if arguments.json:
        print(json.dumps(results.to_dict()) if arguments.live else document)
    else:
        n_shown = min(arguments.show, results.n_done)
        if n_shown:
            print(thumbnails(images[:n_shown], labels, results.predictions, network.labels), "\n")
        print(as_text(results))
    if arguments.out:  # last, so that results that cannot be written have at least been printed
        write_output(arguments.out, document.encode())
    if results.stopped:
        return EXIT_INTERRUPTED if results.stopped == INTERRUPTED else EXIT_DEVICE
    return EXIT_NO if results.mismatches else EXIT_OK
