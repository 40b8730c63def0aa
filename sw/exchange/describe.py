"""Derivation of a topology from a network that is built with SpikingJelly or snnTorch.

A topology is a JSON object that lists a network's steps (:mod:`sw.exchange.topology`). It is needed
to import the network's state dict. The network's forward methods are traced
(:mod:`sw.exchange.tracing`), and every module in it is checked (:mod:`sw.exchange.modules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sw.exchange.graph import ExchangeError, report_problems
from sw.exchange.topology import FORMAT, check_topology
from sw.exchange.tracing import Trace, trace

WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Attribute of a wrapper that holds the wrapped network, by the wrapper's class."""


def describe(
    network: nn.Module,
    timesteps: int,
    image_shape: Sequence[int],
    *,
    pixel_max: float | None = 1.0,
    order: Sequence[str] | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the topology of a network that is built with SpikingJelly or snnTorch.

    The result is a dict of JSON values, and can be written to a file::

        Path("csnn.json").write_text(json.dumps(describe(net, 4, (1, 28, 28))))

    The order in which the network runs its modules is found by tracing its forward methods. A
    forward method that cannot be traced needs ``order``.

    Parameters
    ----------
    timesteps : number of timesteps to run.
    image_shape : shape (C, H, W) of the input, or (channels, positions) if the network has 1-D
        convolutions.
    pixel_max : value that a pixel of 255 had in training (1.0 if pixels were divided by 255); None
        if the input is binary frames, an array of spikes for each timestep.
    order : names of the modules in the order in which they run, without those that are never
        called. None finds the order by tracing the network's forward method.
    labels : names of the classes.

    Raises
    ------
    ExchangeError
        Parts of the network cannot be mapped; the message names all of them. Or ``order`` is
        needed, or names a module that does not exist. Or ``network`` is not a module.
    """
    if not isinstance(network, nn.Module):
        raise ExchangeError(
            f"a {type(network).__name__} is no network: describe the torch.nn.Module itself, in "
            "which its state dict is loaded"
        )
    while type(network).__name__ in WRAPPERS:
        network = getattr(network, WRAPPERS[type(network).__name__])
    if order is None:
        traces = [trace(network, "", timesteps, _n_axes(network, image_shape, pixel_max is None))]
    else:
        traces = [trace(_child(network, name), name, timesteps) for name in order]
    report_problems({k: v for part in traces for k, v in part.problems.items()}, "the network")
    if pixel_max is not None and any(part.frames for part in traces):
        raise ExchangeError(
            "the forward method takes another frame at every timestep: its input is no image but "
            "binary frames; pass pixel_max=None"
        )
    if pixel_max is None and any(part.repeats for part in traces):
        raise ExchangeError(
            "the forward method gives the same input to all timesteps: its input is an image, not "
            "frames; pass the value of a pixel of 255 as pixel_max"
        )
    values: dict[str, Any] = {
        "format": FORMAT,
        "framework": _framework(traces),
        "timesteps": timesteps,
        "image_shape": _map_shape(image_shape),
        "pixel_max": pixel_max,
        "layers": [entry for part in traces for entry in part.entries],
    }
    if labels:
        values["labels"] = list(labels) if isinstance(labels, tuple) else labels
    check_topology(values)
    return values


def _n_axes(network: nn.Module, image_shape: Sequence[int], frames: bool) -> int | None:
    """Return the number of axes of a network's input; None if it is not known.

    Images have an axis of samples. Frames also have one of timesteps, if the network takes all
    timesteps at once, as SpikingJelly's step mode "m" says.
    """
    _map_shape(image_shape)
    n_axes = len(image_shape) + 1
    if not frames:
        return n_axes
    modes = {getattr(module, "step_mode", "s") for module in network.modules()}
    return n_axes + 1 if "m" in modes else None


def _child(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        children = ", ".join(child for child, _ in network.named_modules() if child)
        raise ExchangeError(
            f"order names {name!r}, but the network has no such module; it has {children}"
        ) from None


def _framework(traces: Sequence[Trace]) -> str:
    """Return the name of the library that defines the neurons, or ``"spikingjelly"`` if there are
    no neurons.

    Raises
    ------
    ExchangeError
        The neurons are from several libraries, but a topology names only one.
    """
    by_library = {library: name for part in traces for name, library in part.frameworks.items()}
    if len(by_library) > 1:
        raise ExchangeError(
            f"it has neurons of several libraries ({', '.join(sorted(by_library.values()))}): use "
            "those of one"
        )
    return next(iter(by_library), "spikingjelly")


def _map_shape(shape: Sequence[int]) -> list[int]:
    """Return the shape of an input as [channels, height, width].

    The input (channels, positions) of a network with 1-D convolutions gets the height 1. The number
    of axes is not checked here.

    Raises
    ------
    ExchangeError
        The shape has entries that are not whole numbers.
    """
    try:
        sizes = [int(n) for n in shape]
    except (TypeError, ValueError):
        raise ExchangeError(
            f"image_shape {shape!r} must be (channels, height, width), or (channels, positions)"
        ) from None
    return [sizes[0], *[1] * (3 - len(sizes)), *sizes[1:]] if sizes else sizes
