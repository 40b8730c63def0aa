"""Tests of the accumulators against sums of integers, and of stalls until sums are taken."""

import random

import pytest

from hw.core.lanes import Lanes
from hw.spec import Config, signed_range
from tests.streams import get, simulate, stays_valid


def build(sum_queue: int, weight_bits: int = 8) -> Config:
    return Config(
        lanes=8,
        fire_lanes=4,
        membrane_bits=16,
        chunk_bits=32,
        weight_bits=weight_bits,
        sum_queue=sum_queue,
    )


QUEUES = pytest.mark.parametrize("sum_queue", [0, 16])

Event = tuple[list[int], bool]
"""Weights of a row, and whether the event is the last of its job."""


def random_events(rng: random.Random, config: Config, n_jobs: int) -> list[Event]:
    low, high = signed_range(config.weight_bits)
    events = []
    for _ in range(n_jobs):
        n = rng.choice((1, 1, 2, 3, 20))
        extreme = rng.random() < 0.2
        for i in range(n):
            row = [
                rng.choice((low, high)) if extreme else rng.randint(low, high)
                for _ in range(config.lanes)
            ]
            events.append((row, i == n - 1))
    return events


def sums_of(events: list[Event]) -> list[list[int]]:
    sums, total = [], [0] * len(events[0][0])
    for row, ends in events:
        total = [a + b for a, b in zip(total, row, strict=True)]
        if ends:
            sums.append(total)
            total = [0] * len(row)
    return sums


async def drive(ctx, dut: Lanes, config: Config, events: list[Event], rng, gaps: float) -> None:
    """Send events, one per cycle in which the pipeline advances, with random gaps.

    In gaps the weights are random, because they must have no effect without ``add``.
    """
    mask = (1 << config.weight_bits) - 1
    queue = list(events)
    while queue:
        add = rng.random() >= gaps
        row, ends = queue[0] if add else ([rng.randrange(256)] * config.lanes, 0)
        packed = sum((w & mask) << i * config.weight_bits for i, w in enumerate(row))
        ctx.set(dut.add, add)
        ctx.set(dut.ends, ends)
        ctx.set(dut.weights, packed)
        while True:
            _, _, moved = await ctx.tick().sample(dut.move)
            if moved:
                break
        if add:
            queue.pop(0)
    ctx.set(dut.add, 0)
    ctx.set(dut.ends, 0)


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("seed", range(4))
@QUEUES
def test_sums_of_jobs(sum_queue: int, weight_bits: int, seed: int) -> None:
    config = build(sum_queue, weight_bits)
    rng = random.Random(seed)
    events = random_events(rng, config, 40)
    dut = Lanes(config)

    async def feed(ctx):
        await drive(ctx, dut, config, events, rng, 0.3 * (seed % 2))

    async def collect(ctx):
        for n, wanted in enumerate(sums_of(events)):
            sums = await get(ctx, dut.sums, rng=random.Random(n), stall=0.6 * (seed // 2))
            assert list(sums) == wanted, f"seed {seed}, job {n}"
        ctx.set(dut.sums.ready, 1)
        for _ in range(5):
            _, _, valid = await ctx.tick().sample(dut.sums.valid)
            assert not valid, "more sums than jobs"

    simulate(dut, feed, collect, background=[stays_valid(dut.sums)])


@QUEUES
def test_one_event_per_cycle(sum_queue: int) -> None:
    """Lanes never stall if sums are taken at once, not even when each event is a whole job."""
    config, rng = build(sum_queue), random.Random(1)
    events = [([rng.randrange(-128, 128) for _ in range(config.lanes)], True) for _ in range(20)]
    events += random_events(rng, config, 20)
    dut = Lanes(config)
    seen, moved = [], []

    async def feed(ctx):
        ctx.set(dut.sums.ready, 1)
        await drive(ctx, dut, config, events, rng, 0)
        await ctx.tick().repeat(2)

    async def watch(ctx):
        async for _, _, move, valid, sums in ctx.tick().sample(
            dut.move, dut.sums.valid, dut.sums.p
        ):
            moved.append(move)
            if valid:
                seen.append(list(sums))

    simulate(dut, feed, background=[watch])
    assert all(moved)
    assert seen == sums_of(events)


@QUEUES
def test_moves_unless_sums_wait(sum_queue: int) -> None:
    """Lanes stall while a job's sums wait to be taken; the next job's sums start from 0."""
    dut = Lanes(build(sum_queue))

    async def bench(ctx):
        ctx.set(dut.add, 1)
        ctx.set(dut.weights, 4)
        assert ctx.get(dut.move)
        await ctx.tick()
        ctx.set(dut.ends, 1)
        ctx.set(dut.weights, 5)
        if not sum_queue:  # the sums wait in a register
            assert ctx.get(dut.move)
            await ctx.tick()
            ctx.set(dut.weights, 6)
        for _ in range(4):
            assert ctx.get(dut.sums.valid) and not ctx.get(dut.move)
            assert ctx.get(dut.sums.p[0]) == 9
            await ctx.tick()
        ctx.set(dut.sums.ready, 1)
        assert ctx.get(dut.move)
        await ctx.tick()
        ctx.set(dut.weights, 6)
        assert ctx.get(dut.sums.valid) and ctx.get(dut.sums.p[0]) == 6

    simulate(dut, bench)


@QUEUES
def test_clear_resets_the_sums_of_the_current_job(sum_queue: int) -> None:
    dut = Lanes(build(sum_queue))

    async def bench(ctx):
        ctx.set(dut.add, 1)
        ctx.set(dut.weights, 4)
        await ctx.tick()
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        assert not ctx.get(dut.sums.valid)
        ctx.set(dut.ends, 1)
        if not sum_queue:
            await ctx.tick()
        assert ctx.get(dut.sums.valid) and ctx.get(dut.sums.p[0]) == 4

    simulate(dut, bench)
