"""Boards on serial ports: framing, retries, discovery, and the primitives of the protocol.

A real board and the virtual one are driven alike: ``sim`` is only another name of a port, whose
board is started first. See :mod:`hw.protocol` for what goes over the wire.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import serial
from cobs import cobs
from serial.tools import list_ports

from hw.boards import BOARDS, CONFIGS
from hw.protocol import (
    CRC_BYTES,
    CRC_INIT,
    CRC_RESIDUE,
    CRC_XOR_OUT,
    DELIMITER,
    HEADER_BYTES,
    MAGIC,
    PROTOCOL_VERSION,
    REPLY,
    STATUS_BYTES,
    Address,
    DeviceStatus,
    Identity,
    Opcode,
    Result,
    Run,
    RunState,
    Space,
    Status,
    n_bytes,
    pack,
    row_bytes,
    spec_hash,
    unpack,
)
from hw.spec import Config, SpecError

BAUDS = tuple(sorted({CONFIGS[name].baud for name in BOARDS}, reverse=True))
"""Baud rates of the known boards' bitstreams, tried in this order."""

MAX_IN_FLIGHT = 32
"""Requests that may be unanswered at a time; far fewer than there are sequence numbers."""

MAX_REPLY_BYTES_IN_FLIGHT = 4096
"""Bytes of replies that may be under way: what operating systems buffer for a serial port."""

POLL_S = 0.05
"""How long a single read of the port may block."""

Progress = Callable[[int], object]
"""Called with the number of bytes transferred since the last call, like ``tqdm.update``."""

_DELIMITER = bytes([DELIMITER])
_EXPLANATIONS = {
    Status.BAD_OPCODE: "the board does not know this request",
    Status.BAD_LENGTH: "its length does not fit",
    Status.BAD_SPACE: "there is no such memory, or it cannot be written",
    Status.BAD_ADDRESS: "it reaches beyond the end of that memory",
    Status.BUSY: "a run is in progress; wait for its end or abort it",
}


class DeviceError(RuntimeError):
    """Something is wrong with a board or between it and this machine."""


class DeviceNotFound(DeviceError):
    """No board was found; the message lists the ports seen and what each of them said."""


class NotABoard(DeviceError):
    """The port exists, but nothing on it answers like a board."""


class SpecMismatch(DeviceError):
    """The board's gateware and this software were built from different definitions."""


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
        super().__init__(f"the board refused {request}: {status.name}, {_EXPLANATIONS[status]}")


@dataclass(frozen=True)
class RunResult:
    """Outcome of a run: index of the first largest logit, and clock cycles that it took."""

    argmax: int
    n_cycles: int


@dataclass(frozen=True)
class BoardStatus:
    """What a board says about itself, see :class:`hw.protocol.DeviceStatus`.

    ``tag`` and ``result`` are those of the last completed run.
    """

    state: RunState
    tag: int
    result: RunResult
    n_bad_frames: int
    n_overruns: int


@dataclass(frozen=True)
class BoardIdentity:
    """Who answers: its configuration, and the definitions it was built from."""

    config: Config
    protocol_version: int
    spec_hash: int


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


@dataclass
class _InFlight:
    index: int
    request: Request
    frame: bytes


def encode_frame(packet: bytes) -> bytes:
    """Wire bytes of a packet: CRC appended, stuffed, delimited."""
    crc = binascii.crc_hqx(packet, CRC_INIT) ^ CRC_XOR_OUT
    return cobs.encode(packet + crc.to_bytes(CRC_BYTES, "big")) + _DELIMITER


def decode_frame(raw: bytes) -> bytes | None:
    """Packet in the wire bytes between two delimiters; None if they are damaged."""
    try:
        body = cobs.decode(raw)
    except cobs.DecodeError:
        return None
    if len(body) < HEADER_BYTES + CRC_BYTES or binascii.crc_hqx(body, CRC_INIT) != CRC_RESIDUE:
        return None
    return body[:-CRC_BYTES]


class Transport:
    """Requests and replies over an open serial port, with several requests under way.

    Parameters
    ----------
    port : open port, with a read timeout of about :data:`POLL_S`.
    timeout_s : patience before the first repetition; doubles with each one.
    n_retries : repetitions without any answer before giving up.
    """

    def __init__(self, port: serial.Serial, *, timeout_s: float = 0.3, n_retries: int = 4):
        self.port = port
        self.timeout_s = timeout_s
        self.n_retries = n_retries
        self.window_bytes = 0
        """Request bytes that may be under way, at least one request; the board's buffer."""
        self.n_bad_frames = 0
        """Damaged frames received."""
        self.n_repeated = 0
        """Requests sent again."""
        self._seq = 0
        self._received = bytearray()
        self._done: dict[int, bytes] = {}
        self._write(_DELIMITER)  # ends what an earlier program may have left half sent

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.port.close()

    def _lost(self, error: Exception) -> LinkLost:
        return LinkLost(
            f"lost the board on {self.port.port}: {error}. Was it unplugged or switched off?"
        )

    def _write(self, raw: bytes | bytearray) -> None:
        try:
            self.port.write(raw)
        except serial.SerialTimeoutException as error:
            raise LinkTimeout(f"{self.port.port} takes no data: {error}") from error
        except OSError as error:  # serial.SerialException is one
            raise self._lost(error) from error

    def _receive(self, deadline: float) -> bytes | None:
        """Next undamaged packet, or None if there is none before ``deadline``."""
        while True:
            raw, delimiter, rest = self._received.partition(_DELIMITER)
            if delimiter:
                self._received = rest
                packet = decode_frame(bytes(raw)) if raw else None
                if packet is not None:
                    return packet
                self.n_bad_frames += bool(raw)
                continue
            if time.monotonic() >= deadline:
                return None
            try:
                self._received += self.port.read(self.port.in_waiting or 1)
            except OSError as error:
                raise self._lost(error) from error

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
        waiting = deque(enumerate(requests))
        in_flight: dict[int, _InFlight] = {}
        replies = [b""] * len(requests)
        refused: DeviceError | None = None
        n_bytes_out = n_bytes_back = n_timeouts = 0
        deadline = time.monotonic() + self.timeout_s
        while waiting or in_flight:
            burst = bytearray()
            while waiting and len(in_flight) < MAX_IN_FLIGHT:
                index, request = waiting[0]
                seq = (self._seq + 1) % 256
                frame = encode_frame(bytes([seq, request.opcode]) + request.payload)
                if in_flight and (
                    n_bytes_out + len(frame) > self.window_bytes
                    or n_bytes_back + request.n_reply_bytes > MAX_REPLY_BYTES_IN_FLIGHT
                ):
                    break
                waiting.popleft()
                self._seq = seq
                in_flight[seq] = _InFlight(index, request, frame)
                self._done.pop(seq, None)
                n_bytes_out += len(frame)
                n_bytes_back += request.n_reply_bytes
                burst += frame
            if burst:
                self._write(burst)

            packet = self._receive(deadline)
            if packet is None:
                n_timeouts += 1
                oldest = next(iter(in_flight.values())).request
                if n_timeouts > self.n_retries:
                    raise LinkTimeout(
                        f"no answer from {self.port.port} to {oldest}, in spite of "
                        f"{self.n_retries} repetitions"
                    )
                self.n_repeated += len(in_flight)
                self._write(_DELIMITER + b"".join(entry.frame for entry in in_flight.values()))
                deadline = time.monotonic() + self.timeout_s * 2**n_timeouts
                continue
            seq, opcode, reply = packet[0], packet[1], packet[HEADER_BYTES:]
            if opcode == Opcode.DONE | REPLY:
                self._done[seq] = reply
                continue
            entry = in_flight.get(seq)
            if entry is None or opcode != entry.request.opcode | REPLY or not reply:
                continue  # the second answer to a request that was repeated too early
            del in_flight[seq]
            n_bytes_out -= len(entry.frame)
            n_bytes_back -= entry.request.n_reply_bytes
            n_timeouts = 0
            deadline = time.monotonic() + self.timeout_s
            if reply[0] != Status.OK:
                # Those under way are waited for, so that none comes as a surprise later.
                refused = refused or self._refusal(entry.request, reply[0])
                waiting.clear()
                continue
            # Another version's Identity may have another length.
            expected = STATUS_BYTES + entry.request.n_reply_bytes
            if len(reply) != expected and entry.request.opcode != Opcode.IDENTIFY:
                raise DeviceError(
                    f"the reply of {self.port.port} to {entry.request} has {len(reply)} bytes, "
                    f"not {expected}"
                )
            replies[entry.index] = reply[STATUS_BYTES:]
            if on_reply is not None:
                on_reply(entry.index)
        if refused is not None:
            raise refused
        return replies

    @staticmethod
    def _refusal(request: Request, status: int) -> DeviceError:
        if status in set(Status):
            return RequestRefused(str(request), Status(status))
        return DeviceError(f"the board answered {request} with the unknown status {status}")

    @property
    def last_seq(self) -> int:
        """Sequence number of the request sent last."""
        return self._seq

    def wait_done(self, seq: int, timeout_s: float) -> bytes | None:
        """Announcement of the end of the run that request ``seq`` started, or None."""
        deadline = time.monotonic() + timeout_s
        while seq not in self._done:
            packet = self._receive(deadline)
            if packet is None:
                return None
            if packet[1] == Opcode.DONE | REPLY:
                self._done[packet[0]] = packet[HEADER_BYTES:]
        return self._done.pop(seq)


def _parse_identity(raw: bytes, port: str) -> BoardIdentity:
    """Checks an IDENTIFY reply's data: magic first, then version, then the definitions' hash."""
    if raw[:4] != MAGIC.to_bytes(4, "little"):
        raise NotABoard(f"what is on {port} answers, but is no Spikefold board")
    advice = "Load a bitstream of this release onto the board, or use the software that it is from"
    version = int.from_bytes(raw[4:6], "little")
    if version != PROTOCOL_VERSION or len(raw) != n_bytes(Identity):
        raise SpecMismatch(
            f"the board on {port} speaks protocol version {version}, this software version "
            f"{PROTOCOL_VERSION}. {advice}."
        )
    identity: Any = unpack(Identity, raw)
    name = raw[-16:].rstrip(b"\0").decode("ascii", "replace")
    values = {
        field.name: int(getattr(identity, field.name))
        for field in fields(Config)
        if field.name != "name"
    }
    try:
        config = Config(name=name, **values)
    except SpecError as error:
        raise SpecMismatch(
            f"the board {name!r} on {port} has a configuration that this software does not know: "
            f"{error}. {advice}."
        ) from error
    if spec_hash(config) != identity.spec_hash:
        raise SpecMismatch(
            f"the board {name!r} on {port} was built from other definitions: the hash of its "
            f"protocol and number formats is {identity.spec_hash:016x}, here it is "
            f"{spec_hash(config):016x}, although both call themselves protocol version {version}. "
            f"{advice}."
        )
    return BoardIdentity(config, version, int(identity.spec_hash))


def _open_port(port: str, baud: int) -> serial.Serial:
    """Opens a port for this process alone.

    Raises
    ------
    DeviceNotFound
        There is no such port, it is in use, or access to it is denied.
    """
    try:
        opened = serial.Serial(port, baud, timeout=POLL_S, write_timeout=5.0, exclusive=True)
    except (OSError, ValueError) as error:
        raise DeviceNotFound(f"cannot open {port}: {_open_error(error)}") from error
    with contextlib.suppress(OSError, AttributeError, NotImplementedError, ValueError):
        opened.set_low_latency_mode(True)  # USB adapters wait up to 16 ms before they pass bytes on
    return opened


def _open_error(error: Exception) -> str:
    text = str(error)
    if "Permission denied" in text:
        return f"{text}. Is your user in the group of serial ports (dialout, uucp)?"
    if "lock" in text or "busy" in text:
        return f"{text}. Is another program using it?"
    return text


def _identify(transport: Transport) -> BoardIdentity:
    port = str(transport.port.port)
    request = Request(Opcode.IDENTIFY, n_reply_bytes=n_bytes(Identity))
    try:
        (raw,) = transport.exchange([request])
    except RequestRefused as error:
        raise NotABoard(f"what is on {port} answers, but is no Spikefold board") from error
    return _parse_identity(raw, port)


def _probe(
    port: str, bauds: Sequence[int], timeout_s: float, n_retries: int
) -> tuple[Transport, BoardIdentity]:
    """Opens the port at the first rate at which a board answers."""
    for baud in bauds:
        transport = Transport(_open_port(port, baud), timeout_s=timeout_s, n_retries=n_retries)
        try:
            identity = _identify(transport)
        except LinkTimeout:
            transport.close()
        except BaseException:
            transport.close()
            raise
        else:
            return transport, identity
    rates = ", ".join(f"{baud:,}" for baud in bauds)
    raise NotABoard(
        f"nothing on {port} answers like a Spikefold board (tried {rates} baud). Is its bitstream "
        "loaded? If it uses another rate, name it with --baud."
    )


def _find(bauds: Sequence[int]) -> tuple[Transport, BoardIdentity]:
    """The first board on any USB serial port."""
    seen = []
    for info in sorted(list_ports.comports(), key=lambda info: info.device):
        label = f"{info.device} ({info.description})"
        if info.vid is None:
            seen.append(f"{label}: not USB, not tried")
            continue
        try:
            return _probe(info.device, bauds, timeout_s=0.15, n_retries=1)
        except SpecMismatch:
            raise
        except DeviceError as error:
            seen.append(f"{label}: {error}")
    listing = "\n".join(f"  {line}" for line in seen) or "  none"
    raise DeviceNotFound(
        f"no board found. Serial ports seen:\n{listing}\n"
        "Plug one in, name its port, or use the virtual board: --board sim"
    )


def _start_virtual_board(config_name: str) -> tuple[subprocess.Popen[str], str]:
    """Starts the virtual board, which ends when its standard input is closed."""
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    board = subprocess.Popen(
        [sys.executable, "-m", "sim.virtual_board", "--config", config_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        # Ctrl-C is for this process, which then closes the port and the board in order.
        start_new_session=True,
    )
    assert board.stdout is not None
    try:
        port = board.stdout.readline().strip()
    except BaseException:
        _stop_virtual_board(board)
        raise
    if not port:
        _stop_virtual_board(board)
        raise DeviceNotFound(
            f"the virtual board {config_name!r} did not start; its message is above"
        )
    return board, port


def _stop_virtual_board(board: subprocess.Popen[str]) -> None:
    with board, contextlib.suppress(ProcessLookupError):  # closes the pipes and waits
        os.killpg(board.pid, signal.SIGTERM)  # it may have started a compiler


class Board:
    """A board that is ready: it has been identified and does nothing.

    Use as a context manager, which closes the port (and ends a virtual board).
    """

    def __init__(
        self,
        transport: Transport,
        identity: BoardIdentity,
        virtual: subprocess.Popen[str] | None = None,
    ):
        self.transport = transport
        self.identity = identity
        self._virtual = virtual
        self._tag = 0
        transport.window_bytes = self.config.rx_buffer_bytes
        self.abort()

    @classmethod
    def open(cls, port: str | None = None, baud: int | None = None) -> Board:
        """Opens a board.

        Parameters
        ----------
        port : path or name of a serial port; ``sim`` or ``sim:NAME`` starts the virtual board (of
            that configuration, see :mod:`hw.boards`); None looks for a board on all USB ports.
        baud : bits per second; None tries the known boards' rates.

        Raises
        ------
        DeviceNotFound
            No board, no such port, or it cannot be opened.
        NotABoard
            Nothing on the port answers like a board.
        SpecMismatch
            Its gateware does not fit this software.
        """
        bauds = BAUDS if baud is None else (baud,)
        if port is None:
            transport, identity = _find(bauds)
            return cls._ready(transport, identity)
        if port != "sim" and not port.startswith("sim:"):
            transport, identity = _probe(port, bauds, timeout_s=0.4, n_retries=4)
            return cls._ready(transport, identity)
        virtual, path = _start_virtual_board(port.partition(":")[2] or "sim")
        try:
            # It has no rate of its own, and a busy machine may keep it waiting.
            transport, identity = _probe(path, bauds[:1], timeout_s=2.0, n_retries=4)
            return cls._ready(transport, identity, virtual)
        except BaseException:
            _stop_virtual_board(virtual)
            raise

    @classmethod
    def _ready(
        cls,
        transport: Transport,
        identity: BoardIdentity,
        virtual: subprocess.Popen[str] | None = None,
    ) -> Board:
        # Between probing and working, patience differs: a board that answered once is there.
        transport.timeout_s = max(transport.timeout_s, 0.3)
        transport.n_retries = 4
        try:
            return cls(transport, identity, virtual)
        except BaseException:
            transport.close()
            raise

    def close(self) -> None:
        """Closes the port; a second time does nothing."""
        self.transport.close()
        if self._virtual is not None:
            _stop_virtual_board(self._virtual)
            self._virtual = None

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def config(self) -> Config:
        """Configuration of the board, as it described itself."""
        return self.identity.config

    @property
    def port(self) -> str:
        """Path or name of the serial port."""
        return str(self.transport.port.port)

    def write(
        self, space: Space, row: int, data: bytes, on_progress: Progress | None = None
    ) -> None:
        """Writes whole rows from ``row`` on.

        Raises
        ------
        ValueError
            ``data`` is not whole rows.
        RequestRefused
            The board refused; rows may have been written up to there.
        LinkTimeout, LinkLost
        """
        size = row_bytes(space, self.config)
        if len(data) % size:
            raise ValueError(f"{space.name} has rows of {size} bytes: {len(data)} are not whole")
        step = (self.config.max_payload_bytes - n_bytes(Address)) // size * size
        requests = [
            Request(
                Opcode.WRITE,
                pack(Address, {"space": space, "row": row + at // size}) + data[at : at + step],
                what=f"WRITE of {len(data[at : at + step]) // size} rows of {space.name} "
                f"from row {row + at // size}",
            )
            for at in range(0, len(data), step)
        ]

        def on_reply(index: int) -> None:
            if on_progress is not None:
                on_progress(len(requests[index].payload) - n_bytes(Address))

        self.transport.exchange(requests, on_reply)

    def read(
        self, space: Space, row: int, n_rows: int, on_progress: Progress | None = None
    ) -> bytes:
        """Bytes of ``n_rows`` rows from ``row`` on.

        Raises
        ------
        RequestRefused, LinkTimeout, LinkLost
        """
        size = row_bytes(space, self.config)
        step = (self.config.max_payload_bytes - STATUS_BYTES) // size
        requests = []
        for at in range(0, n_rows, step):
            count = min(step, n_rows - at)
            payload = pack(Address, {"space": space, "row": row + at}) + count.to_bytes(2, "little")
            what = f"READ of {count} rows of {space.name} from row {row + at}"
            requests.append(Request(Opcode.READ, payload, count * size, what))

        def on_reply(index: int) -> None:
            if on_progress is not None:
                on_progress(requests[index].n_reply_bytes)

        return b"".join(self.transport.exchange(requests, on_reply))

    def run(self, entry: int = 0, *, timeout_s: float = 60.0) -> RunResult:
        """Runs the program from word ``entry`` and waits for its end.

        If it is not over in time, or on any other exception, the run is aborted.

        Raises
        ------
        LinkTimeout
            Not over in ``timeout_s``.
        RequestRefused, LinkLost
        """
        self._tag = (self._tag + 1) % 256
        payload = pack(Run, {"tag": self._tag, "entry": entry})
        try:
            self.transport.exchange(
                [Request(Opcode.RUN, payload, what=f"RUN from word {entry} of PROGRAM")]
            )
            return self._wait(self._tag, self.transport.last_seq, timeout_s)
        except (LinkLost, RequestRefused):
            raise
        except BaseException:
            with contextlib.suppress(DeviceError):
                self.abort()
            raise

    def _wait(self, tag: int, seq: int, timeout_s: float) -> RunResult:
        """Result of a run, from its announcement or, should that be lost, from the status."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            announced = self.transport.wait_done(seq, max(0.0, min(left, 1.0)))
            if announced is not None and len(announced) == STATUS_BYTES + n_bytes(Result):
                result: Any = unpack(Result, announced[STATUS_BYTES:])
                return RunResult(int(result.argmax), int(result.n_cycles))
            status = self.status()
            if status.state == RunState.DONE and status.tag == tag:
                return status.result
            if status.state != RunState.RUNNING:
                raise DeviceError("the board forgot the run that it had begun: was it reset?")
            if left <= 0:
                raise LinkTimeout(f"the run was not over after {timeout_s:g} s")

    def status(self) -> BoardStatus:
        """State of the board, last result, errors counted since it was switched on.

        Raises
        ------
        LinkTimeout, LinkLost
        """
        (raw,) = self.transport.exchange(
            [Request(Opcode.STATUS, n_reply_bytes=n_bytes(DeviceStatus))]
        )
        status: Any = unpack(DeviceStatus, raw)
        result = status.result
        return BoardStatus(
            state=RunState(int(status.state)),
            tag=int(result.tag),
            result=RunResult(int(result.argmax), int(result.n_cycles)),
            n_bad_frames=int(status.n_bad_frames),
            n_overruns=int(status.n_overruns),
        )

    def abort(self) -> None:
        """Ends a run in progress, if any; the board forgets it. Memories stay as they are.

        Raises
        ------
        LinkTimeout, LinkLost
        """
        self.transport.exchange([Request(Opcode.ABORT)])
