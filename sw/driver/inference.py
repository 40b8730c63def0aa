"""What a board gives for a sample, and what one board and several have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hw.protocol import (
    spec_hash,
)
from hw.spec import Config
from sw.compile.compiler import compile_network
from sw.compile.program import Counters, Program
from sw.network.network import Network

Sample = NDArray[np.uint8] | None
"""None: there is none yet."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Inference:
    """One sample's outcome.

    Attributes
    ----------
    logits : int64 (n_classes,)
    counters : by layer, in order.
    maps : spikes uint8 (T, C, H, W) of every map; empty if not read back.
    link_s : seconds from the first byte of its input on the way to the last one acknowledged, and
        those for reading maps.
    compute_s : seconds from the start of its run to the announcement of its end.
    latency_s : seconds from taking the sample to its outcome; includes waiting for others.
    """

    prediction: int
    n_cycles: int
    logits: NDArray[np.int64]
    counters: dict[str, Counters]
    maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    link_s: float = 0.0
    compute_s: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What loading took. ``n_written`` of the program's ``n_bytes`` were not there already."""

    n_bytes: int
    n_written: int
    seconds: float


def program_for(
    network: Network, program: Program | None, config: Config
) -> tuple[Program, str | None]:
    """A program that runs on a device built with ``config``, and what had to be done for it.

    Raises
    ------
    sw.compile.program.FitError
        The network does not fit the device.
    """
    if program is not None and spec_hash(program.config) == spec_hash(config):
        return program, None
    why = "there was no program" if program is None else f"it was made for {program.config.name!r}"
    return compile_network(network, config), f"compiled again for {config.name!r}: {why}"


def load_bytes(program: Program) -> int:
    """Bytes that :meth:`Board.load` reports as progress: memories, and spikes to be cleared."""
    return sum(map(len, program.images.values())) + program.spike_bytes


class Inferring(ABC):
    """What a board and several as one have in common."""

    @property
    @abstractmethod
    def program(self) -> Program: ...

    @abstractmethod
    def stream(
        self, samples: Iterable[Sample], *, maps: bool = False
    ) -> Generator[Inference, None, None]: ...

    def infer(self, samples: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Logits (N, n_classes) of N samples, see :meth:`stream`."""
        logits = [inference.logits for inference in self.stream(samples)]
        return np.stack(logits) if logits else np.zeros((0, self.program.n_classes), np.int64)

    def observe(self, sample: NDArray[np.uint8], *, maps: bool = False) -> Inference:
        """One sample, see :meth:`stream`."""
        return next(self.stream([sample], maps=maps))
