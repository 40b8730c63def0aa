"""Tests of the queue: order, capacity and clearing."""

import random

import pytest

from hw.parts.queue import Queue
from tests.streams import get, put, refuses, simulate, stays_valid


@pytest.mark.parametrize("always_ready", [False, True])
@pytest.mark.parametrize("stalls", ((0.0, 0.0), (0.0, 0.6), (0.6, 0.0), (0.3, 0.3)))
def test_entries_come_out_in_order(stalls, always_ready):
    """Check order and number of entries, for a queue that refuses entries when full, and for one
    that never refuses any (``always_ready``), which is large enough here not to become full."""
    rng = random.Random(1)
    dut = Queue(8, 512 if always_ready else 8, always_ready=always_ready)
    sent = list(rng.randbytes(300))
    received = []

    async def entries_in(ctx):
        await put(ctx, dut.i, sent, rng=rng, stall=stalls[0])

    async def entries_out(ctx):
        for _ in sent:
            received.append(await get(ctx, dut.o, rng=rng, stall=stalls[1]))
        await ctx.tick()
        assert not ctx.get(dut.busy)

    simulate(dut, entries_in, entries_out, background=[stays_valid(dut.o)])
    assert received == sent


def test_full_queue_is_not_ready():
    dut = Queue(8, 8)

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        n_taken = 0
        for _ in range(20):
            n_taken += ctx.get(dut.i.ready)
            await ctx.tick()
        assert n_taken == 9  # 8 in the memory and one on the output
        assert ctx.get(dut.busy)

    simulate(dut, bench)


def test_cleared_queue_holds_nothing():
    dut = Queue(8, 8)
    rng = random.Random(2)

    async def bench(ctx):
        await put(ctx, dut.i, range(5), rng=rng, stall=0.0)
        await ctx.tick()
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        assert await get(ctx, dut.o, rng=rng, stall=0.0) == 0  # already on the output
        assert not ctx.get(dut.busy)
        await put(ctx, dut.i, range(20, 28), rng=rng, stall=0.0)
        for byte in range(20, 28):
            assert await get(ctx, dut.o, rng=rng, stall=0.0) == byte

    simulate(dut, bench)


@pytest.mark.parametrize("depth", (0, 1, 24))
def test_other_depths_are_refused(depth):
    with refuses(
        ValueError, f"queue of {depth} entries is not supported: use a power of two of at least 2"
    ):
        Queue(8, depth)
