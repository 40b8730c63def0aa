"""Tests of the storage for sums: sums arrive complete and in order, and silent jobs take none.

The scanner sees with a delay that there is no room for more sums.
"""

import random
from collections.abc import Callable

import pytest

from hw.core.sums import SumQueue, SumRegister
from hw.spec import SUMS_IN_FLIGHT, Config
from tests.streams import put, simulate

SCAN_CYCLES = 3
"""Cycles from when the scanner sees ``room`` until the last event of a job leaves it."""
ADD_CYCLES = 3
"""Cycles from when the last event of a job leaves the scanner until the job's sums arrive."""


def build(fire_lanes: int, depth: int) -> Config:
    return Config(
        lanes=8,
        membrane_bits=16,
        chunk_bits=32,
        fire_lanes=fire_lanes,
        sum_queue=depth,
        param_depth=1024,
    )


def sums_of(job: int, config: Config) -> list[int]:
    return [100 * job + lane - 5000 for lane in range(config.lanes)]


async def fire(ctx, o, config: Config, n_jobs: int, rng, stall: float, silent: float) -> None:
    """Take and check the sums of ``n_jobs`` jobs, and the zeros of silent jobs in between."""
    due: list[list[int] | None] = [None] * (config.param_latency - 1)

    async def tick(asked: list[int] | None = None) -> None:
        due.append(asked)
        await ctx.tick()
        wanted = due.pop(0)
        assert wanted is None or list(ctx.get(o.p)) == wanted

    job = 0
    while job < n_jobs:
        is_silent = rng.random() < silent
        ctx.set(o.silent, is_silent)
        if rng.random() < stall or not (is_silent or ctx.get(o.there)):
            await tick()
            continue
        sums = [0] * config.lanes if is_silent else sums_of(job, config)
        for beat in range(config.fire_beats):
            ctx.set(o.begin, beat == 0)
            ctx.set(o.beat, beat)
            ctx.set(o.last, beat == config.fire_beats - 1)
            await tick(sums[beat * config.fire_lanes :][: config.fire_lanes])
        ctx.set(o.begin, 0)
        ctx.set(o.last, 0)
        job += not is_silent
    for _ in range(20):
        await tick()
    assert not ctx.get(o.there)


def scan(dut: SumQueue, config: Config, n_jobs: int) -> Callable:
    """Return a bench in which a job ends for every cycle with room; its sums arrive later."""

    async def bench(ctx):
        line: list[int | None] = [None] * (SCAN_CYCLES + ADD_CYCLES)
        n = 0
        while n < n_jobs or any(job is not None for job in line):
            begun = n if ctx.get(dut.room) and n < n_jobs else None
            n += begun is not None
            line = [begun, *line]
            ctx.set(dut.ends, line[SCAN_CYCLES] is not None)
            job = line.pop()
            ctx.set(dut.i.valid, job is not None)
            ctx.set(dut.i.p, sums_of(job or 0, config))
            await ctx.tick()
        ctx.set(dut.i.valid, 0)

    return bench


@pytest.mark.parametrize("fire_lanes", [1, 4, 8])
@pytest.mark.parametrize("depth", [SUMS_IN_FLIGHT, 8, 16])
@pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
def test_queue_loses_no_sums_and_does_not_block(depth: int, stall: float, fire_lanes: int) -> None:
    config = build(fire_lanes, depth)
    dut = SumQueue(config)

    async def take(ctx):
        await fire(ctx, dut.o, config, 60, random.Random(depth), stall, 0.3)
        assert ctx.get(dut.room)

    simulate(dut, scan(dut, config, 60), take)


@pytest.mark.parametrize("fire_lanes", [1, 4, 8])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_without_a_queue_sums_wait_in_the_lanes(stall: float, fire_lanes: int) -> None:
    config = build(fire_lanes, 0)
    dut = SumRegister(config)
    rng = random.Random(fire_lanes)

    async def add(ctx):
        await put(ctx, dut.i, (sums_of(n, config) for n in range(40)), rng=rng, stall=0.3)

    async def take(ctx):
        await fire(ctx, dut.o, config, 40, rng, stall, 0.3)

    simulate(dut, add, take)


def test_a_job_per_cycle() -> None:
    """The default queue never stalls the scanner if sums are taken at once."""
    config = Config(fire_lanes=16)
    dut = SumQueue(config)
    taken = []

    async def bench(ctx):
        for cycle in range(60):
            assert ctx.get(dut.room)
            ctx.set(dut.ends, cycle >= SCAN_CYCLES)
            ctx.set(dut.i.valid, cycle >= SCAN_CYCLES + ADD_CYCLES)
            there = ctx.get(dut.o.there)
            ctx.set(dut.o.begin, there)
            ctx.set(dut.o.last, there)
            taken.append(there)
            await ctx.tick()

    simulate(dut, bench)
    assert taken == [cycle > SCAN_CYCLES + ADD_CYCLES for cycle in range(60)]
