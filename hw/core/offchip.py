"""Rows of weights and of parameters that come from memory outside the FPGA.

A *job* is the computation of one output position of one group of ``lanes`` output channels at one
timestep. An *event* (:mod:`hw.core.scan`) is one active input of a job, for which a row of weights
is read. A row of weights whose address has its highest bit set is not in the bank's weight memory,
but in the bank's part of the memory outside the FPGA. Rows of parameters are marked in the same
way. Only rows of active inputs are read. ::

    events of bank n  -> RowFetch ---requests--> .           .
    jobs -------------> ParamFetch --requests--> Port n ---> memory outside the FPGA
    host's reads ------------------------------> .           .
"""

from __future__ import annotations

import enum

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus import OffchipPort, offchip_row_bits
from hw.core.nest import address_widths
from hw.core.params import row_bits
from hw.core.scan import event_layout
from hw.core.weights import row_layout
from hw.parts.pipeline import unreset
from hw.parts.queue import Queue
from hw.spec import Config

N_ROWS = 16
"""Largest number of rows of weights that a bank may have requested and not yet added to its
sums."""
N_EVENTS = 16
"""Largest number of events (active inputs, each of which needs a row of weights) that may wait
until their rows can be requested."""
EVENTS_IN_FLIGHT = 6
"""Number of free places that the queue of events (active inputs) still has when the scanner is told
to stop. They are for events that arrive afterwards, and for the delay of the queue itself."""
N_BEATS = 16
"""Largest number of rows of parameters stored in advance, until the fire unit takes them."""
N_PARAM_JOBS = 64
"""Largest number of jobs (output positions, channel groups and timesteps) whose parameters may wait
to be requested."""


class RowFetch(wiring.Component):
    """Request the rows of weights for a bank's events, and give them to the accumulators in order.

    An event is an active input, which adds a row of weights, or the end of a job. An event that
    only ends a job (without ``add``) needs no row, but keeps its place among the others. Events are
    never refused; instead, the scanner stops while ``room`` is low.

    Members
    -------
    events : events whose rows are outside the FPGA.
    room : the scanner may emit events.
    port : requests for rows, and the rows that arrive.
    rows : the same events with their weights, which are 0 in events without ``add``. All payload
        bits are 0 while ``valid`` is low.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "events": In(stream.Signature(event_layout(config), always_ready=True)),
                "room": Out(1, init=1),
                "port": Out(OffchipPort(config)),
                "rows": Out(stream.Signature(row_layout(config), always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        flags = data.StructLayout({"add": 1, "last": 1})
        entry = data.StructLayout({"row": range(config.offchip_depth), "add": 1, "last": 1})
        m.submodules.waiting = waiting = Queue(entry, N_EVENTS, always_ready=True)
        m.submodules.asked = asked = Queue(flags, N_ROWS)
        event, head, port = self.events.p, waiting.o.p, self.port
        issued = Signal()
        m.d.comb += [
            waiting.i.valid.eq(self.events.valid),
            waiting.i.p.row.eq(event.weight),
            waiting.i.p.add.eq(event.add),
            waiting.i.p.last.eq(event.last),
            # A request is made only if there is a place to remember it.
            port.requests.valid.eq(waiting.o.valid & head.add & asked.i.ready),
            port.requests.p.eq(head.row),
            issued.eq(waiting.o.valid & asked.i.ready & (~head.add | port.requests.ready)),
            waiting.o.ready.eq(asked.i.ready & (~head.add | port.requests.ready)),
            asked.i.valid.eq(issued),
            asked.i.p.add.eq(head.add),
            asked.i.p.last.eq(head.last),
        ]
        m.d.sync += self.room.eq(waiting.level <= N_EVENTS - EVENTS_IN_FLIGHT)

        emit = Signal()
        adds = asked.o.p.add
        row = Mux(emit & adds, port.rows.p, 0)
        m.d.comb += [
            emit.eq(asked.o.valid & (~adds | port.rows.valid)),
            asked.o.ready.eq(emit),
            port.rows.ready.eq(emit & adds),
        ]
        m.d.comb += [
            self.rows.valid.eq(emit),
            self.rows.p.weights.eq(row),
            self.rows.p.add.eq(emit & adds),
            self.rows.p.last.eq(emit & asked.o.p.last),
        ]
        return m


class ParamFetch(wiring.Component):
    """Request the parameters of jobs in advance, and give them to the fire unit row by row.

    A job is one output position, group of ``lanes`` output channels and timestep. A row of
    parameters takes :attr:`hw.spec.Config.param_chunks` rows of the memory outside the FPGA, which
    lie in successive banks. In each bank, at most one row at a time is requested and has not
    arrived.

    Members
    -------
    jobs : index of the first row of parameters of each job whose parameters are outside the FPGA,
        in order. Never more than :data:`N_PARAM_JOBS` wait.
    last_beat : number of rows of parameters per job, less one.
    ports : requests in every bank, and the rows that arrive.
    ready : all parameters of the next job have arrived.
    begin : the fire unit begins with that job.
    take : the fire unit takes the next row of parameters.
    row : that row.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "jobs": In(stream.Signature(address_widths(config)["param"], always_ready=True)),
                "last_beat": In(8),
                "ports": Out(OffchipPort(config)).array(config.banks),
                "ready": Out(1),
                "begin": In(1),
                "take": In(1),
                "row": Out(row_bits(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, banks = self._config, self._config.banks
        bank_bits = (banks - 1).bit_length()
        chunk_bits = (config.param_chunks - 1).bit_length()
        m.submodules.jobs = jobs = Queue(self.jobs.p.shape(), N_PARAM_JOBS, always_ready=True)
        m.submodules.order = order = Queue(max(bank_bits, 1), N_ROWS)
        m.submodules.beats = beats = Queue(row_bits(config), N_BEATS, always_ready=True)
        m.d.comb += [jobs.i.valid.eq(self.jobs.valid), jobs.i.p.eq(self.jobs.p)]

        # Requests, one memory row after another.
        beat, chunk = Signal(8), Signal(range(max(config.param_chunks, 2)))
        n_reserved = Signal(range(N_BEATS + 1))  # rows of parameters asked for and not yet taken
        address = Signal(len(jobs.o.p) - 1)
        m.d.comb += address.eq(jobs.o.p + beat)
        place = Cat(chunk[:chunk_bits], address)  # counts memory rows over all banks
        bank = place[:bank_bits]
        busy = Signal(banks)  # a row is asked for, or has arrived and not been used
        may_ask, asks = Signal(), Signal()
        bank_free, bank_ready = Array(~busy), Array(port.requests.ready for port in self.ports)
        m.d.comb += [
            may_ask.eq(jobs.o.valid & order.i.ready & (n_reserved != N_BEATS) & bank_free[bank]),
            asks.eq(may_ask & bank_ready[bank]),
            order.i.valid.eq(asks),
            order.i.p.eq(bank),
        ]
        last_chunk, last_beat = chunk == config.param_chunks - 1, beat == self.last_beat
        m.d.comb += jobs.o.ready.eq(asks & last_chunk & last_beat)
        with m.If(asks):
            m.d.sync += chunk.eq(Mux(last_chunk, 0, chunk + 1))
            with m.If(last_chunk):
                m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))
        m.d.sync += n_reserved.eq(n_reserved + (asks & last_chunk) - self.take)

        # Rows that arrive are held for each bank, since those of one may overtake another's.
        have, used = Signal(banks), Signal(banks)
        held = [unreset(offchip_row_bits(config), f"held{n}") for n in range(banks)]
        for n, port in enumerate(self.ports):
            m.d.comb += [
                port.requests.valid.eq(may_ask & (bank == n)),
                port.requests.p.eq(place[bank_bits:]),
                port.rows.ready.eq(1),
                used[n].eq(order.o.valid & (order.o.p == n) & have[n]),
            ]
            m.d.sync += [
                busy[n].eq((busy[n] | (asks & (bank == n))) & ~used[n]),
                have[n].eq((have[n] | port.rows.valid) & ~used[n]),
            ]
            with m.If(port.rows.valid):
                m.d.sync += held[n].eq(port.rows.p)
        # They are put together, the first one in the lowest bits.
        m.d.comb += order.o.ready.eq(used.any())
        parts = unreset(row_bits(config))
        n_parts = Signal.like(chunk)
        complete = Signal()
        m.d.sync += complete.eq(used.any() & (n_parts == config.param_chunks - 1))
        with m.If(used.any()):
            m.d.sync += [
                parts.eq(Cat(parts, Array(held)[order.o.p])[-len(parts) :]),
                n_parts.eq(Mux(n_parts == config.param_chunks - 1, 0, n_parts + 1)),
            ]
        m.d.comb += [beats.i.valid.eq(complete), beats.i.p.eq(parts)]
        m.d.comb += [beats.o.ready.eq(self.take), self.row.eq(beats.o.p)]

        # Jobs of which all rows are held.
        n_held_beats, n_ready = Signal(8), Signal(range(N_BEATS + 1))
        job_complete = Signal()
        m.d.comb += [
            job_complete.eq(complete & (n_held_beats == self.last_beat)),
            self.ready.eq(n_ready != 0),
        ]
        with m.If(complete):
            m.d.sync += n_held_beats.eq(Mux(job_complete, 0, n_held_beats + 1))
        m.d.sync += n_ready.eq(n_ready + job_complete - self.begin)
        return m


class Client(enum.IntEnum):
    """Units that read a bank's memory outside the FPGA, the one with the highest priority first."""

    HOST = 0
    PARAMS = 1
    WEIGHTS = 2


class Port(wiring.Component):
    """Share the memory that a bank has outside the FPGA among the units that read it, one request
    per cycle.

    Rows that were requested by an aborted run are dropped when they arrive.

    Members
    -------
    clients : units that read, by :class:`Client`.
    port : the memory.
    aborted : drop all rows that are still to arrive; no unit requests rows meanwhile.
    """

    N_UNDER_WAY = 32
    """Largest number of rows that have been requested and have not arrived."""

    def __init__(self, config: Config):
        super().__init__(
            {
                "clients": In(OffchipPort(config)).array(len(Client)),
                "port": Out(OffchipPort(config)),
                "aborted": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port, clients = self.port, self.clients
        m.submodules.askers = askers = Queue(Client, self.N_UNDER_WAY)
        asker = Signal(Client)
        may_ask = askers.i.ready & ~self.aborted
        for client in reversed(Client):
            with m.If(clients[client].requests.valid):
                m.d.comb += [
                    asker.eq(client),
                    port.requests.p.eq(clients[client].requests.p),
                    port.requests.valid.eq(may_ask),
                ]
        asked = Signal()
        m.d.comb += [
            asked.eq(port.requests.valid & port.requests.ready),
            askers.i.valid.eq(asked),
            askers.i.p.eq(asker),
        ]
        n_under_way, n_stale = (Signal(range(self.N_UNDER_WAY + 3)) for _ in range(2))
        left, takes = Signal.like(n_under_way), Signal()
        drops = self.aborted | (n_stale != 0)
        m.d.comb += left.eq(n_under_way + asked - takes)
        m.d.sync += n_under_way.eq(left)
        with m.If(self.aborted):
            m.d.sync += n_stale.eq(left)
        with m.Elif(takes & (n_stale != 0)):
            m.d.sync += n_stale.eq(n_stale - 1)
        wanted = Array(clients[client].rows.ready for client in Client)
        m.d.comb += [
            port.rows.ready.eq(askers.o.valid & (drops | wanted[askers.o.p])),
            takes.eq(port.rows.valid & port.rows.ready),
            askers.o.ready.eq(takes),
        ]
        for client in Client:
            reader = clients[client]
            m.d.comb += [
                reader.requests.ready.eq(may_ask & port.requests.ready & (asker == client)),
                reader.rows.valid.eq(
                    port.rows.valid & askers.o.valid & ~drops & (askers.o.p == client)
                ),
                reader.rows.p.eq(port.rows.p),
            ]
        return m
