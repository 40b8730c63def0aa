"""Conversion of operations in a network's forward method to the steps of a topology.

Such operations are, for example, ``x.flatten(1)`` and ``a * (1 - b)``. An operation is converted
only in three cases: it keeps spikes and sums as they are, it becomes an entry of a topology
(:mod:`sw.exchange.topology`), or it is a part of a gate. Every other operation on spikes or sums
raises an error, whatever its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sw.exchange.graph import ExchangeError
from sw.exchange.modules import Entry, module_entries
from sw.exchange.steps import OTHER, Ref, State, Steps, flat

SHAPES = ("getattr", "size", "dim", "eq", "ne", "_assert", "_assert_is_none")
"""Operations whose result is not a map but, for example, a shape. An operation that changes maps
must not depend on such a result."""
UNCHANGED = ("to", "float", "double", "contiguous", "clone", "detach", "detach_", "squeeze")
"""Operations that keep the values of maps and membranes."""
EXACT_TYPES = (torch.float32, torch.float64)
"""Types to which maps may be converted, because they hold the values of maps exactly."""
SUMS = ("add", "iadd", "add_")
DIFFERENCES = ("sub", "isub", "sub_", "rsub", "__rsub__")
PRODUCTS = ("mul", "imul", "mul_", "logical_and", "and_")
IN_PLACE = ("iadd", "isub", "imul", "add_", "sub_", "mul_")
"""Operations that change the tensor that is their first argument."""
POOLS: dict[str, type[nn.Module]] = {
    "avg_pool1d": nn.AvgPool1d,
    "avg_pool2d": nn.AvgPool2d,
    "max_pool1d": nn.MaxPool1d,
    "max_pool2d": nn.MaxPool2d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
}
"""Torch module class that computes the same as a pooling function, by the function's name."""
N_POOL_ARGUMENTS = 4
"""Number of positional arguments that functional poolings and their modules have in common."""


@dataclass
class Operations:
    """Translator of a traced network's tensor operations into the steps of a topology (``steps``).

    ``sequences`` says that maps have a first axis of timesteps, as in SpikingJelly's step mode "m".
    """

    steps: Steps
    timesteps: int
    sequences: bool
    frames: list[int] = field(default_factory=list)
    """Numbers of the timesteps whose frames the forward method has selected from its input, in the
    order of selection."""
    repeats: bool = False
    """Whether the forward method repeats its input for every timestep."""

    def apply(
        self, node: fx.Node, arguments: list[Any], options: dict[str, Any], where: str
    ) -> Any:
        """Translate an operation of a traced network into a step, and return the symbol for its
        result.

        The symbol is a :class:`~sw.exchange.steps.Ref` for spikes or sums, a
        :class:`~sw.exchange.steps.State` for membranes, :data:`~sw.exchange.steps.OTHER` for values
        that cannot become a map, or a constant.

        Parameters
        ----------
        node : the operation in the traced graph.
        arguments, options : symbols for its positional and keyword arguments.
        where : name of the module whose forward method applies it.

        Raises
        ------
        ExchangeError
            The operation may change spikes or sums in a way that the device cannot.
        """
        name = operation_name(node)
        given = flat([*arguments, *options.values()])
        maps = [value for value in given if isinstance(value, Ref)]
        first, rest = (arguments[0], arguments[1:]) if arguments else (None, [])
        if name == "getitem":
            return self.item(first, rest[0])
        if name in SHAPES:
            return OTHER
        if name in ("zeros", "zeros_like", "new_zeros"):
            return State(None)
        if not maps:
            return _without_maps(name, first)
        if name == "stack":
            return self.stacked(maps)
        if name in SUMS + DIFFERENCES + PRODUCTS:
            return self.arithmetic(name, node, arguments, options, where)
        if not isinstance(first, Ref):
            raise ExchangeError("it cannot be mapped")
        if name in UNCHANGED:
            return self.unchanged(first, given)
        if name in ("truediv", "div", "itruediv") and first.total and not options:
            return self.scaled(first, rest[0], divides=True)
        if name in ("mean", "sum"):
            return self.reduced(name, first, rest, options, where)
        if name == "dropout":
            if options.get("training", rest[1] if rest[1:] else True):
                raise ExchangeError("it drops out at all times: pass training=self.training")
            return first
        if first.negated or (first.total and name != "flatten"):
            raise ExchangeError("it cannot be mapped")
        if first.index == 0 and self.sequences and _swaps_samples(name, rest, options):
            self.frames.extend(range(self.timesteps))
            return first
        if first.index == 0 and name in ("unsqueeze", "repeat", "expand"):
            return self.repeated(name, rest, options)
        if name in ("flatten", "view", "reshape"):
            _check_flattens(name, rest, options, {"": (1, 2), "stack": (2,)}.get(first.total, (1,)))
            return self.steps.plain(first, where, [{"flatten": True}])
        if name in POOLS and len(rest) <= N_POOL_ARGUMENTS:
            module = POOLS[name](*rest, **{k: v for k, v in options.items() if k != "input"})
            entries = module_entries(module, POOLS[name], where)
            return self.steps.plain(first, where, _unnamed(entries))
        if first.index == 0:
            raise ExchangeError(
                "it changes the input: do that before the network, and say with pixel_max which "
                "value a pixel of 255 has"
            )
        raise ExchangeError("it cannot be mapped: use modules and gates that can")

    def item(self, value: Any, index: Any) -> Any:
        """Translate ``value[index]``, and return the symbol for its result.

        Symbols stand for the values in a traced network (:mod:`sw.exchange.steps`).

        ``value`` may be a tuple, or a stack of maps, one for every timestep. It may also be the
        network's input, of which ``index`` selects the frame of one timestep. The timestep is then
        recorded in ``frames``, since the network must read the frames in order.

        Raises
        ------
        ExchangeError
            ``index`` selects a part of a map, for which the device has no operation.
        """
        if isinstance(value, tuple | list):
            return value[index]
        if value is OTHER or isinstance(value, State):
            return OTHER
        if isinstance(value, Ref) and value.index == 0:
            numbers: list[Any] = list(index) if isinstance(index, tuple) else [index]
            whole = all(part == slice(None) for part in numbers[:-1])
            if len(numbers) <= 2 and whole and type(numbers[-1]) is int:
                self.frames.append(numbers[-1])
                return value
        if isinstance(value, Ref) and value.total == "stack" and type(index) is int:
            return Ref(value.index, times=frozenset([index % self.timesteps]))
        raise ExchangeError("a part of a map cannot be taken: split channels by weights of 0")

    def stacked(self, maps: Sequence[Ref]) -> Ref:
        if len(set(maps)) != 1 or maps[0].negated:
            raise ExchangeError(
                "different maps cannot be stacked: stack the last layer's map of every timestep"
            )
        times = [next(iter(part.times), n) for n, part in enumerate(maps)]
        if maps[0].times and times != list(range(self.timesteps)):
            raise ExchangeError(
                f"it stacks the timesteps {', '.join(map(str, times[:8]))} instead of all "
                f"{self.timesteps}, in their order"
            )
        return Ref(maps[0].index, total="stack", times=frozenset().union(*(x.times for x in maps)))

    def unchanged(self, value: Ref, given: Sequence[Any]) -> Ref:
        types = [x for x in given if isinstance(x, torch.dtype)]
        if any(kind not in EXACT_TYPES for kind in types):
            raise ExchangeError(f"a conversion to {types[0]} rounds: use float32")
        return value

    def arithmetic(
        self,
        name: str,
        node: fx.Node,
        arguments: list[Any],
        options: dict[str, Any],
        where: str,
    ) -> Ref:
        """Translate a sum, difference or product of two values; return a reference to its result.

        The operation becomes a gate between spikes, a part of a gate, or a total over timesteps.

        ``name`` is the operation's name; see :meth:`apply` for the other parameters.

        Raises
        ------
        ExchangeError
            The operation is neither a gate, nor a part of a gate such as ``1 - spikes``, nor a sum
            or mean over timesteps. Or it changes a map in place, and later operations use the map.
        """
        if options or len(arguments) != 2:
            raise ExchangeError(f"its arguments {', '.join(options)} cannot be mapped")
        a, b = arguments
        if name in DIFFERENCES:
            one, x = (b, a) if "rsub" in name else (a, b)
            if isinstance(x, Ref) and type(one) in (int, float) and one == 1 and not x.total:
                return replace(x, negated=not x.negated)
            raise ExchangeError("only 1 - spikes can be mapped, as a part of a gate")
        result = self.sum(node, a, b, where) if name in SUMS else self.product(a, b, where)
        changed = node.args[0]
        if name not in IN_PLACE or result.total or not isinstance(changed, fx.Node):
            return result
        if any(later in changed.users for later in _after(node)):
            raise ExchangeError("it changes a map in place that is used again later: copy it")
        return result

    def sum(self, node: fx.Node, a: Any, b: Any, where: str) -> Ref:
        """Translate the sum ``a + b`` in a forward method, and return a reference to its result.

        If the operation adds up one map over timesteps, as in a loop over time, the result is
        marked as such a total. Any other sum of two maps is an ``ADD`` gate.

        Raises
        ------
        ExchangeError
            A number is added to a map, which only a bias can do.
        """
        for total, x in ((a, b), (b, a)):
            empty = (
                (isinstance(total, Tensor) and not total.any())
                or (type(total) in (int, float) and total == 0)
                or total == State(None)
            )
            if (
                isinstance(x, Ref)
                and not x.negated
                and (empty or total == Ref(x.index, total="sum"))
            ):
                return Ref(x.index, total="sum", times=_disjoint(total, x))
        if not (isinstance(a, Ref) and isinstance(b, Ref)):
            raise ExchangeError("a number cannot be added to a map: use a bias")
        if a == b and node.args[0] is not node.args[1]:
            return Ref(a.index, total="sum", times=_disjoint(a, b))  # of two timesteps
        return self.steps.gate("ADD", a, b, where)

    def scaled(self, value: Ref, by: Any, *, divides: bool = False) -> Ref:
        """Return a reference to a sum or mean over timesteps that is multiplied by a number.

        Logits may be multiplied by any positive number, since their order remains. ``divides`` says
        that the operation divides by the number. A size of a tensor is a positive number as well.

        Raises
        ------
        ExchangeError
            The number is not positive, or its value is not known.
        """
        if isinstance(by, Tensor) and by.numel() == 1 and not by.is_meta:
            by = float(by)
        if by is OTHER and divides:
            return replace(value, total="mean" if value.total == "mean" else "sum")
        if type(by) not in (int, float) or not by > 0:
            raise ExchangeError("logits can only be multiplied by a positive number")
        is_mean = math.isclose(1 / by if divides else by, 1 / self.timesteps)
        return replace(value, total="mean" if value.total == "sum" and is_mean else "sum")

    def product(self, a: Any, b: Any, where: str) -> Ref:
        if not (isinstance(a, Ref) and isinstance(b, Ref)):
            for value, by in ((a, b), (b, a)):
                if isinstance(value, Ref) and value.total:
                    return self.scaled(value, by)
            raise ExchangeError(
                "a map cannot be multiplied by a number: scale the weights after it"
            )
        if a.negated and b.negated:  # neither a nor b
            plain = replace(a, negated=False), replace(b, negated=False)
            return replace(self.steps.gate("OR", *plain, where), negated=True)
        if a.negated:
            a, b = b, a
        if b.negated:  # a and not b; the negated map is the branch
            return self.steps.gate("IAND", replace(b, negated=False), a, where)
        return self.steps.gate("AND", b, a, where)

    def reduced(
        self, name: str, first: Ref, rest: list[Any], options: dict[str, Any], where: str
    ) -> Ref:
        """Translate a mean or sum along axes of ``first``, and return a reference to its result.

        A mean over positions becomes an average pooling. A mean or sum over timesteps adds no step:
        the result is only marked as a total, because the device sums logits over timesteps anyway.

        Raises
        ------
        ExchangeError
            The axes are neither the axis of timesteps nor the axes of positions.
        """
        axes = options.get("dim", rest[0] if rest else None)
        axes = axes if isinstance(axes, list | tuple) else [axes]
        if list(axes) == [0] and not first.negated:
            if first.total != "stack" and (first.total or not self.sequences):
                raise ExchangeError("axis 0 is that of samples, not of timesteps")
            return replace(first, total=name)
        positions = ["3", "4"] if self.sequences or first.total == "stack" else ["2", "3"]
        if sorted(map(str, axes)) in (positions, ["-1", "-2"]) and name == "mean":
            return self.steps.plain(first, where, [{"pool": "average", "output": [1, 1]}])
        raise ExchangeError(f"axes {axes} cannot be mapped: only those of positions or timesteps")

    def repeated(self, name: str, rest: list[Any], options: dict[str, Any]) -> Ref:
        """Check that an operation repeats the image for every timestep, and return the image.

        Raises
        ------
        ExchangeError
            The operation does anything else, such as repeating the image another number of times.
        """
        numbers = [n for n in flat(rest) if isinstance(n, int)] if name != "unsqueeze" else []
        if name == "unsqueeze":
            if [*rest, *options.values()] != [0]:
                raise ExchangeError("only a first axis, of timesteps, can be added to the image")
        elif numbers and (
            numbers[0] != self.timesteps or any(n not in (1, -1) for n in numbers[1:])
        ):
            raise ExchangeError(
                f"the image is repeated {numbers[0]} times instead of once for each of the "
                f"{self.timesteps} timesteps"
            )
        self.repeats = True
        return Ref(0)


def _disjoint(total: Any, x: Ref) -> frozenset[int]:
    """Return the timesteps of a sum over timesteps and of one more map, ``x``.

    Raises
    ------
    ExchangeError
        The sum has that timestep already.
    """
    before = total.times if isinstance(total, Ref) else frozenset()
    if before & x.times:
        raise ExchangeError("it adds the map of a timestep twice: add every timestep once")
    return before | x.times


def _swaps_samples(name: str, rest: list[Any], options: dict[str, Any]) -> bool:
    """Return whether an operation swaps the first two axes and keeps the others in their order.

    For an input of frames, these are the axes of samples and timesteps.
    """
    axes = flat([*rest, *options.values()])
    if name in ("transpose", "swapaxes", "swapdims"):
        return axes in ([0, 1], [1, 0])
    return name == "permute" and axes == [1, 0, *range(2, len(axes))]


def _check_flattens(
    name: str, rest: list[Any], options: dict[str, Any], starts: tuple[int, ...]
) -> None:
    """Check that an operation flattens whole maps, but not the axes of samples and timesteps.

    ``starts`` are the numbers that the axis of channels may have.

    Raises
    ------
    ExchangeError
        The operation flattens other axes, so that it cannot be mapped.
    """
    sizes = flat(rest)
    if name == "flatten":
        start = options.get("start_dim", sizes[0] if sizes else 0)
        end = options.get("end_dim", sizes[1] if sizes[1:] else -1)
        ok = start in starts and end in (-1, start + 2)
    else:
        ok = len(sizes) in (2, 3) and isinstance(sizes[-1], int) and not options
        ok &= sizes[0] is OTHER or (sizes[0] == -1 and len(sizes) == 2)
    if not ok:
        raise ExchangeError("it does not flatten a whole map: use torch.flatten(x, 1)")


def operation_name(node: fx.Node) -> str:
    """Return the name of the operation of a node in a traced graph, such as ``"flatten"``."""
    if node.target in (F.max_pool2d, torch.max_pool2d):
        return "max_pool2d"
    if isinstance(node.target, str):
        return node.target
    return str(getattr(node.target, "__name__", node.target))


def _after(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that come after ``node`` in its graph, and so run later."""
    later = node.next
    while later.op != "root":
        yield later
        later = later.next


def _without_maps(name: str, first: Any) -> Any:
    """Return the symbol for the result of an operation that has no map among its arguments.

    Membranes stay membranes if the operation keeps their values. Everything else is
    :data:`~sw.exchange.steps.OTHER`.
    """
    return first if isinstance(first, State) and name in UNCHANGED else OTHER


def _unnamed(entries: list[Entry]) -> list[Entry]:
    return [{k: v for k, v in entry.items() if k != "name"} for entry in entries]
