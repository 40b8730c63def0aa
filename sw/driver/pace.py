"""Prediction of the images per second of a whole board with its serial line, from exact counts.

The line carries each sample's input to the board and its result back, while the core computes other
samples. :func:`images_per_s` computes, sample by sample, when both directions of the line and the
core become free. Neither the speed of the host nor the speed of a simulation affects the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BITS_PER_BYTE = 10
"""Number of bits of a byte on the serial line, with start and stop bit."""

MIN_SAMPLES = 100
"""Smallest number of samples over which the speed is averaged. Shorter series of samples are
repeated."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work for one sample: bytes on the serial line, and clock cycles of the core.

    Attributes
    ----------
    n_bytes_out : bytes to the board: the requests that write the sample's input, and the request
        that starts the run.
    n_bytes_acks : bytes from the board that acknowledge these requests.
    n_bytes_done : bytes from the board that announce the end of the run, with its result.
    n_cycles : clock cycles of the run.
    """

    n_bytes_out: int
    n_bytes_acks: int
    n_bytes_done: int
    n_cycles: int


def images_per_s(samples: Sequence[Work], *, baud: int, clk_hz: int, n_buffers: int) -> float:
    """Return the number of samples per second that a board computes, once its pipeline is full.

    The host writes an input as soon as a buffer is free: when the board has announced the end of
    the run that used the buffer. A run starts when the board has taken its input and the run before
    it has ended. The board takes nothing while it sends an announcement. Otherwise both directions
    of the line and the core work at the same time.

    Parameters
    ----------
    samples : work for each sample, at least one; repeated to at least :data:`MIN_SAMPLES`.
    baud : bits per second of the serial line in each direction.
    clk_hz : clock frequency of the board in hertz.
    n_buffers : number of buffers for inputs in the board's spike memory.
    """
    byte_s = BITS_PER_BYTE / baud
    rounds = -(-MIN_SAMPLES // len(samples)) + 1
    written_s = ended_s = 0.0
    announced_s = [0.0] * n_buffers
    """Times at which the latest runs were announced, the oldest first."""
    announcing_s = [0.0] * n_buffers
    """Times at which the board began to send these announcements."""
    first_round_s = 0.0
    for number in range(rounds):
        for work in samples:
            written_s = max(written_s, announced_s[0]) + work.n_bytes_out * byte_s
            taken_s = written_s
            for begin_s, end_s in zip(announcing_s, announced_s, strict=True):
                if begin_s <= taken_s < end_s:
                    taken_s = end_s
            ended_s = max(taken_s, ended_s) + work.n_cycles / clk_hz
            line_free_s = announced_s[-1] + work.n_bytes_acks * byte_s
            begin_s = max(ended_s, line_free_s)
            done_s = begin_s + work.n_bytes_done * byte_s
            announcing_s = [*announcing_s[1:], begin_s]
            announced_s = [*announced_s[1:], done_s]
        if number == 0:
            first_round_s = announced_s[-1]
    return (rounds - 1) * len(samples) / (announced_s[-1] - first_round_s)
