"""Derivation of a topology from a network that is built with SpikingJelly or snnTorch.

A topology is a JSON object that lists a network's steps (:mod:`sw.exchange.topology`). It is needed
to import the network's state dict. An *entry* is one of these steps, such as ``{"conv": "conv1"}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sw.exchange.graph import ExchangeError
from sw.exchange.topology import FORMAT, check_topology


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

    Parameters
    ----------
    timesteps : number of timesteps to run.
    image_shape : shape (C, H, W) of the input.
    pixel_max : value that a pixel of 255 had in training (1.0 if pixels were divided by 255); None
        if the input is binary frames.
    order : names of the modules in the order in which they run, without those that are never
        called; needed unless the network is an ``nn.Sequential`` or has a single child.
    labels : names of the classes.

    Raises
    ------
    ExchangeError
        A module cannot be mapped, or ``order`` is needed; the message names the module.
    """
    walker = _Walker({id(module): name for name, module in network.named_modules()})
    if order is None:
        layers = walker.layers(network)
    else:
        layers = [entry for name in order for entry in walker.layers(network.get_submodule(name))]
    values: dict[str, Any] = {
        "format": FORMAT,
        "framework": walker.framework or "spikingjelly",
        "timesteps": timesteps,
        "image_shape": list(image_shape),
        "pixel_max": pixel_max,
        "layers": layers,
    }
    if labels:
        values["labels"] = list(labels)
    check_topology(values)
    return values


class _Walker:
    """Conversion of modules to a topology's entries, child by child.

    ``names`` holds the name of every module by its ``id``. ``framework`` is the framework of the
    neurons that were found so far, or None.
    """

    def __init__(self, names: dict[int, str]):
        self.names = names
        self.framework: str | None = None

    def layers(self, module: Any) -> list[dict[str, Any]]:
        """Return the topology's entries for a module and its children, in the order they run."""
        name = self.names[id(module)]
        if isinstance(module, nn.Conv2d):
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise ExchangeError(f"{name}: padding must be numbers, and padding_mode 'zeros'")
            plain = {"stride": list(module.stride), "padding": list(module.padding)}
            extra = {"groups": module.groups, "dilation": list(module.dilation)}
            odd = module.groups != 1 or tuple(module.dilation) != (1, 1)
            return [{"conv": name, **plain, **(extra if odd else {})}]
        if isinstance(module, nn.Linear):
            return [{"linear": name}]
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            return [{"norm": name, "eps": module.eps}]
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            if module.ceil_mode:
                raise ExchangeError(f"{name}: ceil_mode cannot be mapped; pool without it")
            kind = "max" if isinstance(module, nn.MaxPool2d) else "average"
            sizes = {"kernel": module.kernel_size, "stride": module.stride}
            entry = {"pool": kind, **sizes, "padding": module.padding}
            return [{k: list(v) if isinstance(v, tuple) else v for k, v in entry.items()}]
        if isinstance(module, nn.Flatten):
            return [{"flatten": True}]
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Identity):
            return []
        return self.foreign(module, type(module).__name__, name)

    def foreign(self, module: Any, kind: str, name: str) -> list[dict[str, Any]]:
        """Return the topology's entries for a module of a class that PyTorch does not define.

        Containers, such as ``nn.Sequential``, are handled here as well. The class is recognised by
        its name ``kind`` and its attributes, so SpikingJelly and snnTorch need not be installed.
        ``name`` is the name of the module.
        """
        if kind in ("IFNode", "LIFNode", "ParametricLIFNode"):
            self.framework = "spikingjelly"
            entry = {"neuron": {"IFNode": "IF", "LIFNode": "LIF"}.get(kind, "PLIF"), "name": name}
            entry |= {"threshold": float(module.v_threshold), "reset": module.v_reset}
            if kind == "LIFNode":
                entry["tau"] = float(module.tau)
            if kind != "IFNode":
                entry["decay_input"] = bool(module.decay_input)
            return [entry]
        if kind == "Leaky":
            self.framework = "snntorch"
            return [{"neuron": name}]
        if kind == "VotingLayer":
            return [{"vote": int(module.voting_size)}]
        if kind == "Dropout":
            return []
        if kind == "BasicBlock" and hasattr(module, "cnf"):
            parts = (module.conv1, module.bn1, module.sn1, module.conv2, module.bn2, module.sn2)
            identity = []
            if module.downsample is not None:
                identity = self.layers(module.downsample) + self.layers(module.downsample_sn)
            branch = [entry for part in parts for entry in self.layers(part)]
            return [{"block": name, "gate": module.cnf, "branch": branch, "identity": identity}]
        children = list(module.children())
        if isinstance(module, nn.Sequential) or len(children) == 1:
            return [entry for child in children for entry in self.layers(child)]
        if children:
            names = ", ".join(child for child, _ in module.named_children())
            raise ExchangeError(
                f"{name or 'the network'} ({kind}) is no sequence: give order=, the names of its "
                f"modules in the order in which they run; it has {names}"
            )
        raise ExchangeError(f"{name}: a {kind} cannot be mapped")
