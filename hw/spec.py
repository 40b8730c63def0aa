"""Numbers of the machine: the one frozen configuration and the integer semantics of a neuron.

Everything that the model, the exporter, the gateware and the driver must agree on is defined
either here (numbers) or in :mod:`hw.protocol` (bytes), and nowhere else.

Integer semantics, for one neuron at one timestep (all values are exact integers)::

    drive     = sum(weight of every active synapse) + bias
    membrane' = leaked(membrane) + drive                # membrane = 0 before the first timestep
    spike     = membrane' >= threshold
    membrane  = 0                    if spike and hard reset
                membrane'-threshold  if spike and soft reset
                membrane'            otherwise

``leaked`` is :class:`Leak`; ``>>`` is the arithmetic shift, which rounds towards minus infinity.
A gated layer then joins ``spike`` with the identity bit, see :class:`Gate`, and a pooled layer ORs
the results of its children. An output layer has no neuron: its logits are ``drive`` summed over all
timesteps (the bias is added once), its class is the first largest logit.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

N_LEVELS = 8
"""Depth of the affine loop nest that addresses every memory."""

GRANULE_BITS = 8
"""Spike maps are written in granules of this many bits; spike memory is addressed in granules."""

PIECE_BITS = 16
"""A chunk is gathered from pieces of this many bits, which may lie in different rows of a map."""

PARAM_BITS = 16
"""Width of a bias and of a threshold."""

N_PLANES = 8
"""Bit-planes of a pixel, the highest first."""

MEMBRANE_LATENCY = 4
"""Cycles from reading a membrane to its new value being readable: two jobs of the same neurons are
at least this far apart. Part of the schedule that the compiler makes for the fire unit."""


SUMS_UNHEARD = 5
"""Jobs that may end, one a cycle, before the scanner hears that there is no room for their sums."""


class SpecError(ValueError):
    """A configuration that cannot be built; the message names the field and the accepted values."""


class Gate(enum.IntEnum):
    """How a residual branch's spike ``s`` joins the identity spike ``o``. All results are binary.

    Chen et al., arXiv 2301.11929: ``IAND = o * (1 - s)``.
    """

    NONE = 0
    AND = 1
    IAND = 2
    OR = 3
    XOR = 4


class Leak(enum.IntEnum):
    """What is left of a membrane ``v`` after one timestep, with an integer shift ``k``."""

    NONE = 0
    """IF: ``v``."""
    SUBTRACT = 1
    """LIF: ``v - (v >> k)``, a decay of ``1 - 2**-k``."""
    KEEP = 2
    """LIF: ``v >> k``, a decay of ``2**-k``."""


class Reset(enum.IntEnum):
    """What a spike does to its membrane."""

    HARD = 0
    SOFT = 1


class Integers(Protocol):
    """An int, or an integer array of NumPy or torch."""

    def __rshift__(self, other: Any, /) -> Any: ...

    def __sub__(self, other: Any, /) -> Any: ...


Membrane = TypeVar("Membrane", bound=Integers)


def leaked(membrane: Membrane, leak: Leak, leak_shift: int) -> Membrane:
    """Membrane left after one timestep."""
    if leak == Leak.NONE:
        return membrane
    kept = membrane >> leak_shift
    return kept if leak == Leak.KEEP else membrane - kept


def signed_range(bits: int) -> tuple[int, int]:
    """Smallest and largest two's complement integer of ``bits`` bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """Parameters of one build of the gateware. One bitstream runs any network that fits it.

    Weight memory holds ``weight_depth`` rows of ``lanes`` weights, or of descriptors; parameter
    memory ``param_depth`` rows of ``fire_lanes`` (bias, threshold) pairs, at its end results and
    counters; spike memory ``spike_bytes`` bytes.
    """

    name: str = "sim"
    lanes: int = 16
    """Weights added per cycle; output channels of one job."""
    weight_bits: int = 8
    weight_depth: int = 20480
    """Rows of weight memory."""
    fire_lanes: int = 16
    """Neurons updated per cycle by the fire unit; divides ``lanes``."""
    membrane_bits: int = 24
    """Width of accumulators, membranes and logits."""
    param_depth: int = 512
    """Rows of parameter memory."""
    chunk_bits: int = 64
    """Input spikes fetched per cycle."""
    spike_bytes: int = 32768
    membrane_slots: int = 32
    """Jobs whose membranes are alive at once (interleaved positions or channel groups)."""
    count_bits: int = 12
    """Width of a loop's counter: a level of the nest has at most ``1 << count_bits`` iterations."""
    sum_queue: int = 16
    """Jobs whose sums may be on their way to the fire unit; 0 keeps one, and lets the lanes stand
    still until it is taken."""
    max_layers: int = 32
    """Layers whose counters are kept."""
    result_rows: int = 16
    """Rows of ``fire_lanes`` logits."""
    cores: int = 1
    """Cores, each with ``lanes`` lanes, memories of the sizes here, and all spikes."""
    pixels: int = 1
    """Layers may take pixels, as bit-planes, instead of spikes; 0 leaves the logic out."""
    rx_buffer_bytes: int = 2048
    """Bytes that the device can take while it is busy; the driver never has more under way."""
    max_payload_bytes: int = 512
    """Longest payload of a frame in either direction."""
    clk_hz: int = 48_000_000
    baud: int = 12_000_000

    def __post_init__(self) -> None:
        def check(ok: bool, field: str, accepted: str) -> None:
            if not ok:
                raise SpecError(
                    f"Config.{field} = {getattr(self, field)!r} is not supported: {accepted}"
                )

        check(self.weight_bits in (2, 4, 8), "weight_bits", "use 2, 4 or 8")
        check(
            self.lanes >= GRANULE_BITS and self.lanes & (self.lanes - 1) == 0,
            "lanes",
            f"use a power of two of at least {GRANULE_BITS}",
        )
        check(
            self.fire_lanes >= 1
            and self.fire_lanes & (self.fire_lanes - 1) == 0
            and self.fire_lanes <= self.lanes,
            "fire_lanes",
            "use a power of two of at most lanes",
        )
        check(
            self.chunk_bits in (32, 64) and self.chunk_bits >= self.lanes,
            "chunk_bits",
            "use 32 or 64, at least lanes",
        )
        check(PARAM_BITS <= self.membrane_bits <= 32, "membrane_bits", "use 16 to 32")
        check(
            self.membrane_slots >= 2 and self.membrane_slots & (self.membrane_slots - 1) == 0,
            "membrane_slots",
            "use a power of two of at least 2",
        )
        check(
            self.spike_bytes % (self.chunk_bits // 8) == 0 and self.spike_bytes <= 65536,
            "spike_bytes",
            "use a multiple of chunk_bits / 8, at most 65536",
        )
        for field in ("weight_depth", "max_layers", "result_rows"):
            check(getattr(self, field) >= 2, field, "use at least 2")
        check(self.pixels in (0, 1), "pixels", "use 0 or 1")
        check(1 <= self.count_bits <= 12, "count_bits", "use 1 to 12")
        check(self.cores in (1, 2, 4, 8), "cores", "use 1, 2, 4 or 8")
        check(
            self.cores * self.max_layers * self.counter_rows < 256,
            "max_layers",
            "use less than 256 rows of counters in all cores",
        )
        check(
            self.sum_queue == 0 or self.sum_queue >= SUMS_UNHEARD,
            "sum_queue",
            f"use 0, or at least {SUMS_UNHEARD}",
        )
        check(self.weight_depth <= 1 << 20, "weight_depth", "use at most 1048576")
        check(
            self.lanes * self.weight_bits >= 32,
            "lanes",
            "use rows of weights of at least 32 bits, the length of a descriptor's word",
        )
        check(
            self.param_depth % (2 * self.bank_rows) == 0 and self.n_param_rows > 0,
            "param_depth",
            f"use a multiple of {2 * self.bank_rows}, at least {4 * self.bank_rows}: results and "
            "counters take the end of parameter memory",
        )
        check(self.clk_hz // self.baud >= 4, "baud", "use at most clk_hz / 4")
        check(
            64 <= self.max_payload_bytes < self.rx_buffer_bytes,
            "max_payload_bytes",
            "use 64 to rx_buffer_bytes - 1",
        )

    @property
    def fire_beats(self) -> int:
        """Cycles that the fire unit needs for one job."""
        return self.lanes // self.fire_lanes

    @property
    def param_latency(self) -> int:
        """Cycles from asking for a row of parameter memory, or for sums, to having it: with a queue
        of sums the device is large, and there are registers before and behind the memory."""
        return 3 if self.sum_queue else 1

    @property
    def counter_rows(self) -> int:
        """Rows of parameter memory that a layer's four counters take."""
        return max(1, 4 // self.fire_lanes)

    @property
    def bank_rows(self) -> int:
        """Rows of parameter memory that a run's results, then its counters take, rounded up to a
        power of two. There are two such banks at its end: of a run that has ended, and of the one
        in progress."""
        used = self.result_rows + self.max_layers * self.counter_rows
        return 1 << (used - 1).bit_length()

    @property
    def n_param_rows(self) -> int:
        """Rows of parameter memory that are not results or counters."""
        return self.param_depth - 2 * self.bank_rows

    def with_weight_bits(self, weight_bits: int) -> Config:
        """The same device built for another weight width, with the same bits of weight memory: as
        more or fewer rows, or, on a small device, whose chunks are short, as more or fewer lanes:
        it has no memory ports for longer rows, nor is there room for a descriptor's word in
        shorter ones."""
        if self.chunk_bits < 64:
            lanes = self.lanes * self.weight_bits // weight_bits
            return replace(self, weight_bits=weight_bits, lanes=lanes)
        weight_depth = self.weight_depth * self.weight_bits // weight_bits
        return replace(self, weight_bits=weight_bits, weight_depth=weight_depth)
