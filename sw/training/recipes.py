"""Recipes of ``python -m sw.train --recipe``: each names a data set, a network and its training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hw.boards.configs import BOARDS
from sw.model.config import ModelConfig
from sw.model.presets import (
    cifar10,
    cifar10_85f,
    events_128,
    fashion_mnist,
    fashion_mnist_85f,
    fashion_mnist_icebreaker,
    fashion_mnist_large,
    fashion_mnist_teacher,
    mitbih,
    nmnist,
)
from sw.training.sizing import first_that_fits, smaller


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training with AdamW; the learning rate warms up, then falls along a cosine."""

    preset: str = "fashion-mnist"
    """Name of the recipe, one of :data:`RECIPES`; for the user's own data, name of the data set."""
    epochs: int = 13
    """Number of passes over the training data."""
    timestep_schedule: str = ""
    """Numbers of timesteps to train with, one after the other (:mod:`sw.training.schedule`); empty:
    the network's own number throughout."""
    batch_size: int = 100
    """Number of samples per step; several processes divide them among themselves."""
    learning_rate: float = 5e-3
    """Learning rate after warm-up."""
    coefficient_rate: float = 1.0
    """Learning rate of the Real-Spike coefficients relative to ``learning_rate``."""
    weight_decay: float = 0.02
    """Weight decay of the weights of convolutions and classifiers."""
    warmup_epochs: float = 1.0
    """Number of epochs in which the learning rate grows linearly from 0."""
    label_smoothing: float = 0.05
    """Share of the label's probability that is spread over all classes."""
    class_power: float = 0.0
    """Exponent p of the class weights: the weight of a sample in the loss is proportional to n **
    -p, where n is the number of samples of its class. 0 gives all samples equal weights."""
    max_per_class: int = 0
    """Largest number of samples of a class in an epoch, drawn anew for each epoch; 0 means no
    limit."""
    spike_penalty: float = 0.0
    """Weight of :func:`sw.training.loss.spike_cost` in the loss."""
    teacher: str = ""
    """SHA-256 of the teacher's checkpoint, see :func:`sw.training.loss.loss_of`; empty without a
    teacher."""
    teacher_weight: float = 0.9
    """Weight w, from 0 to 1, of the loss that compares with the teacher's predictions; the loss
    that compares with the labels has the weight 1 - w."""
    teacher_from: int = 1
    """First epoch, counted from 1, in which the network learns from the teacher."""
    temperature: float = 2.0
    """Divisor of student's and teacher's logits in the loss that compares them."""
    weight_bits: int = 0
    """Width in bits of integer weights to train with (:mod:`sw.training.finetune`); 0 trains in
    floating point."""
    shift_px: int = 2
    """Largest random shift of a sample along each axis, in pixels."""
    flip: bool = True
    """Whether samples are mirrored at random."""
    erase: float = 0.0
    """Probability that a random rectangle of a sample is erased (:mod:`sw.training.augment`)."""
    amp: bool = False
    """Whether convolutions use bfloat16; not with ``weight_bits``, whose integers need float32."""
    seed: int = 1
    """Seed of initial parameters, batches and augmentation."""
    max_images: int = 0
    """Number of training samples to use, from the first on; 0 uses all."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Data set, network and training options of a named training run."""

    data: str
    """Name of the data set, which :func:`sw.data.catalogue.load` takes."""
    model: ModelConfig
    """Network to train."""
    train: TrainConfig
    """Settings of the training."""
    why: str
    """Remark for the help text: purpose and duration."""


def _recipes() -> dict[str, Recipe]:
    gpu = TrainConfig(epochs=300, batch_size=128, learning_rate=2e-3, weight_decay=0.05, amp=True)
    recipes = {
        "fashion-mnist": Recipe(
            data="fashion-mnist",
            model=fashion_mnist(),
            train=TrainConfig(),
            why="the shipped network; 1.5 hours of one CPU core",
        ),
        "fashion-mnist-icebreaker": Recipe(
            data="fashion-mnist",
            model=fashion_mnist_icebreaker(),
            train=TrainConfig(epochs=20),
            why="fits the iCEBreaker's UP5K; 20 minutes of one CPU core",
        ),
        "fashion-mnist-85f": Recipe(
            data="fashion-mnist",
            model=fashion_mnist_85f(),
            train=TrainConfig(epochs=20),
            why="fills the ULX3S-85F; about an hour of one CPU core",
        ),
        "fashion-mnist-teacher": Recipe(
            data="fashion-mnist",
            model=fashion_mnist_teacher(),
            train=TrainConfig(epochs=60, label_smoothing=0.0, weight_decay=0.05, erase=0.5),
            why="teaches the others (--teacher); two to three hours of one CPU core",
        ),
        "fashion-mnist-large": Recipe(
            data="fashion-mnist",
            model=fashion_mnist_large(),
            train=replace(gpu, epochs=200, shift_px=2),
            why="fills more of the ULX3S-85F, built for 4-bit weights; for a GPU, not run yet",
        ),
        "nmnist": Recipe(
            data="nmnist",
            model=nmnist(),
            train=TrainConfig(epochs=40, batch_size=50, flip=False, shift_px=2),
            why="event camera; minutes of one CPU core with the subset",
        ),
        "mitbih": Recipe(
            data="mitbih",
            model=mitbih(),
            train=TrainConfig(
                epochs=6,
                learning_rate=3e-3,
                flip=False,
                shift_px=3,
                class_power=1.0,
                weight_decay=0.05,
            ),
            why="heartbeats, inter-patient; 10 minutes of one CPU core",
        ),
        "cifar10": Recipe(
            data="cifar10",
            model=cifar10(),
            train=replace(gpu, shift_px=4),
            why="for a GPU; wider than any board's memories",
        ),
        "cifar10-85f": Recipe(
            data="cifar10",
            model=cifar10_85f(),
            train=TrainConfig(epochs=10),
            why="fits the ULX3S-85F; three quarters of an hour of one CPU core",
        ),
        "cifar10-dvs": Recipe(
            data="cifar10-dvs",
            model=events_128(10, 16),
            train=replace(gpu, epochs=100, batch_size=32, shift_px=8),
            why="event camera; for a GPU",
        ),
        "dvs-gesture": Recipe(
            data="dvs-gesture",
            model=events_128(11, 16),
            train=replace(gpu, epochs=150, batch_size=16, flip=False, shift_px=8),
            why="event camera; for a GPU",
        ),
    }
    return {
        name: replace(recipe, train=replace(recipe.train, preset=name))
        for name, recipe in recipes.items()
    }


OWN_BOARD = "ulx3s-85f"
"""Board that the default network for a user's own data should fit."""
RECIPES = _recipes()
"""Recipes by name."""


def for_own_data(
    data: str, image_shape: tuple[int, int, int], n_classes: int, n_frames: int | None
) -> Recipe:
    """Return a recipe with a small network for the user's own data set, called ``data``.

    For images, the network is that of the recipe for Fashion-MNIST; for event recordings, that of
    the recipe for N-MNIST. It is made smaller until it fits :data:`OWN_BOARD`
    (:func:`sw.training.sizing.smaller`). If no size fits this board, the other boards are tried one
    after another in the same way.

    ``n_frames`` is the number of frames of a sample if samples are event recordings; None if they
    are images. ``image_shape`` is the shape (C, H, W) of an image or frame.
    """
    model = replace(
        fashion_mnist() if n_frames is None else replace(nmnist(), timesteps=n_frames),
        image_shape=image_shape,
        n_classes=n_classes,
    )
    boards = (OWN_BOARD, *(board for board in BOARDS if board != OWN_BOARD))
    return Recipe(
        data=data,
        model=first_that_fits(smaller(model), boards),
        train=TrainConfig(preset=data, flip=False),
        why="own data",
    )
