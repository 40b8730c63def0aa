"""Independent implementation of the link's frames, to test driver and gateware.

It was written from the description of the protocol and shares no code with either.
"""

from __future__ import annotations

import zlib

from hw.protocol import REPLY, Opcode, Rate, Rows, Run, Space, Status, pack


def checked(packet: bytes) -> bytes:
    """Return a packet with its CRC appended."""
    return packet + zlib.crc32(packet).to_bytes(4, "little")


def stuffed(body: bytes) -> bytes:
    """Return bytes with every END and ESCAPE byte escaped as in RFC 1662, section 4.2."""
    escapes = {0x7E: b"\x7d\x5e", 0x7D: b"\x7d\x5d"}
    return b"".join(escapes.get(byte, bytes([byte])) for byte in body)


def frame(seq: int, opcode: int, payload: bytes = b"") -> bytes:
    """Return a whole frame as it is on the line: stuffed packet and CRC, followed by END."""
    return stuffed(checked(bytes([seq, opcode]) + payload)) + b"\x7e"


def packet_of(raw: bytes) -> bytes:
    """Return the packet of a received frame, given without its END byte; fail if it is damaged."""
    body = bytearray()
    rest = iter(raw)
    for byte in rest:
        body.append(next(rest) ^ 0x20 if byte == 0x7D else byte)
    packet = bytes(body[:-4])
    assert bytes(body) == checked(packet), f"damaged frame {raw.hex(' ')}"
    return packet


def request(seq: int, opcode: int, payload: bytes = b"") -> bytes:
    """Return the packet of a request: sequence number, opcode and payload, without CRC and
    framing."""
    return bytes([seq, opcode]) + payload


def reply(seq: int, opcode: int, payload: bytes = b"", status: Status = Status.OK) -> bytes:
    """Return the packet of a reply: sequence number, opcode, status and payload, without CRC and
    framing."""
    return bytes([seq, opcode | REPLY, status]) + payload


def rows_payload(space: int, row: int, n_rows: int) -> bytes:
    return pack(Rows, {"address": {"row": row, "space": space}, "n_rows": n_rows})


def check_payload(space: int, row: int, n_rows: int, rows: bytes) -> bytes:
    return rows_payload(space, row, n_rows) + zlib.crc32(rows).to_bytes(4, "little")


def run_payload(tag: int, entry: int, n_result_rows: int = 0, n_counter_rows: int = 0) -> bytes:
    values = {"n_result_rows": n_result_rows, "n_counter_rows": n_counter_rows}
    return pack(Run, {"tag": tag, "entry": entry, **values})


def rate_payload(divisor: int) -> bytes:
    return pack(Rate, {"divisor_less_1": divisor - 1})


__all__ = [
    "Opcode",
    "Space",
    "Status",
    "check_payload",
    "checked",
    "frame",
    "packet_of",
    "rate_payload",
    "reply",
    "request",
    "rows_payload",
    "run_payload",
    "stuffed",
]


def unpacked(packed: bytes, n: int) -> bytes | None:
    """Return the ``n`` bytes of packed rows, or None if the packed rows are malformed.

    In packed rows bytes of zero are left out, and masks say which bytes are present. Packed rows
    are malformed if they are too short, go on after the last byte, or have a mask with a bit for a
    byte after the last one. A byte of zero that is present nevertheless is accepted.
    """
    rest = iter(packed)
    rows = bytearray()
    groups = 0
    try:
        while len(rows) < n:
            if len(rows) % 64 == 0:
                groups = next(rest)
            mask = next(rest) if groups & 1 else 0
            groups >>= 1
            for _ in range(min(8, n - len(rows))):
                rows.append(next(rest) if mask & 1 else 0)
                mask >>= 1
            if mask:
                return None
    except StopIteration:
        return None
    return None if groups or next(rest, None) is not None else bytes(rows)
