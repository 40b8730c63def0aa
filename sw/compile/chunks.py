"""Division of the inputs of a job into chunks, the units in which a core reads spike memory.

A *job* computes one output position of ``lanes`` channels at one timestep (an output layer's job
includes all timesteps). It reads the spikes of its input window, the receptive field. A *chunk* is
what the core reads in one cycle, at most ``Config.chunk_bits`` bits. Its *pieces*, of
:data:`hw.spec.PIECE_BITS` bits each, either follow each other or come from different rows of the
map. A *run* is a sequence of contiguous bits of the window, such as those that a kernel row reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.protocol import N_PIECES
from hw.spec import GRANULE_BITS, PIECE_BITS, Config
from sw.compile.levels import Level, Strides
from sw.compile.placement import rows_per_chunk
from sw.compile.program import Placement
from sw.network.network import Layer

PIECE_FIELD_BITS = 8
"""Width of a piece's row and weight in :class:`hw.protocol.Header`."""


@dataclass(frozen=True)
class Chunks:
    """Division of every job of a layer into chunks.

    ``levels`` are the loops over the chunks of a job, innermost first. Every other field has one
    value per piece of a chunk and the meaning of the same field of :class:`hw.protocol.Header`.
    """

    levels: tuple[Level, ...]
    body_bits: tuple[int, ...]
    tail_bits: tuple[int, ...]
    piece_rows: tuple[int, ...]
    piece_weights: tuple[int, ...]

    def pieces(self, config: Config) -> tuple[tuple[int, int, int], ...]:
        """Return one tuple (offset, valid bits, valid bits at the end) for each piece in use.

        The offset is in bits from the chunk's first bit. The third number replaces the second in
        the last iteration of the innermost loop.
        """
        return tuple(
            (k * PIECE_BITS + self.piece_rows[k] * config.chunk_bits, body, tail)
            for k, (body, tail) in enumerate(zip(self.body_bits, self.tail_bits, strict=True))
            if body or tail
        )


def cut_window(
    layer: Layer, source: Placement, run: int, weight_pitch: int, aligned: bool, config: Config
) -> Chunks:
    """Divide the input window of a job into chunks, in the same way for all jobs of a layer.

    Parameters
    ----------
    source : place in spike memory of the map that the layer reads.
    run : number of contiguous bits of spike memory that a kernel row reads. If the kernel's columns
        share weights, the number of bits that a single position of the row reads.
    weight_pitch : number of rows of weight memory from the weights of one kernel row to those of
        the next.
    aligned : whether every run begins at a granule, an aligned group of ``GRANULE_BITS`` bits. If
        not, up to ``GRANULE_BITS - 1`` bits at the end of a chunk are unusable, because the core
        reads whole granules, beginning with the one that holds the chunk's first bit.
    """
    missing = 0 if aligned else GRANULE_BITS
    gathered = _gather_rows(layer, source, run, weight_pitch, missing, config)
    return gathered or _split_runs(layer, source, run, weight_pitch, missing, config)


def _merges_columns(layer: Layer) -> bool:
    """Return whether a kernel row is one run, because the kernel's columns do not share weights.

    If they do, each position of the row is a run of its own.
    """
    return layer.weight.shape[6] == layer.kernel[1]


def _gather_rows(
    layer: Layer, source: Placement, run: int, weight_pitch: int, missing: int, config: Config
) -> Chunks | None:
    """Return chunks that each hold several short kernel rows, one per piece.

    Return None where this is impossible: the kernel's columns share weights, a kernel row does not
    fit a piece, a chunk would hold one row only, the rows of the map do not begin at whole bytes,
    or an offset exceeds its field of the descriptor.
    """
    kernel_y = layer.kernel[0]
    n_pieces = config.chunk_bits // PIECE_BITS
    pitch_bytes, rest = divmod(source.row, GRANULE_BITS)
    if rest or not _merges_columns(layer):
        return None
    n_rows = rows_per_chunk(pitch_bytes, kernel_y, config)
    if n_rows < 2 or run > PIECE_BITS - max(missing - 1, 0):
        return None
    offsets = [r * source.row // PIECE_BITS for r in range(n_rows)]
    largest = max((n_rows - 1) * weight_pitch, *(offset // n_pieces for offset in offsets))
    if largest >= 1 << PIECE_FIELD_BITS:
        return None
    n_chunks = -(-kernel_y // n_rows)
    n_tail = kernel_y - (n_chunks - 1) * n_rows
    fields = np.zeros((4, N_PIECES), int)
    for r, offset in enumerate(offsets):
        fields[:, offset % n_pieces] = (
            run,
            run * (r < n_tail),
            offset // n_pieces,
            r * weight_pitch,
        )
    strides = Strides(source=n_rows * source.row, weight=n_rows * weight_pitch)
    level = Level(count=n_chunks, strides=strides, in_job=True)
    return Chunks((level,), *(tuple(int(v) for v in row) for row in fields))


def _split_runs(
    layer: Layer, source: Placement, run: int, weight_pitch: int, missing: int, config: Config
) -> Chunks:
    """Return chunks that each hold one run, or a part of one that is longer than a chunk."""
    kernel_y, kernel_x = layer.kernel
    merged = _merges_columns(layer)
    if merged and source.row == run == weight_pitch:  # all kernel rows and weights are contiguous
        run, kernel_y = run * kernel_y, 1
    step = config.chunk_bits - missing
    n_chunks = -(-run // step)
    n_pieces = config.chunk_bits // PIECE_BITS
    starts = [k * PIECE_BITS for k in range(n_pieces)]
    unused = (0,) * (N_PIECES - n_pieces)

    def valid(n_bits: int) -> tuple[int, ...]:
        """Return the number of valid bits in each piece of a chunk with ``n_bits`` valid bits."""
        return tuple(min(max(n_bits - start, 0), PIECE_BITS) for start in starts) + unused

    def level(count: int, source: int, weight: int = 0) -> Level:
        return Level(count=count, strides=Strides(source=source, weight=weight), in_job=True)

    levels = [level(n_chunks, step, step)]
    if not merged:
        levels.append(level(kernel_x, source.pixel))
    levels.append(level(kernel_y, source.row, weight_pitch))
    return Chunks(
        levels=tuple(levels),
        body_bits=valid(step),
        tail_bits=valid(run - (n_chunks - 1) * step),
        piece_rows=(0,) * N_PIECES,
        piece_weights=tuple(starts) + unused,
    )
