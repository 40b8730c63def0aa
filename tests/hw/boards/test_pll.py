"""Tests that PLL settings give the exact frequency and stay within the data sheets' ranges."""

import re
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.boards.pll import MHZ, cyclone_v_pll, ecp5_pll, gowin_pll, ice40_pll, xilinx_pll
from hw.spec import SpecError


def within(low: float, hz: Fraction, high: float) -> bool:
    return low * MHZ <= hz <= high * MHZ


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([25, 48]), st.integers(2, 800), st.integers(1, 20))
def test_ecp5(input_mhz: int, numerator: int, denominator: int) -> None:
    output = Fraction(numerator * MHZ, denominator)
    if output.denominator != 1:
        return
    try:
        s = ecp5_pll(input_mhz * MHZ, int(output))
    except SpecError:
        return
    detector = Fraction(input_mhz * MHZ, s.clki_div)
    vco = detector * s.clkop_div
    assert vco / s.clkos_div == output
    assert within(10, detector, 400) and within(400, vco, 800)
    assert within(3.125, vco / s.clkop_div, 400) and within(3.125, output, 400)
    assert all(1 <= n <= 128 for n in (s.clki_div, s.clkop_div, s.clkos_div))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([12, 16, 25]), st.integers(1, 300 * 4))
def test_ice40(input_mhz: int, quarters: int) -> None:
    output = quarters * MHZ // 4
    try:
        s = ice40_pll(input_mhz * MHZ, output)
    except SpecError:
        return
    detector = Fraction(input_mhz * MHZ, s.divr + 1)
    vco = detector * (s.divf + 1)
    assert vco / 2**s.divq == output
    assert within(10, detector, 133) and within(533, vco, 1066) and within(16, output, 275)
    assert s.divr < 16 and s.divf < 128 and 1 <= s.divq <= 6


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 700))
def test_gowin(mhz: int) -> None:
    try:
        s = gowin_pll(27 * MHZ, mhz * MHZ)
    except SpecError:
        return
    detector = Fraction(27 * MHZ, s.idiv_sel + 1)
    assert detector * (s.fbdiv_sel + 1) == mhz * MHZ
    assert within(3, detector, 400) and within(500, mhz * MHZ * s.odiv_sel, 1200)
    assert s.idiv_sel < 64 and s.fbdiv_sel < 64
    assert s.odiv_sel in {2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([50, 100, 125]), st.integers(5, 500 * 4))
def test_xilinx(input_mhz: int, quarters: int) -> None:
    output = quarters * MHZ // 4
    try:
        s = xilinx_pll(input_mhz * MHZ, output)
    except SpecError:
        return
    detector = Fraction(input_mhz * MHZ, s.divclk_divide)
    vco = detector * s.clkfbout_mult
    assert vco / s.clkout0_divide == output
    assert within(19, detector, 450) and within(800, vco, 1600) and within(6.25, output, 464)
    assert s.divclk_divide <= 56 and 2 <= s.clkfbout_mult <= 64 and s.clkout0_divide <= 128


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([25, 50]), st.integers(5, 500 * 4))
def test_cyclone_v(input_mhz: int, quarters: int) -> None:
    output = quarters * MHZ // 4
    try:
        s = cyclone_v_pll(input_mhz * MHZ, output)
    except SpecError:
        return
    detector = Fraction(input_mhz * MHZ, s.n)
    assert detector * s.m / s.c == output
    assert within(5, detector, 325) and within(600, detector * s.m, 1300) and output <= 460 * MHZ


@settings(max_examples=16, deadline=None)
@given(
    st.sampled_from(
        [
            (ecp5_pll, 25),
            (ecp5_pll, 48),
            (ice40_pll, 12),
            (gowin_pll, 27),
            (xilinx_pll, 100),
            (cyclone_v_pll, 50),
        ]
    ),
    st.integers(1, 700_000_000),
)
def test_frequencies_that_a_message_suggests_can_be_made(
    pll: tuple[Callable[[int, int], object], int], output_hz: int
) -> None:
    make, input_mhz = pll
    try:
        make(input_mhz * MHZ, output_hz)
    except SpecError as error:
        _, _, suggested = str(error).partition("; use ")
        assert suggested
        for hz in re.findall(r"\d+", suggested):
            make(input_mhz * MHZ, int(hz))


def test_known_settings() -> None:
    """Check that the computed settings equal those of ecppll (with --highres), icepll and
    gowin_pll."""
    ecp5 = ecp5_pll(25 * MHZ, 60 * MHZ)
    assert (ecp5.clki_div, ecp5.clkop_div, ecp5.clkos_div) == (1, 24, 10)
    ice40 = ice40_pll(12 * MHZ, 42 * MHZ)
    assert (ice40.divr, ice40.divf, ice40.divq, ice40.filter_range) == (0, 55, 4, 1)
    gowin = gowin_pll(27 * MHZ, 60 * MHZ)
    assert (gowin.idiv_sel, gowin.fbdiv_sel, gowin.odiv_sel) == (8, 19, 16)


def test_an_unreachable_frequency_names_its_neighbours() -> None:
    with pytest.raises(SpecError, match=r"clk_hz = 41000000 .* use 40500000 or 41250000$"):
        ice40_pll(12 * MHZ, 41 * MHZ)
    with pytest.raises(SpecError):
        ecp5_pll(25 * MHZ, 401 * MHZ)
    with pytest.raises(SpecError):
        gowin_pll(27 * MHZ, 31 * MHZ * 27)
