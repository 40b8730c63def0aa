"""Reading of files that torch has saved, without running code in them, and bounded in size.

Such a file is a zip archive of a pickle and of the bytes of all tensors, none of them compressed.
What a file describes is never much larger than the file: nothing is unpacked, and no tensor claims
more numbers than the file holds.
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
"""Largest number of values in a file, where a value that is referred to twice counts twice."""

MAX_COPIES = 4
"""Largest number of bytes of all tensors, as a multiple of the size of the file. Tensors may share
their bytes, for example the weights of the best and of the last epoch."""


class ArchiveError(ValueError):
    """A file is not what torch saves, or its contents are larger than the file."""


def read(path: Path) -> Any:
    """Return the contents of the file at ``path``: plain values, and tensors on the CPU.

    Raises
    ------
    pickle.UnpicklingError
        The file holds more than tensors and plain values.
    ArchiveError
        The file is damaged, or no such file.
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
    """Return a copy of a zip archive, after checking that its ``n_bytes`` bytes are all it holds.

    torch reads the copy: another reader of zip archives may find other contents in a damaged file,
    and torch ignores checksums.
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
    """Check that nested values, read from a file of ``n_bytes`` bytes, are bounded in size.

    Raises
    ------
    ArchiveError
        There are too many values, or they are nested too deeply; or a tensor is sparse, quantised,
        complex, or without numbers of its own, such as a tensor whose numbers are one and the same.
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
    """Return the number of bytes of a tensor, after checking that it has as many of its own."""
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
