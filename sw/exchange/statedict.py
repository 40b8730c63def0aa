"""Import of state dicts of SpikingJelly's and snnTorch's networks.

A state dict holds tensors, but not the steps that use them. So a topology must list these steps
(:mod:`sw.exchange.topology`). They become the steps of :mod:`sw.exchange.graph`, which
:mod:`sw.exchange.assembly` folds into layers.

:mod:`sw.exchange.statefile` reads the files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hw.spec import Gate
from sw.exchange.assembly import Imported, assemble
from sw.exchange.graph import (
    AdaptivePool,
    Add,
    Connect,
    Convolve,
    ExchangeError,
    Flatten,
    Join,
    Node,
    Normalise,
    Pool,
    Scale,
    Source,
    Step,
    plain_kernel,
    report_problems,
)
from sw.exchange.neurons import neurons
from sw.exchange.statefile import as_in_topology, load
from sw.exchange.topology import KINDS
from sw.network.network import IMAGE

NEURON_ENTRIES = {"IF": set(), "LIF": {"tau", "decay_input"}, "PLIF": {"decay_input"}}
"""Entries that a layer of SpikingJelly's neurons may have besides threshold and reset, by kind."""
MAX_FLOAT = float(np.finfo(np.float64).max)
"""Largest finite float64."""

Float = NDArray[np.float64]


def read(
    path: Path,
    topology: Mapping[str, Any],
    timesteps: int | None = None,
    nearest_leak: int = 0,
) -> Imported:
    """Read a file with a state dict, and return its network, folded.

    Parameters
    ----------
    topology : description of the network's steps, from :func:`sw.exchange.topology.load_topology`.
    timesteps : number of timesteps to run; None takes the number in the topology.
    nearest_leak : if the device does not have a leak, take the nearest one with up to this number
        of shifts (:mod:`sw.exchange.neurons`); 0 raises an error instead.

    Raises
    ------
    ExchangeError
        The file is no state dict or does not match the topology, or the device cannot run the
        network.
    """
    state = load(path)
    try:
        return from_state_dict(state, topology, timesteps, path.name, nearest_leak)
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from None


def from_state_dict(
    state: Mapping[str, Tensor],
    values: Mapping[str, Any],
    timesteps: int | None = None,
    origin: str = "state dict",
    nearest_leak: int = 0,
) -> Imported:
    """Return the folded network of a state dict in memory; for one in a file, use :func:`read`.

    ``values`` is its topology (a JSON list of the network's steps), and ``origin`` names the state
    dict in the provenance. See :func:`read` for the other parameters and the errors.
    """
    state = as_in_topology(state, values["layers"])
    builder = _Builder(state, values["framework"], nearest_leak)
    builder.sequence(values["layers"], IMAGE)
    report_problems(builder.problems, "the network")
    builder.check_all_used()
    source = Source(
        timesteps=timesteps or values["timesteps"],
        image_shape=tuple(values["image_shape"]),
        pixel_max=values.get("pixel_max", 1.0),
        labels=tuple(values.get("labels", ())),
    )
    origins = {"from": values["framework"], "file": origin, "topology": dict(values)}
    return assemble(builder.nodes, source, {"imported": origins})


@dataclass
class _Builder:
    """Converter of a topology's layers to the nodes of :mod:`sw.exchange.graph`.

    A layer is an entry of the topology, such as ``{"conv": "conv1", "padding": 1}``. Its kind is
    the key that says what it does, here ``conv``; one method per kind converts it.
    """

    state: Mapping[str, Tensor]
    framework: str
    nearest_leak: int
    nodes: list[Node] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """Reasons why layers cannot be converted, by name of the node."""
    used: set[str] = field(default_factory=set)
    """Names of the state dict's tensors that layers have used so far."""
    width: int = 0
    """Number of output channels of the last convolution or linear layer."""

    def sequence(self, layers: Sequence[Mapping[str, Any]], source: str, place: str = "") -> str:
        """Add layers that run one after another, and return the name of the last layer's node.

        The first layer reads the node ``source``. A layer without a name of its own is named by its
        kind and its position, such as ``pool 2``; ``place`` is the part of the position before the
        index, such as ``3.branch `` in a residual block.
        """
        for n, layer in enumerate(layers):
            if "block" in layer:
                source = self.block(layer, source, f"{place}{n}.")
                continue
            kind = next(k for k in KINDS if k in layer)
            name = layer[kind] if kind in ("conv", "linear", "norm", "scale") else layer.get("name")
            if kind == "neuron" and self.framework == "snntorch":
                name = layer[kind]
            name = self.unused_name(str(name or f"{kind} {place}{n}"))
            try:
                step = getattr(self, kind)(layer)
            except ExchangeError as error:
                self.problems[name] = str(error)
                continue
            self.nodes.append(Node(name=name, step=step, sources=(source,)))
            source = name
        return source

    def unused_name(self, name: str) -> str:
        """Return ``name``, with a number appended if a node already has that name.

        A name occurs again if a module without membranes runs at several places of a network.
        """
        names = {node.name for node in self.nodes}
        others = (f"{name}.{n}" for n in itertools.count(2))
        return next(n for n in itertools.chain([name], others) if n not in names)

    def block(self, layer: Mapping[str, Any], source: str, place: str) -> str:
        """Add the layers of a residual block and the gate that joins them; return the gate's name.

        The gate joins the spikes of the block's branch (its convolutions) and identity (its
        shortcut). Both read the node ``source``. The gate ``ADD`` adds spikes or weighted sums.
        """
        name = self.unused_name(str(layer["block"]))
        gate = str(layer.get("gate"))
        gates: dict[str, Step] = {"ADD": Add()}
        gates |= {known.name: Join(gate=known) for known in Gate if known != Gate.NONE}
        if gate not in gates:
            self.problems[name] = f"gate {gate} is not known: use one of {', '.join(gates)}"
        identity = self.sequence(layer.get("identity", []), source, f"{place}identity ")
        branch = self.sequence(layer["branch"], source, f"{place}branch ")
        if name not in self.problems:
            self.nodes.append(Node(name=name, step=gates[gate], sources=(branch, identity)))
        return name

    def tensor(self, name: str, *n_axes: int, optional: bool = False) -> Float | None:
        """Return a tensor of the state dict in float64; None if it is optional and missing.

        ``n_axes`` are the numbers of axes that the tensor may have.

        Raises
        ------
        ExchangeError
            A tensor that is not optional is missing, or the tensor has another number of axes.
        """
        if name not in self.state:
            if optional:
                return None
            near = [k for k in self.state if k.rpartition(".")[2] == name.rpartition(".")[2]]
            raise ExchangeError(
                f"the file has no tensor {name!r}; similar ones are {', '.join(near[:6]) or 'none'}"
            )
        self.used.add(name)
        tensor = self.state[name]
        if tensor.ndim not in n_axes:
            expected = " or ".join(map(str, n_axes))
            raise ExchangeError(f"{name!r} has {tensor.ndim} axes instead of {expected}")
        return tensor.detach().to(torch.float64).numpy()

    def required(self, name: str, *n_axes: int) -> Float:
        """Return a tensor of the state dict in float64.

        ``n_axes`` are the numbers of axes that the tensor may have.

        Raises
        ------
        ExchangeError
            The tensor is missing, or has another number of axes.
        """
        values = self.tensor(name, *n_axes)
        assert values is not None
        return values

    def check_all_used(self) -> None:
        """Check that the topology's layers use all parameters of the state dict.

        Raises
        ------
        ExchangeError
            Some parameters are not used, so that the topology does not describe the whole network.
        """
        buffers = ("num_batches_tracked", "graded_spikes_factor", "reset_mechanism_val")
        left = [k for k in self.state if k not in self.used and not k.endswith(buffers)]
        if left:
            raise ExchangeError(
                f"the topology does not use {', '.join(left[:8])}"
                + (f" and {len(left) - 8} more" if len(left) > 8 else "")
                + "; it is incomplete, or belongs to another network. Modules that the forward "
                "method does not run must be deleted (del net.NAME) before the state dict is saved"
            )

    # -- one method per kind

    def conv(self, layer: Mapping[str, Any]) -> Step:
        """Return a convolution as a step; a kernel of one axis becomes one of height 1."""
        weight = self.required(f"{layer['conv']}.weight", 3, 4)
        if weight.ndim == 3:
            weight = weight[:, :, None]
        groups = layer.get("groups", 1)
        if type(groups) is not int:
            raise ExchangeError(f"groups {groups!r} must be a whole number of at least 1")
        self.width = len(weight)
        return Convolve(
            weight=plain_kernel(weight, groups, pair_of(layer, "dilation", 1, least=1)),
            bias=self.tensor(f"{layer['conv']}.bias", 1, optional=True),
            stride=pair_of(layer, "stride", 1, least=1),
            padding=pair_of(layer, "padding", 0),
        )

    def linear(self, layer: Mapping[str, Any]) -> Step:
        weight = self.required(f"{layer['linear']}.weight", 2)
        self.width = len(weight)
        return Connect(weight=weight, bias=self.tensor(f"{layer['linear']}.bias", 1, optional=True))

    def norm(self, layer: Mapping[str, Any]) -> Step:
        name = layer["norm"]
        mean, var = (self.required(f"{name}.running_{n}", 1) for n in ("mean", "var"))
        gain = self.tensor(f"{name}.weight", 1, optional=True)
        shift = self.tensor(f"{name}.bias", 1, optional=True)
        gain = (1 if gain is None else gain) / np.sqrt(var + _number(layer, "eps", 1e-5, least=0.0))
        return Normalise(gain=gain, shift=(0 if shift is None else shift) - mean * gain)

    def flatten(self, layer: Mapping[str, Any]) -> Step:
        return Flatten()

    def pool(self, layer: Mapping[str, Any]) -> Step:
        if layer["pool"] not in ("max", "average"):
            raise ExchangeError(f"pool {layer['pool']!r} is not supported; use max or average")
        if "output" in layer:
            extra = sorted(set(layer) & {"kernel", "stride", "padding", "ceil", "divisor"})
            if extra:
                raise ExchangeError(f"an output size excludes {', '.join(extra)}")
            return AdaptivePool(kind=layer["pool"], output=pair_of(layer, "output"))
        kernel = pair_of(layer, "kernel", 2, least=1)
        strides = layer if layer.get("stride") is not None else {"stride": list(kernel)}
        divisor, ceil = layer.get("divisor"), layer.get("ceil", False)
        if divisor is not None and (type(divisor) is not int or divisor < 1):
            raise ExchangeError(f"divisor {divisor!r} must be a whole number of at least 1")
        if divisor is not None and layer["pool"] != "average":
            raise ExchangeError("only average pooling takes a divisor")
        if type(ceil) is not bool:
            raise ExchangeError(f"ceil {ceil!r} must be true or false")
        return Pool(
            kind=layer["pool"],
            kernel=kernel,
            stride=pair_of(strides, "stride", least=1),
            padding=pair_of(layer, "padding", 0),
            ceil=ceil,
            divisor=divisor,
        )

    def scale(self, layer: Mapping[str, Any]) -> Step:
        factor = self.required(f"{layer['scale']}.scale", 0, 1)
        return Scale(factor=factor.reshape(-1, 1, 1))

    def vote(self, layer: Mapping[str, Any]) -> Step:
        """Return a voting layer as a fully connected step that averages groups of neurons.

        A group is ``layer["vote"]`` neighbouring neurons that vote for the same class.
        """
        size = layer["vote"]
        if type(size) is not int or size < 1 or not self.width or self.width % size:
            raise ExchangeError(f"{self.width} neurons cannot be divided into groups of {size!r}")
        weight = np.kron(np.eye(self.width // size), np.full((1, size), 1 / size))
        weight = weight.astype(np.float64)
        self.width //= size
        return Connect(weight=weight)

    def neuron(self, layer: Mapping[str, Any]) -> Step:
        return self.leaky(layer) if self.framework == "snntorch" else self.jelly(layer)

    def jelly(self, layer: Mapping[str, Any]) -> Step:
        """Return a layer of SpikingJelly's IF, LIF or PLIF neurons as a step.

        The neurons compute ``v += x`` (IF) or ``v += (x - (v - v_reset)) / tau`` (LIF, PLIF), and
        fire at ``v >= v_threshold``. A spike sets ``v = v_reset``, or subtracts ``v_threshold`` if
        ``v_reset`` is None. LIF and PLIF neurons without ``decay_input`` do not divide ``x`` by
        ``tau``.
        """
        kind, soft = layer["neuron"], layer.get("reset", 0.0) is None
        rest = 0.0 if soft else _number(layer, "reset", 0.0)
        decay, gain = 1.0, 1.0
        if kind in ("LIF", "PLIF"):
            if kind == "PLIF":
                w = self.required(f"{layer.get('name')}.w", 0)
                tau = float(1 + np.exp(-w))
            else:
                tau = _number(layer, "tau", 2.0)
            if tau <= 1:
                raise ExchangeError(f"tau = {tau:g} must be above 1")
            decay = 1 - 1 / tau
            gain = 1 / tau if layer.get("decay_input", True) else 1.0
        elif kind != "IF":
            raise ExchangeError(f"neuron {kind!r} is not supported; the device has IF and LIF")
        extra = set(layer) & {"tau", "decay_input"} - NEURON_ENTRIES[kind]
        if extra:
            raise ExchangeError(f"{kind} neurons take no {', '.join(sorted(extra))}")
        threshold = (_number(layer, "threshold", 1.0) - rest) / gain
        return neurons(threshold, decay, soft=soft, strict=False, nearest=self.nearest_leak)

    def leaky(self, layer: Mapping[str, Any]) -> Step:
        """Return a layer of snnTorch's ``Leaky`` neurons as a step.

        The neurons compute ``mem = beta * mem + x`` and fire at ``mem > threshold``. A spike resets
        the membrane in the next timestep: the reset mechanism ``"zero"`` clears it before the leak,
        and ``"subtract"`` subtracts the threshold after the leak.
        """
        name = str(layer["neuron"])
        extra = set(layer) - {"neuron", "name"}
        if extra:
            raise ExchangeError(
                f"snnTorch's neurons take no {', '.join(sorted(extra))}: the file has their numbers"
            )
        threshold, beta = (
            np.atleast_1d(self.state[f"{name}.{n}"].detach().to(torch.float64).numpy())
            if f"{name}.{n}" in self.state
            else None
            for n in ("threshold", "beta")
        )
        self.used |= {f"{name}.threshold", f"{name}.beta"}
        if threshold is None or beta is None:
            raise ExchangeError(f"the file has no {name}.threshold or no {name}.beta")
        if f"{name}.alpha" in self.state or f"{name}.V" in self.state:
            raise ExchangeError("synaptic and recurrent neurons are not supported; use Leaky")
        spike = self.state.get(f"{name}.graded_spikes_factor")
        if spike is not None and bool((spike != 1).any()):
            raise ExchangeError("graded spikes are not supported; the device's are 0 and 1")
        mechanism = int(self.state.get(f"{name}.reset_mechanism_val", torch.tensor(0)).item())
        decay = np.clip(beta, 0, 1)
        if mechanism == 2:
            raise ExchangeError("reset_mechanism='none' is not supported; train with 'zero'")
        return neurons(
            threshold,
            decay,
            soft=mechanism == 0,
            strict=True,
            late=True,
            nearest=self.nearest_leak,
        )


def _number(layer: Mapping[str, Any], key: str, default: float, least: float = -math.inf) -> float:
    """Return the number in the entry ``key`` of a topology's layer, or ``default`` if the layer has
    no such entry.

    Raises
    ------
    ExchangeError
        The entry is no finite number, or is below ``least``.
    """
    value = layer.get(key, default)
    if type(value) not in (int, float) or not max(least, -MAX_FLOAT) <= value <= MAX_FLOAT:
        at_least = f" of at least {least:g}" if least > -math.inf else ""
        raise ExchangeError(f"{key} {value!r} must be a finite number{at_least}")
    return float(value)


def pair_of(
    layer: Mapping[str, Any], key: str, default: int | None = None, least: int = 0
) -> tuple[int, int]:
    """Return the entry ``key`` of a topology's layer as a (vertical, horizontal) pair.

    A single number is used for both directions. If the layer has no such entry, ``default`` is
    used; with a default of None, the entry is required.

    Raises
    ------
    ExchangeError
        The entry is neither a whole number nor a list of two, or a number is below ``least``.
    """
    values = layer.get(key, default)
    numbers = values if isinstance(values, list | tuple) else [values, values]
    if len(numbers) != 2 or not all(type(n) is int and n >= least for n in numbers):
        raise ExchangeError(
            f"{key} {values!r} must be one whole number or two, of at least {least}"
        )
    return numbers[0], numbers[1]
