"""A network's outline: its layers without trained numbers, to see which boards it fits.

How much of each memory a network needs follows from its configuration alone. Only one check depends
on the weights: whether the device has enough bits for membranes and for the sums of its banks. In
an outline all weights are 0, so this check always passes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sw.convert.fold import TrainedLayer, check, trained_layers
from sw.data.labels import default_names
from sw.model.config import LEARNED, ModelConfig, NeuronConfig
from sw.model.resnet import SpikingResNet
from sw.network.network import Layer, Network


def outline(config: ModelConfig, weight_bits: int) -> Network:
    """Return the integer network of a configuration, with weights and biases of 0.

    Learned leaks are replaced by the sums of shifts to which they are rounded after training.

    Raises
    ------
    sw.model.config.ModelError
        No device can run such a network (:func:`sw.convert.fold.check`).
    """
    neurons = {name: _rounded(neuron) for name, neuron in config.neurons.items()}
    with torch.device("meta"):  # without memory for parameters
        model = SpikingResNet(replace(config, neuron=_rounded(config.neuron), neurons=neurons))
    check(model)
    layers = tuple(map(_layer, trained_layers(model)))
    return Network(
        timesteps=config.timesteps,
        image_shape=config.image_shape,
        encoder=None if config.frames else layers[0],
        layers=layers if config.frames else layers[1:],
        weight_bits=weight_bits,
        labels=default_names(config.n_classes),
        provenance={},
    )


def _rounded(neuron: NeuronConfig) -> NeuronConfig:
    return replace(neuron, leak="SUBTRACT") if neuron.leak == LEARNED else neuron


@torch.no_grad()
def _layer(trained: TrainedLayer) -> Layer:
    weight, bias = trained.folded()
    # One scale per neuron: neurons with weights of their own have thresholds of their own.
    threshold = None if trained.neuron is None else np.ones(tuple(weight.shape[1:4]), np.int32)
    return Layer(
        weight=np.zeros(tuple(weight.shape), np.int8),
        bias=np.zeros(tuple(bias.shape), np.int32),
        threshold=threshold,
        **trained.structure(),
    )
