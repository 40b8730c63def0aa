"""Convert leaks and resets of other frameworks' neurons to those of the device.

A framework's leak multiplies the membrane by a factor at every timestep, its *decay*. The device's
leaks are sums of up to three shifts (:class:`hw.spec.Leak`), so the device does not have most
decays. On request, the leak with the nearest decay replaces the framework's leak;
:mod:`sw.exchange.nearest` measures what that changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hw.spec import N_LEAK_SHIFTS, Leak, Reset, decay, leak_shifts
from sw.exchange.graph import TOLERANCE, ExchangeError, FireNode, Float, LeakGroup

LeakShifts = tuple[Leak, tuple[int, ...]]
"""A leak of the device: its kind, and the numbers of bits by which it shifts membranes right."""

LEAKS: tuple[LeakShifts, ...] = (
    (Leak.NONE, (0,)),
    *((kind, shifts) for shifts in leak_shifts() for kind in (Leak.SUBTRACT, Leak.KEEP)),
)
"""All leaks of the device, those with the fewest shifts first."""


def leak_of(factor: float) -> LeakShifts | None:
    """Return the device's leak that multiplies membranes by ``factor`` at every timestep.

    The result is None if the device has no such leak. If several have this factor, it is the one
    with the fewest shifts, since small devices have only leaks of one shift.
    """
    exact = (leak for leak in LEAKS if abs(_decay(leak) - factor) <= TOLERANCE)
    return next(exact, None)


def nearest_leak(factor: float, n_shifts: int = N_LEAK_SHIFTS) -> LeakShifts:
    """Return the device's leak whose decay is nearest to ``factor``.

    A decay is the factor by which a membrane is multiplied at every timestep. Only leaks that
    shift the membrane up to ``n_shifts`` times are considered.
    """
    candidates = [leak for leak in LEAKS if len(leak[1]) <= n_shifts]
    return min(candidates, key=lambda leak: abs(_decay(leak) - factor))


def _decay(leak: LeakShifts) -> float:
    kind, shifts = leak
    return decay(kind, *shifts)


def decay_error(factors: Sequence[float]) -> str:
    """Return the error message for decays ``factors`` that no leak of the device has.

    A decay is the factor by which a membrane is multiplied at every timestep.
    """
    shown = sorted(set(factors))[:6]
    nearest = [_decay(nearest_leak(factor)) for factor in shown]
    # As many digits as tell a decay from its nearest.
    digits = next((n for n in range(4, 17) if _differ(shown, nearest, n)), 17)
    said, near = (", ".join(f"{x:.{digits}g}" for x in part) for part in (shown, nearest))
    return (
        f"its membrane is multiplied by {said} at every timestep; the device's leaks are sums of "
        "shifts, which multiply it by 1 - 2**-a + 2**-b - 2**-c or 2**-a - 2**-b + 2**-c: train "
        f"with one of these, or take the nearest, {near}, with --nearest-leak"
    )


def _differ(a: Sequence[float], b: Sequence[float], digits: int) -> bool:
    """Return whether all pairs of numbers differ when they are written with so many digits."""
    return all(f"{x:.{digits}g}" != f"{y:.{digits}g}" for x, y in zip(a, b, strict=True))


def neurons(
    threshold: float | Float,
    factor: float | Float,
    *,
    soft: bool,
    strict: bool,
    late: bool = False,
    nearest: int = 0,
    drive: float | Float = 0.0,
    integer_threshold: NDArray[np.int64] | None = None,
) -> FireNode:
    """Return the step of neurons whose membranes are multiplied by ``factor`` at every timestep.

    Parameters
    ----------
    threshold : one threshold, or an array that broadcasts to the neurons (C, H, W). It must be
        valid for inputs that are not scaled and membranes that start at 0;
        :mod:`sw.exchange.assembly` explains how thresholds of other neurons are converted.
    factor : one decay, or an array of decays that broadcasts to the neurons.
    soft : whether a spike subtracts the threshold; otherwise it clears the membrane.
    strict : whether neurons fire only above their threshold; otherwise they also fire at it.
    late : whether the threshold is subtracted after the next leak, not before it.
    nearest : if the device does not have the leak, take the nearest one with up to this number of
        shifts; 0 raises an error instead.
    drive : constant that is added to the membranes at every timestep; one number, or an array that
        broadcasts to the neurons.
    integer_threshold : thresholds of the integer network that the file was exported from; None if
        they are unknown.

    Raises
    ------
    ExchangeError
        The device has no such leak, and ``nearest`` is 0; or a factor is not between 0 and 1.
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
    # Without a leak, it makes no difference when the threshold is subtracted.
    late = late and bool((factors != 1).any())
    leaks: dict[LeakShifts, list[float]] = {}
    for value in map(float, values):
        leak = leak_of(value) or nearest_leak(value, nearest)
        leaks.setdefault(leak, []).append(value)
    groups = [LeakGroup(*leak, np.isin(factors, members)) for leak, members in leaks.items()]
    shift, *finer = groups[0].shifts
    return FireNode(
        threshold=np.asarray(threshold, np.float64),
        strict=strict,
        leak=groups[0].leak,
        leak_shift=shift,
        finer_shifts=tuple(finer),
        drive=drive,
        groups=tuple(groups) if len(groups) > 1 else (),
        reset=(Reset.DELAYED if late else Reset.SOFT) if soft else Reset.HARD,
        integer_threshold=integer_threshold,
        decay=factors if other else None,
    )
