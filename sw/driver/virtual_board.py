"""Start and stop of a virtual board, a process that simulates a board's gateware behind a serial
port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from hw.boards.configs import config_by_name
from hw.protocol import Space
from hw.spec import SpecError
from sw.driver.errors import DeviceNotFound, LinkLost
from sw.driver.sdram_file import SdramFile


def is_virtual(path: str) -> bool:
    """Return whether a port is a pseudo terminal, the kind of port that a virtual board provides.

    Callers use longer timeouts for a virtual board, because it answers late on a busy machine.
    """
    return path.startswith("/dev/pts/")


class VirtualBoard:
    """Running process of a virtual board, see :mod:`sim.virtual_board`.

    Attributes
    ----------
    port : path of the serial port that the process provides.
    sdram : contents of the board's memory outside the FPGA; None if the board has no such memory.
    """

    def __init__(self, process: subprocess.Popen[str], port: str, sdram: SdramFile | None = None):
        self._process = process
        self.port = port
        self.sdram = sdram

    @classmethod
    def start(cls, config_name: str, latency_ms: float = 0.0) -> VirtualBoard:
        """Start a virtual board, and return it. Its process ends when :meth:`stop` is called or
        the calling process ends.

        Parameters
        ----------
        config_name : name of the hardware configuration, see
            :func:`hw.boards.configs.config_by_name`.
        latency_ms : delay by a simulated USB adapter in each direction, in milliseconds of
            simulated time.

        Raises
        ------
        DeviceNotFound
            The virtual board did not start. Its process has printed why on standard error.
        """
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        sdram, options = _sdram_file(config_name), []
        if sdram is not None:
            options = ["--sdram", str(sdram.path)]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sim.virtual_board"),
                *("--config", config_name, "--latency", str(latency_ms), "--direct"),
                *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            # Ctrl-C is for this process, which then closes the port and ends the board in order.
            start_new_session=True,
        )
        board = cls(process, "", sdram)
        try:
            board.port = board._read_line()
        except BaseException:
            board.stop()
            raise
        if not board.port:
            board.stop()
            raise DeviceNotFound(
                f"the virtual board {config_name!r} did not start; its message is above"
            )
        return board

    @property
    def pid(self) -> int:
        """Process ID of the virtual board. The signal SIGUSR1 to this process resets the simulated
        device."""
        return self._process.pid

    def n_cycles(self) -> int:
        """Return the number of clock cycles simulated so far. The simulated clock stands still
        while the board is idle."""
        self._process.send_signal(signal.SIGUSR2)
        return int(json.loads(self._read_line())["n_cycles"])

    def write_rows(self, space: int, row: int, n_row_bytes: int, rows: bytes) -> None:
        """Write rows directly into a memory of the simulated device, without its serial line, while
        it is idle.

        This takes no simulated time. As after a WRITE request, the caller must verify the rows
        itself, for example by a CHECK request.

        Parameters
        ----------
        space, row : memory (:class:`hw.protocol.Space`), and index of the first row, which must be
            0 for memory outside the FPGA.
        n_row_bytes : number of bytes of a row, see :func:`hw.protocol.row_bytes`.
        rows : the rows, as a WRITE request carries them.

        Raises
        ------
        LinkLost
            The process has ended.
        """
        if space == Space.OFFCHIP:
            assert row == 0 and self.sdram is not None
            self.sdram.write(rows)
            return
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        header = struct.pack("=4I", space, row, len(rows) // n_row_bytes, n_row_bytes)
        with contextlib.suppress(OSError):  # a pipe without a reader, which then answers nothing
            left = memoryview(header + rows)
            while left:
                left = left[os.write(pipe, left) :]
        if self._read_line() != "ok":
            raise LinkLost(f"the virtual board on {self.port} has ended. Open it again")

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        """End the virtual board's process, and wait until it has ended."""
        with self._process, contextlib.suppress(ProcessLookupError):  # closes the pipes and waits
            os.killpg(self._process.pid, signal.SIGTERM)  # the group may include a compiler
        if self.sdram is not None:
            self.sdram.path.unlink(missing_ok=True)


def _sdram_file(config_name: str) -> SdramFile | None:
    """Return a new file for the SDRAM of a virtual board.

    Return None if the configuration has no SDRAM. Also return None if no configuration has this
    name: the virtual board's process then reports that.
    """
    try:
        config = config_by_name(config_name)
    except SpecError:
        return None  # the board's process says what is wrong
    if not config.offchip_depth:
        return None
    handle, path = tempfile.mkstemp(prefix="spikefold-", suffix=".sdram")
    os.close(handle)
    return SdramFile(Path(path), config)
