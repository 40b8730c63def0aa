"""Frames, requests and replies over a serial line, with many requests under way.

See :mod:`hw.protocol` for what goes over the wire. The device answers in order, so that a reply
tells that every request sent before its own was lost, or the reply to it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

MAX_IN_FLIGHT = 64
"""Requests that may be unanswered at a time; far fewer than there are sequence numbers."""

MAX_BYTES_IN_FLIGHT = 32768
"""Bytes of requests that the device takes as fast as they come; 27 ms at 12 Mbaud, far more than a
USB adapter's latency."""

MAX_REPLY_BYTES_IN_FLIGHT = 4096
"""Bytes of replies that may be under way: what operating systems buffer for a serial port."""

MAX_RECEIVED_BYTES = 1 << 16
"""Bytes without an end of frame that are kept: far more than a frame."""

POLL_S = 0.02
"""How long a single read of the port may block."""

SETTLE_S = 0.005
"""How long an adapter may still send when the operating system says that all is sent."""

_END = bytes([END])
_BODY_OF_WRITE = frozenset({Opcode.WRITE, Opcode.RUN})
"""Requests that the device executes faster than they arrive."""

EXPLANATIONS = {
    Status.BAD_OPCODE: "the board does not know this request",
    Status.BAD_LENGTH: "its length does not fit",
    Status.BAD_SPACE: "there is no such memory, or it cannot be written",
    Status.BAD_ADDRESS: "it reaches beyond the end of that memory",
    Status.BUSY: "a run is in progress; wait for its end or abort it",
    Status.WAS_RESET: "the board was reset and its memories may have changed; load it again",
    Status.MISMATCH: "the memory holds something else",
}


class DeviceError(RuntimeError):
    """Something is wrong with a board or between it and this machine."""


class DeviceNotFound(DeviceError):
    """No board was found; the message lists the ports seen and what each of them said."""


class LinkTimeout(DeviceError):
    """No answer in time, in spite of repetitions."""


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
        super().__init__(f"the board refused {request}: {status.name}, {EXPLANATIONS[status]}")


class Port(Protocol):
    """What a transport needs of a serial port; :class:`serial.Serial` is one. ``read`` blocks for
    at most :data:`POLL_S`."""

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
    """A request of the host.

    ``n_reply_bytes`` is the length of the reply's data, after the status byte.
    """

    opcode: Opcode
    payload: bytes = b""
    n_reply_bytes: int = 0
    what: str = ""
    """For messages, for example ``WRITE of 16 rows of WEIGHT from row 32``."""

    def __str__(self) -> str:
        return self.what or self.opcode.name


Reply = bytes | DeviceError
"""Data of a reply, or why there is none."""


@dataclass
class _InFlight:
    request: Request
    on_reply: Callable[[Reply], object]
    frame: bytes


@dataclass
class LinkCounters:
    """What went over a link, and what went wrong; since it was opened."""

    n_bytes_out: int = 0
    n_bytes_in: int = 0
    n_bad_frames: int = 0
    """Damaged frames received."""
    n_repeated: int = 0
    """Requests sent again."""
    n_recoveries: int = 0
    """Times that the link had to be begun anew."""


class Transport:
    """Requests and replies over an open port.

    Parameters
    ----------
    port : open port.
    timeout_s : patience before everything unanswered is repeated; doubles with each time.
    n_retries : repetitions without any answer before giving up.
    settle_s : seconds from when the operating system says that all is sent until it is.
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
        """Bytes of requests that may be under way while some take the device long; at least one
        request. The device's buffer."""
        self.on_done: Callable[[int, bytes], object] = lambda tag, data: None
        """Called with tag and data (behind the status byte) of each announced end of a run."""
        self.on_repeat: Callable[[Request], object] = lambda request: None
        """Called with each request that is sent again, before it is."""
        self.counters = LinkCounters()
        self._seq = random.randrange(256)
        self._received = bytearray()
        self._waiting: deque[tuple[Request, Callable[[Reply], object]]] = deque()
        self._in_flight: dict[int, _InFlight] = {}
        """By sequence number, in the order in which they were sent."""
        self._n_bytes_out = self._n_bytes_back = 0
        self._n_slow = 0
        self._n_timeouts = 0
        self._deadline = 0.0

    # ---- the line ----------------------------------------------------------------------------

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.port.close()

    @property
    def baud(self) -> int:
        """Bits per second."""
        return self.port.baudrate

    def set_baud(self, baud: int) -> None:
        """Changes the rate of this end, after all has been sent.

        Raises
        ------
        LinkLost
        ValueError
            The port cannot have this rate.
        """
        with self._line():
            self.port.flush()
            time.sleep(self._settle_s)
            self.port.baudrate = baud

    def resync(self) -> None:
        """Forgets everything under way and brings device and host to the default rate.

        Raises
        ------
        LinkTimeout, LinkLost
        """
        self.cancel()
        with self._line():
            self.port.reset_output_buffer()  # at the rate of a break, little would take long
            self.port.baudrate = BREAK_BAUD
            self.port.write(b"\0")  # at any higher rate this is a break
        self.set_baud(DEFAULT_BAUD)
        with self._line():
            self.port.reset_input_buffer()
            self._received.clear()
            self.port.write(_END)  # ends what an earlier program may have left half sent

    @contextlib.contextmanager
    def _line(self):
        try:
            yield
        except serial.SerialTimeoutException as error:
            raise LinkTimeout(f"{self.port.port} takes no data: {error}") from error
        except (OSError, TypeError) as error:
            # serial.SerialException is an OSError; a port that another thread has closed, or that
            # has gone while its rate was changed, gives a TypeError.
            raise LinkLost(
                f"lost the board on {self.port.port}: {error}. Was it unplugged or switched off?"
            ) from error

    def _write(self, raw: bytes | bytearray) -> None:
        with self._line():
            self.port.write(bytes(raw))
        self.counters.n_bytes_out += len(raw)

    def _receive(self, deadline: float) -> bytes | None:
        """Next undamaged packet, or None if there is none before ``deadline``."""
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
                # If it was this process that was late, the answer is here.
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
        """Nothing is unanswered."""
        return not self._waiting and not self._in_flight

    def submit(self, request: Request, on_reply: Callable[[Reply], object]) -> None:
        """Queues a request. :meth:`step` sends it, and calls ``on_reply`` when it is answered."""
        if self.idle:
            self._patience()
        self._waiting.append((request, on_reply))

    def forget(self, request: Request) -> None:
        """Regards a request as answered: it will not be sent again, and its answer be ignored."""
        for seq, entry in list(self._in_flight.items()):
            if entry.request is request:
                del self._in_flight[seq]
                self._account(entry.frame, request, -1)

    def cancel(self) -> None:
        """Forgets all requests; answers to them will be ignored."""
        self._waiting.clear()
        self._in_flight.clear()
        self._n_bytes_out = self._n_bytes_back = self._n_slow = self._n_timeouts = 0

    def _patience(self) -> None:
        self._n_timeouts = 0
        self._deadline = time.monotonic() + self.timeout_s

    def _fits(self, frame: bytes, request: Request) -> bool:
        if not self._in_flight:
            return True
        slow = self._n_slow or request.opcode not in _BODY_OF_WRITE
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
            self._account(frame, request, 1)
            burst += frame
        if burst:
            self._write(burst)

    def _account(self, frame: bytes, request: Request, sign: int) -> None:
        self._n_bytes_out += sign * len(frame)
        self._n_bytes_back += sign * request.n_reply_bytes
        self._n_slow += sign * (request.opcode not in _BODY_OF_WRITE)

    def _repeat(self, seqs: list[int]) -> None:
        """Sends requests again; they are now the last ones that were sent."""
        self.counters.n_repeated += len(seqs)
        for seq in seqs:
            self._in_flight[seq] = self._in_flight.pop(seq)
            self.on_repeat(self._in_flight[seq].request)
        self._write(_END + b"".join(self._in_flight[seq].frame for seq in seqs))

    def step(self, deadline: float) -> bool:
        """Sends what may be sent and handles one packet; False if none came until ``deadline``.

        Raises
        ------
        LinkTimeout, LinkLost
            Everything under way is forgotten.
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
            return True  # the second answer to a request that was repeated too early
        order = list(self._in_flight)
        overtaken = order[: order.index(seq)]
        del self._in_flight[seq]
        self._account(entry.frame, entry.request, -1)
        self._patience()
        if overtaken:
            self._repeat(overtaken)
        entry.on_reply(self._checked(entry.request, reply))
        return True

    def _time_out(self) -> None:
        self._n_timeouts += 1
        if self._n_timeouts > self.n_retries:
            oldest = next(iter(self._in_flight.values())).request
            raise LinkTimeout(
                f"no answer from {self.port.port} to {oldest}, in spite of {self.n_retries} "
                "repetitions. Is the board still powered, and its bitstream loaded?"
            )
        self._repeat(list(self._in_flight))
        self._deadline = time.monotonic() + self.timeout_s * 2**self._n_timeouts

    def _checked(self, request: Request, reply: bytes) -> Reply:
        status, data = reply[0], reply[STATUS_BYTES:]
        if status not in set(Status):
            return DeviceError(f"the board answered {request} with the unknown status {status}")
        if status != Status.OK:
            return RequestRefused(str(request), Status(status))
        # Another version's Identity may have another length.
        if len(data) != request.n_reply_bytes and request.opcode != Opcode.IDENTIFY:
            return DeviceError(
                f"the reply of {self.port.port} to {request} has {len(data)} bytes, not "
                f"{request.n_reply_bytes}"
            )
        return data

    def exchange(
        self, requests: Sequence[Request], on_reply: Callable[[int], object] | None = None
    ) -> list[bytes]:
        """Sends requests, several at a time, and gives the data of their replies, in order.

        Parameters
        ----------
        on_reply : called with the index of each request that has been answered.

        Raises
        ------
        RequestRefused
            The board refused a request; requests behind it may have been executed.
        LinkTimeout, LinkLost
        """
        replies: list[Reply | None] = [None] * len(requests)
        refused: list[DeviceError] = []

        def answered(index: int) -> Callable[[Reply], None]:
            def take(reply: Reply) -> None:
                replies[index] = reply
                if isinstance(reply, DeviceError):
                    refused.append(reply)
                    self._waiting.clear()  # those under way are waited for
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
