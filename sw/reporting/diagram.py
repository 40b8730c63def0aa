"""Draw the graph of a network's layers as SVG.

Column 0 holds the layers on the main path from the input to the logits, from top to bottom. The
columns to its right hold the layers on shortcuts, and the lines that have to pass beside boxes.

A map is the spikes of one layer, or of the network's input: binary (T, C, H, W). A gate
(:class:`hw.spec.Gate`) combines the spikes of a layer with those of a shortcut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from hw.spec import Gate, Leak, Reset, decay
from sw.network.network import INPUT, Layer, Network, Shape
from sw.reporting.markup import N_COLOURS, colour

ROW = 104
"""Distance in pixels from the top of a row of boxes to the top of the next."""
BOX_HEIGHT = 46
GUTTER = 78
"""Width in pixels of the column of maps at the left of the drawing."""
MAIN, SIDE, GAP = 188, 184, 16
"""Width in pixels of a box in column 0, of a box in any other column, and of the space between
columns."""
MARGIN = 8
"""Width in pixels of the empty border around the drawing."""


@dataclass(frozen=True)
class Place:
    """Position of a layer's box on the grid of the drawing, from 0 at the top left."""

    row: int
    column: int


def places(network: Network) -> dict[str, Place]:
    """Return the position of each layer, and of the input, by name.

    A layer is drawn one row below the lowest of the layers whose maps it reads. Column 0 holds the
    main path: the last layer, the layer whose spikes it convolves, and so on back to the input. If
    a layer on this path convolves the spikes of several layers, the path continues with the one
    drawn lowest.
    """
    rows = {INPUT: 1 if network.encoder is not None else 0}
    for layer in network.layers:
        reads = [*layer.sources, *([layer.identity] if layer.identity else [])]
        rows[layer.name] = 1 + max(rows[name] for name in reads)
    sources = {la.name: max(la.sources, key=lambda name: rows[name]) for la in network.layers}
    main, name = set(), network.layers[-1].name
    while name != INPUT:
        main.add(name)
        name = sources[name]
    main.add(INPUT)
    taken: set[tuple[int, int]] = set()
    result = {}
    for name, row in rows.items():
        column = 0 if name in main else 1
        while (row, column) in taken:
            column += 1
        taken.add((row, column))
        result[name] = Place(row, column)
    return result


def layer_numbers(network: Network) -> dict[str, int]:
    """Return the number of each layer by its name: 1 for the first layer after the stem."""
    return {layer.name: n for n, layer in enumerate(network.layers, 1)}


def conv_text(layer: Layer, source: Shape) -> str:
    """Return the layer's kernel, stride and channels as a short text, such as ``3×3 conv /2 ·
    16→32``. If the layer reads several maps, the text says how many. ``source`` is the shape
    (C, H, W) of each."""
    maps = f", {len(layer.sources)} maps" if layer.addends else ""
    if layer.kernel == source[1:] and layer.padding == (0, 0):
        return f"fully connected · {math.prod(source):,}→{layer.n_out}{maps}"
    stride = "" if layer.stride == (1, 1) else f" /{_pair(layer.stride)}"
    return f"{layer.kernel[0]}×{layer.kernel[1]} conv{stride} · {source[0]}→{layer.n_out}{maps}"


def neuron_text(layer: Layer) -> str:
    """Return the kind of a layer's neurons as a short text: IF, or LIF with its leak.

    The reset is named, too, if it is not a hard one. The output layer, which does not fire, yields
    ``sums over time``.
    """
    if layer.output:
        return "sums over time"
    kind = {
        Leak.NONE: "IF",
        Leak.SUBTRACT: f"LIF, loses 1/{1 << layer.leak_shift}",
        Leak.KEEP: f"LIF, keeps 1/{1 << layer.leak_shift}",
    }[layer.leak]
    if layer.finer_shifts:
        kind = f"LIF, keeps {decay(layer.leak, *layer.leak_shifts):.4g}"
    return kind + (f", {layer.reset.name.lower()} reset" if layer.reset != Reset.HARD else "")


def granularity(layer: Layer) -> str:
    """Return a text that says along which axes a layer's weights vary.

    The result is ``"per position"``, ``"per timestep"``, ``"per position and per timestep"``, or
    ``"shared"`` if all positions and timesteps have the same weights. The kernel of an output
    layer covers its whole input map, so its weights vary per position unless it is 1x1.
    """
    t, y, x, _, _, ky, kx = layer.weight.shape
    parts = []
    if y * x * (ky * kx if layer.output else 1) > 1:
        parts.append("per position")
    if t > 1:
        parts.append("per timestep")
    return " and ".join(parts) or "shared"


def granularity_class(layer: Layer) -> str:
    """Return the CSS class for the result of :func:`granularity`: ``shared``, ``unshared``,
    ``timed`` or ``both``."""
    return {
        "shared": "shared",
        "per position": "unshared",
        "per timestep": "timed",
    }.get(granularity(layer), "both")


def _pair(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}×{values[1]}"


def _size(shape: Shape) -> str:
    return "×".join(map(str, shape))


class _Drawing:
    def __init__(self, network: Network, pixels: bool):
        self.network = network
        self.pixels = pixels
        self.places = places(network)
        self.shapes = network.map_shapes()
        self.parts: list[str] = []
        self.cells = {(p.row, p.column) for p in self.places.values()}
        self.lanes: set[tuple[int, int]] = set()
        """Cells (row, column) of the grid through which a vertical line runs."""
        self.n_columns = 1 + max(p.column for p in self.places.values())

    def x(self, column: int) -> float:
        """Return the x coordinate of the centre of a column."""
        if column == 0:
            return MARGIN + GUTTER + MAIN / 2
        return MARGIN + GUTTER + MAIN + GAP + SIDE / 2 + (column - 1) * (SIDE + GAP)

    def width(self, column: int) -> float:
        return MAIN if column == 0 else SIDE

    def y(self, row: int) -> float:
        """Return the y coordinate of the top edge of the boxes in a row."""
        return MARGIN + row * ROW

    def line(self, *points: tuple[float, float], kind: str = "wire", arrow: bool = False) -> None:
        """Draw a line through ``points`` with rounded corners; ``kind`` is its CSS class."""
        d = f"M{points[0][0]:g} {points[0][1]:g}"
        for before, here, after in zip(points, points[1:], points[2:], strict=False):
            near = _towards(here, before, 8)
            far = _towards(here, after, 8)
            d += f"L{near[0]:g} {near[1]:g}Q{here[0]:g} {here[1]:g} {far[0]:g} {far[1]:g}"
        d += f"L{points[-1][0]:g} {points[-1][1]:g}"
        marker = ' marker-end="url(#arrow)"' if arrow else ""
        self.parts.append(f'<path class="{kind}" d="{d}"{marker}/>')

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def lane(self, start: Place, last: int) -> int:
        """Find a column through which a vertical line can pass boxes and other lines, and reserve
        it.

        The line runs from the row below ``start`` to row ``last``. Return the column.
        """
        rows = range(start.row + 1, last + 1)
        column = max(start.column, 1)
        while any((row, column) in self.lanes | self.cells for row in rows):
            column += 1
        self.lanes |= {(row, column) for row in rows}
        self.n_columns = max(self.n_columns, column + 1)
        return column

    def out(self, name: str) -> tuple[float, float]:
        """Return the point (x, y) where the lines begin that lead from a map to the layers that
        read it.

        ``name`` is the name of the map. The point lies below the box of its layer, and below the
        gate and the pooling, if the layer has these.
        """
        place = self.places[name]
        return self.x(place.column), self.y(place.row) + BOX_HEIGHT + 32

    def box(self, place: Place, title: str, detail: str, kind: str, number: int | None) -> None:
        x, width = self.x(place.column) - self.width(place.column) / 2, self.width(place.column)
        top = self.y(place.row)
        if kind in ("unshared", "both", "timed"):
            # A stack of sheets: there is more than one set of weights.
            for shift in (6, 3):
                self.parts.append(
                    f'<rect class="box sheet {kind}" x="{x + shift:g}" y="{top - shift:g}" '
                    f'width="{width:g}" height="{BOX_HEIGHT}" rx="7"/>'
                )
        self.parts.append(
            f'<rect class="box {kind}" x="{x:g}" y="{top:g}" width="{width:g}" '
            f'height="{BOX_HEIGHT}" rx="7"/>'
        )
        left = x + 10
        if number is not None:
            self.parts.append(
                f'<rect class="chip {colour(number)}" x="{x + 8:g}" y="{top + 8:g}" width="18" '
                f'height="15" rx="4"/>'
            )
            self.text(x + 17, top + 19.5, str(number), f"chiptext t{number % N_COLOURS}")
            left = x + 32
        room = int((x + width - left) / 7.6)
        shown = title if len(title) <= room else f"{title[: room - 1]}…"
        self.text(left, top + 20, shown, "name", "start")
        self.text(x + 10, top + 37, detail, "detail", "start")

    def prism(self, row: int, shape: Shape) -> None:
        """Draw a map's shape (C, H, W) in the left margin, as a prism.

        Its face stands for height and width, and its depth for the channels.
        """
        largest = max(max(s[1:]) for s in [*self.shapes.values(), self.network.image_shape])
        most = max(s[0] for s in [*self.shapes.values(), self.network.image_shape])
        height, width = (5 + 27 * math.sqrt(n / largest) for n in shape[1:])
        depth = 3 + 15 * math.log2(1 + shape[0]) / math.log2(1 + most)
        x = MARGIN + (GUTTER - 16 - width - depth) / 2
        y = self.y(row) + BOX_HEIGHT / 2 + (height - depth * 0.6) / 2 + depth * 0.6 - height
        rise = depth * 0.6
        self.parts.append(
            f'<path class="side" d="M{x:.1f} {y:.1f}l{depth:.1f} {-rise:.1f}h{width:.1f}'
            f'l{-depth:.1f} {rise:.1f}z"/>'
            f'<path class="side dark" d="M{x + width:.1f} {y:.1f}l{depth:.1f} {-rise:.1f}'
            f'v{height:.1f}l{-depth:.1f} {rise:.1f}z"/>'
            f'<rect class="face" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"/>'
        )

    def draw(self) -> str:
        network = self.network
        for layer in network.layers:
            self.wires(layer)
        if network.encoder is not None:
            image = Place(0, 0)
            x = self.x(0)
            self.line((x, self.y(0) + BOX_HEIGHT), (x, self.y(1)), arrow=True)
            self.box(image, "image", f"{_size(network.image_shape)}, 8 bit", "data", None)
            self.prism(0, network.image_shape)
            self.text(
                x + 8, self.y(0) + BOX_HEIGHT + 36, "the same at every timestep", "note", "start"
            )
            encoder = network.encoder
            self.box(
                self.places[INPUT],
                f"{encoder.name} ({'device' if self.pixels else 'host'})",
                conv_text(encoder, network.image_shape),
                granularity_class(encoder) if self.pixels else "host",
                None,
            )
            self.tail(encoder, INPUT)
        else:
            self.box(self.places[INPUT], "input spikes", _size(network.image_shape), "data", None)
            self.tail(None, INPUT)
        self.prism(self.places[INPUT].row, self.shapes[INPUT])
        for number, layer in enumerate(network.layers, 1):
            self.box(
                self.places[layer.name],
                layer.name,
                conv_text(layer, self.shapes[layer.source]),
                granularity_class(layer),
                number,
            )
            if not layer.output:
                self.tail(layer, layer.name)
                if self.places[layer.name].column == 0:
                    self.prism(self.places[layer.name].row, self.shapes[layer.name])
        last = self.places[network.layers[-1].name]
        x, y = self.x(last.column), self.y(last.row) + BOX_HEIGHT
        self.line((x, y), (x, y + 22), arrow=True)
        self.text(x, y + 38, f"{network.n_classes} logits, the largest is the class", "size")
        height = y + 50
        width = self.x(self.n_columns - 1) + self.width(self.n_columns - 1) / 2 + MARGIN + 6
        return (
            f'<svg class="diagram" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'role="img" aria-label="Diagram of the network, {len(network.layers)} layers">'
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="head" d="M0 .8 7.4 4 0 7.2z"/></marker>'
            f"</defs>{''.join(self.parts)}</svg>"
        )

    def tail(self, layer: Layer | None, name: str) -> None:
        """Draw the symbols below a layer's box: its gate, its pooling, and the shape of the map
        that it writes.

        ``name`` is the name of the map. ``layer`` is None for an input of binary frames, which no
        layer computes.
        """
        place = self.places[name]
        x, y = self.x(place.column), self.y(place.row) + BOX_HEIGHT
        self.line((x, y), self.out(name))
        if layer is not None and layer.gate != Gate.NONE:
            self.parts.append(
                f'<rect class="gate" x="{x - 21:g}" y="{y + 9:g}" width="42" height="20" rx="10"/>'
            )
            self.text(x, y + 23, layer.gate.name, "gatename")
        elif layer is not None and layer.pool != (1, 1):
            self.parts.append(
                f'<rect class="pool" x="{x - 34:g}" y="{y + 9:g}" width="68" height="20" rx="4"/>'
            )
            self.text(x, y + 23, f"OR {layer.pool[0]}×{layer.pool[1]}", "gatename")
        pool = ""
        if layer is not None and layer.gate != Gate.NONE and layer.pool != (1, 1):
            pool = f", OR {layer.pool[0]}×{layer.pool[1]}"
        aside = 40 if layer is not None and layer.pool != (1, 1) and not layer.identity else 26
        self.text(x - aside, y + 25, _size(self.shapes[name]) + pool, "size", "end")

    def wires(self, layer: Layer) -> None:
        """Draw the lines that end at a layer.

        One line leads from each map that the layer convolves to its box. If the layer has a
        shortcut (``layer.identity``), another leads from the shortcut's map to the layer's gate.
        """
        place = self.places[layer.name]
        x, top = self.x(place.column), self.y(place.row)
        for name in layer.sources:
            source = self.places[name]
            sx, sy = self.out(name)
            if source.column == place.column and source.row + 1 == place.row:
                self.line((sx, sy), (x, top), arrow=True)
            elif source.row + 1 == place.row:
                self.line((sx, sy), (sx, sy + 10), (x, sy + 10), (x, top), arrow=True)
            else:
                lx = self.x(self.lane(source, place.row - 1))
                above = top - ROW + BOX_HEIGHT + 42
                self.line(
                    (sx, sy),
                    (sx, sy + 10),
                    (lx, sy + 10),
                    (lx, above),
                    (x, above),
                    (x, top),
                    arrow=True,
                )
        if layer.identity is None:
            return
        identity = self.places[layer.identity]
        ix, iy = self.out(layer.identity)
        gy = top + BOX_HEIGHT + 19
        if identity.column > place.column and not any(
            (r, identity.column) in self.cells | self.lanes
            for r in range(identity.row + 1, place.row + 1)
        ):
            lx = ix
            self.lanes |= {(r, identity.column) for r in range(identity.row + 1, place.row + 1)}
            points = [(ix, iy)]
        else:
            lx = self.x(self.lane(identity, place.row))
            points = [(ix, iy), (ix, iy + 10), (lx, iy + 10)]
        self.line(*points, (lx, gy), (x + 22, gy), kind="wire identity", arrow=True)


def _towards(
    start: tuple[float, float], end: tuple[float, float], by: float
) -> tuple[float, float]:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    if length == 0:
        return start
    share = min(by, length / 2) / length
    return start[0] + dx * share, start[1] + dy * share


def diagram(network: Network, pixels: bool = False) -> str:
    """Return a drawing of the network as an SVG element.

    The first layer of a network for images, the encoder, reads pixels. It is marked as computed by
    the device if ``pixels`` is True, else as computed by the host.
    """
    return _Drawing(network, pixels).draw()
