"""``python -m sw.export``: convert a checkpoint to a network file, and report its costs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# OpenMP reads this when torch is imported. By default its threads spin between the many short
# sums of an export, which takes more than half of the CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hw.boards.configs import CONFIGS_HELP, board_name, config_by_name
from hw.spec import N_LEAK_SHIFTS, N_PLANES, SpecError
from sw.cli import fine_tuning
from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_NO,
    EXIT_OK,
    CommandParser,
    command,
    output_path,
)
from sw.convert import fold, quantize
from sw.convert.quantize import QuantizeError
from sw.convert.unshare import UNSHARED
from sw.data import inputs
from sw.data.dataset import DataError
from sw.exchange import nearest, topology
from sw.exchange.assembly import Imported
from sw.exchange.export import Export, Images, export_network, find_images
from sw.exchange.graph import ExchangeError
from sw.exchange.readers import ReadOptions, find_reader, missing_topology, unused_option
from sw.model import checkpoint, datasets
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelConfig, ModelError
from sw.network import netfile
from sw.network.encoder import InputError
from sw.network.network import NetworkError
from sw.reporting import tables
from sw.training.resume import TrainError

BOARD = "ulx3s-85f"
"""Default board to compile for."""
N_MEASURED = 500
"""Default number of images to measure the accuracy on."""


def _data_values(imported: Imported) -> dict[str, Any]:
    """Return values that take the place of a checkpoint for an imported network, which has none.

    They are the entries that :func:`sw.exchange.export.find_images` reads: the number of timesteps,
    the kind and shape of the network's input, and the number of classes.
    """
    folded = imported.folded
    config = ModelConfig(
        timesteps=folded.timesteps,
        image_shape=folded.image_shape,
        n_classes=len(folded.labels),
        frames=folded.encoder is None,
    )
    return {"model_config": config.to_dict(), "data": {}}


def _images(
    arguments: argparse.Namespace, imported: Imported | None, say: Callable[[str], None]
) -> Images:
    """Return the images to measure the network on, as the options say.

    Networks of other frameworks come with no data: without ``--data`` and ``--input``, there are no
    images for them.
    """
    if arguments.input:
        folded = imported.folded if imported else fold.fold(arguments.checkpoint)
        images, labels = inputs.read_images(arguments.input, folded)
        if not len(images):
            raise InputError(f"{arguments.input} holds no images to measure on")
        images = images[: arguments.measure]
        return Images(
            images=images,
            labels=None if labels is None else labels[: arguments.measure],
            what=f"{len(images)} images of {arguments.input.name}",
            calibration=images if labels is None else None,
        )
    if imported and arguments.data is None:
        if arguments.data_dir:
            raise InputError(
                f"--data-dir {arguments.data_dir}: name the data set in it with --data"
            )
        say("measuring nothing: name samples with --data or --input to measure the network on")
        return Images()
    values = _data_values(imported) if imported else checkpoint.load(arguments.checkpoint)
    return find_images(values, arguments.data_dir, arguments.data, arguments.measure, say)


def _measured(exported: Export) -> str:
    """Return the line of the report with the accuracies before and after quantisation."""
    accuracy = exported.accuracy
    if accuracy is None:
        return "measured   nothing: no accuracy, spikes or cycles, because there are no samples"
    text = f"measured   on {exported.measured_on}: "
    if accuracy.folded is not None and accuracy.quantised is not None:
        text += f"folded {accuracy.folded:.2%}, quantised {accuracy.quantised:.2%}, "
    text += f"same class in {accuracy.agreement:.2%}"
    return text if accuracy.folded is not None else f"{text}; no accuracy, because of no labels"


def as_text(exported: Export) -> str:
    """Return the report on an exported network as text for a terminal."""
    network, config = exported.network, exported.config
    lines = [
        tables.as_text(exported.layers, network.weight_bits, config),
        "",
        _measured(exported),
        "membranes  proved wide enough for any input: no overflow can occur",
    ]
    if exported.n_cycles is not None:
        lines.append(
            f"latency    {exported.n_cycles:,.0f} cycles predicted, "
            f"{1e3 * exported.n_cycles / config.clk_hz:.3f} ms at {config.clk_hz / 1e6:g} MHz, "
            "without the link"
        )
    lines += ["", *map(tables.board_text, exported.boards)]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sw.export",
        description="Fold, quantise and compile a checkpoint into one network file.",
        epilog=f"""examples:
  python -m sw.export ckpt.pt                           -> ckpt{netfile.SUFFIX} and a report
  python -m sw.export ckpt.pt --bits 4 -o net{netfile.SUFFIX}
  python -m sw.export ckpt.pt --board icebreaker --json > report.json
  python -m sw.export ckpt.pt --board ulx3s-85f-sdram --unshare element/per-timestep
  python -m sw.export net.nir --timesteps 4             a NIR graph
  python -m sw.export net.nir --nearest-leak --data my-data --fine-tune 3
  python -m sw.export csnn.pt --topology csnn.json      a SpikingJelly or snnTorch state dict

exit codes: {EXIT_OK} written, {EXIT_NO} does not fit the board (nothing is written),
{EXIT_BAD_INPUT} bad input, {EXIT_INTERRUPTED} interrupted""",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="checkpoint of sw.train, NIR file (.nir, .h5), or, with --topology, state dict",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help=f"network file to write (default: CHECKPOINT with suffix {netfile.SUFFIX})",
    )
    parser.add_argument(
        "--bits", type=int, choices=(2, 4, 8), help="width of weights (default: the board's)"
    )
    parser.add_argument(
        "--pixel-bits",
        type=int,
        choices=quantize.PIXEL_BITS,
        default=N_PLANES,
        metavar="N",
        help=f"round pixels to N bits, 1 to {N_PLANES} (default: {N_PLANES}): fewer bytes for an "
        "image, and fewer spikes in its bit-planes",
    )
    parser.add_argument(
        "--encoder-bits",
        type=int,
        choices=quantize.WEIGHT_BITS,
        default=quantize.ENCODER_WEIGHT_BITS,
        help="width of the weights of the first layer of a network for images (default: "
        f"{quantize.ENCODER_WEIGHT_BITS}). A board computes this layer if its own weights are as "
        "wide; otherwise the host does",
    )
    parser.add_argument(
        "--board",
        default=BOARD,
        help=f"board to compile for: sim, {CONFIGS_HELP} (default: {BOARD})",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data", help="data set to measure on, by name or path (default: the checkpoint's)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--measure",
        type=int,
        default=N_MEASURED,
        metavar="N",
        help=f"number of images to measure on (default: {N_MEASURED})",
    )
    source.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="measure on the samples of an .npy file, or an .npz file's images and, if it has any, "
        "labels",
    )
    parser.add_argument(
        "--unshare",
        choices=UNSHARED,
        help="copy shared weights, so that every position, or position and timestep, has its own: "
        "shows what training with such coefficients would cost",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    other = parser.add_argument_group("networks of other frameworks")
    other.add_argument(
        "--topology",
        metavar="FILE",
        help="JSON file that describes a state dict's network (see sw.exchange.topology), or one "
        f"of {', '.join(topology.TOPOLOGIES)}",
    )
    other.add_argument("--timesteps", type=int, metavar="T", help="timesteps to run")
    other.add_argument(
        "--pixel-max", type=float, metavar="X", help="NIR: value of a pixel of 255 (default: 1)"
    )
    other.add_argument("--frames", action="store_true", help="NIR: the input is binary frames")
    other.add_argument(
        "--dt", type=float, metavar="S", help="NIR: timestep (default: 1e-4, or 1 if r is 1)"
    )
    other.add_argument(
        "--fires-at-threshold",
        action="store_true",
        help="NIR: neurons fire at v >= threshold, as in SpikingJelly (NIR says v > threshold)",
    )
    other.add_argument(
        "--reset",
        choices=("subtract", "zero"),
        help="NIR: a spike subtracts the threshold, or sets the membrane to the file's v_reset or "
        "0; needed for files without v_reset (nir 1.0.4 and earlier)",
    )
    other.add_argument(
        "--nearest-leak",
        type=int,
        nargs="?",
        const=N_LEAK_SHIFTS,
        default=0,
        choices=range(1, N_LEAK_SHIFTS + 1),
        metavar="N",
        help="for a leak that the device lacks, take the nearest one of up to N shifts (default: "
        f"{N_LEAK_SHIFTS}; the iCE40 boards have one), and report what that changes",
    )
    other.add_argument(
        "--fine-tune",
        type=int,
        metavar="EPOCHS",
        help="train the network's integers on the training samples of --data, and report how "
        "accuracy and spikes change",
    )
    return parser


@command(
    CheckpointError,
    DataError,
    ExchangeError,
    InputError,
    ModelError,
    NetworkError,
    QuantizeError,
    SpecError,
    TrainError,
    netfile.NetworkFileError,
    interrupted="interrupted, nothing was written",
)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.export`` with the arguments ``argv`` and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.measure < 1:
        parser.error("--measure takes a number of at least 1")
    if arguments.timesteps is not None and arguments.timesteps < 1:
        parser.error("--timesteps takes a number of at least 1")
    if any(x is not None and not x > 0 for x in (arguments.pixel_max, arguments.dt)):
        parser.error("--pixel-max and --dt take positive numbers")
    if arguments.input and arguments.data_dir:
        parser.error("--data-dir is the folder of a data set, and cannot be used with --input")
    if arguments.fine_tune is not None and (arguments.fine_tune < 1 or arguments.data is None):
        parser.error("--fine-tune takes a number of at least 1, and needs --data to train on")
    source = arguments.checkpoint
    path = output_path(arguments.out, source, netfile.SUFFIX)
    options = ReadOptions(
        **{f.name: getattr(arguments, f.name) for f in dataclasses.fields(ReadOptions)}
    )
    reader = find_reader(arguments.checkpoint, options)
    unused = unused_option(reader, options)
    if unused:
        parser.error(unused)

    def say(text: str) -> None:
        print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    config = config_by_name(arguments.board)
    weight_bits = arguments.bits or config.weight_bits
    if "/" not in arguments.board:
        config = config.with_weight_bits(weight_bits)
    imported = reader.read(arguments.checkpoint, options) if reader else None
    if reader is None and (problem := missing_topology(arguments.checkpoint)):
        raise ExchangeError(problem)
    if arguments.fine_tune and imported is None:
        parser.error(
            "--fine-tune is for networks of other frameworks: train a checkpoint further with "
            f"python -m sw.train --init {arguments.checkpoint} --bits {weight_bits}"
        )
    images = _images(arguments, imported, say)
    what = images.what or "no images"
    say(f"quantising to {weight_bits} bits, compiling for {arguments.board}, measuring on {what}")
    change = None
    if imported and imported.near:
        change = nearest.measure(imported, images.images)
    tuning = None
    if imported and arguments.fine_tune:
        dataset = datasets.load_for(_data_values(imported), arguments.data_dir, arguments.data)
        imported, tuning = fine_tuning.fine_tuned(
            imported, dataset, weight_bits, arguments.fine_tune, images, say
        )
    exported = export_network(
        arguments.checkpoint,
        config,
        weight_bits,
        images,
        imported,
        arguments.unshare,
        pixel_bits=arguments.pixel_bits,
        encoder_bits=arguments.encoder_bits,
    )
    n_bytes = 0
    if exported.program is not None:
        n_bytes = netfile.save(path, exported.network, exported.program.config)
    if arguments.json:
        more = {} if change is None else {"nearest_leak": dataclasses.asdict(change)}
        more |= {} if tuning is None else {"fine_tuning": dataclasses.asdict(tuning)}
        print(json.dumps(exported.to_dict() | more, indent=1))
    else:
        print(as_text(exported))
        if change is not None:
            print(change.as_text())
        if tuning is not None:
            print(tuning.as_text())
    if exported.program is None:
        target = exported.boards[0]
        print(f"error: {target.problem}; nothing was written", file=sys.stderr)
        return EXIT_NO
    say(f"\nwrote {path}: {n_bytes:,} bytes, compiled for {board_name(config)}")
    return EXIT_OK
