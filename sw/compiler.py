"""From an integer network to what a device's memories hold. NumPy only.

Every map of spikes has a region of spike memory, all timesteps one after another, each position's
channels side by side (T, H, W, C). Zero padding is physical and shared between neighbouring rows
and planes; it is cleared once and never written. A layer is one walk of the loop nest, innermost
level first::

    chunk of a run | kernel column, if shared | kernel row | pooling x | pooling y |
    interleaved positions and groups | timestep | channel group | x | y

where a run is all the bits of a kernel row, which are contiguous. A map with few channels is given
a row pitch with which several short runs, one below the other, are one chunk. Sharing weights along
an axis is a weight stride of 0 at its level. Weights are stored in the order in which they are
used: (y, x, group, timestep, kernel row, kernel column, channel), one row of ``lanes`` output
channels each, axes of length 1 left out; the descriptors follow them.

What the host writes before a run has two regions if there is room, each with descriptors of its
own, so that one is filled while the core works on the other. A device that takes pixels
(``Config.pixels``) runs the network's encoder as its first layer, on the bit-planes of the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.protocol import (
    N_PIECES,
    Descriptor,
    LayerCounters,
    Space,
    descriptor_rows,
    n_rows,
    pack,
    row_bytes,
    unpack,
)
from hw.spec import (
    GRANULE_BITS,
    MEMBRANE_LATENCY,
    N_LEVELS,
    N_PLANES,
    PARAM_BITS,
    PIECE_BITS,
    Config,
    signed_range,
)
from sw.bounds import layer_bounds
from sw.encoder import PIXEL_MAX
from sw.network import INPUT, Layer, Network, Shape

PIXELS = "image"
"""Name of the map of bit-planes (N_PLANES, C, H, W), the highest first: the encoder's source."""


class FitError(ValueError):
    """The network does not fit the device. ``needs`` maps what is short to (needed, available)."""

    def __init__(self, message: str, needs: dict[str, tuple[int, int]] | None = None):
        super().__init__(message)
        self.needs = needs or {}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a map of spikes lies. Pitches are in bits of spike memory."""

    shape: Shape
    timesteps: int
    base: int
    """Bit address of channel 0 of position (0, 0) at timestep 0, behind the padding."""
    start: int
    """Bit address at which the region begins."""
    n_bits: int
    """Size of the region, a multiple of 8."""
    pixel: int
    row: int
    plane: int

    def _index(self) -> NDArray[np.int64]:
        """Bit index in the region of every (t, c, y, x)."""
        t, c, y, x = np.ogrid[tuple(slice(n) for n in (self.timesteps, *self.shape))]
        return (self.base - self.start + t * self.plane + y * self.row + x * self.pixel + c).astype(
            np.int64
        )

    def pack(self, spikes: NDArray[np.uint8]) -> bytes:
        """The region's bytes for ``spikes`` (T, C, H, W) of 0 and 1."""
        expected = (self.timesteps, *self.shape)
        if spikes.shape != expected:
            raise ValueError(f"spikes have shape {spikes.shape}, the map is {expected}")
        bits = np.zeros(self.n_bits, np.uint8)
        bits[self._index()] = spikes
        return np.packbits(bits, bitorder="little").tobytes()

    def unpack(self, raw: bytes) -> NDArray[np.uint8]:
        """Spikes (T, C, H, W) in the region's bytes."""
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        return bits[self._index()]


@dataclass(frozen=True, kw_only=True)
class Part:
    """How one core runs its part of a layer. ``counts`` and the strides are per level, innermost
    first."""

    n_jobs: int
    spacing: int
    n_beats: int
    """Cycles of a job in the fire unit."""
    counts: tuple[int, ...]
    source_strides: tuple[int, ...]
    pieces: tuple[tuple[int, int, int], ...]
    """Of a chunk, from its first bit: bit offset, valid bits, valid bits in a run's last chunk."""
    source_base: int
    gated: bool
    pixels: bool
    time_level: int
    """Level of timesteps, which only a layer that takes pixels surely has."""
    weight_rows: int
    param_rows: int


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """How one layer runs: a part per core, None for a core that has nothing to do."""

    name: str
    source: str
    parts: tuple[Part | None, ...]

    @property
    def weight_rows(self) -> int:
        """Rows of weights, in all cores; what cores share is in each of them."""
        return sum(part.weight_rows for part in self.parts if part)

    @property
    def param_rows(self) -> int:
        """The same of parameters."""
        return sum(part.param_rows for part in self.parts if part)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What one layer did, see :class:`hw.protocol.LayerCounters`."""

    n_cycles: int
    n_weight_reads: int
    n_synaptic_ops: int
    n_spikes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """A network compiled for one configuration.

    Attributes
    ----------
    images : what to write to each space, from row 0 on, the cores' rows in turns.
    placements : regions of spike memory by name of the map.
    inputs : regions that the host writes before a run, one per buffer; the first is in
        ``placements``.
    entries : rows of weight memory at which a run on each of ``inputs`` begins.
    layers : how each layer runs; the first one is the encoder if the device takes pixels.
    n_classes : logits.
    spike_bytes : bytes of spike memory in use; they are cleared when the program is loaded.
    pixels : the input is an image's bit-planes, not spikes.
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
        """(rows used, rows available) per memory."""
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
        """What to write to ``inputs[buffer]`` for an image (C, H, W) of uint8 if ``pixels``, else
        for spikes (T, C, H, W) of 0 and 1."""
        place = self.inputs[buffer]
        if self.pixels and sample.shape != place.shape:
            raise ValueError(f"the image has shape {sample.shape}, the device takes {place.shape}")
        return place.pack(bit_planes(sample) if self.pixels else sample)

    def logits(self, raw: bytes) -> NDArray[np.int64]:
        """Logits (n_classes,) in the first :meth:`n_result_rows` rows of results."""
        return np.frombuffer(raw, "<i4")[: self.n_classes].astype(np.int64)

    @property
    def n_result_rows(self) -> int:
        return -(-self.n_classes // self.config.fire_lanes)

    @property
    def n_counter_rows(self) -> int:
        return len(self.layers) * self.config.counter_rows * self.config.cores

    def counters(self, raw: bytes) -> dict[str, Counters]:
        """By layer, from the first :meth:`n_counter_rows` rows of counters. Those of the cores are
        added up, but for their cycles: they work at the same time."""
        rows = np.frombuffer(raw, np.uint8)  # the cores' in turns
        rows = rows.reshape(len(self.layers), self.config.counter_rows, self.config.cores, -1)
        counters = {}
        for layer, of_cores in zip(self.layers, rows.swapaxes(1, 2), strict=True):
            parts = [unpack(LayerCounters, of_core.tobytes()) for of_core in of_cores]
            values = {f.name: [int(getattr(p, f.name)) for p in parts] for f in fields(Counters)}
            counters[layer.name] = Counters(
                **{name: (max if name == "n_cycles" else sum)(v) for name, v in values.items()}
            )
        return counters


def _increments(counts: Iterable[int], strides: Iterable[int]) -> list[int]:
    """By how much an address moves when each level advances and all inner ones start again."""
    moves, span = [], 0
    for count, stride in zip(counts, strides, strict=True):
        moves.append(stride - span)
        span += (count - 1) * stride
    return moves


def _gathered(pitch_bytes: int, kernel_y: int, config: Config) -> int:
    """How many rows of a kernel, ``pitch_bytes`` apart, one chunk can hold: no two pieces may meet
    in a column of spike memory."""
    n_pieces = config.chunk_bits // PIECE_BITS
    if pitch_bytes * GRANULE_BITS % PIECE_BITS:
        return 1
    step = pitch_bytes * GRANULE_BITS // PIECE_BITS
    n_rows = 1
    while n_rows < min(kernel_y, n_pieces) and n_rows * step % n_pieces:
        n_rows += 1
    return n_rows


def _input_pitch(row: int, kernel_y: int, config: Config) -> int:
    """Row pitch in bits of an input map with short runs: at most half as much again as ``row``, if
    that lets a chunk hold more rows of the kernel."""
    smallest = -(-row // GRANULE_BITS)
    pitches = [n for n in range(smallest, smallest + N_PIECES * 2 + 1) if 2 * n <= 3 * smallest]
    best = max(pitches, key=lambda n: (_gathered(n, kernel_y, config), -n), default=0)
    return best * GRANULE_BITS if best and _gathered(best, kernel_y, config) > 1 else row


def _place(
    shapes: dict[str, Shape],
    layers: tuple[Layer, ...],
    timesteps: dict[str, int],
    config: Config,
) -> tuple[dict[str, Placement], int]:
    """Give every map a region, and the number of bits in use. A map's padding is the most that any
    of its readers wants; the first map is the host's."""
    placements: dict[str, Placement] = {}
    start = 0
    for n, (name, (channels, height, width)) in enumerate(shapes.items()):
        readers = [layer for layer in layers if layer.source == name]
        pad_y = max((layer.padding[0] for layer in readers), default=0)
        pad_x = max((layer.padding[1] for layer in readers), default=0)
        # The host writes bit by bit, the core whole granules; identity spikes are read as granules.
        by_bit = n == 0 and all(layer.identity != name for layer in layers)
        pixel = channels if by_bit else -(-channels // GRANULE_BITS) * GRANULE_BITS
        row = (width + pad_x) * pixel
        if by_bit and any(_is_short(layer, pixel) for layer in readers):
            row = _input_pitch(row, max(layer.kernel[0] for layer in readers), config)
        plane = (height + pad_y) * row
        n_bits = timesteps[name] * plane + pad_y * row + pad_x * pixel
        n_bits = -(-n_bits // GRANULE_BITS) * GRANULE_BITS
        placements[name] = Placement(
            shape=(channels, height, width),
            timesteps=timesteps[name],
            base=start + pad_y * row + pad_x * pixel,
            start=start,
            n_bits=n_bits,
            pixel=pixel,
            row=row,
            plane=plane,
        )
        start += n_bits
    return placements, start


def _is_short(layer: Layer, pixel: int) -> bool:
    """Whether a kernel row of ``layer`` is a piece, wherever it begins in a granule."""
    run = (layer.kernel[1] - 1) * pixel + layer.weight.shape[4]
    return layer.weight.shape[6] == layer.kernel[1] and run <= PIECE_BITS - GRANULE_BITS + 1


@dataclass
class _Level:
    """A loop of a layer: its trip count and every stride."""

    count: int
    source: int = 0
    weight: int = 0
    identity: int = 0
    target: int = 0
    param: int = 0
    slot: int = 0
    in_job: bool = False
    is_time: bool = False
    is_pool: bool = False
    is_group: bool = False


def _interleavings(
    height: int, width: int, groups: int, n_children: int, n_beats: int, config: Config
) -> list[tuple[int, tuple[int, int, int]]]:
    """Ways to take turns between neighbouring columns, rows and channel groups, so that no job
    waits for its own membrane: (spacing of jobs, how many of each), the best ones first."""

    def divisors(n: int) -> list[int]:
        return [d for d in range(1, n + 1) if n % d == 0]

    ways = []
    for turns in itertools.product(divisors(width), divisors(height), divisors(groups)):
        slots = int(np.prod(turns)) * n_children
        if slots <= config.membrane_slots:
            spacing = max(n_beats, -(-MEMBRANE_LATENCY // slots))
            ways.append((spacing, sum(n > 1 for n in turns), slots, turns))
    return [(spacing, turns) for spacing, _, _, turns in sorted(ways)]


def _pack_rows(values: NDArray[np.integer[Any]], bits: int) -> bytes:
    """Two's complement fields of ``bits`` bits, lowest first; rows are whole bytes."""
    if bits in (8, 16):
        return values.astype(f"<i{bits // 8}").tobytes()
    fields = values.astype(np.int8).view(np.uint8).reshape(-1, 8 // bits) & ((1 << bits) - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (fields << shifts).sum(axis=1, dtype=np.uint8).tobytes()


def _weight_rows(layer: Layer, config: Config, pixel: int) -> NDArray[np.int8]:
    """(y, x, group, t, ky, run, lanes), axes of length 1 where shared."""
    t, y, x, n_out, n_in, ky, kx = layer.weight.shape
    groups = -(-n_out // config.lanes)
    padded = np.zeros((t, y, x, groups * config.lanes, ky, kx, pixel), np.int8)
    padded[:, :, :, :n_out, :, :, :n_in] = layer.weight.transpose(0, 1, 2, 3, 5, 6, 4)
    run = (kx - 1) * pixel + n_in
    flat = padded.reshape(t, y, x, groups, config.lanes, ky, kx * pixel)[..., :run]
    return np.ascontiguousarray(flat.transpose(1, 2, 3, 0, 5, 6, 4))


def _param_rows(
    layer: Layer, config: Config, conv: tuple[int, int], kept: tuple[int, int]
) -> NDArray[np.int16]:
    """(y, x, group, t, lanes, 2): bias and threshold, axes of length 1 where both are shared."""
    threshold = layer.threshold
    if threshold is None:
        threshold = np.ones((1, 1, layer.n_out), np.int32)
    t = layer.bias.shape[0]
    y = max(layer.bias.shape[1], threshold.shape[0])
    x = max(layer.bias.shape[2], threshold.shape[1])
    groups = -(-layer.n_out // config.lanes)
    low, high = signed_range(PARAM_BITS)
    for what, values in (("bias", layer.bias), ("threshold", threshold)):
        if values.size and (values.min() < low or values.max() > high):
            raise FitError(
                f"layer {layer.name!r}: a {what} of {values.min()} to {values.max()} exceeds "
                f"{PARAM_BITS} bits; quantise with a coarser scale"
            )
    # Padding neurons have no weights and no bias, so a threshold of 1 keeps them silent.
    rows = np.zeros((y, x, t, groups * config.lanes, 2), np.int16)
    rows[..., 1] = 1
    rows[..., : layer.n_out, 0] = layer.bias.transpose(1, 2, 0, 3)
    rows[..., : layer.n_out, 1] = threshold[:, :, None]
    # Pooling may drop the last rows and columns of the map; they have no parameters.
    rows = rows[: kept[0] if y == conv[0] else None, : kept[1] if x == conv[1] else None]
    rows = rows.reshape(*rows.shape[:3], groups, config.lanes, 2)
    return np.ascontiguousarray(rows.transpose(0, 1, 3, 2, 4, 5))


def _strides(shape: tuple[int, ...], rows: int) -> list[int]:
    """Row strides of the leading axes of an array; 0 for an axis of length 1, which is shared."""
    strides = []
    for n in reversed(shape):
        strides.append(rows if n > 1 else 0)
        rows *= n
    return strides[::-1]


def compile_network(network: Network, config: Config, *, pixels: bool = True) -> Program:
    """Place maps, weights and parameters, and write the descriptors.

    Parameters
    ----------
    pixels : the device computes the encoder as well, if it can and the network has one: its
        weights and parameters must fit. Else the host does, and sends spikes.

    Raises
    ------
    FitError
        Something does not fit; the message names all that is short, with numbers.
    """
    if network.weight_bits > config.weight_bits:
        raise FitError(
            f"the network has {network.weight_bits}-bit weights, the device {config.weight_bits}-"
            f"bit ones; export it with --bits {config.weight_bits}"
        )
    if pixels and network.encoder is not None and _runs_encoder(network, config):
        try:
            return _compile(network, config, pixels=True)
        except FitError:
            pass  # the encoder's layer may be what is too much
    return _compile(network, config, pixels=False)


def _shares(layer: Layer, height: int, config: Config) -> list[tuple[slice, slice] | None]:
    """Each core's (output rows, channel groups) of a layer, None if there is nothing for it. As
    even as can be, and then by groups, whose weights are never the same."""
    groups = -(-layer.n_out // config.lanes)
    whole = slice(0, height), slice(0, groups)
    if layer.output:  # its logits are compared in one core
        return [whole] + [None] * (config.cores - 1)

    def split(n: int, n_parts: int) -> list[slice]:
        ends = [-(-n * i // n_parts) for i in range(n_parts + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    def largest(n_group_parts: int) -> tuple[int, int]:
        n_row_parts = config.cores // n_group_parts
        return -(-groups // n_group_parts) * -(-height // n_row_parts), -n_group_parts

    ways = [1 << i for i in range(config.cores.bit_length())]
    n_group_parts = min(ways, key=largest)
    return [
        (rows, part) if rows.start < rows.stop and part.start < part.stop else None
        for part in split(groups, n_group_parts)
        for rows in split(height, config.cores // n_group_parts)
    ]


def _dealt(images: list[bytearray], size: int) -> bytes:
    """The cores' images as rows of one space, in turns; shorter ones end in zeros."""
    n_bytes = max(map(len, images))
    rows = [np.frombuffer(image.ljust(n_bytes, b"\0"), np.uint8) for image in images]
    return np.stack([row.reshape(-1, size) for row in rows], axis=1).tobytes()


def device_layers(network: Network, pixels: bool) -> tuple[Layer, ...]:
    """Layers as a device has them: the encoder, if it takes ``pixels``, writes the map
    :data:`sw.network.INPUT` and bears its name."""
    if not pixels:
        return network.layers
    assert network.encoder is not None
    return replace(network.encoder, source=PIXELS, name=INPUT), *network.layers


def bit_planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The map :data:`PIXELS` (N_PLANES, C, H, W) of an image (C, H, W)."""
    shifts = np.arange(N_PLANES - 1, -1, -1, dtype=np.uint8)[:, None, None, None]
    return ((image[None] >> shifts) & 1).astype(np.uint8)


def _runs_encoder(network: Network, config: Config) -> bool:
    """Whether the device can compute the encoder's numbers."""
    encoder = network.encoder
    assert encoder is not None and encoder.threshold is not None
    low, high = signed_range(config.weight_bits)
    n_bits = layer_bounds(encoder, network.timesteps, PIXEL_MAX).n_bits
    return bool(
        config.pixels
        and low <= encoder.weight.min()
        and encoder.weight.max() <= high
        and np.abs(encoder.bias).max() <= signed_range(PARAM_BITS)[1]
        and encoder.threshold.max() <= signed_range(PARAM_BITS)[1]
        and n_bits <= config.membrane_bits
    )


def _compile(network: Network, config: Config, pixels: bool) -> Program:
    shapes = network.map_shapes()
    timesteps = dict.fromkeys(shapes, network.timesteps)
    layers = device_layers(network, pixels)
    if pixels:
        shapes = {PIXELS: network.image_shape} | shapes
        timesteps[PIXELS] = N_PLANES
    placements, n_bits = _place(shapes, layers, timesteps, config)
    host_map, first = next(iter(placements.items()))
    second = replace(first, base=first.base + n_bits, start=n_bits)
    inputs = (first, second)
    if n_bits + first.n_bits > GRANULE_BITS * config.spike_bytes:
        inputs = (first,)

    weights = [bytearray() for _ in range(config.cores)]
    params = [bytearray() for _ in range(config.cores)]
    descriptors = [[bytearray() for _ in range(config.cores)] for _ in inputs]
    plans = []
    for n, layer in enumerate(layers):
        takes_pixels = pixels and n == 0
        bounds = layer_bounds(layer, network.timesteps, PIXEL_MAX if takes_pixels else 1)
        if bounds.n_bits > config.membrane_bits:
            raise FitError(
                f"layer {layer.name!r} needs membranes of {bounds.n_bits} bits, {config.name!r} "
                f"has {config.membrane_bits}; quantise it to fewer bits",
                {"membrane_bits": (bounds.n_bits, config.membrane_bits)},
            )
        final = n == len(layers) - 1
        _, height, _ = layer.map_shape(placements[layer.source].shape)
        parts: list[Part | None] = []
        for core, share in enumerate(_shares(layer, height, config)):
            header: dict[str, Any] = {"idle": 1, "final": int(final), "n_classes": 1}
            part, levels = None, []
            if share:
                part, header, levels, weight_image, param_image = _compile_part(
                    layer,
                    network.timesteps,
                    placements,
                    config,
                    *share,
                    weight_base=len(weights[core]) // row_bytes(Space.WEIGHT, config),
                    param_base=len(params[core]) // row_bytes(Space.PARAM, config),
                    final=final,
                    pixels=takes_pixels,
                )
                weights[core] += weight_image
                params[core] += param_image
            parts.append(part)
            for place, images in zip(inputs, descriptors, strict=True):
                moved = dict(header)  # another buffer is the same layer, read from elsewhere
                if share and layer.source == host_map:
                    moved["source"] += place.start - first.start
                if share and layer.identity == host_map:
                    moved["identity"] += (place.start - first.start) // GRANULE_BITS
                images[core] += _descriptor(layer.name, moved, levels, config)
        plans.append(LayerPlan(name=layer.name, source=layer.source, parts=tuple(parts)))
    # Descriptors are in the same rows of all cores.
    weight_bytes = max(map(len, weights))
    first_descriptor = weight_bytes // row_bytes(Space.WEIGHT, config)
    for core, image in enumerate(weights):
        image += bytes(weight_bytes - len(image))
        image += b"".join(of_input[core] for of_input in descriptors)
    compiled = Program(
        config=config,
        images={
            Space.WEIGHT: _dealt(weights, row_bytes(Space.WEIGHT, config)),
            Space.PARAM: _dealt(params, row_bytes(Space.PARAM, config)),
        },
        placements=placements,
        inputs=inputs,
        entries=tuple(
            first_descriptor + i * len(layers) * descriptor_rows(config) for i in range(len(inputs))
        ),
        layers=tuple(plans),
        n_classes=network.n_classes,
        spike_bytes=-(-(n_bits + sum(p.n_bits for p in inputs[1:])) // GRANULE_BITS),
        pixels=pixels,
    )
    needs = compiled.usage() | {
        "layers": (len(plans), config.max_layers),
        "result": (
            -(-network.n_classes // config.lanes) * config.fire_beats,
            config.result_rows,
        ),
    }
    short = {what: rows for what, rows in needs.items() if rows[0] > rows[1]}
    if short:
        raise FitError(
            f"the network does not fit {config.name!r}: "
            + ", ".join(f"{what} needs {a} of {b}" for what, (a, b) in short.items()),
            short,
        )
    return compiled


@dataclass(frozen=True)
class _Chunks:
    """How the bits of a job are cut into chunks: ``levels``, and per piece of a chunk the fields of
    :class:`hw.protocol.Header`."""

    levels: tuple[_Level, ...]
    body_bits: tuple[int, ...]
    tail_bits: tuple[int, ...]
    piece_rows: tuple[int, ...]
    piece_weights: tuple[int, ...]

    def pieces(self, config: Config) -> tuple[tuple[int, int, int], ...]:
        """As in :class:`LayerPlan`."""
        return tuple(
            (k * PIECE_BITS + self.piece_rows[k] * config.chunk_bits, body, tail)
            for k, (body, tail) in enumerate(zip(self.body_bits, self.tail_bits, strict=True))
            if body or tail
        )


def _cut(
    layer: Layer, source: Placement, run: int, wky: int, aligned: bool, config: Config
) -> _Chunks:
    """Cut a kernel's rows of ``run`` bits, whose weights are ``wky`` rows apart, into chunks.

    ``aligned``: every run begins with a granule; else a window lacks its last bits.
    """
    kernel_y, kernel_x = layer.kernel
    merged_x = layer.weight.shape[6] == kernel_x  # a kernel row is one run
    n_pieces = config.chunk_bits // PIECE_BITS
    missing = 0 if aligned else GRANULE_BITS

    row_bytes_, rest = divmod(source.row, GRANULE_BITS)
    n_rows = 0 if rest or not merged_x else _gathered(row_bytes_, kernel_y, config)
    offsets = [r * source.row // PIECE_BITS for r in range(n_rows)]
    if (
        n_rows > 1
        and run <= PIECE_BITS - max(missing - 1, 0)
        and max((n_rows - 1) * wky, *(o // n_pieces for o in offsets)) < 1 << GRANULE_BITS
    ):
        n_chunks = -(-kernel_y // n_rows)
        n_tail = kernel_y - (n_chunks - 1) * n_rows
        fields = np.zeros((4, N_PIECES), int)
        for r, offset in enumerate(offsets):
            fields[:, offset % n_pieces] = run, run * (r < n_tail), offset // n_pieces, r * wky
        level = _Level(n_chunks, source=n_rows * source.row, weight=n_rows * wky, in_job=True)
        return _Chunks((level,), *(tuple(int(v) for v in row) for row in fields))

    if merged_x and source.row == run == wky:  # kernel rows follow each other, weights as well
        run, kernel_y = run * kernel_y, 1
    step = config.chunk_bits - missing
    n_chunks = -(-run // step)
    starts = [k * PIECE_BITS for k in range(n_pieces)]
    none = (0,) * (N_PIECES - n_pieces)

    def valid(n_bits: int) -> tuple[int, ...]:
        return tuple(min(max(n_bits - start, 0), PIECE_BITS) for start in starts) + none

    levels = [_Level(n_chunks, source=step, weight=step, in_job=True)]
    if not merged_x:
        levels.append(_Level(kernel_x, source=source.pixel, in_job=True))
    levels.append(_Level(kernel_y, source=source.row, weight=wky, in_job=True))
    return _Chunks(
        tuple(levels),
        valid(step),
        valid(run - (n_chunks - 1) * step),
        (0,) * N_PIECES,
        tuple(starts) + none,
    )


def _compile_part(
    layer: Layer,
    timesteps: int,
    placements: dict[str, Placement],
    config: Config,
    rows: slice,
    part: slice,
    weight_base: int,
    param_base: int,
    final: bool,
    pixels: bool,
) -> tuple[Part, dict[str, Any], list[dict[str, int]], bytes, bytes]:
    """Output ``rows`` of the channel groups ``part``: how they run, header and levels of the
    descriptor, and its rows of weights and of parameters."""
    source = placements[layer.source]
    _, conv_height, conv_width = layer.conv_shape(source.shape)
    _, height, width = layer.map_shape(source.shape)
    pool_y, pool_x = layer.pool
    groups = -(-layer.n_out // config.lanes)
    tail_lanes = layer.n_out - (groups - 1) * config.lanes
    n_beats = config.fire_beats if groups > 1 else -(-layer.n_out // config.fire_lanes)

    weight_rows = _weight_rows(layer, config, source.pixel)
    if not layer.output:  # rows and columns that pooling drops have no weights
        kept_y, kept_x = height * pool_y, width * pool_x
        weight_rows = weight_rows[
            : kept_y if weight_rows.shape[0] == conv_height else None,
            : kept_x if weight_rows.shape[1] == conv_width else None,
        ]
    conv_rows = slice(rows.start * pool_y, rows.stop * pool_y)
    weight_rows = weight_rows[
        conv_rows if weight_rows.shape[0] > 1 else slice(None),
        :,
        part,
    ]
    run = weight_rows.shape[5]
    wy, wx, wg, wt, wky, _ = _strides(weight_rows.shape[:6], 1)
    param_rows = _param_rows(
        layer, config, (conv_height, conv_width), (height * pool_y, width * pool_x)
    )[..., : n_beats * config.fire_lanes, :]
    param_rows = param_rows[conv_rows if param_rows.shape[0] > 1 else slice(None), :, part]
    py, px, pg, pt = _strides(param_rows.shape[:4], n_beats)

    # A position's stride in source, weight and param; and where its spikes come from and go to.
    sy, sx = layer.stride[0] * source.row, layer.stride[1] * source.pixel
    g = GRANULE_BITS
    identity = placements[layer.identity] if layer.identity else None
    iy, ix, it, ig = (0, 0, 0, 0)
    if identity is not None:
        iy, ix, it = identity.row // g, identity.pixel // g, identity.plane // g
        ig = config.lanes // g
    target = placements.get(layer.name)
    n_planes = N_PLANES if pixels else 0
    if target is not None:
        ty, tx, tt, tg = target.row // g, target.pixel // g, target.plane // g, config.lanes // g
        target_base = (target.base // g - n_planes * tt) & 0xFFFF  # bit-planes write nothing
    else:
        ty, tx, tt, tg = 0, 0, 0, config.fire_beats
        target_base = 0

    # This part of it.
    height = rows.stop - rows.start
    target_base += rows.start * ty + part.start * tg
    identity_base = 0
    if identity is not None:
        identity_base = identity.base // g + conv_rows.start * iy + part.start * ig
    if part.stop < groups:
        tail_lanes = config.lanes
    groups = part.stop - part.start

    pad_y, pad_x = layer.padding
    source_base = source.base - pad_y * source.row - pad_x * source.pixel
    source_base += conv_rows.start * sy
    aligned = not any(n % g for n in (source_base, sy, sx, source.row, source.pixel, source.plane))
    chunks = _cut(layer, source, run, wky, aligned, config)
    time = _Level(
        n_planes + timesteps,
        source=source.plane,
        weight=wt,
        identity=it,
        target=tt,
        param=pt,
        in_job=layer.output,
        is_time=not layer.output,
    )
    n_children = pool_y * pool_x
    if n_children > config.membrane_slots:
        raise FitError(
            f"layer {layer.name!r}: pooling {layer.pool} needs {n_children} membrane slots of "
            f"{config.membrane_slots}"
        )
    inner = [
        *chunks.levels[1:],
        _Level(pool_x, sx, wx, ix, 0, px, slot=1, is_pool=True),
        _Level(pool_y, sy, wy, iy, 0, py, slot=pool_x, is_pool=True),
    ]

    def outer(turns_x: int, turns_y: int, turns_group: int) -> list[_Level]:
        def across(count: int, step: int, slot: int = 0) -> _Level:
            """``count`` columns, ``step`` columns apart."""
            n = step * pool_x
            return _Level(count, n * sx, n * wx, n * ix, step * tx, n * px, slot)

        def down(count: int, step: int, slot: int = 0) -> _Level:
            """``count`` rows, ``step`` rows apart."""
            n = step * pool_y
            return _Level(count, n * sy, n * wy, n * iy, step * ty, n * py, slot)

        def group(count: int, step: int, slot: int = 0) -> _Level:
            """``count`` channel groups, ``step`` groups apart."""
            n = step
            return _Level(count, 0, n * wg, n * ig, n * tg, n * pg, slot, is_group=True)

        return [
            across(turns_x, 1, n_children),
            down(turns_y, 1, n_children * turns_x),
            group(turns_group, 1, n_children * turns_x * turns_y),
            time,
            group(groups // turns_group, turns_group),
            across(width // turns_x, turns_x),
            down(height // turns_y, turns_y),
        ]

    if layer.output:  # has no membranes
        ways = [(n_beats, (1, 1, 1))]
    else:
        ways = _interleavings(height, width, groups, n_children, n_beats, config)
    spacing, nest = 0, []
    for spacing, turns in ways:
        spacing = max(spacing, config.cores)  # so that their spikes can be written in turns
        nest = [
            chunks.levels[0],
            *(level for level in inner + outer(*turns) if level.count > 1),
        ]
        if len(nest) <= N_LEVELS:
            break
    else:
        raise FitError(
            f"layer {layer.name!r} needs more than the {N_LEVELS} loop levels of the core; drop "
            "its pooling or do not share its kernel columns"
        )

    def mask(attribute: str) -> int:
        return sum(1 << i for i, level in enumerate(nest) if getattr(level, attribute))

    counts = [level.count for level in nest]
    if max(counts) > 1 << config.count_bits:
        raise FitError(
            f"layer {layer.name!r} needs a loop of {max(counts)} iterations; the core's have at "
            f"most {1 << config.count_bits}"
        )
    moves = {
        name: _increments(counts, [getattr(level, name) for level in nest])
        for name in ("source", "weight", "identity", "target", "param", "slot")
    }
    header = {
        "source": source_base,
        "spacing": spacing,
        "leak_shift": layer.leak_shift,
        "weight": weight_base,
        "job_levels": mask("in_job"),
        "gate": layer.gate,
        "reset": layer.reset,
        "identity": identity_base,
        "target": target_base,
        "param": param_base,
        "time_levels": mask("is_time"),
        "pool_levels": mask("is_pool"),
        "tail_levels": mask("is_group"),
        "tail_lanes": tail_lanes,
        "last_beat": n_beats - 1,
        "n_levels": len(nest),
        "leak": layer.leak,
        "output": int(layer.output),
        "final": int(final),
        "n_classes": layer.n_out if layer.output else 0,
        "pixels": int(pixels),
        "body_bits": chunks.body_bits,
        "tail_bits": chunks.tail_bits,
        "piece_rows": chunks.piece_rows,
        "piece_weights": chunks.piece_weights,
    }
    levels_of = [
        {"last": level.count - 1} | {name: move[i] for name, move in moves.items()}
        for i, level in enumerate(nest)
    ]
    plan = Part(
        n_jobs=int(np.prod([level.count for level in nest if not level.in_job])),
        spacing=spacing,
        n_beats=n_beats,
        counts=tuple(counts),
        source_strides=tuple(level.source for level in nest),
        pieces=chunks.pieces(config),
        source_base=source_base,
        gated=identity is not None,
        pixels=pixels,
        time_level=nest.index(time) if time in nest else 0,
        weight_rows=weight_rows.size // config.lanes,
        param_rows=param_rows.size // (2 * config.fire_lanes),
    )
    return (
        plan,
        header,
        levels_of,
        _pack_rows(weight_rows, config.weight_bits),
        _pack_rows(param_rows, PARAM_BITS),
    )


def _descriptor(
    name: str, header: dict[str, Any], levels: list[dict[str, int]], config: Config
) -> bytes:
    """A descriptor's rows of weight memory."""
    levels = levels + [{}] * (N_LEVELS - len(levels))
    packed = pack(Descriptor, {"header": header, "levels": levels})
    fields: Any = unpack(Descriptor, packed)
    for values, got in ((header, fields.header), *zip(levels, fields.levels, strict=True)):
        for field, value in values.items():
            kept = getattr(got, field)
            if isinstance(value, tuple):
                kept = tuple(kept[i] for i in range(len(value)))
            if kept != value:  # the field is too narrow and has cut the value
                raise FitError(
                    f"layer {name!r}: {field} of {value} does not fit its descriptor field"
                )
    padded = descriptor_rows(config) * row_bytes(Space.WEIGHT, config)
    return packed.ljust(padded, b"\0")
