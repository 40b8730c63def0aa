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
from hw.spec import N_PLANES, Config
from sw.compile import costs, fitting
from sw.compile.compiler import compile_network
from sw.compile.costs import LayerReport
from sw.compile.deal import RATES
from sw.compile.fitting import BoardReport
from sw.compile.program import FitError, Program
from sw.convert import fold, quantize
from sw.convert.folded import FoldedNetwork, simulate
from sw.convert.unshare import unshare
from sw.data import catalogue
from sw.data.dataset import DataError, calibration_samples, spread
from sw.data.inputs import check_labels
from sw.exchange import integers
from sw.exchange.assembly import Imported
from sw.model import checkpoint, datasets
from sw.network import reference
from sw.network.encoder import check_input
from sw.network.network import Network


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracies before and after quantisation, as fractions (0 to 1) of the measured images.

    ``folded`` is the accuracy of the float64 network before quantisation, and ``quantised`` the
    accuracy of the integer network. Both are None if the images have no labels.
    """

    folded: float | None
    quantised: float | None
    agreement: float
    """Fraction of images that are given the same class before and after quantisation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Export:
    """An exported network and the report on it.

    ``program`` is the network compiled for ``config``, a configuration of the gateware. It is None
    if the network does not fit. ``layers`` has the costs of each layer. ``boards`` says for each
    supported board how the network fits it. ``measured_on`` describes the images on which accuracy
    and costs were measured; if there were no images, it is empty, and ``accuracy`` is None.
    """

    network: Network
    program: Program | None
    config: Config
    layers: list[LayerReport]
    boards: list[BoardReport]
    accuracy: Accuracy | None
    measured_on: str

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values, without the network and the program."""
        n_cycles = self.n_cycles
        return {
            "board": board_name(self.config),
            "fits": self.program is not None,
            "weight_bits": self.network.weight_bits,
            "measured_on": self.measured_on,
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "layers": [asdict(layer) for layer in self.layers],
            "n_cycles": n_cycles,
            "latency_s": None if n_cycles is None else n_cycles / self.config.clk_hz,
            "boards": [asdict(board) for board in self.boards],
        }

    @property
    def n_cycles(self) -> float | None:
        """Predicted clock cycles per image; None if the network does not fit the configuration, or
        there were no images."""
        if self.program is None or self.accuracy is None:
            return None
        return sum(layer.n_cycles or 0.0 for layer in self.layers)


@dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """Images to measure a network on, and images to calibrate it with; either may be missing."""

    images: NDArray[np.uint8] | None = None
    """Images (N, C, H, W) or binary frames (N, T, C, H, W) to measure on; None if there are
    none."""
    labels: NDArray[Any] | None = None
    """Classes (N,) of the images; None if unknown, so that no accuracy can be measured."""
    what: str = ""
    """Description of the images for reports and messages."""
    calibration: NDArray[np.uint8] | None = None
    """Images from which quantisation corrects biases (:mod:`sw.convert.quantize`), if the network's
    file has no samples for this; None if there are none."""
    data: dict[str, Any] | None = None
    """Data set that the images are from: ``name`` is its name, and ``own`` says whether it is the
    user's own data. None if the images are not from a data set."""


def find_images(
    values: dict[str, Any],
    folder: Path | None,
    name: str | None,
    n_images: int,
    say: Callable[[str], None],
) -> Images:
    """Return validation images of the data set that a checkpoint was trained on.

    If the data set cannot be loaded, other images take its place, and ``say`` is called with a
    message about them. For Fashion-MNIST, they are the shipped sample of its test images. For other
    data sets, they are the training samples in the checkpoint, which have no labels. If the
    checkpoint has none, the result has no images.

    Parameters
    ----------
    values : contents of the checkpoint.
    folder : folder of the data set; None for the default one.
    name : name of the data set to use; None for the data set of the checkpoint.
    n_images : number of images; fewer if the data set has fewer.

    Raises
    ------
    sw.data.dataset.DataError
        The data set cannot be loaded, and ``folder`` or ``name`` was given.
    """
    try:
        dataset = datasets.load_for(values, folder, name)
    except DataError as error:
        if folder is not None or name is not None:
            raise
        return _substitute(values, n_images, error, say)
    what = "Fashion-MNIST" if dataset.name == catalogue.DEFAULT else dataset.name
    chosen = spread(len(dataset.validation), n_images)
    return Images(
        images=dataset.validation.images[chosen],
        labels=dataset.validation.labels[chosen],
        what=f"{len(chosen)} validation images of {what}"
        + (f" ({dataset.note})" if dataset.own and dataset.note else ""),
        calibration=calibration_samples(dataset),
        data={"name": dataset.name, "own": dataset.own},
    )


def _substitute(
    values: dict[str, Any], n_images: int, error: DataError, say: Callable[[str], None]
) -> Images:
    """Return images to use in place of a checkpoint's data set, which cannot be loaded.

    ``error`` says why it cannot, and ``say`` is called with a message about the substitute; see
    :func:`find_images`.
    """
    record = values["data"]
    if record.get("name", catalogue.DEFAULT) == catalogue.DEFAULT and not record.get("own"):
        say(f"measuring on the shipped sample of test images, without the data set: {error}")
        split = catalogue.load_samples()
        chosen = spread(len(split), n_images)
        return Images(
            images=split.images[chosen],
            labels=split.labels[chosen],
            what=f"{len(chosen)} shipped test images of Fashion-MNIST",
        )
    samples = checkpoint.calibration(values)
    if samples is None:
        say(f"measuring nothing, because the checkpoint holds no samples: {error}")
        return Images()
    say(f"measuring without labels, on the training samples in the checkpoint: {error}")
    chosen = spread(len(samples), n_images)
    return Images(images=samples[chosen], what=f"{len(chosen)} training samples of the checkpoint")


def measure(
    folded: FoldedNetwork,
    network: Network,
    program: Program | None,
    images: NDArray[np.uint8],
    labels: NDArray[Any] | None,
    trace: reference.Trace,
) -> tuple[list[LayerReport], Accuracy]:
    """Return a report on each layer, and the accuracies before and after quantisation.

    A layer's report has the size of the layer, and means over the images of three numbers: the
    input density (the fraction of the layer's inputs that are spikes), the synaptic operations
    (additions of a weight to a neuron), and the predicted clock cycles.

    Parameters
    ----------
    folded : the network before quantisation.
    network : the integer network.
    program : the integer network, compiled; None if it does not fit, and then no cycles are
        predicted.
    images, labels : images to measure on, and their classes, or None if these are not known.
    trace : spikes and predictions of ``network`` for these images.
    """
    before = simulate(folded, images).predictions
    maps = costs.device_maps(network, images, trace.spikes)
    layers = costs.measured(network, program, maps)
    return layers, Accuracy(
        folded=None if labels is None else float(np.mean(before == labels)),
        quantised=None if labels is None else float(np.mean(trace.predictions == labels)),
        agreement=float(np.mean(before == trace.predictions)),
    )


def export_network(
    path: Path,
    config: Config,
    weight_bits: int,
    images: Images,
    imported: Imported | None = None,
    unshared: str | None = None,
    *,
    pixel_bits: int = N_PLANES,
    encoder_bits: int = quantize.ENCODER_WEIGHT_BITS,
) -> Export:
    """Fold, quantise, compile and measure a network, and return the result; no file is written.

    Parameters
    ----------
    path : file that the network comes from; its checksum goes into the provenance.
    config : configuration of the gateware to compile for.
    weight_bits : width of the weights in bits.
    images : images to measure on, and to correct biases with; there may be none.
    imported : the network in ``path`` if that is another framework's file; None if it is a
        checkpoint of ``sw.train``.
    unshared : ``element`` to give every position a copy of the shared weights, or
        ``element/per-timestep`` for every position and timestep
        (:func:`sw.convert.unshare.unshare`); None keeps them shared.
    pixel_bits, encoder_bits : see :func:`sw.convert.quantize.quantize`.

    Raises
    ------
    sw.model.checkpoint.CheckpointError, sw.model.config.ModelError
        The file is no checkpoint; or the device cannot run the network
        (:func:`sw.convert.fold.check`).
    sw.convert.quantize.QuantizeError
        A bias or a threshold does not fit the device's width of parameters, whichever quantisation
        scale is chosen.
    sw.network.encoder.InputError
        The network does not take these images, or a label is not one of its classes.
    """
    folded = fold.fold(path) if imported is None else imported.folded
    # The samples in a checkpoint come first, so that the result depends on the checkpoint alone.
    calibration = images.calibration if folded.calibration is None else folded.calibration
    widths = {"pixel_bits": pixel_bits, "encoder_bits": encoder_bits}
    if imported is None:
        network = quantize.quantize(folded, weight_bits, **widths, calibration=calibration)
    else:
        network = integers.quantised(imported, weight_bits, **widths, calibration=calibration)
    if unshared is not None:
        network = unshare(network, unshared)
    trace = None
    if images.images is not None:
        check_input(network, images.images)
        if images.labels is not None:
            check_labels(images.labels, network.n_classes, images.what)
        trace = reference.run(network, images.images)
    # The compiler divides channels between banks by how often they spike.
    rates = _channel_rates(network, folded.calibration, trace)
    network = replace(network, statistics=rates)
    try:
        program = compile_network(network, config)
    except FitError:
        program = None
    layers, accuracy = costs.layer_reports(network, program), None
    if images.images is not None and trace is not None:
        found = images.images, images.labels
        layers, accuracy = measure(folded, network, program, *found, trace)
    network = replace(
        network,
        provenance=network.provenance
        | {
            "export": {
                "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "measured_on": images.what,
                "accuracy": None if accuracy is None else asdict(accuracy),
            }
            | ({} if images.data is None else {"data": images.data})
        },
        statistics=rates
        | {
            layer.name: rates.get(layer.name, {})
            | {
                "input_density": layer.input_density,
                "n_synaptic_ops": layer.n_synaptic_ops,
            }
            for layer in (layers if accuracy is not None else [])
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


def _channel_rates(
    network: Network, samples: NDArray[np.uint8] | None, trace: reference.Trace | None
) -> dict[str, Any]:
    """Return how often the channels of each map spike, by name of the map.

    The compiler distributes channels to memory banks by these rates (:mod:`sw.compile.deal`). They
    are measured on the ``samples`` in the checkpoint if there are any, so that the program follows
    from the checkpoint alone. Otherwise they are computed from ``trace``, a recorded run. The
    result is empty if both are None.
    """
    if samples is not None:
        trace = reference.run(network, samples)
    if trace is None:
        return {}
    return {name: {RATES: values} for name, values in reference.channel_rates(trace).items()}
