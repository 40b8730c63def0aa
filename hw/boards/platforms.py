"""Known boards, as build and programming tools need them: device, pins, clock, programmers.

To add a board, add an entry to :data:`TARGETS` here and its configuration, which depends on the
size of the device, to :data:`hw.boards.configs.CONFIGS`. Pins come from ``amaranth-boards``; boards
that it lacks are described here in the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from amaranth import ClockDomain, Elaboratable, Module
from amaranth.build import Attrs, Clock, Pins, PinsN, Platform, Resource
from amaranth.lib import io
from amaranth.vendor import GowinPlatform, LatticeECP5Platform
from amaranth_boards.ice40_hx8k_b_evn import ICE40HX8KBEVNPlatform
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.resources import LEDResources, SDRAMResource, UARTResource
from amaranth_boards.ulx3s import (
    ULX3S_12F_Platform,
    ULX3S_25F_Platform,
    ULX3S_45F_Platform,
    ULX3S_85F_Platform,
)

from hw.boards.board_file import SUFFIX
from hw.boards.clocks import Clocks, UsbClocks, pll
from hw.boards.configs import config_by_name, has_usb
from hw.boards.sdram import CLOCK_DOMAIN, CLOCK_PHASE, connect_sdram, sdram_memory
from hw.core.weights import spram_grid
from hw.parts.memories import has_spram
from hw.spec import Config, SpecError
from hw.top import Top
from hw.usb.serial_port import UsbSerialPort


class ColorlightI5Platform(LatticeECP5Platform):
    """Colorlight i5 v7.0 on its extension board, whose USB bridge has a serial port.

    The pins are from github.com/wuxx/Colorlight-FPGA-Projects. Those of the SDRAM were found by
    Sylvain Munaut; litex-boards has the same. The board always selects and clocks the SDRAM, and
    its byte masks are always low.
    """

    device = "LFE5U-25F"
    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    resources = [
        Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), Attrs(IO_TYPE="LVCMOS33")),
        *LEDResources(pins="U16", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="H18", tx="J17", attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
        SDRAMResource(
            0,
            clk="B9",
            we_n="A10",
            ras_n="B10",
            cas_n="A9",
            ba="B11 C8",
            a="B13 C14 A16 A17 B16 B15 A14 A13 A12 A11 B12",
            dq="D15 E14 E13 D12 E12 D11 C10 B17 B8 A8 C7 A7 A6 B6 A5 B5 "
            "D5 C5 D6 C6 E7 D7 E8 D8 E9 D9 E11 C11 C12 D13 D14 C15",
            attrs=Attrs(IO_TYPE="LVCMOS33", SLEWRATE="FAST"),
        ),
    ]
    connectors = []


class TangNano20kPlatform(GowinPlatform):
    """Sipeed Tang Nano 20K, with pins from its schematic (Tang_Nano_20K_3921).

    The SDRAM is a second die in the FPGA's package. It is connected to pads of the FPGA that have
    no package pin. They are named by their positions on the FPGA (``IOR11B``), as in Project
    Apicula's database (``sip_cst`` of the GW2A-18C).
    """

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        Resource("led", 0, PinsN("15", dir="o"), Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33")),
        SDRAMResource(
            0,
            clk="IOR11B",
            cke="IOL13A",
            cs_n="IOL14B",
            we_n="IOL12B",
            ras_n="IOL13B",
            cas_n="IOL14A",
            ba="IOR13A IOR12A",
            a="IOR14A IOR13B IOR14B IOR15A IOL16B IOL17B IOL16A IOL17A IOL15B IOL15A IOR12B",
            dq="IOL3A IOL3B IOL8A IOL8B IOL9A IOL9B IOL11A IOL11B "
            "IOR9B IOR9A IOR5B IOR6A IOR5A IOR4B IOR3B IOR3A "
            "IOL39B IOL39A IOL35B IOL35A IOL30B IOL30A IOL20A IOL18B "
            "IOR17A IOR16A IOR16B IOR17B IOR18A IOR18B IOR44A IOR44B",
            dqm="IOL12A IOR11A IOL18A IOR15B",
            attrs=Attrs(IO_TYPE="LVCMOS33"),
        ),
    ]
    connectors = []


@dataclass(frozen=True, kw_only=True)
class Programmer:
    """Program that puts a bitstream onto a board, with its options for each kind of memory.

    The name of the bitstream's file must be appended to the options.
    """

    name: str
    """Name of the program."""
    sram: tuple[str, ...] | None = None
    """Options to load the FPGA's configuration memory, which is lost at power-off; None if the
    board cannot be programmed in this way as it is delivered."""
    flash: tuple[str, ...] | None = None
    """Options to write the flash memory from which the FPGA starts; None if that is impossible."""
    board: str | None = None
    """Name of the board in the program's own list of boards, if it has such a list."""


OPEN_FPGA_LOADER = "openFPGALoader"
"""Name of the program openFPGALoader, which can program most boards."""


def _loader(board: str, *, sram: bool = True, unprotect: bool = False) -> Programmer:
    """Return the :class:`Programmer` for openFPGALoader, which calls the board ``board``.

    The options always say which memory to write, because otherwise openFPGALoader writes SRAM on
    some boards and flash on others. The options work with its versions 0.10 (Debian 12) to 1.1.

    Parameters
    ----------
    sram : whether the board can be programmed without writing its flash.
    unprotect : whether the board is delivered with a write-protected flash, so that the protection
        must be removed.
    """
    protection = ("--unprotect-flash",) if unprotect else ()
    return Programmer(
        name=OPEN_FPGA_LOADER,
        sram=("-b", board, "-m") if sram else None,
        flash=("-b", board, *protection, "-f"),
        board=board,
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """Amaranth platform of a board, the width of its memory ports, and commands to program it.

    The platform must have a ``default_clk`` that the device's PLL can multiply to ``clk_hz``, a
    first ``uart`` for the serial line, and a first ``led`` for the activity light.
    """

    platform: Callable[[], Platform]
    """Class of the board in ``amaranth-boards`` or in this file."""
    port_bits: int
    """Total width in bits of the read ports of all memories that can hold weights. It bounds the
    throughput, see docs/gateware.md."""
    programmers: tuple[Programmer, ...]
    """Programs that put a bitstream onto the board; the preferred one first."""
    idle: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    """Level of pins that the design does not use, by resource and subsignal: 1 is active, 0 is
    inactive, and None leaves the pin to its pull-up, without driving it. An ECP5 pulls an unused
    pin without an entry down."""


def _ulx3s(platform: type[Platform], n_block_rams: int) -> Target:
    return Target(
        platform=platform,
        port_bits=36 * n_block_rams,
        programmers=(
            _loader("ulx3s"),
            Programmer(name="fujprog", sram=("-j", "SRAM"), flash=("-j", "FLASH")),
        ),
        # With GPIO0 low, the ESP32 on the board loads a bitstream of its own over this one. With
        # HOLD or WP low, the flash cannot be programmed while this design runs.
        idle={
            "esp32": {"gpio0": 1, "en": None},
            "spi_flash": {"hold": 0, "wp": 0},
            "sdram": {"cs": 0},
        },
    )


COLORLIGHT_I5 = Target(
    platform=ColorlightI5Platform,
    port_bits=36 * 56,
    programmers=(
        _loader("colorlight-i5", unprotect=True),
        Programmer(name="ecpdap", sram=("program",), flash=("flash", "write")),
    ),
)
TANG_NANO_20K = Target(
    platform=TangNano20kPlatform,
    port_bits=36 * 46,
    programmers=(_loader("tangnano20k"),),
)
# Without moving jumpers, the FPGA of these boards starts from flash only.
_ICE40_PROGRAMMERS = (
    Programmer(name="iceprog", flash=()),
    _loader("ice40_generic", sram=False),
)

# A block RAM of an ECP5 or a Gowin device has a port of 36 bits, one of an iCE40 or an SPRAM 16.
TARGETS: dict[str, Target] = {
    "ulx3s-85f": _ulx3s(ULX3S_85F_Platform, 208),
    "ulx3s-85f-wide": _ulx3s(ULX3S_85F_Platform, 208),
    "ulx3s-85f-256": _ulx3s(ULX3S_85F_Platform, 208),
    "ulx3s-85f-usb": _ulx3s(ULX3S_85F_Platform, 208),
    "ulx3s-85f-sdram": _ulx3s(ULX3S_85F_Platform, 208),
    "ulx3s-45f": _ulx3s(ULX3S_45F_Platform, 108),
    "ulx3s-25f": _ulx3s(ULX3S_25F_Platform, 56),
    "ulx3s-12f": _ulx3s(ULX3S_12F_Platform, 56),  # the 25F's die
    "colorlight-i5": COLORLIGHT_I5,
    "colorlight-sdram": COLORLIGHT_I5,
    "icebreaker": Target(
        platform=ICEBreakerPlatform,
        port_bits=16 * 4,
        programmers=_ICE40_PROGRAMMERS,
    ),
    "ice40-hx8k": Target(
        platform=ICE40HX8KBEVNPlatform,
        port_bits=16 * 32,
        programmers=_ICE40_PROGRAMMERS,
    ),
    "tang-nano-20k": TANG_NANO_20K,
    "tang-20k-sdram": TANG_NANO_20K,
}
"""Target of every board, by its name in :data:`hw.boards.configs.BOARDS`."""


def target(name: str) -> Target:
    """Return the :class:`Target` of a board: its platform, and what else its tools need.

    Parameters
    ----------
    name : name of the board as in :func:`hw.boards.configs.config_by_name`, for example
        ``"ulx3s-85f/w4"``.

    Raises
    ------
    SpecError
        The board is unknown; or it is the virtual board, which has no bitstream; or its bitstream
        is made by a vendor's tool (:mod:`hw.tools.portable`).
    """
    board = name.partition("/")[0]
    if board not in TARGETS or name.endswith(SUFFIX):
        config_by_name(name)  # raises for an unknown board and lists the known ones
        if board == "sim":
            raise SpecError(f"sim is the virtual board: bitstreams are for {', '.join(TARGETS)}")
        raise SpecError(
            f"the bitstream of {name} is made by its vendor's tool: 'python -m hw.build --verilog "
            f"{name}' writes what that needs"
        )
    return TARGETS[board]


def check_device(config: Config, platform: Platform) -> None:
    """Check that this configuration can be built for the device of a board.

    Raises
    ------
    SpecError
        The PLL cannot make ``clk_hz``, or the SPRAMs of an iCE40 UltraPlus cannot hold the weights.
    """
    pll(config.clk_hz, platform)
    if has_spram(platform):
        spram_grid(config)


def _set_pull(resource: Resource, names: Container[str], mode: str) -> None:
    """Set the pull resistors of an ECP5's pins that are the subsignals ``names`` of a resource.

    ``mode`` is ``UP`` or ``NONE``. Without a setting, the resistor pulls the pin down.
    """
    for subsignal in resource.ios:
        if subsignal.name in names:
            subsignal.attrs["PULLMODE"] = mode


class BoardTop(Elaboratable):
    """Connect the whole device, :class:`hw.top.Top`, to the pins and the clock of a board.

    A serial line that is not connected reads as idle (1), because its pin has a pull-up. Pins that
    must not be left to their default get the levels in :attr:`Target.idle`.
    """

    def __init__(self, config: Config, idle: Mapping[str, Mapping[str, int | None]]):
        self._config = config
        self._idle = idle

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        m.domains += ClockDomain("sync")
        sdram = sdram_memory(self._config)
        if sdram is None:
            m.submodules.clocks = Clocks(self._config.clk_hz)
        else:
            m.domains += ClockDomain(CLOCK_DOMAIN, reset_less=True)
            m.submodules.clocks = Clocks(self._config.clk_hz, CLOCK_DOMAIN, CLOCK_PHASE)
            connect_sdram(m, platform, sdram)
        usb = self._usb_port(m, platform) if has_usb(self._config) else None
        m.submodules.top = top = Top(self._config, sdram=sdram, usb=usb)

        if isinstance(platform, LatticeECP5Platform):
            _set_pull(platform.lookup("uart", 0), ("rx",), "UP")
        uart = self._request(platform, "uart")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.submodules.led = led = io.Buffer("o", platform.request("led", 0, dir="-"))
        m.d.comb += [top.rx.eq(rx.i), tx.o.eq(top.tx), led.o.eq(top.activity)]
        for resource, levels in self._idle.items():
            if resource == "sdram" and sdram is not None:
                continue
            pins = self._request(platform, resource)
            for name, level in levels.items():
                buffer = io.Buffer("o", getattr(pins, name))
                m.submodules[f"{resource}_{name}"] = buffer
                m.d.comb += [buffer.o.eq(level or 0), buffer.oe.eq(level is not None)]
        return m

    def _usb_port(self, m: Module, platform: Platform) -> UsbSerialPort:
        """Return a serial port over USB, and connect its pins and clocks."""
        port = UsbSerialPort()
        for domain in ("usb_io", "usb"):
            m.domains += ClockDomain(domain)
        m.submodules.usb_clocks = UsbClocks(self._config.clk_hz)
        # As in the board's own constraints: the levels on the bus are USB's.
        _set_pull(platform.lookup("usb", 0), ("d_p", "d_n"), "NONE")
        pins, usb = self._request(platform, "usb"), port.pins
        for name in ("d_p", "d_n"):
            m.submodules[f"usb_{name}"] = buffer = io.Buffer("io", getattr(pins, name))
            m.d.comb += [
                getattr(usb, f"{name}_i").eq(buffer.i),
                buffer.o.eq(getattr(usb, f"{name}_o")),
                buffer.oe.eq(usb.oe),
            ]
        m.submodules.usb_pullup = pullup = io.Buffer("o", pins.pullup)
        m.d.comb += pullup.o.eq(usb.pullup)
        return port

    @staticmethod
    def _request(platform: Platform, name: str) -> Any:
        """Request the board's first resource with this name, without I/O buffers, and return its
        pins."""
        names = [sub.name for sub in platform.lookup(name, 0).ios]
        return platform.request(name, 0, dir=dict.fromkeys(names, "-"))
