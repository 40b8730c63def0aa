"""Driver for one device on a serial port: open it, use its memories, run programs, and recover it.

A device is the gateware on a board. Real and virtual boards are driven alike: the port ``sim``
starts a virtual board, and then opens the serial port that this board provides. The bytes on the
wire are described in :mod:`hw.protocol`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from hw.protocol import (
    DEFAULT_BAUD,
    DeviceStatus,
    Opcode,
    Result,
    Run,
    RunState,
    Space,
    n_bytes,
    pack,
    row_bytes,
)
from hw.spec import Config
from sw.driver import faults
from sw.driver.baud import agree_on_rate
from sw.driver.discovery import BoardIdentity, connect, find_board, identify, open_transport
from sw.driver.errors import (
    DeviceError,
    DeviceNotFound,
    FaultSpecError,
    LinkLost,
    LinkTimeout,
    RequestRefused,
    RunLost,
    SpecMismatch,
)
from sw.driver.memory import Memory
from sw.driver.ports import kind_of
from sw.driver.status import BoardStatus, RunResult, parse_done, parse_status
from sw.driver.transport import Port, Request, Transport
from sw.driver.virtual_board import VirtualBoard


class Device:
    """Open connection to a board that has been identified, is idle, and uses the fastest rate of
    the serial line that works.

    Use as a context manager, which closes the port (and ends a virtual board).

    Parameters
    ----------
    transport : link to the board, open at the default rate (:data:`hw.protocol.DEFAULT_BAUD`).
    identity : configuration and protocol version that the board has reported.
    virtual_board : process of a virtual board, which ends when this object is closed.
    baud : fastest rate to use, in bits per second; None means the rate that the board reports.

    Attributes
    ----------
    memory : reads, writes and checks the device's memories.
    """

    def __init__(
        self,
        transport: Transport,
        identity: BoardIdentity,
        virtual_board: VirtualBoard | None = None,
        baud: int | None = None,
    ):
        self.transport = transport
        self.identity = identity
        self.memory = Memory(transport, identity.config)
        self._virtual_board = virtual_board
        self._direct = False
        self._limit_baud = baud
        self._tag = 0
        transport.window_bytes = self.config.rx_buffer_bytes
        self.abort()
        agree_on_rate(self.transport, self.config, self._limit_baud)

    @classmethod
    def open(cls, port: str | None = None, baud: int | None = None) -> Device:
        """Open a board, and return it. No other process can use its port until it is closed.

        Parameters
        ----------
        port : path or name of a serial port, or the address of one at another machine
            (:mod:`sw.driver.ports`). ``sim`` starts a virtual board, and ``sim:NAME`` one with a
            configuration of :mod:`hw.boards.configs`. None looks for a board on the USB serial
            ports. A suffix such as ``?faults=1e-2`` injects transmission errors, see
            :mod:`sw.driver.faults`.
        baud : fastest rate of the serial line to use, in bits per second; None means the rate that
            the board reports.

        Raises
        ------
        DeviceNotFound
            There is no board or no such port, or the port cannot be opened.
        NotABoard
            Nothing on the port answers like a Spikefold board.
        SpecMismatch
            The board's gateware and this software were built from different definitions.
        FaultSpecError
            The fault options behind ``?`` are invalid.
        """
        path, spec = faults.split_options(port or "")
        plan = faults.parse(spec) if spec else faults.Plan(rate=0.0, kinds=faults.KINDS)
        if not path:
            return cls._ready(*find_board(), baud=baud)
        if path == "sim" or path.startswith("sim:"):
            return cls._open_virtual(path.partition(":")[2] or "sim", plan, baud)
        if plan.latency_ms:
            raise FaultSpecError(
                f"{path} has a latency of its own: only the port sim takes the option latency"
            )
        return cls.open_with(path, lambda opened: faults.inject(opened, plan), baud=baud)

    @classmethod
    def _open_virtual(cls, config_name: str, plan: faults.Plan, baud: int | None) -> Device:
        board = VirtualBoard.start(config_name, plan.latency_ms)
        try:
            device = cls.open_with(
                board.port, lambda opened: faults.inject(opened, plan, board.pid), board, baud
            )
            device._direct = not plan.rate and not plan.latency_ms
            return device
        except BaseException:
            board.stop()
            raise

    @classmethod
    def open_with(
        cls,
        path: str,
        wrap: Callable[[Port], Port],
        virtual_board: VirtualBoard | None = None,
        baud: int | None = None,
        timeout_s: float | None = None,
    ) -> Device:
        """Open the board on a serial port, and put an object between driver and port. This object
        can observe or change the bytes.

        Parameters
        ----------
        path : path or name of the serial port.
        wrap : takes the open port and returns the object that the driver uses in its place.
        virtual_board, baud : see :class:`Device`.
        timeout_s : how many seconds the board may take to answer; None means the driver's default,
            which is longer for a virtual board.

        Raises
        ------
        DeviceNotFound, NotABoard, SpecMismatch
            See :meth:`open`.
        """
        kind = kind_of(path)
        if kind.fixed_rate and baud not in (None, DEFAULT_BAUD):
            raise DeviceNotFound(
                f"{path} cannot be used at {baud} bits per second: the machine that it names "
                f"determines the rate, and must use {DEFAULT_BAUD}. Leave the rate out, or use an "
                "rfc2217:// address"
            )
        transport, identity = connect(
            open_transport(path, wrap), timeout_s or kind.identify_timeout_s, 2
        )
        transport.timeout_s = timeout_s or kind.timeout_s
        return cls._ready(transport, identity, virtual_board, baud)

    @classmethod
    def _ready(
        cls,
        transport: Transport,
        identity: BoardIdentity,
        virtual_board: VirtualBoard | None = None,
        baud: int | None = None,
    ) -> Device:
        """Return a :class:`Device` for an open board that has been identified. If its construction
        fails, the port is closed."""
        try:
            return cls(transport, identity, virtual_board, baud)
        except BaseException:
            transport.close()
            raise

    def close(self) -> None:
        """Close the serial port, and end the process of a virtual board. A second call does
        nothing."""
        self.transport.close()
        if self._virtual_board is not None:
            self._virtual_board.stop()
            self._virtual_board = None

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def config(self) -> Config:
        """Hardware configuration that the board reported (lanes, sizes of memories, clock, ...)."""
        return self.identity.config

    @property
    def port(self) -> str:
        """Path or name of the board's serial port."""
        return str(self.transport.port.port)

    @property
    def virtual(self) -> bool:
        """Whether the board is simulated, by a process that :meth:`close` ends. The speed of such a
        board is measured by its simulated clock.
        """
        return self._virtual_board is not None

    def clock_cycles(self) -> int | None:
        """Return the number of clock cycles that a virtual board has simulated so far, or None for
        a real board. The simulated clock stands still while the board is idle."""
        return None if self._virtual_board is None else self._virtual_board.n_cycles()

    @property
    def direct(self) -> bool:
        """Whether loading bypasses the serial line of a virtual board: it writes rows directly into
        the simulated memories, and uses the line only to verify them. :meth:`open` chooses this for
        a virtual board without injected faults (:mod:`sw.driver.faults`) and without simulated
        latency."""
        return self._direct

    @contextlib.contextmanager
    def over_the_line(self) -> Iterator[None]:
        """Within a ``with`` block, let loading write a virtual board's memories over its serial
        line, as on a real board, instead of directly (:attr:`direct`).
        """
        before, self._direct = self._direct, False
        try:
            yield
        finally:
            self._direct = before

    def preload(self, images: Mapping[Space, bytes]) -> None:
        """Write ``images``, the bytes for each memory from row 0 on, directly into the memories of
        a virtual board's simulation, and verify nothing. Do nothing if the board is not
        :attr:`direct`.

        Raises
        ------
        LinkLost
            The process of the virtual board has ended.
        """
        if self.direct and self._virtual_board is not None:
            for space, image in images.items():
                self._virtual_board.write_rows(space, 0, row_bytes(space, self.config), image)

    def recover(self) -> None:
        """Restart the link to a board that no longer answers, or that was reset.

        The link goes back to the default rate, the board is identified again, its run is aborted,
        and the fastest rate is chosen again. The board's memories may have changed: the caller
        must fill them again.

        Raises
        ------
        NotABoard, SpecMismatch
            A different device answers.
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        self.transport.counters.n_recoveries += 1
        self.transport.resync()
        identity = identify(self.transport)
        if identity != self.identity:
            raise SpecMismatch(
                f"the board on {self.port} was replaced: it is {identity.config.name!r} now, not "
                f"{self.config.name!r}. Close it and open it again"
            )
        self.abort()
        agree_on_rate(self.transport, self.config, self._limit_baud)

    # ---- runs --------------------------------------------------------------------------------

    def next_tag(self) -> int:
        """Return a number (0 to 255) for the next run, by which the board's messages refer to this
        run. It differs from the numbers of the previous 255 runs.
        """
        self._tag = (self._tag + 1) % 256
        return self._tag

    def run_request(
        self, tag: int, entry: int, n_result_rows: int = 0, n_counter_rows: int = 0
    ) -> Request:
        """Return a request that starts a run: one execution of the program in the board's memories,
        on the sample in its spike memory.

        Parameters
        ----------
        tag : number of the run from :meth:`next_tag`, which the board returns with the result.
        entry : row of weight memory at which the program's first layer descriptor begins.
        n_result_rows, n_counter_rows : numbers of rows of the memories RESULT and COUNTER (see
            :class:`hw.protocol.Space`) that the board sends, from row 0, when the run ends.
        """
        values = {"n_result_rows": n_result_rows, "n_counter_rows": n_counter_rows}
        payload = pack(Run, {"tag": tag, "entry": entry, **values})
        return Request(Opcode.RUN, payload, what=f"RUN {tag} from entry {entry}")

    def run(self, entry: int = 0, *, timeout_s: float = 60.0) -> RunResult:
        """Run the program whose first layer descriptor is at row ``entry`` of weight memory. When
        the run has ended, return its result.

        If waiting for the end fails or is interrupted, for example by a timeout or Ctrl-C, the run
        is aborted.

        Raises
        ------
        LinkTimeout
            The run did not end within ``timeout_s`` seconds, or the board does not answer.
        RequestRefused
            The board refused to start the run.
        LinkLost
            The board has been disconnected.
        RunLost
            The board lost the run, for example because it was reset.
        InvalidMessage
            The board announced the end of the run in a way that its protocol does not allow.
        """
        tag = self.next_tag()
        results: list[RunResult] = []

        def on_done(done: int, data: bytes) -> None:
            if done == tag:
                results.append(parse_done(data, n_bytes(Result)))

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
                        f"the run did not end within {timeout_s:g} s. Is the network larger than "
                        "you think? Allow it more time"
                    )
                status = self.status()
                if status.state == RunState.DONE:
                    results.append(status.result)
                elif status.state == RunState.IDLE:
                    raise RunLost(
                        "the board lost the run that it had started: was it reset? Load the "
                        "program again, and repeat the run"
                    )
            return results[0]
        except (LinkLost, RequestRefused):
            raise
        except BaseException:
            with contextlib.suppress(DeviceError):
                self.abort()
            raise

    def status_request(self) -> Request:
        """Return a request for the board's state. :func:`sw.driver.status.parse_status` decodes its
        reply."""
        return Request(Opcode.STATUS, n_reply_bytes=n_bytes(DeviceStatus))

    def status(self) -> BoardStatus:
        """Return the board's state, the result of its last run, and its error counters.

        Raises
        ------
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        (raw,) = self.transport.exchange([self.status_request()])
        return parse_status(raw)

    def abort(self) -> None:
        """End the run in progress. Also discard the next run, if the board has accepted one
        meanwhile, and all unanswered requests. The board's memories stay as they are.

        Raises
        ------
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        self.transport.cancel()
        self.transport.exchange([Request(Opcode.ABORT)])
