"""Mutants of the gateware: does the ladder notice small changes of core and link?

Yosys' ``mutate`` draws changes of the flat netlist of a device: one input of one cell is inverted,
or always 0 or 1, and so on. All of them are in one netlist, with a number that chooses one; 0
chooses none. So one compilation by Verilator serves all mutants. Each is driven at its serial pins
by :func:`sim.ladder.pins.climb`, like a device of the ladder. A mutant is *killed* if a result
differs or the device no longer answers, else it has *survived*: it is equivalent to the original,
or a test is missing.

Results are kept in ``build/mutants``, in a file for each netlist. Mutants that have a result are
not run again, so that an interrupted run goes on where it ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

from tqdm import tqdm

from hw.boards.configs import CONFIGS_HELP, config_by_name
from hw.boards.portable import PortableTop
from hw.spec import Config, SpecError
from hw.tools.command import EXIT_NO, EXIT_OK, CommandParser, ending, exit_codes
from hw.tools.folders import ROOT, work_dir
from hw.tools.netlist import COLLISIONS
from hw.tools.portable import MODULE
from hw.tools.verilog import ToolError, run_yosys, to_rtlil
from sim import virtual_board
from sim.ladder import pins
from sim.ladder.netlist import LadderError
from sim.ladder.vectors import Vector, random_vector
from sim.verilate import build_executable
from sw.driver.errors import DeviceError, LinkLost, LinkTimeout
from sw.files import write_whole

MAIN = Path(__file__).with_suffix(".cpp")
SELECT = "mutant_select"
"""Signal of the netlist that has the number of the mutant."""
SELECT_BITS = 16
VARIABLE = "SPIKEFOLD_MUTANT"
"""Environment variable from which the simulated device takes the number of the mutant."""
LIMIT_VARIABLE = "SPIKEFOLD_MUTANT_CPU_S"
"""Environment variable from which the simulated device takes its limit of processor time, in
seconds."""
LIMIT_FACTOR = 3
"""Largest ratio of a mutant's processor time to that of the original; a mutant that needs more
counts as silent."""
PATIENCE_S = 1.0
"""Time in seconds that the driver waits for a reply before it repeats a request."""
N_QUICK, N_MORE = 2, 6
"""Number of random networks for every mutant, and of further ones for mutants that survive them."""
KILLED, SILENT, SURVIVED = "killed", "silent", "survived"
"""Results of mutants: a result of the device differed (killed); the device no longer answered
(silent, which counts as killed, too); or neither (survived)."""
BOARD = "ice40-hx8k"
"""Default board: its netlist is the smallest of the known boards."""
CLOCKS = frozenset({"\\CLK", "\\RD_CLK", "\\WR_CLK"})
"""Inputs of cells that are not mutated, since a simulation without delays cannot gate clocks."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """Change of one cell of the netlist."""

    number: int
    change: str
    """Change as Yosys' options, such as ``-mode inv -cell ... -port ... -portbit ...``."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one mutant; ``detail`` says in words what differed or, if nothing did, what was
    compared."""

    number: int
    state: str
    """One of :data:`KILLED`, :data:`SILENT` and :data:`SURVIVED`."""
    detail: str
    change: str


def mutated(config: Config, n: int, seed: int) -> tuple[str, list[Mutant]]:
    """Return the Verilog of a device with ``n`` mutants, and the mutants.

    Changes of clock inputs are left out, so that there may be fewer than ``n``.

    Raises
    ------
    ToolError
        Yosys failed.
    """
    flat = f"proc\nflatten\nopt\n{COLLISIONS}\nmemory_collect\nopt_clean\n"
    with tempfile.TemporaryDirectory(prefix="spikefold-") as name:
        folder = Path(name)
        design, listed, script, verilog = (
            folder / one for one in ("top.il", "list.txt", "run.ys", "top.v")
        )
        source = to_rtlil(PortableTop(config), name=MODULE, emit_src=True)
        design.write_text(source)
        start = f"read_rtlil {design}\n{flat}"
        script.write_text(
            f"{start}write_rtlil {folder}/flat.il\n"
            f"mutate -list {n} -seed {seed} -cfg weight_cover 0 -o {listed}\n"
        )
        run_yosys(script, "choice of mutants (pyosys)")
        changes = [
            line.removeprefix("mutate ").strip().replace(f"{ROOT}/", "")
            for line in listed.read_text().splitlines()
            if not CLOCKS & set(line.split())
        ]
        mutants = [Mutant(number=i, change=change) for i, change in enumerate(changes, 1)]
        commands = "\n".join(
            f"mutate -ctrl {SELECT} {SELECT_BITS} {mutant.number} {mutant.change}"
            for mutant in mutants
        )
        script.write_text(
            f"read_rtlil {folder}/flat.il\n{commands}\nopt_clean\n"
            f"write_verilog -norename -noattr {verilog}\n"
        )
        run_yosys(script, "planting of mutants (pyosys)")
        return _selected_by_host(verilog.read_text()), mutants


def _selected_by_host(verilog: str) -> str:
    """Return the Verilog with a register in place of the input :data:`SELECT`.

    The number in the register chooses the mutant. The C++ program that simulates the device sets it
    at the start.
    """
    text, n_ports = re.subn(rf"(\(|, ){SELECT}(\)|, )", _without_port, verilog, count=1)
    declared = f"input [{SELECT_BITS - 1}:0] {SELECT};"
    if n_ports != 1 or text.count(declared) != 1:
        raise ToolError(f"the netlist of the mutants has no input {SELECT}")
    text = re.sub(rf"^\s*wire \[\d+:0\] {SELECT};\n", "", text, flags=re.MULTILINE)
    register = (
        'import "DPI-C" function int spikefold_mutant();\n'
        f"  reg [{SELECT_BITS - 1}:0] {SELECT};\n  initial {SELECT} = spikefold_mutant();"
    )
    main = hashlib.sha256(virtual_board.MAIN.read_bytes()).hexdigest()
    return f"// for the program {main}\n{text.replace(declared, register)}"


def _without_port(match: re.Match[str]) -> str:
    before, after = match.groups()
    return before if after == ", " else after


def outcome(
    program: Path,
    config: Config,
    vectors: Sequence[Vector],
    mutant: Mutant | None,
    limit_s: int | None = None,
) -> Outcome:
    """Run one mutant, or the original if ``mutant`` is None, and return what happened.

    Parameters
    ----------
    program : model of the device with all mutants.
    limit_s : seconds of processor time after which the model ends; None means no limit.
    """
    number, change = (0, "none") if mutant is None else (mutant.number, mutant.change)
    limit = {} if limit_s is None else {LIMIT_VARIABLE: str(limit_s)}
    try:
        with mock.patch.dict(os.environ, {VARIABLE: str(number), **limit}):
            detail = str(pins.climb(program, config, vectors, patience_s=PATIENCE_S))
            state = SURVIVED
    except (LinkTimeout, LinkLost) as error:
        detail, state = str(error), SILENT
    except (LadderError, DeviceError) as error:
        detail, state = str(error), KILLED
    return Outcome(number=number, state=state, detail=detail[:300], change=change)


class Results:
    """Results of mutants, kept in a file that is rewritten after each new result.

    Parameters
    ----------
    path : file of one JSON object per line.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lines = path.read_text().splitlines() if path.exists() else []
        self.outcomes = {
            found.number: found for found in (Outcome(**json.loads(x)) for x in self._lines)
        }

    def add(self, found: Outcome) -> None:
        """Add the result of a mutant, and write the file again."""
        self.outcomes[found.number] = found
        self._lines.append(json.dumps(asdict(found)))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, ("\n".join(self._lines) + "\n").encode())


def run(
    config: Config,
    *,
    n: int,
    seed: int,
    limit: int | None = None,
    on_outcome: Callable[[Outcome], object] = lambda found: None,
) -> list[Outcome]:
    """Run mutants that have no result yet, and return the results of all that have one.

    Parameters
    ----------
    n, seed : number of mutants, and the seed by which they are drawn.
    limit : largest number of mutants to run now; None means all.
    on_outcome : called with each result.

    Raises
    ------
    LadderError
        The original, without any mutant, fails.
    """
    verilog, mutants = mutated(config, n, seed)
    numbers = range(N_QUICK + N_MORE)
    vectors = [random_vector(config, f"random {i}", 2, (seed, i)) for i in numbers]
    quick, more = vectors[:N_QUICK], vectors[N_QUICK:]
    program = build_executable(
        verilog,
        MAIN,
        name=f"mutants-{config.name.replace('/', '-')}",
        top=MODULE,
        defines={"CLK_HZ": config.clk_hz, "PORTABLE": 1},
        compile_args=("-O2",),
    )
    before_s = _children_s()
    original = outcome(program, config, quick, None)
    limit_s = math.ceil(LIMIT_FACTOR * (_children_s() - before_s)) + 1
    if original.state != SURVIVED:
        raise LadderError(f"the device without mutants fails: {original.detail}")
    digest = hashlib.sha256(f"{verilog}{n} {seed}".encode()).hexdigest()[:20]
    results = Results(work_dir() / "mutants" / f"{config.name.replace('/', '-')}-{digest}.jsonl")
    left = [mutant for mutant in mutants if mutant.number not in results.outcomes]
    for mutant in tqdm(left[:limit], unit="mutant", disable=None):
        found = outcome(program, config, quick, mutant, limit_s)
        if found.state == SURVIVED:
            found = outcome(program, config, more, mutant, limit_s * N_MORE)
        results.add(found)
        on_outcome(found)
    return [results.outcomes[number] for number in sorted(results.outcomes)]


def _children_s() -> float:
    """Return the processor time, in seconds, of all processes that this one has started and that
    have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the numbers of mutants by result, and a line for each that has survived."""
    counts = Counter(found.state for found in outcomes)
    lines = [f"{len(outcomes)} mutants: " + ", ".join(f"{n} {s}" for s, n in counts.items())]
    lines += [f"  {f.number}: {f.change}" for f in outcomes if f.state == SURVIVED]
    return "\n".join(lines)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m sim.mutants",
        description=__doc__,
        epilog="examples:\n"
        "  python -m sim.mutants --run 30     # 30 of 1,000 that have no result yet\n"
        "  python -m sim.mutants              # all that have none\n\n"
        + exit_codes("too many mutants survived", done="enough mutants were killed"),
    )
    parser.add_argument(
        "--board", default=BOARD, help=f"sim or one of {CONFIGS_HELP} (default: %(default)s)"
    )
    parser.add_argument("-n", type=int, default=1000, help="number of mutants (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutants (%(default)s)")
    parser.add_argument("--run", type=int, metavar="N", help="run at most N now (default: all)")
    parser.add_argument(
        "--goal",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="smallest share of killed mutants, 0 to 1, for exit code 0 (%(default)s)",
    )
    return parser


@ending(SpecError, ToolError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sim.mutants`` with the arguments ``argv``, and return its exit code."""
    parser = _parser()
    args: argparse.Namespace = parser.parse_args(argv)
    if not 1 <= args.n < 1 << SELECT_BITS or args.seed < 0 or (args.run or 0) < 0:
        parser.error(f"-n takes 1 to {(1 << SELECT_BITS) - 1}, --seed and --run at least 0")
    found = run(
        config_by_name(args.board),
        n=args.n,
        seed=args.seed,
        limit=args.run,
        on_outcome=lambda one: print(f"{one.number} {one.state}: {one.detail}", flush=True),
    )
    print(summary(found))
    n_killed = sum(one.state != SURVIVED for one in found)
    return EXIT_OK if n_killed >= args.goal * len(found) else EXIT_NO


if __name__ == "__main__":
    sys.exit(main())
