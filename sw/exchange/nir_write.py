"""Export of networks as NIR graphs (``python -m sw.nir``).

NIR is the Neuromorphic Intermediate Representation (Pedersen et al., arXiv 2311.14641).

In an integer network, each neuron's weights, bias and membrane are divided by its threshold, which
becomes 1. The threshold in the graph is a little lower than 1, but still higher than any membrane
that must not fire. So spikes depend neither on whether a simulator compares with ``>`` or ``>=``,
nor on its rounding.

Operations for which NIR has no node are composed of several nodes. OR is a sum into IF neurons that
fire at a single spike. NOT is ``1 - x``. The other gates, which join a residual block's branch and
identity (its shortcut), are made of OR and NOT; IAND gives a spike where the identity has one and
the branch has none. OR-pooling is average pooling into IF neurons that fire at a single spike.
Weights that differ from position to position become a dense matrix.

NIR cannot express weights that differ from timestep to timestep, soft resets, or leaks that round
the membrane to an integer. If a network has any of these, an error names the layers that do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from hw.spec import N_PLANES, Gate, Leak, decay
from sw.convert import fold
from sw.convert.folded import FoldedNetwork
from sw.exchange.graph import ExchangeError, report_problems
from sw.exchange.nir_common import (
    DT_S,
    JUST_BELOW,
    KEY,
    MAX_DENSE,
    Float,
    NirLayer,
    NirNetwork,
    library,
)
from sw.exchange.nir_limits import Dense, unsupported, why_dense
from sw.files import write_whole
from sw.model import checkpoint
from sw.network.engine import drive
from sw.network.network import IMAGE, INPUT, Network, Shape


def to_nir(
    network: NirNetwork, scales: Mapping[str, Float] | None = None, dt_s: float = DT_S
) -> Any:
    """Return a NIR graph that fires the same spikes as a network.

    At each timestep, the graph's input is an array of spikes, or the pixels of the image, from 0 to
    255. The sum of the graph's output over all timesteps is the logits.

    Parameters
    ----------
    network : the integer network, or the folded network in float64, to express.
    scales : the Real-Spike coefficients that :func:`unfolded` keeps out of the weights, by name of
        the layer. A layer's input spikes are multiplied by its coefficients (1, c, H|1, W|1). None
        if there are no such coefficients.
    dt_s : timestep in seconds that the reading simulator will assume.

    Raises
    ------
    ExchangeError
        NIR cannot express some layers; the message names all of them. Or the package ``nir`` is not
        installed.
    """
    nir = library()
    problems = {
        layer.name: why
        for layer in ([network.encoder] if network.encoder else []) + list(network.layers)
        if (why := unsupported(layer, isinstance(network, Network)))
    }
    problems |= {
        name: "its coefficients differ from timestep to timestep: train with a granularity "
        "without /per-timestep"
        for name, scale in (scales or {}).items()
        if len(scale) > 1
    }
    if isinstance(network, Network) and network.pixel_bits != N_PLANES:
        problems["image"] = (
            f"its pixels are rounded to {network.pixel_bits} bits, which NIR cannot express: "
            f"export the network with --pixel-bits {N_PLANES}"
        )
    report_problems(problems, "the network")
    return _Writer(nir, network, scales or {}, dt_s).graph()


class _Writer:
    """Writer of one NIR graph, layer by layer.

    In the methods, ``dense`` says that a layer is written as a matrix on flat vectors instead of a
    convolution on maps (C, H, W). ``shape`` is always a map's (C, H, W), even if the map is flat.
    """

    def __init__(
        self, nir: ModuleType, network: NirNetwork, scales: Mapping[str, Float], dt: float
    ):
        self.nir = nir
        self.network = network
        self.scales = scales
        self.dt = dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.maps: dict[str, tuple[str, Shape, Dense | None]] = {}
        """Three values for every map, by the map's name: the node that outputs it; its shape (C, H,
        W); and the reason if the node's output is a flat vector, else None."""

    def node(self, name: str, node: Any, *sources: str) -> str:
        """Add a node, and edges from the nodes ``sources`` to it; return its name."""
        assert name not in self.nodes
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def graph(self) -> Any:
        """Add all layers, and return the finished NIR graph."""
        nir, network = self.nir, self.network
        shape = network.image_shape
        self.node("input", nir.Input(input_type={"input": np.array(shape)}))
        if network.encoder is not None:
            self.maps[IMAGE] = ("input", shape, None)
            self.layer(replace(network.encoder, source=IMAGE), INPUT)  # type: ignore[type-var]
        else:
            self.maps[INPUT] = ("input", shape, None)
        live = _live(network)  # a layer that nothing reads would count as another output
        for layer in network.layers:
            if layer.name in live:
                self.layer(layer, layer.name)
        last = self.maps[network.layers[-1].name]
        output = nir.Output(output_type={"output": np.array([network.layers[-1].weight.shape[3]])})
        self.node("output", output, last[0])
        metadata = {
            "timesteps": network.timesteps,
            "input": "binary frames" if network.encoder is None else "pixels, 0 to 255",
            "labels": network.labels,
        }
        return nir.NIRGraph(self.nodes, self.edges, metadata={KEY: json.dumps(metadata)})

    def layer(self, layer: NirLayer, target: str) -> None:
        """Add all nodes of a layer, and record the node of its output in ``self.maps[target]``.

        ``target`` is the name of the map that the layer writes.
        """
        reads = [self.maps[name] for name in layer.sources]
        shape = reads[0][1]
        flat = next((why for _, _, why in reads if why), None)
        out_shape = layer.conv_shape(shape)
        sources = [place for place, _, _ in reads]
        if layer.name in self.scales:
            sources = [self.scaled(layer.name, n, *read) for n, read in enumerate(reads)]
        identity = None if layer.identity is None else self.maps[layer.identity]
        divisor = self.divisor(layer)
        why = flat or why_dense(layer, divisor) or (identity[2] if identity else None)
        dense = why is not None
        if dense:
            sources = [
                source if why_flat else self.flattened(source, shape)
                for source, (_, _, why_flat) in zip(sources, reads, strict=True)
            ]
        # A node computes the sum of what it reads.
        parts = [layer] if not layer.stacked else _unstacked(layer)
        groups = [sources] if not layer.stacked else [[source] for source in sources]
        places = [
            self.node(part.name, self.weights(part, shape, divisor, why), *group)
            for part, group in zip(parts, groups, strict=True)
        ]
        if layer.output:
            place = places[0]
            if len(places) > 1:
                place = self.affine(f"{layer.name}.sum", out_shape, dense, 1, 0, *places)
            self.maps[target] = (place, out_shape, why)
            return
        place = self.neurons(layer, f"{layer.name}.neuron", out_shape, dense, *places)
        if identity is not None:
            other = identity[0]
            if dense and not identity[2]:
                other = self.flattened(other, out_shape)
            place = self.gate(layer, place, other, out_shape, dense)
        if layer.pool != (1, 1):
            place, out_shape = self.pool(layer, place, out_shape, dense)
        self.maps[target] = (place, out_shape, why)

    def scaled(self, layer: str, n: int, place: str, shape: Shape, flat: Dense | None) -> str:
        """Add a node that multiplies an input of a layer by the layer's coefficients.

        The input is the output of the node ``place``: the map number ``n`` of those that the layer
        reads, counted from 0. ``shape`` is the map's (C, H, W). Unless ``flat`` is None, the input
        is this map as a flat vector. Returns the name of the new node.
        """
        scale = np.broadcast_to(self.scales[layer][0], shape).reshape(-1 if flat else shape)
        name = f"{layer}.scale" if n == 0 else f"{layer}.scale{n + 1}"
        return self.node(name, self.nir.Scale(np.array(scale)), place)

    def flattened(self, place: str, shape: Shape) -> str:
        """Return the name of a Flatten node that reads the node ``place``; add it if necessary.

        ``shape`` is the shape (C, H, W) of the output of ``place``.
        """
        name = f"{place}.flat"
        if name not in self.nodes:
            input_type = {"input": np.array(shape)}
            flatten = self.nir.Flatten(input_type=input_type, start_dim=0, end_dim=-1)
            self.node(name, flatten, place)
        return name

    def divisor(self, layer: NirLayer) -> Float:
        """Return the numbers (y|1, x|1, o) by which a layer's weights and biases are divided.

        They are the layer's thresholds, or 1 in the output layer, which has no thresholds. There is
        one for each output channel o and position (y, x); y and x have length 1 if all positions
        share their numbers.
        """
        if layer.output:
            return np.ones((1, 1, layer.weight.shape[3]))
        assert layer.threshold is not None
        return layer.threshold.astype(np.float64)

    def weights(self, layer: NirLayer, shape: Shape, divisor: Float, dense: Dense | None) -> Any:
        """Return a NIR node with a layer's weights and biases, divided by ``divisor``.

        The node is a convolution if ``dense`` is None. Otherwise it is a dense matrix (``Affine``),
        and ``dense`` holds the reason. ``shape`` is the shape (C, H, W) of the layer's input.

        Raises
        ------
        ExchangeError
            The matrix would have more than :data:`sw.exchange.nir_common.MAX_DENSE` numbers.
        """
        timesteps = self.network.timesteps
        bias = layer.bias.astype(np.float64) / divisor[None]
        if layer.output:  # NIR adds the bias at every timestep
            bias = bias / timesteps
        if dense is None:
            weight = layer.weight[0, 0, 0] / divisor[0, 0, :, None, None, None]
            weight = np.broadcast_to(weight, (*weight.shape[:2], *layer.kernel))
            return self.nir.Conv2d(
                input_shape=shape[1:],
                weight=np.ascontiguousarray(weight),
                stride=layer.stride,
                padding=layer.padding,
                dilation=(1, 1),
                groups=1,
                bias=bias[0, 0, 0],
            )
        n_in = int(np.prod(shape))
        out_shape = layer.conv_shape(shape)
        if n_in * int(np.prod(out_shape)) > MAX_DENSE:
            raise ExchangeError(
                f"layer {layer.name!r} becomes a matrix of {n_in:,} x {int(np.prod(out_shape)):,} "
                f"numbers, more than the {MAX_DENSE:,} that are written, because {dense.reason}; "
                f"{dense.remedy}"
            )
        basis = torch.eye(n_in).reshape(n_in, 1, *shape)
        matrix = drive(_as_double(layer), basis, torch.float64)[:, 0]  # (in, o, y, x)
        divided = matrix.numpy() / divisor.transpose(2, 0, 1)
        full = np.broadcast_to(bias[0].transpose(2, 0, 1), out_shape)
        return self.nir.Affine(
            weight=np.ascontiguousarray(divided.reshape(n_in, -1).T), bias=full.reshape(-1).copy()
        )

    def neurons(self, layer: NirLayer, name: str, shape: Shape, dense: bool, *sources: str) -> str:
        """Add the neurons of a layer as a node ``name`` that reads ``sources``; return the name."""
        assert layer.threshold is not None
        size = (int(np.prod(shape)),) if dense else shape
        # Divided by an integer threshold, the largest membrane that must not fire is
        # 1 - 1 / threshold. The level is above it and below 1 for every neuron of the layer.
        integers = isinstance(self.network, Network)
        level = 1 - 0.5 / int(layer.threshold.max()) if integers else JUST_BELOW
        metadata = {}
        if integers:
            rows = np.broadcast_to(layer.threshold, (*shape[1:], shape[0])).transpose(2, 0, 1)
            metadata = {KEY: np.ascontiguousarray(rows).reshape(size).astype(np.int64)}
        common = {
            "v_threshold": np.full(size, level),
            "v_reset": np.zeros(size),
            "metadata": metadata,
        }
        if layer.leak == Leak.NONE:
            return self.node(name, self.nir.IF(r=np.full(size, 1 / self.dt), **common), *sources)
        tau = 1 / (1 - decay(layer.leak, *layer.leak_shifts))
        lif = self.nir.LIF(
            tau=np.full(size, tau * self.dt),
            r=np.full(size, tau),
            v_leak=np.zeros(size),
            **common,
        )
        return self.node(name, lif, *sources)

    def any_of(self, name: str, shape: Shape, dense: bool, least: float, *sources: str) -> str:
        """Add IF neurons that each fire if they receive any spike; return the name of their node.

        ``least`` is the smallest non-zero sum of inputs, and the threshold is half of it.
        """
        size = (int(np.prod(shape)),) if dense else shape
        neuron = self.nir.IF(
            r=np.full(size, 1 / self.dt),
            v_threshold=np.full(size, least / 2),
            v_reset=np.zeros(size),
        )
        return self.node(name, neuron, *sources)

    def affine(
        self, name: str, shape: Shape, dense: bool, gain: float, shift: float, *sources: str
    ) -> str:
        """Add a node that computes ``gain * (sum of sources) + shift`` of maps; return its name."""
        n = int(np.prod(shape)) if dense else shape[0]
        weight, bias = gain * np.eye(n), np.full(n, float(shift))
        if dense:
            return self.node(name, self.nir.Affine(weight=weight, bias=bias), *sources)
        conv = self.nir.Conv2d(
            input_shape=shape[1:],
            weight=weight[:, :, None, None],
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
            bias=bias,
        )
        return self.node(name, conv, *sources)

    def gate(self, layer: NirLayer, branch: str, identity: str, shape: Shape, dense: bool) -> str:
        """Add nodes for the layer's gate, and return the name of the last of these nodes.

        The gate joins the outputs of the nodes ``branch`` and ``identity``. OR is a sum into IF
        neurons that fire at a single spike. AND and IAND are made of OR and NOT by de Morgan's
        laws; XOR is the AND of OR and NAND. Metadata of their last node lets
        :mod:`sw.exchange.nir_read` recognise them.
        """
        name = f"{layer.name}.{layer.gate.name.lower()}"

        def no(which: str, source: str) -> str:
            return self.affine(f"{name}.not_{which}", shape, dense, -1, 1, source)

        def either(suffix: str, *sources: str) -> str:
            return self.any_of(name + suffix, shape, dense, 1, *sources)

        if layer.gate == Gate.OR:
            return either("", branch, identity)
        before = set(self.nodes)
        if layer.gate == Gate.IAND:  # identity and not branch
            neither = either(".none", no("identity", identity), branch)
            self.affine(name, shape, dense, -1, 1, neither)
        else:
            not_both = either(".not_both", no("identity", identity), no("branch", branch))
            if layer.gate == Gate.AND:
                self.affine(name, shape, dense, -1, 1, not_both)
            else:
                self.affine(name, shape, dense, 1, -1, not_both, either(".or", branch, identity))
        metadata: dict[str, Any] = {"gate": layer.gate.name}
        metadata |= {"branch": branch, "identity": identity}
        metadata["parts"] = [n for n in self.nodes if n not in before and n != name]
        self.nodes[name].metadata = {KEY: json.dumps(metadata)}
        return name

    def pool(self, layer: NirLayer, source: str, shape: Shape, dense: bool) -> tuple[str, Shape]:
        """Add nodes for a layer's OR-pooling, which reads the output of the node ``source``.

        They are average pooling, and IF neurons that fire if any spike is in their window. Returns
        the name of the neurons' node, and the shape (C, H, W) of the pooled map.
        """
        channels, height, width = shape
        rows, columns = height // layer.pool[0], width // layer.pool[1]
        size = int(np.prod(layer.pool))
        name = f"{layer.name}.pool"
        if dense:
            index = np.full(shape, -1)
            cut = index[:, : rows * layer.pool[0], : columns * layer.pool[1]]
            places = np.arange(channels * rows * columns).reshape(channels, rows, columns)
            cut[...] = places.repeat(layer.pool[0], axis=1).repeat(layer.pool[1], axis=2)
            matrix = (index.reshape(-1) == places.reshape(-1, 1)) / size
            self.node(name, self.nir.Linear(matrix.astype(np.float64)), source)
        else:
            window = np.array(layer.pool)
            pool = self.nir.AvgPool2d(kernel_size=window, stride=window, padding=np.array([0, 0]))
            self.node(name, pool, source)
        pooled = (channels, rows, columns)
        return self.any_of(f"{name}.or", pooled, dense, 1 / size, name), pooled


def _live(network: NirNetwork) -> set[str]:
    """Return the names of all layers on which the logits depend, and the input's name if they
    depend on it.
    """
    live = {network.layers[-1].name}
    for layer in reversed(network.layers):
        if layer.name in live:
            live |= {*layer.sources} | ({layer.identity} if layer.identity else set())
    return live


def _unstacked(layer: NirLayer) -> list[Any]:
    """Return a stacked layer as several layers, each of which reads one of its maps.

    A stacked layer has weights of its own for every map that it reads
    (:class:`sw.network.network.AnyLayer`). The sums of the returned layers add up to the sums of
    the stacked layer. The first one gets all biases of the stacked layer.
    """
    n_in = layer.weight.shape[4] // len(layer.sources)
    return [
        replace(
            layer,
            name=layer.name if n == 0 else f"{layer.name}.map{n + 1}",
            source=source,
            addends=(),
            stacked=False,
            weight=layer.weight[:, :, :, :, n * n_in : (n + 1) * n_in],
            bias=layer.bias if n == 0 else np.zeros_like(layer.bias),
        )
        for n, source in enumerate(layer.sources)
    ]


def _as_double(layer: NirLayer) -> Any:
    return replace(layer, weight=layer.weight.astype(np.float64))  # type: ignore[arg-type]


def write(path: Path, graph: Any) -> int:
    """Write a NIR graph to a ``.nir`` file, whole or not at all; return its size in bytes.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    buffer = io.BytesIO()
    library().write(buffer, graph)
    raw = buffer.getvalue()
    try:
        write_whole(path, raw)
    except OSError as error:
        raise ExchangeError(f"{path} cannot be written: {error.strerror}") from error
    return len(raw)


def unfolded(values: dict[str, Any]) -> tuple[FoldedNetwork, dict[str, Float]]:
    """Fold a checkpoint's batch-norms into its weights, but keep the Real-Spike coefficients apart.

    In training, a spike has the value of a learned coefficient instead of 1 (Guo et al., arXiv
    2210.06686). Coefficients can differ from position to position. If they were folded in, every
    position would need weights of its own; kept apart, they leave the weights shared.

    Returns
    -------
    The folded network without coefficients, and the coefficients (t|1, c, H|1, W|1) by name of the
    layer whose input spikes they multiply.
    """
    model = checkpoint.build(values)
    parts = fold.trained_layers(model)
    plain = [replace(part, coefficient=None) for part in parts]
    folded = fold.fold(values)
    layers = [part.layer() for part in plain]
    scales = {
        part.name: part.coefficient.value.detach()
        .to(torch.float64)
        .expand(-1, part.shape[0], -1, -1)
        .numpy()
        for part in parts
        if part.coefficient is not None and part.coefficient.value is not None
    }
    first = 0 if folded.encoder is None else 1
    encoder = None if folded.encoder is None else layers[0]
    return replace(folded, encoder=encoder, layers=tuple(layers[first:])), scales
