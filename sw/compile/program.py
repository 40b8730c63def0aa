"""The compiled program: places of maps in memory, loops of layers, and contents of memories.

Only NumPy is needed.

A *map* is the spikes (T, C, H, W) that one layer writes or the host sends. The core has several
*banks*, among which the channels of a map are divided; each bank has a spike memory and a weight
memory of its own (:class:`hw.spec.Config`). A *row* of a memory is what is read from it at once:
``lanes`` weights, or ``fire_lanes`` pairs of bias and threshold. A *granule* is 8 bits of spike
memory. A *job* is the computation of one output position of ``lanes`` channels at one timestep. The
core runs the jobs of a layer in nested loops, the layer's *levels*. A *run* is one inference.

A device that takes pixels splits an image into *bit-planes*. Each is a map of single bits: one bit
of every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from hw.protocol import LayerCounters, Space, n_bytes, n_rows, row_bytes, unpack
from hw.spec import GRANULE_BITS, N_PLANES, PIECE_BITS, Config
from sw.network.encoder import InputError, rounded
from sw.network.network import IMAGE, INPUT, Layer, Network, Shape

PIXELS = IMAGE
"""Name of the encoder's source: the image's bit-planes (N_PLANES, C, H, W), the highest first."""


class FitError(ValueError):
    """Error that a network does not fit a device.

    ``needs`` maps the name of each resource that is too small to a pair (needed, available), for
    memories in rows. It is empty if the fault is of another kind.
    """

    def __init__(self, message: str, needs: dict[str, tuple[int, int]] | None = None):
        super().__init__(message)
        self.needs = needs or {}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Region of a map in spike memory. It has the same addresses and layout in all banks.

    The channels of a map are dealt to the banks in a certain order (:mod:`sw.compile.deal`). The
    rank of a channel is its place in this order. In bank ``q % banks``, the channel of rank ``q``
    is bit ``q // banks`` of every position.

    A map of bit-planes is dealt by planes instead. Each bank has some of the planes, with all
    channels; the highest plane is in bank 0.

    ``pixel``, ``row`` and ``plane`` are distances in bits in the memory of one bank. ``pixel`` is
    the distance from a position to the next in its row, ``row`` from a row to the next. ``plane``
    is the distance from a timestep to the next. In a map of bit-planes, the banks process one plane
    each at a time, and ``plane`` is the distance from a bank's plane to its next plane.
    """

    shape: Shape
    timesteps: int
    """Number of timesteps of the map. In a map of bit-planes, number of planes."""
    order: tuple[int, ...]
    """Channels in the order in which they are dealt to the banks."""
    banks: int
    by_plane: bool
    """Whether the banks divide the bit-planes of the map (one bit of every pixel each) among them,
    instead of its channels."""
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
        """Number of channels of the map in the bank that has most of them."""
        return len(self.order) if self.by_plane else -(-len(self.order) // self.banks)

    @property
    def granule_rows(self) -> int:
        """Logarithm (base 2) of the number of weight rows that belong to a granule of 8 bits.

        Usually there are 8 rows, one for each bit. If a granule holds just one position with few
        channels, there are only 1, 2 or 4 rows, because the granule's other bits are never spikes.
        """
        if self.pixel == GRANULE_BITS:
            return (self.bank_channels - 1).bit_length()
        return (GRANULE_BITS - 1).bit_length()

    @property
    def is_piece(self) -> bool:
        """Whether a position takes 16 bits (one piece of a chunk), but has fewer channels.

        The unused bits at its end then have no weight rows.
        """
        return self.pixel == PIECE_BITS > self.bank_channels

    @property
    def position_rows(self) -> int:
        """Number of rows of weights in a bank from one position of a kernel row to the next."""
        if self.is_piece:
            return self.bank_channels
        return self.pixel * (1 << self.granule_rows) // GRANULE_BITS

    @property
    def first_row(self) -> int:
        """Row of :attr:`hw.protocol.Space.SPIKE` at which the region begins.

        The host addresses the spike memories of all banks together by such rows.
        """
        return self.start // GRANULE_BITS * self.banks

    @property
    def n_rows(self) -> int:
        """Size of the region in all banks together, in rows (bytes) of ``Space.SPIKE``."""
        return self.n_bits // GRANULE_BITS * self.banks

    @property
    def bank_inputs(self) -> tuple[tuple[int, ...], ...]:
        """Channels of the map whose weights each bank has, as one tuple per bank."""
        if self.by_plane:
            return (self.order,) * self.banks
        return tuple(self.order[bank :: self.banks] for bank in range(self.banks))

    def moved(self, n_bits: int) -> Placement:
        """Return a region of the same layout whose addresses are ``n_bits`` higher."""
        return replace(self, base=self.base + n_bits, start=self.start + n_bits)

    def index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bank of every spike of the map, and its bit address in that bank.

        Both are arrays that can be broadcast to the shape (T, C, H, W) of the map.
        """
        t, c, y, x = np.ogrid[tuple(slice(n) for n in (self.timesteps, *self.shape))]
        if self.by_plane:
            bank, step, bit = t % self.banks, t // self.banks, c
        else:
            rank = np.argsort(self.order)[c]
            bank, step, bit = rank % self.banks, t, rank // self.banks
        return bank, self.base + step * self.plane + y * self.row + x * self.pixel + bit

    def bank_bits(self, spikes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the contents of the map's region if the map is ``spikes`` (T, C, H, W).

        The result is an array (banks, n_bits) of 0 and 1.

        Raises
        ------
        ValueError
            The spikes do not have the shape of the map.
        """
        expected = (self.timesteps, *self.shape)
        if spikes.shape != expected:
            raise ValueError(f"spikes have shape {spikes.shape}, the map is {expected}")
        bits = np.zeros((self.banks, self.n_bits), np.uint8)
        bank, address = self.index()
        bits[bank, address - self.start] = spikes
        return bits

    def pack(self, spikes: NDArray[np.uint8]) -> bytes:
        """Return the region's bytes for ``spikes`` (T, C, H, W) of 0 and 1.

        They are in the order of the rows of :attr:`hw.protocol.Space.SPIKE`.
        """
        return np.packbits(self.bank_bits(spikes), axis=1, bitorder="little").T.tobytes()

    def unpack(self, raw: bytes) -> NDArray[np.uint8]:
        """Return the spikes (T, C, H, W) in the region's bytes, the inverse of :meth:`pack`."""
        rows = np.frombuffer(raw, np.uint8).reshape(-1, self.banks)
        bits = np.unpackbits(rows.T, axis=1, bitorder="little")
        bank, address = self.index()
        return bits[bank, address - self.start]


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """How the core runs one layer, for the prediction of its cycles and for reports.

    ``counts`` and ``source_strides`` have one number for each level of the loop nest, innermost
    first. A count is the level's number of iterations. A stride is the distance in bits between the
    inputs of two successive iterations, in a bank's spike memory.
    """

    name: str
    sources: tuple[str, ...]
    """Names of the maps that the layer reads, in the order of their addresses."""
    n_jobs: int
    spacing: int
    """Smallest number of cycles between the starts of two successive jobs in the fire unit."""
    n_beats: int
    """Number of cycles in which the fire unit updates the neurons of one job."""
    counts: tuple[int, ...]
    source_strides: tuple[int, ...]
    pieces: tuple[tuple[int, int, int], ...]
    """Three numbers for each piece (16 bits) of a chunk (:mod:`sw.compile.chunks`): its offset in
    bits from the chunk's first bit; how many of its bits are inputs of the job in all iterations of
    level 0 (the innermost) but the last; and how many in the last iteration."""
    source_base: int
    """Bit address in each bank of the input window of the first job."""
    gated: bool
    """Whether a gate joins the layer's spikes with the spikes of another map."""
    n_plane_steps: int
    """Number of iterations of the loop over timesteps that read bit-planes (one bit of every pixel
    each), in a layer that takes pixels. The timesteps that follow read no input. It is 0 in other
    layers."""
    time_level: int
    """Index of the level (loop) that runs over timesteps; 0 if there is only one timestep."""
    weight_rows: int
    """Number of rows of weights in all banks together."""
    param_rows: int
    """Number of rows of parameters."""
    weights_offchip: bool = False
    """Whether the rows of weights are outside the FPGA, instead of in weight memory."""
    params_offchip: bool = False
    """Whether the rows of parameters are outside the FPGA, instead of in parameter memory."""

    def bus_rows(self, n_weight_reads: float, n_jobs: int, config: Config) -> float:
        """Return the number of rows that ``n_jobs`` jobs read from memory outside the FPGA.

        ``n_weight_reads`` is the number of weight rows that the jobs read from any memory.
        """
        n_rows = n_weight_reads if self.weights_offchip else 0
        if self.params_offchip:
            n_rows += n_jobs * self.n_beats * config.param_chunks
        return n_rows


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Numbers that the device counted while it ran one layer
    (:class:`hw.protocol.LayerCounters`).
    """

    n_cycles: int
    n_weight_reads: int
    n_synaptic_ops: int
    n_spikes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """A network compiled for one configuration of the device.

    Attributes
    ----------
    images : bytes to write to each memory (:class:`hw.protocol.Space`) from row 0 on: weight
        memory, parameter memory and, if the device has it, memory outside the FPGA.
    placements : regions of spike memory by name of the map.
    inputs : regions that the host writes before a run (an inference), one per buffer; the first is
        in ``placements``. With several, the host can fill one while the device reads another.
    moved : names of the maps that lie elsewhere in a run on a later one of ``inputs``
        (:meth:`places`): the map that the host writes, and the maps that layers read together with
        it.
    entries : for each of ``inputs``, the row of :attr:`hw.protocol.Space.WEIGHT` at which the
        descriptors for a run on this input begin.
    layers : how each layer runs; the first one is the encoder if ``pixels`` is true.
    n_classes : number of logits.
    spike_bytes : number of bytes of spike memory in use, in all banks together. These are the
        first bytes, and are cleared when the program is loaded.
    pixels : whether the input is an image's bit-planes instead of spikes.
    pixel_bits : width to which the pixels of an image are rounded.
    """

    config: Config
    images: dict[Space, bytes]
    placements: dict[str, Placement]
    inputs: tuple[Placement, ...]
    moved: tuple[str, ...]
    entries: tuple[int, ...]
    layers: tuple[LayerPlan, ...]
    n_classes: int
    spike_bytes: int
    pixels: bool
    pixel_bits: int

    def places(self, buffer: int) -> dict[str, Placement]:
        """Return the regions of all maps, by name, in an inference on ``inputs[buffer]``.

        They are ``placements``, except that the maps ``moved`` lie elsewhere unless ``buffer`` is
        0.
        """
        offset = self.inputs[buffer].start - self.inputs[0].start
        return {
            name: place.moved(offset) if name in self.moved else place
            for name, place in self.placements.items()
        }

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return the number of rows used and of rows available in each memory, by its name.

        The names are "weight", "param" and "spike", and "offchip" if the device has memory outside
        the FPGA. A row of "spike" is a byte.
        """
        used = {
            space.name.lower(): (
                len(image) // row_bytes(space, self.config),
                n_rows(space, self.config),
            )
            for space, image in self.images.items()
        }
        return used | {"spike": (self.spike_bytes, n_rows(Space.SPIKE, self.config))}

    def pack_input(self, sample: NDArray[np.uint8], buffer: int = 0) -> bytes:
        """Return the bytes that the host writes to the region ``inputs[buffer]`` for one sample.

        The sample is an image (C, H, W) of uint8 if the program takes ``pixels``, else spikes
        (T, C, H, W) of uint8, 0 and 1.

        Raises
        ------
        sw.network.encoder.InputError
            The sample has another type or shape, or spikes have other values.
        """
        place = self.inputs[buffer]
        what = "an image" if self.pixels else "spikes of 0 and 1"
        shape = place.shape if self.pixels else (place.timesteps, *place.shape)
        if sample.dtype != np.uint8 or sample.shape != shape:
            raise InputError(
                f"the device takes {what} of type uint8 and shape {shape}, not {sample.dtype} "
                f"{sample.shape}"
            )
        if not self.pixels and sample.max() > 1:
            raise InputError(f"the device takes {what}, the largest value is {sample.max()}")
        return place.pack(bit_planes(rounded(sample, self.pixel_bits)) if self.pixels else sample)

    def logits(self, raw: bytes) -> NDArray[np.int64]:
        """Return the logits (n_classes,) of an inference.

        ``raw`` is the bytes of the first ``n_result_rows`` rows of
        :attr:`hw.protocol.Space.RESULT`.
        """
        return np.frombuffer(raw, "<i4")[: self.n_classes].astype(np.int64)

    @property
    def n_result_rows(self) -> int:
        """Number of rows of :attr:`hw.protocol.Space.RESULT` that hold the logits."""
        return -(-self.n_classes // self.config.fire_lanes)

    @property
    def n_counter_rows(self) -> int:
        """Number of rows of :attr:`hw.protocol.Space.COUNTER` for the counters of all layers."""
        return len(self.layers) * self.config.counter_rows

    def counters(self, raw: bytes) -> dict[str, Counters]:
        """Return the counters of every layer in an inference, by name of the layer.

        ``raw`` is the bytes of the first ``n_counter_rows`` rows of
        :attr:`hw.protocol.Space.COUNTER`.
        """
        size = n_bytes(LayerCounters)
        names = [f.name for f in fields(Counters)]
        counters = {}
        for n, layer in enumerate(self.layers):
            found = unpack(LayerCounters, raw[n * size : (n + 1) * size])
            counters[layer.name] = Counters(**{name: int(getattr(found, name)) for name in names})
        return counters


def device_layers(network: Network, pixels: bool) -> tuple[Layer, ...]:
    """Return the layers that the device runs, in order.

    If the device takes ``pixels``, the first one is the network's encoder, renamed to
    :data:`sw.network.network.INPUT`, the name of the map that it writes. Otherwise the host
    computes the encoder.
    """
    if not pixels:
        return network.layers
    assert network.encoder is not None
    return replace(network.encoder, source=PIXELS, name=INPUT), *network.layers


def bit_planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Split an image (C, H, W) of uint8 into its bit-planes (N_PLANES, C, H, W), highest first."""
    shifts = np.arange(N_PLANES - 1, -1, -1, dtype=np.uint8)[:, None, None, None]
    return ((image[None] >> shifts) & 1).astype(np.uint8)
