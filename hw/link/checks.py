"""Checks of a request against the device's memories, and the registers that store the request."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data

from hw.bus import max_row_bytes
from hw.parts.pipeline import unreset
from hw.protocol import (
    ARGUMENT_BYTES,
    CRC_BYTES,
    STATUS_BYTES,
    WRITABLE,
    Opcode,
    Result,
    Rows,
    Run,
    Space,
    Status,
    identity_bytes,
    max_request_rows,
    n_bytes,
    n_rows,
    row_bytes,
    spaces,
)
from hw.spec import Config, SpecError


def check_row_sizes(config: Config) -> None:
    """Check that a row of every memory fits into a frame.

    The length of a row in bytes must also be a power of two, because the gateware multiplies by it
    with a shift. This is so in every configuration, and is only asserted.

    Raises
    ------
    SpecError
        A row with the arguments of its request (:class:`hw.protocol.Rows`) is longer than
        ``max_payload_bytes``.
    """
    for space in spaces(config):
        size = row_bytes(space, config)
        assert size & (size - 1) == 0, f"{space.name} has rows of {size} bytes"
        if size + n_bytes(Rows) > config.max_payload_bytes:
            raise SpecError(
                f"Config.max_payload_bytes = {config.max_payload_bytes} is not supported: a row of "
                f"{space.name} takes {size + n_bytes(Rows)} bytes with its address"
            )


def _n_row_bits(config: Config) -> int:
    """Return the width in bits of the index of a row, or of a number of rows, in any memory."""
    return max(n_rows(space, config) for space in spaces(config)).bit_length()


@dataclass(frozen=True, kw_only=True)
class Registers:
    """Registers of the dispatcher, which executes requests (:class:`hw.link.dispatch.Dispatcher`).

    They hold the request, the rows that it writes or reads, and up to three runs (inferences): the
    waiting one, the one in progress, and the one that ended last.
    """

    seq: Signal
    opcode: Signal
    args: Signal
    """Bytes of the request's arguments; each new byte is shifted in at the high end."""
    n_missing: Signal
    """Number of argument bytes that have not arrived yet."""
    request_ended: Signal
    """Whether the request's last byte has been taken."""
    status: Signal

    space: Signal
    """Memory (:class:`hw.protocol.Space`) being read or written; all bits are 1 if the request
    names none that exists."""
    row: Signal
    rows_left: Signal
    row_data: Signal
    """Row that is being received or sent, lowest byte first."""
    at: Signal
    """Index of the next byte to receive or send: in a row, or in the contents of a reply."""

    waiting: Signal
    """Parameters of the run (inference) that starts when the core becomes free."""
    current: Signal
    """Parameters of the run (inference) in progress."""
    ended: Signal
    """Parameters of the run that ended last. The core keeps the results of this run until the
    dispatcher takes the result of the next run."""
    result: Signal
    """Result of the run that ended last, with the layout :class:`hw.protocol.Result`."""
    is_waiting: Signal
    has_ended: Signal
    to_announce: Signal
    """Whether a DONE frame, which reports the end of a run, must still be sent."""
    was_reset: Signal
    """Whether the host has not yet sent an ABORT since the last reset."""

    @property
    def as_rows(self) -> data.View:
        """View of the argument bytes of a WRITE, READ or CHECK, with the layout
        :class:`hw.protocol.Rows`."""
        return data.View(Rows, self.args)

    @property
    def as_run(self) -> data.View:
        """View of the argument bytes of a RUN, with the layout :class:`hw.protocol.Run`."""
        return data.View(Run, self.args)


def run_layout(config: Config) -> data.StructLayout:
    """Return the layout of a run (an inference) in the dispatcher's registers.

    It has the fields of :class:`hw.protocol.Run`, each only as wide as this device needs.
    """
    return data.StructLayout(
        {
            "entry": range(n_rows(Space.WEIGHT, config)),
            "n_result_rows": range(n_rows(Space.RESULT, config) + 1),
            "n_counter_rows": range(n_rows(Space.COUNTER, config) + 1),
            "tag": 8,
        }
    )


def make_registers(config: Config) -> Registers:
    """Return new registers for a dispatcher, as wide as the configuration needs."""
    seq, opcode = unreset(8), unreset(8)
    args = unreset(8 * ARGUMENT_BYTES)
    n_missing = unreset(range(ARGUMENT_BYTES + 1))
    request_ended = unreset(1)
    status = unreset(Status)

    space = unreset(range(max(spaces(config)) + 2))
    row = unreset(_n_row_bits(config))
    rows_left = unreset(range(max_request_rows(config) + 1))
    row_data = unreset(8 * max_row_bytes(config))
    at = unreset(range(len(identity_bytes(config))))

    waiting, current, ended = (unreset(run_layout(config)) for _ in range(3))
    result = unreset(Result)
    is_waiting, has_ended, to_announce = Signal(), Signal(), Signal()
    was_reset = Signal(init=1)
    return Registers(
        seq=seq,
        opcode=opcode,
        args=args,
        n_missing=n_missing,
        request_ended=request_ended,
        status=status,
        space=space,
        row=row,
        rows_left=rows_left,
        row_data=row_data,
        at=at,
        waiting=waiting,
        current=current,
        ended=ended,
        result=result,
        is_waiting=is_waiting,
        has_ended=has_ended,
        to_announce=to_announce,
        was_reset=was_reset,
    )


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Results of the checks of a request against the device's memories.

    They are valid two cycles after the arguments of the request have been stored.
    """

    space_known: Signal
    writable: Signal
    last_row_byte: Signal
    """Number of bytes of a row of the addressed memory, less one."""
    in_range: Signal
    """Whether all addressed rows exist."""
    few_rows: Signal
    """Whether the number of rows fits into the register ``rows_left``."""
    fits: Signal
    """Whether the addressed rows fit into one reply."""
    is_whole: Signal
    """Whether the data after the arguments have the right length: that of the rows of a WRITE, 0
    for other requests. It is not set for packed rows, whose length depends on their values."""
    has_crc: Signal
    """Whether the data after the arguments have the length of a CRC."""
    is_bare: Signal
    """Whether the request has no payload."""
    n_row_data_bytes: Signal
    """Number of bytes of the rows that the request addresses."""
    has_args: Signal
    """Whether all argument bytes have arrived."""
    no_data: Value
    """Whether the payload ends with the arguments."""


def check_request(m: Module, config: Config, r: Registers, n_data_bytes: Value) -> Checks:
    """Check a request against the device's memories, and return the results as signals.

    Parameters
    ----------
    n_data_bytes : number of bytes of the request after its arguments, see
        :class:`hw.link.dispatch.Dispatcher`.
    """
    space_known, writable = Signal(), Signal()
    n_space_rows = Signal(_n_row_bits(config))
    last_row_byte = Signal(range(max_row_bytes(config)))
    n_row_data_bytes = Signal(range((max_request_rows(config) + 1) * max_row_bytes(config)))
    with m.Switch(r.space):
        for known in spaces(config):
            size = row_bytes(known, config)
            with m.Case(known):
                m.d.comb += [
                    space_known.eq(1),
                    writable.eq(known in WRITABLE),
                    n_space_rows.eq(n_rows(known, config)),
                    last_row_byte.eq(size - 1),
                    n_row_data_bytes.eq(r.rows_left << size.bit_length() - 1),
                ]

    # In registers, so that the decision itself is short.
    in_range, few_rows, fits = Signal(), Signal(), Signal()
    is_whole, has_crc, is_bare, has_args = (Signal() for _ in range(4))
    end_row = Signal(_n_row_bits(config) + 1)
    m.d.comb += end_row.eq(r.row + r.rows_left)
    m.d.sync += [
        in_range.eq(
            (end_row <= n_space_rows) & ~r.as_rows.address.row[_n_row_bits(config) :].any()
        ),
        few_rows.eq(~r.as_rows.n_rows[len(r.rows_left) :].any()),
        fits.eq(n_row_data_bytes <= config.max_payload_bytes - STATUS_BYTES),
        is_whole.eq(n_data_bytes == Mux(r.opcode == Opcode.WRITE, n_row_data_bytes, 0)),
        has_crc.eq(n_data_bytes == CRC_BYTES),
        has_args.eq(n_data_bytes >= 0),
        is_bare.eq(n_data_bytes == -ARGUMENT_BYTES),
    ]
    return Checks(
        space_known=space_known,
        writable=writable,
        last_row_byte=last_row_byte,
        in_range=in_range,
        few_rows=few_rows,
        fits=fits,
        is_whole=is_whole,
        has_crc=has_crc,
        is_bare=is_bare,
        n_row_data_bytes=n_row_data_bytes,
        has_args=has_args,
        no_data=n_data_bytes == 0,
    )
