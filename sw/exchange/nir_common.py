"""Definitions that the import and the export of NIR graphs share.

NIR is the Neuromorphic Intermediate Representation (Pedersen et al., arXiv 2311.14641). Facts that
NIR cannot express are stored in the metadata of the graph and its nodes, under the key :data:`KEY`,
by the export (:func:`sw.exchange.nir_write.to_nir`). The import uses them if they are present.
"""

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
"""Suffix of the names of NIR files."""
DT_S = 1e-4
"""Timestep in seconds that most simulators with NIR support assume."""
MAX_DENSE = 1 << 23
"""Largest number of weights of a layer that is written as a dense matrix. A larger layer cannot be
exported."""
KEY = "spikefold"
"""Key of this project's entries in the metadata of nodes and graphs."""
JUST_BELOW = float(np.nextafter(np.float32(1), np.float32(0)))
"""Largest float32 below 1. Neurons with this threshold fire at a membrane of 1 whether a simulator
compares with ``>`` or with ``>=``."""

NirNetwork = Network | FoldedNetwork
NirLayer = Layer | FoldedLayer
Float = NDArray[np.float64]


def library() -> ModuleType:
    """Import and return the Python package ``nir``, an optional dependency.

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
    """Find the groups of nodes that express one gate, by their metadata.

    A gate joins the spikes of a residual block's branch and identity (its shortcut). NIR has no
    node for it, so :func:`sw.exchange.nir_write.to_nir` writes AND, IAND and XOR as several nodes.

    Returns
    -------
    A dict with an entry for each gate, by the name of its last node. An entry has the gate, the
    names of the nodes (branch, identity) that the gate reads, and the names of its other nodes.

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
    """Return an entry of metadata, parsed as a JSON object; None if it is anything else."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def graph_metadata(graph: Any) -> dict[str, Any] | None:
    """Return the metadata that :func:`sw.exchange.nir_write.to_nir` stored in a graph: timesteps,
    input, labels.

    The result is None if that function did not write the graph.
    """
    values = _json((graph.metadata or {}).get(KEY))
    return values if values and {"timesteps", "input", "labels"} <= set(values) else None


def shape_of(values: Any, one_axis: bool = False) -> Shape:
    """Return the input shape in a NIR file as (channels, height, width).

    A file may state fewer axes: (channels,) gets the height and width 1, and (channels, positions)
    the height 1. A file may also state a batch axis of length 1 in front, which is left out.

    ``one_axis`` says whether the graph has 1-D convolutions, because some shapes are ambiguous:

    - (1, a, b) is one sample of (channels, positions) with 1-D convolutions, and (channels, height,
      width) without them;
    - (1, a) is (channels, positions) with 1-D convolutions, and one sample of (channels,) without
      them.

    Raises
    ------
    ExchangeError
        The file states no shape, or one that cannot be read as (channels, height, width).
    """
    if values is None:
        raise ExchangeError("its Input node has no shape: write (channels, height, width)")
    shape = tuple(int(n) for n in np.atleast_1d(np.asarray(values)))
    given = shape
    if len(shape) == 4 or (len(shape) == 3 and one_axis) or (len(shape) == 2 and not one_axis):
        shape = shape[1:] if shape[0] == 1 else shape
    if len(shape) == 1:
        shape = (shape[0], 1, 1)
    elif len(shape) == 2:
        shape = (shape[0], 1, shape[1])
    if len(shape) != 3 or min(shape) < 1:
        raise ExchangeError(f"its input has shape {given}; use (channels, height, width)")
    return shape[0], shape[1], shape[2]


def pair_of(values: Any) -> tuple[int, int]:
    """Return a (vertical, horizontal) pair, such as a stride, from a value in a NIR file.

    A single number is used for both directions.

    Raises
    ------
    ExchangeError
        The value is neither one number nor two numbers.
    """
    numbers = np.atleast_1d(np.asarray(values)).astype(int).tolist()
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2:
        raise ExchangeError(f"{values!r} is neither one number nor two")
    return numbers[0], numbers[1]
