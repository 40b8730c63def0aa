"""Order in which a PyTorch network runs its modules, from a symbolic trace of its forward methods.

:class:`torch.fx.Tracer` runs a network's own forward methods with symbols instead of tensors, and
records every module of a library and every operation that is applied to them. Loops over timesteps
are unrolled by that; a module that is called again with the same input is the same step at the next
timestep. Whatever is not known to keep the result is reported as a problem, by its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F

from sw.exchange.graph import ExchangeError, report_problems
from sw.exchange.modules import Entry, check_unchanged, library_class, module_entries

CONTAINERS = ("Sequential", "MultiStepContainer", "SeqToANNContainer", "StepModeContainer")
"""Library classes that run their children one after another."""


@dataclass(frozen=True)
class Ref:
    """The spikes or sums that a step of the network computes; ``index`` is that of its _Step."""

    index: int
    negated: bool = False
    """Whether the value is 1 minus that of the step."""
    total: bool = False
    """Whether the value is summed over timesteps."""


@dataclass(frozen=True)
class State:
    """Membranes of the neurons ``name``; those with which the network starts if that is None."""

    name: str | None


OTHER = object()
"""A value that cannot change what the network computes, such as a shape or a dtype."""


@dataclass(frozen=True, eq=False)
class _Step:
    entries: list[Entry]
    sources: tuple[int, ...]
    gate: str | None = None
    name: str = ""


@dataclass
class Trace:
    """The steps of a traced network, and what is wrong with it."""

    entries: list[Entry]
    """The network's entries, in the order in which they run."""
    problems: dict[str, str]
    """Reasons why parts cannot be mapped, by name of the module."""
    frameworks: dict[str, str]
    """Library that defines each neuron, by name of the neuron's module."""


def trace(root: nn.Module, prefix: str, timesteps: int) -> Trace:
    """Trace a module and return its entries and problems.

    Parameters
    ----------
    prefix : name of ``root`` in the network; empty for the network itself.
    timesteps : number of timesteps; loops in a forward method must run as many.

    Raises
    ------
    ExchangeError
        The forward method cannot be traced, for example because it depends on values of tensors.
    """
    tracer = _Tracer(prefix)
    if tracer.is_leaf_module(root, ""):
        reader = _Reader(tracer, timesteps)
        result = reader.leaf(root, "", Ref(0), None)
        return reader.finish([result])
    training = {module: module.training for module in root.modules()}
    root.eval()
    try:
        graph = tracer.trace(root, _defaults(root))
    except Exception as error:  # a forward method can raise anything
        problems = _unmapped(root, prefix)
        report_problems(problems, "the network")
        children = ", ".join(name for name, _ in root.named_children()) or "no modules"
        raise ExchangeError(
            f"{prefix or 'the network'} ({type(root).__name__}): the order in which its forward "
            f"method runs its modules cannot be found ({error}): give order=, the names of the "
            f"modules in the order in which they run; it has {children}"
        ) from error
    finally:
        for module, was in training.items():
            module.training = was
    return _Reader(tracer, timesteps).run(graph)


def _unmapped(root: nn.Module, prefix: str) -> dict[str, str]:
    """Return the reasons why modules in a network cannot be mapped, wherever they run, by name."""
    problems: dict[str, str] = {}
    leaves: list[str] = []
    for name, module in root.named_modules():
        if not name or any(name.startswith(f"{leaf}.") for leaf in leaves):
            continue
        full = ".".join(filter(None, (prefix, name)))
        try:
            kind = library_class(module)
            if kind is None or kind.__name__ in CONTAINERS or isinstance(module, nn.ModuleList):
                continue
            leaves.append(name)
            module_entries(module, kind, full)
        except ExchangeError as error:
            problems[full] = str(error)
    return problems


def _defaults(root: nn.Module) -> dict[str, Any] | None:
    """Return the default values of the arguments of a module's forward method after the first."""
    parameters = list(inspect.signature(root.forward).parameters.values())[1:]
    found = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return found or None


class _Tracer(fx.Tracer):
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
        kind = None if name in self.problems else _kind(m)
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


@dataclass
class _Reader:
    """Conversion of a traced graph to entries.

    Equal steps are kept once: the same module with the same input is the same step, at whichever
    timestep the network's loop calls it.
    """

    tracer: _Tracer
    timesteps: int
    steps: list[_Step] = field(default_factory=lambda: [_Step([], ())])
    known: dict[Any, int] = field(default_factory=dict)
    """Index of every step by what identifies it."""
    calls: dict[int, int] = field(default_factory=dict)
    """Number of calls of the neurons of every step, by the step's index."""
    neurons: dict[str, int] = field(default_factory=dict)
    """Index of the step of every neuron, by name of the neuron's module."""
    frameworks: dict[str, str] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def run(self, graph: fx.Graph) -> Trace:
        self.tracer.check(self.tracer.root, "")
        outputs: list[Any] = []
        first = True
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = Ref(0) if first else State(None)
                first = False
            elif node.op == "output":
                outputs = _flat(self.resolved(node.args))
            else:
                self.values[node] = self.step(node)
        return self.finish(outputs)

    def resolved(self, argument: Any) -> Any:
        """Return an argument of a node with all nodes in it replaced by their values."""
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, tuple | list):
            return type(argument)(self.resolved(part) for part in argument)
        return argument

    def add(self, key: Any, step: _Step) -> Ref:
        """Return the reference of a step, which is added unless it is known."""
        if key not in self.known:
            self.known[key] = len(self.steps)
            self.steps.append(step)
        return Ref(self.known[key])

    def plain(self, source: Ref, name: str, entries: list[Entry]) -> Ref:
        """Return the reference of a step that applies ``entries`` to the value of ``source``."""
        key = ("entries", repr(entries), source.index, name)
        return self.add(key, _Step(entries, (source.index,), name=name))

    def step(self, node: fx.Node) -> Any:
        """Return the value of a node, and note a problem if it cannot be mapped."""
        where = self.place(node)
        if node.op == "get_attr":
            tensor: Any = self.tracer.root
            for part in str(node.target).split("."):
                tensor = getattr(tensor, part)
            return tensor
        arguments = [self.resolved(argument) for argument in node.args]
        options = {key: self.resolved(value) for key, value in node.kwargs.items()}
        if node.op == "call_module":
            module = self.tracer.root.get_submodule(str(node.target))
            given = [*arguments, *options.values()]
            if not given or not _is_map(given[0]):
                self.problems[self.tracer.full_name(str(node.target))] = (
                    "its input is no map of spikes or sums"
                )
                return OTHER
            return self.leaf(module, str(node.target), given[0], given[1] if given[1:] else None)
        name = node.target if isinstance(node.target, str) else node.target.__name__  # type: ignore[union-attr]
        name = {"boolean_dispatch": "pooling", "fn": "pooling"}.get(str(name), str(name))
        try:
            return self.operation(node, name.strip("_"), arguments, options, where)
        except ExchangeError as error:
            self.problems[f"{where or 'the network'}, operation {name}"] = str(error)
            return next((a for a in _flat(arguments) if isinstance(a, Ref)), OTHER)

    def place(self, node: fx.Node) -> str:
        """Return the name of the module whose forward method a node belongs to."""
        stack = node.meta.get("nn_module_stack") or {}
        names = [self.tracer.full_name(name) for name in stack]
        return names[-1] if names else self.tracer.prefix

    # -- modules

    def leaf(self, module: nn.Module, target: str, source: Ref, state: Any) -> Any:
        """Return the value of a library's module that is applied to ``source``.

        ``state`` is the second argument of the call, the membranes of snnTorch's neurons.
        """
        name = self.tracer.full_name(target)
        kind = self.tracer.kinds.get(target)
        try:
            check_unchanged(module)
            if source.total or source.negated:
                raise ExchangeError("its input is no map of spikes or sums, but computed from one")
            if kind is None or name in self.tracer.problems:
                return source
            entries = module_entries(module, kind, name)
        except ExchangeError as error:
            self.problems[name] = str(error)
            return source
        if not entries:
            return source
        result = self.plain(source, name, entries)
        if "neuron" not in entries[0]:
            return result
        self.frameworks[name] = kind.__module__.partition(".")[0]
        if self.neurons.setdefault(name, result.index) != result.index:
            self.problems[name] = (
                "it is used at two places of the network, which share its membranes: use a neuron "
                "of its own at each"
            )
        self.calls[result.index] = self.calls.get(result.index, 0) + 1
        if self.frameworks[name] != "snntorch":
            return result
        self.check_state(name, self.calls[result.index], state)
        returns_state = module.output or not module.init_hidden
        return (result, State(name)) if returns_state else result

    def check_state(self, name: str, n_calls: int, state: Any) -> None:
        """Note a problem unless the membranes given to a neuron are those that it left."""
        if isinstance(state, Tensor):
            starts = not bool(state.any())
        else:
            starts = isinstance(state, State) and state.name is None
        goes_on = state is None or (isinstance(state, State) and state.name == name)
        if not (goes_on or (starts and n_calls == 1)):
            self.problems[name] = (
                "its membranes are set by the forward method: pass on those that it returned, and "
                "0 at first"
            )

    # -- operations

    def operation(
        self,
        node: fx.Node,
        name: str,
        arguments: list[Any],
        options: dict[str, Any],
        where: str,
    ) -> Any:
        """Return the value of an operation; raise :class:`ExchangeError` if it cannot be mapped."""
        maps = [a for a in _flat([*arguments, *options.values()]) if _is_map(a)]
        first = arguments[0] if arguments else None
        rest = arguments[1:]
        if name == "getitem":
            return self.item(first, arguments[1])
        if not maps or name in ("getattr", "size", "dim", "eq", "assert", "assert_is_none"):
            states = [a for a in _flat(arguments) if isinstance(a, State)]
            return states[0] if states else OTHER
        if name in ("to", "float", "double", "contiguous", "clone", "detach", "type", "squeeze"):
            return first
        if name == "stack":
            return self.same(maps)
        if name in ("add", "iadd"):
            return self.sum(node, *arguments[:2], where=where)
        if name in ("sub", "isub", "rsub"):
            one, x = (first, rest[0]) if name != "rsub" else (rest[0], first)
            if isinstance(x, Ref) and type(one) in (int, float) and one == 1 and not x.total:
                return Ref(x.index, not x.negated)
            raise ExchangeError("only 1 - spikes can be mapped, as a part of a gate")
        if name in ("mul", "imul", "logical_and", "and"):
            return self.product(first, rest[0], where)
        if name in ("truediv", "div") and isinstance(first, Ref) and first.total:
            return first
        if name in ("mean", "sum"):
            return self.reduced(name, first, rest, options, where)
        if name in ("dropout", "dropout2d", "dropout1d"):
            training = options.get("training", rest[1] if rest[1:] else name != "dropout")
            if training:
                raise ExchangeError("it drops out at all times: pass training=self.training")
            return first
        if first is None or not _is_map(first) or first.total or first.negated:
            raise ExchangeError("it cannot be mapped")
        if first.index == 0 and name in ("unsqueeze", "repeat", "expand", "new_empty"):
            return self.repeated(name, rest, options)
        if name in ("flatten", "view", "reshape"):
            self.check_flattens(name, rest, options)
            return self.plain(first, where, [{"flatten": True}])
        pools = {
            "avg_pool2d": nn.AvgPool2d,
            "max_pool2d": nn.MaxPool2d,
            "max_pool2d_with_indices": nn.MaxPool2d,
            "avg_pool1d": nn.AvgPool1d,
            "max_pool1d": nn.MaxPool1d,
            "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
            "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
        }
        if node.target is F.max_pool2d:
            name = "max_pool2d"
        if name in pools and len(rest) <= 4:
            module = pools[name](*rest, **{k: v for k, v in options.items() if k != "input"})
            return self.plain(first, where, _unnamed(module_entries(module, pools[name], where)))
        raise ExchangeError("it cannot be mapped: use modules and gates that can")

    def item(self, value: Any, index: Any) -> Any:
        if isinstance(value, tuple | list):
            return value[index]
        if value is OTHER or isinstance(value, State):
            return value
        if isinstance(value, Ref) and value.index == 0:
            numbers = index if isinstance(index, tuple) else (index,)
            if [type(n) for n in numbers] in ([int], [slice, int]):
                return value  # the frame of one timestep
        raise ExchangeError("a part of a map cannot be taken: split channels by weights of 0")

    def same(self, maps: Sequence[Ref]) -> Ref:
        if len(set(maps)) != 1:
            raise ExchangeError("different maps cannot be stacked")
        return maps[0]

    def sum(self, node: fx.Node, a: Any, b: Any, where: str) -> Ref:
        """Return the sum of two maps, or of one map and those of earlier timesteps."""
        for total, x in ((a, b), (b, a)):
            empty = (isinstance(total, Tensor) and not total.any()) or (
                type(total) in (int, float) and total == 0
            )
            if (
                isinstance(x, Ref)
                and not x.negated
                and (empty or total == Ref(x.index, total=True))
            ):
                return Ref(x.index, total=True)
        if not (isinstance(a, Ref) and isinstance(b, Ref)):
            raise ExchangeError("a number cannot be added to a map: use a bias")
        if a == b and node.args[0] is not node.args[1]:
            return Ref(a.index, total=True)  # spikes of two timesteps
        return self.gate("ADD", a, b, where)

    def product(self, a: Any, b: Any, where: str) -> Ref:
        if not (isinstance(a, Ref) and isinstance(b, Ref)):
            if isinstance(a, Ref) and a.total:
                return a
            raise ExchangeError(
                "a map cannot be multiplied by a number: scale the weights after it"
            )
        if a.negated and b.negated:  # neither a nor b
            either = self.gate("OR", Ref(a.index), Ref(b.index), where)
            return Ref(either.index, negated=True)
        if a.negated:
            a, b = b, a
        if b.negated:  # a and not b; the negated map is the branch
            return self.gate("IAND", Ref(b.index), a, where)
        return self.gate("AND", b, a, where)

    def gate(self, gate: str, branch: Ref, identity: Ref, where: str) -> Ref:
        if branch.total or identity.total or branch.negated or identity.negated:
            raise ExchangeError("only spikes can be joined")
        key = (gate, branch.index, identity.index, where)
        used = {step.name for step in self.steps if step.gate}
        base = where or "gate"
        name = base
        for n in range(2, len(used) + 3):
            if name not in used:
                break
            name = f"{base}.gate{n}"
        return self.add(key, _Step([], (branch.index, identity.index), gate, name))

    def reduced(
        self, name: str, first: Any, rest: list[Any], options: dict[str, Any], where: str
    ) -> Ref:
        """Return a map's mean over its positions, or its mean or sum over timesteps."""
        axes = options.get("dim", rest[0] if rest else None)
        axes = axes if isinstance(axes, list | tuple) else [axes]
        if list(axes) == [0] and isinstance(first, Ref) and not first.negated:
            return Ref(first.index, total=True)
        if sorted(map(str, axes)) in (["2", "3"], ["-1", "-2"], ["3", "4"]) and name == "mean":
            return self.plain(first, where, [{"pool": "average", "output": [1, 1]}])
        raise ExchangeError(f"axes {axes} cannot be mapped: only those of positions or timesteps")

    def repeated(self, name: str, rest: list[Any], options: dict[str, Any]) -> Ref:
        """Check that an operation repeats the image for every timestep."""
        numbers = [n for n in _flat(rest) if isinstance(n, int)] if name != "unsqueeze" else []
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
        return Ref(0)

    def check_flattens(self, name: str, rest: list[Any], options: dict[str, Any]) -> None:
        """Check that an operation flattens maps and keeps samples (and timesteps) apart."""
        sizes = _flat(rest)
        if name == "flatten":
            start = options.get("start_dim", sizes[0] if sizes else 0)
            end = options.get("end_dim", sizes[1] if sizes[1:] else -1)
            ok = (start, end) in ((1, -1), (2, -1))
        else:
            ok = len(sizes) in (2, 3) and isinstance(sizes[-1], int) and not options
            ok &= sizes[0] is OTHER or (sizes[0] == -1 and len(sizes) == 2)
        if not ok:
            raise ExchangeError("it does not flatten a whole map: use torch.flatten(x, 1)")

    # -- the end

    def finish(self, outputs: list[Any]) -> Trace:
        """Return the entries of the steps that lead to the output."""
        problems = {**self.tracer.problems, **self.problems}
        found = sorted({o.index for o in _flat(outputs) if isinstance(o, Ref)})
        states = {o.name for o in _flat(outputs) if isinstance(o, State)}
        entries: list[Entry] = []
        if not found:
            said = f", but the membranes of {', '.join(map(str, states))}" if states else ""
            problems["output"] = f"it returns no spikes or sums{said}: return the last layer's"
        elif any(Ref(found[-1], negated=True) == o for o in _flat(outputs)):
            problems["output"] = "it returns 1 minus spikes: return the spikes"
        else:
            others = [n for n in found if n not in self.ancestors(found[-1])]
            if others:
                names = ", ".join(self.steps[n].name for n in (*others, found[-1]))
                problems["output"] = f"a network has one output, this one has several: {names}"
            elif not problems:
                entries = self.path(0, found[-1])
        self.check_calls(problems)
        return Trace(entries, problems, self.frameworks)

    def check_calls(self, problems: dict[str, str]) -> None:
        """Note problems of neurons that do not run once at every timestep."""
        for name, index in self.neurons.items():
            n = self.calls[index]
            if n not in (1, self.timesteps):
                problems[name] = (
                    f"the forward method runs it {n} times, but there are {self.timesteps} "
                    "timesteps: pass the same number to describe"
                )
            elif n != max(self.calls.values()):
                problems[name] = f"it runs {n} times, but others run {max(self.calls.values())}"
        modes = self.tracer.modes
        if len(set(modes.values())) > 1:
            for name in (name for name, mode in modes.items() if mode == "s"):
                problems[name] = (
                    "its step_mode is 's', but that of others is 'm': call "
                    "functional.set_step_mode for the whole network"
                )

    def ancestors(self, index: int) -> set[int]:
        """Return the indices of all steps that a step depends on, and its own."""
        found, waiting = {index}, [index]
        while waiting:
            new = set(self.steps[waiting.pop()].sources) - found
            found |= new
            waiting += new
        return found

    def path(self, start: int, end: int) -> list[Entry]:
        """Return the entries of the steps after ``start`` up to ``end``, with blocks for gates."""
        entries: list[Entry] = []
        while end != start:
            if end < start:
                raise ExchangeError(
                    "its connections cross; blocks whose gates join two maps must be nested"
                )
            step = self.steps[end]
            if step.gate is None:
                entries = [*step.entries, *entries]
                end = step.sources[0]
                continue
            branch, identity = step.sources
            fork = max(self.ancestors(branch) & self.ancestors(identity))
            block: Entry = {"block": step.name, "gate": step.gate}
            block["branch"] = self.path(fork, branch)
            block["identity"] = self.path(fork, identity)
            entries = [block, *entries]
            end = fork
        return entries


def _is_map(value: Any) -> bool:
    return isinstance(value, Ref)


def _flat(values: Any) -> list[Any]:
    """Return all values in nested tuples and lists."""
    if isinstance(values, tuple | list):
        return [value for part in values for value in _flat(part)]
    return [values]


def _unnamed(entries: list[Entry]) -> list[Entry]:
    return [{k: v for k, v in entry.items() if k != "name"} for entry in entries]
