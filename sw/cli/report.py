"""``python -m sw.report net.spikefold``: write one HTML page with everything about a network."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hw.boards.configs import CONFIGS_HELP, config_by_name
from hw.spec import Config, SpecError
from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CommandParser,
    check_output,
    command,
    output_path,
)
from sw.cli.options import (
    FIND,
    VIRTUAL,
    as_classified,
    check_data_dir,
    load,
    port_of,
    shipped_samples,
)
from sw.compile import fitting
from sw.compile.compiler import compile_network
from sw.compile.program import FitError, Program
from sw.data import catalogue
from sw.data.dataset import DataError
from sw.data.inputs import read_images
from sw.driver.any_board import AnyBoard
from sw.driver.group import open_boards
from sw.files import write_output
from sw.network import netfile
from sw.network.encoder import InputError
from sw.network.network import Network
from sw.reporting import page
from sw.reporting.evaluation import EvaluationError, accuracy_steps, read_evaluation
from sw.reporting.observe import N_TRACED, ImageSet, NeuronError, NeuronIndex, observe
from sw.reporting.report import Report, as_dict, as_text
from sw.reporting.screenshot import ScreenshotError, screenshot
from sw.shipped import NETWORK

DEFAULT_BOARD = "ulx3s-85f"
"""Board of the report if neither the options nor the network file name one."""


def find_images(arguments: argparse.Namespace, network: Network) -> ImageSet | None:
    """Return the images to observe the network on, as the options say.

    The options ``--input`` and ``--data`` name them. Without these options, a network for
    Fashion-MNIST gets the shipped images of this data set; for other networks the result is None,
    and a message says so.

    Raises
    ------
    DataError, InputError
        The images of ``--input`` or ``--data`` cannot be read, or do not fit the network.
    """
    check_data_dir(arguments)
    if arguments.input:
        images, labels = read_images(arguments.input, network)
        what = f"images of {arguments.input.name}"
    elif arguments.data:
        found = catalogue.load(arguments.data_dir, name=arguments.data, timesteps=network.timesteps)
        split, what = as_classified(found, network), f"test samples of {found.name}"
        images, labels = split.images, split.labels
    else:
        try:
            split, what = shipped_samples(network), "shipped Fashion-MNIST test images"
        except InputError as error:
            print(f"note: without spikes and accuracy, because {error}", file=sys.stderr)
            return None
        images, labels = split.images, split.labels
    if not len(images):
        raise InputError(f"there are no {what}: give at least one image")
    images = images[: arguments.n]
    return ImageSet(
        images=images,
        labels=None if labels is None else labels[: arguments.n].astype(np.int64),
        description=f"{len(images):,} {what}",
    )


def _neurons(texts: list[str]) -> dict[str, list[NeuronIndex]]:
    chosen: dict[str, list[NeuronIndex]] = {}
    for text in texts:
        name, _, place = text.rpartition(":")
        try:
            channel, row, column = map(int, place.split(","))
        except ValueError:
            raise NeuronError(
                f"--neuron {text}: write it as layer:channel,row,column, for example "
                "layer1.0.conv1:3,7,7"
            ) from None
        chosen.setdefault(name, []).append((channel, row, column))
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sw.report",
        description="Everything about a network on one HTML page: its layers, memories, spikes, "
        "membranes, weights, cycles and accuracy.",
        epilog=f"""examples:
  python -m sw.report net.spikefold                     -> net.html
  python -m sw.report --board sim                       the shipped network, cycles counted, too
  python -m sw.report net.spikefold --input images.npz --neuron layer1.0.conv1:3,7,7
  python -m sw.evaluate --json > eval.json
  python -m sw.report --evaluation eval.json --screenshot report.png

exit codes: {EXIT_OK} written, {EXIT_BAD_INPUT} bad input, {EXIT_DEVICE} no device or lost,
{EXIT_INTERRUPTED} interrupted""",
    )
    parser.add_argument(
        "network", nargs="?", type=Path, default=NETWORK, help="network file (the shipped one)"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="page to write (default: NETWORK's name with .html, here)",
    )
    parser.add_argument(
        "--for",
        dest="target",
        metavar="BOARD",
        help=f"show costs on this board: {CONFIGS_HELP} (the one that it was exported for)",
    )
    parser.add_argument(
        "--board",
        nargs="?",
        const=FIND,
        metavar="PORT",
        help=f"count cycles on a board, too: a serial port, sim or sim:BOARD; without a value the "
        f"board is looked for. It runs the first {N_TRACED} images",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data", metavar="NAME", help="this data set's test samples: a name, or a path of own data"
    )
    source.add_argument("--input", type=Path, metavar="FILE", help="an .npy or .npz file's images")
    parser.add_argument("--data-dir", type=Path, help="folder of the data set")
    parser.add_argument("-n", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="accuracies from sw.evaluate --json"
    )
    parser.add_argument(
        "--neuron",
        action="append",
        default=[],
        metavar="LAYER:C,Y,X",
        help="show this neuron's membrane (repeat for more; else some that sometimes fire)",
    )
    parser.add_argument(
        "--screenshot",
        type=Path,
        metavar="PNG",
        help="write a picture of the page, which Chromium makes",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--json", action="store_true", help="print the report as JSON; with -o, write the page, too"
    )
    output.add_argument(
        "--text", action="store_true", help="print the report as text; with -o, write the page, too"
    )
    return parser


def _program(file: netfile.NetworkFile, target: str | None) -> tuple[Program | None, Config]:
    """Return the compiled network for the report, and the configuration of the report's board.

    The board is ``target`` or, by default, the board that the file was exported for, or else
    :data:`DEFAULT_BOARD`. The program is None if the network does not fit.
    """
    network = file.network
    if target is None and file.config is not None:
        config = file.config
    else:
        config = config_by_name(target or DEFAULT_BOARD)
        if target is None or "/" not in target:
            config = config.with_weight_bits(network.weight_bits)
    try:
        return compile_network(network, config), config
    except FitError:
        return None, config


@contextlib.contextmanager
def _board(
    arguments: argparse.Namespace, network: Network, config: Config | None
) -> Iterator[AnyBoard | None]:
    """Open the board of ``--board``, load the network into it, and yield the board.

    Yield None without this option. If the option asks for a virtual board without naming its
    configuration, ``config`` is simulated or, if that is None, the default configuration.
    """
    if arguments.board is None:
        yield None
        return
    port = port_of(arguments.board, config)
    if port is not None and port.startswith(VIRTUAL):
        print(f"starting the virtual board {port}", file=sys.stderr)
    with open_boards(port) as board:
        load(board, network)
        yield board


@command(
    DataError,
    EvaluationError,
    FitError,
    InputError,
    NeuronError,
    ScreenshotError,
    SpecError,
    netfile.NetworkFileError,
    interrupted="interrupted, nothing was written",
)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.report`` with the arguments ``argv`` and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.n is not None and arguments.n < 1:
        parser.error("-n takes a number of at least 1")
    quiet = arguments.json or arguments.text
    if arguments.screenshot and quiet and not arguments.out:
        parser.error("--screenshot needs the page: give -o, or leave --json and --text out")
    path = None
    if arguments.out or not quiet:
        path = output_path(arguments.out, arguments.network, ".html", here=True)
    check_output(arguments.screenshot)
    file = netfile.load(arguments.network)
    network = file.network
    program, config = _program(file, arguments.target)
    evaluation = read_evaluation(arguments.evaluation) if arguments.evaluation else None
    neurons = _neurons(arguments.neuron)
    images = find_images(arguments, network)
    observation = None
    if images is not None:
        with _board(arguments, network, config if program else None) as board:
            observation = observe(network, program, images, board, neurons)
    target = fitting.board_report(network, config)
    report = Report(
        name=arguments.network.name,
        sha256=file.sha256,
        network=network,
        program=program,
        boards=[target, *(b for b in fitting.all_boards(network) if b.board != target.board)],
        steps=accuracy_steps(network, evaluation, observation),
        observation=observation,
        command=" ".join(["python -m sw.report", *(sys.argv[1:] if argv is None else argv)]),
    )
    if path is not None:
        html = page.render(report).encode()
        write_output(path, html)
        print(f"wrote {path}: {len(html):,} bytes", file=sys.stderr if quiet else sys.stdout)
        if arguments.screenshot:
            screenshot(path, arguments.screenshot)
    if arguments.json:
        print(json.dumps(as_dict(report, config), indent=1))
    elif arguments.text:
        print(as_text(report, config))
    return EXIT_OK
