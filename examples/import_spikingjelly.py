"""Import a SpikingJelly network from its state dict, and compare its classes with SpikingJelly's.

A state dict has only tensors. How the layers are connected is described by a topology, which
``describe`` derives from the network. Needs SpikingJelly (``make test`` installs it). Run ``python
examples/import_spikingjelly.py``. It prints::

    same class in floats:   100.0%
    same class in integers: 99.5%
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.functional import cross_entropy

from sw.convert.folded import simulate
from sw.data.catalogue import load_samples
from sw.exchange import integers, statedict
from sw.exchange.describe import describe
from sw.network import reference

T = 4


def outputs(net: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Run a network for ``T`` timesteps on images, and return its outputs (N, 10) averaged over
    them."""
    functional.reset_net(net)
    return net(pixels.expand(T, *pixels.shape)).mean(0)


def main() -> None:
    """Train a small network, save its state dict, import it, and compare the classes."""
    torch.manual_seed(1)
    net = nn.Sequential(
        *(layer.Conv2d(1, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8)),
        *(neuron.IFNode(), layer.MaxPool2d(4, 4), layer.Flatten()),
        layer.Linear(8 * 7 * 7, 10),
    )
    functional.set_step_mode(net, "m")
    samples = load_samples()
    pixels, labels = torch.from_numpy(samples.images) / 255, torch.from_numpy(samples.labels).long()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for batch in torch.arange(len(pixels)).split(50) * 5:  # five epochs
        optimizer.zero_grad()
        cross_entropy(outputs(net, pixels[batch]), labels[batch]).backward()
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(net.state_dict(), path := Path(folder) / "net.pt")
        imported = statedict.read(path, describe(net, T, (1, 28, 28)))
    network = integers.quantised(imported, weight_bits=8, calibration=samples.images)
    with torch.no_grad():
        theirs = outputs(net.eval().double(), pixels.double()).argmax(1).numpy()
    for kind, ours in (
        ("floats:  ", simulate(imported.folded, samples.images)),
        ("integers:", reference.run(network, samples.images)),
    ):
        print(f"same class in {kind} {np.mean(ours.predictions == theirs):.1%}")


if __name__ == "__main__":
    main()
