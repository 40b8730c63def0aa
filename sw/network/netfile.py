"""The network file: one safetensors file with a network, and a checksum.

Layout (see docs/network-file.md): the tensors are the arrays of a
:class:`sw.network.network.Network` under their dotted names (``network.layers.0.weight``). The only
metadata entry, ``spikefold``, is a JSON document with the same structure. In it
``{"tensor": name}`` stands for an array, and null for None. The tensor ``checksum`` is the SHA-256
of the whole file with its own 32 bytes taken as zero, so that every changed byte is detected
(safetensors itself loads a flipped bit silently).

The file names the device that the network was exported for, but holds no compiled program. A
program that did not match its network would give wrong answers, and compiling takes only a tenth of
a second. Files of version 1 also hold a program, which is not read.

This module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from hw.spec import Config, SpecError
from sw.files import write_whole
from sw.network.document import DocumentError, decode, encode, parse
from sw.network.network import INPUT, Network, NetworkError
from sw.network.schema import short

FORMAT = "spikefold-network"
VERSION = 4
READABLE_VERSIONS = (1, 2, 3, 4)
SUFFIX = ".spikefold"
METADATA_KEY = "spikefold"
CHECKSUM = "checksum"
_MAX_HEADER_BYTES = 1 << 26
"""Largest size of a file's header, in bytes; a file with a larger one is no network file."""


class NetworkFileError(ValueError):
    """Error that a network file cannot be read or written; the message says why, and what to do."""


class NotANetworkFileError(NetworkFileError):
    """Error that a file is not a network file."""


class TruncatedError(NetworkFileError):
    """Error that a network file is shorter than its header says."""


class VersionError(NetworkFileError):
    """Error that a network file has a version of the format that this release does not read."""


class ChecksumError(NetworkFileError):
    """Error that the contents of a network file do not match its checksum."""


class ContentError(NetworkFileError):
    """Error that the contents of a network file do not describe a valid network."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkFile:
    """Content of a network file.

    ``config`` is the configuration of the device that the network was exported for. It is None if
    the file names no configuration, or one that this version of Spikefold does not know. In the
    second case, ``unknown`` is a text that says why; in all others, it is None. ``sha256`` is the
    file's checksum in hexadecimal, and ``n_bytes`` the size of the file.
    """

    network: Network
    config: Config | None = None
    unknown: str | None = None
    sha256: str = ""
    n_bytes: int = 0


# ---- bytes ---------------------------------------------------------------------------------------


def to_bytes(network: Network, config: Config | None = None) -> bytes:
    """Return the bytes of a network file. Equal arguments always give equal bytes.

    Parameters
    ----------
    config : configuration of the device that the network is exported for; None to name none.

    Raises
    ------
    NetworkFileError
        The network's provenance or statistics hold a value that JSON cannot represent.
    """
    arrays: dict[str, NDArray] = {}
    try:
        document = {
            "format": FORMAT,
            "version": VERSION,
            "network": encode(network, "network", arrays),
            "config": encode(config, "config", arrays),
        }
        text = json.dumps(document, allow_nan=False)
        parse(text)
    except (TypeError, ValueError) as error:
        raise NetworkFileError(f"this network cannot be written to a file: {error}") from error
    arrays[CHECKSUM] = np.zeros(hashlib.sha256().digest_size, np.uint8)
    raw = bytearray(safetensors.numpy.save(arrays, {METADATA_KEY: text}))
    start, end = _checksum_span(*_header(raw))
    raw[start:end] = hashlib.sha256(raw).digest()
    return bytes(raw)


def _header(raw: bytes | bytearray) -> tuple[int, dict[str, Any]]:
    """Parse the safetensors header of a file; return the offset of the tensor data, and the header.

    Raises
    ------
    NotANetworkFileError
        The file does not begin with a safetensors header.
    TruncatedError
        The file ends inside the header.
    """
    remedy = "make one with python -m sw.export"
    if not raw:
        raise TruncatedError("the file is empty; copy or export it again")
    n_header = int.from_bytes(raw[:8], "little")
    if (len(raw) > 8 and raw[8:9] != b"{") or not 2 <= n_header <= _MAX_HEADER_BYTES:
        raise NotANetworkFileError(f"this is not a network file; {remedy}")
    data_start = 8 + n_header
    if len(raw) < data_start:
        raise TruncatedError(
            f"the file ends inside its header, after {len(raw)} of at least {data_start} bytes; "
            "copy or export it again"
        )
    try:
        header = parse(raw[8:data_start].decode())
    except ValueError as error:
        raise NotANetworkFileError(f"this is not a network file: {error}; {remedy}") from error
    return data_start, header


def _checksum_span(data_start: int, header: dict[str, Any]) -> tuple[int, int]:
    """Return the offsets in the file at which the checksum's bytes begin and end.

    ``data_start`` and ``header`` are the results of :func:`_header`.

    Raises
    ------
    ContentError
        The file has no checksum.
    """
    try:
        start, end = header[CHECKSUM]["data_offsets"]
        whole = type(start) is int and type(end) is int
        if whole and end - start == hashlib.sha256().digest_size and start >= 0:
            return data_start + start, data_start + end
    except (KeyError, TypeError, ValueError):
        pass
    raise ContentError("the file has no checksum; export the network again")


def from_bytes(raw: bytes) -> NetworkFile:
    """Check and decode the bytes of a network file, as :func:`to_bytes` returns them.

    Raises
    ------
    NetworkFileError
        The file is damaged or no network file; the subclass says which.
    """
    data_start, header = _header(raw)
    document = _document(header)
    version = document.get("version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        readable = ", ".join(map(str, READABLE_VERSIONS))
        raise VersionError(
            f"the file has format version {short(version)}; this program reads version {readable}. "
            "Export the network again, or use a newer release"
        )
    start, end = _checksum_span(data_start, header)
    try:
        n_data = max(t["data_offsets"][1] for k, t in header.items() if k != "__metadata__")
        n_expected = data_start + operator.index(n_data)
    except (KeyError, IndexError, TypeError) as error:
        raise ContentError(
            "its header does not describe tensors; export the network again"
        ) from error
    if len(raw) < n_expected:
        raise TruncatedError(
            f"the file has {len(raw)} of {n_expected} bytes; copy or export it again"
        )
    digest = hashlib.sha256(raw[:start] + bytes(end - start) + raw[end:])
    if digest.digest() != raw[start:end]:
        raise ChecksumError(
            "the checksum does not match: the file was damaged or edited; copy or export it again"
        )
    try:
        arrays = safetensors.numpy.load(raw)
    except Exception as error:  # safetensors' exceptions, and NumPy's for odd shapes
        raise ContentError(f"its tensors cannot be read: {error}") from error
    del arrays[CHECKSUM]
    network = _network(document, arrays)
    config, unknown = _config(document)
    return NetworkFile(
        network=network,
        config=config,
        unknown=unknown,
        sha256=digest.hexdigest(),
        n_bytes=len(raw),
    )


def _document(header: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON document in the metadata of a safetensors header.

    Raises
    ------
    NotANetworkFileError
        The header has no such document, so the file is of another kind.
    ContentError
        The document is no valid JSON.
    """
    kind = "this is a safetensors file, but not a network file"
    remedy = "make one with python -m sw.export"
    metadata = header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise NotANetworkFileError(f"{kind}; {remedy}")
    try:
        document = parse(text)
    except DocumentError as error:
        if FORMAT in text:
            raise ContentError(f"its document is damaged: {error}; export it again") from error
        raise NotANetworkFileError(f"{kind}: {error}; {remedy}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise NotANetworkFileError(f"{kind}; {remedy}")
    return document


def _network(document: dict[str, Any], arrays: dict[str, NDArray]) -> Network:
    """Return the network that the JSON document of a file describes.

    ``arrays`` are the file's tensors by dotted name, all but that of the checksum.

    Raises
    ------
    ContentError
        Document and tensors do not describe a valid network.
    """
    last = "compiled" if document["version"] == 1 else "config"
    unknown = sorted(set(document) - {"format", "version", "network", last})
    if unknown:
        raise ContentError(f"the document has unknown fields: {', '.join(unknown)}")
    if document["version"] == 1:  # whose program is not read
        arrays = {name: a for name, a in arrays.items() if not name.startswith("program.")}
    try:
        network = decode(Network, document.get("network"), "network", arrays)
    except DocumentError as error:
        raise ContentError(str(error)) from error
    except NetworkError as error:
        raise ContentError(f"the network in it is not consistent: {error}") from error
    if arrays:
        raise ContentError(
            f"it holds tensors that the document does not name: {', '.join(sorted(arrays))}"
        )
    return network


def _config(document: dict[str, Any]) -> tuple[Config | None, str | None]:
    """Return the device configuration that a document names, and None.

    If this version of Spikefold does not know the configuration, return instead None and a text
    that says so. This is no error, because the network can be compiled for any other device. If the
    document names no configuration, both results are None.
    """
    value = document.get("config")
    if document["version"] == 1:
        compiled = document.get("compiled")
        program = compiled.get("program") if isinstance(compiled, dict) else None
        value = program.get("config") if isinstance(program, dict) else None
    if value is None:
        return None, None
    try:
        return decode(Config, value, "config", {}), None
    except (DocumentError, SpecError) as error:
        return None, f"it was exported for a device that this version does not know: {error}"


# ---- files ---------------------------------------------------------------------------------------


def save(path: str | Path, network: Network, config: Config | None = None) -> int:
    """Write a network file atomically: an existing file is replaced only by a complete one.

    Parameters
    ----------
    config : configuration of the device that the network is exported for; None to name none.

    Returns
    -------
    Number of bytes written.

    Raises
    ------
    NetworkFileError
        The network cannot be represented (see :func:`to_bytes`), or the file cannot be written.
    """
    path = Path(path)
    raw = to_bytes(network, config)
    try:
        write_whole(path, raw)
    except OSError as error:
        raise NetworkFileError(f"{path} cannot be written: {error.strerror}") from error
    return len(raw)


def load(path: str | Path) -> NetworkFile:
    """Read a network file and check all of its content.

    Raises
    ------
    NetworkFileError
        The file is damaged or no network file; the subclass says which, and the message begins with
        the path.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NetworkFileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return from_bytes(raw)
    except NetworkFileError as error:
        raise type(error)(f"{path}: {error}") from error


def describe(file: NetworkFile) -> str:
    """Return a text that describes a network file to a user, with one line for each layer."""
    network = file.network
    lines = [
        f"{len(network.layers)} layers, {network.timesteps} timesteps, weights of "
        f"{network.weight_bits} bits, {network.n_classes} classes; {file.n_bytes} bytes, "
        f"SHA-256 {file.sha256[:16]}...",
    ]
    shapes = network.map_shapes()
    encoder = "binary frames" if network.encoder is None else "encoder"
    lines.append(f"  {INPUT:<16}{'x'.join(map(str, shapes[INPUT])):>12}  {encoder}")
    for layer in network.layers:
        shape = shapes.get(layer.name, (layer.n_out,))
        t, y, x, *_ = layer.weight.shape
        weights = "unshared" if y * x > 1 else "shared"
        time = "per-timestep" if t > 1 else "static"
        reads = (" and " if layer.stacked else " + ").join(layer.sources)
        gate = "" if layer.identity is None else f", {layer.gate.name} with {layer.identity}"
        lines.append(
            f"  {layer.name:<16}{'x'.join(map(str, shape)):>12}  reads {reads}{gate}; "
            f"{layer.weight.size} weights, {weights}, {time}"
        )
    if file.config is not None:
        lines.append(f"exported for {file.config.name}")
    elif file.unknown:
        lines.append(file.unknown)
    return "\n".join(lines)
