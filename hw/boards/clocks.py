"""Clock and reset of a board: the PLL primitives of ECP5, iCE40 and Gowin devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from amaranth import (
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.build import Platform
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer
from amaranth.vendor import GowinPlatform, LatticeECP5Platform

from hw.boards.pll import MHZ, Ecp5Pll, GowinPll, Ice40Pll, ecp5_pll, gowin_pll, ice40_pll

RESET_SECONDS = 20e-6
"""Length of the reset after configuration. The block RAM of an iCE40 reads as zero for the first
3 us, see Amaranth's ``LatticeICE40Platform.create_missing_domain``."""


class Clocks(Elaboratable):
    """Drive the clock domain ``sync`` at ``clk_hz`` from the platform's default clock.

    The domain is held in reset until the device's PLL has been locked for :data:`RESET_SECONDS`.
    """

    def __init__(self, clk_hz: int):
        self._clk_hz = clk_hz

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        port = platform.request(platform.default_clk, dir="-")
        locked = Signal()
        m.domains += ClockDomain("unreset", reset_less=True, local=True)
        clk = ClockSignal("sync")
        instance = pll(self._clk_hz, platform)
        if getattr(platform, "package", None) == "SG48":
            # The clock arrives on the PLL's own pad, which leaves no place for an input buffer.
            m.submodules.pll = instance(port.io, clk, locked, pad=True)
        else:
            m.submodules.clk_buf = buffer = io.Buffer("i", port)
            m.submodules.pll = instance(buffer.i, clk, locked)

        n_cycles = round(RESET_SECONDS * self._clk_hz)
        timer = Signal(range(n_cycles + 1))
        reset = Signal(init=1)
        locked_here = Signal()
        m.submodules.locked = FFSynchronizer(locked, locked_here, o_domain="unreset")
        m.d.comb += [ClockSignal("unreset").eq(clk), ResetSignal("sync").eq(reset)]
        m.d.unreset += reset.eq(timer != n_cycles)
        with m.If(~locked_here):
            m.d.unreset += timer.eq(0)
        with m.Elif(timer != n_cycles):
            m.d.unreset += timer.eq(timer + 1)
        return m


def pll(clk_hz: int, platform: Platform) -> Callable[..., Instance]:
    """Return a function that instantiates the device's PLL for an output of ``clk_hz``.

    The function takes the input clock, the output clock and the lock signal.

    Raises
    ------
    SpecError
        The PLL cannot make this frequency from the platform's default clock.
    """
    input_hz = int(platform.default_clk_frequency)
    if isinstance(platform, LatticeECP5Platform):
        return partial(_ecp5_instance, ecp5_pll(input_hz, clk_hz))
    if isinstance(platform, GowinPlatform):
        return partial(_gowin_instance, gowin_pll(input_hz, clk_hz), input_hz)
    return partial(_ice40_instance, ice40_pll(input_hz, clk_hz))


def _ecp5_instance(settings: Ecp5Pll, i: Value, o: Value, locked: Value) -> Instance:
    feedback = Signal()
    return Instance(
        "EHXPLLL",
        # The values that Lattice's tool sets for every frequency, from Project Trellis' ecppll.
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        p_FEEDBK_PATH="CLKOP",
        p_CLKFB_DIV=1,
        p_CLKI_DIV=settings.clki_div,
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=settings.clkop_div,
        p_CLKOP_CPHASE=settings.clkop_div - 1,
        p_CLKOP_FPHASE=0,
        p_CLKOS_ENABLE="ENABLED",
        p_CLKOS_DIV=settings.clkos_div,
        p_CLKOS_CPHASE=settings.clkos_div - 1,
        p_CLKOS_FPHASE=0,
        i_RST=0,
        i_STDBY=0,
        i_PHASESEL0=0,
        i_PHASESEL1=0,
        i_PHASEDIR=0,
        i_PHASESTEP=0,
        i_PHASELOADREG=0,
        i_PLLWAKESYNC=0,
        i_ENCLKOP=0,
        i_ENCLKOS=0,
        i_CLKI=i,
        i_CLKFB=feedback,
        o_CLKOP=feedback,
        o_CLKOS=o,
        o_LOCK=locked,
    )


def _ice40_instance(
    settings: Ice40Pll, i: Value, o: Value, locked: Value, *, pad: bool = False
) -> Instance:
    return Instance(
        "SB_PLL40_PAD" if pad else "SB_PLL40_CORE",
        ("i", "PACKAGEPIN" if pad else "REFERENCECLK", i),
        p_FEEDBACK_PATH="SIMPLE",
        p_DIVR=Const(settings.divr, 4),
        p_DIVF=Const(settings.divf, 7),
        p_DIVQ=Const(settings.divq, 3),
        p_FILTER_RANGE=Const(settings.filter_range, 3),
        i_RESETB=1,
        i_BYPASS=0,
        o_PLLOUTGLOBAL=o,
        o_LOCK=locked,
    )


def _gowin_instance(
    settings: GowinPll, input_hz: int, i: Value, o: Value, locked: Value
) -> Instance:
    return Instance(
        "rPLL",
        p_FCLKIN=f"{input_hz / MHZ:g}",
        p_IDIV_SEL=settings.idiv_sel,
        p_FBDIV_SEL=settings.fbdiv_sel,
        p_ODIV_SEL=settings.odiv_sel,
        p_CLKFB_SEL="internal",
        **{f"i_{name}": Const(0, 6) for name in ("FBDSEL", "IDSEL", "ODSEL")},
        **{f"i_{name}": Const(0, 4) for name in ("PSDA", "DUTYDA", "FDLY")},
        i_RESET=0,
        i_RESET_P=0,
        i_CLKFB=0,
        i_CLKIN=i,
        o_CLKOUT=o,
        o_LOCK=locked,
    )
