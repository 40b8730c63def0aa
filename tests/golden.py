"""Golden model: the arithmetic of :mod:`hw.spec` written a second time as plain loops, with no
shared code."""

from __future__ import annotations

import numpy as np

from hw.spec import Gate, Leak, Reset
from sw.network.network import INPUT, Layer, Network


def _pick(array: np.ndarray, *indices: int) -> np.ndarray:
    """Return an element of an array, using index 0 for each axis of length 1, along which values
    are shared."""
    for index in indices:
        array = array[0 if array.shape[0] == 1 else index]
    return array


def run_layer(layer: Layer, source: np.ndarray, identity: np.ndarray | None) -> np.ndarray:
    """Return the spikes (T, O, H', W') of a layer, or the logits (O,) of an output layer.

    ``source`` is the layer's input (T, C, H, W). ``identity`` holds the spikes of the residual
    block's shortcut if the layer has a gate, and is None if it has none.
    """
    timesteps, _, _, _ = source.shape
    pad_y, pad_x = layer.padding
    padded = np.pad(source.astype(np.int64), ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    n_out, height, width = layer.conv_shape(source.shape[1:])
    kernel_y, kernel_x = layer.kernel
    logits = layer.bias[0, 0, 0].astype(np.int64)
    spikes = np.zeros((timesteps, n_out, height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            membrane = np.zeros(n_out, np.int64)
            for t in range(timesteps):
                top, left = y * layer.stride[0], x * layer.stride[1]
                window = padded[t, :, top : top + kernel_y, left : left + kernel_x]
                weight = _pick(layer.weight, t, y, x).astype(np.int64)
                drive = (window[None] * weight).sum(axis=(1, 2, 3))
                if layer.output:
                    logits = logits + drive
                    continue
                drive = drive + _pick(layer.bias, t, y, x)
                assert layer.threshold is not None
                threshold = _pick(layer.threshold, y, x)
                sign = {Leak.NONE: 0, Leak.SUBTRACT: -1, Leak.KEEP: 1}[layer.leak]
                kept = 0 if layer.leak == Leak.KEEP else membrane
                for shift in (layer.leak_shift, *layer.finer_shifts):
                    kept = kept + sign * (membrane >> shift)
                    sign = -sign
                if layer.reset == Reset.DELAYED and t:
                    kept = kept - threshold * spikes[t - 1, :, y, x]
                membrane = kept + drive
                fires = membrane >= threshold
                after = {
                    Reset.HARD: 0 * membrane,
                    Reset.SOFT: membrane - threshold,
                    Reset.DELAYED: membrane,
                }[layer.reset]
                membrane = np.where(fires, after, membrane)
                spikes[t, :, y, x] = fires
    if layer.output:
        return logits
    if identity is not None:
        spikes = {
            Gate.AND: spikes & identity,
            Gate.IAND: (1 - spikes) & identity,
            Gate.OR: spikes | identity,
            Gate.XOR: spikes ^ identity,
        }[layer.gate]
    pool_y, pool_x = layer.pool
    spikes = spikes[:, :, : height // pool_y * pool_y, : width // pool_x * pool_x]
    return spikes.reshape(timesteps, n_out, height // pool_y, pool_y, width // pool_x, pool_x).max(
        axis=(3, 5)
    )


def inputs_of(layer: Layer, maps: dict[str, np.ndarray]) -> np.ndarray:
    """Return the input (T, C, H, W) of a layer, from the spikes of all maps by name.

    If the layer reads several maps, they are added up or their channels are concatenated.
    """
    parts = [maps[name] for name in (layer.source, *layer.addends)]
    return np.concatenate(parts, axis=1) if layer.stacked else sum(parts[1:], parts[0])


def run_network(network: Network, frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Run a network on input spikes; return the spikes (T, C, H, W) of every map by name, and the
    logits."""
    maps = {INPUT: frames}
    for layer in network.layers:
        identity = maps[layer.identity] if layer.identity else None
        maps[layer.name] = run_layer(layer, inputs_of(layer, maps), identity)
    return maps, maps.pop(network.layers[-1].name)
