"""Types of a board's input and output: a sample to classify, and the result for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sw.compile.program import Counters
from sw.driver.pace import Work

StreamItem = NDArray[np.uint8] | None
"""A sample to classify, or None while none is available yet."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Inference:
    """Result of classifying one sample on a board.

    Attributes
    ----------
    prediction : predicted class, the index of the largest logit (the first one if several are
        equal).
    n_cycles : clock cycles that the computation took on the board.
    logits : int64 array (n_classes,).
    counters : numbers of clock cycles, weight reads, synaptic operations and spikes of each layer
        (:class:`hw.protocol.LayerCounters`), by the layer's name and in the order in which the
        layers ran. Empty if they were not asked for.
    maps : spikes of each layer and of the input, by name, as uint8 arrays (T, C, H, W) of 0 and 1.
        If the board takes pixels, the image is among them: in place of timesteps, it has the eight
        bits of the pixels as bit-planes. Empty if the spikes were not read back.
    work : bytes on the serial line and clock cycles that the sample takes if the link is
        undisturbed and no spikes are read back; None if they are not known.
    link_s : seconds from queueing the input for the serial line until the board has acknowledged
        all of the input, plus the time for reading spikes back.
    compute_s : seconds from the start of the computation, as estimated by the host, until the board
        announced its end.
    latency_s : seconds from taking the sample until its result was complete, including the time
        that it waited for earlier samples.
    """

    prediction: int
    n_cycles: int
    logits: NDArray[np.int64]
    counters: dict[str, Counters]
    maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    work: Work | None = None
    link_s: float = 0.0
    compute_s: float = 0.0
    latency_s: float = 0.0
