"""Import of SpikingJelly's and snnTorch's state dicts, with a topology that says what they lack
(:mod:`sw.exchange.topology`).

Only tensors and plain values are unpickled, so that a hostile file cannot run code.
"""

from __future__ import annotations

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
from torch import Tensor

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
from sw.exchange.topology import KINDS
from sw.model import checkpoint
from sw.network.network import IMAGE

NESTED = ("state_dict", "model", "net", "model_state_dict")
"""Keys under which training scripts store the state dict in their checkpoints."""
MAX_FLOAT = float(np.finfo(np.float64).max)

Float = NDArray[np.float64]


def read(path: Path, topology: Mapping[str, Any], timesteps: int | None = None) -> Imported:
    """Read the network of a state dict.

    Parameters
    ----------
    topology : topology that :func:`sw.exchange.topology.load_topology` returned.
    timesteps : number of timesteps to run; None takes the topology's.

    Raises
    ------
    ExchangeError
        The file is no state dict, does not match the topology, or cannot be mapped.
    """
    state = load(path)
    try:
        return from_state_dict(state, topology, timesteps, origin=path.name)
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from None


def load(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, without running any code in it.

    Raises
    ------
    ExchangeError
        There is no such file, it is damaged, or it is no state dict.
    """
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO and not zipfile.is_zipfile(file):
                raise ValueError("torch.save did not write it")
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExchangeError(
            f"{path} holds more than tensors and plain values, which could run code when it is "
            "read; save only the state dict: torch.save(net.state_dict(), path)"
        ) from error
    except Exception as error:  # a damaged pickle can raise almost any exception
        raise ExchangeError(f"{path} is damaged or no checkpoint: {error}") from error
    if isinstance(values, dict):
        if values.get("format") == checkpoint.FORMAT:
            raise ExchangeError(f"{path} was made by sw.train: it needs no --topology")
        for key in NESTED:
            if isinstance(values.get(key), dict):
                values = values[key]
                break
    if not isinstance(values, dict) or not values:
        raise ExchangeError(f"{path} holds no state dict (a dict of tensors by name)")
    tensors = {str(k): v for k, v in values.items() if isinstance(v, Tensor)}
    if len(tensors) != len(values):
        others = [str(k) for k, v in values.items() if not isinstance(v, Tensor)]
        raise ExchangeError(
            f"{path} holds {', '.join(others[:5])} besides tensors; save only the state dict, or "
            f"store it under one of the keys {', '.join(NESTED)}"
        )
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def from_state_dict(
    state: Mapping[str, Tensor],
    values: Mapping[str, Any],
    timesteps: int | None = None,
    origin: str = "state dict",
) -> Imported:
    """Import a network from a state dict that is already loaded; ``values`` is its topology. See
    :func:`read` for files."""
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
    origins = {"from": values["framework"], "file": origin, "topology": dict(values)}
    return assemble(builder.nodes, source, {"imported": origins})


@dataclass
class _Builder:
    """Converts a topology's layers to nodes."""

    state: Mapping[str, Tensor]
    framework: str
    nodes: list[Node] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """Reasons why layers cannot be mapped, by name of the node."""
    used: set[str] = field(default_factory=set)
    """Names of the tensors that the topology has used."""
    width: int = 0
    """Number of output channels of the last weights."""

    def sequence(self, layers: Sequence[Mapping[str, Any]], source: str, place: str = "") -> str:
        """Add layers that run one after another; return the last one's name.

        ``place`` is the prefix of names for layers that have none.
        """
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
        """Add a residual block; return its name."""
        name = str(layer["block"])
        gate = str(layer.get("gate"))
        if gate not in Gate.__members__ or gate == "NONE":
            self.problems[name] = (
                f"gate {gate} is not full-spike: blocks exchange numbers instead of spikes; train "
                "with AND, IAND, OR or XOR"
            )
        identity = self.sequence(layer.get("identity", []), source, f"{place}identity ")
        branch = self.sequence(layer["branch"], source, f"{place}branch ")
        if name not in self.problems:
            step = Join(gate=Gate[gate])
            self.nodes.append(Node(name=name, step=step, sources=(branch, identity)))
        return name

    def tensor(self, name: str, n_axes: int, optional: bool = False) -> Float | None:
        """Return a tensor with ``n_axes`` axes; None if it is optional and missing."""
        if name not in self.state:
            if optional:
                return None
            near = [k for k in self.state if k.rpartition(".")[2] == name.rpartition(".")[2]]
            raise ExchangeError(
                f"the file has no tensor {name!r}; similar ones are {', '.join(near[:6]) or 'none'}"
            )
        self.used.add(name)
        tensor = self.state[name]
        if tensor.ndim != n_axes:
            raise ExchangeError(f"{name!r} has {tensor.ndim} axes instead of {n_axes}")
        return tensor.detach().to(torch.float64).numpy()

    def required(self, name: str, n_axes: int) -> Float:
        """Return a tensor with ``n_axes`` axes."""
        values = self.tensor(name, n_axes)
        assert values is not None
        return values

    def check_all_used(self) -> None:
        """Raise :class:`ExchangeError` if the topology does not use every tensor."""
        buffers = ("num_batches_tracked", "graded_spikes_factor", "reset_mechanism_val")
        left = [k for k in self.state if k not in self.used and not k.endswith(buffers)]
        if left:
            raise ExchangeError(
                f"the topology does not use {', '.join(left[:8])}"
                + (f" and {len(left) - 8} more" if len(left) > 8 else "")
                + "; it is incomplete, or belongs to another network"
            )

    # -- one method per kind

    def conv(self, layer: Mapping[str, Any]) -> Step:
        if pair_of(layer, "dilation", 1) != (1, 1) or layer.get("groups", 1) != 1:
            raise ExchangeError("groups or dilation: use a plain convolution with zero weights")
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
            raise ExchangeError(f"pool {layer['pool']!r} is not supported; use max or average")
        kernel = pair_of(layer, "kernel", 2, least=1)
        strides = layer if layer.get("stride") is not None else {"stride": list(kernel)}
        return Pool(
            kind=layer["pool"],
            kernel=kernel,
            stride=pair_of(strides, "stride", least=1),
            padding=pair_of(layer, "padding", 0),
        )

    def vote(self, layer: Mapping[str, Any]) -> Step:
        """Return weights that take the mean of each group of neighbouring neurons."""
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
        """Return SpikingJelly's neurons.

        They compute ``v += x`` (IF) or ``v += (x - (v - v_reset)) / tau`` (LIF, PLIF) and fire at
        ``v >= v_threshold``. After a spike ``v = v_reset``, or, if ``v_reset`` is None,
        ``v -= v_threshold``.
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
        return _fire(_number(layer, "threshold", 1.0) - rest, gain, decay, soft, False)

    def leaky(self, layer: Mapping[str, Any]) -> Step:
        """Return snnTorch's ``Leaky`` neurons.

        They compute ``mem = beta * mem + x`` and fire at ``mem > threshold``. They reset in the
        next timestep: ``"zero"`` clears the membrane before the leak, ``"subtract"`` subtracts the
        threshold after it.
        """
        name = str(layer["neuron"])
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
        if len(set(beta.tolist())) > 1:
            raise ExchangeError("its beta differs from neuron to neuron")
        spike = self.state.get(f"{name}.graded_spikes_factor")
        if spike is not None and bool((spike != 1).any()):
            raise ExchangeError("graded spikes are not supported; the device's are 0 and 1")
        mechanism = int(self.state.get(f"{name}.reset_mechanism_val", torch.tensor(0)).item())
        decay = float(np.clip(beta[0], 0, 1))
        if mechanism == 2:
            raise ExchangeError("reset_mechanism='none' is not supported; train with 'zero'")
        if mechanism == 0 and decay != 1:
            raise ExchangeError(
                "reset_mechanism='subtract' with beta below 1 subtracts the threshold after the "
                "leak, the device before it; train with reset_mechanism='zero'"
            )
        return _fire(threshold, 1.0, decay, mechanism == 0, True)


def _fire(
    threshold: float | Float, gain: float, decay: float, soft: bool, strict: bool
) -> FireNode:
    """Return neurons whose input is multiplied by ``gain`` and whose membrane by ``decay``."""
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
    """Return a finite number of a topology's layer; raise :class:`ExchangeError` if it is none."""
    value = layer.get(key, default)
    if type(value) not in (int, float) or not max(least, -MAX_FLOAT) <= value <= MAX_FLOAT:
        at_least = f" of at least {least:g}" if least > -math.inf else ""
        raise ExchangeError(f"{key} {value!r} must be a finite number{at_least}")
    return float(value)


def pair_of(
    layer: Mapping[str, Any], key: str, default: int | None = None, least: int = 0
) -> tuple[int, int]:
    """Return a (vertical, horizontal) pair of a topology's layer, which may give one for both.

    Raises
    ------
    ExchangeError
        The layer has neither one whole number nor two, of at least ``least``.
    """
    values = layer.get(key, default)
    numbers = values if isinstance(values, list | tuple) else [values, values]
    if len(numbers) != 2 or not all(type(n) is int and n >= least for n in numbers):
        raise ExchangeError(
            f"{key} {values!r} must be one whole number or two, of at least {least}"
        )
    return numbers[0], numbers[1]
