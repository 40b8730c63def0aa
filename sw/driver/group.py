"""Use of several boards as one: samples are distributed among them, and results are put in
order."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw.spec import Config
from sw.compile.program import Program
from sw.driver.any_board import AnyBoard, Loadable
from sw.driver.board import Board, Prepared
from sw.driver.device import Device
from sw.driver.errors import DeviceError
from sw.driver.inference import Inference, StreamItem
from sw.driver.loading import Loaded
from sw.driver.memory import Progress
from sw.driver.transport import LinkCounters
from sw.network import netfile

LOOK_AHEAD = 4
"""Largest number of samples per board that have been taken from the stream and whose results have
not been yielded. Results are yielded in order, so those of fast boards wait for those of a slow
one."""


class BoardGroup(AnyBoard):
    """Several boards that are used as one. Each sample goes to the next board that is free. If a
    board fails, it is no longer used, and its unfinished samples go to the others."""

    def __init__(self, boards: list[Board]):
        self._all = boards
        self._failures: list[tuple[Device, DeviceError]] = []

    @property
    def boards(self) -> list[Board]:
        """Boards in use, without those that have failed."""
        failed = [device for device, _ in self._failures]
        return [board for board in self._all if board.device not in failed]

    @property
    def failures(self) -> list[tuple[Device, DeviceError]]:
        return self._failures

    @property
    def devices(self) -> list[Device]:
        return [board.device for board in self.boards]

    @property
    def counters(self) -> LinkCounters:
        return sum((board.counters for board in self._all), LinkCounters())

    @property
    def config(self) -> Config:
        return self._all[0].config

    @property
    def port(self) -> str:
        return ",".join(board.port for board in self._all)

    @property
    def program(self) -> Program:
        if not self.boards:
            raise self.all_failed()
        return self.boards[0].program

    def close(self) -> None:
        for board in self._all:
            board.close()

    def _prepared(self, network: Loadable) -> list[tuple[Board, Prepared]]:
        """Compile a network for each board in use; return the boards with their compiled networks.

        The encoder, a first layer that turns pixels into spikes, is computed by all boards or, if
        some cannot, by the host. So all boards take samples of the same form, and return counters
        of the same layers.
        """
        if isinstance(network, str | Path):
            network = netfile.load(network)
        if not self.boards:
            raise self.all_failed()
        prepared = [board.prepare(network) for board in self.boards]
        if not all(one.program.pixels for one in prepared):
            prepared = [board.prepare(network, pixels=False) for board in self.boards]
        return list(zip(self.boards, prepared, strict=True))

    def compiled(self, network: Loadable) -> list[Program]:
        return [prepared.program for _, prepared in self._prepared(network)]

    def load(self, network: Loadable, on_progress: Progress | None = None) -> Loaded:
        # First for all boards: if the network does not fit one of them, all keep what they have.
        prepared = self._prepared(network)
        loaded: list[Loaded] = []
        errors: list[BaseException] = []
        lock = threading.Lock()

        def progress(n: int) -> None:
            with lock:
                if on_progress is not None:
                    on_progress(n)

        def work(board: Board, network: Prepared) -> None:
            try:
                loaded.append(board.write(network, progress))
            except DeviceError as error:
                self.fail(board, error)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=pair) for pair in prepared]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        if not loaded:
            raise self.all_failed()
        return Loaded(
            n_bytes=sum(one.n_bytes for one in loaded),
            n_written=sum(one.n_written for one in loaded),
            seconds=max(one.seconds for one in loaded),
        )

    def stream(
        self, samples: Iterable[StreamItem], *, maps: bool = False, counters: bool = True
    ) -> Generator[Inference, None, None]:
        yield from _Distribution(self, samples, maps, counters).outcomes()

    def fail(self, board: Board, error: DeviceError) -> None:
        """Record that a board has failed with ``error``, and no longer use it."""
        self._failures.append((board.device, error))

    def all_failed(self) -> DeviceError:
        """Return an exception that says that all boards of the group have failed, and why each
        did."""
        listing = "\n".join(f"  {device.port}: {error}" for device, error in self._failures)
        return DeviceError(f"all boards have failed:\n{listing}")


class _Distribution:
    """One stream of samples that is distributed among boards. A thread for each board takes samples
    and delivers results."""

    def __init__(
        self, group: BoardGroup, samples: Iterable[StreamItem], maps: bool, counters: bool
    ):
        self.group, self.maps, self.counters = group, maps, counters
        self.samples = iter(samples)
        self.n_taken = 0
        self.lock = threading.Lock()
        self.returned: deque[tuple[int, NDArray[np.uint8]]] = deque()
        """Unfinished samples of boards that have failed, with their numbers."""
        self.n_under_way = 0
        self.stopped = False
        self.finished: queue.Queue[tuple[int, Inference] | BaseException | None] = queue.Queue()
        """Queue of three kinds of items: results with the numbers of their samples, errors, and a
        None at the end of each thread."""
        self.ahead = threading.Semaphore(LOOK_AHEAD * len(group.boards))

    def _pull(self, held: deque[tuple[int, NDArray[np.uint8]]]) -> Iterator[StreamItem]:
        """Yield samples for one board. Yield None while no sample is available, or while no further
        one may be taken, because too many are under way (:data:`LOOK_AHEAD`).

        ``held`` lists the board's unfinished samples with their numbers. Each sample is appended to
        it before it is yielded; the caller removes a sample when its result has arrived."""
        while not self.stopped:
            # A board that has work must not wait here: the others may be waiting for its outcome.
            if not self.ahead.acquire(timeout=0 if held else 0.05):
                yield None
                continue
            with self.lock:
                item = self.returned.popleft() if self.returned else self._next()
                if item is not None and item[1] is not None:
                    self.n_under_way += 1
            if item is None or item[1] is None:
                self.ahead.release()
            if item is None:
                return
            if item[1] is None:
                yield None
                continue
            held.append((item[0], item[1]))
            yield item[1]

    def _next(self) -> tuple[int, StreamItem] | None:
        """Take the next sample from the stream, and return its number and the sample. Return a
        number and None if no sample is available yet. Return None alone at the end of the stream,
        and if the stream raises an exception; :meth:`outcomes` then raises this exception."""
        try:
            sample = next(self.samples)
        except StopIteration:
            return None
        except BaseException as error:
            self.finished.put(error)
            return None
        index = self.n_taken
        self.n_taken += sample is not None
        return index, sample

    def _work(self, board: Board) -> None:
        """Run samples on one board until no sample is left; each board's thread executes this. If
        the board fails, its unfinished samples are left to the others."""
        held: deque[tuple[int, NDArray[np.uint8]]] = deque()
        try:
            while not self.stopped:
                for inference in board.stream(
                    self._pull(held), maps=self.maps, counters=self.counters
                ):
                    index, _ = held.popleft()
                    with self.lock:
                        self.n_under_way -= 1
                    self.finished.put((index, inference))
                    if self.stopped:
                        return
                # Stay while another board may still fail and return its samples.
                with self.lock:
                    if not self.n_under_way and not self.returned:
                        return
                time.sleep(0.01)
        except DeviceError as error:
            with self.lock:
                self.returned.extend(held)
                self.n_under_way -= len(held)
                self.group.fail(board, error)
            for _ in held:
                self.ahead.release()
        except BaseException as error:
            self.finished.put(error)
        finally:
            self.finished.put(None)

    def outcomes(self) -> Generator[Inference, None, None]:
        """Start the threads, and yield the result of each sample in the order of the samples.
        Closing the generator ends the threads."""
        boards = self.group.boards
        if not boards:
            raise self.group.all_failed()
        threads = [threading.Thread(target=self._work, args=(board,)) for board in boards]
        for thread in threads:
            thread.start()
        early: dict[int, Inference] = {}
        n_yielded, n_ended = 0, 0
        try:
            while n_ended < len(threads):
                finished = self.finished.get()
                if finished is None:
                    n_ended += 1
                elif isinstance(finished, BaseException):
                    raise finished
                else:
                    early[finished[0]] = finished[1]
                while n_yielded in early:
                    inference = early.pop(n_yielded)
                    n_yielded += 1
                    self.ahead.release()
                    yield inference
            if self.returned:
                raise self.group.all_failed()
        finally:
            self.stopped = True
            for thread in threads:
                thread.join()


def open_boards(ports: str | None = None, baud: int | None = None) -> AnyBoard:
    """Open one board, or several boards that are used as one. Return the board, or the group of
    boards.

    Parameters
    ----------
    ports : port as in :meth:`sw.driver.board.Board.open`, or several of them separated by commas,
        such as ``"/dev/ttyUSB0,/dev/ttyUSB1"`` or ``"sim,sim"``. None looks for one board on all
        USB serial ports.
    baud : fastest rate of the serial line to use, in bits per second; None means the rate that each
        board reports.

    Raises
    ------
    DeviceNotFound, NotABoard, SpecMismatch, FaultSpecError
        A board cannot be opened, see :meth:`sw.driver.device.Device.open`. The boards that have
        been opened before it are closed again.
    """
    names = [name.strip() for name in ports.split(",")] if ports else [None]
    if len(names) == 1:
        return Board.open(names[0], baud)
    boards: list[Board] = []
    try:
        boards.extend(Board.open(name, baud) for name in names)
    except BaseException:
        for board in boards:
            board.close()
        raise
    return BoardGroup(boards)
