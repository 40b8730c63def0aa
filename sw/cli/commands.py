"""Exit codes, argument parser and error handling that all commands of :mod:`sw.cli` share.

Most names come from :mod:`hw.tools.command`; errors of devices and of output files are added here.
"""

from __future__ import annotations

import os
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
    "output_path",
]

P = ParamSpec("P")


def output_path(out: Path | None, source: Path, suffix: str, *, here: bool = False) -> Path:
    """Return the path of the file that a command makes from the file ``source``, after checking
    that it can be written.

    Parameters
    ----------
    out : path that the user named; None for ``source`` with the suffix ``suffix``.
    here : put a file that the user did not name into the current folder, not beside ``source``.

    Raises
    ------
    OutputError
        The file cannot be written (:func:`check_output`), or ``out`` is ``source`` itself. A name
        that the user did not choose is not checked if ``source`` is missing, the better error.
    """
    path = out
    if path is None:
        path = source.with_suffix(suffix) if source.name else source
        path = Path(path.name) if here else path
    if out is not None or source.is_file():
        check_output(path)
    if out is not None and path.is_file() and source.is_file() and path.samefile(source):
        raise OutputError(f"{path} is the file that is read: name another file with -o")
    return path


def check_output(path: Path | None) -> None:
    """Check that an output file can be written.

    Every command calls this with its output files before any work, so that the result of long work
    can then be written. Nothing is checked if ``path`` is None.

    Raises
    ------
    OutputError
        The path is a folder, or its folder does not exist or does not allow new files.
    """
    if path is None:
        return
    target = Path(os.path.realpath(path))  # write_whole follows symbolic links, too
    folder = target.parent
    if target.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder, name a file in it")
    if not folder.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {folder}, create it first")
    direct = target.exists() and not target.is_file()  # such as /dev/stdout
    if not os.access(target if direct else folder, os.W_OK):
        what = target if direct else f"the folder {folder}"
        raise OutputError(f"{path} cannot be written: no permission to write to {what}")


def command(
    *errors: type[Exception], interrupted: str = "interrupted"
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Return a decorator that turns a command's expected exceptions into messages and exit codes.

    Exceptions of the types ``errors`` and :class:`sw.files.OutputError` give the exit code for bad
    input; :class:`sw.driver.errors.DeviceError` gives the code for a missing or failed device.
    ``interrupted`` is the message after Ctrl-C.
    """
    return ending(*errors, OutputError, device=(DeviceError,), interrupted=interrupted)
