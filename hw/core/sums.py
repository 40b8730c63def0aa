"""Storage for a bank's sums until the fire unit takes them, ``fire_lanes`` per cycle.

A *job* is the work on one group of up to ``lanes`` output channels, at one position and timestep. A
*bank* has the spikes and weights of some of the input channels; it adds up its sums of a job, one
per lane, before it begins the next job. The sums of ``fire_lanes`` lanes, taken in one cycle, are a
*beat*. *Identity spikes* are those of a residual block's shortcut; they accompany the sums on their
way to the fire unit.
"""

from amaranth import Module, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import unreset
from hw.spec import SUMS_IN_FLIGHT, Config


def sums_layout(config: Config) -> data.ArrayLayout:
    """Return the layout of the sums that one bank computes at an output position and timestep: one
    per lane."""
    return data.ArrayLayout(signed(config.sum_bits), config.lanes)


def beat_layout(config: Config, sum_bits: int, n_identity: int) -> data.StructLayout:
    """Return the layout of a beat: the sums of ``fire_lanes`` lanes, and spikes of the shortcut.

    ``sum_bits`` is the width of each sum in bits, ``n_identity`` the number of spikes of the
    residual block's shortcut (identity spikes).
    """
    return data.StructLayout(
        {
            "sums": data.ArrayLayout(signed(sum_bits), config.fire_lanes),
            "identity": n_identity,
        }
    )


class BeatSignature(wiring.Signature):
    """Interface through which the fire unit reads the sums of jobs in order, ``fire_lanes`` at a
    time.

    A job is one output position, group of output channels and timestep; ``fire_lanes`` of its sums
    are a beat. The reader drives ``begin``, ``last``, ``beat`` and ``plane``. ``p``, the payload,
    follows a fixed number of cycles later, see :func:`bank_beats` and :func:`merged_beats`.

    Members
    -------
    available : the sums of the next job are complete.
    begin, last : ``begin`` is high in the cycle in which the first beat of a job is requested,
        ``last`` in that of its last beat.
    beat : index in the job of the beat that is requested.
    plane : the job adds up bit-planes of pixels, one per bank, the highest in bank 0. So the total
        of the banks so far is doubled before the next bank's sums are added. A single bank has
        nothing to double, and ignores it.
    p : sums and identity spikes of the beat.

    Parameters
    ----------
    sum_bits : width of a sum.
    n_identity : number of identity spikes (those of a residual block's shortcut) in a beat.
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
    """Return the interface through which one bank's sums of a job are read, beat by beat.

    A job is one output position, channel group and timestep, and a beat is ``fire_lanes`` of its
    sums. The sums of a beat are on the member ``p`` one cycle after the beat was requested
    (:class:`BeatSignature`).
    """
    return BeatSignature(config, config.sum_bits, config.fire_lanes // config.banks)


def merged_beats(config: Config) -> BeatSignature:
    """Return the interface through which a job's sums over all banks are read, beat by beat.

    A job is one output position, channel group and timestep, and a beat is ``fire_lanes`` of its
    sums. The sums of a beat are on the member ``p`` :attr:`hw.spec.Config.param_latency` cycles
    after the beat was requested (:class:`BeatSignature`).
    """
    return BeatSignature(config, config.membrane_bits, config.fire_lanes)


class SumQueue(wiring.Component):
    """Queue for a bank's sums of up to ``sum_queue`` jobs (each a position, group and timestep).

    A place for a job's sums is reserved before they are complete, namely when the job's last event
    leaves the scanner (:mod:`hw.core.scan`). That event is the job's last active input, or its end
    if it has no active input. So no stage after the scanner ever stalls, and no stall signal has to
    reach the weight memory, which is spread across the device.

    Members
    -------
    ends : the event that leaves the scanner is the last of its job, so that a place is reserved.
    room : the scanner may emit events. It falls while there are still places for
        :data:`hw.spec.SUMS_IN_FLIGHT` jobs, which may end before the scanner stops.
    i : sums from the lanes; always ready.
    identities : identity spikes (those of the residual block's shortcut) of the same jobs. Spike
        ``i`` in bank ``n`` belongs to lane ``i * banks + n``.
    complete : high for one cycle per job, when its sums have become complete.
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
            with m.Switch(self.o.beat[:beat_bits]):
                for i in range(config.fire_beats):
                    with m.Case(i):
                        m.d.sync += beats.eq(values.word_select(i, len(beats)))

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
    """Register for a bank's sums of one job, on devices without a queue of sums.

    A job is one output position, channel group and timestep. The fire unit takes the sums from the
    register, ``fire_lanes`` at a time (a beat). Meanwhile the accumulators of the lanes may
    complete the sums of the next job. They then keep these sums, and stall until the fire unit
    begins with that job.

    Members
    -------
    i : a job's sums from the lanes, taken in the cycle in which the fire unit requests their first
        beat.
    identities : identity spikes (those of the residual block's shortcut) of the same jobs.
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
