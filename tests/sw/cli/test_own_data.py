"""Tests that the commands train on, export and run a user's own data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sw.cli import evaluate, export, train
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_OK
from sw.data import catalogue
from sw.model import checkpoint, datasets
from sw.network import netfile

SMALL = ["--set", "stem_channels=4", "--set", "timesteps=2", "--set", "stem_stride=2"]
SMALL += [word for n in range(3) for word in ("--set", f"stages.{n}.channels=4")]


def write_data(path: Path, seed: int = 1, first: int = 1) -> Path:
    """Write a data set of 12 x 12 images of two classes, dark and bright, with the labels ``first``
    and ``first + 1``.
    """
    rng = np.random.default_rng(seed)
    classes = np.arange(40) % 2
    images = rng.integers(0, 100, (40, 12, 12), np.uint8) + 150 * classes[:, None, None]
    images = images.astype(np.uint8)
    np.savez(path, x_train=images, y_train=classes + first, x_test=images, y_test=classes + first)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a small network's checkpoint; its training data are a file in the same
    folder.
    """
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data(Path("mine.npz"))
        words = ["--data", "mine.npz", "--out", "mine.pt", "--epochs", "1", "--batch-size", "6"]
        assert train.main([*words, *SMALL]) == EXIT_OK
    return folder / "mine.pt"


def test_the_recorded_command_repeats_the_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checkpoint.load(trained)
    words = shlex.split(found["command"])
    assert words[:3] == ["python", "-m", "sw.train"]
    before = trained.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert train.main(words[3:]) == EXIT_OK
    again = checkpoint.load(trained)
    assert all(torch.equal(found["model"][key], again["model"][key]) for key in found["model"])
    assert again["data"] == found["data"] and again["command"] == found["command"]
    trained.write_bytes(before)


def test_export_and_evaluate_find_the_data_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "mine.spikefold"
    assert export.main([str(trained), "-o", str(out)]) == EXIT_OK
    assert "4 validation images of mine" in capsys.readouterr().out
    network = netfile.load(out).network
    assert network.labels == ("class 1", "class 2")
    assert str(trained.parent) not in str(network.provenance), "no folder leaves the machine"
    assert evaluate.main([str(trained), "--bits", "8"]) == EXIT_OK
    assert "40 test images of mine" in capsys.readouterr().out


def test_missing_or_changed_data_is_said(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = checkpoint.load(trained)
    copy = tmp_path / "copy.pt"

    def says(message: str, **data: Any) -> None:
        checkpoint.save(copy, {**values, "data": values["data"] | data})
        assert evaluate.main([str(copy), "--bits", "8"]) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err

    gone = str(tmp_path / "gone.npz")
    says(f"is no longer at {gone}: name it with --data PATH", path=gone)
    says("own data called 'mine' (.npz file; its samples have SHA-256 ", path=gone)
    says("'mine', of which the checkpoint holds no path: name it with --data PATH", path=None)
    changed = write_data(tmp_path / "changed.npz", seed=2)
    assert evaluate.main([str(copy), "--bits", "8", "--data", str(changed)]) == EXIT_OK
    assert "have changed" not in capsys.readouterr().out
    checkpoint.save(copy, {**values, "data": values["data"] | {"path": str(changed)}})
    assert evaluate.main([str(copy), "--bits", "8"]) == EXIT_OK
    assert "(the files have changed since the training)" in capsys.readouterr().out


def test_own_data_may_be_called_like_a_known_set(trained: Path, tmp_path: Path) -> None:
    values = checkpoint.load(trained)
    path = write_data(tmp_path / "nmnist.npz")
    dataset = catalogue.load(name=str(path))
    assert datasets.load_for({**values, "data": dataset.record()}).place == str(path)


def test_classes_count_as_in_the_network(trained: Path, tmp_path: Path) -> None:
    """Check that own data may have other class numbers than the network was trained with.

    The data have labels 0 and 1, and the network was trained with labels 1 and 2; the data's first
    class then counts as the network's first. Classes with other names are refused.
    """
    values = checkpoint.load(trained)
    path = write_data(tmp_path / "zero.npz", first=0)
    found = datasets.load_for(values, name=str(path))
    assert found.labels == ("class 0", "class 1") and found.test.labels[:3].tolist() == [0, 1, 0]
    arrays = dict(np.load(path))
    for key in ("y_train", "y_test"):
        arrays[key] = np.array(["cat", "dog"])[arrays[key]]
    np.savez(path, **arrays)
    with pytest.raises(catalogue.DataError, match="has the classes cat, dog, the network class 1"):
        datasets.load_for(values, name=str(path))


def test_fine_tuning_goes_on_with_the_same_data(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--init", str(trained), "--bits", "4", "--out", "tuned.pt", "--epochs", "1"]
    assert train.main([*words, "--batch-size", "12", "--max-images", "12"]) == EXIT_OK
    tuned = checkpoint.load("tuned.pt")
    assert tuned["data"] == checkpoint.load(trained)["data"]
    assert tuned["train_config"]["weight_bits"] == 4


def test_a_resumed_run_names_the_settings_that_differ(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trained.with_name("mine.npz")
    words = ["--data", str(data), "--out", str(trained), "--epochs", "3", "--batch-size", "6"]
    words = [*words, *SMALL, "--set", "stages.1.channels=8", "--resume"]
    assert train.main(words) == EXIT_BAD_INPUT
    message = "which had stages.1.channels 4, here 8; epochs 1, here 3. Use the same options, or"
    assert message in capsys.readouterr().err
