"""Describe a training run in a few lines, which are printed when it starts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sw.data.dataset import Dataset, Split
from sw.model.config import ModelConfig, ModelError
from sw.model.resnet import SpikingResNet
from sw.training.recipes import OWN_BOARD, TrainConfig
from sw.training.sizing import board_fits, remedies

DARK = 1
"""Largest pixel value of images that are suspected to hold truth values (0 and 1) instead of
pixels."""
FEW_BATCHES = 4
"""Smallest number of batches in an epoch, unless the user chose the size of a batch."""
MOST_CLASSES = 6
"""Largest number of classes whose names are printed."""


def batch_size(wanted: int, n_images: int, n_processes: int) -> int:
    """Return the size of a batch for ``n_images`` training images: ``wanted``, or smaller.

    An epoch has at least :data:`FEW_BATCHES` batches, if there are enough images. The result is a
    multiple of the number of processes.
    """
    most = max(1, n_images // FEW_BATCHES)
    return max(1, min(wanted, most) // n_processes) * n_processes if most < wanted else wanted


def summary(
    dataset: Dataset, model: ModelConfig, config: TrainConfig, device: torch.device
) -> Iterator[str]:
    """Yield lines on data, network, settings, and the boards that the network will fit."""
    yield from _data(dataset, config)
    yield _network(model)
    bits = f", integers of {config.weight_bits} bits" if config.weight_bits else ""
    where = f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
    yield (
        f"training  recipe {config.preset}: {config.epochs} epochs, batches of "
        f"{config.batch_size}, learning rate {config.learning_rate:g}{bits}, on {where}"
    )
    yield from _boards(model)


def _data(dataset: Dataset, config: TrainConfig) -> Iterator[str]:
    shape = dataset.train.images.shape[1:]
    what = f"images of {_times(shape)}" if len(shape) == 3 else f"{shape[0]} frames of "
    what += "" if len(shape) == 3 else _times(shape[1:])
    n_train = min(config.max_images or len(dataset.train), len(dataset.train))
    names = ", ".join(dataset.labels[:MOST_CLASSES])
    names += ", ..." if len(dataset.labels) > MOST_CLASSES else ""
    form = f", {dataset.form}" if dataset.form else ""
    yield f"data      {dataset.name} ({dataset.place}{form})"
    yield (
        f"          {n_train:,} for training, {len(dataset.validation):,} for validation, "
        f"{len(dataset.test):,} for testing; {what} (channels x rows x columns)"
    )
    yield f"          {len(dataset.labels)} classes: {names}"
    if dataset.note:
        yield f"          note: {dataset.note}"
    if len(shape) == 3 and _is_dark(dataset.train):
        yield (
            "          note: no pixel is above 1 of 255; if they are truth values, give them as "
            "such (dtype bool) or times 255"
        )


def _is_dark(split: Split) -> bool:
    return bool(split.images.max(initial=0) <= DARK)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _network(model: ModelConfig) -> str:
    with torch.device("meta"):
        net = SpikingResNet(model)
    n_parameters = sum(p.numel() for p in net.parameters())
    channels = ", ".join(str(stage.channels) for stage in model.stages)
    return (
        f"network   {n_parameters:,} parameters, {model.timesteps} timesteps; stem of "
        f"{model.stem_channels} channels, stages of {channels}"
    )


def _boards(model: ModelConfig) -> Iterator[str]:
    try:
        found = board_fits(model)
    except ModelError as error:
        yield f"boards    none: {error}"
        return
    fits = [board.board for board in found if not board.problem]
    if fits:
        others = len(found) - len(fits)
        more = f"; too large for {others} other{'s' if others > 1 else ''}" if others else ""
        leaks = "" if model.exportable else ", once its leaks are rounded (--round-leaks)"
        yield f"boards    will fit {', '.join(fits)}{more}{leaks}"
        return
    yield "boards    will fit none: " + "; ".join(f"{b.board} ({b.problem})" for b in found[:2])
    yield from (f"          would fit {OWN_BOARD} with {r}" for r in remedies(model, OWN_BOARD))
