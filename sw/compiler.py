"""From an integer network to what a device's memories hold. NumPy only.

Every map of spikes has a region of spike memory, all timesteps one after another, each position's
channels side by side (T, H, W, C). Zero padding is physical and shared between neighbouring rows
and planes; it is cleared once and never written. A layer is one walk of the loop nest, innermost
level first::

    chunk of a run | kernel column, if shared | kernel row | pooling x | pooling y |
    interleaved positions | timestep | channel group | x | y

where a run is all the bits of a kernel row, which are contiguous. Sharing weights along an axis is
a weight stride of 0 at its level. Weights are stored in the order in which they are used:
(y, x, group, timestep, kernel row, kernel column, channel), one row of ``lanes`` output channels
each, axes of length 1 left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.protocol import Descriptor, Space, n_rows, pack, row_bytes, unpack
from hw.spec import GRANULE_BITS, MEMBRANE_LATENCY, N_LEVELS, Config, signed_range
from sw.bounds import layer_bounds
from sw.network import INPUT, Layer, Network, Shape


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
class LayerPlan:
    """How one layer runs. ``counts`` and the strides are per level, innermost first."""

    name: str
    source: str
    n_jobs: int
    spacing: int
    fire_beats: int
    counts: tuple[int, ...]
    source_strides: tuple[int, ...]
    job_levels: int
    """Number of inner levels that make up one job."""
    run_bits: int
    """Bits of a run."""
    source_base: int
    gated: bool
    lanes_of_group: tuple[int, ...]
    weight_rows: int
    param_rows: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """A network compiled for one configuration.

    Attributes
    ----------
    images : what to write to each space, from row 0 on.
    placements : regions of spike memory by name of the map.
    layers : how each layer runs.
    n_classes : logits in result memory.
    spike_bytes : bytes of spike memory in use; they are cleared when the program is loaded.
    """

    config: Config
    images: dict[Space, bytes]
    placements: dict[str, Placement]
    layers: tuple[LayerPlan, ...]
    n_classes: int
    spike_bytes: int

    def usage(self) -> dict[str, tuple[int, int]]:
        """(rows used, rows available) per memory."""
        used = {
            space.name.lower(): (
                len(image) // row_bytes(space, self.config),
                n_rows(space, self.config),
            )
            for space, image in self.images.items()
        }
        return used | {"spike": (self.spike_bytes, self.config.spike_bytes)}

    def logits(self, raw: bytes) -> NDArray[np.int64]:
        """Logits (n_classes,) in the first :meth:`n_result_rows` rows of result memory."""
        return np.frombuffer(raw, "<i4")[: self.n_classes].astype(np.int64)

    @property
    def inputs(self) -> tuple[Placement, ...]:
        """Regions that the host writes before a run, one per buffer."""
        return (self.placements[INPUT],)

    @property
    def entries(self) -> tuple[int, ...]:
        """Where a run on each of ``inputs`` begins."""
        return (0,)

    @property
    def pixels(self) -> bool:
        """The input is an image, not spikes."""
        return False

    def pack_input(self, sample: NDArray[np.uint8], buffer: int = 0) -> bytes:
        """What to write to ``inputs[buffer]`` for spikes (T, C, H, W) of 0 and 1."""
        return self.inputs[buffer].pack(sample)

    @property
    def n_result_rows(self) -> int:
        return -(-self.n_classes // self.config.fire_lanes)


def _increments(counts: Iterable[int], strides: Iterable[int]) -> list[int]:
    """By how much an address moves when each level advances and all inner ones start again."""
    moves, span = [], 0
    for count, stride in zip(counts, strides, strict=True):
        moves.append(stride - span)
        span += (count - 1) * stride
    return moves


def _place(network: Network) -> dict[str, Placement]:
    """Give every map a region; its padding is the most that any of its readers wants."""
    shapes = network.map_shapes()
    padding: dict[str, tuple[int, int]] = dict.fromkeys(shapes, (0, 0))
    for layer in network.layers:
        old = padding[layer.source]
        padding[layer.source] = (max(old[0], layer.padding[0]), max(old[1], layer.padding[1]))
    placements, start = {}, 0
    for name, (channels, height, width) in shapes.items():
        pad_y, pad_x = padding[name]
        # The input is written by the host, bit by bit; the core writes whole granules.
        granule = 1 if name == INPUT else GRANULE_BITS
        pixel = -(-channels // granule) * granule
        row = (width + pad_x) * pixel
        plane = (height + pad_y) * row
        n_bits = network.timesteps * plane + pad_y * row + pad_x * pixel
        n_bits = -(-n_bits // GRANULE_BITS) * GRANULE_BITS
        placements[name] = Placement(
            shape=(channels, height, width),
            timesteps=network.timesteps,
            base=start + pad_y * row + pad_x * pixel,
            start=start,
            n_bits=n_bits,
            pixel=pixel,
            row=row,
            plane=plane,
        )
        start += n_bits
    return placements


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


def _interleave(width: int, n_children: int, config: Config) -> int:
    """How many neighbouring positions take turns, so that no job waits for its own membrane."""
    wanted = -(-MEMBRANE_LATENCY // config.fire_beats)
    best = 1
    for candidate in range(1, config.membrane_slots // n_children + 1):
        if width % candidate == 0:
            best = candidate
            if candidate * n_children >= wanted:
                break
    return best


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
    low, high = signed_range(config.param_bits)
    for what, values in (("bias", layer.bias), ("threshold", threshold)):
        if values.size and (values.min() < low or values.max() > high):
            raise FitError(
                f"layer {layer.name!r}: a {what} of {values.min()} to {values.max()} exceeds "
                f"{config.param_bits} bits; quantise with a coarser scale"
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


def compile_network(network: Network, config: Config) -> Program:
    """Place maps, weights and parameters, and write the descriptors.

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
    placements = _place(network)
    program, weights, params = bytearray(), bytearray(), bytearray()
    plans = []
    weight_row_bytes = row_bytes(Space.WEIGHT, config)
    param_row_bytes = row_bytes(Space.PARAM, config)
    for n, layer in enumerate(network.layers):
        n_bits = layer_bounds(layer, network.timesteps).n_bits
        if n_bits > config.membrane_bits:
            raise FitError(
                f"layer {layer.name!r} needs membranes of {n_bits} bits, {config.name!r} has "
                f"{config.membrane_bits}; quantise it to fewer bits",
                {"membrane_bits": (n_bits, config.membrane_bits)},
            )
        plan, descriptor, weight_image, param_image = _compile_layer(
            layer,
            network.timesteps,
            placements,
            config,
            weight_base=len(weights) // weight_row_bytes,
            param_base=len(params) // param_row_bytes,
            final=n == len(network.layers) - 1,
        )
        plans.append(plan)
        program += descriptor
        weights += weight_image
        params += param_image
    compiled = Program(
        config=config,
        images={
            Space.PROGRAM: bytes(program),
            Space.WEIGHT: bytes(weights),
            Space.PARAM: bytes(params),
        },
        placements=placements,
        layers=tuple(plans),
        n_classes=network.n_classes,
        spike_bytes=sum(p.n_bits for p in placements.values()) // GRANULE_BITS,
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


def _compile_layer(
    layer: Layer,
    timesteps: int,
    placements: dict[str, Placement],
    config: Config,
    weight_base: int,
    param_base: int,
    final: bool,
) -> tuple[LayerPlan, bytes, bytes, bytes]:
    source = placements[layer.source]
    _, conv_height, conv_width = layer.conv_shape(source.shape)
    _, height, width = layer.map_shape(source.shape)
    pool_y, pool_x = layer.pool
    groups = -(-layer.n_out // config.lanes)
    kernel_y, kernel_x = layer.kernel
    merged_x = layer.weight.shape[6] == kernel_x  # a kernel row is one run

    weight_rows = _weight_rows(layer, config, source.pixel)
    if not layer.output:  # rows and columns that pooling drops have no weights
        kept_y, kept_x = height * pool_y, width * pool_x
        weight_rows = weight_rows[
            : kept_y if weight_rows.shape[0] == conv_height else None,
            : kept_x if weight_rows.shape[1] == conv_width else None,
        ]
    run = weight_rows.shape[5]
    wy, wx, wg, wt, wky, _ = _strides(weight_rows.shape[:6], 1)
    param_rows = _param_rows(
        layer, config, (conv_height, conv_width), (height * pool_y, width * pool_x)
    )
    py, px, pg, pt = _strides(param_rows.shape[:4], config.fire_beats)

    # A position's stride in source, weight and param; and where its spikes come from and go to.
    sy, sx = layer.stride[0] * source.row, layer.stride[1] * source.pixel
    identity = placements[layer.identity] if layer.identity else None
    iy, ix = (identity.row, identity.pixel) if identity else (0, 0)
    target = placements.get(layer.name)
    g = GRANULE_BITS
    if target is not None:
        ty, tx, tt, tg = target.row // g, target.pixel // g, target.plane // g, config.lanes // g
        target_base = target.base // g
    else:
        ty, tx, tt, tg = 0, 0, 0, config.fire_beats
        target_base = 0

    chunks = -(-run // config.chunk_bits)
    levels = [
        _Level(chunks, source=config.chunk_bits, weight=config.chunk_bits, in_job=True),
    ]
    if not merged_x:
        levels.append(_Level(kernel_x, source=source.pixel, in_job=True))
    levels.append(_Level(kernel_y, source=source.row, weight=wky, in_job=True))
    time = _Level(
        timesteps,
        source=source.plane,
        weight=wt,
        identity=identity.plane if identity else 0,
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
    levels += [
        _Level(pool_x, sx, wx, ix, 0, px, slot=1, is_pool=True),
        _Level(pool_y, sy, wy, iy, 0, py, slot=pool_x, is_pool=True),
    ]

    def outer(interleave: int) -> list[_Level]:
        def across(count: int, step: int, slot: int = 0) -> _Level:
            """``count`` columns, ``step`` columns apart."""
            n = step * pool_x
            return _Level(count, n * sx, n * wx, n * ix, step * tx, n * px, slot)

        return [
            across(interleave, 1, slot=n_children),
            time,
            _Level(groups, 0, wg, config.lanes if identity else 0, tg, pg, is_group=True),
            across(width // interleave, interleave),
            _Level(height, pool_y * sy, pool_y * wy, pool_y * iy, ty, pool_y * py),
        ]

    interleave = 1 if layer.output else _interleave(width, n_children, config)
    nest = [level for level in levels + outer(interleave) if level.count > 1]
    if len(nest) > N_LEVELS:
        interleave = 1
        nest = [level for level in levels + outer(interleave) if level.count > 1]
    if len(nest) > N_LEVELS:
        raise FitError(
            f"layer {layer.name!r} needs {len(nest)} loop levels, the core has {N_LEVELS}; "
            "drop its pooling or do not share its kernel columns"
        )
    if chunks == 1:  # level 0 is always the chunk: its end is where the run's tail is cut
        if len(nest) == N_LEVELS:
            raise FitError(f"layer {layer.name!r} needs {N_LEVELS + 1} loop levels")
        nest.insert(0, levels[0])
    nest += [_Level(1)] * (N_LEVELS - len(nest))

    spacing = max(config.fire_beats, -(-MEMBRANE_LATENCY // (interleave * n_children)))
    tail_lanes = layer.n_out - (groups - 1) * config.lanes

    def mask(attribute: str) -> int:
        return sum(1 << i for i, level in enumerate(nest) if getattr(level, attribute))

    # A layer with a single group has no group level: any level that is always at its end marks
    # every job as the last group.
    single_group = 1 << (N_LEVELS - 1) if groups == 1 and nest[-1].count == 1 else 0
    if groups == 1 and tail_lanes != config.lanes and not single_group:
        raise FitError(
            f"layer {layer.name!r} uses all {N_LEVELS} loop levels, so its {layer.n_out} channels "
            f"must be a multiple of {config.lanes}"
        )
    counts = [level.count for level in nest]
    moves = {
        name: _increments(counts, [getattr(level, name) for level in nest])
        for name in ("source", "weight", "identity", "target", "param", "slot")
    }
    pad_y, pad_x = layer.padding
    source_base = source.base - pad_y * source.row - pad_x * source.pixel
    header = {
        "source": source_base,
        "tail_bits": run - (chunks - 1) * config.chunk_bits,
        "weight": weight_base,
        "spacing": spacing,
        "identity": identity.base if identity else 0,
        "job_levels": mask("in_job"),
        "target": target_base,
        "time_levels": mask("is_time"),
        "param": param_base,
        "pool_levels": mask("is_pool"),
        "tail_levels": mask("is_group") or single_group,
        "tail_lanes": tail_lanes,
        "gate": layer.gate,
        "leak": layer.leak,
        "reset": layer.reset,
        "leak_shift": layer.leak_shift,
        "output": int(layer.output),
        "final": int(final),
        "n_classes": layer.n_out if layer.output else 0,
    }
    levels_of = [
        {"last": level.count - 1} | {name: move[i] for name, move in moves.items()}
        for i, level in enumerate(nest)
    ]
    descriptor = pack(Descriptor, {"header": header, "levels": levels_of})
    packed: Any = unpack(Descriptor, descriptor)
    pairs = [(header, packed.header), *((v, packed.levels[i]) for i, v in enumerate(levels_of))]
    for values, fields in pairs:
        for field, value in values.items():
            if getattr(fields, field) != value:  # the field is too narrow and has cut the value
                raise FitError(
                    f"layer {layer.name!r}: {field} of {value} does not fit its descriptor field"
                )
    n_in_job = sum(level.in_job for level in nest)
    plan = LayerPlan(
        name=layer.name,
        source=layer.source,
        n_jobs=int(np.prod([c for c, level in zip(counts, nest, strict=True) if not level.in_job])),
        spacing=spacing,
        fire_beats=config.fire_beats,
        counts=tuple(counts),
        source_strides=tuple(level.source for level in nest),
        job_levels=n_in_job,
        run_bits=run,
        source_base=source_base,
        gated=identity is not None,
        lanes_of_group=(config.lanes,) * (groups - 1) + (tail_lanes,),
        weight_rows=weight_rows.size // config.lanes,
        param_rows=param_rows.size // (2 * config.fire_lanes),
    )
    return (
        plan,
        descriptor,
        _pack_rows(weight_rows, config.weight_bits),
        _pack_rows(param_rows, config.param_bits),
    )
