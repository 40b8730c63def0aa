"""``python -m sw.checkpoint``: copy a checkpoint for publishing, without the state for resuming."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CommandParser,
    check_output,
    command,
)
from sw.model.checkpoint import CheckpointError, load, save, slim


@command(CheckpointError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sw.checkpoint`` with the arguments ``argv`` and return its exit code."""
    p = CommandParser(
        prog="python -m sw.checkpoint",
        description="Copy a checkpoint for publishing, without the data that only --resume needs.",
        epilog=f"""example:
  python -m sw.checkpoint ckpt.pt sw/checkpoints/fashion-mnist.pt

exit codes: {EXIT_OK} done, {EXIT_BAD_INPUT} bad input (the message says what to do),
{EXIT_INTERRUPTED} interrupted""",
    )
    p.add_argument("source", type=Path, help="checkpoint to copy")
    p.add_argument("target", type=Path, help="file to write")
    args = p.parse_args(argv)
    check_output(args.target)
    save(args.target, slim(load(args.source)))
    return EXIT_OK
