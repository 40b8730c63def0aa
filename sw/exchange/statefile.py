"""Reading of state dicts of other frameworks from files, without running any code in them.

Only tensors and plain values are unpickled, so that a hostile file cannot run code. Training
scripts and wrappers of networks put prefixes before the names of tensors, which are removed.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sw.exchange.graph import ExchangeError
from sw.model import archive, checkpoint

NESTED = ("state_dict", "model", "net", "model_state_dict")
"""Keys under which training scripts store the state dict in their checkpoints."""


class ForeignObjects(ExchangeError):
    """Raised if a file holds objects other than tensors and plain values, such as a whole network.

    They are not loaded, because loading them could run code in the file.
    """


def load(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict's file by name, without running any code in the file.

    The state dict may be nested in a checkpoint, under one of the keys :data:`NESTED`.

    Raises
    ------
    ExchangeError
        There is no such file, or it is damaged or holds no state dict.
    """
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            is_pickle, is_zip = file.read(1) == pickle.PROTO, zipfile.is_zipfile(file)
        if is_pickle and not is_zip:
            again = "torch.save(torch.load(path, weights_only=True), path)"
            raise ExchangeError(
                f"{path} has the format of PyTorch before 1.6, write it again with {again}"
            )
        if not is_zip:
            raise ValueError("torch.save did not write it")
        values = archive.read(path)
    except pickle.UnpicklingError as error:
        raise ForeignObjects(
            f"{path} holds more than tensors and plain values, which could run code when it is "
            "read; save only the state dict: torch.save(net.state_dict(), path)"
        ) from error
    except ExchangeError:
        raise
    except Exception as error:  # a damaged pickle can raise almost any exception
        raise ExchangeError(f"{path} is damaged or no checkpoint: {error}") from error
    if isinstance(values, dict):
        if values.get("format") == checkpoint.FORMAT:
            raise ExchangeError(f"{path} was made by sw.train: it needs no --topology")
        states = [key for key, value in values.items() if _is_state(value)]
        key = next((key for key in NESTED if isinstance(values.get(key), dict)), None)
        if key is None and len(states) == 1:
            key = states[0]
        values = values if key is None else values[key]
    if not isinstance(values, dict) or not values:
        raise ExchangeError(
            f"{path} holds no state dict (a dict of tensors by name): save net.state_dict()"
        )
    tensors = {str(k): v for k, v in values.items() if isinstance(v, Tensor)}
    if len(tensors) != len(values):
        others = [str(k) for k, v in values.items() if not isinstance(v, Tensor)]
        raise ExchangeError(
            f"{path} holds {', '.join(others[:5])} besides tensors; save only the state dict, or "
            f"store it under one of the keys {', '.join(NESTED)}"
        )
    return {_unwrapped(name): tensor for name, tensor in tensors.items()}


def _is_state(values: Any) -> bool:
    """Return whether a value in a file is a state dict, a dict of tensors by name."""
    return (
        isinstance(values, dict)
        and bool(values)
        and all(isinstance(value, Tensor) for value in values.values())
    )


def _unwrapped(name: str) -> str:
    """Return the name of a tensor without the prefixes of PyTorch's wrappers, in any order."""
    for prefix in ("module.", "_orig_mod."):
        if name.startswith(prefix):
            return _unwrapped(name.removeprefix(prefix))
    return name


def as_in_topology(state: Mapping[str, Tensor], layers: Sequence[Any]) -> Mapping[str, Tensor]:
    """Return a state dict with the names that a topology's layers use.

    The network may have been a part of another module when it was saved, such as a LightningModule.
    All names then begin with that part's name, which is removed.
    """
    used = [f"{name}.weight" for name in _weights(layers)]
    if not used or any(name in state for name in used):
        return state
    prefixes = {k.removesuffix(used[0]) for k in state if k.endswith(f".{used[0]}")}
    fitting = [p for p in prefixes if all(f"{p}{name}" in state for name in used)]
    if len(fitting) != 1:
        return state
    return {name.removeprefix(fitting[0]): tensor for name, tensor in state.items()}


def _weights(layers: Sequence[Any]) -> list[str]:
    """Return the names of all convolutions and fully connected layers in a topology's layers."""
    names: list[str] = []
    for layer in layers:
        names += [str(layer[kind]) for kind in ("conv", "linear") if kind in layer]
        for part in ("branch", "identity"):
            names += _weights(layer.get(part, []))
    return names
