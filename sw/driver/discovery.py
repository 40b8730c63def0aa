"""Search for boards: identify the device on each serial port."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from serial.tools import list_ports

from hw.boards.usb import bridge_of, port_advice
from hw.protocol import (
    DEFAULT_BAUD,
    IDENTITY_BYTES,
    MAGIC,
    PROTOCOL_VERSION,
    Opcode,
    identity_name,
    parse_identity,
    spec_hash,
)
from hw.spec import Config, SpecError
from sw.driver.errors import (
    DeviceError,
    DeviceNotFound,
    LinkTimeout,
    NotABoard,
    RequestRefused,
    SpecMismatch,
)
from sw.driver.ports import kind_of, open_port
from sw.driver.transport import Port, Request, Transport

N_BREAKS = 2
"""Number of breaks to send before concluding that a port has no board on it. A break
(:mod:`hw.protocol`) returns a device to the default rate. It may be lost like any byte, and a board
that missed it still listens at another rate."""

PROBE_TIMEOUT_S = 0.15
"""How many seconds a port may take to answer while all ports are searched."""


@dataclass(frozen=True)
class BoardIdentity:
    """Identity that a board reports: its hardware configuration, the version of its protocol, and a
    hash of the definitions (layouts, opcodes, number formats) from which it was built."""

    config: Config
    protocol_version: int
    spec_hash: int


def _parse_identity(raw: bytes, port: str) -> BoardIdentity:
    """Return the identity in a board's reply to IDENTIFY, after checking its magic number, protocol
    version and hash of the definitions.

    Raises
    ------
    NotABoard
        The magic number is wrong.
    SpecMismatch
        The board's gateware and this software were built from different definitions.
    """
    if len(raw) < 6 or raw[:4] != MAGIC.to_bytes(4, "little"):
        raise NotABoard(f"the device on {port} answers, but is no Spikefold board")
    advice = (
        "Load a bitstream of this release onto the board ('python -m hw.flash BOARD'), or use the "
        "software of its release"
    )
    version = int.from_bytes(raw[4:6], "little")
    if version != PROTOCOL_VERSION:
        raise SpecMismatch(
            f"the board on {port} speaks protocol version {version}, this software version "
            f"{PROTOCOL_VERSION}. {advice}."
        )
    identity = parse_identity(raw)
    if identity is None:
        raise SpecMismatch(
            f"the board on {port} describes itself in {len(raw)} bytes, which this software does "
            f"not expect, although the board speaks protocol version {version}. {advice}."
        )
    name = identity_name(identity)
    values = {field.name: identity[field.name] for field in fields(Config) if field.name != "name"}
    try:
        config = Config(name=name, **values)
    except SpecError as error:
        raise SpecMismatch(
            f"the board {name!r} on {port} has a configuration that this software does not "
            f"support: {error}. {advice}."
        ) from error
    if spec_hash(config) != identity["spec_hash"]:
        raise SpecMismatch(
            f"the board {name!r} on {port} was built from different definitions: the hash of its "
            f"protocol and number formats is {identity['spec_hash']:016x}, this software's is "
            f"{spec_hash(config):016x}, although both call themselves protocol version {version}. "
            f"{advice}."
        )
    return BoardIdentity(config, version, identity["spec_hash"])


def open_transport(port: str, wrap: Callable[[Port], Port] = lambda port: port) -> Transport:
    """Open a port at the default rate (:data:`hw.protocol.DEFAULT_BAUD`), and return a transport
    over it. ``wrap`` takes the open port, and returns the object that the transport uses as the
    port.

    Raises
    ------
    DeviceNotFound
        The port cannot be opened, see :func:`sw.driver.ports.open_port`.
    """
    kind = kind_of(port)
    return Transport(
        wrap(open_port(port)),
        timeout_s=kind.timeout_s,
        settle_s=kind.settle_s,
        fixed_rate=kind.fixed_rate,
    )


def identify(transport: Transport) -> BoardIdentity:
    """Ask the device on an open port for its identity, check that this software can drive it, and
    return the identity.

    Raises
    ------
    NotABoard
        The device is no Spikefold board.
    SpecMismatch
        The board's gateware and this software were built from different definitions.
    LinkTimeout, LinkLost
        The device does not answer, or has been disconnected.
    """
    port = str(transport.port.port)
    request = Request(Opcode.IDENTIFY, n_reply_bytes=IDENTITY_BYTES)
    try:
        (raw,) = transport.exchange([request])
    except RequestRefused as error:
        raise NotABoard(f"the device on {port} answers, but is no Spikefold board") from error
    return _parse_identity(raw, port)


@contextlib.contextmanager
def timeouts(transport: Transport, timeout_s: float, n_retries: int) -> Iterator[None]:
    """Give a transport another timeout (in seconds) and number of retries within a ``with`` block.

    At the end of the block, the previous timeout and number of retries are restored.
    """
    before = transport.timeout_s, transport.n_retries
    transport.timeout_s, transport.n_retries = timeout_s, n_retries
    try:
        yield
    finally:
        transport.timeout_s, transport.n_retries = before


def connect(
    transport: Transport, timeout_s: float, n_retries: int
) -> tuple[Transport, BoardIdentity]:
    """Identify the board on an open port, after resetting the rate of both ends of the line to the
    default (:data:`hw.protocol.DEFAULT_BAUD`). If no board can be identified, close the port.

    Parameters
    ----------
    transport : link over the open port.
    timeout_s, n_retries : used in place of the transport's own while the board is identified; see
        :class:`sw.driver.transport.Transport`.

    Returns
    -------
    The given transport, and the board's identity.

    Raises
    ------
    NotABoard
        Nothing on the port answers like a Spikefold board.
    SpecMismatch
        The board's gateware and this software were built from different definitions.
    LinkLost
        The port has vanished.
    """
    try:
        with timeouts(transport, timeout_s, n_retries):
            for _ in range(N_BREAKS - 1):
                transport.resync()
                with contextlib.suppress(LinkTimeout):
                    return transport, identify(transport)
            transport.resync()
            return transport, identify(transport)
    except LinkTimeout as error:
        transport.close()
        port = str(transport.port.port)
        advice = port_advice(port)
        if transport.fixed_rate:
            advice = (
                f" This address passes only bytes: run the port at the other machine at "
                f"{DEFAULT_BAUD} bits per second, and reset a board that was used at another rate, "
                "or use rfc2217://"
            )
        raise NotABoard(
            f"nothing on {port} answers like a Spikefold board. Is its bitstream loaded?{advice}"
        ) from error
    except BaseException:
        transport.close()
        raise


@dataclass(frozen=True)
class _Probe:
    """Result of searching one serial port for a board.

    Attributes
    ----------
    path : path or name of the port.
    description : sentence for the user about the port and the device on it.
    board : open transport and identity of the board, or None if no board answered.
    error : why no board answered. None if a board answered, or if the port was not opened because
        no known board has this kind of port.
    """

    path: str
    description: str
    board: tuple[Transport, BoardIdentity] | None = None
    error: DeviceError | None = None


def _probe_ports() -> Iterator[_Probe]:
    """Search the serial ports for boards, in the order of their names, and yield the result for
    each port. A port is opened only if it may belong to a known board (:mod:`hw.boards.usb`), and
    not before the iterator reaches it.
    """
    for info in sorted(list_ports.comports(), key=lambda info: info.device):
        label = f"{info.device} ({info.description})"
        if info.vid is None:
            yield _Probe(info.device, f"{label}: not USB, not tried")
            continue
        if bridge_of(info.vid, info.pid, info.location, info.product) is None:
            yield _Probe(
                info.device,
                f"{label}: not the serial port of a known board, not tried. If your board is "
                f"there, name it: --board {info.device}",
            )
            continue
        try:
            board = connect(open_transport(info.device), PROBE_TIMEOUT_S, n_retries=1)
        except DeviceError as error:
            yield _Probe(info.device, f"{label}: {error}", error=error)
        else:
            yield _Probe(info.device, label, board)


def find_boards() -> tuple[list[tuple[str, BoardIdentity]], list[str]]:
    """Identify the boards on all USB serial ports of known boards, and close the ports again.

    Returns
    -------
    Two lists: the port and the identity of each board that was found, and a sentence about each
    port without a board.
    """
    found, others = [], []
    for probe in _probe_ports():
        if probe.board is None:
            others.append(probe.description)
        else:
            transport, identity = probe.board
            transport.close()
            found.append((probe.path, identity))
    return found, others


def find_board() -> tuple[Transport, BoardIdentity]:
    """Search the USB serial ports of known boards, and return the open transport and identity of
    the first board.

    Raises
    ------
    DeviceNotFound
        No port has a board; the message lists all ports.
    SpecMismatch
        The first board's gateware and this software were built from different definitions.
    """
    tried = []
    for probe in _probe_ports():
        if probe.board is not None:
            return probe.board
        if isinstance(probe.error, SpecMismatch):
            raise probe.error
        tried.append(probe.description)
    listing = "\n".join(f"  {line}" for line in tried) or "  none"
    raise DeviceNotFound(
        f"no board found. Serial ports:\n{listing}\n"
        "Plug a board in, name its port, or use the virtual board: --board sim"
    )
