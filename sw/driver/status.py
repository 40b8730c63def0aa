"""What a board reports about itself and about its last run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hw.protocol import DeviceStatus, Result, RunState, n_bytes, unpack


@dataclass(frozen=True)
class RunResult:
    """Outcome of a run: index of the first largest logit, and clock cycles that the run took."""

    argmax: int
    n_cycles: int


@dataclass(frozen=True)
class BoardStatus:
    """Reply to a STATUS request, see :class:`hw.protocol.DeviceStatus`.

    ``tag`` and ``result`` are those of the finished run if ``state`` is DONE, else undefined.
    """

    state: RunState
    tag: int
    result: RunResult
    n_bad_frames: int
    n_overruns: int


def parse_status(raw: bytes) -> BoardStatus:
    """Decode the data of a reply to STATUS."""
    status: Any = unpack(DeviceStatus, raw)
    return BoardStatus(
        state=RunState(int(status.state)),
        tag=int(status.result.tag),
        result=parse_result(raw),
        n_bad_frames=int(status.n_bad_frames),
        n_overruns=int(status.n_overruns),
    )


def parse_result(raw: bytes) -> RunResult:
    """Decode the :class:`hw.protocol.Result` at the beginning of ``raw``."""
    result: Any = unpack(Result, raw[: n_bytes(Result)])
    return RunResult(int(result.argmax), int(result.n_cycles))
