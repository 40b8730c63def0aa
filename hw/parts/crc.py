"""CRC-32, a bit per cycle."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import CRC_INIT, CRC_POLYNOMIAL, CRC_RESIDUE, CRC_XOR_OUT

CRC_BITS = 32


class Crc32(wiring.Component):
    """Running CRC of some bytes; each takes eight cycles, which is less than on the wire.

    Members
    -------
    byte, valid, ready : a byte is taken in each cycle with ``valid`` and ``ready``.
    clear : starts again; only while ``ready``, wins over ``valid``.
    value : CRC of the bytes taken so far, while ``ready``.
    intact : they end in their own CRC, low byte first; while ``ready``.
    """

    byte: In(8)
    valid: In(1)
    ready: Out(1)
    clear: In(1)
    value: Out(CRC_BITS)
    intact: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(CRC_BITS, init=CRC_INIT)
        rest = Signal(7)  # of the byte that was taken
        left = Signal(range(8))
        bits = Mux(self.ready, self.byte, rest)
        m.d.comb += [
            self.ready.eq(left == 0),
            self.value.eq(state ^ CRC_XOR_OUT),
            self.intact.eq(state == CRC_RESIDUE ^ CRC_XOR_OUT),
        ]
        with m.If(self.clear):
            m.d.sync += state.eq(CRC_INIT)
        with m.Elif(self.valid | ~self.ready):
            m.d.sync += [
                state.eq((state >> 1) ^ Mux(state[0] ^ bits[0], CRC_POLYNOMIAL, 0)),
                rest.eq(bits >> 1),
                left.eq(left - 1),  # wraps when a byte is taken
            ]
        return m
