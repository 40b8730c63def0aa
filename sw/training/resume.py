"""Check that a training run may continue from a checkpoint: the settings of both must be equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from sw.model import checkpoint
from sw.model.config import ModelConfig
from sw.training.recipes import TrainConfig

MOST_LISTED = 8
"""Largest number of differing settings that a message lists."""
MOVABLE = frozenset({"own", "path", "form"})
"""Fields of a checkpoint's ``data`` that are not compared, because the files may have been
moved."""


class TrainError(RuntimeError):
    """Error: training cannot start or continue; the message says what to do."""


def resumable(out: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint at ``out`` if a run can continue from it.

    ``values`` describes that run: it is the dictionary of the run's checkpoint before the first
    epoch (:mod:`sw.model.checkpoint`).

    Raises
    ------
    TrainError
        The checkpoint belongs to another run, or is a published one, which lacks ``training``.
    """
    found = checkpoint.load(out)
    # Settings that an earlier version did not know have their defaults.
    found["model_config"] = ModelConfig.from_dict(found["model_config"]).to_dict()
    found["train_config"] = asdict(TrainConfig()) | found["train_config"]
    differing = [
        f"{where} {old!r}, here {new!r}"
        for key in ("model_config", "train_config", "data")
        for where, old, new in differences(found[key], values[key])
        if key != "data" or where not in MOVABLE
    ]
    if differing:
        more = f" and {len(differing) - MOST_LISTED} more" if len(differing) > MOST_LISTED else ""
        raise TrainError(
            f"{out} is of another run, which had {'; '.join(differing[:MOST_LISTED])}{more}. Use "
            "the same options, or another --out"
        )
    if "training" not in found:
        raise TrainError(f"{out} is a published checkpoint, which cannot be resumed: use --init")
    return found


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, old value, new value) of every setting in which two JSON values differ.

    Names are dotted, as for the option ``--set``, such as ``stages.0.channels``. They begin with
    ``where``, the name of ``old`` and ``new`` themselves. For a setting that only one of the two
    has, the value of the other is None. A damaged file may have tensors as old values, which differ
    from all JSON values.
    """
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            name = f"{where}.{key}" if where else str(key)
            yield from differences(old.get(key), new.get(key), name)
    elif isinstance(old, Tensor) or old != new:
        yield where, old, new
