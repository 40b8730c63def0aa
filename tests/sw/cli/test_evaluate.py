"""Tests of ``python -m sw.evaluate``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sw.cli import evaluate
from sw.cli.commands import EXIT_BAD_INPUT
from sw.convert import fold
from sw.data import catalogue, metrics
from sw.data.dataset import Dataset, Split
from sw.model import checkpoint
from tests.trained import images, lived_in, small_config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model = lived_in(small_config())
    file = tmp_path / "small.pt"
    values = {
        "model_config": model.config.to_dict(),
        "model": model.state_dict(),
        "train_config": {},
        "data": {},
        "history": [],
        "results": {},
        "calibration": torch.from_numpy(images(20)),
    }
    checkpoint.save(file, values)
    return file


def split(n_images: int) -> Split:
    return Split(images=images(n_images), labels=(np.arange(n_images) % 10).astype(np.uint8))


def test_a_network_that_folds_wrongly_is_found_out(path: Path) -> None:
    values = checkpoint.load(path)
    folded = fold.fold(values)
    right = evaluate.compare_folding(checkpoint.build(values), folded, split(30))
    assert right["n_argmax_differences"] == right["n_spike_differences"] == 0
    folded.layers[-1].bias[..., 3] += 1
    folded.layers[2].bias[...] -= 0.5
    wrong = evaluate.compare_folding(checkpoint.build(values), folded, split(30))
    assert wrong["n_argmax_differences"] > 0 and wrong["n_spike_differences"] > 0
    assert wrong["max_logit_difference"] > 0.5


def test_command_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(
        name="fashion-mnist",
        labels=tuple("abcdefghij"),
        train=split(10),
        validation=split(10),
        test=split(50),
        sha256="",
        place="memory",
    )
    monkeypatch.setattr(catalogue, "load", lambda folder, **options: dataset)
    assert evaluate.main([str(path), "--n-images", "30", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["n_images"] == 30
    assert set(figures["quantised"]) == {"2", "4", "8"}
    assert figures["membrane_bits"]["2"] < figures["membrane_bits"]["8"]
    assert len(figures["density"]["layer2.0.conv2"]) == 3
    right = round(figures["folded"] / 100 * 30)
    low, high = metrics.wilson(right, 30)
    assert figures["intervals"]["folded"] == pytest.approx([100 * low, 100 * high])
    accuracies = {"full_spike", "folded", "2", "4", "8"}
    assert set(figures["intervals"]) == accuracies | {"training_with_aap"}
    for name, (low, high) in figures["intervals"].items():
        percent = figures["quantised"].get(name, figures.get(name))
        assert 0 <= low <= percent <= high <= 100
    assert evaluate.main([str(path), "--n-images", "10", "--bits", "4"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"integers, 4-bit weights +[0-9.]+ % \([0-9.]+ to [0-9.]+\)", text)
    assert "8-bit" not in text
    with pytest.raises(SystemExit):
        evaluate.main([str(path), "--n-images", "-1"])
    path.write_bytes(b"broken")
    assert evaluate.main([str(path)]) == EXIT_BAD_INPUT
    assert f"error: {path} is damaged or no checkpoint" in capsys.readouterr().err
