"""A core for tests of the link, which stores rows and only pretends to run."""

from amaranth import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import Out

from hw.bus import CoreBus, max_row_bytes
from hw.protocol import Result, Run, Space, n_rows, row_bytes, spaces
from hw.spec import Config


class StubCore(wiring.Component):
    """Replacement of the core with the same bus, whose memories only store rows.

    Results and counters are stored rows, too, which a run (an inference) does not change. A run
    lasts ``run_cycles`` cycles. Its reported class ``argmax`` is the ``entry`` of
    :class:`hw.protocol.Run`, and its reported duration is ``run_cycles``.

    Attributes
    ----------
    n_writes : number of rows written so far.
    rows : memories by their names in :class:`hw.protocol.Space`, in lower case.
    """

    def __init__(self, config: Config, *, run_cycles: int = 200):
        self.config = config
        self.run_cycles = run_cycles
        self.n_writes = Signal(16)
        self.rows = {
            space.name.lower(): memory.Memory(
                shape=8 * row_bytes(space, config), depth=n_rows(space, config), init=[]
            )
            for space in spaces(config)
        }
        super().__init__({"bus": Out(CoreBus(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, bus = self.config, self.bus
        m.d.comb += bus.write.ready.eq(1)
        m.d.sync += self.n_writes.eq(self.n_writes + bus.write.valid)

        was_read = Signal(Space)
        wide = Signal(8 * max_row_bytes(config))
        m.d.comb += bus.read_data.payload.eq(wide)
        m.d.comb += bus.read.ready.eq(~bus.read_data.valid)
        m.d.sync += bus.read_data.valid.eq(bus.read.valid & bus.read.ready)
        with m.If(bus.read.valid & bus.read.ready):
            m.d.sync += was_read.eq(bus.read.p.space)
        for space in spaces(config):
            name = space.name.lower()
            m.submodules[name] = rows = self.rows[name]
            write, read = rows.write_port(), rows.read_port()
            m.d.comb += [
                write.addr.eq(bus.write.p.address.row),
                write.data.eq(bus.write.p.data),
                write.en.eq(bus.write.valid & (bus.write.p.address.space == space)),
                read.addr.eq(bus.read.p.row),
                read.en.eq(bus.read.valid & bus.read.ready),
            ]
            with m.If(was_read == space):
                m.d.comb += wide.eq(read.data)

        run = Signal(Run)
        left = Signal(range(self.run_cycles + 1))
        result = Signal(Result)
        m.d.comb += [
            bus.busy.eq(left != 0),
            bus.run.ready.eq(~bus.busy),
            result.tag.eq(run.tag),
            result.argmax.eq(run.entry),
            result.n_cycles.eq(self.run_cycles),
            bus.done.payload.eq(result),
        ]
        with m.If(bus.done.ready):
            m.d.sync += bus.done.valid.eq(0)
        with m.If(bus.run.valid & bus.run.ready):
            m.d.sync += [run.eq(bus.run.payload), left.eq(self.run_cycles)]
        with m.Elif(bus.busy):
            m.d.sync += left.eq(Mux(bus.abort, 0, left - 1))
            with m.If((left == 1) & ~bus.abort):
                m.d.sync += bus.done.valid.eq(1)
        return m
