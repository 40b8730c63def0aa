"""The fire unit: leak, threshold, reset, residual gate, OR-pool."""

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.fetch import job_layout, record_layout
from hw.core.nest import Phase
from hw.core.pipeline import delayed, population, storage
from hw.core.spikes import granule_write_layout
from hw.protocol import Header, Neuron
from hw.spec import GRANULE_BITS, MEMBRANE_LATENCY, Config, Gate, Leak, Reset


class Fire(wiring.Component):
    """Turn the sums of a job into spikes (or logits), ``fire_lanes`` neurons per cycle (a beat).

    Jobs are begun in order, at least ``header.spacing`` cycles apart; one that had no active input
    does not wait for the lanes. ::

        B0 membrane, parameters read     B1 registered      B2 shifted for the leak; sum + bias
        B3 drive + what is not shifted   B4 ± what is shifted    B5 compare
        B6 reset, written     J0 gate, mask, OR with the pooling window     J1 spikes written

    A layer that takes pixels has :data:`hw.spec.N_PLANES` jobs per neuron before the timesteps, a
    bit-plane each, the highest first: the membrane doubles, the sum is added, nothing fires. Then
    it holds the weighted sum of pixels, which the first timestep keeps aside for the later ones.

    Members
    -------
    header : of the layer that runs, stable while it does.
    sums : from the lanes, of jobs with an active input.
    jobs, records, silent, identities : from the fetch unit.
    param_row, param_en, params : to the parameter memory, read with one cycle of latency.
    spikes : to the spike memory.
    result_index, result, result_en : logits of an output layer, in rows from the first result on.
    n_spikes : ones written; counted up to two cycles after ``finished``.
    finished : the last job of the layer has been written.
    """

    def __init__(self, config: Config):
        self._config = config
        membrane = signed(config.membrane_bits)
        super().__init__(
            {
                "header": In(Header),
                "sums": In(stream.Signature(data.ArrayLayout(membrane, config.lanes))),
                "jobs": In(stream.Signature(job_layout(config))),
                "records": In(stream.Signature(record_layout(config))),
                "silent": In(stream.Signature(1)),
                "identities": In(stream.Signature(config.lanes)),
                "param_row": Out(range(config.param_depth)),
                "param_en": Out(1),
                "params": In(data.ArrayLayout(Neuron, config.fire_lanes)),
                "spikes": Out(stream.Signature(granule_write_layout(config), always_ready=True)),
                "result_index": Out(range(config.result_rows)),
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
        row_shape = data.ArrayLayout(membrane_shape, n_lanes)
        beat_width = n_lanes * config.membrane_bits

        # A job begins when the one before has had its cycles and its sums are there, if any.
        free, wait = Signal(init=1), Signal(8)
        begin = Signal()
        next_free = Signal()
        m.d.sync += next_free.eq(h.spacing <= 1)
        m.d.comb += [
            self.sums.ready.eq(free & self.silent.valid & ~self.silent.payload),
            begin.eq(free & self.silent.valid & (self.silent.payload | self.sums.valid)),
            self.jobs.ready.eq(begin),
            self.silent.ready.eq(begin),
        ]
        with m.If(begin):
            m.d.sync += [free.eq(next_free), wait.eq(h.spacing - 2)]
        with m.Elif(~free):
            m.d.sync += [free.eq(wait == 0), wait.eq(wait - 1)]

        # B0: a job's beats. Its sums are shifted down beat by beat.
        beat = Signal(range(max(n_beats, 2)))
        active, last_beat = Signal(), Signal()
        job = storage(job_layout(config))
        sums = storage(config.lanes * config.membrane_bits)
        m.d.comb += last_beat.eq(beat == h.last_beat)
        with m.If(active):
            m.d.sync += [beat.eq(beat + 1), sums.eq(sums[beat_width:])]
            with m.If(last_beat):
                m.d.sync += [active.eq(0), beat.eq(0)]
        with m.If(begin):
            m.d.sync += [active.eq(1), beat.eq(0), job.eq(self.jobs.p)]
            m.d.sync += sums.eq(Mux(self.silent.payload, 0, Value.cast(self.sums.p)))
        membrane_row = Cat(beat[:beat_bits], job.slot)
        m.d.comb += [self.param_row.eq(job.param + beat), self.param_en.eq(active)]

        def state(name: str) -> tuple[memory.ReadPort, memory.WritePort]:
            """A memory of one value per living neuron."""
            m.submodules[name] = rows = memory.Memory(
                shape=row_shape, depth=config.membrane_slots * n_beats, init=[]
            )
            read, write = rows.read_port(), rows.write_port()
            m.d.comb += read.addr.eq(membrane_row)
            return read, write

        read, write = state("membranes")
        # B1: the sums of pixels are kept aside, or used again.
        sums1 = Signal(beat_width)
        old1 = Signal(beat_width)
        m.d.comb += [
            sums1.eq(delayed(m, sums[:beat_width], 1)),
            old1.eq(Mux(delayed(m, job.fresh, 1), 0, Value.cast(read.data))),
        ]
        plane2: Value = Const(0)
        if config.pixels:
            phase1 = delayed(m, job.phase, 1)
            plane2 = delayed(m, phase1 == Phase.PLANE, 1)
            pixel_read, pixel_write = state("pixel_sums")
            m.d.comb += [
                pixel_write.addr.eq(delayed(m, membrane_row, 1)),
                pixel_write.data.eq(read.data),
                pixel_write.en.eq(delayed(m, active, 1, reset=True) & (phase1 == Phase.FIRST)),
            ]
            with m.If(phase1 == Phase.FIRST):
                m.d.comb += [sums1.eq(Value.cast(read.data)), old1.eq(0)]
            with m.Elif(phase1 == Phase.AGAIN):
                m.d.comb += sums1.eq(Value.cast(pixel_read.data))
        params2 = storage(self.params.shape())
        sums2, old2 = storage(row_shape), storage(row_shape)
        m.d.sync += [params2.eq(self.params), sums2.eq(sums1), old2.eq(old1)]
        plane = delayed(m, plane2, MEMBRANE_LATENCY - 3)

        fires = Signal(n_lanes)
        keep, subtract = h.leak == Leak.KEEP, h.leak == Leak.SUBTRACT
        for j in range(n_lanes):

            def lane(name: str, j: int = j) -> Signal:
                return storage(membrane_shape, f"{name}{j}")

            # B2, B3, B4: membrane = drive + old - (old >> k), or drive + (old >> k).
            drive, whole, shifted = lane("drive"), lane("whole"), lane("shifted")
            base, change, membrane = lane("base"), lane("change"), lane("membrane")
            old = old2[j]
            m.d.sync += [
                drive.eq(sums2[j] + Mux(plane2, 0, params2[j].bias)),
                whole.eq(Mux(plane2, old << 1, Mux(keep, 0, old))),
                shifted.eq(Mux(plane2 | ~(keep | subtract), 0, old >> h.leak_shift)),
                base.eq(drive + whole),
                change.eq(Mux(subtract, ~shifted, shifted)),
                membrane.eq((Cat(Const(1), base) + Cat(subtract, change)) >> 1),  # one adder
            ]
            # B5: `settled` and `excess` are what a quiet and a firing neuron may go on with.
            excess, settled = lane("excess"), lane("settled")
            threshold = delayed(m, params2[j].threshold, 3).as_signed()
            m.d.sync += [excess.eq(membrane - threshold), settled.eq(membrane)]
            # B6
            m.d.comb += [
                fires[j].eq(~excess[-1] & ~plane),
                write.data[j].eq(Mux(fires[j], Mux(h.reset == Reset.SOFT, excess, 0), settled)),
                self.result[j].eq(drive),
            ]
        written_beat = delayed(m, beat, MEMBRANE_LATENCY - 1)
        m.d.comb += [
            write.addr.eq(delayed(m, membrane_row, MEMBRANE_LATENCY - 1)),
            write.en.eq(delayed(m, active, MEMBRANE_LATENCY - 1, reset=True)),
        ]

        # Logits leave at B3. Output layers space their jobs so that the record is theirs.
        record = self.records.p
        m.d.comb += [
            self.result_en.eq(delayed(m, active, 3, reset=True) & h.output),
            self.result_index.eq(record.target + delayed(m, beat, 3)),
        ]

        # B6 to J0: one job's spikes.
        spikes = storage(config.lanes)
        for i in range(n_beats):
            with m.If(write.en & (written_beat == i)):
                m.d.sync += spikes[i * n_lanes : (i + 1) * n_lanes].eq(fires)
        complete = delayed(m, active & last_beat, MEMBRANE_LATENCY, reset=True)
        m.d.comb += self.records.ready.eq(complete)

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
        # Lanes and granules of a group, and of the last one: of the layer, so slow is enough.
        masks, n_granules = [], []
        for n_real in (Const(config.lanes), h.tail_lanes):
            mask = storage(config.lanes)
            m.d.sync += mask.eq(Cat(n_real > i for i in range(config.lanes)))
            masks.append(mask)
            n_granules.append(population(mask[::GRANULE_BITS]))
        pooled = storage(config.lanes)
        with m.If(complete):
            m.d.sync += pooled.eq(
                (gated & Mux(record.tail, masks[1], masks[0])) | Mux(record.pool_first, 0, pooled)
            )
        emit = Signal()
        granule = storage(record.target.shape())
        n_written = storage(self.spikes.p.count.shape())
        m.d.sync += [
            emit.eq(complete & record.pool_last & ~h.output),
            granule.eq(record.target),
            n_written.eq(Mux(record.tail, n_granules[1], n_granules[0])),
        ]
        # J1
        m.d.comb += [
            self.spikes.valid.eq(emit),
            self.spikes.p.granule.eq(granule),
            self.spikes.p.count.eq(n_written),
            self.spikes.p.bits.eq(pooled),
        ]
        parts = [pooled[i : i + GRANULE_BITS] for i in range(0, config.lanes, GRANULE_BITS)]
        ones = [Signal(range(GRANULE_BITS + 1), name=f"ones{i}") for i in range(len(parts))]
        m.d.sync += [
            one.eq(Mux(emit, population(part), 0)) for one, part in zip(ones, parts, strict=True)
        ]
        m.d.sync += self.n_spikes.eq(sum(ones))
        m.d.sync += self.finished.eq(delayed(m, complete & record.end, 1, reset=True))
        return m
