"""Steps from a netlist to a bitstream: synthesis, place and route with a seed, and packing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hw.tools.netlist import TOP, BuildError, Netlist

RESOURCES = {
    "lut": ("TRELLIS_COMB", "LUT4"),
    "logic_cell": ("ICESTORM_LC",),
    "ff": ("TRELLIS_FF", "DFF"),
    "block_ram": ("DP16KD", "ICESTORM_RAM", "BSRAM"),
    "spram": ("ICESTORM_SPRAM",),
    "dsp": (
        *("MULT18X18D", "ALU54B", "ICESTORM_DSP"),
        *("MULT9X9", "MULT18X18", "MULT36X36", "MULTALU18X18", "MULTALU36X18"),
        *("MULTADDALU18X18", "ALU54D"),
    ),
}
"""Names of resources in the manifest, each with the names that nextpnr has for it on different
devices."""


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Result of place and route with one seed: the bitstream's folder, clocks and utilization."""

    seed: int
    folder: Path
    """Folder that contains the bitstream and the logs."""
    clocks: dict[str, dict]
    """Results for each clock by name: ``fmax_mhz``, the maximum frequency in MHz;
    ``constraint_mhz``, the required one; and ``met``, whether the first is high enough."""
    utilization: dict[str, list[int]]
    """Numbers (used, available) of each resource of :data:`RESOURCES` that the device has."""

    @property
    def met(self) -> bool:
        """Whether all clocks reach the frequencies that the constraints require."""
        return all(clock["met"] for clock in self.clocks.values())

    @property
    def fmax_mhz(self) -> float:
        """Maximum frequency in MHz of the clock with the least to spare."""
        return least_to_spare(self.clocks)["fmax_mhz"]


def least_to_spare(clocks: Mapping[str, dict]) -> dict:
    """Return the clock whose maximum frequency is lowest in relation to the frequency that its
    constraint requires. ``clocks`` are those of a :class:`Routed` or a manifest."""
    return min(clocks.values(), key=lambda clock: clock["fmax_mhz"] / clock["constraint_mhz"])


def tool_command(name: str) -> list[str]:
    """Return the command that starts a tool from the optional dependencies ``build``.

    The tool must be installed in the same environment as this Python interpreter.

    Raises
    ------
    BuildError
        The tool is not installed.
    """
    for candidate in (f"yowasp-{name}", name):
        path = Path(sys.executable).parent / candidate
        if path.exists():
            return [str(path)]
    raise BuildError(f"{name} is missing: install it with 'pip install -e .[build]'")


def run_tool(command: Sequence[str], what: str, folder: Path, log: str) -> None:
    """Run a tool in ``folder``, and write its output to the file ``log`` in that folder.

    Raises
    ------
    BuildError
        The tool failed; the message has the end of its output.
    """
    with (folder / log).open("w") as output:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    if done.returncode != 0:
        tail = (folder / log).read_text(errors="replace").splitlines()[-15:]
        raise BuildError(
            f"{what} failed with exit code {done.returncode}; the end of {folder / log}:\n"
            + "\n".join(tail)
        )


def synthesised(source: Netlist, folder: Path) -> Path:
    """Synthesise a netlist, unless an earlier call did, and return the folder with the result, a
    subfolder of ``folder``.

    Raises
    ------
    BuildError
        Synthesis failed.
    """
    target = folder / "synthesis"
    if not target.exists():
        with _new_folder(target) as work:
            for name, content in source.files.items():
                (work / name).write_text(content)
            # Use a process of its own, since Yosys keeps global state and prints to descriptor 1.
            program = (
                "import sys; from pyosys import libyosys as ys;"
                "ys.run_pass('script ' + sys.argv[1], ys.Design())"
            )
            run_tool([sys.executable, "-c", program, f"{TOP}.ys"], "synthesis", work, "yosys.log")
            if not (work / f"{TOP}.json").exists():
                raise BuildError(f"synthesis failed: see {work / 'yosys.log'}")
    return target


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder with a temporary name, and rename it to ``target`` after the ``with``
    block.

    If the block raises an exception, the folder is not renamed. So a folder named ``target`` is
    always complete.
    """
    work = target.with_name(target.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    yield work
    work.rename(target)


def route(source: Netlist, synthesis: Path, seed: int, *, prefix: str = "seed") -> Routed:
    """Place, route and pack a synthesised netlist with one seed, and return the result.

    ``synthesis`` is the folder that :func:`synthesised` returned. The result is kept in a folder
    beside it, whose name consists of ``prefix`` and the seed. If that folder exists already, from
    an earlier call, no tool is run.

    Raises
    ------
    BuildError
        A tool is missing or failed.
    """
    target = synthesis.parent / f"{prefix}-{seed}"
    if not target.exists():
        with _new_folder(target) as work:
            for path in synthesis.iterdir():
                if path.suffix not in (".log", ".rpt"):
                    os.link(path, work / path.name)
            place = [*tool_command(source.place[0]), *source.place[1:], "--seed", str(seed)]
            run_tool(place, f"place and route with seed {seed}", work, "nextpnr.log")
            run_tool([*tool_command(source.pack[0]), *source.pack[1:]], "packing", work, "pack.log")
            (work / f"{TOP}.json").unlink()
    report = json.loads((target / "report.json").read_text())
    return Routed(
        seed=seed,
        folder=target,
        clocks={
            name.removeprefix("$glbnet$"): {
                "fmax_mhz": round(clock["achieved"], 2),
                "constraint_mhz": round(clock["constraint"], 2),
                "met": clock["achieved"] >= clock["constraint"],
            }
            for name, clock in sorted(report["fmax"].items())
        },
        utilization={
            resource: [
                sum(report["utilization"][name][key] for name in names)
                for key in ("used", "available")
            ]
            for resource, all_names in RESOURCES.items()
            if (names := [name for name in all_names if name in report["utilization"]])
        },
    )


def routed_netlist(source: Netlist, synthesis: Path, seed: int) -> tuple[Path, Path]:
    """Place, route and pack as :func:`route` does, and also let nextpnr write the routed netlist.

    If the results of an earlier call exist already, no tool is run.

    Returns
    -------
    The folder with the bitstream, and the JSON file with the netlist after routing.

    Raises
    ------
    BuildError
        A tool is missing or failed.
    """
    place = source.place
    if "--write" not in place:
        place = (*place, "--write", "routed.json")
    folder = route(replace(source, place=place), synthesis, seed, prefix="netlist").folder
    return folder, folder / place[place.index("--write") + 1]


def check_routed(routed: Routed, clk_hz: int) -> None:
    """Check that a bitstream meets timing and uses no multipliers.

    Raises
    ------
    BuildError
        The design's clock is not constrained, timing is not met, or a DSP block is used.
    """
    # Compare with a tolerance, since the tools round periods.
    if not any(abs(c["constraint_mhz"] * 1e6 / clk_hz - 1) < 1e-3 for c in routed.clocks.values()):
        raise BuildError(f"no clock is constrained to {clk_hz} Hz: {routed.clocks}")
    if not routed.met:
        raise BuildError(
            f"timing is not met: {routed.fmax_mhz} MHz at best of the {clk_hz / 1e6:g} MHz wanted. "
            "Try more --seeds, or lower this board's clk_hz in hw/boards/configs.py"
        )
    if routed.utilization.get("dsp", [0])[0]:
        raise BuildError(
            f"{routed.utilization['dsp'][0]} DSP blocks are used, but the design must not "
            "multiply: look for a multiplication in hw"
        )
