"""CRC-32 in hardware, one bit per cycle."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import CRC_INIT, CRC_POLYNOMIAL, CRC_RESIDUE, CRC_XOR_OUT

CRC_BITS = 32


class Crc32(wiring.Component):
    """Compute the CRC-32 of a sequence of bytes, eight cycles per byte.

    A byte takes at least 40 cycles on the serial line, so that the line never waits for the CRC.
    Polynomial and initial value are in :mod:`hw.protocol`.

    Members
    -------
    byte, valid, ready : a byte is taken in every cycle in which ``valid`` and ``ready`` are high.
    clear : start a new CRC; allowed only while ``ready``, takes precedence over ``valid``.
    value : CRC of the bytes taken so far; valid while ``ready``.
    intact : the last four bytes taken are the CRC of all bytes before them, low byte first; valid
        while ``ready``.
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
        rest = Signal(7)  # remaining bits of the byte that was taken
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
