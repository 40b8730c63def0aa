"""Computation of one layer over all timesteps in torch, for any weight sharing and number type.

:mod:`sw.network.reference` uses it with exact integers, :mod:`sw.convert.folded` with float64.
Weighted sums are matrix products of gathered input windows, never a convolution by FFT or Winograd
transform. So each weighted sum is a plain sum of products in some order, which is exact if the
number type holds every partial sum exactly.

Shapes are written with N images, T timesteps, C input channels, O output channels; H' and W' are
the height and width of the layer's output before pooling. ``T|1`` stands for an axis of length T,
or of length 1 if all timesteps have the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hw import spec
from sw.network.network import AnyLayer


def inputs_of(layer: AnyLayer[Any, Any], maps: Mapping[str, Tensor]) -> Tensor:
    """Return the input that a layer multiplies by its weights, made of the spike maps that it
    reads.

    If several maps share their weights, they are added, so that the result has integers from 0 to
    the number of maps. If each has weights of its own (``layer.stacked``), they are joined along
    the axis of channels.

    Parameters
    ----------
    maps : uint8 tensors (N, T, C, H, W) of 0 and 1 by name.

    Returns
    -------
    uint8 tensor (N, T, C', H, W), where C' is the number of input channels of the layer's weights.
    """
    parts = [maps[name] for name in layer.sources]
    if layer.stacked:
        return torch.cat(parts, 2)
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0, dtype=torch.uint8)


def drive(layer: AnyLayer[Any, Any], source: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weighted sums of the inputs of every neuron of a layer, without bias.

    Parameters
    ----------
    source : tensor (N, T|1, C, H, W) of any type, the layer's input (:func:`inputs_of`). It has one
        timestep if both the input and the weights are the same at all timesteps.
    dtype : type of the computation and of the result.

    Returns
    -------
    Tensor (N, T|1, O, H', W') with as many timesteps as ``source``.
    """
    n_images, n_times = source.shape[:2]
    (kernel_y, kernel_x), (stride_y, stride_x) = layer.kernel, layer.stride
    pad_y, pad_x = layer.padding
    padded = F.pad(source.to(dtype), (pad_x, pad_x, pad_y, pad_y))
    windows = padded.unfold(3, kernel_y, stride_y).unfold(4, kernel_x, stride_x)
    height, width = windows.shape[3:5]  # (N, T, C, H', W', ky, kx)
    weight = torch.from_numpy(layer.weight).to(dtype)
    times, rows, columns, n_out, n_in = weight.shape[:5]
    weight = weight.expand(times, rows, columns, n_out, n_in, kernel_y, kernel_x)
    n_taps = n_in * kernel_y * kernel_x
    sums = []
    for t in range(times):
        part = windows if times == 1 else windows[:, t : t + 1]
        if rows == columns == 1:
            gathered = part.permute(0, 1, 3, 4, 2, 5, 6).reshape(-1, n_taps)
            product = gathered @ weight[t].reshape(n_out, n_taps).T
            product = product.view(n_images, -1, height, width, n_out)
        else:
            taps = weight[t].expand(height, width, n_out, n_in, kernel_y, kernel_x)
            gathered = part.permute(3, 4, 0, 1, 2, 5, 6).reshape(height * width, -1, n_taps)
            product = gathered @ taps.reshape(height * width, n_out, n_taps).transpose(1, 2)
            product = product.view(height, width, n_images, -1, n_out).permute(2, 3, 0, 1, 4)
        sums.append(product.permute(0, 1, 4, 2, 3))
    result = sums[0] if len(sums) == 1 else torch.cat(sums, 1)
    assert result.shape[1] == n_times
    return result


def fire(
    layer: AnyLayer[Any, Any],
    drives: Tensor,
    timesteps: int,
    dtype: torch.dtype,
    membranes: Tensor | None = None,
) -> Tensor:
    """Run the neurons of a layer over all timesteps; return their spikes before gate and pooling.

    The neuron is defined in :mod:`hw.spec`.

    Parameters
    ----------
    drives : tensor (N, T|1, O, H', W') of weighted sums without bias.
    dtype : type of the membranes. Integer membranes leak by shifts. Floating-point membranes are
        multiplied by the same factor, without rounding.
    membranes : tensor of the result's shape. The membranes are written into it as they are compared
        with the threshold: after leak and input, before the reset. None if they are not needed.

    Returns
    -------
    uint8 tensor (N, T, O, H', W') of 0 and 1.
    """
    assert layer.threshold is not None
    bias = _to_map(layer.bias, dtype)
    threshold = _to_map(layer.threshold[None], dtype)[0]
    left = torch.zeros_like(drives[:, 0], dtype=dtype)
    spikes = torch.empty((len(drives), timesteps, *drives.shape[2:]), dtype=torch.uint8)
    for t in range(timesteps):
        here = drives[:, min(t, drives.shape[1] - 1)].to(dtype)
        charged = left + here + bias[min(t, len(bias) - 1)]
        if membranes is not None:
            membranes[:, t] = charged
        spikes[:, t], membrane = spec.fire(charged, threshold, layer.reset)
        if dtype.is_floating_point:
            remains = membrane * spec.decay(layer.leak, *layer.leak_shifts)
        else:
            remains = spec.leaked(membrane, layer.leak, *layer.leak_shifts)
        left = spec.after_leak(remains, spikes[:, t], threshold, layer.reset)
    return spikes


def join_and_pool(layer: AnyLayer[Any, Any], spikes: Tensor, identity: Tensor | None) -> Tensor:
    """Return a layer's spikes after its gate and its pooling.

    The gate joins every spike with the spike at the same place in another map, ``identity``, which
    is None if the layer has no gate. Pooling is the OR of the spikes in each window. Spikes,
    identity and result are uint8 tensors (N, T, O, H, W) of 0 and 1.
    """
    if identity is not None:
        spikes = spec.joined(layer.gate, spikes, identity)
    pool_y, pool_x = layer.pool
    if (pool_y, pool_x) == (1, 1):
        return spikes
    height, width = spikes.shape[3] // pool_y, spikes.shape[4] // pool_x
    cut = spikes[..., : height * pool_y, : width * pool_x]
    return cut.unflatten(4, (width, pool_x)).unflatten(3, (height, pool_y)).amax((4, 6))


def summed(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    """Convert the bias (1, 1, 1, O) of an output layer to a tensor (O,).

    The caller adds the bias once to the weighted sums, which are summed over all timesteps.
    """
    return torch.from_numpy(array[0, 0, 0]).to(dtype)


def _to_map(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Convert biases or thresholds (T, H', W', O) to a tensor (T, O, H', W').

    Axes of length 1, along which the numbers are shared, keep this length.
    """
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype).permute(0, 3, 1, 2)
