"""Tests of rate changes: they wait for pending bytes, and end in the default rate if the trial
fails."""

import pytest

from hw.link.rate import RateControl, default_divisor
from hw.spec import Config, SpecError
from tests.streams import refuses, simulate

CONFIG = Config()
TRIAL_CYCLES = 64
DEFAULT = default_divisor(CONFIG) - 1


def run_bench(body) -> None:
    dut = RateControl(CONFIG, trial_cycles=TRIAL_CYCLES)

    async def bench(ctx):
        assert ctx.get(dut.divisor_less_1) == DEFAULT
        assert not ctx.get(dut.busy)
        await body(ctx, dut)

    simulate(dut, bench)


async def strobe(ctx, signal) -> None:
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


async def agree(ctx, dut, divisor_less_1: int) -> None:
    """Request another divisor while a reply is being sent; check that it takes effect only after
    the reply."""
    ctx.set(dut.sending, 1)
    ctx.set(dut.wanted, divisor_less_1)
    await strobe(ctx, dut.agree)
    for _ in range(10):
        assert ctx.get(dut.busy)
        assert ctx.get(dut.divisor_less_1) != divisor_less_1
        await ctx.tick()
    ctx.set(dut.sending, 0)
    await ctx.tick()
    assert ctx.get(dut.divisor_less_1) == divisor_less_1


def test_default_rate_is_one_megabaud():
    assert default_divisor(CONFIG) == 48


@pytest.mark.parametrize("clk_hz", (3_000_000, 300_000_000))
def test_clock_that_cannot_make_the_default_is_refused(clk_hz):
    with refuses(SpecError, f"clk_hz = {clk_hz} is not supported: use 4,000,000 to 256,000,000"):
        RateControl(Config(clk_hz=clk_hz, baud=500_000))


def test_rate_at_which_a_frame_arrives_is_kept():
    async def body(ctx, dut):
        await agree(ctx, dut, 3)
        await ctx.tick().repeat(TRIAL_CYCLES - 10)
        assert ctx.get(dut.busy)
        await strobe(ctx, dut.passed)
        await ctx.tick().repeat(3 * TRIAL_CYCLES)
        assert ctx.get(dut.divisor_less_1) == 3
        assert not ctx.get(dut.busy)
        # The next change of rate gets a trial of full length, too.
        await agree(ctx, dut, 7)
        await ctx.tick().repeat(TRIAL_CYCLES - 10)
        assert ctx.get(dut.divisor_less_1) == 7

    run_bench(body)


def test_default_is_restored_if_no_frame_arrives():
    async def body(ctx, dut):
        await agree(ctx, dut, 3)
        await ctx.tick().repeat(TRIAL_CYCLES + 2)
        assert ctx.get(dut.divisor_less_1) == DEFAULT
        assert not ctx.get(dut.busy)

    run_bench(body)


@pytest.mark.parametrize("confirmed", (False, True))
def test_break_restores_the_default(confirmed):
    async def body(ctx, dut):
        await agree(ctx, dut, 3)
        if confirmed:
            await strobe(ctx, dut.passed)
        await ctx.tick().repeat(5)
        await strobe(ctx, dut.line_break)
        assert ctx.get(dut.divisor_less_1) == DEFAULT
        assert not ctx.get(dut.busy)

    run_bench(body)
