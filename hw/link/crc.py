"""CRC-32, some bits of a byte per cycle, without a table."""

from amaranth import Cat, Module, Mux, Signal, ValueLike
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import CRC_INIT, CRC_POLYNOMIAL, CRC_RESIDUE, CRC_XOR_OUT

CRC_BITS = 32


def crc_step(crc: int, bits: int, n_bits: int) -> int:
    """CRC, not yet complemented, after ``n_bits`` more bits, lowest first; as integers."""
    crc ^= bits
    for _ in range(n_bits):
        crc = (crc >> 1) ^ (CRC_POLYNOMIAL if crc & 1 else 0)
    return crc


def crc_next(crc: ValueLike, bits: Value) -> Value:
    """CRC after more bits, as a network of XORs.

    The CRC is linear over GF(2): bit ``i`` of the result is the parity of those bits of ``crc`` and
    ``bits`` which, set alone, set it.
    """
    n_bits = len(bits)
    inputs = Cat(crc, bits)
    effects = [crc_step(1 << i, 0, n_bits) for i in range(CRC_BITS)] + [
        crc_step(0, 1 << i, n_bits) for i in range(n_bits)
    ]
    return Cat(
        Cat(inputs[i] for i, effect in enumerate(effects) if effect >> bit & 1).xor()
        for bit in range(CRC_BITS)
    )


class Crc32(wiring.Component):
    """Running CRC of some bytes.

    Parameters
    ----------
    bits_per_cycle : 1, 2, 4 or 8; a byte takes ``8 // bits_per_cycle`` cycles.

    Members
    -------
    byte, valid, ready : a byte is taken in each cycle with ``valid`` and ``ready``.
    clear : starts again; only while ``ready``, wins over ``valid``.
    value : CRC of the bytes taken so far, while ``ready``.
    intact : they end in their own CRC, low byte first; while ``ready``.
    """

    def __init__(self, bits_per_cycle: int):
        self.bits_per_cycle = bits_per_cycle
        super().__init__(
            {
                "byte": In(8),
                "valid": In(1),
                "ready": Out(1),
                "clear": In(1),
                "value": Out(CRC_BITS),
                "intact": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n_bits = self.bits_per_cycle
        state = Signal(CRC_BITS, init=CRC_INIT)
        rest = Signal(8 - n_bits)  # of the byte that was taken
        left = Signal(range(8 // n_bits))
        bits = Signal(n_bits)
        m.d.comb += [
            self.ready.eq(left == 0),
            bits.eq(Mux(self.ready, self.byte, rest)),
            self.value.eq(state ^ CRC_XOR_OUT),
            self.intact.eq(state == CRC_RESIDUE ^ CRC_XOR_OUT),
        ]
        with m.If(self.clear):
            m.d.sync += state.eq(CRC_INIT)
        with m.Elif(self.valid | ~self.ready):
            m.d.sync += [
                state.eq(crc_next(state, bits)),
                rest.eq(Mux(self.ready, self.byte, rest) >> n_bits),
                left.eq(left - 1),  # wraps when a byte is taken
            ]
        return m
