"""Bytes of packets between the parts of the link."""

from amaranth.lib import data


class PacketByte(data.Struct):
    """A byte of a request that is known to be whole."""

    byte: 8
    last: 1


class ReplyByte(data.Struct):
    """A byte of a reply, or its end."""

    byte: 8
    """Undefined if ``end``."""
    end: 1
    """The reply is complete; this item carries no byte."""
