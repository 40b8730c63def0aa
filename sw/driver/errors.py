"""Exceptions that the driver raises; their base class is :class:`DeviceError`."""

from __future__ import annotations

import contextlib

import serial

from hw.protocol import Status

PORT_ERRORS: tuple[type[Exception], ...] = (OSError, TypeError, serial.SerialException)
"""Exceptions of a serial port that fails. A port that another thread has closed, or that vanished
while its rate was changed, raises a TypeError; a port that is disconnected while it is opened or
flushed raises an exception of the module termios, which only Unix has."""
with contextlib.suppress(ImportError):
    import termios

    PORT_ERRORS = (*PORT_ERRORS, termios.error)

_REASONS = {
    Status.BAD_OPCODE: "the board does not know this request",
    Status.BAD_LENGTH: "the request has the wrong length",
    Status.BAD_SPACE: "the board has no such memory, or it cannot be written",
    Status.BAD_ADDRESS: "the request reaches beyond the end of that memory",
    Status.BUSY: "a run is in progress; wait for its end or abort it",
    Status.WAS_RESET: "the board was reset and its memories may have changed; load it again",
    Status.MISMATCH: "the memory holds other data",
}


class DeviceError(RuntimeError):
    """Raised when a board fails, or the link between it and the host. Base class of all other
    exceptions of the driver."""


class DeviceNotFound(DeviceError):
    """Raised when no board is found, a port cannot be opened, or a virtual board does not start. If
    all ports were searched, the message lists them."""


class NotABoard(DeviceError):
    """Raised when a serial port exists, but nothing on it answers like a Spikefold board."""


class SpecMismatch(DeviceError):
    """Raised when a board's gateware and this software were built from different definitions, so
    that they disagree about the protocol or the configuration."""


class LinkTimeout(DeviceError):
    """Raised when a request is not answered in time, even after it was sent again. Also raised when
    a run does not end in time, and when the serial port accepts no data."""


class RunLost(DeviceError):
    """Raised when a board has lost a run that it had started, for example because it was reset."""


class InvalidMessage(DeviceError):
    """Raised when a board sends an undamaged message that its protocol does not allow."""

    def __init__(self, message: str):
        super().__init__(
            f"{message}. Its bitstream may be of another release: load one of this release "
            "('python -m hw.flash BOARD')"
        )


class LinkLost(DeviceError):
    """Raised when the serial port has vanished because the board was unplugged or switched off."""


class RequestRefused(DeviceError):
    """Raised when a board refuses a request.

    Attributes
    ----------
    status : the reason that the board's reply gives.
    """

    def __init__(self, request: str, status: Status):
        self.status = status
        super().__init__(f"the board refused {request}: {status.name}, {_REASONS[status]}")


class MemoryFault(DeviceError):
    """Raised when a memory of a board does not return the data that was written to it, even after
    it was written again.
    """


class FaultSpecError(DeviceError):
    """Raised when the options behind ``?`` in a port's name, such as ``sim?faults=1e-2``, are
    invalid."""
