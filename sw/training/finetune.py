"""Fine-tuning of the integers themselves: a network whose forward pass is the exported one.

Every step folds the float parameters (:mod:`sw.convert.fold`), divides each neuron's weights and bias by
its scale and rounds them, and runs integer neurons on binary spikes. So what training sees is what
:func:`sw.convert.quantize.quantize` exports and :mod:`sw.network.reference` computes, bit for bit; rounding is
passed through by gradients as if it were not there, where it does not clip. Batch-norms keep the
statistics that they have; the auxiliary pathway is gone. Scales are found once, before.

All integers are exact in float32 (checked, else float64 takes over), and weighted sums are rounded
to the integer that they are, whatever algorithm a device's convolution uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hw.spec import PARAM_BITS, signed_range
from sw.convert import fold, quantize
from sw.convert.fold import Part
from sw.convert.folded import Scales
from sw.convert.quantize import ENCODER_PARAM_BITS, ENCODER_WEIGHT_BITS
from sw.model.functional import NeuronFunction, join
from sw.model.resnet import Logits, SpikingResNet
from sw.network.encoder import PIXEL_MAX
from sw.network.network import INPUT

EXACT = 1 << 24
"""Integers up to this size are exact in float32."""


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def rounded(x: Tensor) -> Tensor:
    """Nearest integer, ties to even, with the gradient of ``x`` itself."""
    return cast(Tensor, _Round.apply(x))


class IntegerNet(nn.Module):
    """The integer network of ``model``, as a function of its float parameters.

    Takes and returns what the model does (:class:`sw.model.resnet.Logits` in the float network's units,
    one scale for all classes), and calls ``record`` in the same way.

    Raises
    ------
    sw.model.config.ModelError
        The model has an auxiliary pathway still, or cannot be exported.
    """

    def __init__(self, model: SpikingResNet, scales: Scales):
        super().__init__()
        assert model.aap is None, "detach the auxiliary pathway first"
        self.model = model
        self.scales = scales
        fold.check(model)
        for name, integers in scales.thresholds.items():
            thresholds = torch.from_numpy(integers.astype(np.float64))
            self.register_buffer(_buffer(name), thresholds, persistent=False)

    def forward(
        self, images: Tensor, record: Callable[[str, Tensor], None] | None = None
    ) -> Logits:
        """``images`` as :func:`sw.model.resnet.to_input` makes them."""
        with torch.autocast(images.device.type, enabled=False):
            return self._run(images, record)

    def integers(self, part: Part) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight (t|1, y|1, x|1, o, c, ky|1, kx|1), bias (t|1, y|1, x|1, o) and threshold
        (y|1, x|1, o) of a layer, whole numbers in float64; weight and bias differentiable."""
        is_encoder = part.source == "image"
        low, high = signed_range(ENCODER_WEIGHT_BITS if is_encoder else self.scales.weight_bits)
        most = signed_range(ENCODER_PARAM_BITS if is_encoder else self.scales.param_bits)[1]
        weight, bias = part.folded()
        threshold = None
        if part.neuron is None:
            divisor = weight.new_tensor(self.scales.output).view(1, 1, 1)
        else:
            threshold = cast(Tensor, self.get_buffer(_buffer(part.name)))
            divisor = part.neuron.threshold / threshold
        weight = rounded(weight / divisor[None, :, :, :, None, None, None]).clamp(low, high)
        return weight, rounded(bias / divisor[None]).clamp(-most, most), threshold

    def _run(self, images: Tensor, record: Callable[[str, Tensor], None] | None) -> Logits:
        config = self.model.config
        timesteps = config.timesteps
        maps: dict[str, Tensor] = {}  # (T * N, C, H, W)
        if config.frames:
            maps[INPUT] = images.transpose(0, 1).flatten(0, 1)
        else:
            maps["image"] = torch.round(images * PIXEL_MAX)
        *firing, classifier = fold.parts(self.model)
        for part in firing:
            name = INPUT if part.source == "image" else part.name
            spikes = self._layer(part, maps[part.source], timesteps)
            if part.identity is not None:
                spikes = join(part.gate.name, spikes, maps[part.identity])
            if max(part.pool) > 1:
                spikes = F.max_pool2d(spikes, part.pool)
            maps[name] = spikes
        if record is not None:
            for name, spikes in maps.items():
                if name != "image":
                    record(name, spikes.unflatten(0, (timesteps, len(images))))
        return Logits(self._logits(classifier, maps[classifier.source], timesteps), None)

    def _layer(self, part: Part, source: Tensor, timesteps: int) -> Tensor:
        """Spikes (T * N, O, H', W') before gate and pooling."""
        assert part.neuron is not None
        weight, bias, threshold = self.integers(part)
        assert threshold is not None
        input_max = PIXEL_MAX if part.source == "image" else 1
        with torch.no_grad():
            most = input_max * weight.abs().sum((4, 5, 6)).max() + bias.abs().max()
            exact = bool(timesteps * most + threshold.max() < EXACT)
        dtype = torch.float32 if exact else torch.float64
        n_times = 1 if part.source == "image" else timesteps
        sums = _weighted_sums(part, source.to(dtype), weight.to(dtype), n_times)
        drive = rounded(sums) + bias.to(dtype).permute(0, 3, 1, 2)[:, None]
        neuron = part.neuron
        shift = {"NONE": 0, "KEEP": neuron.leak_shift, "SUBTRACT": -neuron.leak_shift}[neuron.leak]
        limit = threshold.to(dtype).permute(2, 0, 1)
        spikes = NeuronFunction.apply(
            drive, neuron.decay, timesteps, neuron, limit, shift, self.model.backend
        )
        return cast(Tensor, spikes).to(source.dtype).flatten(0, 1)

    def _logits(self, part: Part, source: Tensor, timesteps: int) -> Tensor:
        weight, bias, _ = self.integers(part)
        weight = weight[:, 0, 0].to(source.dtype)  # (t|1, o, c, ky|1, kx|1)
        timed = source.unflatten(0, (timesteps, -1))
        if weight.shape[3:] == (1, 1):
            timed = timed.sum((3, 4), keepdim=True)
        flat, taps = timed.flatten(2), weight.flatten(2).transpose(1, 2)
        sums = rounded(flat @ taps).to(torch.float64).sum(0)
        return ((sums + bias[0, 0, 0]) * self.scales.output).to(source.dtype)


def _buffer(layer: str) -> str:
    return "threshold_" + layer.replace(".", "_")


def _weighted_sums(part: Part, source: Tensor, weight: Tensor, n_times: int) -> Tensor:
    """Sums without bias (T|1, N, O, H', W') of ``source`` (T * N, C, H, W)."""
    conv = part.module
    assert isinstance(conv, nn.Conv2d)
    stride, padding = fold.pair(conv.stride), fold.pair(conv.padding)
    times, rows, columns, n_out, _, kernel_y, kernel_x = weight.shape
    timed = source.unflatten(0, (n_times, -1))
    if rows == columns == 1:
        sums = [
            F.conv2d(maps.flatten(0, 1), weight[t, 0, 0], None, stride, padding)
            for t, maps in enumerate(timed.chunk(times))
        ]
        return torch.cat(sums).unflatten(0, (n_times, -1))
    # A matrix product for every position (and timestep, where weights have timesteps).
    windows = F.unfold(source, (kernel_y, kernel_x), 1, padding, stride)  # (T * N, taps, positions)
    windows = windows.unflatten(0, (times, -1)).permute(0, 3, 1, 2)  # (t, positions, N', taps)
    taps = weight.reshape(times, rows * columns, n_out, -1).transpose(2, 3)
    product = (windows @ taps).permute(0, 2, 3, 1)  # (t, N', O, positions)
    return product.reshape(n_times, -1, n_out, rows, columns)


def prepare(
    model: SpikingResNet, weight_bits: int, calibration: np.ndarray, param_bits: int = PARAM_BITS
) -> IntegerNet:
    """The integer network that fine-tuning starts from: scales and biases are those of
    :func:`sw.convert.quantize.quantize` with these calibration images. ``model`` is left as it is.

    Raises
    ------
    sw.model.config.ModelError, sw.convert.quantize.QuantizeError
        The model cannot be exported so.
    """
    plain = model.detach_aap()
    labels = tuple(str(n) for n in range(model.config.n_classes))
    folded = fold.fold_model(plain.eval(), labels, {})
    _, scales, shifts = quantize.quantize_with_scales(
        folded, weight_bits, param_bits=param_bits, calibration=calibration
    )
    with torch.no_grad():
        for part in fold.parts(plain):
            bias = (part.norm if part.norm is not None else part.module).bias
            assert bias is not None
            bias.add_(torch.from_numpy(shifts[part.name]))
    return IntegerNet(plain, scales)
