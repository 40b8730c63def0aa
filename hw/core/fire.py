"""The fire unit, which updates neurons: leak, threshold, reset, residual gate and OR-pooling.

A *job* is the computation of one output position of one group of ``lanes`` output channels at one
timestep (:class:`hw.core.core.Core`). A *beat* is ``fire_lanes`` of a job's neurons, which are
updated in the same cycle. A *bit-plane* is one bit of every pixel of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.banks import spikes_layout
from hw.core.nest import Phase, address_widths
from hw.core.sums import merged_beats
from hw.core.walk import job_layout
from hw.parts.pipeline import delayed, popcount, unreset
from hw.protocol import Header, Neuron
from hw.spec import GRANULE_BITS, Config, Gate, Leak, Reset


@dataclass(frozen=True, kw_only=True)
class _Beat:
    """A beat (the ``fire_lanes`` neurons of a job that are updated in one cycle) at stage B0 of the
    :class:`FireUnit`'s pipeline.

    ``valid`` is high if there is a beat in this cycle, and ``index`` is its index in ``job``.
    ``begins`` and ``last`` mark the job's first and last beat.
    """

    job: Any
    index: Value
    valid: Value
    begins: Value
    last: Value
    read_job: Any
    """Job of the beat whose membranes are read in this cycle. That beat is at stage BR, or at stage
    B0 if the device lacks ``full_neurons``."""
    read_index: Value
    """Index of the beat (``fire_lanes`` neurons) among the beats of its job, at the same stage as
    ``read_job``."""


def _sum(m: Module, a: Value, b: Value, carry: Value, shape: Shape) -> Signal:
    """Return ``a + b + carry``, computed by a single adder and truncated to ``shape``; ``carry`` is
    one bit."""
    first, second, total = (Signal(shape, name=name) for name in ("first", "second", "total"))
    m.d.comb += [
        first.eq(a),
        second.eq(b),
        total.eq((Cat(Const(1), first) + Cat(carry, second)) >> 1),
    ]
    return total


class FireUnit(wiring.Component):
    """Turn the weighted sums of a job into spikes or logits, ``fire_lanes`` neurons per cycle.

    A *job* is one output position, group of output channels and timestep. The neurons that are
    updated in one cycle are a *beat* of their job. Jobs begin in order, when their sums are
    complete, and at least ``header.spacing`` cycles apart. The arithmetic of a neuron is defined in
    :mod:`hw.spec`. The stages of the pipeline, of one cycle each, are::

        A   parameters and sums requested
        BR  membrane read (in B0 if not full_neurons); it arrives a cycle later
        B0  old membrane shifted for the leak (in B1 if not full_neurons)
        B1  sum + bias added; terms of the leak added up
        B2  membrane added up
        B3  membrane compared, reset and written; spikes gated, masked and ORed into the window
        B4  spikes of a complete pooling window written

    Parameters and sums arrive at B1, :attr:`hw.spec.Config.param_latency` cycles after A. If this
    latency is 1, A and B0 are the same cycle. With :attr:`hw.spec.Config.full_neurons`, the latency
    is at least 3, so that BR can be two cycles before B0. The cycle between BR and B0 is for a
    register after the memory; without that register, memory and shift together would be the slowest
    path.

    A layer that takes pixels reads their :data:`hw.spec.N_PLANES` bits as bit-planes, each of which
    is a map of binary inputs. Before its first timestep, a neuron has ``N_PLANES / banks``
    additional jobs, each for ``banks`` planes, the highest planes first. Such a job shifts the
    membrane to the left by ``banks`` bits and adds the sum; nothing fires. At the end the membrane
    holds the weighted sum of the pixels. The first timestep uses that sum as its input, and stores
    it for the later timesteps.

    Members
    -------
    header : header of the running layer's descriptor, stable while the layer runs.
    sums : sums of jobs, beat by beat, with the spikes of the residual block's shortcut (identity
        spikes).
    jobs : jobs; a job is taken in the cycle in which its last beat is requested.
    param_row, param_en, params : row of parameter memory to read, whether it is read in this cycle,
        and its biases and thresholds, :attr:`hw.spec.Config.param_latency` cycles later.
    params_ready : on devices with memory outside the FPGA: the parameters of the next job whose
        parameters are in that memory have arrived.
    spikes : spikes to write into the banks.
    result_index, result, result_en : index of a row of results (0 is the first), the logits of an
        output layer for this row, and whether to write them in this cycle.
    n_spikes : number of spikes written two cycles before. A counter that adds these numbers up is
        complete two cycles after ``finished``.
    finished : high for one cycle when the layer's last job has been written.
    """

    def __init__(self, config: Config):
        self._config = config
        membrane = signed(config.membrane_bits)
        super().__init__(
            ({"params_ready": In(1)} if config.offchip_depth else {})
            | {
                "header": In(Header),
                "sums": In(merged_beats(config)),
                "jobs": In(stream.Signature(job_layout(config))),
                "param_row": Out(address_widths(config)["param"]),
                "param_en": Out(1),
                "params": In(data.ArrayLayout(Neuron, config.fire_lanes)),
                "spikes": Out(stream.Signature(spikes_layout(config), always_ready=True)),
                "result_index": Out(range(config.result_rows)),
                "result": Out(data.ArrayLayout(membrane, config.fire_lanes)),
                "result_en": Out(1),
                "n_spikes": Out(range(config.lanes + 1)),
                "finished": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        begin = self._begin_jobs(m)
        beat = self._ask(m, begin)
        plane1 = delayed(m, beat.job.phase == Phase.PLANE, 1) if self._config.pixels else Const(0)
        quiet3, firing3 = self._outcomes(m, beat)
        fires = self._update(m, beat, plane1)
        bits3 = Signal(self._config.fire_lanes)
        m.d.comb += bits3.eq((fires & firing3) | (~fires & quiet3))
        self._write_logits(m, beat)
        self._write_spikes(m, beat, bits3)
        return m

    def _begin_jobs(self, m: Module) -> Signal:
        """Return a signal that is high in each cycle in which a job begins.

        A job is one output position, group of output channels and timestep. It begins when its sums
        are complete and at least ``header.spacing`` cycles have passed since the job before it
        began.
        """
        h = self.header
        free, begin = Signal(init=1), Signal()
        wait = Signal(range(max(self._config.fire_beats, self._config.membrane_latency)))
        next_free = Signal()
        m.d.sync += next_free.eq(h.spacing <= 1)
        has_sums = self._has_sums()
        available = self.sums.available
        if has_sums is not None:
            available |= ~has_sums
        may_begin = free & self.jobs.valid & available
        if self._config.offchip_depth:
            may_begin &= self.params_ready | ~self.jobs.p.param[-1]
        m.d.comb += [
            begin.eq(may_begin),
            self.sums.begin.eq(begin if has_sums is None else begin & has_sums),
        ]
        with m.If(begin):
            m.d.sync += [free.eq(next_free), wait.eq(h.spacing - 2)]
        with m.Elif(~free):
            m.d.sync += [free.eq(wait == 0), wait.eq(wait - 1)]
        return begin

    def _has_sums(self) -> Value | None:
        """Return whether the banks have sums for the next job; None if they have for every job.

        They have none for a timestep that goes directly to the fire unit
        (:attr:`hw.spec.Config.direct_timesteps`).
        """
        if not self._config.direct_timesteps:
            return None
        phase = self.jobs.p.phase
        return (phase != Phase.FIRST) & (phase != Phase.LATER)

    def _ask(self, m: Module, begin: Value) -> _Beat:
        """Request parameters and sums beat by beat, at stage A; return the beat at stage B0.

        A beat is ``fire_lanes`` neurons of a job. ``begin`` is high in each cycle in which a job
        begins.
        """
        config, head = self._config, self.jobs.p
        index = Signal(range(max(config.fire_beats, 2)))
        continues, active, last = Signal(), Signal(), Signal()
        has_sums = self._has_sums()
        m.d.comb += [
            active.eq(begin | continues),
            last.eq(active & (index == self.header.last_beat)),
            self.jobs.ready.eq(last),
            self.sums.beat.eq(index),
            self.sums.last.eq(last if has_sums is None else last & has_sums),
            self.sums.plane.eq(head.phase == Phase.PLANE),
            self.param_row.eq(head.param + index),
            self.param_en.eq(active),
        ]
        with m.If(active):
            m.d.sync += [continues.eq(~last), index.eq(Mux(last, 0, index + 1))]
        n_later = config.param_latency - 1
        flags = delayed(m, Cat(begin, active, last), n_later, reset=True)
        n_read = n_later - 2 * config.full_neurons
        read_job, read_index = delayed(m, head, n_read), delayed(m, index, n_read)
        n_wait = n_later - n_read
        return _Beat(
            job=data.View(job_layout(config), delayed(m, read_job, n_wait)),
            index=delayed(m, read_index, n_wait),
            read_job=data.View(job_layout(config), read_job),
            read_index=read_index,
            begins=flags[0],
            valid=flags[1],
            last=flags[2],
        )

    def _outcomes(self, m: Module, beat: _Beat) -> tuple[Value, Value]:
        """Return the outputs of the neurons of a beat for two cases: if they do not fire, and if
        they fire.

        A beat is the ``fire_lanes`` neurons of a cycle. Both results have one bit per neuron, and
        are ready at stage B3. They already include the gate, and are 0 in lanes without a channel.
        So when it is known which neurons fire, only a choice between the two bits is left.
        """
        config, h = self._config, self.header
        n_lanes = config.fire_lanes
        beat_bits = (config.fire_beats - 1).bit_length()
        tail1, index1 = delayed(m, beat.job.tail, 1), delayed(m, beat.index[:beat_bits], 1)
        quiet2, firing2 = unreset(n_lanes), unreset(n_lanes)
        for j in range(n_lanes):
            identity = self.sums.p.identity[j]
            lane = Cat(Const(j, n_lanes.bit_length() - 1), index1)
            is_real = ~tail1 | (h.tail_lanes > lane)
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
            m.d.sync += [quiet2[j].eq(quiet & is_real), firing2[j].eq(fired & is_real)]
        return delayed(m, quiet2, 1), delayed(m, firing2, 1)

    def _state(
        self, m: Module, name: str, row: Value, n_flags: int = 0
    ) -> tuple[memory.ReadPort, memory.WritePort]:
        """Add a memory with a number and some flags per neuron, and return its read and its write
        port.

        The memory has a row for each beat (``fire_lanes`` neurons) of each membrane slot
        (:attr:`hw.spec.Config.membrane_slots`). A row holds a number of ``membrane_bits`` bits for
        each neuron of the beat, and ``n_flags`` bits, which say which of the neurons fired. The
        read port reads ``row``.
        """
        config = self._config
        layout = data.StructLayout(
            {
                "values": data.ArrayLayout(signed(config.membrane_bits), config.fire_lanes),
                "fired": n_flags,
            }
        )
        m.submodules[name] = rows = memory.Memory(
            shape=layout, depth=config.membrane_slots * config.fire_beats, init=[]
        )
        read, write = rows.read_port(), rows.write_port()
        m.d.comb += read.addr.eq(row)
        return read, write

    def _update(self, m: Module, beat: _Beat, plane1: Value) -> Value:
        """Update the membranes of a beat (``fire_lanes`` neurons); return which neurons fire.

        The result has one bit per neuron, at stage B3. ``plane1`` says, at stage B1, that the job
        adds up bit-planes of pixels; then no neuron fires.
        """
        config, h = self._config, self.header
        membrane_shape = signed(config.membrane_bits)
        # Names with a number are of stage B0, B1, ...; those with "r" are of
        # the stage of the read, and those with "d" of the stage of the old membrane.
        to_old = 1 + config.full_neurons  # cycles from the read to the old membrane
        to_b1 = to_old + config.full_neurons  # cycles from the read to B1
        beat_bits = (config.fire_beats - 1).bit_length()
        jobr = beat.read_job
        rowr = Cat(beat.read_index[:beat_bits], jobr.slot)
        n_flags = config.fire_lanes if config.full_neurons else 0
        read, write = self._state(m, "membranes", rowr, n_flags)
        active1 = delayed(m, beat.valid, 1, reset=True)

        # The sums of pixels are stored at B1, or used again.
        sums1 = [Signal(membrane_shape, name=f"sum{j}") for j in range(config.fire_lanes)]
        m.d.comb += [sum1.eq(self.sums.p.sums[j]) for j, sum1 in enumerate(sums1)]
        startsr, planer = jobr.fresh, Const(0)
        if config.pixels:
            firstr, planer = jobr.phase == Phase.FIRST, jobr.phase == Phase.PLANE
            startsr = jobr.fresh | firstr
            pixel_read, pixel_write = self._state(m, "pixel_sums", rowr)
            first1 = delayed(m, firstr, to_b1)
            later1 = delayed(m, jobr.phase == Phase.LATER, to_b1)
            old1 = delayed(m, read.data["values"], to_b1 - 1)
            pixels1 = delayed(m, pixel_read.data["values"], to_b1 - 1)
            m.d.comb += [
                pixel_write.addr.eq(delayed(m, rowr, to_b1)),
                Value.cast(pixel_write.data).eq(old1),
                pixel_write.en.eq(active1 & first1),
            ]
            for j, sum1 in enumerate(sums1):
                with m.If(first1):
                    m.d.comb += sum1.eq(old1.word_select(j, config.membrane_bits))
                with m.Elif(later1):
                    m.d.comb += sum1.eq(pixels1.word_select(j, config.membrane_bits))

        # The old membrane contributes as a whole, shifted, or both. Of the shifted terms, those at
        # even or at odd places are subtracted: the complement is added, and 1 more.
        n_terms = config.n_leak_shifts
        places = (h.leak_shift, h.leak_shift2, h.leak_shift3)[:n_terms]
        subtract, keep = h.leak == Leak.SUBTRACT, h.leak == Leak.KEEP
        no_wholed = delayed(m, startsr | (keep & ~planer), to_old)
        no_changed = delayed(m, startsr | planer | ~(keep | subtract), to_old)
        planed = delayed(m, planer, to_old)
        oldd = delayed(m, read.data["values"], to_old - 1)
        absent = [no_changed, *(no_changed | (place == 0) for place in places[1:])]
        negative = [subtract, keep, subtract][:n_terms]
        carries = [
            delayed(m, is_negative & ~is_absent, 1)
            for is_negative, is_absent in zip(negative, absent, strict=True)
        ]
        plane3 = delayed(m, plane1, 2)
        delays = h.reset == Reset.DELAYED if config.full_neurons else Const(0)
        no_reset1 = delayed(m, startsr | planer, to_b1)
        fired1 = delayed(m, read.data.fired, to_b1 - 1)
        fires = Signal(config.fire_lanes)
        for j, sum1 in enumerate(sums1):

            def lane(name: str, j: int = j) -> Signal:
                return unreset(membrane_shape, f"{name}{j}")

            old = oldd.word_select(j, config.membrane_bits).as_signed()
            whole, drive, membrane = lane("whole"), lane("drive"), lane("membrane")
            m.d.sync += whole.eq(Mux(planed, old << config.banks, old))
            with m.If(no_wholed):
                m.d.sync += whole.eq(0)
            terms = []
            for i, (place, is_negative) in enumerate(zip(places, negative, strict=True)):
                term = lane(f"change{i}_")
                shifted = old >> place
                m.d.sync += term.eq(Mux(is_negative, ~shifted, shifted))
                with m.If(absent[i]):
                    m.d.sync += term.eq(0)
                terms.append(term)
            threshold1 = self.params[j].threshold
            bias = Mux(plane1, 0, self.params[j].bias)
            if config.full_neurons:
                due = Signal(name=f"due{j}")  # a delayed reset takes place
                m.d.comb += due.eq(delays & fired1[j] & ~no_reset1)
                left = lane("left")
                first = _sum(m, whole, terms[0], carries[0], membrane_shape)
                finer = _sum(m, terms[1], terms[2], carries[1] | carries[2], membrane_shape)
                lost = Mux(due, ~threshold1, 0).as_signed()
                m.d.sync += [
                    drive.eq(_sum(m, sum1 + bias, lost, due, membrane_shape)),
                    left.eq(first + finer),
                    membrane.eq(drive + left),
                ]
            else:
                m.d.sync += [
                    drive.eq(sum1 + bias),
                    membrane.eq(_sum(m, drive + whole, terms[0], carries[0], membrane_shape)),
                ]
            m.d.comb += self.result[j].eq(drive)
            # B3
            threshold = delayed(m, threshold1, 2).as_signed()
            excess = Signal(membrane_shape, name=f"excess{j}")
            rest = Mux(delays, membrane, Mux(h.reset == Reset.SOFT, excess, 0))
            m.d.comb += [
                excess.eq(membrane - threshold),
                fires[j].eq(~excess[-1] & ~plane3),
                write.data["values"][j].eq(Mux(fires[j], rest, membrane)),
            ]
        m.d.comb += [
            write.data.fired.eq(fires),
            write.addr.eq(delayed(m, rowr, to_b1 + 2)),
            write.en.eq(delayed(m, active1, 2, reset=True)),
        ]
        return fires

    def _write_logits(self, m: Module, beat: _Beat) -> None:
        """Write the logits of a beat (``fire_lanes`` output channels) of an output layer, at
        pipeline stage B2. A logit is the sum of a channel plus its bias.
        """
        index = (beat.job.target + beat.index)[: len(self.result_index)]
        m.d.comb += [
            self.result_en.eq(delayed(m, beat.valid, 2, reset=True) & self.header.output),
            self.result_index.eq(delayed(m, index, 2)),
        ]

    def _write_spikes(self, m: Module, beat: _Beat, bits3: Value) -> None:
        """OR the spikes of a pooling window at stage B3; write and count them at the window's end,
        at stage B4.

        ``bits3`` are the spikes of the ``fire_lanes`` neurons of a beat at stage B3.
        """
        config, h, job = self._config, self.header, beat.job
        pooled = unreset(config.lanes)
        begins3 = delayed(m, beat.begins & job.pool_first, 3, reset=True)
        active3 = delayed(m, beat.valid, 3, reset=True)
        beat3 = delayed(m, beat.index, 3)
        n_lanes = config.fire_lanes
        for i in range(config.fire_beats):
            is_here = active3 & (beat3 == i)
            bits = pooled.word_select(i, n_lanes)
            m.d.sync += bits.eq(
                (bits & ~begins3.replicate(n_lanes)) | (bits3 & is_here.replicate(n_lanes))
            )

        # B4: each bank gets the granules of its lanes.
        lanes_of_granule = GRANULE_BITS * config.banks
        granules = config.lanes // lanes_of_granule
        tail_granules = (h.tail_lanes + lanes_of_granule - 1) >> (lanes_of_granule - 1).bit_length()
        n_granules = Signal(self.spikes.p.count.shape())
        m.d.comb += n_granules.eq(Mux(job.tail, tail_granules, granules))
        writes4, ends4 = delayed(
            m, Cat(job.pool_last & ~h.output, job.end) & beat.last.replicate(2), 4, reset=True
        )
        spikes = self.spikes.p
        m.d.comb += [
            self.spikes.valid.eq(writes4),
            spikes.banks.eq(-1),
            Cat(spikes.granule, spikes.count).eq(delayed(m, Cat(job.target, n_granules), 4)),
            spikes.bits.eq(pooled),
        ]
        parts = [pooled[i : i + GRANULE_BITS] for i in range(0, config.lanes, GRANULE_BITS)]
        ones = [Signal(range(GRANULE_BITS + 1), name=f"ones{i}") for i in range(len(parts))]
        m.d.sync += [
            one.eq(Mux(writes4, popcount(part), 0)) for one, part in zip(ones, parts, strict=True)
        ]
        m.d.sync += self.n_spikes.eq(sum(ones))
        m.d.comb += self.finished.eq(delayed(m, ends4, 1, reset=True))
