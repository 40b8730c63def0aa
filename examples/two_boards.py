"""Use two boards as one: every sample goes to the next board that is free.

Run ``python examples/two_boards.py`` for two virtual boards, or name your own:
``python examples/two_boards.py /dev/ttyUSB0,/dev/ttyUSB1``. A second argument names the network
file. It prints::

    2 boards
    classes of 6 images, in order: 9 2 1 1 6 1
    boards that failed: 0
"""

import sys
from pathlib import Path

import numpy as np

from sw.data.catalogue import load_samples
from sw.driver.group import open_boards
from sw.network import netfile, reference
from sw.shipped import NETWORK

N_IMAGES = 6


def main(ports: str = "sim,sim", network: str | Path = NETWORK) -> None:
    """Classify six images on two boards, and compare with the integer reference."""
    images = load_samples().images[:N_IMAGES]
    with open_boards(ports) as boards:
        boards.load(network)  # into all of them at once
        print(f"{len(boards.devices)} boards")
        logits = boards.infer(images)  # in the order of the images, whichever board ran them
        print(f"classes of {len(logits)} images, in order:", *logits.argmax(axis=1))
        # If a board is unplugged, the others take over its samples.
        print(f"boards that failed: {len(boards.failures)}")
    trace = reference.run(netfile.load(network).network, images)
    np.testing.assert_array_equal(logits, trace.logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
