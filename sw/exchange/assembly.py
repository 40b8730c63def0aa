"""Folding of a graph from another framework into a :class:`sw.convert.folded.FoldedNetwork`.

Readers such as :mod:`sw.exchange.nir_read` and :mod:`sw.exchange.statedict` make a list of
:class:`sw.exchange.graph.Node` of a file; :func:`assemble` folds it. Linear steps (batch-norm,
average and sum pooling, scaling, voting) become part of the weights that follow. What the core
cannot do is refused with the name of its node and a remedy.

A neuron's membrane may be measured in any unit: with an input gain ``g`` and a reset to ``r``, a
threshold ``t`` is ours at ``(t - r) / g``. A neuron that fires at ``v > t`` fires, in ours, at the
next larger number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hw.spec import Gate
from sw.convert.folded import FoldedLayer, FoldedNetwork
from sw.exchange.graph import (
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
)
from sw.exchange.linear import (
    Spikes,
    Value,
    always_fires,
    require_spikes,
    scaled,
    to_rows,
    weighted,
)
from sw.network.network import IMAGE, INPUT, Shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Imported:
    """A folded network, and the multipliers that restore the integers it was made of, if any.

    Multipliers have shape (y|1, x|1, o), by name of the layer, :data:`IMAGE` for the encoder.
    """

    folded: FoldedNetwork
    multipliers: dict[str, Float]


def assemble(nodes: Sequence[Node], source: Source, provenance: dict[str, Any]) -> Imported:
    """Fold a graph.

    Parameters
    ----------
    nodes : in an order in which a node comes after what it reads; the last one is the output.

    Raises
    ------
    ExchangeError
        Something in it cannot be mapped.
    """
    return _Assembly(nodes, source).run(provenance)


class _Assembly:
    """The folding of one graph, node by node; ``values`` holds what each node computes."""

    def __init__(self, nodes: Sequence[Node], source: Source):
        self.nodes = nodes
        self.source = source
        self.frames = source.pixel_max is None
        self.readers = Counter(name for node in nodes for name in node.sources)
        first = INPUT if self.frames else IMAGE
        self.values: dict[str, Value] = {IMAGE: Spikes(first, source.image_shape, IMAGE)}
        self.encoder: FoldedLayer | None = None
        self.layers: dict[str, FoldedLayer] = {}
        self.multipliers: dict[str, Float] = {}

    def run(self, provenance: dict[str, Any]) -> Imported:
        if not self.nodes:
            raise ExchangeError("there is no node in the graph")
        for node in self.nodes:
            inputs = [self.values[name] for name in node.sources]
            try:
                self.values[node.name] = self.step(node, inputs)
            except ExchangeError as error:
                raise ExchangeError(f"node {node.name!r}: {error}") from None
        self.finish(self.nodes[-1].name)
        n_classes = list(self.layers.values())[-1].weight.shape[3]
        labels = self.source.labels or tuple(f"class {n}" for n in range(n_classes))
        folded = FoldedNetwork(
            timesteps=self.source.timesteps,
            image_shape=self.source.image_shape,
            encoder=self.encoder,
            layers=tuple(self.layers.values()),
            labels=labels,
            provenance=provenance,
        )
        return Imported(folded=folded, multipliers=self.multipliers)

    def step(self, node: Node, inputs: list[Value]) -> Value:
        step = node.step
        if isinstance(step, Join):
            if len(inputs) != 2:
                raise ExchangeError(
                    f"a gate has a branch and an identity, not {len(inputs)} inputs"
                )
            return self.join(step.gate, *map(require_spikes, inputs), node=node)
        if isinstance(step, FireNode) and len(inputs) == 2:
            branch, identity = map(require_spikes, inputs)
            if always_fires(step, 1.0):
                return self.join(Gate.OR, branch, identity, node=node)
            raise ExchangeError(
                "it adds two inputs, of which the device can only join spikes by a gate: OR is an "
                "IF neuron with a hard reset whose threshold one spike reaches"
            )
        if len(inputs) != 1:
            raise ExchangeError(
                f"it adds {len(inputs)} inputs, which is not full-spike: join spikes by a gate"
            )
        (value,) = inputs
        if isinstance(step, Convolve | Connect):
            return weighted(
                node.name, step, require_spikes(value, "weights on weights: multiply them")
            )
        if isinstance(step, FireNode):
            return self.fire(step, value, node)
        if isinstance(step, Pool):
            return self.pool(step, require_spikes(value, "pooling of sums: pool the spikes"), node)
        if isinstance(step, Flatten):
            return value
        return scaled(step, value)

    # -- neurons

    def fire(self, step: FireNode, value: Value, node: Node) -> Value:
        if isinstance(value, Spikes):
            if value.pool is not None and value.factor is None and value.name != IMAGE:
                one = 1.0 if value.pool.kind == "sum" else 1 / np.prod(value.pool.kernel)
                if always_fires(step, float(one)):
                    return self.or_pool(value.pool, replace(value, pool=None), node)
            # Neurons without weights: each has one of its own, of 1.
            eye = np.eye(value.shape[0])[:, :, None, None]
            value = weighted(node.name, Convolve(weight=eye), value)
        n_out = value.shape[0]
        threshold = to_rows(step.threshold, value.shape)
        if not (threshold > 0).all():
            raise ExchangeError("its threshold is not above its reset")
        multiplier = np.ones((1, 1, n_out))
        if step.integer_threshold is not None:
            multiplier = to_rows(step.integer_threshold.astype(np.float64), value.shape)
        layer = FoldedLayer(
            name=value.name,
            source=value.source,
            kernel=value.kernel,
            stride=value.stride,
            padding=value.padding,
            weight=value.weight,
            bias=value.bias,
            threshold=np.nextafter(threshold, np.inf) if step.strict else threshold,
            leak=step.leak,
            leak_shift=step.leak_shift,
            reset=step.reset,
        )
        if value.source != IMAGE:
            return self.add(layer, value.shape, multiplier, node)
        if self.encoder is not None:
            raise ExchangeError("a second layer reads the image; the device has one stem")
        if max(layer.weight.shape[:3]) > 1:
            raise ExchangeError("the stem's weights differ from position to position")
        assert self.source.pixel_max is not None
        gain = self.source.pixel_max / 255
        self.encoder = replace(layer, weight=layer.weight * gain)
        self.multipliers[IMAGE] = multiplier
        return Spikes(INPUT, value.shape, node.name)

    def add(self, layer: FoldedLayer, shape: Shape, multiplier: Float, node: Node) -> Spikes:
        if layer.name in self.layers or layer.name == INPUT:
            raise ExchangeError(f"there is another layer {layer.name!r}")
        self.layers[layer.name] = layer
        self.multipliers[layer.name] = multiplier
        return Spikes(layer.name, shape, node.name)

    # -- pooling and gates

    def pool(self, step: Pool, value: Spikes, node: Node) -> Spikes:
        if step.kind == "max":
            if value.name == IMAGE:
                raise ExchangeError("max pooling of the image: pool the data, or behind the stem")
            return self.or_pool(step, value, node)
        if value.pool is not None or value.factor is not None:
            raise ExchangeError("pooling or scaling twice before the weights: make them one")
        if step.padding != (0, 0):
            raise ExchangeError("pooling with padding: give the convolution behind it the padding")
        if min(replace(value, pool=step).pooled) < 1:
            raise ExchangeError(f"its window {step.kernel} exceeds the map {value.shape}")
        return replace(value, pool=step)

    def or_pool(self, step: Pool, value: Spikes, node: Node) -> Spikes:
        if step.kernel != step.stride or step.padding != (0, 0):
            raise ExchangeError(
                f"max pooling of {step.kernel} with stride {step.stride} and padding "
                f"{step.padding}: windows must lie side by side, without padding"
            )
        layer = self.encoder if value.name == INPUT else self.layers[value.name]
        if layer is None or layer.pool != (1, 1) or value.factor is not None:
            raise ExchangeError("only a layer's own spikes can be pooled, and once")
        if self.readers[value.node] > 1:
            raise ExchangeError(f"{value.node!r} is also read without pooling")
        layer = replace(layer, pool=step.kernel)
        if value.name == INPUT:
            self.encoder = layer
        else:
            self.layers[value.name] = layer
        channels, height, width = value.shape
        shape = channels, height // step.kernel[0], width // step.kernel[1]
        if min(shape) < 1:
            raise ExchangeError(f"its window {step.kernel} exceeds the map {value.shape}")
        return Spikes(value.name, shape, node.name)

    def join(self, gate: Gate, branch: Spikes, identity: Spikes, node: Node) -> Spikes:
        if branch.shape != identity.shape:
            raise ExchangeError(f"a map {branch.shape} cannot be joined with one {identity.shape}")
        if any(v.factor is not None or v.pool is not None for v in (branch, identity)):
            raise ExchangeError("spikes are scaled or pooled before the gate, which takes bits")

        def is_branch(value: Spikes) -> bool:
            layer = self.layers.get(value.name)
            alone = self.readers[value.node] == 1
            return alone and layer is not None and (layer.gate, layer.pool) == (Gate.NONE, (1, 1))

        if gate != Gate.IAND and not is_branch(branch):
            branch, identity = identity, branch
        if not is_branch(branch):
            raise ExchangeError(
                "none of its inputs is a layer's own spikes that nothing else reads; a gate stands "
                "right behind a layer"
            )
        layer = self.layers.pop(branch.name)  # and behind the identity's, if that comes later
        self.layers[branch.name] = replace(layer, gate=gate, identity=identity.name)
        return Spikes(branch.name, branch.shape, node.name)

    # -- the end

    def finish(self, name: str) -> None:
        """Make the last value the output layer, which adds up over the timesteps.

        If it is spikes, the logits count how often each neuron fired.
        """
        value = self.values[name]
        if isinstance(value, Spikes):
            if value.name in (IMAGE, INPUT):
                raise ExchangeError(f"node {name!r}: there is no layer before the output")
            shape = value.pooled
            if shape[1:] != (1, 1):
                raise ExchangeError(f"node {name!r}: the output is a map {shape}, not classes")
            eye = Convolve(weight=np.eye(shape[0])[:, :, None, None])
            value = weighted("count" if "count" not in self.layers else "counts", eye, value)
        if value.source == IMAGE:
            raise ExchangeError(f"node {name!r}: there is no neuron between image and output")
        if value.shape[1:] != (1, 1):
            raise ExchangeError(f"node {name!r}: the output is a map {value.shape}, not classes")
        if value.name in self.layers:
            raise ExchangeError(f"node {name!r}: there is another layer {value.name!r}")
        divisor = self.source.timesteps if self.source.averaged else 1
        self.layers[value.name] = FoldedLayer(
            name=value.name,
            source=value.source,
            kernel=value.kernel,
            stride=value.stride,
            padding=value.padding,
            weight=value.weight / divisor,
            bias=value.bias * self.source.timesteps / divisor,
            output=True,
        )
        self.multipliers[value.name] = np.full((1, 1, value.shape[0]), float(divisor))
