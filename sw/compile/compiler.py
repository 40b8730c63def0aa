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
from dataclasses import replace
from typing import Any

import numpy as np

from hw.protocol import (
    Space,
    descriptor_rows,
    row_bytes,
)
from hw.spec import (
    GRANULE_BITS,
    N_PLANES,
    PARAM_BITS,
    Config,
    signed_range,
)
from sw.compile.nest import compile_part
from sw.compile.placement import place_maps
from sw.compile.program import PIXELS, FitError, LayerPlan, Part, Program, device_layers
from sw.compile.rows import dealt_to_cores, descriptor_bytes
from sw.network.bounds import layer_bounds
from sw.network.encoder import PIXEL_MAX
from sw.network.network import Layer, Network


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
    placements, n_bits = place_maps(shapes, layers, timesteps, config)
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
                part, header, levels, weight_image, param_image = compile_part(
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
                images[core] += descriptor_bytes(layer.name, moved, levels, config)
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
            Space.WEIGHT: dealt_to_cores(weights, row_bytes(Space.WEIGHT, config)),
            Space.PARAM: dealt_to_cores(params, row_bytes(Space.PARAM, config)),
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
