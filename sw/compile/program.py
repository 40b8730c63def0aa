"""The compiled program: where maps lie, how layers run, what memories hold. NumPy only.

A *map* is the spikes (T, C, H, W) that one layer writes or the host sends. A *row* of a memory is
what the core reads from it at once: ``lanes`` weights, or ``fire_lanes`` pairs of bias and
threshold. A *job* is the computation of one output position of ``lanes`` channels at one timestep.
A layer is divided between the cores; the *part* of one core is run as nested loops, its *levels*.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from hw.protocol import LayerCounters, Space, n_bytes, n_rows, row_bytes, unpack
from hw.spec import GRANULE_BITS, N_PLANES, PIECE_BITS, Config
from sw.network.network import IMAGE, INPUT, Layer, Network, Shape

PIXELS = IMAGE
"""Name of the encoder's source: the image's bit-planes (N_PLANES, C, H, W), the highest first."""


class FitError(ValueError):
    """A network does not fit a device.

    ``needs`` maps the name of each resource that is too small to (needed, available); it is empty
    if the fault is of another kind.
    """

    def __init__(self, message: str, needs: dict[str, tuple[int, int]] | None = None):
        super().__init__(message)
        self.needs = needs or {}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Region of a map in spike memory, which is the same in all banks.

    A map's channels are dealt to the banks: the one of rank ``q`` is bit ``q // banks`` of its
    position in bank ``q % banks``. Of a map of bit-planes, each bank has whole planes instead, the
    highest in bank 0. ``pixel``, ``row`` and ``plane`` are the distances in bits of a bank from a
    position to the next in its row, from a row to the next, and from a timestep (or from the planes
    that all banks process at once) to the next.
    """

    shape: Shape
    timesteps: int
    """Number of timesteps, or of bit-planes."""
    order: tuple[int, ...]
    """Channel of each rank."""
    banks: int
    by_plane: bool
    """Whether banks have planes of their own, with all channels, instead of channels."""
    base: int
    """Bit address of the first channel of position (0, 0) at timestep 0, behind the padding."""
    start: int
    """Bit address at which the region begins in each bank."""
    n_bits: int
    """Size of the region in each bank, a multiple of 8."""
    pixel: int
    row: int
    plane: int

    @property
    def bank_channels(self) -> int:
        """Number of channels of a position in a bank, counting those that are missing in some."""
        return len(self.order) if self.by_plane else -(-len(self.order) // self.banks)

    @property
    def granule_rows(self) -> int:
        """Logarithm (base 2) of the number of weight rows of a granule, which has 8 inputs unless
        it holds a position with fewer channels."""
        if self.pixel == GRANULE_BITS:
            return (self.bank_channels - 1).bit_length()
        return (GRANULE_BITS - 1).bit_length()

    @property
    def is_piece(self) -> bool:
        """Whether a position fills a piece but for its last bits, which take no weights then."""
        return self.pixel == PIECE_BITS > self.bank_channels

    @property
    def position_rows(self) -> int:
        """Number of weight rows of a bank for a position that another one follows."""
        if self.is_piece:
            return self.bank_channels
        return self.pixel * (1 << self.granule_rows) // GRANULE_BITS

    @property
    def first_row(self) -> int:
        """First row of the region as the host sees it, in :attr:`hw.protocol.Space.SPIKE`."""
        return self.start // GRANULE_BITS * self.banks

    @property
    def n_rows(self) -> int:
        """Number of rows of :attr:`hw.protocol.Space.SPIKE`, which are bytes, of all banks."""
        return self.n_bits // GRANULE_BITS * self.banks

    @property
    def bank_inputs(self) -> tuple[tuple[int, ...], ...]:
        """Channels whose weights each bank has."""
        if self.by_plane:
            return (self.order,) * self.banks
        return tuple(self.order[bank :: self.banks] for bank in range(self.banks))

    def index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bank and the bit address of every spike (t, c, y, x), as arrays that can be
        broadcast to that shape."""
        t, c, y, x = np.ogrid[tuple(slice(n) for n in (self.timesteps, *self.shape))]
        if self.by_plane:
            bank, step, bit = t % self.banks, t // self.banks, c
        else:
            rank = np.argsort(self.order)[c]
            bank, step, bit = rank % self.banks, t, rank // self.banks
        return bank, self.base + step * self.plane + y * self.row + x * self.pixel + bit

    def bank_bits(self, spikes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the region's bits (banks, n_bits) for ``spikes`` (T, C, H, W) of 0 and 1."""
        expected = (self.timesteps, *self.shape)
        if spikes.shape != expected:
            raise ValueError(f"spikes have shape {spikes.shape}, the map is {expected}")
        bits = np.zeros((self.banks, self.n_bits), np.uint8)
        bank, address = self.index()
        bits[bank, address - self.start] = spikes
        return bits

    def pack(self, spikes: NDArray[np.uint8]) -> bytes:
        """Return the region's bytes, in the order of the host's rows, for ``spikes`` (T, C, H, W)
        of 0 and 1."""
        return np.packbits(self.bank_bits(spikes), axis=1, bitorder="little").T.tobytes()

    def unpack(self, raw: bytes) -> NDArray[np.uint8]:
        """Return the spikes (T, C, H, W) in the region's bytes."""
        rows = np.frombuffer(raw, np.uint8).reshape(-1, self.banks)
        bits = np.unpackbits(rows.T, axis=1, bitorder="little")
        bank, address = self.index()
        return bits[bank, address - self.start]


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """Plan of one layer; ``counts`` and strides are per level, innermost first."""

    name: str
    source: str
    n_jobs: int
    spacing: int
    """Smallest number of cycles between the starts of two jobs in the fire unit."""
    n_beats: int
    """Number of cycles in which the fire unit updates the neurons of one job."""
    counts: tuple[int, ...]
    source_strides: tuple[int, ...]
    pieces: tuple[tuple[int, int, int], ...]
    """One tuple for each piece of a chunk (:mod:`sw.compile.chunks`): (bit offset from the chunk's
    first bit, valid bits, valid bits in the last iteration of level 0)."""
    source_base: int
    gated: bool
    n_plane_steps: int
    """Iterations of the loop over timesteps that read bit-planes, in a layer that takes pixels; the
    timesteps that follow read no input. 0 in other layers."""
    time_level: int
    """Index of the level that runs over timesteps; 0 if there is only one timestep."""
    weight_rows: int
    """Rows of weights in all banks together."""
    param_rows: int


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What the device counted while it ran one layer; see :class:`hw.protocol.LayerCounters`."""

    n_cycles: int
    n_weight_reads: int
    n_synaptic_ops: int
    n_spikes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """A network compiled for one configuration of the device.

    Attributes
    ----------
    images : bytes to write to each space from row 0 on, in which the rows of the banks alternate.
    placements : regions of spike memory by name of the map.
    inputs : regions that the host writes before a run, one per buffer; the first is in
        ``placements``.
    entries : rows of weight memory, counted over all banks, at which a run on each of ``inputs``
        begins.
    layers : how each layer runs; the first one is the encoder if the device takes pixels.
    n_classes : number of logits.
    spike_bytes : bytes of spike memory in use in all banks together, from row 0 on; they are
        cleared when the program is loaded.
    pixels : whether the input is an image's bit-planes instead of spikes.
    """

    config: Config
    images: dict[Space, bytes]
    placements: dict[str, Placement]
    inputs: tuple[Placement, ...]
    entries: tuple[int, ...]
    layers: tuple[LayerPlan, ...]
    n_classes: int
    spike_bytes: int
    pixels: bool

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return (rows used, rows available) by name of the memory; a row of "spike" is a byte."""
        available = {
            Space.WEIGHT: n_rows(Space.WEIGHT, self.config),
            Space.PARAM: n_rows(Space.PARAM, self.config),
        }
        used = {
            space.name.lower(): (len(image) // row_bytes(space, self.config), available[space])
            for space, image in self.images.items()
        }
        return used | {"spike": (self.spike_bytes, n_rows(Space.SPIKE, self.config))}

    def pack_input(self, sample: NDArray[np.uint8], buffer: int = 0) -> bytes:
        """Return the bytes that the host writes to the region ``inputs[buffer]`` for one sample.

        The sample is an image (C, H, W) of uint8 if the device takes pixels, else spikes
        (T, C, H, W) of 0 and 1.
        """
        place = self.inputs[buffer]
        if self.pixels and sample.shape != place.shape:
            raise ValueError(f"the image has shape {sample.shape}, the device takes {place.shape}")
        return place.pack(bit_planes(sample) if self.pixels else sample)

    def logits(self, raw: bytes) -> NDArray[np.int64]:
        """Decode the logits (n_classes,), given the bytes of the device's results.

        These are the first ``n_result_rows`` rows of the space :attr:`hw.protocol.Space.RESULT`.
        """
        return np.frombuffer(raw, "<i4")[: self.n_classes].astype(np.int64)

    @property
    def n_result_rows(self) -> int:
        """Number of rows of the device's results that hold the logits."""
        return -(-self.n_classes // self.config.fire_lanes)

    @property
    def n_counter_rows(self) -> int:
        """Rows that hold the counters of all layers."""
        return len(self.layers) * self.config.counter_rows

    def counters(self, raw: bytes) -> dict[str, Counters]:
        """Decode the counters by layer from the first ``n_counter_rows`` counter rows."""
        size = n_bytes(LayerCounters)
        names = [f.name for f in fields(Counters)]
        counters = {}
        for n, layer in enumerate(self.layers):
            found = unpack(LayerCounters, raw[n * size : (n + 1) * size])
            counters[layer.name] = Counters(**{name: int(getattr(found, name)) for name in names})
        return counters


def device_layers(network: Network, pixels: bool) -> tuple[Layer, ...]:
    """Return the layers that the device runs, in order.

    If it takes ``pixels``, the first one is the network's encoder, renamed to the map that it
    writes, :data:`sw.network.network.INPUT`. Otherwise the host computes the encoder.
    """
    if not pixels:
        return network.layers
    assert network.encoder is not None
    return replace(network.encoder, source=PIXELS, name=INPUT), *network.layers


def bit_planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Split an image (C, H, W) of uint8 into its bit-planes (N_PLANES, C, H, W), highest first."""
    shifts = np.arange(N_PLANES - 1, -1, -1, dtype=np.uint8)[:, None, None, None]
    return ((image[None] >> shifts) & 1).astype(np.uint8)
