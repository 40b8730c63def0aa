"""The virtual board's process: started before its port is opened, ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from sw.driver.transport import DeviceNotFound


def is_virtual(path: str) -> bool:
    """The port is a pseudo terminal, behind which a busy machine may keep a board waiting."""
    return path.startswith("/dev/pts/")


def start_virtual_board(
    config_name: str, latency_ms: float = 0.0
) -> tuple[subprocess.Popen[str], str]:
    """Starts the virtual board, which ends when its standard input is closed."""
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    board = subprocess.Popen(
        [
            *(sys.executable, "-m", "sim.virtual_board"),
            *("--config", config_name, "--latency", str(latency_ms)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        # Ctrl-C is for this process, which then closes the port and the board in order.
        start_new_session=True,
    )
    assert board.stdout is not None
    try:
        port = board.stdout.readline().strip()
    except BaseException:
        stop_virtual_board(board)
        raise
    if not port:
        stop_virtual_board(board)
        raise DeviceNotFound(
            f"the virtual board {config_name!r} did not start; its message is above"
        )
    return board, port


def stop_virtual_board(board: subprocess.Popen[str]) -> None:
    with board, contextlib.suppress(ProcessLookupError):  # closes the pipes and waits
        os.killpg(board.pid, signal.SIGTERM)  # it may have started a compiler
