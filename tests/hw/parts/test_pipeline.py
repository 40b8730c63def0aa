"""Tests of the helpers for pipelines: thermometer codes, one-hot checks and delays."""

import random

import pytest
from amaranth import Module, Signal

from hw.parts.pipeline import delayed_in_memory, more_than_one, thermometer
from tests.streams import simulate


@pytest.mark.parametrize("n_count_bits, n_bits", [(5, 16), (5, 20), (3, 7), (4, 16)])
def test_thermometer(n_count_bits: int, n_bits: int) -> None:
    m = Module()
    count, bits = Signal(n_count_bits), Signal(n_bits)
    m.d.comb += bits.eq(thermometer(count, n_bits))

    async def bench(ctx):
        for n in range(1 << n_count_bits):
            ctx.set(count, n)
            assert ctx.get(bits) == (1 << min(n, n_bits)) - 1

    m.d.sync += Signal().eq(0)
    simulate(m, bench)


@pytest.mark.parametrize("n_bits", [1, 2, 4, 5, 11])
def test_more_than_one(n_bits: int) -> None:
    m = Module()
    bits, found = Signal(n_bits), Signal()
    m.d.comb += found.eq(more_than_one(bits))

    async def bench(ctx):
        for value in range(1 << n_bits):
            ctx.set(bits, value)
            assert ctx.get(found) == (value.bit_count() > 1)

    m.d.sync += Signal().eq(0)
    simulate(m, bench)


@pytest.mark.parametrize("n_cycles", [2, 7, 15, 16])
def test_delayed_in_memory(n_cycles: int) -> None:
    m = Module()
    value, old = Signal(9), Signal(9)
    m.d.comb += old.eq(delayed_in_memory(m, value, n_cycles))
    sent = [random.Random(n_cycles).getrandbits(9) for _ in range(60)]

    async def bench(ctx):
        for n, number in enumerate(sent):
            ctx.set(value, number)
            if n >= n_cycles:
                assert ctx.get(old) == sent[n - n_cycles]
            await ctx.tick()

    simulate(m, bench)
