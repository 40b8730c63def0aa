"""Classify images on a device, and check what it did against the PyTorch integer reference.

``python -m sw.run --board sim`` runs the shipped network on the virtual board.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.boards.configs import BOARDS, board_name
from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    check_output,
    command,
)
from sw.cli.options import FIND, VIRTUAL, add_inputs, find_inputs, load, port_of
from sw.compile import costs
from sw.compile.program import FitError, Program
from sw.data import inputs, metrics
from sw.data.dataset import DataError
from sw.driver.group import open_boards
from sw.driver.inference import Inference, program_for
from sw.driver.results import INTERRUPTED, LayerTotal, Results, percentiles_ms
from sw.driver.session import CHECKS, classify, classify_live
from sw.files import write_output
from sw.network import netfile
from sw.network.encoder import InputError
from sw.network.network import Network
from sw.shipped import NETWORK

N_MISMATCHES_SHOWN = 10
THUMBNAILS_PER_ROW = 4
SHADES = " .:-=+*#%@"

EXIT_MISMATCH = 1


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
        low, high = metrics.wilson(results.n_correct, n)
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
            f"energy     {costs.PJ_PER_ACCUMULATION * results.n_synaptic_ops / 1e6:.3f} µJ per "
            f"image, not measured: by the convention of {costs.PJ_PER_ACCUMULATION} pJ an addition"
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
    with open_boards(port, arguments.baud) as board:
        program, note = program_for(network, file.program, board.config)
        if note:
            say(f"{note}; {file.stale}" if file.stale else note)
        loaded = load(board, program)
        if loaded.n_written < loaded.n_bytes // 2:
            say("the network was in the board already")
        results = Results(
            network=str(arguments.network),
            sha256=file.sha256,
            board=f"{board_name(board.config)} ({board.port})",
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
