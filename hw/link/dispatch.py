"""Executes requests against the core and answers them, see :mod:`hw.protocol`."""

from amaranth import Array, Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus import CoreBus, max_row_bytes
from hw.link.packet import PacketByte
from hw.protocol import (
    REPLY,
    STATUS_BYTES,
    WRITABLE,
    Address,
    DeviceStatus,
    Identity,
    Opcode,
    Result,
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

READ_ARGS_BYTES = n_bytes(Address) + 2
"""Address and number of rows: the longest arguments of any request."""

ALWAYS_ACCESSIBLE = frozenset({Space.SPIKE, Space.RESULT, Space.COUNTER})
"""Spaces that a READ may touch during a run; a WRITE only the first."""


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
        if size + n_bytes(Address) > config.max_payload_bytes:
            raise SpecError(
                f"Config.max_payload_bytes = {config.max_payload_bytes} is not supported: a row of "
                f"{space.name} takes {size + n_bytes(Address)} bytes with its address"
            )


class Dispatcher(wiring.Component):
    """One request at a time, in order; a finished run is announced between two requests.

    A request is checked as a whole before it has any effect.

    Members
    -------
    i : undamaged requests: seq, opcode, payload.
    n_payload_bytes : of the request on ``i``.
    o : replies and announcements, without CRC.
    bus : the core.
    n_bad_frames, n_overruns : reported by STATUS.
    busy : a request is being executed or something is to be announced.
    """

    def __init__(self, config: Config):
        check_row_sizes(config)
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(PacketByte)),
                "n_payload_bytes": In(range(config.max_payload_bytes + 1)),
                "o": Out(stream.Signature(PacketByte)),
                "bus": In(CoreBus(config)),
                "n_bad_frames": In(16),
                "n_overruns": In(16),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        bus = self.bus
        byte = self.i.p.byte
        max_data_bytes = config.max_payload_bytes - STATUS_BYTES

        seq = Signal(8)
        opcode = Signal(8)
        # Arguments are shifted in from the top: the last one ends at the highest bit.
        args = Signal(8 * READ_ARGS_BYTES)
        n_args = Signal(range(n_bytes(Address) + 1))
        request_ended = Signal()

        address = Signal(Address)
        rows = Signal(16)  # of this request
        row = Signal(8 * max_row_bytes(config))  # lowest byte first, in both directions
        row_bytes_left = Signal(range(max_row_bytes(config)))  # after the current one

        status = Signal(Status)
        reply_seq = Signal(8)
        reply_opcode = Signal(7)
        reply_bytes_left = Signal(range(config.max_payload_bytes + 1))  # after the status byte
        identity_at = Signal(range(n_bytes(Identity)))

        state = Signal(RunState)
        run_seq = Signal(8)
        run_tag = Signal(8)
        result = Signal(Result)
        done_pending = Signal()

        run = Signal(Run)
        m.d.comb += run.eq(args[-8 * n_bytes(Run) :])

        # A run that ends. ABORT, below, overrules it.
        m.d.comb += bus.done.ready.eq(1)
        with m.If(bus.done.valid & (state == RunState.RUNNING)):
            m.d.sync += [
                result.eq(bus.done.payload),
                state.eq(RunState.DONE),
                done_pending.eq(1),
            ]

        # Facts about the space that is addressed.
        space_known = Signal()
        writable = Signal()
        accessible_in_run = Signal()  # by a READ
        n_space_rows = Signal(range(max(n_rows(space, config) for space in Space) + 1))
        last_row_byte = Signal.like(row_bytes_left)
        write_rows = Signal(range(config.max_payload_bytes + 1))
        write_is_whole = Signal()
        read_bytes = Signal.like(reply_bytes_left)
        read_fits = Signal()
        n_data_bytes = Signal.like(self.n_payload_bytes)
        m.d.comb += n_data_bytes.eq(self.n_payload_bytes - n_bytes(Address))
        with m.Switch(address.space):
            for space in Space:
                size = row_bytes(space, config)
                shift = size.bit_length() - 1
                with m.Case(space):
                    m.d.comb += [
                        space_known.eq(1),
                        writable.eq(space in WRITABLE),
                        accessible_in_run.eq(space in ALWAYS_ACCESSIBLE),
                        n_space_rows.eq(n_rows(space, config)),
                        last_row_byte.eq(size - 1),
                        write_rows.eq(n_data_bytes >> shift),
                        write_is_whole.eq(n_data_bytes[:shift] == 0),
                        read_bytes.eq(rows << shift),
                        read_fits.eq(rows <= (max_data_bytes >> shift)),
                    ]

        running = Signal()
        in_range = Signal()
        m.d.comb += [
            running.eq((state == RunState.RUNNING) | bus.busy),
            in_range.eq(address.row + rows <= n_space_rows),
        ]

        def reply(code: Status | Signal = Status.OK, n_reply_bytes: object = 0) -> None:
            m.d.sync += [
                status.eq(code),
                reply_seq.eq(seq),
                reply_opcode.eq(opcode),
                reply_bytes_left.eq(n_reply_bytes),
            ]
            m.next = "REPLY_SEQ"

        def refuse(code: Status) -> None:
            reply(code)
            with m.If(~request_ended):
                m.next = "DRAIN"

        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [n_args.eq(0), identity_at.eq(0)]
                with m.If(done_pending):
                    m.d.sync += [
                        done_pending.eq(0),
                        status.eq(Status.OK),
                        reply_seq.eq(run_seq),
                        reply_opcode.eq(Opcode.DONE),
                        reply_bytes_left.eq(n_bytes(Result)),
                        row.eq(result),
                    ]
                    m.next = "REPLY_SEQ"
                with m.Else():
                    m.d.comb += [self.i.ready.eq(1), self.busy.eq(self.i.valid)]
                    m.d.sync += seq.eq(byte)
                    with m.If(self.i.valid):
                        m.next = "OPCODE"

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
                        n_args.eq(n_args + (n_args != n_bytes(Address))),
                        request_ended.eq(self.i.p.last),
                    ]
                    with m.If(
                        self.i.p.last
                        | ((opcode == Opcode.WRITE) & (n_args == n_bytes(Address) - 1))
                    ):
                        m.next = "ADDRESS"

            with m.State("ADDRESS"):
                with m.If(opcode == Opcode.WRITE):
                    m.d.sync += address.eq(args[-8 * n_bytes(Address) :])
                with m.Else():
                    m.d.sync += address.eq(args)
                m.next = "ROWS"

            with m.State("ROWS"):
                with m.If(opcode == Opcode.WRITE):
                    m.d.sync += rows.eq(write_rows)
                with m.Else():
                    m.d.sync += rows.eq(args[8 * n_bytes(Address) :])
                m.next = "CHECK"

            with m.State("CHECK"):
                m.d.sync += row_bytes_left.eq(last_row_byte)
                with m.Switch(opcode):
                    with m.Case(Opcode.IDENTIFY):
                        with m.If(self.n_payload_bytes != 0):
                            refuse(Status.BAD_LENGTH)
                        with m.Else():
                            reply(n_reply_bytes=n_bytes(Identity))

                    with m.Case(Opcode.WRITE):
                        with m.If(self.n_payload_bytes < n_bytes(Address)):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(~writable):
                            refuse(Status.BAD_SPACE)
                        with m.Elif(~write_is_whole):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(~in_range):
                            refuse(Status.BAD_ADDRESS)
                        with m.Elif(running & (address.space != Space.SPIKE)):
                            refuse(Status.BUSY)
                        with m.Else():
                            reply()
                            with m.If(~request_ended):
                                m.next = "WRITE_BYTES"

                    with m.Case(Opcode.READ):
                        with m.If(self.n_payload_bytes != READ_ARGS_BYTES):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(~space_known):
                            refuse(Status.BAD_SPACE)
                        with m.Elif(~read_fits):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(~in_range):
                            refuse(Status.BAD_ADDRESS)
                        with m.Elif(running & ~accessible_in_run):
                            refuse(Status.BUSY)
                        with m.Else():
                            reply(n_reply_bytes=read_bytes)

                    with m.Case(Opcode.RUN):
                        with m.If(self.n_payload_bytes != n_bytes(Run)):
                            refuse(Status.BAD_LENGTH)
                        with m.Elif(run.entry >= config.weight_depth):
                            refuse(Status.BAD_ADDRESS)
                        with m.Elif((state != RunState.IDLE) & (run.tag == run_tag)):
                            reply()
                            m.d.sync += run_seq.eq(seq)
                            with m.If(state == RunState.DONE):
                                m.d.sync += done_pending.eq(1)
                        with m.Elif(state == RunState.RUNNING):
                            refuse(Status.BUSY)
                        with m.Else():
                            reply()
                            m.next = "START"

                    with m.Case(Opcode.STATUS):
                        with m.If(self.n_payload_bytes != 0):
                            refuse(Status.BAD_LENGTH)
                        with m.Else():
                            reply(n_reply_bytes=n_bytes(DeviceStatus))
                            report = Signal(DeviceStatus)
                            m.d.comb += [
                                report.state.eq(state),
                                report.result.eq(result),
                                report.n_bad_frames.eq(self.n_bad_frames),
                                report.n_overruns.eq(self.n_overruns),
                            ]
                            m.d.sync += row.eq(report)

                    with m.Case(Opcode.ABORT):
                        with m.If(self.n_payload_bytes != 0):
                            refuse(Status.BAD_LENGTH)
                        with m.Else():
                            reply()
                            m.next = "ABORT"

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
                    m.d.sync += row.eq(row[8:])
                    for size in {row_bytes(space, config) for space in WRITABLE}:
                        with m.If(last_row_byte == size - 1):
                            m.d.sync += row.word_select(size - 1, 8).eq(byte)
                    m.d.sync += [
                        row_bytes_left.eq(row_bytes_left - 1),
                        request_ended.eq(self.i.p.last),
                    ]
                    with m.If(row_bytes_left == 0):
                        m.next = "WRITE_ROW"

            with m.State("WRITE_ROW"):
                m.d.comb += bus.write.valid.eq(1)
                m.d.sync += row_bytes_left.eq(last_row_byte)
                with m.If(bus.write.ready):
                    m.d.sync += address.row.eq(address.row + 1)
                    m.next = "WRITE_BYTES"
                    with m.If(request_ended):
                        m.next = "REPLY_SEQ"

            with m.State("START"):
                m.d.comb += bus.run.valid.eq(1)
                with m.If(bus.run.ready):
                    m.d.sync += [
                        state.eq(RunState.RUNNING),
                        run_tag.eq(run.tag),
                        run_seq.eq(seq),
                        done_pending.eq(0),
                    ]
                    m.next = "REPLY_SEQ"

            with m.State("ABORT"):
                m.d.comb += bus.abort.eq(1)
                m.d.sync += [state.eq(RunState.IDLE), done_pending.eq(0)]
                with m.If(~bus.busy):
                    m.next = "REPLY_SEQ"

            with m.State("REPLY_SEQ"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(reply_seq)]
                with m.If(self.o.ready):
                    m.next = "REPLY_OPCODE"

            with m.State("REPLY_OPCODE"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(reply_opcode | REPLY)]
                with m.If(self.o.ready):
                    m.next = "REPLY_STATUS"

            with m.State("REPLY_STATUS"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.p.byte.eq(status),
                    self.o.p.last.eq(reply_bytes_left == 0),
                ]
                with m.If(self.o.ready):
                    m.next = "REPLY_BYTES"
                    with m.If(reply_bytes_left == 0):
                        m.next = "IDLE"
                    with m.Elif(reply_opcode == Opcode.READ):
                        m.next = "READ_ROW"

            with m.State("READ_ROW"):
                m.d.comb += bus.read.valid.eq(1)
                m.d.sync += row_bytes_left.eq(last_row_byte)
                with m.If(bus.read.ready):
                    m.d.sync += address.row.eq(address.row + 1)
                    m.next = "READ_DATA"

            with m.State("READ_DATA"):
                m.d.comb += bus.read_data.ready.eq(1)
                m.d.sync += row.eq(bus.read_data.payload)
                with m.If(bus.read_data.valid):
                    m.next = "REPLY_BYTES"

            with m.State("REPLY_BYTES"):
                described = pack(Identity, identity(config))
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.p.byte.eq(row[:8]),
                    self.o.p.last.eq(reply_bytes_left == 1),
                ]
                with m.If(reply_opcode == Opcode.IDENTIFY):
                    m.d.comb += self.o.p.byte.eq(
                        Array(Const(value, 8) for value in described)[identity_at]
                    )
                with m.If(self.o.ready):
                    m.d.sync += [
                        row.eq(row[8:]),
                        row_bytes_left.eq(row_bytes_left - 1),
                        reply_bytes_left.eq(reply_bytes_left - 1),
                        identity_at.eq(identity_at + 1),
                    ]
                    with m.If(self.o.p.last):
                        m.next = "IDLE"
                    with m.Elif((reply_opcode == Opcode.READ) & (row_bytes_left == 0)):
                        m.next = "READ_ROW"

        m.d.comb += [
            bus.write.p.address.eq(address),
            bus.write.p.data.eq(row),
            bus.read.payload.eq(address),
            bus.run.payload.eq(run),
        ]
        return m
