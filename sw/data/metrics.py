"""Compute metrics of predictions: accuracy, balanced accuracy, F1, and the confidence interval of
an accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def detail(predicted: NDArray[np.int64], labels: NDArray[np.integer]) -> dict[str, Any]:
    """Return the metrics of N predicted classes, in percent.

    ``accuracy`` is the share of correct predictions. ``balanced`` is the mean over classes of the
    recall. ``f1`` lists, for each class, the harmonic mean of recall and precision.

    A prediction that ignores a rare class has a high accuracy, but a low balanced accuracy:

    >>> detail(np.array([0, 0, 0, 0]), labels=np.array([0, 0, 0, 1]))
    {'accuracy': 75.0, 'balanced': 50.0, 'f1': [85.71..., 0.0]}
    """
    n_classes = int(max(labels.max(), predicted.max())) + 1
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (labels.astype(np.int64), predicted), 1)
    right, present = np.diag(table), table.sum(1) > 0
    recall = right[present] / table.sum(1)[present]
    f1 = 2 * right / np.maximum(1, table.sum(0) + table.sum(1))
    return {
        "accuracy": 100 * float(right.sum()) / len(labels),
        "balanced": 100 * float(recall.mean()),
        "f1": [100 * float(v) for v in f1],
    }


def wilson(n_correct: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson confidence interval (low, high) of a share that was measured as
    ``n_correct`` of ``n``; all shares are from 0 to 1.

    ``z`` is the quantile of the normal distribution; the default gives 95 % confidence. Source:
    Wilson, JASA 22, 1927.

    >>> low, high = wilson(90, 100)
    >>> f"{low:.3f} to {high:.3f}"
    '0.826 to 0.945'
    """
    if not n:
        return 0.0, 1.0
    share = n_correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(centre - half, 0.0), min(centre + half, 1.0)
