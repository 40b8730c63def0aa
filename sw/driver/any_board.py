"""Interface shared by a single board and by several boards that work together."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hw.spec import Config
from sw.compile.program import Program
from sw.driver.device import Device
from sw.driver.errors import DeviceError
from sw.driver.inference import Inference, StreamItem
from sw.driver.loading import Loaded
from sw.driver.memory import Progress
from sw.driver.transport import LinkCounters
from sw.network.netfile import NetworkFile
from sw.network.network import Network

Loadable = str | Path | NetworkFile | Network | Program
"""Types that a board can load: a network file or its path, a network, or a program (a network that
has been compiled for the board's configuration)."""


class AnyBoard(ABC):
    """Interface for running networks on one board (:class:`sw.driver.board.Board`) or on a group of
    boards that share the samples (:class:`sw.driver.group.BoardGroup`). Use it as a context
    manager, which closes the serial ports."""

    @property
    @abstractmethod
    def config(self) -> Config:
        """Hardware configuration that the board reported (lanes, sizes of memories, clock, ...); in
        a group, the configuration of the first board."""

    @property
    @abstractmethod
    def port(self) -> str:
        """Path or name of the board's serial port; in a group, all ports joined by commas."""

    @property
    @abstractmethod
    def program(self) -> Program:
        """Compiled network that was loaded into the board; in a group, into the first board in use.

        Raises
        ------
        RuntimeError
            No network has been loaded, or all boards of a group have failed.
        """

    @property
    @abstractmethod
    def devices(self) -> list[Device]:
        """Devices in use (:class:`sw.driver.device.Device`), one per board, without those that have
        failed."""

    @property
    @abstractmethod
    def counters(self) -> LinkCounters:
        """Bytes transferred and errors counted on the serial links since they were opened, summed
        over all boards."""

    @property
    def failures(self) -> Sequence[tuple[Device, DeviceError]]:
        """Boards of a group that have failed and are no longer used, each with its error. Always
        empty for a single board."""
        return []

    @property
    def virtual(self) -> bool:
        """Whether any of the boards in use is simulated, see
        :attr:`sw.driver.device.Device.virtual`."""
        return any(device.virtual for device in self.devices)

    def clock_s(self) -> float:
        """Return the current time in seconds, for measuring how fast boards work: the simulated
        clock if this is a single virtual board, else the wall clock. Only differences of two such
        times have a meaning.
        """
        return time.monotonic()

    @abstractmethod
    def compiled(self, network: Loadable) -> list[Program]:
        """Compile a network as :meth:`load` does, but write nothing to the boards.

        The result has one program (a compiled network) for each board in use. Parameters and
        exceptions are those of :meth:`load`.
        """

    @abstractmethod
    def load(self, network: Loadable, on_progress: Progress | None = None) -> Loaded:
        """Load a network, and return how much was written and how long it took.

        Its weights, layer descriptors and parameters (biases and thresholds) are written into the
        board's memories and verified. Checksums are compared first, and data that the board already
        holds are not sent. Then the part of spike memory that the network uses is set to 0.

        Parameters
        ----------
        network : a network file or its path, a network, or a program (a network that has been
            compiled for this board's configuration). If it is a program, :meth:`stream` takes
            samples in the form that :meth:`sw.compile.program.Program.pack_input` takes.
        on_progress : called repeatedly, with the number of bytes that were written, or found in the
            board already, since the previous call. For each board that does not fail, these numbers
            add up to :func:`sw.driver.loading.load_bytes`.

        Raises
        ------
        ValueError
            The program was compiled for a different configuration.
        sw.compile.program.FitError
            The network does not fit the board. In a group, the contents of all boards then stay
            unchanged.
        sw.network.netfile.NetworkFileError
            The file cannot be read, or is no network file.
        MemoryFault
            A memory of the board does not return the data that was written to it.
        RequestRefused
            The board refused a request, and recovering the board would not help.
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        DeviceError
            All boards of a group have failed. The failure of a single one is recorded in
            :attr:`failures` instead.
        """

    @abstractmethod
    def stream(
        self, samples: Iterable[StreamItem], *, maps: bool = False, counters: bool = True
    ) -> Generator[Inference, None, None]:
        """Classify samples, and yield the result of each in the order of the samples. A board
        receives its next sample while it computes the current one.

        Parameters
        ----------
        samples : uint8 images (C, H, W) if the network has an encoder (a first layer that turns
            pixels into spikes), else uint8 spikes (T, C, H, W) of 0 and 1. If the host computes the
            encoder, a sample may also be the uint8 spikes (T, C, H, W) that the encoder makes of an
            image. Samples are taken from the iterable one by one, as the board needs them. If the
            iterable yields None, no sample is available yet. This method then yields the results
            that are ready, and asks the iterable again.
        maps : also read back the spikes of the input and of every layer. The board then computes
            one sample at a time and waits while its spikes are read.
        counters : let the board announce the counters of every layer with each result. Without
            them its announcements are shorter, so that a slow serial line carries more samples.

        Raises
        ------
        sw.network.encoder.InputError
            A sample has a type, shape or value that the network does not take.
        LinkTimeout, RunLost
            The board does not answer, or loses runs that it had started, even after
            :data:`sw.driver.loading.MAX_RECOVERIES` attempts to recover it.
        InvalidMessage
            The board sends a message that its protocol does not allow, or a predicted class that
            does not have the largest logit.
        LinkLost
            The board has been disconnected.
        RequestRefused
            The board refused a request, and recovering the board would not help.
        MemoryFault
            The network was written to the board again after a failure, but the board's memories do
            not return it.
        DeviceError
            All boards of a group have failed. The failure of a single one is recorded in
            :attr:`failures` instead.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the serial port of every board, and end the processes of virtual boards. A second
        call does nothing."""

    def infer(self, samples: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Classify N samples, and return their logits (N, n_classes).

        Samples are images (C, H, W) or spikes (T, C, H, W), as :meth:`stream` takes them.
        """
        logits = [inference.logits for inference in self.stream(samples)]
        return np.stack(logits) if logits else np.zeros((0, self.program.n_classes), np.int64)

    def observe(self, sample: NDArray[np.uint8], *, maps: bool = False) -> Inference:
        """Classify one sample and return its result.

        ``sample`` is an image (C, H, W) or spikes (T, C, H, W), as :meth:`stream` takes them. With
        ``maps``, the result has the spikes of the input and of every layer, too.
        """
        return next(self.stream([sample], maps=maps))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
