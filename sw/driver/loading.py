"""Loading compiled networks into a device, and recovery when the link fails meanwhile."""

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
"""Number of attempts to recover a board since its last result before it is given up."""

_RECOVERABLE = frozenset({Status.WAS_RESET, Status.BUSY})
"""Reasons of refused requests that can succeed after the board is recovered."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Cost of loading a program.

    Attributes
    ----------
    n_bytes : size of the program.
    n_written : bytes that had to be written, because the board did not hold them already.
    seconds : duration by the wall clock.
    """

    n_bytes: int
    n_written: int
    seconds: float


def program_for(
    network: Network, program: Program | None, config: Config
) -> tuple[Program, str | None]:
    """Return a program for a device with ``config``: the given one, or one compiled for it.

    Returns
    -------
    The program, and why the network was compiled again if it was.

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
    """Return the number of bytes that loading a program reports as progress: its memory images, and
    the spikes that are cleared."""
    return sum(map(len, program.images.values())) + program.spike_bytes


def write_program(device: Device, program: Program, on_progress: Progress | None = None) -> int:
    """Write a program to a device where its memories differ, and clear its spikes.

    Returns
    -------
    Number of bytes written.

    Raises
    ------
    MemoryFault, RequestRefused, LinkTimeout, LinkLost
    """
    n_written = device.memory.fill(program.images, on_progress)
    device.memory.write(Space.SPIKE, 0, bytes(program.spike_bytes), on_progress)
    return n_written + program.spike_bytes


def recover(device: Device, error: DeviceError, n_failures: int) -> None:
    """Recover a device after its ``n_failures``-th failure in a row, which was ``error``.

    Raises
    ------
    DeviceError
        ``error`` itself, if a recovery cannot help or the last of :data:`MAX_RECOVERIES` failed.
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
