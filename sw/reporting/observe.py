"""What a network does with images: everything that the report's page shows, measured once.

Spikes and membranes are the integer reference's; counted cycles are a board's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hw.boards.configs import board_name
from sw.compile import costs
from sw.compile.costs import LayerReport
from sw.compile.program import Program
from sw.driver.any_board import AnyBoard
from sw.network import encoder, reference
from sw.network.network import Layer, Network

N_TRACED = 10
"""Images whose maps are kept, whose cycles are predicted, and that a board runs."""
N_SAMPLES = 6
"""Images that are shown."""
N_NEURONS = 3
"""Neurons of a layer whose membranes are shown."""

Neuron = tuple[int, int, int]
"""(channel, row, column)"""


class NeuronError(ValueError):
    """A neuron that was asked for does not exist; the message says which do."""


@dataclass(frozen=True, kw_only=True)
class Membranes:
    """One neuron, for every sample.

    Attributes
    ----------
    values : int64 (N, T), before the comparison with the threshold.
    spikes : bool (N, T), of the neuron itself: before its gate.
    """

    neuron: Neuron
    threshold: int
    values: NDArray[np.int64]
    spikes: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """An image that is shown, with all its spikes: (T, C, H, W) by map."""

    index: int
    image: NDArray[np.uint8]
    label: int | None
    prediction: int
    logits: NDArray[np.int64]
    maps: dict[str, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a board counted, means per image over the first ``n_images``; by layer."""

    board: str
    n_images: int
    n_cycles: dict[str, float]
    predictions: list[int]
    n_differences: int
    """Images whose logits or spike counts are not the reference's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """Measurements of one network.

    Attributes
    ----------
    what : the images in words.
    labels : int (N,), or None.
    predictions : int64 (N,)
    rates : by map, the share of its neurons that spike at each timestep, over all images.
    n_traced : the first images, over which the figures in ``layers`` are means.
    membranes : by layer, for every sample; the output layer has none.
    """

    what: str
    labels: NDArray[np.int64] | None
    predictions: NDArray[np.int64]
    rates: dict[str, NDArray[np.float64]]
    n_traced: int
    layers: list[LayerReport]
    samples: list[Sample]
    membranes: dict[str, list[Membranes]]
    counted: Counted | None = None

    def confusion(self, n_classes: int) -> NDArray[np.int64] | None:
        """Images by (label, prediction)."""
        if self.labels is None:
            return None
        matrix = np.zeros((n_classes, n_classes), np.int64)
        np.add.at(matrix, (self.labels, self.predictions), 1)
        return matrix


@dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """``images`` as the network takes them, with ``labels`` (N,) if they are known."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    what: str
    chosen: dict[str, list[Neuron]] = field(default_factory=dict)
    """Neurons to show, by layer; the others are chosen here."""


def observe(
    network: Network, program: Program | None, images: Images, board: AnyBoard | None = None
) -> Observation:
    """Run the reference over all images, and a board over the first ones if there is one.

    Raises
    ------
    sw.network.encoder.InputError
        The images do not suit the network.
    NeuronError
        ``images.chosen`` names a neuron that does not exist.
    sw.driver.errors.DeviceError
        The board went away.
    """
    for name, neurons in images.chosen.items():
        _check_neurons(network, name, neurons)
    overall = reference.run(network, images.images, keep_spikes=False)
    shapes = network.map_shapes()
    first = reference.run(network, images.images[:N_TRACED])
    maps = costs.device_maps(network, images.images, first.spikes)
    samples = _samples(network, images, overall.predictions)
    return Observation(
        what=images.what,
        labels=images.labels,
        predictions=overall.predictions,
        rates={
            name: overall.n_spikes[name].mean(axis=0) / np.prod(shape)
            for name, shape in shapes.items()
        },
        n_traced=len(maps),
        layers=costs.measured(network, program, maps),
        samples=samples,
        membranes=_membranes(network, samples, images.chosen),
        counted=None if board is None else _count(network, board, images, first),
    )


def _check_neurons(network: Network, name: str, neurons: list[Neuron]) -> None:
    shapes = network.map_shapes()
    firing = {layer.name: layer for layer in network.layers[:-1]}
    if name not in firing:
        raise NeuronError(f"there is no firing layer {name!r}: use one of {', '.join(firing)}")
    shape = firing[name].conv_shape(shapes[firing[name].source])
    for neuron in neurons:
        if not all(0 <= n < size for n, size in zip(neuron, shape, strict=True)):
            raise NeuronError(
                f"layer {name!r} has no neuron {neuron}: channel, row and column are below {shape}"
            )


def _samples(network: Network, images: Images, predictions: NDArray[np.int64]) -> list[Sample]:
    """The first image of each of some classes, a wrong one at the end if there is one."""
    order = np.arange(len(predictions))
    groups = predictions if images.labels is None else images.labels
    right = order if images.labels is None else order[predictions == images.labels]
    _, firsts = np.unique(groups[right], return_index=True)
    chosen = sorted(right[firsts].tolist())
    chosen += [n for n in order.tolist() if n not in set(chosen)]
    wrong = [] if images.labels is None else order[predictions != images.labels].tolist()[:1]
    chosen = [n for n in chosen if n not in wrong][: N_SAMPLES - len(wrong)] + wrong
    trace = reference.run(network, images.images[chosen])
    return [
        Sample(
            index=n,
            image=images.images[n],
            label=None if images.labels is None else int(images.labels[n]),
            prediction=int(trace.predictions[i]),
            logits=trace.logits[i],
            maps={name: spikes[i] for name, spikes in trace.spikes.items()},
        )
        for i, n in enumerate(chosen)
    ]


def _membranes(
    network: Network, samples: list[Sample], chosen: dict[str, list[Neuron]]
) -> dict[str, list[Membranes]]:
    stacked = {
        name: np.stack([sample.maps[name] for sample in samples]) for name in samples[0].maps
    }
    result = {}
    for layer in network.layers[:-1]:
        values, spikes = reference.membranes(layer, stacked[layer.source])
        result[layer.name] = [
            Membranes(
                neuron=neuron,
                threshold=_threshold(layer, neuron),
                values=values[:, :, *neuron],
                spikes=spikes[:, :, *neuron].astype(np.bool_),
            )
            for neuron in chosen.get(layer.name) or _telling(spikes)
        ]
    return result


def _threshold(layer: Layer, neuron: Neuron) -> int:
    assert layer.threshold is not None
    channel, row, column = neuron
    rows, columns = layer.threshold.shape[:2]
    return int(layer.threshold[min(row, rows - 1), min(column, columns - 1), channel])


def _telling(spikes: NDArray[np.uint8]) -> list[Neuron]:
    """Neurons of different channels, from spikes (N, T, C, H, W), that sometimes fire and sometimes
    do not, so that there is something to see."""
    rate = spikes.mean(axis=(0, 1))
    spread = rate * (1 - rate)
    best = spread.reshape(len(spread), -1).argmax(axis=1)
    channels = np.argsort(-spread.reshape(len(spread), -1).max(axis=1), kind="stable")
    return [
        (int(c), int(best[c] // rate.shape[2]), int(best[c] % rate.shape[2]))
        for c in sorted(channels[:N_NEURONS].tolist())
    ]


def _count(network: Network, board: AnyBoard, images: Images, trace: reference.Trace) -> Counted:
    frames = encoder.inputs(network, images.images[:N_TRACED], board.program.pixels)
    cycles: dict[str, list[int]] = {plan.name: [] for plan in board.program.layers}
    predictions, n_differences = [], 0
    for n, spikes in enumerate(tqdm(frames, "board", unit=" images", leave=False, disable=None)):
        result = board.observe(spikes)
        predictions.append(result.prediction)
        same = np.array_equal(result.logits, trace.logits[n])
        for layer in network.layers:
            if not layer.output:
                n_spikes = trace.n_spikes[layer.name][n].sum()
                same &= result.counters[layer.name].n_spikes == n_spikes
        for name, counters in result.counters.items():
            cycles[name].append(counters.n_cycles)
        n_differences += not same
    return Counted(
        board=board_name(board.config),
        n_images=len(predictions),
        n_cycles={name: float(np.mean(values)) for name, values in cycles.items()},
        predictions=predictions,
        n_differences=n_differences,
    )
