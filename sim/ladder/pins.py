"""Check of a simulated device at its serial pins, through Spikefold's own driver.

Several rungs (checks) of the ladder use it, each with another form of the device
(:mod:`sim.ladder.rungs`).
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hw.protocol import Space, row_bytes
from hw.spec import Config
from sim.ladder.netlist import LadderError
from sim.ladder.vectors import Vector
from sw.compile.cycles import predict_cycles
from sw.driver import check
from sw.driver.board import Board
from sw.driver.device import Device
from sw.network import encoder

RECOVERY_TIMEOUT_S = 2.0
"""Time in seconds that the driver waits for a reply after the device's PLL has lost its lock."""
MAX_READ_BACK = 64
"""Largest number of rows of each memory that are read back after a network has been loaded."""
N_SHOWN = 3
"""Largest number of differences that an error message lists."""


@dataclass(kw_only=True)
class Tally:
    """Summary of a check at the pins of a device: what was run, and what was found equal.

    Attributes
    ----------
    n_networks, n_samples : number of networks that were run, and of their samples.
    n_spikes, n_logits, n_counters : number of elements of spike maps, of logits and of counters
        that were compared.
    n_rows : number of rows of the memories that were read back and compared.
    baud : baud rate of the line, on which device and driver agreed.
    n_cycles : number of clock cycles that were simulated.
    largest_fill : largest share of weight memory that a network took, from 0 to 1.
    """

    n_networks: int = 0
    n_samples: int = 0
    n_spikes: int = 0
    n_logits: int = 0
    n_counters: int = 0
    n_rows: int = 0
    baud: int = 0
    n_cycles: int = 0
    largest_fill: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.n_networks} networks (one takes {self.largest_fill:.0%} of the weights), "
            f"{self.n_samples} samples, {self.n_spikes:,} spikes, {self.n_logits} logits, "
            f"{self.n_counters} counters, {self.n_rows} rows read back, {self.baud} baud, 1 lost "
            f"lock, {self.n_cycles / 1e6:.1f} M cycles"
        )


class Model:
    """Handle of a running process that simulates a device."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        assert process.stdout is not None
        self._lines = process.stdout
        self.port = self._lines.readline().strip()

    def lose_lock(self) -> None:
        """Make the device's PLL lose its lock for some cycles, which resets the device."""
        self._process.send_signal(signal.SIGUSR1)

    def n_cycles(self) -> int:
        """Return the number of clock cycles simulated so far."""
        self._process.send_signal(signal.SIGUSR2)
        return int(json.loads(self._lines.readline())["n_cycles"])


@contextmanager
def running(program: Path) -> Iterator[Model]:
    """Run the simulation ``program`` of a device (:mod:`sim.virtual_board`) while the ``with``
    block runs."""
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Model(process)
        finally:
            process.terminate()


def climb(program: Path, config: Config, vectors: Sequence[Vector], *, patience_s: float) -> Tally:
    """Use a simulated device as a board is used, and compare all its results with the expected
    ones.

    The driver identifies the device and agrees on the fastest rate. It loads each network, reads
    rows of the memories back, and runs the samples. Before the last sample of the first network,
    the PLL loses its lock. All spikes, logits, classes and counters of operations are compared with
    the integer reference. The cycles of each layer are compared with those that the compiler
    predicts.

    Parameters
    ----------
    program : executable model of the device.
    vectors : networks and samples; the first has at least two samples.
    patience_s : how many seconds the driver waits for a reply. A model of every gate is slow.

    Raises
    ------
    LadderError
        Something differs; the message says what.
    DeviceError
        The device does not answer.
    """
    tally = Tally()
    with (
        running(program) as model,
        Device.open_with(model.port, lambda port: port, timeout_s=patience_s) as device,
    ):
        if device.config != config:
            raise LadderError(f"the device says that it is {device.config}, not {config}")
        tally.baud = device.transport.baud
        if tally.baud != config.baud:
            raise LadderError(f"the line runs at {tally.baud} baud, not at {config.baud}")
        board = Board(device)
        for number, vector in enumerate(vectors):
            board.load(vector.program)
            _read_back(device, vector, tally)
            for index in range(len(vector.samples)):
                if number == 0 and index == len(vector.samples) - 1:
                    _without_lock(model, board, vector, index, tally)
                else:
                    _run(board, vector, index, tally)
            tally.n_networks += 1
            tally.largest_fill = max(tally.largest_fill, vector.fill)
        tally.n_cycles = model.n_cycles()
    return tally


def _without_lock(model: Model, board: Board, vector: Vector, index: int, tally: Tally) -> None:
    """Make the PLL lose its lock, which resets the device, and run sample number ``index``.

    The driver must notice the reset and recover the device by itself.

    Raises
    ------
    LadderError
        The result differs, the driver did not notice the reset, or the line had errors before.
    """
    transport = board.device.transport
    before, patience_s = replace(transport.counters), transport.timeout_s
    if before.n_bad_frames or before.n_recoveries:
        raise LadderError(f"the line had errors: {before}")
    model.lose_lock()
    # The device answers at another rate now: no patience helps until the driver has recovered it.
    transport.timeout_s = min(RECOVERY_TIMEOUT_S, patience_s)
    _run(board, vector, index, tally)
    transport.timeout_s = patience_s
    if transport.counters.n_recoveries == before.n_recoveries:
        raise LadderError("the driver did not notice that the PLL lost its lock")


def _read_back(device: Device, vector: Vector, tally: Tally) -> None:
    """Read the first and the last rows of each memory, and compare them with what was loaded."""
    for space, image in vector.program.images.items():
        size = row_bytes(Space(space), device.config)
        n_loaded = len(image) // size
        n = min(n_loaded, MAX_READ_BACK // 2)
        for first in sorted({0, n_loaded - n}):
            found = device.memory.read(Space(space), first, n)
            if found != image[first * size : (first + n) * size]:
                raise LadderError(
                    f"{vector.name}: rows {first} to {first + n - 1} of {Space(space).name} differ "
                    "from those that were loaded"
                )
            tally.n_rows += n


def _run(board: Board, vector: Vector, index: int, tally: Tally) -> None:
    """Run sample number ``index``, and compare everything that the device reports.

    Spikes, logits, class and counters must equal those of the integer reference, and the cycles of
    each layer those that the compiler predicts.

    Raises
    ------
    LadderError
        Something differs.
    """
    images = vector.samples[index : index + 1]
    frames = encoder.inputs(vector.network, images, vector.program.pixels)
    (found,) = board.stream(frames, maps=True)
    maps = {name: spikes[index] for name, spikes in vector.trace.spikes.items()}
    problems = list(
        check.differences(index, vector.network, found, vector.trace.logits[index], maps)
    )
    if missing := set(maps) - set(found.maps):
        problems.append(f"image {index}: the maps {', '.join(sorted(missing))} were not read")
    for name, n_cycles in predict_cycles(vector.program, found.maps).items():
        counted = found.counters[name].n_cycles
        tally.n_counters += 3
        if counted != n_cycles:
            problems.append(f"image {index}, layer {name}: {counted} cycles, predicted {n_cycles}")
    if problems:
        raise LadderError(f"{vector.name}: {'; '.join(problems[:N_SHOWN])}")
    tally.n_samples += 1
    tally.n_spikes += sum(int(np.size(spikes)) for spikes in maps.values())
    tally.n_logits += len(found.logits)
