"""The process of a virtual board, which starts before its port is opened and ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from sw.driver.errors import DeviceNotFound


def is_virtual(path: str) -> bool:
    """Return whether a port is a pseudo terminal, as that of a virtual board is.

    A busy machine may keep such a board waiting, so that it needs longer timeouts.
    """
    return path.startswith("/dev/pts/")


class VirtualBoard:
    """A running virtual board, see :mod:`sim.virtual_board`.

    Attributes
    ----------
    port : path of its serial port.
    """

    def __init__(self, process: subprocess.Popen[str], port: str):
        self._process = process
        self.port = port

    @classmethod
    def start(cls, config_name: str, latency_ms: float = 0.0) -> VirtualBoard:
        """Start a virtual board. It also ends when this process does.

        Parameters
        ----------
        config_name : configuration, see :func:`hw.boards.configs.config_by_name`.
        latency_ms : delay of a simulated USB adapter in each direction, in simulated time.

        Raises
        ------
        DeviceNotFound
            The board did not start; it has printed why.
        """
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sim.virtual_board"),
                *("--config", config_name, "--latency", str(latency_ms)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            # Ctrl-C is for this process, which then closes the port and ends the board in order.
            start_new_session=True,
        )
        board = cls(process, "")
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
        """Process number; SIGUSR1 resets the device."""
        return self._process.pid

    def n_cycles(self) -> int:
        """Return the number of clock cycles simulated so far. The clock stands still while the
        board is idle."""
        self._process.send_signal(signal.SIGUSR2)
        return int(json.loads(self._read_line())["n_cycles"])

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        """End the process and wait for its end."""
        with self._process, contextlib.suppress(ProcessLookupError):  # closes the pipes and waits
            os.killpg(self._process.pid, signal.SIGTERM)  # the group may include a compiler
