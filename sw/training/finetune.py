"""Fine-tuning of a network whose forward pass computes in the device's integers.

Every training step turns the float network into integers anew:

1. Batch-norms and coefficients are folded into the weights (:mod:`sw.convert.fold`).
2. Each neuron's weights and bias are divided by the neuron's scale and rounded. A scale is the
   float value that the integer 1 stands for; scales are determined once, before training.
3. Integer neurons run on binary spikes.

The result of the forward pass is therefore, bit for bit, what :mod:`sw.network.reference` computes
for the network that :func:`sw.convert.quantize.quantize` exports. Gradients ignore rounding and are
0 where values are clipped (the straight-through estimator: Bengio et al., arXiv 1308.3432).
Batch-norms keep their statistics, and the auxiliary pathway is removed.

Integers are held in float32 where it represents them exactly, else in float64. Weighted sums are
rounded, because torch's convolution may use an algorithm whose result is not exactly an integer.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hw.spec import PARAM_BITS, Gate, Leak, signed_range
from sw.convert import fold, quantize
from sw.convert.folded import Scales
from sw.convert.quantize import ENCODER_PARAM_BITS, ENCODER_WEIGHT_BITS
from sw.model.config import NeuronConfig
from sw.model.functional import EAGER, Backend, NeuronFunction, join
from sw.model.resnet import Logits, SpikingResNet
from sw.network.encoder import PIXEL_MAX
from sw.network.network import IMAGE, INPUT

EXACT = 1 << 24
"""Integers of smaller magnitude than this are all exact in float32."""


class _Round(torch.autograd.Function):
    """Autograd function that rounds its input, and passes gradients on unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def rounded(x: Tensor) -> Tensor:
    """Return ``x`` rounded to the nearest integers, ties to even; gradients pass through
    unchanged."""
    return cast(Tensor, _Round.apply(x))


class FloatLayer(Protocol):
    """Layer with float parameters, from which an :class:`IntegerLayers` makes integers.

    :class:`sw.convert.fold.TrainedLayer` has these attributes, and explains them.
    """

    @property
    def name(self) -> str: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def reads_image(self) -> bool: ...
    @property
    def neuron(self) -> NeuronConfig | None: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def identity(self) -> str | None: ...
    @property
    def pool(self) -> tuple[int, int]: ...
    def folded(self) -> tuple[Tensor, Tensor]: ...
    def structure(self) -> dict[str, Any]: ...


class IntegerLayers(nn.Module, abc.ABC):
    """Network that computes with integer layers, and trains the float layers from which they are
    made.

    Input and output have the form of :class:`sw.model.resnet.SpikingResNet`; class scores are in
    the float network's units.

    Parameters
    ----------
    scales : the float values that the integer 1 stands for.
    timesteps : number of timesteps.
    frames : whether the input is binary frames in place of images.
    """

    def __init__(self, scales: Scales, timesteps: int, frames: bool):
        super().__init__()
        self.scales = scales
        self.timesteps = timesteps
        self.frames = frames
        for name, integers in scales.thresholds.items():
            thresholds = torch.from_numpy(integers.astype(np.float64))
            self.register_buffer(_buffer(name), thresholds, persistent=False)

    @property
    def backend(self) -> Backend:
        """Functions that compute the neurons."""
        return EAGER

    @abc.abstractmethod
    def layers(self) -> Sequence[FloatLayer]:
        """Return all layers in order; the last one is the output layer."""

    def forward(
        self, images: Tensor, record: Callable[[str, Tensor], None] | None = None
    ) -> Logits:
        """Return the class scores for images as :func:`sw.model.resnet.to_input` prepares them.

        ``record`` is called with the name and the spikes (T, N, C, H, W) of every map, as in
        :meth:`sw.model.resnet.SpikingResNet.forward`.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._run(images, record)

    def integers(self, trained: FloatLayer) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the integer weight, bias and threshold of a layer, as float64 tensors.

        Their axes are (t|1, y|1, x|1, o, c, ky|1, kx|1), (t|1, y|1, x|1, o) and (y|1, x|1, o), as
        in :mod:`sw.network.network`; ``t|1`` is the number of timesteps, or 1 if all timesteps
        share the values. Gradients of weight and bias flow to the float parameters. The threshold
        of the output layer is None.
        """
        is_encoder = trained.reads_image
        low, high = signed_range(ENCODER_WEIGHT_BITS if is_encoder else self.scales.weight_bits)
        most = signed_range(ENCODER_PARAM_BITS if is_encoder else self.scales.param_bits)[1]
        weight, bias = trained.folded()
        threshold = None
        if trained.neuron is None:
            divisor = weight.new_tensor(self.scales.output).view(1, 1, 1)
        else:
            threshold = cast(Tensor, self.get_buffer(_buffer(trained.name)))
            divisor = trained.neuron.threshold / threshold
        weight = rounded(weight / divisor[None, :, :, :, None, None, None]).clamp(low, high)
        return weight, rounded(bias / divisor[None]).clamp(-most, most), threshold

    def _run(self, images: Tensor, record: Callable[[str, Tensor], None] | None) -> Logits:
        timesteps = self.timesteps
        maps: dict[str, Tensor] = {}  # (T * N, C, H, W)
        if self.frames:
            maps[INPUT] = images.transpose(0, 1).flatten(0, 1)
        else:
            maps[IMAGE] = torch.round(images * PIXEL_MAX)
        *firing, classifier = self.layers()
        for trained in firing:
            name = INPUT if trained.reads_image else trained.name
            spikes = self._layer(trained, _input_of(trained, maps), timesteps)
            if trained.identity is not None:
                spikes = join(trained.gate.name, spikes, maps[trained.identity])
            if max(trained.pool) > 1:
                spikes = F.max_pool2d(spikes, trained.pool)
            maps[name] = spikes
        if record is not None:
            for name, spikes in maps.items():
                if name != IMAGE:
                    record(name, spikes.unflatten(0, (timesteps, len(images))))
        return Logits(self._logits(classifier, _input_of(classifier, maps), timesteps), None)

    def _layer(self, trained: FloatLayer, source: Tensor, timesteps: int) -> Tensor:
        """Run a layer, and return its spikes (T * N, O, H', W') before gate and pooling.

        ``source`` is what the layer reads: pixels (N, C, H, W), or spikes or sums of spikes
        (T * N, C, H, W). ``timesteps`` is T.
        """
        assert trained.neuron is not None
        weight, bias, threshold = self.integers(trained)
        assert threshold is not None
        weight = weight.expand(*weight.shape[:5], *trained.structure()["kernel"])
        input_max = PIXEL_MAX if trained.reads_image else len(trained.sources)
        with torch.no_grad():
            most = input_max * weight.abs().sum((4, 5, 6)).max() + bias.abs().max()
            exact = bool(timesteps * most + threshold.max() < EXACT)
        dtype = torch.float32 if exact else torch.float64
        n_times = 1 if trained.reads_image else timesteps
        sums = _weighted_sums(trained, source.to(dtype), weight.to(dtype), n_times)
        drive = rounded(sums) + bias.to(dtype).permute(0, 3, 1, 2)[:, None]
        neuron = trained.neuron
        leak = Leak[neuron.leak], neuron.leak_shifts
        limit = threshold.to(dtype).permute(2, 0, 1)
        spikes = NeuronFunction.apply(
            drive, neuron.decay, timesteps, neuron, limit, leak, self.backend
        )
        return cast(Tensor, spikes).to(source.dtype).flatten(0, 1)

    def _logits(self, trained: FloatLayer, source: Tensor, timesteps: int) -> Tensor:
        """Return the output layer's class scores (N, n_classes), in the float network's units.

        ``source`` holds the spikes (T * N, C, H, W) that the layer reads, or their sums.
        """
        weight, bias, _ = self.integers(trained)
        weight = weight[:, 0, 0].to(source.dtype)  # (t|1, o, c, ky|1, kx|1)
        if weight.shape[3:] != (1, 1):
            weight = weight.expand(*weight.shape[:3], *source.shape[2:])
        timed = source.unflatten(0, (timesteps, -1))
        if weight.shape[3:] == (1, 1):
            timed = timed.sum((3, 4), keepdim=True)
        flat, taps = timed.flatten(2), weight.flatten(2).transpose(1, 2)
        sums = rounded(flat @ taps).to(torch.float64).sum(0)
        return ((sums + bias[0, 0, 0]) * self.scales.output).to(source.dtype)


def _input_of(trained: FloatLayer, maps: dict[str, Tensor]) -> Tensor:
    """Return the input (T * N, C, H, W) of a layer, made from the maps that it reads.

    A stacked layer has weights of its own for each map, so its input has the channels of all maps,
    one map after another. The input of any other layer is the sum of the maps.
    """
    found = [maps[name] for name in trained.sources]
    if trained.structure().get("stacked"):
        return torch.cat(found, 1)
    return sum(found[1:], found[0])


class IntegerNet(IntegerLayers):
    """Integer network that trains the parameters of the float network ``model``, from which it is
    made.

    ``model`` must not have an auxiliary pathway;
    :meth:`sw.model.resnet.SpikingResNet.detach_aap` removes it. ``scales`` are the float values
    that the integer 1 stands for.

    Raises
    ------
    sw.model.config.ModelError
        No device can run the model (:func:`sw.convert.fold.check`).
    """

    def __init__(self, model: SpikingResNet, scales: Scales):
        assert model.aap is None, "detach the auxiliary pathway first"
        fold.check(model)
        super().__init__(scales, model.config.timesteps, model.config.frames)
        self.model = model

    @property
    def backend(self) -> Backend:
        return self.model.backend

    def layers(self) -> Sequence[FloatLayer]:
        return fold.trained_layers(self.model)


def _buffer(layer: str) -> str:
    """Return the name of the module buffer that holds the integer thresholds of a layer."""
    return "threshold_" + layer.replace(".", "_")


def _weighted_sums(trained: FloatLayer, source: Tensor, weight: Tensor, n_times: int) -> Tensor:
    """Return a layer's weighted input sums (T|1, N, O, H', W'), without bias.

    ``source`` is the layer's input: maps (T * N, C, H, W), or images (N, C, H, W). The weights
    ``weight`` (t|1, y|1, x|1, o, c, ky, kx) may differ between timesteps and positions.
    ``n_times`` is T for maps, and 1 for images.
    """
    structure = trained.structure()
    stride, padding = structure.get("stride", (1, 1)), structure.get("padding", (0, 0))
    kernel = structure["kernel"]
    times, rows, columns, n_out = weight.shape[:4]
    timed = source.unflatten(0, (n_times, -1))
    if rows == columns == 1:
        sums = [
            F.conv2d(maps.flatten(0, 1), weight[t, 0, 0], None, stride, padding)
            for t, maps in enumerate(timed.chunk(times))
        ]
        return torch.cat(sums).unflatten(0, (n_times, -1))
    # One matrix product for each position (and timestep, if weights differ between timesteps).
    windows = F.unfold(source, kernel, 1, padding, stride)  # (T * N, taps, positions)
    windows = windows.unflatten(0, (times, -1)).permute(0, 3, 1, 2)  # (t, positions, N', taps)
    taps = weight.reshape(times, rows * columns, n_out, -1).transpose(2, 3)
    product = (windows @ taps).permute(0, 2, 3, 1)  # (t, N', O, positions)
    return product.reshape(n_times, -1, n_out, rows, columns)


def prepare(
    model: SpikingResNet, weight_bits: int, calibration: np.ndarray, param_bits: int = PARAM_BITS
) -> IntegerNet:
    """Return the integer network that fine-tuning starts from, without changing ``model``.

    Its weights have ``weight_bits`` bits, and its biases and thresholds ``param_bits``. Its scales
    and biases are those that :func:`sw.convert.quantize.quantize` determines for the training
    samples ``calibration``, uint8 images or frames.

    Raises
    ------
    sw.model.config.ModelError
        No device can run the model (:func:`sw.convert.fold.check`).
    sw.convert.quantize.QuantizeError
        The widths are not supported, or too small for the model.
    """
    plain = model.detach_aap()
    labels = tuple(str(n) for n in range(model.config.n_classes))
    folded = fold.fold_model(plain.eval(), labels, {})
    _, scales, shifts = quantize.quantize_with_scales(
        folded, weight_bits, param_bits=param_bits, calibration=calibration
    )
    with torch.no_grad():
        for trained in fold.trained_layers(plain):
            bias = (trained.norm if trained.norm is not None else trained.module).bias
            assert bias is not None
            bias.add_(torch.from_numpy(shifts[trained.name]))
    return IntegerNet(plain, scales)
