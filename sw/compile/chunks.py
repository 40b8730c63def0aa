"""Division of a job's input window into chunks, the units in which a core reads spike memory."""

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
    """The chunks of a job.

    ``levels`` are the loops over its chunks; the other fields are those of
    :class:`hw.protocol.Header`, one value per piece of a chunk.
    """

    levels: tuple[Level, ...]
    body_bits: tuple[int, ...]
    tail_bits: tuple[int, ...]
    piece_rows: tuple[int, ...]
    piece_weights: tuple[int, ...]

    def pieces(self, config: Config) -> tuple[tuple[int, int, int], ...]:
        """Return the pieces in use, as in :attr:`sw.compile.program.Part.pieces`."""
        return tuple(
            (k * PIECE_BITS + self.piece_rows[k] * config.chunk_bits, body, tail)
            for k, (body, tail) in enumerate(zip(self.body_bits, self.tail_bits, strict=True))
            if body or tail
        )


@dataclass(frozen=True, kw_only=True)
class Window:
    """Input window of a job in one bank: the runs of bits that it reads, and their rows of weights."""

    layer: Layer
    source: Placement
    aligned: bool
    """Whether every run begins at a granule. If not, a chunk lacks up to ``GRANULE_BITS - 1`` bits
    at its end, because it is read as whole granules from the one that holds its first bit."""
    n_rows: int
    """Rows of weights of a position, see :func:`sw.compile.rows.position_rows`."""
    weight_pitch: int
    """Rows of weight memory between the weights of two kernel rows."""

    @property
    def merges_columns(self) -> bool:
        """Whether the kernel's columns have weights of their own, so that a row is one run."""
        return self.layer.weight.shape[6] == self.layer.kernel[1]

    @property
    def run(self) -> int:
        """Number of contiguous bits that a kernel row reads or, if kernel columns share their
        weights, one position of it."""
        n_positions = self.layer.kernel[1] if self.merges_columns else 1
        return (n_positions - 1) * self.source.pixel + self.source.channels

    @property
    def missing(self) -> int:
        """Bits by which chunks are shorter because runs may begin anywhere in a granule."""
        return 0 if self.aligned else GRANULE_BITS

    @property
    def is_compact(self) -> bool:
        """Whether a position takes fewer rows of weights than it has bits."""
        return self.n_rows < self.source.pixel

    @property
    def granule_rows(self) -> int:
        """Logarithm of the number of weight rows of a granule."""
        if self.is_compact and self.source.pixel == GRANULE_BITS:
            return (self.n_rows - 1).bit_length()
        return (GRANULE_BITS - 1).bit_length()

    @property
    def piece_bits(self) -> int:
        """Largest number of valid bits of a piece of a chunk that holds a part of one run."""
        return self.n_rows if self.is_compact and self.source.pixel == PIECE_BITS else PIECE_BITS

    def rows_of(self, n_bits: int) -> int:
        """Return the rows of weights of ``n_bits`` of a run: of whole positions if it is compact."""
        return n_bits // self.source.pixel * self.n_rows if self.is_compact else n_bits


def cut_window(window: Window, config: Config) -> Chunks:
    """Cut the input window of a job into chunks."""
    return _gather_rows(window, config) or _split_runs(window, config)


def _gather_rows(window: Window, config: Config) -> Chunks | None:
    """Return chunks that hold several short kernel rows, a piece each; None if only one would fit
    or an offset exceeds its header field."""
    source, run, weight_pitch = window.source, window.run, window.weight_pitch
    kernel_y = window.layer.kernel[0]
    n_pieces = config.chunk_bits // PIECE_BITS
    pitch_bytes, rest = divmod(source.row, GRANULE_BITS)
    if rest or not window.merges_columns:
        return None
    n_rows = rows_per_chunk(pitch_bytes, kernel_y, config)
    if n_rows < 2 or run > PIECE_BITS - max(window.missing - 1, 0):
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


def _split_runs(window: Window, config: Config) -> Chunks:
    """Return chunks that each hold a part of one run."""
    source, run, weight_pitch = window.source, window.run, window.weight_pitch
    kernel_y, kernel_x = window.layer.kernel
    if (
        window.merges_columns
        and source.row == kernel_x * source.pixel
        and weight_pitch == kernel_x * window.n_rows
    ):  # all kernel rows and their weights are contiguous
        run, kernel_y = run + (kernel_y - 1) * source.row, 1
    step = config.chunk_bits - window.missing
    n_chunks = -(-run // step)
    n_pieces = config.chunk_bits // PIECE_BITS
    starts = [k * PIECE_BITS for k in range(n_pieces)]
    unused = (0,) * (N_PIECES - n_pieces)

    def valid(n_bits: int) -> tuple[int, ...]:
        """Return the valid bits of each piece of a chunk that has ``n_bits``."""
        return tuple(min(max(n_bits - start, 0), window.piece_bits) for start in starts) + unused

    def level(count: int, source: int, weight: int = 0) -> Level:
        return Level(count=count, strides=Strides(source=source, weight=weight), in_job=True)

    levels = [level(n_chunks, step, window.rows_of(step))]
    if not window.merges_columns:
        levels.append(level(kernel_x, source.pixel))
    levels.append(level(kernel_y, source.row, weight_pitch))
    return Chunks(
        levels=tuple(levels),
        body_bits=valid(step),
        tail_bits=valid(run - (n_chunks - 1) * step),
        piece_rows=(0,) * N_PIECES,
        piece_weights=tuple(window.rows_of(start) for start in starts) + unused,
    )
