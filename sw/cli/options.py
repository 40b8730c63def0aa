"""Command-line options that several commands share: network, board and samples to classify."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hw.boards.configs import BOARDS, CONFIGS, CONFIGS_HELP, board_name, config_by_name
from hw.protocol import spec_hash
from hw.spec import SpecError
from sw.compile.program import Program
from sw.data import catalogue, inputs
from sw.data.catalogue import NAMES
from sw.driver.any_board import AnyBoard
from sw.driver.loading import Loaded, load_bytes
from sw.network import encoder
from sw.network.encoder import InputError
from sw.network.network import Network
from sw.shipped import NETWORK

VIRTUAL = "sim"
"""Value of ``--board`` for the virtual board, a simulation of the gateware."""
FIND = "auto"
"""Value of ``--board`` given without a port: search the USB serial ports of known boards."""


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``network`` to a parser: the network file to run."""
    parser.add_argument(
        "network", nargs="?", type=Path, default=NETWORK, help="network file (the shipped one)"
    )


def add_board(parser: argparse.ArgumentParser, *, several: bool = True) -> None:
    """Add ``--board`` and ``--baud`` to a parser: the board's serial port, and its bit rate.

    With ``several``, the help of ``--board`` says that several boards can work as one.
    """
    joined = "several, separated by commas, work as one; " if several else ""
    parser.add_argument(
        "--board",
        nargs="?",
        const=FIND,
        default=VIRTUAL,
        metavar="PORT",
        help="serial port; sim, or sim:BOARD for the configuration of another board "
        f"({CONFIGS_HELP}); {joined}without a value the USB ports of known boards are searched "
        "(default: sim)",
    )
    parser.add_argument(
        "--baud", type=int, help="fastest rate to use, in bits per second (the board's own)"
    )


def add_inputs(parser: argparse.ArgumentParser) -> Any:
    """Add the options that choose the samples to classify to a parser.

    Return argparse's group of those that exclude each other, ``--data`` and ``--input``.
    """
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="NAME",
        help=f"test samples of a data set: {', '.join(NAMES)}, or the path of your own data (the "
        "shipped Fashion-MNIST images)",
    )
    source.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=".npy or .npz files of samples, images (PNG, JPEG, ...), event recordings (.bin, "
        ".aedat, or .npy and .npz with t, x, y, p)",
    )
    parser.add_argument("--data-dir", type=Path, help="folder that has the data set of --data")
    parser.add_argument(
        "--sensor",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the sensor of event recordings (those of the network's input)",
    )
    return source


def port_of(board: str, program: Program | None) -> str | None:
    """Return the ports to give :func:`sw.driver.group.open_boards` for a value of ``--board``.

    If ``--board`` was given without a port, the result is None: USB ports are searched. Plain
    ``sim`` becomes ``sim:BOARD`` if ``program`` was compiled for a known board
    (:mod:`hw.boards.configs`) whose configuration is not that of ``sim``.

    Raises
    ------
    InputError
        The value is ``sim:`` with an unknown board, or a board's name in place of a port.
    """
    if board == FIND:
        return None
    name, question, options = board.partition("?")
    for port in name.split(","):
        _check_port(port.strip())
    if name == VIRTUAL and program is not None:
        kind = board_name(program.config)
        with contextlib.suppress(SpecError):
            wanted, usual = spec_hash(config_by_name(kind)), spec_hash(CONFIGS[VIRTUAL])
            if wanted == spec_hash(program.config) and wanted != usual:
                return f"{VIRTUAL}:{kind}{question}{options}"
    return board


def _check_port(port: str) -> None:
    """Raise :class:`InputError` if ``port`` is a board's name, or ``sim:`` and an unknown one."""
    kind, colon, config = port.partition(":")
    if kind == VIRTUAL and colon:
        try:
            config_by_name(config)
        except SpecError as error:
            raise InputError(f"--board {port}: {error}") from error
    elif port in BOARDS:
        raise InputError(
            f"--board {port}: that is a board's name, not a serial port. Use --board "
            f"{VIRTUAL}:{port} for the virtual board, or --board alone to find the one plugged in"
        )


def find_inputs(
    arguments: argparse.Namespace, network: Network
) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    """Read the samples that the options of :func:`add_inputs` choose.

    Returns
    -------
    samples : uint8, in the form that the network takes: images (N, C, H, W), or binary frames
        (N, T, C, H, W).
    labels : (N,), or None if they are not known.

    Raises
    ------
    DataError, InputError
        The samples cannot be read, or the network does not take them.
    """
    check_data_dir(arguments)
    if arguments.input:
        sensor = None if arguments.sensor is None else tuple(arguments.sensor)
        return inputs.read(arguments.input, network, sensor)
    if arguments.sensor is not None:
        raise InputError("--sensor is the size of recordings: name the recordings with --input")
    if arguments.data:
        found = catalogue.load(arguments.data_dir, name=arguments.data, timesteps=network.timesteps)
        split, what = found.test, f"the samples of {found.name}"
    else:
        split, what = catalogue.load_samples(), "the shipped samples of Fashion-MNIST"
    try:
        encoder.check_input(network, split.images)
        inputs.check_labels(split.labels, network.n_classes, "the data set")
    except InputError as error:
        raise InputError(
            f"{error}. These are {what}; choose others with --data or --input"
        ) from error
    return split.images, split.labels


def check_data_dir(arguments: argparse.Namespace) -> None:
    """Raise :class:`InputError` if ``--data-dir`` is given without ``--data``."""
    if arguments.data_dir and not arguments.data:
        raise InputError(f"--data-dir {arguments.data_dir}: name the data set in it with --data")


def load(board: AnyBoard, program: Program) -> Loaded:
    """Write a compiled network to a board's memories, with a progress bar on a terminal.

    Return how much was written, and how long that took.
    """
    n_bytes = load_bytes(program) * len(board.devices)
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="loading", disable=None) as bar:
        return board.load(program, bar.update)
