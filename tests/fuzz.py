"""Random edits of files and messages, for tests that readers raise only Spikefold's own exceptions.

Each round has a seed of its own, which is printed if the round fails. To repeat the round with seed
N, run the test with ``FUZZ_SEED=N`` in the environment: the first round of every fuzzer then uses
this seed.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import time
from collections.abc import Iterator
from typing import Any

ROUND_S = 20.0
"""Longest time in seconds that a round may take; most take a few milliseconds."""

STRANGE: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "x",
        "input",
        "image",
        "NONE",
        "\x1b[2J",
        "\x00",
        "\ud800",
        "é" * 2000,
    ),
    *(0, 1, 2, 3, 7, 8, 255, -1, 1 << 15, 1 << 20, 1 << 31, 1 << 36, 1 << 40, 1 << 62, -(1 << 63)),
    *(0.5, -1.0, 1e308, 1e-320, float("nan"), float("inf"), 10**400),
    *([], {}, [0], [1, 1], [-1, 1], [[]], {"": None}, {"tensor": "x"}, [1] * 3000),
)
"""Unusual values that edits put in place of others; some of them cannot be written as JSON."""


def rounds(n: int, seed: int | None = 0) -> Iterator[tuple[random.Random, contextlib.ExitStack]]:
    """Yield a random generator for each of ``n`` rounds, and a context in which to run the round.

    The context adds the seed to an exception, and raises one itself if the round takes longer than
    :data:`ROUND_S`. The first round has the seed ``seed``, each further one the next integer. If
    ``seed`` is None, the first seed is random.
    """
    first = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
    if seed is not None and "FUZZ_SEED" not in os.environ:
        first = seed
    print(f"seeds {first} to {first + n - 1}")
    for one in range(first, first + n):
        stack = contextlib.ExitStack()
        stack.enter_context(_noted(one))
        yield random.Random(one), stack


@contextlib.contextmanager
def _noted(seed: int) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
        assert time.monotonic() - started < ROUND_S, "the round took too long"
    except BaseException as error:
        error.add_note(f"seed {seed}: repeat it with FUZZ_SEED={seed}")
        raise


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path (keys and indices) of every value in nested dictionaries and lists."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def edited(value: Any, rng: random.Random, strange: tuple[Any, ...] = STRANGE) -> Any:
    """Return a copy of nested dictionaries and lists with one to three random edits.

    An edit replaces a value by one of ``strange`` or by another value of the same structure,
    changes a number slightly, or removes, duplicates or renames an entry.
    """
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = [path for path in places(value) if path]
        if not found:
            return value
        *parents, last = rng.choice(found)
        place = value
        for key in parents:
            place = place[key]
        old = place[last]
        kind = rng.randrange(6)
        if kind == 0:
            del place[last]
        elif kind == 1 and isinstance(place, list):
            place.insert(last, copy.deepcopy(old))
        elif kind == 1:
            place[rng.choice(("new", f"{last}2", "name"))] = place.pop(last)
        elif kind == 2:
            other = value
            for key in rng.choice(found):
                other = other[key]
            place[last] = copy.deepcopy(other)
        elif kind == 3 and isinstance(old, int | float):
            place[last] = old + rng.choice((-2, -1, 1, 2, 8))
        else:
            place[last] = copy.deepcopy(rng.choice(strange))
    return value
