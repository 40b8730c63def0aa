"""The fire unit, which updates neurons: leak, threshold, reset, residual gate and OR-pooling."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.fetch import job_layout
from hw.core.nest import Phase
from hw.core.spikes import granule_write_layout
from hw.core.sums import SumsSignature
from hw.parts.pipeline import delayed, popcount, unreset
from hw.protocol import Header, Neuron
from hw.spec import GRANULE_BITS, MEMBRANE_LATENCY, Config, Gate, Leak, Reset


class FireUnit(wiring.Component):
    """Turn the weighted sums of a job into spikes or logits, ``fire_lanes`` neurons per cycle.

    A job is a group of ``lanes`` output channels at one position in one timestep. Each of the
    ``lanes / fire_lanes`` cycles that it takes is a *beat*. Jobs begin in order, at least
    ``header.spacing`` cycles apart. A job without active inputs does not wait for sums, which are
    0. The neuron is that of :mod:`hw.spec`. ::

        A   parameters and sums read
        B0  membrane read
        B1  sum + bias added; old membrane shifted for the leak
        B2  membrane added up
        B3  membrane compared, reset and written; spikes gated, masked and ORed into the window
        B4  spikes of a complete pooling window written

    Parameters and sums may come from far away on a large device and arrive after
    :attr:`hw.spec.Config.param_latency` cycles. If that is 1, A and B0 are the same cycle.

    A layer that takes pixels has :data:`hw.spec.N_PLANES` jobs per neuron before the timesteps, one
    per bit-plane, the highest first: the membrane is doubled, the sum is added, and nothing fires.
    The membrane then holds the weighted sum of pixels, which the first timestep uses and stores for
    the later ones.

    Members
    -------
    header : header of the current layer's descriptor, stable while the layer runs.
    sums : sums of jobs with an active input, beat by beat.
    jobs : jobs from the fetch unit; each is taken with its last beat.
    param_row, param_en, params : row of parameter memory to read, and its biases and thresholds.
    spikes : spikes to write into spike memory.
    result_index, result, result_en : row of logits of an output layer to write, and its index, 0
        for the first row.
    n_spikes : number of spikes written in a cycle; the last ones of a layer are counted two cycles
        after ``finished``.
    finished : the spikes or logits of the layer's last job have been written.
    """

    def __init__(self, config: Config):
        self._config = config
        membrane = signed(config.membrane_bits)
        super().__init__(
            {
                "header": In(Header),
                "sums": In(SumsSignature(config)),
                "jobs": In(stream.Signature(job_layout(config))),
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
        config, h, head = self._config, self.header, self.jobs.p
        n_lanes, n_beats = config.fire_lanes, config.fire_beats
        beat_bits = (n_beats - 1).bit_length()
        membrane_shape = signed(config.membrane_bits)

        # A job begins `spacing` cycles after the job before it, or later, when its sums arrive.
        free, begin = Signal(init=1), Signal()
        wait = Signal(range(max(n_beats, MEMBRANE_LATENCY, config.cores)))
        next_free = Signal()
        m.d.sync += next_free.eq(h.spacing <= 1)
        m.d.comb += [
            begin.eq(free & self.jobs.valid & (head.silent | self.sums.there)),
            self.sums.begin.eq(begin),
        ]
        with m.If(begin):
            m.d.sync += [free.eq(next_free), wait.eq(h.spacing - 2)]
        with m.Elif(~free):
            m.d.sync += [free.eq(wait == 0), wait.eq(wait - 1)]

        # A: beats of the job, which stays at the head of its queue until its last beat.
        now = Signal(range(max(n_beats, 2)))
        goes_on, asks, is_last = Signal(), Signal(), Signal()
        m.d.comb += [
            asks.eq(begin | goes_on),
            is_last.eq(asks & (now == h.last_beat)),
            self.jobs.ready.eq(is_last),
            self.sums.beat.eq(now),
            self.sums.last.eq(is_last),
            self.sums.silent.eq(head.silent),
            self.param_row.eq(head.param + now),
            self.param_en.eq(asks),
        ]
        with m.If(asks):
            m.d.sync += [goes_on.eq(~is_last), now.eq(Mux(is_last, 0, now + 1))]

        # B0
        n_later = config.param_latency - 1
        job = data.View(job_layout(config), delayed(m, head, n_later))
        beat = delayed(m, now, n_later)
        begin0, active0, last_beat = delayed(m, Cat(begin, asks, is_last), n_later, reset=True)
        membrane_row = Cat(beat[:beat_bits], job.slot)

        def state(name: str) -> tuple[memory.ReadPort, memory.WritePort]:
            """Add a memory with one value per neuron, and return its ports.

            It has room for the ``lanes`` neurons of ``membrane_slots`` jobs.
            """
            m.submodules[name] = rows = memory.Memory(
                shape=data.ArrayLayout(membrane_shape, n_lanes),
                depth=config.membrane_slots * n_beats,
                init=[],
            )
            read, write = rows.read_port(), rows.write_port()
            m.d.comb += read.addr.eq(membrane_row)
            return read, write

        read, write = state("membranes")
        active1 = delayed(m, active0, 1, reset=True)
        # B1: the sums of pixels are stored or used again. The old membrane contributes as a whole,
        # shifted, or both, depending on the leak.
        sum1 = Signal(data.ArrayLayout(membrane_shape, n_lanes))
        m.d.comb += sum1.eq(self.sums.p)
        keep, subtract = h.leak == Leak.KEEP, h.leak == Leak.SUBTRACT
        starts0, plane0 = job.fresh, Const(0)
        if config.pixels:
            first0, plane0 = job.phase == Phase.FIRST, job.phase == Phase.PLANE
            starts0 = job.fresh | first0
            pixel_read, pixel_write = state("pixel_sums")
            first1, later1 = delayed(m, first0, 1), delayed(m, job.phase == Phase.LATER, 1)
            m.d.comb += [
                pixel_write.addr.eq(delayed(m, membrane_row, 1)),
                pixel_write.data.eq(read.data),
                pixel_write.en.eq(active1 & first1),
            ]
            with m.If(first1):
                m.d.comb += sum1.eq(read.data)
            with m.Elif(later1):
                m.d.comb += sum1.eq(pixel_read.data)
        plane1 = delayed(m, plane0, 1)
        no_whole1 = delayed(m, starts0 | (keep & ~plane0), 1)
        no_change1 = delayed(m, starts0 | plane0 | ~(keep | subtract), 1)
        subtract2 = delayed(m, subtract & ~no_change1, 1)

        # Output bit of each neuron after gate and mask, for both cases: it fires, or it is quiet.
        quiet1, firing1 = unreset(n_lanes), unreset(n_lanes)
        for j in range(n_lanes):
            identity = job.identity.word_select(beat[:beat_bits], n_lanes)[j]
            is_real = ~job.tail | (
                h.tail_lanes > Cat(Const(j, n_lanes.bit_length() - 1), beat[:beat_bits])
            )
            quiet, fired = Signal(name=f"quiet{j}"), Signal(name=f"fired{j}")
            m.d.comb += fired.eq(1)
            with m.Switch(h.gate):
                with m.Case(Gate.AND):
                    m.d.comb += fired.eq(identity)
                with m.Case(Gate.IAND):
                    m.d.comb += [quiet.eq(identity), fired.eq(0)]
                with m.Case(Gate.OR):
                    m.d.comb += quiet.eq(identity)
                with m.Case(Gate.XOR):
                    m.d.comb += [quiet.eq(identity), fired.eq(~identity)]
            m.d.sync += [quiet1[j].eq(quiet & is_real), firing1[j].eq(fired & is_real)]
        quiet3, firing3 = delayed(m, quiet1, 2), delayed(m, firing1, 2)
        plane3 = delayed(m, plane1, 2)

        bits3 = Signal(n_lanes)
        for j in range(n_lanes):

            def lane(name: str, j: int = j) -> Signal:
                return unreset(membrane_shape, f"{name}{j}")

            # B1, B2: membrane = drive + old - (old >> k), or drive + (old >> k).
            drive, whole, change, membrane = (
                lane(name) for name in ("drive", "whole", "change", "membrane")
            )
            old = read.data[j]
            shifted = old >> h.leak_shift
            m.d.sync += [
                drive.eq(sum1[j] + Mux(plane1, 0, self.params[j].bias)),
                whole.eq(Mux(plane1, old << 1, old)),
                change.eq(Mux(subtract, ~shifted, shifted)),
            ]
            with m.If(no_whole1):
                m.d.sync += whole.eq(0)
            with m.If(no_change1):
                m.d.sync += change.eq(0)
            base = Signal(membrane_shape, name=f"base{j}")
            m.d.comb += [base.eq(drive + whole), self.result[j].eq(drive)]
            m.d.sync += membrane.eq(
                (Cat(Const(1), base) + Cat(subtract2, change)) >> 1
            )  # one adder
            # B3
            threshold = delayed(m, self.params[j].threshold, 2).as_signed()
            excess = Signal(membrane_shape, name=f"excess{j}")
            fires = ~excess[-1] & ~plane3
            m.d.comb += [
                excess.eq(membrane - threshold),
                write.data[j].eq(Mux(fires, Mux(h.reset == Reset.SOFT, excess, 0), membrane)),
                bits3[j].eq(Mux(fires, firing3[j], quiet3[j])),
            ]
        active3 = delayed(m, active1, 2, reset=True)
        beat3 = delayed(m, beat, 3)
        m.d.comb += [write.addr.eq(delayed(m, membrane_row, 3)), write.en.eq(active3)]

        # Logits leave at B2.
        result_index = (job.target + beat)[: len(self.result_index)]
        m.d.comb += [
            self.result_en.eq(delayed(m, active1, 1, reset=True) & h.output),
            self.result_index.eq(delayed(m, result_index, 2)),
        ]

        # B3: spikes of a pooling window.
        pooled = unreset(config.lanes)
        begins3 = delayed(m, begin0 & job.pool_first, 3, reset=True)
        for i in range(n_beats):
            here = active3 & (beat3 == i)
            bits = pooled.word_select(i, n_lanes)
            m.d.sync += bits.eq(
                (bits & ~begins3.replicate(n_lanes)) | (bits3 & here.replicate(n_lanes))
            )

        # B4
        granules, tail_granules = (
            -(-Const(config.lanes) // GRANULE_BITS),
            (h.tail_lanes + GRANULE_BITS - 1) >> (GRANULE_BITS - 1).bit_length(),
        )
        n_granules = Signal(self.spikes.p.count.shape())
        m.d.comb += n_granules.eq(Mux(job.tail, tail_granules, granules))
        ends = delayed(
            m, Cat(job.pool_last & ~h.output, job.end) & last_beat.replicate(2), 4, reset=True
        )
        m.d.comb += [
            self.spikes.valid.eq(ends[0]),
            Cat(self.spikes.p.granule, self.spikes.p.count).eq(
                delayed(m, Cat(job.target, n_granules), 4)
            ),
            self.spikes.p.bits.eq(pooled),
        ]
        parts = [pooled[i : i + GRANULE_BITS] for i in range(0, config.lanes, GRANULE_BITS)]
        ones = [Signal(range(GRANULE_BITS + 1), name=f"ones{i}") for i in range(len(parts))]
        m.d.sync += [
            one.eq(Mux(ends[0], popcount(part), 0)) for one, part in zip(ones, parts, strict=True)
        ]
        m.d.sync += self.n_spikes.eq(sum(ones))
        m.d.comb += self.finished.eq(delayed(m, ends[1], 1, reset=True))
        return m
