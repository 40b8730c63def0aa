"""Derivation of the steps of a PyTorch network from a symbolic trace of its forward methods.

:mod:`sw.exchange.tracer` records what the forward methods do. :mod:`sw.exchange.modules` and
:mod:`sw.exchange.operations` convert each module and operation to entries of a topology
(:mod:`sw.exchange.topology`). A part that may change the result and cannot be converted is reported
as a problem, with its name.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from sw.exchange.graph import ExchangeError, report_problems
from sw.exchange.modules import Entry, check_unchanged, library_class, module_entries
from sw.exchange.operations import SUMS, Operations, operation_name
from sw.exchange.steps import OTHER, Ref, State, Steps, flat
from sw.exchange.tracer import CONTAINERS, NetworkTracer


@dataclass
class Trace:
    """The steps of a traced network, and the parts that cannot be mapped.

    The steps are entries of a topology, which describes a network in JSON.
    """

    entries: list[Entry]
    """The network's entries, in the order in which they run."""
    problems: dict[str, str]
    """Reasons why parts cannot be mapped, by name of the module."""
    frameworks: dict[str, str]
    """Library that defines each neuron, by name of the neuron's module."""
    frames: bool = False
    """Whether the forward method reads a different frame of its input at every timestep."""
    repeats: bool = False
    """Whether the forward method gives the same input to all timesteps."""


def trace(root: nn.Module, prefix: str, timesteps: int, n_axes: int | None = None) -> Trace:
    """Trace a module; return its steps, and the parts that cannot be mapped.

    The steps are entries of a topology, which describes a network in JSON.

    Parameters
    ----------
    prefix : name of ``root`` in the network; empty for the network itself.
    timesteps : number of timesteps; loops in a forward method must run as many.
    n_axes : number of axes of the input, if a forward method asks for it; None if it is not known.

    Raises
    ------
    ExchangeError
        The forward method cannot be traced, for example because it depends on values of tensors.
    """
    tracer = NetworkTracer(prefix, timesteps, n_axes)
    if tracer.is_leaf_module(root, ""):
        reader = _Reader(tracer, timesteps)
        result = reader.leaf(root, "", Ref(0), None)
        reader.problems = {name or "the network": x for name, x in reader.problems.items()}
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


def _check_linear(module: nn.Module, entries: list[Entry], source: Ref) -> None:
    """Check that a module may be applied to ``source``, the mean or sum of maps over timesteps.

    The module must be linear. It then computes the same as if it were applied at every timestep.

    Raises
    ------
    ExchangeError
        The module is not linear, or it adds a bias to a sum.
    """
    if source.negated or any("neuron" in x or x.get("pool") == "max" for x in entries):
        raise ExchangeError("its input is no map of spikes or sums, but computed from one")
    shifts = any("norm" in entry for entry in entries) or getattr(module, "bias", None) is not None
    if source.total == "sum" and shifts:
        raise ExchangeError(
            "it adds its bias once to a sum over timesteps: take the mean in place of the sum"
        )


def _unmapped(root: nn.Module, prefix: str) -> dict[str, str]:
    """Return why modules in the network ``root`` cannot be mapped, by their full names.

    Every module is checked by itself, even if the forward method does not run it.
    """
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
    """Return the default values of a forward method's arguments, by name of the argument.

    The first argument, the network's input, is left out. The result is None if no other argument
    has a default value.
    """
    parameters = list(inspect.signature(root.forward).parameters.values())[1:]
    found = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return found or None


@dataclass
class _Reader:
    """Converter of a traced graph to entries of a topology, a network's list of steps.

    ``values`` holds, for each node of the graph, the symbol for its result: a reference to spikes
    or sums, membranes, or a constant (:mod:`sw.exchange.steps`).
    """

    tracer: NetworkTracer
    timesteps: int
    steps: Steps = field(default_factory=Steps)
    calls: dict[int, int] = field(default_factory=dict)
    """Number of calls of the neurons of a step, by the step's index."""
    neurons: dict[str, int] = field(default_factory=dict)
    """Index of each neuron's step, by name of the neuron's module."""
    frameworks: dict[str, str] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    stand_ins: set[fx.Node] = field(default_factory=set)
    """Calls and operations that cannot be mapped, and operations that cannot be mapped because they
    use the results of such calls. Operations of the second kind are not reported as problems."""

    def __post_init__(self) -> None:
        sequences = "m" in self.tracer.modes.values()
        self.operations = Operations(self.steps, self.timesteps, sequences)

    def run(self, graph: fx.Graph) -> Trace:
        """Convert a traced graph; return its steps, and the reasons why parts cannot be mapped."""
        self.tracer.check(self.tracer.root, "")
        outputs: list[Any] = []
        first = True
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = Ref(0) if first else State("")
                first = False
            elif node.op == "output":
                outputs = flat(self.resolved(node.args))
            else:
                self.values[node] = self.step(node)
        return self.finish(outputs)

    def resolved(self, argument: Any) -> Any:
        """Return an argument of a node, in which every node is replaced by the symbol for its
        result: a reference to spikes or sums, membranes, or a constant.
        """
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, tuple | list):
            return type(argument)(self.resolved(part) for part in argument)
        return argument

    def step(self, node: fx.Node) -> Any:
        """Convert a node of the traced graph, and return the symbol for its result
        (:mod:`sw.exchange.steps`).

        If the node cannot be mapped, a problem is noted. Tracing goes on with a stand-in for the
        result: the first map among the node's arguments, or :data:`~sw.exchange.steps.OTHER` if
        there is none.
        """
        where = self.place(node)
        if node.op == "get_attr":
            tensor: Any = self.tracer.root
            for part in str(node.target).split("."):
                tensor = getattr(tensor, part)
            return tensor
        arguments = [self.resolved(argument) for argument in node.args]
        options = {key: self.resolved(value) for key, value in node.kwargs.items()}
        follows = not self.stand_ins.isdisjoint(node.all_input_nodes)
        first = next((a for a in flat(arguments) if isinstance(a, Ref)), OTHER)
        if node.op == "call_module":
            target = str(node.target)
            module, name = self.tracer.root.get_submodule(target), self.tracer.full_name(target)
            given = [*arguments, *options.values()]
            if not given or not isinstance(given[0], Ref):
                if not follows:
                    self.problems[name] = "its input is no map of spikes or sums"
                self.stand_ins.add(node)
                return OTHER
            result = self.leaf(module, target, given[0], given[1] if given[1:] else None)
            if name in self.problems or name in self.tracer.problems:
                self.stand_ins.add(node)
            return result
        name = operation_name(node)
        try:
            if not (follows and name in SUMS):  # a stand-in may be equal to what it is added to
                return self.operations.apply(node, arguments, options, where)
        except ExchangeError as error:
            if not follows:
                self.problems[f"{where or 'the network'}, operation {name}"] = str(error)
        self.stand_ins.add(node)
        return first

    def place(self, node: fx.Node) -> str:
        """Return the full name of the module in whose forward method a node was recorded."""
        stack = node.meta.get("nn_module_stack") or {}
        # A key ends in @1, @2, ... from the second call on; all calls share one place.
        names = [self.tracer.full_name(name.partition("@")[0]) for name in stack]
        return names[-1] if names else self.tracer.prefix

    # -- modules

    def leaf(self, module: nn.Module, target: str, source: Ref, state: Any) -> Any:
        """Convert a library's module that is applied to ``source``, and return the symbol for its
        result (:mod:`sw.exchange.steps`).

        ``target`` is the module's name in the traced module. ``state`` is the second argument of
        the call, which gives snnTorch's neurons their membranes; None without one. If the module
        changes nothing, such as dropout, ``source`` is returned. If the module cannot be mapped, a
        problem is noted, and ``source`` is returned as well.
        """
        name = self.tracer.full_name(target)
        kind = self.tracer.kinds.get(target)
        try:
            check_unchanged(module)
            if kind is None or name in self.tracer.problems:
                return source
            entries = module_entries(module, kind, name)
            if source.total or source.negated:
                _check_linear(module, entries, source)
        except ExchangeError as error:
            self.problems[name] = str(error)
            return source
        if not entries:
            return source
        result = self.steps.plain(source, name, entries)
        if "neuron" not in entries[0]:
            return result
        self.frameworks[name] = kind.__module__.partition(".")[0]
        if self.neurons.setdefault(name, result.index) != result.index:
            self.problems[name] = (
                "it is used at two places of the network, which share its membranes: use a neuron "
                "of its own at each"
            )
        n_before = self.calls.get(result.index, 0)
        self.calls[result.index] = n_before + 1
        if source.times and source.times != {n_before}:
            self.problems[name] = (
                f"it takes the map of timestep {min(source.times)} at timestep {n_before}: run it "
                "for all timesteps in their order"
            )
        result = replace(result, times=frozenset([n_before]))
        if self.frameworks[name] != "snntorch":
            return result
        self.check_state(name, self.calls[result.index], state)
        returns_state = module.output or not module.init_hidden
        return (result, State(name)) if returns_state else result

    def check_state(self, name: str, n_calls: int, state: Any) -> None:
        """Note a problem if the forward method sets the membranes of snnTorch's neurons.

        They must be those that the neurons ``name`` returned from the call before, or zeros in the
        first call. ``n_calls`` counts the calls up to this one.
        """
        if isinstance(state, Tensor):
            starts = not bool(state.any())
        else:
            starts = isinstance(state, State) and not state.name
        goes_on = state is None or (isinstance(state, State) and state.name == name)
        if not (goes_on or (starts and n_calls == 1)):
            self.problems[name] = (
                "its membranes are set by the forward method: pass on those that it returned, and "
                "0 at first"
            )

    # -- the end

    def finish(self, outputs: list[Any]) -> Trace:
        """Return the steps that lead to ``outputs``, and the reasons why parts cannot be mapped.

        ``outputs`` are the symbols for the results of the forward method. The steps are entries of
        a topology; they are complete only if every part can be mapped.
        """
        problems = {**self.tracer.problems, **self.problems}
        found = sorted({o.index for o in flat(outputs) if isinstance(o, Ref)})
        states = {o.name for o in flat(outputs) if isinstance(o, State)}
        entries: list[Entry] = []
        if not found:
            said = f", but the membranes of {', '.join(filter(None, states))}" if states else ""
            problems["output"] = f"it returns no spikes or sums{said}: return the last layer's"
        elif any(Ref(found[-1], negated=True) == o for o in flat(outputs)):
            problems["output"] = "it returns 1 minus spikes: return the spikes"
        else:
            others = [n for n in found if n not in self.steps.ancestors(found[-1])]
            if others:
                names = ", ".join(self.steps.steps[n].name for n in (*others, found[-1]))
                problems["output"] = f"a network has one output, this one has several: {names}"
            elif not problems:
                self.check_times(problems, [o for o in flat(outputs) if isinstance(o, Ref)])
                entries = self.steps.path(0, found[-1])
        self.check_calls(problems)
        frames = self.operations.frames
        every = sorted(frames) == frames and set(frames) == set(range(self.timesteps))
        if frames and not every and not problems:
            problems["input"] = (
                f"the forward method takes the frames {', '.join(map(str, frames[:8]))} instead of "
                f"one for each of the {self.timesteps} timesteps, in their order"
            )
        repeats = self.operations.repeats or (
            not frames and max(self.calls.values(), default=0) > 1
        )
        return Trace(entries, problems, self.frameworks, bool(frames), repeats)

    def check_times(self, problems: dict[str, str], outputs: list[Ref]) -> None:
        """Add a problem if a loop over timesteps does not return the results of all timesteps.

        ``outputs`` are the symbols for the results of the forward method.
        """
        last = max(o.index for o in outputs)
        times = sorted(frozenset().union(*(o.times for o in outputs if o.index == last)))
        if times and max(self.calls.values()) > 1 and times != list(range(self.timesteps)):
            problems["output"] = (
                f"it returns the results of the timesteps {', '.join(map(str, times[:8]))} only, "
                "but the device adds up all: return the sum, mean or stack of all"
            )

    def check_calls(self, problems: dict[str, str]) -> None:
        """Add problems of neurons to ``problems``, by name of the neuron's module.

        Neurons must run exactly once at every timestep, and all of SpikingJelly's must have the
        same step mode.
        """
        for name, index in self.neurons.items():
            n = self.calls[index]
            if n not in (1, self.timesteps):
                problems[name] = (
                    f"the forward method runs it {n} times, but there are {self.timesteps} "
                    "timesteps: pass the same number to describe"
                )
            elif n != max(self.calls.values()):
                problems[name] = (
                    f"it runs {n} times, but others run {max(self.calls.values())} times: run "
                    "all neurons at every timestep, those behind the stem included"
                )
        modes = self.tracer.modes
        if len(set(modes.values())) > 1:
            for name in (name for name, mode in modes.items() if mode == "s"):
                problems[name] = (
                    "its step_mode is 's', but that of others is 'm': call "
                    "functional.set_step_mode for the whole network"
                )
