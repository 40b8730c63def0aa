"""A queue (FIFO) whose entries are in a memory."""

from amaranth import Module, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.memories import shallow


class Queue(wiring.Component):
    """Store entries and return them in the same order; an entry can be taken two cycles after it
    arrives.

    Parameters
    ----------
    shape : shape of an entry.
    depth : largest number of entries in the memory, a power of two; one more may be on ``o``.
    always_ready : leave out the logic that refuses an entry when the queue is full; the writer must
        look at ``level`` instead.

    Members
    -------
    i, o : entries in and out; ``i`` is ready while there is room.
    clear : drop all entries except one that is already on ``o``.
    level : number of entries held, including the one on ``o``.
    busy : at least one entry is held.
    """

    def __init__(self, shape: ShapeLike, depth: int, *, always_ready: bool = False):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(
                f"queue of {depth!r} entries is not supported: use a power of two of at least 2"
            )
        self.shape = shape
        self.depth = depth
        self.always_ready = always_ready
        super().__init__(
            {
                "i": In(stream.Signature(shape, always_ready=always_ready)),
                "o": Out(stream.Signature(shape)),
                "clear": In(1),
                "level": Out(range(depth + 2)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = rows = memory.Memory(
            shape=self.shape, depth=self.depth, init=[], attrs=shallow(self.depth, platform)
        )
        write, read = rows.write_port(), rows.read_port()
        # One bit more than the address, which tells a full queue from an empty one.
        n_in, n_out = (Signal(range(2 * self.depth)) for _ in range(2))
        held = Signal.like(n_in)
        some, advance = Signal(), Signal()
        m.d.comb += [
            held.eq(n_in - n_out),
            self.level.eq(held + self.o.valid),
            some.eq(n_in != n_out),
            self.busy.eq(some | self.o.valid),
            write.addr.eq(n_in),
            write.data.eq(self.i.payload),
            write.en.eq(self.i.valid & self.i.ready),
            advance.eq(~self.o.valid | self.o.ready),
            read.addr.eq(n_out),
            read.en.eq(advance),
            self.o.payload.eq(read.data),
        ]
        if not self.always_ready:
            m.d.comb += self.i.ready.eq(n_in ^ n_out != self.depth)
        m.d.sync += n_in.eq(n_in + write.en)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(some), n_out.eq(n_out + some)]
        with m.If(self.clear):
            m.d.sync += [n_in.eq(0), n_out.eq(0)]
        return m
