"""CRC-16/IBM-3740 against the standard library and its published check value."""

import binascii
import random

from hw.link.crc import Crc16, crc_step
from hw.protocol import CRC_INIT
from tests.streams import simulate

CHECK_INPUT = b"123456789"
CHECK_VALUE = 0x29B1


def crc_of(packet: bytes) -> int:
    dut = Crc16()
    values = []

    async def bench(ctx):
        ctx.set(dut.en, 1)
        for byte in packet:
            ctx.set(dut.byte, byte)
            await ctx.tick()
        values.append(ctx.get(dut.value))
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert ctx.get(dut.value) == CRC_INIT

    simulate(dut, bench)
    return values[0]


def test_check_value():
    assert crc_of(CHECK_INPUT) == CHECK_VALUE


def test_residue_is_zero():
    assert crc_of(CHECK_INPUT + CHECK_VALUE.to_bytes(2, "big")) == 0


def test_every_byte_value_equals_the_standard_library():
    packet = bytes(random.Random(1).sample(range(256), 256))
    assert crc_of(packet) == binascii.crc_hqx(packet, CRC_INIT)


def test_step_equals_the_standard_library():
    rng = random.Random(2)
    for _ in range(1000):
        crc, byte = rng.randrange(1 << 16), rng.randrange(256)
        assert crc_step(crc, byte) == binascii.crc_hqx(bytes([byte]), crc), (crc, byte)
