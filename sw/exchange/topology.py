"""Topologies: JSON descriptions of a network's steps, to import the network's state dict.

A state dict holds tensors by name, but does not say how the network uses them. A topology lists the
network's steps in order. A step with tensors gives the common prefix of their names (``conv1`` for
``conv1.weight`` and ``conv1.bias``). Parameters that no tensor holds are given as well::

    {"format": "spikefold-topology", "framework": "spikingjelly", "timesteps": 4,
     "image_shape": [1, 28, 28], "pixel_max": 1.0,
     "layers": [{"conv": "conv_fc.0", "padding": 1}, {"norm": "conv_fc.1"},
                {"neuron": "IF", "threshold": 1.0, "reset": 0.0}, {"pool": "max", "kernel": 2},
                ..., {"flatten": true}, {"linear": "conv_fc.9"}, {"neuron": "IF"}]}

A ``pool`` is ``"max"`` or ``"average"``. It has a ``kernel``, a ``stride`` (the kernel by default)
and a ``padding``. An adaptive one has an ``output`` size instead, in which 0 stands for the size of
the input. ``ceil`` is PyTorch's ``ceil_mode`` and ``divisor`` its ``divisor_override``. ``name`` is
the name in messages of a step without tensors. A ``scale`` multiplies a map by the tensor
``scale`` of its prefix, one number or one for each channel. The kernels, strides and paddings are
numbers, or pairs (vertical, horizontal). 1-D convolutions and poolings have pairs, too, because
their maps have height 1.

A ``block`` is a residual block. It has the layers of its ``branch`` and of its ``identity`` (none
for the block's input itself), and a ``gate`` that joins the spikes of both: ``"AND"``, ``"IAND"``,
``"OR"`` or ``"XOR"``; or ``"ADD"``, which adds their spikes or weighted sums.

Some topologies are built in, by name (:data:`TOPOLOGIES`). :func:`sw.exchange.describe.describe`
derives the topology of a PyTorch module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sw.exchange.graph import ExchangeError

FORMAT = "spikefold-topology"
"""Value of the entry ``format`` in every topology."""
FRAMEWORKS = ("spikingjelly", "snntorch")
"""Frameworks whose neurons a topology can have; values of the entry ``framework``."""

TOPOLOGIES: dict[str, dict[str, Any]] = {
    # The network of SpikingJelly's example conv_fashion_mnist.py, with any number of channels.
    "spikingjelly-csnn": {
        "format": FORMAT,
        "framework": "spikingjelly",
        "timesteps": 4,
        "image_shape": [1, 28, 28],
        "pixel_max": 1.0,
        "layers": [
            {"conv": "conv_fc.0", "padding": 1},
            {"norm": "conv_fc.1"},
            {"neuron": "IF"},
            {"pool": "max", "kernel": 2},
            {"conv": "conv_fc.4", "padding": 1},
            {"norm": "conv_fc.5"},
            {"neuron": "IF"},
            {"pool": "max", "kernel": 2},
            {"flatten": True},
            {"linear": "conv_fc.9"},
            {"neuron": "IF"},
            {"linear": "conv_fc.11"},
            {"neuron": "IF"},
        ],
    },
}
"""Built-in topologies, by name."""

KINDS = {
    "conv": {"stride", "padding", "dilation", "groups"},
    "linear": set(),
    "norm": {"eps"},
    "neuron": {"threshold", "reset", "tau", "decay_input", "name"},
    "pool": {"kernel", "stride", "padding", "ceil", "divisor", "output", "name"},
    "flatten": {"name"},
    "vote": {"name"},
    "scale": set(),
    "block": {"gate", "branch", "identity"},
}
"""Entries that a layer in a topology may have besides its kind, by its kind."""


def load_topology(name: str) -> dict[str, Any]:
    """Return a topology: a built-in one by its name, or else the content of a JSON file.

    ``name`` is a key of :data:`TOPOLOGIES`, or the path of the file.

    Raises
    ------
    ExchangeError
        There is no such file, or it holds no valid topology.
    """
    if name in TOPOLOGIES:
        return TOPOLOGIES[name]
    known = f"known are {', '.join(TOPOLOGIES)}; or give a JSON file (sw.exchange.describe)"
    try:
        values = json.loads(Path(name).read_text())
    except OSError as error:
        raise ExchangeError(f"topology {name!r}: {error.strerror}; {known}") from error
    except ValueError as error:
        raise ExchangeError(f"topology {name!r} is not JSON: {error}; {known}") from error
    check_topology(values, f"topology {name!r}")
    return values


def check_topology(values: Any, where: str = "topology") -> None:
    """Check that ``values`` is a valid topology, a JSON object that lists a network's steps.

    Whether the state dict has the tensors that the topology names is not checked.

    Raises
    ------
    ExchangeError
        An entry is unknown, missing or has an invalid value. The message begins with ``where``, the
        name of the topology.
    """

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise ExchangeError(f"{where}: {message}")

    require(
        isinstance(values, dict) and values.get("format") == FORMAT, f'"format" must be "{FORMAT}"'
    )
    require(
        values.get("framework") in FRAMEWORKS, f'"framework" must be one of {", ".join(FRAMEWORKS)}'
    )
    shape = values.get("image_shape")
    require(
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and n > 0 for n in shape),
        '"image_shape" must be [channels, height, width]',
    )
    timesteps = values.get("timesteps")
    require(
        type(timesteps) is int and timesteps > 0, '"timesteps" must be a whole number of at least 1'
    )
    pixel_max = values.get("pixel_max", 1.0)
    require(
        pixel_max is None or (isinstance(pixel_max, int | float) and pixel_max > 0),
        '"pixel_max" must be the value of a pixel of 255, or null for binary frames',
    )
    labels = values.get("labels", [])
    require(
        isinstance(labels, list) and all(isinstance(label, str) for label in labels),
        '"labels" must be a list of names',
    )
    unknown = set(values) - {
        "format",
        "framework",
        "timesteps",
        "image_shape",
        "pixel_max",
        "labels",
        "layers",
    }
    require(not unknown, f"unknown entries: {', '.join(sorted(unknown))}")

    def check_layers(layers: Any, place: str) -> None:
        require(isinstance(layers, list), f"{place} must be a list")
        for n, layer in enumerate(layers):
            here = f"{place}[{n}]"
            kinds = [k for k in KINDS if isinstance(layer, dict) and k in layer]
            require(len(kinds) == 1, f"{here} must have one of {', '.join(KINDS)}")
            extra = set(layer) - {kinds[0]} - KINDS[kinds[0]]
            require(not extra, f"{here}: {kinds[0]} takes no {', '.join(sorted(extra))}")
            if kinds[0] == "block":
                check_layers(layer.get("branch"), f"{here}.branch")
                check_layers(layer.get("identity", []), f"{here}.identity")

    check_layers(values.get("layers"), "layers")
