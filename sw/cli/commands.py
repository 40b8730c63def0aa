"""What commands have in common: exit codes, errors of ours as messages, files for results."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from sw.driver.results import INTERRUPTED
from sw.driver.transport import DeviceError
from sw.files import OutputError

EXIT_OK = 0
EXIT_BAD_INPUT = 2
EXIT_DEVICE = 3
EXIT_INTERRUPTED = 130

P = ParamSpec("P")


def check_output(path: Path | None) -> None:
    """Before work that would be lost: whether the folder of a file for results is there.

    Raises
    ------
    OutputError
    """
    if path is not None and not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")


def command(
    *errors: type[Exception], interrupted: str = INTERRUPTED
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Lets a command end with a message and an exit code where it would raise one of ``errors``
    (bad input), an error of a device, or KeyboardInterrupt."""

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def ending(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except (*errors, OutputError, DeviceError) as error:
                print(f"error: {error}", file=sys.stderr)
                return EXIT_DEVICE if isinstance(error, DeviceError) else EXIT_BAD_INPUT
            except KeyboardInterrupt:
                print(interrupted, file=sys.stderr)
                return EXIT_INTERRUPTED

        return ending

    return decorate
