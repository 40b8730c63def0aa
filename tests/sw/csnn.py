"""A SpikingJelly network for tests of the import from SpikingJelly."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

T = 4
"""Number of timesteps that tests run the network for."""


class CSNN(nn.Module):
    """Network of SpikingJelly's example conv_fashion_mnist.py, for images of ``size`` x ``size``
    pixels. ``make`` is called for each of its layers of neurons.
    """

    def __init__(self, channels: int, size: int = 12, make: Any = neuron.IFNode):
        super().__init__()
        quarter = size // 4
        self.conv_fc = nn.Sequential(
            layer.Conv2d(1, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            make(),
            layer.MaxPool2d(2, 2),
            layer.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            make(),
            layer.MaxPool2d(2, 2),
            layer.Flatten(),
            layer.Linear(channels * quarter * quarter, channels * 16, bias=False),
            make(),
            layer.Linear(channels * 16, 10, bias=False),
            make(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_fc(x)
