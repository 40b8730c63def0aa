"""Data types of the streams of bytes between the components of the link."""

from amaranth.lib import data


class PacketByte(data.Struct):
    """One byte of a received request, passed on after its CRC has been found correct."""

    byte: 8
    last: 1


class ReplyByte(data.Struct):
    """One byte of a reply to send, or the mark that the reply is complete."""

    byte: 8
    """Undefined if ``end`` is set."""
    end: 1
    """The reply is complete; this item carries no byte."""
