"""Sums on their way from the lanes to the fire unit."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.spec import SUMS_UNHEARD, Config


class SumQueue(wiring.Component):
    """Room for the sums of ``sum_queue`` jobs, which is given away while they are still to be added
    up: so nothing behind the scanner ever stands still, and no wire must stop a memory that is
    spread all over the device.

    Members
    -------
    ends : the scanner's event, which is on its way now, ends a job.
    room : the scanner may go on, even if a job ends in each of the :data:`hw.spec.SUMS_UNHEARD`
        cycles that it takes until this is heard of.
    i : always ready.
    o : the same sums, in order.
    """

    def __init__(self, config: Config):
        self._depth = config.sum_queue
        sums = data.ArrayLayout(signed(config.membrane_bits), config.lanes)
        super().__init__(
            {
                "ends": In(1),
                "room": Out(1, init=1),
                "i": In(stream.Signature(sums)),
                "o": Out(stream.Signature(sums)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=self.i.p.shape().size, depth=self._depth
        )
        m.d.comb += [
            self.i.ready.eq(1),
            queue.w_data.eq(self.i.p),
            queue.w_en.eq(self.i.valid),
            self.o.p.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]
        n_jobs = Signal(range(self._depth + 1))  # that have a place
        m.d.sync += [
            n_jobs.eq(n_jobs + self.ends - (self.o.valid & self.o.ready)),
            self.room.eq(n_jobs <= self._depth - SUMS_UNHEARD),
        ]
        return m
