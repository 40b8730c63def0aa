"""Netlist of a board (RTLIL of the whole device, constraints, tool options) and its digest."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amaranth.vendor import GowinPlatform, LatticeECP5Platform, LatticeICE40Platform

from hw.boards.configs import config_by_name, has_usb
from hw.boards.platforms import BoardTop, check_device, target
from hw.parts.memories import has_block_ram_shapes
from hw.spec import Config
from hw.tools.folders import work_dir

WORK = work_dir()
"""Folder for intermediate files of builds."""
TOP = "top"
"""Name of the top-level module and of the build's files."""

COLLISIONS = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:CLK_ENABLE=1 %i"
"""Yosys command that makes reading a row of a memory undefined in the cycle in which that row is
written.

Amaranth's memories return the old row, which would take comparators and multiplexers around every
block RAM. The device never uses the result of such a read. In simulations the result is zero, so
that a use would be noticed (:mod:`sim.verilate`).
"""

OUTPUT_REGISTERS = (
    "select -set registered t:DP16KD c:*.weights.rows* %i\n"
    "select -assert-min 1 @registered\n"
    'setparam -set REGMODE_A "OUTREG" -set REGMODE_B "OUTREG" @registered\n'
)
"""Yosys commands that switch on the output registers of the block RAMs of the weights.

Yosys never uses these registers itself. They are part of the block RAM (Lattice FPGA-TN-02204), are
always enabled, and delay what was read by one cycle, as the register does that
:class:`hw.core.weights.BlockRows` has in simulations.
"""

CROSSINGS = r"setparam -set COLLISION_X_MASK 1'0 t:$memrd_v2 r:MEMID=*storage %i"
"""Yosys command that reverses :data:`COLLISIONS` for Amaranth's queues between clock domains.

Reads and writes of such a queue have different clocks, so that they have no cycle in common."""

SYNTHESIS = {
    LatticeECP5Platform: "synth_ecp5",
    LatticeICE40Platform: "synth_ice40",
    GowinPlatform: "synth_gowin",
}
"""Synthesis command of Yosys for each family of devices."""


class BuildError(RuntimeError):
    """Raised if a bitstream cannot be built or is missing or stale; the message says what to do."""


class StaleError(BuildError):
    """Raised if a bitstream was built from other sources; the message says how to rebuild it."""


@dataclass(frozen=True, kw_only=True)
class Netlist:
    """Everything that determines a bitstream: the input files and commands of the tools."""

    board: str
    config: Config
    device: str
    """Name of the FPGA."""
    files: dict[str, str]
    """Contents of the RTLIL, the Yosys script and the constraints, by file name."""
    place: tuple[str, ...]
    """Command for place and route; the seed is appended later."""
    pack: tuple[str, ...]
    """Command that packs the result of routing into a bitstream."""
    suffix: str
    """Suffix of the bitstream's file name."""

    @property
    def digest(self) -> str:
        """SHA-256 of the tools' input files and commands, in hexadecimal."""
        parts = [*sorted(self.files.items()), self.place, self.pack]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Folder for the intermediate files of this netlist's builds."""
        return WORK / f"{self.board.replace('/', '-')}-{self.digest[:12]}"

    @property
    def product(self) -> str:
        """Name of the bitstream's file in the folder where place and route and packing ran."""
        return f"{TOP}{self.suffix}"


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Stop Python's cyclic garbage collector, as a decorator or as a context manager.

    While a design is elaborated, millions of objects are in use until the end. Searching them for
    garbage again and again would take more than half of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _mapping_options(platform: object) -> tuple[str, ...]:
    """Return options that make Yosys' synthesis command map logic by the delays of the device.

    ``synth_ecp5`` and ``synth_gowin`` do so without options. ``synth_ice40`` needs ``-abc9`` and
    the name of the device's series.
    """
    if not isinstance(platform, LatticeICE40Platform):
        return ()
    return "-abc9", "-device u" if platform.device.startswith("iCE40UP") else "-device hx"


def has_output_registers(config: Config, platform: object) -> bool:
    """Return whether the block RAMs of a device's weights use their output registers."""
    return config.weight_registers > 0 and has_block_ram_shapes(platform)


@no_garbage_collection()
def netlist(board: str, config: Config | None = None) -> Netlist:
    """Elaborate the gateware for a board, and return the input of the tools that build it.

    Parameters
    ----------
    config : configuration to use in place of the board's own.

    Raises
    ------
    SpecError
        The board is unknown, or its device does not support the configuration.
    """
    config = config or config_by_name(board)
    platform = target(board).platform()
    check_device(config, platform)
    synthesis = next(name for family, name in SYNTHESIS.items() if isinstance(platform, family))
    options = _mapping_options(platform)
    plan = platform.build(
        BoardTop(config, target(board).idle),
        TOP,
        do_build=False,
        emit_src=False,
        debug_verilog=False,
        script_after_read="\n".join([COLLISIONS, *[CROSSINGS] * has_usb(config)]),
        synth_opts=" ".join(("-run begin:map_luts", *options)),
        # Split nets into single bits: ABC9 of Yosys 0.70 mixes up some names of vectors.
        script_after_synth="splitnets\n"
        + " ".join((synthesis, "-run map_luts:", *options, "-top", TOP))
        + ("\n" + OUTPUT_REGISTERS) * has_output_registers(config, platform),
        nextpnr_opts="--timing-allow-fail --report report.json"
        + (" --router router2" if isinstance(platform, LatticeECP5Platform) else ""),
    )
    files = {
        name: content
        for name, content in plan.files.items()
        if name.startswith(f"{TOP}.") and name != f"{TOP}.debug.v"
    }
    if isinstance(platform, GowinPlatform):
        # The platform's own commands are for nextpnr-gowin, which nextpnr-himbaechel replaced.
        family = platform.family.replace("AR-", "A-")
        files[f"{TOP}.ys"] += f"\nwrite_json {TOP}.json\n"
        place = (
            *("nextpnr-himbaechel-gowin", "--device", platform.part),
            *("--vopt", f"family={family}", "--vopt", f"cst={TOP}.cst"),
            *("--freq", f"{config.clk_hz / 1e6:g}", "--timing-allow-fail"),
            *("--json", f"{TOP}.json", "--write", f"{TOP}.pnr.json", "--report", "report.json"),
        )
        pack = ("gowin_pack", "-d", family, "-o", f"{TOP}.fs", f"{TOP}.pnr.json")
        suffix = ".fs"
    else:
        commands = json.loads(plan.files[f"build_{TOP}.json"])["commands"]
        _, place, pack = (tuple(command) for command in commands)
        suffix = ".bit" if "ecp5" in place[0] else ".bin"
    return Netlist(
        board=board,
        config=config,
        device=getattr(platform, "part", None) or f"{platform.device}-{platform.package}",
        files=files,
        place=place,
        pack=pack,
        suffix=suffix,
    )
