"""Files that are written whole or not at all, and what reading damaged ones raises."""

from __future__ import annotations

import os
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path

ARRAY_ERRORS = (
    *(OSError, EOFError, MemoryError, RuntimeError, ValueError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What reading an ``.npy`` or ``.npz`` file raises if it is damaged or something else: a header may
ask for any amount of memory, a zip archive be of an unknown kind or encrypted."""


def write_whole(path: str | Path, raw: bytes) -> None:
    """Write ``raw`` under another name and rename: an old file stays until the new one is there,
    and a failure leaves nothing behind.

    Raises
    ------
    OSError
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp's own mode is for secrets
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


class OutputError(RuntimeError):
    """A file for results cannot be written."""


def write_output(path: Path, raw: bytes) -> None:
    """Writes a file whole or not at all.

    Raises
    ------
    OutputError
    """
    try:
        write_whole(path, raw)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
