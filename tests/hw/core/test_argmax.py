"""Tests that the argmax finds the first of the largest logits in the expected time."""

import random

import pytest

from hw.core.argmax import Argmax
from hw.spec import Config, signed_range
from tests.streams import simulate

MEMBRANE_BITS = 16
LOW, HIGH = signed_range(MEMBRANE_BITS)


@pytest.mark.parametrize(("fire_lanes", "sum_queue"), [(1, 0), (4, 16), (16, 16)])
@pytest.mark.parametrize("n_classes", [1, 2, 4, 5, 10, 32])
def test_first_largest(n_classes: int, fire_lanes: int, sum_queue: int) -> None:
    config = Config(
        result_rows=32,
        fire_lanes=fire_lanes,
        sum_queue=sum_queue,
        membrane_bits=MEMBRANE_BITS,
        param_depth=1024,
    )
    rng = random.Random(f"{n_classes} {fire_lanes}")
    dut = Argmax(config)
    cases = [[rng.randrange(-3, 3) for _ in range(n_classes)] for _ in range(12)]
    cases += [[rng.randint(LOW, HIGH) for _ in range(n_classes)] for _ in range(4)]
    cases += [[-5] * n_classes, [LOW] * n_classes, [HIGH] * n_classes]
    found = []

    async def bench(ctx):
        ctx.set(dut.n_classes, n_classes)
        for logits in cases:
            # Values behind the last class are as large as possible, but must not be chosen.
            padded = logits + [HIGH] * (33 * fire_lanes)
            ctx.set(dut.start, 1)
            assert not ctx.get(dut.busy)
            nothing = [HIGH] * fire_lanes
            on_the_way = [nothing] * (config.param_latency - 1)
            n_cycles, done = 0, False
            while not done:
                _, _, row, busy = await ctx.tick().sample(dut.row, dut.busy)
                ctx.set(dut.start, 0)
                n_cycles += 1
                # Unless the argmax is busy, the memory returns other rows, here the largest values.
                row_logits = padded[fire_lanes * row : fire_lanes * (row + 1)]
                on_the_way.append(row_logits if busy else nothing)
                ctx.set(dut.logits, on_the_way.pop(0))
                done = ctx.get(dut.done)
                assert n_cycles < 4 * n_classes + 8
            found.append(ctx.get(dut.index))
            # The limit is two cycles per logit, the latency of each row, and four more.
            assert (
                n_cycles <= 2 * n_classes + config.param_latency * -(-n_classes // fire_lanes) + 4
            )
            await ctx.tick().repeat(rng.randrange(1, 4))
            assert ctx.get(dut.index) == found[-1], "the class is kept until the next start"

    simulate(dut, bench)
    assert found == [logits.index(max(logits)) for logits in cases]
