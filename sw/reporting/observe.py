"""Run images through a network once, and take all measurements that the report shows.

Spikes and membranes come from the integer reference (:mod:`sw.network.reference`), a software model
that agrees with the device bit by bit. Clock cycles are predicted from the spikes, and also counted
if there is a board. A map is the spikes of one layer, or of the network's input: binary
(T, C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
"""Largest number of images that a board runs, and whose cycles and operations are predicted: the
first ones of a set."""
N_SHOWN = 6
"""Number of images that are shown with all their spikes."""
N_NEURONS = 3
"""Number of neurons per layer whose membranes are shown, unless the user chooses them."""

NeuronIndex = tuple[int, int, int]
"""Channel, row and column of a neuron in its layer, before pooling."""


class NeuronError(ValueError):
    """Raised for a neuron that does not exist; the message lists the existing layers or indices."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet:
    """N input samples to run through a network.

    Attributes
    ----------
    images : uint8 images (N, C, H, W), or binary frames (N, T, C, H, W) for a network without
        encoder.
    labels : int (N,), or None if they are not known.
    description : number and source of the images, in words.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    description: str


@dataclass(frozen=True, kw_only=True)
class Membranes:
    """Membrane of one neuron over T timesteps, for each of the N images that the report shows.

    Attributes
    ----------
    neuron : channel, row and column of the neuron.
    values : int64 (N, T), the membrane before the comparison with the threshold.
    threshold : threshold of the neuron.
    spikes : bool (N, T), whether the neuron fires. These are the spikes before the layer's gate,
        which joins them with a shortcut, and before its pooling.
    """

    neuron: NeuronIndex
    threshold: int
    values: NDArray[np.int64]
    spikes: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class ShownImage:
    """An image that the report shows, with all the spikes that it causes.

    Attributes
    ----------
    index : index of the image in the :class:`ImageSet`.
    image : uint8 image (C, H, W) or frames (T, C, H, W).
    label : true class; None if unknown.
    maps : spikes uint8 (T, C, H, W) of the input and of every layer, by name.
    """

    index: int
    image: NDArray[np.uint8]
    label: int | None
    prediction: int
    logits: NDArray[np.int64]
    maps: dict[str, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Results of a board that ran the first ``n_images`` images.

    Attributes
    ----------
    board : name of the board.
    n_cycles : clock cycles of each layer, as a mean over the images.
    predictions : class that the board predicts for each image.
    n_differences : number of images whose logits or spike counts differ from the reference.
    """

    board: str
    n_images: int
    n_cycles: dict[str, float]
    predictions: list[int]
    n_differences: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """Measurements of one network on an :class:`ImageSet` of N images.

    Attributes
    ----------
    description : number and source of the images, in words.
    labels : int (N,), or None if they are not known.
    predictions : int64 (N,), classes by the integer reference.
    rates : for each map, by name: a firing rate for each timestep (T,), which is the share of the
        map's elements that are spikes, as a mean over all images.
    n_traced : number of images that ``layers`` is measured on, the first ones of the set.
    layers : size of each layer, and its work as a mean over the first ``n_traced`` images.
    shown : the images that the report shows with all their spikes.
    membranes : membranes of a few neurons of each layer, by its name, for the images of ``shown``.
        The output layer has none.
    counted : results of the board; None if there was none.
    """

    description: str
    labels: NDArray[np.int64] | None
    predictions: NDArray[np.int64]
    rates: dict[str, NDArray[np.float64]]
    n_traced: int
    layers: list[LayerReport]
    shown: list[ShownImage]
    membranes: dict[str, list[Membranes]]
    counted: Counted | None = None

    def confusion(self, n_classes: int) -> NDArray[np.int64] | None:
        """Return the confusion matrix (n_classes, n_classes), or None if labels are unknown.

        Element (i, j) is the number of images with label i and prediction j.
        """
        if self.labels is None:
            return None
        matrix = np.zeros((n_classes, n_classes), np.int64)
        np.add.at(matrix, (self.labels, self.predictions), 1)
        return matrix


def observe(
    network: Network,
    program: Program | None,
    given: ImageSet,
    board: AnyBoard | None = None,
    neurons: Mapping[str, list[NeuronIndex]] | None = None,
) -> Observation:
    """Run all images through the integer reference, the first :data:`N_TRACED` also through a
    board, and return all measurements.

    Parameters
    ----------
    program : the network compiled for a board, for which cycles are predicted. None if the network
        does not fit; then no cycles are predicted.
    given : the images.
    board : a board with the network loaded; None to run the reference only.
    neurons : neurons whose membranes are recorded, by the name of their layer. In all other layers,
        neurons that fire at some timesteps but not at others are chosen.

    Raises
    ------
    sw.network.encoder.InputError
        The images do not suit the network.
    NeuronError
        ``neurons`` names a neuron that does not exist.
    sw.driver.errors.DeviceError
        The connection to the board was lost.
    """
    neurons = neurons or {}
    for name, chosen in neurons.items():
        _check_neurons(network, name, chosen)
    overall = reference.run(network, given.images, keep_spikes=False)
    shapes = network.map_shapes()
    first = reference.run(network, given.images[:N_TRACED])
    maps = costs.device_maps(network, given.images, first.spikes)
    shown = _shown_images(network, given, overall.predictions)
    return Observation(
        description=given.description,
        labels=given.labels,
        predictions=overall.predictions,
        rates={
            name: overall.n_spikes[name].mean(axis=0) / np.prod(shape)
            for name, shape in shapes.items()
        },
        n_traced=len(maps),
        layers=costs.measured(network, program, maps),
        shown=shown,
        membranes=_membranes(network, shown, neurons),
        counted=None if board is None else _count(network, board, given, first),
    )


def _check_neurons(network: Network, name: str, neurons: list[NeuronIndex]) -> None:
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


def _shown_images(
    network: Network, given: ImageSet, predictions: NDArray[np.int64]
) -> list[ShownImage]:
    """Return up to :data:`N_SHOWN` images for the report, with the spikes that they cause.

    The last one is the first image of the set that is classified wrongly, if there is one. Before
    it come images of different classes: of each class, the first image that is classified
    correctly. If these are too few, the first of the remaining images follow them. Without labels,
    every prediction counts as correct.
    """
    order = np.arange(len(predictions))
    groups = predictions if given.labels is None else given.labels
    right = order if given.labels is None else order[predictions == given.labels]
    _, firsts = np.unique(groups[right], return_index=True)
    chosen = sorted(right[firsts].tolist())
    chosen += [n for n in order.tolist() if n not in set(chosen)]
    wrong = [] if given.labels is None else order[predictions != given.labels].tolist()[:1]
    chosen = [n for n in chosen if n not in wrong][: N_SHOWN - len(wrong)] + wrong
    trace = reference.run(network, given.images[chosen])
    return [
        ShownImage(
            index=n,
            image=given.images[n],
            label=None if given.labels is None else int(given.labels[n]),
            prediction=int(trace.predictions[i]),
            logits=trace.logits[i],
            maps={name: spikes[i] for name, spikes in trace.spikes.items()},
        )
        for i, n in enumerate(chosen)
    ]


def _membranes(
    network: Network, shown: list[ShownImage], chosen: Mapping[str, list[NeuronIndex]]
) -> dict[str, list[Membranes]]:
    stacked = {name: np.stack([image.maps[name] for image in shown]) for name in shown[0].maps}
    result = {}
    for layer in network.layers[:-1]:
        values, spikes = reference.membranes(layer, stacked)
        result[layer.name] = [
            Membranes(
                neuron=neuron,
                threshold=_threshold(layer, neuron),
                values=values[:, :, *neuron],
                spikes=spikes[:, :, *neuron].astype(np.bool_),
            )
            for neuron in chosen.get(layer.name) or _informative(spikes)
        ]
    return result


def _threshold(layer: Layer, neuron: NeuronIndex) -> int:
    assert layer.threshold is not None
    channel, row, column = neuron
    rows, columns = layer.threshold.shape[:2]
    return int(layer.threshold[min(row, rows - 1), min(column, columns - 1), channel])


def _informative(spikes: NDArray[np.uint8]) -> list[NeuronIndex]:
    """Return up to :data:`N_NEURONS` neurons of a layer to be plotted, no two of one channel.

    A neuron is its (channel, row, column). ``spikes`` are those of the layer, (N, T, C, H, W).
    Neurons are chosen whose firing rate is closest to one half, because the plot of a neuron that
    fires always or never shows little.
    """
    rate = spikes.mean(axis=(0, 1))
    spread = rate * (1 - rate)
    best = spread.reshape(len(spread), -1).argmax(axis=1)
    channels = np.argsort(-spread.reshape(len(spread), -1).max(axis=1), kind="stable")
    return [
        (int(c), int(best[c] // rate.shape[2]), int(best[c] % rate.shape[2]))
        for c in sorted(channels[:N_NEURONS].tolist())
    ]


def _count(network: Network, board: AnyBoard, given: ImageSet, trace: reference.Trace) -> Counted:
    frames = encoder.inputs(network, given.images[:N_TRACED], board.program.pixels)
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
