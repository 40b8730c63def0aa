"""Steps of a traced network, and the blocks that its gates form.

A step is a module, an operation or a gate. Each step is kept once, although the network's loop over
timesteps runs it many times: if the same module is applied to the same input, that is the same
step.

A value in the traced graph is one of four things:

- a :class:`Ref`, which stands for the spikes or sums that a step computes;
- a :class:`State`, which stands for membranes;
- :data:`OTHER`, which stands for values that cannot become a map, such as shapes;
- a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sw.exchange.graph import ExchangeError
from sw.exchange.modules import Entry

OTHER = object()
"""A value that cannot become a map of spikes or sums, such as a shape or a dtype."""


@dataclass(frozen=True)
class Ref:
    """The spikes or sums that a step computes; ``index`` is the step's index in :class:`Steps`."""

    index: int
    negated: bool = False
    """Whether the value is 1 minus the step's result."""
    total: str = ""
    """What the value is of the step's results at all timesteps: their ``"stack"`` or ``"mean"``, or
    their ``"sum"`` times a positive number; empty if it is the result at one timestep."""
    times: frozenset[int] = field(default=frozenset(), compare=False)
    """Timesteps whose results the value holds, if the forward method loops over timesteps. Values
    that are the same at all timesteps have none."""


@dataclass(frozen=True)
class State:
    """The membranes of neurons, as the forward method passes them on between timesteps.

    ``name`` is the name of the neurons' module, or None for the zeros with which membranes start.
    It is empty for a further argument of the forward method, which may start membranes as well.
    """

    name: str | None


@dataclass(frozen=True, eq=False)
class Step:
    """A step of a network, which reads the results of other steps.

    ``entries`` describe the step in a topology (:mod:`sw.exchange.topology`), and ``gate`` is None.
    For a gate, ``entries`` is empty, and ``gate`` is its name, such as ``"IAND"``. ``sources`` are
    the indices of the steps that the step reads. A gate reads branch and identity, the two paths of
    a residual block.
    """

    entries: list[Entry]
    sources: tuple[int, ...]
    gate: str | None = None
    name: str = ""


@dataclass
class Steps:
    """All steps of a network, in an order in which each comes after those it reads.

    The first step stands for the network's input.
    """

    steps: list[Step] = field(default_factory=lambda: [Step([], ())])
    known: dict[Any, int] = field(default_factory=dict)
    """Index of every step, by a key that is the same only for equal steps."""

    def add(self, key: Any, step: Step) -> Ref:
        """Add a step unless it is known already, and return a reference to it.

        ``key`` identifies a step: equal keys mean the same module or operation on the same inputs.
        """
        if key not in self.known:
            self.known[key] = len(self.steps)
            self.steps.append(step)
        return Ref(self.known[key])

    def plain(self, source: Ref, name: str, entries: list[Entry]) -> Ref:
        """Add a step that applies ``entries`` to ``source``; return a reference to its result.

        ``entries`` are descriptions of the step in a topology (:mod:`sw.exchange.topology`), and
        ``name`` is the name of the module or operation.
        """
        key = ("entries", repr(entries), source.index, name)
        result = self.add(key, Step(entries, (source.index,), name=name))
        return replace(result, total=source.total, times=source.times)

    def gate(self, gate: str, branch: Ref, identity: Ref, where: str) -> Ref:
        if branch.total or identity.total or branch.negated or identity.negated:
            raise ExchangeError("only spikes can be joined")
        if branch.times and identity.times and branch.times != identity.times:
            raise ExchangeError("it joins maps of different timesteps: join those of the same one")
        key = (gate, branch.index, identity.index, where)
        used = {step.name for step in self.steps if step.gate}
        base = where or "gate"
        name = base
        for n in range(2, len(used) + 3):
            if name not in used:
                break
            name = f"{base}.gate{n}"
        result = self.add(key, Step([], (branch.index, identity.index), gate, name))
        return replace(result, times=branch.times | identity.times)

    def ancestors(self, index: int) -> set[int]:
        """Return the index of a step and of all steps that it depends on, directly or through
        others."""
        found, waiting = {index}, [index]
        while waiting:
            new = set(self.steps[waiting.pop()].sources) - found
            found |= new
            waiting += new
        return found

    def path(self, start: int, end: int) -> list[Entry]:
        """Return the steps after ``start``, up to and including ``end``, as entries of a topology.

        A topology is a network's list of steps in JSON. ``start`` and ``end`` are indices of steps.
        A gate becomes a block: an entry that holds the entries of both paths that the gate joins.

        Raises
        ------
        ExchangeError
            Two blocks overlap without one lying inside the other, so they cannot be written as
            nested entries.
        """
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


def flat(values: Any) -> list[Any]:
    """Return the values in nested tuples and lists as one list."""
    if isinstance(values, tuple | list):
        return [value for part in values for value in flat(part)]
    return [values]
