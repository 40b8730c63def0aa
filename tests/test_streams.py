"""Tests that the helpers for test benches detect faulty streams."""

import random

import pytest
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tests.streams import get, put, simulate, stays_valid


class Fickle(wiring.Component):
    """Faulty component that changes the item on its output in every cycle, whether it is taken or
    not."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.valid.eq(1)
        m.d.sync += self.o.payload.eq(self.o.payload + 1)
        return m


def test_waiting_bench_is_noticed():
    dut = Fickle()

    async def never_taken(ctx):
        await put(ctx, dut.i, [1], rng=random.Random(0))

    async def ends(ctx):
        await ctx.tick()

    with pytest.raises(AssertionError, match="1 benches still wait after 50 cycles"):
        simulate(dut, never_taken, ends, max_ticks=50)


def test_changing_payload_is_noticed():
    dut = Fickle()

    async def slow_reader(ctx):
        for _ in range(3):
            await ctx.tick()
        await get(ctx, dut.o, rng=random.Random(0))

    with pytest.raises(AssertionError, match="an offered item changed: 0 to 1"):
        simulate(dut, slow_reader, background=[stays_valid(dut.o)])
