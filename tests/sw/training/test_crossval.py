"""Tests of cross-validation: scores over all parts together, and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sw.cli import experiments as command
from sw.data import catalogue, metrics
from sw.data.dataset import Dataset
from sw.training import crossval, experiments
from sw.training.recipes import RECIPES, TrainConfig
from tests.datasets import easy_data
from tests.trained import small_config

MODEL = small_config(timesteps=1, stages=small_config().stages[:1], aap=False)
CONFIG = TrainConfig(epochs=1, batch_size=16, max_images=32, flip=False, shift_px=1)


def parts() -> list[Dataset]:
    whole = easy_data()
    return [replace(whole, sha256=str(n) * 64, metric="balanced") for n in range(2)]


def test_scores_are_of_all_parts_together() -> None:
    """Check that scores are computed over the predictions of all parts together.

    Means over parts would differ, because the parts have different sizes and classes.
    """
    rng = np.random.default_rng(2)
    labels, predicted = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    labels[:50] = np.minimum(labels[:50], 1)  # the first part lacks a class
    whole = metrics.detail(predicted, labels)
    details = [metrics.detail(predicted[s], labels[s]) for s in (slice(50), slice(50, 90))]
    score = crossval.pooled(7, details, "balanced")
    assert score.recall == pytest.approx(whole["recall"]) and score.seed == 7
    assert score.accuracy == pytest.approx(whole["accuracy"])
    assert score.balanced == pytest.approx(whole["balanced"])
    assert score.interval == pytest.approx(metrics.interval(whole, "balanced"))


def test_finished_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[int, str]] = []
    train = crossval.train

    def watched(model, config, dataset, out, **options):
        if len(runs) == 3:
            runs.append((0, ""))
            raise KeyboardInterrupt
        runs.append((config.seed, dataset.sha256[0]))
        return train(model, config, dataset, out, **options)

    monkeypatch.setattr(crossval, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        crossval.run(tmp_path, parts(), MODEL, CONFIG, seeds=(1, 2))
    scores = crossval.run(tmp_path, parts(), MODEL, CONFIG, seeds=(1, 2))
    assert runs == [(1, "0"), (1, "1"), (2, "0"), (0, ""), (2, "1")]
    text = (tmp_path / "table.md").read_text()
    assert f"| 2 | {scores[1].balanced:.2f} | {scores[1].accuracy:.2f} | " in text
    assert "95 % interval, balanced accuracy" in text and "standard deviation" in text
    with pytest.raises(experiments.ExperimentError, match="holds results of another setting"):
        crossval.run(tmp_path, parts(), small_config(), CONFIG, seeds=(1,))


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(RECIPES["mitbih"], model=MODEL, train=CONFIG)
    monkeypatch.setattr(command, "RECIPES", {"mitbih": recipe})
    monkeypatch.setattr(catalogue, "load_parts", lambda folder, name: parts())
    words = ["cross-validation", "--seeds", "1", "--out", str(tmp_path / "a")]
    assert command.main(words) == 0
    assert "Mean balanced accuracy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["ablation", "--recipe", "mitbih", "--out", str(tmp_path / "b")])
    assert "ablation has networks of its own" in capsys.readouterr().err
