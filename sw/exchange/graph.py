"""Intermediate representation of networks from other frameworks: a graph of steps.

Readers (:mod:`sw.exchange.readers`) produce a list of :class:`Node`, and
:func:`sw.exchange.assembly.assemble` turns it into layers that the device can run. A *map* is the
array (C, H, W) that a step computes at each timestep, with channels, height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw.spec import Gate, Leak, Reset
from sw.network.network import Shape

TOLERANCE = 1e-6
"""Relative difference up to which two numbers count as equal, because files often hold float32."""

Float = NDArray[np.float64]
Pair = tuple[int, int]


class ExchangeError(ValueError):
    """Raised if a network cannot be imported or exported; the message names the node and the
    reason."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolve:
    """A 2-D convolution as in PyTorch, with (vertical, horizontal) stride and padding.

    ``weight`` is (output channels, input channels, kernel height, kernel width), and ``bias``
    (output channels,) or None.
    """

    weight: Float
    bias: Float | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Connect:
    """A fully connected step with ``weight`` (outputs, inputs) and ``bias`` (outputs,) or None.

    Its inputs are the input map's values in the order (C, H, W).
    """

    weight: Float
    bias: Float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalise:
    """Batch-norm in eval mode: ``gain * x + shift``, where both parameters are (channels,)."""

    gain: Float
    shift: Float


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale:
    """A multiplication of a map by ``factor``, whose shape broadcasts to (C, H, W)."""

    factor: Float


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A 2-D pooling with (vertical, horizontal) window, stride and padding.

    ``kind`` is ``"max"``, ``"average"`` or ``"sum"``. Padding adds zeros that count in averages.
    """

    kind: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil: bool = False
    """PyTorch's ``ceil_mode``: whether the last window along an axis may reach beyond the map."""
    divisor: int | None = None
    """Number by which an average divides sums; None for the number of values in a window."""


@dataclass(frozen=True, kw_only=True)
class AdaptivePool:
    """A 2-D pooling to maps of the size ``output`` (height, width), whatever the input's size.

    ``kind`` is ``"max"`` or ``"average"``. An output height or width of 0 stands for the height or
    width of the input.
    """

    kind: str
    output: Pair


@dataclass(frozen=True)
class Flatten:
    """A step that flattens a map (C, H, W) to one axis, and leaves its values as they are."""


@dataclass(frozen=True, eq=False)
class LeakGroup:
    """Neurons of one map that have the same leak.

    ``leak`` is the kind of the leak, and ``shifts`` are the numbers of bits by which the membrane
    is shifted right to compute it (:class:`hw.spec.Leak`). ``members`` is True for these neurons;
    its shape broadcasts to the shape (C, H, W) of the map.
    """

    leak: Leak
    shifts: tuple[int, ...]
    members: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class FireNode:
    """A map of spiking neurons, which all have the same kind of reset.

    ``leak`` is the kind of their leak. To compute it, the membrane is shifted right by one or more
    numbers of bits (:class:`hw.spec.Leak`): ``leak_shift`` is the first of these numbers, and
    ``finer_shifts`` are all others.
    """

    threshold: Float
    """Thresholds, whose shape broadcasts to (C, H, W). They are valid for membranes that start at 0
    and inputs that are not scaled; readers convert the thresholds of other neurons
    (:mod:`sw.exchange.assembly`)."""
    strict: bool
    """Whether a membrane must be above the threshold for the neuron to fire. If false, a membrane
    equal to the threshold suffices."""
    leak: Leak = Leak.NONE
    leak_shift: int = 0
    finer_shifts: tuple[int, ...] = ()
    reset: Reset = Reset.HARD
    integer_threshold: NDArray[np.int64] | None = None
    """Thresholds of the integer network that the file was exported from; None if the file has
    none."""
    drive: Float | float = 0.0
    """Constant that is added to membranes at every timestep, in units of the input; its shape
    broadcasts to (C, H, W)."""
    groups: tuple[LeakGroup, ...] = ()
    """Groups of neurons with the same leak; empty if all neurons have ``leak``."""
    decay: Float | None = None
    """Factors by which the framework multiplies membranes at every timestep; None if the device's
    leaks equal them exactly."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """A gate (AND, IAND, OR or XOR) that joins two maps spike by spike in a residual block.

    The node's first source is the branch, which the block's convolutions compute. The second is the
    identity, the block's shortcut. IAND gives a spike where the identity has one and the branch has
    none.
    """

    gate: Gate


@dataclass(frozen=True)
class Add:
    """A sum of all maps that the node reads: of spikes, of weighted sums, or of both."""


Step = (
    Convolve | Connect | Normalise | Scale | Pool | AdaptivePool | Flatten | FireNode | Join | Add
)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A step of a graph, with its name and the names of the nodes that it reads.

    If a node other than a gate reads several nodes, its input is the sum of their outputs.

    The name :data:`sw.network.network.IMAGE` in ``sources`` stands for the network's input.
    """

    name: str
    step: Step
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Facts about an imported network that its file may not hold.

    ``labels`` are the names of the classes; if it is empty, they are named ``class 0``, ``class 1``
    and so on.
    """

    timesteps: int
    image_shape: Shape
    pixel_max: float | None = 1.0
    """Value that a pixel of 255 had in training (1.0 if pixels were divided by 255); None if the
    input is binary frames, an array of spikes for each timestep."""
    labels: tuple[str, ...] = ()
    averaged: bool = True
    """Whether logits are means over the timesteps; otherwise they are sums."""


def plain_kernel(weight: Float, groups: int, dilation: Pair) -> Float:
    """Return the weights of a plain convolution that computes a grouped or dilated one.

    The result is (output channels, input channels, kernel height, kernel width). It has weights of
    0 for the channels of other groups, and between the kernel positions that dilation moves apart.
    ``weight`` has only the input channels of one group. ``dilation`` is (vertical, horizontal).

    Raises
    ------
    ExchangeError
        The output channels cannot be divided into ``groups``.
    """
    n_out, n_in, height, width = weight.shape
    if groups < 1 or n_out % groups:
        raise ExchangeError(f"{n_out} output channels cannot be divided into {groups} groups")
    rows, columns = (height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1
    plain = np.zeros((n_out, n_in * groups, rows, columns))
    size = n_out // groups
    for g in range(groups):
        outputs, inputs = slice(g * size, (g + 1) * size), slice(g * n_in, (g + 1) * n_in)
        plain[outputs, inputs, :: dilation[0], :: dilation[1]] = weight[outputs]
    return plain


MANY_NAMES = 3
"""Largest number of nodes with the same problem that a message lists on separate lines; more nodes
share one line."""


def report_problems(problems: Mapping[str, str], where: str) -> None:
    """Raise an :class:`ExchangeError` that lists all ``problems``; do nothing if there are none.

    ``problems`` says why a node cannot be mapped, by the node's name. A reason that many nodes
    share is given once, with all their names. The message begins with ``where``, for example "the
    graph".
    """
    names: dict[str, list[str]] = {}
    for name, why in problems.items():
        names.setdefault(why, []).append(name)
    lines = []
    for why, members in names.items():
        groups = [members] if len(members) > MANY_NAMES else [[name] for name in members]
        lines += [f"  {', '.join(group)}: {why}" for group in groups]
    if lines:
        raise ExchangeError("\n".join([f"{where} has parts that cannot be mapped:", *lines]))
