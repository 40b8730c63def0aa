"""Symbolic tracer for networks of spiking neurons, built on :class:`torch.fx.Tracer`.

It runs a network's own forward methods with symbols instead of tensors, and records every module
of a library and every operation that is applied to them. Loops over timesteps are unrolled by that.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from sw.exchange.graph import ExchangeError
from sw.exchange.modules import check_unchanged, library_class

CONTAINERS = ("Sequential", "MultiStepContainer", "SeqToANNContainer", "StepModeContainer")
"""Library classes that run their children one after another."""


class _Proxy(fx.Proxy):
    """Symbol for a tensor, which tells ``x += y``, a change in place, from ``x = x + y``."""

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


class NetworkTracer(fx.Tracer):
    """Tracer that goes into the user's modules and known containers, and no further.

    ``kinds`` holds the library's class of every other module, by its name in the traced module.
    """

    def __init__(self, prefix: str):
        super().__init__()
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
        """Return the name of a module in the whole network."""
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
            loops = kind == "MultiStepContainer"
            self.multi_step += loops
            x = args[0]
            for child in m.children():
                if kind == "SeqToANNContainer" and hasattr(child, "v_threshold"):
                    self.problems[self.full_name(self.path_of_module(child))] = (
                        "a neuron in a SeqToANNContainer takes timesteps for samples: take it out "
                        "of the container"
                    )
                x = child(x)
            self.multi_step -= loops
            return x
        return super().call_module(m, forward, args, kwargs)

    def check(self, module: nn.Module, name: str) -> None:
        try:
            check_unchanged(module)
        except ExchangeError as error:
            self.problems[self.full_name(name) or "the network"] = str(error)


def _kind(module: nn.Module) -> str | None:
    try:
        kind = library_class(module)
    except ExchangeError:
        return None
    return None if kind is None else kind.__name__
