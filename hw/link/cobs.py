"""Consistent overhead byte stuffing (Cheshire and Baker, IEEE/ACM Trans. Networking 7(2), 1999).

A packet is cut at its zero bytes into blocks of at most 254 bytes; each is sent after a code, its
length plus one. No zero is left, so that a zero byte delimits packets. Code 255 stands for 254
bytes that no zero follows.
"""

from amaranth import Cat, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.link.packet import DecodedByte, PacketByte
from hw.protocol import DELIMITER

FULL_CODE = 0xFF
RING_BYTES = 512
"""Two blocks: while one is sent, the next is collected."""


class CobsDecoder(wiring.Component):
    """Wire bytes to frames. Delimiters with nothing between them are skipped.

    Members
    -------
    i : bytes of the wire.
    o : the decoded bytes, and an ``end`` for each delimiter that ends a frame.
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(DecodedByte))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        in_frame = Signal()
        left = Signal(8)  # bytes of the block still to come
        zero_due = Signal()  # a zero comes between this block and the next one, if there is one
        is_delimiter = self.i.payload == DELIMITER
        emits = Signal()

        m.d.comb += [
            self.o.valid.eq(self.i.valid & emits),
            self.i.ready.eq(self.o.ready | ~emits),
            self.o.p.end.eq(is_delimiter),
            self.o.p.truncated.eq(left != 0),
            self.o.p.byte.eq(self.i.payload),
        ]
        with m.If(is_delimiter):
            m.d.comb += emits.eq(in_frame)
        with m.Elif(left != 0):
            m.d.comb += emits.eq(1)
        with m.Else():
            m.d.comb += [emits.eq(zero_due), self.o.p.byte.eq(0)]

        with m.If(self.i.valid & self.i.ready):
            with m.If(is_delimiter):
                m.d.sync += [in_frame.eq(0), left.eq(0), zero_due.eq(0)]
            with m.Elif(left != 0):
                m.d.sync += left.eq(left - 1)
            with m.Else():
                m.d.sync += [
                    in_frame.eq(1),
                    left.eq(self.i.payload - 1),
                    zero_due.eq(self.i.payload != FULL_CODE),
                ]
        return m


class CobsEncoder(wiring.Component):
    """Packets to wire bytes, each packet followed by a delimiter.

    A code comes before its block, whose length is known only at its end: a block is collected in a
    ring, its code is written into the place kept for it, and only then is it released to ``o``.

    Members
    -------
    i : packets.
    o : bytes for the wire.
    busy : something was taken from ``i`` that has not left through ``o``.
    """

    i: In(stream.Signature(PacketByte))
    o: Out(stream.Signature(8))
    busy: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ring = ring = memory.Memory(shape=8, depth=RING_BYTES, init=[])
        write = ring.write_port()
        read = ring.read_port()

        # One more bit than the address has, so that full and empty differ.
        n_pointer_bits = RING_BYTES.bit_length()
        code_at = Signal(n_pointer_bits)  # where the code of the open block goes
        end = Signal(n_pointer_bits, init=1)  # behind the open block
        sent = Signal(n_pointer_bits)
        code = Signal(8, init=1)
        used = Signal(n_pointer_bits)
        m.d.comb += used.eq(end - sent)

        def close_block(value: object) -> list:
            """Writes the code and keeps a place for the next one."""
            m.d.comb += [write.en.eq(1), write.addr.eq(code_at), write.data.eq(value)]
            return [code_at.eq(end), end.eq(end + 1), code.eq(1)]

        idle = Signal()
        with m.FSM():
            with m.State("COLLECT"):
                m.d.comb += [
                    # Room for this byte and for all that the other states write.
                    self.i.ready.eq(used <= RING_BYTES - 4),
                    idle.eq(code == 1),
                ]
                with m.If(self.i.valid & self.i.ready):
                    with m.If(self.i.p.byte == 0):
                        m.d.sync += close_block(code)
                    with m.Else():
                        m.d.comb += [
                            write.en.eq(1),
                            write.addr.eq(end),
                            write.data.eq(self.i.p.byte),
                        ]
                        m.d.sync += [end.eq(end + 1), code.eq(code + 1)]
                    with m.If(self.i.p.last):
                        m.next = "LAST"
                    with m.Elif((self.i.p.byte != 0) & (code == FULL_CODE - 1)):
                        m.next = "FULL"
            with m.State("FULL"):
                m.d.sync += close_block(code)
                m.next = "COLLECT"
            with m.State("LAST"):
                m.d.sync += close_block(code)
                m.next = "DELIMIT"
            with m.State("DELIMIT"):
                m.d.sync += close_block(DELIMITER)
                m.next = "COLLECT"

        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            read.addr.eq(sent),
            read.en.eq(advance),
            self.o.payload.eq(read.data),
            self.busy.eq(~idle | self.o.valid | (sent != code_at)),
        ]
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(sent != code_at),
                sent.eq(sent + Cat(sent != code_at)),
            ]
        return m
