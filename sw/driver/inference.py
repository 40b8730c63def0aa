"""What a board takes, and what it returns for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sw.compile.program import Counters

StreamItem = NDArray[np.uint8] | None
"""A sample to classify, or None while none is available yet."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Inference:
    """Outcome of one sample.

    Attributes
    ----------
    prediction : index of the first largest logit.
    n_cycles : clock cycles of the run.
    logits : int64 (n_classes,)
    counters : counters of each layer by its name, in the order in which the layers ran.
    maps : spikes uint8 (T, C, H, W) of every map by its name; empty if not read back.
    link_s : seconds from sending the first byte of the input to the acknowledgement of the last,
        plus the time for reading maps back.
    compute_s : seconds from the start of the run to the announcement of its end.
    latency_s : seconds from taking the sample to its outcome, including the wait for others.
    """

    prediction: int
    n_cycles: int
    logits: NDArray[np.int64]
    counters: dict[str, Counters]
    maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    link_s: float = 0.0
    compute_s: float = 0.0
    latency_s: float = 0.0
