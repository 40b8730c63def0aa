"""Choice of the function that imports another framework's file, by the file's format.

To support a new format, add a :class:`Reader` to :data:`READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sw.exchange import nir_common, nir_file, nir_read, statedict, statefile
from sw.exchange.assembly import Imported
from sw.exchange.graph import ExchangeError
from sw.exchange.topology import TOPOLOGIES, load_topology


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Command-line options for facts that a network's file does not state. Options that the user
    did not give are None, False or 0.

    ``topology`` is the name or file of a description of the network (:mod:`sw.exchange.topology`).
    ``frames`` says that the input is binary frames (an array of spikes for each timestep) instead
    of an image. ``dt`` is the timestep in seconds. :class:`sw.exchange.nir_read.NirOptions`
    explains the other fields.
    """

    timesteps: int | None = None
    topology: str | None = None
    pixel_max: float | None = None
    frames: bool = False
    dt: float | None = None
    fires_at_threshold: bool = False
    reset: str | None = None
    nearest_leak: int = 0

    def given(self) -> set[str]:
        """Return the names of the options that the user gave, as field names."""
        return {name for name, value in vars(self).items() if value not in (None, False)}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A file format of another framework, with the function that imports files of this format."""

    files: str
    """Name of the format's files for messages, such as ``.nir files``."""
    matches: Callable[[Path, ReadOptions], bool]
    """Function that returns whether this reader reads a file with the given path and options."""
    read: Callable[[Path, ReadOptions], Imported]
    """Function that reads a file; raises :class:`sw.exchange.graph.ExchangeError` if the network
    cannot be mapped."""
    options: frozenset[str]
    """Names of the fields of :class:`ReadOptions` that apply to this format."""


def _read_nir(path: Path, options: ReadOptions) -> Imported:
    return nir_read.read(
        path,
        nir_read.NirOptions(
            timesteps=options.timesteps,
            pixel_max=None if options.frames else options.pixel_max or 1.0,
            dt_s=options.dt,
            fires_at_threshold=options.fires_at_threshold,
            reset=options.reset,
            nearest_leak=options.nearest_leak,
        ),
    )


def _read_state_dict(path: Path, options: ReadOptions) -> Imported:
    assert options.topology is not None
    topology = load_topology(options.topology)
    return statedict.read(path, topology, options.timesteps, options.nearest_leak)


READERS = (
    Reader(
        files=f"{nir_common.SUFFIX} files",
        matches=lambda path, options: nir_file.is_hdf5(path),
        read=_read_nir,
        options=frozenset(
            {
                "timesteps",
                "pixel_max",
                "frames",
                "dt",
                "fires_at_threshold",
                "reset",
                "nearest_leak",
            }
        ),
    ),
    Reader(
        files="state dicts",
        matches=lambda path, options: options.topology is not None,
        read=_read_state_dict,
        options=frozenset({"timesteps", "topology", "nearest_leak"}),
    ),
)
"""All readers; the first one that matches reads a file."""


def find_reader(path: Path, options: ReadOptions) -> Reader | None:
    """Return the first reader that matches a file and the options.

    The result is None if none does: the file is then taken for a checkpoint of ``sw.train``.
    """
    return next((reader for reader in READERS if reader.matches(path, options)), None)


def missing_topology(path: Path) -> str | None:
    """Return an error message if a topology must be given to import a file; otherwise None.

    A topology lists the steps of a network (:mod:`sw.exchange.topology`). Files that hold a state
    dict of another framework, or a whole network, need one.
    """
    ways = (
        "give --topology FILE, a JSON file that sw.exchange.describe makes from the network, or "
        f"--topology {' or '.join(TOPOLOGIES)}"
    )
    try:
        state = statefile.load(path)
    except statefile.ForeignObjects as error:
        return f"{error}; then {ways}"
    except ExchangeError:
        return None
    names = ", ".join(list(state)[:3])
    return (
        f"{path} is a state dict of another framework ({names}, ...), which does not say how the "
        f"network uses its tensors: {ways}"
    )


def unused_option(reader: Reader | None, options: ReadOptions) -> str | None:
    """Return an error message if an option was given that does not apply to the file's format.

    The message names the first such option; the result is None if all options apply. ``reader`` is
    the reader for the file's format, or None for a checkpoint of ``sw.train``, to which no option
    applies.
    """
    taken = reader.options if reader else frozenset()
    for name in (name for name in vars(options) if name in options.given() - taken):
        option = f"--{name.replace('_', '-')}"
        files = [other.files for other in READERS if name in other.options]
        checkpoint = "" if reader or len(files) == 1 else "; read a state dict with --topology"
        return f"{option} is for {' and '.join(files)} only{checkpoint}"
    return None
