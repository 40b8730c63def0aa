"""Decoder of packed rows, in which bytes of zero cost little (:func:`hw.protocol.pack_zeros`)."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.link.packet import PacketByte
from hw.parts.pipeline import unreset
from hw.protocol import GROUP_BYTES


class Unpacker(wiring.Component):
    """Decode packed rows, a byte per cycle, by putting back the bytes of zero that were left out.

    :func:`hw.protocol.pack_zeros` defines the packed form: bit masks say which bytes are not zero,
    and only these bytes follow. Decoding begins with ``start`` and is over when ``ended`` is high.
    It ends after ``n_bytes`` decoded bytes, or as soon as the packed form is found malformed. In
    the second case, bytes of the request may be left on ``i``; ``input_ended`` is then low.

    Parameters
    ----------
    most : largest value of ``n_bytes``.

    Members
    -------
    start : begin to decode; what was begun before is forgotten.
    n_bytes : number of bytes to decode, valid with ``start``; at least 1.
    i : bytes of the packed form, the last of which has ``last``.
    o : decoded bytes, the last of which has ``last``. The last one may be missing if the packed
        form is malformed.
    ended : nothing is being decoded.
    sound : valid when ``ended``: the packed form is well-formed. It decodes to exactly ``n_bytes``
        bytes, no mask has a bit for a byte after these, and no bytes of ``i`` are left.
    input_ended : the last byte of the packed form has been taken.
    """

    def __init__(self, most: int):
        super().__init__(
            {
                "start": In(1),
                "n_bytes": In(range(most + 1)),
                "i": In(stream.Signature(PacketByte)),
                "o": Out(stream.Signature(PacketByte)),
                "ended": Out(1),
                "sound": Out(1),
                "input_ended": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n_left = Signal.like(self.n_bytes)
        groups, mask = unreset(GROUP_BYTES), unreset(GROUP_BYTES)
        group, at = unreset(range(GROUP_BYTES)), unreset(range(GROUP_BYTES))
        has_byte = self.i.valid & ~self.input_ended
        takes = self.i.valid & self.i.ready
        with m.If(takes):
            m.d.sync += self.input_ended.eq(self.i.p.last)

        with m.FSM():
            with m.State("ENDED"):
                m.d.comb += self.ended.eq(1)
                with m.If(self.start):
                    m.d.sync += [n_left.eq(self.n_bytes), self.input_ended.eq(0), self.sound.eq(0)]
                    m.next = "GROUPS"

            with m.State("GROUPS"):
                m.d.comb += self.i.ready.eq(~self.input_ended)
                m.d.sync += [groups.eq(self.i.p.byte), group.eq(0)]
                with m.If(self.input_ended):
                    m.next = "ENDED"
                with m.Elif(takes):
                    m.next = "MASK"

            with m.State("MASK"):
                present = groups[0]
                m.d.comb += self.i.ready.eq(present & ~self.input_ended)
                m.d.sync += [mask.eq(Mux(present, self.i.p.byte, 0)), at.eq(0)]
                with m.If(present & self.input_ended):
                    m.next = "ENDED"
                with m.Elif(takes | ~present):
                    m.d.sync += groups.eq(groups >> 1)
                    m.next = "BYTES"

            with m.State("BYTES"):
                present, is_last = mask[0], n_left == 1
                m.d.comb += [
                    self.o.valid.eq(~present | has_byte),
                    self.o.p.byte.eq(Mux(present, self.i.p.byte, 0)),
                    self.o.p.last.eq(is_last),
                    self.i.ready.eq(present & ~self.input_ended & self.o.ready),
                ]
                with m.If(present & self.input_ended):
                    m.next = "ENDED"
                with m.Elif(self.o.valid & self.o.ready):
                    m.d.sync += [mask.eq(mask >> 1), at.eq(at + 1), n_left.eq(n_left - 1)]
                    with m.If(is_last):
                        m.next = "LAST"
                    with m.Elif(at == GROUP_BYTES - 1):
                        m.d.sync += group.eq(group + 1)
                        m.next = "MASK"
                        with m.If(group == GROUP_BYTES - 1):
                            m.next = "GROUPS"

            with m.State("LAST"):
                m.d.sync += self.sound.eq(self.input_ended & ~mask.any() & ~groups.any())
                m.next = "ENDED"
        return m
