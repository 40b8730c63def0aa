"""Classify raw frames from standard input as they arrive: from a pipe, a file or a camera.

A frame is 28 x 28 bytes, one per pixel, and frames follow each other without a gap. From a camera::

    ffmpeg -v error -f v4l2 -i /dev/video0 -vf scale=28:28 -pix_fmt gray -f rawvideo - \\
        | python examples/stream.py

``python examples/stream.py sim demo`` sends itself three of the shipped images and prints::

    Ankle boot   core 3.29 ms
    Pullover     core 4.15 ms
    Trouser      core 3.64 ms
"""

import io
import sys
from typing import BinaryIO

from sw.data import inputs
from sw.data.catalogue import load_samples
from sw.driver.board import Board
from sw.network import netfile
from sw.shipped import NETWORK


def main(port: str = "sim", source: BinaryIO = sys.stdin.buffer) -> None:
    """Print a line for every frame, as soon as the board has returned its class."""
    network = netfile.load(NETWORK).network
    with Board.open(port) as board:
        board.load(network)
        # While the board runs one frame, the next one is sent. The generator yields None while it
        # waits for input, so that finished results are not held back.
        for outcome in board.stream(inputs.stream(source, network)):
            ms = 1e3 * outcome.n_cycles / board.config.clk_hz
            print(f"{network.labels[outcome.prediction]:<12} core {ms:.2f} ms", flush=True)


if __name__ == "__main__":
    port = sys.argv[1] if len(sys.argv) > 1 else "sim"
    if "demo" in sys.argv[2:]:
        main(port, io.BytesIO(load_samples().images[:3].tobytes()))
    else:
        main(port)
