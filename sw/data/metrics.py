"""Compute metrics of predictions: accuracy, balanced accuracy, F1, and confidence intervals of
accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def detail(predicted: NDArray[np.int64], labels: NDArray[np.integer]) -> dict[str, Any]:
    """Return the metrics of N predicted classes, in percent.

    ``accuracy`` is the share of correct predictions. ``balanced`` is the mean over classes of the
    recall. ``f1`` lists, for each class, the harmonic mean of recall and precision. ``recall``
    lists the recall of each class, and ``n_samples`` its number of samples; the recall of a class
    without samples is 0.

    A prediction that ignores a rare class has a high accuracy, but a low balanced accuracy:

    >>> found = detail(np.array([0, 0, 0, 0]), labels=np.array([0, 0, 0, 1]))
    >>> found["accuracy"], found["balanced"], found["recall"], found["n_samples"]
    (75.0, 50.0, [100.0, 0.0], [3, 1])
    """
    n_classes = int(max(labels.max(), predicted.max())) + 1
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (labels.astype(np.int64), predicted), 1)
    right, n_samples = np.diag(table), table.sum(1)
    recall = right / np.maximum(1, n_samples)
    f1 = 2 * right / np.maximum(1, table.sum(0) + table.sum(1))
    return {
        "accuracy": 100 * float(right.sum()) / len(labels),
        "balanced": 100 * float(recall[n_samples > 0].mean()),
        "f1": [100 * float(v) for v in f1],
        "recall": [100 * float(v) for v in recall],
        "n_samples": n_samples.tolist(),
    }


def interval(found: Mapping[str, Any], metric: str) -> tuple[float, float]:
    """Return the 95 % confidence interval (low, high) of an accuracy, in percent.

    ``found`` is the result of :func:`detail`, and ``metric`` is ``accuracy`` or ``balanced``.

    For ``accuracy``, the interval is Wilson's (:func:`wilson`). For ``balanced``, the mean of the
    classes' recalls, the Wilson intervals of these recalls are combined (Zou and Donner, Statistics
    in Medicine 27, 2008). The ends are ``mean - sqrt(below) / n_classes`` and
    ``mean + sqrt(above) / n_classes``. Here ``below`` is the sum, over all classes, of the squared
    distance from the class's recall to the lower end of its interval, and ``above`` is the same sum
    with the upper ends.

    The interval describes one trained network, so it says nothing about the spread over seeds. The
    samples are taken to be independent: the interval is too narrow if samples come in groups, such
    as the heartbeats of one patient.

    >>> low, high = interval({"balanced": 75.0, "recall": [100.0, 50.0], "n_samples": [40, 10]},
    ...                      "balanced")
    >>> f"{low:.1f} to {high:.1f}"
    '61.1 to 88.2'
    """
    classes = [
        (recall / 100, n)
        for recall, n in zip(found["recall"], found["n_samples"], strict=True)
        if n
    ]
    if metric == "accuracy":
        n_correct = sum(recall * n for recall, n in classes)
        low, high = wilson(n_correct, sum(n for _, n in classes))
        return 100 * low, 100 * high
    mean = sum(recall for recall, _ in classes) / len(classes)
    below = above = 0.0
    for recall, n in classes:
        low, high = wilson(recall * n, n)
        below, above = below + (recall - low) ** 2, above + (high - recall) ** 2
    n_classes = len(classes)
    return 100 * (mean - below**0.5 / n_classes), 100 * (mean + above**0.5 / n_classes)


def with_interval(percent: float, ends: Sequence[float]) -> str:
    """Return an accuracy and its interval in percent as text.

    >>> with_interval(91.1, (90.527, 91.643))
    '91.10 % (90.53 to 91.64)'
    """
    return f"{percent:.2f} % ({ends[0]:.2f} to {ends[1]:.2f})"


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
