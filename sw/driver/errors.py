"""Everything that the driver raises."""

from __future__ import annotations

from hw.protocol import Status

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
    """A board, or the link between it and this machine, failed. Base class of all others."""


class DeviceNotFound(DeviceError):
    """No board was found, or a port cannot be opened; the message lists what was tried."""


class NotABoard(DeviceError):
    """The port exists, but nothing on it answers like a Spikefold board."""


class SpecMismatch(DeviceError):
    """The board's gateware and this software were built from different definitions."""


class LinkTimeout(DeviceError):
    """A request was not answered in time, although it was repeated."""


class LinkLost(DeviceError):
    """The port has vanished: the board was unplugged or lost its power."""


class RequestRefused(DeviceError):
    """The board refused a request.

    Attributes
    ----------
    status : the board's reason.
    """

    def __init__(self, request: str, status: Status):
        self.status = status
        super().__init__(f"the board refused {request}: {status.name}, {_REASONS[status]}")


class MemoryFault(DeviceError):
    """A memory of the board does not hold what was written to it."""


class FaultSpecError(DeviceError):
    """The fault options behind ``?`` in a board's name are invalid."""
