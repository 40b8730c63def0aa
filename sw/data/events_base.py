"""Recordings of event cameras in memory, and checks of times, positions and polarities.

Only NumPy is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.bool_)])
"""Type of an event: time in microseconds, column, row (0 is the top one), and polarity (True:
brighter)."""
FIELDS = ("t", "x", "y", "p")
"""Names of the fields of a recording: time, column, row and polarity."""
MAX_POSITION = np.iinfo(np.int16).max
"""Largest column or row that an event can have."""
MAX_TIME = 1 << 62
"""Exclusive bound on the magnitude of a time in microseconds, so that differences do not
overflow."""
MAX_DURATION_US = 1 << 50
"""Longest recording, 35 years. Longer ones are a sign of damaged times."""
MAX_EVENTS = 100_000_000
"""Largest number of events that a recording may have, so that a damaged or hostile file cannot fill
the memory."""
MICROSECONDS, SECONDS = "microseconds", "seconds"
"""Units of the times in a file."""

Events = NDArray[Any]


class EventError(ValueError):
    """Raised for a file that is no recording, or for events that do not suit the sensor.

    The message says what is wrong and what to do.
    """


@dataclass(frozen=True, kw_only=True)
class Info:
    """Description of a recording, without its events.

    Attributes
    ----------
    form : format of the file, and the camera if the file names one.
    sensor : (height, width) of the sensor; None if the file does not say.
    time_unit : unit of the times in the file, :data:`MICROSECONDS` or :data:`SECONDS`.
    n_events : number of events.
    duration_us : microseconds from the first to the last event.
    n_outside : number of events outside the sensor, which were left out.
    """

    form: str
    sensor: tuple[int, int] | None = None
    time_unit: str = MICROSECONDS
    n_events: int = 0
    duration_us: int = 0
    n_outside: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording:
    """Events of a recording, and its description.

    The events are an array of dtype :data:`EVENT`, in the order of the file.
    """

    events: Events
    info: Info


def make(t: Any, x: Any, y: Any, p: Any) -> Events:
    """Return events as an array of dtype :data:`EVENT`, from arrays of their fields.

    The arrays ``t`` (times), ``x`` (columns), ``y`` (rows) and ``p`` (polarities) must have the
    same length. Times are in microseconds or seconds, as :func:`microseconds` tells. Polarities
    above 0 mean brighter, so they may be 0 and 1, or -1 and 1.

    Raises
    ------
    EventError
        The arrays differ in length, or hold values that are no times or positions.
    """
    arrays = [np.asarray(values) for values in (t, x, y, p)]
    shapes = [array.shape for array in arrays]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        raise EventError(
            f"t, x, y and p have shapes {', '.join(map(str, shapes))}: each needs one number for "
            "every event"
        )
    events = np.empty(len(arrays[0]), EVENT)
    events["t"] = microseconds(arrays[0])[0]
    for name, array in zip("xy", arrays[1:3], strict=True):
        events[name] = positions(array, name)
    events["p"] = polarities(arrays[3])
    return events


def microseconds(times: NDArray[Any]) -> tuple[NDArray[np.int64], str]:
    """Return times as whole microseconds, and the unit that they were in.

    Whole numbers are microseconds, even if their type is floating-point. If any time has a
    fraction, all are seconds.

    Raises
    ------
    EventError
        The times are no finite numbers, or are too large.

    >>> microseconds(np.array([0.25, 1.0]))[0].tolist(), microseconds(np.array([3.0, 7.0]))[1]
    ([250000, 1000000], 'microseconds')
    """
    _check_numbers(times, "times")
    unit = MICROSECONDS
    if times.dtype.kind == "f":
        times = times.astype(np.float64)
        if (times != np.floor(times)).any():
            times, unit = np.round(times * 1e6), SECONDS
    if times.size and max(abs(int(times.min())), abs(int(times.max()))) >= MAX_TIME:
        raise EventError(
            f"times lie between {times.min()} and {times.max()}: store them as whole microseconds"
        )
    return times.astype(np.int64), unit


def positions(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Return columns or rows as integers.

    Raises
    ------
    EventError
        A value is no whole number from 0 to :data:`MAX_POSITION`; the message begins with ``name``.
    """
    _check_numbers(values, name)
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and (whole != values).any():
        raise EventError(f"{name} has fractions such as {values[whole != values][0]}: round them")
    if values.size and (values.min() < 0 or values.max() > MAX_POSITION):
        raise EventError(
            f"{name} lies between {values.min()} and {values.max()}: columns and rows are whole "
            f"numbers from 0 to {MAX_POSITION}"
        )
    return whole


def polarities(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return polarities as booleans: True (brighter) for numbers above 0, else False (darker).

    A recording may have two values, of which one is above 0 and the other is not, such as 0 and 1
    or -1 and 1. If there is only one, it must be -1, 0 or 1.

    Raises
    ------
    EventError
        The polarities are no finite numbers, or it is not known what their values mean.
    """
    _check_numbers(values, "polarities")
    bright = values > 0
    if len(values) and values.dtype.kind != "b":
        low, high = values.min(), values.max()
        known = low in (-1, 0, 1) if low == high else low <= 0 < high
        if not (known and ((values == low) | (values == high)).all()):
            shown = ", ".join(f"{value:g}" for value in np.unique(values)[:4])
            raise EventError(
                f"polarities have values such as {shown}: store 0 (darker) and 1 (brighter)"
            )
    return bright


def _check_numbers(values: NDArray[Any], name: str) -> None:
    if values.dtype.kind not in "biuf":
        raise EventError(f"{name} are of type {values.dtype}: store them as numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise EventError(f"{name} are not all finite: leave those events out")


def unwrapped(counts: NDArray[np.int64], n_bits: int) -> NDArray[np.int64]:
    """Return ``counts``, values of a counter of ``n_bits``, as if it had never overflowed.

    Wherever the count falls by more than half of its range, the counter has started again from 0.

    >>> unwrapped(np.array([200, 250, 4, 3, 90]), 8).tolist()
    [200, 250, 260, 259, 346]
    """
    loops = np.zeros(len(counts), np.int64)
    loops[1:] = np.cumsum(np.diff(counts) < -(1 << (n_bits - 1)))
    return counts + (loops << n_bits)


def latest(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return, for every index ``i``, the largest index ``j <= i`` at which ``chosen[j]`` is True.

    Where no such index exists, the result is -1.

    >>> latest(np.array([False, True, False, True])).tolist()
    [-1, 1, 1, 3]
    """
    indices = np.where(chosen, np.arange(len(chosen)), -1)
    return np.maximum.accumulate(indices) if len(indices) else indices
