"""What the commands of :mod:`sw.cli` share: the habits of :mod:`hw.tools.command`, and errors of
devices and of output files."""

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
    """Check that the folder of an output file exists, before work whose results would be lost.

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
    """Make a command end with a message and an exit code (:func:`hw.tools.command.ending`) where it
    would raise one of ``errors``, which mean bad input, or an error of a device or an output file.
    """
    return ending(*errors, OutputError, device=(DeviceError,), interrupted=interrupted)
