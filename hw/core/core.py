"""One core, which computes the layers of a network by adding weights, without multipliers."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus import CoreBus
from hw.core.argmax import Argmax
from hw.core.fetch import Fetch
from hw.core.fire import FireUnit
from hw.core.lanes import Lanes
from hw.core.nest import LoopNest
from hw.core.scan import Scanner
from hw.core.sequencer import Sequencer
from hw.core.spikes import SpikeMemory, granule_write_layout
from hw.core.sums import SumQueue, SumRegister
from hw.core.weights import WeightMemory
from hw.parts.pipeline import delayed, unreset
from hw.protocol import Neuron, Space
from hw.spec import GRANULE_BITS, Config

_WEIGHT_LATENCY = 1 + WeightMemory.LATENCY
"""Cycles that the host waits for a row of weights."""


@dataclass(frozen=True, kw_only=True)
class _Units:
    """Components of a core, and the ports of its parameter memory."""

    sequencer: Sequencer
    nest: LoopNest
    fetch: Fetch
    scanner: Scanner
    lanes: Lanes
    fire: FireUnit
    argmax: Argmax
    spikes: SpikeMemory
    weights: WeightMemory
    params_read: memory.ReadPort
    params_write: memory.WritePort


@dataclass(frozen=True, kw_only=True)
class _HostRead:
    """Address of the row that the host is reading over the bus: a memory and a row in it."""

    row: Signal
    space: Signal


class Core(wiring.Component):
    """Compute the layers of a network, one active input per cycle.

    The core works through a layer in *jobs*. One job computes one group of ``lanes`` output
    channels at one output position in one timestep. Its receptive field consists of a few
    contiguous stretches of bits in spike memory, which are read in *chunks* of up to
    ``chunk_bits`` bits. The core is event-driven: every active input (a set bit) takes one cycle,
    in which a row of ``lanes`` weights is read and added to ``lanes`` accumulators; silent inputs
    take none. It is output-stationary: the accumulators keep the sums of a job until all of its
    inputs have been added. Timesteps are an inner loop, so that only the membranes of a few jobs
    are kept at a time, in a small memory. ::

        Sequencer -> LoopNest -> Fetch =chunks=> Scanner -> WeightMemory -> Lanes -> FireUnit
                                   |  ^                                                |   |
                                   |  '-------- SpikeMemory <-- Cores <----------------'   |
                                   '==== jobs, silent or not, with identity spikes ========'

    Identity spikes are those of a residual block's shortcut, with which a gate combines the
    spikes of the block's last layer.

    The core does not write its own spikes: they leave on ``fired`` and come back on ``spikes``
    with those of the other cores, see :class:`hw.core.cores.Cores`.

    Members
    -------
    bus : see :class:`hw.bus.CoreBus`, except for the host's writes to :attr:`Space.SPIKE`.
    fired : spikes that this core computes.
    spikes : spikes of all cores and of the host, to be written into spike memory.
    meets : this core has finished its part of the current layer.
    all_met : all cores have finished their parts, so that the next layer may begin.
    """

    def __init__(self, config: Config):
        self._config = config
        spikes = stream.Signature(granule_write_layout(config), always_ready=True)
        super().__init__(
            {
                "bus": Out(CoreBus(config)),
                "fired": Out(spikes),
                "spikes": In(spikes),
                "meets": Out(1),
                "all_met": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Register the abort, because its reset fans out across the core.
        aborted = Signal()
        m.d.sync += aborted.eq(self.bus.abort)
        reset = ResetInserter(aborted)
        u = self._units(m, reset)

        connect(m, flipped(self.bus.run), u.sequencer.run)
        connect(m, u.sequencer.done, flipped(self.bus.done))
        m.d.comb += self.bus.busy.eq(u.sequencer.busy)
        self._connect_descriptor(m, u)
        ends = self._connect_jobs(m, u, reset)
        host_row, host_space = unreset(24), unreset(8)
        host = _HostRead(row=host_row, space=host_space)
        self._connect_events(m, u, host, ends, aborted, reset)
        params_data, params_free = self._read_params(m, u, host)
        self._write_params(m, u)
        m.d.comb += [
            u.weights.write_row.eq(self.bus.write.p.address.row),
            u.weights.write_data.eq(self.bus.write.p.data),
            u.weights.write_en.eq(self._host_writes(Space.WEIGHT)),
        ]
        self._read_for_host(m, u, host, params_data, params_free)
        return m

    def _units(self, m: Module, reset: ResetInserter) -> _Units:
        """Add the core's components to ``m`` and return them.

        An abort resets those components that hold state of the run in progress.
        """
        config = self._config
        m.submodules.sequencer = sequencer = reset(Sequencer(config))
        m.submodules.nest = nest = reset(LoopNest(config))
        m.submodules.fetch = fetch = reset(Fetch(config))
        m.submodules.scanner = scanner = reset(Scanner(config))
        m.submodules.lanes = lanes = Lanes(config)
        m.submodules.fire = fire = reset(FireUnit(config))
        m.submodules.argmax = argmax = reset(Argmax(config))
        m.submodules.spikes = spikes = SpikeMemory(config)
        m.submodules.weights = weights = WeightMemory(config)
        m.submodules.params = params = memory.Memory(
            shape=data.ArrayLayout(Neuron, config.fire_lanes), depth=config.param_depth, init=[]
        )
        return _Units(
            sequencer=sequencer,
            nest=nest,
            fetch=fetch,
            scanner=scanner,
            lanes=lanes,
            fire=fire,
            argmax=argmax,
            spikes=spikes,
            weights=weights,
            params_read=params.read_port(),
            params_write=params.write_port(),
        )

    def _connect_descriptor(self, m: Module, u: _Units) -> None:
        """Connect the fields of the current layer's descriptor to the components that use them.

        The addresses and windows between the fetch unit and spike memory are connected here, too.
        """
        header = u.sequencer.header
        m.d.comb += [
            u.nest.header.eq(header),
            u.nest.word.eq(u.sequencer.word),
            u.nest.header_en.eq(u.sequencer.header_en),
            u.nest.header_word.eq(u.sequencer.header_word),
            u.nest.level_en.eq(u.sequencer.level_en),
            u.nest.level.eq(u.sequencer.level),
            u.nest.level_word.eq(u.sequencer.level_word),
            u.nest.clear.eq(u.sequencer.clear),
            u.nest.start.eq(u.sequencer.start),
            u.fetch.gated.eq(header.gate != 0),
            u.fetch.body_bits.eq(header.body_bits),
            u.fetch.tail_bits.eq(header.tail_bits),
            u.spikes.read_bit.eq(u.fetch.read_bit),
            u.spikes.gather.eq(u.fetch.gather),
            u.spikes.piece_rows.eq(header.piece_rows),
            u.fetch.window.eq(u.spikes.window),
            u.scanner.piece_weights.eq(header.piece_weights),
            u.scanner.move.eq(u.lanes.move),
            u.fire.header.eq(header),
        ]

    def _connect_jobs(self, m: Module, u: _Units, reset: ResetInserter) -> Signal:
        """Connect the components that a job passes through, from the loop nest to the fire unit.

        Returns
        -------
        Signal that is high while the scanner emits the last event (active input) of a job.
        """
        config, event = self._config, u.scanner.event
        connect(m, u.fire.spikes, flipped(self.fired))
        connect(m, flipped(self.spikes), u.spikes.write)
        m.d.comb += [self.meets.eq(u.sequencer.meets), u.sequencer.all_met.eq(self.all_met)]
        connect(m, u.nest.steps, u.fetch.steps)
        connect(m, u.fetch.chunks, u.scanner.chunks)
        connect(m, u.fetch.jobs, u.fire.jobs)
        ends = Signal()
        m.d.comb += ends.eq(event.valid & event.p.last)
        if config.sum_queue:
            sums = SumQueue(config)
            m.d.comb += [sums.ends.eq(ends), u.scanner.room.eq(sums.room)]
        else:
            sums = SumRegister(config)
            m.d.comb += u.scanner.room.eq(1)
        m.submodules.sums = reset(sums)
        connect(m, u.lanes.sums, sums.i)
        connect(m, sums.o, u.fire.sums)
        return ends

    def _connect_events(
        self,
        m: Module,
        u: _Units,
        host: _HostRead,
        ends: Signal,
        aborted: Signal,
        reset: ResetInserter,
    ) -> None:
        """Connect weight memory between scanner and lanes: each event reads one row of weights.

        An event is one active input of a job. Weight memory is also read by the sequencer, which
        loads descriptors between layers, and by the host while no run is in progress.
        """
        sequencer, lanes, weights = u.sequencer, u.lanes, u.weights
        event = u.scanner.event
        m.d.sync += [
            sequencer.read.eq(event.valid & lanes.move),
            sequencer.n_synapses.eq(
                Mux(event.p.tail, sequencer.header.tail_lanes, self._config.lanes)
            ),
        ]
        under_way = Module()
        m.submodules.under_way = reset(under_way)
        events = delayed(under_way, Cat(event.valid, ends), weights.LATENCY, lanes.move, reset=True)
        m.d.comb += [
            weights.move.eq(lanes.move),
            weights.read_row.eq(
                Mux(
                    sequencer.busy,
                    Mux(sequencer.loading, sequencer.row, event.p.weight),
                    host.row,
                )
            ),
            weights.read_en.eq(event.valid | ~sequencer.busy | sequencer.loading),
            sequencer.row_data.eq(weights.read_data),
            Cat(lanes.add, lanes.ends).eq(events),
            lanes.clear.eq(aborted),
            lanes.weights.eq(weights.read_data),
            sequencer.finished.eq(u.fire.finished),
            sequencer.n_spikes.eq(u.fire.n_spikes),
        ]

    def _result_row(self, m: Module, index: Value, bank: Value) -> Value:
        """Return the address in parameter memory of row ``index`` of a result bank.

        A bank holds the logits of a run, followed by its counters. The two banks are at the end of
        parameter memory, see :attr:`hw.spec.Config.bank_rows`; ``bank`` selects one.
        """
        bank_bits = (self._config.bank_rows - 1).bit_length()
        above_banks = self._config.n_param_rows >> (bank_bits + 1)
        offset = Signal(bank_bits)
        m.d.comb += offset.eq(index)
        return Cat(offset, bank, Const(above_banks, range(self._config.param_depth)))

    def _read_params(self, m: Module, u: _Units, host: _HostRead) -> tuple[Value, Value]:
        """Connect the read port of parameter memory to the fire unit, the argmax and the host.

        If several of them read in one cycle, the fire unit precedes the argmax, and both precede
        the host.

        Returns
        -------
        Row that was read, :attr:`hw.spec.Config.param_latency` cycles after its address; and a
        signal that is high in cycles in which the port is free for the host.
        """
        fire, argmax, sequencer = u.fire, u.argmax, u.sequencer
        n_each = self._config.param_latency // 2  # registers before the memory, and behind it
        params_row = Signal.like(u.params_read.addr)
        params_data = delayed(m, u.params_read.data, n_each)
        m.d.comb += [
            u.params_read.addr.eq(delayed(m, params_row, n_each)),
            fire.params.eq(params_data),
            argmax.logits.eq(params_data),
            argmax.start.eq(sequencer.argmax_start),
            argmax.n_classes.eq(sequencer.header.n_classes),
            sequencer.argmax_done.eq(argmax.done),
            sequencer.argmax_index.eq(argmax.index),
        ]
        params_free = ~fire.param_en & ~argmax.busy
        counter_row = host.row + self._config.result_rows
        with m.If(fire.param_en):
            m.d.comb += params_row.eq(fire.param_row)
        with m.Elif(argmax.busy):
            m.d.comb += params_row.eq(self._result_row(m, argmax.row, sequencer.bank))
        with m.Elif(host.space == Space.RESULT):
            m.d.comb += params_row.eq(self._result_row(m, host.row, ~sequencer.bank))
        with m.Elif(host.space == Space.COUNTER):
            m.d.comb += params_row.eq(self._result_row(m, counter_row, ~sequencer.bank))
        with m.Else():
            m.d.comb += params_row.eq(host.row)
        return params_data, params_free

    def _host_writes(self, space: Space) -> Value:
        """Return whether the host writes a row of ``space`` in this cycle.

        Except for spike memory, it does so only while no run is in progress.
        """
        return self.bus.write.valid & (self.bus.write.p.address.space == space)

    def _write_params(self, m: Module, u: _Units) -> None:
        """Connect the write port of parameter memory to the fire unit, the sequencer and the host.

        The fire unit writes logits, the sequencer counters, and the host biases and thresholds.
        """
        config, fire, sequencer = self._config, u.fire, u.sequencer
        logits = [Signal(signed(32), name=f"logit{i}") for i in range(config.fire_lanes)]
        m.d.comb += [logit.eq(fire.result[i]) for i, logit in enumerate(logits)]
        write = self.bus.write.p
        m.d.comb += self.bus.write.ready.eq(1)

        # In registers, since parameter memory may be far away from the host's bus.
        write_row, write_data = unreset(range(config.param_depth)), unreset(len(write.data))
        write_en = Signal()
        m.d.sync += write_en.eq(
            fire.result_en | sequencer.counter_en | self._host_writes(Space.PARAM)
        )
        counter_row = sequencer.counter_index + config.result_rows
        with m.If(fire.result_en):
            m.d.sync += [
                write_row.eq(self._result_row(m, fire.result_index, sequencer.bank)),
                write_data.eq(Cat(logits)),
            ]
        with m.Elif(sequencer.counter_en):
            m.d.sync += [
                write_row.eq(self._result_row(m, counter_row, sequencer.bank)),
                write_data.eq(sequencer.counter_data),
            ]
        with m.Else():
            m.d.sync += [write_row.eq(write.address.row), write_data.eq(write.data)]
        m.d.comb += [
            u.params_write.addr.eq(write_row),
            u.params_write.data.eq(write_data),
            u.params_write.en.eq(write_en),
        ]

    def _read_for_host(
        self, m: Module, u: _Units, host: _HostRead, params_data: Value, params_free: Value
    ) -> None:
        """Answer the host's requests to read a row of one of the memories, one row at a time."""
        bus, fetch, n_param = self.bus, u.fetch, self._config.param_latency
        wait = Signal(range(_WEIGHT_LATENCY + 1))
        asks_spikes = Signal()  # a register, since the nest waits for the answer
        m.d.comb += [
            fetch.host_bit.valid.eq(asks_spikes),
            fetch.host_bit.payload.eq(host.row << (GRANULE_BITS - 1).bit_length()),
        ]
        with m.If(fetch.host_bit.ready):
            m.d.sync += asks_spikes.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += bus.read.ready.eq(1)
                m.d.sync += wait.eq(_WEIGHT_LATENCY)
                with m.If(bus.read.valid):
                    m.d.sync += [
                        host.row.eq(bus.read.p.row),
                        host.space.eq(bus.read.p.space),
                        asks_spikes.eq(bus.read.p.space == Space.SPIKE),
                    ]
                    m.next = "REQUEST"
            with m.State("REQUEST"), m.Switch(host.space):
                with m.Case(Space.SPIKE), m.If(fetch.host_bit.ready):
                    m.next = "SPIKE"
                with m.Case(Space.WEIGHT):
                    m.next = "WEIGHT"
                with m.Default(), m.If(params_free):
                    m.next = "PARAM0"
            with m.State("SPIKE"), m.If(fetch.host_granule.valid):
                m.d.comb += bus.read_data.valid.eq(1)
                m.next = "IDLE"
            for n in range(n_param - 1):
                with m.State(f"PARAM{n}"):
                    m.next = f"PARAM{n + 1}"
            with m.State(f"PARAM{n_param - 1}"):
                m.d.comb += bus.read_data.valid.eq(1)
                m.next = "IDLE"
            with m.State("WEIGHT"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.comb += bus.read_data.valid.eq(1)
                    m.next = "IDLE"
        with m.Switch(host.space):
            with m.Case(Space.SPIKE):
                m.d.comb += bus.read_data.payload.eq(fetch.host_granule.payload)
            with m.Case(Space.WEIGHT):
                m.d.comb += bus.read_data.payload.eq(u.weights.read_data)
            with m.Default():
                m.d.comb += bus.read_data.payload.eq(params_data)
