"""Exit codes, argument parser and error handling that all commands of :mod:`sw.cli` share.

Most names come from :mod:`hw.tools.command`; errors of devices and of output files are added here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from hw.tools.command import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_NO,
    EXIT_OK,
    CommandParser,
    as_called,
    called_through,
    ending,
    exit_codes,
)
from sw.driver.errors import DeviceError
from sw.files import OutputError

__all__ = [
    "EXIT_BAD_INPUT",
    "EXIT_DEVICE",
    "EXIT_INTERRUPTED",
    "EXIT_NO",
    "EXIT_OK",
    "CommandParser",
    "as_called",
    "called_through",
    "check_output",
    "command",
    "exit_codes",
]

P = ParamSpec("P")


def check_output(path: Path | None) -> None:
    """Check that the folder of an output file exists.

    Commands call this before long work, so that its result can then be written. Nothing is checked
    if ``path`` is None.

    Raises
    ------
    OutputError
        The folder does not exist.
    """
    if path is not None and not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")


def command(
    *errors: type[Exception], interrupted: str = "interrupted"
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Return a decorator that turns a command's expected exceptions into messages and exit codes.

    ``errors`` and :class:`sw.files.OutputError` give the exit code for bad input, and
    :class:`sw.driver.errors.DeviceError` the code for a missing or failed device. ``interrupted``
    is the message after Ctrl-C.
    """
    return ending(*errors, OutputError, device=(DeviceError,), interrupted=interrupted)
