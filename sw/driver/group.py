"""Several boards as one."""

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
from sw.driver.board import Board
from sw.driver.device import Progress
from sw.driver.inference import Inference, Inferring, Loaded, Sample
from sw.driver.transport import DeviceError
from sw.network import netfile
from sw.network.netfile import NetworkFile
from sw.network.network import Network

LOOK_AHEAD = 4
"""Samples per board that may be done before the next one in order is."""


class Boards(Inferring):
    """Several boards as one: each sample goes to the next board that is free. If a board fails,
    its samples go to the others. Use as a context manager."""

    def __init__(self, boards: list[Board]):
        self._boards = boards
        self.failures: list[tuple[Board, DeviceError]] = []
        """Boards that have failed, and how."""

    @property
    def boards(self) -> list[Board]:
        """Those that work."""
        failed = [board for board, _ in self.failures]
        return [board for board in self._boards if board not in failed]

    @property
    def config(self) -> Config:
        """Configuration of the first board."""
        return self._boards[0].config

    @property
    def port(self) -> str:
        """Paths or names of the serial ports."""
        return ",".join(board.port for board in self._boards)

    @property
    def program(self) -> Program:
        """The program in the first board that works."""
        return self.boards[0].program

    def close(self) -> None:
        """Closes the ports; a second time does nothing."""
        for board in self._boards:
            board.close()

    def __enter__(self) -> Boards:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def load(
        self,
        network: str | Path | NetworkFile | Network | Program,
        on_progress: Progress | None = None,
    ) -> Loaded:
        """See :meth:`Board.load`; on all boards at once, so that progress comes from all."""
        if isinstance(network, str | Path):
            network = netfile.load(network, Program)
        loaded: list[Loaded] = []
        errors: list[BaseException] = []
        lock = threading.Lock()

        def progress(n: int) -> None:
            with lock:
                if on_progress is not None:
                    on_progress(n)

        def work(board: Board) -> None:
            try:
                loaded.append(board.load(network, progress))
            except DeviceError as error:
                self.failures.append((board, error))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(board,)) for board in self.boards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        if not loaded:
            raise self._none_left()
        return Loaded(
            n_bytes=sum(one.n_bytes for one in loaded),
            n_written=sum(one.n_written for one in loaded),
            seconds=max(one.seconds for one in loaded),
        )

    def _none_left(self) -> DeviceError:
        listing = "\n".join(f"  {board.port}: {error}" for board, error in self.failures)
        return DeviceError(f"no board is left:\n{listing}")

    def stream(
        self, samples: Iterable[Sample], *, maps: bool = False
    ) -> Generator[Inference, None, None]:
        """See :meth:`Board.stream`. Raises :class:`sw.driver.transport.DeviceError` when no board is left."""
        yield from _Distribution(self, samples, maps).results()


class _Distribution:
    """Samples among boards, each of which has a thread; outcomes in order."""

    def __init__(self, group: Boards, samples: Iterable[Sample], maps: bool):
        self.group, self.maps = group, maps
        self.samples = iter(samples)
        self.n_taken = 0
        self.lock = threading.Lock()
        self.again: deque[tuple[int, NDArray[np.uint8]]] = deque()
        """Samples of boards that have failed."""
        self.n_under_way = 0
        self.stopped = False
        self.outcomes: queue.Queue[tuple[int, Inference] | BaseException | None] = queue.Queue()
        self.ahead = threading.Semaphore(LOOK_AHEAD * len(group.boards))

    def _pull(self, held: deque[tuple[int, NDArray[np.uint8]]]) -> Iterator[Sample]:
        """Samples for one board; ``held`` are those that it has not finished."""
        while not self.stopped:
            # While this board has work it must not wait: the others may be waiting for that.
            if not self.ahead.acquire(timeout=0 if held else 0.05):
                yield None
                continue
            with self.lock:
                item = self.again.popleft() if self.again else self._next()
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

    def _next(self) -> tuple[int, Sample] | None:
        """The next sample with its number, if there is one; None after the last."""
        try:
            sample = next(self.samples)
        except StopIteration:
            return None
        except BaseException as error:
            self.outcomes.put(error)
            return None
        index = self.n_taken
        self.n_taken += sample is not None
        return index, sample

    def _work(self, board: Board) -> None:
        held: deque[tuple[int, NDArray[np.uint8]]] = deque()
        try:
            while not self.stopped:
                for inference in board.stream(self._pull(held), maps=self.maps):
                    index, _ = held.popleft()
                    with self.lock:
                        self.n_under_way -= 1
                    self.outcomes.put((index, inference))
                    if self.stopped:
                        return
                # A board that fails later may leave samples.
                with self.lock:
                    if not self.n_under_way and not self.again:
                        return
                time.sleep(0.01)
        except DeviceError as error:
            with self.lock:
                self.again.extend(held)
                self.n_under_way -= len(held)
                self.group.failures.append((board, error))
            for _ in held:
                self.ahead.release()
        except BaseException as error:
            self.outcomes.put(error)
        finally:
            self.outcomes.put(None)

    def results(self) -> Generator[Inference, None, None]:
        boards = self.group.boards
        if not boards:
            raise self.group._none_left()
        threads = [threading.Thread(target=self._work, args=(board,)) for board in boards]
        for thread in threads:
            thread.start()
        waiting: dict[int, Inference] = {}
        n_given, n_ended = 0, 0
        try:
            while n_ended < len(threads):
                outcome = self.outcomes.get()
                if outcome is None:
                    n_ended += 1
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    waiting[outcome[0]] = outcome[1]
                while n_given in waiting:
                    inference = waiting.pop(n_given)
                    n_given += 1
                    self.ahead.release()
                    yield inference
            if self.again:
                raise self.group._none_left()
        finally:
            self.stopped = True
            for thread in threads:
                thread.join()


AnyBoard = Board | Boards
"""One board, or several as one."""


def open_boards(ports: str | None = None, baud: int | None = None) -> AnyBoard:
    """Open a board, or several as one.

    Parameters
    ----------
    ports : what :meth:`sw.driver.board.Board.open` takes, or several of it separated by commas, such
        as ``"/dev/ttyUSB0,/dev/ttyUSB1"`` or ``"sim,sim"``.
    baud : fastest rate in bits per second; None leaves it to the board.

    Raises
    ------
    DeviceNotFound, NotABoard, SpecMismatch
        See :meth:`sw.driver.device.Device.open`; boards that were opened before are closed again.
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
    return Boards(boards)
