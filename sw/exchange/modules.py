"""Conversion of single PyTorch, SpikingJelly and snnTorch modules to entries of a topology.

A topology is a JSON list of a network's steps (:mod:`sw.exchange.topology`), and an entry is one of
these steps, such as ``{"conv": "conv1"}``. Only classes in :data:`MODULES` are converted, and every
attribute that changes their result is checked. The class of a module must be the library's own,
because a subclass may compute anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sw.exchange.graph import ExchangeError

LIBRARIES = ("torch", "spikingjelly", "snntorch")
"""Packages whose classes count as a library's own."""
HARMLESS = {"extra_repr", "reset_parameters", "supported_backends"}
"""Methods, besides special ones such as ``__init__``, that a subclass may define without changing
the module's results."""
NETWORKS = frozenset({"model", "examples", "sample_models", "fx"})
"""Packages within :data:`LIBRARIES` whose classes are whole networks, and not parts of networks.
``torch.fx`` makes a class of its own for every network that it transforms."""
N_PROBES = 257
"""Number of values at which a neuron's surrogate function is compared with a step function."""

Entry = dict[str, Any]


def library_class(module: nn.Module) -> type | None:
    """Return the class of a module if the class is from one of :data:`LIBRARIES`, otherwise None.

    A user's subclass that defines nothing but a constructor counts as the class it derives from.
    The libraries' networks (:data:`NETWORKS`) count as a user's.

    Raises
    ------
    ExchangeError
        The module's class derives from a library's class other than ``nn.Module``, and overrides
        some of its methods.
    """
    changed: set[str] = set()
    for kind in type(module).__mro__:
        library, *packages = kind.__module__.split(".")
        if library in LIBRARIES and NETWORKS.isdisjoint(packages):
            if kind is nn.Module:
                return None
            changed |= {"forward"} & set(vars(module))
            if changed and kind is not nn.Sequential:
                raise ExchangeError(
                    f"its class {type(module).__name__} is a {kind.__name__} with its own "
                    f"{', '.join(sorted(changed))}, which may compute something else: use the "
                    f"library's {kind.__name__}"
                )
            return None if changed else kind
        methods = {name for name, value in vars(kind).items() if callable(value)}
        changed |= {name for name in methods - HARMLESS if not name.startswith("__")}
    return None


def module_entries(module: nn.Module, kind: type, name: str) -> list[Entry]:
    """Return the entries of a topology (a network's list of steps) that describe a module.

    ``kind`` is the library's class of the module, and ``name`` the module's name in the network.
    The result is empty if the module does nothing in a trained network, such as dropout.

    Raises
    ------
    ExchangeError
        The module cannot be mapped. The message does not name the module; the caller adds its name.
    """
    library, *packages = kind.__module__.split(".")
    if "ao" in packages:
        raise ExchangeError(
            f"a {kind.__name__} of {library}.ao is quantised, in another way than the device's: "
            "describe the network from before its quantisation"
        )
    convert = MODULES.get((library, kind.__name__))
    if convert is None:
        names = ", ".join(sorted({known for _, known in MODULES}))
        remedy = REMEDIES.get(kind.__name__, f"modules that can be mapped are {names}")
        raise ExchangeError(f"a {kind.__name__} cannot be mapped: {remedy}")
    return convert(module, name)


def check_unchanged(module: nn.Module) -> None:
    """Check that nothing was attached to a module that changes its results.

    Raises
    ------
    ExchangeError
        The module has hooks, or a tensor that is parametrised or has no size yet.
    """
    if hasattr(module, "parametrizations"):
        raise ExchangeError(
            f"its {', '.join(module.parametrizations)} is parametrised: call "  # type: ignore[arg-type]
            "torch.nn.utils.parametrize.remove_parametrizations before the state dict is saved"
        )
    lazy = [
        name for name, value in module._parameters.items() if value is not None and is_lazy(value)
    ]
    if lazy:
        raise ExchangeError(
            f"its {', '.join(lazy)} has no size yet: run the network on a sample once"
        )
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if hooks:
        kinds = {getattr(hook, "__name__", type(hook).__name__) for hook in hooks}
        raise ExchangeError(
            f"it has forward hooks ({', '.join(sorted(kinds))}), which may change its result: "
            "remove them (torch.nn.utils.remove_weight_norm removes those of weight_norm)"
        )


def _require(ok: bool, problem: str) -> None:
    if not ok:
        raise ExchangeError(problem)


def _axes(values: Any, n_axes: int) -> list[int]:
    """Return a module's size, stride or padding as a list with a number for each of its axes.

    ``values`` is one number for all ``n_axes`` axes, or one for each.
    """
    numbers = list(values) if isinstance(values, Sequence) else [values] * n_axes
    return [int(n) for n in numbers]


def _sizes(values: Any, n_axes: int, fill: int) -> list[int]:
    """Return a module's size, stride or padding as [vertical, horizontal].

    A 1-D module works on maps of height 1; ``fill`` is then the vertical number.
    """
    return [fill] * (2 - n_axes) + _axes(values, n_axes)


def _convolution(n_axes: int) -> Callable[[Any, str], list[Entry]]:
    """Return the function that converts convolutions with ``n_axes`` axes to entries of a topology,
    a network's list of steps."""

    def convert(module: Any, name: str) -> list[Entry]:
        _require(
            module.padding_mode == "zeros",
            f"padding_mode={module.padding_mode!r} cannot be mapped: train with 'zeros'",
        )
        padding = module.padding
        if isinstance(padding, str):
            reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            _require(
                padding == "valid" or all(n % 2 == 0 for n in reach),
                "padding 'same' with an even kernel is not symmetric: use an odd one",
            )
            padding = [n // 2 if padding == "same" else 0 for n in reach]
        entry: Entry = {"conv": name, "stride": _sizes(module.stride, n_axes, 1)}
        entry["padding"] = _sizes(padding, n_axes, 0)
        dilation = _sizes(module.dilation, n_axes, 1)
        if module.groups != 1 or dilation != [1, 1]:
            entry |= {"groups": module.groups, "dilation": dilation}
        return [entry]

    return convert


def _norm(module: Any, name: str) -> list[Entry]:
    _require(
        module.running_mean is not None and module.running_var is not None,
        "it has no running statistics, so its result depends on the batch: train with "
        "track_running_stats=True",
    )
    return [{"norm": name, "eps": float(module.eps)}]


def _max_pool(n_axes: int) -> Callable[[Any, str], list[Entry]]:
    """Return the function that converts max pooling with ``n_axes`` axes to entries of a topology,
    a network's list of steps."""

    def convert(module: Any, name: str) -> list[Entry]:
        _require(
            all(d == 1 for d in _axes(module.dilation, n_axes)),
            f"dilation={module.dilation} cannot be mapped: pool neighbouring spikes",
        )
        _require(not module.return_indices, "return_indices cannot be mapped: pool without it")
        return [_pool("max", module, name, n_axes)]

    return convert


def _average_pool(n_axes: int) -> Callable[[Any, str], list[Entry]]:
    """Return the function that converts average pooling with ``n_axes`` axes to entries of a
    topology, a network's list of steps."""

    def convert(module: Any, name: str) -> list[Entry]:
        entry = _pool("average", module, name, n_axes)
        divisor = getattr(module, "divisor_override", None)
        if divisor is not None:
            entry["divisor"] = divisor
        elif any(entry["padding"]):
            _require(
                module.count_include_pad,
                "padding with count_include_pad=False divides by another number at the border: "
                "set count_include_pad=True",
            )
        return [entry]

    return convert


def _pool(kind: str, module: Any, name: str, n_axes: int) -> Entry:
    stride = module.kernel_size if module.stride is None else module.stride
    entry = {"pool": kind, "name": name, "kernel": _sizes(module.kernel_size, n_axes, 1)}
    entry |= {"stride": _sizes(stride, n_axes, 1), "padding": _sizes(module.padding, n_axes, 0)}
    if module.ceil_mode:
        entry["ceil"] = True
    return entry


def _adaptive_pool(kind: str, n_axes: int) -> Callable[[Any, str], list[Entry]]:
    """Return the function that converts adaptive pooling with ``n_axes`` axes to entries of a
    topology, a network's list of steps.

    ``kind`` is ``"max"`` or ``"average"``.
    """

    def convert(module: Any, name: str) -> list[Entry]:
        _require(not getattr(module, "return_indices", False), "return_indices cannot be mapped")
        output = module.output_size
        sizes = list(output) if isinstance(output, Sequence) else [output] * n_axes
        # PyTorch's None, the size of the input, is 0 in a topology.
        return [
            {"pool": kind, "name": name, "output": [1] * (2 - n_axes) + [n or 0 for n in sizes]}
        ]

    return convert


def _flatten(module: Any, name: str) -> list[Entry]:
    _require(
        (module.start_dim, module.end_dim) in ((1, -1), (1, 3), (2, -1), (2, 4)),
        f"start_dim={module.start_dim}, end_dim={module.end_dim} does not flatten a whole map: use "
        "start_dim=1",
    )
    return [{"flatten": True, "name": name}]


def _is_step(function: Any, fires_at_zero: bool) -> bool:
    """Return whether a surrogate function computes spikes of exactly 0 and 1 in the forward pass.

    It must give 1 for positive values and 0 for negative ones. For the value 0 it must give 1 if
    ``fires_at_zero`` is set, and 0 otherwise.
    """
    values = torch.linspace(-2, 2, N_PROBES)  # contains 0
    values = torch.cat([values, torch.tensor([-1e-6, 1e-6])]).repeat(4)
    with torch.no_grad():
        spikes = function(values)
    expected = values >= 0 if fires_at_zero else values > 0
    return bool((spikes == expected.to(spikes.dtype)).all())


def _jelly(kind: str) -> Callable[[Any, str], list[Entry]]:
    """Return the function that converts one class of SpikingJelly's neurons to entries of a
    topology, a network's list of steps.

    ``kind`` is the name of the class in a topology, such as ``"LIF"``.
    """

    def convert(module: Any, name: str) -> list[Entry]:
        _require(
            _is_step(module.surrogate_function, True),
            "its surrogate function does not give spikes of 0 and 1: call "
            "set_spiking_mode(True) of the surrogate, or use one of the library's",
        )
        _require(
            getattr(module, "_neuron_precision", None) is None,
            "its membrane is computed with reduced precision: convert the neuron back",
        )
        rest = 0.0 if module.v_reset is None else float(module.v_reset)
        memories = getattr(module, "_memories_rv", {})
        start = memories.get("v", 0.0)
        _require(
            isinstance(start, int | float) and start == rest,
            f"its membrane starts at {start}: the device's start at the reset value, here {rest:g}",
        )
        threshold = float(module.v_threshold)
        entry: Entry = {"neuron": kind, "name": name, "threshold": threshold}
        entry["reset"] = None if module.v_reset is None else rest
        if kind == "LIF":
            entry["tau"] = float(module.tau)
        if kind != "IF":
            entry["decay_input"] = bool(module.decay_input)
        return [entry]

    return convert


def _snn_leaky(module: Any, name: str) -> list[Entry]:
    """Return a module of snnTorch's class ``Leaky`` as an entry of a topology, a network's list of
    steps.

    Threshold, beta and reset are not in the entry, because the state dict holds them.

    Raises
    ------
    ExchangeError
        The module has a setting that cannot be mapped.
    """
    _require(
        not module.inhibition,
        "inhibition=True lets only one neuron fire; the device's neurons do not inhibit each other",
    )
    _require(
        not module.state_quant,
        "state_quant rounds membranes in another way than the device: train without it",
    )
    _require(
        bool(module.reset_delay) or module.reset_mechanism == "zero",
        "reset_delay=False with reset_mechanism='subtract' cannot be mapped: train with 'zero'",
    )
    _require(
        _is_step(module.spike_grad, False),
        "its spike_grad does not give spikes of 0 and 1: use one of snntorch.surrogate",
    )
    return [{"neuron": name}]


def _vote(module: Any, name: str) -> list[Entry]:
    return [{"vote": int(module.voting_size), "name": name}]


def _scale(module: Any, name: str) -> list[Entry]:
    """Return a scaling as entries of a topology, a network's list of steps.

    SpikingJelly's conversion of trained networks of ReLUs puts them around the neurons.
    """
    axis = getattr(module, "channel_dim", 1)
    _require(module.scale.ndim == 0 or axis == 1, f"channel_dim={axis} is no axis of channels")
    return [{"scale": name}]


def _nothing(module: Any, name: str) -> list[Entry]:
    return []


def _both(**converters: Callable[[Any, str], list[Entry]]) -> dict[tuple[str, str], Any]:
    """Return items of :data:`MODULES` for classes that PyTorch and SpikingJelly both have.

    The arguments are the functions that convert these classes, by the classes' names.
    """
    return {
        (library, name): convert
        for name, convert in converters.items()
        for library in ("torch", "spikingjelly")
    }


MODULES: dict[tuple[str, str], Callable[[Any, str], list[Entry]]] = {
    **_both(
        Conv1d=_convolution(1),
        Conv2d=_convolution(2),
        Linear=lambda module, name: [{"linear": name}],
        BatchNorm1d=_norm,
        BatchNorm2d=_norm,
        MaxPool1d=_max_pool(1),
        MaxPool2d=_max_pool(2),
        AvgPool1d=_average_pool(1),
        AvgPool2d=_average_pool(2),
        AdaptiveAvgPool1d=_adaptive_pool("average", 1),
        AdaptiveAvgPool2d=_adaptive_pool("average", 2),
        AdaptiveMaxPool1d=_adaptive_pool("max", 1),
        AdaptiveMaxPool2d=_adaptive_pool("max", 2),
        Flatten=_flatten,
        Dropout=_nothing,
        Dropout1d=_nothing,
        Dropout2d=_nothing,
        AlphaDropout=_nothing,
        Identity=_nothing,
    ),
    ("spikingjelly", "ThresholdDependentBatchNorm1d"): _norm,
    ("spikingjelly", "ThresholdDependentBatchNorm2d"): _norm,
    ("spikingjelly", "IFNode"): _jelly("IF"),
    ("spikingjelly", "SimpleIFNode"): _jelly("IF"),
    ("spikingjelly", "LIFNode"): _jelly("LIF"),
    ("spikingjelly", "SimpleLIFNode"): _jelly("LIF"),
    ("spikingjelly", "ParametricLIFNode"): _jelly("PLIF"),
    ("spikingjelly", "VotingLayer"): _vote,
    ("spikingjelly", "VoltageScaler"): _scale,
    ("spikingjelly", "ChannelVoltageScaler"): _scale,
    ("snntorch", "Leaky"): _snn_leaky,
}
"""Functions that convert a module of a library's class to entries, by library and class."""

ACTIVATION = "its output is numbers instead of spikes: use spiking neurons"
RECURRENT = "it is recurrent, and the device's networks are not: use feed-forward neurons"
CONVOLUTIONS = ", which the device cannot: use blocks of convolutions"
SYNAPTIC = "its synapses have a state of their own: use neurons with a membrane only"
REMEDIES = {
    **dict.fromkeys(
        ("ReLU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softmax"), ACTIVATION
    ),
    **dict.fromkeys(("LinearRecurrentContainer", "ElementWiseRecurrentContainer"), RECURRENT),
    **dict.fromkeys(
        ("RLeaky", "RSynaptic", "SLSTM", "SConv2dLSTM", "LSTM", "GRU", "RNN"), RECURRENT
    ),
    **dict.fromkeys(("Synaptic", "Alpha", "SynapseFilter"), SYNAPTIC),
    **dict.fromkeys(
        ("QIFNode", "EIFNode", "IzhikevichNode"),
        "its membrane does not change linearly: use IFNode or LIFNode",
    ),
    "WSConv2d": "it scales its weights when it runs: store the scaled weights in a Conv2d",
    "WSLinear": "it scales its weights when it runs: store the scaled weights in a Linear",
    "LayerNorm": "it divides by statistics of its input: use batch-norm",
    "GroupNorm": "it divides by statistics of its input: use batch-norm",
    "InstanceNorm2d": "it divides by statistics of its input: use batch-norm",
    **dict.fromkeys(
        ("ConvTranspose1d", "ConvTranspose2d", "Upsample", "UpsamplingNearest2d", "PixelShuffle"),
        "layers of the device do not enlarge maps: a Linear layer can compute the same, or keep "
        "the size with convolutions of stride 1",
    ),
    "Unflatten": "a Linear layer makes a map of one position: use Linear layers behind it",
    "MultiheadAttention": f"it multiplies activations by each other{CONVOLUTIONS}",
    **dict.fromkeys(
        ("SpikingSelfAttention", "SpikeDrivenSelfAttention", "QKAttention"),
        f"it multiplies spikes by each other{CONVOLUTIONS}",
    ),
    **dict.fromkeys(
        ("MultiDimensionalAttention", "TemporalWiseAttention"),
        "it multiplies maps by factors computed from them, which the device cannot: leave it out "
        "and train again",
    ),
    **dict.fromkeys(
        (
            "TopLevelTracedModule",
            "TopLevelTracedModuleImpl",
            "TracedModule",
            "RecursiveScriptModule",
        ),
        "its code is compiled: describe the network that it was made from",
    ),
    "OTTTSequential": "it also passes traces of spikes on, for training: build a Sequential of the "
    "same modules, whose state dict has the same names",
}
"""Text that says what to use instead of a class that cannot be mapped, by the class's name."""
