"""Executes requests against the core and answers them, see :mod:`hw.protocol`."""

from amaranth import Cat, Module, Mux, Signal, ValueLike, signed
from amaranth.hdl import Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus import CoreBus, max_row_bytes
from hw.link.packet import PacketByte, ReplyByte
from hw.link.rate import DIVISOR_BITS
from hw.parts.pipeline import storage
from hw.protocol import (
    ARGUMENT_BYTES,
    BARE,
    CRC_BYTES,
    REPLY,
    STATUS_BYTES,
    WRITABLE,
    DeviceStatus,
    Identity,
    Opcode,
    Rate,
    Result,
    Rows,
    Run,
    RunState,
    Space,
    Status,
    identity,
    n_bytes,
    n_rows,
    pack,
    row_bytes,
)
from hw.spec import Config, SpecError


def check_row_sizes(config: Config) -> None:
    """Rows have power-of-two sizes, so that sizes are shifts, and fit a frame.

    Raises
    ------
    SpecError
        A row does not fit a frame.
    """
    for space in Space:
        size = row_bytes(space, config)
        assert size & (size - 1) == 0, f"{space.name} has rows of {size} bytes"
        if size + n_bytes(Rows) > config.max_payload_bytes:
            raise SpecError(
                f"Config.max_payload_bytes = {config.max_payload_bytes} is not supported: a row of "
                f"{space.name} takes {size + n_bytes(Rows)} bytes with its address"
            )


class Dispatcher(wiring.Component):
    """One request at a time, in order; between two of them a run that waits is started as soon as
    the core is free, and one that has ended is announced.

    A request is checked as a whole before it has any effect.

    Members
    -------
    i : undamaged requests: seq, opcode, payload.
    n_data_bytes : of the request on ``i``, behind header and arguments; negative without arguments;
        constant from its first byte until five cycles after its last.
    o : replies and announcements, without CRC.
    fold, folded_intact : see :class:`hw.link.frame.FrameSender`.
    bus : the core.
    n_bad_frames, n_overruns : reported by STATUS.
    divisor_less_1, set_rate : ``set_rate`` is high for a cycle when a new rate has been agreed.
    busy : a request is being executed or something is to be announced or started.
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
        config, bus = self.config, self.bus
        byte = self.i.p.byte
        most_rows = max(n_rows(space, config) for space in Space)
        n_row_bits = most_rows.bit_length()

        # The request, and what is answered.
        seq, opcode = storage(8), storage(8)
        args = storage(8 * ARGUMENT_BYTES)  # shifted in from the top
        as_rows, as_run = data.View(Rows, args), data.View(Run, args)
        n_missing = storage(range(ARGUMENT_BYTES + 1))  # bytes of the arguments still to come
        request_ended = storage(1)
        status = storage(Status)

        # What is read or written.
        space = storage(range(max(Space) + 2))
        row = storage(n_row_bits)
        n_rows_left_bits = min(16, config.max_payload_bytes.bit_length())
        rows_left = storage(n_rows_left_bits)
        row_data = storage(8 * max_row_bytes(config))  # lowest byte first
        at = storage(range(n_bytes(Identity)))  # byte of a row, or of what else is sent

        # Runs: the one that waits, the one that is going on, and the one that ended last, whose
        # results are in the core until the next one's are taken.
        run_layout = data.StructLayout(
            {
                "entry": range(config.weight_depth),
                "n_result_rows": range(n_rows(Space.RESULT, config) + 1),
                "n_counter_rows": range(n_rows(Space.COUNTER, config) + 1),
                "tag": 8,
            }
        )
        waiting, current, ended = (storage(run_layout) for _ in range(3))
        result = storage(Result)  # of the one that ended
        is_waiting, has_ended, to_announce = Signal(), Signal(), Signal()
        was_reset = Signal(init=1)

        # Facts about the space that is addressed.
        space_known, writable = Signal(), Signal()
        n_space_rows = Signal(n_row_bits)
        last_row_byte = Signal(range(max_row_bytes(config)))
        n_row_data_bytes = Signal(range((1 << n_rows_left_bits) * max_row_bytes(config)))
        with m.Switch(space):
            for known in Space:
                size = row_bytes(known, config)
                with m.Case(known):
                    m.d.comb += [
                        space_known.eq(1),
                        writable.eq(known in WRITABLE),
                        n_space_rows.eq(n_rows(known, config)),
                        last_row_byte.eq(size - 1),
                        n_row_data_bytes.eq(rows_left << size.bit_length() - 1),
                    ]

        # What the checks of a request need, a cycle ahead.
        in_range, few_rows, fits = Signal(), Signal(), Signal()
        is_whole, has_crc, is_bare, has_args = (Signal() for _ in range(4))
        end_row = Signal(n_row_bits + 1)
        m.d.comb += end_row.eq(row + rows_left)
        m.d.sync += [
            in_range.eq((end_row <= n_space_rows) & ~as_rows.address.row[n_row_bits:].any()),
            few_rows.eq(~as_rows.n_rows[n_rows_left_bits:].any()),
            fits.eq(n_row_data_bytes <= config.max_payload_bytes - STATUS_BYTES),
            is_whole.eq(self.n_data_bytes == Mux(opcode == Opcode.WRITE, n_row_data_bytes, 0)),
            has_crc.eq(self.n_data_bytes == CRC_BYTES),
            has_args.eq(self.n_data_bytes >= 0),
            is_bare.eq(self.n_data_bytes == -ARGUMENT_BYTES),
        ]
        no_data = self.n_data_bytes == 0

        # Registers: what the core does is known far away from here.
        in_core, is_done = Signal(), Signal()
        stays_done = bus.done.valid & ~bus.done.ready
        m.d.sync += [in_core.eq(bus.busy | stays_done), is_done.eq(stays_done)]
        is_running = Signal()
        same_as_waiting = is_waiting & (as_run.tag == waiting.tag)
        same_as_current = in_core & (as_run.tag == current.tag)
        same_as_ended = has_ended & (as_run.tag == result.tag)
        m.d.comb += [
            is_running.eq(is_waiting | in_core),
        ]

        is_check = Signal()
        report = Signal(DeviceStatus)
        m.d.comb += [
            report.result.eq(result),
            report.n_bad_frames.eq(self.n_bad_frames),
            report.n_overruns.eq(self.n_overruns),
            report.state.eq(
                Mux(is_running, RunState.RUNNING, Mux(has_ended, RunState.DONE, RunState.IDLE))
            ),
            is_check.eq(opcode == Opcode.CHECK),
            bus.write.p.address.row.eq(row),
            bus.write.p.address.space.eq(space),
            bus.write.p.data.eq(row_data),
            bus.read.p.row.eq(row),
            bus.read.p.space.eq(space),
            bus.run.p.entry.eq(waiting.entry),
            bus.run.p.tag.eq(waiting.tag),
            self.divisor_less_1.eq(data.View(Rate, args).divisor_less_1),
        ]

        m.submodules.identity = rom = memory.Memory(
            shape=8,
            depth=n_bytes(Identity),
            init=pack(Identity, identity(config)),
        )
        described = rom.read_port()
        m.d.comb += [described.addr.eq(at), described.en.eq(1)]

        def byte_of(value: ValueLike) -> ValueLike:
            """Byte ``at`` of ``value``."""
            bits = Value.cast(value)
            parts = [bits[i : i + 8] for i in range(0, len(bits), 8)]
            for bit in at:
                last = parts[-1:] if len(parts) % 2 else []
                pairs = zip(parts[::2], parts[1::2], strict=False)
                parts = [Mux(bit, high, low) for low, high in pairs] + last
            return parts[0]

        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [n_missing.eq(ARGUMENT_BYTES), status.eq(Status.OK)]
                with m.If(is_done & ~to_announce):
                    m.d.comb += bus.done.ready.eq(1)
                    m.d.sync += [
                        result.eq(bus.done.payload),
                        ended.eq(current),
                        has_ended.eq(1),
                        to_announce.eq(1),
                    ]
                with m.Elif(is_waiting & ~in_core):
                    m.next = "START"
                with m.Elif(to_announce):
                    m.d.sync += [to_announce.eq(0), seq.eq(result.tag), opcode.eq(Opcode.DONE)]
                    m.next = "REPLY_SEQ"
                with m.Else():
                    m.d.comb += [self.i.ready.eq(1), self.busy.eq(self.i.valid)]
                    m.d.sync += seq.eq(byte)
                    with m.If(self.i.valid):
                        m.next = "OPCODE"

            with m.State("START"):
                m.d.comb += bus.run.valid.eq(1)
                with m.If(bus.run.ready):
                    m.d.sync += [is_waiting.eq(0), current.eq(waiting)]
                    m.next = "STARTED"

            with m.State("STARTED"), m.If(in_core):
                m.next = "IDLE"

            with m.State("OPCODE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [opcode.eq(byte), request_ended.eq(self.i.p.last)]
                with m.If(self.i.valid):
                    m.next = "ARGUMENTS"
                    with m.If(self.i.p.last):
                        m.next = "ADDRESS"

            with m.State("ARGUMENTS"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [
                        args.eq(Cat(args[8:], byte)),
                        n_missing.eq(n_missing - 1),
                        request_ended.eq(self.i.p.last),
                    ]
                    with m.If(self.i.p.last | (n_missing == 1)):
                        m.next = "ADDRESS"

            with m.State("ADDRESS"):
                m.d.sync += [
                    row.eq(as_rows.address.row),
                    space.eq(Mux(as_rows.address.space > max(Space), -1, as_rows.address.space)),
                    rows_left.eq(as_rows.n_rows),
                ]
                m.next = "PREPARE"

            with m.State("PREPARE"):
                m.d.sync += at.eq(0)
                m.next = "DECIDE"

            with m.State("DECIDE"):
                m.next = "REPLY_SEQ"

                def refuse(code: Status) -> None:
                    m.d.sync += status.eq(code)
                    with m.If(~request_ended):
                        m.next = "DRAIN"

                is_write = opcode == Opcode.WRITE
                with m.Switch(opcode):
                    with m.Case(*BARE):
                        with m.If(~is_bare):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(opcode == Opcode.ABORT):
                            m.next = "ABORT"
                    with m.Case(Opcode.WRITE, Opcode.READ, Opcode.CHECK):
                        with m.If(~has_args):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(~Mux(is_write, writable, space_known)):
                            refuse(Status.BAD_SPACE)
                        with m.Elif(~few_rows | Mux(is_check, ~has_crc, ~is_whole | ~fits)):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(~in_range):
                            refuse(Status.BAD_ADDRESS)
                        with m.Elif(was_reset):
                            refuse(Status.WAS_RESET)
                        with m.Elif(is_running & (space != Space.SPIKE)):
                            refuse(Status.BUSY)
                        with m.Elif(is_write & ~request_ended):
                            m.next = "WRITE_BYTES"
                        with m.Elif(is_check):
                            m.next = "ROW"
                    with m.Case(Opcode.RUN):
                        with m.If(~has_args | ~no_data):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(
                            (as_run.entry >= config.weight_depth)
                            | (as_run.n_result_rows > n_rows(Space.RESULT, config))
                            | (as_run.n_counter_rows > n_rows(Space.COUNTER, config))
                        ):
                            refuse(Status.BAD_ADDRESS)
                        with m.Elif(was_reset):
                            refuse(Status.WAS_RESET)
                        with m.Elif(same_as_ended):
                            m.d.sync += to_announce.eq(1)
                        with m.Elif(~(same_as_current | same_as_waiting)):
                            with m.If(is_waiting):
                                refuse(Status.BUSY)
                            with m.Else():
                                m.d.sync += is_waiting.eq(1)
                                m.d.sync += [
                                    waiting[name].eq(as_run[name]) for name, _ in run_layout
                                ]
                    with m.Case(Opcode.RATE), m.If(~has_args | ~no_data):
                        refuse(Status.BAD_LENGTH)
                    with m.Default():
                        refuse(Status.BAD_OPCODE)

            with m.State("DRAIN"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid & self.i.p.last):
                    m.next = "REPLY_SEQ"

            with m.State("WRITE_BYTES"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    # Shifted in at the top of a row of this space, so that it ends in the low bits.
                    m.d.sync += row_data.eq(row_data[8:])
                    for size in {row_bytes(space, config) for space in WRITABLE}:
                        with m.If(last_row_byte == size - 1):
                            m.d.sync += row_data.word_select(size - 1, 8).eq(byte)
                    m.d.sync += [at.eq(at + 1), request_ended.eq(self.i.p.last)]
                    with m.If(at == last_row_byte):
                        m.next = "WRITE_ROW"

            with m.State("WRITE_ROW"):
                m.d.comb += bus.write.valid.eq(1)
                m.d.sync += at.eq(0)
                with m.If(bus.write.ready):
                    m.d.sync += row.eq(row + 1)
                    m.next = "WRITE_BYTES"
                    with m.If(request_ended):
                        m.next = "REPLY_SEQ"

            with m.State("ABORT"):
                m.d.comb += [bus.abort.eq(1), bus.done.ready.eq(1)]
                m.d.sync += [is_waiting.eq(0), has_ended.eq(0), was_reset.eq(0)]
                with m.If(~bus.busy & ~bus.done.valid):
                    m.next = "REPLY_SEQ"

            with m.State("REPLY_SEQ"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(seq)]
                with m.If(self.o.ready):
                    m.next = "REPLY_OPCODE"

            with m.State("REPLY_OPCODE"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(opcode | REPLY)]
                with m.If(self.o.ready):
                    m.next = "REPLY_STATUS"

            with m.State("REPLY_STATUS"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(status)]
                m.d.sync += at.eq(0)
                with m.If(self.o.ready):
                    m.next = "END"
                    with m.If(status == Status.OK), m.Switch(opcode):
                        with m.Case(Opcode.READ):
                            m.next = "ROW"
                        with m.Case(Opcode.IDENTIFY, Opcode.STATUS, Opcode.DONE):
                            m.next = "REPORT"

            with m.State("REPORT"):
                n_report_bytes = Signal.like(at)
                settled = Signal()  # memory is a cycle behind
                m.d.sync += settled.eq(~(self.o.valid & self.o.ready))
                m.d.comb += self.o.valid.eq(settled)
                with m.If(opcode == Opcode.IDENTIFY):
                    m.d.comb += [
                        self.o.p.byte.eq(described.data),
                        n_report_bytes.eq(n_bytes(Identity)),
                    ]
                with m.Else():
                    m.d.comb += [
                        self.o.p.byte.eq(byte_of(report)),
                        n_report_bytes.eq(
                            Mux(opcode == Opcode.DONE, n_bytes(Result), n_bytes(DeviceStatus))
                        ),
                    ]
                m.d.sync += [
                    row.eq(0),
                    space.eq(Space.RESULT),
                    rows_left.eq(ended.n_result_rows),
                ]
                with m.If(self.o.valid & self.o.ready):
                    m.d.sync += at.eq(at + 1)
                    with m.If(at == n_report_bytes - 1):
                        m.next = "END"
                        with m.If(opcode == Opcode.DONE):
                            m.next = "ROW"

            with m.State("ROW"):
                m.d.comb += bus.read.valid.eq(rows_left != 0)
                m.d.sync += at.eq(0)
                with m.If(bus.read.valid & bus.read.ready):
                    m.d.sync += [row.eq(row + 1), rows_left.eq(rows_left - 1)]
                    m.next = "ROW_DATA"
                with m.Elif(~bus.read.valid):
                    m.next = "END"
                    with m.If(is_check):
                        m.next = "EXPECTED"
                    with m.Elif((opcode == Opcode.DONE) & (space == Space.RESULT)):
                        m.d.sync += [
                            row.eq(0),
                            space.eq(Space.COUNTER),
                            rows_left.eq(ended.n_counter_rows),
                        ]
                        m.next = "ROW"

            with m.State("ROW_DATA"):
                m.d.sync += row_data.eq(bus.read_data.payload)
                with m.If(bus.read_data.valid):
                    m.next = "ROW_BYTES"

            with m.State("ROW_BYTES"):
                m.d.comb += [
                    self.fold.eq(is_check),
                    self.o.p.byte.eq(row_data[:8]),
                    self.o.valid.eq(1),
                ]
                with m.If(self.o.ready):
                    m.d.sync += [row_data.eq(row_data[8:]), at.eq(at + 1)]
                    with m.If(at == last_row_byte):
                        m.next = "ROW"

            with m.State("EXPECTED"):
                m.d.comb += [
                    self.fold.eq(1),
                    self.o.p.byte.eq(byte),
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
                        m.d.sync += status.eq(Status.MISMATCH)

            with m.State("END"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.end.eq(1)]
                with m.If(self.o.ready):
                    m.d.comb += self.set_rate.eq((opcode == Opcode.RATE) & (status == Status.OK))
                    m.next = "IDLE"
        return m
