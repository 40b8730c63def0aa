"""Divider settings of PLLs for a given output frequency, within the ranges of the data sheets.

Frequencies are in Hz. The settings produce exactly the requested frequency, because ``clk_hz``
determines the rate of the serial line and every reported latency. If several settings produce it,
those with the highest frequency at the phase detector are chosen, because they have the least
jitter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

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
    """Settings of an iCE40's PLL (primitive SB_PLL40) in the mode "simple feedback".

    The frequencies are::

        vco = input / (divr + 1) * (divf + 1)       output = vco / 2**divq

    ``filter_range`` sets the loop filter; it depends on the frequency at the phase detector.
    """

    divr: int
    divf: int
    divq: int
    filter_range: int


@dataclass(frozen=True)
class GowinPll:
    """Settings of a Gowin device's PLL (primitive rPLL) with internal feedback.

    The frequencies are::

        output = input / (idiv_sel + 1) * (fbdiv_sel + 1)       vco = output * odiv_sel
    """

    idiv_sel: int
    fbdiv_sel: int
    odiv_sel: int


@dataclass(frozen=True)
class XilinxPll:
    """Settings of a PLL of Xilinx' 7 series (primitive PLLE2_BASE).

    The frequencies are::

        vco = input / divclk_divide * clkfbout_mult     output = vco / clkout0_divide
    """

    divclk_divide: int
    clkfbout_mult: int
    clkout0_divide: int


@dataclass(frozen=True)
class CycloneVPll:
    """Settings of a Cyclone V's PLL in integer mode.

    The frequencies are::

        vco = input / n * m                             output = vco / c
    """

    n: int
    m: int
    c: int


Settings = TypeVar("Settings")


def _within(low: float, hz: Fraction, high: float) -> bool:
    """Return whether the frequency ``hz`` is in the range from ``low`` to ``high`` MHz."""
    return low * MHZ <= hz <= high * MHZ


def _factors(frequency: Fraction, low: float, high: float, allowed: Sequence[int]) -> Iterator[int]:
    """Yield the ``allowed`` factors that bring a frequency into a range.

    ``frequency`` is in Hz. Its product with the factor must be between ``low`` and ``high`` MHz.
    """
    return (n for n in allowed if _within(low, frequency * n, high))


FrequencyRange = tuple[float, float]
"""Lowest and highest frequency in MHz."""


def _settings(
    input_hz: int,
    dividers: Sequence[int],
    detector_range: FrequencyRange,
    factors: Sequence[int],
    vco_range: FrequencyRange,
    output_dividers: Sequence[int],
    output_range: FrequencyRange,
) -> Iterator[tuple[Fraction, tuple[int, int, int]]]:
    """Yield all settings of a PLL that keep every frequency within its range.

    The input frequency is divided for the phase detector and multiplied by a factor for the VCO;
    the VCO's frequency is divided for the output. Each result is the output frequency in Hz, and a
    tuple of the divider, the factor and the output divider.
    """
    for divider in dividers:
        detector = Fraction(input_hz, divider)
        if not _within(detector_range[0], detector, detector_range[1]):
            continue
        for factor in _factors(detector, *vco_range, factors):
            for output_divider in output_dividers:
                hz = detector * factor / output_divider
                if _within(output_range[0], hz, output_range[1]):
                    yield hz, (divider, factor, output_divider)


def _choose(
    candidates: Iterable[tuple[Fraction, Settings]], input_hz: int, output_hz: int
) -> Settings:
    """Return the first of the ``candidates`` whose output frequency is exactly ``output_hz``.

    A candidate is a pair of its output frequency in Hz and the PLL's settings. ``input_hz`` is only
    used in the error message.

    Raises
    ------
    SpecError
        No candidate has this frequency. The message names the two nearest frequencies that the PLL
        can make and that ``Config.clk_hz`` can have, which is a whole number of Hz.
    """
    reachable = set()
    for hz, settings in candidates:
        if hz == output_hz:
            return settings
        if hz.denominator == 1:
            reachable.add(int(hz))
    near = sorted(sorted(reachable, key=lambda hz: abs(hz - output_hz))[:2])
    advice = f"use {' or '.join(map(str, near))}" if near else "it cannot make any other, either"
    raise SpecError(
        f"Config.clk_hz = {output_hz} is not supported: this board's PLL cannot make it "
        f"from {input_hz} Hz; {advice}"
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
    limits = range(1, 41), (10, 400), range(1, 129), (400, 800), range(2, 129), (3.125, 400)
    return Ecp5Pll(*_choose(_settings(input_hz, *limits), input_hz, output_hz))


def ice40_pll(input_hz: int, output_hz: int) -> Ice40Pll:
    """Return settings of an iCE40's PLL that make ``output_hz`` from ``input_hz``.

    The ranges are those of Lattice FPGA-DS-02008 and FPGA-TN-02052: phase detector 10 to 133 MHz,
    VCO 533 to 1,066 MHz, output 16 to 275 MHz.

    Raises
    ------
    SpecError
        No settings give exactly this frequency.
    """
    filter_ends = (17, 26, 44, 66, 101)  # MHz, ends of filter ranges 1 to 5 as in icepll
    outputs = [1 << divq for divq in range(1, 7)]
    limits = range(1, 17), (10, 133), range(1, 129), (533, 1066), outputs, (16, 275)
    divider, factor, output = _choose(_settings(input_hz, *limits), input_hz, output_hz)
    filter_range = 1 + sum(input_hz >= end * MHZ * divider for end in filter_ends)
    return Ice40Pll(divider - 1, factor - 1, output.bit_length() - 1, filter_range)


def gowin_pll(input_hz: int, output_hz: int) -> GowinPll:
    """Return settings of a Gowin device's PLL that make ``output_hz`` from ``input_hz``.

    The ranges are those of a GW2AR-18 (C8/I7, Gowin DS226): phase detector 3 to 400 MHz, VCO 500 to
    1,200 MHz.

    Raises
    ------
    SpecError
        No settings give exactly this frequency.
    """

    def candidates() -> Iterator[tuple[Fraction, GowinPll]]:
        for divider in range(1, 65):
            detector = Fraction(input_hz, divider)
            if not _within(3, detector, 400):
                continue
            for factor in range(1, 65):
                hz = detector * factor
                for odiv_sel in _factors(hz, 500, 1200, (2, 4, 8, *range(16, 129, 16))):
                    yield hz, GowinPll(divider - 1, factor - 1, odiv_sel)

    return _choose(candidates(), input_hz, output_hz)


def xilinx_pll(input_hz: int, output_hz: int) -> XilinxPll:
    """Return settings of a PLL of Xilinx' 7 series that make ``output_hz`` from ``input_hz``.

    The ranges are those of Artix-7 in speed grade -1 (Xilinx DS181, PLL switching characteristics),
    which all 7-series devices reach: input 19 to 800 MHz, phase detector 19 to 450 MHz, VCO 800 to
    1,600 MHz, output 6.25 to 464 MHz.

    Raises
    ------
    SpecError
        No settings give exactly this frequency.
    """
    limits = range(1, 57), (19, 450), range(2, 65), (800, 1600), range(1, 129), (6.25, 464)
    return XilinxPll(*_choose(_settings(input_hz, *limits), input_hz, output_hz))


def cyclone_v_pll(input_hz: int, output_hz: int) -> CycloneVPll:
    """Return settings of a Cyclone V's integer PLL that make ``output_hz`` from ``input_hz``.

    The ranges are those of the slowest speed grade (Intel CV-51002, PLL specifications): input 5 to
    525 MHz, phase detector 5 to 325 MHz, VCO 600 to 1,300 MHz, output to 460 MHz. Quartus chooses
    the counters itself; the settings prove that the frequency can be made exactly.

    Raises
    ------
    SpecError
        No settings give exactly this frequency.
    """
    limits = range(1, 65), (5, 325), range(1, 257), (600, 1300), range(1, 257), (5, 460)
    return CycloneVPll(*_choose(_settings(input_hz, *limits), input_hz, output_hz))
