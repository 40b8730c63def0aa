"""Import of NIR graphs (``python -m sw.export net.nir``).

NIR is the Neuromorphic Intermediate Representation (Pedersen et al., arXiv 2311.14641). Its nodes
are converted to the steps of :mod:`sw.exchange.graph`, which :mod:`sw.exchange.assembly` folds into
layers. :mod:`sw.exchange.nir_write` exports networks to NIR.
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
    plain_kernel,
    report_problems,
)
from sw.exchange.nir_common import (
    DT_S,
    KEY,
    Float,
    composite_gates,
    graph_metadata,
    library,
    pair_of,
    shape_of,
)
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
    """Read a NIR file and return its network, folded.

    Parameters
    ----------
    timesteps : number of timesteps to run. None takes the number that the file states, which only
        files of :mod:`sw.exchange.nir_write` do.
    pixel_max : value that a pixel of 255 had in training; None if the input is binary frames.
        Ignored for files of :mod:`sw.exchange.nir_write`, which say what their input is.
    dt_s : timestep in seconds. None takes 1 s if all IF neurons have ``r = 1`` and all LIF neurons
        ``tau >= 1``, otherwise :data:`sw.exchange.nir_common.DT_S`.
    fires_at_threshold : neurons fire at ``v >= threshold``, as in SpikingJelly, instead of only at
        ``v > threshold``, as NIR defines.
    labels : names of the classes; if empty, those in the file.

    Raises
    ------
    ExchangeError
        The file is no NIR file, or the device cannot run its network. The message names all nodes
        of unsupported types or parameters.
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
    """Return the folded network of a NIR graph in memory; ``origin`` names it in the provenance.

    See :func:`read` for the other parameters and the errors.
    """
    nir = library()
    known = graph_metadata(graph)
    if known:
        timesteps = timesteps or int(known["timesteps"])
        pixel_max = None if known["input"] == "binary frames" else 255.0
        labels = labels or tuple(map(str, known["labels"]))
    if timesteps is None:
        raise ExchangeError("NIR does not say how many timesteps to run: give --timesteps")
    inputs = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    if len(inputs) != 1:
        raise ExchangeError(f"a network has one Input node, this graph has {len(inputs)}")
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for start, end in graph.edges:
        if start not in sources or end not in sources:
            raise ExchangeError(f"its edge {start!r} -> {end!r} names a node that does not exist")
        sources[end].append(start)
    gates = composite_gates(graph)
    for name, (_, reads, parts) in gates.items():
        sources[name] = list(reads)
        for part in parts:
            sources.pop(part, None)
    try:
        order = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        loop = " -> ".join(map(str, error.args[1]))
        raise ExchangeError(f"it is recurrent, which the device does not support: {loop}") from None
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
            problems[name] = "no edge leads to it"
        nodes.append(Node(name=name, step=step, sources=reads))
    report_problems(problems, "the graph")
    outputs = [s for n in graph.nodes if isinstance(graph.nodes[n], nir.Output) for s in sources[n]]
    if len(outputs) != 1:
        raise ExchangeError(f"a network has one output, this graph has {len(outputs)}")
    nodes.sort(key=lambda node: node.name == outputs[0])  # the output comes last
    network = Source(
        timesteps=timesteps,
        image_shape=shape_of(graph.nodes[inputs[0]].input_type["input"]),
        pixel_max=pixel_max,
        labels=labels,
        averaged=known is None,
    )
    return assemble(nodes, network, {"imported": {"from": "NIR", "file": origin, "dt_s": dt_s}})


def _guess_dt(graph: Any, nir: ModuleType) -> float:
    """Return the timestep in seconds that the constants ``r`` and ``tau`` of the neurons suggest.

    It is 1 if all IF neurons have ``r = 1`` and all LIF neurons ``tau >= 1``, as in networks whose
    time is counted in timesteps; otherwise :data:`sw.exchange.nir_common.DT_S`.
    """
    neurons = [n for n in graph.nodes.values() if isinstance(n, nir.IF | nir.LIF)]
    unit = all(
        np.all(np.asarray(n.r) == 1) if isinstance(n, nir.IF) else np.all(np.asarray(n.tau) >= 1)
        for n in neurons
    )
    return 1.0 if neurons and unit else DT_S


class _Reader:
    """Conversion of NIR nodes to the steps of :mod:`sw.exchange.graph`.

    ``dt`` is the timestep in seconds. If ``strict`` is set, neurons fire only above their
    threshold, otherwise also at it. ``known`` maps each supported type of node to its converter.
    """

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
        """Convert a NIR node to a step; raise :class:`ExchangeError` if it is not supported."""
        if type(node) not in self.known:
            names = ", ".join(sorted(kind.__name__ for kind in self.known))
            raise ExchangeError(f"this type of node is not supported; supported are {names}")
        return self.known[type(node)](node)

    def conv2d(self, node: Any) -> Convolve:
        weight = np.asarray(node.weight, np.float64)
        if weight.ndim != 4:
            raise ExchangeError(f"its weight has {weight.ndim} axes instead of 4")
        weight = plain_kernel(weight, int(np.asarray(node.groups)), pair_of(node.dilation))
        kernel = weight.shape[2:]
        padding = node.padding.decode() if isinstance(node.padding, bytes) else node.padding
        if isinstance(padding, str):
            if padding == "same" and any(k % 2 == 0 for k in kernel):
                raise ExchangeError(
                    "padding 'same' with an even kernel is not symmetric; use an odd one"
                )
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
            raise ExchangeError("its v_leak differs from its v_reset; use the same value for both")
        return self.neuron(node, np.asarray(node.r, np.float64) * share, 1 - float(share.flat[0]))

    def neuron(self, node: Any, gain: Float, decay: float) -> FireNode:
        """Convert IF or LIF neurons to a step, given their constants per timestep.

        At every timestep, the membrane is multiplied by ``decay``, and the input times ``gain`` is
        added to it.
        """
        leak = leak_of(decay)
        if leak is None:
            raise ExchangeError(decay_error(decay))
        if np.any(gain <= 0):
            raise ExchangeError("its r must be positive")
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
        raise ExchangeError(f"its weight has {weight.ndim} axes instead of 2")
    return weight
