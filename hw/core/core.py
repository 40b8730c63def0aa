"""The core: spikes in, class out, by additions alone."""

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus import CoreBus
from hw.core.argmax import Argmax
from hw.core.fetch import Fetch
from hw.core.fire import Fire
from hw.core.lanes import Lanes
from hw.core.nest import LoopNest
from hw.core.scan import Scanner
from hw.core.sequencer import Sequencer
from hw.core.spikes import SpikeMemory, granule_write_layout
from hw.core.sums import SumQueue, SumRegister
from hw.core.weights import WeightMemory
from hw.parts.pipeline import delayed, storage
from hw.protocol import Neuron, Space
from hw.spec import GRANULE_BITS, Config

_WEIGHT_LATENCY = 1 + WeightMemory.LATENCY
"""Cycles after which a row of weights has been read for the host, at least."""


class Core(wiring.Component):
    """Event-driven, output-stationary core.

    A *job* is one output position, one group of ``lanes`` output channels, one timestep. Its
    receptive field is a few runs of bits in spike memory; every active input costs one cycle, in
    which one row of weights is read and added to ``lanes`` accumulators; a silent input costs
    nothing. Timesteps are an inner loop, so that membranes live in a small register file. ::

        Sequencer -> LoopNest -> Fetch =chunks=> Scanner -> WeightMemory -> Lanes -> Fire
                                   |  ^                                               |  |
                                   |  '--------------- SpikeMemory <------------------'  |
                                   '==== jobs, silent or not, identity spikes ==========='

    It writes no spikes into its memory by itself, but all that come in on ``spikes``, its own
    among them, see :class:`hw.core.cores.Cores`.

    Members
    -------
    bus : see :class:`hw.bus.CoreBus`, less what the host writes to :attr:`Space.SPIKE`.
    fired : spikes of this core.
    spikes : of all cores, and the host's, for the spike memory.
    meets : a layer's part has been done.
    all_met : in all cores.
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
        config, bus = self._config, self.bus
        # A cycle to get to all that is reset.
        aborted = Signal()
        m.d.sync += aborted.eq(bus.abort)
        reset = ResetInserter(aborted)

        m.submodules.sequencer = sequencer = reset(Sequencer(config))
        m.submodules.nest = nest = reset(LoopNest(config))
        m.submodules.fetch = fetch = reset(Fetch(config))
        m.submodules.scanner = scanner = reset(Scanner(config))
        m.submodules.lanes = lanes = Lanes(config)
        m.submodules.fire = fire = reset(Fire(config))
        m.submodules.argmax = argmax = reset(Argmax(config))
        m.submodules.spikes = spikes = SpikeMemory(config)
        m.submodules.weights = weights = WeightMemory(config)
        m.submodules.params = params = memory.Memory(
            shape=data.ArrayLayout(Neuron, config.fire_lanes), depth=config.param_depth, init=[]
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
            nest.word.eq(sequencer.word),
            nest.header_en.eq(sequencer.header_en),
            nest.header_word.eq(sequencer.header_word),
            nest.level_en.eq(sequencer.level_en),
            nest.level.eq(sequencer.level),
            nest.level_word.eq(sequencer.level_word),
            nest.clear.eq(sequencer.clear),
            nest.start.eq(sequencer.start),
            fetch.gated.eq(header.gate != 0),
            fetch.body_bits.eq(header.body_bits),
            fetch.tail_bits.eq(header.tail_bits),
            spikes.read_bit.eq(fetch.read_bit),
            spikes.gather.eq(fetch.gather),
            spikes.piece_rows.eq(header.piece_rows),
            fetch.window.eq(spikes.window),
            scanner.piece_weights.eq(header.piece_weights),
            scanner.move.eq(lanes.move),
            fire.header.eq(header),
        ]
        event = scanner.event
        connect(m, fire.spikes, flipped(self.fired))
        connect(m, flipped(self.spikes), spikes.write)
        m.d.comb += [self.meets.eq(sequencer.meets), sequencer.all_met.eq(self.all_met)]
        connect(m, nest.steps, fetch.steps)
        connect(m, fetch.chunks, scanner.chunks)
        connect(m, fetch.jobs, fire.jobs)
        ends = Signal()
        m.d.comb += ends.eq(event.valid & event.p.last)
        if config.sum_queue:
            sums = SumQueue(config)
            m.d.comb += [sums.ends.eq(ends), scanner.room.eq(sums.room)]
        else:
            sums = SumRegister(config)
            m.d.comb += scanner.room.eq(1)
        m.submodules.sums = reset(sums)
        connect(m, lanes.sums, sums.i)
        connect(m, sums.o, fire.sums)

        # From events to sums. Weight memory is read by the sequencer between layers, and by the
        # host while idle.
        host_row, host_space = storage(24), storage(8)
        m.d.sync += [
            sequencer.read.eq(event.valid & lanes.move),
            sequencer.n_synapses.eq(Mux(event.p.tail, header.tail_lanes, config.lanes)),
        ]
        under_way = Module()
        m.submodules.under_way = reset(under_way)
        events = delayed(under_way, Cat(event.valid, ends), weights.LATENCY, lanes.move, reset=True)
        m.d.comb += [
            weights.move.eq(lanes.move),
            weights.read_row.eq(
                Mux(busy, Mux(sequencer.loading, sequencer.row, event.p.weight), host_row)
            ),
            weights.read_en.eq(event.valid | ~busy | sequencer.loading),
            sequencer.row_data.eq(weights.read_data),
            Cat(lanes.add, lanes.ends).eq(events),
            lanes.clear.eq(aborted),
            lanes.weights.eq(weights.read_data),
            sequencer.finished.eq(fire.finished),
            sequencer.n_spikes.eq(fire.n_spikes),
        ]

        # Parameter memory: read by the fire unit, then the argmax, else the host; written by what
        # the core finds out, else the host.
        params_read, params_write = params.read_port(), params.write_port()
        bank_bits = (config.bank_rows - 1).bit_length()
        above_banks = config.n_param_rows >> (bank_bits + 1)

        def result_row(index: Value, bank: Value) -> Value:
            """Row of parameter memory, counted from the first result in ``bank``."""
            offset = Signal(bank_bits)
            m.d.comb += offset.eq(index)
            return Cat(offset, bank, Const(above_banks, params_read.addr.shape().width))

        n_each = config.param_latency // 2  # registers before the memory, and behind it
        params_row = Signal.like(params_read.addr)
        params_data = delayed(m, params_read.data, n_each)
        m.d.comb += [
            params_read.addr.eq(delayed(m, params_row, n_each)),
            fire.params.eq(params_data),
            argmax.logits.eq(params_data),
            argmax.start.eq(sequencer.argmax_start),
            argmax.n_classes.eq(header.n_classes),
            sequencer.argmax_done.eq(argmax.done),
            sequencer.argmax_index.eq(argmax.index),
        ]
        params_free = ~fire.param_en & ~argmax.busy
        with m.If(fire.param_en):
            m.d.comb += params_row.eq(fire.param_row)
        with m.Elif(argmax.busy):
            m.d.comb += params_row.eq(result_row(argmax.row, sequencer.bank))
        with m.Elif(host_space == Space.RESULT):
            m.d.comb += params_row.eq(result_row(host_row, ~sequencer.bank))
        with m.Elif(host_space == Space.COUNTER):
            m.d.comb += params_row.eq(result_row(host_row + config.result_rows, ~sequencer.bank))
        with m.Else():
            m.d.comb += params_row.eq(host_row)
        logits = [Signal(signed(32), name=f"logit{i}") for i in range(config.fire_lanes)]
        m.d.comb += [logit.eq(fire.result[i]) for i, logit in enumerate(logits)]

        # The host writes a row, while the core is idle.
        write = bus.write.p
        row = write.address.row
        m.d.comb += bus.write.ready.eq(1)

        def writes(space: Space) -> Value:
            return bus.write.valid & (write.address.space == space)

        # In a register first, since parameter memory is read far away from here.
        write_row, write_data = storage(params_write.addr.shape()), storage(len(write.data))
        write_en = Signal()
        m.d.sync += write_en.eq(fire.result_en | sequencer.counter_en | writes(Space.PARAM))
        with m.If(fire.result_en):
            m.d.sync += [
                write_row.eq(result_row(fire.result_index, sequencer.bank)),
                write_data.eq(Cat(logits)),
            ]
        with m.Elif(sequencer.counter_en):
            m.d.sync += [
                write_row.eq(
                    result_row(sequencer.counter_index + config.result_rows, sequencer.bank)
                ),
                write_data.eq(sequencer.counter_data),
            ]
        with m.Else():
            m.d.sync += [write_row.eq(row), write_data.eq(write.data)]
        m.d.comb += [
            params_write.addr.eq(write_row),
            params_write.data.eq(write_data),
            params_write.en.eq(write_en),
        ]
        m.d.comb += [
            weights.write_row.eq(row),
            weights.write_data.eq(write.data),
            weights.write_en.eq(writes(Space.WEIGHT)),
        ]

        # The host reads a row.
        wait = Signal(range(_WEIGHT_LATENCY + 1))
        asks_spikes = Signal()  # a register, since the nest waits for the answer
        m.d.comb += [
            fetch.host_bit.valid.eq(asks_spikes),
            fetch.host_bit.payload.eq(host_row << (GRANULE_BITS - 1).bit_length()),
        ]
        with m.If(fetch.host_bit.ready):
            m.d.sync += asks_spikes.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += bus.read.ready.eq(1)
                m.d.sync += wait.eq(_WEIGHT_LATENCY)
                with m.If(bus.read.valid):
                    m.d.sync += [
                        host_row.eq(bus.read.p.row),
                        host_space.eq(bus.read.p.space),
                        asks_spikes.eq(bus.read.p.space == Space.SPIKE),
                    ]
                    m.next = "REQUEST"
            with m.State("REQUEST"), m.Switch(host_space):
                with m.Case(Space.SPIKE), m.If(fetch.host_bit.ready):
                    m.next = "SPIKE"
                with m.Case(Space.WEIGHT):
                    m.next = "WEIGHT"
                with m.Default(), m.If(params_free):
                    m.next = "PARAM0"
            with m.State("SPIKE"), m.If(fetch.host_granule.valid):
                m.d.comb += bus.read_data.valid.eq(1)
                m.next = "IDLE"
            for n in range(config.param_latency - 1):
                with m.State(f"PARAM{n}"):
                    m.next = f"PARAM{n + 1}"
            with m.State(f"PARAM{config.param_latency - 1}"):
                m.d.comb += bus.read_data.valid.eq(1)
                m.next = "IDLE"
            with m.State("WEIGHT"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.comb += bus.read_data.valid.eq(1)
                    m.next = "IDLE"
        with m.Switch(host_space):
            with m.Case(Space.SPIKE):
                m.d.comb += bus.read_data.payload.eq(fetch.host_granule.payload)
            with m.Case(Space.WEIGHT):
                m.d.comb += bus.read_data.payload.eq(weights.read_data)
            with m.Default():
                m.d.comb += bus.read_data.payload.eq(params_data)
        return m
