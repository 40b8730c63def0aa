"""Folding of an imported graph's linear steps into the weights before or after them.

A value in the graph (:mod:`sw.exchange.values`) is one of three: spikes, which neurons output; a
sum of spikes; or weighted sums, which neurons will receive. Batch-norm, scaling and average or sum
pooling of weighted sums change the weights that computed them. Scaling and average or sum pooling
of spikes are kept with the spikes, and folded into the weights that read them.

Weights have the axes (t|1, y|1, x|1, o, c, ky|1, kx|1): the timestep t, the row y and column x of
the neuron, the output channel o, the input channel c, and the row ky and column kx in the kernel.
``|1`` marks an axis that has length 1 if weights are shared along it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hw.spec import Leak, Reset
from sw.exchange.graph import (
    AdaptivePool,
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
from sw.exchange.values import Spikes, SpikeSum, Spread, Sums, Term, Value, Window, added, spikes_of
from sw.network.network import Shape, conv_size


def acts_as_or(step: FireNode, least: float) -> bool:
    """Return whether neurons compute the OR of their input spikes at every timestep.

    ``least`` is the smallest non-zero input. The result is True if ``least`` reaches the threshold,
    the reset sets the membrane to 0, and there is no leak. Then any input spike makes the neuron
    fire, and no membrane is left for the next timestep.
    """
    threshold = step.threshold
    reached = threshold < least if step.strict else threshold <= least
    fires = bool(((threshold > 0) & reached).all()) and not (step.groups or np.any(step.drive))
    return fires and step.leak == Leak.NONE and step.reset == Reset.HARD


def to_rows(values: Float, shape: Shape) -> Float:
    """Return a map's parameters, such as thresholds, in a layer's layout (y|1, x|1, o).

    o is the channel, and (y, x) the position; y and x have length 1 if all positions share their
    numbers. ``values`` must either have one number per channel, or broadcast to the map's ``shape``
    (C, H, W). It may have more axes in front if their length is 1.

    Raises
    ------
    ExchangeError
        ``values`` does not fit the map, or is ambiguous: its numbers could be those of the map's
        channels or those of its columns.
    """
    while values.ndim > 3 and values.shape[0] == 1:
        values = values[0]
    channels, height, width = shape
    if values.size == np.prod(shape):
        values = values.reshape(shape)
    elif values.ndim == 2 and height == 1:
        values = values[:, None]
    elif values.ndim == 1 and values.size > 1 and (values == values[0]).all():
        values = values[:1]
    elif values.ndim == 1 and values.size == channels == width:
        raise ExchangeError(
            f"{channels} parameters could be those of the channels or of the columns of a map "
            f"{shape}: give them the shape ({channels}, 1, 1) or (1, 1, {channels})"
        )
    elif values.ndim == 1 and values.size == channels:
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


def pool_for(step: Pool | AdaptivePool, shape: Shape) -> Pool:
    """Return a pooling of a map with windows of a known size; ``shape`` is the map's (C, H, W).

    An adaptive pooling gives only the size of its output, so that its windows depend on the map.

    Raises
    ------
    ExchangeError
        The device cannot run the pooling: it is adaptive, and its windows would differ in size; or
        it has ``ceil``, and a window would reach beyond the map; or its window is larger than the
        map.
    """
    if isinstance(step, AdaptivePool):
        height, width = (out or n for out, n in zip(step.output, shape[1:], strict=True))
        if shape[1] % height or shape[2] % width:
            raise ExchangeError(
                f"adaptive pooling of a map {shape} to {height} x {width} has windows of different "
                "sizes: use a size that divides the map's"
            )
        kernel = (shape[1] // height, shape[2] // width)
        step = Pool(kind=step.kind, kernel=kernel, stride=kernel)
    sizes = zip(shape[1:], step.padding, step.kernel, step.stride, strict=True)
    rests = [(n + 2 * p - k) % s for n, p, k, s in sizes]
    if step.ceil and any(rests):
        raise ExchangeError(
            f"ceil_mode: windows {step.kernel} with stride {step.stride} leave a rest of the map "
            f"{shape}, which would get smaller windows: use ceil_mode=False or a map that they "
            "divide"
        )
    if min(conv_size(shape[1:], step.kernel, step.stride, step.padding)) < 1:
        raise ExchangeError(f"its window {step.kernel} is larger than the map {shape}")
    return replace(step, ceil=False)


def spread_of(step: AdaptivePool, shape: Shape) -> Spread | None:
    """Return an adaptive average pooling whose windows differ in size; None for any other pooling.

    ``shape`` is the shape (C, H, W) of the map. The window of the output i of n reads the rows from
    ``i * H // n`` up to ``ceil((i + 1) * H / n)``, as in PyTorch.
    """
    sizes = [out or n for out, n in zip(step.output, shape[1:], strict=True)]
    if step.kind != "average" or all(n % out == 0 for n, out in zip(shape[1:], sizes, strict=True)):
        return None
    matrices = []
    for n, out in zip(shape[1:], sizes, strict=True):
        matrix = np.zeros((out, n))
        for i in range(out):
            start, end = i * n // out, -(-(i + 1) * n // out)
            matrix[i, start:end] = 1 / (end - start)
        matrices.append(matrix)
    return Spread(*matrices)


def window_of(pool: Pool) -> Window:
    """Return an average or sum pooling as a :class:`Window`, whose weights compute it."""
    divisor = pool.divisor or np.prod(pool.kernel)
    taps = np.full(pool.kernel, 1.0 if pool.kind == "sum" else 1 / divisor)
    return Window(taps, pool.stride, pool.padding)


def pooled_sums(pool: Pool, value: Sums) -> Sums:
    """Apply an average or sum pooling to weighted sums, and return the sums with changed
    weights."""
    window = window_of(pool)
    weight = np.eye(value.shape[0])[:, :, None, None] * window.taps
    return summed_again(Convolve(weight=weight, stride=pool.stride, padding=pool.padding), value)


def summed_again(step: Convolve | Connect, value: Sums) -> Sums:
    """Apply a convolution or fully connected step to weighted sums, and return the new sums.

    Two linear steps without neurons in between become one layer of weights, whose kernel covers
    both kernels.
    """
    step = _as_convolution(step, value.shape)
    if step.padding != (0, 0):
        raise ExchangeError("padding of sums: put neurons before it, or use no padding")
    if max(value.bias.shape[1:3]) > 1:
        raise ExchangeError("the biases before it differ by position: put neurons before it")
    bias = value.bias @ step.weight.sum(axis=(2, 3)).T
    return replace(
        value,
        terms=tuple(_summed_again(step, term) for term in value.terms),
        bias=bias if step.bias is None else bias + step.bias,
        shape=(len(step.weight), *conv_size(value.shape[1:], step.weight.shape[2:], step.stride)),
    )


def _summed_again(step: Convolve, term: Term) -> Term:
    if max(term.weight.shape[1:3]) > 1:
        raise ExchangeError("the weights before it differ by position: put neurons before it")
    inner = np.broadcast_to(term.weight[0, 0, 0], (*term.weight.shape[3:5], *term.kernel))
    rows, columns = (
        (n - 1) * s + k
        for n, s, k in zip(step.weight.shape[2:], term.stride, term.kernel, strict=True)
    )
    whole = np.zeros((len(step.weight), inner.shape[1], rows, columns))
    for y, x in np.ndindex(*step.weight.shape[2:]):
        top, left = y * term.stride[0], x * term.stride[1]
        whole[:, :, top : top + term.kernel[0], left : left + term.kernel[1]] += np.tensordot(
            step.weight[:, :, y, x], inner, axes=1
        )
    return replace(
        term,
        weight=whole[None, None, None],
        kernel=(rows, columns),
        stride=(term.stride[0] * step.stride[0], term.stride[1] * step.stride[1]),
    )


def _as_convolution(step: Convolve | Connect, shape: Shape) -> Convolve:
    """Return a convolution or fully connected step as a convolution of a map of the shape
    ``shape`` (C, H, W).

    Raises
    ------
    ExchangeError
        The step takes maps of another shape.
    """
    if isinstance(step, Connect):
        if step.weight.shape[1] != np.prod(shape):
            raise ExchangeError(
                f"it takes {step.weight.shape[1]} inputs, but the map {shape} before it has "
                f"{np.prod(shape)}"
            )
        step = Convolve(weight=step.weight.reshape(-1, *shape), bias=step.bias)
    if step.weight.shape[1] != shape[0]:
        raise ExchangeError(
            f"it takes {step.weight.shape[1]} channels, but the map before it has {shape[0]}"
        )
    kernel: Pair = (step.weight.shape[2], step.weight.shape[3])
    if min(conv_size(shape[1:], kernel, step.stride, step.padding)) < 1:
        raise ExchangeError(f"its kernel {kernel} is larger than the map {shape}")
    return step


def scaled(step: Normalise | Scale, value: Value) -> Value:
    """Apply batch-norm or a scaling to spikes or weighted sums, and return the result.

    Weighted sums get new weights and biases; spikes get a new ``factor``
    (:class:`sw.exchange.values.Spikes`).
    """
    if isinstance(value, SpikeSum):
        return added([scaled(step, part) for part in value.parts])
    if isinstance(value, Spikes):
        if isinstance(step, Normalise):
            raise ExchangeError("batch-norm of spikes: apply it to weighted sums instead")
        factor = to_rows(step.factor, value.pooled).transpose(2, 0, 1)
        if value.window is not None and factor.shape[1:] != (1, 1):
            raise ExchangeError("pooled spikes are scaled by position: scale them before pooling")
        return replace(value, factor=factor if value.factor is None else value.factor * factor)
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
    terms = tuple(replace(term, weight=term.weight * gain) for term in value.terms)
    return replace(value, terms=terms, bias=value.bias * step.gain + step.shift)


def weighted(name: str, step: Convolve | Connect, value: Spikes | SpikeSum) -> Sums:
    """Apply a convolution or fully connected step to spikes, and return the weighted sums.

    The pooling and scaling that are stored with ``value`` are folded into the weights. ``name`` is
    the name of the layer that will get the weights.
    """
    shape = value.pooled
    step = _as_convolution(step, shape)
    n_out = len(step.weight)
    bias = np.zeros(n_out) if step.bias is None else step.bias.astype(np.float64)
    size = conv_size(shape[1:], step.weight.shape[2:], step.stride, step.padding)
    terms = tuple(_term(step, part) for part in spikes_of(value))
    return Sums(name=name, terms=terms, bias=bias[None, None, None], shape=(n_out, *size))


def as_sums(name: str, value: Value) -> Sums:
    """Return a value as weighted sums: each neuron reads its own channel, with a weight of 1.

    ``name`` is the name of the layer that will hold the weights.
    """
    if isinstance(value, Sums):
        return value
    eye = np.eye(value.pooled[0])[:, :, None, None]
    return weighted(name, Convolve(weight=eye), value)


def _term(step: Convolve, value: Spikes) -> Term:
    """Return the weighted sums of one map of spikes that a convolution computes, without its
    bias.
    """
    weight = step.weight.astype(np.float64)
    kernel: Pair = (weight.shape[2], weight.shape[3])
    stride, padding = step.stride, step.padding
    full = weight[None, None]
    if isinstance(value.window, Spread):
        if kernel != value.pooled[1:] or padding != (0, 0):
            raise ExchangeError(
                "the pooling before it has windows of different sizes: pool to a size that divides "
                "the map's, or use a fully connected layer here"
            )
        full = np.einsum("ocyx,yh,xw->ochw", weight, value.window.rows, value.window.columns)
        full, kernel, stride = full[None, None], (value.shape[1], value.shape[2]), (1, 1)
    elif value.window is not None:
        full, kernel, stride, padding = _composed(weight, stride, padding, value, value.window)
    if value.factor is not None:
        full = _with_factor(full, value.factor, kernel, stride, padding)
    return Term(
        source=value.name,
        shape=value.shape,
        weight=np.ascontiguousarray(full[None]),
        kernel=kernel,
        stride=stride,
        padding=padding,
    )


def _composed(
    weight: Float, stride: Pair, padding: Pair, value: Spikes, window: Window
) -> tuple[Float, Pair, Pair, Pair]:
    """Combine the pooling of ``value`` with the convolution after it into one convolution.

    Returns the new convolution's weight (y|1, x|1, o, c, ky|1, kx|1), and its kernel, stride and
    padding as (vertical, horizontal) pairs.

    At the edge of the map, taps (kernel positions) of the old convolution lie in its padding, and
    read zeros. The new taps that replace them may lie on spikes instead, if pooling windows
    overlap, have padding or leave out an edge of the map. The weights of such taps must be 0, but
    only for neurons at the edge. So the result then has weights of its own for each position.
    """
    height, width = window.kernel
    rows = (weight.shape[2] - 1) * window.stride[0] + height
    columns = (weight.shape[3] - 1) * window.stride[1] + width
    size = conv_size(value.pooled[1:], weight.shape[2:], stride, padding)
    inside = [
        _inside(value.shape[axis + 1], n_taps, n, stride[axis], padding[axis], window, axis)
        for axis, (n_taps, n) in enumerate(zip(weight.shape[2:], size, strict=True))
    ]
    whole = np.zeros((len(inside[0]), len(inside[1]), *weight.shape[:2], rows, columns))
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            top, left = y * window.stride[0], x * window.stride[1]
            used = inside[0][:, None, y] & inside[1][None, :, x]
            tap = weight[:, :, y, x, None, None] * window.taps
            whole[..., top : top + height, left : left + width] += (
                used[:, :, None, None, None, None] * tap
            )
    # If a pooling covers the whole map, all kernel positions share one weight.
    if (whole == whole[..., :1, :]).all():
        whole = whole[..., :1, :]
    if (whole == whole[..., :1]).all():
        whole = whole[..., :1]
    return (
        whole,
        (rows, columns),
        (stride[0] * window.stride[0], stride[1] * window.stride[1]),
        tuple(p * s + q for p, s, q in zip(padding, window.stride, window.padding, strict=True)),  # type: ignore[return-value]
    )


def _inside(
    length: int, n_taps: int, n: int, stride: int, padding: int, window: Window, axis: int
) -> NDArray[np.bool_]:
    """Return which taps (kernel positions) of a convolution read pooled values instead of padding,
    along one axis.

    The result is a mask (n, n_taps). If taps in the padding read only zeros even after the pooling
    was folded into the convolution, the result is (1, n_taps), all True.

    Parameters
    ----------
    length : length of the map before the pooling ``window``.
    n_taps : length of the convolution's kernel.
    n : length of the convolution's result.
    stride, padding : stride and padding of the convolution along the axis.
    axis : 0 for the vertical axis, 1 for the horizontal one.
    """
    size, step, border = window.kernel[axis], window.stride[axis], window.padding[axis]
    tiled = border == 0 and size == step and length % step == 0
    if padding == 0 or tiled:
        return np.ones((1, n_taps), bool)
    n_pooled = (length + 2 * border - size) // step + 1
    index = np.arange(n)[:, None] * stride - padding + np.arange(n_taps)
    return (index >= 0) & (index < n_pooled)


def _with_factor(full: Float, factor: Float, kernel: Pair, stride: Pair, padding: Pair) -> Float:
    """Return convolution weights multiplied by the scaling ``factor`` of the convolution's input.

    ``full`` are the weights (y|1, x|1, o, c, ky, kx), and ``factor`` is (c, H|1, W|1). If the
    factor differs from position to position, each neuron of the result has weights of its own.
    Kernel, stride and padding are (vertical, horizontal).
    """
    if factor.shape[1:] == (1, 1):
        return full * factor
    padded = np.pad(factor, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    windows = windows[:, :: stride[0], :: stride[1]].transpose(1, 2, 0, 3, 4)
    return full * windows[:, :, None]
