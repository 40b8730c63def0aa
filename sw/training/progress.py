"""Show the progress of an epoch: a bar on a terminal, or a line from time to time in other
output.

The first batches also tell how long the whole run will take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

FIRST_S = 5.0
"""Seconds after which the first line is printed, if the output is no terminal."""
EVERY_S = 60.0
"""Seconds between later lines, if the output is no terminal."""

N_TIMED = 3
"""Number of batches over which the speed is measured, without the first batch, which takes
longer."""

T = TypeVar("T")


def progress(
    batches: Iterable[T],
    what: str,
    n_batches: int,
    *,
    quiet: bool = False,
    on_speed: Callable[[float], object] | None = None,
) -> Iterator[T]:
    """Yield the batches, and show on standard error how many are done and how long the rest takes.

    Parameters
    ----------
    what : label of the progress bar, such as ``epoch 1/13``.
    n_batches : number of batches.
    quiet : show nothing, as in all but one of several processes.
    on_speed : called once with the seconds that a batch takes, as soon as they are known.
    """
    if quiet:
        yield from batches
        return
    if on_speed is not None:
        batches = _measured(batches, n_batches, on_speed)
    if sys.stderr.isatty():
        yield from tqdm(batches, what, n_batches, leave=False, disable=None)
        return
    started = time.monotonic()
    due = started + FIRST_S
    for n, batch in enumerate(batches):
        yield batch
        now = time.monotonic()
        if now >= due and n + 1 < n_batches:
            left = (now - started) / (n + 1) * (n_batches - n - 1)
            print(
                f"{what}: {n + 1} of {n_batches} batches, about {duration(left)} to go",
                file=sys.stderr,
                flush=True,
            )
            due = now + EVERY_S


def _measured(
    batches: Iterable[T], n_batches: int, on_speed: Callable[[float], object]
) -> Iterator[T]:
    """Yield the batches, and call ``on_speed`` with the seconds that a batch takes.

    These seconds are a mean over the :data:`N_TIMED` batches that follow the first one. The
    measurement ends earlier if it has taken :data:`FIRST_S` seconds, or if there are no more
    batches.
    """
    known = False
    started = time.monotonic()
    for n, batch in enumerate(batches):
        yield batch
        if known:
            continue
        now = time.monotonic()
        if n == 0 and n_batches > 1:
            started = now
        elif n >= N_TIMED or n + 1 == n_batches or now - started >= FIRST_S:
            known = True
            on_speed((now - started) / max(n, 1))


def duration(seconds: float) -> str:
    """Return a duration, given in seconds, in words.

    >>> duration(42.4), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
