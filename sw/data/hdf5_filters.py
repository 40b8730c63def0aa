"""Read arrays of HDF5 files that are compressed with Blosc, LZ4 or Zstandard.

h5py cannot decompress these, and the package that lets it do so, hdf5plugin, takes 190 MB. Here
h5py reads the compressed chunks, and small packages decompress them. The HDF Group's list of
registered filters has their numbers and formats.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.data.events_base import MAX_EVENTS, EventError

_DAMAGED = "the file is damaged: copy it again"
_FLETCHER_BYTES = 4
"""Size of the checksum that the filter fletcher32 adds to a chunk."""
_BLOSC_HEADER_BYTES = 16


def read(library: Any, array: Any) -> NDArray[Any]:
    """Return all values of an array (N,) in an HDF5 file.

    Parameters
    ----------
    library : the module h5py.
    array : h5py's data set. Its values are in the file itself.

    Raises
    ------
    EventError
        A chunk is damaged, or a package for its compression is not installed.
    """
    properties = array.id.get_create_plist()
    filters = [properties.get_filter(n) for n in range(properties.get_nfilters())]
    if all(library.h5z.filter_avail(code) for code, *_ in filters):
        return np.asarray(array[()])
    for code, *_ in filters:
        if code not in DECODERS:
            raise EventError(
                f"its compression, filter {code} of HDF5, is not known: write the file again with "
                "gzip (h5repack -f GZIP=4), or install the plugin for HDF5 that wrote it "
                "(hdf5plugin; Prophesee's for files of Metavision)"
            )
    if array.dtype.hasobject:
        raise EventError(f"{array.name} has values of varying size, not numbers")
    if array.chunks[0] > MAX_EVENTS:
        raise EventError(f"{array.name} has chunks of over {MAX_EVENTS} values: {_DAMAGED}")
    values = np.full(array.shape, array.fillvalue, array.dtype)
    chunk_bytes = array.chunks[0] * array.dtype.itemsize
    for n in range(array.id.get_num_chunks()):
        (start,) = array.id.get_chunk_info(n).chunk_offset
        mask, raw = array.id.read_direct_chunk((start,))
        for step in reversed(range(len(filters))):
            if not mask >> step & 1:  # else this chunk was stored without the filter
                code, _, settings, _ = filters[step]
                raw = DECODERS[code](raw, settings, chunk_bytes + _FLETCHER_BYTES)
        if len(raw) != chunk_bytes:
            raise EventError(f"a chunk has {len(raw)} bytes and not {chunk_bytes}: {_DAMAGED}")
        part = np.frombuffer(raw, array.dtype)[: len(values) - start]
        values[start : start + len(part)] = part
    return values


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise EventError(
            f"its compression needs {package}: pip install 'spikefold[events]'"
        ) from error


# Each decoder takes a chunk, the settings that the file has for the filter, and the largest number
# of bytes that it may return. It returns the decoded chunk or raises EventError.


def _deflate(raw: bytes, settings: tuple[int, ...], limit: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        return decoder.decompress(raw, limit + 1)
    except zlib.error as error:
        raise EventError(f"a chunk cannot be decompressed ({error}): {_DAMAGED}") from error


def _shuffle(raw: bytes, settings: tuple[int, ...], limit: int) -> bytes:
    """Undo HDF5's shuffle filter: put the bytes of each value side by side again.

    In the file, the first bytes of all values come first, then all second bytes, and so on.
    ``settings[0]`` is the number of bytes of a value. ``limit`` is not used, because the result is
    as long as ``raw``.
    """
    size = settings[0] if settings else 0
    if size < 1:
        raise EventError(f"a filter's settings are missing: {_DAMAGED}")
    n_values = len(raw) // size
    whole = np.frombuffer(raw, np.uint8, n_values * size).reshape(size, n_values)
    return whole.T.tobytes() + raw[n_values * size :]


def _fletcher32(raw: bytes, settings: tuple[int, ...], limit: int) -> bytes:
    return raw[:-_FLETCHER_BYTES]


def _blosc(raw: bytes, settings: tuple[int, ...], limit: int) -> bytes:
    """Decompress a chunk in Blosc's format.

    The chunk's header states its size in bytes after decompression and before. ``limit`` is the
    largest size after decompression that is accepted. ``settings`` are not used.
    """
    blosc = _package("blosc")
    sizes = [int.from_bytes(raw[at : at + 4], "little") for at in (4, 12)]
    if len(raw) < _BLOSC_HEADER_BYTES or sizes[0] > limit or sizes[1] != len(raw):
        raise EventError(f"a chunk has wrong sizes: {_DAMAGED}")
    try:
        return blosc.decompress(raw)
    except blosc.blosc_extension.error as error:
        raise EventError(f"a chunk cannot be decompressed ({error}): {_DAMAGED}") from error


def _lz4(raw: bytes, settings: tuple[int, ...], limit: int) -> bytes:
    """Decompress a chunk of LZ4 blocks.

    It begins with the number of decoded bytes of the chunk (64 bits) and of a block (32 bits). Each
    block has its number of stored bytes (32 bits) in front. All numbers are big-endian. ``limit``
    is the largest number of decoded bytes that is accepted. ``settings`` are not used.
    """
    block = _package("lz4.block")
    size, block_bytes = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:12], "big")
    if len(raw) < 12 or size > limit or not block_bytes:
        raise EventError(f"a chunk has wrong sizes: {_DAMAGED}")
    decoded, at = bytearray(), 12
    while len(decoded) < size:
        n_bytes = min(block_bytes, size - len(decoded))
        n_stored = int.from_bytes(raw[at : at + 4], "big")
        stored = raw[at + 4 : at + 4 + n_stored]
        at += 4 + n_stored
        if n_stored != n_bytes:  # a block that LZ4 would not make smaller is stored as it is
            try:
                stored = block.decompress(stored, uncompressed_size=n_bytes)
            except (block.LZ4BlockError, ValueError) as error:
                raise EventError(f"a chunk cannot be decompressed ({error}): {_DAMAGED}") from error
        if len(stored) != n_bytes:
            raise EventError(f"a chunk ends within a block: {_DAMAGED}")
        decoded += stored
    return bytes(decoded)


def _zstandard(raw: bytes, settings: tuple[int, ...], limit: int) -> bytes:
    zstandard = _package("zstandard")
    try:
        with zstandard.ZstdDecompressor().stream_reader(raw) as reader:
            return reader.read(limit + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise EventError(f"a chunk cannot be decompressed ({error}): {_DAMAGED}") from error


DECODERS: dict[int, Callable[[bytes, tuple[int, ...], int], bytes]] = {
    1: _deflate,
    2: _shuffle,
    3: _fletcher32,
    32001: _blosc,
    32004: _lz4,
    32015: _zstandard,
}
"""Function that undoes each filter on a chunk, by the number that HDF5 gives the filter."""
