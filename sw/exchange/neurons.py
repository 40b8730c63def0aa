"""Leaks and resets of other frameworks' neurons, in the device's terms.

A framework's leak multiplies the membrane by a factor at every timestep, its *decay*. The device's
leaks are shifts, so a decay of another value has no exact leak; on request, the nearest one is
taken. :mod:`sw.exchange.nearest` measures what that changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hw.spec import Leak, Reset, decay
from sw.exchange.graph import TOLERANCE, ExchangeError, FireNode, Float, LeakGroup

MAX_SHIFT = 15
"""Largest shift of a leak."""
LEAKS: tuple[tuple[Leak, int], ...] = (
    (Leak.NONE, 0),
    *((kind, shift) for shift in range(1, MAX_SHIFT + 1) for kind in (Leak.SUBTRACT, Leak.KEEP)),
)
"""All leaks of the device: kind and shift."""


def leak_of(factor: float) -> tuple[Leak, int] | None:
    """Return the device's leak that multiplies membranes by ``factor`` at every timestep.

    The result is the kind of leak and its shift ``k``: a factor of 1 is no leak, ``1 - 2**-k`` is
    ``Leak.SUBTRACT``, and ``2**-k`` is ``Leak.KEEP``. It is None for any other factor.
    """
    leak = nearest_leak(factor)
    return leak if abs(decay(*leak) - factor) <= TOLERANCE else None


def nearest_leak(factor: float) -> tuple[Leak, int]:
    """Return the device's leak whose factor is nearest to ``factor``: its kind and its shift."""
    return min(LEAKS, key=lambda leak: abs(decay(*leak) - factor))


def decay_error(factors: Sequence[float]) -> str:
    """Return the error message for decays that no leak of the device has."""
    said = ", ".join(f"{factor:.4g}" for factor in sorted(set(factors))[:6])
    near = ", ".join(f"{decay(*nearest_leak(f)):.4g}" for f in sorted(set(factors))[:6])
    return (
        f"its membrane is multiplied by {said} at every timestep; the device's leaks are shifts, "
        "which multiply it by 1 - 2**-k or 2**-k (0.5, 0.75, 0.875, ... or 0.25, 0.125, ...): "
        f"train with one of these, or take the nearest, {near}, with --nearest-leak"
    )


def neurons(
    threshold: float | Float,
    factor: float | Float,
    *,
    soft: bool,
    strict: bool,
    late: bool = False,
    nearest: bool = False,
    drive: float | Float = 0.0,
    integer_threshold: NDArray[np.int64] | None = None,
) -> FireNode:
    """Return the step of neurons whose membranes decay by ``factor`` at every timestep.

    Parameters
    ----------
    threshold : thresholds of neurons whose input is not scaled, and whose membranes start at 0.
    factor : one decay, or one for every neuron; the shape must broadcast to that of the neurons.
    soft : whether a spike subtracts the threshold; otherwise it clears the membrane.
    strict : whether neurons fire only above their threshold; otherwise they also fire at it.
    late : whether the threshold is subtracted after the next leak, not before it.
    nearest : take the nearest leak and order of reset instead of raising an error.
    drive : constant input of the neurons at every timestep.
    integer_threshold : thresholds of the integer network that the file was exported from.

    Raises
    ------
    ExchangeError
        The device has no such leak or order of reset, and ``nearest`` is not set.
    """
    factors = np.asarray(factor, np.float64)
    values = np.unique(factors)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ExchangeError(
            f"its membrane is multiplied by {values.min():.4g} to {values.max():.4g} at every "
            "timestep: a leak multiplies by 0 to 1"
        )
    other = [float(v) for v in values if leak_of(v) is None]
    if other and not nearest:
        raise ExchangeError(decay_error(other))
    late = late and soft and bool((factors != 1).any())
    if late and not nearest:
        raise ExchangeError(
            "it subtracts the threshold after the next leak, the device before it: train with a "
            "reset to 0, without a leak, or take the device's order with --nearest-leak"
        )
    leaks: dict[tuple[Leak, int], list[float]] = {}
    for value in values:
        leaks.setdefault(nearest_leak(float(value)), []).append(float(value))
    groups = [LeakGroup(*leak, np.isin(factors, members)) for leak, members in leaks.items()]
    return FireNode(
        threshold=np.asarray(threshold, np.float64),
        strict=strict,
        leak=groups[0].leak,
        leak_shift=groups[0].leak_shift,
        drive=drive,
        groups=tuple(groups) if len(groups) > 1 else (),
        reset=Reset.SOFT if soft else Reset.HARD,
        integer_threshold=integer_threshold,
        decay=factors if other or late else None,
        late_reset=late,
    )
