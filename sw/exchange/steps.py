"""Steps of a traced network, and the blocks that its gates form.

A step is a module, an operation or a gate. Equal steps are kept once: the same module with the same
input is the same step, at whichever timestep the network's loop calls it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sw.exchange.graph import ExchangeError
from sw.exchange.modules import Entry

OTHER = object()
"""A value that cannot become a map of spikes or sums, such as a shape or a dtype."""


@dataclass(frozen=True)
class Ref:
    """The spikes or sums that a step computes; ``index`` is that of the step in :class:`Steps`."""

    index: int
    negated: bool = False
    """Whether the value is 1 minus that of the step."""
    total: bool = False
    """Whether the value is a sum, mean or stack over timesteps."""


@dataclass(frozen=True)
class State:
    """Membranes of the neurons ``name``; zeros with which neurons start if that is None."""

    name: str | None


@dataclass(frozen=True, eq=False)
class Step:
    """A step with its entries in a topology, or a gate, and the indices of the steps it reads."""

    entries: list[Entry]
    sources: tuple[int, ...]
    gate: str | None = None
    name: str = ""


@dataclass
class Steps:
    """All steps of a network, in an order in which each comes after those it reads.

    The first is the network's input.
    """

    steps: list[Step] = field(default_factory=lambda: [Step([], ())])
    known: dict[Any, int] = field(default_factory=dict)
    """Index of every step by what identifies it."""

    def add(self, key: Any, step: Step) -> Ref:
        """Return the reference of a step, which is added unless it is known."""
        if key not in self.known:
            self.known[key] = len(self.steps)
            self.steps.append(step)
        return Ref(self.known[key])

    def plain(self, source: Ref, name: str, entries: list[Entry]) -> Ref:
        """Return the reference of a step that applies ``entries`` to the value of ``source``."""
        key = ("entries", repr(entries), source.index, name)
        return self.add(key, Step(entries, (source.index,), name=name))

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
        return self.add(key, Step([], (branch.index, identity.index), gate, name))

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


def flat(values: Any) -> list[Any]:
    """Return all values in nested tuples and lists."""
    if isinstance(values, tuple | list):
        return [value for part in values for value in flat(part)]
    return [values]
