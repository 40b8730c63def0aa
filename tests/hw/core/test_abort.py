"""Tests of aborting a run of the core through its bus.

No network is loaded: the runs are aborted before they end, and only signals of the bus are checked.
"""

import pytest

from hw.core.core import Core
from hw.spec import Config
from tests.streams import simulate


@pytest.mark.parametrize("banks", [1, 2])
@pytest.mark.parametrize("n_cycles", [1, 2, 30])
def test_the_core_becomes_idle_while_the_abort_lasts(n_cycles: int, banks: int) -> None:
    """Check that an aborted core becomes idle and refuses a new run while ``bus.abort`` is high."""
    config = Config(
        lanes=8 * banks,
        banks=banks,
        fire_lanes=4,
        chunk_bits=32,
        weight_depth=64,
        spike_bytes=256,
        param_depth=128,
        max_layers=8,
        result_rows=8,
    )
    dut = Core(config)

    async def bench(ctx):
        await ctx.tick().repeat(3)
        for _ in range(2):
            ctx.set(dut.bus.run.valid, 1)
            assert ctx.get(dut.bus.run.ready)
            await ctx.tick()
            ctx.set(dut.bus.run.valid, 0)
            await ctx.tick().repeat(n_cycles)
            assert ctx.get(dut.bus.busy)
            ctx.set(dut.bus.abort, 1)
            await ctx.tick()
            n_busy = 0
            while ctx.get(dut.bus.busy):
                await ctx.tick()
                n_busy += 1
                assert n_busy < 20, "the core never becomes idle"
            ctx.set(dut.bus.run.valid, 1)
            for _ in range(10):
                assert not ctx.get(dut.bus.run.ready) and not ctx.get(dut.bus.busy)
                await ctx.tick()
            ctx.set(dut.bus.run.valid, 0)
            ctx.set(dut.bus.abort, 0)
            for _ in range(5):
                await ctx.tick()
                assert not ctx.get(dut.bus.busy) and not ctx.get(dut.bus.done.valid)

    simulate(dut, bench)
