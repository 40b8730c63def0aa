"""Tests of the shipped networks on the virtual board, against the PyTorch integer reference.

``make verify`` runs all shipped images at 8, 4 and 2 bits, each on a device of that width.
``make test`` runs a few images at 8 bits, or at 4 if the network does not fit otherwise. Networks
for data sets other than Fashion-MNIST run the real samples in their checkpoints.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hw.boards.configs import BOARDS, config_by_name
from hw.spec import Config
from sw import shipped
from sw.cli import zoo
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.compile.program import FitError
from sw.convert import fold, quantize
from sw.data import catalogue
from sw.driver.board import Board
from sw.model import checkpoint
from sw.network import encoder, reference
from sw.network.network import Network

CHECKPOINTS = sorted(shipped.CHECKPOINTS.glob("*.pt"))


@pytest.fixture(scope="module")
def open_board() -> Iterator[Callable[[str], Board]]:
    """Return a function that opens the virtual board of a configuration, given by its name.

    A board stays open until the last test of this module, so that each network is loaded over that
    of the test before.
    """
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(Board.open(f"sim:{name}")))


@cache
def quantised(path: Path, weight_bits: int) -> Network:
    """Return the network of the checkpoint ``path`` with integer weights of that width."""
    return quantize.quantize(fold.fold(path), weight_bits)


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
        compile_network(quantised(path, config.weight_bits), config)
        return True
    return False


def check(board: Board, path: Path, n_images: int, n_maps: int) -> None:
    """Run images on a virtual board, and compare the results with the integer reference.

    The network has integer weights of the board's width. Predictions, logits and spike counts are
    compared for all ``n_images``; for the first ``n_maps`` of them also all spikes, and the cycles
    of each layer.
    """
    network = quantised(path, board.config.weight_bits)
    images = samples(path)[:n_images]
    assert len(images) == n_images
    trace = reference.run(network, images)
    assert np.array_equal(encoder.encode(network, images), trace.spikes["input"])
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
def test_a_few_images(open_board: Callable[[str], Board], path: Path) -> None:
    weight_bits = next(bits for bits in (8, 4) if fits(path, config_by_name(f"sim/w{bits}")))
    check(open_board(f"sim/w{weight_bits}"), path, n_images=2, n_maps=1)


@pytest.mark.slow
@pytest.mark.parametrize("weight_bits", [8, 4, 2])
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_all_images(open_board: Callable[[str], Board], path: Path, weight_bits: int) -> None:
    if not fits(path, config_by_name(f"sim/w{weight_bits}")):
        pytest.skip("too large for weights as wide")
    check(open_board(f"sim/w{weight_bits}"), path, n_images=200, n_maps=10)


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_each_board_runs_what_fits(open_board: Callable[[str], Board], board: str) -> None:
    """Check that a shipped network that fits a board runs on the configuration of that board."""
    config = config_by_name(board)
    fitting = [path for path in CHECKPOINTS if fits(path, config)]
    if not fitting:
        pytest.skip("no network is as small")
    for path in fitting:
        check(open_board(board), path, n_images=20, n_maps=5)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in zoo.load() if e.board], ids=lambda e: e.name)
def test_every_network_on_the_smallest_board_that_it_fits(
    open_board: Callable[[str], Board], entry: zoo.Entry
) -> None:
    """Check each shipped network of the collection (zoo), at its own weight width, on the smallest
    board that it fits."""
    assert entry.board is not None
    board = entry.board.partition("/")[0]
    path = zoo.FOLDER / f"{entry.name}.pt"
    check(open_board(f"{board}/w{entry.weight_bits}"), path, n_images=200, n_maps=10)
