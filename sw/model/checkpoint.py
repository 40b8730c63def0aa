"""Files of trained networks: dictionaries that ``torch.load(weights_only=True)`` can read.

A checkpoint's keys are:

- ``format`` and ``version``;
- ``model_config``: see :class:`sw.model.config.ModelConfig`;
- ``model``: state dict of the epoch with the best validation accuracy;
- ``train_config``: see :class:`sw.training.recipes.TrainConfig`;
- ``command`` and ``code``: command line of the training, with absolute paths, and version of the
  code that ran it;
- ``data``: name, SHA-256, labels, note and metric of the data set, and the path and form of a
  user's own data (:meth:`sw.data.dataset.Dataset.record`);
- ``history``: a list with one entry per epoch;
- ``results``: accuracies in percent; empty until training has ended;
- ``calibration``: some training samples, with which :func:`sw.convert.quantize.quantize` corrects
  the biases: uint8 images (N, C, H, W) or frames (N, T, C, H, W);
- ``calibration_shape``: shape of these frames, only in published checkpoints, where
  ``calibration`` has them packed eight bits to a byte;
- ``quantisation``: values of :class:`sw.convert.folded.Scales`; only if the network was trained
  with integer weights;
- ``training``: last state of model, optimiser and random numbers, for resuming; not in published
  checkpoints, which :func:`slim` makes.
"""

from __future__ import annotations

import io
import math
import pickle
import shlex
import subprocess
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sw.files import write_whole
from sw.model import archive
from sw.model.config import ModelConfig
from sw.model.resnet import SpikingResNet

FORMAT = "spikefold-checkpoint"
"""Value of the key ``format``."""
VERSION = 1
"""Value of the key ``version``: version of the checkpoint format, not of the program."""
REQUIRED = {
    "model_config": dict,
    "model": dict,
    "train_config": dict,
    "data": dict,
    "history": list,
    "results": dict,
}
"""Keys that every checkpoint has, and the type of their values."""


class CheckpointError(RuntimeError):
    """Raised if a file is no checkpoint or is damaged; the message says what to do."""


def load(path: str | Path) -> dict[str, Any]:
    """Read the checkpoint at ``path`` and return its dictionary, without running code in the file.

    Raises
    ------
    CheckpointError
        The file is missing or damaged, or another program or version wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; python -m sw.train makes checkpoints")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is damaged or no checkpoint: python -m sw.train makes them")
    try:
        values = archive.read(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values (a whole pickled module?). Save a "
            f"dictionary with the state dict and the configuration instead, as sw.train does"
        ) from error
    except (archive.ArchiveError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no {FORMAT}; python -m sw.train makes one")
    version = values.get("version")
    if isinstance(version, Tensor) or version != VERSION:
        raise CheckpointError(
            f"{path} has version {version!r}, this program reads {VERSION}: "
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
    """Write a checkpoint atomically: if writing fails, an old file at ``path`` stays as it was.

    ``values`` is the dictionary without ``format`` and ``version``.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    file = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **values}, file)
    write_whole(path, file.getvalue())


def slim(values: dict[str, Any]) -> dict[str, Any]:
    """Return a smaller copy of a checkpoint's dictionary, for publishing.

    The copy lacks the key ``training``, so the training cannot be resumed from it. It also lacks
    the paths of this machine (:func:`public`). Calibration frames are packed, eight bits to a byte.
    """
    kept = {key: value for key, value in public(values).items() if key != "training"}
    samples = kept.get("calibration")
    if samples is not None and samples.ndim == 5:
        kept["calibration"] = torch.from_numpy(np.packbits(samples.numpy(), axis=None))
        kept["calibration_shape"] = list(samples.shape)
    return kept


def public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a checkpoint's dictionary without the folders of this machine.

    In ``command``, absolute paths are cut to their last part, and ``--data-dir`` is left out. The
    ``path`` in ``data`` is left out, too.
    """
    kept = dict(values)
    if isinstance(kept.get("command"), str):
        kept["command"] = _public_command(kept["command"])
    if isinstance(kept.get("data"), dict):
        kept["data"] = {key: value for key, value in kept["data"].items() if key != "path"}
    return kept


def _public_command(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # a damaged checkpoint
        return command
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith("--data-dir"):
            skip = word == "--data-dir"
            continue
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        kept.append(option + equals + (Path(value).name if Path(value).is_absolute() else value))
    return shlex.join(kept)


def calibration(values: dict[str, Any]) -> NDArray[np.uint8] | None:
    """Return the calibration samples of a checkpoint, or None if it has none.

    These are the training samples that the network is quantised with: uint8 images (N, C, H, W)
    or binary frames (N, T, C, H, W). Frames that are stored packed are unpacked.

    Raises
    ------
    CheckpointError
        The samples are not uint8, or their shape does not fit the network's input.
    """
    samples, shape = values.get("calibration"), values.get("calibration_shape")
    if samples is None:
        return None
    config = ModelConfig.from_dict(values["model_config"])
    wanted = ((config.timesteps,) if config.frames else ()) + config.image_shape
    found: NDArray[Any] = (
        samples.detach().numpy() if isinstance(samples, torch.Tensor) else np.zeros(0)
    )
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


def build(values: dict[str, Any]) -> SpikingResNet:
    """Return the trained network of a checkpoint, in eval mode.

    Raises
    ------
    CheckpointError
        The state dict does not fit the configuration, or holds numbers that are not finite.
    sw.model.config.ModelError
        The configuration is not supported.
    """
    config, state = ModelConfig.from_dict(values["model_config"]), values["model"]
    _check_blocks(config, state)
    try:
        # First without memory (the meta device): a damaged configuration may describe a network
        # of any size.
        with torch.device("meta"):
            plan = SpikingResNet(config)
            types = {name: tensor.dtype for name, tensor in plan.state_dict().items()}
            plan.load_state_dict(state, assign=True)
        _check_numbers(state, types)
        model = SpikingResNet(config)
        model.load_state_dict(state)
    except (AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the state dict does not fit model_config: {error}") from error
    return model.eval()


def _check_blocks(config: ModelConfig, state: Mapping[str, Any]) -> None:
    """Check that a state dict has an entry for each block of a configuration.

    Call it before any block is built: a damaged configuration may ask for so many blocks that
    building them would take long.

    Raises
    ------
    CheckpointError
        A block has no entry.
    """
    for n, stage in enumerate(config.stages, 1):
        for index in range(len(stage.blocks)):
            if f"layer{n}.{index}.conv1.weight" not in state:
                raise CheckpointError(
                    f"the state dict does not fit model_config: it has no layer{n}.{index}, a "
                    "block of the configuration"
                )


def _check_numbers(state: Mapping[str, Tensor], types: Mapping[str, torch.dtype]) -> None:
    """Check the types and the numbers of a state dict's tensors.

    ``types`` are the types that they must have, by name.

    Raises
    ------
    CheckpointError
        A tensor has another type, a number is not finite, or a variance is negative. (A variance of
        0 is valid: a channel that is always silent has it.)
    """
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{', '.join(broken)}: some values are not finite; the training diverged, or the file "
            f"is damaged"
        )
    wrong = [name for name, tensor in state.items() if tensor.dtype != types[name]]
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} has numbers of type {state[wrong[0]].dtype}, not {types[wrong[0]]}: save "
            "the state dict of the network that was trained"
        )
    negative = [
        name
        for name, tensor in state.items()
        if name.endswith(".running_var") and bool((tensor < 0).any())
    ]
    if negative:
        raise CheckpointError(
            f"{', '.join(negative)}: some variances are negative; the file is damaged"
        )


def code_version() -> str:
    """Return the version of this code as text.

    In a source tree, it is the output of ``git describe``, or ``unknown`` if git fails. In an
    installed package it is the package's version.
    """
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
