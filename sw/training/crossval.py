"""Cross-validation: the training data is divided into parts, and each part is predicted by a
network that was not trained on it.

The accuracy on one small test set, of few samples or patients, says little about new data. Here
every sample of the training data is predicted once, and recipes can be compared without the test
set.

There is one run of training for each part and seed. The run trains on all parts but two: the
held-out part, which is predicted at the end, and the part after it, on which the best epoch is
selected (the validation data). Results of finished runs are kept in the experiment's folder, so
that an interrupted experiment continues where it stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from sw.data import metrics
from sw.data.dataset import Dataset
from sw.files import write_whole
from sw.model.config import ModelConfig
from sw.model.functional import EAGER, Backend
from sw.training.experiments import load_results
from sw.training.loop import train
from sw.training.recipes import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Score:
    """Accuracies for one seed, over the predictions of all held-out parts together.

    Each part is predicted by another network, which was trained with this seed and without the
    part.
    """

    seed: int
    accuracy: float
    """Share of correct predictions, in percent."""
    balanced: float
    """Mean over classes of the recall, in percent."""
    interval: tuple[float, float]
    """Lower and upper end, in percent, of the 95 % confidence interval of the data set's metric
    (:func:`sw.data.metrics.interval`)."""
    recall: tuple[float, ...]
    """Recall of each class, in percent."""


def pooled(seed: int, details: Sequence[Mapping[str, Any]], metric: str) -> Score:
    """Return the accuracies for one seed over the predictions of all parts together.

    ``details`` has the result of :func:`sw.data.metrics.detail` for each part. ``metric`` is the
    data set's metric, ``accuracy`` or ``balanced``.
    """
    n_classes = max(len(part["n_samples"]) for part in details)
    right, total = [0.0] * n_classes, [0] * n_classes
    for part in details:
        for label, (recall, n) in enumerate(zip(part["recall"], part["n_samples"], strict=True)):
            right[label] += recall / 100 * n
            total[label] += n
    recalls = [100 * r / n if n else 0.0 for r, n in zip(right, total, strict=True)]
    return Score(
        seed=seed,
        accuracy=100 * sum(right) / sum(total),
        balanced=mean(recall for recall, n in zip(recalls, total, strict=True) if n),
        interval=metrics.interval({"recall": recalls, "n_samples": total}, metric),
        recall=tuple(recalls),
    )


def run(
    folder: Path,
    parts: Sequence[Dataset],
    model: ModelConfig,
    training: TrainConfig,
    *,
    seeds: Sequence[int],
    backend: Backend = EAGER,
) -> list[Score]:
    """Cross-validate a recipe with every seed, and return one score for each seed.

    Results are written to ``results.json`` and ``table.md`` in ``folder``; runs whose results this
    folder already holds are not repeated.

    Parameters
    ----------
    parts : one data set for each part. Its test data is this part, its validation data the part
        after it, and its training data all other parts.
    model, training : network and training settings of the recipe.
    backend : functions for neurons and gates, eager or compiled.

    Raises
    ------
    sw.training.experiments.ExperimentError
        ``folder`` holds results of another recipe or other data.
    """
    setting = {
        "training": {**asdict(training), "seed": None},
        "data": [part.sha256 for part in parts],
        "model": model.to_dict(),
    }
    path = folder / "results.json"
    done = load_results(path, setting)
    for seed in seeds:
        for n, part in enumerate(parts):
            key = f"seed {seed}, part {n + 1} of {len(parts)}"
            if key in done["runs"]:
                continue
            print(key, file=sys.stderr, flush=True)
            out = folder / "running.pt"
            values = train(model, replace(training, seed=seed), part, out, backend=backend)
            out.unlink()
            done["runs"][key] = values["results"]["test_detail"]
            write_whole(path, (json.dumps(done, indent=1) + "\n").encode())
    metric = parts[0].metric
    scores = []
    for seed in seeds:
        keys = [f"seed {seed}, part {n + 1} of {len(parts)}" for n in range(len(parts))]
        scores.append(pooled(seed, [done["runs"][key] for key in keys], metric))
    write_whole(folder / "table.md", as_markdown(scores, parts[0]).encode())
    return scores


def as_markdown(scores: Sequence[Score], dataset: Dataset) -> str:
    """Return the scores of a cross-validation on parts of ``dataset`` as a Markdown table."""
    what = "balanced accuracy" if dataset.metric == "balanced" else "accuracy"
    lines = [
        f"| seed | balanced | accuracy | 95 % interval, {what} | recall of "
        f"{', '.join(dataset.labels)} |",
        "|---|---|---|---|---|",
    ]
    for score in scores:
        recall = ", ".join(f"{value:.1f}" for value in score.recall)
        lines.append(
            f"| {score.seed} | {score.balanced:.2f} | {score.accuracy:.2f} | "
            f"{score.interval[0]:.2f} to {score.interval[1]:.2f} | {recall} |"
        )
    values = [s.balanced if dataset.metric == "balanced" else s.accuracy for s in scores]
    spread = f", standard deviation {stdev(values):.1f}" if len(values) > 1 else ""
    return "\n".join(lines) + f"\n\nMean {what} {mean(values):.1f}{spread}.\n"
