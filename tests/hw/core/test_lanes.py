"""Tests of the accumulators: they add the right weights, and stall while a job's sums wait to be
taken.

A *job* is one output position, group of ``lanes`` output channels and timestep. Its *sums* are one
number per lane.
"""

import random
from dataclasses import dataclass

import pytest

from hw.core.lanes import Lanes
from hw.spec import Config, signed_range
from tests.streams import get, simulate, stays_valid, wait_until

MOST_EVENTS = 20
"""Largest number of active inputs of a job in these tests."""


def build(sum_queue: int, weight_bits: int = 8, banks: int = 1) -> Config:
    """Return a configuration whose accumulators are just wide enough for ``MOST_EVENTS`` times the
    lowest weight."""
    return Config(
        lanes=8 * banks,
        banks=banks,
        fire_lanes=4,
        membrane_bits=16,
        sum_bits=weight_bits + 5,
        chunk_bits=32,
        weight_bits=weight_bits,
        sum_queue=sum_queue,
    )


QUEUES = pytest.mark.parametrize("sum_queue", [0, 16])


@dataclass(frozen=True, kw_only=True)
class Event:
    """Row of weights to add for one active input; or the mark that a job's sums are complete; or
    both."""

    weights: list[int]
    add: bool
    last: bool

    def packed(self, config: Config) -> dict[str, int]:
        """Return the payload for :attr:`Lanes.rows`.

        The weights of an event without an active input are 0 with a queue of sums. Without a queue
        they are random, because the lanes must ignore them.
        """
        mask = (1 << config.weight_bits) - 1
        packed = sum((w & mask) << i * config.weight_bits for i, w in enumerate(self.weights))
        return {
            "weights": packed if self.add or not config.sum_queue else 0,
            "add": self.add,
            "last": self.last,
        }


def random_event(rng: random.Random, config: Config, *, add: bool, last: bool) -> Event:
    low, high = signed_range(config.weight_bits)
    return Event(
        weights=[rng.randint(low, high) for _ in range(config.lanes)],
        add=add,
        last=last,
    )


def random_events(rng: random.Random, config: Config, n_jobs: int) -> list[Event]:
    """Return the events of ``n_jobs`` random jobs.

    A job without active inputs has one event, which only ends it. Any other job ends with the event
    of its last active input, or with one more event.
    """
    low, high = signed_range(config.weight_bits)
    events = []
    for n in range(n_jobs):
        n_active = rng.choice((0, 1, 1, 2, 3, MOST_EVENTS)) if n else MOST_EVENTS
        ends_behind = n_active == 0 or rng.random() < 0.2
        extreme = n == 0 or rng.random() < 0.2
        for i in range(n_active):
            last = i == n_active - 1 and not ends_behind
            event = random_event(rng, config, add=True, last=last)
            if extreme:
                event.weights[:] = [rng.choice((low, low, high)) for _ in event.weights]
                event.weights[0] = low
            events.append(event)
        if ends_behind:
            events.append(random_event(rng, config, add=False, last=True))
    return events


def sums_of(events: list[Event]) -> list[list[int]]:
    """Return the sums of each job, one per lane."""
    jobs, total = [], [0] * len(events[0].weights)
    for event in events:
        if event.add:
            total = [a + b for a, b in zip(total, event.weights, strict=True)]
        if event.last:
            jobs.append(total)
            total = [0] * len(total)
    return jobs


async def drive(ctx, dut: Lanes, config: Config, events: list[Event], rng, gaps: float) -> None:
    """Send events whenever the lanes are ready, with pauses in which the weights are random."""
    for event in events:
        while rng.random() < gaps:
            gap = random_event(rng, config, add=True, last=rng.random() < 0.5)
            ctx.set(dut.rows.valid, 0)
            ctx.set(dut.rows.p, gap.packed(config))
            await ctx.tick()
        ctx.set(dut.rows.valid, 1)
        ctx.set(dut.rows.p, event.packed(config))
        await wait_until(ctx, dut.rows.ready)
    ctx.set(dut.rows.valid, 0)


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_sums_of_jobs_that_wait(stall: float, gaps: float, weight_bits: int) -> None:
    """Check that, without a queue of sums, complete sums and the rows of weights behind them wait
    until the sums are taken."""
    config = build(0, weight_bits)
    rng = random.Random(weight_bits)
    events = random_events(rng, config, 40)
    dut = Lanes(config)

    async def feed(ctx):
        await drive(ctx, dut, config, events, rng, gaps)

    async def collect(ctx):
        for n, sums in enumerate(sums_of(events)):
            got = await get(ctx, dut.sums, rng=random.Random(n), stall=stall)
            assert list(got) == sums, f"job {n}"
        ctx.set(dut.sums.ready, 1)
        for _ in range(5):
            _, _, valid = await ctx.tick().sample(dut.sums.valid)
            assert not valid, "more sums than jobs"

    simulate(dut, feed, collect, background=[stays_valid(dut.sums)])


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize(
    ("sum_queue", "weight_bits", "banks"),
    [(0, 8, 1), (0, 4, 1), (16, 8, 1), (16, 4, 1), (16, 8, 2), (16, 2, 4)],
)
def test_an_event_per_cycle(sum_queue: int, weight_bits: int, banks: int, gaps: float) -> None:
    """Check that the lanes take a row of weights per cycle if sums are taken at once.

    This holds even if each row belongs to another job. With a queue, the sums of a job leave in the
    cycle of its last row.
    """
    config, rng = build(sum_queue, weight_bits, banks), random.Random(banks)
    events = [random_event(rng, config, add=n % 3 > 0, last=True) for n in range(20)]
    events += random_events(rng, config, 30)
    dut = Lanes(config)
    seen, ready, ended = [], [], []

    async def feed(ctx):
        ctx.set(dut.sums.ready, 1)
        await drive(ctx, dut, config, events, rng, gaps)
        await ctx.tick().repeat(2)

    async def watch(ctx):
        async for _, _, is_ready, valid, sums, row_valid, last in ctx.tick().sample(
            dut.rows.ready, dut.sums.valid, dut.sums.p, dut.rows.valid, dut.rows.p.last
        ):
            ready.append(is_ready)
            ended.append(row_valid & last)
            assert valid == (ended[-1] if sum_queue else [0, *ended][-2])
            if valid:
                seen.append(list(sums))

    simulate(dut, feed, background=[watch])
    assert all(ready)
    assert seen == sums_of(events)


def test_with_a_queue_sums_never_wait() -> None:
    """Check that lanes with a queue of sums deliver sums even while ``sums.ready`` is low.

    The scanner reserves a place in the queue for each sum in advance, so that there is always room.
    """
    config, rng = build(16), random.Random(2)
    events = random_events(rng, config, 10)
    dut = Lanes(config)
    seen = []

    async def feed(ctx):
        await drive(ctx, dut, config, events, rng, 0.2)

    async def watch(ctx):
        async for _, _, ready, valid, sums in ctx.tick().sample(
            dut.rows.ready, dut.sums.valid, dut.sums.p
        ):
            assert ready
            if valid:
                seen.append(list(sums))

    simulate(dut, feed, background=[watch])
    assert seen == sums_of(events)


def test_without_a_queue_rows_wait_for_sums() -> None:
    """Check, without a queue of sums, that rows of weights wait until the sums before them are
    taken.

    In the cycle in which they are taken, the next sums begin, with accumulators at 0.
    """
    config = build(0)
    dut = Lanes(config)

    def row(weight: int, last: bool) -> dict[str, int]:
        event = Event(weights=[weight] * config.lanes, add=True, last=last)
        return event.packed(config)

    async def bench(ctx):
        ctx.set(dut.rows.valid, 1)
        for weight, last in ((4, False), (5, True)):
            ctx.set(dut.rows.p, row(weight, last))
            assert ctx.get(dut.rows.ready) and not ctx.get(dut.sums.valid)
            await ctx.tick()
        ctx.set(dut.rows.p, row(6, True))
        for _ in range(4):
            assert ctx.get(dut.sums.valid) and not ctx.get(dut.rows.ready)
            assert list(ctx.get(dut.sums.p)) == [9] * config.lanes
            await ctx.tick()
        ctx.set(dut.sums.ready, 1)
        assert ctx.get(dut.rows.ready)
        await ctx.tick()
        assert ctx.get(dut.sums.valid)
        assert list(ctx.get(dut.sums.p)) == [6] * config.lanes

    simulate(dut, bench)


@pytest.mark.parametrize("complete", [False, True])
@QUEUES
def test_clear_drops_the_sums(sum_queue: int, complete: bool) -> None:
    """Check that ``clear`` drops incomplete sums, and complete sums that wait to be taken."""
    config = build(sum_queue)
    dut = Lanes(config)

    async def bench(ctx):
        nothing = Event(weights=[0] * config.lanes, add=False, last=False)
        event = Event(weights=[4] * config.lanes, add=True, last=complete)
        ctx.set(dut.rows.valid, 1)
        ctx.set(dut.rows.p, event.packed(config))
        await ctx.tick()
        ctx.set(dut.rows.valid, 0)
        ctx.set(dut.rows.p, nothing.packed(config))
        ctx.set(dut.clear, 1)
        assert ctx.get(dut.sums.valid) == (complete and not sum_queue)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        await ctx.tick()
        assert not ctx.get(dut.sums.valid)
        for weight, last in ((5, False), (6, True)):
            event = Event(weights=[weight] * config.lanes, add=True, last=last)
            ctx.set(dut.rows.valid, 1)
            ctx.set(dut.rows.p, event.packed(config))
            if not (sum_queue and last):
                assert not ctx.get(dut.sums.valid)
                await ctx.tick()
        assert ctx.get(dut.sums.valid) and ctx.get(dut.sums.p[0]) == 11

    simulate(dut, bench)
