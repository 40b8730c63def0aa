"""The wire's bytes, written once more from the description of the protocol, to test both ends."""

from __future__ import annotations

import binascii

from cobs import cobs

from hw.protocol import REPLY, Address, Opcode, Run, Space, Status, pack


def checked(packet: bytes) -> bytes:
    """A packet and its CRC."""
    return packet + (binascii.crc_hqx(packet, 0xFFFF) ^ 0xFFFF).to_bytes(2, "big")


def frame(seq: int, opcode: int, payload: bytes = b"") -> bytes:
    """Wire bytes of a frame."""
    return cobs.encode(checked(bytes([seq, opcode]) + payload)) + b"\0"


def request(seq: int, opcode: int, payload: bytes = b"") -> bytes:
    """A request before CRC and framing."""
    return bytes([seq, opcode]) + payload


def reply(seq: int, opcode: int, payload: bytes = b"", status: Status = Status.OK) -> bytes:
    """A reply before CRC and framing."""
    return bytes([seq, opcode | REPLY, status]) + payload


def write_payload(space: int, row: int, rows: bytes = b"") -> bytes:
    return pack(Address, {"row": row, "space": space}) + rows


def read_payload(space: int, row: int, n_rows: int) -> bytes:
    return pack(Address, {"row": row, "space": space}) + n_rows.to_bytes(2, "little")


def run_payload(tag: int, entry: int) -> bytes:
    return pack(Run, {"tag": tag, "entry": entry})


__all__ = [
    "Opcode",
    "Space",
    "Status",
    "checked",
    "frame",
    "read_payload",
    "reply",
    "request",
    "run_payload",
    "write_payload",
]
