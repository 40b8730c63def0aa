"""``python -m sw.evaluate``: accuracy of a checkpoint as trained, folded and in integers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from sw import shipped
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, CommandParser, command
from sw.convert import fold, quantize
from sw.convert.folded import FoldedNetwork, simulate
from sw.convert.quantize import WEIGHT_BITS, QuantizeError
from sw.data import catalogue
from sw.data.dataset import DataError, Split
from sw.data.metrics import detail, interval, with_interval
from sw.model import checkpoint, datasets
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelError
from sw.model.resnet import SpikingResNet, to_input
from sw.network import reference

BATCH = 100
"""Number of samples that are simulated at a time."""

FLOATS = {"training_with_aap": "both", "full_spike": "spike", "folded": "folded"}
"""Kinds of predictions of the float networks, by the field of :class:`Evaluation` for their
accuracy. ``both`` and ``spike`` are kinds of class scores of :func:`sw.training.loop.predictions`;
``folded`` are the predictions of the folded network."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracies, in percent, and other measurements of one checkpoint on test samples.

    The training network is compared with the networks made from it: the full-spike network, which
    lacks the auxiliary pathway (:mod:`sw.model.resnet`); the folded one, whose batch-norms and
    coefficients are part of the weights; and the integer ones, which a device can run.
    """

    checkpoint: str
    """Name of the checkpoint's file."""
    data: str
    """Name of the data set."""
    note: str
    """Remark on the data set, to be printed with the figures."""
    metric: str
    """Meaning of accuracy: ``accuracy`` over samples, or ``balanced``, the mean over classes."""
    n_images: int
    """Number of test samples."""
    training_with_aap: float | None
    """Accuracy with the auxiliary pathway; None if the network has none."""
    full_spike: float
    """Accuracy of the full-spike network in floats."""
    folded: float
    """Accuracy of the folded network in floats."""
    quantised: dict[str, float]
    """Accuracy of the integer network, by the width of its weights in bits."""
    n_argmax_differences: int
    """Number of images that the training network and the folded network, both in float64, classify
    differently."""
    n_spike_differences: int
    """Number of spikes that differ between training and folded network, over all layers."""
    max_logit_difference: float
    """Largest difference between the logits of training and folded network."""
    intervals: dict[str, tuple[float, float]]
    """95 % confidence interval of each accuracy, in percent (:func:`sw.data.metrics.interval`), by
    the name of the accuracy's field or, for integer networks, by the width of the weights in bits.
    """
    density: dict[str, list[float]]
    """Share of neurons that fire, by layer and timestep, in the network with the widest weights."""
    membrane_bits: dict[str, int]
    """Smallest width in bits with which no membrane can overflow, by the width of the weights in
    bits."""


@torch.no_grad()
def compare_folding(
    model: SpikingResNet, folded: FoldedNetwork, split: Split, metric: str = "accuracy"
) -> dict[str, Any]:
    """Compare the training network ``model`` with the folded one, both in float64, on all samples.

    In the folded network, batch-norms and coefficients are part of the weights. Return fields of
    :class:`Evaluation` by name: the accuracies of both networks, and how much their predicted
    classes, spikes and logits differ. ``metric`` is ``accuracy`` or ``balanced``, the mean over
    classes. ``model`` itself is converted to float64.
    """
    model = model.to(torch.float64)
    predicted: dict[str, list[NDArray[np.int64]]] = {"both": [], "spike": [], "folded": []}
    n_argmax = n_spikes = 0
    worst = 0.0
    starts = tqdm(range(0, len(split), BATCH), "folding", leave=False, disable=None)
    for start in starts:
        images = split.images[start : start + BATCH]
        heads, maps = model.spike_maps(to_input(torch.from_numpy(images), torch.float64))
        trained = heads.spike.numpy()
        trace = simulate(folded, images, keep_spikes=True)
        worst = max(worst, float(np.abs(trained - trace.logits).max()))
        n_argmax += int((trained.argmax(axis=1) != trace.predictions).sum())
        for name, spikes in trace.spikes.items():
            n_spikes += int((maps[name].transpose(0, 1).numpy() != spikes).sum())
        predicted["spike"].append(trained.argmax(axis=1))
        predicted["folded"].append(trace.predictions)
        if heads.aap is not None:
            predicted["both"].append((heads.spike + heads.aap).numpy().argmax(axis=1))
    found = {
        name: detail(np.concatenate(predicted[key]), split.labels)
        for name, key in FLOATS.items()
        if predicted[key]
    }
    return {
        **{name: found[name][metric] if name in found else None for name in FLOATS},
        "intervals": {name: interval(scores, metric) for name, scores in found.items()},
        "n_argmax_differences": n_argmax,
        "n_spike_differences": n_spikes,
        "max_logit_difference": worst,
    }


def evaluate(
    path: Path,
    split: Split,
    weight_bits: Sequence[int] = WEIGHT_BITS,
    *,
    metric: str = "accuracy",
    note: str = "",
    data: str | None = None,
) -> Evaluation:
    """Measure the checkpoint at ``path`` on the test samples ``split``, and return the
    measurements.

    Parameters
    ----------
    weight_bits : widths of weights in bits to quantise the network to.
    metric, note : fields of the result; see :class:`Evaluation`.
    data : name of the data set that the samples are from; None for the checkpoint's.

    Raises
    ------
    sw.model.checkpoint.CheckpointError
        The file is no checkpoint, or is damaged.
    sw.model.config.ModelError
        No device can run the network, for example because its leaks were learned.
    sw.convert.quantize.QuantizeError
        A bias or a threshold does not fit the device's width of parameters.
    """
    values = checkpoint.load(path)
    folded = fold.fold(values)
    compared = compare_folding(checkpoint.build(values), folded, split, metric)
    intervals: dict[str, tuple[float, float]] = compared.pop("intervals")
    accuracy: dict[str, float] = {}
    membrane_bits: dict[str, int] = {}
    density: dict[str, list[float]] = {}
    for bits in sorted(weight_bits):
        network = quantize.quantize(folded, bits)
        trace = reference.run(network, split.images, keep_spikes=False)
        scores = detail(trace.predictions, split.labels)
        accuracy[str(bits)] = scores[metric]
        intervals[str(bits)] = interval(scores, metric)
        bounds = quantize.proved_bounds(network)
        membrane_bits[str(bits)] = max(bound.n_bits for bound in bounds.values())
        density = {
            name: (trace.n_spikes[name].mean(axis=0) / np.prod(shape)).tolist()
            for name, shape in network.map_shapes().items()
        }
    return Evaluation(
        checkpoint=path.name,
        data=data or values["data"].get("name", catalogue.DEFAULT),
        note=note,
        metric=metric,
        n_images=len(split),
        quantised=accuracy,
        intervals=intervals,
        density=density,
        membrane_bits=membrane_bits,
        **compared,
    )


def as_text(result: Evaluation) -> str:
    """Return an evaluation as text for a terminal."""
    what = "balanced accuracy" if result.metric == "balanced" else "accuracy"
    note = f" ({result.note})" if result.note else ""
    lines = [
        f"{result.checkpoint}: {what} on {result.n_images:,} test images of {result.data}{note}",
        f"  {'':<26} with 95 % interval",
    ]

    def line(form: str, name: str, percent: float, more: str = "") -> str:
        return f"  {form:<26} {with_interval(percent, result.intervals[name])}{more}"

    if result.training_with_aap is not None:
        name = "training_with_aap"
        lines.append(line("training network with AAP", name, result.training_with_aap))
    lines += [
        line("full-spike, float", "full_spike", result.full_spike),
        line("folded, float", "folded", result.folded),
    ]
    for bits, accuracy in sorted(result.quantised.items(), key=lambda item: -int(item[0])):
        proved = f"   ({result.membrane_bits[bits]}-bit membranes proved enough)"
        lines.append(line(f"integers, {bits}-bit weights", bits, accuracy, proved))
    lines += [
        f"folded against training network in float64: {result.n_argmax_differences} classes, "
        f"{result.n_spike_differences} spikes differ; logits by {result.max_logit_difference:.1e}",
        "spike density of each map by timestep:",
    ]
    for name, density in result.density.items():
        lines.append(f"  {name:<20} " + " ".join(f"{100 * d:5.1f} %" for d in density))
    return "\n".join(lines)


@command(CheckpointError, DataError, ModelError, QuantizeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sw.evaluate`` with the arguments ``argv`` and return its exit code."""
    p = CommandParser(
        prog="python -m sw.evaluate",
        description="Print a checkpoint's accuracy on the test set: as trained, full-spike, folded "
        "and in integers;\nand the density of its spikes.",
        epilog=f"""examples:
  python -m sw.evaluate
  python -m sw.evaluate ckpt.pt --data-dir ~/fashion-mnist --n-images 1000 --bits 8 --json

exit codes: {EXIT_OK} done, {EXIT_BAD_INPUT} bad input (the message says what to do),
{EXIT_INTERRUPTED} interrupted""",
    )
    p.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        default=shipped.CHECKPOINT,
        help="checkpoint (default: the shipped one)",
    )
    p.add_argument("--data", help="data set, or path of your own (default: the checkpoint's)")
    p.add_argument(
        "--data-dir", help="folder of the data set (default: searched, see sw.train --help)"
    )
    p.add_argument("--n-images", type=int, default=0, help="only the first test images (0: all)")
    p.add_argument(
        "--bits", type=int, action="append", choices=WEIGHT_BITS, help="only this weight width"
    )
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = p.parse_args(argv)
    if args.n_images < 0:
        p.error("--n-images takes a number of at least 0")
    dataset = datasets.load_for(checkpoint.load(args.checkpoint), args.data_dir, args.data)
    test = dataset.test
    if args.n_images:
        first = slice(args.n_images)
        test = Split(images=test.images[first], labels=test.labels[first])
    result = evaluate(
        args.checkpoint,
        test,
        args.bits or WEIGHT_BITS,
        metric=dataset.metric,
        note=dataset.note,
        data=dataset.name,
    )
    print(json.dumps(asdict(result)) if args.json else as_text(result))
    return EXIT_OK
