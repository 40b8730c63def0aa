"""Tests of spike memory: reads of windows of bits, contiguous or in pieces, and writes of bytes
(granules)."""

import random
from collections import deque

import pytest

from hw.core.spikes import SpikeMemory
from hw.spec import GRANULE_BITS, PIECE_BITS, Config
from tests.streams import simulate

BUILDS = pytest.mark.parametrize(
    ("lanes", "banks", "chunk_bits"),
    [
        (8, 1, 32),
        (16, 1, 64),
        (32, 1, 64),
        (64, 1, 64),
        (16, 2, 32),
        (32, 4, 64),
        (64, 2, 32),
        (64, 4, 64),
    ],
)


def build(lanes: int, banks: int, chunk_bits: int) -> Config:
    return Config(lanes=lanes, banks=banks, chunk_bits=chunk_bits, spike_bytes=1024, fire_lanes=4)


async def fill(ctx, dut: SpikeMemory, config: Config, rng: random.Random, n_writes: int) -> int:
    """Write random runs of granules (bytes), one run per cycle; return the whole memory as one
    integer.

    A run is at most as long as the output spikes that the bank receives in one cycle.
    """
    n_bits = 8 * config.spike_bytes
    memory = 0
    ctx.set(dut.write.valid, 1)
    whole = config.bank_lanes // GRANULE_BITS
    writes = [(granule, whole) for granule in range(0, config.spike_bytes, whole)]
    for _ in range(n_writes):
        count = rng.randrange(0, whole + 1)
        writes.append((rng.randrange(config.spike_bytes - count + 1), count))
    for granule, count in writes:
        bits = rng.getrandbits(config.bank_lanes)
        ctx.set(dut.write.p, {"granule": granule, "count": count, "bits": bits})
        mask = ((1 << count * GRANULE_BITS) - 1) << granule * GRANULE_BITS
        memory = memory & ~mask | (bits << granule * GRANULE_BITS) & mask
        await ctx.tick()
    ctx.set(dut.write.valid, 0)
    await ctx.tick().repeat(3)
    assert memory < 1 << n_bits
    return memory


@BUILDS
def test_windows_see_what_was_written(lanes: int, banks: int, chunk_bits: int) -> None:
    """Check windows at any bit address, read one per cycle.

    The last ``address % 8`` bits of a window are not compared, because spike memory leaves them
    undefined.
    """
    config = build(lanes, banks, chunk_bits)
    rng = random.Random(lanes)
    dut = SpikeMemory(config)

    async def bench(ctx):
        memory = await fill(ctx, dut, config, rng, 150)
        expected: deque[tuple[int, int]] = deque()
        rows = [rng.randrange(256) for _ in range(chunk_bits // PIECE_BITS)]
        ctx.set(dut.piece_rows, rows)  # has no effect here
        for _ in range(300):
            bit = rng.randrange(8 * config.spike_bytes - chunk_bits + 1)
            ctx.set(dut.read_bit, bit)
            mask = (1 << chunk_bits - bit % GRANULE_BITS) - 1
            expected.append((memory >> bit & mask, mask))
            await ctx.tick()
            if len(expected) == dut.LATENCY:
                value, mask = expected.popleft()
                assert ctx.get(dut.window) & mask == value, f"seed {lanes}"

    simulate(dut, bench)


@BUILDS
def test_pieces_of_several_rows(lanes: int, banks: int, chunk_bits: int) -> None:
    """Check windows whose pieces come from several rows of a feature map.

    This is done for every distance between these rows that puts the pieces into different byte-wide
    memories (columns). Such windows alternate at random with contiguous ones.
    """
    config = build(lanes, banks, chunk_bits)
    rng = random.Random(100 + lanes)
    dut = SpikeMemory(config)
    n_pieces = chunk_bits // PIECE_BITS
    layouts = []
    for pitch in range(PIECE_BITS, 12 * PIECE_BITS, PIECE_BITS):
        for n_rows in range(2, n_pieces + 1):
            starts = [r * pitch // PIECE_BITS for r in range(n_rows)]
            if len({start % n_pieces for start in starts}) == n_rows:
                layouts.append((pitch, n_rows, starts))
    assert {n_rows for _, n_rows, _ in layouts} == set(range(2, n_pieces + 1))

    async def bench(ctx):
        memory = await fill(ctx, dut, config, rng, 150)
        for pitch, n_rows, starts in layouts:
            rows = [0] * n_pieces
            for start in starts:
                rows[start % n_pieces] = start // n_pieces
            ctx.set(dut.piece_rows, rows)
            expected: deque[tuple[int, bool]] = deque()
            for _ in range(24 + dut.LATENCY):
                bit = rng.randrange(8 * config.spike_bytes - n_rows * pitch - chunk_bits)
                gather = rng.random() < 0.7
                ctx.set(dut.read_bit, bit)
                ctx.set(dut.gather, gather)
                expected.append((bit, gather))
                await ctx.tick()
                if len(expected) < dut.LATENCY:
                    continue
                window = ctx.get(dut.window)
                bit, gather = expected.popleft()
                if not gather:
                    mask = (1 << chunk_bits - bit % GRANULE_BITS) - 1
                    assert (window ^ memory >> bit) & mask == 0
                    continue
                mask = (1 << PIECE_BITS - bit % GRANULE_BITS) - 1
                for r, start in enumerate(starts):
                    piece = window >> start % n_pieces * PIECE_BITS & mask
                    wanted = memory >> bit + r * pitch & mask
                    assert piece == wanted, f"pitch {pitch}, row {r} of {n_rows}, bit {bit}"

    simulate(dut, bench, max_ticks=40_000)


def test_a_write_is_seen_three_cycles_later() -> None:
    """Check that a read that begins at least three cycles after a write returns the new contents.

    This holds even if the same byte was read in every cycle before the write.
    """
    dut = SpikeMemory(Config(spike_bytes=256))

    async def bench(ctx):
        ctx.set(dut.read_bit, 40)
        await ctx.tick().repeat(10)
        ctx.set(dut.write.valid, 1)
        ctx.set(dut.write.p, {"granule": 5, "count": 1, "bits": 0xA5})
        await ctx.tick()
        ctx.set(dut.write.valid, 0)
        await ctx.tick().repeat(2)
        await ctx.tick().repeat(dut.LATENCY)
        assert ctx.get(dut.window) & 0xFF == 0xA5

    simulate(dut, bench)


def test_without_valid_nothing_is_written() -> None:
    dut = SpikeMemory(Config(spike_bytes=256))

    async def bench(ctx):
        ctx.set(dut.write.p, {"granule": 0, "count": 2, "bits": 0xFFFF})
        await ctx.tick().repeat(4 + dut.LATENCY)
        assert ctx.get(dut.window) == 0

    simulate(dut, bench)
