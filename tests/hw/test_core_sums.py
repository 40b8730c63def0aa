"""The sums' queue: nothing is lost, however late the scanner hears that there is no room."""

import random

import pytest

from hw.core.sums import SumQueue
from hw.spec import SUMS_UNHEARD, Config
from tests.streams import get, simulate

UNHEARD_BEFORE = 3
"""Cycles from a job's end in the scanner until its event ends there."""
ON_THE_WAY = 4
"""Cycles from there until its sums come."""


@pytest.mark.parametrize("depth", [SUMS_UNHEARD, 8, 16])
@pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
def test_nothing_is_lost_and_nothing_waits_for_ever(depth: int, stall: float) -> None:
    """A job ends in every cycle with room, and its sums come later, whatever has become of it."""
    n_jobs = 100
    config = Config(lanes=8, membrane_bits=16, chunk_bits=32, fire_lanes=4, sum_queue=depth)
    dut = SumQueue(config)
    rng = random.Random(depth)

    async def scan(ctx):
        line: list[int | None] = [None] * (UNHEARD_BEFORE + ON_THE_WAY)
        n = 0
        while n < n_jobs or any(job is not None for job in line):
            begun = n if ctx.get(dut.room) and n < n_jobs else None
            n += begun is not None
            line = [begun, *line]
            ctx.set(dut.ends, line[UNHEARD_BEFORE] is not None)
            job = line.pop()
            ctx.set(dut.i.valid, job is not None)
            ctx.set(dut.i.p, [job or 0] * config.lanes)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)

    async def take(ctx):
        for n in range(n_jobs):
            assert list(await get(ctx, dut.o, rng=rng, stall=stall)) == [n] * config.lanes
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.o.valid) and ctx.get(dut.room)

    simulate(dut, scan, take)


def test_a_job_per_cycle() -> None:
    """Sums that are taken at once hold nothing up, in the queue that boards have."""
    dut = SumQueue(Config())

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        for cycle in range(60):
            assert ctx.get(dut.room)
            ctx.set(dut.ends, cycle >= UNHEARD_BEFORE)
            ctx.set(dut.i.valid, cycle >= UNHEARD_BEFORE + ON_THE_WAY)
            await ctx.tick()

    simulate(dut, bench)
