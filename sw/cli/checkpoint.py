"""``python -m sw.checkpoint``: copy a checkpoint for publishing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sw.model.checkpoint import CheckpointError, load, save, slim


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    p = argparse.ArgumentParser(
        prog="python -m sw.checkpoint",
        description="Copy a checkpoint without what only resuming needs, for publishing.",
        epilog="example: python -m sw.checkpoint ckpt.pt sw/checkpoints/fashion-mnist.pt",
    )
    p.add_argument("source", type=Path)
    p.add_argument("target", type=Path)
    args = p.parse_args(argv)
    try:
        save(args.target, slim(load(args.source)))
    except (CheckpointError, OSError) as error:
        print(f"sw.checkpoint: {error}", file=sys.stderr)
        return 1
    return 0
