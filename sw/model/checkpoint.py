"""Checkpoints: plain dictionaries that ``torch.load(weights_only=True)`` reads, written atomically.

Keys: ``format`` and ``version``; ``model_config`` (see :class:`sw.model.config.ModelConfig`) and ``model``
(state dict of the epoch with the best validation accuracy); ``train_config``, ``command``, ``code``
(version of the code), ``data`` (name and SHA-256), ``history`` (one entry per epoch), ``results``
(accuracies, once training has ended); ``calibration`` (some training images, uint8 (N, C, H, W),
or frames, as bits with ``calibration_shape`` if published, for :func:`sw.convert.quantize.quantize`);
``quantisation`` (:class:`sw.convert.folded.Scales`, of networks trained as integers); ``training`` (last
state of model, optimiser and random numbers, for resuming; not in published checkpoints).
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sw.data import catalogue
from sw.data.dataset import DataError, Dataset
from sw.model.config import ModelConfig
from sw.model.resnet import SpikingResNet

FORMAT = "spikefold-checkpoint"
VERSION = 1
REQUIRED = {
    "model_config": dict,
    "model": dict,
    "train_config": dict,
    "data": dict,
    "history": list,
    "results": dict,
}
"""What every checkpoint has, and of which type."""


class CheckpointError(RuntimeError):
    """Not a checkpoint of ours, or a damaged one; the message names the file and what to do."""


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, another program's, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; python -m sw.train makes checkpoints")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is damaged or no checkpoint: python -m sw.train makes them")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load would not notice
        if damaged is not None:
            raise ValueError(f"{damaged} does not have its checksum")
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values (a whole pickled module?). Save a "
            f"dictionary with the state dict and the configuration instead, as sw.train does"
        ) from error
    except Exception as error:  # of many kinds, for what damage does to the pickle in it
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no {FORMAT}; python -m sw.train makes one")
    if values.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {values.get('version')!r}, this program reads {VERSION}: "
            f"use the release that wrote it, or train again"
        )
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it is incomplete")
    for key, kind in REQUIRED.items():
        if not isinstance(values[key], kind):
            raise CheckpointError(f"{path} is damaged: its {key} is no {kind.__name__}")
    return values


def save(path: str | Path, values: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, then move it into place."""
    path = Path(path)
    values = {"format": FORMAT, "version": VERSION, **values}
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def slim(values: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint without what only resuming needs, frames of calibration as bits."""
    kept = {key: value for key, value in values.items() if key != "training"}
    samples = kept.get("calibration")
    if samples is not None and samples.ndim == 5:
        kept["calibration"] = torch.from_numpy(np.packbits(samples.numpy(), axis=None))
        kept["calibration_shape"] = list(samples.shape)
    return kept


def calibration(values: dict[str, Any]) -> NDArray[np.uint8] | None:
    """The training samples in a checkpoint: images (N, C, H, W) or frames (N, T, C, H, W).

    Raises
    ------
    CheckpointError
        They are no samples of the network's.
    """
    samples, shape = values.get("calibration"), values.get("calibration_shape")
    if samples is None:
        return None
    config = ModelConfig.from_dict(values["model_config"])
    wanted = ((config.timesteps,) if config.frames else ()) + config.image_shape
    found: NDArray[Any] = samples.numpy() if isinstance(samples, torch.Tensor) else np.zeros(0)
    if isinstance(shape, list) and shape[1:] == list(wanted) and isinstance(shape[0], int):
        n_bits = math.prod(shape)
        if found.dtype == np.uint8 and found.size == -(-n_bits // 8):
            found = np.unpackbits(found, count=n_bits).reshape(shape)
    if found.dtype != np.uint8 or found.shape[1:] != wanted or not len(found):
        raise CheckpointError(
            f"the calibration samples have shape {found.shape} and type {found.dtype}, the network "
            f"takes uint8 (N, {', '.join(map(str, wanted))}): the checkpoint is damaged"
        )
    return found


def dataset(
    values: dict[str, Any], data_dir: str | Path | None = None, name: str | None = None
) -> Dataset:
    """The data that the network was trained on (or those called ``name``), with its timesteps.

    Raises
    ------
    sw.data.dataset.DataError, sw.model.config.ModelError
        Not found; or the network takes another shape, or knows other classes.
    """
    config = values["model_config"]
    found = catalogue.load(
        data_dir,
        name=name or values["data"].get("name", "fashion-mnist"),
        timesteps=int(config["timesteps"]),
    )
    require_fit(ModelConfig.from_dict(config), found)
    return found


def require_fit(config: ModelConfig, found: Dataset) -> None:
    """Refuse data that a network does not take, or of other classes.

    Raises
    ------
    sw.data.dataset.DataError
    """
    wanted = (*((config.timesteps,) if config.frames else ()), *config.image_shape)
    for split in (found.train, found.validation, found.test):
        if split.images.shape[1:] != wanted:
            raise DataError(
                f"{found.name} has samples of shape {split.images.shape[1:]}, the network takes "
                f"{wanted}"
            )
    if len(found.labels) != config.n_classes:
        raise DataError(
            f"{found.name} has {len(found.labels)} classes, the network {config.n_classes}"
        )


def build(values: dict[str, Any]) -> SpikingResNet:
    """The trained network of a checkpoint, in eval mode.

    Raises
    ------
    CheckpointError, sw.model.config.ModelError
        State dict and configuration do not go together, or hold what is no number; an unsupported
        configuration.
    """
    config, state = ModelConfig.from_dict(values["model_config"]), values["model"]
    try:
        # Without memory first: a configuration may ask for any amount, of which the file has none.
        with torch.device("meta"):
            SpikingResNet(config).load_state_dict(state, assign=True)
        model = SpikingResNet(config)
        model.load_state_dict(state)
    except (AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the state dict does not fit model_config: {error}") from error
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{', '.join(broken)}: values that are no finite numbers; the training diverged, or "
            f"the file is damaged"
        )
    return model.eval()


def code_version() -> str:
    """Return ``git describe`` of the sources, or the package's version if they are installed."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        return f"v{metadata.version('spikefold')}"
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
