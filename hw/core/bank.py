"""A bank, which stores the spikes and weights of its own input channels, and computes their sums.

A *job* is the computation of one output position of one group of ``lanes`` output channels at one
timestep. A *chunk* is the part of a job's input spikes that a bank reads in one cycle. A *slot* is
one cycle's read of spike memory: of a chunk, of spikes of a residual block's shortcut, or of a byte
for the host (:class:`hw.core.walk.Walk`).
"""

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus import OffchipPort
from hw.core.fetch import Fetch, window_layout
from hw.core.lanes import Lanes
from hw.core.nest import WORD_BITS
from hw.core.offchip import RowFetch
from hw.core.scan import Scanner
from hw.core.spikes import SpikeMemory, granule_write_layout
from hw.core.sums import SumQueue, SumRegister, bank_beats
from hw.core.walk import slot_layout
from hw.core.weights import WeightMemory, row_write_layout, word_layout
from hw.spec import Config

READS = data.StructLayout({"real": 1, "tail": 1})
"""Layout of the number of rows of weights, 0 or 1, that a bank reads in a cycle. ``tail`` is the
number for the last group of output channels, which may have fewer than ``lanes`` channels; ``real``
is the number for all other groups."""


class Bank(wiring.Component):
    """Add up the weights of each job's active inputs (spikes) among one bank's channels.

    A *job* is one output position, group of ``lanes`` output channels and timestep. A *chunk* is
    the inputs of a job that the bank reads in one cycle; a *slot* is one cycle's read of spike
    memory. ::

        slot -> Fetch -> Scanner -> WeightMemory -> Lanes -> SumQueue -> sums
                 |  ^
               SpikeMemory

    Parameters
    ----------
    number : number of the bank, from 0. A slot arrives ``number`` cycles later than in bank 0.

    Members
    -------
    slot : what to read from spike memory in this cycle.
    layer : fields of the running layer's descriptor that the bank needs, stable while the layer
        runs.
    room : the bank has room for another chunk.
    spikes : spikes to write.
    weights : row of weights to write.
    word : 32-bit word of weight memory to read, for the host or for a descriptor. Words are read
        only while no job is in progress.
    read : what was read for the host or the descriptor loader: a word of weight memory, or a
        granule (byte) of spike memory. At most one arrives per cycle.
    complete : high for one cycle per job, when the job's sums have become complete. It is driven
        only if ``sum_queue > 0`` (:class:`hw.spec.Config`).
    sums : sums of the jobs, in order, ``fire_lanes`` at a time (:mod:`hw.core.sums`).
    reads : whether a row of weights is read in this cycle, for the counters; see :data:`READS`.
    offchip : the bank's part of the memory outside the FPGA, on devices that have it.
    aborted : while high, all jobs in progress are dropped.
    """

    def __init__(self, config: Config, number: int = 0):
        self._config, self._number = config, number
        offchip = {"offchip": Out(OffchipPort(config))} if config.offchip_depth else {}
        super().__init__(
            offchip
            | {
                "slot": In(slot_layout(config)),
                "layer": In(window_layout(config)),
                "room": Out(1),
                "spikes": In(stream.Signature(granule_write_layout(config), always_ready=True)),
                "weights": In(stream.Signature(row_write_layout(config), always_ready=True)),
                "word": In(stream.Signature(word_layout(config), always_ready=True)),
                "read": Out(stream.Signature(WORD_BITS, always_ready=True)),
                "complete": Out(1),
                "sums": Out(bank_beats(config)),
                "reads": Out(READS),
                "aborted": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, reset = self._config, ResetInserter(self.aborted)
        m.submodules.fetch = fetch = reset(Fetch(config, self._number))
        m.submodules.scanner = scanner = reset(Scanner(config))
        m.submodules.lanes = lanes = Lanes(config)
        m.submodules.spikes = spikes = SpikeMemory(config)
        m.submodules.weights = weights = WeightMemory(config)
        sums: SumQueue | SumRegister = SumQueue(config) if config.sum_queue else SumRegister(config)
        m.submodules.sums = reset(sums)

        connect(m, flipped(self.spikes), spikes.write)
        connect(m, fetch.chunks, scanner.chunks)
        room = self._connect_events(m, scanner, weights, sums)
        connect(m, weights.rows, lanes.rows)
        connect(m, lanes.sums, sums.i)
        connect(m, fetch.identities, sums.identities)
        connect(m, sums.o, flipped(self.sums))
        connect(m, flipped(self.weights), weights.write)
        connect(m, flipped(self.word), weights.word)
        event = scanner.event
        m.d.comb += [
            fetch.slot.eq(self.slot),
            fetch.layer.eq(self.layer),
            scanner.layer.eq(self.layer),
            spikes.piece_rows.eq(self.layer.piece_rows),
            spikes.read_bit.eq(fetch.read_bit),
            spikes.gather.eq(fetch.gather),
            fetch.window.eq(spikes.window),
            self.room.eq(fetch.room),
            lanes.clear.eq(self.aborted),
            weights.aborted.eq(self.aborted),
        ]
        if isinstance(sums, SumQueue):
            m.d.comb += [
                sums.ends.eq(event.valid & event.p.last),
                scanner.room.eq(room),
                self.complete.eq(sums.complete),
            ]
        else:
            m.d.comb += scanner.room.eq(1)
        read_en = Signal()
        m.d.comb += read_en.eq(event.valid & event.ready & event.p.add)
        m.d.sync += Cat(self.reads.real, self.reads.tail).eq(
            Cat(read_en & ~event.p.tail, read_en & event.p.tail)
        )

        # The host's reads: a word that has been selected, or a granule that is on the window.
        n_waiting = config.weight_latency
        waits = Signal(n_waiting)
        m.d.sync += waits.eq(Cat(self.word.valid, waits[:-1]))
        m.d.comb += [
            self.read.valid.eq(waits[-1] | fetch.granule.valid),
            self.read.p.eq(Mux(fetch.granule.valid, fetch.granule.p, weights.word_data)),
        ]
        return m

    def _connect_events(
        self, m: Module, scanner: Scanner, weights: WeightMemory, sums: SumQueue | SumRegister
    ) -> Value:
        """Send each event of the scanner to the memory that has its row of weights.

        An event is one active input, which needs one row of weights. The row is in the bank's
        weight memory or in memory outside the FPGA.

        Return whether the scanner may emit further events. :class:`hw.core.sums.SumRegister` needs
        no such limit, because it stalls the events on their way to it while it cannot take sums.
        """
        room = sums.room if isinstance(sums, SumQueue) else Const(1)
        if not self._config.offchip_depth:
            connect(m, scanner.event, weights.events)
            return room
        event = scanner.event
        m.submodules.fetch_rows = rows = ResetInserter(self.aborted)(RowFetch(self._config))
        connect(m, rows.rows, weights.offchip)
        connect(m, rows.port, flipped(self.offchip))
        is_outside = event.p.weight[-1]
        m.d.comb += [
            event.ready.eq(weights.events.ready),
            weights.events.valid.eq(event.valid & ~is_outside),
            weights.events.p.eq(event.p),
            rows.events.valid.eq(event.valid & is_outside),
            rows.events.p.eq(event.p),
        ]
        return room & rows.room
