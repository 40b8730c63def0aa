"""Spike memory: unaligned windows of bits, unaligned runs of granules."""

import random

import pytest

from hw.core.spikes import SpikeMemory
from hw.spec import GRANULE_BITS, Config
from tests.streams import simulate


@pytest.mark.parametrize(("lanes", "chunk_bits"), [(8, 32), (16, 64), (32, 64), (64, 64)])
def test_windows_see_what_was_written(lanes: int, chunk_bits: int) -> None:
    config = Config(lanes=lanes, chunk_bits=chunk_bits, spike_bytes=256, fire_lanes=4)
    rng = random.Random(lanes)
    dut = SpikeMemory(config)
    memory = 0

    async def bench(ctx):
        nonlocal memory
        for _ in range(150):
            n_granules = rng.randrange(1, lanes // GRANULE_BITS + 1)
            granule = rng.randrange(config.spike_bytes - n_granules + 1)
            bits = rng.getrandbits(lanes)
            ctx.set(dut.write.valid, 1)
            ctx.set(dut.write.p, {"granule": granule, "count": n_granules, "bits": bits})
            mask = ((1 << n_granules * GRANULE_BITS) - 1) << granule * GRANULE_BITS
            memory = memory & ~mask | (bits << granule * GRANULE_BITS) & mask
            await ctx.tick()
        ctx.set(dut.write.valid, 0)
        await ctx.tick().repeat(2)
        expected = []
        for _ in range(300):  # one window per cycle
            bit = rng.randrange(8 * config.spike_bytes - chunk_bits + 1)
            ctx.set(dut.read_bit, bit)
            expected.append(memory >> bit & ((1 << chunk_bits) - 1))
            await ctx.tick()
            if len(expected) >= dut.LATENCY:
                assert ctx.get(dut.window) == expected[-dut.LATENCY]

    simulate(dut, bench)


def test_a_write_is_seen_two_cycles_later() -> None:
    dut = SpikeMemory(Config(spike_bytes=256))

    async def bench(ctx):
        ctx.set(dut.read_bit, 40)
        ctx.set(dut.write.valid, 1)
        ctx.set(dut.write.p, {"granule": 5, "count": 1, "bits": 0xA5})
        await ctx.tick()
        ctx.set(dut.write.valid, 0)
        await ctx.tick().repeat(1 + dut.LATENCY)
        assert ctx.get(dut.window) & 0xFF == 0xA5

    simulate(dut, bench)
