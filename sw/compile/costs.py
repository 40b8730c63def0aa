"""Costs of a network: synapses, operations, spikes and cycles of each layer. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sw.compile.cycles import predict_cycles
from sw.compile.program import PIXELS, Program, bit_planes, device_layers
from sw.network.bounds import layer_bounds
from sw.network.encoder import pixel_max, rounded
from sw.network.network import Layer, Network, Shape

Maps = dict[str, NDArray[np.uint8]]
"""Spikes (T, C, H, W) of every map of one image, by name."""

N_PREDICTED = 40
"""Largest number of images whose cycles are predicted. Their mean then has a standard error of
about 1 %, because the cycles of single images differ by some 5 %."""
PJ_PER_ACCUMULATION = 0.9
"""Energy in pJ of an addition in 32-bit floating point at 45 nm (Horowitz, ISSCC 2014), the
convention of the literature on spiking networks. It is not a measurement of this device."""
PJ_PER_MULTIPLICATION = 4.6
"""Energy in pJ of a multiplication and an addition in 32-bit floating point at 45 nm (Horowitz,
ISSCC 2014)."""


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Costs of one layer: its size, and the work that it does for an image.

    The last three fields are means over some images (:func:`measured`), and None without images.
    """

    name: str
    source: str
    addends: tuple[str, ...]
    """Names of further maps that the layer reads."""
    n_neurons: int
    fan_in: int
    """Number of inputs of a neuron whose kernel window lies inside the map."""
    n_synapses: int
    """Number of pairs of an input and a neuron that reads it, over all timesteps. Inputs in the
    padding do not count."""
    n_weights: int
    unshared: bool
    """Whether every position has weights of its own."""
    per_timestep: bool
    """Whether every timestep has weights of its own."""
    offchip: bool
    """Whether the weights are in memory outside the FPGA."""
    membrane_bits: int
    """Width of membranes in bits that is proved sufficient for any input."""
    input_density: float | None = None
    """Share of ones among the bits of the maps that the layer reads."""
    n_synaptic_ops: float | None = None
    """Number of additions of one weight to one neuron, for an image."""
    n_cycles: float | None = None
    """Number of clock cycles of the device for an image, as the compiler predicts it."""


def _n_uses(n_in: int, kernel: int, stride: int, padding: int, n_out: int) -> NDArray[np.int64]:
    """Return, for each input along one axis, the number of outputs that read it.

    ``n_in`` and ``n_out`` are the numbers of inputs and outputs; the other arguments are those of
    the convolution.
    """
    read = np.arange(n_out)[:, None] * stride + np.arange(kernel) - padding
    return np.bincount(read[(read >= 0) & (read < n_in)], minlength=n_in)


def fan_out(layer: Layer, source: Shape) -> NDArray[np.int64]:
    """Return how many neurons read an input at each position (H, W), at one timestep.

    ``source`` is the shape (C, H, W) of the map that the layer reads. Outputs that lie in no
    complete pooling window do not count, because the device does not compute them.
    """
    _, height, width = layer.conv_shape(source)
    kept = height // layer.pool[0] * layer.pool[0], width // layer.pool[1] * layer.pool[1]
    rows, columns = (
        _n_uses(n, k, s, p, o)
        for n, k, s, p, o in zip(
            source[1:], layer.kernel, layer.stride, layer.padding, kept, strict=True
        )
    )
    return layer.n_out * rows[:, None] * columns


def n_synaptic_ops(layer: Layer, maps: Maps) -> int:
    """Return how many synaptic operations a layer does for one image.

    A synaptic operation is the addition of one weight to one neuron. Each spike that the layer
    reads causes one operation for every neuron that reads it (:func:`fan_out`). ``maps`` has at
    least the maps that the layer reads.
    """
    used = fan_out(layer, maps[layer.source].shape[1:])
    spikes = sum(maps[name].sum(axis=(0, 1), dtype=np.int64) for name in layer.sources)
    return int((spikes * used).sum())


def layer_reports(network: Network, program: Program | None = None) -> list[LayerReport]:
    """Return a report for every layer that the device runs, with the costs that need no input data.

    ``program`` is the compiled network, or None if it does not fit a device. The encoder, which
    turns pixels into spikes, is one of the layers only if the program takes pixels.
    """
    shapes = network.map_shapes() | {PIXELS: network.image_shape}
    plans = () if program is None else program.layers
    offchip = {plan.name for plan in plans if plan.weights_offchip}
    reports = []
    for layer in device_layers(network, program is not None and program.pixels):
        source = shapes[layer.source]
        t, y, x, _, _, ky, kx = layer.weight.shape
        reports.append(
            LayerReport(
                name=layer.name,
                source=layer.source,
                addends=layer.addends,
                n_neurons=int(np.prod(layer.conv_shape(source))),
                fan_in=layer.fan_in,
                n_synapses=network.timesteps
                * source[0]
                * len(layer.sources)
                * int(fan_out(layer, source).sum()),
                n_weights=layer.weight.size,
                unshared=y * x * (ky * kx if layer.output else 1) > 1,
                per_timestep=t > 1,
                offchip=layer.name in offchip,
                membrane_bits=layer_bounds(
                    layer,
                    network.timesteps,
                    pixel_max(network.pixel_bits) if layer.source == PIXELS else 1,
                ).n_bits,
            )
        )
    return reports


def device_maps(network: Network, images: NDArray[np.uint8], spikes: Maps) -> list[Maps]:
    """Return one dictionary per image, with every map that a layer on the device may read.

    Parameters
    ----------
    images : uint8 images (M, C, H, W), of which the first N are used. If the network has an
        encoder, each image's bit-planes (one bit of all pixels each) are added to its maps, under
        the name :data:`sw.compile.program.PIXELS`. Otherwise the images are not used.
    spikes : spikes (N, T, C, H, W) of every map by name, for N images.
    """
    n_images = len(next(iter(spikes.values())))
    return [
        {name: maps[n] for name, maps in spikes.items()}
        | (
            {}
            if network.encoder is None
            else {PIXELS: bit_planes(rounded(images[n], network.pixel_bits))}
        )
        for n in range(n_images)
    ]


def measured(network: Network, program: Program | None, images: list[Maps]) -> list[LayerReport]:
    """Return the reports of all layers, including the costs that depend on the input.

    These costs are ``input_density``, ``n_synaptic_ops`` and the predicted ``n_cycles``, as means
    over some images. Cycles take long to predict. They are therefore predicted for at most
    :data:`N_PREDICTED` of the images, evenly spaced.

    Parameters
    ----------
    program : the network's program. If the network does not fit a device, pass None; the cycles
        are then None, too.
    images : for each image, all maps by name, including the map that the host writes
        (:func:`device_maps`).
    """
    n_predicted = min(N_PREDICTED, len(images)) if program else 0
    predicted = np.linspace(0, len(images) - 1, n_predicted).astype(int)
    cycles = [predict_cycles(program, images[n]) for n in predicted] if program else []
    return [
        replace(
            report,
            input_density=float(
                np.mean([maps[name].mean() for maps in images for name in layer.sources])
            ),
            n_synaptic_ops=float(np.mean([n_synaptic_ops(layer, maps) for maps in images])),
            n_cycles=float(np.mean([c[layer.name] for c in cycles])) if cycles else None,
        )
        for report, layer in zip(
            layer_reports(network, program),
            device_layers(network, program is not None and program.pixels),
            strict=True,
        )
    ]
