"""Fine-tuning of an imported network for ``python -m sw.export --fine-tune``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sw.data.dataset import Dataset, calibration_samples
from sw.data.inputs import check_labels
from sw.exchange import integers
from sw.exchange.assembly import Imported
from sw.exchange.export import Images
from sw.network import reference
from sw.network.network import Network
from sw.training import tune
from sw.training.recipes import TrainConfig
from sw.training.summary import batch_size


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements of an integer network on some samples.

    ``accuracy`` is the fraction of samples that get the right class, or None if the classes are
    not known. ``n_spikes`` is the mean number of spikes per sample.
    """

    accuracy: float | None
    n_spikes: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Measurements of a network before and after fine-tuning.

    ``measured_on`` describes the samples of the measurements.
    """

    n_epochs: int
    n_samples: int
    """Number of training samples."""
    before: Measured
    after: Measured
    measured_on: str

    def as_text(self) -> str:
        """Return the report as a line for a terminal."""
        before, after = self.before, self.after
        text = f"fine-tuned {self.n_epochs} epochs of {self.n_samples:,} samples: "
        if before.accuracy is not None and after.accuracy is not None:
            text += f"accuracy {before.accuracy:.2%} becomes {after.accuracy:.2%}, "
        return (
            f"{text}{before.n_spikes:,.0f} spikes a sample become {after.n_spikes:,.0f} "
            f"(in integers, on {self.measured_on})"
        )


def fine_tuned(
    imported: Imported,
    dataset: Dataset,
    weight_bits: int,
    n_epochs: int,
    images: Images,
    say: Callable[[str], None],
) -> tuple[Imported, Tuning]:
    """Train an imported network in integers on the user's data.

    Returns the trained network, and measurements before and after the training.

    Parameters
    ----------
    weight_bits : width of the weights in bits.
    images : images to measure on before and after; at least one.
    say : called with lines about the progress.

    Raises
    ------
    sw.network.encoder.InputError
        The network does not take the samples, or a label is not one of its classes.
    sw.convert.quantize.QuantizeError
        A bias or a threshold does not fit its width, whichever quantisation scale is chosen.
    sw.training.resume.TrainError
        There are too few samples, or the loss is not finite.
    """
    folded = imported.folded
    before = measure(
        integers.quantised(imported, weight_bits, calibration=images.calibration), images
    )
    check_labels(dataset.train.labels, len(folded.labels), f"the training data of {dataset.name}")
    n_samples = len(dataset.train)
    config = TrainConfig(
        preset=dataset.name,
        epochs=n_epochs,
        batch_size=batch_size(tune.BATCH, n_samples, 1),
        learning_rate=tune.LEARNING_RATE,
        warmup_epochs=0.5,
        shift_px=0,
        flip=False,
    )
    say(f"fine-tuning integers of {weight_bits} bits: {n_epochs} epochs of {n_samples:,} samples")
    network = tune.fine_tune(
        folded,
        weight_bits,
        dataset,
        config,
        calibration=calibration_samples(dataset),
        frozen=integers.or_layers(folded),
        on_epoch=lambda epoch, loss: say(f"epoch {epoch}/{n_epochs}: loss {loss:.4f}"),
    )
    record = {"data": dataset.name, "epochs": n_epochs, "n_samples": n_samples}
    network = replace(network, provenance=network.provenance | {"fine_tuned": record})
    # The scales are the network's own from now on, not those of the file.
    ones = {name: np.ones_like(values) for name, values in imported.multipliers.items()}
    tuned = replace(imported, folded=network, multipliers=ones)
    return tuned, Tuning(
        n_epochs=n_epochs,
        n_samples=n_samples,
        before=before,
        after=measure(integers.quantised(tuned, weight_bits), images),
        measured_on=images.what,
    )


def measure(network: Network, images: Images) -> Measured:
    """Run an integer network on one or more images, and return its accuracy and number of
    spikes.
    """
    assert images.images is not None
    trace = reference.run(network, images.images, keep_spikes=False)
    right = None if images.labels is None else float(np.mean(trace.predictions == images.labels))
    n_spikes = sum(int(counts.sum()) for counts in trace.n_spikes.values())
    return Measured(accuracy=right, n_spikes=n_spikes / max(1, len(images.images)))
