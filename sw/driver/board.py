"""Driver for one board: load a network and classify samples. It needs NumPy, but not PyTorch.

>>> with Board.open("sim:ulx3s-85f") as board:  # doctest: +SKIP
...     board.load("net.spikefold")
...     logits = board.infer(images)
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hw.protocol import spec_hash
from hw.spec import Config
from sw.compile.compiler import compile_network
from sw.compile.program import Program
from sw.driver.any_board import AnyBoard, Loadable
from sw.driver.device import Device
from sw.driver.errors import LinkTimeout, RequestRefused
from sw.driver.inference import Inference, StreamItem
from sw.driver.loading import Loaded, LoadProgress, load_bytes, recover, write_program
from sw.driver.memory import Progress
from sw.driver.pipeline import Pipeline
from sw.driver.transport import LinkCounters
from sw.network import netfile
from sw.network.netfile import NetworkFile
from sw.network.network import Network


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network that has been compiled for a board, but not written to it yet.

    ``network`` is None if only its compiled form, a program, was given.
    """

    program: Program
    network: Network | None


class Board(AnyBoard):
    """A single real or virtual board that runs networks. Use it as a context manager, which closes
    its serial port.

    Attributes
    ----------
    device : gives access to the board's memories, runs and serial link.
    """

    def __init__(self, device: Device):
        self.device = device
        self._program: Program | None = None
        self._network: Network | None = None

    @classmethod
    def open(cls, port: str | None = None, baud: int | None = None) -> Board:
        """Open one board on a serial port, and return it. To use several as one, call
        :func:`sw.driver.group.open_boards`.

        Parameters
        ----------
        port : port as in :meth:`sw.driver.device.Device.open`, such as ``"/dev/ttyUSB0"`` for a
            real board or ``"sim"`` for a virtual one; None looks for a board on the USB serial
            ports.
        baud : fastest rate of the serial line to use, in bits per second; None means the rate that
            the board reports.

        Raises
        ------
        DeviceNotFound, NotABoard, SpecMismatch, FaultSpecError
            See :meth:`sw.driver.device.Device.open`.
        """
        return cls(Device.open(port, baud))

    def close(self) -> None:
        self.device.close()

    @property
    def config(self) -> Config:
        return self.device.config

    @property
    def port(self) -> str:
        return self.device.port

    @property
    def program(self) -> Program:
        if self._program is None:
            raise RuntimeError("no program is loaded: call load first")
        return self._program

    @property
    def devices(self) -> list[Device]:
        return [self.device]

    @property
    def counters(self) -> LinkCounters:
        return replace(self.device.transport.counters)

    def clock_s(self) -> float:
        n_cycles = self.device.clock_cycles()
        return super().clock_s() if n_cycles is None else n_cycles / self.config.clk_hz

    def compiled(self, network: Loadable) -> list[Program]:
        return [self.prepare(network).program]

    def load(self, network: Loadable, on_progress: Progress | None = None) -> Loaded:
        return self.write(self.prepare(network), on_progress)

    def prepare(self, network: Loadable, *, pixels: bool = True) -> Prepared:
        """Compile a network for this board, and write nothing. If a program is given, it is
        returned without being compiled again.

        Parameters
        ----------
        network : see :meth:`load`.
        pixels : let the board compute the encoder (a first layer that turns pixels into spikes), if
            it can (:func:`sw.compile.compiler.compile_network`). Otherwise the host computes it.

        Raises
        ------
        ValueError
            The program was compiled for a different configuration.
        sw.compile.program.FitError
            The network does not fit the board.
        sw.network.netfile.NetworkFileError
            The file cannot be read, or is no network file.
        """
        if isinstance(network, str | Path):
            network = netfile.load(network)
        if isinstance(network, NetworkFile):
            network = network.network
        if isinstance(network, Network):
            return Prepared(compile_network(network, self.config, pixels=pixels), network)
        if spec_hash(network.config) != spec_hash(self.config):
            raise ValueError(
                f"the program is for {network.config.name!r}, the device is "
                f"{self.config.name!r}; compile it again, for example by loading "
                "its network in place of the program"
            )
        return Prepared(network, None)

    def write(self, prepared: Prepared, on_progress: Progress | None = None) -> Loaded:
        """Write a compiled network, the result of :meth:`prepare`, into the board's memories.

        If the link fails, the board is recovered and everything is written again; no byte is
        reported twice to ``on_progress``. Exceptions are those of :meth:`load`.
        """
        started = time.perf_counter()
        self._program = None
        progress = None if on_progress is None else LoadProgress(on_progress)
        n_failures = 0
        while True:
            if progress is not None:
                progress.start()
            try:
                n_written = write_program(self.device, prepared.program, progress)
                break
            except (LinkTimeout, RequestRefused) as error:
                n_failures += 1
                recover(self.device, error, n_failures)
        self._program, self._network = prepared.program, prepared.network
        return Loaded(
            n_bytes=load_bytes(prepared.program),
            n_written=n_written,
            seconds=time.perf_counter() - started,
        )

    def stream(
        self, samples: Iterable[StreamItem], *, maps: bool = False, counters: bool = True
    ) -> Generator[Inference, None, None]:
        pipeline = Pipeline(
            self.device, self.program, self._network, samples, maps=maps, counters=counters
        )
        yield from pipeline.outcomes()
