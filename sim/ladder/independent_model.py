"""Second implementation of the integer network in a network file, written from
docs/network-file.md alone.

It imports nothing from Spikefold, and so tests that document: if the document is incomplete or
wrong, this model computes other results than Spikefold. If the document changes, write the model
again from the document; do not copy from Spikefold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

Array = np.ndarray
Outcome = tuple[dict[str, Array], Array, int]
"""Result for one sample: spike maps (T, C, H, W) by name, logits, and the predicted class."""


@dataclass(frozen=True)
class File:
    """Contents of a network file."""

    network: dict[str, Any]
    """Description of the network: the value of ``network`` in the file's JSON document."""
    tensors: dict[str, Array]
    """Arrays of weights, thresholds and so on, by the names that the JSON document uses."""


def read(path: Path) -> File:
    """Read a network file; its format is described in docs/network-file.md."""
    with safetensors.safe_open(path, "np") as file:
        document = json.loads(file.metadata()["spikefold"])
        assert document["format"] == "spikefold-network"
        return File(document["network"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def classify(file: File, sample: Array) -> Outcome:
    """Compute the spikes of all maps, the logits and the class of one sample.

    The sample is an image (C, H, W), or frames of spikes (T, C, H, W) if there is no encoder.
    """
    network, maps = file.network, {}
    sample = sample.astype(np.int64)
    if network["encoder"] is None:
        assert sample.shape == (network["timesteps"], *network["image_shape"])
        maps["input"] = sample
    else:
        assert sample.shape == tuple(network["image_shape"])
        most = 2 ** network.get("pixel_bits", 8) - 1
        sample = (sample * most + 127) // 255
        image = np.stack([sample] * network["timesteps"])
        maps["input"] = spikes(file, network["encoder"], {"image": image})
    for layer in network["layers"][:-1]:
        maps[layer["name"]] = spikes(file, layer, maps)
    last = network["layers"][-1]
    assert last["output"]
    sums = weighted_sums(file, last, given(last, maps))
    assert sums.shape[2:] == (1, 1)
    logits = sums.sum(axis=0)[:, 0, 0] + tensor(file, last["bias"])[0, 0, 0]
    best = [o for o in range(len(logits)) if logits[o] == max(logits)]
    return maps, logits, best[0]


def tensor(file: File, reference: dict[str, str]) -> Array:
    """Return the array of a network file to which its JSON part refers by ``reference``."""
    return file.tensors[reference["tensor"]].astype(np.int64)


def given(layer: dict[str, Any], maps: dict[str, Array]) -> Array:
    """Return the input (T, C, H, W) of a layer: the sum of all maps that it reads.

    A stacked layer reads the channels of all maps instead, one map after another.
    """
    read = [maps[name] for name in [layer["source"], *layer.get("addends", [])]]
    if layer.get("stacked", False):
        return np.concatenate(read, axis=1)
    total = read[0]
    for addend in read[1:]:
        total = total + addend
    return total


def weighted_sums(file: File, layer: dict[str, Any], source: Array) -> Array:
    """Return a layer's weighted sums of its inputs plus biases, (T, O, H', W')."""
    weight = tensor(file, layer["weight"])
    n_times, n_in, rows, columns = source.shape
    (kernel_y, kernel_x), (stride_y, stride_x) = layer["kernel"], layer["stride"]
    pad_y, pad_x = layer["padding"]
    height = (rows + 2 * pad_y - kernel_y) // stride_y + 1
    width = (columns + 2 * pad_x - kernel_x) // stride_x + 1
    around = np.zeros((n_times, n_in, rows + 2 * pad_y, columns + 2 * pad_x), np.int64)
    around[:, :, pad_y : pad_y + rows, pad_x : pad_x + columns] = source
    sums = np.zeros((n_times, weight.shape[3], height, width), np.int64)
    for ky in range(kernel_y):
        for kx in range(kernel_x):
            taken = around[
                :,
                :,
                ky : ky + (height - 1) * stride_y + 1 : stride_y,
                kx : kx + (width - 1) * stride_x + 1 : stride_x,
            ]
            here = weight[..., min(ky, weight.shape[5] - 1), min(kx, weight.shape[6] - 1)]
            here = np.broadcast_to(here, (n_times, height, width, *here.shape[3:]))
            sums += np.einsum("tcyx,tyxoc->toyx", taken, here)
    return sums


def leaked(membrane: Any, leak: str, shifts: list[int]) -> Any:
    """Return the membranes after the leak.

    ``leak`` is the kind of leak, and ``shifts`` are its one to three shifts in bits.
    """
    if leak == "NONE":
        return membrane
    a, b, c = ([membrane // 2**shift for shift in shifts] + [0, 0])[:3]
    return membrane - a + b - c if leak == "SUBTRACT" else a - b + c


def reset(v: Any, spike: Any, threshold: Any, kind: str) -> Any:
    """Return the membranes ``v`` after a reset of the given ``kind``, where ``spike`` is 1."""
    return np.where(spike, {"HARD": 0 * v, "SOFT": v - threshold, "DELAYED": v}[kind], v)


def spikes(file: File, layer: dict[str, Any], maps: dict[str, Array]) -> Array:
    """Return the spikes (T, O, H', W') of the map that a layer writes."""
    sums = weighted_sums(file, layer, given(layer, maps))
    n_times, _, height, width = sums.shape
    bias = tensor(file, layer["bias"]).transpose(0, 3, 1, 2)
    bias = np.broadcast_to(bias, sums.shape)
    threshold = tensor(file, layer["threshold"]).transpose(2, 0, 1)
    fired = np.zeros_like(sums)
    membrane, late = np.zeros_like(sums[0]), 0
    for t in range(n_times):
        shifts = [layer["leak_shift"], *layer.get("finer_shifts", [])]
        v = leaked(membrane, layer["leak"], shifts) - late + sums[t] + bias[t]
        fired[t] = v >= threshold
        late = threshold * fired[t] if layer["reset"] == "DELAYED" else 0
        membrane = reset(v, fired[t], threshold, layer["reset"])
    if layer["identity"] is not None:
        fired = joined(layer["gate"], fired, maps[layer["identity"]])
    pool_y, pool_x = layer["pool"]
    pooled = np.zeros((*sums.shape[:2], height // pool_y, width // pool_x), np.int64)
    for y in range(pooled.shape[2]):
        for x in range(pooled.shape[3]):
            window = fired[:, :, y * pool_y : (y + 1) * pool_y, x * pool_x : (x + 1) * pool_x]
            pooled[:, :, y, x] = window.any(axis=(2, 3))
    return pooled


def joined(gate: str, s: Any, i: Any) -> Any:
    """Return the output of a layer's gate: ``s`` are its neurons' spikes, ``i`` those of the
    shortcut."""
    return {
        "AND": s * i,
        "IAND": i * (1 - s),
        "OR": s + i - s * i,
        "XOR": s + i - 2 * s * i,
    }[gate]
