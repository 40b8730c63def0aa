"""Fine-tuning of a folded network, such as one from another framework, in the device's integers.

The network's layers are trained as they are, without the modules that they were folded from. The
forward pass computes what the device will compute (:mod:`sw.training.finetune`), so that training
compensates for rounded weights, and for leaks that only approximate those of the original
framework.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hw.spec import PARAM_BITS, Gate
from sw.convert import quantize
from sw.convert.folded import FoldedLayer, FoldedNetwork, Scales, simulate
from sw.data.dataset import Dataset
from sw.model.config import NeuronConfig
from sw.network.network import IMAGE
from sw.training.finetune import FloatLayer, IntegerLayers
from sw.training.loop import train_epoch
from sw.training.recipes import TrainConfig

LEARNING_RATE = 0.02
"""Default learning rate, relative to the size of a layer's weights (root mean square)."""
BATCH = 50
"""Default number of training samples in a batch."""
LOGIT_SPREAD = 2.0
"""Standard deviation to which class scores are scaled before the loss. The scores of other
frameworks' networks may be far larger or smaller, which would give no useful gradients."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Layer:
    """Layer whose weight and bias are trained, in units of its neurons' thresholds.

    ``folded_layer`` has everything else; ``neuron`` is None in the output layer.
    """

    folded_layer: FoldedLayer
    weight: Tensor
    bias: Tensor
    neuron: NeuronConfig | None

    @property
    def name(self) -> str:
        return self.folded_layer.name

    @property
    def sources(self) -> tuple[str, ...]:
        return self.folded_layer.sources

    @property
    def reads_image(self) -> bool:
        return self.folded_layer.source == IMAGE

    @property
    def gate(self) -> Gate:
        return self.folded_layer.gate

    @property
    def identity(self) -> str | None:
        return self.folded_layer.identity

    @property
    def pool(self) -> tuple[int, int]:
        return self.folded_layer.pool

    def folded(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias

    def structure(self) -> dict[str, Any]:
        return self.folded_layer.structure()


class FoldedNet(IntegerLayers):
    """Integer network that trains the weights and biases of the folded network from which it is
    made.

    Parameters
    ----------
    network : folded network in which every threshold is 1 (:func:`in_thresholds`).
    scales : its quantisation scales.
    logit_unit : divisor of the class scores, which brings them to a size that suits the loss.
    frozen : names of the layers that are not trained.
    """

    def __init__(
        self,
        network: FoldedNetwork,
        scales: Scales,
        logit_unit: float = 1.0,
        frozen: Collection[str] = (),
    ):
        super().__init__(scales, network.timesteps, network.encoder is None)
        self.network = network
        self.logit_unit = logit_unit
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        for layer in all_layers(network):
            trains = layer.name not in frozen
            for store, values in ((self.weights, layer.weight), (self.biases, layer.bias)):
                parameter = nn.Parameter(torch.from_numpy(values.copy()), requires_grad=trains)
                store[_key(layer.name)] = parameter

    def layers(self) -> Sequence[FloatLayer]:
        return [
            _Layer(
                folded_layer=layer,
                weight=self.weights[_key(layer.name)],
                bias=self.biases[_key(layer.name)],
                neuron=None if layer.output else _neuron(layer),
            )
            for layer in all_layers(self.network)
        ]

    def forward(self, images: Tensor, record: Any = None) -> Any:
        logits = super().forward(images, record)
        return logits._replace(spike=logits.spike / self.logit_unit)

    def tuned(self) -> FoldedNetwork:
        """Return the folded network with the trained weights and biases, and with its quantisation
        scales.
        """
        layers = [
            replace(
                layer,
                weight=self.weights[_key(layer.name)].detach().numpy().copy(),
                bias=self.biases[_key(layer.name)].detach().numpy().copy(),
            )
            for layer in all_layers(self.network)
        ]
        has_encoder = self.network.encoder is not None
        return replace(
            self.network,
            encoder=layers[0] if has_encoder else None,
            layers=tuple(layers[has_encoder:]),
            scales=self.scales,
        )


def fine_tune(
    network: FoldedNetwork,
    weight_bits: int,
    dataset: Dataset,
    config: TrainConfig,
    *,
    calibration: NDArray[np.uint8],
    frozen: Collection[str] = (),
    on_epoch: Callable[[int, float], object] = lambda epoch, loss: None,
) -> FoldedNetwork:
    """Train a folded network in integers, and return it with the scales that it was trained with.

    :func:`sw.convert.quantize.quantize` turns the result into exactly the integers that were
    trained.

    Parameters
    ----------
    weight_bits : width of the weights in bits.
    dataset : data whose training samples are learned.
    config : epochs, size of a batch, learning rate and so on; the learning rate is relative to the
        size of a layer's weights.
    calibration : training samples by which the scales are chosen and the first biases corrected.
    frozen : names of layers that are neither trained nor scaled. Their weights, biases and
        thresholds must be integers already.
    on_epoch : called after each epoch with its number, counted from 1, and its mean loss.

    Raises
    ------
    sw.convert.quantize.QuantizeError
        A bias or a threshold does not fit its width, whichever scale is chosen.
    sw.training.resume.TrainError
        There are fewer samples than a batch needs, or the loss is not finite.
    """
    plain = in_thresholds(replace(network, scales=None), frozen)
    _, scales, shifts = quantize.quantize_with_scales(
        plain, weight_bits, param_bits=PARAM_BITS, calibration=calibration
    )
    thresholds = {
        name: np.ones_like(values) if name in frozen else values
        for name, values in scales.thresholds.items()
    }
    scales = replace(scales, thresholds=thresholds)
    spread = float(simulate(plain, calibration).logits.std()) or 1.0
    net = FoldedNet(plain, scales, spread / LOGIT_SPREAD, frozen)
    with torch.no_grad():
        for name, shift in shifts.items():
            if name not in frozen:
                net.biases[_key(name)].add_(torch.from_numpy(shift))
    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(_groups(net), lr=config.learning_rate, weight_decay=0.0)
    for epoch in range(config.epochs):
        on_epoch(epoch + 1, train_epoch(net, optimizer, dataset, config, epoch))
    return net.tuned()


def _groups(net: FoldedNet) -> list[dict[str, Any]]:
    """Return the optimiser's groups of parameters, one for each layer that is trained.

    A group's ``rate``, the factor of its learning rate, is the root mean square of the layer's
    weights. So the weights of all layers change by about the same share.
    """
    groups = []
    for name, weight in net.weights.items():
        if weight.requires_grad:
            size = float(weight.detach().square().mean().sqrt())
            groups.append({"params": [weight, net.biases[name]], "rate": size or 1.0})
    return groups


def all_layers(network: FoldedNetwork) -> tuple[FoldedLayer, ...]:
    """Return all layers of a network, with the encoder first if it has one."""
    return (*([] if network.encoder is None else [network.encoder]), *network.layers)


def in_thresholds(network: FoldedNetwork, frozen: Collection[str] = ()) -> FoldedNetwork:
    """Return a network with thresholds of 1 that computes the same spikes and logits.

    Weights and biases are divided by the thresholds. Layers named in ``frozen`` stay as they are.
    """

    def convert(layer: FoldedLayer) -> FoldedLayer:
        if layer.threshold is None or layer.name in frozen:
            return layer
        unit = layer.threshold[None]
        rows, columns = layer.threshold.shape[:2]
        weight = layer.weight / unit[..., None, None, None]
        return replace(
            layer,
            weight=weight,
            bias=layer.bias / unit,
            threshold=np.ones((rows, columns, weight.shape[3])),
        )

    return replace(
        network,
        encoder=None if network.encoder is None else convert(network.encoder),
        layers=tuple(map(convert, network.layers)),
    )


def _neuron(layer: FoldedLayer) -> NeuronConfig:
    """Return the configuration of a layer's neurons, in units of their thresholds."""
    return NeuronConfig(
        threshold=1.0,
        leak=layer.leak.name,
        leak_shift=layer.leak_shift,
        finer_shifts=layer.finer_shifts,
        reset=layer.reset.name,
    )


def _key(name: str) -> str:
    """Return the name of a layer's parameters in a ParameterDict, whose keys have no dots."""
    return name.replace("_", "__").replace(".", "_")
