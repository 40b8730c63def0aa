"""Comparison of a board's results with the integer reference (:mod:`sw.network.reference`), a
PyTorch computation that the board must match bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sw.compile import costs
from sw.compile.program import PIXELS
from sw.driver.inference import Inference
from sw.network.network import Network


def against_reference(
    network: Network, images: NDArray[np.uint8], inferences: list[Inference], first: int
) -> list[str]:
    """Run the integer reference on images, and return a description of each difference between the
    results of a board and of the reference; see :func:`differences`.

    Parameters
    ----------
    images : uint8 images (N, C, H, W), or spikes (N, T, C, H, W) if the network has no encoder.
    inferences : the board's results for these images, in the same order.
    first : number of ``images[0]`` in the descriptions; ``images[1]`` has the next number, and so
        on.
    """
    from sw.network import reference

    trace = reference.run(network, images)
    found: list[str] = []
    for n, inference in enumerate(inferences):
        maps = {name: spikes[n] for name, spikes in trace.spikes.items()}
        found += differences(first + n, network, inference, trace.logits[n], maps)
    return found


def differences(
    index: int,
    network: Network,
    inference: Inference,
    logits: NDArray[np.int64],
    maps: dict[str, NDArray[np.uint8]],
) -> Iterator[str]:
    """Yield a description of each difference between the results of a board and of the integer
    reference for one image.

    The prediction, the logits, and each layer's numbers of spikes and of synaptic operations
    (additions of one weight to one neuron) are compared. If the spikes were read back from the
    board, every single one is compared, too. Of the logits that differ, only the first is
    described; of each layer's spikes that differ, only the first.

    Parameters
    ----------
    index : number of the image, for the descriptions.
    logits : the reference's logits (n_classes,).
    maps : the reference's spikes (T, C, H, W) of every layer by its name, and of the input.
    """
    yield from (
        f"image {index}{where}"
        for where in (
            *_logits(inference, logits),
            *_counters(network, inference, maps),
            *_spikes(inference, maps),
        )
    )


def _logits(inference: Inference, logits: NDArray[np.int64]) -> Iterator[str]:
    prediction = int(np.argmax(logits))
    if inference.prediction != prediction:
        yield f": class {inference.prediction}, the reference says {prediction}"
    if not np.array_equal(inference.logits, logits):
        n_class = int(np.flatnonzero(inference.logits != logits)[0])
        yield (
            f": logit {n_class} is {inference.logits[n_class]}, the reference says "
            f"{logits[n_class]}"
        )


def _counters(
    network: Network, inference: Inference, maps: dict[str, NDArray[np.uint8]]
) -> Iterator[str]:
    for layer in network.layers:
        counters = inference.counters.get(layer.name)
        if counters is None:
            continue
        expected = costs.n_synaptic_ops(layer, maps)
        if counters.n_synaptic_ops != expected:
            yield (
                f", layer {layer.name}: {counters.n_synaptic_ops} synaptic operations, the "
                f"reference says {expected}"
            )
        if not layer.output and counters.n_spikes != (spikes := int(maps[layer.name].sum())):
            yield (f", layer {layer.name}: {counters.n_spikes} spikes, the reference says {spikes}")


def _spikes(inference: Inference, maps: dict[str, NDArray[np.uint8]]) -> Iterator[str]:
    for name, found in inference.maps.items():
        if name == PIXELS:  # the host wrote these bits itself
            continue
        wrong = np.argwhere(found != maps[name])
        if len(wrong):
            t, c, y, x = wrong[0]
            yield (
                f", map {name}: {len(wrong)} of {found.size} spikes differ, first at timestep {t}, "
                f"channel {c}, row {y}, column {x}: {found[t, c, y, x]}, the reference says "
                f"{maps[name][t, c, y, x]}"
            )
