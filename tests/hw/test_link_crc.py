"""CRC-16/GENIBUS against the standard library and its published check value."""

import binascii
import random
from itertools import product

from hw.link.crc import Crc16, crc_step
from hw.protocol import CRC_INIT, CRC_XOR_OUT
from tests.streams import simulate

CHECK_INPUT = b"123456789"
CHECK_VALUE = 0xD64E


def crc_of(packet: bytes) -> tuple[int, bool]:
    """CRC, and whether the packet ends in its own."""
    dut = Crc16()
    outcome = []

    async def bench(ctx):
        ctx.set(dut.en, 1)
        for byte in packet:
            ctx.set(dut.byte, byte)
            await ctx.tick()
        outcome.append((ctx.get(dut.value), bool(ctx.get(dut.intact))))
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert ctx.get(dut.value) == CRC_INIT ^ CRC_XOR_OUT

    simulate(dut, bench)
    return outcome[0]


def test_check_value():
    assert crc_of(CHECK_INPUT) == (CHECK_VALUE, False)


def test_packet_with_its_crc_is_intact():
    whole = CHECK_INPUT + CHECK_VALUE.to_bytes(2, "big")
    assert crc_of(whole)[1]
    # A zero at the end is where a residue of zero would be blind.
    assert not crc_of(whole + b"\0")[1]
    assert not crc_of(whole[:-1])[1]


def test_every_bit_of_the_residue_counts():
    """Last two bytes that move the residue by one bit only, for each of its bits."""
    whole = CHECK_INPUT + CHECK_VALUE.to_bytes(2, "big")
    moves = {
        crc_step(crc_step(0, high), low): (high, low) for high, low in product(range(256), repeat=2)
    }
    for bit in range(16):
        high, low = moves[1 << bit]
        moved = whole[:-2] + bytes([whole[-2] ^ high, whole[-1] ^ low])
        assert not crc_of(moved)[1], f"residue bit {bit}"


def test_every_byte_value_equals_the_standard_library():
    packet = bytes(random.Random(1).sample(range(256), 256))
    assert crc_of(packet)[0] == binascii.crc_hqx(packet, CRC_INIT) ^ CRC_XOR_OUT


def test_step_equals_the_standard_library():
    rng = random.Random(2)
    for _ in range(1000):
        crc, byte = rng.randrange(1 << 16), rng.randrange(256)
        assert crc_step(crc, byte) == binascii.crc_hqx(bytes([byte]), crc), (crc, byte)
