"""Steps of networks from other frameworks; :func:`sw.exchange.assembly.assemble` folds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw.spec import Gate, Leak, Reset
from sw.network.network import Shape

TOLERANCE = 1e-6
"""Relative difference up to which two numbers count as equal; files often hold float32."""

Float = NDArray[np.float64]
Pair = tuple[int, int]


class ExchangeError(ValueError):
    """A network cannot be imported or exported; the message names the node and the reason."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolve:
    """A convolution with ``weight`` (o, c, ky, kx) and ``bias`` (o,) or None."""

    weight: Float
    bias: Float | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Connect:
    """A fully connected step with ``weight`` (o, inputs) and ``bias`` (o,) or None."""

    weight: Float
    bias: Float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalise:
    """Batch-norm: ``gain * x + shift``, both (channels,)."""

    gain: Float
    shift: Float


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale:
    """A scaling ``factor * x``; ``factor`` broadcasts to the map (C, H, W)."""

    factor: Float


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pooling; ``kind`` is ``"max"``, ``"average"`` or ``"sum"``."""

    kind: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True)
class Flatten:
    """A change from (C, H, W) to one axis, or a step without effect, such as dropout."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FireNode:
    """Step of a graph: a map of spiking neurons with threshold, leak and reset."""

    threshold: Float
    """Thresholds, which broadcast to the map (C, H, W), for membranes that start at 0 and inputs
    with a gain of 1."""
    strict: bool
    """Whether neurons fire only above their threshold; otherwise they also fire at it."""
    leak: Leak = Leak.NONE
    leak_shift: int = 0
    reset: Reset = Reset.HARD
    integer_threshold: NDArray[np.int64] | None = None
    """Thresholds of the integer network that the file was made from; None if it was not."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """A gate; the first source is the branch, the second the identity."""

    gate: Gate


Step = Convolve | Connect | Normalise | Scale | Pool | Flatten | FireNode | Join


@dataclass(frozen=True, kw_only=True)
class Node:
    """A step and the nodes (or :data:`sw.network.network.IMAGE`) that it reads."""

    name: str
    step: Step
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Facts on a network that its file does not hold."""

    timesteps: int
    image_shape: Shape
    pixel_max: float | None = 1.0
    """Value that a pixel of 255 had in training (1.0 if pixels were divided by 255); None if the
    input is binary frames."""
    labels: tuple[str, ...] = ()
    averaged: bool = True
    """Whether logits are means over the timesteps; otherwise they are sums."""


def leak_of(decay: float) -> tuple[Leak, int] | None:
    """Return (leak, shift) of the leak that multiplies a membrane by ``decay`` at every timestep.

    The result is None if the device has no such leak.
    """
    if abs(decay - 1) <= TOLERANCE:
        return Leak.NONE, 0
    for shift in range(1, 16):
        if abs(decay - (1 - 2.0**-shift)) <= TOLERANCE:
            return Leak.SUBTRACT, shift
        if abs(decay - 2.0**-shift) <= TOLERANCE:
            return Leak.KEEP, shift
    return None


def decay_error(decay: float) -> str:
    """Return the message for a decay for which :func:`leak_of` finds no leak."""
    return (
        f"its membrane is multiplied by {decay:.4g} at every timestep; the device's leaks are "
        "shifts, which multiply it by 1 - 2**-k or 2**-k (0.5, 0.75, 0.875, ... or 0.25, 0.125, "
        "...): train with one of these"
    )


def report_problems(problems: Mapping[str, str], where: str) -> None:
    """Raise one :class:`ExchangeError` that names every node in ``problems``, if there are any."""
    if problems:
        lines = [f"  {name}: {why}" for name, why in problems.items()]
        raise ExchangeError("\n".join([f"{where} has parts that cannot be mapped:", *lines]))
