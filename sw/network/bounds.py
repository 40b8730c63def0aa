"""Worst-case bounds: the proof that no accumulator, membrane or logit can overflow. NumPy only.

The proof computes, for every neuron and timestep, the interval of values that the membrane can
have. Every input may be silent or active, in any combination. Leak and reset together are monotone
in the membrane, both for a neuron that spikes and for one that does not. Therefore the ends of an
interval follow from the ends at the timestep before. The bounds are tight if the inputs of all
timesteps are independent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw.spec import after_spike, carried_over
from sw.network.network import Layer


@dataclass(frozen=True)
class Bounds:
    """Bounds of values in registers: each value is at least ``low`` and at most ``high``.

    Each function that returns bounds documents which values they apply to.
    """

    low: int
    high: int

    @property
    def n_bits(self) -> int:
        """Width in bits of the smallest two's complement register that holds both bounds."""
        return 1 + max((-self.low - 1).bit_length() if self.low < 0 else 0, self.high.bit_length())


def drive_bounds(layer: Layer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for every neuron, the smallest and the largest weighted sum of its inputs.

    An input is a spike, 0 or 1. In a layer that adds up several maps before it multiplies them by
    weights, an input is a sum of spikes, one from each map, so it may be as large as the number of
    maps. The bias is not included.

    Both results are arrays with the axes (t, y, x, o): timestep, position and output channel. An
    axis t, y or x has length 1 if the weights are shared along it.
    """
    repeats = layer.n_summed
    for axis, length in ((5, layer.kernel[0]), (6, layer.kernel[1])):
        if layer.weight.shape[axis] == 1:
            repeats *= length
    weight = layer.weight
    low = np.minimum(weight, 0).sum(axis=(4, 5, 6), dtype=np.int64) * repeats
    high = np.maximum(weight, 0).sum(axis=(4, 5, 6), dtype=np.int64) * repeats
    return low, high


def bank_bounds(layer: Layer, timesteps: int, inputs: Sequence[Sequence[int]]) -> Bounds:
    """Return one pair of bounds for the sums that the banks of a device accumulate in a layer.

    A bank (:class:`hw.spec.Config`) adds up the weights of its own input channels, for one neuron
    and one timestep; in an output layer, for one neuron over all timesteps. The inputs are 0 or 1,
    even in a layer that reads pixels, because a bank adds up one bit-plane (one bit of every pixel)
    at a time. The sums of several planes are combined after the banks.

    Parameters
    ----------
    timesteps : number of timesteps of the network.
    inputs : for each bank, the indices of its input channels along the axis of input channels of
        ``layer.weight``.
    """
    least = most = 0
    for channels in inputs:
        own = dataclasses.replace(layer, weight=layer.weight[:, :, :, :, list(channels)])
        low, high = drive_bounds(own)
        if layer.output:
            repeats = timesteps if len(low) == 1 else 1
            low, high = low.sum(axis=0) * repeats, high.sum(axis=0) * repeats
        least, most = min(least, int(low.min())), max(most, int(high.max()))
    return Bounds(least, most)


def layer_bounds(layer: Layer, timesteps: int, input_max: int = 1) -> Bounds:
    """Return one pair of bounds for the values in the device's registers, over all neurons of a
    layer.

    The values are the accumulators (sums of some of the weights), the membranes before and after
    the reset, their differences from the threshold, and the logits. The inputs are any integers
    from 0 to ``input_max``. If a layer reads several maps, their spikes may come in any
    combination.
    """
    low, high = (bound * input_max for bound in drive_bounds(layer))
    bias = layer.bias.astype(np.int64)
    least, most = min(0, int(low.min())), max(0, int(high.max()))
    if layer.output:
        repeats = timesteps if low.shape[0] == 1 else 1
        total_low, total_high = low.sum(axis=0) * repeats, high.sum(axis=0) * repeats
        return Bounds(
            min(least, int(total_low.min()), int((total_low + bias[0]).min())),
            max(most, int(total_high.max()), int((total_high + bias[0]).max())),
        )
    assert layer.threshold is not None
    threshold = layer.threshold.astype(np.int64)
    left_low = left_high = np.zeros((1, 1, 1), np.int64)
    for t in range(timesteps):
        drive_low = low[min(t, len(low) - 1)] + bias[min(t, len(bias) - 1)]
        drive_high = high[min(t, len(high) - 1)] + bias[min(t, len(bias) - 1)]
        u_low, u_high = left_low + drive_low, left_high + drive_high
        least = min(least, int(drive_low.min()), int(u_low.min()), int((u_low - threshold).min()))
        most = max(most, int(drive_high.max()), int(u_high.max()))
        v_low, v_high = _interval(
            u_low, u_high, threshold, lambda u: u, lambda u: after_spike(u, threshold, layer.reset)
        )
        left_low, left_high = _interval(
            u_low,
            u_high,
            threshold,
            lambda u: _carried_over(layer, u, 0),
            lambda u: _carried_over(layer, after_spike(u, threshold, layer.reset), 1),
        )
        for low_now, high_now in ((v_low, v_high), (left_low, left_high)):
            least, most = min(least, int(low_now.min())), max(most, int(high_now.max()))
    return Bounds(least, most)


def _carried_over(layer: Layer, membrane: NDArray[np.int64], fired: int) -> NDArray[np.int64]:
    """Return the part of each membrane that remains at the next timestep, after reset and leak.

    ``fired`` is 1 if the neurons have all just fired, and 0 if none has.
    """
    assert layer.threshold is not None
    threshold = layer.threshold.astype(np.int64)
    return carried_over(membrane, fired, threshold, layer.reset, layer.leak, *layer.leak_shifts)


def _interval(
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    threshold: NDArray[np.int64],
    quiet: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    fired: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each neuron, the interval that contains its membrane after a timestep.

    Before the timestep, the membrane is between ``low`` and ``high``. The timestep turns a membrane
    ``u`` below the threshold into ``quiet(u)``, and any other into ``fired(u)``. Both functions are
    monotone, so the ends of the new interval follow from the ends of the old one and the values at
    the threshold. The result is two arrays: the lower ends and the upper ends of all intervals.
    """
    may_fire, may_rest = high >= threshold, low < threshold
    quiet_low, quiet_high = quiet(low), quiet(np.minimum(high, threshold - 1))
    fired_low, fired_high = fired(np.maximum(low, threshold)), fired(high)
    both = may_fire & may_rest
    return (
        np.where(both, np.minimum(quiet_low, fired_low), np.where(may_rest, quiet_low, fired_low)),
        np.where(
            both, np.maximum(quiet_high, fired_high), np.where(may_rest, quiet_high, fired_high)
        ),
    )
