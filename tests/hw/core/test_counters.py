"""Tests of a layer's counters against sums of integers."""

import random

import pytest

from hw.core.counters import Counters
from hw.spec import Config
from tests.streams import simulate


@pytest.mark.parametrize("banks", [1, 2, 4, 8])
def test_counts_of_layers(banks: int) -> None:
    """Check the counters of a layer against sums in Python, for last channel groups of several
    sizes.

    Weight reads and synaptic operations are counted one cycle after they happen. In cycles in which
    no layer runs, nothing is counted.
    """
    config = Config(lanes=64, banks=banks, chunk_bits=64, fire_lanes=16)
    rng = random.Random(banks)
    dut = Counters(config)
    names = ("n_cycles", "n_weight_reads", "n_synaptic_ops", "n_spikes")

    async def step(ctx, tail_lanes: int, *, counting: bool) -> tuple[int, int, int]:
        n_real = rng.randrange(banks + 1)
        n_tail = rng.randrange(banks + 1 - n_real)
        n_spikes = rng.randrange(config.lanes + 1)
        ctx.set(dut.counting, counting)
        ctx.set(dut.n_real, n_real)
        ctx.set(dut.n_tail, n_tail)
        ctx.set(dut.n_spikes, n_spikes)
        await ctx.tick()
        return n_real + n_tail, n_real * config.lanes + n_tail * tail_lanes, n_spikes

    async def bench(ctx):
        for tail_lanes in (1, 64, 37, rng.randrange(1, 65)):
            ctx.set(dut.tail_lanes, tail_lanes)
            ctx.set(dut.clear, 1)
            n_reads, n_ops, _ = await step(ctx, tail_lanes, counting=True)
            ctx.set(dut.clear, 0)
            wanted = dict.fromkeys(names, 0)
            for _ in range(100):
                wanted["n_cycles"] += 1
                wanted["n_weight_reads"] += n_reads
                wanted["n_synaptic_ops"] += n_ops
                n_reads, n_ops, n_spikes = await step(ctx, tail_lanes, counting=True)
                wanted["n_spikes"] += n_spikes
                counters = ctx.get(dut.counters)
                assert {name: getattr(counters, name) for name in names} == wanted
            for _ in range(20):
                await step(ctx, tail_lanes, counting=False)
            counters = ctx.get(dut.counters)
            assert {name: getattr(counters, name) for name in names} == wanted

    simulate(dut, bench)


def test_all_banks_read_full_rows_at_once() -> None:
    config = Config(lanes=64, banks=8, fire_lanes=16)
    dut = Counters(config)

    async def bench(ctx):
        ctx.set(dut.counting, 1)
        ctx.set(dut.n_real, 8)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.counters.n_synaptic_ops) == 8 * 64
        ctx.set(dut.n_real, 0)
        ctx.set(dut.n_tail, 8)
        ctx.set(dut.tail_lanes, 64)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.counters.n_synaptic_ops) == 3 * 8 * 64

    simulate(dut, bench)
