"""Comparison of a program's output with the output that a document shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = re.compile(r"[-−]?\d[\d,.]*")
SHORTENED = "..."
"""Line of a document that stands for any number of lines that are left out."""


def masked(line: str) -> str:
    """Return a line with ``#`` in place of every number, and with single spaces."""
    return " ".join(NUMBER.sub("#", line).split())


def require_shown(shown: Sequence[str], printed: Sequence[str], *, mask: bool) -> None:
    """Check that printed lines are as a document shows them; a line ``...`` stands for any lines,
    or none.

    Parameters
    ----------
    mask : whether to ignore differences in numbers and alignment.
    """
    shown, printed = (
        [masked(line) if mask and line.strip() != SHORTENED else line.rstrip() for line in lines]
        for lines in (shown, printed)
    )
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == SHORTENED else re.escape(line) + r"\n" for line in shown
    )
    text = "".join(f"{line}\n" for line in printed)
    assert re.fullmatch(pattern, text), (
        "the output differs from what is shown.\nShown:\n" + "\n".join(shown) + f"\nOutput:\n{text}"
    )
