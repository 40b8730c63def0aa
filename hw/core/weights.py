"""Weight memory: one row of ``lanes`` weights per cycle, the resource that bounds the machine."""

from amaranth import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hw.spec import Config


class WeightMemory(wiring.Component):
    """One write and one read port, ``lanes * weight_bits`` wide; the output is registered twice,
    since a deep memory's own output register is too slow to be followed by logic.

    ``read_data`` belongs to the ``read_row`` of :attr:`LATENCY` cycles before.
    """

    LATENCY = 2

    def __init__(self, config: Config):
        self._config = config
        row = range(config.weight_depth)
        row_bits = config.lanes * config.weight_bits
        super().__init__(
            {
                "read_row": In(row),
                "read_en": In(1),
                "read_data": Out(row_bits),
                "write_row": In(row),
                "write_en": In(1),
                "write_data": In(row_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = rows = memory.Memory(
            shape=self._config.lanes * self._config.weight_bits,
            depth=self._config.weight_depth,
            init=[],
        )
        read, write = rows.read_port(), rows.write_port()
        m.d.comb += [
            read.addr.eq(self.read_row),
            read.en.eq(self.read_en),
            write.addr.eq(self.write_row),
            write.en.eq(self.write_en),
            write.data.eq(self.write_data),
        ]
        m.d.sync += self.read_data.eq(read.data)
        return m
