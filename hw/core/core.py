"""One core, which computes the layers of a network by adding weights, without multipliers.

A *run* is one inference. :class:`Core` explains *jobs* and *banks*, and :mod:`hw.core.walk`
explains *slots*. A *descriptor*, stored in weight memory, tells the core how to run a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.bus import CoreBus, OffchipMemory, offchip_ports
from hw.core.argmax import Argmax
from hw.core.banks import Banks
from hw.core.counters import Counters
from hw.core.descriptor import DescriptorLoader
from hw.core.fire import FireUnit
from hw.core.host_reads import HostReads
from hw.core.nest import LoopNest
from hw.core.offchip import Client, ParamFetch, Port
from hw.core.params import ParamMemory, result_row
from hw.core.sequencer import Sequencer
from hw.core.walk import Walk
from hw.parts.pipeline import delayed
from hw.protocol import RESULT_BYTES, Space
from hw.spec import GRANULE_BITS, Config


@dataclass(frozen=True, kw_only=True)
class _Units:
    sequencer: Sequencer
    loader: DescriptorLoader
    counters: Counters
    nest: LoopNest
    walk: Walk
    banks: Banks
    fire: FireUnit
    argmax: Argmax
    params: ParamMemory
    host: HostReads


def _sign_extended(logit: Value) -> Value:
    """Return a logit, sign-extended to the width that logits have when they are sent to the
    host."""
    n_more = 8 * RESULT_BYTES - len(logit)
    return Cat(logit, logit[-1].replicate(n_more))


class Core(wiring.Component):
    """Compute the layers of a network, one active input per cycle.

    A *job* computes one output position, one group of ``lanes`` output channels, and one timestep.
    The input channels are divided among *banks*. A bank's spike memory stores the spikes of its own
    channels; the inputs of a job are a few contiguous stretches of bits in this memory. Every
    active input takes one cycle of its bank, in which a row of weights is read and added to
    ``lanes`` accumulators; silent inputs take no cycle. Timesteps are an inner loop, so that only
    the membranes of a few output positions must be stored at a time. ::

        Sequencer -> LoopNest -> Walk =slots=> Banks =sums of jobs=> FireUnit
                                   |             ^                   ^   |
                                   |             '------ spikes -----|---'
                                   '============== jobs ============='

    Members
    -------
    bus : see :class:`hw.bus.CoreBus`.
    offchip : see :class:`hw.bus.OffchipMemory`, on devices that have such memory.
    """

    def __init__(self, config: Config):
        self._config = config
        offchip = {"offchip": Out(OffchipMemory(config))} if config.offchip_depth else {}
        super().__init__({"bus": Out(CoreBus(config))} | offchip)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        aborted = self._abort(m)
        u = self._units(m, ResetInserter(aborted))
        self._connect_runs(m, u, aborted)
        self._connect_jobs(m, u, aborted)
        self._connect_words(m, u)
        self._read_params(m, u)
        self._write_params(m, u)
        self._write_banks(m, u)
        if self._config.offchip_depth:
            self._connect_offchip(m, u, aborted)
        return m

    def _host_writes(self, space: Space) -> Value:
        """Return whether the host writes a row of the memory ``space`` in this cycle.

        The host may write spikes at any time, and other memories only while the core is idle.
        """
        return self.bus.write.valid & (self.bus.write.p.address.space == space)

    def _abort(self, m: Module) -> Signal:
        """Return a signal that resets all state of a run in progress after an abort.

        The signal comes from a register, because it fans out across the core. It stays high until
        everything that was passing from bank to bank has reached the last bank. The core is busy
        until then. The link holds ``bus.abort`` even longer, until it sees that the core is idle.
        Therefore only the rising edge of ``bus.abort`` starts a reset.
        """
        n_cycles = 1 if self._config.banks == 1 else 2 * self._config.banks + 4
        left = Signal(range(n_cycles + 1))
        aborted, held = Signal(), Signal()
        m.d.sync += held.eq(self.bus.abort)
        with m.If(self.bus.abort & ~held):
            m.d.sync += [aborted.eq(1), left.eq(n_cycles - 1)]
        with m.Else():
            m.d.sync += [aborted.eq(left != 0), left.eq(Mux(left == 0, 0, left - 1))]
        return aborted

    def _units(self, m: Module, reset: ResetInserter) -> _Units:
        """Add the core's components to ``m`` and return them.

        An abort resets those components that hold state of the run in progress.
        """
        config = self._config
        m.submodules.sequencer = reset(sequencer := Sequencer(config))
        m.submodules.loader = reset(loader := DescriptorLoader(config))
        m.submodules.counters = counters = Counters(config)
        m.submodules.nest = reset(nest := LoopNest(config))
        m.submodules.walk = reset(walk := Walk(config))
        m.submodules.banks = banks = Banks(config)
        m.submodules.fire = reset(fire := FireUnit(config))
        m.submodules.argmax = reset(argmax := Argmax(config))
        m.submodules.params = params = ParamMemory(config)
        m.submodules.host = host = HostReads(config)
        return _Units(
            sequencer=sequencer,
            loader=loader,
            counters=counters,
            nest=nest,
            walk=walk,
            banks=banks,
            fire=fire,
            argmax=argmax,
            params=params,
            host=host,
        )

    def _connect_runs(self, m: Module, u: _Units, aborted: Value) -> None:
        """Connect the sequencer to the bus, which starts runs, and to the units that it controls.

        These units are the loader of descriptors, the loop nest, the counters and the argmax.
        """
        bus, sequencer, loader, nest = self.bus, u.sequencer, u.loader, u.nest
        connect(m, sequencer.done, flipped(bus.done))
        m.d.comb += [
            bus.busy.eq(sequencer.busy | aborted),
            bus.run.ready.eq(sequencer.run.ready & ~aborted & ~bus.abort),
            sequencer.run.valid.eq(bus.run.valid & ~aborted & ~bus.abort),
            sequencer.run.p.eq(bus.run.p),
            loader.entry.eq(bus.run.p.entry),
            loader.go_to.eq(sequencer.go_to),
            loader.start.eq(sequencer.load),
            sequencer.loaded.eq(loader.loaded),
            sequencer.final.eq(loader.header.final),
            sequencer.finished.eq(u.fire.finished),
            sequencer.counters.eq(u.counters.counters),
            u.counters.clear.eq(sequencer.clear_counters),
            u.counters.counting.eq(sequencer.counting),
            u.counters.n_real.eq(u.banks.n_real),
            u.counters.n_tail.eq(u.banks.n_tail),
            u.counters.tail_lanes.eq(loader.header.tail_lanes),
            u.counters.n_spikes.eq(u.fire.n_spikes),
            u.argmax.start.eq(sequencer.argmax_start),
            u.argmax.n_classes.eq(loader.header.n_classes),
            sequencer.argmax_done.eq(u.argmax.done),
            sequencer.argmax_index.eq(u.argmax.index),
            nest.header.eq(loader.header),
            nest.word.eq(loader.word),
            nest.header_en.eq(loader.header_en),
            nest.header_word.eq(loader.header_word),
            nest.level_en.eq(loader.level_en),
            nest.level.eq(loader.level),
            nest.level_word.eq(loader.level_word),
            nest.clear.eq(sequencer.clear),
            nest.start.eq(sequencer.start),
        ]

    def _connect_jobs(self, m: Module, u: _Units, aborted: Value) -> None:
        """Connect the units that process jobs: loop nest, walk, banks and fire unit.

        A job is one output position, group of output channels and timestep.
        """
        header, layer = u.loader.header, u.banks.layer
        connect(m, u.nest.steps, u.walk.steps)
        connect(m, u.walk.jobs, u.fire.jobs)
        connect(m, u.banks.sums, u.fire.sums)
        n_pieces = len(layer.body_bits)
        m.d.comb += [
            u.walk.granules.valid.eq(u.host.granules.valid & ~u.sequencer.loading),
            u.walk.granules.p.eq(u.host.granules.p),
            u.host.granules.ready.eq(u.walk.granules.ready),
            u.sequencer.granule_under_way.eq(u.host.granule_under_way),
            u.walk.gated.eq(header.gate != 0),
            u.walk.room.eq(u.banks.room),
            u.banks.slot.eq(u.walk.slot),
            u.banks.aborted.eq(aborted),
            u.fire.header.eq(header),
            layer.granule_rows.eq(header.granule_rows),
        ]
        for name in ("body_bits", "tail_bits", "piece_rows", "piece_weights"):
            m.d.comb += [layer[name][k].eq(header[name][k]) for k in range(n_pieces)]

    def _connect_words(self, m: Module, u: _Units) -> None:
        """Connect the reads of 32-bit words of weight memory.

        During a run, the loader of descriptors reads the words; otherwise the host does.
        """
        request = u.banks.word
        m.d.comb += [
            u.loader.words.p.eq(u.banks.read.p),
            u.loader.words.valid.eq(u.banks.read.valid & u.sequencer.busy),
            u.host.banks_read.p.eq(u.banks.read.p),
            u.host.banks_read.valid.eq(u.banks.read.valid),
        ]
        for source in (u.host.words, u.loader.requests):
            with m.If(source.valid):
                m.d.comb += [
                    request.valid.eq(1),
                    request.p.eq(source.p.place),
                    u.banks.word_bank.eq(source.p.bank),
                ]

    def _read_params(self, m: Module, u: _Units) -> None:
        """Connect the read port of parameter memory.

        If several units want to read in a cycle, the fire unit comes first, then the argmax, then
        the host.
        """
        config, host, page = self._config, u.host, u.sequencer.page
        row, read = u.params.read_row, u.params.read_data
        connect(m, flipped(self.bus.read), host.read)
        connect(m, host.read_data, flipped(self.bus.read_data))
        m.d.comb += [
            u.fire.params.eq(read),
            u.argmax.logits.eq(read),
            host.params.eq(read),
            host.params_free.eq(~u.fire.param_en & ~u.argmax.busy),
        ]
        counter_row = host.row + config.result_rows
        with m.If(u.fire.param_en):
            m.d.comb += row.eq(u.fire.param_row)
        with m.Elif(u.argmax.busy):
            m.d.comb += row.eq(result_row(m, config, u.argmax.row, page))
        with m.Elif(host.space == Space.RESULT):
            m.d.comb += row.eq(result_row(m, config, host.row, ~page))
        with m.Elif(host.space == Space.COUNTER):
            m.d.comb += row.eq(result_row(m, config, counter_row, ~page))
        with m.Else():
            m.d.comb += row.eq(host.row)

    def _write_params(self, m: Module, u: _Units) -> None:
        """Connect the write port of parameter memory.

        The fire unit's logits have priority over the sequencer's counters, and these over the
        host's row.
        """
        config, fire, sequencer, write = self._config, u.fire, u.sequencer, u.params.write
        logits = Cat(_sign_extended(fire.result[i]) for i in range(config.fire_lanes))
        counter_row = sequencer.counter_index + config.result_rows
        with m.If(fire.result_en):
            m.d.comb += [
                write.p.row.eq(result_row(m, config, fire.result_index, sequencer.page)),
                write.p.data.eq(logits),
            ]
        with m.Elif(sequencer.counter_en):
            m.d.comb += [
                write.p.row.eq(result_row(m, config, counter_row, sequencer.page)),
                write.p.data.eq(sequencer.counter_data),
            ]
        with m.Else():
            m.d.comb += [
                write.p.row.eq(self.bus.write.p.address.row),
                write.p.data.eq(self.bus.write.p.data),
            ]
        m.d.comb += write.valid.eq(
            fire.result_en | sequencer.counter_en | self._host_writes(Space.PARAM)
        )

    def _write_banks(self, m: Module, u: _Units) -> None:
        """Connect what is written into the banks: spikes, and rows of weights from the host.

        The fire unit's spikes have priority; the host waits if it writes spikes in the same cycle.
        """
        config, write, banks = self._config, self.bus.write.p, u.banks
        index_bits = (config.banks - 1).bit_length()
        bank = Signal(config.banks)
        row = write.address.row[index_bits:]
        m.d.comb += [
            *(bank[n].eq(write.address.row[:index_bits] == n) for n in range(config.banks)),
            self.bus.write.ready.eq(~self._write_waits(u)),
            banks.weights.valid.eq(self._host_writes(Space.WEIGHT)),
            banks.weights.p.row.eq(row),
            banks.weights.p.data.eq(write.data),
            banks.weight_bank.eq(bank),
        ]
        with m.If(u.fire.spikes.valid):
            m.d.comb += [banks.spikes.valid.eq(1), banks.spikes.p.eq(u.fire.spikes.p)]
        with m.Else():
            granule = write.data[:GRANULE_BITS]
            m.d.comb += [
                banks.spikes.valid.eq(self._host_writes(Space.SPIKE)),
                banks.spikes.p.banks.eq(bank),
                banks.spikes.p.granule.eq(row),
                banks.spikes.p.count.eq(1),
                banks.spikes.p.bits.eq(Cat(bit.replicate(config.banks) for bit in granule)),
            ]

    def _write_waits(self, u: _Units) -> Value:
        """Return whether the host's write has to wait in this cycle.

        A write of spikes waits while the fire unit writes spikes. A write to the memory outside the
        FPGA waits while that memory is not ready for a row.
        """
        space = self.bus.write.p.address.space
        waits = (space == Space.SPIKE) & u.fire.spikes.valid
        if self._config.offchip_depth:
            waits |= (space == Space.OFFCHIP) & ~self.offchip.write.ready
        return waits

    def _connect_offchip(self, m: Module, u: _Units, aborted: Value) -> None:
        """Connect the memory outside the FPGA to the units that read it, and to the host's
        writes."""
        config, memory, write = self._config, self.offchip, self.bus.write.p
        index_bits = (config.banks - 1).bit_length()
        m.submodules.param_fetch = fetch = ResetInserter(aborted)(ParamFetch(config))
        host_requests = u.host.offchip.requests
        ports = offchip_ports(memory, config)
        host_row, host_valid, host_ready = ports[0].rows.p, Const(0), Const(0)
        for n, outside in enumerate(ports):
            m.submodules[f"port{n}"] = port = Port(config)
            connect(m, port.port, flipped(outside))
            connect(m, port.clients[Client.WEIGHTS], u.banks.offchip[n])
            connect(m, port.clients[Client.PARAMS], fetch.ports[n])
            host, here = port.clients[Client.HOST], u.host.offchip_bank[n]
            m.d.comb += [
                port.aborted.eq(aborted),
                host.requests.valid.eq(host_requests.valid & here),
                host.requests.p.eq(host_requests.p),
                host.rows.ready.eq(1),
            ]
            host_row = Mux(host.rows.valid, host.rows.p, host_row)
            host_valid |= host.rows.valid
            host_ready |= host.requests.ready & here
        takes = u.fire.param_en & u.fire.param_row[-1]
        m.d.comb += [
            host_requests.ready.eq(host_ready),
            u.host.offchip.rows.valid.eq(host_valid),
            u.host.offchip.rows.p.eq(host_row),
            fetch.last_beat.eq(u.loader.header.last_beat),
            fetch.begin.eq(u.fire.sums.begin & u.walk.jobs.p.param[-1]),
            u.fire.params_ready.eq(fetch.ready),
            fetch.take.eq(delayed(m, takes, config.param_latency - 1, reset=True)),
            u.params.other.eq(fetch.row),
            u.params.other_en.eq(fetch.take),
            memory.write.valid.eq(self._host_writes(Space.OFFCHIP)),
            memory.write.p.bank.eq(write.address.row[:index_bits]),
            memory.write.p.row.eq(write.address.row[index_bits:]),
            memory.write.p.data.eq(write.data),
        ]
        connect(m, u.walk.params_ahead, fetch.jobs)
