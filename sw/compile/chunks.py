"""Division of a job's inputs into chunks, the units in which a bank reads its spike memory.

A *job* is the computation of one output position of ``lanes`` channels at one timestep. Its *input
window* is the part of the input map that the kernel covers there. Each *bank* of the core has the
spikes and the weights of some of the input channels. A *chunk* is ``Config.chunk_bits`` bits, which
a bank reads from its spike memory in one cycle. It consists of *pieces* of 16 bits each
(:data:`hw.spec.PIECE_BITS`). A *granule* is 8 bits. :mod:`sw.compile.levels` explains levels.

A *run* is the bits of one kernel row in one bank, which are contiguous in spike memory. Their rows
of weights follow one another in the same order. If kernel columns share their weights, each
position of the kernel row is a run of its own, because the weights of all begin at the same row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hw.protocol import N_PIECES
from hw.spec import GRANULE_BITS, PIECE_BITS, Config
from sw.compile.levels import Level, Strides
from sw.compile.placement import rows_per_chunk
from sw.compile.program import Placement
from sw.network.network import Layer

PIECE_FIELD_BITS = 8
"""Width in bits of an entry of ``piece_rows`` and ``piece_weights`` in
:class:`hw.protocol.Header`."""


@dataclass(frozen=True)
class Chunks:
    """How the input window of a job is divided into chunks; it is the same for all jobs of a layer.

    ``levels`` are the loops over the chunks of a job, innermost first. Each other field has one
    number for every piece (16 bits) of a chunk. ``tail_bits`` is how many of the piece's bits are
    inputs in the last iteration of the innermost loop, and ``body_bits`` how many in all other
    iterations. ``piece_rows`` is the piece's offset, in rows of spike memory, from the address that
    it would have in a contiguous chunk. ``piece_weights`` is the number of rows of weights from the
    row of the chunk's first bit to the row of the piece's first bit.
    """

    levels: tuple[Level, ...]
    body_bits: tuple[int, ...]
    tail_bits: tuple[int, ...]
    piece_rows: tuple[int, ...]
    piece_weights: tuple[int, ...]

    def pieces(self, config: Config) -> tuple[tuple[int, int, int], ...]:
        """Return three numbers for each piece (16 bits) of a chunk that can contain inputs.

        The first is the distance in bits from the chunk's first bit to the piece's first bit. The
        others are how many of the piece's bits are inputs: the second in all iterations of the
        innermost loop over chunks but the last, the third in the last iteration.
        """
        return tuple(
            (k * PIECE_BITS + self.piece_rows[k] * config.chunk_bits, body, tail)
            for k, (body, tail) in enumerate(zip(self.body_bits, self.tail_bits, strict=True))
            if body or tail
        )


def cut_window(
    layer: Layer, source: Placement, weight_pitch: int, aligned: bool, config: Config
) -> Chunks:
    """Return how the input window of a job is divided into chunks, for all jobs of a layer.

    Parameters
    ----------
    source : place in spike memory of the map that the layer reads.
    weight_pitch : number of rows of a bank's weight memory from the weights of one kernel row to
        the weights of the next.
    aligned : whether every run (the bits of a kernel row) begins at the first bit of a granule (8
        bits). If not, up to 7 bits of each chunk cannot be used. The reason is that a chunk is read
        as whole granules, of which the first may begin with bits that do not belong to the chunk.
    """
    missing = 0 if aligned else GRANULE_BITS
    gathered = _gather_rows(layer, source, weight_pitch, missing, config)
    chunks = gathered or _split_runs(layer, source, weight_pitch, missing, config)
    if chunks.levels[0].count == 1:  # every chunk is a last one
        chunks = replace(chunks, body_bits=chunks.tail_bits)
    return chunks


def _merges_columns(layer: Layer) -> bool:
    """Return whether a whole kernel row is one run.

    A run is a sequence of bits in spike memory whose weight rows follow one another. A kernel row
    is one run if each kernel column has weights of its own. If kernel columns share their weights,
    each position of the row is a run.
    """
    return layer.weight.shape[6] == layer.kernel[1]


def _gather_rows(
    layer: Layer, source: Placement, weight_pitch: int, missing: int, config: Config
) -> Chunks | None:
    """Return chunks that hold several short kernel rows each, one row in each piece (16 bits).

    Return None if a kernel row is not one run (consecutive bits with consecutive weight rows) or
    does not fit a piece, if a chunk could hold only one row, or if an offset exceeds its field of
    the layer's descriptor.

    ``missing`` is 0 if every run begins at the first bit of a granule (8 bits), else 8. If it is 8,
    up to 7 bits of each piece cannot be used. The reason is that a piece is read as whole granules,
    of which the first may begin with bits that do not belong to the piece. For the other
    parameters, see :func:`cut_window`.
    """
    kernel_y, kernel_x = layer.kernel
    run = (kernel_x - 1) * source.pixel + source.bank_channels
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
    layer: Layer, source: Placement, weight_pitch: int, missing: int, config: Config
) -> Chunks:
    """Return chunks that each hold one run (the bits of a kernel row), or a part of a longer run.

    ``missing`` is the number of bits of each chunk that are not used: 0 if every run begins at the
    first bit of a granule (8 bits), else 8. A chunk is read as whole granules, and its first
    granule may begin with up to 7 bits that do not belong to it. Leaving out 8 bits instead of 7
    lets all chunks of a run begin at the same bit of a granule. For the other parameters, see
    :func:`cut_window`.
    """
    kernel_y, kernel_x = layer.kernel
    merged = _merges_columns(layer)
    length = kernel_x if merged else 1  # number of positions of a run
    contiguous = (source.row, weight_pitch) == (
        length * source.pixel,
        length * source.position_rows,
    )
    if merged and contiguous:  # all kernel rows are one run
        length, kernel_y = length * kernel_y, 1
    n_pieces = config.chunk_bits // PIECE_BITS
    unused = (0,) * (N_PIECES - n_pieces)
    depth = source.bank_channels

    def valid(n_bits: int) -> tuple[int, ...]:
        """Return, for each piece (16 bits) of a chunk, how many of its bits are inputs of the job.

        The chunk holds ``n_bits`` bits of a run (the bits of a kernel row), which fill its pieces
        one after another. If every position takes a whole piece but has fewer than 16 channels,
        only the bits of its channels count. There are always :data:`hw.protocol.N_PIECES` numbers;
        those beyond the device's chunk are 0.
        """
        pieces = [min(max(n_bits - k * PIECE_BITS, 0), PIECE_BITS) for k in range(n_pieces)]
        return tuple(min(n, depth) if source.is_piece else n for n in pieces) + unused

    def rows(n_bits: int) -> int:
        """Return how many rows of weights a bank has for ``n_bits`` bits of a kernel row.

        The bits are a multiple of 8, or all bits of one or more positions.
        """
        return n_bits * source.position_rows // source.pixel

    def level(count: int, source: int, weight: int = 0) -> Level:
        return Level(count=count, strides=Strides(source=source, weight=weight), in_job=True)

    run = (length - 1) * source.pixel + depth
    step = config.chunk_bits - missing
    n_chunks = -(-run // step)
    levels = [level(n_chunks, step, rows(step))]
    if not merged:
        levels.append(level(kernel_x, source.pixel))
    levels.append(level(kernel_y, source.row, weight_pitch))
    return Chunks(
        levels=tuple(levels),
        body_bits=valid(step),
        tail_bits=valid(run - (n_chunks - 1) * step),
        piece_rows=(0,) * N_PIECES,
        piece_weights=tuple(rows(k * PIECE_BITS) for k in range(n_pieces)) + unused,
    )
