"""Recipes: what is trained, on which data, and how. ``python -m sw.train --recipe NAME``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sw.beats import N_CHANNELS, N_SAMPLES
from sw.model import (
    PER_TIMESTEP,
    BlockConfig,
    ModelConfig,
    NeuronConfig,
    StageConfig,
    fashion_mnist,
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained: AdamW, linear warm-up, cosine to zero, random shifts and flips."""

    preset: str = "fashion-mnist"
    """Name of the recipe."""
    epochs: int = 13
    batch_size: int = 100
    """Of all processes together."""
    learning_rate: float = 5e-3
    coefficient_rate: float = 1.0
    """Learning rate of the Real-Spike coefficients, relative to the others'."""
    weight_decay: float = 0.02
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.05
    class_power: float = 0.0
    """Weight each sample with its class's frequency to minus this power."""
    spike_penalty: float = 0.0
    """Weight of the spikes' cost in the loss, see :func:`sw.train.spike_cost`."""
    teacher: str = ""
    """SHA-256 of the checkpoint of the network to learn from, see :func:`sw.train.loss_of`."""
    teacher_weight: float = 0.9
    """Share of the teacher in the loss; the rest is the labels'."""
    temperature: float = 2.0
    """By which the logits of both are divided to be compared."""
    weight_bits: int = 0
    """Train the integers of a device with weights of this width (:mod:`sw.finetune`); 0: floats."""
    shift_px: int = 2
    flip: bool = True
    amp: bool = False
    """Convolutions in bfloat16 (not with ``weight_bits``, whose integers need float32)."""
    seed: int = 1
    max_images: int = 0
    """Train on the first images only; 0: all."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A data set (see :func:`sw.data.load`), a network and its training."""

    data: str
    model: ModelConfig
    train: TrainConfig
    why: str


def _blocks(n: int, gate: str = "OR", inner: str = "channel", outer: str = "channel") -> tuple:
    return (BlockConfig(gate=gate, inner=inner, outer=outer),) * n


def fashion_mnist_icebreaker() -> ModelConfig:
    """Fits 16,384 rows of 16 4-bit weights, 4,096 bytes of spikes and 512 pairs of parameters."""
    last = BlockConfig(gate="OR", inner="channel", outer="element" + PER_TIMESTEP)
    return ModelConfig(
        timesteps=3,
        stem_channels=40,
        stem_kernel=5,
        stem_stride=2,
        stages=(StageConfig(channels=64, stride=2, blocks=(*_blocks(1), last)),),
    )


def fashion_mnist_85f() -> ModelConfig:
    """Fills the ULX3S-85F's 11,264 rows of 32 8-bit weights: channels where maps are small."""
    last = BlockConfig(gate="OR", inner="channel", outer="element")
    return ModelConfig(
        stem_channels=32,
        stem_kernel=5,
        stages=(
            StageConfig(channels=64, stride=2, blocks=_blocks(2)),
            StageConfig(channels=96, stride=2, blocks=(last,)),
        ),
    )


def fashion_mnist_teacher() -> ModelConfig:
    """Ordinary network of ReLUs, with 1.4 times the additions of :func:`fashion_mnist_85f` if all
    of that one's neurons fired, but of real numbers: its maps are larger, its timesteps one."""
    block = BlockConfig(gate="ADD", inner="none", outer="none")
    return ModelConfig(
        timesteps=1,
        spiking=False,
        aap=False,
        stem_channels=48,
        stem_kernel=5,
        stem_coefficient="none",
        stages=(
            StageConfig(channels=64, blocks=(block,)),
            StageConfig(channels=128, stride=2, blocks=(block,) * 2),
            StageConfig(channels=192, stride=2, blocks=(block,)),
        ),
    )


def fashion_mnist_large() -> ModelConfig:
    """Fits the ULX3S-85F built for 4-bit weights, of which it stores 720,896."""
    return ModelConfig(
        stem_channels=48,
        stages=(
            StageConfig(channels=48, blocks=_blocks(1)),
            StageConfig(channels=96, stride=2, blocks=_blocks(1)),
            StageConfig(channels=128, stride=2, blocks=_blocks(1, outer="element" + PER_TIMESTEP)),
        ),
    )


def nmnist() -> ModelConfig:
    """Event frames of 34 x 34; the stem, on the device, halves them twice."""
    last = BlockConfig(gate="OR", inner="channel", outer="element")
    return ModelConfig(
        image_shape=(2, 34, 34),
        frames=True,
        stem_channels=16,
        stem_stride=2,
        stages=(
            StageConfig(channels=32, blocks=_blocks(1)),
            StageConfig(channels=32, stride=2, blocks=(last,)),
        ),
    )


def mitbih() -> ModelConfig:
    """Heartbeats of 128 samples, with what is unusual about them for the patient, and the intervals
    to their neighbours."""
    last = BlockConfig(gate="OR", inner="channel", outer="element" + PER_TIMESTEP)
    return ModelConfig(
        image_shape=(N_CHANNELS, 1, N_SAMPLES),
        n_classes=4,
        stem_channels=24,
        stem_kernel=7,
        stem_stride=2,
        stages=(
            StageConfig(channels=32, stride=2, blocks=_blocks(1)),
            StageConfig(channels=48, stride=2, blocks=(last,)),
        ),
    )


def cifar10() -> ModelConfig:
    """Three stages of 3 blocks, wide: for a GPU."""
    return ModelConfig(
        image_shape=(3, 32, 32),
        stem_channels=128,
        stem_pool=1,
        stages=(
            StageConfig(channels=128, blocks=_blocks(3)),
            StageConfig(channels=256, stride=2, blocks=_blocks(3)),
            StageConfig(channels=512, stride=2, blocks=_blocks(3)),
        ),
        neuron=NeuronConfig(surrogate="arctan", surrogate_slope=2.0),
    )


def cifar10_85f() -> ModelConfig:
    """Fills the ULX3S-85F's 11,264 rows of 32 8-bit weights."""
    last = BlockConfig(gate="OR", inner="channel", outer="element")
    return ModelConfig(
        image_shape=(3, 32, 32),
        stem_channels=48,
        stages=(
            StageConfig(channels=64, stride=2, blocks=_blocks(2)),
            StageConfig(channels=96, stride=2, blocks=(last,)),
        ),
    )


def events_128(n_classes: int, timesteps: int) -> ModelConfig:
    """Event frames of 128 x 128: seven blocks, each followed by a smaller map."""
    return ModelConfig(
        timesteps=timesteps,
        image_shape=(2, 128, 128),
        frames=True,
        n_classes=n_classes,
        stem_channels=32,
        stem_stride=2,
        stages=tuple(
            StageConfig(channels=channels, stride=2 if n else 1, blocks=_blocks(2))
            for n, channels in enumerate((32, 64, 64, 64))
        ),
    )


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
            train=TrainConfig(epochs=20, label_smoothing=0.0, weight_decay=0.05),
            why="teaches the others (--teacher); an hour of one CPU core",
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


RECIPES = _recipes()


def for_own_data(
    data: str, image_shape: tuple[int, int, int], n_classes: int, n_frames: int | None
) -> Recipe:
    """A small network for a user's own data: images, or recordings of ``n_frames``."""
    model = replace(
        fashion_mnist() if n_frames is None else replace(nmnist(), timesteps=n_frames),
        image_shape=image_shape,
        n_classes=n_classes,
    )
    return Recipe(
        data=data,
        model=model,
        train=TrainConfig(preset=data, flip=False),
        why="own data",
    )
