"""Whole frames: what arrives is checked before it is handed on, what leaves gets its CRC."""

from amaranth import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.link.crc import Crc16
from hw.link.packet import DecodedByte, PacketByte
from hw.protocol import CRC_BYTES, HEADER_BYTES


class FrameBuffer(wiring.Component):
    """Holds a frame until its end and hands it on only if it is undamaged.

    A frame is dropped if it was truncated, is longer than ``max_payload_bytes`` allows, is too
    short to have a header, or its CRC is wrong. While a frame is handed on no other is taken in.

    Members
    -------
    i : bytes of frames that may be damaged.
    o : header and payload of undamaged frames.
    n_payload_bytes : of the frame on ``o``; constant from its first to its last byte.
    dropped : high for one cycle per frame dropped.
    busy : a frame is on ``o``.
    """

    def __init__(self, max_payload_bytes: int):
        self.max_payload_bytes = max_payload_bytes
        super().__init__(
            {
                "i": In(stream.Signature(DecodedByte)),
                "o": Out(stream.Signature(PacketByte)),
                "n_payload_bytes": Out(range(max_payload_bytes + 1)),
                "dropped": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = HEADER_BYTES + self.max_payload_bytes + CRC_BYTES
        m.submodules.storage = storage = memory.Memory(shape=8, depth=depth, init=[])
        m.submodules.crc = crc = Crc16()
        write = storage.write_port()
        read = storage.read_port()

        n_bytes = Signal(range(depth + 1))
        n_read = Signal(range(depth + 1))
        too_long = Signal()
        last = Signal()
        handing_on = Signal()
        take = self.i.valid & self.i.ready
        good = ~self.i.p.truncated & ~too_long & crc.intact & (n_bytes >= HEADER_BYTES + CRC_BYTES)
        m.d.comb += [
            self.busy.eq(handing_on),
            self.i.ready.eq(~handing_on),
            crc.byte.eq(self.i.p.byte),
            crc.en.eq(take),
            crc.clear.eq(take & self.i.p.end),
            write.addr.eq(n_bytes),
            write.data.eq(self.i.p.byte),
            read.addr.eq(n_read),
            self.o.p.byte.eq(read.data),
            self.o.p.last.eq(last),
        ]
        with m.If(take):
            with m.If(~self.i.p.end):
                with m.If(n_bytes == depth):
                    m.d.sync += too_long.eq(1)
                with m.Else():
                    m.d.comb += write.en.eq(1)
                    m.d.sync += n_bytes.eq(n_bytes + 1)
            with m.Else():
                m.d.sync += [
                    handing_on.eq(good),
                    too_long.eq(0),
                    n_bytes.eq(0),
                    n_read.eq(0),
                    self.n_payload_bytes.eq(n_bytes - (HEADER_BYTES + CRC_BYTES)),
                ]
                m.d.comb += self.dropped.eq(~good)

        advance = Signal()
        m.d.comb += [advance.eq(handing_on & (~self.o.valid | self.o.ready)), read.en.eq(advance)]
        with m.If(advance):
            with m.If(self.o.valid & last):
                m.d.sync += [handing_on.eq(0), self.o.valid.eq(0)]
            with m.Else():
                m.d.sync += [
                    self.o.valid.eq(1),
                    last.eq(n_read == self.n_payload_bytes + (HEADER_BYTES - 1)),
                    n_read.eq(n_read + 1),
                ]
        return m


class CrcAppender(wiring.Component):
    """Adds its CRC, high byte first, to each packet.

    Members
    -------
    i, o : packets, without and with CRC.
    """

    i: In(stream.Signature(PacketByte))
    o: Out(stream.Signature(PacketByte))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc16()
        m.d.comb += crc.byte.eq(self.i.p.byte)
        with m.FSM():
            with m.State("PASS"):
                m.d.comb += [
                    self.o.valid.eq(self.i.valid),
                    self.i.ready.eq(self.o.ready),
                    self.o.p.byte.eq(self.i.p.byte),
                    crc.en.eq(self.i.valid & self.i.ready),
                ]
                with m.If(crc.en & self.i.p.last):
                    m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(crc.value[8:])]
                with m.If(self.o.ready):
                    m.next = "LOW"
            with m.State("LOW"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.p.byte.eq(crc.value[:8]),
                    self.o.p.last.eq(1),
                ]
                with m.If(self.o.ready):
                    m.d.comb += crc.clear.eq(1)
                    m.next = "PASS"
        return m
