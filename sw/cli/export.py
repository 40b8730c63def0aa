"""From a checkpoint to one network file, with a report of what it costs on each board.

``python -m sw.export ckpt.pt`` folds, quantises, proves, measures, compiles and writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.boards.configs import BOARDS_HELP, board_name, config_by_name
from hw.spec import Config, SpecError
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, command
from sw.compile import costs, fitting
from sw.compile.compiler import compile_network
from sw.compile.costs import LayerReport
from sw.compile.fitting import BoardReport
from sw.compile.program import FitError, Program
from sw.convert import fold, quantize
from sw.convert.folded import FoldedNetwork, simulate
from sw.convert.quantize import QuantizeError
from sw.data import catalogue
from sw.data.dataset import DataError, Split, calibration_samples, spread
from sw.data.inputs import check_labels
from sw.exchange import integers, nir_common, nir_read, statedict, topology
from sw.exchange.assembly import Imported
from sw.exchange.graph import ExchangeError
from sw.files import ARRAY_ERRORS
from sw.model import checkpoint
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelError
from sw.network import netfile, reference
from sw.network.encoder import InputError
from sw.network.network import Network, NetworkError
from sw.reporting import tables

BOARD = "ulx3s-85f"
N_MEASURED = 500

EXIT_DOES_NOT_FIT = 1


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of the images measured on."""

    folded: float
    quantised: float
    agreement: float
    """Same class before and after quantisation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Export:
    """A network ready to be written, and what is known of it."""

    network: Network
    program: Program | None
    config: Config
    layers: list[LayerReport]
    boards: list[BoardReport]
    accuracy: Accuracy
    measured_on: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values of the report."""
        n_cycles = self.n_cycles
        return {
            "board": board_name(self.config),
            "fits": self.program is not None,
            "weight_bits": self.network.weight_bits,
            "measured_on": self.measured_on,
            "accuracy": asdict(self.accuracy),
            "layers": [asdict(layer) for layer in self.layers],
            "n_cycles": n_cycles,
            "latency_s": None if n_cycles is None else n_cycles / self.config.clk_hz,
            "boards": [asdict(board) for board in self.boards],
        }

    @property
    def n_cycles(self) -> float | None:
        """Predicted cycles per image, if the network fits."""
        return sum(layer.n_cycles or 0.0 for layer in self.layers) if self.program else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """What an export measures with.

    ``calibration`` (training images) lets the biases make up for rounding; None: no data set.
    """

    split: Split
    what: str
    calibration: NDArray[np.uint8] | None


def find_images(
    values: dict[str, Any],
    folder: Path | None,
    name: str | None,
    n_images: int,
    say: Callable[[str], None],
) -> Images:
    """Validation images of what the checkpoint was trained on (or of ``name``), never test ones;
    for Fashion-MNIST the shipped sample if there is no data set.

    Raises
    ------
    sw.data.dataset.DataError
        There is no data set, and one was named or there is no sample of it.
    """
    calibration = None
    try:
        dataset = checkpoint.dataset(values, folder, name)
        what = "Fashion-MNIST" if dataset.name == "fashion-mnist" else dataset.name
        split, what = dataset.validation, f"validation images of {what}"
        calibration = calibration_samples(dataset)
    except DataError as error:
        is_shipped = values["data"].get("name", "fashion-mnist") == "fashion-mnist"
        if folder is not None or name is not None or not is_shipped:
            raise
        say(f"measuring on the shipped sample of test images, for want of a data set: {error}")
        split, what = catalogue.load_samples(), "shipped test images of Fashion-MNIST"
    chosen = spread(len(split), n_images)
    return Images(
        split=Split(images=split.images[chosen], labels=split.labels[chosen]),
        what=f"{len(chosen)} {what}",
        calibration=calibration,
    )


def measure(
    folded: FoldedNetwork, network: Network, program: Program | None, split: Split
) -> tuple[list[LayerReport], Accuracy]:
    """Densities, operations, predicted cycles, and what quantisation costs in accuracy."""
    before = simulate(folded, split.images).predictions
    trace = reference.run(network, split.images)
    maps = costs.device_maps(network, split.images, trace.spikes)
    layers = costs.measured(network, program, maps)

    def share(right: NDArray[np.bool_]) -> float:
        return float(np.mean(right))

    return layers, Accuracy(
        folded=share(before == split.labels),
        quantised=share(trace.predictions == split.labels),
        agreement=share(before == trace.predictions),
    )


def read_foreign(arguments: argparse.Namespace) -> Imported | None:
    """A network of another framework, None if the file is a checkpoint of ours.

    Raises
    ------
    sw.exchange.graph.ExchangeError
        It cannot be read, or not be mapped.
    """
    path: Path = arguments.checkpoint
    if path.suffix == nir_common.SUFFIX:
        return nir_read.read(
            path,
            arguments.timesteps,
            pixel_max=None if arguments.frames else arguments.pixel_max or 1.0,
            dt_s=arguments.dt,
            fires_at_threshold=arguments.fires_at_threshold,
        )
    if arguments.topology is None:
        return None
    values = topology.load_topology(arguments.topology)
    return statedict.read(path, values, arguments.timesteps)


def _about(imported: Imported) -> dict[str, Any]:
    """What a checkpoint would say of the network's data."""
    shape = {"timesteps": imported.folded.timesteps, "image_shape": imported.folded.image_shape}
    return {"model_config": shape, "data": {}}


def _is_unusual(imported: Imported) -> bool:
    """Whether the network takes something else than Fashion-MNIST's images."""
    return imported.folded.encoder is None or imported.folded.image_shape != (1, 28, 28)


def read_images(path: Path, n_images: int) -> Images:
    """Images (or frames) and labels of an .npz file, to measure on.

    Raises
    ------
    sw.network.encoder.InputError
        The file holds something else.
    """
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            images, labels = file["images"][:n_images], file["labels"][:n_images]
    except (AttributeError, KeyError, TypeError, *ARRAY_ERRORS) as error:
        raise InputError(
            f"{path} is no .npz file with 'images' and 'labels' to measure on: {error}"
        ) from error
    if len(images) != len(labels) or not len(labels):
        raise InputError(f"{path} holds {len(images)} images and {len(labels)} labels")
    return Images(
        split=Split(images=images, labels=labels),
        what=f"{len(labels)} images of {path.name}",
        calibration=None,
    )


def export(
    checkpoint: Path,
    config: Config,
    weight_bits: int,
    images: Images,
    imported: Imported | None = None,
) -> Export:
    """Fold, quantise, measure and compile; nothing is written.

    Parameters
    ----------
    imported : the network that ``checkpoint`` holds, if that is another framework's file.

    Raises
    ------
    sw.model.checkpoint.CheckpointError, sw.model.config.ModelError
        Not a checkpoint; or not a full-spike network, such as one with ``ADD`` gates.
    sw.convert.quantize.QuantizeError
        Numbers that no scale brings into the device's widths.
    sw.network.encoder.InputError
        The network does not take these images, or lacks classes that they are of.
    """
    if imported is None:
        folded = fold.fold(checkpoint)
        network = quantize.quantize(folded, weight_bits, calibration=images.calibration)
    else:
        folded = imported.folded
        network = integers.quantised(imported, weight_bits, calibration=images.calibration)
    check_labels(images.split.labels, network.n_classes, images.what)
    try:
        program = compile_network(network, config)
    except FitError:
        program = None
    layers, accuracy = measure(folded, network, program, images.split)
    network = replace(
        network,
        provenance=network.provenance
        | {
            "export": {
                "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
                "measured_on": images.what,
                "accuracy": asdict(accuracy),
            }
        },
        statistics={
            layer.name: {
                "input_density": layer.input_density,
                "n_synaptic_ops": layer.n_synaptic_ops,
            }
            for layer in layers
        },
    )
    target = fitting.board_report(network, config)
    others = [b for b in fitting.all_boards(network) if b.board != target.board]
    return Export(
        network=network,
        program=program,
        config=config,
        layers=layers,
        boards=[target, *others],
        accuracy=accuracy,
        measured_on=images.what,
    )


def as_text(exported: Export) -> str:
    """The report for a terminal."""
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
    parser = argparse.ArgumentParser(
        prog="python -m sw.export",
        description="Fold, quantise and compile a checkpoint into one network file.",
        epilog=f"""examples:
  python -m sw.export ckpt.pt                           -> ckpt{netfile.SUFFIX} and a report
  python -m sw.export ckpt.pt --bits 4 -o net{netfile.SUFFIX}
  python -m sw.export ckpt.pt --board icebreaker --json > report.json
  python -m sw.export net.nir --timesteps 4             a NIR graph
  python -m sw.export csnn.pt --topology csnn.json      a SpikingJelly or snnTorch state dict

exit codes: {EXIT_OK} written, {EXIT_DOES_NOT_FIT} does not fit the board (nothing is written),
{EXIT_BAD_INPUT} bad input, {EXIT_INTERRUPTED} interrupted""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="what sw.train wrote; or a .nir file; or with --topology a state dict",
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help=f"(CHECKPOINT's name with {netfile.SUFFIX})"
    )
    parser.add_argument(
        "--bits", type=int, choices=(2, 4, 8), help="width of weights (what the board has)"
    )
    parser.add_argument(
        "--board",
        default=BOARD,
        help=f"compile for it: sim, {BOARDS_HELP} (default: {BOARD})",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data", help="data set, or path of an own one, to measure on (default: the checkpoint's)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--measure", type=int, default=N_MEASURED, metavar="N", help=f"images ({N_MEASURED})"
    )
    source.add_argument(
        "--input", type=Path, metavar="FILE", help="measure on an .npz file's images and labels"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    other = parser.add_argument_group("networks of other frameworks")
    other.add_argument(
        "--topology",
        metavar="FILE",
        help="what the state dict does not say, see sw.exchange.topology; or one of "
        + ", ".join(topology.TOPOLOGIES),
    )
    other.add_argument("--timesteps", type=int, metavar="T", help="timesteps to run")
    other.add_argument(
        "--pixel-max", type=float, metavar="X", help="NIR: what a pixel of 255 is (1)"
    )
    other.add_argument("--frames", action="store_true", help="NIR: it takes binary frames")
    other.add_argument("--dt", type=float, metavar="S", help="NIR: timestep (1e-4, or 1 if r is 1)")
    other.add_argument(
        "--fires-at-threshold",
        action="store_true",
        help="NIR: neurons fire at v >= threshold, as in SpikingJelly (NIR says v > threshold)",
    )
    return parser


def _check_foreign(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with a message if there is an option for another kind of file."""
    if arguments.checkpoint.suffix == nir_common.SUFFIX:
        if arguments.topology is not None:
            parser.error(f"--topology is for state dicts, not for {nir_common.SUFFIX} files")
        return
    for name in ("pixel_max", "frames", "dt", "fires_at_threshold"):
        if getattr(arguments, name):
            parser.error(f"--{name.replace('_', '-')} is for {nir_common.SUFFIX} files only")
    if arguments.timesteps is not None and arguments.topology is None:
        parser.error(
            f"--timesteps is for {nir_common.SUFFIX} files, and for state dicts with --topology: a "
            "checkpoint says how many it was trained for"
        )


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
    """Command line; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.measure < 1:
        parser.error("--measure takes a number of at least 1")
    if arguments.timesteps is not None and arguments.timesteps < 1:
        parser.error("--timesteps takes a number of at least 1")
    if any(x is not None and not x > 0 for x in (arguments.pixel_max, arguments.dt)):
        parser.error("--pixel-max and --dt take positive numbers")
    if arguments.input and arguments.data_dir:
        parser.error("--data-dir is the folder of a data set: it does not go with --input")
    _check_foreign(parser, arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    config = config_by_name(arguments.board)
    weight_bits = arguments.bits or config.weight_bits
    if "/" not in arguments.board:
        config = config.with_weight_bits(weight_bits)
    imported = read_foreign(arguments)
    if arguments.input:
        images = read_images(arguments.input, arguments.measure)
    else:
        values = _about(imported) if imported else checkpoint.load(arguments.checkpoint)
        if imported and arguments.data is None and _is_unusual(imported):
            raise InputError(
                f"the network takes {imported.folded.image_shape}: say what to measure it on, "
                "with --data or --input"
            )
        images = find_images(values, arguments.data_dir, arguments.data, arguments.measure, say)
    exported = export(arguments.checkpoint, config, weight_bits, images, imported)
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
        return EXIT_DOES_NOT_FIT
    say(f"\nwrote {path}: {n_bytes:,} bytes, compiled for {board_name(config)}")
    return EXIT_OK
