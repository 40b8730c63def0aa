"""The loop nest against nested Python loops."""

import itertools
import random

import pytest

from hw.core.nest import FLAGS, LoopNest, address_widths
from hw.spec import N_LEVELS, Config
from tests.streams import get, simulate, stays_valid

CONFIG = Config(weight_depth=500, param_depth=64, spike_bytes=1024)
ADDRESSES = tuple(address_widths(CONFIG))


def increments(counts: list[int], strides: list[int]) -> list[int]:
    moves, span = [], 0
    for count, stride in zip(counts, strides, strict=True):
        moves.append(stride - span)
        span += (count - 1) * stride
    return moves


def walk(counts, strides, bases, masks) -> list[dict[str, int]]:
    """What the nest must say, by loops over indices, level 0 innermost."""
    widths = address_widths(CONFIG)
    steps = []
    for index in itertools.product(*(range(n) for n in reversed(counts))):
        index = index[::-1]
        step = {
            name: (bases[name] + sum(i * s for i, s in zip(index, strides[name], strict=True)))
            % (1 << widths[name])
            for name in ADDRESSES
        }

        def at(levels: int, last: bool, index=index) -> bool:
            return all(
                index[i] == (counts[i] - 1 if last else 0)
                for i in range(N_LEVELS)
                if levels >> i & 1
            )

        step |= {
            "first": at(masks["job_levels"], False),
            "last": at(masks["job_levels"], True),
            "end": at(0xFF, True),
            "cut": at(1, True),
            "fresh": at(masks["time_levels"], False),
            "pool_first": at(masks["pool_levels"], False),
            "pool_last": at(masks["pool_levels"], True),
            "tail": masks["tail_levels"] != 0 and at(masks["tail_levels"], True),
        }
        steps.append(step)
    return steps


@pytest.mark.parametrize("seed", range(8))
def test_equals_nested_loops(seed: int) -> None:
    rng = random.Random(seed)
    counts = [rng.choice((1, 1, 2, 3)) for _ in range(N_LEVELS)]
    strides = {name: [rng.randrange(-20, 20) for _ in counts] for name in ADDRESSES}
    strides["slot"] = [rng.randrange(0, 2) for _ in counts]
    bases = {name: 0 if name == "slot" else rng.randrange(60) for name in ADDRESSES}
    masks = {"job_levels": 0b11, "time_levels": 1 << rng.randrange(2, 8)}
    masks |= {"pool_levels": rng.choice((0, 0b1100)), "tail_levels": rng.choice((0, 0b1000000))}
    expected = walk(counts, strides, bases, masks)
    dut = LoopNest(CONFIG)

    async def load(ctx):
        header = {name: bases[name] for name in ADDRESSES if name != "slot"} | masks
        ctx.set(dut.header, header)
        moves = {name: increments(counts, strides[name]) for name in ADDRESSES}
        ctx.set(dut.level_en, 1)
        for i in range(N_LEVELS):
            ctx.set(dut.level_index, i)
            ctx.set(dut.level, {"last": counts[i] - 1} | {n: moves[n][i] for n in ADDRESSES})
            await ctx.tick()
        ctx.set(dut.level_en, 0)
        await ctx.tick()
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)

    async def check(ctx):
        for n, step in enumerate(expected):
            item = await get(ctx, dut.steps, rng=rng, stall=0.3 * (seed % 2))
            got = {name: getattr(item, name) for name in (*ADDRESSES, *FLAGS)}
            assert got == step, f"seed {seed}, iteration {n}"
        ctx.set(dut.steps.ready, 1)
        for _ in range(20):
            await ctx.tick()
            assert not ctx.get(dut.steps.valid), "more iterations than loops"

    simulate(dut, load, check, background=[stays_valid(dut.steps)])


def test_one_iteration_per_cycle() -> None:
    dut = LoopNest(CONFIG)
    arrivals = []

    async def bench(ctx):
        ctx.set(dut.level_en, 1)
        for i in range(N_LEVELS):
            ctx.set(dut.level_index, i)
            ctx.set(dut.level, {"last": 1})
            await ctx.tick()
        ctx.set(dut.level_en, 0)
        await ctx.tick()
        ctx.set(dut.start, 1)
        ctx.set(dut.steps.ready, 1)
        for cycle in range(400):
            _, _, valid = await ctx.tick().sample(dut.steps.valid)
            ctx.set(dut.start, 0)
            if valid:
                arrivals.append(cycle)

    simulate(dut, bench)
    assert len(arrivals) == 2**N_LEVELS
    assert arrivals[-1] - arrivals[0] == 2**N_LEVELS - 1
