"""Import of NIR graphs (``python -m sw.export net.nir``).

NIR is the Neuromorphic Intermediate Representation (Pedersen et al., arXiv 2311.14641). Its nodes
are converted to the steps of :mod:`sw.exchange.graph`, which :mod:`sw.exchange.assembly` folds into
layers. :mod:`sw.exchange.nir_write` exports networks to NIR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    plain_kernel,
    report_problems,
)
from sw.exchange.neurons import neurons
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
from sw.exchange.nir_file import flattened, read_graph
from sw.network.network import IMAGE


@dataclass(frozen=True, kw_only=True)
class NirOptions:
    """Options for facts about a network that a NIR file does not state.

    ``labels`` are the names of the classes; if empty, those in the file.
    """

    timesteps: int | None = None
    """Number of timesteps to run. None takes the number that the file states, which only files of
    :mod:`sw.exchange.nir_write` do."""
    pixel_max: float | None = 1.0
    """Value that a pixel of 255 had in training; None if the input is binary frames, an array of
    spikes for each timestep. Ignored for files of :mod:`sw.exchange.nir_write`, which state the
    kind of their input."""
    dt_s: float | None = None
    """Timestep in seconds. None takes 1 s if all IF neurons have ``r = 1`` and all LIF neurons
    ``tau >= 1``, otherwise :data:`sw.exchange.nir_common.DT_S`."""
    fires_at_threshold: bool = False
    """Whether neurons fire at ``v >= threshold``, as in SpikingJelly, instead of only at
    ``v > threshold``, as NIR defines."""
    reset: str | None = None
    """``"subtract"`` if a spike subtracts the threshold, ``"zero"`` if it sets the membrane to the
    file's ``v_reset``, or to 0 without one. None takes the reset that the file states."""
    nearest_leak: int = 0
    """If the device does not have a leak, the nearest one with up to this number of shifts replaces
    it; 0 raises an error instead."""
    labels: tuple[str, ...] = ()


def read(path: Path, options: NirOptions) -> Imported:
    """Read a NIR file and return its network, folded.

    Raises
    ------
    ExchangeError
        The file is no NIR file, or the device cannot run its network. The message names all nodes
        of unsupported types or parameters.
    """
    graph = read_graph(path)
    try:
        return from_graph(graph, options, origin=path.name)
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from None


def from_graph(graph: Any, options: NirOptions, origin: str = "graph") -> Imported:
    """Return the folded network of a NIR graph in memory; ``origin`` names it in the provenance.

    See :func:`read` for the errors. A neuron whose ``v_reset`` is None needs ``options.reset``.
    """
    nir = library()
    known = graph_metadata(graph)
    if known:
        options = replace(
            options,
            timesteps=options.timesteps or int(known["timesteps"]),
            pixel_max=None if known["input"] == "binary frames" else 255.0,
            labels=options.labels or tuple(map(str, known["labels"])),
        )
    graph = flattened(graph)
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
    dt_s = _guess_dt(graph, nir) if options.dt_s is None else options.dt_s
    reader = _Reader(nir, dt_s, options)
    problems: dict[str, str] = {}
    steps: dict[str, Step] = {}
    for name in sources:
        node = graph.nodes[name]
        if isinstance(node, nir.Input | nir.Output):
            continue
        try:
            steps[name] = gates[name][0] if name in gates else reader.step(node)
        except ExchangeError as error:
            problems[f"{name} ({type(node).__name__})"] = str(error)
        if not sources[name]:
            problems.setdefault(name, "no edge leads to it")
    for name in _recurrent(sources):
        kind = f"{name} ({type(graph.nodes[name]).__name__})"
        loop = "it is part of a loop, which the device does not support"
        problems[kind] = f"{loop}; {problems[kind]}" if kind in problems else loop
    report_problems(problems, "the graph")
    inputs = [name for name in sources if isinstance(graph.nodes[name], nir.Input)]
    if len(inputs) != 1:
        raise ExchangeError(f"a network has one Input node, this graph has {len(inputs)}")
    outputs = [s for n in sources if isinstance(graph.nodes[n], nir.Output) for s in sources[n]]
    if len(outputs) != 1:
        raise ExchangeError(f"a network has one output, this graph has {len(outputs)}")
    if options.timesteps is None:
        raise ExchangeError("NIR does not say how many timesteps to run: give --timesteps")
    nodes = [
        Node(
            name=name,
            step=steps[name],
            sources=tuple(IMAGE if s == inputs[0] else s for s in sources[name]),
        )
        for name in TopologicalSorter(sources).static_order()
        if name in steps
    ]
    nodes.sort(key=lambda node: node.name == outputs[0])  # the output comes last
    conv1d = any(isinstance(node, nir.Conv1d) for node in graph.nodes.values())
    network = Source(
        timesteps=options.timesteps,
        image_shape=shape_of(graph.nodes[inputs[0]].input_type["input"], conv1d),
        pixel_max=options.pixel_max,
        labels=options.labels,
        averaged=known is None,
    )
    return assemble(nodes, network, {"imported": {"from": "NIR", "file": origin, "dt_s": dt_s}})


def _recurrent(sources: dict[str, list[str]]) -> list[str]:
    """Return the names of all nodes that are part of a loop; ``sources`` holds the names of the
    nodes that each node reads.
    """
    try:
        TopologicalSorter(sources).prepare()
    except CycleError:
        return [name for name in sources if name in _ancestors(sources, name)]
    return []


def _ancestors(sources: dict[str, list[str]], name: str) -> set[str]:
    """Return the names of all nodes that the node ``name`` reads, directly or through others.

    ``sources`` holds the names of the nodes that each node reads.
    """
    found: set[str] = set()
    waiting = list(sources[name])
    while waiting:
        new = waiting.pop()
        if new not in found:
            found.add(new)
            waiting += sources.get(new, [])
    return found


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
    """Converter of NIR nodes to the steps of :mod:`sw.exchange.graph`.

    ``dt`` is the timestep in seconds. ``known`` maps each supported type of node to its converter.
    """

    def __init__(self, nir: ModuleType, dt: float, options: NirOptions):
        self.dt = dt
        self.options = options
        self.known: dict[type, Callable[[Any], Step]] = {
            nir.Conv1d: self.convolution,
            nir.Conv2d: self.convolution,
            nir.Linear: lambda node: Connect(weight=_matrix(node.weight)),
            nir.Affine: lambda node: Connect(
                weight=_matrix(node.weight), bias=_bias(node.bias, np.shape(node.weight)[-2])
            ),
            nir.Scale: lambda node: Scale(factor=np.asarray(node.scale, np.float64)),
            nir.Flatten: lambda node: Flatten(),
            nir.AvgPool2d: lambda node: self.pool(node, "average"),
            nir.SumPool2d: lambda node: self.pool(node, "sum"),
            nir.IF: self.integrate,
            nir.LIF: self.leaky,
        }

    def step(self, node: Any) -> Step:
        """Return a NIR node as a step.

        Raises
        ------
        ExchangeError
            The node's type or one of its parameters is not supported.
        """
        if type(node) not in self.known:
            names = ", ".join(sorted(kind.__name__ for kind in self.known))
            why = UNSUPPORTED.get(type(node).__name__, "this type of node is not supported")
            raise ExchangeError(f"{why}; supported are {names}")
        try:
            return self.known[type(node)](node)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            if isinstance(error, ExchangeError):
                raise
            raise ExchangeError(f"its parameters cannot be read: {error}") from error

    def convolution(self, node: Any) -> Convolve:
        """Return a NIR node Conv2d as a step. A Conv1d becomes a convolution of maps of height
        1."""
        n_axes = 1 if type(node).__name__ == "Conv1d" else 2
        weight = np.asarray(node.weight, np.float64)
        if weight.ndim != n_axes + 2:
            raise ExchangeError(f"its weight has {weight.ndim} axes instead of {n_axes + 2}")
        dilation, stride = _sizes(node.dilation, n_axes, 1), _sizes(node.stride, n_axes, 1)
        weight = weight.reshape(*weight.shape[:2], *[1] * (2 - n_axes), *weight.shape[2:])
        weight = plain_kernel(weight, int(np.asarray(node.groups)), dilation)
        kernel = weight.shape[2:]
        padding = node.padding.decode() if isinstance(node.padding, bytes) else node.padding
        if isinstance(padding, str):
            if padding == "same" and any(k % 2 == 0 for k in kernel):
                raise ExchangeError(
                    "padding 'same' with an even kernel is not symmetric; use an odd one"
                )
            border = (kernel[0] // 2, kernel[1] // 2) if padding == "same" else (0, 0)
        else:
            border = _sizes(padding, n_axes, 0)
        return Convolve(
            weight=weight, bias=_bias(node.bias, len(weight)), stride=stride, padding=border
        )

    def pool(self, node: Any, kind: str) -> Pool:
        return Pool(
            kind=kind,
            kernel=pair_of(node.kernel_size),
            stride=pair_of(node.stride),
            padding=pair_of(node.padding),
        )

    def integrate(self, node: Any) -> FireNode:
        return self.neuron(node, np.asarray(node.r, np.float64) * self.dt, np.ones(()), 0.0)

    def leaky(self, node: Any) -> FireNode:
        tau = np.asarray(node.tau, np.float64)
        if not np.all((tau > 0) & np.isfinite(tau)):
            raise ExchangeError(f"its time constant tau is {tau.flat[0]:g}: use a number above 0")
        if np.any(tau < self.dt):
            raise ExchangeError(
                f"its time constant of {tau.min():g} s is shorter than a timestep of {self.dt:g} "
                "s: give a shorter timestep with --dt (norse 1.1 writes the time constant times "
                "its own dt; for its files, give the square of this dt)"
            )
        share = self.dt / tau
        rest = np.asarray(node.v_leak, np.float64)
        return self.neuron(node, np.asarray(node.r, np.float64) * share, 1 - share, rest)

    def neuron(self, node: Any, gain: Float, factor: Float, rest: Float | float) -> FireNode:
        """Return IF or LIF neurons as a step, given their constants per timestep.

        At every timestep, the difference between membrane and ``rest`` is multiplied by ``factor``,
        and the input times ``gain`` is added to the membrane. Membranes start at ``v_reset``, or at
        0 if a spike subtracts the threshold. If they do not start at ``rest``, the leak adds a
        constant at every timestep, which becomes the step's ``drive``.

        Raises
        ------
        ExchangeError
            A gain is not positive, the reset is not known, or the device does not have the leak.
        """
        if np.any(gain <= 0):
            raise ExchangeError("its r must be positive")
        reset = self.options.reset
        if node.v_reset is None and reset is None:
            raise ExchangeError(
                "it has no v_reset, as files of nir 1.0.4 and earlier, in which a spike subtracts "
                "the threshold: give --reset subtract, or --reset zero if it clears the membrane"
            )
        soft = reset == "subtract"
        start = 0.0 if soft or node.v_reset is None else np.asarray(node.v_reset, np.float64)
        integers = (node.metadata or {}).get(KEY)
        if isinstance(integers, str | bytes):
            integers = None
        return neurons(
            (np.asarray(node.v_threshold, np.float64) - start) / gain,
            factor,
            soft=soft,
            strict=not self.options.fires_at_threshold,
            nearest=self.options.nearest_leak,
            drive=(1 - factor) * (rest - start) / gain,
            integer_threshold=None if integers is None else np.asarray(integers, np.int64),
        )


UNSUPPORTED = {
    "CubaLIF": "its synapses have a state of their own, which the device's do not",
    "CubaLI": "its membranes are its output, and its synapses have a state of their own",
    "LI": "its membranes are its output, and the device's neurons have spikes only",
    "I": "its membranes are its output, and the device's neurons have spikes only",
    "Delay": "the device has no delays",
    "Threshold": "it fires without a membrane; use IF or LIF neurons",
}
"""Reasons why nodes are not supported, by their type."""


def _sizes(values: Any, n_axes: int, fill: int) -> tuple[int, int]:
    """Return a stride, padding or size of a NIR node as a pair (vertical, horizontal).

    ``n_axes`` is 1 for a Conv1d, whose vertical number is ``fill``, and 2 for a Conv2d.
    """
    return pair_of(values) if n_axes == 2 else (fill, pair_of(values)[1])


def _matrix(values: Any) -> Float:
    weight = np.asarray(values, np.float64)
    while weight.ndim > 2 and weight.shape[0] == 1:
        weight = weight[0]
    if weight.ndim != 2:
        raise ExchangeError(f"its weight has {weight.ndim} axes instead of 2")
    return weight


def _bias(values: Any, n_out: int) -> Float:
    """Return a bias as an array (n_out,). ``values`` is one number for all outputs, or one for
    each."""
    bias = np.asarray(0.0 if values is None else values, np.float64).reshape(-1)
    if bias.size not in (1, n_out):
        raise ExchangeError(f"its bias has {bias.size} numbers for {n_out} outputs")
    return np.broadcast_to(bias, n_out).copy()
