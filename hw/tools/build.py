"""``python -m hw.build``: synthesise, place, route and pack bitstreams, and write their manifests.

A bitstream is determined by its *netlist*: the RTLIL of the whole device, the pins and clocks, and
the options of every tool. The netlist depends on neither paths nor time. Its digest in the manifest
therefore tells whether a bitstream was built from the present sources. A build whose netlist has
not changed does nothing. Yosys comes from the wheel ``pyosys``, place and route from the wheels of
the extra ``build``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from hw.boards.configs import BOARDS, BOARDS_HELP, CONFIGS_HELP
from hw.spec import SpecError
from hw.tools import portable
from hw.tools.command import EXIT_OK, CommandParser, ending, exit_codes
from hw.tools.manifest import check_current, climbed, table, write_manifest
from hw.tools.netlist import WORK, BuildError, StaleError, netlist
from hw.tools.place import check_routed, route, synthesised


def build(
    board: str, *, n_seeds: int = 4, jobs: int = 1, force: bool = False, progress: bool = True
) -> dict:
    """Build a board's bitstream, unless it has been built from the same netlist already.

    Parameters
    ----------
    n_seeds : number of placements to try; the fastest is kept.
    jobs : number of placements to run at a time.
    force : build even if the netlist has not changed, and discard the files of earlier builds.
    progress : show a progress bar on a terminal.

    Returns
    -------
    The manifest of the bitstream (:mod:`hw.tools.manifest`).

    Raises
    ------
    BuildError
        A tool is missing or failed, timing is not met, or a DSP block is used. An existing
        bitstream is left as it is.
    SpecError
        The board is unknown, or its device does not support its configuration.
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
        futures = [executor.submit(route, source, synthesis, i + 1) for i in range(n_seeds)]
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


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m hw.build",
        description="Build bitstreams and their manifests into bitstreams/. A bitstream that was "
        "built from the present sources is left as it is.",
        epilog="examples:\n"
        "  python -m hw.build ulx3s-85f --seeds 8 --jobs 4\n"
        "  python -m hw.build --all\n"
        "  python -m hw.build --check           # were all built from the present sources?\n"
        "  python -m hw.build --table           # all boards as a table\n"
        "  python -m hw.build --verilog basys3 --fit           # for the vendor's tool\n"
        "  python -m hw.build --verilog mine.toml --out mine   # a board of your own\n\n"
        + exit_codes("a bitstream is stale, or a design does not fit its device"),
    )
    parser.add_argument("boards", nargs="*", metavar="BOARD", help=f"any of {BOARDS_HELP}")
    parser.add_argument("--all", action="store_true", help="build all boards")
    parser.add_argument(
        "--seeds", type=int, default=4, metavar="N", help="placements to try (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="placements to run at a time (default: %(default)s, the number of cores); each takes "
        "up to 2 GB of memory for a large device",
    )
    parser.add_argument(
        "--force", action="store_true", help="build in any case, even if nothing has changed"
    )
    parser.add_argument(
        "--check", action="store_true", help="build nothing; fail if a bitstream is stale"
    )
    parser.add_argument("--table", action="store_true", help="print the table of all manifests")
    vendor = parser.add_argument_group(
        "for the tool of a vendor (docs/any-fpga.md)",
        "Write one portable Verilog file and, for boards with a board file, constraints and "
        "scripts.",
    )
    vendor.add_argument("--verilog", metavar="NAME", help=f"one of {CONFIGS_HELP}")
    vendor.add_argument(
        "--board", type=Path, metavar="FILE", help="board file that changes the configuration NAME"
    )
    vendor.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (build/verilog/NAME)"
    )
    vendor.add_argument(
        "--fit",
        action="store_true",
        help="let Yosys estimate the resources, and compare them with the device (minutes)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@ending(BuildError, SpecError, OSError, negative=(StaleError, portable.UnfitError))
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m hw.build`` with the arguments ``argv``, and return its exit code."""
    args = _parser().parse_args(argv)
    if args.verilog is not None:
        return _write_verilog(args)
    for option in ("board", "out", "fit"):
        if getattr(args, option):
            raise BuildError(f"--{option} is for Verilog: name a configuration with --verilog")
    if args.table:
        print(table(), end="")
        return EXIT_OK
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
    return EXIT_OK


def _write_verilog(args: argparse.Namespace) -> int:
    """Write the files for a vendor's tool, and print their paths and the next step.

    Returns the command's exit code.
    """
    if args.boards or args.all or args.check or args.table:
        raise BuildError("--verilog takes one configuration, and goes with --board, --out, --fit")
    values = portable.deliver(
        args.verilog, args.board, args.out, default=WORK / "verilog", fit=args.fit
    )
    if args.json:
        print(json.dumps(values, indent=2))
        return EXIT_OK
    for path in values["files"]:
        print(path)
    if values["fit"]:
        print(values["fit"])
    print(f"next: {values['next']}")
    return EXIT_OK


def summary(manifest: dict) -> str:
    """Return a line of text on a bitstream: its clocks, utilization, seed, and the checks that it
    has passed."""
    clocks = ", ".join(
        f"{c['fmax_mhz']} MHz of {c['constraint_mhz']}" for c in manifest["clocks"].values()
    )
    used = ", ".join(f"{key} {n}/{total}" for key, (n, total) in manifest["utilization"].items())
    passed = ", ".join(climbed(manifest))
    ladder = f"passed {passed}" if passed else f"check it: python -m sim.ladder {manifest['board']}"
    return f"{manifest['bitstream']}: {clocks}; {used}; seed {manifest['seed']}; {ladder}"
