"""Payloads of the streams between the components of the link."""

from amaranth.lib import data


class PacketByte(data.Struct):
    """One byte of a request whose CRC has been found correct."""

    byte: 8
    last: 1


class ReplyByte(data.Struct):
    """One byte of a reply, or its end."""

    byte: 8
    """Undefined if ``end`` is set."""
    end: 1
    """The reply is complete; this item carries no byte."""
