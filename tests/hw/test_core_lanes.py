"""The accumulators against sums of integers; a job's sums wait for whoever takes them."""

import random

import pytest

from hw.core.lanes import Lanes
from hw.spec import Config, signed_range
from tests.streams import get, simulate, stays_valid

CONFIG = Config(lanes=8, fire_lanes=4, membrane_bits=16, chunk_bits=32)

Event = tuple[list[int], bool, bool]
"""Weights of a row; first and last of its job."""


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
            events.append((row, i == 0, i == n - 1))
    return events


def sums_of(events: list[Event]) -> list[list[int]]:
    sums, total = [], []
    for row, first, last in events:
        total = row if first else [a + b for a, b in zip(total, row, strict=True)]
        if last:
            sums.append(total)
    return sums


async def drive(ctx, dut: Lanes, config: Config, events: list[Event], rng, gaps: float) -> None:
    """One event per cycle of movement, with gaps; whatever stands there without ``add`` is not
    an event."""
    mask = (1 << config.weight_bits) - 1
    queue = list(events)
    while queue:
        add = rng.random() >= gaps
        row, first, last = queue[0] if add else ([rng.randrange(256)] * config.lanes, 1, 1)
        packed = sum((w & mask) << i * config.weight_bits for i, w in enumerate(row))
        ctx.set(dut.add, add)
        ctx.set(dut.first, first)
        ctx.set(dut.last, last)
        ctx.set(dut.weights, packed)
        while True:
            _, _, moved = await ctx.tick().sample(dut.move)
            if moved:
                break
        if add:
            queue.pop(0)
    ctx.set(dut.add, 0)


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_sums_of_jobs(weight_bits: int, seed: int) -> None:
    config = Config(lanes=8, fire_lanes=4, membrane_bits=16, chunk_bits=32, weight_bits=weight_bits)
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


def test_one_event_per_cycle() -> None:
    """Sums that are taken at once hold nothing up, not even when each event is a job."""
    rng = random.Random(1)
    events = [
        ([rng.randrange(-128, 128) for _ in range(CONFIG.lanes)], True, True) for _ in range(20)
    ]
    events += random_events(rng, CONFIG, 20)
    dut = Lanes(CONFIG)
    seen, moved = [], []

    async def feed(ctx):
        ctx.set(dut.sums.ready, 1)
        await drive(ctx, dut, CONFIG, events, rng, 0)
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


def test_moves_unless_sums_wait() -> None:
    """The lanes stand still from the moment when sums are there until they are taken."""
    dut = Lanes(CONFIG)

    async def bench(ctx):
        ctx.set(dut.add, 1)
        ctx.set(dut.first, 1)
        ctx.set(dut.last, 1)
        ctx.set(dut.weights, 5)
        assert ctx.get(dut.move)
        await ctx.tick()
        ctx.set(dut.weights, 6)
        for _ in range(4):
            assert ctx.get(dut.sums.valid) and not ctx.get(dut.move)
            assert ctx.get(dut.sums.p[0]) == 5
            await ctx.tick()
        ctx.set(dut.sums.ready, 1)
        assert ctx.get(dut.move)
        await ctx.tick()
        assert ctx.get(dut.sums.valid) and ctx.get(dut.sums.p[0]) == 6

    simulate(dut, bench)
