"""Boards on serial ports: discovery, rates, and the primitives of the protocol.

A real board and the virtual one are driven alike: ``sim`` is only another name of a port, whose
board is started first. See :mod:`hw.protocol` for what goes over the wire.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hw.protocol import (
    ARGUMENT_BYTES,
    CRC_BYTES,
    DEFAULT_BAUD,
    STATUS_BYTES,
    DeviceStatus,
    Opcode,
    Rate,
    Result,
    Rows,
    Run,
    RunState,
    Space,
    Status,
    n_bytes,
    pack,
    row_bytes,
    unpack,
)
from hw.spec import Config
from sw.driver import faults
from sw.driver.discovery import (
    BoardIdentity,
    SpecMismatch,
    begin,
    find_board,
    identify,
    open_port,
    patience,
)
from sw.driver.transport import (
    SETTLE_S,
    DeviceError,
    LinkLost,
    LinkTimeout,
    Port,
    Reply,
    Request,
    RequestRefused,
    Transport,
)
from sw.driver.virtual_board import is_virtual, start_virtual_board, stop_virtual_board

BAUDS = (12_000_000, 6_000_000, 3_000_000, 2_000_000)
"""Rates that are tried below the board's own, fastest first; the default one always works."""

MAX_BAUD_ERROR = 0.02
"""How far a divided clock may be off a rate: a UART of eight bits tolerates about twice that."""

MIN_DIVISOR, MAX_DIVISOR = 4, 256

TRIALS = 3
"""Frames sent to see whether a rate works."""

VIRTUAL_SETTLE_S = 0.05
"""How long a virtual board may take to look at what was written, on a busy machine."""

CHECK_FRAMES = 8
"""Frames of rows that one CHECK compares: few enough that the device has done it before its buffer
is full of what comes next."""

N_CHECKS_AHEAD = 2
"""Parts of a memory that are compared before an earlier one is written: one keeps the board busy
while the answer to the other is on its way."""

MAX_WRITES = 2
"""Of the same rows, before the board's memory is called faulty."""

Progress = Callable[[int], object]
"""Called with the number of bytes transferred since the last call, like ``tqdm.update``."""


class MemoryFault(DeviceError):
    """A memory does not hold what was written to it."""


@dataclass(frozen=True)
class RunResult:
    """Outcome of a run: index of the first largest logit, and clock cycles that it took."""

    argmax: int
    n_cycles: int


@dataclass(frozen=True)
class BoardStatus:
    """What a board says about itself, see :class:`hw.protocol.DeviceStatus`.

    ``tag`` and ``result`` are those of the finished run if ``state`` is DONE.
    """

    state: RunState
    tag: int
    result: RunResult
    n_bad_frames: int
    n_overruns: int


class Device:
    """A board that is ready: it has been identified, runs at its agreed rate and does nothing.

    Use as a context manager, which closes the port (and ends a virtual board).

    Parameters
    ----------
    transport : at the default rate.
    virtual : the process of a virtual board, which ends with this object.
    baud : fastest rate to use; None leaves it to the board.
    """

    def __init__(
        self,
        transport: Transport,
        identity: BoardIdentity,
        virtual: subprocess.Popen[str] | None = None,
        baud: int | None = None,
    ):
        self.transport = transport
        self.identity = identity
        self._virtual = virtual
        self._baud = baud
        self._tag = 0
        transport.window_bytes = self.config.rx_buffer_bytes
        self.abort()
        self._agree_on_rate()

    @classmethod
    def open(cls, port: str | None = None, baud: int | None = None) -> Device:
        """Opens a board. It is this process's alone until it is closed.

        Parameters
        ----------
        port : path or name of a serial port; ``sim`` or ``sim:NAME`` starts the virtual board (of
            that configuration, see :mod:`hw.boards.configs`); None looks for a board on all USB ports.
            ``?faults=...`` behind a port injects faults, see :mod:`sw.driver.faults`.
        baud : fastest rate in bits per second; None leaves it to the board.

        Raises
        ------
        DeviceNotFound
            No board, no such port, or it cannot be opened.
        NotABoard
            Nothing on the port answers like a board.
        SpecMismatch
            Its gateware does not fit this software.
        sw.driver.faults.FaultSpecError
            What is behind ``?`` cannot be understood.
        """
        path, _, spec = (port or "").partition("?")
        plan = faults.parse(spec) if spec else None
        if not path:
            return cls._ready(*find_board(), baud=baud)
        virtual = None
        if path == "sim" or path.startswith("sim:"):
            name = path.partition(":")[2] or "sim"
            virtual, path = start_virtual_board(name, plan.latency_ms if plan else 0.0)
        elif plan is not None and plan.latency_ms:
            raise faults.FaultSpecError(f"{path} has a latency of its own: only sim takes one")
        try:
            return cls.open_with(
                path,
                lambda opened: (
                    opened
                    if plan is None or not plan.rate
                    else faults.FaultyPort(opened, plan, None if virtual is None else virtual.pid)
                ),
                virtual,
                baud,
            )
        except BaseException:
            if virtual is not None:
                stop_virtual_board(virtual)
            raise

    @classmethod
    def open_with(
        cls,
        path: str,
        wrap: Callable[[Port], Port],
        virtual: subprocess.Popen[str] | None = None,
        baud: int | None = None,
        timeout_s: float | None = None,
    ) -> Device:
        """Opens the board on a serial port, with something put between driver and port.

        ``timeout_s`` is the driver's patience with an answer, in place of its own."""
        patience = timeout_s or (2.0 if is_virtual(path) else 0.4)
        settle_s = VIRTUAL_SETTLE_S if is_virtual(path) else SETTLE_S
        opened = begin(Transport(wrap(open_port(path)), settle_s=settle_s), patience, 2)
        return cls._ready(*opened, virtual, baud, timeout_s)

    @classmethod
    def _ready(
        cls,
        transport: Transport,
        identity: BoardIdentity,
        virtual: subprocess.Popen[str] | None = None,
        baud: int | None = None,
        timeout_s: float | None = None,
    ) -> Device:
        port = str(transport.port.port)
        transport.timeout_s = timeout_s or (2.0 if is_virtual(port) else 0.3)
        try:
            return cls(transport, identity, virtual, baud)
        except BaseException:
            transport.close()
            raise

    def close(self) -> None:
        """Closes the port; a second time does nothing."""
        self.transport.close()
        if self._virtual is not None:
            stop_virtual_board(self._virtual)
            self._virtual = None

    def __enter__(self) -> Device:
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

    @property
    def virtual(self) -> bool:
        """The board is simulated: its rates are of simulated clock cycles."""
        return self._virtual is not None

    def clock_cycles(self) -> int | None:
        """Clock cycles that a virtual board has simulated so far; None of another one. Its clock
        stands still while nothing is going on."""
        if self._virtual is None:
            return None
        assert self._virtual.stdout is not None
        self._virtual.send_signal(signal.SIGUSR2)
        return int(json.loads(self._virtual.stdout.readline())["n_cycles"])

    # ---- rate and recovery -------------------------------------------------------------------

    def _agree_on_rate(self) -> None:
        """The fastest rate that works, from the board's own (or the user's) downwards.

        Raises
        ------
        LinkTimeout, LinkLost
        """
        fastest = self.config.baud if self._baud is None else self._baud
        for baud in (fastest, *(b for b in BAUDS if DEFAULT_BAUD < b < fastest)):
            divisor = round(self.config.clk_hz / baud)
            error = abs(self.config.clk_hz / max(divisor, 1) / baud - 1)
            if not MIN_DIVISOR <= divisor <= MAX_DIVISOR or error > MAX_BAUD_ERROR:
                continue
            if self._try_rate(baud, divisor):
                return
            self.transport.resync()

    def _try_rate(self, baud: int, divisor: int) -> bool:
        request = Request(Opcode.RATE, pack(Rate, {"divisor_less_1": divisor - 1}))
        try:
            # A repetition would find a device that has changed to the new rate already.
            with patience(self.transport, self.transport.timeout_s, 0):
                self.transport.exchange([request])
            self.transport.set_baud(baud)
            with patience(self.transport, self.transport.timeout_s / 2, TRIALS - 1):
                identify(self.transport)
        except (LinkTimeout, ValueError):
            return False
        return True

    def recover(self) -> None:
        """Begins anew with a board that does not answer any more, or was reset: default rate,
        identity, abort, agreed rate. Its memories are to be checked.

        Raises
        ------
        SpecMismatch
            Another board answers.
        LinkTimeout, LinkLost
        """
        self.transport.counters.n_recoveries += 1
        self.transport.resync()
        identity = identify(self.transport)
        if identity != self.identity:
            raise SpecMismatch(
                f"the board on {self.port} is another one now: {identity.config.name!r} in place "
                f"of {self.config.name!r}"
            )
        self.abort()
        self._agree_on_rate()

    # ---- memories ----------------------------------------------------------------------------

    def _rows(self, opcode: Opcode, space: Space, row: int, n: int, data: bytes = b"") -> Request:
        payload = pack(Rows, {"address": {"space": space, "row": row}, "n_rows": n}) + data
        n_reply_bytes = n * row_bytes(space, self.config) if opcode == Opcode.READ else 0
        what = f"{opcode.name} of {n} rows of {space.name} from row {row}"
        return Request(opcode, payload, n_reply_bytes, what)

    def _whole_rows(self, space: Space, data: bytes) -> int:
        size = row_bytes(space, self.config)
        if len(data) % size:
            raise ValueError(f"{space.name} has rows of {size} bytes: {len(data)} are not whole")
        return size

    def writes(self, space: Space, row: int, data: bytes) -> list[Request]:
        """Requests that write whole rows from ``row`` on.

        Raises
        ------
        ValueError
            ``data`` is not whole rows.
        """
        size = self._whole_rows(space, data)
        step = (self.config.max_payload_bytes - ARGUMENT_BYTES) // size * size
        parts = [(at // size, data[at : at + step]) for at in range(0, len(data), step)]
        return [
            self._rows(Opcode.WRITE, space, row + first, len(part) // size, part)
            for first, part in parts
        ]

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
        requests = self.writes(space, row, data)

        def on_reply(index: int) -> None:
            if on_progress is not None:
                on_progress(len(requests[index].payload) - ARGUMENT_BYTES)

        self.transport.exchange(requests, on_reply)

    def reads(self, space: Space, row: int, n_rows: int) -> list[Request]:
        """Requests that read ``n_rows`` rows from ``row`` on."""
        step = (self.config.max_payload_bytes - STATUS_BYTES) // row_bytes(space, self.config)
        return [
            self._rows(Opcode.READ, space, row + at, min(step, n_rows - at))
            for at in range(0, n_rows, step)
        ]

    def read(
        self, space: Space, row: int, n_rows: int, on_progress: Progress | None = None
    ) -> bytes:
        """Bytes of ``n_rows`` rows from ``row`` on.

        Raises
        ------
        RequestRefused, LinkTimeout, LinkLost
        """
        requests = self.reads(space, row, n_rows)

        def on_reply(index: int) -> None:
            if on_progress is not None:
                on_progress(requests[index].n_reply_bytes)

        return b"".join(self.transport.exchange(requests, on_reply))

    def fill(self, images: Mapping[Space, bytes], on_progress: Progress | None = None) -> int:
        """Makes memories begin with the rows that are given, and gives the number of bytes written.

        The board compares parts of some hundred rows by their CRC. Those that differ are written
        and compared again, while the next ones are on their way.

        Raises
        ------
        ValueError
            An image is not whole rows.
        MemoryFault
            The board does not hold what was written, twice.
        RequestRefused, LinkTimeout, LinkLost
        """
        parts = iter([part for item in images.items() for part in self._parts(*item)])
        failed: list[DeviceError] = []
        n_written = 0

        def check_next() -> None:
            if not failed and (part := next(parts, None)) is not None:
                check(part, 0)

        def check(part: tuple[Space, int, bytes], n_attempts: int) -> None:
            space, row, rows = part
            n_rows = len(rows) // row_bytes(space, self.config)

            def on_reply(reply: Reply) -> None:
                nonlocal n_written
                differs = isinstance(reply, RequestRefused) and reply.status == Status.MISMATCH
                if isinstance(reply, DeviceError) and not differs:
                    failed.append(reply)
                elif differs and n_attempts == MAX_WRITES:
                    failed.append(
                        MemoryFault(
                            f"{space.name} of the board on {self.port} does not hold what was "
                            f"written to rows {row} to {row + n_rows - 1}, twice. Is its supply "
                            "sound? Load its bitstream again, or use another board"
                        )
                    )
                if n_attempts == 0:
                    check_next()
                if differs and not failed:
                    n_written += len(rows) if n_attempts == 0 else 0
                    for request in self.writes(space, row, rows):
                        self.transport.submit(request, written(request, n_attempts))
                    check(part, n_attempts + 1)
                elif n_attempts == 0 and on_progress is not None:
                    on_progress(len(rows))

            crc = zlib.crc32(rows).to_bytes(CRC_BYTES, "little")
            self.transport.submit(self._rows(Opcode.CHECK, space, row, n_rows, crc), on_reply)

        def written(request: Request, n_attempts: int) -> Callable[[Reply], None]:
            def on_reply(reply: Reply) -> None:
                if isinstance(reply, DeviceError):
                    failed.append(reply)
                elif n_attempts == 0 and on_progress is not None:
                    on_progress(len(request.payload) - ARGUMENT_BYTES)

            return on_reply

        for _ in range(N_CHECKS_AHEAD):
            check_next()
        while not self.transport.idle:
            self.transport.step(time.monotonic() + 1.0)
        if failed:
            raise failed[0]
        return n_written

    def _parts(self, space: Space, image: bytes) -> Iterator[tuple[Space, int, bytes]]:
        """Rows for one CHECK each, which are whole frames when they are written."""
        size = self._whole_rows(space, image)
        n_frame_rows = (self.config.max_payload_bytes - ARGUMENT_BYTES) // size
        step = CHECK_FRAMES * n_frame_rows * size
        for at in range(0, len(image), step):
            yield space, at // size, image[at : at + step]

    # ---- runs --------------------------------------------------------------------------------

    def next_tag(self) -> int:
        """A tag for a run, unlike that of the last 255."""
        self._tag = (self._tag + 1) % 256
        return self._tag

    def run_request(
        self, tag: int, entry: int, n_result_rows: int = 0, n_counter_rows: int = 0
    ) -> Request:
        """Request that starts a run; its DONE brings the first rows of RESULT and of COUNTER."""
        values = {"n_result_rows": n_result_rows, "n_counter_rows": n_counter_rows}
        payload = pack(Run, {"tag": tag, "entry": entry, **values})
        return Request(Opcode.RUN, payload, what=f"RUN {tag} from entry {entry}")

    def run(self, entry: int = 0, *, timeout_s: float = 60.0) -> RunResult:
        """Runs the program from ``entry`` and waits for its end.

        If it is not over in time, or on any other exception, the run is aborted.

        Raises
        ------
        LinkTimeout
            Not over in ``timeout_s``.
        RequestRefused, LinkLost
        """
        tag = self.next_tag()
        results: list[RunResult] = []

        def on_done(done: int, data: bytes) -> None:
            if done == tag:
                results.append(run_result(data))

        transport = self.transport
        transport.on_done = on_done
        deadline = time.monotonic() + timeout_s
        try:
            transport.exchange([self.run_request(tag, entry)])
            while not results:
                if transport.step(min(deadline, time.monotonic() + 1.0)):
                    continue
                if time.monotonic() >= deadline:
                    raise LinkTimeout(
                        f"the run was not over after {timeout_s:g} s. Is the network larger than "
                        "you think? Give it more time"
                    )
                status = self.status()
                if status.state == RunState.DONE:
                    results.append(status.result)
                elif status.state == RunState.IDLE:
                    raise DeviceError("the board forgot the run that it had begun: was it reset?")
            return results[0]
        except (LinkLost, RequestRefused):
            raise
        except BaseException:
            with contextlib.suppress(DeviceError):
                self.abort()
            raise

    def status_request(self) -> Request:
        """Asks for a :class:`BoardStatus`, see :func:`board_status`."""
        return Request(Opcode.STATUS, n_reply_bytes=n_bytes(DeviceStatus))

    def status(self) -> BoardStatus:
        """State of the board, result of the finished run, errors counted since its last reset.

        Raises
        ------
        LinkTimeout, LinkLost
        """
        (raw,) = self.transport.exchange([self.status_request()])
        return board_status(raw)

    def abort(self) -> None:
        """Ends a run in progress, and forgets one that waits; what was under way is forgotten here
        too. Memories stay as they are.

        Raises
        ------
        LinkTimeout, LinkLost
        """
        self.transport.cancel()
        self.transport.exchange([Request(Opcode.ABORT)])


def board_status(raw: bytes) -> BoardStatus:
    """Data of a reply to STATUS."""
    status: Any = unpack(DeviceStatus, raw)
    return BoardStatus(
        state=RunState(int(status.state)),
        tag=int(status.result.tag),
        result=run_result(raw),
        n_bad_frames=int(status.n_bad_frames),
        n_overruns=int(status.n_overruns),
    )


def run_result(raw: bytes) -> RunResult:
    """The :class:`hw.protocol.Result` that ``raw`` begins with."""
    result: Any = unpack(Result, raw[: n_bytes(Result)])
    return RunResult(int(result.argmax), int(result.n_cycles))
