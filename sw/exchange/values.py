"""Values in an imported graph: spikes, sums of spikes, and weighted sums of spikes.

The device neither scales nor averages spikes. So a scaling or pooling of spikes is stored with the
spikes, until it is folded into the weights of a later convolution or fully connected step. A sum is
stored as its terms, one for each map, until one layer reads all of these maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sw.exchange.graph import ExchangeError, Float, Pair
from sw.network.network import Shape, conv_size


@dataclass(frozen=True, eq=False)
class Window:
    """A pooling, described as a convolution that treats every channel by itself.

    ``taps`` holds the weights (ky, kx) of a window's values: 1 for a sum, 1 / n for an average.
    """

    taps: Float
    stride: Pair
    padding: Pair = (0, 0)

    @property
    def kernel(self) -> Pair:
        """The (height, width) of a window."""
        return self.taps.shape[0], self.taps.shape[1]

    def after(self, first: Window | Spread) -> Window:
        """Return one window that is equivalent to pooling by ``first`` and then by this window."""
        if isinstance(first, Spread):
            raise ExchangeError("pooling follows one to windows of different sizes: pool once")
        if self.padding != (0, 0):
            raise ExchangeError("pooling with padding follows another pooling: pool once")
        sizes = [(n - 1) * s for n, s in zip(self.kernel, first.stride, strict=True)]
        taps = np.zeros((sizes[0] + first.kernel[0], sizes[1] + first.kernel[1]))
        for (y, x), tap in np.ndenumerate(self.taps):
            top, left = y * first.stride[0], x * first.stride[1]
            taps[top : top + first.kernel[0], left : left + first.kernel[1]] += tap * first.taps
        stride = (self.stride[0] * first.stride[0], self.stride[1] * first.stride[1])
        return Window(taps, stride, first.padding)


@dataclass(frozen=True, eq=False)
class Spread:
    """An average pooling whose windows differ in size, as adaptive pooling can have.

    A pooled map is ``rows @ map @ columns.T``, with ``rows`` (height after, before) and ``columns``
    (width after, before).
    """

    rows: Float
    columns: Float

    def after(self, first: Window | Spread) -> Window:
        raise ExchangeError("pooling to windows of different sizes follows a pooling: pool once")


@dataclass(frozen=True, eq=False)
class Spikes:
    """A map of spikes, or the image, with a scaling and a pooling that no weights contain yet.

    ``factor`` and ``window`` will be folded into the weights that read the map; both may be None.
    """

    name: str
    """Name of the map in the folded network."""
    shape: Shape
    """Shape (C, H, W) before ``window``."""
    shared: bool = False
    """Whether several nodes of the graph read the map, so that its layer must not be changed."""
    factor: Float | None = None
    """Factor (c, H|1, W|1) by which the spikes are multiplied; None if they are not."""
    window: Window | Spread | None = None
    """Average or sum pooling of the multiplied spikes; None if they are not pooled."""

    @property
    def pooled(self) -> Shape:
        """Shape (C, H, W) of the map after ``window``."""
        if self.window is None:
            return self.shape
        window = self.window
        if isinstance(window, Spread):
            return self.shape[0], len(window.rows), len(window.columns)
        size = conv_size(self.shape[1:], window.kernel, window.stride, window.padding)
        return self.shape[0], *size


@dataclass(frozen=True, eq=False)
class SpikeSum:
    """The sum of several maps of spikes, each with its own scaling and pooling."""

    parts: tuple[Spikes, ...]

    @property
    def pooled(self) -> Shape:
        """Shape (C, H, W) of the sum."""
        return self.parts[0].pooled


@dataclass(frozen=True, eq=False)
class Term:
    """Weighted sums of the spikes of one map.

    Fields that are not described here are those of :class:`sw.network.network.AnyLayer`.
    """

    source: str
    shape: Shape
    """Shape (C, H, W) of the map."""
    weight: Float
    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums of spikes, which neurons later in the graph will receive."""

    name: str
    """Name of the layer that will hold the weights."""
    terms: tuple[Term, ...]
    """Parts of the sums, one for each map and convolution."""
    bias: Float
    shape: Shape
    """Shape (C, H, W) of the sums."""


Value = Spikes | SpikeSum | Sums


def size_of(value: Value) -> Shape:
    """Return the shape (C, H, W) of a value."""
    return value.shape if isinstance(value, Sums) else value.pooled


def require_spikes(value: Value, reason: str = "a gate joins spikes only") -> Spikes:
    """Return ``value`` if it is spikes.

    Raises
    ------
    ExchangeError
        ``value`` is a sum; the message gives ``reason``, which says why spikes are needed.
    """
    if isinstance(value, Sums):
        raise ExchangeError(f"no neurons come before it ({reason})")
    if isinstance(value, SpikeSum):
        raise ExchangeError(
            f"a sum of spikes comes before it ({reason}); lead the sum through neurons first, or "
            "use a gate in place of the sum"
        )
    return value


def spikes_of(value: Spikes | SpikeSum) -> tuple[Spikes, ...]:
    """Return the maps of a sum, or a single map in a tuple of one."""
    return (value,) if isinstance(value, Spikes) else value.parts


def added(values: Sequence[Value]) -> SpikeSum | Sums:
    """Return the sum of several values.

    Either all of them or none must be weighted sums. If spikes are to be added to weighted sums,
    convert the spikes first, by :func:`sw.exchange.linear.as_sums`.

    Raises
    ------
    ExchangeError
        The values have different shapes.
    """
    shapes = list(dict.fromkeys(map(size_of, values)))
    if len(shapes) > 1:
        raise ExchangeError(f"it adds maps of different shapes: {', '.join(map(str, shapes))}")
    spikes = [value for value in values if not isinstance(value, Sums)]
    if len(spikes) == len(values):
        return SpikeSum(tuple(part for value in spikes for part in spikes_of(value)))
    sums = [value for value in values if isinstance(value, Sums)]
    assert len(sums) == len(values)
    bias = sums[0].bias
    for value in sums[1:]:
        bias = bias + value.bias
    terms = tuple(term for value in sums for term in value.terms)
    return replace(sums[0], terms=terms, bias=bias)
