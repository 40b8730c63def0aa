"""Symbolic tracer for networks of spiking neurons, built on :class:`torch.fx.Tracer`.

It runs a network's own forward methods with symbols instead of tensors. It records every call of a
library's module, and every operation on the symbols. Loops over timesteps run as usual, so that
each pass is recorded.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn

from sw.exchange.graph import ExchangeError
from sw.exchange.modules import check_unchanged, library_class

CONTAINERS = ("Sequential", "MultiStepContainer", "SeqToANNContainer", "StepModeContainer")
"""Library classes that run their children one after another."""


class _Proxy(fx.Proxy):
    """Symbol for a tensor that records changes in place, such as ``x += y``, as operations of their
    own.

    torch's symbol records ``x += y`` in the same way as ``x + y``. Unlike torch's, this symbol also
    allows loops such as ``for t in range(x.size(0))``. If it stands for the length of the first
    axis of the input, or of a stack, it can be used as a number: the number of timesteps. The
    input's number of axes, if it is known, is a number, too, as in ``if x.dim() == 4``.
    """

    def __getattr__(self, name: str) -> Any:
        n_axes = self._n_axes(self.node)
        if n_axes is not None and name in ("ndim", "dim", "ndimension"):
            return n_axes if name == "ndim" else lambda: n_axes
        if name == "shape":
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name)

    def __len__(self) -> int:
        of_shape = self.node.target in (getattr, "size")
        of_shape = of_shape and self.node.args[1:] in ((), ("shape",))
        n_axes = self._n_axes(self.node.args[0]) if of_shape else None
        return super().__len__() if n_axes is None else n_axes

    def _n_axes(self, node: Any) -> int | None:
        """Return the number of axes of a node's result; None if it is not known."""
        tracer = self.tracer
        is_input = isinstance(node, fx.Node) and node.op == "placeholder"
        return tracer.n_axes if is_input and isinstance(tracer, NetworkTracer) else None

    def __index__(self) -> int:
        node, tracer = self.node, self.tracer
        source: tuple[Any, ...] = node.args
        first = node.target == "size" and source[1:] == (0,)  # x.size(0)
        if node.target is operator.getitem:  # x.shape[0]
            shape, *rest = node.args
            if isinstance(shape, fx.Node) and shape.target in (getattr, "size"):
                source = shape.args
                first = source[1:] in ((), ("shape",)) and rest == [0]
        if first and _is_sequence(source[0]) and isinstance(tracer, NetworkTracer):
            return tracer.timesteps
        raise TypeError("a value that depends on the input is used as a number")

    def _in_place(self, operation: Callable[..., Any], other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)


def _is_sequence(node: Any) -> bool:
    """Return whether the result of a node has a first axis of timesteps, if it has one at all.

    This goes for the network's input and for stacks along the first axis.
    """
    if not isinstance(node, fx.Node):
        return False
    stacks = node.target is torch.stack and [*node.args[1:], *node.kwargs.values()] in ([], [0])
    return node.op == "placeholder" or stacks


class NetworkTracer(fx.Tracer):
    """Tracer that records all operations inside the user's modules and the libraries'
    containers.

    Containers run other modules one after another (:data:`CONTAINERS`). Any other module of a
    library is recorded as one call. ``kinds`` holds the library's class of each such module, by its
    name in the traced module, and ``problems`` the reasons why modules cannot be mapped, by full
    name. ``n_axes`` is the number of axes of the input, None if it is not known.
    """

    def __init__(self, prefix: str, timesteps: int, n_axes: int | None = None):
        super().__init__()
        self.timesteps = timesteps
        self.n_axes = n_axes
        self.prefix = prefix
        self.kinds: dict[str, type | None] = {}
        self.problems: dict[str, str] = {}
        self.multi_step = 0
        """Number of containers around the current module that run their children in a loop."""
        self.modes: dict[str, str] = {}
        """SpikingJelly's step mode of every neuron, by name of the neuron's module."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def full_name(self, name: str) -> str:
        """Return a module's name in the whole network, given its name in the traced module."""
        return ".".join(filter(None, (self.prefix, name)))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        name = self.full_name(module_qualified_name)
        try:
            kind = library_class(m)
        except ExchangeError as error:
            self.problems[name] = str(error)
            kind = type(m)
        if kind is not None and kind.__name__ in CONTAINERS:
            return False
        self.kinds[module_qualified_name] = kind
        return kind is not None

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        name = self.path_of_module(m)
        self.check(m, name)
        kind = None if self.full_name(name) in self.problems else _kind(m)
        if hasattr(m, "step_mode") and hasattr(m, "v_threshold"):
            mode = "m" if self.multi_step else str(m.step_mode)  # type: ignore[union-attr]
            self.modes[self.full_name(name)] = mode
        if kind in CONTAINERS and kind != "Sequential" and len(args) == 1:
            return self.in_sequence(args[0], m.children(), kind == "MultiStepContainer", kind)
        return super().call_module(m, forward, args, kwargs)

    def in_sequence(self, x: Any, modules: Iterable[Any], loops: bool, where: str) -> Any:
        """Run modules one after another on ``x``, which has an axis of timesteps; return their
        output.

        ``x`` and the output are symbols. With ``loops``, the modules run timestep by timestep.
        Without it, they run once, on all timesteps as if these were samples of a batch. Neurons
        cannot run in this way, and are added to ``problems``. ``where`` names the container or
        function that runs the modules.
        """
        self.multi_step += loops
        for module in modules:
            if not loops and any(hasattr(part, "v_threshold") for part in _parts(module)):
                name = self.path_of_module(module)
                self.problems[self.full_name(name)] = (
                    f"a neuron in a {where} takes timesteps for samples: take it out"
                )
            x = module(x)
        self.multi_step -= loops
        return x

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace a module, and return the graph of its operations.

        SpikingJelly's functions that apply modules to all timesteps are treated like containers.
        ``concrete_args`` are values for arguments of the forward method, by name; these arguments
        do not become symbols.
        """
        functional = sys.modules.get("spikingjelly.activation_based.functional")
        names = ("multi_step_forward", "seq_to_ann_forward")
        own = {name: getattr(functional, name) for name in names if hasattr(functional, name)}

        def replacement(name: str) -> Callable[[Any, Any], Any]:
            def run(x_seq: Any, modules: Any) -> Any:
                several = isinstance(modules, tuple | list)
                parts = modules if several else (modules,)
                return self.in_sequence(x_seq, parts, name == names[0], name)

            return run

        try:
            for name in own:
                setattr(functional, name, replacement(name))
            return super().trace(root, concrete_args)
        finally:
            for name, function in own.items():
                setattr(functional, name, function)

    def check(self, module: nn.Module, name: str) -> None:
        try:
            check_unchanged(module)
        except ExchangeError as error:
            self.problems[self.full_name(name) or "the network"] = str(error)


def _parts(module: Any) -> list[nn.Module]:
    """Return a module and all modules in it; an empty list for a function."""
    return list(module.modules()) if isinstance(module, nn.Module) else []


def _kind(module: nn.Module) -> str | None:
    try:
        kind = library_class(module)
    except ExchangeError:
        return None
    return None if kind is None else kind.__name__
