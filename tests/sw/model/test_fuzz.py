"""A fuzzer of checkpoints: a damaged one is refused, or it gives a network that can be exported."""

from __future__ import annotations

import copy
import functools
import io
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sw.convert import fold
from sw.convert.quantize import QuantizeError, quantize
from sw.model import checkpoint
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelError
from sw.network import netfile
from sw.network.network import NetworkError
from sw.training import finetune
from tests.fuzz import STRANGE, edited, rounds
from tests.trained import images, lived_in, small_config

TENSORS = (
    torch.zeros(3),
    torch.full((6,), -1.0),
    torch.full((6,), 1e38),
    torch.ones(6) / 0,
    torch.zeros(6, dtype=torch.complex64),
    torch.zeros(1).expand(10**6),
    torch.zeros(1, dtype=torch.uint8).expand(10**6, 1, 14, 10),
    torch.zeros(0),
    torch.tensor(5),
)


REFUSALS = (CheckpointError, ModelError, NetworkError, QuantizeError, netfile.NetworkFileError)


@functools.cache
def original() -> dict[str, Any]:
    """Return the contents of a valid checkpoint."""
    net = finetune.prepare(lived_in(small_config()), 4, images(8))
    return {
        "format": checkpoint.FORMAT,
        "version": checkpoint.VERSION,
        "model_config": net.model.config.to_dict(),
        "model": net.model.state_dict(),
        "train_config": {"epochs": 3},
        "data": {"labels": list("abcdefghij"), "name": "fashion-mnist", "sha256": "0", "note": ""},
        "history": [],
        "results": {"test": {"both": 91.0}},
        "quantisation": net.scales.to_dict(),
        "calibration": torch.from_numpy(images(8)),
    }


def edited_values(rng: random.Random) -> dict[str, Any]:
    """Return the contents of a checkpoint, randomly edited."""
    values = copy.copy(original())
    key = rng.choice(sorted(values))
    if rng.random() < 0.4:
        key = rng.choice(("model_config", "model", "data"))
    changed = edited({key: values.pop(key)}, rng, STRANGE + TENSORS)
    return values | changed


def edited_archive(raw: bytes, rng: random.Random) -> bytes:
    """Return a zip archive in which the bytes of an entry are changed and its checksum is made
    valid.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as good, zipfile.ZipFile(file, "w") as bad:
        chosen = rng.choice(
            [*good.namelist(), *[n for n in good.namelist() if "data.pkl" in n] * 30]
        )
        for name in good.namelist():
            content = bytearray(good.read(name))
            for _ in range(rng.randrange(1, 4) if name == chosen else 0):
                if content:
                    content[rng.randrange(len(content))] = rng.randrange(256)
            if name != chosen or rng.random() < 0.95:
                bad.writestr(name, bytes(content))
    return file.getvalue()


def fuzz(n: int, seed: int | None, path: Path) -> tuple[int, int]:
    """Load ``n`` edited checkpoints; return how many were refused, and how many gave a network."""
    n_refused = n_networks = 0
    for rng, noted in rounds(n, seed):
        with noted, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = io.BytesIO()
            torch.save(edited_values(rng) if rng.random() < 0.7 else original(), file)
            raw = file.getvalue()
            path.write_bytes(edited_archive(raw, rng) if rng.random() < 0.3 else raw)
            try:
                folded = fold.fold(path)
                network = quantize(folded, weight_bits=8)
                netfile.to_bytes(network)
            except REFUSALS as error:
                str(error).encode(errors="backslashreplace")
                n_refused += 1
            else:
                n_networks += 1
    return n_refused, n_networks


def test_edited_checkpoints_are_refused_or_networks(tmp_path: Path) -> None:
    n_refused, n_networks = fuzz(40, 0, tmp_path / "net.pt")
    assert n_refused > 15 and n_networks > 5


@pytest.mark.slow
def test_many_edited_checkpoints_are_refused_or_networks(tmp_path: Path) -> None:
    assert min(fuzz(3000, None, tmp_path / "net.pt")) > 100
