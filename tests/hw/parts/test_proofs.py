"""Proofs that streams neither lose, repeat nor reorder items, and that logic on one-hot codes is
right.

The proofs hold for any number of cycles. For each, other tests show that interesting states can be
reached and that the proof fails on a planted bug.
"""

from collections.abc import Callable

import pytest
from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.parts import pipeline
from hw.parts.queue import Queue
from hw.parts.register import StreamRegister
from tests.hw.proofs import holds, planted, reaches


class Streamed(wiring.Component):
    """A component with an input and an output stream, and a reference list of the items that it
    holds.

    ``bad`` is high if an item leaves that is not the oldest one held. Items are single bits, which
    is enough because the component does not interpret them.

    Parameters
    ----------
    n_items : number of items that the component can hold.
    """

    valid: In(1)
    item: In(1)
    ready: In(1)
    bad: Out(1)
    full: Out(1)
    flows: Out(1)

    def __init__(self, dut: Queue | StreamRegister, n_items: int):
        self._dut, self._n_items = dut, n_items
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self._dut
        n_held = Signal(range(self._n_items + 2))
        items = Signal(self._n_items + 1)  # the oldest one lowest
        enters, leaves = Signal(), Signal()
        rest, n_rest = Signal.like(items), Signal.like(n_held)
        m.d.comb += [
            dut.i.valid.eq(self.valid),
            dut.i.payload.eq(self.item),
            dut.o.ready.eq(self.ready),
            enters.eq(dut.i.valid & dut.i.ready),
            leaves.eq(dut.o.valid & dut.o.ready),
            rest.eq(Mux(leaves, items >> 1, items)),
            n_rest.eq(n_held - leaves),
            self.bad.eq(
                (n_held > self._n_items)
                | (dut.o.valid & ((n_held == 0) | (dut.o.payload != items[0])))
            ),
            self.full.eq(n_held == self._n_items),
            self.flows.eq(enters & leaves),
        ]
        if isinstance(dut, Queue):
            counts = dut.level == n_held, dut.busy == (n_held != 0)
            with m.If(~Cat(counts).all()):
                m.d.comb += self.bad.eq(1)
        elif isinstance(dut, StreamRegister):
            with m.If(dut.o.valid != (n_held != 0)):
                m.d.comb += self.bad.eq(1)
        m.d.sync += n_held.eq(n_rest + enters)
        for i in range(len(items)):
            m.d.sync += items[i].eq(Mux(enters & (n_rest == i), self.item, rest[i]))
        return m


@pytest.mark.parametrize("depth", [2, 4])
def test_a_queue_loses_repeats_and_reorders_nothing(depth: int) -> None:
    assert holds(Streamed(Queue(1, depth), depth + 1))
    assert reaches(Streamed(Queue(1, depth), depth + 1), "full")
    assert reaches(Streamed(Queue(1, depth), depth + 1), "flows")


def test_a_register_loses_and_repeats_nothing() -> None:
    assert holds(Streamed(StreamRegister(1), 1))
    assert reaches(Streamed(StreamRegister(1), 1), "full")
    assert not reaches(Streamed(StreamRegister(1), 1), "flows"), "an item every second cycle"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n_in ^ n_out != self.depth", "n_in ^ n_out != self.depth + 1"),
        ("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)"),
        ("n_out.eq(n_out + some)", "n_out.eq(n_out + 1)"),
        ("self.level.eq(held + self.o.valid)", "self.level.eq(held)"),
    ],
)
def test_bugs_in_a_queue_are_found(old: str, new: str) -> None:
    assert not holds(Streamed(planted(Queue, old, new)(1, 2), 3))


def test_a_bug_in_a_register_is_found() -> None:
    broken = planted(StreamRegister, "with m.Elif(self.o.ready)", "with m.Else()")
    assert not holds(Streamed(broken(1), 1))


class Compared(wiring.Component):
    """Compare two functions of the same input bits: ``bad`` is high where their results differ."""

    bits: In(9)
    bad: Out(1)

    def __init__(self, one: Callable[[Value], Value], other: Callable[[Value], Value]):
        self._functions = one, other
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        one, other = (function(self.bits) for function in self._functions)
        m.d.comb += self.bad.eq(one != other)
        return m


def one_hot(bits: Value) -> Value:
    """Return eight bits of which at most one is set, chosen by a four-bit input."""
    return (Value.cast(1) << bits[:3])[:8] & bits[3].replicate(8)


CODES = {
    "popcount": (pipeline.popcount, lambda bits: sum((bit for bit in bits), Value.cast(0))),
    "more than one": (
        pipeline.more_than_one,
        lambda bits: sum((bit for bit in bits), Value.cast(0)) > 1,
    ),
    "encode one-hot": (
        lambda bits: pipeline.encode_one_hot(one_hot(bits)),
        lambda bits: Mux(bits[3], bits[:3], 0),
    ),
    "thermometer": (
        lambda bits: pipeline.thermometer(bits[:4], 12),
        lambda bits: Cat(i < bits[:4] for i in range(12)),
    ),
}


@pytest.mark.parametrize("name", CODES)
def test_logic_on_codes_equals_its_definition(name: str) -> None:
    one, other = CODES[name]
    assert holds(Compared(one, other), n_steps=1)
    assert not holds(Compared(lambda bits: one(bits ^ 1), other), n_steps=1)
