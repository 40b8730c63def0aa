"""The cores of a device, which share the work of every layer; each gets the spikes of all."""

from operator import attrgetter

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hw.bus import CoreBus
from hw.core.core import Core
from hw.core.spikes import granule_write_layout
from hw.parts.pipeline import select_one_hot, unreset
from hw.protocol import Space
from hw.spec import Config

UNDIVIDED = frozenset({Space.SPIKE, Space.RESULT})
"""Spaces whose rows are not divided among the cores: all cores have the same spikes, and only the
first core has results."""


class Cores(wiring.Component):
    """Connect ``config.cores`` instances of :class:`hw.core.core.Core` to one bus.

    Weights, parameters and counters are divided among the cores: row ``r`` of such a memory is row
    ``r // cores`` of core ``r % cores``. Every core has all spikes: the spikes of each core are
    written into the spike memories of all cores. The cores take turns, one cycle each, so that no
    two write at a time; until its turn, a core's spikes wait in a register, its outbox. The
    compiler ensures that a core writes at most once in ``cores`` cycles. The host's spikes are
    written when no core's are. Cores wait for each other between layers. The first core alone
    computes the output layer. ::

        Core 0 -- outbox 0 -.            .- spike memory 0
        Core 1 -- outbox 1 --- turn, host -- spike memory 1
           :          :     '            '-      :

    Parameters
    ----------
    config : configuration of the device.

    Members
    -------
    bus : bus to the link, see :class:`hw.bus.CoreBus`.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({"bus": Out(CoreBus(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, bus = self._config, self.bus
        index_bits = (config.cores - 1).bit_length()
        cores = [Core(config) for _ in range(config.cores)]
        for n, core in enumerate(cores):
            m.submodules[f"core{n}"] = core

        def all_of(name: str) -> Signal:
            """Return whether the signal with this name is high in all cores."""
            together = Signal(name=f"all_{name.replace('.', '_')}")
            m.d.comb += together.eq(Cat(map(attrgetter(name), cores)).all())
            return together

        # Runs begin and end in all cores together.
        runs_ready, done = all_of("bus.run.ready"), all_of("bus.done.valid")
        all_met = all_of("meets")
        m.d.comb += [
            bus.run.ready.eq(runs_ready),
            bus.busy.eq(Cat(core.bus.busy for core in cores).any()),
            bus.done.valid.eq(done),
            bus.done.p.eq(cores[0].bus.done.p),
        ]
        for core in cores:
            m.d.comb += [
                core.bus.run.valid.eq(bus.run.valid & runs_ready),
                core.bus.run.p.eq(bus.run.p),
                core.bus.abort.eq(bus.abort),
                core.bus.done.ready.eq(bus.done.ready & done),
                core.all_met.eq(all_met),
            ]

        # Spikes to write: those of the core whose turn it is, else those of the host.
        if config.cores == 1:
            fires, fired = cores[0].fired.valid, cores[0].fired.p.as_value()
        else:
            turn = Signal(config.cores, init=1)
            m.d.sync += turn.eq(turn.rotate_left(1))
            waits, outboxes = Signal(config.cores), []
            for n, core in enumerate(cores):
                outbox = unreset(granule_write_layout(config), f"outbox{n}")
                outboxes.append(outbox.as_value())
                with m.If(core.fired.valid):
                    m.d.sync += [outbox.eq(core.fired.p), waits[n].eq(1)]
                with m.Elif(turn[n]):
                    m.d.sync += waits[n].eq(0)
            fires, fired = (waits & turn).any(), select_one_hot(turn, outboxes)
        write = bus.write.p
        to_spikes = write.address.space == Space.SPIKE
        spikes = Signal(granule_write_layout(config))
        spikes_en = Signal()
        m.d.comb += bus.write.ready.eq(~(to_spikes & fires))
        with m.If(fires):
            m.d.comb += [spikes_en.eq(1), spikes.as_value().eq(fired)]
        with m.Else():
            m.d.comb += [
                spikes_en.eq(bus.write.valid & to_spikes),
                spikes.granule.eq(write.address.row),
                spikes.count.eq(1),
                spikes.bits.eq(write.data),
            ]

        # The host reads and writes a row of one core, except for spikes, which it writes to all.
        read = bus.read.p
        of_all = Cat(read.space == space for space in UNDIVIDED).any()
        for n, core in enumerate(cores):
            m.d.comb += [
                core.spikes.valid.eq(spikes_en),
                core.spikes.p.eq(spikes),
                core.bus.write.p.data.eq(write.data),
                core.bus.write.p.address.space.eq(write.address.space),
                core.bus.write.p.address.row.eq(write.address.row[index_bits:]),
                core.bus.write.valid.eq(
                    bus.write.valid & ~to_spikes & (write.address.row[:index_bits] == n)
                ),
                core.bus.read.p.space.eq(read.space),
                core.bus.read.p.row.eq(Mux(of_all, read.row, read.row[index_bits:])),
                core.bus.read.valid.eq(
                    bus.read.valid & Mux(of_all, n == 0, read.row[:index_bits] == n)
                ),
            ]
        answers = Cat(core.bus.read_data.valid for core in cores)
        rows = [core.bus.read_data.p for core in cores]
        m.d.comb += [
            bus.read.ready.eq(all_of("bus.read.ready")),
            bus.read_data.valid.eq(answers.any()),
            bus.read_data.payload.eq(
                select_one_hot(answers, rows) if config.cores > 1 else rows[0]
            ),
        ]
        return m
