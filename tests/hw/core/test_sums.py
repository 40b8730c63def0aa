"""Sums on their way: all of them, in order, beat by beat, however late the scanner hears that there
is no room; a job without any leaves the others' where they are."""

import random
from collections.abc import Callable

import pytest

from hw.core.sums import SumQueue, SumRegister
from hw.spec import SUMS_IN_FLIGHT, Config
from tests.streams import put, simulate

UNHEARD_BEFORE = 3
"""Cycles from a job's end in the scanner until its event ends there."""
ON_THE_WAY = 3
"""Cycles from there until its sums come."""


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
    """Takes the sums of ``n_jobs`` jobs, and zeros of silent ones in between."""
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
    """A job ends in every cycle with room, and its sums come later, whatever has become of it."""

    async def bench(ctx):
        line: list[int | None] = [None] * (UNHEARD_BEFORE + ON_THE_WAY)
        n = 0
        while n < n_jobs or any(job is not None for job in line):
            begun = n if ctx.get(dut.room) and n < n_jobs else None
            n += begun is not None
            line = [begun, *line]
            ctx.set(dut.ends, line[UNHEARD_BEFORE] is not None)
            job = line.pop()
            ctx.set(dut.i.valid, job is not None)
            ctx.set(dut.i.p, sums_of(job or 0, config))
            await ctx.tick()
        ctx.set(dut.i.valid, 0)

    return bench


@pytest.mark.parametrize("fire_lanes", [1, 4, 8])
@pytest.mark.parametrize("depth", [SUMS_IN_FLIGHT, 8, 16])
@pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
def test_nothing_is_lost_and_nothing_waits_for_ever(
    depth: int, stall: float, fire_lanes: int
) -> None:
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
    """Sums that are taken at once hold nothing up, in the queue that boards have."""
    config = Config(fire_lanes=16)
    dut = SumQueue(config)
    taken = []

    async def bench(ctx):
        for cycle in range(60):
            assert ctx.get(dut.room)
            ctx.set(dut.ends, cycle >= UNHEARD_BEFORE)
            ctx.set(dut.i.valid, cycle >= UNHEARD_BEFORE + ON_THE_WAY)
            there = ctx.get(dut.o.there)
            ctx.set(dut.o.begin, there)
            ctx.set(dut.o.last, there)
            taken.append(there)
            await ctx.tick()

    simulate(dut, bench)
    assert taken == [cycle > UNHEARD_BEFORE + ON_THE_WAY for cycle in range(60)]
