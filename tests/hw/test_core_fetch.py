"""Merging silent chunks away, and the fetch unit with its queues."""

import random

import pytest

from hw.core.fetch import Fetch, Merger
from hw.spec import Config
from tests.streams import get, put, simulate, stays_valid

CONFIG = Config(spike_bytes=256, weight_depth=4096, param_depth=64)


def random_jobs(rng: random.Random, n_jobs: int) -> list[list[int]]:
    """Chunks of bits per job, many of them silent."""
    return [
        [rng.getrandbits(64) if rng.random() < 0.4 else 0 for _ in range(rng.randrange(1, 6))]
        for _ in range(n_jobs)
    ]


def merged(jobs: list[list[int]]) -> list[tuple[int, int, bool, bool]]:
    """(bits, number of the chunk, first, last) that must come out."""
    result, number = [], 0
    for job in jobs:
        active = [(bits, number + i) for i, bits in enumerate(job) if bits]
        if not active:
            active = [(0, number + len(job) - 1)]
        for i, (bits, n) in enumerate(active):
            result.append((bits, n, i == 0, i == len(active) - 1))
        number += len(job)
    return result


@pytest.mark.parametrize("seed", range(6))
def test_merger_keeps_jobs_and_drops_silence(seed: int) -> None:
    rng = random.Random(seed)
    jobs = random_jobs(rng, 60)
    dut = Merger(CONFIG)
    got = []

    async def feed(ctx):
        number = 0
        for job in jobs:
            for i, bits in enumerate(job):
                while rng.random() < 0.3 * (seed % 2):
                    ctx.set(dut.chunk.valid, 0)
                    await ctx.tick()
                ctx.set(dut.chunk.valid, 1)
                ctx.set(
                    dut.chunk.p,
                    {
                        "bits": bits,
                        "count": bits.bit_count(),
                        "weight": number,
                        "first": i == 0,
                        "last": i == len(job) - 1,
                    },
                )
                number += 1
                await ctx.tick()
        ctx.set(dut.chunk.valid, 0)
        await ctx.tick().repeat(3)

    async def collect(ctx):
        async for _, _, valid, chunk in ctx.tick().sample(dut.merged.valid, dut.merged.p):
            if valid:
                assert chunk.count == chunk.bits.bit_count()
                got.append((chunk.bits, chunk.weight, bool(chunk.first), bool(chunk.last)))

    simulate(dut, feed, background=[collect])
    assert got == merged(jobs), f"seed {seed}"


@pytest.mark.parametrize("gated", [False, True])
def test_fetch_queues_chunks_jobs_and_identities_in_order(gated: bool) -> None:
    rng = random.Random(gated)
    jobs = random_jobs(rng, 40)
    dut = Fetch(CONFIG)
    # The "memory": a window is a function of its address, so no spike memory is needed.
    windows = dict(enumerate(bits for job in jobs for bits in job))
    identity_of = {j: rng.getrandbits(CONFIG.lanes) for j in range(len(jobs))}
    steps, number = [], 0
    for j, job in enumerate(jobs):
        for i in range(len(job)):
            steps.append(
                {
                    "source": number,
                    "identity": 1024 + j,
                    "weight": number,
                    "target": j,
                    "first": i == 0,
                    "last": i == len(job) - 1,
                    "end": j == len(jobs) - 1 and i == len(job) - 1,
                    "cut": i == len(job) - 1,
                }
            )
            number += 1
    tail_mask = (1 << 50) - 1
    masked = [[*job[:-1], job[-1] & tail_mask] for job in jobs]

    async def memory(ctx):
        pipeline = [0] * 5
        ctx.set(dut.gated, gated)
        ctx.set(dut.tail_mask, tail_mask)
        async for _, _, bit in ctx.tick().sample(dut.read_bit):
            value = identity_of.get(bit - 1024, 0) if bit >= 1024 else windows.get(bit, 0)
            pipeline = [value, *pipeline[:-1]]
            ctx.set(dut.window, pipeline[4])

    async def feed(ctx):
        await put(ctx, dut.steps, steps, rng=rng, stall=0.1)

    async def chunks(ctx):
        for bits, n, first, last in merged(masked):
            chunk = await get(ctx, dut.chunks, rng=rng, stall=0.5)
            assert (chunk.bits, chunk.weight) == (bits, n)
            assert (chunk.first, chunk.last) == (first, last)

    async def records(ctx):
        for j in range(len(jobs)):
            job = await get(ctx, dut.jobs, rng=rng, stall=0.5)
            assert (job.target, job.end) == (j, j == len(jobs) - 1)

    async def identities(ctx):
        for j in range(len(jobs) if gated else 0):
            assert await get(ctx, dut.identities, rng=rng, stall=0.5) == identity_of[j]

    simulate(
        dut,
        feed,
        chunks,
        records,
        identities,
        background=[memory, *(stays_valid(s) for s in (dut.chunks, dut.jobs, dut.identities))],
    )


def test_full_queues_lose_nothing() -> None:
    """A scanner that does not take anything for a long time stops the fetch unit, not the data."""
    dut = Fetch(CONFIG)
    n_steps = 100

    async def memory(ctx):
        pipeline = [0] * 5
        ctx.set(dut.tail_mask, (1 << 64) - 1)
        async for _, _, bit in ctx.tick().sample(dut.read_bit):
            pipeline = [bit + 1, *pipeline[:-1]]
            ctx.set(dut.window, pipeline[4])

    async def feed(ctx):
        steps = ({"source": n, "weight": n, "first": 1, "last": 1} for n in range(n_steps))
        await put(ctx, dut.steps, steps, rng=random.Random(0), stall=0)

    async def take(ctx):
        await ctx.tick().repeat(200)
        for n in range(n_steps):
            chunk = await get(ctx, dut.chunks, rng=random.Random(0), stall=0)
            assert (chunk.bits, chunk.weight) == (n + 1, n)

    async def drain(ctx):
        await ctx.tick().repeat(200)
        for _ in range(n_steps):
            await get(ctx, dut.jobs, rng=random.Random(0), stall=0)

    simulate(dut, feed, take, drain, background=[memory])
