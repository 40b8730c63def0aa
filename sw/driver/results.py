"""Results of classifying a set of images on a board: predictions, cycles, latencies, and
differences from the reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sw.compile import costs
from sw.data import metrics
from sw.driver.pace import BITS_PER_BYTE, Work, images_per_s

INTERRUPTED = "interrupted"
"""Value of :attr:`Results.stopped` if Ctrl-C ended the session."""


@dataclass(frozen=True, kw_only=True)
class LayerMeans:
    """Means per image of the board's counters for one layer
    (:class:`hw.protocol.LayerCounters`).
    """

    n_cycles: float
    n_weight_reads: float
    n_synaptic_ops: float
    n_spikes: float


@dataclass(kw_only=True)
class Results:
    """Results of one session, in which a board classifies a set or a stream of images. All values
    can be written as JSON.

    Attributes
    ----------
    network : path of the network file.
    sha256 : hash of the network file's contents.
    board : text that names the board's configuration and its port.
    clk_hz : frequency of the board's clock in hertz.
    n_requested : number of images to classify.
    predictions, n_cycles, logits : predicted class, clock cycles and logits of each image
        classified.
    work : bytes on the serial line and clock cycles that each image takes if the link is
        undisturbed and no spikes are read back.
    labels : true class of each image; None if unknown.
    layers : mean counters of each layer by its name; empty if the session did without them.
    bus_use : for each layer that reads its weights from memory outside the FPGA, the share of the
        layer's cycles in which the bus of this memory transfers weights; by the layer's name.
    link_s, compute_s, latency_s : times for each image in seconds, see
        :class:`sw.driver.inference.Inference`.
    wall_s : duration of the session in seconds, without loading the network.
    load_s : duration of loading the network in seconds.
    baud : rate of the serial line in bits per second.
    n_boards : number of boards that share the images.
    n_buffers : number of buffers for inputs in a board: the next input can arrive while the board
        computes the current one.
    n_bytes_out, n_bytes_in : bytes sent and received by the host during the session.
    n_repeated : number of requests sent again during the session.
    n_recoveries : number of times that the link was restarted during the session.
    check : extent of the comparison with the integer reference (:mod:`sw.network.reference`): one
        of :data:`sw.driver.session.CHECKS`, or None without a comparison.
    n_checked : number of images compared.
    mismatches : descriptions of differences from the reference.
    stopped : why the session ended before the last image; None if it did not.
    """

    network: str
    sha256: str
    board: str
    clk_hz: int
    n_requested: int
    predictions: list[int] = field(default_factory=list)
    labels: list[int] | None = None
    n_cycles: list[int] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    logits: list[list[int]] = field(default_factory=list)
    layers: dict[str, LayerMeans] = field(default_factory=dict)
    bus_use: dict[str, float] = field(default_factory=dict)
    link_s: list[float] = field(default_factory=list)
    compute_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    load_s: float = 0.0
    baud: int = 0
    n_boards: int = 1
    n_buffers: int = 2
    n_bytes_out: int = 0
    n_bytes_in: int = 0
    n_repeated: int = 0
    n_recoveries: int = 0
    check: str | None = None
    n_checked: int = 0
    mismatches: list[str] = field(default_factory=list)
    stopped: str | None = None

    @property
    def n_done(self) -> int:
        """Number of images classified so far."""
        return len(self.predictions)

    @property
    def n_correct(self) -> int | None:
        """Number of correct predictions; None if the labels are unknown."""
        if self.labels is None:
            return None
        return sum(p == y for p, y in zip(self.predictions, self.labels, strict=False))

    @property
    def n_synaptic_ops(self) -> float:
        """Mean number of synaptic operations per image, over all layers. Each is an addition of one
        weight to one neuron."""
        return sum(layer.n_synaptic_ops for layer in self.layers.values())

    @property
    def line_s(self) -> float:
        """Mean time in seconds per image for which the serial line is busy, at 10 bits per byte,
        without repetitions and spikes read back. The line carries both directions at the same time,
        so only the one with more bytes counts."""
        n_bytes = max(
            sum(work.n_bytes_out for work in self.work),
            sum(work.n_bytes_acks + work.n_bytes_done for work in self.work),
        )
        return BITS_PER_BYTE * n_bytes / self.baud / max(self.n_done, 1) if self.baud else 0.0

    @property
    def core_s(self) -> float:
        """Mean time in seconds that the board computes per image: clock cycles divided by clock
        frequency."""
        return float(np.mean(self.n_cycles)) / self.clk_hz if self.n_cycles else 0.0

    @property
    def system_images_per_s(self) -> float | None:
        """Images per second that the boards classify together, as predicted from cycles, bytes and
        the rate of the line (:func:`sw.driver.pace.images_per_s`); None if one of these is not
        known."""
        if not (self.work and self.baud and self.clk_hz):
            return None
        one = images_per_s(self.work, baud=self.baud, clk_hz=self.clk_hz, n_buffers=self.n_buffers)
        return self.n_boards * one

    def to_dict(self) -> dict[str, Any]:
        """Return all results, together with figures derived from them such as the accuracy, as a
        dictionary that can be written as JSON."""
        done = max(self.n_done, 1)
        derived: dict[str, Any] = {
            "n_done": self.n_done,
            "n_correct": self.n_correct,
            "accuracy": None if self.n_correct is None else self.n_correct / done,
            "accuracy_interval": None
            if self.n_correct is None
            else metrics.wilson(self.n_correct, self.n_done),
            "latency_ms": {
                name: percentiles_ms(getattr(self, name))
                for name in ("link_s", "compute_s", "latency_s")
            },
            "energy_pj": costs.PJ_PER_ACCUMULATION * self.n_synaptic_ops if self.layers else None,
            "line_ms": 1e3 * self.line_s,
            "core_ms": 1e3 * self.core_s,
            "system_images_per_s": self.system_images_per_s,
            "images_per_s": self.n_done / self.wall_s if self.wall_s else None,
            "mean_cycles": float(np.mean(self.n_cycles)) if self.n_cycles else None,
        }
        return asdict(self) | derived


def percentiles_ms(seconds: list[float]) -> dict[str, float] | None:
    """Return the median (``p50``) and the 99th percentile (``p99``) of times given in seconds,
    converted to milliseconds; None if no times are given."""
    if not seconds:
        return None
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99)}
