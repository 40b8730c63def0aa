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

from hw.protocol import (
    LayerCounters,
    Space,
    n_rows,
    row_bytes,
    unpack,
)
from hw.spec import (
    N_PLANES,
    Config,
)
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
    """Region of spike memory that holds a map, and the layout of the map in it.

    ``shape`` is (C, H, W). The distances in bits between neighbours are ``pixel`` from one position
    to the next in its row, ``row`` from one row to the next, and ``plane`` from one timestep to the
    next.
    """

    shape: Shape
    timesteps: int
    base: int
    """Bit address of channel 0 of position (0, 0) at timestep 0, which follows the padding."""
    start: int
    """Bit address at which the region begins."""
    n_bits: int
    """Size of the region, a multiple of 8."""
    pixel: int
    row: int
    plane: int

    def _index(self) -> NDArray[np.int64]:
        """Return an array (T, C, H, W) with the index of each spike's bit in the region."""
        t, c, y, x = np.ogrid[tuple(slice(n) for n in (self.timesteps, *self.shape))]
        return (self.base - self.start + t * self.plane + y * self.row + x * self.pixel + c).astype(
            np.int64
        )

    def pack(self, spikes: NDArray[np.uint8]) -> bytes:
        """Pack ``spikes`` (T, C, H, W) of 0 and 1 into the bytes of the region; padding is 0."""
        expected = (self.timesteps, *self.shape)
        if spikes.shape != expected:
            raise ValueError(f"spikes have shape {spikes.shape}, the map is {expected}")
        bits = np.zeros(self.n_bits, np.uint8)
        bits[self._index()] = spikes
        return np.packbits(bits, bitorder="little").tobytes()

    def unpack(self, raw: bytes) -> NDArray[np.uint8]:
        """Extract the spikes (T, C, H, W) of 0 and 1 from the bytes of the region."""
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        return bits[self._index()]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Plan of the part of a layer that one core computes, from which its cycles can be predicted.

    ``counts`` (numbers of iterations) and ``source_strides`` (in bits of the map that the layer
    reads) have one entry per level of the loop nest, innermost first.
    """

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
    pixels: bool
    time_level: int
    """Index of the level that runs over timesteps; 0 if there is only one timestep."""
    weight_rows: int
    param_rows: int


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """Plan of one layer; ``parts`` has one entry per core, None for a core that is idle in it."""

    name: str
    source: str
    parts: tuple[Part | None, ...]

    @property
    def weight_rows(self) -> int:
        """Number of rows of weight memory that the layer's weights take in all cores together.

        Rows that several cores store count once for each of them.
        """
        return sum(part.weight_rows for part in self.parts if part)

    @property
    def param_rows(self) -> int:
        """Number of rows of parameter memory that the layer takes in all cores together."""
        return sum(part.param_rows for part in self.parts if part)


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
    images : contents of weight and parameter memory, which the host writes from row 0 on. The rows
        of the cores alternate.
    placements : regions of spike memory, by name of the map that each holds.
    inputs : regions into which the host may write the input of a run. While the core reads one,
        the host can fill the other, if there are two. The first one is also in ``placements``.
    entries : for each of ``inputs``, the row of weight memory at which the descriptors of a run
        that reads it begin.
    layers : plans of the layers in the order in which they run; the first one is the encoder if the
        device takes pixels.
    n_classes : number of logits.
    spike_bytes : number of bytes of spike memory in use, which are cleared when the program is
        loaded.
    pixels : whether the device takes pixels, so that its input is the bit-planes of an image
        instead of spikes.
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
        return used | {"spike": (self.spike_bytes, self.config.spike_bytes)}

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
        """Number of rows of the device's counters that hold those of all layers and cores."""
        return len(self.layers) * self.config.counter_rows * self.config.cores

    def counters(self, raw: bytes) -> dict[str, Counters]:
        """Decode the counters of each layer by name, given the bytes of the device's counters.

        These are the first ``n_counter_rows`` rows of :attr:`hw.protocol.Space.COUNTER`. The counts
        of all cores are added up. Only of the cycles the largest number is taken, because the cores
        run at the same time.
        """
        rows = np.frombuffer(raw, np.uint8)  # the rows of the cores alternate
        rows = rows.reshape(len(self.layers), self.config.counter_rows, self.config.cores, -1)
        counters = {}
        for layer, of_cores in zip(self.layers, rows.swapaxes(1, 2), strict=True):
            parts = [unpack(LayerCounters, of_core.tobytes()) for of_core in of_cores]
            values = {f.name: [int(getattr(p, f.name)) for p in parts] for f in fields(Counters)}
            counters[layer.name] = Counters(
                **{name: (max if name == "n_cycles" else sum)(v) for name, v in values.items()}
            )
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
