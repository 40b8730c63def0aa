"""Pipeline of samples through one board: while the board computes one sample, the next one is
sent.

A *run* is the board's computation of one sample. A *map* is the spikes (T, C, H, W) of the input or
of one layer.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hw.protocol import (
    REPLY,
    Opcode,
    Result,
    RunState,
    Space,
    Status,
    encode_frame,
    n_bytes,
    row_bytes,
)
from sw.compile.program import Program
from sw.driver.device import Device
from sw.driver.errors import DeviceError, InvalidMessage, LinkTimeout, RequestRefused, RunLost
from sw.driver.inference import Inference, StreamItem
from sw.driver.loading import recover, write_program
from sw.driver.pace import Work
from sw.driver.status import RunResult, parse_done, parse_status
from sw.driver.transport import Reply, Request
from sw.network import encoder
from sw.network.network import Network

RUN_TIMEOUT_S = 60.0
"""Longest time in seconds that a run may take, also on a virtual board."""

N_RUNS_IN_DEVICE = 2
"""Largest number of runs that the device accepts at a time: one in progress and one that waits."""


@dataclass(eq=False)
class _Job:
    """State of one sample in the pipeline. The sample's input is written to spike memory, a run is
    requested, the board announces the end of the run, and maps are read back if wanted.

    Attributes
    ----------
    raw : the bytes to write to spike memory as the sample's input.
    buffer : which region of spike memory receives the input: index into
        :attr:`sw.compile.program.Program.inputs`.
    taken_s, writing_s, written_s, running_s, ended_s : times by :func:`time.perf_counter`; each is
        0 until its event. The events: the sample was taken; the requests that write its input were
        queued; the latest of these requests was acknowledged; the run was requested; the end of the
        run was announced.
    writes : requests that write the input; empty until they are queued.
    n_writes_left : number of those requests that are not acknowledged yet.
    tag, run : number of the run in the board's messages, and the request that starts the run; None
        until the run is requested.
    n_runs_before : number of runs that the pipeline had requested before this one.
    stale : whether a part of the input was sent again after the run was requested, so that the run
        may have used incomplete input.
    acknowledged : whether the board has accepted the run.
    done : data of the board's announcement that the run has ended.
    maps : maps that are read back, by name. Several requests read one map, and its list has one
        item for each of them: the data of the reply, empty until the reply arrives.
    n_reads_left : number of requests for maps that are not answered yet.
    outcome : the sample's result; None until it is complete.
    """

    raw: bytes
    buffer: int
    taken_s: float
    writing_s: float = 0.0
    written_s: float = 0.0
    running_s: float = 0.0
    ended_s: float = 0.0
    writes: list[Request] = field(default_factory=list)
    n_writes_left: int = 0
    tag: int | None = None
    run: Request | None = None
    n_runs_before: int = 0
    stale: bool = False
    acknowledged: bool = False
    done: bytes = b""
    maps: dict[str, list[bytes]] = field(default_factory=dict)
    n_reads_left: int = 0
    outcome: Inference | None = None

    @property
    def in_device(self) -> bool:
        """Whether the sample's run was requested and its end has not been announced yet."""
        return self.tag is not None and not self.ended_s

    def reset_run(self) -> None:
        """Mark the sample's run as not requested yet. The pipeline then requests it again."""
        self.tag = self.run = None
        self.acknowledged = self.stale = False
        self.ended_s, self.n_reads_left = 0.0, 0


class Pipeline:
    """Pipeline that classifies samples on one board, in order.

    To keep the serial line busy, a sample's run is requested without waiting until the board has
    acknowledged the sample's input. So a run may use an incomplete input. If the run ends before
    every part of the input was acknowledged, or if a part had to be sent again, the result is
    discarded and the run is repeated.

    After a failure of the link or the board, the board is recovered, its memories are checked, and
    all unfinished samples start again from their inputs.

    Parameters
    ----------
    device : board whose memories hold ``program``.
    network : the network from which ``program`` was compiled; its encoder turns images into spikes
        if the board does not do that. None if the network is unknown; the samples must then have
        the form that :meth:`sw.compile.program.Program.pack_input` takes.
    samples, maps, counters : see :meth:`sw.driver.any_board.AnyBoard.stream`.
    """

    def __init__(
        self,
        device: Device,
        program: Program,
        network: Network | None,
        samples: Iterable[StreamItem],
        *,
        maps: bool,
        counters: bool,
    ):
        self.device, self.transport = device, device.transport
        self.program, self.network = program, network
        self.samples = iter(samples)
        self.maps = maps
        self.n_buffers = 1 if maps else len(program.inputs)
        self.jobs: deque[_Job] = deque()
        self.n_taken = self.n_runs = 0
        self.exhausted = False
        self.error: DeviceError | None = None
        self.last_end_s = 0.0
        config, n_counter_rows = program.config, program.n_counter_rows if counters else 0
        self.n_rows = (program.n_result_rows, n_counter_rows)
        self.n_logit_bytes = program.n_result_rows * row_bytes(Space.RESULT, config)
        self.n_done_bytes = (
            n_bytes(Result) + self.n_logit_bytes + n_counter_rows * row_bytes(Space.COUNTER, config)
        )

    def outcomes(self) -> Generator[Inference, None, None]:
        """Run the pipeline, and yield the result of each sample in order. Closing the generator
        aborts the run in progress and discards all unfinished samples."""
        n_failures = 0
        self.transport.on_done, self.transport.on_repeat = self._on_done, self._on_repeat
        try:
            while True:
                self._take()
                while self.jobs and (outcome := self.jobs[0].outcome) is not None:
                    n_failures = 0
                    self.jobs.popleft()
                    yield outcome
                    self._take()
                if not self.jobs:
                    if self.exhausted:
                        return
                    continue
                try:
                    self._advance()
                except (LinkTimeout, RequestRefused, RunLost) as error:
                    n_failures = self._restart(error, n_failures)
        finally:
            if self.jobs or not self.transport.idle:
                with contextlib.suppress(DeviceError):
                    self.device.abort()

    # ---- samples -----------------------------------------------------------------------------

    def _take(self) -> None:
        """Take samples from the iterable into the pipeline until the board has no free region for a
        further input (:attr:`sw.compile.program.Program.inputs`), or until no sample is
        available."""
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
            self.jobs.append(_Job(self._packed(sample, buffer), buffer, time.perf_counter()))

    def _packed(self, sample: NDArray[np.uint8], buffer: int) -> bytes:
        """Return a sample as the bytes to write to spike memory.

        ``buffer`` is the index of the region of spike memory
        (:attr:`sw.compile.program.Program.inputs`). An image is first turned into spikes by the
        encoder, unless the board takes pixels.
        """
        network = self.network
        if network is not None and not self.program.pixels:
            is_image = network.encoder is not None and sample.ndim == len(network.image_shape)
            if is_image or network.encoder is None:
                sample = encoder.encode(network, sample[None])[0]
        return self.program.pack_input(sample, buffer)

    def _restart(self, error: DeviceError, n_failures: int) -> int:
        """Recover the board after ``error``, load the program again, and let all unfinished samples
        start again.

        Parameters
        ----------
        n_failures : number of failures since the last result, without this one.

        Returns
        -------
        Number of failures since the last result, including this one and those during recovery.
        """
        while True:
            n_failures += 1
            recover(self.device, error, n_failures)
            try:
                write_program(self.device, self.program)
                break
            except (LinkTimeout, RequestRefused) as again:
                error = again
        self.error = None
        for job in self.jobs:
            if job.outcome is None:
                job.writes = []
                job.reset_run()
        return n_failures

    # ---- requests ----------------------------------------------------------------------------

    def _advance(self) -> None:
        """Queue all requests that can be made now, then wait for one message from the board and
        handle it. If none arrives in time, ask for the board's status.

        Raises
        ------
        DeviceError
            A request failed, or the run was lost or takes too long.
        """
        n_runs_free = N_RUNS_IN_DEVICE
        in_order = True
        for job in self.jobs:
            if not job.writes:
                self._write(job)
            if job.tag is None and n_runs_free:
                if not in_order:
                    break  # a later input would delay this run's request on the line
                self._run(job)
            in_order &= job.acknowledged
            n_runs_free -= job.in_device
        received = self.transport.step(time.monotonic() + self.transport.timeout_s)
        if self.error is not None:
            raise self.error
        if not received and self.transport.idle:
            self._ask_for_status()

    def _checked(self, then: Callable[[bytes], object]) -> Callable[[Reply], None]:
        """Return a callback for the reply to a request. If the request succeeded, the callback
        calls ``then`` with the reply's data. Otherwise it stores the error, and :meth:`_advance`
        raises that."""

        def on_reply(reply: Reply) -> None:
            if isinstance(reply, DeviceError):
                self.error = self.error or reply
            else:
                then(reply)

        return on_reply

    def _write(self, job: _Job) -> None:
        row = self.program.inputs[job.buffer].first_row
        job.writes = self.device.memory.write_requests(Space.SPIKE, row, job.raw)
        job.writing_s, job.n_writes_left = time.perf_counter(), len(job.writes)

        def written(_: bytes) -> None:
            job.n_writes_left -= 1
            job.written_s = time.perf_counter()

        for request in job.writes:
            self.transport.submit(request, self._checked(written))

    def _run(self, job: _Job) -> None:
        job.tag = self.device.next_tag()
        job.n_runs_before = self.n_runs
        self.n_runs += 1
        job.running_s = time.perf_counter()
        job.run = self.device.run_request(job.tag, self.program.entries[job.buffer], *self.n_rows)

        def acknowledged(_: bytes) -> None:
            job.acknowledged = True

        self.transport.submit(job.run, self._checked(acknowledged))

    def _read_maps(self, job: _Job) -> None:
        for name, place in self.program.placements.items():
            requests = self.device.memory.read_requests(Space.SPIKE, place.first_row, place.n_rows)
            job.maps[name] = [b""] * len(requests)
            job.n_reads_left += len(requests)
            for n, request in enumerate(requests):

                def take(part: bytes, name: str = name, n: int = n) -> None:
                    job.maps[name][n] = part
                    job.n_reads_left -= 1
                    if job.n_reads_left == 0:
                        self._finish(job)

                self.transport.submit(request, self._checked(take))

    def _ask_for_status(self) -> None:
        """Ask a board that has been silent for the state of the oldest run that has not ended.

        The reply is handled when it arrives. If the run has ended, the board is asked to repeat its
        announcement. If the run was lost or takes too long, an error is stored, and
        :meth:`_advance` raises that.
        """
        job = next((job for job in self.jobs if job.in_device), None)
        if job is None:
            return

        def take(raw: bytes) -> None:
            status = parse_status(raw)
            if job.ended_s or job.run is None:
                return
            if time.perf_counter() - job.running_s > RUN_TIMEOUT_S:
                self.error = LinkTimeout(
                    f"a run did not end within {RUN_TIMEOUT_S:g} s. Is the program damaged? Export "
                    "the network again"
                )
            elif status.state != RunState.IDLE and status.tag == job.tag:
                # A repeated RUN is not run again, but its end is announced again.
                self.transport.submit(job.run, self._checked(lambda _: None))
            elif status.state != RunState.RUNNING:
                self.error = RunLost(
                    "the board lost the run that it had started, and lost it again when it was "
                    "repeated. Is its supply sound? Load its bitstream again, or use another board"
                )

        self.transport.submit(self.device.status_request(), self._checked(take))

    # ---- announcements -----------------------------------------------------------------------

    def _on_repeat(self, request: Request) -> None:
        for job in self.jobs:
            if job.in_device and any(request is write for write in job.writes):
                job.stale = True

    def _on_done(self, tag: int, data: bytes) -> None:
        job = next((job for job in self.jobs if job.tag == tag and not job.ended_s), None)
        if job is None:
            return  # announced twice, or a run that was discarded
        parse_done(data, self.n_done_bytes)  # of another length, if the bitstream is wrong
        # Announcements come in order: the board no longer has the results of earlier runs.
        for earlier in self.jobs:
            if earlier.run and not earlier.ended_s and earlier.n_runs_before < job.n_runs_before:
                self.transport.forget(earlier.run)
                earlier.reset_run()
        assert job.run is not None
        # The RUN's acknowledgement may have been lost. If the RUN were sent again, it might start a
        # second run.
        self.transport.forget(job.run)
        # The board answers in order, so a write that has no reply by now was lost.
        if job.stale or job.n_writes_left:
            job.reset_run()
            return
        job.acknowledged = True
        job.ended_s, job.done = time.perf_counter(), data
        if self.maps:
            self._read_maps(job)
        else:
            self._finish(job)

    def _finish(self, job: _Job) -> None:
        """Compute the sample's :class:`Inference`, now that all its data have arrived, and keep it
        in ``job``."""
        now_s = time.perf_counter()
        size = n_bytes(Result)
        result = parse_done(job.done, self.n_done_bytes)
        logits = self.program.logits(job.done[size : size + self.n_logit_bytes])
        self._check_class(result, logits)
        # An acknowledgement that was lost and repeated may come after the run.
        started_s = min(max(job.running_s, job.written_s, self.last_end_s), job.ended_s)
        self.last_end_s = job.ended_s
        job.outcome = Inference(
            prediction=result.argmax,
            n_cycles=result.n_cycles,
            logits=logits,
            counters=self.program.counters(job.done[size + self.n_logit_bytes :])
            if self.n_rows[1]
            else {},
            maps={
                name: self.program.placements[name].unpack(b"".join(parts))
                for name, parts in job.maps.items()
            },
            work=self._work(job, result.n_cycles),
            link_s=job.written_s - job.writing_s + (now_s - job.ended_s),
            compute_s=job.ended_s - started_s,
            latency_s=now_s - job.taken_s,
        )

    def _work(self, job: _Job, n_cycles: int) -> Work:
        """Return the bytes on the line and the clock cycles of the core that the sample takes,
        without requests sent again and without maps read back."""
        assert job.run is not None and job.tag is not None
        requests = [*job.writes, job.run]
        done = encode_frame(bytes([job.tag, Opcode.DONE | REPLY, Status.OK]) + job.done)
        return Work(
            n_bytes_out=sum(len(request.frame(job.tag)) for request in requests),
            n_bytes_acks=sum(len(request.ack(job.tag)) for request in requests),
            n_bytes_done=len(done),
            n_cycles=n_cycles,
        )

    def _check_class(self, result: RunResult, logits: NDArray[np.int64]) -> None:
        """Check that the predicted class of a result is the index of the first largest logit.

        Raises
        ------
        InvalidMessage
            It is another class, so the board's message contradicts itself.
        """
        largest = int(np.argmax(logits))
        if result.argmax != largest:
            raise InvalidMessage(
                f"the board on {self.device.port} predicts class {result.argmax}, but of its "
                f"{len(logits)} logits that of class {largest} is the largest"
            )
