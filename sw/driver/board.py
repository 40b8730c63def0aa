"""Boards as a library: load a network, infer, stream. NumPy only.

>>> with Board.open("sim:ulx3s-85f") as board:
...     board.load("net.spikefold")
...     logits = board.infer(images)
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw.protocol import (
    Result,
    RunState,
    Space,
    Status,
    n_bytes,
    row_bytes,
    spec_hash,
)
from hw.spec import GRANULE_BITS, Config
from sw.compile.compiler import compile_network
from sw.compile.program import Program
from sw.driver.device import Device, Progress, board_status, run_result
from sw.driver.inference import Inference, Inferring, Loaded, Sample, load_bytes, program_for
from sw.driver.transport import DeviceError, LinkTimeout, Reply, Request, RequestRefused
from sw.network import encoder, netfile
from sw.network.netfile import NetworkFile
from sw.network.network import Network

MAX_RECOVERIES = 3
"""Attempts to begin anew before a board is given up, counted from its last result."""

RUN_TIMEOUT_S = 60.0
"""How long a run may take; on the virtual board, too."""

N_RUNS_IN_DEVICE = 2
"""The run in progress and the one that waits."""

_RECOVERABLE = frozenset({Status.WAS_RESET, Status.BUSY})


class Board(Inferring):
    """A board with, after :meth:`load`, a network in it. Use as a context manager."""

    def __init__(self, device: Device):
        self.device = device
        self._program: Program | None = None
        self._network: Network | None = None

    @classmethod
    def open(cls, port: str | None = None, baud: int | None = None) -> Board:
        """Open a board; :func:`sw.driver.group.open_boards` opens several as one.

        Parameters
        ----------
        port : what :meth:`sw.driver.device.Device.open` takes, such as ``"/dev/ttyUSB0"`` or
            ``"sim"``; None looks for a board on all USB serial ports.
        baud : fastest rate in bits per second; None leaves it to the board.

        Raises
        ------
        DeviceNotFound, NotABoard, SpecMismatch
            See :meth:`sw.driver.device.Device.open`.
        """
        return cls(Device.open(port, baud))

    def close(self) -> None:
        """Closes the port; a second time does nothing."""
        self.device.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def config(self) -> Config:
        """Configuration of the board, as it described itself."""
        return self.device.config

    @property
    def port(self) -> str:
        """Path or name of the serial port."""
        return self.device.port

    @property
    def boards(self) -> list[Board]:
        """This one; see :class:`Boards`."""
        return [self]

    @property
    def program(self) -> Program:
        """The program in the board.

        Raises
        ------
        RuntimeError
            Nothing is loaded.
        """
        if self._program is None:
            raise RuntimeError("no program is loaded: call load first")
        return self._program

    # ---- loading -----------------------------------------------------------------------------

    def load(
        self,
        network: str | Path | NetworkFile | Network | Program,
        on_progress: Progress | None = None,
    ) -> Loaded:
        """Puts a network into the board, checks that it is there, and clears its maps. What is
        there already is not sent again.

        Parameters
        ----------
        network : a network file or its path, a network, or a program for this board's
            configuration. Without a network, :meth:`stream` takes spikes only.
        on_progress : called with the number of bytes that are in place since the last call, in all
            :func:`load_bytes` for a program.

        Raises
        ------
        ValueError
            A program was compiled for another configuration.
        sw.compile.program.FitError
            The network does not fit.
        sw.network.netfile.NetworkFileError
            The file cannot be used.
        sw.driver.device.MemoryFault
            The board does not hold what was written, twice.
        LinkTimeout, LinkLost
        """
        if isinstance(network, str | Path):
            network = netfile.load(network, Program)
        if isinstance(network, NetworkFile):
            program, _ = program_for(network.network, network.program, self.config)
            source = network.network
        elif isinstance(network, Network):
            program, source = compile_network(network, self.config), network
        else:
            program, source = network, None
        if spec_hash(program.config) != spec_hash(self.config):
            raise ValueError(
                f"the program is for {program.config.name!r}, the device is "
                f"{self.config.name!r}; compile it again (program_for does)"
            )
        started = time.perf_counter()
        self._program = None
        n_failures = 0
        while True:
            try:
                n_written = self._fill(program, on_progress if n_failures == 0 else None)
                break
            except (LinkTimeout, RequestRefused) as error:
                n_failures += 1
                self._recover_link(error, n_failures)
        self._program, self._network = program, source
        return Loaded(
            n_bytes=load_bytes(program),
            n_written=n_written,
            seconds=time.perf_counter() - started,
        )

    def _fill(self, program: Program, on_progress: Progress | None = None) -> int:
        """Writes what the memories do not hold yet; gives the number of bytes written."""
        n_written = self.device.fill(program.images, on_progress)
        self.device.write(Space.SPIKE, 0, bytes(program.spike_bytes), on_progress)
        return n_written + program.spike_bytes

    def _recover_link(self, error: DeviceError, n_failures: int) -> None:
        """Begins anew with the board, if that may help and has not been tried too often."""
        while True:
            if n_failures > MAX_RECOVERIES or (
                isinstance(error, RequestRefused) and error.status not in _RECOVERABLE
            ):
                raise error
            try:
                self.device.recover()
                return
            except LinkTimeout as again:
                error = again
                n_failures += 1

    # ---- inference ---------------------------------------------------------------------------

    def stream(
        self, samples: Iterable[Sample], *, maps: bool = False
    ) -> Generator[Inference, None, None]:
        """Outcomes of samples, in order. While the board runs one sample, the next is written.

        Parameters
        ----------
        samples : images (C, H, W) of uint8 if the network has an encoder; or spikes
            (T, C, H, W) of 0 and 1 for its input map. Taken as they are needed. None where a
            sample would be says that there is none yet, so that outcomes need not wait for it.
        maps : read back the spikes of every map, which keeps the board waiting.

        Raises
        ------
        sw.network.encoder.InputError
            A sample does not suit the network.
        LinkTimeout
            The board does not answer, in spite of :data:`MAX_RECOVERIES` attempts.
        LinkLost, RequestRefused, sw.driver.device.MemoryFault
        """
        yield from _Pipeline(self, samples, maps).results()

    def _pack(self, sample: NDArray[np.uint8], buffer: int) -> bytes:
        program, network = self.program, self._network
        if network is not None and not program.pixels:
            is_image = network.encoder is not None and sample.ndim == len(network.image_shape)
            if is_image or network.encoder is None:
                sample = encoder.encode(network, sample[None])[0]
        return program.pack_input(sample, buffer)


@dataclass(eq=False)
class _Job:
    """A sample under way."""

    raw: bytes
    """Its input as it is written."""
    buffer: int
    taken: float
    writes: list[Request] = field(default_factory=list)
    """Empty before they are submitted."""
    n_writes_left: int = 0
    """Those that are not acknowledged."""
    writing: float = 0.0
    written: float = 0.0
    tag: int | None = None
    run: Request | None = None
    n_before: int = 0
    """Runs that were submitted before this one."""
    stale: bool = False
    """A part of the input was sent again behind the RUN, which may have run without it."""
    running: float = 0.0
    acknowledged: bool = False
    ended: float = 0.0
    data: bytes = b""
    parts: dict[str, list[bytes]] = field(default_factory=dict)
    n_reads_left: int = 0
    result: Inference | None = None

    def run_again(self) -> None:
        """Forgets that it was run."""
        self.tag = self.run = None
        self.acknowledged = self.stale = False
        self.ended, self.n_reads_left = 0.0, 0


class _Pipeline:
    """Samples on their way through one board, in order: written, run, announced.

    A RUN follows its input at once, without waiting until that is acknowledged, so that the line is
    never silent. If a part of the input was not acknowledged before the end of the run, or had to
    be sent again, the run is not believed and repeated.

    Whatever goes wrong with the link or the board, the samples that are not finished are begun
    again from their inputs, on a board whose memories have been checked.
    """

    def __init__(self, board: Board, samples: Iterable[Sample], maps: bool):
        self.board, self.device = board, board.device
        self.transport = board.device.transport
        self.program = board.program
        self.samples = iter(samples)
        self.maps = maps
        self.n_buffers = 1 if maps else len(self.program.inputs)
        self.jobs: deque[_Job] = deque()
        self.n_taken = self.n_runs = 0
        self.exhausted = False
        self.error: DeviceError | None = None
        self.last_end = 0.0
        config = self.program.config
        n_counter_rows = self.program.n_counter_rows
        self.n_rows = (self.program.n_result_rows, n_counter_rows)
        self.n_logit_bytes = self.program.n_result_rows * row_bytes(Space.RESULT, config)
        self.n_done_bytes = (
            n_bytes(Result) + self.n_logit_bytes + n_counter_rows * row_bytes(Space.COUNTER, config)
        )

    def results(self) -> Generator[Inference, None, None]:
        n_failures = 0
        self.transport.on_done, self.transport.on_repeat = self._on_done, self._on_repeat
        try:
            while True:
                self._take()
                while self.jobs and self.jobs[0].result is not None:
                    n_failures = 0
                    yield self.jobs.popleft().result  # type: ignore[misc]
                    self._take()
                if not self.jobs:
                    if self.exhausted:
                        return
                    continue
                try:
                    self._advance()
                except (LinkTimeout, RequestRefused) as error:
                    n_failures = self._begin_anew(error, n_failures)
        finally:
            if self.jobs or not self.transport.idle:
                with contextlib.suppress(DeviceError):
                    self.device.abort()

    def _begin_anew(self, error: DeviceError, n_failures: int) -> int:
        """Recovers the board, and forgets how far its samples were; gives the failures so far."""
        while True:
            n_failures += 1
            self.board._recover_link(error, n_failures)
            try:
                self.board._fill(self.program)
                break
            except (LinkTimeout, RequestRefused) as again:
                error = again
        self.error = None
        for job in self.jobs:
            if job.result is None:
                job.writes = []
                job.run_again()
        return n_failures

    def _take(self) -> None:
        while not self.exhausted and len(self.jobs) < self.n_buffers:
            try:
                sample = next(self.samples)
            except StopIteration:
                self.exhausted = True
                return
            if sample is None:
                return
            buffer = self.n_taken % self.n_buffers
            self.n_taken += 1
            self.jobs.append(_Job(self.board._pack(sample, buffer), buffer, time.perf_counter()))

    def _advance(self) -> None:
        """Submits what can be submitted, and waits for one packet."""
        runs_left = N_RUNS_IN_DEVICE
        in_order = True
        for job in self.jobs:
            if not job.writes:
                self._write(job)
            if job.tag is None and in_order and runs_left:
                self._run(job)
            in_order &= job.acknowledged
            runs_left -= job.tag is not None and not job.ended
        heard = self.transport.step(time.monotonic() + self.transport.timeout_s)
        if self.error is not None:
            raise self.error
        if not heard and self.transport.idle:
            self._ask()

    def _checked(self, then: Callable[[bytes], object]) -> Callable[[Reply], None]:
        def on_reply(reply: Reply) -> None:
            if isinstance(reply, DeviceError):
                self.error = self.error or reply
            else:
                then(reply)

        return on_reply

    def _write(self, job: _Job) -> None:
        row = self.program.inputs[job.buffer].start // GRANULE_BITS
        job.writes = self.device.writes(Space.SPIKE, row, job.raw)
        job.writing, job.n_writes_left = time.perf_counter(), len(job.writes)

        def written(_: bytes) -> None:
            job.n_writes_left -= 1
            job.written = time.perf_counter()

        for request in job.writes:
            self.transport.submit(request, self._checked(written))

    def _run(self, job: _Job) -> None:
        job.tag = self.device.next_tag()
        job.n_before = self.n_runs
        self.n_runs += 1
        job.running = time.perf_counter()
        job.run = self.device.run_request(job.tag, self.program.entries[job.buffer], *self.n_rows)

        def acknowledged(_: bytes) -> None:
            job.acknowledged = True

        self.transport.submit(job.run, self._checked(acknowledged))

    def _on_repeat(self, request: Request) -> None:
        for job in self.jobs:
            if job.tag is not None and not job.ended and any(request is w for w in job.writes):
                job.stale = True

    def _on_done(self, tag: int, data: bytes) -> None:
        job = next((job for job in self.jobs if job.tag == tag and not job.ended), None)
        if job is None or len(data) != self.n_done_bytes:
            return  # announced twice, or of a run that was given up
        # Announcements come in order: the board has no results any more of runs before this one.
        for earlier in self.jobs:
            if earlier.run and not earlier.ended and earlier.n_before < job.n_before:
                self.transport.forget(earlier.run)
                earlier.run_again()
        assert job.run is not None
        # Its acknowledgement may have been lost; a repetition would run it again.
        self.transport.forget(job.run)
        # The board answers in order: what has no answer now was lost.
        if job.stale or job.n_writes_left:
            job.run_again()
            return
        job.acknowledged = True
        job.ended, job.data = time.perf_counter(), data
        if self.maps:
            self._read_maps(job)
        else:
            self._finish(job)

    def _read_maps(self, job: _Job) -> None:
        for name, place in self.program.placements.items():
            requests = self.device.reads(
                Space.SPIKE, place.start // GRANULE_BITS, place.n_bits // GRANULE_BITS
            )
            job.parts[name] = [b""] * len(requests)
            job.n_reads_left += len(requests)
            for n, request in enumerate(requests):

                def take(part: bytes, name: str = name, n: int = n) -> None:
                    job.parts[name][n] = part
                    job.n_reads_left -= 1
                    if job.n_reads_left == 0:
                        self._finish(job)

                self.transport.submit(request, self._checked(take))

    def _finish(self, job: _Job) -> None:
        now = time.perf_counter()
        size = n_bytes(Result)
        result = run_result(job.data)
        # Acknowledgements that were lost come after the run.
        started = min(max(job.running, job.written, self.last_end), job.ended)
        self.last_end = job.ended
        job.result = Inference(
            prediction=result.argmax,
            n_cycles=result.n_cycles,
            logits=self.program.logits(job.data[size : size + self.n_logit_bytes]),
            counters=self.program.counters(job.data[size + self.n_logit_bytes :]),
            maps={
                name: self.program.placements[name].unpack(b"".join(parts))
                for name, parts in job.parts.items()
            },
            link_s=job.written - job.writing + (now - job.ended),
            compute_s=job.ended - started,
            latency_s=now - job.taken,
        )

    def _ask(self) -> None:
        """Nothing was heard for a while: is the run that should end still going on?"""
        job = next((job for job in self.jobs if job.tag is not None and not job.ended), None)
        if job is None:
            return

        def take(raw: bytes) -> None:
            status = board_status(raw)
            if job.ended or job.run is None:
                return
            if time.perf_counter() - job.running > RUN_TIMEOUT_S:
                self.error = LinkTimeout(
                    f"a run was not over after {RUN_TIMEOUT_S:g} s: is the program damaged?"
                )
            elif status.state != RunState.IDLE and status.tag == job.tag:
                # Repeated, it is announced again.
                self.transport.submit(job.run, self._checked(lambda _: None))
            elif status.state != RunState.RUNNING:
                self.error = LinkTimeout("the board forgot the run that it had begun")

        self.transport.submit(self.device.status_request(), self._checked(take))
