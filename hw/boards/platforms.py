"""Known boards, each as the tools see it: device, pins, clock source, memories.

Pins come from ``amaranth-boards``; boards that it lacks are written here in the same form. What
depends on the device's size is the board's configuration, in :mod:`hw.boards.configs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from amaranth.build import Attrs, Clock, Pins, PinsN, Platform, Resource
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer
from amaranth.vendor import GowinPlatform, LatticeECP5Platform
from amaranth_boards.ice40_hx8k_b_evn import ICE40HX8KBEVNPlatform
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.resources import LEDResources, UARTResource
from amaranth_boards.tang_nano_9k import TangNano9kPlatform
from amaranth_boards.ulx3s import (
    ULX3S_12F_Platform,
    ULX3S_25F_Platform,
    ULX3S_45F_Platform,
    ULX3S_85F_Platform,
)

from hw.boards.configs import BOARDS, config_by_name
from hw.boards.pll import MHZ, Ecp5Pll, GowinPll, Ice40Pll, ecp5_pll, gowin_pll, ice40_pll
from hw.core.weights import spram_grid
from hw.parts.memories import has_spram
from hw.spec import Config, SpecError
from hw.top import Top

RESET_SECONDS = 20e-6
"""Reset after configuration: block RAM of the iCE40 reads as zero for 3 us, see
``LatticeICE40Platform.create_missing_domain``."""


class ColorlightI5Platform(LatticeECP5Platform):
    """Colorlight i5 7.0 on its extension board, whose USB bridge has a serial port. Pins as in
    github.com/wuxx/Colorlight-FPGA-Projects."""

    device = "LFE5U-25F"
    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    resources = [
        Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), Attrs(IO_TYPE="LVCMOS33")),
        *LEDResources(pins="U16", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="H18", tx="J17", attrs=Attrs(IO_TYPE="LVCMOS33")),
    ]
    connectors = []


class TangNano20kPlatform(GowinPlatform):
    """Sipeed Tang Nano 20K. Pins as in its schematic (Tang_Nano_20K_3921)."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        Resource("led", 0, PinsN("15", dir="o"), Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33")),
    ]
    connectors = []


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a board is to the tools.

    The design's clock is made from the platform's default clock by the device's PLL; reset lasts
    until that has locked; ``activity`` lights the platform's first ``led``; the serial line is its
    first ``uart``.
    """

    platform: Callable[[], Platform]
    port_bits: int
    """Bits that the memories which can hold weights deliver per cycle: the bound of
    docs/gateware.md."""
    programmers: tuple[tuple[str, ...], ...]
    """Commands that program the bitstream named behind them, the preferred one first."""


def _ulx3s(platform: type[Platform], n_block_rams: int) -> Target:
    return Target(
        platform=platform,
        port_bits=36 * n_block_rams,
        programmers=(("openFPGALoader", "-b", "ulx3s"), ("fujprog",)),
    )


# Ports: 36 bits a block RAM of an ECP5 or a Gowin, 16 bits one of an iCE40 or an SPRAM.
TARGETS: dict[str, Target] = {
    "ulx3s-85f": _ulx3s(ULX3S_85F_Platform, 208),
    "ulx3s-85f-quad": _ulx3s(ULX3S_85F_Platform, 208),
    "ulx3s-45f": _ulx3s(ULX3S_45F_Platform, 108),
    "ulx3s-25f": _ulx3s(ULX3S_25F_Platform, 56),
    "ulx3s-12f": _ulx3s(ULX3S_12F_Platform, 56),  # the 25F's die
    "colorlight-i5": Target(
        platform=ColorlightI5Platform,
        port_bits=36 * 56,
        programmers=(("openFPGALoader", "-b", "colorlight-i5"), ("ecpdap", "program")),
    ),
    "icebreaker": Target(
        platform=ICEBreakerPlatform,
        port_bits=16 * 4,
        programmers=(("iceprog",), ("openFPGALoader", "-b", "ice40_generic")),
    ),
    "ice40-hx8k": Target(
        platform=ICE40HX8KBEVNPlatform,
        port_bits=16 * 32,
        programmers=(("iceprog",), ("openFPGALoader", "-b", "ice40_generic")),
    ),
    "tang-nano-9k": Target(
        platform=TangNano9kPlatform,
        port_bits=36 * 26,
        programmers=(("openFPGALoader", "-b", "tangnano9k"),),
    ),
    "tang-nano-20k": Target(
        platform=TangNano20kPlatform,
        port_bits=36 * 46,
        programmers=(("openFPGALoader", "-b", "tangnano20k"),),
    ),
}
"""By the names of :data:`hw.boards.configs.BOARDS`."""


def target(name: str) -> Target:
    """What stands behind a name of :func:`hw.boards.configs.config_by_name`.

    Raises
    ------
    SpecError
        No such board, or the virtual one, which no bitstream is for.
    """
    board = name.partition("/")[0]
    if board not in TARGETS:
        config_by_name(name)  # says which there are
        raise SpecError(f"{name} is the virtual board: bitstreams are for {', '.join(BOARDS)}")
    return TARGETS[board]


def check_device(config: Config, platform: Platform) -> None:
    """Whether a device can be built with this configuration.

    Raises
    ------
    SpecError
        Its PLL cannot make ``clk_hz``, or its SPRAM cannot hold ``weight_depth`` rows.
    """
    pll(config.clk_hz, platform)
    if has_spram(platform):
        spram_grid(config)


class Device(Elaboratable):
    """:class:`hw.top.Top` between the pins of a board."""

    def __init__(self, config: Config):
        self._config = config

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        m.domains += ClockDomain("sync")
        m.submodules.clocks = Clocks(self._config.clk_hz)
        m.submodules.top = top = Top(self._config)

        names = [sub.name for sub in platform.lookup("uart", 0).ios]
        uart = platform.request("uart", 0, dir=dict.fromkeys(names, "-"))
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.submodules.led = led = io.Buffer("o", platform.request("led", 0, dir="-"))
        m.d.comb += [top.rx.eq(rx.i), tx.o.eq(top.tx), led.o.eq(top.activity)]
        return m


class Clocks(Elaboratable):
    """Drives the domain ``sync`` at ``clk_hz``, from the platform's default clock through its PLL;
    reset until the PLL has been locked for :data:`RESET_SECONDS`."""

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
            # The clock's pin is that of the PLL, which leaves it no other input.
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
    """The device's PLL at the wanted frequency, as a function of its input, output and lock.

    Raises
    ------
    SpecError
        It cannot make that frequency.
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
        # What Lattice's own tool sets for any frequency, as Project Trellis' ecppll has it.
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
