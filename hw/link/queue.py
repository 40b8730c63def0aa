"""A queue of bytes in block RAM."""

from amaranth import Cat, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class ByteQueue(wiring.Component):
    """First in, first out.

    Parameters
    ----------
    depth : bytes held, a power of two.

    Members
    -------
    i, o : bytes; ``i`` is ready while there is room.
    clear : forgets what is held, but for a byte that is on ``o``.
    busy : something is held.
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))
    clear: In(1)
    busy: Out(1)

    def __init__(self, depth: int):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"queue of {depth!r} bytes is not supported: use a power of two")
        self.depth = depth
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=8, depth=self.depth, init=[])
        write, read = storage.write_port(), storage.read_port()
        # One more bit than the address has, so that full and empty differ.
        n_pointer_bits = self.depth.bit_length()
        n_in, n_out = Signal(n_pointer_bits), Signal(n_pointer_bits)
        some = n_in != n_out
        advance = Signal()
        m.d.comb += [
            self.i.ready.eq(n_in ^ n_out != self.depth),
            write.addr.eq(n_in),
            write.data.eq(self.i.payload),
            write.en.eq(self.i.valid & self.i.ready),
            advance.eq(~self.o.valid | self.o.ready),
            read.addr.eq(n_out),
            read.en.eq(advance),
            self.o.payload.eq(read.data),
            self.busy.eq(some | self.o.valid),
        ]
        m.d.sync += n_in.eq(n_in + Cat(write.en))
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(some), n_out.eq(n_out + Cat(some))]
        with m.If(self.clear):
            m.d.sync += [n_in.eq(0), n_out.eq(0)]
        return m
