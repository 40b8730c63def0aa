"""Layers of an imported network, and the layers that are added to it for sums, gates and pooling.

A *layer of ORs* has neurons that fire if any of their inputs with a weight of 1 is a spike
(:mod:`sw.exchange.assembly`).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from hw.spec import Gate
from sw.convert.folded import FoldedLayer
from sw.exchange.graph import ExchangeError, Float, Node, Pair, Pool
from sw.exchange.terms import copies, merged, stacked, to_copy, with_one_kernel
from sw.exchange.values import Spikes, Sums, Term
from sw.network.network import IMAGE, INPUT, MAX_ADDENDS, Shape, conv_size


class LayerBuilder:
    """The layers of a network, in the order in which they are added.

    ``encoder`` is the layer that reads the image, and ``layers`` holds all others by name.
    ``multipliers`` holds factors that turn the layers' numbers into integers
    (:attr:`sw.exchange.assembly.Imported.multipliers`).
    """

    def __init__(self) -> None:
        self.encoder: FoldedLayer | None = None
        self.layers: dict[str, FoldedLayer] = {}
        self.multipliers: dict[str, Float] = {}

    def add(self, layer: FoldedLayer, shape: Shape, multiplier: Float) -> Spikes:
        """Append ``layer`` to the network, and return its spikes, a map whose shape is ``shape``.

        ``multiplier`` holds the factors by which the layer's weights, biases and thresholds are
        multiplied to become integers; it is stored in ``multipliers``.
        """
        if layer.name in self.layers or layer.name == INPUT:
            raise ExchangeError(f"another layer is already named {layer.name!r}")
        self.layers[layer.name] = layer
        self.multipliers[layer.name] = multiplier
        return Spikes(layer.name, shape)

    def reads(self, value: Sums) -> dict[str, Any]:
        """Return the fields of a layer that computes given weighted sums: its sources, kernel and
        weights.

        The sums have a term for each map that they read. If a term has to read a copy of its map
        (:mod:`sw.exchange.terms`), the layers that make the copy are added.

        Raises
        ------
        ExchangeError
            The sums read too many maps, or the image and other maps.
        """
        size = value.shape[1:]
        terms = merged(value.terms, size)
        if len(terms) > 1 and any(term.source == IMAGE for term in terms):
            raise ExchangeError(
                "it adds weights of the image to spikes, or reads the image with several strides, "
                "but only one layer can read it: put neurons behind the weights that read the image"
            )
        copied, n_channels = to_copy(terms, size)
        parts: list[Term] = []
        for term in terms:
            if all(term is not other for other in copied):
                parts.append(term)
                continue
            for copy in copies(term, n_channels, size):
                name = self.unused_name(f"{value.name}.copy")
                layer = repeater(
                    name, term.source, copy.taps, term.kernel, term.stride, term.padding
                )
                self.add(layer, copy.term.shape, np.ones((1, 1, n_channels)))
                parts.append(replace(copy.term, source=name))
        if len(parts) > MAX_ADDENDS + 1:
            raise ExchangeError(
                f"its sum reads {len(parts)} maps, and a layer reads at most {MAX_ADDENDS + 1}: "
                "put neurons before some of them"
            )
        parts = with_one_kernel(parts, size)
        weight, each = stacked(parts)
        first = parts[0]
        return {
            "source": first.source,
            "addends": tuple(part.source for part in parts[1:]),
            "stacked": each,
            "kernel": first.kernel,
            "stride": first.stride,
            "padding": first.padding,
            "weight": weight,
        }

    def unused_name(self, base: str) -> str:
        """Return ``base`` followed by the lowest number that makes it a new name of a layer."""
        return next(name for n in itertools.count(1) if (name := f"{base}{n}") not in self.layers)

    def or_pool(self, step: Pool, value: Spikes, node: Node) -> Spikes:
        """Apply max pooling to spikes, and return the pooled spikes: 1 if any spike in the window
        is 1.

        The pooling is added to the layer that fires ``value`` if its windows do not overlap and
        nothing else reads that layer's spikes. Otherwise, an added layer of ORs (:meth:`ors`)
        computes it.
        """
        if value.factor is not None or value.window is not None:
            raise ExchangeError("max pooling must follow neurons, without scaling or other pooling")
        layer = self.encoder if value.name == INPUT else self.layers[value.name]
        tiles = step.kernel == step.stride and step.padding == (0, 0)
        if layer is None or layer.pool != (1, 1) or value.shared or not tiles:
            return self.ors(step, value, node)
        layer = replace(layer, pool=step.kernel)
        if value.name == INPUT:
            self.encoder = layer
        else:
            self.layers[value.name] = layer
        channels, height, width = value.shape
        return Spikes(value.name, (channels, height // step.kernel[0], width // step.kernel[1]))

    def ors(self, step: Pool, value: Spikes, node: Node) -> Spikes:
        """Add a layer whose neurons fire if any spike in their window is 1 (a layer of ORs), and
        return its spikes.

        ``step`` gives the windows. Padding adds no spikes. If a window is a single position, the
        layer copies the map.
        """
        channels = value.shape[0]
        eye = np.eye(channels)[:, :, None, None]
        layer = repeater(node.name, value.name, eye, step.kernel, step.stride, step.padding)
        size = conv_size(value.shape[1:], step.kernel, step.stride, step.padding)
        return self.add(layer, (channels, *size), np.ones((1, 1, channels)))

    def join(self, gate: Gate, branch: Spikes, identity: Spikes, node: Node) -> Spikes:
        """Join the spikes of a residual block's branch (its convolutions) and identity (its
        shortcut) by a gate, and return the joined spikes.

        The gate becomes part of a layer that has no gate and no pooling yet, and whose spikes no
        other node reads. This layer is the first possible one of these:

        - the layer that fires the branch;
        - the layer that fires the identity, unless the gate is IAND, whose inputs cannot be
          exchanged;
        - a new layer, whose neurons copy the spikes of the branch.

        Raises
        ------
        ExchangeError
            The maps differ in shape, or are scaled or pooled.
        """
        if branch.shape != identity.shape:
            raise ExchangeError(
                f"a map {branch.shape} cannot be joined with one of shape {identity.shape}"
            )
        if any(v.factor is not None or v.window is not None for v in (branch, identity)):
            raise ExchangeError(
                "its inputs are scaled or pooled; a gate joins spikes, which are 0 or 1"
            )

        def can_take_gate(value: Spikes) -> bool:
            layer = self.layers.get(value.name)
            free = layer is not None and (layer.gate, layer.pool) == (Gate.NONE, (1, 1))
            return free and not value.shared

        if gate != Gate.IAND and not can_take_gate(branch) and can_take_gate(identity):
            branch, identity = identity, branch
        if not can_take_gate(branch):
            branch = self.ors(Pool(kind="max", kernel=(1, 1), stride=(1, 1)), branch, node)
        # The layer is moved to the end, because its identity may have been added after it.
        layer = self.layers.pop(branch.name)
        self.layers[branch.name] = replace(layer, gate=gate, identity=identity.name)
        return Spikes(branch.name, branch.shape)


def repeater(
    name: str, source: str, taps: Float, kernel: Pair, stride: Pair, padding: Pair
) -> FoldedLayer:
    """Return a layer of ORs: a neuron fires if one of the inputs with a weight of 1 is a spike.

    ``taps`` (channels, c, ky|1, kx|1) are the weights, 0 or 1, from each input channel c and kernel
    position (ky, kx) to each channel of the layer.
    """
    channels = len(taps)
    return FoldedLayer(
        name=name,
        source=source,
        kernel=kernel,
        stride=stride,
        padding=padding,
        weight=taps[None, None, None],
        bias=np.zeros((1, 1, 1, channels)),
        threshold=np.full((1, 1, channels), 0.5),  # any above 0, up to the weight
    )
