"""Comparison of a device's inferences with the PyTorch integer reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sw.compile import costs
from sw.compile.program import PIXELS
from sw.driver.inference import Inference
from sw.network.network import Network


def differences(
    index: int,
    network: Network,
    inference: Inference,
    logits: NDArray[np.int64],
    maps: dict[str, NDArray[np.uint8]],
) -> Iterator[str]:
    """What an inference did otherwise than the reference: prediction, logits, spikes and additions
    of every layer, and every spike if they were read back."""
    prediction = int(np.argmax(logits))
    if inference.prediction != prediction:
        yield f"image {index}: class {inference.prediction}, the reference says {prediction}"
    if not np.array_equal(inference.logits, logits):
        n_class = int(np.flatnonzero(inference.logits != logits)[0])
        yield (
            f"image {index}: logit {n_class} is {inference.logits[n_class]}, the reference says "
            f"{logits[n_class]}"
        )
    for layer in network.layers:
        counters = inference.counters.get(layer.name)
        if counters is None:
            continue
        expected = costs.n_synaptic_ops(layer, maps[layer.source])
        if counters.n_synaptic_ops != expected:
            yield (
                f"image {index}, layer {layer.name}: {counters.n_synaptic_ops} synaptic "
                f"operations, the reference says {expected}"
            )
        if not layer.output and counters.n_spikes != (spikes := int(maps[layer.name].sum())):
            yield (
                f"image {index}, layer {layer.name}: {counters.n_spikes} spikes, the reference "
                f"says {spikes}"
            )
    for name, found in inference.maps.items():
        if name == PIXELS:  # what the host wrote
            continue
        wrong = np.argwhere(found != maps[name])
        if len(wrong):
            t, c, y, x = wrong[0]
            yield (
                f"image {index}, map {name}: {len(wrong)} of {found.size} spikes differ, first at "
                f"timestep {t}, channel {c}, row {y}, column {x}: {found[t, c, y, x]}, the "
                f"reference says {maps[name][t, c, y, x]}"
            )


def check(
    network: Network, images: NDArray[np.uint8], inferences: list[Inference], first: int
) -> list[str]:
    """Differences of ``inferences`` on ``images`` from the PyTorch reference, numbered from
    ``first``."""
    from sw.network import reference

    trace = reference.run(network, images)
    found: list[str] = []
    for n, inference in enumerate(inferences):
        maps = {name: spikes[n] for name, spikes in trace.spikes.items()}
        found += differences(first + n, network, inference, trace.logits[n], maps)
    return found
