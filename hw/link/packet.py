"""Data types of the streams of bytes between the components of the link."""

from amaranth.lib import data


class PacketByte(data.Struct):
    """One byte of a received request, passed on after its CRC has been found correct; ``last``
    marks the last byte."""

    byte: 8
    last: 1


class ReplyByte(data.Struct):
    """One byte of a reply to send, or the marker of the reply's end."""

    byte: 8
    """Byte to send; it has no meaning if ``end`` is set."""
    end: 1
    """Whether this item marks the reply's end; it then carries no byte."""
