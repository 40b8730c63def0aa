"""Placement of spike maps in spike memory.

A *map* is the spikes (T, C, H, W) that one layer writes or the host sends. Each *bank* of the core
has the spikes of some of the map's channels. A bank reads one *chunk* of its spike memory per
cycle, which has ``Config.chunk_bits`` bits. A chunk consists of *pieces* of
:data:`hw.spec.PIECE_BITS` bits. The pieces may come from different rows of a map, so that one chunk
can hold several rows of a small kernel. A *granule* is 8 bits, the unit in which the core writes
spikes.

A layer may read several maps, one after another, in one of its loops. This loop moves the address
by the same distance in each iteration, so these maps must have the same layout, and lie at equal
distances. Maps that layers read together, directly or through other maps, form a *series*. The maps
of a series lie side by side.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence

from hw.protocol import N_PIECES
from hw.spec import GRANULE_BITS, N_PLANES, PIECE_BITS, Config
from sw.compile.program import PIXELS, FitError, Placement
from sw.network.network import Layer, Shape


def rows_per_chunk(pitch_bytes: int, kernel_y: int, config: Config) -> int:
    """Return how many rows of a kernel one chunk can hold, with one piece (16 bits) for each row.

    The rows of the map are ``pitch_bytes`` bytes apart, and the kernel has ``kernel_y`` rows. A
    bank's spike memory consists of several byte-wide memories, called columns
    (:mod:`hw.core.spikes`). Each column delivers one byte per cycle. Therefore no two pieces of a
    chunk may lie in the same column.
    """
    n_pieces = config.chunk_bits // PIECE_BITS
    if pitch_bytes * GRANULE_BITS % PIECE_BITS:
        return 1
    step = pitch_bytes * GRANULE_BITS // PIECE_BITS
    n_rows = 1
    while n_rows < min(kernel_y, n_pieces) and n_rows * step % n_pieces:
        n_rows += 1
    return n_rows


def _input_pitch(row: int, kernel_y: int, config: Config) -> int:
    """Return the distance in bits between rows of the input map, which the host writes.

    ``row`` is the number of bits that a row needs in a bank, and ``kernel_y`` the number of rows of
    the kernel. The distance may be up to one and a half times ``row``, if a chunk (the input bits
    that are read in one cycle) can then hold more rows of the kernel. This is possible only in
    layers whose kernel rows fit 16 bits each (:func:`_is_short`).
    """
    smallest = -(-row // GRANULE_BITS)
    pitches = [n for n in range(smallest, smallest + N_PIECES * 2 + 1) if 2 * n <= 3 * smallest]
    best = max(pitches, key=lambda n: (rows_per_chunk(n, kernel_y, config), -n), default=0)
    return best * GRANULE_BITS if best and rows_per_chunk(best, kernel_y, config) > 1 else row


MAX_STEPS = 30_000
"""Largest number of steps of a search for an order of maps that lie side by side in spike memory.
So many steps take up to a few seconds. A search through all orders of 7 maps takes fewer."""


def series_of_maps(names: Iterable[str], layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """Return the names of all maps, divided into series.

    Maps that layers read together, directly or through other maps, form a series. A map that no
    layer reads together with another one is a series by itself. The series, and the maps in each,
    have the order of ``names`` if the layers can then read them at equal distances.

    Raises
    ------
    FitError
        No order was found in which each layer reads its maps at equal distances
        (:func:`_even_order`).
    """
    series = {name: [name] for name in names}
    for layer in layers:
        for name in layer.addends:
            ours, theirs = series[layer.source], series[name]
            if ours is not theirs:
                ours += theirs
                series |= dict.fromkeys(theirs, ours)
    found: dict[str, tuple[str, ...]] = {}
    for name, members in series.items():
        if name not in found:
            order = _even_order([other for other in series if other in members], layers)
            found |= dict.fromkeys(members, order)
    return list(dict.fromkeys(found.values()))


def _even_order(members: list[str], layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return an order of ``members`` in which each layer reads maps at equal distances.

    ``members`` are maps that are to lie side by side in spike memory. If a search through all
    orders takes too many steps, a second search looks only for orders in which each layer reads
    maps that are neighbours. The second search gives up wrong beginnings of an order much earlier,
    and therefore takes fewer steps.

    Raises
    ------
    FitError
        There is no such order, or none was found within :data:`MAX_STEPS` steps of each search.
    """
    reads = [layer.sources for layer in layers if layer.addends and layer.source in members]
    order, reason = None, "these maps cannot all lie at equal distances in spike memory"
    try:
        order = _first_order(members, reads, max_distance=len(members))
    except TimeoutError:
        reason = (
            "no order in which all of them lie at equal distances in spike memory was found in "
            f"{MAX_STEPS} steps"
        )
        with contextlib.suppress(TimeoutError):
            order = _first_order(members, reads, max_distance=1)
    if order is not None:
        return order
    layer = next(layer for layer in layers if layer.addends and layer.source in members)
    raise FitError(
        f"layer {layer.name!r} and others read sums of {', '.join(members)}, and {reason}; join "
        "some of them by a gate instead"
    )


def _first_order(
    members: list[str], reads: Sequence[Sequence[str]], *, max_distance: int
) -> tuple[str, ...] | None:
    """Return the first order of ``members`` in which each layer reads equally distant maps.

    Orders are sorted like words in a dictionary, with ``members`` as the alphabet. The search
    appends one map at a time, and takes it back as soon as the order can no longer be completed.

    Parameters
    ----------
    members : names of the maps, which will lie side by side.
    reads : for each layer that reads several of the maps, the names of those that it reads.
    max_distance : largest distance, in places of the order, from one of the maps that a layer reads
        to the next of them.

    Returns
    -------
    The order, or None if there is none.

    Raises
    ------
    TimeoutError
        The search took more than :data:`MAX_STEPS` steps.
    """
    order: list[str] = []
    untried = [list(reversed(members))]
    for _ in range(MAX_STEPS):
        if not untried[-1]:
            untried.pop()
            if not untried:
                return None
            order.pop()
            continue
        order.append(untried[-1].pop())
        places = {name: n for n, name in enumerate(order)}
        if not all(_may_be_even(places, names, len(members), max_distance) for names in reads):
            order.pop()
        elif len(order) == len(members):
            return tuple(order)
        else:
            untried.append([name for name in reversed(members) if name not in places])
    raise TimeoutError


def _may_be_even(
    places: dict[str, int], names: Sequence[str], n_members: int, max_distance: int
) -> bool:
    """Return whether the maps that a layer reads can still get places at equal distances.

    Some of the ``n_members`` maps that are to lie side by side have been placed.

    Parameters
    ----------
    places : index, in the order of all these maps, of every map that has been placed; the maps to
        come get the indices from ``len(places)`` to ``n_members`` - 1.
    names : the maps that one layer reads.
    max_distance : largest distance, in places of the order, from one of these maps to the next.
    """
    at = sorted(places[name] for name in names if name in places)
    distances = {b - a for a, b in itertools.pairwise(at)}
    n_missing = len(names) - len(at)
    if len(distances) > 1 or max(distances, default=0) > max_distance:
        return False
    if not at or not n_missing:
        return True
    nearest = len(places) - at[-1]  # the next of these maps gets an index from len(places) on
    distance = min(distances, default=max(nearest, 1))
    return nearest <= distance <= max_distance and at[-1] + n_missing * distance < n_members


def place_maps(
    shapes: dict[str, Shape],
    layers: tuple[Layer, ...],
    timesteps: int,
    orders: dict[str, tuple[int, ...]],
    config: Config,
) -> tuple[dict[str, Placement], int]:
    """Give every map a region of spike memory, with room for the padding around the map.

    Maps that layers read together, directly or through other maps, get the same padding: the
    largest that any layer that reads them needs.

    Parameters
    ----------
    shapes : shapes (C, H, W) of all maps by name. The host writes the first map.
    layers : the layers that the device runs.
    orders : for each map, its channels in the order in which they are dealt to the banks
        (:mod:`sw.compile.deal`). The map :data:`sw.compile.program.PIXELS` has no entry, because
        its bit-planes are dealt and not its channels.

    Returns
    -------
    The region of each map by name, and the number of bits of each bank that all of them take.

    Raises
    ------
    FitError
        A layer reads several maps, and no order was found in which they lie at equal distances.
    """
    placements: dict[str, Placement] = {}
    start = 0
    everything = series_of_maps(shapes, layers)
    for name, series in ((name, members) for members in everything for name in members):
        channels, height, width = shapes[name]
        readers = [layer for layer in layers if layer.source in series]
        pad_y = max((layer.padding[0] for layer in readers), default=0)
        pad_x = max((layer.padding[1] for layer in readers), default=0)
        # The host can pack positions bit by bit. The device writes whole granules, and reads the
        # identity of a gate in whole granules, too.
        by_bit = (
            name == next(iter(shapes))
            and series == (name,)
            and all(layer.identity != name for layer in layers)
        )
        by_plane = name == PIXELS
        n_planes = N_PLANES if by_plane else timesteps
        n_steps = N_PLANES // config.banks if by_plane else timesteps
        depth = channels if by_plane else -(-channels // config.banks)
        pixel = depth if by_bit else -(-depth // GRANULE_BITS) * GRANULE_BITS
        row = (width + pad_x) * pixel
        if by_bit and any(_is_short(layer, depth) for layer in readers):
            row = _input_pitch(row, max(layer.kernel[0] for layer in readers), config)
        plane = (height + pad_y) * row
        n_bits = n_steps * plane + pad_y * row + pad_x * pixel
        n_bits = -(-n_bits // GRANULE_BITS) * GRANULE_BITS
        placements[name] = Placement(
            shape=(channels, height, width),
            timesteps=n_planes,
            order=tuple(range(channels)) if by_plane else orders[name],
            banks=config.banks,
            by_plane=by_plane,
            base=start + pad_y * row + pad_x * pixel,
            start=start,
            n_bits=n_bits,
            pixel=pixel,
            row=row,
            plane=plane,
        )
        start += n_bits
    return {name: placements[name] for name in shapes}, start


def _is_short(layer: Layer, depth: int) -> bool:
    """Return whether every kernel row of ``layer`` fits a piece (16 bits), wherever it begins.

    A piece begins at a multiple of 8 bits, so that the row may begin at any of its first 8 bits.
    ``depth`` is the number of bits of a position. If kernel columns share weights, the result is
    False.
    """
    run = layer.kernel[1] * depth
    return layer.weight.shape[6] == layer.kernel[1] and run <= PIECE_BITS - GRANULE_BITS + 1
