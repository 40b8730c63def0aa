"""NIR, the Neuromorphic Intermediate Representation (Pedersen et al., arXiv 2311.14641): graphs in
and out.

Out (``python -m sw.nir``): integers are divided by their threshold, and every threshold is set half
a unit below 1, between what fires and what does not; so neither a simulator's comparator (``>`` or
``>=``) nor its rounding can change a spike. What NIR has no node for is made of nodes that it has:
OR is a sum into IF neurons that one spike makes fire, NOT is ``1 - x``, the other gates follow;
OR-pooling is average pooling into such neurons; weights that differ from position to position are
a dense matrix. Weights of their own for every timestep, soft resets and integer leaks cannot be
said in NIR, and are refused by name.

In: ``python -m sw.export net.nir``, by way of :mod:`sw.exchange.assembly`.
"""

from __future__ import annotations

from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sw.exchange.assembly import Imported, assemble
from sw.exchange.graph import (
    Connect,
    Convolve,
    ExchangeError,
    FireNode,
    Flatten,
    Node,
    Pool,
    Scale,
    Source,
    Step,
    decay_error,
    leak_of,
    report_problems,
)
from sw.exchange.nir_common import DT_S, KEY, Float, about, gates_of, library, pair_of, shape_of
from sw.network.network import IMAGE


def read(
    path: Path,
    timesteps: int | None,
    *,
    pixel_max: float | None = 1.0,
    dt_s: float | None = None,
    fires_at_threshold: bool = False,
    labels: tuple[str, ...] = (),
) -> Imported:
    """Read the network in a NIR file.

    Parameters
    ----------
    timesteps : None: what the file says, if it was written here.
    pixel_max : see :class:`sw.exchange.graph.Source`.
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
    """Return the network of a graph in memory; see :func:`read`."""
    nir = library()
    known = about(graph)
    if known:
        timesteps = timesteps or int(known["timesteps"])
        pixel_max = None if known["input"] == "binary frames" else 255.0
        labels = labels or tuple(map(str, known["labels"]))
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
    gates = gates_of(graph)
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
        image_shape=shape_of(graph.nodes[inputs[0]].input_type["input"]),
        pixel_max=pixel_max,
        labels=labels,
        averaged=known is None,
    )
    return assemble(nodes, network, {"imported": {"from": "NIR", "file": origin, "dt_s": dt_s}})


def _guess_dt(graph: Any, nir: ModuleType) -> float:
    neurons = [n for n in graph.nodes.values() if isinstance(n, nir.IF | nir.LIF)]
    unit = all(
        np.all(np.asarray(n.r) == 1) if isinstance(n, nir.IF) else np.all(np.asarray(n.tau) >= 1)
        for n in neurons
    )
    return 1.0 if neurons and unit else DT_S


class _Reader:
    """The conversion of NIR nodes to steps."""

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
        if int(np.asarray(node.groups)) != 1 or pair_of(node.dilation) != (1, 1):
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
            stride=pair_of(node.stride),
            padding=pair_of(padding),
        )

    def pool(self, node: Any, kind: str) -> Pool:
        return Pool(
            kind=kind,
            kernel=pair_of(node.kernel_size),
            stride=pair_of(node.stride),
            padding=pair_of(node.padding),
        )

    def integrate(self, node: Any) -> FireNode:
        return self.neuron(node, np.asarray(node.r, np.float64) * self.dt, 1.0)

    def leaky(self, node: Any) -> FireNode:
        share = self.dt / np.asarray(node.tau, np.float64)
        if np.ptp(share) > 1e-9 * np.max(share):
            raise ExchangeError("its time constants differ from neuron to neuron")
        v_reset = np.zeros(()) if node.v_reset is None else np.asarray(node.v_reset)
        if np.any(np.asarray(node.v_leak) != v_reset):
            raise ExchangeError("its v_leak is not its v_reset: membranes rest where they start")
        return self.neuron(node, np.asarray(node.r, np.float64) * share, 1 - float(share.flat[0]))

    def neuron(self, node: Any, gain: Float, decay: float) -> FireNode:
        leak = leak_of(decay)
        if leak is None:
            raise ExchangeError(decay_error(decay))
        if np.any(gain <= 0):
            raise ExchangeError("r is not positive")
        v_reset = np.zeros(()) if node.v_reset is None else np.asarray(node.v_reset, np.float64)
        integers = (node.metadata or {}).get(KEY)
        if isinstance(integers, str | bytes):
            integers = None
        return FireNode(
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
