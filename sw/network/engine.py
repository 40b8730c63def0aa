"""One layer over all timesteps in torch, for any weight sharing and any arithmetic.

:mod:`sw.network.reference` computes it in exact integers, :mod:`sw.convert.folded` in float64.
Weighted sums are matrix products of gathered windows, never a transformed convolution, so that each
is a plain sum of products in some order and exact wherever every partial sum is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hw import spec
from sw.network.network import AnyLayer


def drive(layer: AnyLayer[Any, Any], source: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weighted sums without bias.

    Parameters
    ----------
    source : tensor (N, T, C, H, W) of any type; T is 1 if both the input and the weights are the
        same at every timestep.
    dtype : type of the computation and of the result.

    Returns
    -------
    Tensor (N, T, O, H', W').
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
    n_taps = layer.fan_in
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
    """Run the layer's neurons (:mod:`hw.spec`); return spikes before gate and pooling.

    Parameters
    ----------
    drives : tensor (N, T|1, O, H', W') of weighted sums without bias.
    dtype : type of the membranes: integers leak by shifts, floating point by the same factor
        without rounding.
    membranes : tensor of the result's shape that receives the membranes before the comparison.

    Returns
    -------
    uint8 tensor (N, T, O, H', W') of 0 and 1.
    """
    assert layer.threshold is not None
    bias = _to_map(layer.bias, dtype)
    threshold = _to_map(layer.threshold[None], dtype)[0]
    membrane = torch.zeros_like(drives[:, 0], dtype=dtype)
    spikes = torch.empty((len(drives), timesteps, *drives.shape[2:]), dtype=torch.uint8)
    for t in range(timesteps):
        here = drives[:, min(t, drives.shape[1] - 1)].to(dtype)
        if dtype.is_floating_point:
            left = membrane * spec.decay(layer.leak, layer.leak_shift)
        else:
            left = spec.leaked(membrane, layer.leak, layer.leak_shift)
        charged = left + here + bias[min(t, len(bias) - 1)]
        if membranes is not None:
            membranes[:, t] = charged
        spikes[:, t], membrane = spec.fire(charged, threshold, layer.reset)
    return spikes


def join_and_pool(layer: AnyLayer[Any, Any], spikes: Tensor, identity: Tensor | None) -> Tensor:
    """Join spikes with the identity's by the layer's gate, then OR them over pooling windows.

    Spikes, identity and result are uint8 tensors (N, T, O, H, W) of 0 and 1; without a gate the
    identity is None.
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
    """Return an output layer's bias (1, 1, 1, o), which is added once, as a tensor (o,)."""
    return torch.from_numpy(array[0, 0, 0]).to(dtype)


def _to_map(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Convert an array (t|1, y|1, x|1, o) to a tensor (t|1, o, y|1, x|1)."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype).permute(0, 3, 1, 2)
