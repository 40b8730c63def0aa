"""Tests of the shipped networks on the virtual board, against the PyTorch integer reference.

``make verify`` runs all shipped images at 8, 4 and 2 bits, each on a device of that width.
``make test`` runs a few images at 8 bits, or at 4 if the network does not fit otherwise. Networks
for data sets other than Fashion-MNIST run the real samples in their checkpoints.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hw.boards.configs import BOARDS, config_by_name
from hw.spec import Config
from sim.virtual_board import virtual_board
from sw import shipped
from sw.cli import zoo
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.compile.program import FitError
from sw.convert import fold, quantize
from sw.data import catalogue
from sw.driver.board import Board
from sw.driver.device import Device
from sw.model import checkpoint
from sw.network import encoder, reference

CHECKPOINTS = sorted(shipped.CHECKPOINTS.glob("*.pt"))


def samples(path: Path) -> np.ndarray:
    """Return samples for the network in the checkpoint ``path``: the shipped images for
    Fashion-MNIST, the samples in the checkpoint for any other data set."""
    values = checkpoint.load(path)
    if values["data"]["name"] == "fashion-mnist":
        return catalogue.load_samples().images
    found = checkpoint.calibration(values)
    assert found is not None
    return found


def fits(path: Path, config: Config) -> bool:
    with suppress(FitError):
        compile_network(quantize.quantize(fold.fold(path), config.weight_bits), config)
        return True
    return False


def check(path: Path, weight_bits: int, n_images: int, n_maps: int, device: str = "sim") -> None:
    """Run the first ``n_images`` samples on a virtual board and compare them with the integer
    reference.

    Predictions, logits and spike counts are compared for all of them; for the first ``n_maps`` also
    all spikes and the cycles of each layer. The driver waits a minute for a reply, because the
    machine may be busy.
    """
    network = quantize.quantize(fold.fold(path), weight_bits)
    images = samples(path)[:n_images]
    assert len(images) == n_images
    trace = reference.run(network, images)
    assert np.array_equal(encoder.encode(network, images), trace.spikes["input"])
    with (
        virtual_board(config_by_name(f"{device}/w{weight_bits}")) as port,
        Board(Device.open_with(port, lambda opened: opened, timeout_s=60)) as board,
    ):
        program = compile_network(network, board.config)
        frames = encoder.inputs(network, images, program.pixels)
        board.load(program)
        for i in range(len(images)):
            result = board.observe(frames[i], maps=i < n_maps)
            assert np.array_equal(result.logits, trace.logits[i]), f"image {i}"
            assert result.prediction == trace.predictions[i], f"image {i}"
            for layer in network.layers[:-1]:
                counted = result.counters[layer.name].n_spikes
                assert counted == trace.n_spikes[layer.name][i].sum(), f"image {i}, {layer.name}"
            if not result.maps:
                continue
            for name, spikes in trace.spikes.items():
                assert np.array_equal(result.maps[name], spikes[i]), f"image {i}, map {name}"
            for name, n_cycles in predict_cycles(program, result.maps).items():
                assert result.counters[name].n_cycles == n_cycles, f"image {i}, {name}"


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_a_few_images(path: Path) -> None:
    weight_bits = next(bits for bits in (8, 4) if fits(path, config_by_name(f"sim/w{bits}")))
    check(path, weight_bits, n_images=2, n_maps=1)


@pytest.mark.slow
@pytest.mark.parametrize("weight_bits", [8, 4, 2])
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_all_images(path: Path, weight_bits: int) -> None:
    if not fits(path, config_by_name(f"sim/w{weight_bits}")):
        pytest.skip("too large for weights as wide")
    check(path, weight_bits, n_images=200, n_maps=10)


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_each_board_runs_what_fits(board: str) -> None:
    """Check that a shipped network that fits a board runs on the configuration of that board."""
    config = config_by_name(board)
    fitting = [path for path in CHECKPOINTS if fits(path, config)]
    if not fitting:
        pytest.skip("no network is as small")
    for path in fitting:
        check(path, config.weight_bits, n_images=20, n_maps=5, device=board)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in zoo.load() if e.board], ids=lambda e: e.name)
def test_every_network_on_the_smallest_board_that_it_fits(entry: zoo.Entry) -> None:
    """Check each shipped network of the collection (zoo), at its own weight width, on the smallest
    board that it fits."""
    assert entry.board is not None
    board = entry.board.partition("/")[0]
    path = zoo.FOLDER / f"{entry.name}.pt"
    check(path, entry.weight_bits, n_images=200, n_maps=10, device=board)
