"""Tests of the merger, which drops silent chunks, and of the fetch unit with its queues."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hw.core.fetch import Fetch, Merger, job_layout
from hw.core.nest import Phase, address_widths
from hw.core.spikes import SpikeMemory
from hw.spec import GRANULE_BITS, Config
from tests.streams import get, put, simulate, stays_valid, wait_until

CONFIG = Config(spike_bytes=2048, weight_depth=4096, param_depth=256)

SILENT = 1
"""Address of a window without any active bit."""

Step = dict[str, int]


def chunks_of(jobs: list[list[int]]) -> list[tuple[int, int, bool]]:
    """Return (bits, index, last) of all active chunks; ``last`` marks a job's last active one."""
    result, number = [], 0
    for job in jobs:
        active = [(bits, number + i) for i, bits in enumerate(job) if bits]
        result += [(bits, n, n == active[-1][1]) for bits, n in active]
        number += len(job)
    return result


@pytest.mark.parametrize("seed", range(6))
def test_merger_keeps_jobs_and_drops_silence(seed: int) -> None:
    rng = random.Random(seed)
    jobs = [
        [rng.getrandbits(64) | 1 if rng.random() < 0.4 else 0 for _ in range(rng.randrange(1, 6))]
        for _ in range(80)
    ]
    tails = [rng.randrange(2) for _ in jobs]
    dut = Merger(CONFIG)
    got, verdicts = [], []

    async def feed(ctx):
        number = 0
        for job, tail in zip(jobs, tails, strict=True):
            for i, bits in enumerate(job):
                while rng.random() < 0.3 * (seed % 2):
                    ctx.set(dut.chunk.valid, 0)
                    ctx.set(dut.active, rng.randrange(2))
                    ctx.set(dut.chunk.p.last, rng.randrange(2))
                    await ctx.tick()
                last = i == len(job) - 1
                ctx.set(dut.chunk.valid, 1)
                ctx.set(dut.active, bits != 0)
                ctx.set(dut.chunk.p, {"bits": bits, "weight": number, "last": last, "tail": tail})
                number += 1
                await ctx.tick()
        ctx.set(dut.chunk.valid, 0)
        await ctx.tick().repeat(3)

    async def collect(ctx):
        n_ended = 0
        trigger = ctx.tick().sample(
            dut.merged.valid, dut.merged.p, dut.silent.valid, dut.silent.payload
        )
        async for _, _, valid, chunk, decided, silent in trigger:
            if decided:
                verdicts.append(bool(silent))
            if valid:
                got.append((chunk.bits, chunk.weight, bool(chunk.last), chunk.tail))
                n_ended += chunk.last
                assert n_ended <= verdicts.count(False), "a job's last chunk before its verdict"

    simulate(dut, feed, background=[collect])
    wanted = chunks_of(jobs)
    assert [chunk[:3] for chunk in got] == wanted, f"seed {seed}"
    of_job = [j for j, job in enumerate(jobs) for _ in job]
    assert [chunk[3] for chunk in got] == [tails[of_job[n]] for _, n, _ in wanted]
    assert verdicts == [not any(job) for job in jobs], f"seed {seed}"


def window_of(bit: int, gather: int, seed: int, density: float) -> int:
    """Return a random window that depends only on its address, in place of a spike memory."""
    rng = random.Random(f"{seed} {bit} {gather}")
    if rng.random() >= density or (gather and bit == SILENT):
        return 0
    return int.from_bytes(hashlib.sha256(f"{seed} {bit} {gather}".encode()).digest()[:8], "little")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Properties of a layer, and stalls of the units that are connected to the fetch unit."""

    seed: int
    n_jobs: int = 60
    n_chunks: tuple[int, int] = (1, 5)
    density: float = 0.4
    gated: bool = False
    pixels: bool = False
    feed_stall: float = 0.0
    scan_stall: float = 0.0
    fire_stall: float = 0.0
    scan_sleeps: int = 0
    fire_sleeps: int = 0
    host_reads: int = 0
    silent_chunks: range = range(0)


def check(case: Case, config: Config = CONFIG) -> None:
    rng = random.Random(case.seed)
    widths = address_widths(config)
    n_body = [rng.randrange(17) for _ in range(4)]
    n_tail = [rng.randrange(17) for _ in range(4)]
    if case.density == 1:
        n_body = n_tail = [16] * 4
    body_mask, tail_mask = (
        sum(((1 << n) - 1) << 16 * k for k, n in enumerate(n_bits)) for n_bits in (n_body, n_tail)
    )
    # Windows are random, so that a wrong mask, a wrong tag or a wrong order is noticed.
    steps: list[Step] = []
    jobs: list[list[int]] = []
    identities = []
    for j in range(case.n_jobs):
        n_chunks = rng.randrange(*case.n_chunks)
        job = {name: rng.getrandbits(widths[name]) for name in ("target", "param", "slot")}
        job |= {name: rng.randrange(2) for name in ("fresh", "pool_first", "pool_last", "tail")}
        job["phase"] = rng.randrange(1, 4) if case.pixels else Phase.SPIKES
        job["identity"] = rng.getrandbits(widths["identity"])
        identity = window_of(job["identity"] * GRANULE_BITS, 0, case.seed, case.density)
        identities.append(identity & ((1 << config.lanes) - 1))
        bits = []
        for i in range(n_chunks):
            number = len(steps)
            cut = rng.randrange(2)
            source = SILENT if number in case.silent_chunks else rng.getrandbits(widths["source"])
            steps.append(
                job
                | {
                    "source": source,
                    "weight": number,
                    "last": i == n_chunks - 1,
                    "end": j == case.n_jobs - 1 and i == n_chunks - 1,
                    "cut": cut,
                }
            )
            window = window_of(source, 1, case.seed, case.density)
            sums = job["phase"] in (Phase.SPIKES, Phase.PLANE)
            bits.append(window & (tail_mask if cut else body_mask) if sums else 0)
        jobs.append(bits)
    granules = [rng.getrandbits(widths["source"]) & ~7 for _ in range(case.host_reads)]
    ends = [step for step in steps if step["last"]]
    dut = Fetch(config)

    async def memory(ctx):
        pipeline = [0] * SpikeMemory.LATENCY
        ctx.set(dut.gated, case.gated)
        ctx.set(dut.body_bits, n_body)
        ctx.set(dut.tail_bits, n_tail)
        async for _, _, bit, gather in ctx.tick().sample(dut.read_bit, dut.gather):
            pipeline = [window_of(bit, gather, case.seed, case.density), *pipeline[:-1]]
            ctx.set(dut.window, pipeline[-1])

    async def feed(ctx):
        await put(ctx, dut.steps, steps, rng=random.Random(0), stall=case.feed_stall)

    async def chunks(ctx):
        await ctx.tick().repeat(case.scan_sleeps + 1)
        for bits, n, last in chunks_of(jobs):
            chunk = await get(ctx, dut.chunks, rng=random.Random(n), stall=case.scan_stall)
            assert (chunk.bits, chunk.weight, chunk.last) == (bits, n, last), case
            assert chunk.tail == steps[n]["tail"], case

    taken = []

    async def fire(ctx):
        await ctx.tick().repeat(case.fire_sleeps + 1)
        for j, (bits, end) in enumerate(zip(jobs, ends, strict=True)):
            job = await get(ctx, dut.jobs, rng=random.Random(j), stall=case.fire_stall)
            wanted = end | {
                "silent": not any(bits),
                "pool_last": end["pool_last"] and end["phase"] != Phase.PLANE,
                "identity": identities[j],
            }
            for name, _ in job_layout(config):
                if name != "identity" or case.gated:
                    assert getattr(job, name) == wanted[name], f"{case}, {name} of job {j}"
            taken.append(j)

    async def host_asks(ctx):
        await put(ctx, dut.host_bit, granules, rng=random.Random(2), stall=0.7)

    async def host_hears(ctx):
        for granule in granules:
            value = await wait_until(ctx, dut.host_granule.valid, dut.host_granule.payload)
            assert value == window_of(granule, 0, case.seed, case.density) & 0xFF

    async def nothing_left(ctx):
        while len(taken) < len(jobs):
            await ctx.tick()
        await ctx.tick().repeat(30)
        assert not ctx.get(dut.jobs.valid), "more than one entry per job"

    streams = (dut.chunks, dut.jobs)
    benches: list[Callable] = [feed, chunks, fire, nothing_left]
    if granules:
        benches += [host_asks, host_hears]
    simulate(dut, *benches, background=[memory, *(stays_valid(s) for s in streams)])


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("host_reads", [0, 30])
def test_everything_in_order(gated: bool, pixels: bool, host_reads: int) -> None:
    check(
        Case(
            seed=4 * gated + 2 * pixels + (host_reads > 0),
            gated=gated,
            pixels=pixels,
            host_reads=host_reads,
            feed_stall=0.1,
            scan_stall=0.5,
            fire_stall=0.5,
        )
    )


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sleeps", ["scan_sleeps", "fire_sleeps"])
@pytest.mark.parametrize("n_chunks", [1, 3])
def test_full_queues_lose_nothing(sleeps, density, gated, n_chunks) -> None:
    """A scanner or fire unit that takes nothing for a long time stops the fetch unit."""
    case = Case(
        seed=int(10 * density) + gated,
        n_jobs=96 if n_chunks == 1 else 40,
        n_chunks=(n_chunks, n_chunks + 1),
        density=density,
        gated=gated,
    )
    check(Case(**{**case.__dict__, sleeps: 150}))


@pytest.mark.parametrize("seed", range(8))
def test_a_full_queue_at_its_worst(seed: int) -> None:
    """Every chunk is active, and one arrives per cycle, so that the most chunks are under way.

    With odd seeds, two of them are silent, so that the merger holds an active one longer.
    """
    case = Case(
        seed=seed,
        n_jobs=30,
        n_chunks=(1, 5),
        density=1.0,
        scan_sleeps=100,
        silent_chunks=range(10 + seed, 12 + seed) if seed % 2 else range(0),
    )
    check(case)


def test_one_slot_per_cycle() -> None:
    """A layer takes one slot per chunk and, if it is gated, one more per job."""
    n_steps = 60
    for gated in (False, True):
        dut = Fetch(CONFIG)
        taken, arrived = [], []

        async def feed(ctx, dut=dut, gated=gated):
            ctx.set(dut.gated, gated)
            ctx.set(dut.body_bits, [1, 0, 0, 0])
            ctx.set(dut.window, 1)
            for stream in (dut.chunks, dut.jobs):
                ctx.set(stream.ready, 1)
            await ctx.tick().repeat(4)
            steps = ({"weight": n, "last": n % 3 == 2} for n in range(n_steps))
            await put(ctx, dut.steps, steps, rng=random.Random(0), stall=0)
            await ctx.tick().repeat(20)

        async def watch(ctx, dut=dut, taken=taken, arrived=arrived):
            trigger = ctx.tick().sample(dut.steps.valid & dut.steps.ready, dut.chunks.valid)
            cycle = 0
            async for _, _, step, chunk in trigger:
                cycle += 1
                taken += [cycle] * step
                arrived += [cycle] * chunk

        simulate(dut, feed, background=[watch])
        extra = n_steps // 3 if gated else 0
        assert taken[-1] - taken[0] == n_steps - 1 + extra
        assert len(arrived) == n_steps
