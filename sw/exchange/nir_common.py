"""Constants, types and metadata that reading and writing of NIR graphs share."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.spec import Gate
from sw.convert.folded import FoldedLayer, FoldedNetwork
from sw.exchange.graph import ExchangeError, Join
from sw.network.network import Layer, Network, Shape

SUFFIX = ".nir"
DT_S = 1e-4
"""Timestep in seconds that most simulators that write NIR assume."""
MAX_DENSE = 1 << 23
"""Largest number of weights in a dense matrix that is written for unshared weights."""
KEY = "spikefold"
"""Key of this project's entries in the metadata of nodes and graphs."""
JUST_BELOW = float(np.nextafter(np.float32(1), np.float32(0)))
"""Largest float32 below 1."""

NirNetwork = Network | FoldedNetwork
NirLayer = Layer | FoldedLayer
Float = NDArray[np.float64]


def library() -> ModuleType:
    """Import and return the package ``nir``, which is optional.

    Raises
    ------
    ExchangeError
        The package is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise ExchangeError(
            f"NIR files need the package 'nir', which cannot be imported ({error}): "
            "pip install nir==1.0.8"
        ) from error
    return nir


def composite_gates(graph: Any) -> dict[str, tuple[Join, tuple[str, str], list[str]]]:
    """Find the gates that :func:`sw.exchange.nir_write.to_nir` expressed by several nodes.

    Returns
    -------
    (gate, (branch, identity), names of the gate's other nodes) by name of the gate's last node.

    Raises
    ------
    ExchangeError
        The metadata of a gate is damaged.
    """
    found = {}
    for name, node in graph.nodes.items():
        entry = _json((node.metadata or {}).get(KEY))
        if entry is None:
            continue
        try:
            gate = Join(gate=Gate[entry["gate"]])
            reads = entry["branch"], entry["identity"]
            missing = [n for n in reads if n not in graph.nodes]
            if missing:
                raise KeyError(f"there is no node {missing[0]!r}")
            found[name] = gate, reads, list(entry["parts"])
        except (KeyError, TypeError) as error:
            raise ExchangeError(f"{name}: the metadata of its gate is damaged: {error}") from None
    return found


def _json(text: Any) -> dict[str, Any] | None:
    """Return the JSON object in an entry of metadata; None if the entry is anything else."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def graph_metadata(graph: Any) -> dict[str, Any] | None:
    """Return the metadata that :func:`sw.exchange.nir_write.to_nir` gave the graph, or None."""
    values = _json((graph.metadata or {}).get(KEY))
    return values if values and {"timesteps", "input", "labels"} <= set(values) else None


def shape_of(values: Any) -> Shape:
    """Return a shape from a file as (channels, height, width).

    Raises
    ------
    ExchangeError
        It has neither 1 nor 3 axes.
    """
    shape = tuple(int(n) for n in np.atleast_1d(np.asarray(values)))
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) != 3:
        raise ExchangeError(f"its input has shape {shape}; use (channels, height, width)")
    return shape  # type: ignore[return-value]


def pair_of(values: Any) -> tuple[int, int]:
    """Return a (vertical, horizontal) pair from a file, which may hold one number for both.

    Raises
    ------
    ExchangeError
        The file holds neither one number nor two.
    """
    numbers = np.atleast_1d(np.asarray(values)).astype(int).tolist()
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2:
        raise ExchangeError(f"{values!r} is neither one number nor two")
    return numbers[0], numbers[1]
