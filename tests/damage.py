"""Contents of damaged files, for tests of the errors that readers raise."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np


def damaged_arrays() -> list[bytes]:
    """Return contents of damaged ``.npz`` and ``.npy`` files, one for each way in which NumPy fails
    to read one.

    They are an empty file, text, a truncated archive, an archive of an unknown version, one that is
    marked as encrypted, one with broken data, and two ``.npy`` files: the header of one is no
    Python literal, the other claims a size beyond any memory.
    """
    archive = io.BytesIO()
    np.savez_compressed(archive, images=np.arange(1000))
    packed = archive.getvalue()
    single = io.BytesIO()
    np.save(single, np.arange(10))
    plain = single.getvalue()
    entry = packed.index(b"PK\1\2")
    body = packed.index(b"images.npy") + 40

    def changed(raw: bytes, at: int, new: bytes) -> bytes:
        return raw[:at] + new + raw[at + len(new) :]

    return [
        b"",
        b"hello",
        packed[:-30],
        changed(packed, entry + 6, b"\xff"),
        changed(packed, entry + 8, b"\1"),
        changed(packed, body, bytes(30)),
        changed(plain, 20, b"(" * 20),
        plain.replace(b"(10,), } " + b" " * 16, b"(1000000000000000,), } ".ljust(25)),
    ]


def empty_pickle(path: Path) -> None:
    """Write a file in torch's format whose pickle is empty, so that torch fails to read it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
        archive.writestr("archive/version", "3\n")
