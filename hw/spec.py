"""Configuration and latencies of the gateware, and the exact integer arithmetic of a neuron.

Everything that the model, the exporter, the gateware and the driver must agree on is defined either
here (numbers) or in :mod:`hw.protocol` (bytes), and nowhere else.

The core consists of *banks*, each with the spikes and the weights of some of the input channels. A
*job* is the work on one output position, one group of output channels and one timestep. A *chunk*
is the input spikes of a job that a bank reads in one cycle.

Integer semantics, for one neuron at one timestep (all values are exact integers)::

    drive     = sum(weight of every active synapse) + bias
    membrane' = carried_over(membrane, spike) + drive   # 0 + drive in the first timestep
    spike     = membrane' >= threshold
    membrane  = after_spike(membrane')  if spike
                membrane'               otherwise

:func:`carried_over` applies a :class:`Leak`, and :func:`after_spike` a :class:`Reset`; a delayed
reset takes place in :func:`carried_over`, after the leak. :func:`fire` computes ``spike`` and the
final ``membrane``. A gated layer, which ends a residual block, then
combines ``spike`` with the spike of the block's shortcut, the identity spike (:func:`joined`). A
pooled layer ORs the spikes of each pooling window. An output layer has no neuron: its logits are
``drive`` summed over all timesteps (the bias is added once), and the predicted class is the first
largest logit.

The functions here take an int, or an integer array of NumPy or torch. The gateware does the same
in :mod:`hw.core.fire`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations, pairwise
from typing import Any, Protocol, TypeVar

N_LEVELS = 8
"""Largest number of nested loops with which the core generates the memory addresses of a layer."""

GRANULE_BITS = 8
"""Number of bits in a granule, which is the unit in which spike memory is written and addressed."""

PIECE_BITS = 16
"""Number of bits in a piece. The input spikes that a bank reads in one cycle, a chunk, consist of
pieces. The pieces of a chunk may come from different rows of a feature map."""

PARAM_BITS = 16
"""Width in bits of a bias and of a threshold, which are signed."""

OFFCHIP_WEIGHT_BITS, OFFCHIP_PARAM_BITS = 20, 16
"""Widths in bits of two addresses: that of a row of weights, and that of a row of parameters, on a
device with memory outside the FPGA. The highest bit of an address is set if the row is outside the
FPGA. The addresses in the descriptors of layers have these widths on every device."""

OFFCHIP_WEIGHT, OFFCHIP_PARAM = 1 << (OFFCHIP_WEIGHT_BITS - 1), 1 << (OFFCHIP_PARAM_BITS - 1)
"""Masks of the highest bit in two addresses: that of a row of weights, and that of a row of
parameters. The bit is set if the row is outside the FPGA. The lower bits can distinguish as many
rows as the value of the mask, both inside and outside the FPGA."""

N_PLANES = 8
"""Number of bits of a pixel. One bit of every pixel of an image makes a bit-plane, which is a map
of binary inputs. The plane of the highest bit is processed first."""

SPIKE_LATENCY = 6
"""Number of cycles from an address of spike memory until the window of spikes at that address
arrives."""

FETCH_LATENCY = SPIKE_LATENCY + 1
"""Number of cycles from a read of spike memory (a slot) until it is known whether the chunk that
was read contains a spike. The chunk is then held back until it is known whether it is the last one
of its job with a spike (:class:`hw.core.fetch.Merger`)."""

CHUNK_DEPTH = 32
"""Depth of the queue between a bank's fetch unit and its scanner, in chunks. A chunk is the input
spikes that a bank reads in one cycle."""

IDENTITY_DEPTH = 64
"""Depth of a bank's queue of identity spikes (those of a residual block's shortcut), in jobs, on a
device without memory outside the FPGA (:attr:`Config.identity_depth`). A job is one output
position, group of output channels and timestep."""

JOB_DEPTH = 64
"""Depth of the queue in front of the fire unit, in jobs. A job is one output position, group of
output channels and timestep."""

JOB_ROOM = JOB_DEPTH - 3
"""Largest number of jobs in the queue in front of the fire unit at which the banks still read
inputs of further jobs. It is less than :data:`JOB_DEPTH`, because a few jobs still join the queue
before reading stops."""

ROOM_LATENCY = 2
"""Number of cycles from a change of a queue's level (its number of entries) until reads of spike
memory are allowed or stopped accordingly. Banks read only while their queues have room."""

QUEUE_LATENCY = 2
"""Number of cycles from writing an entry to an empty queue until the entry can be read."""

WEIGHT_LATENCY = 3
"""Number of cycles from an active input until its row of weights has been read, on a device without
:attr:`Config.weight_registers`."""

LANES_LATENCY = WEIGHT_LATENCY + 4
"""Number of cycles from the last active input of a job in the scanner until the job's sums are
available to the fire unit, on a device without :attr:`Config.weight_registers`."""

FIRE_LATENCY = 4
"""Number of cycles from stage B0 of the fire unit's pipeline, the cycle before parameters and sums
arrive, until the new membranes can be read (:class:`hw.core.fire.FireUnit`)."""

SUMS_IN_FLIGHT = 5
"""Largest number of jobs that may still leave the scanner, one per cycle, after the queue of sums
has told it to stop. The queue keeps places free for their sums."""


class SpecError(ValueError):
    """Raised if a configuration cannot be built; the message names the field and the accepted
    values."""


class Gate(enum.IntEnum):
    """Gate that combines the spike ``s`` of a residual block with the spike ``o`` of its shortcut.

    The output is 0 or 1. ``NONE`` passes ``s`` on; ``AND``, ``OR`` and ``XOR`` have their usual
    meaning; ``IAND`` is ``o * (1 - s)``, as in Chen et al., arXiv 2301.11929.
    """

    NONE = 0
    AND = 1
    IAND = 2
    OR = 3
    XOR = 4


N_LEAK_SHIFTS = 3
"""Largest number of shifts in the formula of a leak."""

MAX_LEAK_SHIFT = 15
"""Largest shift in the formula of a leak, in bits."""


class Leak(enum.IntEnum):
    """Kind of leak: what remains of a membrane ``v`` after a timestep.

    The kinds ``SUBTRACT`` and ``KEEP`` have formulas with one to three shifts in bits, ``a < b <
    c``. With fewer than three, the terms with ``c``, or with ``b`` and ``c``, are left out. Since
    the shifts increase and the signs alternate, what remains never falls when ``v`` rises: the
    proof that nothing overflows (:mod:`sw.network.bounds`) relies on it.
    """

    NONE = 0
    """No leak (IF neuron): ``v`` remains."""
    SUBTRACT = 1
    """LIF: ``v - (v >> a) + (v >> b) - (v >> c)`` remains: ``1 - 2**-a + 2**-b - 2**-c`` times
    ``v``, apart from rounding."""
    KEEP = 2
    """LIF: ``(v >> a) - (v >> b) + (v >> c)`` remains: ``2**-a - 2**-b + 2**-c`` times ``v``, apart
    from rounding."""


class Reset(enum.IntEnum):
    """Kind of reset: what remains of a membrane ``v`` after it has fired."""

    HARD = 0
    """Reset to zero: 0 remains."""
    SOFT = 1
    """Reset by subtraction: ``v - threshold`` remains."""
    DELAYED = 2
    """Delayed reset by subtraction: ``v`` remains, and ``threshold`` is subtracted in the next
    timestep, after the leak."""


class Numbers(Protocol):
    """Number, or array of NumPy or torch, that supports the arithmetic operators used here."""

    def __add__(self, other: Any, /) -> Any: ...

    def __sub__(self, other: Any, /) -> Any: ...

    def __mul__(self, other: Any, /) -> Any: ...

    def __ge__(self, other: Any, /) -> Any: ...


class Integers(Numbers, Protocol):
    """Integer, or integer array of NumPy or torch, that also supports shifts."""

    def __rshift__(self, other: Any, /) -> Any: ...


class Bits(Protocol):
    """Integer or bool, or array of these of NumPy or torch, that supports bitwise operators."""

    def __and__(self, other: Any, /) -> Any: ...

    def __or__(self, other: Any, /) -> Any: ...

    def __xor__(self, other: Any, /) -> Any: ...

    def __invert__(self) -> Any: ...


AnyNumbers = TypeVar("AnyNumbers", bound=Numbers)
AnyIntegers = TypeVar("AnyIntegers", bound=Integers)
AnyBits = TypeVar("AnyBits", bound=Bits)


def valid_shifts(shifts: Sequence[int]) -> bool:
    """Return whether ``shifts`` can be those of a leak: 1 to ``N_LEAK_SHIFTS`` increasing integers
    from 1 to ``MAX_LEAK_SHIFT``."""
    in_range = all(type(shift) is int and 1 <= shift <= MAX_LEAK_SHIFT for shift in shifts)
    rising = in_range and all(a < b for a, b in pairwise(shifts))
    return rising and 1 <= len(shifts) <= N_LEAK_SHIFTS


def leak_shifts(n_shifts: int = N_LEAK_SHIFTS) -> list[tuple[int, ...]]:
    """Return the shifts of all possible leaks other than ``NONE``: all tuples of 1 to ``n_shifts``
    increasing shifts, in bits."""
    return [
        shifts
        for n in range(1, n_shifts + 1)
        for shifts in combinations(range(1, MAX_LEAK_SHIFT + 1), n)
    ]


def leak_terms(leak: Leak, whole: Any, terms: Sequence[Any]) -> Any:
    """Return the value of a leak's formula (:class:`Leak`) for a membrane ``v``.

    ``whole`` is ``v`` itself, and ``terms`` are ``v`` shifted by each of the leak's one to three
    shifts.
    """
    if leak == Leak.NONE:
        return whole
    first, *finer = terms
    total = first if leak == Leak.KEEP else whole - first
    for i, term in enumerate(finer):
        total = total + term if (leak == Leak.SUBTRACT) == (i % 2 == 0) else total - term
    return total


def leaked(membrane: AnyIntegers, leak: Leak, *shifts: int) -> AnyIntegers:
    """Return what remains of integer membranes after the leak of one timestep.

    :class:`Leak` has the formulas; their shift ``>>`` is arithmetic and rounds towards minus
    infinity. Floating-point membranes are multiplied by :func:`decay` instead.

    >>> [leaked(membrane, Leak.SUBTRACT, 2) for membrane in (100, 3, -3)]
    [75, 3, -2]
    >>> leaked(100, Leak.KEEP, 2), leaked(100, Leak.SUBTRACT, 3, 5)
    (25, 91)
    """
    return leak_terms(leak, membrane, [membrane >> shift for shift in shifts])


def decay(leak: Leak, *shifts: int) -> float:
    """Return the factor by which the leak multiplies a membrane per timestep, without rounding.

    >>> decay(Leak.SUBTRACT, 3, 5)
    0.90625
    """
    return leak_terms(leak, 1.0, [2.0**-shift for shift in shifts])


def after_leak(remains: AnyNumbers, fired: Any, threshold: Any, reset: Reset) -> AnyNumbers:
    """Return membranes after a leak, minus the threshold where a delayed reset is due.

    A reset is due if ``reset`` is delayed and the neuron fired in the timestep before. ``remains``
    is what the leak left of the membranes, and ``fired`` says which neurons fired in the timestep
    before.
    """
    return remains - fired * threshold if reset == Reset.DELAYED else remains


def carried_over(
    membrane: AnyIntegers, fired: Any, threshold: Any, reset: Reset, leak: Leak, *shifts: int
) -> AnyIntegers:
    """Return what integer membranes contribute to the next timestep, after leak and delayed reset.

    Parameters
    ----------
    membrane, fired : what :func:`fire` returned in the timestep before.

    >>> carried_over(130, True, 100, Reset.DELAYED, Leak.SUBTRACT, 1)
    -35
    """
    return after_leak(leaked(membrane, leak, *shifts), fired, threshold, reset)


def after_spike(membrane: AnyNumbers, threshold: Any, reset: Reset) -> AnyNumbers:
    """Return what the reset leaves of membranes that have fired, as :class:`Reset` defines it.

    Floating-point membranes are allowed. A new kind of reset must be monotone in the membrane and
    leave a value from 0 to the membrane: the proof that nothing overflows
    (:mod:`sw.network.bounds`) relies on it.
    """
    if reset == Reset.DELAYED:
        return membrane
    if reset == Reset.SOFT:
        return membrane - threshold
    return membrane * 0


def fire(membrane: AnyNumbers, threshold: Any, reset: Reset) -> tuple[Any, AnyNumbers]:
    """Compare membranes with their thresholds, and reset those that fire.

    Returns
    -------
    Spikes (bool, or an array of bool), and the membranes afterwards. Floating-point membranes are
    allowed; each result is exactly the membrane or its value after the reset.

    >>> fire(130, 100, Reset.SOFT), fire(130, 100, Reset.HARD), fire(99, 100, Reset.HARD)
    ((True, 30), (True, 0), (False, 99))
    """
    fires = membrane >= threshold
    left = membrane * (fires ^ True)
    if reset != Reset.HARD:
        left = left + fires * after_spike(membrane, threshold, reset)
    return fires, left


def joined(gate: Gate, branch: AnyBits, identity: AnyBits) -> AnyBits:
    """Return the output spikes of a gate for spikes of the residual branch and of the shortcut.

    All spikes are 0 or 1.

    >>> [joined(Gate.IAND, branch, identity) for branch in (0, 1) for identity in (0, 1)]
    [0, 1, 0, 0]
    """
    if gate == Gate.AND:
        return identity & branch
    if gate == Gate.IAND:
        return identity & ~branch
    if gate == Gate.OR:
        return identity | branch
    if gate == Gate.XOR:
        return identity ^ branch
    return branch


def signed_range(bits: int) -> tuple[int, int]:
    """Return the smallest and largest two's complement integer of ``bits`` bits.

    >>> signed_range(8)
    (-128, 127)
    """
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """Parameters of one build of the gateware. One bitstream runs any network that fits it.

    The core has ``banks`` banks, each with the spikes and the weights of its own input channels. A
    bank's weight memory has ``weight_depth`` rows; each holds ``lanes`` weights, or a part of the
    descriptors, which tell the core how to run the layers. A bank's spike memory holds
    ``spike_bytes`` bytes. The banks share parameter memory, which has ``param_depth`` rows of
    ``fire_lanes`` (bias, threshold) pairs; its last rows hold results and counters instead.
    """

    name: str = "sim"
    lanes: int = 16
    """Number of weights that a bank adds per cycle, and of output channels that are computed
    together."""
    banks: int = 1
    """Number of banks, among which a layer's input channels are divided."""
    weight_bits: int = 8
    weight_depth: int = 20480
    """Number of rows of a bank's weight memory."""
    fire_lanes: int = 16
    """Number of neurons that the fire unit updates per cycle; a divisor of ``lanes``."""
    sum_bits: int = 20
    """Width in bits of a bank's accumulators, which hold the sums over the bank's own input
    channels."""
    membrane_bits: int = 24
    """Width in bits of sums over all banks, of membranes and of logits."""
    param_depth: int = 512
    """Number of rows of parameter memory."""
    chunk_bits: int = 64
    """Number of input spikes that a bank fetches per cycle."""
    spike_bytes: int = 32768
    """Size of a bank's spike memory in bytes."""
    offchip_depth: int = field(default=0, metadata={"since": 3})
    """Number of rows of weights and parameters that a bank has in memory outside the FPGA, or 0 if
    there is no such memory."""
    offchip_row_cycles: int = field(default=0, metadata={"since": 3})
    """Number of cycles for which reading a row occupies the data bus of the memory outside the
    FPGA."""
    packed_writes: int = field(default=0, metadata={"since": 4})
    """1 if the device takes rows in packed form, in which zeros cost little
    (:func:`hw.protocol.pack_zeros`); 0 leaves that logic out."""
    weight_registers: int = field(default=0, metadata={"since": 4})
    """Number of registers between the block RAMs of the weights and the register of the row that
    was read; each delays the rows by a cycle. The first is part of the block RAMs on an ECP5, so
    that a row may come from farther away."""
    half_rows: int = field(default=0, metadata={"since": 4})
    """1 if a row of weight memory may hold two rows of a layer that has at most ``lanes / 2``
    output channels (:attr:`half_row`); 0 leaves that logic out."""
    direct_timesteps: int = field(default=0, metadata={"since": 4})
    """1 if the timesteps of a layer that reads pixels go directly to the fire unit. They have no
    inputs, so that they need neither a read of spike memory nor the banks. With 0 they pass through
    the banks as jobs without a spike."""
    membrane_slots: int = 32
    """Number of membrane slots. A slot stores the membranes of one output position and group of
    output channels, so that the timesteps of several positions or groups can be computed in turns.
    """
    count_bits: int = 12
    """Width in bits of a loop counter: each of the nested loops has at most ``1 << count_bits``
    iterations.
    """
    sum_queue: int = 16
    """Number of jobs whose sums may wait in a bank for the fire unit. A job is one output position,
    group of channels and timestep. The value 0, possible only with a single bank, means that there
    is no queue: the accumulators then stall until the fire unit takes a job's sums."""
    max_layers: int = 32
    """Largest number of layers of a network; each has counters in parameter memory."""
    result_rows: int = 16
    """Number of rows for results in parameter memory, each of ``fire_lanes`` logits."""
    pixels: int = 1
    """1 if layers may read pixels (as bit-planes) instead of spikes; 0 omits the logic for this."""
    rx_buffer_bytes: int = 2048
    """Number of bytes that the device can buffer while it is busy. The driver never sends more
    bytes of requests than this ahead of their replies.
    """
    max_payload_bytes: int = 512
    """Longest payload of a frame in either direction."""
    clk_hz: int = 48_000_000
    """Frequency of the gateware's clock in Hz."""
    baud: int = 12_000_000
    """Highest rate of the serial link, in bits per second."""

    def __post_init__(self) -> None:
        def check(ok: bool, field: str, accepted: str) -> None:
            if not ok:
                raise SpecError(
                    f"Config.{field} = {getattr(self, field)!r} is not supported: {accepted}"
                )

        for each in fields(self):
            if each.name != "name":
                value = getattr(self, each.name)
                ok = isinstance(value, int) and 0 <= value < 1 << 32
                check(ok, each.name, "use a whole number from 0 to 4294967295")
        check(
            isinstance(self.name, str) and self.name.isascii() and self.name.isprintable(),
            "name",
            "use printable ASCII characters",
        )
        check(self.weight_bits in (2, 4, 8), "weight_bits", "use 2, 4 or 8")
        check(self.banks in (1, 2, 4, 8), "banks", "use 1, 2, 4 or 8")
        check(
            GRANULE_BITS * self.banks <= self.lanes <= 128 and self.lanes & (self.lanes - 1) == 0,
            "lanes",
            f"use a power of two of at least {GRANULE_BITS} for each bank, at most 128",
        )
        check(
            self.fire_lanes >= 1
            and self.fire_lanes & (self.fire_lanes - 1) == 0
            and self.banks <= self.fire_lanes <= self.lanes,
            "fire_lanes",
            "use a power of two from banks to lanes",
        )
        check(
            self.chunk_bits in (32, 64) and self.chunk_bits >= self.bank_lanes,
            "chunk_bits",
            "use 32 or 64, at least lanes / banks",
        )
        check(PARAM_BITS <= self.membrane_bits <= 32, "membrane_bits", "use 16 to 32")
        check(
            self.weight_bits < self.sum_bits <= 32,
            "sum_bits",
            "use more than weight_bits, at most 32",
        )
        check(
            2 <= self.membrane_slots <= 128
            and self.membrane_slots & (self.membrane_slots - 1) == 0,
            "membrane_slots",
            "use a power of two from 2 to 128",
        )
        check(
            self.spike_bytes % (self.chunk_bits // 8) == 0 and 0 < self.spike_bytes <= 65536,
            "spike_bytes",
            "use a multiple of chunk_bits / 8, from that to 65536",
        )
        for name, most in (("weight_depth", 1 << 20), ("max_layers", 255), ("result_rows", 255)):
            check(2 <= getattr(self, name) <= most, name, f"use 2 to {most}")
        check(
            self.offchip_depth == 0
            or (
                self.sum_queue > 0
                and 256 <= self.offchip_depth <= OFFCHIP_WEIGHT
                and self.offchip_depth & (self.offchip_depth - 1) == 0
                and self.weight_depth <= OFFCHIP_WEIGHT
                and self.param_depth <= OFFCHIP_PARAM
                and self.fire_beats <= 8
                and 1 <= self.offchip_row_cycles < 256
            ),
            "offchip_depth",
            f"use 0, or a power of two from 256 to {OFFCHIP_WEIGHT} on a device with a queue of "
            "sums and at most 8 beats a job, with offchip_row_cycles of 1 to 255",
        )
        check(self.pixels in (0, 1), "pixels", "use 0 or 1")
        check(self.packed_writes in (0, 1), "packed_writes", "use 0 or 1")
        check(
            self.weight_registers == 0
            or (self.weight_registers <= 8 and self.sum_queue > 0 and not self.offchip_depth),
            "weight_registers",
            "use 0, or up to 8 on a device with a queue of sums and without offchip_depth",
        )
        check(
            self.half_rows == 0
            or (
                self.half_rows == 1
                and self.sum_queue > 0
                and not self.offchip_depth
                and self.weight_depth <= 1 << (OFFCHIP_WEIGHT_BITS - 2)
            ),
            "half_rows",
            "use 0, or 1 on a device with a queue of sums, without offchip_depth and with a "
            f"weight_depth of at most {1 << (OFFCHIP_WEIGHT_BITS - 2)}",
        )
        check(
            self.direct_timesteps == 0
            or (
                self.direct_timesteps == 1
                and self.pixels == 1
                and self.sum_queue > 0
                and not self.offchip_depth
            ),
            "direct_timesteps",
            "use 0, or 1 on a device with pixels and a queue of sums, without offchip_depth",
        )
        check(1 <= self.count_bits <= 12, "count_bits", "use 1 to 12")
        check(
            self.max_layers * self.counter_rows < 256,
            "max_layers",
            "use less than 256 rows of counters",
        )
        check(
            (self.sum_queue == 0 and self.banks == 1) or SUMS_IN_FLIGHT <= self.sum_queue <= 255,
            "sum_queue",
            f"use 0 with a single bank, or {SUMS_IN_FLIGHT} to 255",
        )
        check(
            self.lanes * self.weight_bits >= 32,
            "lanes",
            "use lanes * weight_bits of at least 32 bits, the length of a descriptor's word",
        )
        check(
            self.param_depth % (2 * self.page_rows) == 0
            and self.n_param_rows > 0
            and self.param_depth <= 1 << 20,
            "param_depth",
            f"use a multiple of {2 * self.page_rows}, at least {4 * self.page_rows}, at most "
            "1048576: results and counters take the end of parameter memory",
        )
        check(1 <= self.baud <= self.clk_hz // 4, "baud", "use 1 to clk_hz / 4")
        check(self.rx_buffer_bytes < 1 << 16, "rx_buffer_bytes", "use at most 65535")
        check(
            64 <= self.max_payload_bytes < self.rx_buffer_bytes,
            "max_payload_bytes",
            "use 64 to rx_buffer_bytes - 1",
        )

    def chunk_room(self, bank: int) -> int:
        """Return the largest number of chunks in a bank's queue at which the bank still reads more.

        ``bank`` is the number of the bank, from 0. A chunk is the input spikes that a bank reads in
        one cycle (:mod:`hw.core.fetch`). The result is less than :data:`CHUNK_DEPTH`, because some
        chunks still arrive after the bank has asked to stop. These are the chunks in the pipeline
        of the fetch unit, the chunk that it holds back, and the chunks that are read before the
        request takes effect. The request takes ``bank`` cycles to reach bank 0, where reads are
        issued, and a read takes as many cycles from there to this bank.
        """
        return CHUNK_DEPTH - FETCH_LATENCY - 5 - 2 * bank

    @property
    def bank_lanes(self) -> int:
        """Number of a job's output channels whose spikes one bank stores: ``lanes`` divided by
        ``banks``.

        A job (:mod:`hw.core.fire`) computes ``lanes`` output channels at one position and timestep.
        """
        return self.lanes // self.banks

    @property
    def fire_beats(self) -> int:
        """Number of cycles (beats) that the fire unit needs for ``lanes`` neurons.

        In each cycle it updates ``fire_lanes`` neurons (:mod:`hw.core.fire`).
        """
        return self.lanes // self.fire_lanes

    @property
    def full_neurons(self) -> bool:
        """Whether the device supports leaks of up to :data:`N_LEAK_SHIFTS` shifts, and a delayed
        reset.

        Only small devices, which have no queue of sums (:attr:`sum_queue` is 0), do not: their
        leaks have one shift, and their reset is never delayed.
        """
        return self.sum_queue > 0

    @property
    def n_leak_shifts(self) -> int:
        """Largest number of shifts in the formula of a leak on this device."""
        return N_LEAK_SHIFTS if self.full_neurons else 1

    @property
    def membrane_latency(self) -> int:
        """Number of cycles from reading a membrane until its new value can be read.

        Two timesteps of the same neurons must start at least this far apart in the fire unit
        (:mod:`hw.core.fire`). The compiler schedules them accordingly.
        """
        return FIRE_LATENCY + 2 * self.full_neurons

    @property
    def param_latency(self) -> int:
        """Number of cycles from a request for a row of parameter memory until the row arrives.

        A request for the sums of a job takes as long. On small devices, which have no queue of sums
        (:attr:`sum_queue` is 0), the latency is one cycle. Other devices have registers before and
        after the memory, which makes three cycles. With several banks (:mod:`hw.core.banks`), the
        sums are added up from one bank to the next, which takes further cycles; the parameters are
        then delayed to arrive together with the sums.
        """
        if not self.sum_queue:
            return 1
        return 3 if self.banks == 1 else 3 + self.banks

    @property
    def weight_latency(self) -> int:
        """Number of cycles from an active input in a bank until its row of weights has been
        read."""
        return WEIGHT_LATENCY + self.weight_registers

    @property
    def lanes_latency(self) -> int:
        """Number of cycles from the last active input of an output position in the scanner until
        its sums are available to the fire unit."""
        return LANES_LATENCY + self.weight_registers

    @property
    def half_row(self) -> int:
        """Highest bit of the address of a row of weights on a device with ``half_rows``; 0 on
        others.

        An address with this bit counts halves of rows: half ``n`` is in row ``n // 2``, in its
        lower lanes if ``n`` is even and in its upper ones if ``n`` is odd. The lower lanes add the
        weights of the half that is read.
        """
        return self.half_rows << ((self.weight_depth - 1).bit_length() + 1)

    @property
    def layer_cycles(self) -> int:
        """Number of cycles that every layer takes in addition to those for its jobs and for loading
        its descriptor.

        They go into filling and draining the pipeline. Loading a descriptor
        (:class:`hw.protocol.Descriptor`) takes a cycle for each of its words.
        """
        return 15 + 2 * self.weight_registers + (2 * self.banks if self.banks > 1 else 0)

    @property
    def identity_depth(self) -> int:
        """Depth of a bank's queue of identity spikes (those of a residual block's shortcut), in
        jobs.

        A job is one output position, channel group and timestep. Its identity spikes wait from the
        time its inputs are read until its weights have been added up. Fewer jobs than this are ever
        in between, so the queue cannot overflow. Weights from outside the FPGA arrive later, so
        that more jobs are in between.
        """
        return IDENTITY_DEPTH << (self.offchip_depth > 0)

    @property
    def param_chunks(self) -> int:
        """Number of rows of memory outside the FPGA that hold one row of parameters.

        Row ``i`` of parameters begins at row ``i * param_chunks`` of that memory, counted over all
        banks (:attr:`hw.protocol.Space.OFFCHIP`).
        """
        return max(1, 2 * PARAM_BITS * self.fire_lanes // (self.lanes * self.weight_bits))

    @property
    def n_weights(self) -> int:
        """Number of weights that the device can hold, inside and outside the FPGA."""
        return self.banks * self.lanes * (self.weight_depth + self.offchip_depth)

    @property
    def counter_rows(self) -> int:
        """Number of rows of parameter memory that a layer's four counters take."""
        return max(1, 4 // self.fire_lanes)

    @property
    def page_rows(self) -> int:
        """Number of rows of a page: the part of parameter memory for the results and counters of
        one run (an inference).

        It is rounded up to a power of two. Parameter memory ends with two pages: one for the run
        that has ended, one for the run in progress.
        """
        used = self.result_rows + self.max_layers * self.counter_rows
        return 1 << (used - 1).bit_length()

    @property
    def n_param_rows(self) -> int:
        """Number of rows of parameter memory for biases and thresholds."""
        return self.param_depth - 2 * self.page_rows

    def with_weight_bits(self, weight_bits: int) -> Config:
        """Return the configuration of the same device for another width of weights.

        Weight memory keeps its number of bits. On a device with a queue of sums, its number of rows
        changes. On a small device, which has no such queue, a row keeps its number of bits and the
        number of lanes changes instead. The reason is that the memory ports are too narrow for a
        longer row, and a shorter row could not contain a 32-bit word of a descriptor. Accumulators
        become wider or narrower by as many bits as weights do, but not wider than
        ``membrane_bits``.
        """
        sum_bits = min(self.sum_bits + weight_bits - self.weight_bits, self.membrane_bits)
        if not self.sum_queue:
            lanes = self.lanes * self.weight_bits // weight_bits
            return replace(self, weight_bits=weight_bits, lanes=lanes, sum_bits=sum_bits)
        weight_depth = self.weight_depth * self.weight_bits // weight_bits
        return replace(
            self,
            weight_bits=weight_bits,
            weight_depth=weight_depth,
            sum_bits=sum_bits,
            offchip_depth=min(self.offchip_depth * self.weight_bits // weight_bits, OFFCHIP_WEIGHT),
            offchip_row_cycles=self.offchip_row_cycles * weight_bits // self.weight_bits,
        )
