"""The class is the first largest logit."""

import random

import pytest

from hw.core.argmax import Argmax
from hw.spec import Config
from tests.streams import simulate

CONFIG = Config(result_rows=8, fire_lanes=4, membrane_bits=16)


@pytest.mark.parametrize("n_classes", [1, 2, 4, 5, 10, 32])
def test_first_largest(n_classes: int) -> None:
    rng = random.Random(n_classes)
    dut = Argmax(CONFIG)
    cases = [[rng.randrange(-3, 3) for _ in range(n_classes)] for _ in range(20)]
    cases += [[-5] * n_classes, [-32768] * n_classes, [32767] * n_classes]
    found = []

    async def bench(ctx):
        ctx.set(dut.n_classes, n_classes)
        for logits in cases:
            ctx.set(dut.start, 1)
            done = False
            for _ in range(200):
                _, _, row = await ctx.tick().sample(dut.row)
                ctx.set(dut.start, 0)
                # What lies behind the last class is larger than any logit, and no candidate.
                padded = logits + [32767] * (4 * CONFIG.result_rows + 4 - n_classes)
                ctx.set(dut.logits, padded[4 * row : 4 * row + 4])
                if ctx.get(dut.done):
                    done = True
                    found.append(ctx.get(dut.index))
                    break
            assert done
            await ctx.tick()

    simulate(dut, bench)
    assert found == [logits.index(max(logits)) for logits in cases]
