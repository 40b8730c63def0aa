"""Statistics of the experiments: exact permutation tests, and Holm's correction of p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import mean, stdev

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of an experiment's table: accuracies of a variant, and its comparison with its base.

    The base is another variant, with which this one is compared. Without a base, ``difference``,
    ``p`` and ``p_holm`` are None.
    """

    name: str
    """Name of the variant."""
    accuracies: tuple[float, ...]
    """Test accuracies in percent, one for each seed."""
    difference: float | None = None
    """Mean accuracy minus the base's, in percentage points."""
    p: float | None = None
    """p-value of the difference: two-sided exact :func:`permutation_test`."""
    p_holm: float | None = None
    """p-value after Holm's correction for the number of comparisons (Scand. J. Stat. 6, 1979)."""

    @property
    def mean(self) -> float:
        """Mean of the accuracies over seeds."""
        return mean(self.accuracies)

    @property
    def sd(self) -> float:
        """Standard deviation of the accuracies over seeds; 0 for a single seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def permutation_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the two-sided p-value of the difference between the means of ``a`` and ``b``.

    The test tries every division of all values into a group as large as ``a`` and another as large
    as ``b``. The p-value is the share of divisions in which the means of the two groups differ by
    at least as much as those of ``a`` and ``b``.
    """
    values = [*a, *b]
    total, n_a, n_b = sum(values), len(a), len(b)
    found = abs(mean(a) - mean(b))
    n_ways = n_extreme = 0
    for chosen in combinations(range(len(values)), n_a):
        part = sum(values[i] for i in chosen)
        n_ways += 1
        n_extreme += abs(part / n_a - (total - part) / n_b) >= found - 1e-9
    return n_extreme / n_ways


def blocked_test(base: Sequence[float], others: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean of all ``others`` minus the mean of ``base``, and the p-value of this
    difference.

    Every sequence has one value for each seed. The two-sided permutation test exchanges values
    within a seed only: it tries every choice of one value per seed to be the base's. The p-value is
    the share of choices whose difference is, in absolute value, at least as large as the observed
    one. Time and memory grow with ``(len(others) + 1) ** n_seeds``.
    """
    blocks = np.array([base, *others]).T  # (seeds, values)
    chosen = np.zeros(1)
    for block in blocks:
        chosen = (chosen[:, None] + block).reshape(-1)
    n_seeds, n_values = blocks.shape
    differences = (blocks.sum() - chosen) / (n_seeds * (n_values - 1)) - chosen / n_seeds
    found = float(blocks[:, 1:].mean() - blocks[:, 0].mean())
    return found, float((np.abs(differences) >= abs(found) - 1e-9).mean())


def compare(
    accuracies: Mapping[str, Sequence[float]], bases: Mapping[str, str | None]
) -> list[Row]:
    """Compare the accuracies of an experiment's variants, and return a table row for each.

    Both arguments are dictionaries by name of the variant. ``accuracies`` holds a list with one
    value for each seed. ``bases`` holds the name of the variant to compare with, or None for no
    comparison.
    """
    compared = []
    for name, values in accuracies.items():
        row = Row(name=name, accuracies=tuple(values))
        base = bases[name]
        if base is not None:
            reference = accuracies[base]
            p = permutation_test(row.accuracies, reference)
            row = replace(row, difference=row.mean - mean(reference), p=p)
        compared.append(row)
    tested = sorted((row for row in compared if row.p is not None), key=lambda row: row.p or 0)
    corrected: dict[str, float] = {}
    worst = 0.0
    for n, row in enumerate(tested):
        worst = max(worst, min(1.0, (row.p or 0) * (len(tested) - n)))
        corrected[row.name] = worst
    return [replace(row, p_holm=corrected.get(row.name)) for row in compared]
