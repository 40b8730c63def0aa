"""Sums on their way from the lanes to the fire unit, which takes ``fire_lanes`` of them a cycle."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import delayed, select, storage
from hw.spec import SUMS_IN_FLIGHT, Config


def sums_layout(config: Config, n_lanes: int) -> data.ArrayLayout:
    """Sums of as many lanes."""
    return data.ArrayLayout(signed(config.membrane_bits), n_lanes)


class SumsSignature(wiring.Signature):
    """Jobs' sums, beat by beat, for the fire unit.

    Members
    -------
    there : the sums of the next job that has any are there.
    begin, last : this cycle is the first, the last beat of a job.
    beat : which one it is.
    silent : it is of a job that had no active input, and so no sums: they are 0.
    p : sums of the beat of :attr:`Config.param_latency` cycles before.
    """

    def __init__(self, config: Config):
        super().__init__(
            {
                "there": Out(1),
                "begin": In(1),
                "last": In(1),
                "beat": In(range(max(config.fire_beats, 2))),
                "silent": In(1),
                "p": Out(sums_layout(config, config.fire_lanes)),
            }
        )


class SumQueue(wiring.Component):
    """Room for the sums of ``sum_queue`` jobs, which is given away while they are still to be added
    up: so nothing behind the scanner ever stands still, and no wire must stop a memory that is
    spread all over the device.

    Members
    -------
    ends : the scanner's event, which is on its way now, ends a job.
    room : the scanner may go on, even if a job ends in each of the :data:`hw.spec.SUMS_IN_FLIGHT`
        cycles that it takes until this is heard of.
    i : always ready.
    o : the same sums, in order.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "ends": In(1),
                "room": Out(1, init=1),
                "i": In(stream.Signature(sums_layout(config, config.lanes))),
                "o": Out(SumsSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, sums = self._config, Value.cast(self.i.p)
        address_bits = (config.sum_queue - 1).bit_length()
        m.submodules.jobs = jobs = memory.Memory(shape=len(sums), depth=1 << address_bits, init=[])
        write, read = jobs.write_port(), jobs.read_port(domain="comb")
        n_in, n_out = Signal(address_bits + 1), Signal(address_bits + 1)
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq(1),
            write.addr.eq(n_in),
            write.data.eq(sums),
            write.en.eq(self.i.valid),
            self.o.there.eq(n_in != n_out),
            taken.eq(self.o.last & ~self.o.silent),
            read.addr.eq(n_out),
        ]
        m.d.sync += [n_in.eq(n_in + self.i.valid), n_out.eq(n_out + taken)]
        # A beat is chosen as it is read, which takes less logic than to load and shift a job.
        p = storage(len(sums) // config.fire_beats)
        beats = [read.data.word_select(i, len(p)) for i in range(config.fire_beats)]
        m.d.sync += p.eq(select(Cat(self.o.beat == i for i in range(config.fire_beats)), beats))
        with m.If(self.o.silent):
            m.d.sync += p.eq(0)
        later = delayed(m, p, config.param_latency - 1)
        m.d.comb += self.o.p.as_value().eq(later)

        n_jobs = Signal(range(config.sum_queue + 1))  # that have a place
        m.d.sync += [
            n_jobs.eq(n_jobs + self.ends - taken),
            self.room.eq(n_jobs <= config.sum_queue - SUMS_IN_FLIGHT),
        ]
        return m


class SumRegister(wiring.Component):
    """Room for the sums of the job that fires: where there is no memory for a queue, the lanes
    stand still until the fire unit begins with their job.

    Members
    -------
    i : taken in the first beat.
    o : the same sums.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(sums_layout(config, config.lanes))),
                "o": Out(SumsSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums = Value.cast(self.i.p)
        beat_bits = len(self.o.p.as_value())
        held = storage(len(sums))
        m.d.sync += held.eq(held[beat_bits:])
        with m.If(self.o.begin):
            m.d.sync += held.eq(Mux(self.o.silent, 0, sums))
        m.d.comb += [
            self.o.there.eq(self.i.valid),
            self.i.ready.eq(self.o.begin & ~self.o.silent),
            self.o.p.as_value().eq(held),
        ]
        return m
