"""Folding of a graph from another framework into a :class:`sw.convert.folded.FoldedNetwork`.

Readers such as :mod:`sw.exchange.nir_read` and :mod:`sw.exchange.statedict` turn a file into a list
of :class:`sw.exchange.graph.Node`, the steps of the network. :func:`assemble` turns this list into
layers of weights and spiking neurons. A step that the device cannot run raises an error that names
the node and, if possible, a remedy.

Linear steps are folded into weights. Batch-norm, scaling and average or sum pooling that follow
weights change these weights. Scaling and average or sum pooling of spikes change the weights that
come after.

Max pooling of spikes, and gates, become part of the layer that fires the spikes. This is impossible
if other nodes also read the layer's spikes, or if the pooling windows overlap. Then a *layer of
ORs* is added, and does the pooling or gets the gate: each of its neurons fires if any spike is in
its window. The network's results stay the same, but it has one more layer, with weights of 1 from
each channel to itself and of 0 between channels.

Sums of maps are not computed on their own: the layer that reads a sum reads each of its maps, and
adds up their weighted spikes (:mod:`sw.exchange.terms`).

On the device, membranes start at 0 and inputs are not scaled. So readers convert thresholds: a
neuron with threshold ``t``, input gain ``g`` and reset to ``r`` gets the threshold ``(t - r) / g``.
The device's neurons fire at ``v >= threshold``, so a neuron that fires only at ``v > threshold``
gets the next larger float64 as its threshold.

A *map* is the array (C, H, W) of spikes that a layer writes at each timestep. A *gate* joins two
maps spike by spike at the end of a residual block: the *branch*, which the block's convolutions
compute, and the *identity*, its shortcut. The gate IAND gives a spike where the identity has one
and the branch has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hw.spec import Gate
from sw.convert.folded import FoldedLayer, FoldedNetwork
from sw.data.labels import default_names
from sw.exchange.building import LayerBuilder
from sw.exchange.graph import (
    AdaptivePool,
    Add,
    Connect,
    Convolve,
    ExchangeError,
    FireNode,
    Flatten,
    Float,
    Join,
    Node,
    Pool,
    Source,
    Step,
)
from sw.exchange.linear import (
    acts_as_or,
    as_sums,
    pool_for,
    pooled_sums,
    scaled,
    spread_of,
    summed_again,
    to_rows,
    weighted,
    window_of,
)
from sw.exchange.values import (
    Spikes,
    SpikeSum,
    Spread,
    Sums,
    Value,
    Window,
    added,
    require_spikes,
    size_of,
    spikes_of,
)
from sw.network.network import IMAGE, INPUT, Shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Imported:
    """A network from another framework, folded into layers of float64 numbers.

    When :func:`sw.exchange.nir_write.to_nir` exports an integer network, it divides every neuron's
    weights and bias by the neuron's threshold. After the import of such a file, ``multipliers``
    holds these thresholds, with which :func:`sw.exchange.integers.as_integers` restores the
    integers.
    """

    folded: FoldedNetwork
    multipliers: dict[str, Float]
    """Factors by which a layer's weights, biases and thresholds are multiplied to become integers
    again, by name of the layer. An array (y|1, x|1, o) has one factor for each output channel o,
    and for each position (y, x) if they differ. The factors are 1 if the original thresholds are
    unknown. For the output layer, they are the number by which its logits were divided. The
    encoder, which reads the image, has the key :data:`sw.network.network.IMAGE`."""
    near: dict[str, FireNode] = field(default_factory=dict)
    """Neurons whose leak only approximates their leak in the original framework, by name of their
    layer. The encoder has the key :data:`sw.network.network.IMAGE`."""


def assemble(nodes: Sequence[Node], source: Source, provenance: dict[str, Any]) -> Imported:
    """Fold a network, given as a graph of nodes, into layers that the device can run.

    A node is one step of the network's computation, such as a convolution, neurons or a pooling.

    Parameters
    ----------
    nodes : nodes in an order in which each comes after those it reads; the last one is the output.
    source : facts about the network that its file does not hold, such as the number of timesteps.
    provenance : JSON values that say where the network comes from; the result keeps them.

    Raises
    ------
    ExchangeError
        The device cannot run the graph; the message names the node.
    """
    return _Assembly(nodes, source).run(provenance)


def _check_finite(step: Step) -> None:
    """Check that all parameters of a step are finite numbers.

    Raises
    ------
    ExchangeError
        Some are infinite or no numbers, as after a training that diverged.
    """
    for name in ("weight", "bias", "gain", "shift", "factor", "threshold", "drive"):
        values = getattr(step, name, None)
        if values is not None and not np.isfinite(values).all():
            n = int(np.sum(~np.isfinite(values)))
            raise ExchangeError(
                f"{n} numbers of its {name} are not finite (nan or inf): train it again with a "
                "smaller learning rate, or save an earlier epoch"
            )


class _Assembly(LayerBuilder):
    """Folding of a network from another framework, node by node, into layers for the device.

    A node is one step of the network's computation, such as a convolution or a pooling.

    ``values`` holds the output of every node so far, by the node's name: either spikes, or weighted
    sums that no neurons have received yet.
    """

    def __init__(self, nodes: Sequence[Node], source: Source):
        super().__init__()
        self.nodes = nodes
        self.source = source
        self.frames = source.pixel_max is None
        self.readers = Counter(name for node in nodes for name in node.sources)
        first = INPUT if self.frames else IMAGE
        self.values: dict[str, Value] = {
            IMAGE: Spikes(first, source.image_shape, self.readers[IMAGE] > 1)
        }
        self.near: dict[str, FireNode] = {}

    def run(self, provenance: dict[str, Any]) -> Imported:
        if not self.nodes:
            raise ExchangeError("the graph has no nodes")
        for node in self.nodes:
            inputs = [self.values[name] for name in node.sources]
            try:
                _check_finite(node.step)
                value = self.step(node, inputs)
            except ExchangeError as error:
                raise ExchangeError(f"node {node.name!r}: {error}") from None
            if self.readers[node.name] > 1:
                value = _shared(value)
            self.values[node.name] = value
        self.finish(self.nodes[-1].name)
        n_classes = list(self.layers.values())[-1].weight.shape[3]
        labels = self.source.labels or default_names(n_classes)
        if self.near:
            near = {
                name: {"decay": np.unique(step.decay).tolist()}
                for name, step in self.near.items()
                if step.decay is not None
            }
            provenance = {**provenance, "nearest_leak": near}
        folded = FoldedNetwork(
            timesteps=self.source.timesteps,
            image_shape=self.source.image_shape,
            encoder=self.encoder,
            layers=tuple(self.layers.values()),
            labels=labels,
            provenance=provenance,
        )
        return Imported(folded=folded, multipliers=self.multipliers, near=self.near)

    def step(self, node: Node, inputs: list[Value]) -> Value:
        """Fold one node (a step of the network's computation) into the layers, and return its
        output. ``inputs`` are the outputs of the nodes that it reads.
        """
        step = node.step
        if isinstance(step, Join):
            if len(inputs) != 2:
                raise ExchangeError(
                    f"a gate needs two inputs, branch and identity; it has {len(inputs)}"
                )
            return self.join(step.gate, *map(require_spikes, inputs), node=node)
        if len(inputs) > 1 and any(isinstance(value, Sums) for value in inputs):
            # The layer gets its name from the first sum: the one with the most weights.
            sums = [as_sums(node.name, value) for value in inputs]
            sums.sort(key=lambda part: -part.terms[0].weight.size)
            inputs = [*sums]
        value = inputs[0] if len(inputs) == 1 else added(inputs)
        if isinstance(step, Add):
            return value
        if isinstance(step, Convolve | Connect):
            if isinstance(value, Sums):
                return summed_again(step, value)
            return weighted(node.name, step, value)
        if isinstance(step, FireNode):
            return self.fire(step, value, node)
        if isinstance(step, AdaptivePool) and not isinstance(value, Sums):
            spread = spread_of(step, value.pooled)
            if spread is not None:
                return self.pooled(spread, value)
        if isinstance(step, Pool | AdaptivePool):
            return self.pool(pool_for(step, size_of(value)), value, node)
        if isinstance(step, Flatten):
            return value
        return scaled(step, value)

    # -- neurons

    def fire(self, step: FireNode, value: Value, node: Node) -> Value:
        """Add a layer whose neurons receive ``value``, and return the spikes that they fire.

        If the layer reads the image, it becomes the encoder.

        Neurons that only compute an OR get no layer of their own. An OR of the spikes in each
        pooling window becomes OR-pooling (:meth:`or_pool`), and an OR of two maps becomes a gate
        (:meth:`join`).
        """
        if isinstance(value, Spikes):
            window = value.window
            plain = value.factor is None and value.name != IMAGE
            # One spike in a window adds at least the smallest tap to the pooled value.
            if plain and isinstance(window, Window) and acts_as_or(step, float(window.taps.min())):
                kernel, stride, padding = window.kernel, window.stride, window.padding
                pool = Pool(kind="max", kernel=kernel, stride=stride, padding=padding)
                return self.or_pool(pool, replace(value, window=None), node)
        elif isinstance(value, SpikeSum) and len(value.parts) == 2 and acts_as_or(step, 1.0):
            branch, identity = value.parts
            if all(part.factor is None and part.window is None for part in value.parts):
                return self.join(Gate.OR, branch, identity, node=node)
        value = as_sums(node.name, value)
        n_out = value.shape[0]
        threshold = to_rows(step.threshold, value.shape)
        if not (threshold > 0).all():
            raise ExchangeError("its threshold is not above its reset value: use a higher one")
        multiplier = np.ones((1, 1, n_out))
        if step.integer_threshold is not None:
            multiplier = to_rows(step.integer_threshold.astype(np.float64), value.shape)
        reads = self.reads(value)
        from_image = reads["source"] == IMAGE
        layer = FoldedLayer(
            name=node.name if value.name in self.layers else value.name,
            **reads,
            bias=value.bias + to_rows(np.asarray(step.drive, np.float64), value.shape)[None],
            threshold=np.nextafter(threshold, np.inf) if step.strict else threshold,
            leak=step.leak,
            leak_shift=step.leak_shift,
            finer_shifts=step.finer_shifts,
            reset=step.reset,
        )
        if step.decay is not None:
            self.near[IMAGE if from_image else layer.name] = step
        if not from_image:
            if step.groups:
                return self.grouped(step, layer, value.shape, multiplier)
            return self.add(layer, value.shape, multiplier)
        if step.groups:
            raise ExchangeError(
                "neurons that read the image have several leaks: train the first layer with one"
            )
        if self.encoder is not None:
            raise ExchangeError("a second layer reads the image; only the first layer can")
        if max(layer.weight.shape[:3]) > 1:
            raise ExchangeError(
                "the first layer's weights differ from position to position; the device shares them"
            )
        assert self.source.pixel_max is not None
        gain = self.source.pixel_max / 255
        self.encoder = replace(layer, weight=layer.weight * gain)
        self.multipliers[IMAGE] = multiplier
        return Spikes(INPUT, value.shape)

    def grouped(
        self, step: FireNode, layer: FoldedLayer, shape: Shape, multiplier: Float
    ) -> Spikes:
        """Append one layer for each different leak of a map's neurons, and return the map of the
        spikes of all neurons.

        On the device, all neurons of one layer have the same leak. So each appended layer has the
        weights and biases of the neurons with its leak, and 0 for all other neurons, which
        therefore never fire. An OR gate in each layer but the first adds the spikes of the layer
        before, so the last layer has the spikes of all.

        Parameters
        ----------
        step : the neurons, with their groups of equal leaks.
        layer : a layer with the weights and biases of all neurons.
        shape : shape (C, H, W) of the neurons' map.
        multiplier : value to record for every appended layer (:attr:`Imported.multipliers`).
        """
        previous: str | None = None
        for n, group in enumerate(step.groups):
            members = to_rows(group.members.astype(np.float64), shape)
            name = layer.name if n == 0 else f"{layer.name}.leak{n + 1}"
            part = replace(
                layer,
                name=name,
                weight=layer.weight * members[None, ..., None, None, None],
                bias=layer.bias * members[None],
                leak=group.leak,
                leak_shift=group.shifts[0],
                finer_shifts=group.shifts[1:],
                gate=Gate.NONE if previous is None else Gate.OR,
                identity=previous,
            )
            self.add(part, shape, multiplier)
            if layer.name in self.near:
                self.near[name] = step
            previous = name
        assert previous is not None
        return Spikes(previous, shape)

    # -- pooling

    def pool(self, step: Pool, value: Value, node: Node) -> Value:
        """Apply a pooling to spikes or weighted sums, and return the pooled values.

        Max pooling of spikes is an OR, which a layer computes (:meth:`or_pool`). Average and sum
        pooling of weighted sums change the weights of the sums. Average and sum pooling of spikes
        are stored with the returned value, and later folded into the weights that read it.
        """
        if step.kind == "max":
            spikes = require_spikes(
                value, "the maximum of sums is not linear: pool the spikes behind the neurons"
            )
            if spikes.name == IMAGE:
                raise ExchangeError(
                    "max pooling of the image: pool the data set, or the spikes of the first layer"
                )
            return self.or_pool(step, spikes, node)
        if isinstance(value, Sums):
            return pooled_sums(step, value)
        return self.pooled(window_of(step), value)

    def pooled(self, window: Window | Spread, value: Spikes | SpikeSum) -> Value:
        """Return spikes with a pooling that is folded into the weights that read them."""
        if isinstance(value, SpikeSum):
            return added([self.pooled(window, part) for part in value.parts])
        return replace(value, window=window if value.window is None else window.after(value.window))

    # -- the end

    def finish(self, name: str) -> None:
        """Add the output layer, whose logits sum the output of the node ``name`` over timesteps.

        If that node outputs spikes, the logits count them. Logits are divided by the number of
        timesteps if ``source.averaged`` is set.
        """
        value = self.values[name]
        if not isinstance(value, Sums):
            if any(part.name in (IMAGE, INPUT) for part in spikes_of(value)):
                raise ExchangeError(f"node {name!r}: the network has no layer before its output")
            shape = value.pooled
            if shape[1:] != (1, 1):
                raise ExchangeError(
                    f"node {name!r}: the output is a map {shape}; classes need height and width 1"
                )
            value = as_sums("count" if "count" not in self.layers else "counts", value)
        if any(term.source == IMAGE for term in value.terms):
            raise ExchangeError(f"node {name!r}: there are no neurons between image and output")
        if value.shape[1:] != (1, 1):
            raise ExchangeError(
                f"node {name!r}: the output is a map {value.shape}; classes need height and width 1"
            )
        if value.name in self.layers:
            raise ExchangeError(f"node {name!r}: another layer is already named {value.name!r}")
        divisor = self.source.timesteps if self.source.averaged else 1
        reads = self.reads(value)
        self.layers[value.name] = FoldedLayer(
            name=value.name,
            **reads | {"weight": reads["weight"] / divisor},
            bias=value.bias * self.source.timesteps / divisor,
            output=True,
        )
        self.multipliers[value.name] = np.full((1, 1, value.shape[0]), float(divisor))


def _shared(value: Value) -> Value:
    """Return a copy of a value, marked as read by several nodes if it is spikes."""
    if isinstance(value, SpikeSum):
        return SpikeSum(tuple(replace(part, shared=True) for part in value.parts))
    return replace(value, shared=True) if isinstance(value, Spikes) else value
