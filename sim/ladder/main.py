"""Check the whole chain from the trained network to the bitstreams that are flashed: the ladder.

Each check is called a rung. Most rungs compare one form of a board's network or device with the
integer reference, exactly. The manifest of a bitstream records which rungs the bitstream has
passed; a new bitstream has passed none. The rungs for steps before synthesis need no bitstream:
they also check sources that have not been built yet.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from tqdm import tqdm

from hw.boards.configs import BOARDS, BOARDS_HELP
from hw.spec import SpecError
from hw.tools.command import EXIT_NO, EXIT_OK, CommandParser, ending, exit_codes
from hw.tools.manifest import climbed, load_manifest, manifest_path, record_rung
from hw.tools.netlist import BuildError, StaleError
from sim.ladder import plants
from sim.ladder.devices import Build, family_of
from sim.ladder.netlist import LadderError
from sim.ladder.rungs import RUNGS, Climb, Options, Rung
from sim.runner import CocotbError
from sim.verilate import ToolError
from sw.driver.errors import DeviceError

PLANT_BOARDS = ("ice40-hx8k", "ulx3s-25f")
"""Boards in whose builds deliberate bugs are planted, unless the user names others: of the families
iCE40 and ECP5, those whose netlists are built and run fastest."""
NAMES = tuple(rung.name for rung in RUNGS)
PASSED, FAILED, KEPT, LACKING = "passed", "FAILED", "climbed before", "not possible"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one rung (check) of the ladder for one board."""

    board: str
    rung: str
    state: str
    """One of :data:`PASSED`, :data:`FAILED`, :data:`KEPT` (passed before) and :data:`LACKING` (not
    possible)."""
    detail: str
    """What was compared or, after a failure, what differs; or why the rung is not possible."""
    seconds: float = 0.0


def climb_board(
    board: str,
    rungs: Sequence[Rung],
    options: Options,
    *,
    again: bool,
    record: str | None,
) -> Iterable[Outcome]:
    """Run rungs (checks, see :mod:`sim.ladder.rungs`) for one board, and yield the outcome of each.

    After the first failure, no further rungs are run.

    Parameters
    ----------
    again : also run the rungs that the bitstream has passed before.
    record : command line that is stored in the manifest with each passed rung; None stores nothing.

    Raises
    ------
    BuildError
        The board has no bitstream, or a tool is missing.
    """
    build = Build.of(board)
    before = {} if build.shipped is None else climbed(build.shipped)
    climb = Climb(build, options)
    for rung in rungs:
        if build.family in rung.lacking:
            yield Outcome(
                board=board, rung=rung.name, state=LACKING, detail="no tool supports this device"
            )
            continue
        if not again and rung.name in before:
            yield Outcome(
                board=board, rung=rung.name, state=KEPT, detail=before[rung.name]["compared"]
            )
            continue
        started = time.monotonic()
        try:
            detail, state = rung.run(climb), PASSED
        except (LadderError, StaleError, DeviceError, CocotbError) as error:
            detail, state = str(error), FAILED
        seconds = round(time.monotonic() - started, 1)
        if record is not None and build.shipped is not None:
            values = {
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "command": record,
                "compared": detail,
                "seconds": seconds,
            }
            record_rung(board, rung.name, values if state == PASSED else None)
        yield Outcome(board=board, rung=rung.name, state=state, detail=detail, seconds=seconds)
        if state == FAILED:
            return


def table(boards: Sequence[str]) -> str:
    """Return a Markdown table of the rungs (checks) that the bitstreams of boards have passed."""
    rows = [f"| bitstream | {' | '.join(NAMES)} |", "|---" * (1 + len(NAMES)) + "|"]
    for board in boards:
        manifest = load_manifest(board)
        done, family = climbed(manifest), family_of(manifest)
        cells = [
            done[rung.name]["date"]
            if rung.name in done
            else ("not possible" if family in rung.lacking else "–")
            for rung in RUNGS
        ]
        rows.append(f"| `{board}` | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def missing(boards: Sequence[str], rungs: Sequence[Rung]) -> list[str]:
    """Return a line of text for each board whose bitstream has not passed all of the rungs
    (checks)."""
    lines = []
    for board in boards:
        manifest = load_manifest(board)
        done, family = climbed(manifest), family_of(manifest)
        lacking = [r.name for r in rungs if r.name not in done and family not in r.lacking]
        if lacking:
            lines.append(
                f"{board} has not climbed {', '.join(lacking)}: python -m sim.ladder {board}"
            )
    return lines


def _parser() -> CommandParser:
    rungs = "\n".join(f"  {rung.name:10} {rung.compares}" for rung in RUNGS)
    parser = CommandParser(
        prog="python -m sim.ladder",
        description=f"{__doc__}\nrungs:\n{rungs}",
        epilog="examples:\n"
        "  python -m sim.ladder icebreaker                  # the rungs that are missing\n"
        "  python -m sim.ladder icebreaker --rung bitstream --again\n"
        "  python -m sim.ladder --table                     # what has been climbed, and when\n"
        "  python -m sim.ladder --check                     # has everything been climbed?\n"
        "  python -m sim.ladder --plant                     # is every planted bug caught?\n\n"
        + exit_codes("a rung failed or is missing; a bug was not caught", done="all passed"),
    )
    parser.add_argument(
        "boards", nargs="*", metavar="BOARD", help=f"any of {BOARDS_HELP} (default: all)"
    )
    parser.add_argument(
        "--rung",
        action="append",
        choices=NAMES,
        help="climb only this rung; can be given several times",
    )
    parser.add_argument(
        "--again", action="store_true", help="climb rungs, too, that have been climbed before"
    )
    parser.add_argument("--no-record", action="store_true", help="leave the manifests as they are")
    defaults = Options()
    for option, default, what in (
        ("networks", defaults.n_random, "random networks"),
        ("samples", defaults.n_samples, "samples of each network, at least 2"),
        ("seed", defaults.seed, "seed of the random networks"),
    ):
        parser.add_argument(
            f"--{option}", type=int, default=default, metavar="N", help=f"{what} (%(default)s)"
        )
    parser.add_argument(
        "--patience",
        type=float,
        default=defaults.patience_s,
        metavar="S",
        help="seconds that the driver waits for a reply of a simulated device (%(default)g)",
    )
    parser.add_argument("--table", action="store_true", help="print a table of all records")
    parser.add_argument("--check", action="store_true", help="fail if a rung is missing")
    parser.add_argument(
        "--plant",
        metavar="WORD",
        nargs="?",
        const="",
        help="plant bugs in all layers (those whose names contain WORD) of an iCE40 and an "
        "ECP5 board, and show which rung catches each",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@ending(BuildError, SpecError, ToolError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sim.ladder`` with the arguments ``argv``, and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.networks < 1 or args.samples < 2 or args.seed < 0:
        parser.error("--networks takes at least 1, --samples at least 2, --seed at least 0")
    shipped = [board for board in BOARDS if manifest_path(board).exists()]
    boards = args.boards or shipped
    rungs = [rung for rung in RUNGS if args.rung is None or rung.name in args.rung]
    if args.table:
        print(table(boards), end="")
        return EXIT_OK
    if args.check:
        lines = missing(boards, rungs)
        print("\n".join(lines) or "all rungs have been climbed")
        return EXIT_NO if lines else EXIT_OK
    if args.plant is not None:
        return _plant(args, args.boards or PLANT_BOARDS)
    return _climb_all(args, boards, rungs)


def _plant(args: argparse.Namespace, boards: Sequence[str]) -> int:
    """Plant the bugs that the option ``--plant`` selects, and print which rungs catch them."""
    options = Options(n_random=1, patience_s=plants.PATIENCE_S)
    climbs = [Climb(Build.of(board), options) for board in boards]
    pairs = [
        (bug, climb)
        for bug in (*plants.SOURCE_BUGS, *plants.TOOL_BUGS)
        for climb in climbs
        if args.plant in bug.name and climb.build.family == bug.family
    ]
    if not pairs:
        raise BuildError(
            f"no bug is planted: none that contains {args.plant!r} is for {', '.join(boards)}. "
            f"Leave out the boards to plant bugs in {' and '.join(PLANT_BOARDS)}"
        )
    outcomes = []
    for bug, climb in tqdm(pairs, unit="bug", disable=None):
        if isinstance(bug, plants.SourceBug):
            outcomes.append(plants.plant_in_sources(bug, climb.build.source.board))
        else:
            outcomes.append(plants.plant_in_tools(bug, climb))
        if not args.json:
            print(plants.row(outcomes[-1]), flush=True)
    if args.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    return EXIT_OK if all(outcome.as_expected for outcome in outcomes) else EXIT_NO


def _climb_all(args: argparse.Namespace, boards: Sequence[str], rungs: Sequence[Rung]) -> int:
    """Run rungs (checks) for all boards, print the outcomes, and return the command's exit code."""
    options = Options(
        n_random=args.networks,
        n_samples=args.samples,
        seed=args.seed,
        patience_s=args.patience,
    )
    outcomes: list[Outcome] = []
    with tqdm(total=len(boards) * len(rungs), unit="rung", disable=None) as bar:
        for board in boards:
            words = ["python", "-m", "sim.ladder", board, "--networks", str(options.n_random)]
            words += ["--samples", str(options.n_samples), "--seed", str(options.seed)]
            command = None if args.no_record else shlex.join(words)
            bar.set_description(board)
            for outcome in climb_board(board, rungs, options, again=args.again, record=command):
                outcomes.append(outcome)
                bar.update()
                if not args.json:
                    bar.write(
                        f"{board} {outcome.rung:10} {outcome.state}  {outcome.detail} "
                        f"({outcome.seconds:.0f} s)",
                        file=sys.stdout,
                    )
    failed = any(outcome.state == FAILED for outcome in outcomes)
    if args.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    return EXIT_NO if failed else EXIT_OK
