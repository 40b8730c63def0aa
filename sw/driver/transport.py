"""Requests and replies in frames over a serial line, with many requests under way at a time.

See :mod:`hw.protocol` for the bytes on the wire. The device answers in order. A reply therefore
shows that each earlier request without a reply was lost, or its reply was.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

import serial

from hw.protocol import (
    BREAK_BAUD,
    DEFAULT_BAUD,
    END,
    HEADER_BYTES,
    REPLY,
    STATUS_BYTES,
    Opcode,
    Status,
    decode_frame,
    encode_frame,
)
from sw.driver.errors import DeviceError, LinkLost, LinkTimeout, RequestRefused

MAX_IN_FLIGHT = 64
"""Largest number of unanswered requests; far fewer than there are sequence numbers."""

MAX_BYTES_IN_FLIGHT = 32768
"""Largest number of bytes of unanswered requests that the device executes as fast as they arrive:
27 ms at 12 Mbaud, far more than a USB adapter's latency."""

MAX_REPLY_BYTES_IN_FLIGHT = 4096
"""Largest number of bytes of expected replies: what operating systems buffer for a serial port."""

MAX_RECEIVED_BYTES = 1 << 16
"""Largest number of bytes that are kept without an end of frame: far more than a frame."""

POLL_S = 0.02
"""Longest time that a single read of the port blocks."""

SETTLE_S = 0.005
"""How long an adapter may still be sending after the operating system reports that all is sent."""

_END = bytes([END])
_FAST = frozenset({Opcode.WRITE, Opcode.RUN})
"""Requests that the device executes faster than they arrive."""


class Port(Protocol):
    """Serial port as a transport uses it, such as :class:`serial.Serial`. ``read`` blocks for at
    most :data:`POLL_S`."""

    @property
    def port(self) -> str | None: ...

    @property
    def in_waiting(self) -> int: ...

    @property
    def baudrate(self) -> int: ...

    @baudrate.setter
    def baudrate(self, baudrate: int, /) -> None: ...

    def read(self, size: int, /) -> bytes: ...
    def write(self, raw: bytes, /) -> object: ...
    def flush(self) -> None: ...
    def reset_input_buffer(self) -> None: ...
    def reset_output_buffer(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Request:
    """A request from host to device.

    Attributes
    ----------
    n_reply_bytes : length of the reply's data, without its status byte.
    what : description for messages, for example ``WRITE of 16 rows of WEIGHT from row 32``.
    """

    opcode: Opcode
    payload: bytes = b""
    n_reply_bytes: int = 0
    what: str = ""

    def __str__(self) -> str:
        return self.what or self.opcode.name


Reply = bytes | DeviceError
"""Data of a reply, or the error that took its place."""


@dataclass
class _InFlight:
    """A request that has been sent and not been answered, with its encoded frame."""

    request: Request
    on_reply: Callable[[Reply], object]
    frame: bytes


@dataclass
class LinkCounters:
    """Traffic and errors of a link since it was opened; counters of several links add up.

    Attributes
    ----------
    n_bytes_out, n_bytes_in : bytes sent and received by the host.
    n_bad_frames : damaged frames received by the host.
    n_repeated : requests sent again.
    n_recoveries : times that the link was restarted.
    """

    n_bytes_out: int = 0
    n_bytes_in: int = 0
    n_bad_frames: int = 0
    n_repeated: int = 0
    n_recoveries: int = 0

    def __add__(self, other: LinkCounters) -> LinkCounters:
        return LinkCounters(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Transport:
    """Requests and replies over an open port.

    Parameters
    ----------
    port : open port.
    timeout_s : time without a reply after which everything unanswered is repeated; doubles with
        each repetition.
    n_retries : repetitions without any reply before the transport gives up.
    settle_s : how long the adapter may still be sending after the operating system reports that
        all is sent.

    Attributes
    ----------
    window_bytes : largest number of bytes of unanswered requests while some of them take the
        device long: the size of its receive buffer. At least one request is always sent.
    on_done : called with tag and data (without the status byte) of each announced end of a run.
    on_repeat : called with each request just before it is sent again.
    counters : traffic and errors so far.
    """

    def __init__(
        self,
        port: Port,
        *,
        timeout_s: float = 0.3,
        n_retries: int = 4,
        settle_s: float = SETTLE_S,
    ):
        self.port = port
        self._settle_s = settle_s
        self.timeout_s = timeout_s
        self.n_retries = n_retries
        self.window_bytes = 0
        self.on_done: Callable[[int, bytes], object] = lambda tag, data: None
        self.on_repeat: Callable[[Request], object] = lambda request: None
        self.counters = LinkCounters()
        self._seq = random.randrange(256)
        self._received = bytearray()
        self._waiting: deque[tuple[Request, Callable[[Reply], object]]] = deque()
        self._in_flight: dict[int, _InFlight] = {}
        """Unanswered requests by sequence number, in the order in which they were sent."""
        self._n_bytes_out = self._n_bytes_back = 0
        self._n_slow = 0
        self._n_timeouts = 0
        self._deadline = 0.0

    # ---- the line ----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the port. Closing it again does nothing."""
        with contextlib.suppress(OSError):
            self.port.close()

    @property
    def baud(self) -> int:
        """Rate of this end in bits per second."""
        return self.port.baudrate

    def set_baud(self, baud: int) -> None:
        """Change the rate of this end, after all bytes have been sent.

        Raises
        ------
        LinkLost
        ValueError
            The port does not support this rate.
        """
        with self._line():
            self.port.flush()
            time.sleep(self._settle_s)
            self.port.baudrate = baud

    def resync(self) -> None:
        """Discard all requests, and bring device and host to the default rate.

        Raises
        ------
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        self.cancel()
        with self._line():
            self.port.reset_output_buffer()  # unsent bytes would be slow at the rate of a break
            self.port.baudrate = BREAK_BAUD
            self.port.write(b"\0")  # at any higher rate this is a break
        self.set_baud(DEFAULT_BAUD)
        with self._line():
            self.port.reset_input_buffer()
            self._received.clear()
            self.port.write(_END)  # ends a frame that an earlier program may have left incomplete

    @contextlib.contextmanager
    def _line(self) -> Iterator[None]:
        """Raise errors of the port as errors of the driver."""
        try:
            yield
        except serial.SerialTimeoutException as error:
            raise LinkTimeout(f"{self.port.port} accepts no data: {error}") from error
        except (OSError, TypeError) as error:
            # serial.SerialException is an OSError. A port that another thread has closed, or that
            # vanished while its rate was changed, raises a TypeError.
            raise LinkLost(
                f"lost the board on {self.port.port}: {error}. Was it unplugged or switched off?"
            ) from error

    def _write(self, raw: bytes | bytearray) -> None:
        with self._line():
            self.port.write(bytes(raw))
        self.counters.n_bytes_out += len(raw)

    def _receive(self, deadline: float) -> bytes | None:
        """Return the next undamaged packet, or None if none arrives before ``deadline``."""
        late = False
        while True:
            raw, end, rest = self._received.partition(_END)
            if end:
                self._received = rest
                packet = decode_frame(bytes(raw)) if raw else None
                if packet is not None:
                    return packet
                self.counters.n_bad_frames += bool(raw)
                continue
            if len(self._received) > MAX_RECEIVED_BYTES:
                self._received.clear()
                self.counters.n_bad_frames += 1
            with self._line():
                n_arrived = self.port.in_waiting
            if time.monotonic() >= deadline:
                # If this process was late itself, the reply may be waiting in the port.
                if late or not n_arrived:
                    return None
                late = True
            with self._line():
                arrived = self.port.read(n_arrived or 1)
            self._received += arrived
            self.counters.n_bytes_in += len(arrived)

    # ---- requests ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether every request has been answered."""
        return not self._waiting and not self._in_flight

    def submit(self, request: Request, on_reply: Callable[[Reply], object]) -> None:
        """Queue a request. :meth:`step` sends it, and calls ``on_reply`` with its reply."""
        if self.idle:
            self._restart_timeout()
        self._waiting.append((request, on_reply))

    def forget(self, request: Request) -> None:
        """Treat a request as answered: it is not sent again, and its reply is ignored."""
        for seq, entry in list(self._in_flight.items()):
            if entry.request is request:
                del self._in_flight[seq]
                self._count(entry.frame, request, -1)

    def cancel(self) -> None:
        """Discard all requests; replies to them are ignored."""
        self._waiting.clear()
        self._in_flight.clear()
        self._n_bytes_out = self._n_bytes_back = self._n_slow = self._n_timeouts = 0

    def _restart_timeout(self) -> None:
        self._n_timeouts = 0
        self._deadline = time.monotonic() + self.timeout_s

    def _fits(self, frame: bytes, request: Request) -> bool:
        """Return whether a request may be sent now, beside those that are unanswered."""
        if not self._in_flight:
            return True
        slow = self._n_slow or request.opcode not in _FAST
        limit = self.window_bytes if slow else MAX_BYTES_IN_FLIGHT
        return (
            len(self._in_flight) < MAX_IN_FLIGHT
            and self._n_bytes_out + len(frame) <= limit
            and self._n_bytes_back + request.n_reply_bytes <= MAX_REPLY_BYTES_IN_FLIGHT
        )

    def _send_waiting(self) -> None:
        burst = bytearray()
        while self._waiting:
            request, on_reply = self._waiting[0]
            seq = (self._seq + 1) % 256
            frame = encode_frame(bytes([seq, request.opcode]) + request.payload)
            if not self._fits(frame, request):
                break
            self._waiting.popleft()
            self._seq = seq
            self._in_flight[seq] = _InFlight(request, on_reply, frame)
            self._count(frame, request, 1)
            burst += frame
        if burst:
            self._write(burst)

    def _count(self, frame: bytes, request: Request, sign: int) -> None:
        """Add (``sign`` 1) or remove (-1) a request to the totals of those under way."""
        self._n_bytes_out += sign * len(frame)
        self._n_bytes_back += sign * request.n_reply_bytes
        self._n_slow += sign * (request.opcode not in _FAST)

    def _repeat(self, seqs: list[int]) -> None:
        """Send requests again, which makes them the last ones that were sent."""
        self.counters.n_repeated += len(seqs)
        for seq in seqs:
            self._in_flight[seq] = self._in_flight.pop(seq)
            self.on_repeat(self._in_flight[seq].request)
        self._write(_END + b"".join(self._in_flight[seq].frame for seq in seqs))

    def step(self, deadline: float) -> bool:
        """Send what may be sent, and handle one packet.

        Returns
        -------
        False if no packet arrived before ``deadline``, a value of :func:`time.monotonic`.

        Raises
        ------
        LinkTimeout, LinkLost
            All requests have been discarded.
        """
        try:
            return self._step(deadline)
        except DeviceError:
            self.cancel()
            raise

    def _step(self, deadline: float) -> bool:
        self._send_waiting()
        while True:
            until = min(deadline, self._deadline) if self._in_flight else deadline
            packet = self._receive(until)
            if packet is not None:
                break
            if self._in_flight and time.monotonic() >= self._deadline:
                self._time_out()
            elif time.monotonic() >= deadline:
                return False
        seq, opcode, reply = packet[0], packet[1], packet[HEADER_BYTES:]
        if opcode == Opcode.DONE | REPLY and reply:
            self.on_done(seq, reply[STATUS_BYTES:])
            return True
        entry = self._in_flight.get(seq)
        if entry is None or opcode != entry.request.opcode | REPLY or not reply:
            return True  # the second reply to a request that was repeated too early
        order = list(self._in_flight)
        overtaken = order[: order.index(seq)]
        del self._in_flight[seq]
        self._count(entry.frame, entry.request, -1)
        self._restart_timeout()
        if overtaken:
            self._repeat(overtaken)
        entry.on_reply(self._checked(entry.request, reply))
        return True

    def _time_out(self) -> None:
        self._n_timeouts += 1
        if self._n_timeouts > self.n_retries:
            oldest = next(iter(self._in_flight.values())).request
            raise LinkTimeout(
                f"no answer from {self.port.port} to {oldest}, even after {self.n_retries} "
                "repetitions. Is the board still powered, and its bitstream loaded?"
            )
        self._repeat(list(self._in_flight))
        self._deadline = time.monotonic() + self.timeout_s * 2**self._n_timeouts

    def _checked(self, request: Request, reply: bytes) -> Reply:
        """Return the data of a reply, or the error that it stands for."""
        status, data = reply[0], reply[STATUS_BYTES:]
        if status not in set(Status):
            return DeviceError(f"the board answered {request} with the unknown status {status}")
        if status != Status.OK:
            return RequestRefused(str(request), Status(status))
        # The Identity of a different version may have a different length.
        if len(data) != request.n_reply_bytes and request.opcode != Opcode.IDENTIFY:
            return DeviceError(
                f"the reply of {self.port.port} to {request} has {len(data)} bytes, not "
                f"{request.n_reply_bytes}"
            )
        return data

    def exchange(
        self, requests: Sequence[Request], on_reply: Callable[[int], object] | None = None
    ) -> list[bytes]:
        """Send requests, several at a time, and return the data of their replies, in order.

        Parameters
        ----------
        on_reply : called with the index of each request that has been answered.

        Raises
        ------
        RequestRefused
            The board refused a request; later ones may have been executed.
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        replies: list[Reply | None] = [None] * len(requests)
        refused: list[DeviceError] = []

        def answered(index: int) -> Callable[[Reply], None]:
            def take(reply: Reply) -> None:
                replies[index] = reply
                if isinstance(reply, DeviceError):
                    refused.append(reply)
                    self._waiting.clear()  # but wait for those under way
                elif on_reply is not None:
                    on_reply(index)

            return take

        for index, request in enumerate(requests):
            self.submit(request, answered(index))
        while not self.idle:
            self.step(time.monotonic() + self.timeout_s)
        if refused:
            raise refused[0]
        return [reply for reply in replies if isinstance(reply, bytes)]
