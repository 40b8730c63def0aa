"""Reading of NIR files, including those that the package ``nir`` does not read by itself.

That package reads only files whose parameters all have full shapes, and reads a missing ``v_reset``
as 0. Here, a node's parameters may be scalars or have shapes that broadcast. Neurons without
``v_reset``, as nir 1.0.4 and earlier write them, get None, because their reset is not known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sw.exchange.graph import ExchangeError
from sw.exchange.nir_common import library

SUFFIXES = (".nir", ".h5", ".hdf5", ".hdf")
"""Suffixes of the names of files in HDF5, the format of NIR files."""
MAGIC = b"\x89HDF\r\n\x1a\n"
"""First bytes of a file in HDF5."""
MAX_NUMBERS = 1 << 28
"""Largest number of array elements in a file. A compressed file may claim more than fit into
memory."""
NEURONS = {
    "IF": ("r", "v_threshold", "v_reset"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
}
"""Names of the parameters of neurons, by type of the node. A node's parameters broadcast to one
shape."""
OPTIONAL = {"Conv1d": ("input_shape",), "Conv2d": ("input_shape",)}
"""Entries that a node may lack, by its type; a missing entry is read as None."""


def is_hdf5(path: Path) -> bool:
    """Return whether a file is an HDF5 file, as its name or its first bytes say."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_graph(path: Path) -> Any:
    """Return the NIR graph in a file. Its subgraphs stay as they are (see :func:`flattened`).

    The ``v_reset`` of neurons that have none in the file is None.

    Raises
    ------
    ExchangeError
        There is no such file, it is damaged or no NIR file, or the package ``nir`` is not
        installed.
    """
    nir = library()
    import h5py  # a dependency of nir

    if not path.is_file():
        raise ExchangeError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            if "node" not in file:
                raise ExchangeError(
                    f"{path} is in HDF5, but holds no NIR graph (no group 'node'): it has "
                    f"{', '.join(sorted(file)[:6]) or 'nothing'}"
                )
            values = _values(file["node"], [MAX_NUMBERS])
        missing = _repair(values)
        values.setdefault("type_check", False)
        graph = nir.dict2NIRNode(values)
    except ExchangeError:
        raise
    except Exception as error:  # h5py's and nir's own, of many kinds
        raise ExchangeError(f"{path} is damaged or no NIR file: {error}") from error
    for names in missing:
        node = graph
        for name in names:
            node = node.nodes[name]
        node.v_reset = None
    return graph


def _values(group: Any, left: list[int]) -> dict[str, Any]:
    """Return the contents of a group in an HDF5 file as nested dicts.

    ``left[0]`` is the number of array elements that may still be read; it is reduced by the number
    read.

    Raises
    ------
    ExchangeError
        The group holds more elements than allowed.
    """
    values: dict[str, Any] = {}
    for name, item in group.items():
        if hasattr(item, "items"):
            values[name] = _values(item, left)
            continue
        left[0] -= int(item.size or 0)
        if left[0] < 0:
            raise ExchangeError(f"it holds more than {MAX_NUMBERS:,} numbers")
        value = item[()]
        values[name] = value.decode("utf8") if isinstance(value, bytes) else value
    return values


def _repair(values: dict[str, Any], place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Change the entries of a node, and of all nodes in it, to a form that the package ``nir``
    accepts.

    ``place`` is the node's path: the names of the graphs around it, from the outermost on, and its
    own name last. Returns the paths of all neurons without ``v_reset``.
    """
    kind = values.get("type")
    if kind == "NIRGraph":
        values["type_check"] = False
        nodes = values.get("nodes", {})
        return [n for name, node in nodes.items() for n in _repair(node, (*place, name))]
    for name in OPTIONAL.get(str(kind), ()):
        values.setdefault(name, None)
    names = [name for name in NEURONS.get(str(kind), ()) if name in values]
    if names:
        arrays = np.broadcast_arrays(*(np.asarray(values[name], np.float64) for name in names))
        values.update({name: array.copy() for name, array in zip(names, arrays, strict=True)})
    return [place] if "v_reset" in NEURONS.get(str(kind), ()) and "v_reset" not in values else []


def flattened(graph: Any) -> Any:
    """Return a graph whose subgraphs are replaced by their nodes, named ``subgraph.node``.

    Raises
    ------
    ExchangeError
        A subgraph cannot be connected, because it does not have exactly one input and one output.
        Or a node is empty, because the exporter did not know its module.
    """
    nir = library()
    empty = [name for name, node in graph.nodes.items() if not isinstance(node, nir.NIRNode)]
    if empty:
        raise ExchangeError(
            f"the nodes {', '.join(map(str, empty))} are empty, because the exporter does not know "
            "the modules they were made from: use modules that it knows, or put NIR nodes there"
        )
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = list(graph.edges)
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRGraph):
            nodes[name] = node
            continue
        inner = flattened(node)
        ends = []
        for kind in (nir.Input, nir.Output):
            found = [n for n, part in inner.nodes.items() if isinstance(part, kind)]
            if len(found) != 1:
                raise ExchangeError(
                    f"{name}: a subgraph has one {kind.__name__} node, this one has {len(found)}"
                )
            ends += found
        full = {n: f"{name}.{n}" for n in inner.nodes}
        kept = {full[n]: part for n, part in inner.nodes.items() if n not in ends}
        nodes |= kept
        edges = _joined(
            edges, name, [(f"{name}.{a}", f"{name}.{b}") for a, b in inner.edges], full, ends
        )
    # The nodes are checked as they are read; nir's own check refuses shapes that broadcast.
    return nir.NIRGraph(nodes, edges, metadata=graph.metadata, type_check=False)


def _joined(
    edges: list[tuple[str, str]],
    name: str,
    inner: list[tuple[str, str]],
    full: dict[str, str],
    ends: list[str],
) -> list[tuple[str, str]]:
    """Return the edges of a graph after the subgraph ``name`` is replaced by its nodes.

    Parameters
    ----------
    edges : edges of the graph, as pairs (source, target) of names.
    inner : edges of the subgraph, as pairs of its nodes' new names.
    full : new names of the subgraph's nodes, by their names in the subgraph.
    ends : names of the subgraph's input and output, which are left out of the result.
    """
    start, end = (full[n] for n in ends)
    before = [a for a, b in edges if b == name]
    after = [b for a, b in edges if a == name]
    kept = [edge for edge in edges if name not in edge]
    for a, b in inner:
        sources = before if a == start else [a]
        targets = after if b == end else [b]
        # A loop around the subgraph leads from its output to its input.
        sources = [s for s in sources if s != name]
        targets = [t for t in targets if t != name]
        kept += [(s, t) for s in sources for t in targets]
    if name in before:
        outs = [a for a, b in inner if b == end and a != start]
        ins = [b for a, b in inner if a == start and b != end]
        kept += [(s, t) for s in outs for t in ins]
    return kept
