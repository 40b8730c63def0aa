"""One layer over all timesteps in torch, for any weight sharing and any arithmetic.

:mod:`sw.network.reference` runs it in exact integers, :mod:`sw.convert.fold` in float64. Weighted sums are matrix
products of gathered windows, never a transformed convolution, so that each is a plain sum of
products in some order: exact wherever every partial sum is.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hw.spec import Gate, Leak, Reset, leaked


class AnyLayer(Protocol):
    """What integer and folded layers have in common, see :class:`sw.network.network.Layer`."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def kernel(self) -> tuple[int, int]: ...
    @property
    def stride(self) -> tuple[int, int]: ...
    @property
    def padding(self) -> tuple[int, int]: ...
    @property
    def weight(self) -> NDArray[Any]: ...
    @property
    def bias(self) -> NDArray[Any]: ...
    @property
    def threshold(self) -> NDArray[Any] | None: ...
    @property
    def leak(self) -> Leak: ...
    @property
    def leak_shift(self) -> int: ...
    @property
    def reset(self) -> Reset: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def identity(self) -> str | None: ...
    @property
    def pool(self) -> tuple[int, int]: ...


def fan_in(layer: AnyLayer) -> int:
    """Synapses of one output neuron at one timestep, those in the padding included."""
    return layer.weight.shape[4] * layer.kernel[0] * layer.kernel[1]


def drive(layer: AnyLayer, source: Tensor, dtype: torch.dtype) -> Tensor:
    """Weighted sums without bias.

    Parameters
    ----------
    source : (N, T, C, H, W) in any type; T is 1 if the input is the same at every timestep and the
        weights are too.
    dtype : type to compute in, and of the result.

    Returns
    -------
    (N, T, O, H', W')
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
    n_taps = fan_in(layer)
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
    layer: AnyLayer,
    drives: Tensor,
    timesteps: int,
    dtype: torch.dtype,
    membranes: Tensor | None = None,
) -> Tensor:
    """Spikes uint8 (N, T, O, H', W') before gate and pooling, see :mod:`hw.spec`.

    ``drives`` is (N, T|1, O, H', W') without bias; membranes are of type ``dtype``: integers leak
    by shifts, floating point by the same factor without rounding. A tensor ``membranes``, of the
    result's shape, gets their values before the comparison.
    """
    assert layer.threshold is not None
    bias = _to_map(layer.bias, dtype)
    threshold = _to_map(layer.threshold[None], dtype)[0]
    membrane = torch.zeros_like(drives[:, 0], dtype=dtype)
    spikes = torch.empty((len(drives), timesteps, *drives.shape[2:]), dtype=torch.uint8)
    for t in range(timesteps):
        here = drives[:, min(t, drives.shape[1] - 1)].to(dtype)
        membrane = _leaked(membrane, layer) + here + bias[min(t, len(bias) - 1)]
        fires = membrane >= threshold
        spikes[:, t] = fires
        if membranes is not None:
            membranes[:, t] = membrane
        if layer.reset == Reset.SOFT:
            membrane = torch.where(fires, membrane - threshold, membrane)
        else:
            membrane = membrane.masked_fill(fires, 0)
    return spikes


def join_and_pool(layer: AnyLayer, spikes: Tensor, identity: Tensor | None) -> Tensor:
    """Gate with the identity's spikes, then OR over windows; uint8 (N, T, O, H, W)."""
    if identity is not None:
        spikes = {
            Gate.AND: lambda o, s: o & s,
            Gate.IAND: lambda o, s: o & (1 - s),
            Gate.OR: lambda o, s: o | s,
            Gate.XOR: lambda o, s: o ^ s,
        }[layer.gate](identity, spikes)
    pool_y, pool_x = layer.pool
    if (pool_y, pool_x) == (1, 1):
        return spikes
    height, width = spikes.shape[3] // pool_y, spikes.shape[4] // pool_x
    cut = spikes[..., : height * pool_y, : width * pool_x]
    return cut.unflatten(4, (width, pool_x)).unflatten(3, (height, pool_y)).amax((4, 6))


def summed(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    """An output layer's bias (1, 1, 1, o) as (o,)."""
    return torch.from_numpy(array[0, 0, 0]).to(dtype)


def _to_map(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """(t|1, y|1, x|1, o) to (t|1, o, y|1, x|1)."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype).permute(0, 3, 1, 2)


def _leaked(membrane: Tensor, layer: AnyLayer) -> Tensor:
    if not membrane.is_floating_point():
        return leaked(membrane, layer.leak, layer.leak_shift)  # type: ignore[arg-type, return-value]
    kept = membrane * 2.0**-layer.leak_shift
    return {Leak.NONE: membrane, Leak.SUBTRACT: membrane - kept, Leak.KEEP: kept}[layer.leak]
