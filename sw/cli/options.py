"""Command-line options that several commands share: network, board and samples to classify."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hw.boards.configs import BOARDS, CONFIGS, CONFIGS_HELP, board_name, config_by_name
from hw.protocol import spec_hash
from hw.spec import Config, SpecError
from sw.data import catalogue, inputs
from sw.data.catalogue import NAMES
from sw.data.dataset import Dataset, Split
from sw.data.labels import as_named
from sw.driver.any_board import AnyBoard, Loadable
from sw.driver.loading import Loaded, load_bytes
from sw.network import encoder
from sw.network.encoder import InputError
from sw.network.network import Network
from sw.shipped import NETWORK

VIRTUAL = "sim"
"""Value of ``--board`` for the virtual board, a simulation of the gateware."""
FIND = "auto"
"""Value of ``--board`` if the option is given without a port; the USB serial ports are then
searched for known boards."""


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
        f"({CONFIGS_HELP}); rfc2217://HOST:PORT or socket://HOST:PORT for a port of another "
        f"machine; {joined}without a value the USB ports of known boards are searched "
        "(default: sim)",
    )
    parser.add_argument(
        "--baud", type=int, help="fastest rate to use, in bits per second (the board's own)"
    )


def add_inputs(parser: argparse.ArgumentParser) -> Any:
    """Add to a parser the options that choose which samples are classified.

    Return argparse's group of the two options that exclude each other, ``--data`` and ``--input``.
    """
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="NAME",
        help=f"test samples of a data set: {', '.join(NAMES)}, or the path of your own data (for "
        "networks of Fashion-MNIST: its shipped images)",
    )
    source.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=".npy or .npz files of samples, images (PNG, JPEG, ...), event recordings (AEDAT 1.0, "
        "2.0, 3.1, 4.0; Prophesee's .dat and .raw; HDF5; .npy and .npz with t, x, y, p; N-MNIST's "
        ".bin)",
    )
    parser.add_argument("--data-dir", type=Path, help="folder that has the data set of --data")
    parser.add_argument(
        "--sensor",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the sensor of event recordings (those that the file names, else "
        "those of the network's input)",
    )
    return source


def port_of(board: str, config: Config | None) -> str | None:
    """Convert the value of ``--board`` to the ports that :func:`sw.driver.group.open_boards`
    opens.

    If ``--board`` was given without a port, the result is None: USB ports are searched. ``config``
    is the configuration that the network was exported for. ``sim`` alone simulates the default
    board. If ``config`` is that of another known board (:mod:`hw.boards.configs`), each ``sim``
    becomes ``sim:BOARD`` with this board's name.

    Raises
    ------
    InputError
        The value is ``sim:`` with an unknown board, or a board's name in place of a port.
    """
    if board == FIND:
        return None
    return ",".join(_port_of(port.strip(), config) for port in board.split(","))


def _port_of(port: str, config: Config | None) -> str:
    """Convert a single port of the value of ``--board``; see :func:`port_of`."""
    name, question, options = port.partition("?")
    _check_port(name)
    if name == VIRTUAL and config is not None:
        kind = board_name(config)
        with contextlib.suppress(SpecError):
            wanted, usual = spec_hash(config_by_name(kind)), spec_hash(CONFIGS[VIRTUAL])
            if wanted == spec_hash(config) and wanted != usual:
                return f"{VIRTUAL}:{kind}{question}{options}"
    return port


def _check_port(port: str) -> None:
    """Check that the value of ``--board`` can be a serial port or a virtual board.

    Raises
    ------
    InputError
        The value is the name of a board instead of the board's port; or it is ``sim:`` and an
        unknown board.
    """
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


def _tell(text: str) -> None:
    """Print a remark that does not belong to a command's results, on standard error."""
    print(text, file=sys.stderr, flush=True)


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
        return inputs.read(arguments.input, network, sensor, tell=_tell)
    if arguments.sensor is not None:
        raise InputError("--sensor is the size of recordings: name the recordings with --input")
    if not arguments.data:
        split = shipped_samples(network)
        return split.images, split.labels
    found = catalogue.load(arguments.data_dir, name=arguments.data, timesteps=network.timesteps)
    split = as_classified(found, network)
    return split.images, split.labels


def shipped_samples(network: Network) -> Split:
    """Return the shipped test images of Fashion-MNIST, if the network was made for this data set.

    Raises
    ------
    InputError
        The network was made for other data, or its file does not say for which.
    """
    name, own = data_of(network)
    if name == catalogue.DEFAULT and not own:
        split = catalogue.load_samples()
        _check_samples(network, split, f"shipped samples of {name}")
        return split
    if name is None:
        what, place = "the network file does not say which data the network is for", "NAME_OR_PATH"
    else:
        what = f"the network is for {'own data called ' if own else ''}{name!r}"
        place = "PATH" if own else name
    raise InputError(
        f"{what}, and only samples of {catalogue.DEFAULT} are shipped: name test samples with "
        f"--data {place} or --input FILE"
    )


def data_of(network: Network) -> tuple[str | None, bool]:
    """Return the name of the data set that a network is for, and whether it is a user's own data.

    This is the data set on which the network was trained, or measured when it was exported. If the
    network's provenance names none, a network with the classes of Fashion-MNIST is for this data
    set; for all other networks, the name is None.
    """
    for record in (
        network.provenance.get("data"),
        (network.provenance.get("export") or {}).get("data"),
    ):
        if isinstance(record, dict) and isinstance(record.get("name"), str):
            return record["name"], bool(record.get("own"))
    known = network.labels == catalogue.SOURCES[catalogue.DEFAULT].labels
    return catalogue.DEFAULT if known else None, False


def as_classified(dataset: Dataset, network: Network) -> Split:
    """Return the test samples of a data set, with labels renumbered to the network's classes.

    Raises
    ------
    InputError
        The network does not take the samples, or has other classes.
    """
    split = dataset.test
    _check_samples(network, split, f"samples of {dataset.name}")
    numbers = as_named(split.labels, dataset.labels, network.labels)
    if numbers is None:
        raise InputError(
            f"{dataset.name} has the classes {', '.join(dataset.labels)}, the network "
            f"{', '.join(network.labels)}; choose others with --data or --input"
        )
    return Split(images=split.images, labels=numbers)


def _check_samples(network: Network, split: Split, what: str) -> None:
    """Check that the network takes the samples; ``what`` is their name in the error message.

    Raises
    ------
    InputError
        The network takes samples of another shape or other values.
    """
    try:
        encoder.check_input(network, split.images)
    except InputError as error:
        raise InputError(
            f"{error}. These are the {what}; choose others with --data or --input"
        ) from error


def check_data_dir(arguments: argparse.Namespace) -> None:
    """Check that ``--data-dir`` is given only together with ``--data``.

    Raises
    ------
    InputError
        ``--data`` is missing, so it is not known which data set is in the folder.
    """
    if arguments.data_dir and not arguments.data:
        raise InputError(f"--data-dir {arguments.data_dir}: name the data set in it with --data")


def load(board: AnyBoard, network: Loadable) -> Loaded:
    """Compile a network for a board and write it to its memories, showing progress.

    Return how much was written, and how long that took. Exceptions are those of
    :meth:`sw.driver.any_board.AnyBoard.load`.
    """
    n_bytes = sum(map(load_bytes, board.compiled(network)))
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="loading", disable=None) as bar:
        return board.load(network, bar.update)
