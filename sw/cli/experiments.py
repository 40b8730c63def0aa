"""``python -m sw.experiments``: ablations of training methods, and accuracy against cycles."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CommandParser,
    check_output,
    command,
)
from sw.data import catalogue
from sw.data.dataset import DataError
from sw.files import OutputError
from sw.model.checkpoint import CheckpointError
from sw.model.functional import EAGER, compiled
from sw.training import crossval
from sw.training.crossval import Score
from sw.training.experiments import (
    EXPERIMENTS,
    MAX_SEEDS,
    N_SEEDS,
    N_VALIDATION,
    ExperimentError,
    frontier_markdown,
    run_ablation,
    run_frontier,
)
from sw.training.loop import TrainError
from sw.training.recipes import RECIPES
from sw.training.significance import Row

OTHERS = ("frontier", "cross-validation")
"""Experiments besides :data:`sw.training.experiments.EXPERIMENTS`."""
CROSS_VALIDATED = "mitbih"
"""Recipe (:class:`sw.training.recipes.Recipe`) that is cross-validated unless ``--recipe`` names
another."""


@command(
    *(CheckpointError, DataError, ExperimentError, OSError, TrainError),
    interrupted="interrupted; the same command continues",
)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sw.experiments`` with the arguments ``argv`` and return its exit code."""
    p = CommandParser(
        prog="python -m sw.experiments",
        description="Train variants of one small network over several seeds, and compare them;\n"
        "or cross-validate a recipe on its training data.",
        epilog=f"""examples:
  python -m sw.experiments ablation --compile --out ablation    (about an hour of one core)
  python -m sw.experiments ablation --compile --out ablation    continues where it was interrupted
  python -m sw.experiments depth --compile --seeds 3 --out depth
  python -m sw.experiments frontier --compile --out frontier    (about 5 minutes)
  python -m sw.experiments cross-validation --seeds 3 --compile --out heartbeats

exit codes: {EXIT_OK} done, {EXIT_BAD_INPUT} bad input (the message says what to do),
{EXIT_INTERRUPTED} interrupted""",
    )
    p.add_argument("experiment", choices=[*EXPERIMENTS, *OTHERS], help="experiment to run")
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for results, table and plot",
    )
    p.add_argument(
        "--data-dir",
        help="folder of the data set (default: searched, see sw.train --help)",
    )
    p.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        help=f"recipe to cross-validate (default: {CROSS_VALIDATED})",
    )
    p.add_argument("--seeds", type=int, default=N_SEEDS, help=f"runs of each variant ({N_SEEDS})")
    p.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    p.add_argument("--compile", action="store_true", help="fuse the neurons with torch.compile")
    p.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = p.parse_args(argv)
    if not 1 <= args.seeds <= MAX_SEEDS:
        p.error(f"--seeds takes 1 to {MAX_SEEDS}: exact tests of more take too long")
    if args.threads < 1:
        p.error("--threads takes a number of at least 1")
    torch.set_num_threads(args.threads)
    backend = compiled() if args.compile else EAGER
    if args.recipe and args.experiment != "cross-validation":
        p.error(f"--recipe is for cross-validation: {args.experiment} has networks of its own")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {args.out} cannot be created: {error.strerror}") from error
    check_output(args.out / "table.md")
    seeds = range(1, args.seeds + 1)
    if args.experiment == "cross-validation":
        recipe = RECIPES[args.recipe or CROSS_VALIDATED]
        parts = catalogue.load_parts(args.data_dir, recipe.data)
        scores = crossval.run(
            args.out, parts, recipe.model, recipe.train, seeds=seeds, backend=backend
        )
        return _shown(args, scores)
    dataset = catalogue.load(args.data_dir, N_VALIDATION)
    if args.experiment == "frontier":
        points = run_frontier(args.out, dataset, backend=backend)
        print(json.dumps(points) if args.json else frontier_markdown(points), end="")
        return EXIT_OK
    variants = EXPERIMENTS[args.experiment]()
    rows = run_ablation(args.out, dataset, seeds=seeds, variants=variants, backend=backend)
    return _shown(args, rows)


def _shown(args: argparse.Namespace, rows: Sequence[Row | Score]) -> int:
    """Print an experiment's results, and return the exit code.

    With ``--json``, print the ``rows`` as JSON. Otherwise print the file ``table.md``, which the
    experiment has written to the folder ``--out``.
    """
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print((args.out / "table.md").read_text(), end="")
    return EXIT_OK
