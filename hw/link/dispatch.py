"""The dispatcher, which executes the host's requests on the core and answers them.

:mod:`hw.protocol` defines the requests and their replies.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import Cat, Const, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus import CoreBus, max_row_bytes
from hw.link.checks import (
    Checks,
    Registers,
    check_request,
    check_row_sizes,
    make_registers,
    run_layout,
)
from hw.link.packet import PacketByte, ReplyByte
from hw.link.rate import DIVISOR_BITS
from hw.link.unpack import Unpacker
from hw.parts.pipeline import unreset
from hw.protocol import (
    ARGUMENT_BYTES,
    BARE,
    REPLY,
    WRITABLE,
    DeviceStatus,
    Opcode,
    Rate,
    Result,
    RunState,
    Space,
    Status,
    identity_bytes,
    max_request_rows,
    n_bytes,
    n_rows,
    row_bytes,
    spaces,
)
from hw.spec import Config


@dataclass(frozen=True, kw_only=True)
class _CoreState:
    """State of the core, and whether a RUN request repeats an earlier one.

    A run is the computation of one sample, and has a number, its tag. The device knows the tags of
    three runs: the one that waits, the one in progress, and the one that ended last. A RUN with one
    of these tags is a repetition, which does not start the run again.
    """

    in_core: Signal
    """Whether a run is in progress, or has ended but its result has not been taken from the
    core."""
    is_done: Signal
    """Whether a run has ended but its result has not been taken from the core."""
    is_running: Signal
    """Whether a run is in progress or waits."""
    same_as_waiting: Value
    """Whether the request has the tag of the waiting run. ``same_as_current`` and ``same_as_ended``
    say the same about the run in progress and the run that ended last."""
    same_as_current: Value
    same_as_ended: Value


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """Decoder of packed rows, and results of checking those of the current WRITE_PACKED.

    Packed rows are rows whose bytes of zero are left out (:func:`hw.protocol.pack_zeros`).
    """

    unpacker: Unpacker
    checked: Signal
    """Whether the request has arrived once, and its packed rows have been checked. It arrives a
    second time to be executed."""
    sound: Signal
    """Whether the packed rows decode to exactly the rows that the request addresses."""


class Dispatcher(wiring.Component):
    """Execute one request at a time, in order, and reply to each.

    A request is checked as a whole before it has any effect. Therefore the frame receiver passes on
    a WRITE_PACKED twice (:class:`hw.link.frame.FrameReceiver`). The first time, its packed rows,
    whose bytes of zero are left out (:func:`hw.protocol.pack_zeros`), are only checked; the second
    time, they are written.
    Between two requests a waiting run is started as soon as the core is free, and a run that has
    ended is announced with a DONE frame.

    Parameters
    ----------
    config : configuration of the device.

    Members
    -------
    i : undamaged requests: seq, opcode, payload.
    n_data_bytes : bytes of the request on ``i`` behind header and arguments, negative if its
        arguments are incomplete; constant from its first byte until five cycles after its last.
    o : replies and DONE announcements, without their CRCs.
    fold, folded_intact : see :class:`hw.link.frame.FrameSender`.
    bus : connection to the core.
    n_bad_frames, n_overruns : error counts, reported by STATUS.
    divisor_less_1, set_rate : ``set_rate`` is high for one cycle at the end of the reply to a RATE
        request that is accepted; the request asks for ``divisor_less_1`` + 1 clock cycles per bit.
    busy : a request is being executed, or a run is to be started or announced.
    """

    def __init__(self, config: Config):
        check_row_sizes(config)
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(PacketByte)),
                "n_data_bytes": In(signed(config.max_payload_bytes.bit_length() + 1)),
                "o": Out(stream.Signature(ReplyByte)),
                "fold": Out(1),
                "folded_intact": In(1),
                "bus": In(CoreBus(config)),
                "n_bad_frames": In(16),
                "n_overruns": In(16),
                "divisor_less_1": Out(DIVISOR_BITS),
                "set_rate": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        r = make_registers(self.config)
        checks = check_request(m, self.config, r, self.n_data_bytes)
        core = self._watch_core(m, r)
        is_check = Signal()
        report = self._report(m, r, core)
        m.d.comb += is_check.eq(r.opcode == Opcode.CHECK)
        self._drive_outputs(m, r)
        identity_byte = self._identity_byte(m, r)

        m.d.comb += self.busy.eq(1)
        packed = self._packed_rows(m, r, checks) if self.config.packed_writes else None
        with m.FSM():
            self._between_requests(m, r, core)
            self._parse(m, r)
            with m.State("DECIDE"):
                m.next = "REPLY_SEQ"
                self._decide(m, r, checks, core, is_check, packed)
            with m.State("DRAIN"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid & self.i.p.last):
                    m.next = "REPLY_SEQ"
            self._write_rows(m, r, checks, packed)
            if packed is not None:
                self._check_packed(m, packed)
            self._abort(m, r)
            self._reply(m, r)
            with m.State("REPORT"):
                self._send_report(m, r, report, identity_byte)
            self._read_rows(m, r, checks, is_check)
            self._compare_crc(m, r)
            with m.State("END"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.end.eq(1)]
                with m.If(self.o.ready):
                    m.d.comb += self.set_rate.eq(
                        (r.opcode == Opcode.RATE) & (r.status == Status.OK)
                    )
                    m.next = "IDLE"
        return m

    def _watch_core(self, m: Module, r: Registers) -> _CoreState:
        """Return the state of the core, with a register for each of the core's signals.

        The registers are needed because these signals come from far away on a large device.
        """
        bus = self.bus
        in_core, is_done = Signal(), Signal()
        stays_done = bus.done.valid & ~bus.done.ready
        m.d.sync += [in_core.eq(bus.busy | stays_done), is_done.eq(stays_done)]
        is_running = Signal()
        m.d.comb += is_running.eq(r.is_waiting | in_core)
        return _CoreState(
            in_core=in_core,
            is_done=is_done,
            is_running=is_running,
            same_as_waiting=r.is_waiting & (r.as_run.tag == r.waiting.tag),
            same_as_current=in_core & (r.as_run.tag == r.current.tag),
            same_as_ended=r.has_ended & (r.as_run.tag == r.result.tag),
        )

    def _report(self, m: Module, r: Registers, core: _CoreState) -> Signal:
        """Return a signal with the reply to STATUS, a :class:`hw.protocol.DeviceStatus`.

        The first field of this structure is the result of the run that ended last. A DONE frame
        sends that field alone.
        """
        report = Signal(DeviceStatus)
        m.d.comb += [
            report.result.eq(r.result),
            report.n_bad_frames.eq(self.n_bad_frames),
            report.n_overruns.eq(self.n_overruns),
            report.state.eq(
                Mux(
                    core.is_running,
                    RunState.RUNNING,
                    Mux(r.has_ended, RunState.DONE, RunState.IDLE),
                )
            ),
        ]
        return report

    def _drive_outputs(self, m: Module, r: Registers) -> None:
        """Connect the registers to those outputs that do not depend on the state machine.

        These are the payloads of the bus to the core, and the divisor of a new rate.
        """
        bus = self.bus
        m.d.comb += [
            bus.write.p.address.row.eq(r.row),
            bus.write.p.address.space.eq(r.space),
            bus.write.p.data.eq(r.row_data),
            bus.read.p.row.eq(r.row),
            bus.read.p.space.eq(r.space),
            bus.run.p.entry.eq(r.waiting.entry),
            bus.run.p.tag.eq(r.waiting.tag),
            self.divisor_less_1.eq(data.View(Rate, r.args).divisor_less_1),
        ]

    def _identity_byte(self, m: Module, r: Registers) -> Value:
        """Return one byte of the device's identity (:func:`hw.protocol.identity_bytes`).

        ``r.at`` is the index of the byte. The bytes are in a ROM, so that a byte arrives one cycle
        after its index.
        """
        m.submodules.identity = rom = memory.Memory(
            shape=8,
            depth=len(identity_bytes(self.config)),
            init=identity_bytes(self.config),
        )
        described = rom.read_port()
        m.d.comb += [described.addr.eq(r.at), described.en.eq(1)]
        return described.data

    def _between_requests(self, m: Module, r: Registers, core: _CoreState) -> None:
        """Add the states between two requests, in which runs begin and end.

        In order of precedence: take the end of a run from the core, start the waiting run, announce
        the run that has ended, or begin with the next request.
        """
        bus = self.bus
        with m.State("IDLE"):
            m.d.sync += [r.n_missing.eq(ARGUMENT_BYTES), r.status.eq(Status.OK)]
            with m.If(core.is_done & ~r.to_announce):
                m.d.comb += bus.done.ready.eq(1)
                m.d.sync += [
                    r.result.eq(bus.done.payload),
                    r.ended.eq(r.current),
                    r.has_ended.eq(1),
                    r.to_announce.eq(1),
                ]
            with m.Elif(r.is_waiting & ~core.in_core):
                m.next = "START"
            with m.Elif(r.to_announce):
                m.d.sync += [
                    r.to_announce.eq(0),
                    r.seq.eq(r.result.tag),
                    r.opcode.eq(Opcode.DONE),
                ]
                m.next = "REPLY_SEQ"
            with m.Else():
                m.d.comb += [self.i.ready.eq(1), self.busy.eq(self.i.valid)]
                m.d.sync += r.seq.eq(self.i.p.byte)
                with m.If(self.i.valid):
                    m.next = "OPCODE"

        with m.State("START"):
            m.d.comb += bus.run.valid.eq(1)
            with m.If(bus.run.ready):
                m.d.sync += [r.is_waiting.eq(0), r.current.eq(r.waiting)]
                m.next = "STARTED"

        with m.State("STARTED"), m.If(core.in_core):
            m.next = "IDLE"

    def _parse(self, m: Module, r: Registers) -> None:
        """Add the states that take a request's opcode and arguments.

        The checks of :mod:`hw.link.checks` then have two cycles for their results.
        """
        byte = self.i.p.byte
        with m.State("OPCODE"):
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += [r.opcode.eq(byte), r.request_ended.eq(self.i.p.last)]
            with m.If(self.i.valid):
                m.next = "ARGUMENTS"
                with m.If(self.i.p.last):
                    m.next = "ADDRESS"

        with m.State("ARGUMENTS"):
            m.d.comb += self.i.ready.eq(1)
            with m.If(self.i.valid):
                m.d.sync += [
                    r.args.eq(Cat(r.args[8:], byte)),
                    r.n_missing.eq(r.n_missing - 1),
                    r.request_ended.eq(self.i.p.last),
                ]
                with m.If(self.i.p.last | (r.n_missing == 1)):
                    m.next = "ADDRESS"

        with m.State("ADDRESS"):
            address = r.as_rows.address
            m.d.sync += [
                r.row.eq(address.row),
                r.space.eq(Mux(address.space > max(spaces(self.config)), -1, address.space)),
                r.rows_left.eq(r.as_rows.n_rows),
            ]
            m.next = "PREPARE"

        with m.State("PREPARE"):
            m.d.sync += r.at.eq(0)
            m.next = "DECIDE"

    def _decide(
        self,
        m: Module,
        r: Registers,
        checks: Checks,
        core: _CoreState,
        is_check: Signal,
        packed: _Packed | None,
    ) -> None:
        """Add the state that refuses the request, or chooses the state that executes it.

        If neither happens, the state machine goes on to reply OK. ``is_check`` is high for a CHECK.
        """
        with m.Switch(r.opcode):
            with m.Case(*BARE):
                with m.If(~checks.is_bare):
                    _refuse(m, r, Status.BAD_LENGTH)
                with m.Elif(r.opcode == Opcode.ABORT):
                    m.next = "ABORT"
            with m.Case(Opcode.WRITE, Opcode.READ, Opcode.CHECK):
                self._decide_rows(m, r, checks, core, is_check, None)
            if packed is not None:
                with m.Case(Opcode.WRITE_PACKED):
                    self._decide_packed(m, r, checks, core, is_check, packed)
            with m.Case(Opcode.RUN):
                self._decide_run(m, r, checks, core)
            with m.Case(Opcode.RATE), m.If(~checks.has_args | ~checks.no_data):
                _refuse(m, r, Status.BAD_LENGTH)
            with m.Default():
                _refuse(m, r, Status.BAD_OPCODE)

    def _decide_packed(
        self,
        m: Module,
        r: Registers,
        checks: Checks,
        core: _CoreState,
        is_check: Signal,
        packed: _Packed,
    ) -> None:
        """Decide whether a WRITE_PACKED is only checked, or executed or refused.

        The frame receiver passes it on twice. The first time, its packed rows, whose bytes of zero
        are left out, are only checked. The second time, it is executed or refused.
        """
        m.d.sync += packed.checked.eq(~packed.checked)
        has_rows = checks.n_row_data_bytes != 0
        with m.If(~packed.checked):
            m.d.sync += packed.sound.eq(~has_rows & checks.no_data)
            with m.If(r.request_ended):
                m.next = "IDLE"
            with m.Elif(has_rows):
                m.d.comb += packed.unpacker.start.eq(1)
                m.next = "CHECK_PACKED"
            with m.Else():
                m.next = "SKIP_PACKED"
        with m.Else():
            self._decide_rows(m, r, checks, core, is_check, packed)

    def _decide_rows(
        self,
        m: Module,
        r: Registers,
        checks: Checks,
        core: _CoreState,
        is_check: Signal,
        packed: _Packed | None,
    ) -> None:
        """Decide whether a request that names rows is executed or refused.

        It is refused if the checks of :mod:`hw.link.checks` fail, or if it would disturb a run.
        ``packed`` is None unless it is a WRITE_PACKED.
        """
        is_write = r.opcode == Opcode.WRITE
        bad_length = ~checks.few_rows | Mux(
            is_check, ~checks.has_crc, ~checks.is_whole | ~checks.fits
        )
        if packed is not None:
            is_write, bad_length = Const(1), ~checks.few_rows | ~packed.sound
        with m.If(~checks.has_args):
            _refuse(m, r, Status.BAD_LENGTH)
        with m.Elif(~Mux(is_write, checks.writable, checks.space_known)):
            _refuse(m, r, Status.BAD_SPACE)
        with m.Elif(bad_length):
            _refuse(m, r, Status.BAD_LENGTH)
        with m.Elif(~checks.in_range):
            _refuse(m, r, Status.BAD_ADDRESS)
        with m.Elif(r.was_reset):
            _refuse(m, r, Status.WAS_RESET)
        with m.Elif(core.is_running & (r.space != Space.SPIKE)):
            _refuse(m, r, Status.BUSY)
        with m.Elif(is_write & ~r.request_ended):
            if packed is not None:
                m.d.comb += packed.unpacker.start.eq(1)
            m.next = "WRITE_BYTES"
        with m.Elif(is_check):
            m.next = "ROW"

    def _decide_run(self, m: Module, r: Registers, checks: Checks, core: _CoreState) -> None:
        """Decide whether a RUN is accepted or refused.

        A run that is known by its tag is acknowledged, but not started again.
        """
        run, config = r.as_run, self.config
        with m.If(~checks.has_args | ~checks.no_data):
            _refuse(m, r, Status.BAD_LENGTH)
        with m.Elif(
            (run.entry >= n_rows(Space.WEIGHT, config))
            | (run.n_result_rows > n_rows(Space.RESULT, config))
            | (run.n_counter_rows > n_rows(Space.COUNTER, config))
        ):
            _refuse(m, r, Status.BAD_ADDRESS)
        with m.Elif(r.was_reset):
            _refuse(m, r, Status.WAS_RESET)
        with m.Elif(core.same_as_ended):
            m.d.sync += r.to_announce.eq(1)
        with m.Elif(~(core.same_as_current | core.same_as_waiting)):
            with m.If(r.is_waiting):
                _refuse(m, r, Status.BUSY)
            with m.Else():
                m.d.sync += r.is_waiting.eq(1)
                m.d.sync += [r.waiting[name].eq(run[name]) for name, _ in run_layout(config)]

    def _packed_rows(self, m: Module, r: Registers, checks: Checks) -> _Packed:
        """Return the decoder of a WRITE_PACKED's rows, with signals for the results of their check.

        These rows are packed: their bytes of zero are left out (:func:`hw.protocol.pack_zeros`).
        """
        most = max_request_rows(self.config) * max_row_bytes(self.config)
        m.submodules.unpacker = unpacker = Unpacker(most)
        m.d.comb += [
            unpacker.n_bytes.eq(checks.n_row_data_bytes),
            unpacker.i.p.eq(self.i.p),
        ]
        return _Packed(unpacker=unpacker, checked=Signal(), sound=unreset(1))

    def _check_packed(self, m: Module, packed: _Packed) -> None:
        """Add the states that check the packed rows of a WRITE_PACKED, without writing them.

        To check them is to decode them, that is, to put back their bytes of zero.
        """
        unpacker = packed.unpacker
        with m.State("CHECK_PACKED"):
            m.d.comb += [
                unpacker.i.valid.eq(self.i.valid),
                self.i.ready.eq(unpacker.i.ready),
                unpacker.o.ready.eq(1),
            ]
            with m.If(unpacker.ended):
                m.d.sync += packed.sound.eq(unpacker.sound)
                m.next = "SKIP_PACKED"
                with m.If(unpacker.input_ended):
                    m.next = "IDLE"
        with m.State("SKIP_PACKED"):
            m.d.comb += self.i.ready.eq(1)
            with m.If(self.i.valid & self.i.p.last):
                m.next = "IDLE"

    def _write_rows(self, m: Module, r: Registers, checks: Checks, packed: _Packed | None) -> None:
        """Add the states that collect the bytes of the rows to write and hand each row to the core.

        The rows of a WRITE_PACKED, whose bytes of zero were left out, come from the decoder, which
        puts these bytes back.
        """
        bus = self.bus
        with m.State("WRITE_BYTES"):
            source = self.i
            if packed is not None:
                unpacker = packed.unpacker
                source = stream.Signature(PacketByte).create(path=("row_bytes",))
                is_packed = r.opcode == Opcode.WRITE_PACKED
                m.d.comb += [
                    source.valid.eq(Mux(is_packed, unpacker.o.valid, self.i.valid)),
                    source.p.eq(Mux(is_packed, unpacker.o.p, self.i.p)),
                    unpacker.i.valid.eq(self.i.valid & is_packed),
                    unpacker.o.ready.eq(1),
                    self.i.ready.eq(unpacker.i.ready | ~is_packed),
                ]
            else:
                m.d.comb += self.i.ready.eq(1)
            with m.If(source.valid):
                # Each byte enters at the top of a row of this space, so that the whole row ends in
                # the low bits.
                m.d.sync += r.row_data.eq(r.row_data[8:])
                for size in {row_bytes(space, self.config) for space in WRITABLE}:
                    with m.If(checks.last_row_byte == size - 1):
                        m.d.sync += r.row_data.word_select(size - 1, 8).eq(source.p.byte)
                m.d.sync += [r.at.eq(r.at + 1), r.request_ended.eq(source.p.last)]
                with m.If(r.at == checks.last_row_byte):
                    m.next = "WRITE_ROW"

        with m.State("WRITE_ROW"):
            m.d.comb += bus.write.valid.eq(1)
            m.d.sync += r.at.eq(0)
            with m.If(bus.write.ready):
                m.d.sync += r.row.eq(r.row + 1)
                m.next = "WRITE_BYTES"
                with m.If(r.request_ended):
                    m.next = "REPLY_SEQ"

    def _abort(self, m: Module, r: Registers) -> None:
        """Add the state that stops the core, forgets all runs, and waits until the core is idle."""
        bus = self.bus
        with m.State("ABORT"):
            m.d.comb += [bus.abort.eq(1), bus.done.ready.eq(1)]
            m.d.sync += [r.is_waiting.eq(0), r.has_ended.eq(0), r.was_reset.eq(0)]
            with m.If(~bus.busy & ~bus.done.valid):
                m.next = "REPLY_SEQ"

    def _reply(self, m: Module, r: Registers) -> None:
        """Add the states that send the beginning of a reply: ``seq``, opcode and status.

        The last of them chooses the state that sends the rest.
        """
        with m.State("REPLY_SEQ"):
            m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(r.seq)]
            with m.If(self.o.ready):
                m.next = "REPLY_OPCODE"

        with m.State("REPLY_OPCODE"):
            m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(r.opcode | REPLY)]
            with m.If(self.o.ready):
                m.next = "REPLY_STATUS"

        with m.State("REPLY_STATUS"):
            m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(r.status)]
            m.d.sync += r.at.eq(0)
            with m.If(self.o.ready):
                m.next = "END"
                with m.If(r.status == Status.OK), m.Switch(r.opcode):
                    with m.Case(Opcode.READ):
                        m.next = "ROW"
                    with m.Case(Opcode.IDENTIFY, Opcode.STATUS, Opcode.DONE):
                        m.next = "REPORT"

    def _send_report(self, m: Module, r: Registers, report: Signal, identity_byte: Value) -> None:
        """Send the device's identity, its status, or the result of a run, byte by byte."""
        n_report_bytes = Signal.like(r.at)
        settled = Signal()  # `identity_byte` is a cycle behind `at`
        m.d.sync += settled.eq(~(self.o.valid & self.o.ready))
        m.d.comb += self.o.valid.eq(settled)
        with m.If(r.opcode == Opcode.IDENTIFY):
            m.d.comb += [
                self.o.p.byte.eq(identity_byte),
                n_report_bytes.eq(len(identity_bytes(self.config))),
            ]
        with m.Else():
            m.d.comb += [
                self.o.p.byte.eq(_byte_of(report, r.at)),
                n_report_bytes.eq(
                    Mux(r.opcode == Opcode.DONE, n_bytes(Result), n_bytes(DeviceStatus))
                ),
            ]
        m.d.sync += [
            r.row.eq(0),
            r.space.eq(Space.RESULT),
            r.rows_left.eq(r.ended.n_result_rows),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += r.at.eq(r.at + 1)
            with m.If(r.at == n_report_bytes - 1):
                m.next = "END"
                with m.If(r.opcode == Opcode.DONE):
                    m.next = "ROW"

    def _read_rows(self, m: Module, r: Registers, checks: Checks, is_check: Signal) -> None:
        """Add the states that read rows from the core and send them.

        For a CHECK, the rows are not sent, but enter the CRC that is compared. A DONE frame has the
        rows of RESULT first, then those of COUNTER.
        """
        bus = self.bus
        with m.State("ROW"):
            m.d.comb += bus.read.valid.eq(r.rows_left != 0)
            m.d.sync += r.at.eq(0)
            with m.If(bus.read.valid & bus.read.ready):
                m.d.sync += [r.row.eq(r.row + 1), r.rows_left.eq(r.rows_left - 1)]
                m.next = "ROW_DATA"
            with m.Elif(~bus.read.valid):
                m.next = "END"
                with m.If(is_check):
                    m.next = "EXPECTED"
                with m.Elif((r.opcode == Opcode.DONE) & (r.space == Space.RESULT)):
                    m.d.sync += [
                        r.row.eq(0),
                        r.space.eq(Space.COUNTER),
                        r.rows_left.eq(r.ended.n_counter_rows),
                    ]
                    m.next = "ROW"

        with m.State("ROW_DATA"):
            m.d.sync += r.row_data.eq(bus.read_data.payload)
            with m.If(bus.read_data.valid):
                m.next = "ROW_BYTES"

        with m.State("ROW_BYTES"):
            m.d.comb += [
                self.fold.eq(is_check),
                self.o.p.byte.eq(r.row_data[:8]),
                self.o.valid.eq(1),
            ]
            with m.If(self.o.ready):
                m.d.sync += [r.row_data.eq(r.row_data[8:]), r.at.eq(r.at + 1)]
                with m.If(r.at == checks.last_row_byte):
                    m.next = "ROW"

    def _compare_crc(self, m: Module, r: Registers) -> None:
        """Add the states that compare the CRC in a CHECK with that of the rows.

        The CRC unit has already taken the rows; now it takes the CRC in the request. If that is the
        CRC of the rows, the unit reports so by ``folded_intact``
        (:class:`hw.link.frame.FrameSender`).
        """
        with m.State("EXPECTED"):
            m.d.comb += [
                self.fold.eq(1),
                self.o.p.byte.eq(self.i.p.byte),
                self.o.valid.eq(self.i.valid),
                self.i.ready.eq(self.o.ready),
            ]
            with m.If(self.i.valid & self.i.ready & self.i.p.last):
                m.next = "COMPARE"

        with m.State("COMPARE"):
            m.d.comb += [self.fold.eq(1), self.o.valid.eq(1), self.o.p.end.eq(1)]
            with m.If(self.o.ready):
                m.next = "REPLY_SEQ"
                with m.If(~self.folded_intact):
                    m.d.sync += r.status.eq(Status.MISMATCH)


def _refuse(m: Module, r: Registers, status: Status) -> None:
    """Reply with an error status, after the remaining bytes of the request have been taken."""
    m.d.sync += r.status.eq(status)
    with m.If(~r.request_ended):
        m.next = "DRAIN"


def _byte_of(value: ValueLike, index: Value) -> ValueLike:
    """Return the byte of ``value`` at ``index``, selected by a tree of multiplexers."""
    bits = Value.cast(value)
    parts = [bits[i : i + 8] for i in range(0, len(bits), 8)]
    for bit in index:
        last = parts[-1:] if len(parts) % 2 else []
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [Mux(bit, high, low) for low, high in pairs] + last
    return parts[0]
