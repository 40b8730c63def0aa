"""Serial ports by name: those of this machine, of virtual boards, and of other machines.

The port of another machine has an address. It is ``rfc2217://HOST:PORT`` if a server on that
machine speaks the protocol RFC 2217, which carries both bytes and settings of the port, such as its
rate. It is ``socket://HOST:PORT`` if the server passes on bytes only. Neither protocol has a
password or encryption. So the server should listen on a loopback interface only, and be reached
through an SSH tunnel.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import serial

from hw.protocol import DEFAULT_BAUD
from sw.driver.errors import PORT_ERRORS, DeviceNotFound
from sw.driver.transport import POLL_S, Port
from sw.driver.virtual_board import is_virtual

RFC2217, SOCKET = "rfc2217", "socket"
"""Schemes of addresses of ports at other machines."""

SCHEMES = (RFC2217, SOCKET)

CHUNK_BYTES = 4096
"""Largest number of bytes to take from a socket at a time."""


@dataclass(frozen=True)
class Kind:
    """Timeouts and abilities of one kind of port: local, virtual, or at another machine.

    Attributes
    ----------
    identify_timeout_s : how many seconds a board may take to answer while it is not known what is
        on the port.
    timeout_s : how many seconds an identified board may take to answer.
    settle_s : for how many seconds bytes may still be sent on the line after ``flush`` has
        returned.
    write_timeout_s : how many seconds a write may block. None means that the port does not take
        this setting.
    fixed_rate : whether the other end determines the rate of the line. Such a port cannot change it
        and cannot send a break.
    """

    identify_timeout_s: float
    timeout_s: float
    settle_s: float
    write_timeout_s: float | None
    fixed_rate: bool = False


_LOCAL = Kind(identify_timeout_s=0.4, timeout_s=0.3, settle_s=0.005, write_timeout_s=30.0)
# A virtual board answers late on a busy machine.
_VIRTUAL = Kind(identify_timeout_s=2.0, timeout_s=2.0, settle_s=0.05, write_timeout_s=300.0)
# Networks delay bytes, and may delay those that are sent first more than those that follow.
_RFC2217 = Kind(identify_timeout_s=2.0, timeout_s=2.0, settle_s=0.1, write_timeout_s=None)
_SOCKET = Kind(
    identify_timeout_s=2.0, timeout_s=2.0, settle_s=0.1, write_timeout_s=30.0, fixed_rate=True
)


def scheme_of(port: str) -> str:
    """Return the scheme of a port's address in small letters, or an empty text if the port is one
    of this machine.

    >>> scheme_of("RFC2217://localhost:2217"), scheme_of("/dev/ttyUSB0")
    ('rfc2217', '')
    """
    scheme, separator, _ = port.partition("://")
    return scheme.lower() if separator else ""


def kind_of(port: str) -> Kind:
    """Return the properties of the port with this path, name or address."""
    remote = {RFC2217: _RFC2217, SOCKET: _SOCKET}
    return remote.get(scheme_of(port)) or (_VIRTUAL if is_virtual(port) else _LOCAL)


def open_port(port: str) -> Port:
    """Open a serial port at the default rate (:data:`hw.protocol.DEFAULT_BAUD`), and return it.

    A port of this machine is locked against other processes.

    Raises
    ------
    DeviceNotFound
        The port does not exist, is in use, or this user may not open it; or its address is invalid,
        or no server answers at the address.
    """
    kind = kind_of(port)
    settings: dict[str, Any] = {"timeout": POLL_S, "write_timeout": kind.write_timeout_s}
    try:
        if scheme_of(port):
            _check_address(port)
            return RemotePort(serial.serial_for_url(port, DEFAULT_BAUD, **settings), kind)
        opened = serial.Serial(port, DEFAULT_BAUD, exclusive=True, **settings)
    except (*PORT_ERRORS, ValueError) as error:
        raise DeviceNotFound(f"cannot open {port}: {_open_error(error)}") from error
    with contextlib.suppress(*PORT_ERRORS, AttributeError, NotImplementedError, ValueError):
        opened.set_low_latency_mode(True)  # or USB adapters hold bytes back for 16 ms
    return opened


def _check_address(port: str) -> None:
    """Check that an address has a known scheme, a host and a port number, and nothing else but
    options.

    Raises
    ------
    ValueError
        The address is malformed; the message shows the right form.
    """
    form = "use rfc2217://HOST:PORT or socket://HOST:PORT, for example rfc2217://localhost:2217"
    parts = urlsplit(port)
    try:
        number = parts.port
    except ValueError as error:
        raise ValueError(f"its port is no number from 1 to 65535: {form}") from error
    if parts.scheme not in SCHEMES:
        raise ValueError(f"addresses of kind {parts.scheme!r} are not supported: {form}")
    if "@" in parts.netloc:
        raise ValueError(
            f"neither protocol has a user name or password: {form}, through a tunnel of SSH"
        )
    if not parts.hostname or not number or parts.path not in ("", "/") or parts.fragment:
        raise ValueError(f"it is no host and port: {form}")


def _open_error(error: Exception) -> str:
    text = str(error)
    if "Permission denied" in text:
        return f"{text}. Is your user in the group of serial ports (dialout, uucp)?"
    if "lock" in text or "busy" in text:
        return f"{text}. Another program is using it: end that program first"
    if "refused" in text:
        return f"{text}. Start a server for the port at that machine, or the tunnel to it"
    if "RFC2217" in text:
        return (
            f"{text}. If the server passes plain bytes, use {SOCKET}:// and let it run its port at "
            f"{DEFAULT_BAUD} bits per second"
        )
    return text


class RemotePort:
    """Port at another machine, with the methods of a local port.

    Parameters
    ----------
    opened : open port of pyserial, for RFC 2217 or a plain socket.
    kind : properties of the port.
    """

    def __init__(self, opened: Any, kind: Kind):
        self._opened = opened
        self._fixed_rate = kind.fixed_rate

    @property
    def port(self) -> str | None:
        return self._opened.port

    @property
    def in_waiting(self) -> int:
        # A socket says only whether bytes are waiting, not how many.
        waiting = self._opened.in_waiting
        return CHUNK_BYTES if self._fixed_rate and waiting else waiting

    @property
    def baudrate(self) -> int:
        return self._opened.baudrate

    @baudrate.setter
    def baudrate(self, baudrate: int) -> None:
        self._opened.baudrate = baudrate

    def read(self, size: int, /) -> bytes:
        """Return between 1 and ``size`` bytes, or none after the timeout. Wait for the first byte
        only.
        """
        if not self._fixed_rate:
            return self._opened.read(size)
        first = self._opened.read(1)
        if not first or size == 1:
            return first
        self._opened.timeout = 0
        try:
            return first + self._opened.read(size - 1)
        finally:
            self._opened.timeout = POLL_S

    def write(self, raw: bytes, /) -> object:
        try:
            return self._opened.write(raw)
        except AttributeError as error:  # of a socket that another thread has closed
            raise serial.SerialException("the port was closed") from error

    def flush(self) -> None:
        self._opened.flush()

    # A server that refuses to purge its buffers passes on what is in them, like a socket. The
    # driver ignores such replies by their sequence numbers.

    def reset_input_buffer(self) -> None:
        with contextlib.suppress(ValueError):
            self._opened.reset_input_buffer()

    def reset_output_buffer(self) -> None:
        with contextlib.suppress(ValueError):
            self._opened.reset_output_buffer()

    def close(self) -> None:
        # pyserial does not close a socket whose other end is closed already.
        connection = getattr(self._opened, "_socket", None)
        self._opened.close()
        if connection is not None:
            connection.close()
