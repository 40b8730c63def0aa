"""Choose the memory that holds each layer's weights and parameters: on the FPGA or outside it.

A *row* is what is read from a memory at once: ``lanes`` weights, or ``fire_lanes`` pairs of bias
and threshold (:class:`hw.spec.Config`). Memory outside the FPGA is larger but slower. So the layers
that read each of their rows most often in an inference keep their rows on the FPGA. Weights and
parameters are chosen separately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hw.protocol import Space, n_rows, row_bytes
from hw.spec import OFFCHIP_PARAM, OFFCHIP_WEIGHT, Config
from sw.compile.nest import CompiledLayer


def allocate(
    compiled: list[CompiledLayer], n_descriptors: int, config: Config
) -> tuple[dict[Space, bytes], list[CompiledLayer]]:
    """Assign memory addresses to every layer's rows; return the memories' contents, and the layers.

    Parameters
    ----------
    compiled : compiled layers. A row is ``lanes`` weights or ``fire_lanes`` parameters; the
        addresses of each layer count from its own first row.
    n_descriptors : number of rows of weight memory to leave free for the layers' descriptors
        (:mod:`sw.compile.rows`).

    Returns
    -------
    Two results. The first is the contents of each memory: weight memory (without the descriptors),
    parameter memory and, if the device has it, memory outside the FPGA. Contents may be larger than
    their memory, because sizes are not checked here. The second result is the layers with their
    final addresses.
    """
    weights_inside = _kept(
        compiled,
        n_rows(Space.WEIGHT, config) - n_descriptors,
        lambda layer: layer.plan.weight_rows,
        lambda layer: layer.plan.n_jobs * layer.job_rows,
        config,
    )
    params_inside = _kept(
        compiled,
        n_rows(Space.PARAM, config),
        lambda layer: layer.plan.param_rows,
        lambda layer: layer.plan.n_jobs * layer.plan.n_beats,
        config,
    )
    weights, params, outside = bytearray(), bytearray(), bytearray()
    size = row_bytes(Space.WEIGHT, config)
    starts = []
    # Parameters come first outside the FPGA, because their addresses have fewer bits.
    param_bytes, stored_bytes = row_bytes(Space.PARAM, config), size * config.param_chunks
    for n, layer in enumerate(compiled):
        if n in params_inside:
            starts.append(len(params) // param_bytes)
            params += layer.params
        else:
            starts.append(OFFCHIP_PARAM + len(outside) // stored_bytes)
            outside += _padded(layer.params, param_bytes, stored_bytes)
    outside += bytes(-len(outside) % (size * config.banks))
    placed = []
    for n, layer in enumerate(compiled):
        inside = n in weights_inside
        memory = weights if inside else outside
        first = len(memory) // (size * config.banks)
        memory += layer.weights
        placed.append(
            replace(
                layer,
                header=layer.header
                | {
                    "weight": _address(layer, first, config) if inside else OFFCHIP_WEIGHT + first,
                    "param": starts[n],
                },
                plan=replace(
                    layer.plan, weights_offchip=not inside, params_offchip=n not in params_inside
                ),
            )
        )
    images = {Space.WEIGHT: bytes(weights), Space.PARAM: bytes(params)}
    if config.offchip_depth:
        images[Space.OFFCHIP] = bytes(outside)
    return images, placed


def _address(layer: CompiledLayer, row: int, config: Config) -> int:
    """Return the address of a layer's first row of weights, which begins in row ``row`` of a
    bank."""
    return config.half_row + 2 * row if layer.halved else row


def _padded(rows: bytes, size: int, stored_bytes: int) -> bytes:
    """Return rows of ``size`` bytes, each padded with zeros to ``stored_bytes`` bytes."""
    split = (rows[i : i + size] for i in range(0, len(rows), size))
    return b"".join(row.ljust(stored_bytes, b"\0") for row in split)


def _kept(
    compiled: list[CompiledLayer],
    available: int,
    needed: Callable[[CompiledLayer], int],
    reads: Callable[[CompiledLayer], float],
    config: Config,
) -> set[int]:
    """Return the indices of the layers whose rows are kept on the FPGA.

    If the device has no other memory, or if all layers fit, these are all layers. Otherwise layers
    are kept as far as there is room, beginning with the layers that read each of their rows most
    often.

    Parameters
    ----------
    available : number of rows of the memory on the FPGA.
    needed : function that returns the number of rows of a layer.
    reads : function that returns how many times a layer reads a row, in an inference in which all
        of its inputs are active.
    """
    everything = set(range(len(compiled)))
    if not config.offchip_depth or sum(map(needed, compiled)) <= available:
        return everything
    kept = set()
    for n in sorted(everything, key=lambda n: -reads(compiled[n]) / max(needed(compiled[n]), 1)):
        if needed(compiled[n]) <= available:
            available -= needed(compiled[n])
            kept.add(n)
    return kept
