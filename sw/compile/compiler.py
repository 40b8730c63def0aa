"""Compilation of an integer network into the contents of a device's memories. NumPy only.

A *map* is the spikes that one layer writes, or that the host sends. Each map has its own region of
spike memory, which holds it in the order (T, H, W, C). The zero padding around a map is stored,
too; neighbouring rows and neighbouring timesteps share it. It is cleared when a program is loaded,
and never written after that.

The core runs a layer as one loop nest, listed here with the innermost level first::

    chunk of a run | kernel column, if shared | kernel row | pooling x | pooling y |
    interleaved positions and groups | timestep | channel group | x | y

A *run* is the contiguous bits that a kernel row reads, and a *chunk* the bits that the core reads
in one cycle. If the host's map has few channels, its rows are spaced such that one chunk can hold
several kernel rows. A *channel group* is ``lanes`` output channels, which the core computes side by
side. One position of one group at one timestep is a *job*. Neighbouring positions and groups are
*interleaved*: their jobs take turns, so that none waits for a membrane that is still being written.

Weight memory holds one row of ``lanes`` weights for each input of a group, in the order in which
they are used: (y, x, group, timestep, kernel row, kernel column, channel). An axis along which
weights are shared has length 1 there, and the weight address has a stride of 0 at its level. Behind
the weights are the *descriptors*, the tables from which the core takes each layer's loop nest.

If there is room, the map that the host writes has two regions, so that the host can fill one while
the core reads the other; each has descriptors of its own. A device that takes pixels
(``Config.pixels``) runs the network's encoder as its first layer, on the bit-planes of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from hw.protocol import Space, descriptor_rows, row_bytes
from hw.spec import GRANULE_BITS, N_PLANES, PARAM_BITS, Config, signed_range
from sw.compile.nest import LayerContext, compile_share
from sw.compile.placement import place_maps
from sw.compile.program import PIXELS, FitError, LayerPlan, Part, Placement, Program, device_layers
from sw.compile.rows import descriptor_bytes, interleave_cores
from sw.compile.shares import Share, shares_of_cores
from sw.network.bounds import layer_bounds
from sw.network.encoder import PIXEL_MAX
from sw.network.network import Network


def compile_network(network: Network, config: Config, *, pixels: bool = True) -> Program:
    """Compile a network for a device: lay out its memories and write the layers' descriptors.

    Parameters
    ----------
    pixels : let the device compute the encoder, the layer that turns pixels into spikes, if the
        device takes pixels and the encoder fits it. Otherwise the host computes the encoder and
        sends spikes.

    Raises
    ------
    FitError
        The network does not fit the device; the message lists what it needs and what there is.
    """
    if network.weight_bits > config.weight_bits:
        raise FitError(
            f"the network has {network.weight_bits}-bit weights, the device {config.weight_bits}-"
            f"bit weights; export it with --bits {config.weight_bits}"
        )
    if pixels and network.encoder is not None and _can_run_encoder(network, config):
        try:
            return _Compiler(network, config, pixels=True).compile()
        except FitError:
            pass  # it may fit without the encoder
    return _Compiler(network, config, pixels=False).compile()


def _can_run_encoder(network: Network, config: Config) -> bool:
    """Return whether the device takes pixels, and its numbers are wide enough for the encoder.

    The numbers are weights, biases, thresholds and membranes.
    """
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


@dataclass
class _CoreMemory:
    """Contents of one core's weight and parameter memories, to which each layer is appended."""

    weights: bytearray = field(default_factory=bytearray)
    params: bytearray = field(default_factory=bytearray)
    descriptors: list[bytearray] = field(default_factory=list)
    """One sequence of descriptors for each region of spike memory that the host can fill."""


class _Compiler:
    """State of the compilation of one network for one device configuration."""

    def __init__(self, network: Network, config: Config, *, pixels: bool):
        self.network = network
        self.config = config
        self.pixels = pixels
        self.layers = device_layers(network, pixels)
        shapes = network.map_shapes()
        timesteps = dict.fromkeys(shapes, network.timesteps)
        if pixels:
            shapes = {PIXELS: network.image_shape} | shapes
            timesteps[PIXELS] = N_PLANES
        self.placements, n_bits = place_maps(shapes, self.layers, timesteps, config)
        self.host_map = next(iter(shapes))
        """Name of the map that the host writes."""
        self.inputs = _input_buffers(self.placements[self.host_map], n_bits, config)
        self.spike_bits = n_bits + sum(place.n_bits for place in self.inputs[1:])
        self.cores = [
            _CoreMemory(descriptors=[bytearray() for _ in self.inputs]) for _ in range(config.cores)
        ]

    def compile(self) -> Program:
        """Compile all layers and return the program.

        Raises
        ------
        FitError
            The network does not fit the device.
        """
        plans = tuple(self._compile_layer(n) for n in range(len(self.layers)))
        config = self.config
        weight_row_bytes = row_bytes(Space.WEIGHT, config)
        # Descriptors follow the weights, in the same rows of all cores.
        n_weight_bytes = max(len(core.weights) for core in self.cores)
        first_descriptor = n_weight_bytes // weight_row_bytes
        weight_images = [
            core.weights.ljust(n_weight_bytes, b"\0") + b"".join(core.descriptors)
            for core in self.cores
        ]
        rows_per_run = len(self.layers) * descriptor_rows(config)
        program = Program(
            config=config,
            images={
                Space.WEIGHT: interleave_cores(weight_images, weight_row_bytes),
                Space.PARAM: interleave_cores(
                    [core.params for core in self.cores], row_bytes(Space.PARAM, config)
                ),
            },
            placements=self.placements,
            inputs=self.inputs,
            entries=tuple(first_descriptor + i * rows_per_run for i in range(len(self.inputs))),
            layers=plans,
            n_classes=self.network.n_classes,
            spike_bytes=-(-self.spike_bits // GRANULE_BITS),
            pixels=self.pixels,
        )
        _check_fits(program)
        return program

    def _compile_layer(self, n: int) -> LayerPlan:
        """Compile layer ``n`` into the memories of all cores, and return how the cores run it.

        Weights, parameters and descriptors are appended to what the memories hold.
        """
        layer, config = self.layers[n], self.config
        context = LayerContext(
            layer=layer,
            timesteps=self.network.timesteps,
            placements=self.placements,
            config=config,
            final=n == len(self.layers) - 1,
            pixels=self.pixels and n == 0,
        )
        _check_membranes(context)
        _, height, _ = layer.map_shape(context.source.shape)
        shares = shares_of_cores(layer, height, config)
        parts = tuple(
            self._compile_share(context, share, core)
            for share, core in zip(shares, self.cores, strict=True)
        )
        return LayerPlan(name=layer.name, source=layer.source, parts=parts)

    def _compile_share(
        self, context: LayerContext, share: Share | None, core: _CoreMemory
    ) -> Part | None:
        """Append one core's share of a layer to the core's memories, and return its plan.

        A core without a share gets a descriptor that tells it to be idle; the result is then None.
        """
        layer, config = context.layer, context.config
        if share is None:
            idle = {"idle": 1, "final": int(context.final), "n_classes": 1}
            for descriptors in core.descriptors:
                descriptors += descriptor_bytes(layer.name, idle, [], config)
            return None
        compiled = compile_share(
            context,
            share,
            weight_base=len(core.weights) // row_bytes(Space.WEIGHT, config),
            param_base=len(core.params) // row_bytes(Space.PARAM, config),
        )
        core.weights += compiled.weights
        core.params += compiled.params
        for place, descriptors in zip(self.inputs, core.descriptors, strict=True):
            # A run on another buffer differs only in where it reads the host's map.
            offset = place.start - self.inputs[0].start
            header = dict(compiled.header)
            if layer.source == self.host_map:
                header["source"] += offset
            if layer.identity == self.host_map:
                header["identity"] += offset // GRANULE_BITS
            descriptors += descriptor_bytes(layer.name, header, compiled.levels, config)
        return compiled.part


def _input_buffers(first: Placement, n_bits: int, config: Config) -> tuple[Placement, ...]:
    """Return the regions of spike memory into which the host may write its map.

    They are ``first`` and, if there is room, a second one with the same layout behind all maps.
    ``n_bits`` is the number of bits that all maps take together.
    """
    if n_bits + first.n_bits > GRANULE_BITS * config.spike_bytes:
        return (first,)
    return first, replace(first, base=first.base + n_bits, start=n_bits)


def _check_membranes(context: LayerContext) -> None:
    """Raise :class:`FitError` if a layer's membranes could overflow the device's registers."""
    layer, config = context.layer, context.config
    bounds = layer_bounds(layer, context.timesteps, PIXEL_MAX if context.pixels else 1)
    if bounds.n_bits > config.membrane_bits:
        raise FitError(
            f"layer {layer.name!r} needs membranes of {bounds.n_bits} bits, {config.name!r} "
            f"has {config.membrane_bits}; quantise it to fewer bits",
            {"membrane_bits": (bounds.n_bits, config.membrane_bits)},
        )


def _check_fits(program: Program) -> None:
    """Raise :class:`FitError` if a program needs larger memories or more layers than there are.

    The message lists each of these limits that the program exceeds.
    """
    config = program.config
    result_rows = -(-program.n_classes // config.lanes) * config.fire_beats
    needs = program.usage() | {
        "layers": (len(program.layers), config.max_layers),
        "result": (result_rows, config.result_rows),
    }
    short = {what: rows for what, rows in needs.items() if rows[0] > rows[1]}
    if short:
        raise FitError(
            f"the network does not fit {config.name!r}: "
            + ", ".join(f"{what} needs {a} of {b}" for what, (a, b) in short.items()),
            short,
        )
