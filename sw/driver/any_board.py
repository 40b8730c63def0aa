"""The interface that one board and several boards share."""

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
"""A network file or its path, a network, or a program."""


class AnyBoard(ABC):
    """One board (:class:`sw.driver.board.Board`) or several that work as one
    (:class:`sw.driver.group.BoardGroup`). Use as a context manager."""

    @property
    @abstractmethod
    def config(self) -> Config:
        """Configuration that the board reported; of several boards, the first one's."""

    @property
    @abstractmethod
    def port(self) -> str:
        """Path or name of the serial port; of several boards, all of them joined by commas."""

    @property
    @abstractmethod
    def program(self) -> Program:
        """Program that is loaded.

        Raises
        ------
        RuntimeError
            No program is loaded.
        """

    @property
    @abstractmethod
    def devices(self) -> list[Device]:
        """Devices that work: all but those that have failed."""

    @property
    @abstractmethod
    def counters(self) -> LinkCounters:
        """Traffic and errors of the links so far, all devices together."""

    @property
    def failures(self) -> Sequence[tuple[Device, DeviceError]]:
        """Devices that have failed while others went on, each with its error."""
        return []

    @property
    def virtual(self) -> bool:
        """Whether any device is simulated."""
        return any(device.virtual for device in self.devices)

    def clock_s(self) -> float:
        """Return the time in seconds that speeds refer to, from an arbitrary start."""
        return time.monotonic()

    @abstractmethod
    def load(self, network: Loadable, on_progress: Progress | None = None) -> Loaded:
        """Load a network, verify the memories, and clear the spikes. What the memories hold already
        is not sent again.

        Parameters
        ----------
        network : a network file or its path, a network, or a program for this board's
            configuration. After loading a program, :meth:`stream` takes what
            :meth:`sw.compile.program.Program.pack_input` takes.
        on_progress : called with the number of bytes that are in place since the last call, which
            add up to :func:`sw.driver.loading.load_bytes` per device.

        Raises
        ------
        ValueError
            A program was compiled for a different configuration.
        sw.compile.program.FitError
            The network does not fit.
        sw.network.netfile.NetworkFileError
            The file cannot be used.
        MemoryFault
            The board does not hold what was written to it.
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """

    @abstractmethod
    def stream(
        self, samples: Iterable[StreamItem], *, maps: bool = False
    ) -> Generator[Inference, None, None]:
        """Classify samples and yield their outcomes in order. The board receives the next sample
        while it runs one.

        Parameters
        ----------
        samples : images (C, H, W) of uint8 if the network has an encoder, or spikes (T, C, H, W) of
            0 and 1 for its input map. They are taken one by one as the board needs them. An item
            that is None means that no sample is available yet, so that finished outcomes are
            yielded first.
        maps : read back the spikes of every map, which keeps the board waiting.

        Raises
        ------
        sw.network.encoder.InputError
            A sample does not suit the network.
        LinkTimeout
            The board does not answer, even after :data:`sw.driver.loading.MAX_RECOVERIES` attempts
            to recover it.
        LinkLost, RequestRefused, MemoryFault
        DeviceError
            All of several boards have failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the serial port. Closing it again does nothing."""

    def infer(self, samples: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Return the logits (N, n_classes) of N samples, see :meth:`stream`."""
        logits = [inference.logits for inference in self.stream(samples)]
        return np.stack(logits) if logits else np.zeros((0, self.program.n_classes), np.int64)

    def observe(self, sample: NDArray[np.uint8], *, maps: bool = False) -> Inference:
        """Classify one sample, see :meth:`stream`."""
        return next(self.stream([sample], maps=maps))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
