"""Driver for one board: load a network and classify samples. It needs NumPy, but not PyTorch.

>>> with Board.open("sim:ulx3s-85f") as board:  # doctest: +SKIP
...     board.load("net.spikefold")
...     logits = board.infer(images)
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path

from hw.protocol import spec_hash
from hw.spec import Config
from sw.compile.compiler import compile_network
from sw.compile.program import Program
from sw.driver.any_board import AnyBoard, Loadable
from sw.driver.device import Device
from sw.driver.errors import LinkTimeout, RequestRefused
from sw.driver.inference import Inference, StreamItem
from sw.driver.loading import Loaded, load_bytes, program_for, recover, write_program
from sw.driver.memory import Progress
from sw.driver.pipeline import Pipeline
from sw.driver.transport import LinkCounters
from sw.network import netfile
from sw.network.netfile import NetworkFile
from sw.network.network import Network


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
        """Open one board on a serial port. To use several as one, call
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

    def load(self, network: Loadable, on_progress: Progress | None = None) -> Loaded:
        program, source = self._compiled(network)
        if spec_hash(program.config) != spec_hash(self.config):
            raise ValueError(
                f"the program is for {program.config.name!r}, the device is "
                f"{self.config.name!r}; compile it again, for example by loading "
                "its network in place of the program"
            )
        started = time.perf_counter()
        self._program = None
        n_written = self._write(program, on_progress)
        self._program, self._network = program, source
        return Loaded(
            n_bytes=load_bytes(program),
            n_written=n_written,
            seconds=time.perf_counter() - started,
        )

    def _compiled(self, network: Loadable) -> tuple[Program, Network | None]:
        """Compile a network for this board unless it has been compiled for it already, and return
        the program and the network. The network is None if only a program was given."""
        if isinstance(network, str | Path):
            network = netfile.load(network, Program)
        if isinstance(network, NetworkFile):
            program, _ = program_for(network.network, network.program, self.config)
            return program, network.network
        if isinstance(network, Network):
            return compile_network(network, self.config), network
        return network, None

    def _write(self, program: Program, on_progress: Progress | None) -> int:
        """Write a program into the board's memories and return the number of bytes written.

        If the link fails, the board is recovered and all is written again. ``on_progress`` is
        called during the first attempt only.
        """
        n_failures = 0
        while True:
            try:
                return write_program(self.device, program, None if n_failures else on_progress)
            except (LinkTimeout, RequestRefused) as error:
                n_failures += 1
                recover(self.device, error, n_failures)

    def stream(
        self, samples: Iterable[StreamItem], *, maps: bool = False
    ) -> Generator[Inference, None, None]:
        yield from Pipeline(self.device, self.program, self._network, samples, maps).outcomes()
