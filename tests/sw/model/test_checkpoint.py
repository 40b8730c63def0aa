"""Tests of checkpoints: round trips, atomic writes, and damaged or hostile files."""

from __future__ import annotations

import copy
import os
import re
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sw.cli import checkpoint as command
from sw.cli.commands import EXIT_BAD_INPUT
from sw.convert import fold
from sw.data import catalogue
from sw.data.dataset import DataError
from sw.data.fashion_mnist import LABELS
from sw.model import checkpoint, datasets
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelError
from sw.model.resnet import SpikingResNet
from sw.training import finetune
from tests.damage import empty_pickle
from tests.fuzz import places
from tests.trained import images, lived_in, small_config


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
    weight = raw.index(values()["model"]["fc.weight"].numpy().tobytes())
    path.write_bytes(raw[:weight] + bytes([raw[weight] ^ 1]) + raw[weight + 1 :])
    refused(r"is damaged or no checkpoint: .*/data/\d+ has a wrong checksum")
    torch.save(SpikingResNet(small_config()), path)
    refused("state dict")
    torch.save({"weight": torch.zeros(3)}, path)
    refused("is no spikefold-checkpoint; python -m sw.train makes one")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello", "world")
    refused("is damaged or no checkpoint: ")
    empty_pickle(path)
    refused("is damaged or no checkpoint: pop from empty list")
    checkpoint.save(path, {**values(), "version": 99})
    refused("has version 99, this program reads 1: use the release that wrote it, or train again")
    checkpoint.save(path, {**values(), "version": torch.zeros(0)})
    refused("has version tensor")
    checkpoint.save(path, {key: value for key, value in values().items() if key != "history"})
    refused("lacks history; it is incomplete")
    checkpoint.save(path, {**values(), "history": "none"})
    refused("is damaged: its history is no list")


def test_samples_that_do_not_fit_the_network_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    none = torch.zeros(0, 1, 14, 10, dtype=torch.uint8)
    for samples in (torch.zeros(5, 3), torch.zeros(2, 1, 14, 10), none):
        shape = re.escape(str(tuple(samples.shape)))
        message = rf"samples have shape {shape} and .* takes uint8 \(N, 1, 14, 10\): the che"
        with pytest.raises(CheckpointError, match=message):
            checkpoint.calibration({**values(), "calibration": samples})
    for shape, labels, message in (
        (
            (1, 3, 3),
            LABELS,
            r"tiny has samples of shape \(1, 3, 3\), the network takes \(1, 14, 10\)",
        ),
        ((3, 1, 14, 10), LABELS, r"of shape \(3, 1, 14, 10\), the network takes \(1, 14, 10\)"),
        ((1, 14, 10), ("one", "two"), "tiny has 2 classes, the network 10"),
    ):
        split = SimpleNamespace(images=np.zeros((2, *shape)))
        tiny = SimpleNamespace(
            name="tiny", train=split, validation=split, test=split, labels=labels
        )
        monkeypatch.setattr(catalogue, "load", lambda *_, tiny=tiny, **__: tiny)
        with pytest.raises(DataError, match=message):
            datasets.load_for(values())


def test_what_does_not_fit_its_configuration_is_refused() -> None:
    broken = values()
    broken["model"].pop("fc.bias")
    with pytest.raises(CheckpointError, match="does not fit model_config"):
        checkpoint.build(broken)
    broken = values()
    broken["model"]["bn1.running_var"][2] = float("nan")
    with pytest.raises(CheckpointError, match=r"bn1\.running_var: some values are not finite"):
        checkpoint.build(broken)
    broken["model"]["bn1.running_var"] = torch.full((6,), -0.5)
    with pytest.raises(CheckpointError, match=r"bn1\.running_var: some variances are negative"):
        checkpoint.build(broken)
    silent = values()
    silent["model"]["bn1.running_var"][2] = 0.0  # of a channel that is always silent
    checkpoint.build(silent)
    for dtype in (torch.complex64, torch.float64, torch.float16, torch.bfloat16):
        broken = values()
        broken["model"]["fc.bias"] = broken["model"]["fc.bias"].to(dtype)
        with pytest.raises(
            CheckpointError, match=rf"fc\.bias has numbers of type {dtype}, not tor"
        ):
            checkpoint.build(broken)
    broken = values()
    broken["model_config"]["stages"][0]["channels"] = 1_000_000
    with pytest.raises(CheckpointError, match="size mismatch"):  # before any allocation
        checkpoint.build(broken)
    broken = values()
    broken["model_config"]["stages"][0]["blocks"][0]["gate"] = "NAND"
    with pytest.raises(ModelError, match="gate = 'NAND'"):
        checkpoint.build(broken)


def test_publishing_what_is_no_checkpoint_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    source.write_bytes(b"hello")
    assert command.main([str(source), str(target)]) == EXIT_BAD_INPUT
    assert "error: " in capsys.readouterr().err
    assert not target.exists()


def test_published_frames_are_kept_as_bits(tmp_path: Path) -> None:
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (5, 3, 2, 7, 9), np.uint8))
    config = small_config(image_shape=(2, 7, 9), frames=True)
    whole = {**values(), "calibration": frames, "model_config": config.to_dict()}
    published = checkpoint.slim(whole)
    assert published["calibration"].numel() == -(-frames.numel() // 8)
    checkpoint.save(tmp_path / "a.pt", published)
    for source in (whole, checkpoint.load(tmp_path / "a.pt")):
        np.testing.assert_array_equal(checkpoint.calibration(source), frames.numpy())
    assert checkpoint.calibration({}) is None


def block(n: int) -> list[dict[str, Any]]:
    return values()["model_config"]["stages"][0]["blocks"][:1] * n


def test_blocks_without_weights_are_refused_before_they_are_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = values()
    monkeypatch.setattr(checkpoint, "SpikingResNet", None)
    for n, message in ((900, "it has no layer1.2, a block"), (20_000, "20000 blocks: use at most")):
        broken["model_config"]["stages"][:] = [{"channels": 8, "stride": 1, "blocks": block(n)}]
        with pytest.raises((CheckpointError, ModelError), match=message):
            checkpoint.build(broken)


def test_a_network_that_folds_to_more_than_a_device_holds_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = lived_in(small_config())
    layers = fold.trained_layers(model)
    n_weights = [layer.n_folded for layer in layers]
    assert n_weights == [layer.folded()[0].numel() for layer in layers]
    monkeypatch.setattr(fold, "MAX_WEIGHTS", sum(n_weights))
    fold.fold_model(model, LABELS, {})
    monkeypatch.setattr(fold, "MAX_WEIGHTS", sum(n_weights) - 1)
    with pytest.raises(ModelError, match=rf"alone {max(n_weights)}: no device holds as many"):
        fold.fold_model(model, LABELS, {})


def claims(name: str) -> dict[str, Any]:
    """Return the values of a checkpoint that claims more data than its file holds, or has tensors
    of an unsupported kind. ``name`` is the name of the case.
    """
    one, loop = torch.zeros(1, dtype=torch.uint8), []
    loop.append(loop)
    shared = torch.zeros(1000)
    if name == "sparse":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about checks that it leaves out
            return {"calibration": torch.sparse_coo_tensor(size=(10**6, 10**6))}
    return {
        "stride 0": {"calibration": one.expand(10**6, 10**6)},
        "stride 0 in the network": {
            "model": {"conv1.weight": torch.zeros(1).expand(10**6, 1, 3, 3)}
        },
        "overlapping windows": {"calibration": torch.zeros(10**4).unfold(0, 5000, 1)},
        "many copies": {"history": [shared.view(1000) for _ in range(200)]},
        "no storage": {"calibration": torch.zeros(10**6, 10**6, device="meta")},
        "complex": {"model": {"fc.bias": torch.zeros(10, dtype=torch.complex64)}},
        "a loop": {"history": loop},
        "a billion": {"history": doubled(30)},
    }[name]


def doubled(n: int) -> list[Any]:
    """Return a nested list with 2 ** n entries in all, which share memory."""
    value: list[Any] = [0]
    for _ in range(n):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stride 0", r"tensor 'calibration' has shape \(1000000, 1000000\), but fewer numbers of"),
        ("stride 0 in the network", r"'model\.conv1\.weight' has shape .* but fewer numbers"),
        ("overlapping windows", "but fewer numbers of its own"),
        ("many copies", "claim more than 4 times the size of the file"),
        ("no storage", "is sparse, quantised or empty"),
        ("sparse", "is sparse, quantised or empty"),
        ("complex", r"'model\.fc\.bias' has complex numbers"),
        ("a loop", "more values, or more deeply nested ones"),
        ("a billion", "more values, or more deeply nested ones"),
    ],
)
def test_contents_larger_than_the_file_are_refused(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    checkpoint.save(path, {**values(), **claims(name)})
    assert path.stat().st_size < 1 << 18
    with pytest.raises(CheckpointError, match=f"{path} is damaged or no checkpoint: .*{message}"):
        checkpoint.load(path)


def test_archives_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    path, bomb = tmp_path / "good.pt", tmp_path / "bomb.pt"
    checkpoint.save(path, values())

    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            checkpoint.load(bomb)

    with zipfile.ZipFile(path) as good, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as bad:
        for entry in good.infolist():
            bad.writestr(entry.filename, good.read(entry))
        bad.writestr("archive/data/99", bytes(1 << 26))
    assert bomb.stat().st_size < 1 << 18
    refused("its contents are compressed, which torch never does")
    raw = path.read_bytes()
    start = raw.index(b"PK\1\2")  # the central directory
    n_entries = raw.count(b"PK\1\2")
    end = raw.rindex(b"PK\5\6") if b"PK\6\6" not in raw else raw.rindex(b"PK\6\6")
    # Every entry twenty times, each with the same bytes of the file.
    directory = raw[start:end] * 20
    tail = b"PK\5\6" + bytes(4) + (20 * n_entries).to_bytes(2, "little") * 2
    tail += len(directory).to_bytes(4, "little") + start.to_bytes(4, "little") + bytes(2)
    bomb.write_bytes(raw[:start] + directory + tail)
    assert len(zipfile.ZipFile(bomb).infolist()) == 20 * n_entries
    refused("its contents are larger than the file")
    bomb.write_bytes(raw[:start] + raw[start:end] * 2 + tail[:8] + bytes(0))
    refused("damaged")


class Hostile:
    """Object whose unpickling writes a file."""

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
    assert target.exists(), "the checkpoint is not hostile"


@pytest.mark.parametrize("key", ["model_config", "model", "quantisation", "calibration", "data"])
def test_whatever_else_a_checkpoint_holds_it_is_refused_or_a_network(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a checkpoint with a wrong value at any place is refused or gives a valid
    network.

    Wrong values are other types, huge sizes, and numbers that are not finite.
    """
    net = finetune.prepare(lived_in(small_config()), 4, images(8))
    good = {
        **values(),
        "model_config": net.model.config.to_dict(),
        "model": net.model.state_dict(),
        "data": {"labels": list("abcdefghij")},
        "quantisation": net.scales.to_dict(),
        "calibration": torch.from_numpy(images(8)),
    }
    network = fold.fold(good)
    strange = (None, "x", -1, 0, 10**12, float("nan"), [], {}, torch.zeros(3), torch.ones(6) / 0)
    n_refused = n_allowed = 0
    monkeypatch.setattr(os, "fsync", lambda _: None)  # too slow for hundreds of files
    where = list(places(good[key], (key,)))
    for *parents, last in where[:2] + where[2::3]:
        for thing in strange:
            bad = copy.deepcopy(good)
            place: Any = bad
            for name in parents:
                place = place[name]
            place[last] = thing
            checkpoint.save(tmp_path / "bad.pt", bad)
            try:
                found = fold.fold(tmp_path / "bad.pt")
            except (CheckpointError, ModelError):
                n_refused += 1
            else:
                n_allowed += 1
                assert len(found.layers) == len(network.layers)
    assert n_refused > 5 and n_allowed < 0.3 * n_refused
