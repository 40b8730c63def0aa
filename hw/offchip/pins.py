"""Pins and commands of an SDRAM."""

from __future__ import annotations

from amaranth.lib import enum, wiring
from amaranth.lib.wiring import Out

from hw.offchip.timing import N_BANKS, SdramChip

ALL_BANKS = 1 << 10
"""Address bit that makes a precharge close all banks."""


class Command(enum.Enum, shape=3):
    """Command to the chip: the levels of ``ras_n`` (lowest bit), ``cas_n`` and ``we_n``."""

    MODE = 0b000
    REFRESH = 0b100
    PRECHARGE = 0b010
    ACTIVATE = 0b110
    WRITE = 0b001
    READ = 0b101
    NOP = 0b111


class SdramPins(wiring.Signature):
    """Pins of an SDRAM, seen from the controller; the names with ``_n`` are active low.

    The chip's clock is not among them: it is the controller's clock, shifted so that the chip sees
    all pins change well before its rising edge.

    Members
    -------
    clk_en, cs_n, ras_n, cas_n, we_n, ba, a : as in the data sheets (``CKE``, ``CS#`` and so on).
    dq_o, dq_oe, dq_i : data bus: output, its enable, and input.
    dqm : masks of the bytes of the data bus.
    """

    def __init__(self, chip: SdramChip):
        super().__init__(
            {
                "clk_en": Out(1),
                "cs_n": Out(1, init=1),
                "ras_n": Out(1, init=1),
                "cas_n": Out(1, init=1),
                "we_n": Out(1, init=1),
                "ba": Out(range(N_BANKS)),
                "a": Out(chip.address_bits),
                "dq_o": Out(chip.data_bits),
                "dq_oe": Out(1),
                "dq_i": wiring.In(chip.data_bits),
                "dqm": Out(chip.data_bits // 8, init=(1 << chip.data_bits // 8) - 1),
            }
        )
