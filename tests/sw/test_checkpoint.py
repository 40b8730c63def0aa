from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sw import checkpoint
from sw.checkpoint import CheckpointError
from sw.model import ModelError, SpikingResNet
from tests.trained import lived_in, small_config


def values() -> dict:
    model = lived_in(small_config())
    return {
        "model_config": model.config.to_dict(),
        "model": model.state_dict(),
        "train_config": {},
        "data": {},
        "history": [],
        "results": {},
        "training": {"optimizer": {}},
    }


def test_round_trip_is_the_same_network(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, values())
    loaded = checkpoint.load(path)
    model = checkpoint.build(loaded)
    assert not model.training
    for name, tensor in values()["model"].items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert "training" not in checkpoint.slim(loaded)


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, values())
    before = path.read_bytes()

    def half(_: object, file) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, values())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_damage_has_a_message(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"

    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match) as caught:
            checkpoint.load(path)
        assert str(path) in str(caught.value)

    refused("no such file")
    path.write_bytes(b"not a checkpoint")
    refused("damaged|more than tensors")
    path.write_bytes(b"")
    refused("damaged")
    checkpoint.save(path, values())
    raw = path.read_bytes()
    for cut in (10, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:cut])
        refused("damaged")
    torch.save(SpikingResNet(small_config()), path)
    refused("state dict")
    torch.save({"weight": torch.zeros(3)}, path)
    refused("python -m sw.train")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello", "world")
    refused("damaged")
    checkpoint.save(path, {**values(), "version": 99})
    refused("version 99")
    checkpoint.save(path, {key: value for key, value in values().items() if key != "history"})
    refused("lacks history")


def test_what_does_not_fit_its_configuration_is_refused() -> None:
    broken = values()
    broken["model"].pop("fc.bias")
    with pytest.raises(CheckpointError, match="does not fit model_config"):
        checkpoint.build(broken)
    broken = values()
    broken["model_config"]["stages"][0]["blocks"][0]["gate"] = "NAND"
    with pytest.raises(ModelError, match="gate = 'NAND'"):
        checkpoint.build(broken)


def test_publishing_what_is_no_checkpoint_fails(tmp_path: Path) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    source.write_bytes(b"hello")
    assert checkpoint.main([str(source), str(target)]) == 1
    assert not target.exists()


def test_published_frames_are_kept_as_bits(tmp_path: Path) -> None:
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (5, 3, 2, 7, 9), np.uint8))
    whole = {**values(), "calibration": frames}
    published = checkpoint.slim(whole)
    assert published["calibration"].numel() == -(-frames.numel() // 8)
    checkpoint.save(tmp_path / "a.pt", published)
    for source in (whole, checkpoint.load(tmp_path / "a.pt")):
        np.testing.assert_array_equal(checkpoint.calibration(source), frames.numpy())
    assert checkpoint.calibration({}) is None


class Hostile:
    """Unpickled without care, it would write a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "owned")


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path, target = tmp_path / "hostile.pt", tmp_path / "owned"
    torch.save({**values(), "format": checkpoint.FORMAT, "results": Hostile(target)}, path)
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        checkpoint.load(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "it is hostile indeed"
