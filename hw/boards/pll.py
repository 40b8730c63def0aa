"""Divider settings of PLLs for a given output frequency, within the ranges of the data sheets.

Frequencies are in Hz. The settings produce exactly the requested frequency, because ``clk_hz``
determines the rate of the serial line and every reported latency. If several settings produce it,
those with the highest frequency at the phase detector are chosen, because they have the least
jitter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hw.spec import SpecError

MHZ = 1_000_000
"""One megahertz in Hz."""


@dataclass(frozen=True)
class Ecp5Pll:
    """Settings of an ECP5's PLL (primitive EHXPLLL).

    Output CLKOP is fed back to the phase detector; output CLKOS is the clock of the design::

    vco = input / clki_div * clkop_div          output = vco / clkos_div
    """

    clki_div: int
    clkop_div: int
    clkos_div: int


@dataclass(frozen=True)
class Ice40Pll:
    """Settings of an iCE40's PLL (primitive SB_PLL40) in the mode "simple feedback"::

    vco = input / (divr + 1) * (divf + 1)       output = vco / 2**divq
    """

    divr: int
    divf: int
    divq: int
    filter_range: int


@dataclass(frozen=True)
class GowinPll:
    """Settings of a Gowin device's PLL (primitive rPLL) with internal feedback::

    output = input / (idiv_sel + 1) * (fbdiv_sel + 1)       vco = output * odiv_sel
    """

    idiv_sel: int
    fbdiv_sel: int
    odiv_sel: int


def _factors(frequency: Fraction, low: int, high: int, allowed: Sequence[int]) -> Iterator[int]:
    """Return each of the ``allowed`` numbers for which ``frequency`` times it is in a range.

    ``frequency`` is in Hz; the range is from ``low`` to ``high`` MHz.
    """
    return (n for n in allowed if low * MHZ <= frequency * n <= high * MHZ)


def _refuse(input_hz: int, output_hz: int, reachable: set[Fraction]) -> SpecError:
    """Return the error for an output frequency that the PLL cannot make from its input.

    The message names the two nearest of the ``reachable`` frequencies.
    """
    near = sorted(reachable, key=lambda hz: abs(hz - output_hz))[:2]
    return SpecError(
        f"Config.clk_hz = {output_hz} is not supported: this board's PLL cannot make it "
        f"from {input_hz} Hz; use {' or '.join(f'{float(hz):.0f}' for hz in sorted(near))}"
    )


def ecp5_pll(input_hz: int, output_hz: int) -> Ecp5Pll:
    """Return settings of an ECP5's PLL that make ``output_hz`` from ``input_hz``.

    The ranges are those of Lattice FPGA-DS-02012, sysCLOCK PLL timing: input 8 to 400 MHz, phase
    detector 10 to 400 MHz, VCO 400 to 800 MHz, outputs 3.125 to 400 MHz.

    Raises
    ------
    SpecError
        No settings give exactly this frequency.
    """
    reachable = set()
    for clki_div in range(1, 41):
        detector = Fraction(input_hz, clki_div)
        if not 10 * MHZ <= detector <= 400 * MHZ:
            continue
        for clkop_div in _factors(detector, 400, 800, range(1, 129)):
            for clkos_div in range(2, 129):
                hz = detector * clkop_div / clkos_div
                if hz == output_hz:
                    return Ecp5Pll(clki_div, clkop_div, clkos_div)
                reachable.add(hz)
    raise _refuse(input_hz, output_hz, reachable)


def ice40_pll(input_hz: int, output_hz: int) -> Ice40Pll:
    """Return settings of an iCE40's PLL that make ``output_hz`` from ``input_hz``.

    The ranges are those of Lattice FPGA-DS-02008 and FPGA-TN-02052: phase detector 10 to 133 MHz,
    VCO 533 to 1,066 MHz, output 16 to 275 MHz.

    Raises
    ------
    SpecError
        No settings give exactly this frequency.
    """
    reachable = set()
    for divr in range(16):
        detector = Fraction(input_hz, divr + 1)
        if not 10 * MHZ <= detector <= 133 * MHZ:
            continue
        for factor in _factors(detector, 533, 1066, range(1, 129)):
            for divq in range(1, 7):
                hz = detector * factor / (1 << divq)
                if hz == output_hz and 16 * MHZ <= hz <= 275 * MHZ:
                    limits = (17, 26, 44, 66, 101)  # MHz, ends of filter ranges 1 to 5 as in icepll
                    filter_range = 1 + sum(detector >= limit * MHZ for limit in limits)
                    return Ice40Pll(divr, factor - 1, divq, filter_range)
                reachable.add(hz)
    raise _refuse(input_hz, output_hz, reachable)


def gowin_pll(input_hz: int, output_hz: int) -> GowinPll:
    """Return settings of a Gowin device's PLL that make ``output_hz`` from ``input_hz``.

    The ranges are those that GW1NR-9 (C6/I5, Gowin DS117) and GW2AR-18 (C8/I7, DS226) share: phase
    detector 3 to 400 MHz, VCO 500 to 1,200 MHz.

    Raises
    ------
    SpecError
        No settings give exactly this frequency.
    """
    reachable = set()
    for divider in range(1, 65):
        detector = Fraction(input_hz, divider)
        if not 3 * MHZ <= detector <= 400 * MHZ:
            continue
        for factor in range(1, 65):
            hz = detector * factor
            for odiv_sel in _factors(hz, 500, 1200, (2, 4, 8, *range(16, 129, 16))):
                if hz == output_hz:
                    return GowinPll(divider - 1, factor - 1, odiv_sel)
                reachable.add(hz)
    raise _refuse(input_hz, output_hz, reachable)
