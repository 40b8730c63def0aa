"""Tests of parameter memory: reads take a fixed number of cycles, and results have the right
places."""

import random

import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.core.params import ParamMemory, result_row
from hw.spec import Config
from tests.streams import simulate

BUILDS = [
    Config(fire_lanes=1, sum_queue=0, param_depth=256, max_layers=8, result_rows=8),
    Config(fire_lanes=4, param_depth=128, max_layers=8, result_rows=8),
    Config(fire_lanes=4, param_depth=192, max_layers=8, result_rows=8, banks=2),
    Config(fire_lanes=4, lanes=32, param_depth=160, max_layers=8, result_rows=8, banks=4),
]


@pytest.mark.parametrize("config", BUILDS, ids=range(len(BUILDS)))
def test_reads_and_writes(config: Config) -> None:
    """Check that a row arrives ``param_latency`` cycles after its address, while other rows are
    written."""
    rng = random.Random(config.fire_lanes)
    dut = ParamMemory(config)

    def random_row() -> list[dict[str, int]]:
        return [
            {"bias": rng.randrange(-32768, 32768), "threshold": rng.randrange(-32768, 32768)}
            for _ in range(config.fire_lanes)
        ]

    def packed(row: list[dict[str, int]]) -> int:
        return sum(
            (n["bias"] & 0xFFFF | (n["threshold"] & 0xFFFF) << 16) << 32 * i
            for i, n in enumerate(row)
        )

    async def bench(ctx):
        rows = {row: random_row() for row in range(config.param_depth)}
        for row in rng.sample(range(config.param_depth), config.param_depth):
            ctx.set(dut.write.valid, 1)
            ctx.set(dut.write.p, {"row": row, "data": packed(rows[row])})
            await ctx.tick()
        ctx.set(dut.write.valid, 0)
        await ctx.tick().repeat(2)
        due: list[list[dict[str, int]] | None] = [None] * (config.param_latency - 1)
        written, asked = [-1] * 3, [-1] * config.param_latency
        for _ in range(300):
            # No read of a row is under way while the row is written.
            row = rng.choice([r for r in range(config.param_depth) if r not in written])
            other = rng.randrange(config.param_depth)
            asked = [*asked[1:], row]
            writes = rng.random() < 0.5 and other not in asked
            due.append(rows[row])
            ctx.set(dut.read_row, row)
            ctx.set(dut.write.valid, writes)
            value = random_row()
            ctx.set(dut.write.p, {"row": other, "data": packed(value)})
            await ctx.tick()
            wanted = due.pop(0)
            if wanted is not None:
                got = [{"bias": n.bias, "threshold": n.threshold} for n in ctx.get(dut.read_data)]
                assert got == wanted
            written = [*written[1:], other if writes else -1]
            if writes:
                rows[other] = value

    simulate(dut, bench)


class ResultRow(wiring.Component):
    """Component that computes the index in parameter memory of a row of results."""

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "index": In(range(config.page_rows)),
                "page": In(1),
                "row": Out(range(config.param_depth)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += Signal().eq(0)  # a simulation needs a clock
        m.d.comb += self.row.eq(result_row(m, self._config, self.index, self.page))
        return m


@pytest.mark.parametrize("config", BUILDS, ids=range(len(BUILDS)))
def test_pages_of_results_are_the_last_rows(config: Config) -> None:
    dut = ResultRow(config)

    async def bench(ctx):
        rows = []
        for page in range(2):
            for index in range(config.page_rows):
                ctx.set(dut.page, page)
                ctx.set(dut.index, index)
                rows.append(ctx.get(dut.row))
        assert rows == list(range(config.n_param_rows, config.param_depth))

    simulate(dut, bench)
