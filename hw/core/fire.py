"""The fire unit: leak, threshold, reset, residual gate, OR-pool."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.fetch import job_layout
from hw.core.pipeline import delayed, population
from hw.core.spikes import granule_write_layout
from hw.protocol import Header, neuron_layout
from hw.spec import GRANULE_BITS, MEMBRANE_LATENCY, Config, Gate, Leak, Reset


class Fire(wiring.Component):
    """Turn the sums of a job into spikes (or logits), ``fire_lanes`` neurons per cycle (a beat). ::

        B0 membrane, parameters read   B1 registered                    B2 leak; sum + bias
        B3 membrane + drive            B4 compare                       B5 reset, written
        J0 gate, mask                  J1 OR with the pooling window    J2 spikes written

    Members
    -------
    header : of the layer that runs, stable while it does.
    sums, done : from the lanes; ``done`` at most every ``fire_beats`` cycles.
    jobs : one per ``done``, there in time.
    identities : one per job of a gated layer.
    param_row, params : to the parameter memory, read with one cycle of latency.
    spikes : to the spike memory.
    result_row, result, result_en : logits of an output layer.
    n_spikes : ones written, with ``spikes_counted`` (one cycle after the write).
    finished : the last job of the layer has been written.
    """

    def __init__(self, config: Config):
        self._config = config
        membrane = signed(config.membrane_bits)
        super().__init__(
            {
                "header": In(Header),
                "sums": In(data.ArrayLayout(membrane, config.lanes)),
                "done": In(1),
                "jobs": In(stream.Signature(job_layout(config))),
                "identities": In(stream.Signature(config.lanes)),
                "param_row": Out(range(config.param_depth)),
                "params": In(data.ArrayLayout(neuron_layout(config), config.fire_lanes)),
                "spikes": Out(stream.Signature(granule_write_layout(config), always_ready=True)),
                "result_row": Out(range(config.result_rows)),
                "result": Out(data.ArrayLayout(membrane, config.fire_lanes)),
                "result_en": Out(1),
                "n_spikes": Out(range(config.lanes + 1)),
                "finished": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, h = self._config, self.header
        n_lanes, n_beats = config.fire_lanes, config.fire_beats
        beat_bits = (n_beats - 1).bit_length()
        membrane_shape = signed(config.membrane_bits)

        # B0: a job's beats.
        beat = Signal(range(max(n_beats, 2)))
        active = Signal()
        last_beat = Signal()
        job = Signal(job_layout(config))
        sums = Signal(data.ArrayLayout(membrane_shape, config.lanes))
        m.d.comb += [last_beat.eq(beat == n_beats - 1), self.jobs.ready.eq(self.done)]
        with m.If(active):
            m.d.sync += beat.eq(beat + 1)
            with m.If(last_beat):
                m.d.sync += [active.eq(0), beat.eq(0)]
        with m.If(self.done):
            m.d.sync += [active.eq(1), beat.eq(0), sums.eq(self.sums), job.eq(self.jobs.p)]
        m.submodules.membranes = membranes = memory.Memory(
            shape=data.ArrayLayout(membrane_shape, n_lanes),
            depth=config.membrane_slots * n_beats,
            init=[],
        )
        read, write = membranes.read_port(), membranes.write_port()
        membrane_row = Cat(beat[:beat_bits], job.slot)
        m.d.comb += [read.addr.eq(membrane_row), self.param_row.eq(job.param + beat)]

        # B0, B1: this beat's sums, next to what the memories bring (whose outputs are slow).
        beat_sums = Signal(data.ArrayLayout(membrane_shape, n_lanes))
        with m.Switch(beat):
            for i in range(n_beats):
                with m.Case(i):
                    m.d.sync += Cat(beat_sums).eq(
                        Cat(sums[i * n_lanes + j] for j in range(n_lanes))
                    )
        beat_sums = data.View(beat_sums.shape(), delayed(m, beat_sums, 1))
        fresh = delayed(m, job.fresh, 1)
        fires = Signal(n_lanes)
        for j in range(n_lanes):

            def lane(name: str, j: int = j) -> Signal:
                return Signal(membrane_shape, name=f"{name}{j}")

            old, left, drive, membrane = lane("old"), lane("left"), lane("drive"), lane("membrane")
            kept, excess, settled = lane("kept"), lane("excess"), lane("settled")
            params = Signal.like(self.params[j], name=f"params{j}")
            m.d.sync += [old.eq(Mux(fresh, 0, read.data[j])), params.eq(self.params[j])]
            # B2: what is left of the membrane; what drives it.
            m.d.comb += kept.eq(old >> h.leak_shift)
            with m.Switch(h.leak):
                with m.Case(Leak.NONE):
                    m.d.sync += left.eq(old)
                with m.Case(Leak.SUBTRACT):
                    m.d.sync += left.eq(old - kept)
                with m.Case(Leak.KEEP):
                    m.d.sync += left.eq(kept)
            m.d.sync += drive.eq(beat_sums[j] + params.bias)
            # B3
            m.d.sync += membrane.eq(left + drive)
            # B4: `settled` and `excess` are what a quiet and a firing neuron may go on with.
            threshold = delayed(m, params.threshold, 2).as_signed()
            m.d.sync += [excess.eq(membrane - threshold), settled.eq(membrane)]
            # B5
            m.d.comb += [
                fires[j].eq(~excess[-1]),
                write.data[j].eq(Mux(fires[j], Mux(h.reset == Reset.SOFT, excess, 0), settled)),
                self.result[j].eq(drive),
            ]
        m.d.comb += [
            write.addr.eq(delayed(m, membrane_row, MEMBRANE_LATENCY - 1)),
            write.en.eq(delayed(m, active, MEMBRANE_LATENCY - 1)),
        ]

        # Logits leave at B3.
        output = delayed(m, active, 3) & h.output
        m.d.comb += [
            self.result_en.eq(output),
            self.result_row.eq(delayed(m, job.target + beat, 3)),
        ]

        # B5 to J0: one job's spikes.
        spikes = Signal(config.lanes)
        with m.If(write.en):
            m.d.sync += spikes.eq(Cat(spikes, fires)[n_lanes:])
        complete = delayed(m, active & last_beat, MEMBRANE_LATENCY)
        record = Signal(job_layout(config))
        m.d.comb += record.eq(delayed(m, job, MEMBRANE_LATENCY))

        # J0
        gated = Signal(config.lanes)
        identity = self.identities.payload
        m.d.comb += self.identities.ready.eq(complete & (h.gate != Gate.NONE))
        with m.Switch(h.gate):
            with m.Case(Gate.AND):
                m.d.comb += gated.eq(spikes & identity)
            with m.Case(Gate.IAND):
                m.d.comb += gated.eq(~spikes & identity)
            with m.Case(Gate.OR):
                m.d.comb += gated.eq(spikes | identity)
            with m.Case(Gate.XOR):
                m.d.comb += gated.eq(spikes ^ identity)
            with m.Default():
                m.d.comb += gated.eq(spikes)
        n_real = Signal(range(config.lanes + 1))
        m.d.comb += n_real.eq(Mux(record.tail, h.tail_lanes, config.lanes))
        mask = Cat(n_real > i for i in range(config.lanes))
        n_granules = Cat(n_real > i * GRANULE_BITS for i in range(config.lanes // GRANULE_BITS))
        # J1
        pooled = Signal(config.lanes)
        with m.If(complete):
            m.d.sync += pooled.eq((gated & mask) | Mux(record.pool_first, 0, pooled))
        emit = Signal()
        m.d.sync += emit.eq(complete & record.pool_last & ~h.output)
        # J2
        m.d.comb += [
            self.spikes.valid.eq(emit),
            self.spikes.p.granule.eq(delayed(m, record.target, 1)),
            self.spikes.p.count.eq(delayed(m, population(n_granules), 1)),
            self.spikes.p.bits.eq(pooled),
        ]
        m.d.sync += self.n_spikes.eq(Mux(emit, population(pooled), 0))
        m.d.sync += self.finished.eq(delayed(m, complete & record.end, 1))
        return m
