"""The core: spikes in, class out, by additions alone."""

from amaranth import Cat, Module, Mux, ResetInserter, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.bus import CoreBus
from hw.core.argmax import Argmax
from hw.core.fetch import Fetch
from hw.core.fire import Fire
from hw.core.lanes import Lanes
from hw.core.nest import LoopNest
from hw.core.pipeline import delayed
from hw.core.scan import Scanner
from hw.core.sequencer import WORD_BITS, Sequencer
from hw.core.spikes import SpikeMemory
from hw.core.weights import WeightMemory
from hw.protocol import LayerCounters, Space, neuron_layout
from hw.spec import GRANULE_BITS, Config

_SPACE_LATENCY = 6
"""Cycles after which a row of any space but SPIKE has been read for the host, at least."""


class Core(wiring.Component):
    """Event-driven, output-stationary core.

    A *job* is one output position, one group of ``lanes`` output channels, one timestep. Its
    receptive field is a few runs of bits in spike memory; every active input costs one cycle, in
    which one row of weights is read and added to ``lanes`` accumulators; a silent input costs
    nothing. Timesteps are an inner loop, so that membranes live in a small register file. ::

        Sequencer -> LoopNest -> Fetch =chunks=> Scanner -> WeightMemory -> Lanes -> Fire
                                   |  ^                                              |  |
                                   |  '-------------- SpikeMemory <------------------'  |
                                   '===== jobs, identity spikes ========================'

    Members
    -------
    bus : see :class:`hw.bus.CoreBus`.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({"bus": Out(CoreBus(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, bus = self._config, self.bus
        membrane = signed(config.membrane_bits)
        reset = ResetInserter(bus.abort)

        m.submodules.sequencer = sequencer = reset(Sequencer(config))
        m.submodules.nest = nest = reset(LoopNest(config))
        m.submodules.fetch = fetch = reset(Fetch(config))
        m.submodules.scanner = scanner = reset(Scanner(config))
        m.submodules.lanes = lanes = reset(Lanes(config))
        m.submodules.fire = fire = reset(Fire(config))
        m.submodules.argmax = argmax = reset(Argmax(config))
        m.submodules.spikes = spikes = SpikeMemory(config)
        m.submodules.weights = weights = WeightMemory(config)
        m.submodules.program = program = memory.Memory(
            shape=WORD_BITS, depth=config.program_words, init=[]
        )
        m.submodules.params = params = memory.Memory(
            shape=data.ArrayLayout(neuron_layout(config), config.fire_lanes),
            depth=config.param_depth,
            init=[],
        )
        m.submodules.results = results = memory.Memory(
            shape=data.ArrayLayout(membrane, config.fire_lanes), depth=config.result_rows, init=[]
        )
        m.submodules.counters = counters = memory.Memory(
            shape=LayerCounters, depth=config.max_layers, init=[]
        )

        # Runs.
        connect(m, flipped(bus.run), sequencer.run)
        connect(m, sequencer.done, flipped(bus.done))
        busy = sequencer.busy
        m.d.comb += bus.busy.eq(busy)

        # From descriptor to chunks.
        header = sequencer.header
        m.d.comb += [
            nest.header.eq(header),
            nest.level.eq(sequencer.level),
            nest.level_index.eq(sequencer.level_index),
            nest.level_en.eq(sequencer.level_en),
            nest.start.eq(sequencer.start),
            fetch.gated.eq(header.gate != 0),
            fetch.tail_mask.eq(sequencer.tail_mask),
            spikes.read_bit.eq(fetch.read_bit),
            fetch.window.eq(spikes.window),
            scanner.spacing.eq(sequencer.spacing),
            fire.header.eq(header),
        ]
        connect(m, nest.steps, fetch.steps)
        connect(m, fetch.chunks, scanner.chunks)
        connect(m, fetch.jobs, fire.jobs)
        connect(m, fetch.identities, fire.identities)

        # From events to sums. While idle, weight memory's read port is the host's.
        host_row = Signal(24)
        event = scanner.event
        weight_row = Signal(range(config.weight_depth))
        weight_en = Signal()
        m.d.sync += [
            weight_row.eq(Mux(busy, event.p.weight, host_row)),
            weight_en.eq((event.valid & event.p.read) | ~busy),
            sequencer.read.eq(event.valid & event.p.read),
            sequencer.n_synapses.eq(Mux(event.p.tail, header.tail_lanes, config.lanes)),
        ]
        m.d.comb += [weights.read_row.eq(weight_row), weights.read_en.eq(weight_en)]
        tags = Cat(event.valid, event.p.read, event.p.first, event.p.last)
        tags = delayed(m, tags, 1 + weights.LATENCY)
        m.d.comb += [
            Cat(lanes.add, lanes.read, lanes.first, lanes.last).eq(tags),
            lanes.weights.eq(weights.read_data),
            fire.sums.eq(lanes.sums),
            fire.done.eq(lanes.done),
            sequencer.finished.eq(fire.finished),
            sequencer.n_spikes.eq(fire.n_spikes),
        ]

        # Small memories; while idle, their read ports are the host's.
        program_read, program_write = program.read_port(), program.write_port()
        params_read, params_write = params.read_port(), params.write_port()
        results_read, results_write = results.read_port(), results.write_port()
        counters_read, counters_write = counters.read_port(), counters.write_port()
        m.d.comb += [
            program_read.addr.eq(Mux(busy, sequencer.word_row, host_row)),
            sequencer.word.eq(program_read.data),
            params_read.addr.eq(Mux(busy, fire.param_row, host_row)),
            fire.params.eq(params_read.data),
            results_read.addr.eq(Mux(busy, argmax.row, host_row)),
            argmax.logits.eq(results_read.data),
            results_write.addr.eq(fire.result_row),
            results_write.data.eq(fire.result),
            results_write.en.eq(fire.result_en),
            counters_read.addr.eq(host_row),
            counters_write.addr.eq(sequencer.counters_row),
            counters_write.data.eq(sequencer.counters),
            counters_write.en.eq(sequencer.counters_en),
            argmax.start.eq(sequencer.argmax_start),
            argmax.n_classes.eq(header.n_classes),
            sequencer.argmax_done.eq(argmax.done),
            sequencer.argmax_index.eq(argmax.index),
        ]

        # The host writes a row. Spikes of the core go first; everything else is idle anyway.
        write = bus.write.p
        row = write.address.row
        is_spike = write.address.space == Space.SPIKE

        def writes(space: Space) -> Value:
            return bus.write.valid & (write.address.space == space)

        m.d.comb += [
            bus.write.ready.eq(~(is_spike & fire.spikes.valid)),
            program_write.addr.eq(row),
            program_write.data.eq(write.data),
            program_write.en.eq(writes(Space.PROGRAM)),
            params_write.addr.eq(row),
            params_write.data.eq(write.data),
            params_write.en.eq(writes(Space.PARAM)),
        ]
        # A large device's weight memory is spread all over it: a cycle to get there.
        m.d.sync += [
            weights.write_row.eq(row),
            weights.write_data.eq(write.data),
            weights.write_en.eq(writes(Space.WEIGHT)),
        ]
        with m.If(fire.spikes.valid):
            m.d.comb += [spikes.write.valid.eq(1), spikes.write.p.eq(fire.spikes.p)]
        with m.Else():
            m.d.comb += [
                spikes.write.valid.eq(writes(Space.SPIKE)),
                spikes.write.p.granule.eq(row),
                spikes.write.p.count.eq(1),
                spikes.write.p.bits.eq(write.data),
            ]

        # The host reads a row.
        logits = [Signal(signed(32), name=f"logit{i}") for i in range(config.fire_lanes)]
        m.d.comb += [logit.eq(results_read.data[i]) for i, logit in enumerate(logits)]
        host_space = Signal(8)
        row_data = bus.read_data.payload
        wait = Signal(range(_SPACE_LATENCY + 1))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += bus.read.ready.eq(1)
                m.d.sync += wait.eq(_SPACE_LATENCY)
                with m.If(bus.read.valid):
                    m.d.sync += [host_row.eq(bus.read.p.row), host_space.eq(bus.read.p.space)]
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += fetch.host_bit.valid.eq(host_space == Space.SPIKE)
                m.d.comb += fetch.host_bit.payload.eq(host_row << (GRANULE_BITS - 1).bit_length())
                with m.If((host_space != Space.SPIKE) | fetch.host_bit.ready):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += wait.eq(wait - (wait != 0))
                with m.If(host_space == Space.SPIKE):
                    m.d.sync += row_data.eq(fetch.host_granule.payload)
                    with m.If(fetch.host_granule.valid):
                        m.next = "RESPOND"
                with m.Elif(wait == 0):
                    with m.Switch(host_space):
                        with m.Case(Space.PROGRAM):
                            m.d.sync += row_data.eq(program_read.data)
                        with m.Case(Space.WEIGHT):
                            m.d.sync += row_data.eq(weights.read_data)
                        with m.Case(Space.PARAM):
                            m.d.sync += row_data.eq(params_read.data.as_value())
                        with m.Case(Space.RESULT):
                            m.d.sync += row_data.eq(Cat(logits))
                        with m.Case(Space.COUNTER):
                            m.d.sync += row_data.eq(counters_read.data.as_value())
                    m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += bus.read_data.valid.eq(1)
                with m.If(bus.read_data.ready):
                    m.next = "IDLE"
        return m
