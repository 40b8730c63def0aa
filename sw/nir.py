"""NIR, the Neuromorphic Intermediate Representation (Pedersen et al., arXiv 2311.14641): graphs in
and out.

Out (``python -m sw.nir``): integers are divided by their threshold, and every threshold is set half
a unit below 1, between what fires and what does not; so neither a simulator's comparator (``>`` or
``>=``) nor its rounding can change a spike. What NIR has no node for is made of nodes that it has:
OR is a sum into IF neurons that one spike makes fire, NOT is ``1 - x``, the other gates follow;
OR-pooling is average pooling into such neurons; weights that differ from position to position are
a dense matrix. Weights of their own for every timestep, soft resets and integer leaks cannot be
said in NIR, and are refused by name.

In: ``python -m sw.export net.nir``, by way of :mod:`sw.exchange`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hw.spec import Gate, Leak, Reset
from sw import checkpoint, fold, netfile
from sw.checkpoint import CheckpointError
from sw.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, command
from sw.engine import drive
from sw.exchange import (
    IMAGE,
    Connect,
    Convolve,
    ExchangeError,
    Fire,
    Flatten,
    Imported,
    Join,
    Node,
    Pool,
    Scale,
    Source,
    Step,
    assemble,
    decay_error,
    leak_of,
    report_problems,
)
from sw.files import write_whole
from sw.fold import FoldedLayer, FoldedNetwork
from sw.model import ModelError
from sw.network import INPUT, Layer, Network, Shape

SUFFIX = ".nir"
DT_S = 1e-4
"""Length of a timestep in most simulators that write NIR."""
MAX_DENSE = 1 << 23
"""Weights of a dense matrix that stands for others, beyond which it is refused."""
KEY = "spikefold"
"""Of our entries in a node's or a graph's metadata."""
JUST_BELOW = float(np.nextafter(np.float32(1), np.float32(0)))

AnyNetwork = Network | FoldedNetwork
AnyLayer = Layer | FoldedLayer
Float = NDArray[np.float64]


def library() -> ModuleType:
    """The package ``nir``, which is optional.

    Raises
    ------
    ExchangeError
        It is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise ExchangeError(
            f"NIR files need the package 'nir', which cannot be imported ({error}): "
            "pip install nir==1.0.8"
        ) from error
    return nir


# ---- out -----------------------------------------------------------------------------------------


def to_nir(
    network: AnyNetwork, scales: Mapping[str, Float] | None = None, dt_s: float = DT_S
) -> Any:
    """A NIR graph with the same spikes.

    Its input is the frames, or pixels 0 to 255, the same at every timestep. Its output, summed over
    the timesteps, is the logits (of a network in integers: these integers).

    Parameters
    ----------
    scales : Real-Spike coefficients (1, c, H|1, W|1) that are not folded, by name of the layer that
        reads them.
    dt_s : length of a timestep that the reader will assume.

    Raises
    ------
    ExchangeError
        Names everything that NIR cannot say; or ``nir`` is missing.
    """
    nir = library()
    problems = {
        layer.name: why
        for layer in ([network.encoder] if network.encoder else []) + list(network.layers)
        if (why := _unsayable(layer, isinstance(network, Network)))
    }
    problems |= {
        name: "its coefficients differ from timestep to timestep"
        for name, scale in (scales or {}).items()
        if len(scale) > 1
    }
    report_problems(problems, "the network")
    return _Writer(nir, network, scales or {}, dt_s).graph()


def _unsayable(layer: AnyLayer, integers: bool) -> str | None:
    if layer.weight.shape[0] > 1 or layer.bias.shape[0] > 1:
        return "its weights differ from timestep to timestep; NIR's are the same at all of them"
    if layer.reset == Reset.SOFT and not layer.output:
        return "a soft reset; NIR's neurons are set to a value"
    if integers and layer.leak != Leak.NONE:
        return (
            "its leak rounds to integers, which NIR's does not; give the checkpoint in place of "
            "the network file, whose leak does not round"
        )
    return None


class _Writer:
    def __init__(
        self, nir: ModuleType, network: AnyNetwork, scales: Mapping[str, Float], dt: float
    ):
        self.nir = nir
        self.network = network
        self.scales = scales
        self.dt = dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.maps: dict[str, tuple[str, Shape, bool]] = {}
        """Node, shape and flatness of every map of spikes."""

    def node(self, name: str, node: Any, *sources: str) -> str:
        assert name not in self.nodes
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def graph(self) -> Any:
        nir, network = self.nir, self.network
        shape = network.image_shape
        self.node("input", nir.Input(input_type={"input": np.array(shape)}))
        if network.encoder is not None:
            self.maps[IMAGE] = ("input", shape, False)
            self.layer(replace(network.encoder, source=IMAGE), INPUT)  # type: ignore[type-var]
        else:
            self.maps[INPUT] = ("input", shape, False)
        live = _live(network)  # the end of anything else would be another output
        for layer in network.layers:
            if layer.name in live:
                self.layer(layer, layer.name)
        last = self.maps[network.layers[-1].name]
        output = nir.Output(output_type={"output": np.array([network.layers[-1].weight.shape[3]])})
        self.node("output", output, last[0])
        about = {
            "timesteps": network.timesteps,
            "input": "binary frames" if network.encoder is None else "pixels, 0 to 255",
            "labels": network.labels,
        }
        return nir.NIRGraph(self.nodes, self.edges, metadata={KEY: json.dumps(about)})

    def layer(self, layer: AnyLayer, target: str) -> None:
        source, shape, flat = self.maps[layer.source]
        out_shape = _conv_shape(layer, shape)
        if layer.name in self.scales:
            scale = np.broadcast_to(self.scales[layer.name][0], shape).reshape(
                -1 if flat else shape
            )
            source = self.node(f"{layer.name}.scale", self.nir.Scale(np.array(scale)), source)
        identity = None if layer.identity is None else self.maps[layer.identity]
        divisor = self.divisor(layer)
        unshared = max(*layer.weight.shape[1:3], *layer.bias.shape[1:3], *divisor.shape[:2]) > 1
        dense = flat or layer.output or unshared
        # nir 1.0.8 takes every kernel for a square one when it checks shapes.
        dense = dense or layer.kernel[0] != layer.kernel[1]
        dense = dense or (identity is not None and identity[2])
        weights = self.weights(layer, shape, divisor, dense)
        if dense and not flat:
            source = self.flattened(source, shape)
        place = self.node(layer.name, weights, source)
        if layer.output:
            self.maps[target] = (place, out_shape, True)
            return
        place = self.neurons(layer, f"{layer.name}.neuron", out_shape, dense, place)
        if identity is not None:
            other = identity[0]
            if dense and not identity[2]:
                other = self.flattened(other, out_shape)
            place = self.gate(layer, place, other, out_shape, dense)
        if layer.pool != (1, 1):
            place, out_shape = self.pool(layer, place, out_shape, dense)
        self.maps[target] = (place, out_shape, dense)

    def flattened(self, place: str, shape: Shape) -> str:
        """A map with one axis, of which there is only one."""
        name = f"{place}.flat"
        if name not in self.nodes:
            of = {"input": np.array(shape)}
            self.node(name, self.nir.Flatten(input_type=of, start_dim=0, end_dim=-1), place)
        return name

    def divisor(self, layer: AnyLayer) -> Float:
        """By what the layer's numbers are divided (y|1, x|1, o)."""
        if layer.output:
            return np.ones((1, 1, layer.weight.shape[3]))
        assert layer.threshold is not None
        return layer.threshold.astype(np.float64)

    def weights(self, layer: AnyLayer, shape: Shape, divisor: Float, dense: bool) -> Any:
        timesteps = self.network.timesteps
        bias = layer.bias.astype(np.float64) / divisor[None]
        if layer.output:  # of all timesteps together
            bias = bias / timesteps
        if not dense:
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
        out_shape = _conv_shape(layer, shape)
        if n_in * int(np.prod(out_shape)) > MAX_DENSE:
            raise ExchangeError(
                f"layer {layer.name!r}: without shared weights it is a matrix of {n_in:,} x "
                f"{int(np.prod(out_shape)):,}, too large to write; use --unfolded, or train with a "
                "coarser granularity there"
            )
        basis = torch.eye(n_in).reshape(n_in, 1, *shape)
        matrix = drive(_as_double(layer), basis, torch.float64)[:, 0]  # (in, o, y, x)
        divided = matrix.numpy() / divisor.transpose(2, 0, 1)
        full = np.broadcast_to(bias[0].transpose(2, 0, 1), out_shape)
        return self.nir.Affine(
            weight=np.ascontiguousarray(divided.reshape(n_in, -1).T), bias=full.reshape(-1).copy()
        )

    def neurons(self, layer: AnyLayer, name: str, shape: Shape, dense: bool, source: str) -> str:
        assert layer.threshold is not None
        size = (int(np.prod(shape)),) if dense else shape
        # In integers, 1 - 1/threshold is the largest that must not fire.
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
            return self.node(name, self.nir.IF(r=np.full(size, 1 / self.dt), **common), source)
        kept = 2.0**-layer.leak_shift
        tau = 1 / (kept if layer.leak == Leak.SUBTRACT else 1 - kept)
        lif = self.nir.LIF(
            tau=np.full(size, tau * self.dt),
            r=np.full(size, tau),
            v_leak=np.zeros(size),
            **common,
        )
        return self.node(name, lif, source)

    def any_of(self, name: str, shape: Shape, dense: bool, least: float, *sources: str) -> str:
        """Neurons that fire if an input of ``least`` or more arrives, and remember nothing."""
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
        """``gain * sum of the sources + shift``."""
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

    def gate(self, layer: AnyLayer, branch: str, identity: str, shape: Shape, dense: bool) -> str:
        """OR is a sum into neurons that one spike makes fire; the others by de Morgan's laws."""
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
        about: dict[str, Any] = {"gate": layer.gate.name}
        about |= {"branch": branch, "identity": identity}
        about["parts"] = [n for n in self.nodes if n not in before and n != name]
        self.nodes[name].metadata = {KEY: json.dumps(about)}
        return name

    def pool(self, layer: AnyLayer, source: str, shape: Shape, dense: bool) -> tuple[str, Shape]:
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


def _live(network: AnyNetwork) -> set[str]:
    """Names of the layers that the output depends on."""
    live = {network.layers[-1].name}
    for layer in reversed(network.layers):
        if layer.name in live:
            live |= {layer.source} | ({layer.identity} if layer.identity else set())
    return live


def _as_double(layer: AnyLayer) -> Any:
    return replace(layer, weight=layer.weight.astype(np.float64))  # type: ignore[arg-type]


def _conv_shape(layer: AnyLayer, source: Shape) -> Shape:
    height, width = (
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(source[1:], layer.padding, layer.kernel, layer.stride, strict=True)
    )
    return layer.weight.shape[3], height, width


def write(path: Path, graph: Any) -> int:
    """Write a graph whole or not at all; returns its size in bytes.

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
    """A checkpoint's network with its Real-Spike coefficients left out, and them, by name of the
    layer that reads them."""
    model = checkpoint.build(values)
    parts = fold.parts(model)
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


# ---- in ------------------------------------------------------------------------------------------


def read(
    path: Path,
    timesteps: int | None,
    *,
    pixel_max: float | None = 1.0,
    dt_s: float | None = None,
    fires_at_threshold: bool = False,
    labels: tuple[str, ...] = (),
) -> Imported:
    """The network in a NIR file.

    Parameters
    ----------
    timesteps : None: what the file says, if it was written here.
    pixel_max : see :class:`sw.exchange.Source`.
    dt_s : length of a timestep; None: 1 if all neurons' constants are of that order (``r = 1``),
        else :data:`DT_S`.
    fires_at_threshold : neurons fire at ``v >= threshold`` (as SpikingJelly's), not only above it
        (as NIR defines).

    Raises
    ------
    ExchangeError
        No NIR file, or something in it cannot be mapped: names every such node.
    """
    nir = library()
    try:
        graph = nir.read(path)
    except FileNotFoundError:
        raise ExchangeError(f"{path}: no such file") from None
    except Exception as error:  # h5py's and nir's own, of many kinds
        raise ExchangeError(f"{path} is damaged or no NIR file: {error}") from error
    try:
        return from_graph(
            graph,
            timesteps,
            pixel_max=pixel_max,
            dt_s=dt_s,
            fires_at_threshold=fires_at_threshold,
            labels=labels,
            origin=path.name,
        )
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from None


def from_graph(
    graph: Any,
    timesteps: int | None,
    *,
    pixel_max: float | None = 1.0,
    dt_s: float | None = None,
    fires_at_threshold: bool = False,
    labels: tuple[str, ...] = (),
    origin: str = "graph",
) -> Imported:
    """See :func:`read`."""
    nir = library()
    about = _about(graph)
    if about:
        timesteps = timesteps or int(about["timesteps"])
        pixel_max = None if about["input"] == "binary frames" else 255.0
        labels = labels or tuple(map(str, about["labels"]))
    if timesteps is None:
        raise ExchangeError("NIR does not say how many timesteps to run: give --timesteps")
    inputs = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    if len(inputs) != 1:
        raise ExchangeError(f"a network has one Input node, this one has {len(inputs)}")
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for start, end in graph.edges:
        if start not in sources or end not in sources:
            raise ExchangeError(f"its edge {start!r} -> {end!r} names a node that is not there")
        sources[end].append(start)
    gates = _gates(graph)
    for name, (_, reads, parts) in gates.items():
        sources[name] = list(reads)
        for part in parts:
            sources.pop(part, None)
    try:
        order = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        loop = " -> ".join(map(str, error.args[1]))
        raise ExchangeError(f"it is recurrent, the device is not: {loop}") from None
    if dt_s is None:
        dt_s = _guess_dt(graph, nir)
    reader = _Reader(nir, dt_s, not fires_at_threshold)
    problems: dict[str, str] = {}
    nodes: list[Node] = []
    for name in order:
        node = graph.nodes[name]
        if isinstance(node, nir.Input | nir.Output):
            continue
        try:
            step = gates[name][0] if name in gates else reader.step(node)
        except ExchangeError as error:
            problems[f"{name} ({type(node).__name__})"] = str(error)
            continue
        reads = tuple(IMAGE if s == inputs[0] else s for s in sources[name])
        if not reads:
            problems[name] = "nothing leads to it"
        nodes.append(Node(name=name, step=step, sources=reads))
    report_problems(problems, "it")
    outputs = [s for n in graph.nodes if isinstance(graph.nodes[n], nir.Output) for s in sources[n]]
    if len(outputs) != 1:
        raise ExchangeError(f"a network has one output, this one has {len(outputs)}")
    nodes.sort(key=lambda node: node.name == outputs[0])  # the output last; what follows is dead
    network = Source(
        timesteps=timesteps,
        image_shape=_shape(graph.nodes[inputs[0]].input_type["input"]),
        pixel_max=pixel_max,
        labels=labels,
        averaged=about is None,
    )
    return assemble(nodes, network, {"imported": {"from": "NIR", "file": origin, "dt_s": dt_s}})


def _gates(graph: Any) -> dict[str, tuple[Join, tuple[str, str], list[str]]]:
    """Gates that :func:`to_nir` has made of several nodes, by the last of these: with branch and
    identity, and the other nodes."""
    found = {}
    for name, node in graph.nodes.items():
        about = _json((node.metadata or {}).get(KEY))
        if about is None:
            continue
        try:
            gate = Join(gate=Gate[about["gate"]])
            reads = about["branch"], about["identity"]
            missing = [n for n in reads if n not in graph.nodes]
            if missing:
                raise KeyError(f"there is no {missing[0]!r}")
            found[name] = gate, reads, list(about["parts"])
        except (KeyError, TypeError) as error:
            raise ExchangeError(f"{name}: what it says of its gate is damaged: {error}") from None
    return found


def _json(text: Any) -> dict[str, Any] | None:
    """An entry of ours in the metadata, None if it is something else."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _about(graph: Any) -> dict[str, Any] | None:
    """What :func:`to_nir` wrote beside the graph."""
    values = _json((graph.metadata or {}).get(KEY))
    return values if values and {"timesteps", "input", "labels"} <= set(values) else None


def _shape(values: Any) -> Shape:
    shape = tuple(int(n) for n in np.atleast_1d(np.asarray(values)))
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) != 3:
        raise ExchangeError(f"its input has shape {shape}; use (channels, height, width)")
    return shape  # type: ignore[return-value]


def _guess_dt(graph: Any, nir: ModuleType) -> float:
    neurons = [n for n in graph.nodes.values() if isinstance(n, nir.IF | nir.LIF)]
    unit = all(
        np.all(np.asarray(n.r) == 1) if isinstance(n, nir.IF) else np.all(np.asarray(n.tau) >= 1)
        for n in neurons
    )
    return 1.0 if neurons and unit else DT_S


class _Reader:
    """NIR's nodes to steps."""

    def __init__(self, nir: ModuleType, dt: float, strict: bool):
        self.dt = dt
        self.strict = strict
        self.known: dict[type, Callable[[Any], Step]] = {
            nir.Conv2d: self.conv2d,
            nir.Linear: lambda node: Connect(weight=_matrix(node.weight)),
            nir.Affine: lambda node: Connect(
                weight=_matrix(node.weight), bias=np.asarray(node.bias, np.float64)
            ),
            nir.Scale: lambda node: Scale(factor=np.asarray(node.scale, np.float64)),
            nir.Flatten: lambda node: Flatten(),
            nir.AvgPool2d: lambda node: self.pool(node, "average"),
            nir.SumPool2d: lambda node: self.pool(node, "sum"),
            nir.IF: self.integrate,
            nir.LIF: self.leaky,
        }

    def step(self, node: Any) -> Step:
        if type(node) not in self.known:
            names = ", ".join(sorted(kind.__name__ for kind in self.known))
            raise ExchangeError(f"there is no such thing on the device; it has {names}")
        return self.known[type(node)](node)

    def conv2d(self, node: Any) -> Convolve:
        weight = np.asarray(node.weight, np.float64)
        if weight.ndim != 4:
            raise ExchangeError(f"its weight has {weight.ndim} axes in place of 4")
        if int(np.asarray(node.groups)) != 1 or _pair(node.dilation) != (1, 1):
            raise ExchangeError("groups or dilation: make it a plain convolution, with zeros")
        kernel = weight.shape[2:]
        padding = node.padding.decode() if isinstance(node.padding, bytes) else node.padding
        if isinstance(padding, str):
            if padding == "same" and any(k % 2 == 0 for k in kernel):
                raise ExchangeError("padding 'same' of an even kernel is not symmetric")
            padding = tuple(k // 2 for k in kernel) if padding == "same" else (0, 0)
        return Convolve(
            weight=weight,
            bias=np.asarray(node.bias, np.float64).reshape(-1),
            stride=_pair(node.stride),
            padding=_pair(padding),
        )

    def pool(self, node: Any, kind: str) -> Pool:
        return Pool(
            kind=kind,
            kernel=_pair(node.kernel_size),
            stride=_pair(node.stride),
            padding=_pair(node.padding),
        )

    def integrate(self, node: Any) -> Fire:
        return self.neuron(node, np.asarray(node.r, np.float64) * self.dt, 1.0)

    def leaky(self, node: Any) -> Fire:
        share = self.dt / np.asarray(node.tau, np.float64)
        if np.ptp(share) > 1e-9 * np.max(share):
            raise ExchangeError("its time constants differ from neuron to neuron")
        v_reset = np.zeros(()) if node.v_reset is None else np.asarray(node.v_reset)
        if np.any(np.asarray(node.v_leak) != v_reset):
            raise ExchangeError("its v_leak is not its v_reset: membranes rest where they start")
        return self.neuron(node, np.asarray(node.r, np.float64) * share, 1 - float(share.flat[0]))

    def neuron(self, node: Any, gain: Float, decay: float) -> Fire:
        leak = leak_of(decay)
        if leak is None:
            raise ExchangeError(decay_error(decay))
        if np.any(gain <= 0):
            raise ExchangeError("r is not positive")
        v_reset = np.zeros(()) if node.v_reset is None else np.asarray(node.v_reset, np.float64)
        integers = (node.metadata or {}).get(KEY)
        if isinstance(integers, str | bytes):
            integers = None
        return Fire(
            threshold=(np.asarray(node.v_threshold, np.float64) - v_reset) / gain,
            strict=self.strict,
            leak=leak[0],
            leak_shift=leak[1],
            integer_threshold=None if integers is None else np.asarray(integers, np.int64),
        )


def _matrix(values: Any) -> Float:
    weight = np.asarray(values, np.float64)
    if weight.ndim != 2:
        raise ExchangeError(f"its weight has {weight.ndim} axes in place of 2")
    return weight


def _pair(values: Any) -> tuple[int, int]:
    numbers = np.atleast_1d(np.asarray(values)).astype(int).tolist()
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2:
        raise ExchangeError(f"{values!r} are not two numbers")
    return numbers[0], numbers[1]


# ---- command -------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sw.nir",
        description="Write a network as a NIR graph, for other simulators. (For the other "
        f"direction: python -m sw.export net{SUFFIX}.)",
        epilog=f"""examples:
  python -m sw.nir net.spikefold               -> net{SUFFIX}, the integers of the device
  python -m sw.nir ckpt.pt -o folded{SUFFIX}         float weights, folded
  python -m sw.nir ckpt.pt --unfolded          coefficients as Scale nodes

exit codes: {EXIT_OK} written, {EXIT_BAD_INPUT} bad input or nothing that NIR can say,
{EXIT_INTERRUPTED} interrupted""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", type=Path, help="network file, or checkpoint of sw.train")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help=f"(NETWORK's with {SUFFIX})")
    parser.add_argument(
        "--unfolded", action="store_true", help="leave a checkpoint's coefficients before weights"
    )
    parser.add_argument(
        "--dt", type=float, default=DT_S, metavar="S", help=f"timestep of the reader ({DT_S:g} s)"
    )
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    return parser


@command(
    CheckpointError,
    ExchangeError,
    ModelError,
    netfile.NetworkFileError,
    interrupted="interrupted, nothing was written",
)
def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not arguments.dt > 0:
        parser.error("--dt takes a positive number")
    scales: dict[str, Float] = {}
    library()
    network: AnyNetwork
    if arguments.network.suffix == netfile.SUFFIX:
        if arguments.unfolded:
            raise ExchangeError("a network file is folded: give its checkpoint")
        network = netfile.load(arguments.network).network
    else:
        values = checkpoint.load(arguments.network)
        if arguments.unfolded:
            network, scales = unfolded(values)
        else:
            network = fold.fold(values)
    graph = to_nir(network, scales, arguments.dt)
    path = arguments.out or arguments.network.with_suffix(SUFFIX)
    n_bytes = write(path, graph)
    if arguments.json:
        said = {"file": str(path), "n_bytes": n_bytes, "n_nodes": len(graph.nodes)}
        print(json.dumps(said | {"timesteps": network.timesteps}))
    else:
        print(f"wrote {path}: {n_bytes:,} bytes, {len(graph.nodes)} nodes; run it for")
        print(
            f"{network.timesteps} timesteps of {arguments.dt:g} s and sum its output for the logits"
        )
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
