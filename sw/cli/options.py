"""Options that commands share: which board, which samples."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hw.boards.configs import CONFIGS, board_name, config_by_name
from hw.protocol import spec_hash
from hw.spec import SpecError
from sw.compile.program import Program
from sw.data import catalogue, inputs
from sw.data.catalogue import NAMES
from sw.driver.board import Board
from sw.driver.group import Boards
from sw.driver.inference import Loaded, load_bytes
from sw.network import encoder
from sw.network.encoder import InputError
from sw.network.network import Network

VIRTUAL = "sim"
FIND = "auto"


def add_inputs(parser: argparse.ArgumentParser) -> Any:
    """Options that say what is classified; gives the group of those that exclude each other."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="NAME",
        help=f"test samples of a data set: {', '.join(NAMES)}, or a path of own data (the shipped "
        "Fashion-MNIST images)",
    )
    source.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=".npy or .npz files of samples, images (PNG, JPEG, ...), event recordings (.bin, "
        ".aedat, or .npy and .npz with t, x, y, p)",
    )
    parser.add_argument("--data-dir", type=Path, help="folder of the data set")
    parser.add_argument(
        "--sensor",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the recordings' sensor (the network's)",
    )
    return source


def port_of(board: str, program: Program | None) -> str | None:
    """What :meth:`sw.device.Board.open` takes for ``--board``. The virtual board is one that the
    network was compiled for, if it has a name."""
    if board == FIND:
        return None
    name, question, options = board.partition("?")
    if name == VIRTUAL and program is not None:
        kind = board_name(program.config)
        with contextlib.suppress(SpecError):
            wanted, usual = spec_hash(config_by_name(kind)), spec_hash(CONFIGS[VIRTUAL])
            if wanted == spec_hash(program.config) and wanted != usual:
                return f"{VIRTUAL}:{kind}{question}{options}"
    return board


def find_inputs(
    arguments: argparse.Namespace, network: Network
) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    """Samples as :func:`add_inputs` has them, and their labels.

    Raises
    ------
    DataError, InputError
        What was named cannot be read, or the network does not take it; a folder is of no data set.
    """
    check_data_dir(arguments)
    if arguments.input:
        sensor = None if arguments.sensor is None else tuple(arguments.sensor)
        return inputs.read(arguments.input, network, sensor)
    if arguments.sensor is not None:
        raise InputError("--sensor is the size of the recordings of --input: name them")
    if arguments.data:
        found = catalogue.load(arguments.data_dir, name=arguments.data, timesteps=network.timesteps)
        split, what = found.test, f"the samples of {found.name}"
    else:
        split, what = catalogue.load_samples(), "Fashion-MNIST's"
    try:
        encoder.check_input(network, split.images)
        inputs.check_labels(split.labels, network.n_classes, "the data set")
    except InputError as error:
        raise InputError(f"{error}. That is {what}; give others with --data or --input") from error
    return split.images, split.labels


def check_data_dir(arguments: argparse.Namespace) -> None:
    """Raise :class:`InputError` if there is a folder of a data set that is not named."""
    if arguments.data_dir and not arguments.data:
        raise InputError(f"--data-dir {arguments.data_dir}: name the data set in it with --data")


def load(board: Board | Boards, program: Program) -> Loaded:
    """Loads a program, with a progress bar."""
    n_bytes = load_bytes(program) * len(board.boards)
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="loading", disable=None) as bar:
        return board.load(program, bar.update)
