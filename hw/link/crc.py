"""CRC-16/GENIBUS, one byte per cycle, without a table."""

from amaranth import Cat, Module, Signal, ValueLike
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import CRC_INIT, CRC_POLYNOMIAL, CRC_RESIDUE, CRC_XOR_OUT

CRC_BITS = 16


def crc_step(crc: int, byte: int) -> int:
    """CRC, not yet complemented, after one more byte; as integers."""
    crc ^= byte << 8
    for _ in range(8):
        crc = (crc << 1) ^ (CRC_POLYNOMIAL if crc & 0x8000 else 0)
        crc &= 0xFFFF
    return crc


def crc_next(crc: ValueLike, byte: ValueLike) -> Value:
    """CRC after one more byte, as a network of XORs (16 bits).

    The CRC is linear over GF(2): bit ``i`` of the result is the parity of those bits of ``crc`` and
    ``byte`` which, set alone, set it.
    """
    inputs = Cat(crc, byte)
    effects = [crc_step(1 << i, 0) for i in range(CRC_BITS)] + [
        crc_step(0, 1 << i) for i in range(8)
    ]
    return Cat(
        Cat(inputs[i] for i, effect in enumerate(effects) if effect >> bit & 1).xor()
        for bit in range(CRC_BITS)
    )


class Crc16(wiring.Component):
    """Running CRC of a packet.

    Members
    -------
    byte, en : a byte is taken in each cycle with ``en``.
    clear : starts a new packet; wins over ``en``.
    value : CRC of the bytes taken so far.
    intact : they end in their own CRC, high byte first.
    """

    byte: In(8)
    en: In(1)
    clear: In(1)
    value: Out(CRC_BITS)
    intact: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(CRC_BITS, init=CRC_INIT)
        m.d.comb += [self.value.eq(state ^ CRC_XOR_OUT), self.intact.eq(state == CRC_RESIDUE)]
        with m.If(self.clear):
            m.d.sync += state.eq(CRC_INIT)
        with m.Elif(self.en):
            m.d.sync += state.eq(crc_next(state, self.byte))
        return m
