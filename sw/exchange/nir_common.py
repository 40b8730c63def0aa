"""What reading and writing NIR graphs have in common."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.spec import Gate
from sw.convert.folded import FoldedLayer, FoldedNetwork
from sw.exchange.graph import (
    ExchangeError,
    Join,
)
from sw.network.network import Layer, Network, Shape

SUFFIX = ".nir"
DT_S = 1e-4
"""Length of a timestep in most simulators that write NIR."""
MAX_DENSE = 1 << 23
"""Largest dense matrix (in weights) that is written in place of unshared weights."""
KEY = "spikefold"
"""Key of our entries in the metadata of nodes and graphs."""
JUST_BELOW = float(np.nextafter(np.float32(1), np.float32(0)))
"""Largest float32 below 1."""

AnyNetwork = Network | FoldedNetwork
AnyLayer = Layer | FoldedLayer
Float = NDArray[np.float64]


def library() -> ModuleType:
    """The package ``nir``, which is optional.

    Raises
    ------
    ExchangeError
        It is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise ExchangeError(
            f"NIR files need the package 'nir', which cannot be imported ({error}): "
            "pip install nir==1.0.8"
        ) from error
    return nir


def gates_of(graph: Any) -> dict[str, tuple[Join, tuple[str, str], list[str]]]:
    """Return the gates that :func:`sw.exchange.nir_write.to_nir` has made of several nodes.

    The key is the last of the nodes, the value (gate, (branch, identity), other nodes).
    """
    found = {}
    for name, node in graph.nodes.items():
        about = _json((node.metadata or {}).get(KEY))
        if about is None:
            continue
        try:
            gate = Join(gate=Gate[about["gate"]])
            reads = about["branch"], about["identity"]
            missing = [n for n in reads if n not in graph.nodes]
            if missing:
                raise KeyError(f"there is no {missing[0]!r}")
            found[name] = gate, reads, list(about["parts"])
        except (KeyError, TypeError) as error:
            raise ExchangeError(f"{name}: what it says of its gate is damaged: {error}") from None
    return found


def _json(text: Any) -> dict[str, Any] | None:
    """Return our entry in the metadata, None if it is anything else."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def about(graph: Any) -> dict[str, Any] | None:
    """Return what :func:`sw.exchange.nir_write.to_nir` wrote about the graph, None if nothing."""
    values = _json((graph.metadata or {}).get(KEY))
    return values if values and {"timesteps", "input", "labels"} <= set(values) else None


def shape_of(values: Any) -> Shape:
    """Return a shape as (channels, height, width)."""
    shape = tuple(int(n) for n in np.atleast_1d(np.asarray(values)))
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) != 3:
        raise ExchangeError(f"its input has shape {shape}; use (channels, height, width)")
    return shape  # type: ignore[return-value]


def pair_of(values: Any) -> tuple[int, int]:
    """Return two numbers, of which a file may hold one if they are equal."""
    numbers = np.atleast_1d(np.asarray(values)).astype(int).tolist()
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2:
        raise ExchangeError(f"{values!r} are not two numbers")
    return numbers[0], numbers[1]
