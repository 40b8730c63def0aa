"""Bytes of packets between the parts of the link."""

from amaranth.lib import data


class PacketByte(data.Struct):
    """A byte of a packet that is known to be whole."""

    byte: 8
    last: 1


class DecodedByte(data.Struct):
    """A byte of a frame that is still arriving, or its end."""

    byte: 8
    """Undefined if ``end``."""
    end: 1
    """The delimiter came; this item carries no byte."""
    truncated: 1
    """With ``end``: the delimiter came inside a block, the frame is damaged."""
