"""Compilation of an integer network into the contents of a device's memories. NumPy only.

A *map* is the spikes (T, C, H, W) that one layer writes or the host sends. The device has several
*banks* (:class:`hw.spec.Config`). Each bank stores and processes some of the channels of every map;
:mod:`sw.compile.deal` decides which. All banks run the same loops and use the same addresses.

Every map of spikes has a region of spike memory. In it, all timesteps follow one another, and the
channels of a position lie side by side (T, H, W, C). The zero padding around a map is stored, too:
neighbouring rows share it, and so do neighbouring timesteps. It is cleared once and never written.

A layer is one pass through a nest of loops, its *levels*, listed below with the innermost first. A
channel group is ``Config.lanes`` output channels, which are computed side by side, each in one
*lane*::

    chunk of a run | kernel column, if shared | kernel row | map, if several | pooling x |
    pooling y | interleaved positions and groups | timestep | channel group | x | y

A run is all the bits of a kernel row, which are contiguous; if kernel columns share weights, a run
is one position of the row. A chunk is what a bank reads in one cycle (:mod:`sw.compile.chunks`). If
the map that the host writes has few channels, the distance between its rows in memory is chosen so
that one chunk can hold the runs of several neighbouring rows.

A job is one position, one group and one timestep. The jobs of some positions and groups are
interleaved (:class:`sw.compile.levels.Turns`), so that the core has time to write a neuron's new
membrane before the neuron's next timestep begins.

Weights are stored in the order in which they are used: (y, x, group, timestep, map, kernel row,
kernel column, channel). Each entry is one row of ``lanes`` weights, one for each lane. If weights
are shared along an axis, that axis is left out, and the weight address does not move at its level.
The output channels are assigned to the lanes in the order in which they are dealt to the banks. A
descriptor for each layer, which tells the core how to run it, follows the weights.

The map that the host writes has up to :data:`N_INPUTS` regions, as many as fit, so that the host
can fill one while the device reads another. Each region has descriptors of its own. Maps that
layers read together with this map have as many regions, because they have to lie beside it.

If the device has memory outside the FPGA, this memory holds the rows of weights and of parameters
that do not fit on the FPGA (:mod:`sw.compile.allocation`).

A device that takes pixels (``Config.pixels``) runs the network's encoder as its first layer, on the
bit-planes of the image, each of which is one bit of all pixels. Each bank then has some of the
planes, with all channels, and a copy of all weights of the encoder.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np

from hw.protocol import Space, descriptor_rows, row_bytes
from hw.spec import GRANULE_BITS, PARAM_BITS, Config, signed_range
from sw.compile.allocation import allocate
from sw.compile.deal import channel_rates, orders
from sw.compile.nest import N_ADDRESS_VALUES, CompiledLayer, LayerContext, compile_layer
from sw.compile.placement import place_maps, series_of_maps
from sw.compile.program import PIXELS, FitError, Placement, Program, device_layers
from sw.compile.rows import descriptor_bytes
from sw.network.bounds import bank_bounds, layer_bounds
from sw.network.encoder import pixel_max
from sw.network.network import Network

N_INPUTS = 3
"""Largest number of input buffers, the regions for the map that the host writes. While the device
reads one buffer and announces the end of the run on a second one, the host fills the third. Then
the serial line carries one input after another without a pause, so that further buffers would not
make it faster."""


def compile_network(network: Network, config: Config, *, pixels: bool = True) -> Program:
    """Compile a network for a device: lay out its memories and write the layers' descriptors.

    Parameters
    ----------
    pixels : whether the device is to compute the encoder, the layer that turns pixels into spikes.
        It does so only if it takes pixels and the encoder fits. If it does not, the host computes
        the encoder and sends spikes.

    Returns
    -------
    The bytes of the device's memories, with the addresses by which the driver uses them.

    Raises
    ------
    FitError
        The network does not fit the device; the message gives the needed and the available size of
        each memory that is too small, or another reason.
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
    """Return whether the device takes pixels and has enough bits for the encoder's numbers.

    The numbers are its weights, biases, thresholds and membranes. Memory is not checked here.
    """
    encoder = network.encoder
    assert encoder is not None and encoder.threshold is not None
    low, high = signed_range(config.weight_bits)
    n_bits = layer_bounds(encoder, network.timesteps, pixel_max(network.pixel_bits)).n_bits
    return bool(
        config.pixels
        and low <= encoder.weight.min()
        and encoder.weight.max() <= high
        and np.abs(encoder.bias).max() <= signed_range(PARAM_BITS)[1]
        and encoder.threshold.max() <= signed_range(PARAM_BITS)[1]
        and n_bits <= config.membrane_bits
    )


class _Compiler:
    """Compilation of one network for one device configuration.

    It collects the contents of the device's memories, to which each compiled layer adds its rows.
    """

    def __init__(self, network: Network, config: Config, *, pixels: bool):
        self.network = network
        self.config = config
        self.pixels = pixels
        self.layers = device_layers(network, pixels)
        shapes = network.map_shapes()
        order = orders(network.layers, shapes, channel_rates(network), config.banks)
        if pixels:
            shapes = {PIXELS: network.image_shape} | shapes
        self.placements, n_bits = place_maps(shapes, self.layers, network.timesteps, order, config)
        self.host_map = next(iter(shapes))
        """Name of the map that the host writes."""
        everything = series_of_maps(shapes, self.layers)
        self.moved = next(series for series in everything if self.host_map in series)
        """Names of the maps that get a region of spike memory for each input buffer: the host's
        map, and all maps that layers read together with it."""
        n_moved = sum(self.placements[name].n_bits for name in self.moved)
        first = self.placements[self.host_map]
        start = min(self.placements[name].start for name in self.moved)
        n_free = max(GRANULE_BITS * config.spike_bytes - n_bits, 0)
        self.inputs: tuple[Placement, ...] = (
            first,
            *(
                first.moved(n_bits - start + n * n_moved)
                for n in range(min(n_free // n_moved, N_INPUTS - 1))
            ),
        )
        """Regions of the host's map for as many input buffers as spike memory has room for."""
        self.map_bits = n_bits, n_moved
        """Numbers of bits that all maps take in each bank's spike memory, and that each further
        input buffer takes."""

    def compile(self) -> Program:
        """Compile all layers and return the program, with as many input buffers as fit.

        Raises
        ------
        FitError
            The network does not fit the device, not even with a single input buffer.
        """
        compiled = [self._compile_layer(n) for n in range(len(self.layers))]
        for n_inputs in range(len(self.inputs), 1, -1):
            with contextlib.suppress(FitError):
                return self._program(compiled, self.inputs[:n_inputs])
        return self._program(compiled, self.inputs[:1])

    def _program(self, compiled: list[CompiledLayer], inputs: tuple[Placement, ...]) -> Program:
        """Return the program whose input buffers are the regions ``inputs``.

        Raises
        ------
        FitError
            The program does not fit the device.
        """
        config = self.config
        rows_per_run = len(self.layers) * descriptor_rows(config)
        n_descriptors = rows_per_run * len(inputs)
        images, layers = allocate(compiled, n_descriptors, config)
        first_descriptor = len(images[Space.WEIGHT]) // row_bytes(Space.WEIGHT, config)
        n_bits, n_moved = self.map_bits
        spike_bits = n_bits + (len(inputs) - 1) * n_moved
        program = Program(
            config=config,
            images=images
            | {
                Space.WEIGHT: images[Space.WEIGHT].ljust(
                    (first_descriptor + n_descriptors) * row_bytes(Space.WEIGHT, config), b"\0"
                )
            },
            placements=self.placements,
            inputs=inputs,
            moved=self.moved,
            entries=tuple(first_descriptor + i * rows_per_run for i in range(len(inputs))),
            layers=tuple(layer.plan for layer in layers),
            n_classes=self.network.n_classes,
            spike_bytes=spike_bits // GRANULE_BITS * config.banks,
            pixels=self.pixels,
            pixel_bits=self.network.pixel_bits,
        )
        # Sizes are checked first: an address beyond a memory may not fit a descriptor's field.
        _check_fits(program)
        weights = images[Space.WEIGHT] + self._descriptors(layers, inputs)
        return replace(program, images=program.images | {Space.WEIGHT: weights})

    def _compile_layer(self, n: int) -> CompiledLayer:
        """Compile layer ``n``, counted from 0.

        Raises
        ------
        FitError
            The layer does not fit the device.
        """
        context = LayerContext(
            layer=self.layers[n],
            timesteps=self.network.timesteps,
            placements=self.placements,
            config=self.config,
            final=n == len(self.layers) - 1,
            pixels=self.pixels and n == 0,
            pixel_bits=self.network.pixel_bits,
        )
        _check_numbers(context)
        return compile_layer(context)

    def _descriptors(self, compiled: list[CompiledLayer], inputs: tuple[Placement, ...]) -> bytes:
        """Return the bytes of all layers' descriptors, once for each of the input buffers
        ``inputs``.
        """
        raw = b""
        for place in inputs:
            # A run on another buffer differs only in where the maps ``moved`` lie.
            offset = place.start - inputs[0].start
            for layer, result in zip(self.layers, compiled, strict=True):
                header = dict(result.header)
                if layer.source in self.moved:
                    header["source"] += offset
                if layer.identity in self.moved:
                    header["identity"] += offset // GRANULE_BITS
                if layer.name in self.moved:
                    target = header["target"] + offset // GRANULE_BITS
                    header["target"] = target % N_ADDRESS_VALUES
                raw += descriptor_bytes(layer.name, header, result.levels, self.config)
        return raw


def _check_numbers(context: LayerContext) -> None:
    """Raise :class:`FitError` if a layer's membranes or sums could need too many bits.

    The device has ``Config.membrane_bits`` for membranes and ``Config.sum_bits`` for the sums of a
    bank.
    """
    layer, config = context.layer, context.config
    bounds = layer_bounds(layer, context.timesteps, context.input_max)
    if bounds.n_bits > config.membrane_bits:
        raise FitError(
            f"layer {layer.name!r} needs membranes of {bounds.n_bits} bits, {config.name!r} "
            f"has {config.membrane_bits}; quantise it to fewer bits",
            {"membrane_bits": (bounds.n_bits, config.membrane_bits)},
        )
    # The channels of a bank, among the input channels of the weights.
    n_stacked = len(layer.sources) if layer.stacked else 1
    n_in = len(context.source.order)
    inputs = [
        [n * n_in + channel for n in range(n_stacked) for channel in channels]
        for channels in context.source.bank_inputs
    ]
    sums = bank_bounds(layer, context.timesteps, inputs)
    if sums.n_bits > config.sum_bits:
        raise FitError(
            f"layer {layer.name!r} needs sums of {sums.n_bits} bits in a bank, "
            f"{config.name!r} has {config.sum_bits}; quantise it to fewer bits or give "
            "it fewer inputs",
            {"sum_bits": (sums.n_bits, config.sum_bits)},
        )


def _check_fits(program: Program) -> None:
    """Raise :class:`FitError` if a program needs more memory or more layers than the device has.

    The message lists all limits that the program exceeds.
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
