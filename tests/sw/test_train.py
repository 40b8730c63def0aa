from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sw import checkpoint, evaluate, train
from sw.data import Dataset, Split
from sw.model import ModelError, SpikingResNet, fashion_mnist
from sw.train import TrainConfig
from tests.trained import images, small_config


def easy_split(n_images: int, seed: int) -> Split:
    """Two kinds of image, bright above or bright below, easily told apart."""
    pixels = images(n_images, seed) // 4
    labels = (np.arange(n_images) % 2).astype(np.uint8)
    pixels[labels == 0, :, :5] += 180
    pixels[labels == 1, :, 6:] += 180
    return Split(images=pixels, labels=labels)


def easy_data() -> Dataset:
    return Dataset(
        train=easy_split(160, 1),
        validation=easy_split(40, 2),
        test=easy_split(60, 3),
        sha256="0" * 64,
        place="memory",
    )


CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=4e-3, flip=False, shift_px=1)


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_network_learns_and_the_checkpoint_says_how_well(tmp_path: Path) -> None:
    out = tmp_path / "easy.pt"
    config = TrainConfig(**{**vars(CONFIG), "epochs": 10, "learning_rate": 1e-2})
    values = train.train(small_config(), config, easy_data(), out, command="the command")
    assert values["results"]["test"]["spike"] >= 90
    loaded = checkpoint.load(out)
    assert loaded["results"] == values["results"]
    assert loaded["command"] == "the command"
    assert loaded["train_config"]["seed"] == CONFIG.seed
    assert loaded["data"] == {"name": "fashion-mnist", "sha256": "0" * 64}
    assert [entry["epoch"] for entry in loaded["history"]] == list(range(1, 11))
    assert loaded["history"][-1]["loss"] < loaded["history"][0]["loss"]
    # The published state is the best validation epoch's.
    best = max(loaded["history"], key=lambda entry: entry["validation"]["spike"])
    assert loaded["results"]["best_epoch"] == best["epoch"]
    model = checkpoint.build(loaded)
    found = train.accuracies(model, easy_data().validation, "validation")
    assert found == best["validation"]
    assert list(tmp_path.iterdir()) == [out], "a temporary file is left"
    figures = evaluate.evaluate(out, easy_data().test, [8])
    assert figures.full_spike == figures.folded == values["results"]["test"]["spike"]
    assert figures.training_with_aap == values["results"]["test"]["both"]
    assert figures.n_argmax_differences == figures.n_spike_differences == 0
    assert figures.max_logit_difference < 1e-9
    assert figures.quantised["8"] >= 85
    text = evaluate.as_text(figures)
    assert "8-bit weights" in text and "layer2.0.conv2" in text


def test_the_best_validation_epoch_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the last one, and not the first of the auxiliary pathway's."""
    scores = iter([(50.0, 10.0), (80.0, 20.0), (60.0, 90.0), (80.0, 95.0)])
    seen: list[torch.Tensor] = []

    def accuracies(model: SpikingResNet, split: Split, description: str) -> dict[str, float]:
        if description == "test":
            assert torch.equal(model.fc.weight, seen[1])
            return {"spike": 1.0}
        seen.append(model.fc.weight.detach().clone())
        spike, aap = next(scores)
        return {"spike": spike, "aap": aap}

    monkeypatch.setattr(train, "accuracies", accuracies)
    values = train.train(small_config(), CONFIG, easy_data(), tmp_path / "a.pt")
    assert values["results"]["best_epoch"] == 2
    assert torch.equal(values["model"]["fc.weight"], seen[1])
    assert torch.equal(values["training"]["model"]["fc.weight"], seen[3])


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.train(small_config(), CONFIG, easy_data(), tmp_path / "whole.pt")
    save, n_saved = checkpoint.save, 0

    def save_and_stop(path: Path, values: dict) -> None:
        nonlocal n_saved
        save(path, values)
        n_saved += 1
        if n_saved == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    out = tmp_path / "parts.pt"
    with pytest.raises(KeyboardInterrupt):
        train.train(small_config(), CONFIG, easy_data(), out)
    assert len(checkpoint.load(out)["history"]) == 2
    parts = train.train(small_config(), CONFIG, easy_data(), out, resume=True)
    assert same_tensors(whole["model"], parts["model"])
    assert same_tensors(whole["training"]["model"], parts["training"]["model"])
    for a, b in zip(whole["history"], parts["history"], strict=True):
        assert (a["loss"], a["validation"]) == (b["loss"], b["validation"])
    assert whole["results"] == parts["results"]


def test_seeds_decide_everything(tmp_path: Path) -> None:
    quick = TrainConfig(epochs=1, batch_size=16, max_images=64, shift_px=1)
    a, b, c = (
        train.train(
            small_config(),
            TrainConfig(**{**vars(quick), "seed": seed}),
            easy_data(),
            tmp_path / f"{n}.pt",
        )
        for n, seed in enumerate((1, 1, 2))
    )
    assert same_tensors(a["model"], b["model"])
    assert not same_tensors(a["model"], c["model"])


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run.pt"
    quick = TrainConfig(epochs=1, batch_size=16, max_images=32)
    train.train(small_config(), quick, easy_data(), out)
    with pytest.raises(train.TrainError, match="its train_config is"):
        train.train(small_config(), CONFIG, easy_data(), out, resume=True)
    with pytest.raises(train.TrainError, match="its model_config is"):
        train.train(small_config(timesteps=2), quick, easy_data(), out, resume=True)
    published = tmp_path / "published.pt"
    assert checkpoint.main([str(out), str(published)]) == 0
    assert published.stat().st_size < out.stat().st_size / 2
    assert same_tensors(checkpoint.load(published)["model"], checkpoint.load(out)["model"])
    with pytest.raises(train.TrainError, match="--init"):
        train.train(small_config(), quick, easy_data(), published, resume=True)


def test_fine_tuning_starts_from_what_fits(tmp_path: Path) -> None:
    model = SpikingResNet(small_config())
    with torch.no_grad():
        model.fc.bias.fill_(3.25)
    config = TrainConfig(epochs=1, batch_size=16, max_images=16, learning_rate=1e-9)
    other = small_config(stem_coefficient="channel")
    values = train.train(other, config, easy_data(), tmp_path / "tuned.pt", init=model.state_dict())
    assert values["model"]["fc.bias"].tolist() == pytest.approx([3.25] * 10)
    assert values["model"]["coefficient.value"].shape == (1, 6, 1, 1)


def test_augmentation_shifts_and_mirrors_only() -> None:
    pixels = torch.zeros(400, 1, 9, 8, dtype=torch.uint8)
    pixels[:, 0, 4, 2] = 200
    moved = train.augment(pixels, 2, True, torch.Generator().manual_seed(1))
    assert moved.shape == pixels.shape
    places = {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()}
    expected = {(y, x) for y in range(2, 7) for x in range(5)}
    assert places == expected | {(y, 7 - x) for y, x in expected}
    assert moved.flatten(1).sum(1).tolist() == [200] * 400
    same = train.augment(pixels, 0, False, torch.Generator())
    assert torch.equal(same, pixels)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainConfig(epochs=5, warmup_epochs=1, learning_rate=0.1)
    rates = [train.learning_rate(config, epoch) for epoch in (0, 0.5, 1, 3, 5)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.05, 0])


def test_weight_decay_spares_coefficients_and_norms() -> None:
    model = SpikingResNet(small_config())
    decayed, free = train.make_optimizer(model, CONFIG).param_groups
    assert decayed["weight_decay"] > 0 and free["weight_decay"] == 0
    known = {id(p) for p in decayed["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in known}
    assert all(".weight" in name for name in names)
    assert not any("coefficient" in name or "bn" in name for name in names)
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_settings_are_overridden_by_name() -> None:
    config = train.override(
        fashion_mnist(), ["timesteps=6", "stages.1.blocks.0.gate=XOR", "neuron.surrogate=arctan"]
    )
    assert config.timesteps == 6
    assert config.stages[1].blocks[0].gate == "XOR"
    assert config.neuron.surrogate == "arctan"
    for setting, message in (
        ("stages.7.channels=3", "no such setting"),
        ("colour=3", "no such setting"),
        ("timesteps.x=3", "no such setting"),
        ("timesteps", "name=value"),
        ("stages.0.blocks.0.gate=NAND", "gate = 'NAND'"),
    ):
        with pytest.raises(ModelError, match=message):
            train.override(fashion_mnist(), [setting])


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.datasets, "load", lambda folder: easy_data())
    config_path = tmp_path / "model.json"
    config_path.write_text(json.dumps(small_config().to_dict()))
    out = tmp_path / "cli.pt"
    words = ["--out", str(out), "--model-config", str(config_path), "--epochs", "1"]
    words += ["--batch-size", "16", "--max-images", "32", "--data-dir", "/private/place", "--json"]
    assert train.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["best_epoch"] == 1 and set(printed["test"]) == {"spike", "aap", "both"}
    command = checkpoint.load(out)["command"]
    assert "private" not in command and str(tmp_path) not in command
    assert "--out cli.pt" in command and "--epochs 1" in command

    def fails(extra: list[str], message: str) -> None:
        assert train.main([*words, *extra]) == 1
        assert message in capsys.readouterr().err

    fails(["--out", str(tmp_path / "no" / "x.pt")], "does not exist")
    fails(["--out", str(tmp_path)], "is a folder")
    fails(["--epochs", "0"], "must be positive")
    fails(["--set", "stages.0.blocks.0.gate=NAND"], "gate = 'NAND'")
    fails(["--model-config", str(tmp_path / "none.json")], "none.json")
    fails(["--resume", "--seed", "9"], "another --out")
    fails(["--init", str(config_path)], "no checkpoint")

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupt)
    assert train.main(words) == 130
    assert "--resume" in capsys.readouterr().err
