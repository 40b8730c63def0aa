"""``python -m sw.report net.spikefold``: everything about one network on one HTML page."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hw.boards.configs import BOARDS, board_name, config_by_name
from hw.spec import Config, SpecError
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_INTERRUPTED, EXIT_OK, command
from sw.cli.options import FIND, VIRTUAL, check_data_dir, load, port_of
from sw.compile import costs, fitting
from sw.compile.compiler import compile_network
from sw.compile.program import FitError, Program
from sw.data import catalogue
from sw.data.dataset import DataError
from sw.data.inputs import check_labels, read_images
from sw.driver.any_board import AnyBoard
from sw.driver.group import open_boards
from sw.driver.loading import program_for
from sw.files import write_output
from sw.network import netfile
from sw.network.encoder import InputError, check_input
from sw.network.network import Network
from sw.reporting import page, tables
from sw.reporting.observe import N_TRACED, Images, Neuron, NeuronError, Observation, observe
from sw.reporting.page import Page, Step
from sw.reporting.screenshot import ReportError, screenshot
from sw.shipped import NETWORK

DEFAULT_BOARD = "ulx3s-85f"


def find_images(arguments: argparse.Namespace, network: Network) -> Images | None:
    """Images as asked for; with nothing asked, the shipped sample if the network takes it.

    Raises
    ------
    DataError, InputError
        What was named cannot be read, or the network does not take it.
    """
    check_data_dir(arguments)
    if arguments.input:
        images, labels = read_images(arguments.input, network)
        what = f"images of {arguments.input.name}"
    else:
        if arguments.data:
            found = catalogue.load(
                arguments.data_dir, name=arguments.data, timesteps=network.timesteps
            )
            split, what = found.test, f"test samples of {found.name}"
        else:
            split, what = catalogue.load_samples(), "shipped Fashion-MNIST test images"
        images, labels = split.images, split.labels
    try:
        check_input(network, images)
        if labels is not None:
            check_labels(labels, network.n_classes, what)
    except InputError:
        if arguments.input or arguments.data:
            raise
        return None
    if not len(images):
        raise InputError(f"there are no {what}: give at least one image")
    images = images[: arguments.n]
    return Images(
        images=images,
        labels=None if labels is None else labels[: arguments.n].astype(np.int64),
        what=f"{len(images):,} {what}",
        chosen=_chosen(arguments.neuron),
    )


def _chosen(texts: list[str]) -> dict[str, list[Neuron]]:
    chosen: dict[str, list[Neuron]] = {}
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


def accuracy_steps(
    network: Network, evaluation: dict[str, Any] | None, observation: Observation | None
) -> list[Step]:
    """Accuracies that are known, from training to the device: what ``sw.evaluate --json`` printed,
    else what the file says; and what was measured here."""
    steps = []
    if evaluation is not None:
        balanced = _balanced(evaluation)
        on = f"{evaluation['n_images']:,} test images{balanced}"
        n = None if balanced else evaluation["n_images"]
        named = [
            ("training network, with auxiliary pathway", evaluation["training_with_aap"]),
            ("full-spike, float", evaluation["full_spike"]),
            ("folded, float", evaluation["folded"]),
        ]
        widths = sorted(evaluation["quantised"].items(), key=lambda item: -int(item[0]))
        named += [(f"integers, {bits}-bit weights", percent) for bits, percent in widths]
        steps += [
            Step(name=name, percent=percent, on=on, n_images=n)
            for name, percent in named
            if percent is not None
        ]
    else:
        with contextlib.suppress(KeyError, TypeError):
            test = network.provenance["results"]["test"]
            on = f"whole test set, when trained{_balanced(network.provenance.get('data'))}"
            for key, name in (
                ("both", "training network, with auxiliary pathway"),
                ("spike", "full-spike, float"),
            ):
                steps.append(Step(name=name, percent=float(test[key]), on=on))
        with contextlib.suppress(KeyError, TypeError):
            exported = network.provenance["export"]
            for key, name in (("folded", "folded, float"), ("quantised", "integers")):
                steps.append(
                    Step(
                        name=name,
                        percent=100 * float(exported["accuracy"][key]),
                        on=f"{exported['measured_on']}, when exported",
                        n_images=_leading_number(exported["measured_on"]),
                    )
                )
    if observation is not None and observation.labels is not None:
        labels = observation.labels
        steps.append(
            Step(
                name=f"integers, {network.weight_bits}-bit weights",
                percent=100 * float((observation.predictions == labels).mean()),
                on=observation.what,
                n_images=len(labels),
            )
        )
        if observation.counted is not None:
            counted = observation.counted
            right = np.array(counted.predictions) == labels[: counted.n_images]
            steps.append(
                Step(
                    name=f"on the device ({counted.board})",
                    percent=100 * float(right.mean()),
                    on=f"the first {counted.n_images} of them",
                    n_images=counted.n_images,
                )
            )
    return steps


def _balanced(record: Any) -> str:
    """What to say of accuracies whose record has it that they are means over classes: no share of
    so many images, so there is no interval, either."""
    balanced = isinstance(record, dict) and record.get("metric") == "balanced"
    return ", balanced" if balanced else ""


def _leading_number(text: str) -> int | None:
    first = text.split()[0]
    return int(first) if first.isdigit() else None


def read_evaluation(path: Path) -> dict[str, Any]:
    """What ``python -m sw.evaluate --json`` printed.

    Raises
    ------
    ReportError
        The file is something else.
    """
    hint = "python -m sw.evaluate --json > FILE makes one"
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}; {hint}") from error
    except ValueError as error:
        raise ReportError(f"{path} is no JSON file: {error}; {hint}") from error
    needed = {"n_images", "training_with_aap", "full_spike", "folded", "quantised"}
    if not isinstance(values, dict) or not needed <= set(values):
        raise ReportError(f"{path} is no evaluation; {hint}")
    return values


def as_dict(shown: Page, config: Config) -> dict[str, Any]:
    """What the page shows, as JSON values, without the pictures."""
    seen = shown.observation
    layers = seen.layers if seen else costs.layer_reports(shown.network, shown.program)
    values: dict[str, Any] = {
        "network": shown.name,
        "sha256": shown.sha256,
        "board": board_name(config),
        "fits": shown.program is not None,
        "weight_bits": shown.network.weight_bits,
        "timesteps": shown.network.timesteps,
        "layers": [asdict(layer) for layer in layers],
        "boards": [asdict(board) for board in shown.boards],
        "accuracy": [asdict(step) for step in shown.steps],
        "measured_on": None,
        "rates": {},
        "confusion": None,
        "counted": None,
    }
    if seen is not None:
        matrix = seen.confusion(shown.network.n_classes)
        values |= {
            "measured_on": seen.what,
            "n_traced": seen.n_traced,
            "rates": {name: rates.tolist() for name, rates in seen.rates.items()},
            "confusion": None if matrix is None else matrix.tolist(),
            "counted": None if seen.counted is None else asdict(seen.counted),
        }
    return values


def as_text(shown: Page, config: Config) -> str:
    """What the page shows, for a terminal."""
    seen = shown.observation
    layers = seen.layers if seen else costs.layer_reports(shown.network, shown.program)
    lines = [tables.as_text(layers, shown.network.weight_bits, config), ""]
    for step in shown.steps:
        lines.append(f"{step.percent:6.2f} %  {step.name} ({step.on})")
    if seen is None:
        lines.append("no spikes, cycles or accuracy: there were no images; give some with --input")
    elif seen.counted is not None:
        n_cycles = sum(seen.counted.n_cycles.values())
        lines.append(
            f"{n_cycles:,.0f} cycles counted on {seen.counted.board}, "
            f"{seen.counted.n_differences} of {seen.counted.n_images} images differ from the "
            "reference"
        )
    return "\n".join([*lines, "", *map(tables.board_text, shown.boards)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "network", nargs="?", type=Path, default=NETWORK, help="network file (the shipped one)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="(NETWORK's name with .html, in this folder)"
    )
    parser.add_argument(
        "--for",
        dest="target",
        metavar="BOARD",
        help=f"show it on this board: {', '.join(BOARDS)} (the one that it was exported for)",
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
        "--screenshot", type=Path, metavar="PNG", help="a picture of the page, by Chromium"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--json", action="store_true", help="print it as JSON; -o for the page, too"
    )
    output.add_argument(
        "--text", action="store_true", help="print it as text; -o for the page, too"
    )
    return parser


def _program(file: netfile.NetworkFile, target: str | None) -> tuple[Program | None, Config]:
    """Return the program for the board in the report, None if it does not fit, and the device."""
    network = file.network
    if target is None and file.program is not None:
        return file.program, file.program.config
    config = config_by_name(target or DEFAULT_BOARD)
    if target is None or "/" not in target:
        config = config.with_weight_bits(network.weight_bits)
    try:
        return compile_network(network, config), config
    except FitError:
        return None, config


@contextlib.contextmanager
def _board(
    arguments: argparse.Namespace, network: Network, program: Program | None
) -> Iterator[AnyBoard | None]:
    """A board with the network in it, if one was asked for."""
    if arguments.board is None:
        yield None
        return
    port = port_of(arguments.board, program)
    if port is not None and port.startswith(VIRTUAL):
        print(
            f"starting the virtual board {port} (compiled once, which takes a minute or two)",
            file=sys.stderr,
        )
    with open_boards(port) as board:
        fitting = program_for(network, program, board.config)[0]
        load(board, fitting)
        yield board


@command(
    DataError,
    FitError,
    InputError,
    NeuronError,
    ReportError,
    SpecError,
    netfile.NetworkFileError,
    interrupted="interrupted, nothing was written",
)
def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.n is not None and arguments.n < 1:
        parser.error("-n takes a number of at least 1")
    quiet = arguments.json or arguments.text
    if arguments.screenshot and quiet and not arguments.out:
        parser.error("--screenshot needs the page: give -o, or leave --json and --text out")
    file = netfile.load(arguments.network, Program)
    path = arguments.out or (None if quiet else Path(arguments.network.with_suffix(".html").name))
    network = file.network
    program, config = _program(file, arguments.target)
    evaluation = read_evaluation(arguments.evaluation) if arguments.evaluation else None
    images = find_images(arguments, network)
    observation = None
    if images is not None:
        with _board(arguments, network, program) as board:
            observation = observe(network, program, images, board)
    target = fitting.board_report(network, config)
    shown = Page(
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
        html = page.render(shown).encode()
        write_output(path, html)
        print(f"wrote {path}: {len(html):,} bytes", file=sys.stderr if quiet else sys.stdout)
        if arguments.screenshot:
            screenshot(path, arguments.screenshot)
    if arguments.json:
        print(json.dumps(as_dict(shown, config), indent=1))
    elif arguments.text:
        print(as_text(shown, config))
    return EXIT_OK
