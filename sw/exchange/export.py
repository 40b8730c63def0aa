"""Export of a trained network to the device's format, with a report.

A network is folded to float64 layers (:mod:`sw.convert.fold`), quantised to integers
(:mod:`sw.convert.quantize`), compiled for a configuration of the gateware (:class:`hw.spec.Config`)
and measured on images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.boards.configs import board_name
from hw.spec import Config
from sw.compile import costs, fitting
from sw.compile.compiler import compile_network
from sw.compile.costs import LayerReport
from sw.compile.deal import RATES
from sw.compile.fitting import BoardReport
from sw.compile.program import FitError, Program
from sw.convert import fold, quantize
from sw.convert.folded import FoldedNetwork, simulate
from sw.data import catalogue
from sw.data.dataset import DataError, Split, calibration_samples, spread
from sw.data.inputs import check_labels
from sw.exchange import integers
from sw.exchange.assembly import Imported
from sw.files import ARRAY_ERRORS
from sw.model import datasets
from sw.network import reference
from sw.network.encoder import InputError
from sw.network.network import Network


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracies before and after quantisation, as fractions (0 to 1) of the measured images."""

    folded: float
    quantised: float
    agreement: float
    """Fraction of images that are given the same class before and after quantisation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Export:
    """An exported network and the report on it.

    ``program`` is the network compiled for ``config``, a configuration of the gateware. It is None
    if the network does not fit. ``layers`` has the costs of each layer. ``boards`` says for each
    supported board how the network fits it. ``measured_on`` describes the images on which accuracy
    and costs were measured.
    """

    network: Network
    program: Program | None
    config: Config
    layers: list[LayerReport]
    boards: list[BoardReport]
    accuracy: Accuracy
    measured_on: str

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the network and the program."""
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
        """Predicted clock cycles per image; None if the network does not fit the configuration."""
        return sum(layer.n_cycles or 0.0 for layer in self.layers) if self.program else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """Labelled images to measure a network's accuracy on, and images to calibrate it with."""

    split: Split
    what: str
    """Description of the images for reports and messages."""
    calibration: NDArray[np.uint8] | None
    """Training images to correct biases with (:mod:`sw.convert.quantize`); None if there is no data
    set."""


def find_images(
    values: dict[str, Any],
    folder: Path | None,
    name: str | None,
    n_images: int,
    say: Callable[[str], None],
) -> Images:
    """Return validation images of the data set that a checkpoint was trained on.

    If the default data set, Fashion-MNIST, cannot be loaded, a small sample of its test images that
    comes with this repository is used instead, and ``say`` is called with a message about it.

    Parameters
    ----------
    values : contents of the checkpoint.
    folder : folder of the data set; None for the default one.
    name : name of another data set to use instead of the checkpoint's; None for the checkpoint's.
    n_images : number of images; fewer if the data set has fewer.

    Raises
    ------
    sw.data.dataset.DataError
        The data set cannot be loaded, and ``folder`` or ``name`` was given or the data set is not
        Fashion-MNIST.
    """
    calibration = None
    try:
        dataset = datasets.load_for(values, folder, name)
        what = "Fashion-MNIST" if dataset.name == "fashion-mnist" else dataset.name
        split, what = dataset.validation, f"validation images of {what}"
        calibration = calibration_samples(dataset)
    except DataError as error:
        is_shipped = values["data"].get("name", "fashion-mnist") == "fashion-mnist"
        if folder is not None or name is not None or not is_shipped:
            raise
        say(f"measuring on the shipped sample of test images, without the data set: {error}")
        split, what = catalogue.load_samples(), "shipped test images of Fashion-MNIST"
    chosen = spread(len(split), n_images)
    return Images(
        split=Split(images=split.images[chosen], labels=split.labels[chosen]),
        what=f"{len(chosen)} {what}",
        calibration=calibration,
    )


def measure(
    folded: FoldedNetwork,
    network: Network,
    program: Program | None,
    split: Split,
    trace: reference.Trace,
) -> tuple[list[LayerReport], Accuracy]:
    """Return a report on each layer, and the accuracies before and after quantisation.

    A layer's report has its size. It also has its input density (the fraction of its inputs that
    are spikes), its synaptic operations and its predicted clock cycles, as means over the images.

    Parameters
    ----------
    folded : the network before quantisation.
    network : the integer network.
    program : the integer network, compiled; None if it does not fit, and then no cycles are
        predicted.
    split : labelled images to measure on.
    trace : spikes and predictions of ``network`` for these images.
    """
    before = simulate(folded, split.images).predictions
    maps = costs.device_maps(network, split.images, trace.spikes)
    layers = costs.measured(network, program, maps)

    def share(right: NDArray[np.bool_]) -> float:
        return float(np.mean(right))

    return layers, Accuracy(
        folded=share(before == split.labels),
        quantised=share(trace.predictions == split.labels),
        agreement=share(before == trace.predictions),
    )


def read_images(path: Path, n_images: int) -> Images:
    """Return the first ``n_images`` of an .npz file's arrays ``images`` and ``labels``.

    ``images`` holds images (N, C, H, W) or binary frames (N, T, C, H, W).

    Raises
    ------
    sw.network.encoder.InputError
        The file is no .npz file with both arrays, holds no labels, or does not hold as many images
        as labels.
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


def export_network(
    checkpoint: Path,
    config: Config,
    weight_bits: int,
    images: Images,
    imported: Imported | None = None,
) -> Export:
    """Fold, quantise, compile and measure a network, and return the result; no file is written.

    Parameters
    ----------
    checkpoint : file that the network comes from; its checksum goes into the provenance.
    config : configuration of the gateware to compile for.
    weight_bits : width of the weights in bits.
    images : images to measure on, and to correct biases with.
    imported : the network in ``checkpoint`` if that is another framework's file; None if it is a
        checkpoint of ``sw.train``.

    Raises
    ------
    sw.model.checkpoint.CheckpointError, sw.model.config.ModelError
        The file is no checkpoint; or the device cannot run the network, such as one with ``ADD``
        gates, whose blocks exchange integers instead of spikes.
    sw.convert.quantize.QuantizeError
        A bias or a threshold does not fit the device's width of parameters, whichever quantisation
        scale is chosen.
    sw.network.encoder.InputError
        The network does not take these images, or a label is not one of its classes.
    """
    if imported is None:
        folded = fold.fold(checkpoint)
        network = quantize.quantize(folded, weight_bits, calibration=images.calibration)
    else:
        folded = imported.folded
        network = integers.quantised(imported, weight_bits, calibration=images.calibration)
    check_labels(images.split.labels, network.n_classes, images.what)
    trace = reference.run(network, images.split.images)
    # The compiler divides channels between banks by how often they spike.
    rates = {name: {RATES: values} for name, values in reference.channel_rates(trace).items()}
    network = replace(network, statistics=rates)
    try:
        program = compile_network(network, config)
    except FitError:
        program = None
    layers, accuracy = measure(folded, network, program, images.split, trace)
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
        statistics=rates
        | {
            layer.name: rates.get(layer.name, {})
            | {
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
