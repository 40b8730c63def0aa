"""State dicts of SpikingJelly and snnTorch, read by way of a topology: what they do not hold.

A state dict names tensors, not steps: which neurons stand between them, with which thresholds, what
is pooled. A topology says it in JSON::

    {"format": "spikefold-topology", "framework": "spikingjelly", "timesteps": 4,
     "image_shape": [1, 28, 28], "pixel_max": 1.0,
     "layers": [{"conv": "conv_fc.0", "padding": 1}, {"norm": "conv_fc.1"},
                {"neuron": "IF", "threshold": 1.0, "reset": 0.0}, {"pool": "max", "kernel": 2},
                ..., {"flatten": true}, {"linear": "conv_fc.9"}, {"neuron": "IF"}]}

:func:`describe` writes one for a network that is there as an object, a name in :data:`TOPOLOGIES`
stands for a well-known one. Only tensors and plain values are ever unpickled.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hw.spec import Gate, Leak, Reset
from sw.exchange.assembly import Imported, assemble
from sw.exchange.graph import (
    Connect,
    Convolve,
    ExchangeError,
    FireNode,
    Flatten,
    Join,
    Node,
    Normalise,
    Pool,
    Source,
    Step,
    decay_error,
    leak_of,
    report_problems,
)
from sw.network.network import IMAGE

FORMAT = "spikefold-topology"
FRAMEWORKS = ("spikingjelly", "snntorch")
NESTED = ("state_dict", "model", "net", "model_state_dict")
"""Keys under which training scripts keep the state dict in their checkpoints."""
OURS = "spikefold-checkpoint"
LARGEST = float(np.finfo(np.float64).max)

Float = NDArray[np.float64]

TOPOLOGIES: dict[str, dict[str, Any]] = {
    # conv_fashion_mnist.py of SpikingJelly's examples, with any number of channels.
    "spikingjelly-csnn": {
        "format": FORMAT,
        "framework": "spikingjelly",
        "timesteps": 4,
        "image_shape": [1, 28, 28],
        "pixel_max": 1.0,
        "layers": [
            {"conv": "conv_fc.0", "padding": 1},
            {"norm": "conv_fc.1"},
            {"neuron": "IF"},
            {"pool": "max", "kernel": 2},
            {"conv": "conv_fc.4", "padding": 1},
            {"norm": "conv_fc.5"},
            {"neuron": "IF"},
            {"pool": "max", "kernel": 2},
            {"flatten": True},
            {"linear": "conv_fc.9"},
            {"neuron": "IF"},
            {"linear": "conv_fc.11"},
            {"neuron": "IF"},
        ],
    },
}

KINDS = {
    "conv": {"stride", "padding", "dilation", "groups"},
    "linear": set(),
    "norm": {"eps"},
    "neuron": {"threshold", "reset", "tau", "decay_input", "name"},
    "pool": {"kernel", "stride", "padding"},
    "flatten": set(),
    "vote": set(),
    "block": {"gate", "branch", "identity"},
}
"""Kinds of layers in a topology, and what else may stand in each."""


# ---- reading -------------------------------------------------------------------------------------


def read(path: Path, topology: Mapping[str, Any], timesteps: int | None = None) -> Imported:
    """The network of a state dict.

    Parameters
    ----------
    topology : what :func:`topology` returned.
    timesteps : in place of the topology's.

    Raises
    ------
    ExchangeError
        No state dict, one of another network, or something in it cannot be mapped.
    """
    state = load(path)
    try:
        return from_state_dict(state, topology, timesteps, origin=path.name)
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from None


def load(path: Path) -> dict[str, Tensor]:
    """Tensors by name; nothing in the file is executed.

    Raises
    ------
    ExchangeError
    """
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO and not zipfile.is_zipfile(file):
                raise ValueError("torch.save makes them")
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExchangeError(
            f"{path} holds more than tensors and plain values, which could run any program when "
            "read; save the state dict alone: torch.save(net.state_dict(), path)"
        ) from error
    except Exception as error:  # of many kinds, for what damage does to the pickle in it
        raise ExchangeError(f"{path} is damaged or no checkpoint: {error}") from error
    if isinstance(values, dict):
        if values.get("format") == OURS:
            raise ExchangeError(f"{path} was made by sw.train: it needs no --topology")
        for key in NESTED:
            if isinstance(values.get(key), dict):
                values = values[key]
                break
    if not isinstance(values, dict) or not values:
        raise ExchangeError(f"{path} holds no state dict, that is, tensors by name")
    tensors = {str(k): v for k, v in values.items() if isinstance(v, Tensor)}
    if len(tensors) != len(values):
        others = [str(k) for k, v in values.items() if not isinstance(v, Tensor)]
        raise ExchangeError(
            f"{path} holds {', '.join(others[:5])} beside tensors; save the state dict alone, or "
            f"under one of the keys {', '.join(NESTED)}"
        )
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def topology(name: str) -> dict[str, Any]:
    """A topology by its name, or from a JSON file.

    Raises
    ------
    ExchangeError
        Not there, or not a topology; the message says what is wrong with it.
    """
    if name in TOPOLOGIES:
        return TOPOLOGIES[name]
    known = (
        f"known are {', '.join(TOPOLOGIES)}, or name a JSON file (sw.exchange.statedict.describe)"
    )
    try:
        values = json.loads(Path(name).read_text())
    except OSError as error:
        raise ExchangeError(f"topology {name!r}: {error.strerror}; {known}") from error
    except ValueError as error:
        raise ExchangeError(f"topology {name!r} is no JSON: {error}; {known}") from error
    check(values, f"topology {name!r}")
    return values


def check(values: Any, where: str = "topology") -> None:
    """Raise :class:`ExchangeError` unless ``values`` is a topology."""

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise ExchangeError(f"{where}: {message}")

    require(
        isinstance(values, dict) and values.get("format") == FORMAT, f'"format" must be "{FORMAT}"'
    )
    require(
        values.get("framework") in FRAMEWORKS, f'"framework" must be one of {", ".join(FRAMEWORKS)}'
    )
    shape = values.get("image_shape")
    require(
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and n > 0 for n in shape),
        '"image_shape" must be [channels, height, width]',
    )
    timesteps = values.get("timesteps")
    require(type(timesteps) is int and timesteps > 0, '"timesteps" must be a number of at least 1')
    pixel_max = values.get("pixel_max", 1.0)
    require(
        pixel_max is None or (isinstance(pixel_max, int | float) and pixel_max > 0),
        '"pixel_max" must be what a pixel of 255 is, or null for binary frames',
    )
    labels = values.get("labels", [])
    require(
        isinstance(labels, list) and all(isinstance(label, str) for label in labels),
        '"labels" must be a list of names',
    )
    unknown = set(values) - {
        "format",
        "framework",
        "timesteps",
        "image_shape",
        "pixel_max",
        "labels",
        "layers",
    }
    require(not unknown, f"unknown entries: {', '.join(sorted(unknown))}")

    def check_layers(layers: Any, place: str) -> None:
        require(isinstance(layers, list), f"{place} must be a list")
        for n, layer in enumerate(layers):
            here = f"{place}[{n}]"
            kinds = [k for k in KINDS if isinstance(layer, dict) and k in layer]
            require(len(kinds) == 1, f"{here} must have one of {', '.join(KINDS)}")
            extra = set(layer) - {kinds[0]} - KINDS[kinds[0]]
            require(not extra, f"{here}: {kinds[0]} takes no {', '.join(sorted(extra))}")
            if kinds[0] == "block":
                check_layers(layer.get("branch"), f"{here}.branch")
                check_layers(layer.get("identity", []), f"{here}.identity")

    check_layers(values.get("layers"), "layers")


def from_state_dict(
    state: Mapping[str, Tensor],
    values: Mapping[str, Any],
    timesteps: int | None = None,
    origin: str = "state dict",
) -> Imported:
    """See :func:`read`."""
    builder = _Builder(state, values["framework"])
    builder.sequence(values["layers"], IMAGE)
    report_problems(builder.problems, "the network")
    builder.check_all_used()
    source = Source(
        timesteps=timesteps or values["timesteps"],
        image_shape=tuple(values["image_shape"]),
        pixel_max=values.get("pixel_max", 1.0),
        labels=tuple(values.get("labels", ())),
    )
    about = {"from": values["framework"], "file": origin, "topology": dict(values)}
    return assemble(builder.nodes, source, {"imported": about})


@dataclass
class _Builder:
    """A topology's layers to nodes; what is wrong is collected."""

    state: Mapping[str, Tensor]
    framework: str
    nodes: list[Node] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    width: int = 0
    """Outputs of the last weights."""

    def sequence(self, layers: Sequence[Mapping[str, Any]], source: str, place: str = "") -> str:
        for n, layer in enumerate(layers):
            if "block" in layer:
                source = self.block(layer, source, f"{place}{n}.")
                continue
            kind = next(k for k in KINDS if k in layer)
            name = layer[kind] if kind in ("conv", "linear", "norm") else layer.get("name")
            name = str(name or f"{kind} {place}{n}")
            try:
                step = getattr(self, kind)(layer)
            except ExchangeError as error:
                self.problems[name] = str(error)
                continue
            self.nodes.append(Node(name=name, step=step, sources=(source,)))
            source = name
        return source

    def block(self, layer: Mapping[str, Any], source: str, place: str) -> str:
        name = str(layer["block"])
        gate = str(layer.get("gate"))
        if gate not in Gate.__members__ or gate == "NONE":
            self.problems[name] = (
                f"gate {gate} is not full-spike: it sends numbers from block to block; train it "
                "with AND, IAND, OR or XOR"
            )
        identity = self.sequence(layer.get("identity", []), source, f"{place}identity ")
        branch = self.sequence(layer["branch"], source, f"{place}branch ")
        if name not in self.problems:
            step = Join(gate=Gate[gate])
            self.nodes.append(Node(name=name, step=step, sources=(branch, identity)))
        return name

    def tensor(self, name: str, n_axes: int, optional: bool = False) -> Float | None:
        """A tensor of the state dict."""
        if name not in self.state:
            if optional:
                return None
            near = [k for k in self.state if k.rpartition(".")[2] == name.rpartition(".")[2]]
            raise ExchangeError(
                f"there is no tensor {name!r} in the file; it has {', '.join(near[:6]) or 'none'}"
            )
        self.used.add(name)
        tensor = self.state[name]
        if tensor.ndim != n_axes:
            raise ExchangeError(f"{name!r} has {tensor.ndim} axes in place of {n_axes}")
        return tensor.detach().to(torch.float64).numpy()

    def required(self, name: str, n_axes: int) -> Float:
        values = self.tensor(name, n_axes)
        assert values is not None
        return values

    def check_all_used(self) -> None:
        """Tensors that nothing names are a sign of a topology of another network."""
        buffers = ("num_batches_tracked", "graded_spikes_factor", "reset_mechanism_val")
        left = [k for k in self.state if k not in self.used and not k.endswith(buffers)]
        if left:
            raise ExchangeError(
                f"the topology leaves out {', '.join(left[:8])}"
                + (f" and {len(left) - 8} more" if len(left) > 8 else "")
                + ": it is another network's, or not complete"
            )

    # -- one method per kind

    def conv(self, layer: Mapping[str, Any]) -> Step:
        if pair_of(layer, "dilation", 1) != (1, 1) or layer.get("groups", 1) != 1:
            raise ExchangeError("groups or dilation: make it a plain convolution, with zeros")
        weight = self.required(f"{layer['conv']}.weight", 4)
        self.width = len(weight)
        return Convolve(
            weight=weight,
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
            raise ExchangeError(f"pool {layer['pool']!r}: use max or average")
        kernel = pair_of(layer, "kernel", 2, least=1)
        strides = layer if layer.get("stride") is not None else {"stride": list(kernel)}
        return Pool(
            kind=layer["pool"],
            kernel=kernel,
            stride=pair_of(strides, "stride", least=1),
            padding=pair_of(layer, "padding", 0),
        )

    def vote(self, layer: Mapping[str, Any]) -> Step:
        """The mean of each group of neighbouring neurons."""
        size = layer["vote"]
        if type(size) is not int or size < 1 or not self.width or self.width % size:
            raise ExchangeError(f"{self.width} neurons do not fall into groups of {size!r}")
        weight = np.kron(np.eye(self.width // size), np.full((1, size), 1 / size))
        weight = weight.astype(np.float64)
        self.width //= size
        return Connect(weight=weight)

    def neuron(self, layer: Mapping[str, Any]) -> Step:
        return self.leaky(layer) if self.framework == "snntorch" else self.jelly(layer)

    def jelly(self, layer: Mapping[str, Any]) -> Step:
        """SpikingJelly: ``v += x`` or ``v += (x - (v - v_reset)) / tau``; fires at
        ``v >= v_threshold``; then ``v = v_reset``, or ``v -= v_threshold`` if that is None."""
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
                raise ExchangeError(f"tau = {tau:g}: it must be above 1")
            decay = 1 - 1 / tau
            gain = 1 / tau if layer.get("decay_input", True) else 1.0
        elif kind != "IF":
            raise ExchangeError(f"a neuron {kind!r}: the device has IF and LIF")
        return _fire(_number(layer, "threshold", 1.0) - rest, gain, decay, soft, False)

    def leaky(self, layer: Mapping[str, Any]) -> Step:
        """snnTorch's Leaky: ``mem = beta * mem + x``, fires at ``mem > threshold``. It resets at
        the beginning of the next timestep: to zero before the leak, but subtracts behind it."""
        name = str(layer["neuron"])
        threshold, beta = (
            np.atleast_1d(self.state[f"{name}.{n}"].detach().to(torch.float64).numpy())
            if f"{name}.{n}" in self.state
            else None
            for n in ("threshold", "beta")
        )
        self.used |= {f"{name}.threshold", f"{name}.beta"}
        if threshold is None or beta is None:
            raise ExchangeError(f"there is no {name}.threshold or {name}.beta in the file")
        if f"{name}.alpha" in self.state or f"{name}.V" in self.state:
            raise ExchangeError("a synaptic or recurrent neuron: the device has IF and LIF (Leaky)")
        if len(set(beta.tolist())) > 1:
            raise ExchangeError("its beta differs from neuron to neuron")
        spike = self.state.get(f"{name}.graded_spikes_factor")
        if spike is not None and bool((spike != 1).any()):
            raise ExchangeError("graded spikes: the device's are 0 and 1")
        mechanism = int(self.state.get(f"{name}.reset_mechanism_val", torch.tensor(0)).item())
        decay = float(np.clip(beta[0], 0, 1))
        if mechanism == 2:
            raise ExchangeError("it has no reset (reset_mechanism='none'): the device resets")
        if mechanism == 0 and decay != 1:
            raise ExchangeError(
                "reset_mechanism='subtract' with beta below 1 subtracts the whole threshold after "
                "the leak, the device before it; train it with reset_mechanism='zero'"
            )
        return _fire(threshold, 1.0, decay, mechanism == 0, True)


def _fire(
    threshold: float | Float, gain: float, decay: float, soft: bool, strict: bool
) -> FireNode:
    leak = leak_of(decay)
    if leak is None:
        raise ExchangeError(decay_error(decay))
    return FireNode(
        threshold=np.asarray(threshold, np.float64) / gain,
        strict=strict,
        leak=Leak(leak[0]),
        leak_shift=leak[1],
        reset=Reset.SOFT if soft else Reset.HARD,
    )


def _number(layer: Mapping[str, Any], key: str, default: float, least: float = -math.inf) -> float:
    value = layer.get(key, default)
    if type(value) not in (int, float) or not max(least, -LARGEST) <= value <= LARGEST:
        at_least = f" of at least {least:g}" if least > -math.inf else ""
        raise ExchangeError(f"{key} {value!r} is no number{at_least}")
    return float(value)


def pair_of(
    layer: Mapping[str, Any], key: str, default: int | None = None, least: int = 0
) -> tuple[int, int]:
    values = layer.get(key, default)
    numbers = values if isinstance(values, list | tuple) else [values, values]
    if len(numbers) != 2 or not all(type(n) is int and n >= least for n in numbers):
        raise ExchangeError(f"{key} {values!r} is neither a number nor two, of at least {least}")
    return numbers[0], numbers[1]


# ---- writing a topology --------------------------------------------------------------------------


def describe(
    network: nn.Module,
    timesteps: int,
    image_shape: Sequence[int],
    *,
    pixel_max: float | None = 1.0,
    order: Sequence[str] | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """The topology of a network of SpikingJelly's or snnTorch's modules, as JSON values::

        Path("csnn.json").write_text(json.dumps(describe(net, 4, (1, 28, 28))))

    Parameters
    ----------
    order : names of the modules in the order in which they run, if the network is not a sequence
        (a module that is used nowhere in it has to be left out, too).

    Raises
    ------
    ExchangeError
        A module that cannot be mapped, or an order that has to be given; names the module.
    """
    walker = _Walker({id(module): name for name, module in network.named_modules()})
    if order is None:
        layers = walker.layers(network)
    else:
        layers = [entry for name in order for entry in walker.layers(network.get_submodule(name))]
    values: dict[str, Any] = {
        "format": FORMAT,
        "framework": walker.framework or "spikingjelly",
        "timesteps": timesteps,
        "image_shape": list(image_shape),
        "pixel_max": pixel_max,
        "layers": layers,
    }
    if labels:
        values["labels"] = list(labels)
    check(values)
    return values


class _Walker:
    def __init__(self, names: dict[int, str]):
        self.names = names
        self.framework: str | None = None

    def layers(self, module: Any) -> list[dict[str, Any]]:
        """Entries of a module and all in it."""
        name = self.names[id(module)]
        if isinstance(module, nn.Conv2d):
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise ExchangeError(f"{name}: padding must be numbers, of zeros")
            plain = {"stride": list(module.stride), "padding": list(module.padding)}
            extra = {"groups": module.groups, "dilation": list(module.dilation)}
            odd = module.groups != 1 or tuple(module.dilation) != (1, 1)
            return [{"conv": name, **plain, **(extra if odd else {})}]
        if isinstance(module, nn.Linear):
            return [{"linear": name}]
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            return [{"norm": name, "eps": module.eps}]
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            if module.ceil_mode:
                raise ExchangeError(f"{name}: ceil_mode")
            kind = "max" if isinstance(module, nn.MaxPool2d) else "average"
            sizes = {"kernel": module.kernel_size, "stride": module.stride}
            entry = {"pool": kind, **sizes, "padding": module.padding}
            return [{k: list(v) if isinstance(v, tuple) else v for k, v in entry.items()}]
        if isinstance(module, nn.Flatten):
            return [{"flatten": True}]
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Identity):
            return []
        return self.foreign(module, type(module).__name__, name)

    def foreign(self, module: Any, kind: str, name: str) -> list[dict[str, Any]]:
        """A module of SpikingJelly's or snnTorch's, known by its class's name and attributes, so
        that neither need be installed; or a sequence of modules."""
        if kind in ("IFNode", "LIFNode", "ParametricLIFNode"):
            self.framework = "spikingjelly"
            entry = {"neuron": {"IFNode": "IF", "LIFNode": "LIF"}.get(kind, "PLIF"), "name": name}
            entry |= {"threshold": float(module.v_threshold), "reset": module.v_reset}
            if kind == "LIFNode":
                entry["tau"] = float(module.tau)
            if kind != "IFNode":
                entry["decay_input"] = bool(module.decay_input)
            return [entry]
        if kind == "Leaky":
            self.framework = "snntorch"
            return [{"neuron": name}]
        if kind == "VotingLayer":
            return [{"vote": int(module.voting_size)}]
        if kind == "Dropout":
            return []
        if kind == "BasicBlock" and hasattr(module, "cnf"):
            parts = (module.conv1, module.bn1, module.sn1, module.conv2, module.bn2, module.sn2)
            identity = []
            if module.downsample is not None:
                identity = self.layers(module.downsample) + self.layers(module.downsample_sn)
            branch = [entry for part in parts for entry in self.layers(part)]
            return [{"block": name, "gate": module.cnf, "branch": branch, "identity": identity}]
        children = list(module.children())
        if isinstance(module, nn.Sequential) or len(children) == 1:
            return [entry for child in children for entry in self.layers(child)]
        if children:
            names = ", ".join(child for child, _ in module.named_children())
            raise ExchangeError(
                f"{name or 'the network'} ({kind}) is no sequence: give order=, the names of its "
                f"modules as they run, of {names}"
            )
        raise ExchangeError(f"{name}: a {kind} cannot be mapped")
