"""The netlist of a board: RTLIL of the whole device, constraints and tool options, and its digest."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amaranth.vendor import GowinPlatform, LatticeECP5Platform, LatticeICE40Platform

from hw.boards.configs import config_by_name
from hw.boards.platforms import Device, check_device, target
from hw.spec import Config
from hw.tools.folders import work_dir

WORK = work_dir()
TOP = "top"

COLLISIONS = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:CLK_ENABLE=1 %i"
"""What is read from a row that is written in the same cycle is undefined. To read the old row, as
Amaranth's memories do, would take comparators and multiplexers around every block RAM. No memory of
the device is read so where it matters: simulations read zeros there, see :mod:`sim.verilate`."""

SYNTHESIS = {
    LatticeECP5Platform: "synth_ecp5",
    LatticeICE40Platform: "synth_ice40",
    GowinPlatform: "synth_gowin",
}


class BuildError(RuntimeError):
    """A bitstream cannot be built, or is not that of these sources; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Netlist:
    """What a bitstream is made of, and how."""

    board: str
    config: Config
    device: str
    files: dict[str, str]
    """RTLIL, Yosys script, constraints."""
    place: tuple[str, ...]
    pack: tuple[str, ...]
    suffix: str

    @property
    def digest(self) -> str:
        """SHA-256 over everything here."""
        parts = [*sorted(self.files.items()), self.place, self.pack]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where its builds are kept."""
        return WORK / f"{self.board.replace('/', '-')}-{self.digest[:12]}"

    @property
    def product(self) -> str:
        return f"{TOP}{self.suffix}"


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Stop Python's cyclic garbage collector; use as a decorator or a context manager.

    A netlist has millions of objects, all in use until the end: searching them for garbage again
    and again takes more than half of the time of an elaboration.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@no_garbage_collection()
def netlist(board: str, config: Config | None = None) -> Netlist:
    """Elaborate a board.

    Parameters
    ----------
    config : another one than the board's own.

    Raises
    ------
    SpecError
        Unknown board, or a configuration that the device does not support.
    """
    config = config or config_by_name(board)
    platform = target(board).platform()
    check_device(config, platform)
    synthesis = next(name for family, name in SYNTHESIS.items() if isinstance(platform, family))
    plan = platform.build(
        Device(config),
        TOP,
        do_build=False,
        emit_src=False,
        debug_verilog=False,
        script_after_read=COLLISIONS,
        synth_opts="-run begin:map_luts",
        # Names of single bits: with those of vectors, ABC9 of Yosys 0.70 gets some mixed up.
        script_after_synth=f"splitnets\n{synthesis} -run map_luts: -top {TOP}",
        nextpnr_opts="--timing-allow-fail --report report.json"
        + (" --router router2" if isinstance(platform, LatticeECP5Platform) else ""),
    )
    files = {
        name: content
        for name, content in plan.files.items()
        if name.startswith(f"{TOP}.") and name != f"{TOP}.debug.v"
    }
    if isinstance(platform, GowinPlatform):
        # The platform's own commands are those of the first nextpnr-gowin, which is no more.
        family = platform.family.replace("NR-", "N-").replace("AR-", "A-")
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
