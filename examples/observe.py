"""Read the spikes of every feature map from a board, and compute the membranes that led to them.

A board sends spikes, logits and counters, but no membranes. These come from the integer reference,
whose results equal the board's bit for bit. Run ``python examples/observe.py``.

It prints a line for every map::

    class Ankle boot, 158,057 cycles
    image                (8, 1, 28, 28): 1,034 spikes, 16.5%
    ...
    layer1.0.conv1       (4, 32, 14, 14): 3,522 spikes, 14.0%
    ...
    layer3.0.conv2       (4, 32, 4, 4): 900 spikes, 43.9%
    layer1.0.conv1: membranes of neuron (0, 7, 7): -190 -387 -579 -755
"""

import sys

import numpy as np

from sw.data.catalogue import load_samples
from sw.driver.board import Board
from sw.network import netfile, reference
from sw.shipped import NETWORK


def main(port: str = "sim") -> None:
    """Run one image, and print its class, the number of spikes in each map, and some membranes."""
    network = netfile.load(NETWORK).network
    image = load_samples().images[0]
    with Board.open(port) as board:
        board.load(network)
        outcome = board.observe(image, maps=True)
    print(f"class {network.labels[outcome.prediction]}, {outcome.n_cycles:,} cycles")
    for name, spikes in outcome.maps.items():  # uint8 (T, C, H, W)
        print(f"{name:<20} {spikes.shape}: {spikes.sum():,} spikes, {spikes.mean():.1%}")
    trace = reference.run(network, image[None])
    for name, spikes in trace.spikes.items():
        np.testing.assert_array_equal(outcome.maps[name], spikes[0], err_msg=name)
    layer = network.layers[0]
    values, _ = reference.membranes(layer, {name: m[None] for name, m in outcome.maps.items()})
    print(f"{layer.name}: membranes of neuron (0, 7, 7):", *values[0, :, 0, 7, 7])


if __name__ == "__main__":
    main(*sys.argv[1:])
