"""Tests of CRC-32 against the standard library and the published check value."""

import random
import zlib
from itertools import pairwise

from hw.parts.crc import Crc32
from hw.protocol import CRC_POLYNOMIAL
from tests.streams import simulate

CHECK_INPUT = b"123456789"
CHECK_VALUE = 0xCBF43926


def crc_step(crc: int, bits: int, n_bits: int) -> int:
    """Return the CRC after ``n_bits`` more bits, the lowest first, before the final inversion."""
    crc ^= bits
    for _ in range(n_bits):
        crc = (crc >> 1) ^ (CRC_POLYNOMIAL if crc & 1 else 0)
    return crc


def crc_of(packet: bytes) -> tuple[int, bool]:
    """Return the CRC of a packet, and whether the packet ends in its own CRC."""
    dut = Crc32()
    outcome = []

    async def bench(ctx):
        for byte in packet:
            ctx.set(dut.valid, 1)
            ctx.set(dut.byte, byte)
            while not ctx.get(dut.ready):
                await ctx.tick()
            await ctx.tick()
            ctx.set(dut.valid, 0)
        while not ctx.get(dut.ready):
            await ctx.tick()
        outcome.append((ctx.get(dut.value), bool(ctx.get(dut.intact))))
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert ctx.get(dut.value) == 0

    simulate(dut, bench)
    return outcome[0]


def test_check_value():
    assert crc_of(CHECK_INPUT) == (CHECK_VALUE, False)


def test_packet_with_its_crc_is_intact():
    whole = CHECK_INPUT + CHECK_VALUE.to_bytes(4, "little")
    assert crc_of(whole)[1]
    # A residue of zero would not notice a zero byte at the end.
    assert not crc_of(whole + b"\0")[1]
    assert not crc_of(whole[:-1])[1]


def test_every_bit_of_the_residue_counts():
    """Check that a packet is not intact if a single bit of its CRC residue is wrong, for each bit.

    The residue is the CRC over the packet and its own CRC; it is a constant if the packet is
    intact.
    """
    whole = CHECK_INPUT + CHECK_VALUE.to_bytes(4, "little")
    # The CRC depends linearly on the last four bytes: invert this map by elimination.
    rows = [(crc_step(1 << i, 0, 32), 1 << i) for i in range(32)]
    for bit in range(32):
        pivot = next(n for n in range(bit, 32) if rows[n][0] >> bit & 1)
        rows[bit], rows[pivot] = rows[pivot], rows[bit]
        for n in range(32):
            if n != bit and rows[n][0] >> bit & 1:
                rows[n] = tuple(a ^ b for a, b in zip(rows[n], rows[bit], strict=True))
    dut = Crc32()

    async def bench(ctx):
        for bit, (effect, cause) in enumerate(rows):
            assert effect == 1 << bit
            moved = whole[:-4] + (CHECK_VALUE ^ cause).to_bytes(4, "little")
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.valid, 1)
            for byte in moved:
                ctx.set(dut.byte, byte)
                await ctx.tick().repeat(8)
            ctx.set(dut.valid, 0)
            assert not ctx.get(dut.intact), f"residue bit {bit}"

    simulate(dut, bench)


def test_every_byte_value_equals_the_standard_library():
    packet = bytes(random.Random(1).sample(range(256), 256))
    assert crc_of(packet)[0] == zlib.crc32(packet)


def test_step_equals_the_standard_library():
    data = random.Random(2).randbytes(300)
    crc = 0xFFFFFFFF
    for n, (byte, _) in enumerate(pairwise(data)):
        crc = crc_step(crc_step(crc, byte & 7, 3), byte >> 3, 5)
        assert crc ^ 0xFFFFFFFF == zlib.crc32(data[: n + 1])
