"""Tests of the storage for sums: the sums and identity spikes of all jobs arrive complete and in
order.

A *job* is one output position, group of ``lanes`` output channels and timestep. Its *sums* are one
number per lane, read in *beats* of ``fire_lanes``. *Identity spikes* are those of a residual
block's shortcut, which travel with the sums.
"""

import random
from collections.abc import Callable

import pytest

from hw.core.sums import SumQueue, SumRegister
from hw.spec import SUMS_IN_FLIGHT, Config
from tests.streams import put, simulate

SCAN_CYCLES = 3
"""Number of cycles from the one in which the scanner sees ``room`` until a job's last active input
leaves it. In these cycles, further jobs may still end."""
ADD_CYCLES = 3
"""Number of cycles from the one in which a job's last active input leaves the scanner until its
sums arrive."""


def build(fire_lanes: int, depth: int, banks: int = 1) -> Config:
    return Config(
        lanes=8 * banks,
        banks=banks,
        sum_bits=15,
        membrane_bits=16,
        chunk_bits=32,
        fire_lanes=fire_lanes,
        sum_queue=depth,
        param_depth=1024,
    )


def job_sums(job: int, config: Config) -> list[int]:
    """Return the sums of job number ``job``; they differ between jobs."""
    return [100 * job + lane - 5000 for lane in range(config.lanes)]


def identity_spikes(job: int, config: Config) -> int:
    """Return the identity spikes of job number ``job``, one bit for each lane of one bank."""
    return random.Random(job).getrandbits(config.bank_lanes)


def beats_of(job: int, config: Config) -> list[tuple[list[int], int]]:
    """Return the sums and identity spikes of each beat of job number ``job``."""
    sums, identity, n_sums = job_sums(job, config), identity_spikes(job, config), config.fire_lanes
    n_identity = n_sums // config.banks
    return [
        (
            sums[beat * n_sums :][:n_sums],
            identity >> beat * n_identity & (1 << n_identity) - 1,
        )
        for beat in range(config.fire_beats)
    ]


async def fire(ctx, o, config: Config, n_jobs: int, rng, stall: float) -> None:
    """Read the sums of ``n_jobs`` jobs, one beat per cycle.

    The sums and the identity spikes must be those that :func:`beats_of` returns. Some jobs are read
    only in part, as in a layer with few channels.
    """
    job = 0
    while job < n_jobs:
        if rng.random() < stall or not ctx.get(o.available):
            await ctx.tick()
            continue
        n_beats = rng.choice((config.fire_beats, config.fire_beats, 1))
        for beat, wanted in enumerate(beats_of(job, config)[:n_beats]):
            ctx.set(o.begin, beat == 0)
            ctx.set(o.beat, beat)
            ctx.set(o.last, beat == n_beats - 1)
            await ctx.tick()
            assert (list(ctx.get(o.p.sums)), ctx.get(o.p.identity)) == wanted, f"{job=}, {beat=}"
        ctx.set(o.begin, 0)
        ctx.set(o.last, 0)
        job += 1
    for _ in range(20):
        await ctx.tick()
        assert not ctx.get(o.available)


def identities(dut: SumQueue | SumRegister, config: Config, n_jobs: int) -> Callable:
    """Return a test bench that offers the identity spikes of each job in order, and ends when all
    have been taken."""

    async def bench(ctx):
        items = (identity_spikes(job, config) for job in range(n_jobs))
        await put(ctx, dut.identities, items, rng=random.Random(0), stall=0)

    return bench


def scan(dut: SumQueue, config: Config, n_jobs: int) -> Callable:
    """Return a test bench that ends a job in every cycle with ``room``, and sends its sums
    later."""

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
            if job is not None:
                ctx.set(dut.i.p, job_sums(job, config))
            assert ctx.get(dut.complete) == (job is not None)
            assert ctx.get(dut.identities.ready) == (job is not None)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)

    return bench


@pytest.mark.parametrize(
    ("depth", "fire_lanes", "banks"),
    [
        (SUMS_IN_FLIGHT, 4, 1),
        (8, 1, 1),
        (16, 8, 1),
        (SUMS_IN_FLIGHT, 2, 2),
        (16, 16, 2),
        (8, 8, 4),
    ],
)
@pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
def test_queue_loses_no_sums_and_does_not_block(
    depth: int, stall: float, fire_lanes: int, banks: int
) -> None:
    config = build(fire_lanes, depth, banks)
    dut = SumQueue(config)

    async def take(ctx):
        await fire(ctx, dut.o, config, 60, random.Random(depth), stall)
        assert ctx.get(dut.room)

    simulate(dut, scan(dut, config, 60), identities(dut, config, 60), take)


@pytest.mark.parametrize("depth", [SUMS_IN_FLIGHT, 8, 16])
def test_a_queue_is_filled_to_its_last_place(depth: int) -> None:
    """Check that exactly as many jobs can end as the queue has places, while no sums are taken."""
    config = build(4, depth)
    dut = SumQueue(config)
    n_complete = 0

    async def count(ctx):
        nonlocal n_complete
        async for _, _, complete in ctx.tick().sample(dut.complete):
            n_complete += complete

    async def bench(ctx):
        for _ in range(depth + 30):
            await ctx.tick()
        assert n_complete == depth and not ctx.get(dut.room)
        await fire(ctx, dut.o, config, 40, random.Random(depth), 0)

    benches = scan(dut, config, 40), identities(dut, config, 40), bench
    simulate(dut, *benches, background=[count])


@pytest.mark.parametrize("fire_lanes", [1, 4, 8])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_without_a_queue_sums_wait_in_the_lanes(stall: float, fire_lanes: int) -> None:
    """Check that, without a queue, all sums and identity spikes are read in order.

    The lanes hold a job's sums until the fire unit requests the first beat.
    """
    config = build(fire_lanes, 0)
    dut = SumRegister(config)
    rng = random.Random(fire_lanes)

    async def add(ctx):
        items = (job_sums(n, config) for n in range(40))
        await put(ctx, dut.i, items, rng=rng, stall=stall)

    async def take(ctx):
        await fire(ctx, dut.o, config, 40, rng, stall)

    simulate(dut, add, identities(dut, config, 40), take)


def test_a_job_per_cycle() -> None:
    """Check that the queue of the default size never stalls the scanner if sums are taken at
    once."""
    config = Config(fire_lanes=16)
    dut = SumQueue(config)
    taken = []

    async def bench(ctx):
        for cycle in range(60):
            assert ctx.get(dut.room)
            ctx.set(dut.ends, cycle >= SCAN_CYCLES)
            ctx.set(dut.i.valid, cycle >= SCAN_CYCLES + ADD_CYCLES)
            available = ctx.get(dut.o.available)
            ctx.set(dut.o.begin, available)
            ctx.set(dut.o.last, available)
            taken.append(available)
            await ctx.tick()

    simulate(dut, bench)
    assert taken == [cycle > SCAN_CYCLES + ADD_CYCLES for cycle in range(60)]
