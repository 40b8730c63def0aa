"""Storage for the weighted sums of jobs, between the lanes and the fire unit.

The lanes deliver the ``lanes`` sums of a job at once; the fire unit takes ``fire_lanes`` of them
per cycle, which is a *beat*.
"""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import delayed, select_one_hot, unreset
from hw.spec import SUMS_IN_FLIGHT, Config


def sums_layout(config: Config, n_lanes: int) -> data.ArrayLayout:
    """Return the layout of ``n_lanes`` accumulated sums, each as wide as a membrane."""
    return data.ArrayLayout(signed(config.membrane_bits), n_lanes)


class SumsSignature(wiring.Signature):
    """Interface through which the fire unit reads the sums of jobs, ``fire_lanes`` per beat.

    Members
    -------
    there : high if the sums of the next job with an active input are complete.
    begin, last : this cycle is the first or the last beat of a job.
    beat : index of the beat in its job.
    silent : the job has no active input, so that its sums are 0 and none are taken.
    p : sums for the beat that was :attr:`hw.spec.Config.param_latency` cycles before.
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
    """Queue for the sums of up to ``sum_queue`` jobs.

    A place is reserved for a job's sums before they are complete, when its last event (active
    input) leaves the scanner. No stage after the scanner ever stalls, so that no stall signal has
    to reach the weight memory, which is spread across the device.

    Members
    -------
    ends : the event that leaves the scanner is the last of its job, whose place is reserved now.
    room : the scanner may emit events. It has a margin for :data:`hw.spec.SUMS_IN_FLIGHT` jobs that
        may end before the scanner sees that ``room`` has fallen.
    i : sums from the lanes; always ready.
    o : the same sums in order, for the fire unit.
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
        # Selecting a beat of the job that is read takes less logic than a shift register of a job.
        p = unreset(len(sums) // config.fire_beats)
        beats = [read.data.word_select(i, len(p)) for i in range(config.fire_beats)]
        m.d.sync += p.eq(
            select_one_hot(Cat(self.o.beat == i for i in range(config.fire_beats)), beats)
        )
        with m.If(self.o.silent):
            m.d.sync += p.eq(0)
        later = delayed(m, p, config.param_latency - 1)
        m.d.comb += self.o.p.as_value().eq(later)

        n_jobs = Signal(range(config.sum_queue + 1))  # jobs with a reserved place
        m.d.sync += [
            n_jobs.eq(n_jobs + self.ends - taken),
            self.room.eq(n_jobs <= config.sum_queue - SUMS_IN_FLIGHT),
        ]
        return m


class SumRegister(wiring.Component):
    """Register for the sums of one job, on devices without memory for a queue.

    The lanes stall until the fire unit begins with their job.

    Members
    -------
    i : sums from the lanes, taken in the first beat of their job.
    o : the same sums, for the fire unit.
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
        held = unreset(len(sums))
        m.d.sync += held.eq(held[beat_bits:])
        with m.If(self.o.begin):
            m.d.sync += held.eq(Mux(self.o.silent, 0, sums))
        m.d.comb += [
            self.o.there.eq(self.i.valid),
            self.i.ready.eq(self.o.begin & ~self.o.silent),
            self.o.p.as_value().eq(held),
        ]
        return m
