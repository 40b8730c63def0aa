"""Read files that ``torch.save`` has written, without running code in them.

Reading a file does not take much more memory than the file's size. Such a file is a zip archive,
without compression, of a pickle and of the bytes of all tensors. A file is refused if an entry is
compressed, or if tensors claim more numbers than the file holds.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_DEPTH = 64
"""Largest number of dictionaries, lists and tuples that may be nested."""

MAX_VALUES = 1 << 20
"""Largest number of values in a file. A value to which the file refers twice counts twice."""

MAX_COPIES = 4
"""Largest total size of all tensors, as a multiple of the size of the file. Tensors may share their
bytes, for example the weights of the best and of the last epoch."""


class ArchiveError(ValueError):
    """Raised if a file was not written by ``torch.save``, is damaged, or claims more data than it
    holds.
    """


def read(path: Path) -> Any:
    """Return the contents of the file at ``path``: plain values, and tensors on the CPU.

    Raises
    ------
    pickle.UnpicklingError
        The file holds more than tensors and plain values, and loading it could run code.
    ArchiveError
        The file is damaged, was not written by ``torch.save``, or would take too much memory.
    OSError
        The file cannot be read.
    """
    n_bytes = path.stat().st_size
    try:
        values = torch.load(_copied(path, n_bytes), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ArchiveError, OSError):
        raise
    except Exception as error:  # a damaged pickle raises errors of many types
        raise ArchiveError(str(error)) from error
    check(values, n_bytes)
    return values


def _copied(path: Path, n_bytes: int) -> io.BytesIO:
    """Return a copy of a zip archive in memory, after checking that its entries are uncompressed
    and intact.

    ``n_bytes`` is the size of the file. torch reads the copy instead of the file, because torch
    ignores checksums, and may find other entries in a damaged file than those checked here.

    Raises
    ------
    ArchiveError
        The archive is damaged, its entries are compressed or larger than the file, or two entries
        have the same name.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ArchiveError("its contents are compressed, which torch never does")
            if sum(entry.file_size for entry in entries) > n_bytes:
                raise ArchiveError("its contents are larger than the file")
            if len({entry.filename for entry in entries}) < len(entries):
                raise ArchiveError("it has two entries of the same name")
            damaged = archive.testzip()
            if damaged is not None:
                raise ArchiveError(f"{damaged} has a wrong checksum")
            with zipfile.ZipFile(copy, "w") as target:
                for entry in entries:
                    target.writestr(entry.filename, archive.read(entry))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(str(error)) from error
    copy.seek(0)
    return copy


def check(values: Any, n_bytes: int) -> None:
    """Check that values read from a file of ``n_bytes`` bytes do not take too much memory.

    ``values`` may be nested dicts, lists, tuples and sets.

    Raises
    ------
    ArchiveError
        There are too many values, they are nested too deeply, or their tensors claim too many
        bytes. Or a tensor is sparse, quantised or complex, or has several elements that share one
        place in memory, like the results of ``Tensor.expand``.
    """
    left = [(values, 0, "")]
    n_values = n_claimed = 0
    while left:
        value, depth, name = left.pop()
        n_values += 1
        if n_values > MAX_VALUES or depth > MAX_DEPTH:
            raise ArchiveError("it holds more values, or more deeply nested ones, than it may")
        if isinstance(value, Tensor):
            n_claimed += _size(value, name)
            if n_claimed > MAX_COPIES * n_bytes:
                raise ArchiveError(
                    f"its tensors claim more than {MAX_COPIES} times the size of the file"
                )
        elif isinstance(value, dict):
            left += [(key, depth + 1, name) for key in value]
            left += [(item, depth + 1, f"{name}.{key}"[:100]) for key, item in value.items()]
        elif isinstance(value, list | tuple | set):
            left += [(item, depth + 1, name) for item in value]


def _size(tensor: Tensor, name: str) -> int:
    """Return the number of bytes of a tensor, after checking that its memory holds as many.

    ``name`` is for messages.

    Raises
    ------
    ArchiveError
        The tensor claims more bytes than its memory holds, or is sparse, quantised or complex.
    """
    what = f"its tensor {name.lstrip('.')!r}"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ArchiveError(f"{what} is sparse, quantised or empty: save a plain tensor")
    if tensor.is_complex():
        raise ArchiveError(f"{what} has complex numbers: save real ones")
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise ArchiveError(
            f"{what} has shape {tuple(tensor.shape)}, but fewer numbers of its own: save a "
            "contiguous tensor"
        )
    return size
