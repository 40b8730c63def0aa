"""Storage for a bank's sums until the fire unit takes them, ``fire_lanes`` per cycle."""

from amaranth import Module, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import unreset
from hw.spec import SUMS_IN_FLIGHT, Config


def sums_layout(config: Config) -> data.ArrayLayout:
    """Return the layout of a bank's sums of a job, one per lane."""
    return data.ArrayLayout(signed(config.sum_bits), config.lanes)


def beat_layout(config: Config, sum_bits: int, n_identity: int) -> data.StructLayout:
    """Return the layout of a beat: the sums of ``fire_lanes`` lanes, and identity spikes."""
    return data.StructLayout(
        {
            "sums": data.ArrayLayout(signed(sum_bits), config.fire_lanes),
            "identity": n_identity,
        }
    )


class BeatSignature(wiring.Signature):
    """Interface through which the fire unit reads the sums of jobs in order, beat by beat.

    Members
    -------
    available : the sums of the next job are complete.
    begin, last : this cycle is the first or the last beat of a job.
    beat : index of the beat.
    plane : the job is of a bit-plane, so that the sums of a bank count twice those of the next one.
    p : sums and identity spikes of a beat some cycles before.

    Parameters
    ----------
    sum_bits : width of a sum.
    n_identity : number of identity spikes in a beat.
    """

    def __init__(self, config: Config, sum_bits: int, n_identity: int):
        super().__init__(
            {
                "available": Out(1),
                "begin": In(1),
                "last": In(1),
                "beat": In(range(max(config.fire_beats, 2))),
                "plane": In(1),
                "p": Out(beat_layout(config, sum_bits, n_identity)),
            }
        )


def bank_beats(config: Config) -> BeatSignature:
    """Return the interface to the sums of one bank; a beat is received one cycle later."""
    return BeatSignature(config, config.sum_bits, config.fire_lanes // config.banks)


def merged_beats(config: Config) -> BeatSignature:
    """Return the interface to the sums over all banks; a beat is received
    :attr:`hw.spec.Config.param_latency` cycles later."""
    return BeatSignature(config, config.membrane_bits, config.fire_lanes)


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
    identities : identity spikes of the same jobs; spike ``i`` is that of lane ``i * banks`` plus
        the number of the bank.
    complete : high for a cycle for each job whose sums have become complete.
    o : the same sums in order, for the fire unit.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "ends": In(1),
                "room": Out(1, init=1),
                "i": In(stream.Signature(sums_layout(config))),
                "identities": In(stream.Signature(config.bank_lanes)),
                "complete": Out(1),
                "o": Out(bank_beats(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        address_bits = (config.sum_queue - 1).bit_length()
        beat_bits = (config.fire_beats - 1).bit_length()
        job = data.StructLayout({"sums": self.i.p.shape(), "identity": config.bank_lanes})
        m.submodules.jobs = jobs = memory.Memory(shape=job, depth=1 << address_bits, init=[])
        write, read = jobs.write_port(), jobs.read_port(domain="comb")
        first_in, first_out = Signal(address_bits), Signal(address_bits)
        m.d.comb += [
            self.i.ready.eq(1),
            self.identities.ready.eq(self.i.valid),
            write.data.sums.eq(self.i.p),
            write.data.identity.eq(self.identities.p),
            write.addr.eq(first_in),
            write.en.eq(self.i.valid),
            self.complete.eq(self.i.valid),
            read.addr.eq(first_out),
        ]
        m.d.sync += [first_in.eq(first_in + self.i.valid), first_out.eq(first_out + self.o.last)]
        # Selecting a beat of the job that is read takes less logic than a shift register of a job.
        p = unreset(self.o.p.shape())
        m.d.comb += self.o.p.eq(p)
        for beats, values in (
            (p.sums, Value.cast(read.data.sums)),
            (p.identity, Value.cast(read.data.identity)),
        ):
            beats = Value.cast(beats)
            m.d.sync += beats.eq(values.word_select(self.o.beat[:beat_bits], len(beats)))

        n_reserved = Signal(range(config.sum_queue + 1))
        n_complete = Signal(range(config.sum_queue + 1))
        m.d.comb += self.o.available.eq(n_complete != 0)
        m.d.sync += [
            n_complete.eq(n_complete + self.complete - self.o.begin),
            n_reserved.eq(n_reserved + self.ends - self.o.last),
            self.room.eq(n_reserved <= config.sum_queue - SUMS_IN_FLIGHT),
        ]
        return m


class SumRegister(wiring.Component):
    """Register for the sums of one job, on devices without memory for a queue.

    The lanes stall until the fire unit begins with their job.

    Members
    -------
    i : sums from the lanes, taken in the first beat of their job.
    identities : identity spikes of the same jobs.
    o : the same sums, for the fire unit.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(sums_layout(config))),
                "identities": In(stream.Signature(config.bank_lanes)),
                "o": Out(bank_beats(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for values, beat in (
            (self.i.p, self.o.p.sums),
            (self.identities.p, self.o.p.identity),
        ):
            values, beat = Value.cast(values), Value.cast(beat)
            held = unreset(len(values))
            m.d.sync += held.eq(held[len(beat) :])
            with m.If(self.o.begin):
                m.d.sync += held.eq(values)
            m.d.comb += beat.eq(held)
        m.d.comb += [
            self.o.available.eq(self.i.valid),
            self.i.ready.eq(self.o.begin),
            self.identities.ready.eq(self.o.begin),
        ]
        return m
