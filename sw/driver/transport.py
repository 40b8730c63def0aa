"""Transport of requests and replies over a serial line. Many requests can be unanswered at a time;
those that were lost are sent again.

Each message travels in a frame, as :mod:`hw.protocol` describes. The decoded contents of a frame
are called a packet: sequence number, opcode and payload. The device answers requests in the order
in which they arrive. So if a request is answered while an earlier one is still unanswered, the
earlier request or its reply was lost.
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
from sw.driver.errors import (
    PORT_ERRORS,
    DeviceError,
    InvalidMessage,
    LinkLost,
    LinkTimeout,
    RequestRefused,
)

MAX_IN_FLIGHT = 64
"""Largest number of unanswered requests. It is far below 256, the number of sequence numbers, so
that no two unanswered requests have the same one."""

MAX_BYTES_IN_FLIGHT = 32768
"""Largest total size of unanswered requests in bytes, if the device executes each of them as fast
as it arrives. Sending this many bytes takes 27 ms at 12 Mbaud, far longer than a USB adapter's
latency."""

MAX_REPLY_BYTES_IN_FLIGHT = 4096
"""Largest total size of expected replies in bytes: as many as operating systems buffer for a serial
port."""

MAX_RECEIVED_BYTES = 1 << 16
"""Largest number of received bytes that are kept while the end of their frame has not arrived. The
longest frame is much shorter."""

POLL_S = 0.02
"""Longest time in seconds that a single read of the port blocks."""

_END = bytes([END])
_FAST = frozenset({Opcode.WRITE, Opcode.RUN})
"""Requests that the device executes faster than they arrive."""


class Port(Protocol):
    """Methods that the transport needs of a serial port; :class:`serial.Serial` has them. ``read``
    must block for at most :data:`POLL_S` seconds."""

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
    """Request from host to device.

    Attributes
    ----------
    opcode : kind of the request.
    payload : its arguments and data, as :mod:`hw.protocol` lists them.
    n_reply_bytes : expected length of the reply's data, without its status byte.
    what : description for error messages, for example ``WRITE of 16 rows of WEIGHT from row 32``.
    """

    opcode: Opcode
    payload: bytes = b""
    n_reply_bytes: int = 0
    what: str = ""

    def __str__(self) -> str:
        return self.what or self.opcode.name

    def frame(self, seq: int) -> bytes:
        """Return the frame that sends this request with the sequence number ``seq``, as bytes on
        the line."""
        return encode_frame(bytes([seq, self.opcode]) + self.payload)

    def ack(self, seq: int) -> bytes:
        """Return the frame of a reply without data to this request, as bytes on the line."""
        return encode_frame(bytes([seq, self.opcode | REPLY, Status.OK]))


Reply = bytes | DeviceError
"""Data of a reply, or the error if the request failed."""


@dataclass
class _InFlight:
    """Request that has been sent but not answered, with its encoded frame and the callback for its
    reply."""

    request: Request
    on_reply: Callable[[Reply], object]
    frame: bytes


@dataclass
class LinkCounters:
    """Traffic and errors on a serial link since it was opened. ``+`` adds up the counters of two
    links.

    Attributes
    ----------
    n_bytes_out, n_bytes_in : bytes sent and received by the host.
    n_bad_frames : number of damaged frames that the host received.
    n_repeated : number of requests that were sent again.
    n_recoveries : number of times that the link was restarted.
    """

    n_bytes_out: int = 0
    n_bytes_in: int = 0
    n_bad_frames: int = 0
    n_repeated: int = 0
    n_recoveries: int = 0

    def __add__(self, other: LinkCounters) -> LinkCounters:
        return LinkCounters(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Transport:
    """Connection that sends requests to a device over an open serial port and matches replies to
    them. Requests that were lost are sent again.

    Parameters
    ----------
    port : open serial port.
    timeout_s : seconds without a reply after which all unanswered requests are sent again. Each
        time, the timeout doubles.
    n_retries : how often the requests are sent again without a reply before :class:`LinkTimeout` is
        raised.
    settle_s : seconds for which the USB adapter may still be sending after the operating system
        reports that all bytes are sent.
    fixed_rate : whether the port can neither change its rate nor send a break.

    Attributes
    ----------
    window_bytes : size of the device's receive buffer in bytes. If any unanswered request takes the
        device longer to execute than to receive, all unanswered requests together are limited to
        this size. A request is always sent if no other is unanswered.
    on_done : called when the device announces the end of a run, with the run's tag and the data of
        the announcement (without the status byte).
    on_repeat : called with each request just before it is sent again.
    counters : traffic and errors so far.
    """

    def __init__(
        self,
        port: Port,
        *,
        timeout_s: float = 0.3,
        n_retries: int = 4,
        settle_s: float = 0.005,
        fixed_rate: bool = False,
    ):
        self.port = port
        self._settle_s = settle_s
        self.fixed_rate = fixed_rate
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
        """Close the serial port. A second call does nothing."""
        with contextlib.suppress(*PORT_ERRORS):
            self.port.close()

    @property
    def baud(self) -> int:
        """Rate that the host's end of the line uses, in bits per second."""
        return self.port.baudrate

    def set_baud(self, baud: int) -> None:
        """Change the rate of the host's end of the line to ``baud`` bits per second, after all
        bytes have been sent at the old rate.

        Raises
        ------
        LinkTimeout
            The port accepts no data.
        LinkLost
            The port has vanished.
        ValueError
            The port does not support this rate.
        """
        with self._line():
            self.port.flush()
            time.sleep(self._settle_s)
            self.port.baudrate = baud

    def resync(self) -> None:
        """Discard all requests, and return host and device to the default rate
        (:data:`hw.protocol.DEFAULT_BAUD`).

        This method sends a break (see :mod:`hw.protocol`). The device then returns to the default
        rate, and sends no reply. A port with a fixed rate gets no break, because its device never
        changes the rate.

        Raises
        ------
        LinkTimeout
            The port accepts no data.
        LinkLost
            The port has vanished.
        """
        self.cancel()
        with self._line():
            self.port.reset_output_buffer()  # at the slow rate of a break, sending them takes long
            if not self.fixed_rate:
                self.port.baudrate = BREAK_BAUD
                self.port.write(b"\0")  # at any higher rate this is a break
        if not self.fixed_rate:
            self.set_baud(DEFAULT_BAUD)
        with self._line():
            self.port.reset_input_buffer()
            self._received.clear()
            self.port.write(_END)  # ends a frame that an earlier program may have left incomplete

    @contextlib.contextmanager
    def _line(self) -> Iterator[None]:
        """Convert exceptions of the serial port in a ``with`` block into exceptions of the driver:
        :class:`LinkTimeout` if the port accepts no data, otherwise :class:`LinkLost`."""
        try:
            yield
        except serial.SerialTimeoutException as error:
            raise LinkTimeout(f"{self.port.port} accepts no data: {error}") from error
        except PORT_ERRORS as error:
            raise LinkLost(
                f"lost the board on {self.port.port}: {error}. Was it unplugged or switched off?"
            ) from error

    def _write(self, raw: bytes | bytearray) -> None:
        with self._line():
            self.port.write(bytes(raw))
        self.counters.n_bytes_out += len(raw)

    def _receive(self, deadline: float) -> bytes | None:
        """Return the next undamaged packet (a frame's contents, decoded), or None if none arrives
        before ``deadline``."""
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
                # If this process was not scheduled in time, the reply may be waiting in the port.
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
        """Whether no request waits to be sent or answered."""
        return not self._waiting and not self._in_flight

    def submit(self, request: Request, on_reply: Callable[[Reply], object]) -> None:
        """Add a request to the queue. :meth:`step` sends it later, and calls ``on_reply`` with the
        reply's data or with an exception if the request failed."""
        if self.idle:
            self._restart_timeout()
        self._waiting.append((request, on_reply))

    def forget(self, request: Request) -> None:
        """Stop waiting for the reply to a request that was sent. The request is not sent again, and
        a reply that still arrives is ignored."""
        for seq, entry in list(self._in_flight.items()):
            if entry.request is request:
                del self._in_flight[seq]
                self._count(entry.frame, request, -1)

    def cancel(self) -> None:
        """Discard all requests that wait to be sent or answered. Replies that still arrive are
        ignored."""
        self._waiting.clear()
        self._in_flight.clear()
        self._n_bytes_out = self._n_bytes_back = self._n_slow = self._n_timeouts = 0

    def _restart_timeout(self) -> None:
        self._n_timeouts = 0
        self._deadline = time.monotonic() + self.timeout_s

    def _fits(self, frame: bytes, request: Request) -> bool:
        """Return whether a request can be sent now without overflowing the receive buffer of the
        device or of the host. The result is True if no other request is unanswered. ``frame`` is
        the encoded request.
        """
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
            frame = request.frame(seq)
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
        """Add a request to the totals over all unanswered requests if ``sign`` is 1, or subtract it
        if ``sign`` is -1. The totals are bytes sent, bytes of expected replies, and number of slow
        requests (those that take the device longer to execute than to receive)."""
        self._n_bytes_out += sign * len(frame)
        self._n_bytes_back += sign * request.n_reply_bytes
        self._n_slow += sign * (request.opcode not in _FAST)

    def _repeat(self, seqs: list[int]) -> None:
        """Send the unanswered requests with the sequence numbers ``seqs`` again. From then on they
        count as sent after all other requests.
        """
        self.counters.n_repeated += len(seqs)
        for seq in seqs:
            self._in_flight[seq] = self._in_flight.pop(seq)
            self.on_repeat(self._in_flight[seq].request)
        self._write(_END + b"".join(self._in_flight[seq].frame for seq in seqs))

    def step(self, deadline: float) -> bool:
        """Send as many waiting requests as allowed, and wait for one packet (one message from the
        device). Pass it to the callback of the request that it answers, or to ``on_done`` if it
        announces the end of a run. Requests that were lost are sent again meanwhile.

        Parameters
        ----------
        deadline : when to stop waiting, as a value of :func:`time.monotonic`.

        Returns
        -------
        Whether a packet arrived before the deadline.

        Raises
        ------
        LinkTimeout
            The device does not answer. All requests have been discarded.
        LinkLost
            The port has vanished. All requests have been discarded.
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
            if reply[0] != Status.OK:
                raise InvalidMessage(
                    f"the board on {self.port.port} announced the end of a run with the status "
                    f"{reply[0]}"
                )
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
        """Check a reply, and return its data. If the device refused the request, or if the reply is
        invalid, return an exception instead."""
        status, data = reply[0], reply[STATUS_BYTES:]
        if status not in set(Status):
            return InvalidMessage(
                f"the board on {self.port.port} answered {request} with the unknown status {status}"
            )
        if status != Status.OK:
            return RequestRefused(str(request), Status(status))
        # The Identity of a different version may have a different length.
        if len(data) != request.n_reply_bytes and request.opcode != Opcode.IDENTIFY:
            return InvalidMessage(
                f"the reply of {self.port.port} to {request} has {len(data)} bytes, not "
                f"{request.n_reply_bytes}"
            )
        return data

    def exchange(
        self, requests: Sequence[Request], on_reply: Callable[[int], object] | None = None
    ) -> list[bytes]:
        """Send requests, wait until all are answered, and return the data of their replies in
        order. Several requests are under way at a time.

        Parameters
        ----------
        on_reply : called whenever a request has succeeded, with its index in ``requests``.

        Raises
        ------
        RequestRefused
            The board refused a request; later ones may have been executed.
        DeviceError
            A reply is invalid.
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
                    self._waiting.clear()  # send no more, but wait for the replies to those sent
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
