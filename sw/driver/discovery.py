"""Serial ports: opening them, and finding out what is on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import serial
from serial.tools import list_ports

from hw.protocol import (
    DEFAULT_BAUD,
    MAGIC,
    PROTOCOL_VERSION,
    Identity,
    Opcode,
    n_bytes,
    spec_hash,
    unpack,
)
from hw.spec import Config, SpecError
from sw.driver.transport import (
    POLL_S,
    DeviceError,
    DeviceNotFound,
    LinkTimeout,
    Request,
    RequestRefused,
    Transport,
)
from sw.driver.virtual_board import is_virtual

N_BEGINNINGS = 2
"""Breaks that are tried before a port is believed to be no board's: one may be lost like any other
byte, and a board that has not heard it listens at another rate."""


class NotABoard(DeviceError):
    """The port exists, but nothing on it answers like a board."""


class SpecMismatch(DeviceError):
    """The board's gateware and this software were built from different definitions."""


@dataclass(frozen=True)
class BoardIdentity:
    """Who answers: its configuration, and the definitions it was built from."""

    config: Config
    protocol_version: int
    spec_hash: int


def _parse_identity(raw: bytes, port: str) -> BoardIdentity:
    """Checks an IDENTIFY reply's data: magic first, then version, then the definitions' hash."""
    if raw[:4] != MAGIC.to_bytes(4, "little"):
        raise NotABoard(f"what is on {port} answers, but is no Spikefold board")
    advice = "Load a bitstream of this release onto the board, or use the software that it is from"
    version = int.from_bytes(raw[4:6], "little")
    if version != PROTOCOL_VERSION or len(raw) != n_bytes(Identity):
        raise SpecMismatch(
            f"the board on {port} speaks protocol version {version}, this software version "
            f"{PROTOCOL_VERSION}. {advice}."
        )
    identity: Any = unpack(Identity, raw)
    name = raw[-16:].rstrip(b"\0").decode("ascii", "replace")
    values = {
        field.name: int(getattr(identity, field.name))
        for field in fields(Config)
        if field.name != "name"
    }
    try:
        config = Config(name=name, **values)
    except SpecError as error:
        raise SpecMismatch(
            f"the board {name!r} on {port} has a configuration that this software does not know: "
            f"{error}. {advice}."
        ) from error
    if spec_hash(config) != identity.spec_hash:
        raise SpecMismatch(
            f"the board {name!r} on {port} was built from other definitions: the hash of its "
            f"protocol and number formats is {identity.spec_hash:016x}, here it is "
            f"{spec_hash(config):016x}, although both call themselves protocol version {version}. "
            f"{advice}."
        )
    return BoardIdentity(config, version, int(identity.spec_hash))


def open_port(port: str) -> serial.Serial:
    """Opens a port for this process alone, at the default rate.

    Raises
    ------
    DeviceNotFound
        There is no such port, it is in use, or access to it is denied.
    """
    try:
        opened = serial.Serial(
            port,
            DEFAULT_BAUD,
            timeout=POLL_S,
            write_timeout=300.0 if is_virtual(port) else 30.0,
            exclusive=True,
        )
    except (OSError, ValueError) as error:
        raise DeviceNotFound(f"cannot open {port}: {_open_error(error)}") from error
    with contextlib.suppress(OSError, AttributeError, NotImplementedError, ValueError):
        opened.set_low_latency_mode(True)  # USB adapters wait up to 16 ms before they pass bytes on
    return opened


def _open_error(error: Exception) -> str:
    text = str(error)
    if "Permission denied" in text:
        return f"{text}. Is your user in the group of serial ports (dialout, uucp)?"
    if "lock" in text or "busy" in text:
        return f"{text}. Another program is using it: end that one first"
    return text


def identify(transport: Transport) -> BoardIdentity:
    port = str(transport.port.port)
    request = Request(Opcode.IDENTIFY, n_reply_bytes=n_bytes(Identity))
    try:
        (raw,) = transport.exchange([request])
    except RequestRefused as error:
        raise NotABoard(f"what is on {port} answers, but is no Spikefold board") from error
    return _parse_identity(raw, port)


@contextlib.contextmanager
def patience(transport: Transport, timeout_s: float, n_retries: int):
    before = transport.timeout_s, transport.n_retries
    transport.timeout_s, transport.n_retries = timeout_s, n_retries
    try:
        yield
    finally:
        transport.timeout_s, transport.n_retries = before


def _probe(port: str, timeout_s: float, n_retries: int) -> tuple[Transport, BoardIdentity]:
    """Opens the port and finds out what is on it."""
    return begin(Transport(open_port(port)), timeout_s, n_retries)


def begin(
    transport: Transport, timeout_s: float, n_retries: int
) -> tuple[Transport, BoardIdentity]:
    """Identifies what is on an open port, which is closed if that fails."""
    try:
        with patience(transport, timeout_s, n_retries):
            for _ in range(N_BEGINNINGS - 1):
                transport.resync()
                with contextlib.suppress(LinkTimeout):
                    return transport, identify(transport)
            transport.resync()
            return transport, identify(transport)
    except LinkTimeout as error:
        transport.close()
        raise NotABoard(
            f"nothing on {transport.port.port} answers like a Spikefold board. Is its bitstream "
            "loaded?"
        ) from error
    except BaseException:
        transport.close()
        raise


def _probed() -> Iterator[tuple[str, str, tuple[Transport, BoardIdentity] | DeviceError | None]]:
    """Each serial port, in order, as it is asked for: its path, what it is in words, and what
    answered there, or why nothing did; None if it is not on USB, and is not tried."""
    for info in sorted(list_ports.comports(), key=lambda info: info.device):
        label = f"{info.device} ({info.description})"
        if info.vid is None:
            yield info.device, f"{label}: not USB, not tried", None
            continue
        try:
            answer = _probe(info.device, timeout_s=0.15, n_retries=1)
        except DeviceError as error:
            yield info.device, f"{label}: {error}", error
        else:
            yield info.device, label, answer


def find_boards() -> tuple[list[tuple[str, BoardIdentity]], list[str]]:
    """Boards on all USB serial ports, as (port, identity), and what was found on every other port,
    in words. All ports are closed again."""
    found, others = [], []
    for path, words, answer in _probed():
        if isinstance(answer, tuple):
            transport, identity = answer
            transport.close()
            found.append((path, identity))
        else:
            others.append(words)
    return found, others


def find_board() -> tuple[Transport, BoardIdentity]:
    """The first board on any USB serial port."""
    seen = []
    for _, words, answer in _probed():
        if isinstance(answer, tuple):
            return answer
        if isinstance(answer, SpecMismatch):
            raise answer
        seen.append(words)
    listing = "\n".join(f"  {line}" for line in seen) or "  none"
    raise DeviceNotFound(
        f"no board found. Serial ports seen:\n{listing}\n"
        "Plug one in, name its port, or use the virtual board: --board sim"
    )
