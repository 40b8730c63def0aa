"""Reader of compiled layers: walks a descriptor's loop nest from the bytes of the memories.

It is independent of the compiler: loops, addresses of input spikes and rows of weight memory are
read as :mod:`hw.protocol` describes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.protocol import Descriptor, Neuron, Space, descriptor_rows, n_bytes, row_bytes, unpack
from hw.spec import N_PLANES, PIECE_BITS, Config
from sw.compile.program import Program

Ints = NDArray[np.int64]
N_COLUMN_BITS = 8


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Addresses and flags of a layer's jobs, in order, and the jobs' reads of spike memory.

    A job is one output position of one channel group at one timestep. ``header`` is the header of
    the layer's descriptor.
    """

    header: Any
    fields: dict[str, Ints]
    """Arrays (n_jobs,) by name: the addresses source, identity, weight, target, param and slot, as
    in :class:`hw.protocol.Level`; the timestep, ``time``; and the flags fresh (first timestep),
    pool_first, pool_last (first and last position in a pooling window) and tail (last channel
    group)."""
    reads: Ints
    """Array (n, 3) with a row per bit read: job, bit of spike memory, row of weight memory. Bits
    and rows are the same in every bank."""
    dead: Ints
    """Addresses of bits of spike memory that are read but have no weights, so they must always be
    0."""

    def __len__(self) -> int:
        return len(self.fields["param"])


def rows_of(program: Program, space: Space) -> list[bytes]:
    """Return the rows of a memory as bytes."""
    size = row_bytes(space, program.config)
    image = program.images[space]
    return [image[i : i + size] for i in range(0, len(image), size)]


def weights_of(program: Program) -> NDArray[np.int64]:
    """Return the weight memory as integers (rows, lanes); row ``r`` belongs to bank ``r %
    banks``.
    """
    config = program.config
    bits = np.unpackbits(
        np.frombuffer(program.images[Space.WEIGHT], np.uint8), bitorder="little"
    ).reshape(-1, config.lanes, config.weight_bits)
    values = (bits.astype(np.int64) << np.arange(config.weight_bits)).sum(axis=2)
    return values - ((values >> config.weight_bits - 1) << config.weight_bits)


def params_of(program: Program) -> NDArray[np.int64]:
    """Return the parameter memory as integers (rows, fire_lanes, 2): bias and threshold."""
    assert n_bytes(Neuron) == 4
    values = np.frombuffer(program.images[Space.PARAM], "<i2").astype(np.int64)
    return values.reshape(-1, program.config.fire_lanes, 2)


def descriptors(program: Program, buffer: int) -> list[Any]:
    """Return the descriptors of all layers, in order, that a run on the given input buffer
    executes.
    """
    rows = rows_of(program, Space.WEIGHT)
    n_rows = descriptor_rows(program.config)
    found, row = [], program.entries[buffer]
    while not found or not found[-1].header.final:
        raw = b"".join(rows[row : row + n_rows])[: n_bytes(Descriptor)]
        found.append(unpack(Descriptor, raw))
        row += n_rows
    return found


def walk(descriptor: Any, config: Config) -> Walk:
    """Run a layer's loop nest in the order of the device, and return its jobs and reads."""
    header = descriptor.header
    levels = [descriptor.levels[i] for i in range(header.n_levels)]
    counts = [level.last + 1 for level in levels]
    n_steps = int(np.prod(counts))
    index = np.zeros((len(counts), n_steps), np.int64)
    rest = np.arange(n_steps)
    for i, count in enumerate(counts):
        index[i] = rest % count
        rest = rest // count
    # After each step but the last, the innermost level that is not at its end advances.
    at_end = index == np.array(counts)[:, None] - 1
    moving = np.argmin(at_end, axis=0)[:-1]
    granule = (config.spike_bytes - 1).bit_length()
    widths = {
        "source": granule + 3,
        "identity": granule,
        "weight": (config.weight_depth - 1).bit_length(),
        "target": granule,
        "param": (config.param_depth - 1).bit_length(),
        "slot": (config.membrane_slots - 1).bit_length(),
    }
    steps = {}
    for name, width in widths.items():
        moves = np.array([getattr(level, name) for level in levels])
        base = getattr(header, name) if name != "slot" else 0
        steps[name] = (base + np.concatenate([[0], np.cumsum(moves[moving])])) % (1 << width)

    def ends(mask: int, last: bool) -> NDArray[np.bool_]:
        at = at_end if last else index == 0
        chosen = [i for i in range(len(counts)) if mask >> i & 1]
        return at[chosen].all(axis=0)

    time = index[[i for i in range(len(counts)) if header.time_levels >> i & 1]].sum(axis=0)
    first, last = ends(header.job_levels, False), ends(header.job_levels, True)
    job = np.cumsum(first) - 1
    assert (np.flatnonzero(first)[1:] == np.flatnonzero(last)[:-1] + 1).all(), (
        "a job's steps are not contiguous"
    )
    fields = {name: values[last] for name, values in steps.items()}
    fields |= {
        "time": time[last],
        "fresh": ends(header.time_levels, False)[last],
        "pool_first": ends(header.pool_levels, False)[last],
        "pool_last": ends(header.pool_levels, True)[last],
        "tail": ends(header.tail_levels, True)[last],
    }

    # Piece k of a window comes from piece_rows[k] rows of memory further down. A window that does
    # not begin at a granule is shifted and lacks its last bits.
    cut = at_end[0]
    summed = time < N_PLANES // config.banks if header.pixels else np.ones(n_steps, bool)
    shift = steps["source"] % N_COLUMN_BITS
    row_bits = config.chunk_bits
    reads, dead = [], [np.zeros(0, np.int64)]
    granule_rows = 1 << header.granule_rows
    for k in range(config.chunk_bits // PIECE_BITS):
        for bit in range(PIECE_BITS):
            valid = bit < np.where(cut, header.tail_bits[k], header.body_bits[k])
            chosen = np.flatnonzero(valid & summed)
            if not len(chosen):
                continue
            position = k * PIECE_BITS + bit + shift[chosen]
            assert (position < row_bits).all(), "a bit outside the window is read"
            down = np.array([header.piece_rows[p] for p in range(row_bits // PIECE_BITS)])
            address = (
                steps["source"][chosen] - shift[chosen] + position + down[position // 16] * row_bits
            )
            in_granule = bit % N_COLUMN_BITS
            if in_granule >= granule_rows:
                dead.append(address)
                continue
            row = bit // N_COLUMN_BITS * granule_rows + in_granule
            weight = steps["weight"][chosen] + header.piece_weights[k] + row
            reads.append(np.stack([job[chosen], address, weight], axis=1))
    return Walk(
        header=header, fields=fields, reads=np.concatenate(reads), dead=np.concatenate(dead)
    )
