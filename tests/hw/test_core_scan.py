"""The scanner: every active input once, in order, one per cycle."""

import itertools
import random

import pytest

from hw.core.scan import Scanner
from hw.spec import Config
from tests.streams import put, simulate

CONFIG = Config(spike_bytes=256, weight_depth=4096)


def run(jobs: list[list[int]], *, spacing: int, stall: float, seed: int = 0):
    """Jobs of chunks (no silent ones, unless alone) to [(cycle, row or None, first, last)]."""
    dut = Scanner(CONFIG)
    events = []
    chunks = [
        {
            "bits": bits,
            "count": bits.bit_count(),
            "weight": 64 * (n + j),
            "first": n == 0,
            "last": n == len(job) - 1,
        }
        for j, job in enumerate(jobs)
        for n, bits in enumerate(job)
    ]
    n_events = sum(max(1, bits.bit_count()) for job in jobs for bits in job)

    async def feed(ctx):
        ctx.set(dut.spacing, spacing)
        await put(ctx, dut.chunks, chunks, rng=random.Random(seed), stall=stall)

    async def collect(ctx):
        cycle = 0
        while len(events) < n_events:
            _, _, valid, event = await ctx.tick().sample(dut.event.valid, dut.event.p)
            if valid:
                row = event.weight if event.read else None
                events.append((cycle, row, bool(event.first), bool(event.last)))
            cycle += 1

    simulate(dut, feed, collect)
    return events


def expected(jobs: list[list[int]]):
    result = []
    for j, job in enumerate(jobs):
        rows = [64 * (n + j) + i for n, bits in enumerate(job) for i in range(64) if bits >> i & 1]
        rows = rows or [None]
        result += [(row, n == 0, n == len(rows) - 1) for n, row in enumerate(rows)]
    return result


@pytest.mark.parametrize("seed", range(4))
def test_every_active_input_once(seed: int) -> None:
    rng = random.Random(seed)
    jobs = [
        [rng.getrandbits(64) & rng.getrandbits(64) | 1 for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.7
        else [0]
        for _ in range(20)
    ]
    events = run(jobs, spacing=1, stall=0.4 * (seed % 2), seed=seed)
    assert [event[1:] for event in events] == expected(jobs)


def test_no_bubble_between_chunks_and_jobs() -> None:
    jobs = [[0b1, 1 << 63], [0], [0xF0F0], [(1 << 64) - 1], [0b10]]
    events = run(jobs, spacing=1, stall=0)
    cycles = [event[0] for event in events]
    assert cycles == list(range(cycles[0], cycles[0] + len(events)))


@pytest.mark.parametrize("spacing", [1, 2, 4, 7])
def test_jobs_end_at_least_spacing_apart(spacing: int) -> None:
    jobs = [[0b1], [0], [0b111], [0b1], [(1 << 10) - 1], [0b11], [0b1]]
    ends = [event[0] for event in run(jobs, spacing=spacing, stall=0) if event[3]]
    gaps = [b - a for a, b in itertools.pairwise(ends)]
    wanted = [max(spacing, max(1, job[0].bit_count())) for job in jobs[1:]]
    assert gaps == wanted
