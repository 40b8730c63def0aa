"""Loading of compiled networks into a device, and recovery of a device whose link has failed."""

from __future__ import annotations

from dataclasses import dataclass

from hw.protocol import Space, Status, spec_hash
from hw.spec import Config
from sw.compile.program import Program
from sw.driver.device import Device
from sw.driver.errors import DeviceError, LinkTimeout, RequestRefused
from sw.driver.memory import Progress
from sw.network.netfile import NetworkFile

MAX_RECOVERIES = 3
"""Largest number of attempts to recover a board, without a result between them. If the board then
fails again, its error is raised."""

_RECOVERABLE = frozenset({Status.WAS_RESET, Status.BUSY})
"""Reasons for which a board refuses a request, but may accept it after a recovery."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Statistics of loading a program into a board, or into all boards of a group.

    Attributes
    ----------
    n_bytes : number of bytes of the program, including the part of spike memory that is set to 0.
        In a group, the sum over the boards.
    n_written : number of these bytes that were written: all those of spike memory, and those of
        other memories that were not in the board already. In a group, the sum over the boards.
    seconds : duration of loading in seconds of wall-clock time. In a group, the duration for the
        slowest board.
    """

    n_bytes: int
    n_written: int
    seconds: float


def exported_for_another(file: NetworkFile, config: Config) -> str | None:
    """Return a sentence that says that a file was exported for another device; None if it was not.

    ``config`` is the configuration of the device that the network is compiled for now.
    """
    if file.config is None:
        return None if file.unknown is None else f"compiled for {config.name!r}; {file.unknown}"
    if spec_hash(file.config) == spec_hash(config):
        return None
    return f"compiled for {config.name!r}; the file was exported for {file.config.name!r}"


def load_bytes(program: Program) -> int:
    """Return the number of bytes that are counted as progress while a program is loaded.

    These are the weights, layer descriptors and parameters in all memories, and the part of spike
    memory that is set to 0.
    """
    return sum(map(len, program.images.values())) + program.spike_bytes


class LoadProgress:
    """Progress counter for loading, which counts every byte only once even if loading is repeated
    after a failure.

    Parameters
    ----------
    on_progress : called with the number of bytes written or verified since its previous call.
    """

    def __init__(self, on_progress: Progress):
        self._on_progress = on_progress
        self._n_done = self._n_reported = 0

    def start(self) -> None:
        """Record that loading starts, for the first time or again."""
        self._n_done = 0

    def __call__(self, n_bytes: int) -> None:
        """Record that ``n_bytes`` more bytes have been written or verified since the latest
        start.
        """
        self._n_done += n_bytes
        if self._n_done > self._n_reported:
            n_new = self._n_done - self._n_reported
            self._n_reported = self._n_done
            self._on_progress(n_new)


def write_program(device: Device, program: Program, on_progress: Progress | None = None) -> int:
    """Write a program into a device's memories wherever they differ from it.

    The part of spike memory that the program uses is set to 0. ``on_progress`` is called with the
    number of bytes that were written, or found in the device already, since its previous call.

    If loading bypasses the serial line of a virtual board (:attr:`sw.driver.device.Device.direct`),
    weights and parameters are first written directly into the simulated memories. Then the board is
    treated like any other: it compares its memories with CRCs that are sent over the line, and rows
    that differ are written over the line.

    Returns
    -------
    Number of bytes written, including those that were set to 0.

    Raises
    ------
    MemoryFault
        A memory of the board does not return the data that was written to it.
    RequestRefused
        The board refused a request, for example because it was reset meanwhile.
    LinkTimeout, LinkLost
        The board does not answer, or has been disconnected.
    """
    device.preload(program.images)
    n_written = device.memory.fill(program.images, on_progress)
    device.memory.write(Space.SPIKE, 0, bytes(program.spike_bytes), on_progress)
    if device.direct:
        n_written = sum(map(len, program.images.values()))
    return n_written + program.spike_bytes


def recover(device: Device, error: DeviceError, n_failures: int) -> None:
    """Recover a device after a failure (:meth:`sw.driver.device.Device.recover`). If the device
    does not answer, try again. Each attempt counts as a further failure; after more than
    :data:`MAX_RECOVERIES` failures, raise the error.

    Parameters
    ----------
    error : the failure.
    n_failures : number of failures in a row, including this one.

    Raises
    ------
    DeviceError
        ``error`` itself, if recovery would not help or if this was one failure too many; else the
        error of the last attempt to recover.
    """
    while True:
        if n_failures > MAX_RECOVERIES or (
            isinstance(error, RequestRefused) and error.status not in _RECOVERABLE
        ):
            raise error
        try:
            device.recover()
            return
        except LinkTimeout as again:
            error = again
            n_failures += 1
