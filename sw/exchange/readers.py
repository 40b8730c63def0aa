"""Readers of other frameworks' files, one per format. A new format is added to :data:`READERS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sw.exchange import nir_common, nir_read, statedict
from sw.exchange.assembly import Imported
from sw.exchange.topology import load_topology


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options for facts that a file does not hold; None or False if not given."""

    timesteps: int | None = None
    topology: str | None = None
    pixel_max: float | None = None
    frames: bool = False
    dt: float | None = None
    fires_at_threshold: bool = False

    def given(self) -> set[str]:
        """Return the names of the options that were given."""
        return {name for name, value in vars(self).items() if value not in (None, False)}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A format of files and the function that reads it."""

    files: str
    """Name of these files in messages."""
    matches: Callable[[Path, ReadOptions], bool]
    read: Callable[[Path, ReadOptions], Imported]
    """Function that reads a file; raises :class:`sw.exchange.graph.ExchangeError` if the network
    cannot be mapped."""
    options: frozenset[str]
    """Names of the :class:`ReadOptions` that the reader takes."""


def _read_nir(path: Path, options: ReadOptions) -> Imported:
    return nir_read.read(
        path,
        options.timesteps,
        pixel_max=None if options.frames else options.pixel_max or 1.0,
        dt_s=options.dt,
        fires_at_threshold=options.fires_at_threshold,
    )


def _read_state_dict(path: Path, options: ReadOptions) -> Imported:
    assert options.topology is not None
    return statedict.read(path, load_topology(options.topology), options.timesteps)


READERS = (
    Reader(
        files=f"{nir_common.SUFFIX} files",
        matches=lambda path, options: path.suffix == nir_common.SUFFIX,
        read=_read_nir,
        options=frozenset({"timesteps", "pixel_max", "frames", "dt", "fires_at_threshold"}),
    ),
    Reader(
        files="state dicts",
        matches=lambda path, options: options.topology is not None,
        read=_read_state_dict,
        options=frozenset({"timesteps", "topology"}),
    ),
)
"""All readers; the first one that matches reads a file."""


def find_reader(path: Path, options: ReadOptions) -> Reader | None:
    """Return the reader of a file; None for a checkpoint of ``sw.train``."""
    return next((reader for reader in READERS if reader.matches(path, options)), None)


def unused_option(reader: Reader | None, options: ReadOptions) -> str | None:
    """Return a message on the first option that the file's reader does not take, or None."""
    taken = reader.options if reader else frozenset()
    for name in (name for name in vars(options) if name in options.given() - taken):
        option = f"--{name.replace('_', '-')}"
        files = [other.files for other in READERS if name in other.options]
        checkpoint = "" if reader or len(files) == 1 else "; read a state dict with --topology"
        return f"{option} is for {' and '.join(files)} only{checkpoint}"
    return None
