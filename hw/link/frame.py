"""Frames of the serial line: received frames are checked, and frames to send are built."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.link.packet import PacketByte, ReplyByte
from hw.parts.crc import Crc32
from hw.parts.pipeline import unreset
from hw.protocol import ARGUMENT_BYTES, CRC_BYTES, END, ESCAPE, ESCAPE_XOR, HEADER_BYTES


class FrameReceiver(wiring.Component):
    """Store each frame until its end and pass it on only if it is undamaged.

    A frame is dropped if it ends inside an escape sequence, is longer than ``max_payload_bytes``
    allows, is too short for a header and a CRC, or has a wrong CRC. While a frame is being passed
    on, no other frame is taken in.

    Parameters
    ----------
    max_payload_bytes : see :class:`hw.spec.Config`.
    twice : opcode of the requests that are passed on twice in a row, so that they can be checked
        before they have any effect; None if there is none.

    Members
    -------
    i : bytes from the serial line. Empty frames are skipped.
    o : header and payload of undamaged frames. The output is registered, because memory is slow,
        and the dispatcher makes decisions about a byte within one cycle.
    n_data_bytes : number of bytes of the frame on ``o`` that follow its header and arguments,
        negative if its arguments are incomplete; constant from its first byte until the next
        undamaged frame has arrived.
    dropped : high for one cycle for each frame dropped.
    passed : high for one cycle for each undamaged frame.
    busy : a frame is being passed on, or a byte is still being processed.
    """

    def __init__(self, max_payload_bytes: int, *, twice: int | None = None):
        self.max_payload_bytes = max_payload_bytes
        self.twice = twice
        self.n_fixed_bytes = HEADER_BYTES + ARGUMENT_BYTES + CRC_BYTES
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(PacketByte)),
                "n_data_bytes": Out(
                    signed(max(max_payload_bytes, self.n_fixed_bytes).bit_length() + 1)
                ),
                "dropped": Out(1),
                "passed": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Count from a negative number, so that the count at the end of a frame is `n_data_bytes`;
        # memory addresses are its low bits, which wrap.
        first = -self.n_fixed_bytes
        at = Signal(self.n_data_bytes.shape(), init=first)
        n_address_bits = (HEADER_BYTES + self.max_payload_bytes + CRC_BYTES - 1).bit_length()
        m.submodules.storage = frame = memory.Memory(shape=8, depth=1 << n_address_bits, init=[])
        m.submodules.crc = crc = Crc32()
        write, read = frame.write_port(), frame.read_port()

        escaped = Signal()
        too_long = Signal()
        handing_on = Signal()
        reading = Signal()  # bytes of the frame being passed on are still in memory
        # Register each byte before it is decoded, since it comes from a large memory.
        raw, holds = unreset(8), Signal()
        take = holds & ~handing_on & crc.ready
        m.d.comb += self.i.ready.eq(~holds)
        with m.If(~holds):
            m.d.sync += [raw.eq(self.i.payload), holds.eq(self.i.valid)]
        with m.Elif(take):
            m.d.sync += holds.eq(0)
        is_end, is_escape = raw == END, raw == ESCAPE
        is_empty = at == first
        has_header = at >= HEADER_BYTES + CRC_BYTES - self.n_fixed_bytes
        good = ~escaped & ~too_long & crc.intact & has_header
        is_byte = take & ~is_end & (~is_escape | escaped)
        m.d.comb += [
            self.busy.eq(holds | handing_on | ~crc.ready),
            crc.byte.eq(raw ^ Mux(escaped, ESCAPE_XOR, 0)),
            crc.valid.eq(is_byte),
            crc.clear.eq(take & is_end),
            write.addr.eq(at),
            write.data.eq(crc.byte),
            write.en.eq(is_byte & ~too_long),
            read.addr.eq(at),
            self.passed.eq(take & is_end & good),
            self.dropped.eq(take & is_end & ~good & (~is_empty | escaped)),
        ]
        with m.If(take):
            m.d.sync += escaped.eq(is_escape)
        with m.If(is_byte):
            with m.If(at == self.max_payload_bytes - ARGUMENT_BYTES):
                m.d.sync += too_long.eq(1)
            with m.Else():
                m.d.sync += at.eq(at + 1)
        with m.Elif(take & is_end):
            m.d.sync += [
                handing_on.eq(good),
                reading.eq(good),
                too_long.eq(0),
                at.eq(first),
            ]
            # Not for an empty frame, which may follow at once.
            with m.If(good):
                m.d.sync += self.n_data_bytes.eq(at)

        was_read, was_last = Signal(), Signal()  # describe the byte on `read.data`
        is_last = at == self.n_data_bytes - (CRC_BYTES + 1)
        free = ~self.o.valid | self.o.ready
        advance = Signal()
        m.d.comb += [advance.eq(~was_read | free), read.en.eq(reading & advance)]
        with m.If(advance):
            m.d.sync += was_read.eq(reading)
        with m.If(read.en):
            m.d.sync += [was_last.eq(is_last), reading.eq(~is_last), at.eq(at + 1)]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(was_read),
                self.o.p.byte.eq(read.data),
                self.o.p.last.eq(was_last),
            ]
        with m.If(self.o.valid & self.o.ready & self.o.p.last):
            m.d.sync += [handing_on.eq(0), at.eq(first)]
        if self.twice is not None:
            again = unreset(1)  # the frame is to be passed on once more
            with m.If(is_byte & (at == first + HEADER_BYTES - 1)):
                m.d.sync += again.eq(crc.byte == self.twice)
            with m.If(self.o.valid & self.o.ready & self.o.p.last & again):
                m.d.sync += [again.eq(0), handing_on.eq(1), reading.eq(1)]
        return m


class FrameSender(wiring.Component):
    """Send each packet (header and payload) as a frame, with its CRC appended.

    The CRC unit also computes the CRC of rows that a CHECK request names, which are not sent: they
    are *folded* into the CRC.

    Members
    -------
    i : packets, each followed by an item with ``end``.
    fold : the items on ``i`` are not sent, only their CRC is computed.
    folded_intact : valid at the ``end`` of folded data: high if their last four bytes are the CRC
        of the bytes before these four.
    o : bytes for the serial line.
    busy : the ``end`` of a packet was taken from ``i``, and its frame has not yet left through
        ``o``.
    """

    i: In(stream.Signature(ReplyByte))
    fold: In(1)
    folded_intact: Out(1)
    o: Out(stream.Signature(8))
    busy: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc32()
        # Register each byte before it is decoded: the dispatcher's wide registers move with
        # `i.ready`, which therefore must not depend on the value of the byte.
        held, holds, folds = unreset(8), Signal(), unreset(1)
        n_crc_bytes = Signal(range(CRC_BYTES + 1))  # bytes of the CRC sent so far
        in_crc = Signal()
        escaped = Signal()
        byte = Signal(8)
        all_sent = n_crc_bytes[-1]  # all bytes of the CRC have been sent
        # Feeding the CRC's complemented low byte back into it shifts it down by one byte.
        m.d.comb += [
            byte.eq(Mux(in_crc, crc.value[:8], held)),
            crc.byte.eq(Mux(in_crc, ~crc.value[:8], held)),
            self.busy.eq(in_crc),
            self.folded_intact.eq(crc.intact),
        ]
        is_special = (byte == END) | (byte == ESCAPE)
        escape = is_special & ~escaped
        free = ~in_crc & ~holds
        at_end = free & self.i.valid & self.i.p.end & crc.ready
        with m.If(all_sent):
            m.d.comb += self.o.payload.eq(END)
        with m.Elif(escape):
            m.d.comb += self.o.payload.eq(ESCAPE)
        with m.Else():
            m.d.comb += self.o.payload.eq(byte ^ Mux(escaped, ESCAPE_XOR, 0))
        done = Signal()  # a byte of the packet or of the CRC has been sent or folded
        m.d.comb += [
            self.o.valid.eq((in_crc | (holds & ~folds)) & crc.ready),
            done.eq(
                crc.ready & ((holds & folds) | (self.o.valid & self.o.ready & ~escape & ~all_sent))
            ),
            crc.valid.eq(done),
            crc.clear.eq((all_sent & crc.ready & self.o.ready) | (at_end & self.fold)),
            self.i.ready.eq(free & (crc.ready | ~self.i.p.end)),
        ]
        with m.If(done):
            m.d.sync += holds.eq(0)
        with m.If(free):
            m.d.sync += [
                held.eq(self.i.p.byte),
                folds.eq(self.fold),
                holds.eq(self.i.valid & ~self.i.p.end),
            ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += escaped.eq(escape & ~all_sent)
        with m.If(at_end & ~self.fold):
            m.d.sync += in_crc.eq(1)
        with m.If(in_crc & done):
            m.d.sync += n_crc_bytes.eq(n_crc_bytes + 1)
        with m.If(all_sent & crc.ready & self.o.ready):
            m.d.sync += [in_crc.eq(0), n_crc_bytes.eq(0)]
        return m
