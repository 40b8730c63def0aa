"""Loading of compiled networks into a device, and recovery of a device whose link has failed."""

from __future__ import annotations

from dataclasses import dataclass

from hw.protocol import Space, Status, spec_hash
from hw.spec import Config
from sw.compile.compiler import compile_network
from sw.compile.program import Program
from sw.driver.device import Device
from sw.driver.errors import DeviceError, LinkTimeout, RequestRefused
from sw.driver.memory import Progress
from sw.network.network import Network

MAX_RECOVERIES = 3
"""Number of failures of a board in a row, without a result between them, that are answered by
recovering it. The error of the next one is raised."""

_RECOVERABLE = frozenset({Status.WAS_RESET, Status.BUSY})
"""Reasons for which a board refuses a request that it may accept after it has been recovered."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Statistics of loading a program into a board, or into all boards of a group.

    Attributes
    ----------
    n_bytes : number of bytes of the program, including the part of spike memory that is set to 0.
        In a group, the sum over the boards.
    n_written : number of those bytes that were written: all of spike memory's, and those that the
        board did not hold already. In a group, the sum over the boards.
    seconds : duration of loading in seconds of wall-clock time. In a group, that of the slowest
        board.
    """

    n_bytes: int
    n_written: int
    seconds: float


def program_for(
    network: Network, program: Program | None, config: Config
) -> tuple[Program, str | None]:
    """Return a program that runs ``network`` on a device with configuration ``config``.

    ``program`` is returned if it was compiled for this configuration; otherwise, or if it is None,
    the network is compiled.

    Returns
    -------
    The program; and a sentence that says why the network was compiled, or None if it was not.

    Raises
    ------
    sw.compile.program.FitError
        The network does not fit the device.
    """
    if program is not None and spec_hash(program.config) == spec_hash(config):
        return program, None
    why = "there was no program" if program is None else f"it was made for {program.config.name!r}"
    return compile_network(network, config), f"compiled again for {config.name!r}: {why}"


def load_bytes(program: Program) -> int:
    """Return the number of bytes that are counted as progress while a program is loaded: weights,
    layer descriptors, parameters, and the part of spike memory that is set to 0."""
    return sum(map(len, program.images.values())) + program.spike_bytes


def write_program(device: Device, program: Program, on_progress: Progress | None = None) -> int:
    """Write a program into a device's memories wherever they differ from it, and set the part of
    spike memory that the program uses to 0.

    Returns
    -------
    Number of bytes written, including those that were set to 0.

    Raises
    ------
    MemoryFault
        The board does not hold what was written to it.
    RequestRefused
        The board refused a request.
    LinkTimeout, LinkLost
        The board does not answer, or has been disconnected.
    """
    n_written = device.memory.fill(program.images, on_progress)
    device.memory.write(Space.SPIKE, 0, bytes(program.spike_bytes), on_progress)
    return n_written + program.spike_bytes


def recover(device: Device, error: DeviceError, n_failures: int) -> None:
    """Recover a device after a failure (:meth:`sw.driver.device.Device.recover`). If it does not
    answer, try again, which counts as a further failure, until there are more than
    :data:`MAX_RECOVERIES`.

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
