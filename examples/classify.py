"""Classify images from an array on a board; by default this is the virtual board.

Run ``python examples/classify.py`` or ``python examples/classify.py /dev/ttyUSB0``. It prints::

    sim: 4 images
    image 0: Ankle boot, the label is Ankle boot
    image 1: Pullover, the label is Pullover
    image 2: Trouser, the label is Trouser
    image 3: Trouser, the label is Trouser
    logits (4, 10), of the first image: -5700 -6477 -4243 -5669 -5436 -5277 -3955 -243 -6150 9568
"""

import sys

from sw.data.catalogue import load_samples
from sw.driver.board import Board
from sw.network import netfile
from sw.shipped import NETWORK

N_IMAGES = 4


def main(port: str = "sim") -> None:
    """Load the shipped network, run four of the shipped images, and print the classes."""
    names = netfile.load(NETWORK).network.labels
    samples = load_samples()
    images = samples.images[:N_IMAGES]  # uint8 (4, 1, 28, 28)
    with Board.open(port) as board:
        board.load(NETWORK)
        logits = board.infer(images)  # int64 (4, 10)
        print(f"{board.config.name}: {len(logits)} images")
    for n, (row, label) in enumerate(zip(logits, samples.labels[:N_IMAGES], strict=True)):
        print(f"image {n}: {names[row.argmax()]}, the label is {names[label]}")
    print(f"logits {logits.shape}, of the first image:", *logits[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
