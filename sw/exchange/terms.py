"""Preparation of a sum of several weighted maps for one layer of the device.

A layer reads several maps with one kernel, one stride and one padding, and all of these maps have
the same shape (:class:`sw.network.network.AnyLayer`). The terms of a sum are brought to this form:

- Terms that read the same map with the same stride are one term, whose weights are added.
- Kernels and paddings are made equal with weights of 0, which changes no sum.
- Terms whose maps have other shapes or strides read *copies*: layers of neurons that each repeat
  one input spike. The copied map has the size of the sums, and is read with a 1x1 kernel and stride
  1. So a copy has one channel for each input channel and kernel position that the term has weights
  for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sw.exchange.graph import Float, Pair
from sw.exchange.values import Term


@dataclass(frozen=True, eq=False)
class Copy:
    """A layer that repeats some of the spikes that a term reads, and the term that reads it.

    ``taps`` (channels, c, ky, kx) are the layer's weights, in which each channel has at most one 1.
    The ``source`` of ``term`` still names the original map; it is replaced when the layer is added.
    """

    taps: Float
    term: Term


def merged(terms: Sequence[Term], size: Pair) -> list[Term]:
    """Combine all terms that read the same map with the same stride into one term each.

    A term is a part of a layer's weighted sums: a convolution of one map.

    ``size`` is the height and width of the sums.
    """
    groups: dict[tuple[str, Pair], list[Term]] = {}
    for term in terms:
        groups.setdefault((term.source, term.stride), []).append(term)
    result = []
    for group in groups.values():
        alike = with_one_kernel(group, size)
        total = alike[0].weight
        for term in alike[1:]:
            total = total + term.weight
        result.append(replace(alike[0], weight=total))
    return result


def with_one_kernel(terms: Sequence[Term], size: Pair) -> list[Term]:
    """Return terms with the same kernel and padding that compute the same sums.

    A term is a convolution of one map, and a part of a layer's weighted sums. The terms must read
    maps of one size with one stride. ``size`` is the height and width of the sums.
    """
    first = terms[0]
    if len({(term.kernel, term.padding, term.weight.shape[5:]) for term in terms}) == 1:
        return list(terms)
    padding = tuple(max(term.padding[axis] for term in terms) for axis in (0, 1))
    kernel = []
    for axis in (0, 1):
        reach = max(padding[axis] - t.padding[axis] + t.kernel[axis] for t in terms)
        # With the larger padding, a smaller kernel would fit at more positions than the sums have.
        padded = first.shape[1 + axis] + 2 * padding[axis]
        kernel.append(max(reach, padded - size[axis] * first.stride[axis] + 1))
    return [_in_kernel(term, (kernel[0], kernel[1]), (padding[0], padding[1])) for term in terms]


def _in_kernel(term: Term, kernel: Pair, padding: Pair) -> Term:
    """Return a term (a convolution of one map) with a larger kernel and padding.

    The added weights are 0, so that the sums stay the same.
    """
    weight = np.zeros((*term.weight.shape[:5], *kernel))
    top, left = (p - q for p, q in zip(padding, term.padding, strict=True))
    weight[..., top : top + term.kernel[0], left : left + term.kernel[1]] = term.weight
    return replace(term, weight=weight, kernel=kernel, padding=padding)


def to_copy(terms: Sequence[Term], size: Pair) -> tuple[list[Term], int]:
    """Return the terms that must read a copy of their map, and the number of channels of each copy.

    A term is a convolution of one map, and a part of a layer's weighted sums. A copy is a layer
    that repeats the map's spikes in another shape. If all maps have the same shape and are read
    with the same stride, no term needs a copy. Otherwise, a term fits if its map has the height and
    width of the sums (``size``) and is read with stride 1.

    The copies have as many channels as one of the maps: the map of the fitting term with the most
    weights. If no term fits, it is the map of the term with the most weights. Fitting terms whose
    maps have this number of channels stay as they are; all other terms must read copies.
    """
    if len({(term.shape, term.stride) for term in terms}) == 1:
        return [], 0
    fitting = [t for t in terms if (t.shape[1:], t.stride) == (size, (1, 1))]
    n_channels = max(fitting or terms, key=lambda term: term.weight.size).shape[0]
    kept = [term for term in fitting if term.shape[0] == n_channels]
    return [term for term in terms if all(term is not other for other in kept)], n_channels


def copies(term: Term, n_channels: int, size: Pair) -> list[Copy]:
    """Return layers that copy the spikes that a term reads, each with the term that reads the copy
    instead.

    A term is a convolution of one map. Each copy has ``n_channels`` channels and the height and
    width ``size``; channels at the end may be unused, and never spike. Inputs whose weights are all
    0 are not copied.
    """
    weight = np.broadcast_to(term.weight, (*term.weight.shape[:5], *term.kernel))
    used = np.argwhere(weight.any(axis=(0, 1, 2, 3)))
    if not len(used):
        used = np.zeros((1, 3), np.int64)  # a term of zeros reads any input
    found = []
    for start in range(0, len(used), n_channels):
        chosen = used[start : start + n_channels]
        taps = np.zeros((n_channels, *weight.shape[4:]))
        taps[np.arange(len(chosen)), *chosen.T] = 1
        own = np.zeros((*weight.shape[:4], n_channels, 1, 1))
        own[..., : len(chosen), 0, 0] = weight[..., *chosen.T]
        part = Term(
            source=term.source,
            shape=(n_channels, *size),
            weight=own,
            kernel=(1, 1),
            stride=(1, 1),
            padding=(0, 0),
        )
        found.append(Copy(taps, part))
    return found


def stacked(terms: Sequence[Term]) -> tuple[Float, bool]:
    """Return the weights of a layer that adds up convolutions of different maps, and whether each
    map has weights of its own.

    The convolutions are ``terms``, which must have the same kernel size. If all of them have equal
    weights, these are returned once, for all maps.
    """
    first = terms[0].weight
    if all(np.array_equal(term.weight, first) for term in terms[1:]):
        return first, False
    lead = np.broadcast_shapes(*(term.weight.shape[:3] for term in terms))
    weights = [np.broadcast_to(t.weight, (*lead, *t.weight.shape[3:])) for t in terms]
    return np.concatenate(weights, axis=4), True
