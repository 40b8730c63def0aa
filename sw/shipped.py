"""Paths of the files that are installed with Spikefold: checkpoints, a network file, sample
images."""

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Folder of the shipped checkpoints (trained networks in PyTorch's format)."""
CHECKPOINT = CHECKPOINTS / "fashion-mnist.pt"
"""Path of the checkpoint from which :data:`NETWORK` was exported."""
NETWORK = Path(__file__).parent / "networks" / "fashion-mnist.spikefold"
"""Path of the network file that a command uses if the user names none."""
SAMPLES = Path(__file__).parent / "samples" / "fashion-mnist.npz"
"""Path of a file with the first test images of Fashion-MNIST and their labels."""
