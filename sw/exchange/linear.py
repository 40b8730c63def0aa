"""Folding of an imported graph's linear steps into the weights before or after them.

A value in the graph is either :class:`Spikes`, the output of neurons, or :class:`Sums`, the
weighted sums that neurons will receive. Batch-norm and scaling of sums change the weights that
computed them. Scaling and average or sum pooling of spikes are kept with the spikes, and folded
into the weights that read them.

Weights have the axes (t|1, y|1, x|1, o, c, ky|1, kx|1): the timestep t, the row y and column x of
the neuron, the output channel o, the input channel c, and the row ky and column kx in the kernel.
``|1`` marks an axis that has length 1 if weights are shared along it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hw.spec import Leak, Reset
from sw.exchange.graph import (
    Connect,
    Convolve,
    ExchangeError,
    FireNode,
    Float,
    Normalise,
    Pair,
    Pool,
    Scale,
)
from sw.network.network import Shape, conv_size


@dataclass(frozen=True, eq=False)
class Spikes:
    """A map of spikes, or the image, with a scaling or pooling that is not folded in yet.

    ``factor`` or ``pool`` will be folded into the weights that read the map.
    """

    name: str
    """Name of the map in the folded network."""
    shape: Shape
    """Shape (C, H, W) before ``pool``."""
    node: str
    """Name of the graph's node that outputs the map."""
    factor: Float | None = None
    """Factor (c, H|1, W|1) by which the spikes are multiplied; None if they are not."""
    pool: Pool | None = None
    """Average or sum pooling of the spikes; None if they are not pooled."""

    @property
    def pooled(self) -> Shape:
        """Shape (C, H, W) of the map after ``pool``."""
        if self.pool is None:
            return self.shape
        return self.shape[0], *conv_size(self.shape[1:], self.pool.kernel, self.pool.stride)


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums of spikes: the input of neurons that come later in the graph.

    ``shape`` is the sums' shape (C, H, W). The other fields are those of
    :class:`sw.convert.folded.FoldedLayer`.
    """

    name: str
    source: str
    weight: Float
    bias: Float
    kernel: Pair
    stride: Pair
    padding: Pair
    shape: Shape


Value = Spikes | Sums


def require_spikes(value: Value, reason: str = "a gate joins spikes only") -> Spikes:
    """Return ``value`` if it is spikes; if it is sums, raise :class:`ExchangeError`.

    ``reason`` becomes part of the message.
    """
    if isinstance(value, Sums):
        raise ExchangeError(f"no neurons come before it ({reason})")
    return value


def acts_as_or(step: FireNode, least: float) -> bool:
    """Return whether neurons compute the OR of their input spikes at every timestep.

    ``least`` is the smallest non-zero input. If it reaches the threshold, any input spike makes the
    neuron fire, and a hard reset then leaves nothing in the membrane for the next timestep. The
    neurons must have no leak.
    """
    threshold = step.threshold
    reached = threshold < least if step.strict else threshold <= least
    fires = bool(((threshold > 0) & reached).all())
    return fires and step.leak == Leak.NONE and step.reset == Reset.HARD


def to_rows(values: Float, shape: Shape) -> Float:
    """Return a map's parameters, such as thresholds, in the layout (y|1, x|1, o) of a layer.

    ``values`` must broadcast to the map's ``shape`` (C, H, W), or have one number per channel. The
    axes y and x have length 1 if all positions share their numbers.
    """
    if values.size == np.prod(shape):
        values = values.reshape(shape)
    elif values.size == shape[0] and values.ndim <= 1:
        values = values.reshape(-1, 1, 1)
    try:
        full = np.broadcast_to(values, shape)
    except ValueError:
        raise ExchangeError(
            f"parameters of shape {values.shape} do not fit a map {shape}"
        ) from None
    if (full == full[:, :1, :1]).all():
        full = full[:, :1, :1]
    return np.ascontiguousarray(full.transpose(1, 2, 0)).astype(np.float64)


def scaled(step: Normalise | Scale, value: Value) -> Value:
    """Apply batch-norm or a scaling to a value, and return the result.

    Sums are changed through their weights and bias. A scaling of spikes is stored in ``factor``.
    """
    if isinstance(value, Spikes):
        if isinstance(step, Normalise):
            raise ExchangeError("batch-norm of spikes: apply it to weighted sums instead")
        if value.pool is not None or value.factor is not None:
            raise ExchangeError("two steps of pooling or scaling before the weights: merge them")
        return replace(value, factor=to_rows(step.factor, value.shape).transpose(2, 0, 1))
    if isinstance(step, Scale):
        rows = to_rows(step.factor, value.shape)
        if rows.shape[:2] != (1, 1):
            raise ExchangeError("sums are scaled by position: scale the spikes instead")
        step = Normalise(gain=rows[0, 0], shift=np.zeros(value.shape[0]))
    if step.gain.shape != (value.shape[0],):
        raise ExchangeError(
            f"its {step.gain.size} channels do not match the {value.shape[0]} before it"
        )
    gain = step.gain[:, None, None, None]
    return replace(value, weight=value.weight * gain, bias=value.bias * step.gain + step.shift)


def weighted(name: str, step: Convolve | Connect, value: Spikes) -> Sums:
    """Apply a convolution or fully connected step to spikes, and return the weighted sums.

    The pooling and scaling that ``value`` still carries are folded into the weights. ``name`` is
    the name of the layer that will hold the weights.
    """
    shape = value.pooled
    if isinstance(step, Connect):
        if step.weight.shape[1] != np.prod(shape):
            raise ExchangeError(
                f"it takes {step.weight.shape[1]} inputs, but the map {shape} before it has "
                f"{np.prod(shape)}"
            )
        weight = step.weight.reshape(-1, *shape)
        step = Convolve(weight=weight, bias=step.bias)
    if step.weight.shape[1] != shape[0]:
        raise ExchangeError(
            f"it takes {step.weight.shape[1]} channels, but the map before it has {shape[0]}"
        )
    weight = step.weight.astype(np.float64)
    kernel: Pair = (weight.shape[2], weight.shape[3])
    stride, padding = step.stride, step.padding
    height, width = conv_size(shape[1:], kernel, stride, padding)
    if min(height, width) < 1:
        raise ExchangeError(f"its kernel {kernel} is larger than the map {shape}")
    if value.pool is not None:
        weight, kernel, stride, padding = _composed(weight, stride, padding, value)
    full = weight[None, None, None]
    if value.factor is not None:
        full = _with_factor(weight, value.factor, kernel, stride, padding)
    n_out = weight.shape[0]
    bias = np.zeros(n_out) if step.bias is None else step.bias.astype(np.float64)
    return Sums(
        name=name,
        source=value.name,
        weight=np.ascontiguousarray(full),
        bias=bias[None, None, None],
        kernel=kernel,
        stride=stride,
        padding=padding,
        shape=(n_out, height, width),
    )


def _composed(
    weight: Float, stride: Pair, padding: Pair, value: Spikes
) -> tuple[Float, Pair, Pair, Pair]:
    """Combine the pooling of ``value`` with the convolution after it into one convolution.

    Returns its weight (o, c, ky|1, kx|1), kernel, stride and padding.
    """
    pool = value.pool
    assert pool is not None
    overlaps = pool.kernel != pool.stride
    left_over = any(
        (n - k) % s for n, k, s in zip(value.shape[1:], pool.kernel, pool.stride, strict=True)
    )
    if padding != (0, 0) and (overlaps or left_over):
        raise ExchangeError(
            "a convolution with padding follows a pooling whose windows overlap or leave a rest of "
            "the map, and cannot be folded; use windows that divide the map"
        )
    rows, columns = (
        (k - 1) * s + w for k, s, w in zip(weight.shape[2:], pool.stride, pool.kernel, strict=True)
    )
    whole = np.zeros((*weight.shape[:2], rows, columns))
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            top, left = y * pool.stride[0], x * pool.stride[1]
            whole[:, :, top : top + pool.kernel[0], left : left + pool.kernel[1]] += weight[
                :, :, y : y + 1, x : x + 1
            ]
    if pool.kind == "average":
        whole /= np.prod(pool.kernel)
    # If a pooling covers the whole map, all kernel positions share one weight.
    if (whole == whole[:, :, :1]).all():
        whole = whole[:, :, :1]
    if (whole == whole[:, :, :, :1]).all():
        whole = whole[:, :, :, :1]
    return (
        whole,
        (rows, columns),
        (stride[0] * pool.stride[0], stride[1] * pool.stride[1]),
        (padding[0] * pool.stride[0], padding[1] * pool.stride[1]),
    )


def _with_factor(weight: Float, factor: Float, kernel: Pair, stride: Pair, padding: Pair) -> Float:
    """Multiply weights (o, c, ky, kx) by the scaling ``factor`` (c, H|1, W|1) of their input.

    The result is (1, y|1, x|1, o, c, ky, kx): if the factor differs from position to position, each
    neuron has weights of its own.
    """
    if factor.shape[1:] == (1, 1):
        return (weight * factor[None])[None, None, None]
    padded = np.pad(factor, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    windows = windows[:, :: stride[0], :: stride[1]].transpose(1, 2, 0, 3, 4)
    return (weight * windows[:, :, None])[None]
