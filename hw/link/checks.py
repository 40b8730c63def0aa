"""Checks of a request against the device's memories, and the registers that hold the request."""

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
    with a shift. Every configuration has such lengths; this is only asserted.

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
    """Return the width in bits of the index of a row, or of a number of rows, of any memory."""
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
    """Argument bytes, shifted in from the top."""
    n_missing: Signal
    """Argument bytes still to come."""
    request_ended: Signal
    """The request's last byte has been taken."""
    status: Signal

    space: Signal
    """Space being read or written; all ones if the request names none that exists."""
    row: Signal
    rows_left: Signal
    row_data: Signal
    """Row being received or sent, lowest byte first."""
    at: Signal
    """Index of the current byte in a row or in a report."""

    waiting: Signal
    """Run to start when the core is free."""
    current: Signal
    """Run in progress."""
    ended: Signal
    """Run that ended last; the core keeps its results until those of the next run are taken."""
    result: Signal
    """:class:`hw.protocol.Result` of the run that ended last."""
    is_waiting: Signal
    has_ended: Signal
    to_announce: Signal
    """A DONE frame is to be sent."""
    was_reset: Signal
    """No ABORT has arrived since the last reset."""

    @property
    def as_rows(self) -> data.View:
        """Argument bytes of a WRITE, READ or CHECK, as a view with the fields of
        :class:`hw.protocol.Rows`."""
        return data.View(Rows, self.args)

    @property
    def as_run(self) -> data.View:
        """Argument bytes of a RUN, as a view with the fields of :class:`hw.protocol.Run`."""
        return data.View(Run, self.args)


def run_layout(config: Config) -> data.StructLayout:
    """Return the layout of a run in the dispatcher's registers.

    It has the fields of :class:`hw.protocol.Run`, no wider than this device needs.
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
    """Bytes of a row of the addressed space, less one."""
    in_range: Signal
    """All rows exist."""
    few_rows: Signal
    """The number of rows fits ``rows_left``."""
    fits: Signal
    """The rows fit into one reply."""
    is_whole: Signal
    """The request carries exactly its data: the rows of a WRITE, nothing for any other. It does not
    hold for packed rows, whose length depends on them."""
    has_crc: Signal
    """The request's data has the length of a CRC."""
    is_bare: Signal
    """The request has no payload."""
    n_row_data_bytes: Signal
    """Bytes of the rows that the request names."""
    has_args: Signal
    """The arguments are complete."""
    no_data: Value
    """Nothing follows the arguments."""


def check_request(m: Module, config: Config, r: Registers, n_data_bytes: Value) -> Checks:
    """Check a request against the device's memories, and return the results.

    Parameters
    ----------
    n_data_bytes : bytes of the request behind its arguments, see
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
