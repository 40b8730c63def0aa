"""Bitstreams of the known boards: synthesise, place, route, pack; and the manifests beside them.

What a bitstream is made of is its *netlist*: the RTLIL of the whole device, the pins and clocks,
and the options of every tool. It depends on neither paths nor time, so that its digest in the
manifest says whether a bitstream is that of these sources, and a build of an unchanged netlist ends
at once. Yosys comes from the ``pyosys`` wheel, place and route from those of the extra ``build``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from amaranth.vendor import GowinPlatform, LatticeECP5Platform, LatticeICE40Platform
from tqdm import tqdm

from hw.boards import BOARDS, BOARDS_HELP, config_by_name
from hw.protocol import spec_hash
from hw.spec import Config, SpecError
from hw.targets import TARGETS, Device, check_device, target

ROOT = Path(__file__).resolve().parents[1]
BITSTREAMS = ROOT / "bitstreams"
WORK = ROOT / "build"
TOP = "top"
VERSION = 1
"""Of the manifest's format."""

COLLISIONS = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:CLK_ENABLE=1 %i"
"""What is read from a row that is written in the same cycle is undefined. To read the old row, as
Amaranth's memories do, would take comparators and multiplexers around every block RAM. No memory of
the device is read so where it matters: simulations read zeros there, see :mod:`sim.verilate`."""

SYNTHESIS = {
    LatticeECP5Platform: "synth_ecp5",
    LatticeICE40Platform: "synth_ice40",
    GowinPlatform: "synth_gowin",
}

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
"""Names of the manifest, and what nextpnr calls them."""


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


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Outcome of one seed."""

    seed: int
    folder: Path
    clocks: dict[str, dict]
    """Per clock: ``fmax_mhz``, ``constraint_mhz``, ``met``."""
    utilization: dict[str, list[int]]
    """Per resource of :data:`RESOURCES` that the device has: used, available."""

    @property
    def met(self) -> bool:
        return all(clock["met"] for clock in self.clocks.values())

    @property
    def fmax_mhz(self) -> float:
        return min(clock["fmax_mhz"] for clock in self.clocks.values())


def _tool(name: str) -> list[str]:
    """Command of a tool of the extra ``build``, as installed beside this interpreter."""
    for candidate in (f"yowasp-{name}", name):
        path = Path(sys.executable).parent / candidate
        if path.exists():
            return [str(path)]
    raise BuildError(f"{name} is missing: install it with 'pip install -e .[build]'")


def _run(command: Sequence[str], what: str, folder: Path, log: str) -> None:
    """One tool, in ``folder``, which is all that it sees; what it prints goes to ``log``."""
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
    """The folder with the synthesised netlist, made if it is not there."""
    target = folder / "synthesis"
    if not target.exists():
        with _new_folder(target) as work:
            for name, content in source.files.items():
                (work / name).write_text(content)
            # A process of its own, since Yosys keeps global state and prints to descriptor 1.
            program = (
                "import sys; from pyosys import libyosys as ys;"
                "ys.run_pass('script ' + sys.argv[1], ys.Design())"
            )
            _run([sys.executable, "-c", program, f"{TOP}.ys"], "synthesis", work, "yosys.log")
            if not (work / f"{TOP}.json").exists():
                raise BuildError(f"synthesis failed: see {work / 'yosys.log'}")
    return target


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that gets its name only when it is complete, so that none is ever half made."""
    work = target.with_name(target.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    yield work
    work.rename(target)


def _route(source: Netlist, synthesis: Path, seed: int) -> Routed:
    """Place, route and pack with one seed, unless that was done before."""
    target = synthesis.parent / f"seed-{seed}"
    if not target.exists():
        with _new_folder(target) as work:
            for path in synthesis.iterdir():
                if path.suffix not in (".log", ".rpt"):
                    os.link(path, work / path.name)
            place = [*_tool(source.place[0]), *source.place[1:], "--seed", str(seed)]
            _run(place, f"place and route with seed {seed}", work, "nextpnr.log")
            _run([*_tool(source.pack[0]), *source.pack[1:]], "packing", work, "pack.log")
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


def check_routed(routed: Routed, clk_hz: int) -> None:
    """What must hold before a bitstream is shipped.

    Raises
    ------
    BuildError
        The tools did not constrain the design's clock, timing is not met, or a DSP block is used.
    """
    # The tools round periods.
    if not any(abs(c["constraint_mhz"] * 1e6 / clk_hz - 1) < 1e-3 for c in routed.clocks.values()):
        raise BuildError(f"no clock is constrained to {clk_hz} Hz: {routed.clocks}")
    if not routed.met:
        raise BuildError(
            f"timing is not met: {routed.fmax_mhz} MHz at best of the {clk_hz / 1e6:g} MHz wanted. "
            "Try more --seeds, or lower this board's clk_hz in hw/boards.py"
        )
    if routed.utilization.get("dsp", [0])[0]:
        raise BuildError(f"{routed.utilization['dsp'][0]} DSP blocks are used: there must be none")


def manifest_path(board: str) -> Path:
    return BITSTREAMS / f"{board.replace('/', '-')}.json"


def load_manifest(board: str) -> dict:
    """The manifest of a board's bitstream.

    Raises
    ------
    BuildError
        There is none, or its bitstream is not the one that it describes.
    """
    path = manifest_path(board)
    command = f"python -m hw.build {board}"
    if not path.exists():
        raise BuildError(f"there is no bitstream for {board}: build it with '{command}'")
    manifest = json.loads(path.read_text())
    bitstream = path.with_name(manifest["bitstream"])
    if not bitstream.exists():
        raise BuildError(f"{bitstream} is missing: build it with '{command}'")
    if hashlib.sha256(bitstream.read_bytes()).hexdigest() != manifest["sha256"]:
        raise BuildError(f"{bitstream} is damaged: build it again with '{command}'")
    return manifest


def check_current(source: Netlist) -> dict:
    """The manifest of a bitstream that is made of exactly this netlist.

    Raises
    ------
    BuildError
        As :func:`load_manifest`, or the sources have changed since.
    """
    manifest = load_manifest(source.board)
    if manifest["netlist"] != source.digest:
        raise BuildError(
            f"{manifest_path(source.board)} is stale: its bitstream was made of other sources. "
            f"Build it again with 'python -m hw.build {source.board}'"
        )
    return manifest


def _commit() -> str | None:
    """Commit of the sources, with ``-dirty`` if ``hw`` differs from it; None without git."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return None
    dirty = git("status", "--porcelain", "--", "hw").stdout.strip()
    return head.stdout.strip() + ("-dirty" if dirty else "")


def _versions(source: Netlist) -> dict[str, str]:
    """Versions of all tools that took part."""
    place, pack = source.place[0], source.pack[0]
    packages = ["amaranth", "amaranth-boards", "pyosys", f"yowasp-{place}"]
    packages += ["apycula"] if pack == "gowin_pack" else []
    return {package: metadata.version(package) for package in packages}


def write_manifest(source: Netlist, best: Routed, tried: dict[int, float]) -> dict:
    """Puts the bitstream and then its manifest in place, each at once."""
    content = (best.folder / source.product).read_bytes()
    path = manifest_path(source.board)
    bitstream = path.with_suffix(source.suffix)
    manifest = {
        "version": VERSION,
        "board": source.board,
        "device": source.device,
        "gateware_hash": f"{spec_hash(source.config):016x}",
        "netlist": source.digest,
        "source_commit": _commit(),
        "tools": _versions(source),
        "seed": best.seed,
        "fmax_mhz_by_seed": {str(seed): fmax for seed, fmax in sorted(tried.items())},
        "clocks": best.clocks,
        "utilization": best.utilization,
        "config": asdict(source.config),
        "bitstream": bitstream.name,
        "n_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    path.parent.mkdir(exist_ok=True)
    for place, data in (
        (bitstream, content),
        (path, (json.dumps(manifest, indent=2) + "\n").encode()),
    ):
        part = place.with_name(place.name + ".part")
        part.write_bytes(data)
        part.replace(place)
    return manifest


def build(
    board: str, *, n_seeds: int = 4, jobs: int = 1, force: bool = False, progress: bool = True
) -> dict:
    """Build a board's bitstream, unless that of these sources is there already.

    Parameters
    ----------
    n_seeds : how many placements to try; the fastest is kept.
    jobs : how many of them at a time.
    force : build even so, without anything of earlier builds.

    Returns
    -------
    The manifest.

    Raises
    ------
    BuildError
        A tool is missing or failed, timing is not met, or a DSP block is used. The bitstream that
        was there stays.
    SpecError
        Unknown board, or a configuration that the device does not support.
    """
    source = netlist(board)
    if force:
        shutil.rmtree(source.folder, ignore_errors=True)
    else:
        with suppress(BuildError):
            return check_current(source)
    with (
        tqdm(total=1 + n_seeds, desc=board, unit="step", disable=None if progress else True) as bar,
        ThreadPoolExecutor(jobs) as executor,
    ):
        bar.set_postfix_str("synthesis")
        synthesis = synthesised(source, source.folder)
        bar.update()
        bar.set_postfix_str("place and route")
        futures = [executor.submit(_route, source, synthesis, i + 1) for i in range(n_seeds)]
        routed = []
        try:
            for future in as_completed(futures):
                routed.append(future.result())
                bar.update()
                best = max(routed, key=lambda r: (r.met, r.fmax_mhz))
                bar.set_postfix_str(f"best {best.fmax_mhz:.1f} MHz")
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    check_routed(best, source.config.clk_hz)
    return write_manifest(source, best, {r.seed: r.fmax_mhz for r in routed})


def table() -> str:
    """The README's table of all boards, from the manifests."""
    rows = [
        "| board, device | clock (Fmax) | logic | block RAM | cores × lanes × bits "
        "| SOP / cycle | GSOP/s | of the ports' bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for board in BOARDS:
        if not manifest_path(board).exists():
            continue
        manifest = load_manifest(board)
        clk_mhz = manifest["config"]["clk_hz"] / 1e6
        cores, lanes, bits = (manifest["config"][k] for k in ("cores", "lanes", "weight_bits"))
        n_lanes = cores * lanes
        used = manifest["utilization"]
        logic = "lut" if "lut" in used else "logic_cell"
        memories = [
            f"{used[key][0]} of {used[key][1]}{suffix}"
            for key, suffix in (("block_ram", ""), ("spram", " SPRAM"))
            if key in used
        ]
        fmax_mhz = min(clock["fmax_mhz"] for clock in manifest["clocks"].values())
        rows.append(
            f"| `{board}`, {manifest['device']} "
            f"| {clk_mhz:g} MHz ({fmax_mhz:.1f}) "
            f"| {used[logic][0]:,} of {used[logic][1]:,} {'LUT' if logic == 'lut' else 'LC'} "
            f"| {', '.join(memories)} "
            f"| {f'{cores} × ' if cores > 1 else ''}{lanes} × {bits} "
            f"| {n_lanes} "
            f"| {n_lanes * clk_mhz / 1e3:.2f} "
            f"| {n_lanes * bits / TARGETS[board].port_bits:.1%} |"
        )
    return "\n".join(rows) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hw.build",
        description="Build bitstreams, with their manifests, into bitstreams/. A bitstream of "
        "these sources that is there already is left as it is.",
        epilog="examples:\n"
        "  python -m hw.build ulx3s-85f --seeds 8 --jobs 4\n"
        "  python -m hw.build --all\n"
        "  python -m hw.build --check           # are all of them those of these sources?\n"
        "  python -m hw.build --table           # the README's table",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("boards", nargs="*", metavar="BOARD", help=f"any of {BOARDS_HELP}")
    parser.add_argument("--all", action="store_true", help="all boards")
    parser.add_argument(
        "--seeds", type=int, default=4, metavar="N", help="placements to try (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="placements at a time (default: the machine's %(default)s cores); each takes up to "
        "2 GB of memory for a large device",
    )
    parser.add_argument("--force", action="store_true", help="build in any case")
    parser.add_argument("--check", action="store_true", help="build nothing, fail if one is stale")
    parser.add_argument("--table", action="store_true", help="print the table of all manifests")
    parser.add_argument("--json", action="store_true", help="print the manifests as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        if args.table:
            print(table(), end="")
            return 0
        boards = list(BOARDS) if args.all or (args.check and not args.boards) else args.boards
        if not boards:
            raise BuildError(f"name a board, or --all: known are {', '.join(BOARDS)}")
        if args.seeds < 1 or args.jobs < 1:
            raise BuildError("--seeds and --jobs take at least 1")
        manifests = []
        for board in boards:
            if args.check:
                manifest = check_current(netlist(board))
            else:
                manifest = build(board, n_seeds=args.seeds, jobs=args.jobs, force=args.force)
            manifests.append(manifest)
            if not args.json:
                print(summary(manifest))
        if args.json:
            print(json.dumps(manifests, indent=2))
    except (BuildError, SpecError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def summary(manifest: dict) -> str:
    """One line about a bitstream."""
    clocks = ", ".join(
        f"{c['fmax_mhz']} MHz of {c['constraint_mhz']}" for c in manifest["clocks"].values()
    )
    used = ", ".join(f"{key} {n}/{total}" for key, (n, total) in manifest["utilization"].items())
    return f"{manifest['bitstream']}: {clocks}; {used}; seed {manifest['seed']}"


if __name__ == "__main__":
    sys.exit(main())
