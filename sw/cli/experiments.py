"""``python -m sw.experiments``: ablations of training methods, and accuracy against cycles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from sw.cli.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, CommandParser, command
from sw.data import catalogue
from sw.data.dataset import DataError
from sw.model.checkpoint import CheckpointError
from sw.model.functional import EAGER, compiled
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


@command(
    *(CheckpointError, DataError, ExperimentError, OSError, TrainError),
    interrupted="interrupted; the same command continues",
)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sw.experiments`` with the arguments ``argv`` and return its exit code."""
    p = CommandParser(
        prog="python -m sw.experiments",
        description="Train variants of one small network over several seeds, and compare them.",
        epilog=f"""examples:
  python -m sw.experiments ablation --compile --out ablation    (about an hour of one core)
  python -m sw.experiments ablation --compile --out ablation    continues where it was interrupted
  python -m sw.experiments depth --compile --seeds 3 --out depth
  python -m sw.experiments frontier --compile --out frontier    (about 5 minutes)

exit codes: {EXIT_OK} done, {EXIT_BAD_INPUT} bad input (the message says what to do),
{EXIT_INTERRUPTED} interrupted""",
    )
    p.add_argument("experiment", choices=[*EXPERIMENTS, "frontier"], help="experiment to run")
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for results, table and plot",
    )
    p.add_argument(
        "--data-dir",
        help="folder of Fashion-MNIST (default: searched, see sw.train --help)",
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
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = catalogue.load(args.data_dir, N_VALIDATION)
    if args.experiment == "frontier":
        points = run_frontier(args.out, dataset, backend=backend)
        print(json.dumps(points) if args.json else frontier_markdown(points), end="")
        return EXIT_OK
    seeds = range(1, args.seeds + 1)
    variants = EXPERIMENTS[args.experiment]()
    rows = run_ablation(args.out, dataset, seeds=seeds, variants=variants, backend=backend)
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print((args.out / "table.md").read_text(), end="")
    return EXIT_OK
