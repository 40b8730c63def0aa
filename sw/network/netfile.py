"""The network file: one safetensors file with a network, its compiled program and a checksum.

Layout (see docs/network-file.md): the tensors are the arrays of a
:class:`sw.network.network.Network`, and of a compiled program if there is one, under their dotted
names (``network.layers.0.weight``). The only metadata entry, ``spikefold``, is a JSON document with
the same structure. In it ``{"tensor": name}`` stands for an array, and null for None. The tensor
``checksum`` is the SHA-256 of the whole file with its own 32 bytes taken as zero, so that every
changed byte is detected (safetensors itself loads a flipped bit silently).

This module does not import torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from hw.protocol import spec_hash
from hw.spec import SpecError
from sw.files import write_whole
from sw.network.network import INPUT, Network, NetworkError

FORMAT = "spikefold-network"
VERSION = 2
READABLE_VERSIONS = (1, 2)
SUFFIX = ".spikefold"
METADATA_KEY = "spikefold"
CHECKSUM = "checksum"
_MAX_HEADER_BYTES = 1 << 26
"""Longest header that is read; a file with a longer one is no network file."""


class NetworkFileError(ValueError):
    """A network file cannot be read or written; the message says why and what to do about it."""


class NotANetworkFileError(NetworkFileError):
    """The file is not a network file."""


class TruncatedError(NetworkFileError):
    """The file is shorter than its header says."""


class VersionError(NetworkFileError):
    """The file has a version of the format that this release does not read."""


class ChecksumError(NetworkFileError):
    """The file does not match its checksum."""


class ContentError(NetworkFileError):
    """The file is a network file, but its content does not describe a network."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkFile:
    """Content of a network file.

    ``program`` is the compiled program (:class:`sw.compile.program.Program`). It is None if the
    file has none, if the program was left unread, or if it was compiled for another version of the
    gateware; in the last case ``stale`` is a text that says so. ``sha256`` is the file's checksum
    in hexadecimal, and ``n_bytes`` the size of the file.
    """

    network: Network
    program: Any = None
    stale: str | None = None
    sha256: str = ""
    n_bytes: int = 0


# ---- values to JSON and arrays, and back, by the annotations of the dataclasses ------------------


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of the fields of the dataclass ``cls``, by name of the field."""
    return typing.get_type_hints(cls)


def _encode(value: Any, name: str, arrays: dict[str, NDArray] | None) -> Any:
    """Return a value as JSON, in which arrays are replaced by their names, and collect the arrays.

    Parameters
    ----------
    value : dataclass, array, bytes, enum, number, text, None, or a container of these.
    name : dotted name of the value, such as ``network.layers``; names of arrays and messages begin
        with it.
    arrays : dictionary to which arrays are added by dotted name. If it is None, arrays and
        dataclasses are not accepted.

    Raises
    ------
    TypeError
        A value has an unsupported type; the message says where.
    ValueError
        A number is not finite; the message says where.
    """
    if arrays is not None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            hints = _hints(type(value))
            return {
                f.name: _encode(
                    getattr(value, f.name),
                    f"{name}.{f.name}",
                    None if Any in typing.get_args(hints[f.name]) else arrays,
                )
                for f in dataclasses.fields(value)
            }
        if isinstance(value, np.ndarray | bytes):
            array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
            arrays[name] = np.ascontiguousarray(array)
            return {"tensor": name}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        keys = {k: k.name if isinstance(k, enum.Enum) else str(k) for k in value}
        return {keys[k]: _encode(v, f"{name}.{keys[k]}", arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which JSON does not have")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is of type {type(value).__name__}, which JSON does not have")


def _decode(hint: Any, value: Any, name: str, arrays: dict[str, NDArray]) -> Any:
    """Return the value of type ``hint`` from which :func:`_encode` made the JSON value ``value``.

    Parameters
    ----------
    name : dotted name of the value, as in :func:`_encode`.
    arrays : arrays of the file by dotted name; those that belong to the value are removed.

    Raises
    ------
    ContentError
        ``value`` is not of type ``hint``; the message says where.
    """

    def fail(expected: str) -> ContentError:
        return ContentError(f"{name} is {_short(value)}, expected {expected}")

    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _decode(inner, value, name, arrays)
    if hint is bytes or origin is np.ndarray:
        if value != {"tensor": name} or name not in arrays:
            raise fail(f'the tensor of that name, {{"tensor": "{name}"}}')
        array = arrays.pop(name)
        return array.tobytes() if hint is bytes else array
    if origin is tuple:
        if not isinstance(value, list):
            raise fail("a list")
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) != len(value):
            raise fail(f"a list of {len(args)}")
        return tuple(
            _decode(a, v, f"{name}.{i}", arrays)
            for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise fail("an object")
        return {
            _decode(args[0], k, f"a key of {name}", arrays): _decode(
                args[1], v, f"{name}.{k}", arrays
            )
            for k, v in value.items()
        }
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in hint.__members__:
            raise fail("one of " + ", ".join(hint.__members__))
        return hint[value]
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise fail("an object")
        hints = _hints(typing.cast(type, hint))
        # A field that has been added since the first version may be missing from older files.
        added = {f.name for f in dataclasses.fields(hint) if f.metadata.get("since")}
        names = [f.name for f in dataclasses.fields(hint) if f.name in value or f.name not in added]
        unknown, missing = sorted(set(value) - set(names)), sorted(set(names) - set(value))
        if unknown:
            raise ContentError(f"{name} has unknown fields: {', '.join(unknown)}")
        if missing:
            raise ContentError(f"{name} lacks fields: {', '.join(missing)}")
        fields = {n: _decode(hints[n], value[n], f"{name}.{n}", arrays) for n in names}
        return typing.cast(type, hint)(**fields)
    if type(value) is not hint and not (hint is float and type(value) is int):
        raise fail(f"a value of type {hint.__name__}")
    return value


def _short(value: Any) -> str:
    """Return a JSON value as text for a message, cut to at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- bytes ---------------------------------------------------------------------------------------


def to_bytes(network: Network, program: Any = None) -> bytes:
    """Return the bytes of a network file. Equal networks and programs always give equal bytes.

    Parameters
    ----------
    program : the network's compiled program (:class:`sw.compile.program.Program`); None to write
        none.

    Raises
    ------
    NetworkFileError
        The network's provenance or statistics hold a value that JSON cannot represent.
    """
    arrays: dict[str, NDArray] = {}
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    try:
        document["network"] = _encode(network, "network", arrays)
        document["compiled"] = None
        if program is not None:
            document["compiled"] = {
                "spec_hash": f"{spec_hash(program.config):016x}",
                "program": _encode(program, "program", arrays),
            }
        text = json.dumps(document, allow_nan=False)
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
    foreign = NotANetworkFileError("this is not a network file; make one with python -m sw.export")
    if not raw:
        raise TruncatedError("the file is empty; copy or export it again")
    n_header = int.from_bytes(raw[:8], "little")
    if (len(raw) > 8 and raw[8:9] != b"{") or not 2 <= n_header <= _MAX_HEADER_BYTES:
        raise foreign
    data_start = 8 + n_header
    if len(raw) < data_start:
        raise TruncatedError(
            f"the file ends inside its header, after {len(raw)} of at least {data_start} bytes; "
            "copy or export it again"
        )
    try:
        header = json.loads(raw[8:data_start].decode())
    except (ValueError, RecursionError):
        raise foreign from None
    if not isinstance(header, dict):
        raise foreign
    return data_start, header


def _checksum_span(data_start: int, header: dict[str, Any]) -> tuple[int, int]:
    """Return the offsets in the file at which the checksum's bytes begin and end.

    Raises
    ------
    ContentError
        The file has no checksum.
    """
    try:
        start, end = header[CHECKSUM]["data_offsets"]
        if end - start == hashlib.sha256().digest_size and start >= 0:
            return data_start + start, data_start + end
    except (KeyError, TypeError, ValueError):
        pass
    raise ContentError("the file has no checksum; export the network again")


def from_bytes(raw: bytes, program_type: type | None = None) -> NetworkFile:
    """Check and decode the bytes of a network file, as :func:`to_bytes` returns them.

    Parameters
    ----------
    program_type : class of the compiled program (:class:`sw.compile.program.Program`); None leaves
        the program unread.

    Returns
    -------
    The network, the program if it was read, and the checksum and size of the file.

    Raises
    ------
    NetworkFileError
        The file cannot be used; the subclass tells the kind of fault.
    """
    data_start, header = _header(raw)
    metadata = header.get("__metadata__")
    document = None
    with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
        document = json.loads(metadata[METADATA_KEY])  # type: ignore[index]
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise NotANetworkFileError(
            "this is a safetensors file, but not a network file; make one with python -m sw.export"
        )
    version = document.get("version")
    if version not in READABLE_VERSIONS:
        readable = ", ".join(map(str, READABLE_VERSIONS))
        raise VersionError(
            f"the file has format version {version}; this program reads version {readable}. "
            "Export the network again, or use a newer release"
        )
    start, end = _checksum_span(data_start, header)
    try:
        n_data = max(t["data_offsets"][1] for k, t in header.items() if k != "__metadata__")
        n_expected = data_start + n_data
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
    return _decode_document(document, arrays, program_type, digest.hexdigest(), len(raw))


def _decode_document(
    document: dict[str, Any],
    arrays: dict[str, NDArray],
    program_type: type | None,
    sha256: str,
    n_bytes: int,
) -> NetworkFile:
    """Decode the content of a network file from its JSON document and its tensors.

    Parameters
    ----------
    arrays : tensors by name, without the checksum.
    program_type : class of the compiled program; None leaves the program unread.
    sha256, n_bytes : checksum and size of the file, passed on to the result.

    Returns
    -------
    The network, the program if it was read, and the checksum and size of the file.

    Raises
    ------
    ContentError
        Document and tensors do not describe a network.
    """
    unknown = sorted(set(document) - {"format", "version", "network", "compiled"})
    if unknown:
        raise ContentError(f"the document has unknown fields: {', '.join(unknown)}")
    compiled = document.get("compiled")
    program_arrays = {n: arrays.pop(n) for n in list(arrays) if n.startswith("program.")}
    try:
        network = _decode(Network, document.get("network"), "network", arrays)
    except NetworkFileError:
        raise
    except NetworkError as error:
        raise ContentError(f"the network in it is not consistent: {error}") from error
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ContentError(f"the network in it cannot be read: {error}") from error
    if arrays:
        raise ContentError(
            f"it holds tensors that the document does not name: {', '.join(sorted(arrays))}"
        )
    program, stale = None, None
    if compiled is not None and program_type is not None:
        # A program for another version of the gateware is not an error: the network can be
        # compiled again.
        try:
            program = _decode(program_type, compiled["program"], "program", program_arrays)
            if f"{spec_hash(program.config):016x}" != compiled["spec_hash"]:
                program, stale = None, "it was compiled for another version of the gateware"
        except (NetworkFileError, SpecError, AttributeError, KeyError, TypeError) as error:
            stale = f"its program is from another version: {error}"
    return NetworkFile(
        network=network, program=program, stale=stale, sha256=sha256, n_bytes=n_bytes
    )


# ---- files ---------------------------------------------------------------------------------------


def save(path: str | Path, network: Network, program: Any = None) -> int:
    """Write a network file atomically: an existing file is replaced only by a complete one.

    Parameters
    ----------
    program : the network's compiled program (:class:`sw.compile.program.Program`); None to write
        none.

    Returns
    -------
    Number of bytes written.

    Raises
    ------
    NetworkFileError
        The network cannot be represented (see :func:`to_bytes`), or the file cannot be written.
    """
    path = Path(path)
    raw = to_bytes(network, program)
    try:
        write_whole(path, raw)
    except OSError as error:
        raise NetworkFileError(f"{path} cannot be written: {error.strerror}") from error
    return len(raw)


def load(path: str | Path, program_type: type | None = None) -> NetworkFile:
    """Read a network file and check all of its content.

    Parameters
    ----------
    program_type : class of the compiled program (:class:`sw.compile.program.Program`); None leaves
        the program unread.

    Returns
    -------
    The network, the program if it was read, and the checksum and size of the file.

    Raises
    ------
    NetworkFileError
        The file cannot be used; the subclass tells the kind of fault, and the message begins with
        the path.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NetworkFileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return from_bytes(raw, program_type)
    except NetworkFileError as error:
        raise type(error)(f"{path}: {error}") from error


def describe(file: NetworkFile) -> str:
    """Return a description of a network file for a terminal, with a line for each layer."""
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
        gate = "" if layer.identity is None else f", {layer.gate.name} with {layer.identity}"
        lines.append(
            f"  {layer.name:<16}{'x'.join(map(str, shape)):>12}  reads {layer.source}{gate}; "
            f"{layer.weight.size} weights, {weights}, {time}"
        )
    if file.program is not None:
        lines.append(f"compiled for {file.program.config.name}")
    elif file.stale:
        lines.append(f"must be compiled again: {file.stale}")
    return "\n".join(lines)
