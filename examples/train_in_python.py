"""Train a network from Python code, quantise it to integers, and run the integer network.

The data are images of noisy stripes in three directions. Run ``python
examples/train_in_python.py``. It reports every epoch on standard error, and prints::

    test accuracy in floats:   100.0%
    test accuracy in integers: 100.0%
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from sw.convert import fold, quantize
from sw.data.dataset import Parts, Split, assemble, calibration_samples
from sw.model.config import BlockConfig, ModelConfig, StageConfig
from sw.network import reference
from sw.training.loop import train
from sw.training.recipes import TrainConfig

LABELS = ("rows", "columns", "diagonals")
SIZE = 12


def stripes(n_images: int, seed: int) -> Split:
    """Return images uint8 (N, 1, 12, 12) of stripes, and their classes (N,)."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_images) % len(LABELS)
    y, x = np.mgrid[:SIZE, :SIZE]
    phase = np.stack([y, x, x + y])[labels] + random.integers(0, 4, (n_images, 1, 1))
    images = 120 * (phase % 4 < 2) + random.integers(0, 100, phase.shape)
    return Split(images=images.astype(np.uint8)[:, None], labels=labels)


def main() -> None:
    """Train a network, fold and quantise it, and run it with integers.

    To run it on a board, write it to a file with ``netfile.save``.
    """
    torch.set_num_threads(1)  # enough for a network this small
    parts = Parts(train=stripes(300, 1), validation=stripes(60, 2), test=stripes(90, 3))
    data = assemble(parts, "stripes", LABELS, "memory")
    model = ModelConfig(
        image_shape=(1, SIZE, SIZE),
        n_classes=len(LABELS),
        stem_channels=8,
        stages=(StageConfig(channels=8, blocks=(BlockConfig(gate="OR"),)),),
    )
    with tempfile.TemporaryDirectory() as folder:  # train writes a checkpoint after every epoch
        settings = TrainConfig(epochs=4, batch_size=10, flip=False)
        checkpoint = train(model, settings, data, Path(folder) / "stripes.pt")
    folded = fold.fold(checkpoint)  # batch-norm and coefficients become weights
    network = quantize.quantize(folded, weight_bits=4, calibration=calibration_samples(data))
    trace = reference.run(network, data.test.images)  # what every board computes, bit for bit
    print(f"test accuracy in floats:   {checkpoint['results']['test']['spike']:.1f}%")
    print(f"test accuracy in integers: {np.mean(trace.predictions == data.test.labels):.1%}")


if __name__ == "__main__":
    main()
