"""Parts that all commands share: exit codes, errors as messages, and the parser of arguments.

A command is called as ``python -m sw.NAME`` or, through another program, as ``PREFIX NAME``, such
as ``spikefold NAME``. Its help and messages show the form that was used.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ParamSpec

from hw.text import printable

EXIT_OK = 0
"""Exit code of a command that succeeded."""
EXIT_NO = 1
"""Exit code of a command whose answer is no: results differ, a network does not fit, a bitstream is
stale."""
EXIT_BAD_INPUT = 2
"""Exit code if an argument or a file is invalid, or a program that is needed is missing."""
EXIT_DEVICE = 3
"""Exit code if no device is found, or the device failed."""
EXIT_INTERRUPTED = 130
"""Exit code after an interrupt by Ctrl-C."""

P = ParamSpec("P")

_prefix: ContextVar[str | None] = ContextVar("prefix", default=None)
"""Program through which commands were called, such as ``spikefold``. None means that commands are
called as ``python -m sw.NAME`` or ``python -m hw.NAME``."""


@contextlib.contextmanager
def called_through(prefix: str) -> Iterator[None]:
    """Make help and messages show commands as ``PREFIX NAME``, while the ``with`` block runs."""
    token = _prefix.set(prefix)
    try:
        yield
    finally:
        _prefix.reset(token)


def as_called(text: str) -> str:
    """Return ``text`` with each command ``python -m ...`` replaced by the form in which commands
    were called.

    If ``spikefold`` was called, for example, ``python -m sw.run`` becomes ``spikefold run``.
    """
    prefix = _prefix.get()
    return text if prefix is None else re.sub(r"python -m [sh]w\.(?=\w)", f"{prefix} ", text)


class CommandParser(argparse.ArgumentParser):
    """Parser of a command's arguments, whose help shows the command as it was called.

    In ``prog``, ``description`` and ``epilog``, write commands in the form ``python -m sw.NAME``;
    the parser replaces this form as :func:`as_called` does. It keeps the line breaks of description
    and epilog.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self.prog = as_called(self.prog)
        self.description = as_called(self.description or "")
        self.epilog = as_called(self.epilog or "")


def end_quietly() -> None:
    """Make Ctrl-C end this process with :data:`EXIT_INTERRUPTED` and without a traceback.

    :func:`ending` does the same while a command runs. Before that, importing the command's modules
    takes seconds; so packages of commands call this function first. If the process runs one of the
    commands, Ctrl-C ends it at once, because modules that are being imported may ignore the
    exception.
    """
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            show(kind, error, trace)
            return
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED)

    sys.excepthook = hook
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def _is_command() -> bool:
    """Return whether this process was started to run one of the commands."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = Path(sys.argv[0]).name if spec is None else spec.name
    return name == "spikefold" or name.partition(".")[0] in ("hw", "sw", "sim")


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C while no command runs: before it, or when the process is about to end."""
    with contextlib.suppress(Exception):  # what was printed may be flushed just now
        sys.stdout.flush()
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt in a ``with`` block that runs a command, and end the
    process at once after it, if it did so before."""
    ends = signal.getsignal(signal.SIGINT) is _end_at_once
    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, _end_at_once)


def exit_codes(no: str | None = None, *, done: str = "done", device: bool = False) -> str:
    """Return the paragraph of a command's help that explains its exit codes.

    Parameters
    ----------
    no : what :data:`EXIT_NO` means for this command; None if the command never returns it.
    done : what :data:`EXIT_OK` means for this command.
    device : whether the command uses a device and can return :data:`EXIT_DEVICE`.
    """
    meanings = {
        EXIT_OK: done,
        EXIT_NO: no,
        EXIT_BAD_INPUT: "bad input",
        EXIT_DEVICE: "no device, or lost" if device else None,
        EXIT_INTERRUPTED: "interrupted",
    }
    listed = "; ".join(f"{code} {what}" for code, what in meanings.items() if what)
    return textwrap.fill(f"exit codes: {listed}", 100)


def ending(
    *errors: type[Exception],
    negative: tuple[type[Exception], ...] = (),
    device: tuple[type[Exception], ...] = (),
    interrupted: str = "interrupted",
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Return a decorator that turns the exceptions of a command into messages and exit codes.

    The messages go to standard error. Other exceptions pass through.

    Parameters
    ----------
    errors : exceptions that mean bad input, :data:`EXIT_BAD_INPUT`.
    negative : exceptions that mean that the command's answer is no, :data:`EXIT_NO`.
    device : exceptions that mean that a device is missing or failed, :data:`EXIT_DEVICE`.
    interrupted : message after Ctrl-C.
    """
    codes = dict.fromkeys(errors, EXIT_BAD_INPUT)
    codes |= dict.fromkeys(negative, EXIT_NO) | dict.fromkeys(device, EXIT_DEVICE)

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                with _interrupts():
                    return main(*args, **kwargs)
            except tuple(codes) as error:
                message = printable(as_called(str(error)), allowed="\n")
                print(f"error: {message}", file=sys.stderr)
                return next(codes[kind] for kind in type(error).__mro__ if kind in codes)
            except KeyboardInterrupt:
                print(interrupted, file=sys.stderr)
                return EXIT_INTERRUPTED

        return wrapped

    return decorate
