"""The SDRAM of a board: its pins, and a clock for the chip that is shifted against the design's.

All pins have registers in the device's I/O cells, so their timing does not depend on placement. The
chip's clock comes out of such a cell, too, but rises :data:`CLOCK_PHASE` of a period later than the
pins change. With a period of T, the chip then sees its pins change 3/4 T before and 1/4 T after its
rising edge. The data that it sends are valid from 5.4 ns after that edge (t_AC) until 3 ns after
the next one (t_OH); they are sampled 5/4 T after the edge, less about 4 ns for the delays of both
cells. This leaves several nanoseconds on both sides at 60 to 75 MHz.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module
from amaranth.build import Platform
from amaranth.lib import io

from hw.boards.configs import sdram_of
from hw.offchip.memory import SdramMemory
from hw.spec import Config

CLOCK_PHASE = 0.75
"""Delay of the chip's clock against the design's clock, as a fraction of a period."""
CLOCK_DOMAIN = "sdram"
"""Clock domain of the chip's clock. It has no reset, and drives only the I/O cell that outputs the
clock."""
FIXED = ("clk_en", "cs", "dqm")
"""Pins of a chip that a board may have wired to a fixed level."""
READ_LATENCY = 2
"""Number of cycles that registers in the I/O cells add to a read: they delay the command to the
chip, and the data from it."""


def sdram_memory(config: Config) -> SdramMemory | None:
    """Return an SDRAM controller for a configuration; None if the configuration uses no SDRAM."""
    if not config.offchip_depth:
        return None
    return SdramMemory(config, sdram_of(config), read_latency=READ_LATENCY)


def connect_sdram(m: Module, platform: Platform, sdram: SdramMemory) -> None:
    """Connect the controller of an SDRAM to the pins of the platform's resource ``sdram``.

    A board may have wired the pins ``clk_en``, ``cs`` and ``dqm`` of the chip to a fixed level, at
    which the chip takes every command. The resource then lacks them. The controller works all the
    same, because it gives the command NOP when it has nothing to do.
    """
    names = [sub.name for sub in platform.lookup("sdram", 0).ios]
    ports: Any = platform.request("sdram", 0, dir=dict.fromkeys(names, "-"))
    pins = sdram.pins
    # Amaranth inverts the pins that are active low.
    for name, value in {
        "clk_en": pins.clk_en,
        "cs": ~pins.cs_n,
        "ras": ~pins.ras_n,
        "cas": ~pins.cas_n,
        "we": ~pins.we_n,
        "ba": pins.ba,
        "a": pins.a,
        "dqm": pins.dqm,
    }.items():
        if name in FIXED and name not in names:
            continue
        m.submodules[f"sdram_{name}"] = buffer = io.FFBuffer("o", getattr(ports, name))
        m.d.comb += buffer.o.eq(value)
    m.submodules.sdram_clk = clock = io.DDRBuffer("o", ports.clk, o_domain=CLOCK_DOMAIN)
    m.d.comb += Cat(clock.o[0], clock.o[1]).eq(0b01)
    m.submodules.sdram_dq = dq = io.FFBuffer("io", ports.dq)
    m.d.comb += [dq.o.eq(pins.dq_o), dq.oe.eq(pins.dq_oe), pins.dq_i.eq(dq.i)]
