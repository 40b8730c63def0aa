"""SDRAM controller that serves rows of weights: long bursts from pages that are kept open.

::

    requests[p] ─> RequestHead ─┬─ page open: ──> column queue ──> read, write ──┐
                                └─ not open: ──> banks ──> precharge, activate ──┴─> pins
    rows[p] <─ Queue <── row <── words of dq_i

A request joins the column queue as soon as its page is open, so that the commands of that queue
never wait for a bank. They are issued once per burst; in the cycles between them, the pages of
other requests are opened. Before a request joins the queue, a place for its row is reserved in the
port's queue of rows, so that a burst never stalls.
"""

from __future__ import annotations

from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.offchip.head import RequestHead
from hw.offchip.layout import RowLayout
from hw.offchip.pins import ALL_BANKS, Command, SdramPins
from hw.offchip.timer import Timer, round_robin
from hw.offchip.timing import N_BANKS, REFRESH_BATCH, SdramChip, SdramCycles, timing_cycles
from hw.parts.pipeline import delayed, encode_one_hot, first_one, select_one_hot, unreset
from hw.parts.queue import Queue
from hw.spec import SpecError

COLUMN_DEPTH = 4
"""Depth of the column queue, in requests. The page of every request in the queue is open; while
these requests are served, the page of the next one is opened."""
ROW_DEPTH = 16
"""Largest number of rows that a port may have requested and not yet taken. It suffices for the
requests in the column queue and in the SDRAM's latency, and is the depth of a distributed RAM."""
QUEUE_LATENCY = 2
"""Smallest number of cycles from adding a request to the column queue until its first command."""


def row_address(layout: RowLayout) -> data.StructLayout:
    """Return the layout of a row's address: number of the port, and index of the row among the
    port's rows."""
    return data.StructLayout({"port": range(layout.n_ports), "row": range(layout.n_rows)})


def row_write(layout: RowLayout) -> data.StructLayout:
    """Return the layout of a row to write: its address and its contents."""
    return data.StructLayout(
        {"port": range(layout.n_ports), "row": range(layout.n_rows), "data": layout.row_bits}
    )


class SdramRows(wiring.Component):
    """Read rows of weights for the banks of the core from an SDRAM, and write them for the host.

    Parameters
    ----------
    chip : the SDRAM.
    clk_hz : frequency of the domain ``sync``, which is also that of the chip's clock.
    n_ports : number of ports, one for each bank of the core.
    row_bits : number of bits in a row, a power of two of at least two words.
    cas_latency : CAS latency that is set in the chip.
    read_latency : additional cycles from the pins to the chip and back, such as those of registers
        in the device's I/O cells; at least -1. 0 means: the chip samples a command at the edge that
        ends the cycle in which the command is on :attr:`pins`, and ``dq_i`` is sampled
        ``cas_latency`` edges later.

    Members
    -------
    requests : for each port, indices of rows in its region.
    rows : for each port, the rows that were requested, in order.
    aborted : drop all requests and rows of the ports. No further requests are taken until the rows
        that have already been requested from the chip have arrived.
    write : row to write. It is taken when its last word is on the pins, so that any later request
        reads the new row.
    read, read_row : row to read for the host, in order with ``write``. While a row is being read,
        ``write`` and ``read`` wait.
    idle : no row is being read or written for the host.
    ready : the chip is initialised. Earlier requests wait until then.
    transfers : in this cycle, a word was read or written. Its average is the used share of the bus.
    pins : pins of the SDRAM; the outputs are registers, and ``dq_i`` goes directly to one.
    """

    def __init__(
        self,
        chip: SdramChip,
        clk_hz: int,
        *,
        n_ports: int,
        row_bits: int,
        cas_latency: int = 3,
        read_latency: int = 0,
    ):
        self.layout = layout = RowLayout(chip=chip, n_ports=n_ports, row_bits=row_bits)
        self.cycles: SdramCycles = timing_cycles(chip, clk_hz, cas_latency)
        if read_latency < -1:
            raise SpecError(
                f"a read latency of {read_latency} cycles is not possible: use -1 or more"
            )
        self._read_latency = read_latency
        super().__init__(
            {
                "requests": In(stream.Signature(range(layout.n_rows))).array(n_ports),
                "rows": Out(stream.Signature(row_bits)).array(n_ports),
                "aborted": In(1),
                "write": In(stream.Signature(row_write(layout))),
                "read": In(stream.Signature(row_address(layout))),
                "read_row": Out(stream.Signature(row_bits)),
                "idle": Out(1),
                "ready": Out(1),
                "transfers": Out(1),
                "pins": Out(SdramPins(chip)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout, t = self.layout, self.cycles
        n_ports, n_users = layout.n_ports, layout.n_ports + 1  # the last user is the host
        host = n_ports

        # Requests.
        host_shape = data.StructLayout(
            {"port": range(n_ports), "row": range(layout.n_rows), "write": 1}
        )
        heads = [
            RequestHead(
                layout, range(layout.n_rows), lambda row, port=port: layout.fields(port, row)
            )
            for port in range(n_ports)
        ]
        heads.append(
            RequestHead(
                layout, host_shape, lambda request: layout.fields(request.port, request.row)
            )
        )
        outstanding = Signal(range(ROW_DEPTH + 1))
        draining = Signal()  # the rows that are under way are dropped
        with m.If(self.aborted):
            m.d.sync += draining.eq(1)
        with m.Elif(outstanding == 0):
            m.d.sync += draining.eq(0)
        for port, (head, requests) in enumerate(zip(heads, self.requests, strict=False)):
            m.submodules[f"head{port}"] = head
            m.d.comb += [
                head.requests.valid.eq(requests.valid & ~draining),
                head.requests.p.eq(requests.p),
                requests.ready.eq(head.requests.ready & ~draining),
                head.drop.eq(self.aborted),
            ]
        m.submodules.host = self._host(heads[host], host_busy := Signal(), ends := Signal())
        m.d.comb += self.idle.eq(~host_busy)

        # Banks. A bank that is `active` has the page `pages[b]`, or gets it soon. If its open page
        # is another one, it is `stale` and must be closed. It is `unused` until the first request
        # of the new page joins the column queue, and keeps the page until then.
        pages = [unreset(len(heads[0].page), name=f"page{b}") for b in range(N_BANKS)]
        active, opened, stale, unused = (
            [Signal(name=f"{name}{b}") for b in range(N_BANKS)]
            for name in ("active", "opened", "stale", "unused")
        )
        waits = [Timer(m, max(t.rp, t.rcd), f"wait{b}") for b in range(N_BANKS)]
        ras = [Timer(m, t.ras, f"ras{b}") for b in range(N_BANKS)]
        rrd = Timer(m, t.rrd, "rrd")
        # Cycles until the next read or write. The bank of the last one is closed after them, too.
        column = Timer(m, layout.burst - 1 + t.wr, "column")
        pending = [Signal(range(COLUMN_DEPTH + 2), name=f"pending{b}") for b in range(N_BANKS)]
        opening = Signal(N_BANKS)  # another page is to be opened from the next cycle on

        # Column queue.
        running = Signal()
        entry = data.StructLayout(
            {
                "bank": range(N_BANKS),
                "slot": range(layout.slots),
                "user": range(n_users),
                "write": 1,
            }
        )
        m.submodules.columns = columns = Queue(entry, COLUMN_DEPTH, always_ready=True)
        held = Signal(COLUMN_DEPTH + 1)  # thermometer code of the number of requests in the queue
        hits, push = Signal(n_users), Signal()
        usable_banks = Cat(
            opened[b] & ~stale[b] & ~waits[b].runs & ~opening[b] for b in range(N_BANKS)
        )
        for user, head in enumerate(heads):
            may = 1 if user == host else ~outstanding[-1]
            m.d.comb += [
                *(page_in.eq(page) for page_in, page in zip(head.pages, pages, strict=True)),
                head.active.eq(Cat(active)),
                head.usable.eq(usable_banks),
                head.may.eq(may),
                hits[user].eq(head.hits),
            ]
        grant = round_robin(m, hits, push)
        m.d.comb += [
            push.eq(hits.any() & running & ~held[-1]),
            columns.i.valid.eq(push),
            columns.i.p.bank.eq(select_one_hot(grant, [head.bank for head in heads])),
            columns.i.p.slot.eq(select_one_hot(grant, [head.slot for head in heads])),
            columns.i.p.user.eq(encode_one_hot(grant)),
            columns.i.p.write.eq(grant[host] & heads[host].request.write),
            *(head.take.eq(grant[user] & push) for user, head in enumerate(heads)),
        ]
        column_goes, pop = Signal(), Signal()
        with m.If(push & ~pop):
            m.d.sync += held.eq(Cat(1, held[:-1]))
        with m.If(pop & ~push):
            m.d.sync += held.eq(held[1:])

        # Requests whose page is not open: one user is looked at in each cycle.
        turn = Signal(range(n_users))
        m.d.sync += turn.eq(Mux(turn == n_users - 1, 0, turn + 1))
        missed, bank, page = Signal(), unreset(range(N_BANKS)), unreset(len(pages[0]))
        with m.Switch(turn):
            for user, head in enumerate(heads):
                with m.Case(user):
                    m.d.sync += [
                        missed.eq(head.misses & running),
                        bank.eq(head.bank),
                        page.eq(head.page),
                    ]
        joined, joined_bank = Signal(), unreset(range(N_BANKS))
        m.d.sync += [joined.eq(push), joined_bank.eq(columns.i.p.bank)]
        wanted = Signal(N_BANKS)
        m.d.sync += wanted.eq(
            Cat(Cat(head.hits & (head.bank == b) for head in heads).any() for b in range(N_BANKS))
        )
        m.d.comb += opening.eq(
            Cat(missed & running & (bank == b) & ~unused[b] & ~wanted[b] for b in range(N_BANKS))
        )

        # Commands.
        first, part, write = columns.o.p, Signal(range(layout.row_words // layout.burst)), Signal()
        last_bank, last_write, reading = Signal(range(N_BANKS)), Signal(), Signal()
        m.d.comb += [
            write.eq(first.write),
            column_goes.eq(columns.o.valid & ~column.runs & ~(write & reading)),
            pop.eq(column_goes & (part == layout.row_words // layout.burst - 1)),
            columns.o.ready.eq(pop),
        ]
        with m.If(column_goes):
            m.d.sync += [part.eq(part + 1), last_bank.eq(first.bank), last_write.eq(write)]
            column.start(layout.burst, ~write)
            column.start(layout.burst - 1 + t.wr, write)
        may_open, may_close = Signal(N_BANKS), Signal(N_BANKS)
        was_stale = Signal(N_BANKS)  # by now, `pending` counts all requests of the open page
        m.d.sync += was_stale.eq(Cat(stale))
        m.d.comb += may_open.eq(
            Cat(
                active[b] & ~opened[b] & ~waits[b].runs & ~rrd.runs & running
                for b in range(N_BANKS)
            )
        )
        closes = first_one(may_close) & ~(column_goes | ~running).replicate(N_BANKS)
        opens = first_one(may_open) & ~(column_goes | may_close.any()).replicate(N_BANKS)
        # A bank that may be closed still may one cycle later, because nothing uses its page.
        m.d.sync += may_close.eq(
            Cat(
                stale[b]
                & was_stale[b]
                & (pending[b] == 0)
                & ~ras[b].runs
                & ~(column.runs & (last_write | (last_bank == b)))
                & ~closes[b]
                & running
                for b in range(N_BANKS)
            )
        )
        close_all = Signal()
        for b in range(N_BANKS):
            joins = joined & (joined_bank == b)
            leaves = pop & (first.bank == b)
            m.d.sync += pending[b].eq(pending[b] + joins - leaves)
            with m.If(joins):
                m.d.sync += unused[b].eq(0)
            with m.If(opens[b]):
                m.d.sync += opened[b].eq(1)
                # Requests may join the queue earlier, because they take some cycles there.
                waits[b].start(max(1, t.rcd - QUEUE_LATENCY))
                ras[b].start(t.ras)
                rrd.start(t.rrd)
            with m.If(closes[b]):
                m.d.sync += [opened[b].eq(0), stale[b].eq(0)]
                waits[b].start(t.rp)
            with m.If(opening[b]):
                m.d.sync += [
                    pages[b].eq(page),
                    active[b].eq(1),
                    unused[b].eq(1),
                    stale[b].eq(opened[b]),
                ]
            with m.If(draining):  # the request for which the page was opened may be gone
                m.d.sync += unused[b].eq(0)
            with m.If(close_all):
                m.d.sync += Cat(active[b], opened[b], stale[b], unused[b]).eq(0)

        quiet = Signal()  # all banks may be closed
        at_rest = Signal()  # no request waits
        m.d.comb += quiet.eq(~held[0] & ~column.runs & ~Cat(timer.runs for timer in ras).any())
        m.d.sync += at_rest.eq(~held[0] & ~Cat(head.busy for head in heads).any())
        refresh, mode = Signal(), Signal()
        self._sequence(m, running, quiet, at_rest, close_all, refresh, mode)

        # Pins. The command is registered, then its address is chosen and registered.
        pins = self.pins
        activates, precharges, columns_go, writes = (Signal() for _ in range(4))
        refreshes, modes, all_banks = Signal(), Signal(), Signal()
        open_bank, column_bank = unreset(range(N_BANKS)), unreset(range(N_BANKS))
        column_address = unreset(range(layout.chip.columns))
        burst_bits, slot_bits = (layout.burst - 1).bit_length(), len(first.slot)
        m.d.sync += [
            activates.eq(opens.any()),
            precharges.eq(closes.any() | close_all),
            columns_go.eq(column_goes),
            writes.eq(write),
            refreshes.eq(refresh),
            modes.eq(mode),
            all_banks.eq(close_all),
            open_bank.eq(encode_one_hot(Mux(may_close.any(), closes, opens))),
            column_bank.eq(first.bank),
            column_address.eq(Cat(Const(0, burst_bits), part, first.slot)),
        ]
        assert len(column_address) == burst_bits + len(part) + slot_bits
        mode_bits = burst_bits | t.cas_latency << 4  # sequential bursts, also of writes
        command = Signal(Command, init=Command.NOP)
        m.d.comb += Cat(pins.ras_n, pins.cas_n, pins.we_n).eq(command)
        m.d.sync += [
            pins.clk_en.eq(1),
            pins.cs_n.eq(~(activates | precharges | columns_go | refreshes | modes)),
            pins.dqm.eq((~self.ready).replicate(len(pins.dqm))),
            command.eq(Command.NOP),
            pins.ba.eq(Mux(columns_go, column_bank, open_bank)),
            pins.a.eq(Array(pages)[open_bank]),
        ]
        with m.If(columns_go):
            m.d.sync += [
                command.eq(Mux(writes, Command.WRITE, Command.READ)),
                pins.a.eq(column_address),
            ]
        with m.If(activates):
            m.d.sync += command.eq(Command.ACTIVATE)
        with m.If(precharges):
            m.d.sync += [
                command.eq(Command.PRECHARGE),
                pins.a.eq(Mux(all_banks, ALL_BANKS, 0)),
            ]
        with m.If(refreshes):
            m.d.sync += command.eq(Command.REFRESH)
        with m.If(modes):
            m.d.sync += [command.eq(Command.MODE), pins.a.eq(mode_bits), pins.ba.eq(0)]

        # Words to write.
        write_beats = Timer(m, layout.burst + 1, "write_beats")
        with m.If(column_goes & write):
            write_beats.start(layout.burst + 1)
        written, word = Signal(range(layout.row_words)), self.write.p.data
        m.d.sync += [
            pins.dq_oe.eq(write_beats.runs),
            pins.dq_o.eq(word.word_select(written, layout.chip.data_bits)),
            written.eq(written + write_beats.runs),
        ]
        m.d.comb += self.write.ready.eq(write_beats.runs & (written == layout.row_words - 1))

        # Words that were read.
        read_beats = Timer(m, layout.burst + 1, "read_beats")
        user = unreset(range(n_users))
        with m.If(column_goes & ~write):
            read_beats.start(layout.burst + 1)
            m.d.sync += user.eq(first.user)
        latency = t.cas_latency + self._read_latency + 2
        on_way = [read_beats.runs]
        for _ in range(latency):
            on_way.append(delayed(m, on_way[-1], 1, reset=True))
        arrives = on_way[-1]
        arriving_user = delayed(m, user, latency)
        m.d.comb += reading.eq(Cat(on_way).any())
        m.d.sync += self.transfers.eq(read_beats.runs | write_beats.runs)
        sample, row = unreset(layout.chip.data_bits), unreset(layout.row_bits)
        n_words = Signal(range(layout.row_words))
        complete = Signal(n_users)
        m.d.sync += [
            sample.eq(pins.dq_i),
            n_words.eq(n_words + arrives),
            complete.eq(0),
        ]
        with m.If(arrives):
            m.d.sync += row.eq(Cat(row[layout.chip.data_bits :], sample))
        with m.If(arrives & (n_words == layout.row_words - 1)):
            m.d.sync += complete.eq(1 << arriving_user)

        # One queue for all ports: a single bus of rows leads to them.
        entry = data.StructLayout({"row": layout.row_bits, "port": range(max(n_ports, 2))})
        m.submodules.rows = queue = Queue(entry, ROW_DEPTH, always_ready=True)
        taken = Signal()
        m.d.comb += [
            queue.i.valid.eq(Cat(complete[port] for port in range(n_ports)).any()),
            queue.i.p.row.eq(row),
            queue.i.p.port.eq(encode_one_hot(Cat(complete[port] for port in range(n_ports)))),
            queue.o.ready.eq(Array(rows.ready for rows in self.rows)[queue.o.p.port] | draining),
            taken.eq(queue.o.valid & queue.o.ready),
        ]
        takes = Cat(heads[port].take for port in range(n_ports)).any()
        m.d.sync += outstanding.eq(outstanding + takes - taken)
        for port, rows in enumerate(self.rows):
            m.d.comb += [
                rows.valid.eq(queue.o.valid & (queue.o.p.port == port) & ~draining),
                rows.p.eq(queue.o.p.row),
            ]
        with m.If(complete[host]):
            m.d.sync += [self.read_row.p.eq(row), self.read_row.valid.eq(1)]
        with m.Elif(self.read_row.ready):
            m.d.sync += self.read_row.valid.eq(0)
        m.d.comb += ends.eq((self.write.ready) | (self.read_row.valid & self.read_row.ready))
        return m

    def _host(self, head: RequestHead, busy: Signal, ends: Signal) -> Module:
        """Return a module that passes the host's writes and reads to their request head, one at a
        time.

        ``busy`` is high while one is being served, and ``ends`` when it has been served.
        """
        m = Module()
        m.submodules.head = head
        is_write = self.write.valid
        m.d.comb += [
            head.requests.valid.eq(~busy & (self.write.valid | self.read.valid)),
            head.requests.p.port.eq(Mux(is_write, self.write.p.port, self.read.p.port)),
            head.requests.p.row.eq(Mux(is_write, self.write.p.row, self.read.p.row)),
            head.requests.p.write.eq(is_write),
            self.read.ready.eq(~busy & ~is_write & head.requests.ready),
        ]
        with m.If(head.requests.valid & head.requests.ready):
            m.d.sync += busy.eq(1)
        with m.Elif(ends):
            m.d.sync += busy.eq(0)
        return m

    def _ticks(self, m: Module) -> Signal:
        """Return a signal that is high for one cycle whenever another refresh becomes due."""
        tick, timer = Signal(), Signal(range(self.cycles.refresh_interval))
        m.d.comb += tick.eq(timer == 0)
        m.d.sync += timer.eq(Mux(tick, self.cycles.refresh_interval - 1, timer - 1))
        return tick

    def _sequence(
        self,
        m: Module,
        running: Signal,
        quiet: Signal,
        at_rest: Signal,
        close_all: Signal,
        refresh: Signal,
        mode: Signal,
    ) -> None:
        """Add the state machine that initialises and refreshes the chip.

        The steps are the same for both: close all banks, refresh a few times, and set the mode.
        Before it initialises the chip, the state machine waits as long as the chip demands after
        power-on.

        Parameters
        ----------
        running : output, a register: requests may be served.
        quiet : input: no timing rule forbids closing all banks.
        at_rest : input: no request is waiting.
        close_all, refresh, mode : outputs: the command is issued in this cycle.
        """
        t = self.cycles
        tick = self._ticks(m)
        owed = Signal(range(2 * REFRESH_BATCH), init=REFRESH_BATCH)  # refreshes that are due
        n_ticks = -(-t.power_up // t.refresh_interval)
        left = Signal(range(n_ticks + 1), init=n_ticks)
        pause = Timer(m, max(t.rp, t.rfc, t.mrd), "pause")
        with m.FSM():
            with m.State("POWER_UP"), m.If(tick):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    m.next = "CLOSE"
            with m.State("RUN"):
                m.d.sync += self.ready.eq(1)
                # Half a batch is enough if nothing waits.
                with m.If((owed >= REFRESH_BATCH) | ((owed >= REFRESH_BATCH // 2) & at_rest)):
                    m.d.sync += running.eq(0)
                    m.next = "CLOSE"
            with m.State("CLOSE"), m.If(quiet):
                m.d.comb += close_all.eq(1)
                pause.start(t.rp)
                m.next = "REFRESH"
            with m.State("REFRESH"), m.If(~pause.runs):
                with m.If(owed != 0):
                    m.d.comb += refresh.eq(1)
                    pause.start(t.rfc)
                with m.Else():
                    m.d.comb += mode.eq(1)
                    pause.start(t.mrd)
                    m.next = "MODE"
            with m.State("MODE"), m.If(~pause.runs):
                m.d.sync += running.eq(1)
                m.next = "RUN"
        # Ticks count from the first time on at which the chip is ready.
        m.d.sync += owed.eq(owed + (tick & self.ready) - refresh)
