"""Tests of the published checkpoints: their networks, and the accuracies they record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sw import shipped
from sw.cli import evaluate
from sw.convert import fold, quantize
from sw.data import catalogue
from sw.data.dataset import DataError, Split
from sw.exchange.export import find_images
from sw.model import checkpoint, datasets
from sw.network import reference

FOLDER = shipped.CHECKPOINTS
PATHS = sorted(FOLDER.glob("*.pt"))


@pytest.mark.parametrize("name", ["mitbih", "nmnist", "cifar10-85f"])
def test_an_export_finds_samples_without_the_data_set(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise DataError("it is nowhere")

    monkeypatch.setattr(datasets, "load_for", missing)
    values, said = checkpoint.load(FOLDER / f"{name}.pt"), []
    found = find_images(values, None, None, 5, said.append)
    assert len(found.images) == 5 and "it is nowhere" in said[0]
    assert found.images.shape[-3:] == tuple(values["model_config"]["image_shape"])


def test_the_three_granularities_are_there() -> None:
    shapes = {}
    for path in PATHS:
        layers = fold.fold(path).layers
        shapes[path.stem] = [tuple(n > 1 for n in layer.weight.shape[:3]) for layer in layers]
    assert set(shapes["channel-static-lif"]) == {(False, False, False)}
    assert (False, True, True) in shapes["element-static-lif"]
    assert not any(t for t, _, _ in shapes["element-static-lif"])
    assert (True, True, True) in shapes["element-per-timestep-if"]
    assert {(False, True, True), (True, False, False)} <= set(shapes["fashion-mnist"])


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_checkpoint(path: Path) -> None:
    values = checkpoint.load(path)
    assert path.stat().st_size < 2_500_000
    assert values["command"].startswith("python -m sw.train")
    assert " /" not in values["command"] and "=/" not in values["command"]
    assert len(values["history"]) == values["train_config"]["epochs"]
    folded = fold.fold(values)
    images = folded.calibration
    assert images is not None and len(images) >= 200
    few = Split(images=images[:30], labels=np.zeros(30, np.uint8))
    compared = evaluate.compare_folding(checkpoint.build(values), folded, few)
    assert compared["n_argmax_differences"] == 0
    assert compared["max_logit_difference"] < 1e-4
    if values["data"]["name"] != "fashion-mnist":
        return
    samples = catalogue.load_samples()
    bits = folded.scales.weight_bits if folded.scales else 8
    network = quantize.quantize(folded, bits, calibration=images[:50])
    predictions = reference.run(network, samples.images, keep_spikes=False).predictions
    accuracy = 100 * float(np.mean(predictions == samples.labels))
    assert accuracy == pytest.approx(values["results"]["test"]["spike"], abs=6)
