"""Functions that write a file completely or not at all, and the exceptions that reading a damaged
NumPy file can raise."""

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
"""Exceptions that NumPy raises when it reads ``.npy`` and ``.npz`` files that are damaged or of
another format. For example, a header may ask for any amount of memory, and an archive may be
encrypted or use an unknown compression."""


def write_whole(path: str | Path, raw: bytes) -> None:
    """Write ``raw`` to a file completely or not at all. A temporary file in the same folder is
    written first and then renamed to ``path``. So a previous file at ``path`` remains if writing
    fails. If ``path`` is a symbolic link, the link stays, and the file that it points to is
    written. Devices and pipes, such as ``/dev/stdout``, are written directly, because renaming
    would replace them by a file.

    Raises
    ------
    OSError
        The file cannot be written. The temporary file has been removed.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(raw)
        return
    path = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp's own mode excludes other users
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


class OutputError(RuntimeError):
    """Raised when an output file cannot be written; the message names the file and the reason."""


def write_output(path: Path, raw: bytes) -> None:
    """Write an output file completely or not at all, like :func:`write_whole`. If that fails, raise
    an exception whose message can be shown to the user.

    Raises
    ------
    OutputError
        The file cannot be written; the message names it.
    """
    try:
        write_whole(path, raw)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
