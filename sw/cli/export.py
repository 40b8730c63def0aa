"""``python -m sw.export``: convert a checkpoint to a network file, and report its costs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from hw.boards.configs import CONFIGS_HELP, board_name, config_by_name
from hw.spec import SpecError
from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_NO,
    EXIT_OK,
    CommandParser,
    command,
)
from sw.convert.quantize import QuantizeError
from sw.data.dataset import DataError
from sw.exchange import topology
from sw.exchange.assembly import Imported
from sw.exchange.export import Export, export_network, find_images, read_images
from sw.exchange.graph import ExchangeError
from sw.exchange.readers import ReadOptions, find_reader, unused_option
from sw.model import checkpoint
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelError
from sw.network import netfile
from sw.network.encoder import InputError
from sw.network.network import NetworkError
from sw.reporting import tables

BOARD = "ulx3s-85f"
"""Default board to compile for."""
N_MEASURED = 500
"""Default number of images to measure the accuracy on."""


def _data_values(imported: Imported) -> dict[str, Any]:
    """Return the values of a checkpoint that :func:`sw.exchange.export.find_images` needs.

    A network imported from another framework has no checkpoint. The result has the number of
    timesteps and the shape of the network's input, in the places where a checkpoint has them.
    """
    shape = {"timesteps": imported.folded.timesteps, "image_shape": imported.folded.image_shape}
    return {"model_config": shape, "data": {}}


def _is_unusual(imported: Imported) -> bool:
    """Return whether the network takes other input than images of shape (1, 28, 28)."""
    return imported.folded.encoder is None or imported.folded.image_shape != (1, 28, 28)


def as_text(exported: Export) -> str:
    """Return the report on an exported network as text for a terminal."""
    network, config, accuracy = exported.network, exported.config, exported.accuracy
    lines = [
        tables.as_text(exported.layers, network.weight_bits, config),
        "",
        f"measured   on {exported.measured_on}: folded {accuracy.folded:.2%}, quantised "
        f"{accuracy.quantised:.2%}, same class in {accuracy.agreement:.2%}",
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
  python -m sw.export net.nir --timesteps 4             a NIR graph
  python -m sw.export csnn.pt --topology csnn.json      a SpikingJelly or snnTorch state dict

exit codes: {EXIT_OK} written, {EXIT_NO} does not fit the board (nothing is written),
{EXIT_BAD_INPUT} bad input, {EXIT_INTERRUPTED} interrupted""",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="checkpoint of sw.train, .nir file, or, with --topology, state dict",
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
        help="measure on the images and labels of an .npz file",
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
    if arguments.input:
        images = read_images(arguments.input, arguments.measure)
    else:
        values = _data_values(imported) if imported else checkpoint.load(arguments.checkpoint)
        if imported and arguments.data is None and _is_unusual(imported):
            raise InputError(
                f"the network takes inputs of shape {imported.folded.image_shape}: give --data or "
                "--input to measure it on"
            )
        images = find_images(values, arguments.data_dir, arguments.data, arguments.measure, say)
    exported = export_network(arguments.checkpoint, config, weight_bits, images, imported)
    path = arguments.out or arguments.checkpoint.with_suffix(netfile.SUFFIX)
    n_bytes = 0
    if exported.program is not None:
        n_bytes = netfile.save(path, exported.network, exported.program)
    if arguments.json:
        print(json.dumps(exported.to_dict(), indent=1))
    else:
        print(as_text(exported))
    if exported.program is None:
        target = exported.boards[0]
        print(f"error: {target.problem}; nothing was written", file=sys.stderr)
        return EXIT_NO
    say(f"\nwrote {path}: {n_bytes:,} bytes, compiled for {board_name(config)}")
    return EXIT_OK
