"""Results of a run on a device: predictions, cycles, latencies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sw.compile import costs
from sw.data import metrics

INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class LayerTotal:
    """Means per image over a run."""

    n_cycles: float
    n_weight_reads: float
    n_synaptic_ops: float
    n_spikes: float


@dataclass(kw_only=True)
class Results:
    """Everything a run found out; JSON values. Rates are of the images done."""

    network: str
    sha256: str
    board: str
    clk_hz: int
    n_requested: int
    predictions: list[int] = field(default_factory=list)
    labels: list[int] | None = None
    n_cycles: list[int] = field(default_factory=list)
    logits: list[list[int]] = field(default_factory=list)
    layers: dict[str, LayerTotal] = field(default_factory=dict)
    link_s: list[float] = field(default_factory=list)
    """Per image, as ``compute_s`` and ``latency_s``, see :class:`sw.driver.inference.Inference`."""
    compute_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    load_s: float = 0.0
    baud: int = 0
    n_bytes_out: int = 0
    """Sent while running, all images together."""
    n_bytes_in: int = 0
    n_repeated: int = 0
    """Requests sent again."""
    n_recoveries: int = 0
    """Times that the link had to be begun anew."""
    check: str | None = None
    n_checked: int = 0
    mismatches: list[str] = field(default_factory=list)
    stopped: str | None = None
    """Why the run ended before the last image."""

    @property
    def n_done(self) -> int:
        return len(self.predictions)

    @property
    def n_correct(self) -> int | None:
        if self.labels is None:
            return None
        return sum(p == y for p, y in zip(self.predictions, self.labels, strict=False))

    @property
    def n_synaptic_ops(self) -> float:
        """Mean per image."""
        return sum(layer.n_synaptic_ops for layer in self.layers.values())

    @property
    def line_s(self) -> float:
        """Seconds that an image's bytes take on the line, at its rate; both directions at once."""
        n_bytes = max(self.n_bytes_out, self.n_bytes_in)
        return 10 * n_bytes / self.baud / max(self.n_done, 1) if self.baud else 0.0

    @property
    def core_s(self) -> float:
        """Seconds that an image takes in the core, at its clock."""
        return float(np.mean(self.n_cycles)) / self.clk_hz if self.n_cycles else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the derived figures."""
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
            "energy_pj": costs.PJ_PER_ACCUMULATION * self.n_synaptic_ops,
            "line_ms": 1e3 * self.line_s,
            "core_ms": 1e3 * self.core_s,
            "images_per_s": self.n_done / self.wall_s if self.wall_s else None,
            "mean_cycles": float(np.mean(self.n_cycles)) if self.n_cycles else None,
        }
        return asdict(self) | derived


def percentiles_ms(seconds: list[float]) -> dict[str, float] | None:
    """Median and 99th percentile, in milliseconds."""
    if not seconds:
        return None
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99)}
