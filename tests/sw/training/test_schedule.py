"""Tests of training with a rising number of timesteps, uninterrupted and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sw.cli import train
from sw.cli.commands import EXIT_BAD_INPUT
from sw.data import catalogue
from sw.model import checkpoint
from sw.model.config import with_granularity
from sw.model.resnet import SpikingResNet, to_input
from sw.training import augment, loop, schedule
from sw.training.recipes import TrainConfig
from sw.training.resume import TrainError
from tests.datasets import easy_data
from tests.trained import images, lived_in, small_config

CONFIG = TrainConfig(
    epochs=5,
    timestep_schedule="1x2,2x1,3x2",
    batch_size=16,
    learning_rate=4e-3,
    max_images=64,
    flip=False,
    shift_px=1,
)
MODEL = small_config(batch_norm="per-timestep", stages=small_config().stages[:1])


class Stop(Exception):
    """Raised to interrupt a run."""


def test_timesteps_rise_and_an_interrupted_run_ends_like_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that timesteps rise as scheduled, and that a run resumed after every epoch ends the
    same.
    """
    seen: list[int] = []
    train_epoch = loop.train_epoch

    def watched(net: SpikingResNet, *args: object, **options: object) -> float:
        seen.append(net.config.timesteps)
        return train_epoch(net, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_epoch", watched)
    whole = loop.train(MODEL, CONFIG, easy_data(), tmp_path / "whole.pt")
    assert seen == [1, 1, 2, 3, 3]
    assert whole["results"]["best_epoch"] in (4, 5), "only epochs with all timesteps are compared"
    best = whole["history"][whole["results"]["best_epoch"] - 1]
    assert best["validation"] == whole["results"]["validation"]
    assert whole["training"]["model"]["layer1.1.coefficient1.value"].shape[0] == 3
    save = checkpoint.save

    def save_and_stop(path: Path, values: dict) -> None:
        save(path, values)
        raise Stop

    out = tmp_path / "parts.pt"
    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    for n in range(CONFIG.epochs):
        with pytest.raises(Stop):
            loop.train(MODEL, CONFIG, easy_data(), out, resume=True)
        part = checkpoint.load(out)
        assert len(part["history"]) == n + 1
        assert checkpoint.build(part).config == MODEL, "the file has all timesteps at any time"
    monkeypatch.setattr(checkpoint, "save", save)
    parts = loop.train(MODEL, CONFIG, easy_data(), out, resume=True)
    for key in ("model", "optimizer"):
        torch.testing.assert_close(
            parts["training"][key], whole["training"][key], rtol=0, atol=0, msg=key
        )
    torch.testing.assert_close(parts["model"], whole["model"], rtol=0, atol=0)
    assert parts["results"] == whole["results"]


def test_a_network_with_more_timesteps_begins_like_the_one_before() -> None:
    """Check that a network that is extended to more timesteps keeps the spikes of its first ones.

    The new timesteps must get the parameters and the optimiser state of the last old timestep.
    """
    before = lived_in(replace(MODEL, timesteps=2))
    optimizer = loop.make_optimizer(before, CONFIG)
    before(to_input(torch.from_numpy(images(8)))).spike.sum().backward()
    optimizer.step()
    after, continued = loop.extended(before, optimizer, 4, CONFIG)
    pixels = to_input(torch.from_numpy(images(6)))
    _, short = before.eval().spike_maps(pixels)
    _, long = after.eval().spike_maps(pixels)
    assert short.keys() == long.keys()
    for name, spikes in short.items():
        assert torch.equal(long[name][:2], spikes), name
    for module in ("layer1.1.coefficient1.value", "coefficient.value"):
        old, new = before.get_parameter(module), after.get_parameter(module)
        assert torch.equal(new, torch.stack([*old, old[1], old[1]]))
        moments = optimizer.state[old]["exp_avg"], continued.state[new]["exp_avg"]
        assert moments[0].abs().sum() > 0
        assert torch.equal(moments[1], torch.stack([*moments[0], *[moments[0][1]] * 2]))
    mean = after.get_submodule("layer1.0.bn1").running_mean
    assert isinstance(mean, torch.Tensor) and mean.shape == (4, 6)
    back = schedule.fitted_state(after.state_dict(), before)
    torch.testing.assert_close(back, dict(before.state_dict()), rtol=0, atol=0)


def test_finer_coefficients_start_from_coarser_ones() -> None:
    """Check that a network with a coefficient per element and timestep, started from one with
    coefficients per channel, gives the same spikes."""
    coarse = with_granularity(small_config(), "channel")
    model = SpikingResNet(coarse).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "coefficient" in name:
                value.uniform_(0.5, 1.5)
    fine, _ = loop.build(
        with_granularity(coarse, "element/per-timestep"),
        CONFIG,
        easy_data(),
        dict(model.state_dict()),
    )
    pixels = to_input(torch.from_numpy(images(6)))
    _, before = model.spike_maps(pixels)
    _, after = fine.eval().spike_maps(pixels)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    _, missing = loop.initial(dict(model.state_dict()), fine)
    assert missing == ()
    _, missing = loop.initial(dict(fine.state_dict()), model)
    assert missing and all("coefficient" in name for name in missing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", "'4' is not a number of timesteps, x, and a number of epochs: write it as in 1x60"),
        ("1x2,", "'' is not a number of timesteps"),
        ("1x2;3x2", "'1x2;3x2' is not"),
        ("-1x2,3x2", "'-1x2' is not"),
        ("1x2.5,3x2", "'1x2.5' is not"),
        ("0x2,3x2", "'0x2': use 1 to 1048575 timesteps and at least 1 epoch"),
        ("9999999x2", "'9999999x2': use 1 to 1048575"),
        ("1x0,3x2", "'1x0': use 1 to"),
        ("2x1,2x1,3x2", "2 timesteps follow 2: let them rise"),
        ("3x1,1x1", "1 timesteps follow 3: let them rise"),
        ("1x3,2x2", "ends with 2 timesteps, the network has 3: let the schedule end with as many"),
        ("1x3,3x3", "has 6 epochs, --epochs 5: leave --epochs out"),
    ],
)
def test_impossible_schedules_are_refused(text: str, message: str, tmp_path: Path) -> None:
    config = replace(CONFIG, timestep_schedule=text)
    with pytest.raises(TrainError, match=f"--timestep-schedule {text}") as caught:
        loop.train(MODEL, config, easy_data(), tmp_path / "a.pt")
    assert message in str(caught.value) and not list(tmp_path.iterdir())


def test_schedules_are_for_images_and_floats() -> None:
    frames = small_config(frames=True)
    with pytest.raises(TrainError, match="samples are sequences of 3 frames"):
        schedule.check("1x1,3x1", 2, 0, frames)
    schedule.check("3x2", 2, 0, frames)
    with pytest.raises(TrainError, match="with --bits, scales are determined for all timesteps"):
        schedule.check("1x1,3x1", 2, 4, MODEL)
    schedule.check("", 2, 4, MODEL)


def test_the_command_line_has_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "load", lambda *args, **options: easy_data())
    path, out = tmp_path / "model.json", tmp_path / "a.pt"
    path.write_text(json.dumps(MODEL.to_dict()))
    words = ["--model-config", str(path), "--out", str(out), "--max-images", "32"]
    words += ["--timestep-schedule", "1x1,3x1", "--erase", "0.5"]
    assert train.main([*words, "--epochs", "3"]) == EXIT_BAD_INPUT
    assert "has 2 epochs, --epochs 3: leave --epochs out" in capsys.readouterr().err
    assert train.main(words) == 0
    assert "epoch 1/2 (1 timestep): loss" in capsys.readouterr().err
    values = checkpoint.load(out)
    assert values["train_config"]["timestep_schedule"] == "1x1,3x1"
    assert values["train_config"]["epochs"] == 2 and values["train_config"]["erase"] == 0.5
    assert "--timestep-schedule 1x1,3x1 --erase 0.5" in values["command"]
    words[-3] = "1x1,2x1,3x1"
    assert train.main([*words, "--resume"]) == EXIT_BAD_INPUT
    assert "timestep_schedule '1x1,3x1', here '1x1,2x1,3x1'" in capsys.readouterr().err


def test_a_teacher_teaches_from_an_epoch_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def watched(*args: object) -> float:
        seen.append(args[-2] is not None)  # the last one is called with the speed
        return 1.0

    monkeypatch.setattr(loop, "train_epoch", watched)
    config = replace(CONFIG, teacher="a" * 64, teacher_from=3)
    loop.train(MODEL, config, easy_data(), tmp_path / "a.pt", teacher=SpikingResNet(MODEL))
    assert seen == [False, False, True, True, True]


def test_rectangles_are_erased() -> None:
    pixels = torch.full((4000, 1, 20, 16), 77, dtype=torch.uint8)
    found = augment.augment(pixels, 0, False, torch.Generator().manual_seed(1), erase=0.5)
    changed = (found != 77)[:, 0]
    hit = changed.flatten(1).any(1)
    assert 0.45 < hit.float().mean() < 0.55
    rows, columns = changed.any(2), changed.any(1)
    area = rows.sum(1) * columns.sum(1)
    share = area[hit].float() / (20 * 16)
    assert share.min() > 0.01 and share.max() <= 0.43 and 0.17 < share.mean() < 0.23
    # What is erased is a whole rectangle, but for random numbers that happen to be 77.
    assert (changed.flatten(1).sum(1) >= 0.9 * area)[area > 40].all()
    assert len(found[changed[:, None]].unique()) == 255
    assert rows[hit].float().mean(0).min() > 0.05, "every place is erased at times"
    frames = torch.ones(300, 3, 2, 8, 8, dtype=torch.uint8)
    found = augment.augment(frames, 0, False, torch.Generator().manual_seed(1), erase=1.0)
    assert set(found.unique().tolist()) == {0, 1} and torch.equal(found[:, 0, 0], found[:, 2, 1])
    signal = torch.full((300, 2, 1, 50), 77, dtype=torch.uint8)
    found = augment.augment(signal, 0, False, torch.Generator().manual_seed(1), erase=1.0)
    assert 0.17 < (found != 77).float().mean() < 0.25
