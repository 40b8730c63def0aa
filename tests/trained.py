"""Small networks and checkpoints for tests; their random parameters resemble trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sw.model import checkpoint
from sw.model.config import BlockConfig, ModelConfig, NeuronConfig, StageConfig
from sw.model.modules import Coefficient
from sw.model.resnet import SpikingResNet

IMAGE_SHAPE = (1, 14, 10)
CHECKPOINT_SEED = 5
"""Seed with which :func:`a_checkpoint` makes its network; the checkpoint's ``train_config``
contains it."""


def small_config(**changes: object) -> ModelConfig:
    """Return the configuration of a small network that uses many features.

    Its weights are shared by layer, by channel, or not at all (``element``), both with and without
    weights per timestep. It also has a strided convolution with unshared weights, three kinds of
    gate, and maps that are not square.
    """
    values: dict = {
        "timesteps": 3,
        "image_shape": IMAGE_SHAPE,
        "n_classes": 10,
        "stem_channels": 6,
        "stem_coefficient": "element/per-timestep",
        "stages": (
            StageConfig(
                channels=6,
                blocks=(
                    BlockConfig(gate="OR", inner="layer", outer="channel"),
                    BlockConfig(gate="XOR", inner="channel/per-timestep", outer="element"),
                ),
            ),
            StageConfig(
                channels=8,
                stride=2,
                blocks=(BlockConfig(gate="IAND", inner="element", outer="element/per-timestep"),),
            ),
        ),
        **changes,
    }
    return ModelConfig(**values)


def lived_in(config: ModelConfig, seed: int = 0) -> SpikingResNet:
    """Return a network in eval mode with random coefficients, gains, biases and batch-norm
    statistics.

    Some gains and coefficients are negative.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = SpikingResNet(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                n, shape = module.num_features, module.running_mean.shape
                module.weight.copy_(torch.randn(n, generator=generator) * 0.5 + 1)
                module.bias.copy_(torch.randn(n, generator=generator) * 0.3 + 0.3)
                module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.2)
                module.running_var.copy_(torch.rand(shape, generator=generator) + 0.3)
            elif isinstance(module, Coefficient) and module.value is not None:
                module.value.copy_(1 + 0.4 * torch.randn(module.value.shape, generator=generator))
    return model.eval()


def images(n_images: int, seed: int = 0) -> np.ndarray:
    """Return random uint8 images (N, 1, 14, 10); the first is black, the second white."""
    rng = np.random.default_rng(seed)
    result = rng.integers(0, 256, (n_images, *IMAGE_SHAPE), np.uint8)
    result[:1], result[1:2] = 0, 255
    return result


LIF = NeuronConfig(leak="SUBTRACT", leak_shift=2)
KEEP_SOFT = NeuronConfig(leak="KEEP", leak_shift=1, reset="SOFT", threshold=0.75)


def a_checkpoint(path: Path, **changes: Any) -> Path:
    """Write the checkpoint of a small random network, and return its path.

    Some of the network's layers have shared weights, others have weights for each position and
    timestep. ``changes`` replace values of the checkpoint.
    """
    torch.manual_seed(CHECKPOINT_SEED)
    config = ModelConfig(
        timesteps=2,
        image_shape=(1, 12, 12),
        stem_channels=8,
        stages=(
            StageConfig(channels=8, blocks=(BlockConfig(gate="OR"),)),
            StageConfig(
                channels=16,
                stride=2,
                blocks=(BlockConfig(gate="IAND", inner="element", outer="element/per-timestep"),),
            ),
        ),
    )
    model = SpikingResNet(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.uniform_(module.bias, -0.2, 0.6)
    values = {
        "model_config": config.to_dict(),
        "model": model.state_dict(),
        "train_config": {"seed": CHECKPOINT_SEED},
        "data": {"name": "fashion-mnist"},
        "history": [],
        "results": {"full_spike": 12.5},
    }
    checkpoint.save(path, values | changes)
    return path
