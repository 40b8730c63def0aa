"""Decode a board's reports of its state and of the result of its last run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hw.protocol import DeviceStatus, Result, RunState, n_bytes, unpack
from sw.driver.errors import InvalidMessage


@dataclass(frozen=True)
class RunResult:
    """Result of one run of the network: index of the largest logit (the first one if several are
    equal), and number of clock cycles taken."""

    argmax: int
    n_cycles: int


@dataclass(frozen=True)
class BoardStatus:
    """State of a board and its error counters, decoded from the reply to a STATUS request; see
    :class:`hw.protocol.DeviceStatus`.

    ``tag`` (a number that identifies a run, see :class:`hw.protocol.Run`) and ``result`` are those
    of the run that ended last. They are undefined if none has ended since the last ABORT.
    ``n_bad_frames`` counts damaged frames that the board received, and ``n_overruns`` the bytes
    that it lost.
    """

    state: RunState
    tag: int
    result: RunResult
    n_bad_frames: int
    n_overruns: int


def parse_status(raw: bytes) -> BoardStatus:
    """Return the state in a board's reply to a STATUS request. ``raw`` is the reply's data without
    its status byte.

    Raises
    ------
    InvalidMessage
        The board reports a state that does not exist.
    """
    status: Any = unpack(DeviceStatus, raw)
    state = int(status.state)
    if state not in set(RunState):
        raise InvalidMessage(f"the board reports the unknown state {state}")
    return BoardStatus(
        state=RunState(state),
        tag=int(status.result.tag),
        result=parse_result(raw),
        n_bad_frames=int(status.n_bad_frames),
        n_overruns=int(status.n_overruns),
    )


def parse_done(raw: bytes, n_expected: int) -> RunResult:
    """Return the result of a run, from the data of the announcement that it has ended.

    ``n_expected`` is the number of bytes that the announcement must have.

    Raises
    ------
    InvalidMessage
        The announcement has another number of bytes.
    """
    if len(raw) != n_expected:
        raise InvalidMessage(
            f"the board announced the end of a run with {len(raw)} bytes, not {n_expected}"
        )
    return parse_result(raw)


def parse_result(raw: bytes) -> RunResult:
    """Return the result of a run, which is a :class:`hw.protocol.Result` at the beginning of
    ``raw``."""
    result: Any = unpack(Result, raw[: n_bytes(Result)])
    return RunResult(int(result.argmax), int(result.n_cycles))
