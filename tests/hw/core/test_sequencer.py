"""Tests of the sequencer, which runs the layers: their order, their cycles, and the results it
reports."""

import random

import pytest

from hw.core.sequencer import Sequencer
from hw.spec import Config
from tests.streams import get, put, simulate, stays_valid, wait_until

BUILDS = [
    Config(fire_lanes=fire_lanes, banks=banks, param_depth=1024)
    for fire_lanes, banks in ((16, 1), (1, 1), (2, 1), (4, 1), (2, 2))
]
PULSES = ("go_to", "load", "clear", "clear_counters", "start", "argmax_start")
COUNTERS = ("n_cycles", "n_weight_reads", "n_synaptic_ops", "n_spikes")


@pytest.mark.parametrize("build", range(len(BUILDS)))
def test_layers_one_after_the_other(build: int) -> None:
    """Check that each layer is loaded, started once and counted, and that the run ends with the
    final layer.

    The results of a run are stored in the page of parameter memory that the host does not read. The
    pages change places when the run is reported.
    """
    config = BUILDS[build]
    rng = random.Random(build)
    dut = Sequencer(config)
    events: list[str] = []
    stored: dict[tuple[int, int], int] = {}
    n_counting = 0

    async def tick(ctx, n: int = 1) -> None:
        """Wait ``n`` cycles, and record the sequencer's outputs in each of them."""
        nonlocal n_counting
        for _ in range(n):
            sampled = [
                *(dut.page, dut.counter_en, dut.counter_index, dut.counter_data, dut.counting),
                *(getattr(dut, name) for name in PULSES),
            ]
            _, _, page, counter_en, index, value, counting, *now = await ctx.tick().sample(*sampled)
            pulses = [name for name, pulse in zip(PULSES, now, strict=True) if pulse]
            events.extend(pulses)
            n_counting = 0 if "clear_counters" in pulses else n_counting + counting
            if counter_en:
                assert not counting, "the counters are stored when they are complete"
                assert (page, index) not in stored
                stored[page, index] = value

    async def bench(ctx):
        for tag, n_layers in enumerate((3, 1, 2)):
            page = ctx.get(dut.page)
            assert not ctx.get(dut.busy) and not events
            assert ctx.get(dut.run.ready)
            ctx.set(dut.run.valid, 1)
            ctx.set(dut.run.p, {"tag": tag, "entry": 77})
            await tick(ctx)
            assert ctx.get(dut.busy) and not ctx.get(dut.run.ready)
            ctx.set(dut.run.p, {"tag": 99})  # the next run has to wait
            n_cycles = 0
            wanted_counters = []

            async def run(n: int = 1) -> None:
                """Wait ``n`` cycles in which the run is in progress."""
                nonlocal n_cycles
                for _ in range(n):
                    assert ctx.get(dut.busy)
                    await tick(ctx)
                    n_cycles += 1

            for layer in range(n_layers):
                before = ["go_to"] * (layer == 0)
                ctx.set(dut.granule_under_way, 1)  # a read of the host that began in time
                for _ in range(rng.randrange(4)):
                    assert "load" not in events
                    assert ctx.get(dut.loading)
                    await run()
                ctx.set(dut.granule_under_way, 0)
                while "load" not in events:
                    await run()
                assert events == [*before, "load", "clear", "clear_counters"]
                events.clear()
                for _ in range(rng.randrange(20)):
                    assert ctx.get(dut.loading)
                    await run()
                assert not events, "the nest is started before the descriptor is loaded"
                ctx.set(dut.loaded, 1)
                await run()
                ctx.set(dut.loaded, 0)
                await run()
                assert not ctx.get(dut.loading)
                assert ctx.get(dut.start), "as late as the nest needs it"
                ctx.set(dut.final, layer == n_layers - 1)
                await run(rng.randrange(1, 30))
                assert events == ["start"]
                events.clear()
                assert ctx.get(dut.counting)
                ctx.set(dut.finished, 1)
                await run()
                ctx.set(dut.finished, 0)
                await run(2)
                assert ctx.get(dut.counting) == 0 and n_counting > 0
                counters = {name: rng.getrandbits(32) for name in COUNTERS}
                ctx.set(dut.counters, counters)
                wanted_counters.append(list(counters.values()))
                assert ctx.get(dut.counter_en)
                await run(config.counter_rows)
                assert not ctx.get(dut.counter_en)
                ctx.set(dut.counters, {})
            assert events == ["argmax_start"]
            events.clear()
            await run(rng.randrange(1, 9))
            assert not ctx.get(dut.done.valid)
            ctx.set(dut.argmax_done, 1)
            ctx.set(dut.argmax_index, 300 + tag)
            await run()
            ctx.set(dut.run.valid, 0)
            ctx.set(dut.argmax_done, 0)
            ctx.set(dut.argmax_index, 0)
            assert not ctx.get(dut.busy)
            await tick(ctx, rng.randrange(1, 9))
            assert ctx.get(dut.page) == page, "until it is reported, the run before has the results"
            assert not ctx.get(dut.run.ready), "until it is reported, no run begins"
            result = await get(ctx, dut.done, rng=rng, stall=0.5)
            assert (result.tag, result.argmax) == (tag, 300 + tag)
            assert result.n_cycles == n_cycles
            assert ctx.get(dut.page) == 1 - page, "results of a run that has ended are kept"
            n_rows, row_bits = config.counter_rows, min(32 * config.fire_lanes, 128)
            assert sorted(stored) == [(page, i) for i in range(n_layers * n_rows)]
            for layer, wanted in enumerate(wanted_counters):
                value = sum(
                    (stored[page, layer * n_rows + i] & (1 << row_bits) - 1) << i * row_bits
                    for i in range(n_rows)
                )
                assert [value >> 32 * i & 0xFFFFFFFF for i in range(4)] == wanted
            stored.clear()

    simulate(dut, bench, background=[stays_valid(dut.done)])


def test_the_last_spikes_are_counted() -> None:
    """Check that spikes of the two cycles after the end of a layer (signal ``finished``) count, and
    no later ones."""
    dut = Sequencer(BUILDS[0])

    async def bench(ctx):
        await put(ctx, dut.run, [{"tag": 1}], rng=random.Random(0), stall=0)
        await wait_until(ctx, dut.load)
        assert ctx.get(dut.counting)
        ctx.set(dut.loaded, 1)
        await wait_until(ctx, dut.start)
        ctx.set(dut.finished, 1)
        await ctx.tick()
        ctx.set(dut.finished, 0)
        for counting in (1, 1, 0, 0):
            assert ctx.get(dut.counting) == counting
            await ctx.tick()

    simulate(dut, bench)
