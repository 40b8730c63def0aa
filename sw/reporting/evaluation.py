"""Collect the accuracies of one network in its successive forms: as trained, in full-spike form,
with normalisation folded into weights, quantised to integers, and on the device.

An evaluation is the JSON output of ``python -m sw.evaluate --json``. It has the accuracies of all
these forms except the last, the device.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sw.data import metrics
from sw.network.document import parse
from sw.network.network import Network
from sw.network.schema import short
from sw.reporting.observe import Observation

ACCURACIES = ("training_with_aap", "full_spike", "folded")
"""Keys of an evaluation with accuracies of float networks in percent; a value may be null."""
ACCURACY_NAMES = ("training network, with auxiliary pathway", "full-spike, float", "folded, float")
"""Names of the accuracies in the report, in the order of :data:`ACCURACIES`."""


class EvaluationError(ValueError):
    """Raised for a file that is not the output of ``python -m sw.evaluate --json``.

    The message says how to make one.
    """


@dataclass(frozen=True, kw_only=True)
class AccuracyStep:
    """Accuracy of one form of a network, such as the float or the integer form.

    Attributes
    ----------
    name : name of the form.
    percent : accuracy in percent.
    on : the images that it was measured on, in words.
    n_images : number of these images. None if the number is unknown, or if the accuracy is a mean
        over classes and so not a share of the images.
    interval : 95 % confidence interval in percent. By default, it is computed from ``n_images``, as
        Wilson's interval of a share; it is None if this number is None.
    """

    name: str
    percent: float
    on: str
    n_images: int | None = None
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.interval is None and self.n_images:
            low, high = metrics.wilson(self.percent / 100 * self.n_images, self.n_images)
            object.__setattr__(self, "interval", (100 * low, 100 * high))


def accuracy_steps(
    network: Network, evaluation: dict[str, Any] | None, observation: Observation | None
) -> list[AccuracyStep]:
    """Return all known accuracies of a network, from the trained form to the device.

    Parameters
    ----------
    network : the network. Its ``provenance`` may hold accuracies that were measured after training
        and at the export.
    evaluation : result of :func:`read_evaluation`, whose accuracies are used instead of those in
        ``provenance``; None if there is none.
    observation : result of running images through the integer network and perhaps a board. Their
        accuracies come last in the list. None if there were no images.
    """
    steps = []
    if evaluation is not None:
        balanced = _balanced(evaluation)
        on = f"{evaluation['n_images']:,} test images{balanced}"
        n = None if balanced else evaluation["n_images"]
        figures = {name: evaluation[name] for name in ACCURACIES} | evaluation["quantised"]
        names = dict(zip(ACCURACIES, ACCURACY_NAMES, strict=True))
        widths = sorted(evaluation["quantised"], key=lambda bits: -int(bits))
        names |= {bits: f"integers, {bits}-bit weights" for bits in widths}
        ends = evaluation.get("intervals", {})
        steps += [
            AccuracyStep(
                name=name,
                percent=figures[key],
                on=on,
                n_images=n,
                interval=tuple(ends[key]) if key in ends else None,
            )
            for key, name in names.items()
            if figures[key] is not None
        ]
    else:
        damaged = AttributeError, LookupError, OverflowError, TypeError, ValueError
        with contextlib.suppress(*damaged):
            test = network.provenance["results"]["test"]
            on = f"whole test set, when trained{_balanced(network.provenance.get('data'))}"
            for key, name in (
                ("both", "training network, with auxiliary pathway"),
                ("spike", "full-spike, float"),
            ):
                steps.append(AccuracyStep(name=name, percent=_percent(test[key]), on=on))
        with contextlib.suppress(*damaged):
            exported = network.provenance["export"]
            for key, name in (("folded", "folded, float"), ("quantised", "integers")):
                steps.append(
                    AccuracyStep(
                        name=name,
                        percent=_percent(100 * float(exported["accuracy"][key])),
                        on=f"{exported['measured_on']}, when exported",
                        n_images=_leading_number(str(exported["measured_on"])),
                    )
                )
    if observation is not None and observation.labels is not None:
        labels = observation.labels
        steps.append(
            AccuracyStep(
                name=f"integers, {network.weight_bits}-bit weights",
                percent=100 * float((observation.predictions == labels).mean()),
                on=observation.description,
                n_images=len(labels),
            )
        )
        if observation.counted is not None:
            counted = observation.counted
            right = np.array(counted.predictions) == labels[: counted.n_images]
            steps.append(
                AccuracyStep(
                    name=f"on the device ({counted.board})",
                    percent=100 * float(right.mean()),
                    on=f"the first {counted.n_images} of them",
                    n_images=counted.n_images,
                )
            )
    return steps


def _percent(value: Any) -> float:
    """Return an accuracy in percent as a float.

    Raises
    ------
    ValueError
        The accuracy is not a number from 0 to 100.
    """
    percent = float(value)
    if not 0 <= percent <= 100:
        raise ValueError(f"the accuracy is {percent} percent")
    return percent


def _balanced(record: Any) -> str:
    """Return ``", balanced"`` if accuracies are balanced, else an empty string.

    The entry ``metric`` of ``record`` says so; ``record`` is an evaluation, or ``data`` of a
    network's provenance. A balanced accuracy is a mean over classes. It is not a share of the
    images, so its confidence interval does not follow from their number alone.
    """
    balanced = isinstance(record, dict) and record.get("metric") == "balanced"
    return ", balanced" if balanced else ""


def _leading_number(text: str) -> int | None:
    """Return the number at the start of a text such as ``500 test images``; None if it has none."""
    first = text.partition(" ")[0]
    return int(first) if first.isdecimal() and first.isascii() else None


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return the contents of a file with the output of ``python -m sw.evaluate --json``.

    Raises
    ------
    EvaluationError
        The file cannot be read, or does not hold that output.
    """
    hint = "python -m sw.evaluate --json > FILE makes one"
    try:
        values = parse(path.read_text())
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}; {hint}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is no JSON file: {error}; {hint}") from error
    fault = _fault(values)
    if fault:
        raise EvaluationError(f"{path} is no evaluation: {fault}; {hint}")
    return values


def _fault(values: Any) -> str | None:
    """Return why ``values`` are not the output of ``python -m sw.evaluate --json``.

    The result is None if they are.
    """
    if not isinstance(values, dict):
        return "it is no JSON object"
    missing = {"n_images", *ACCURACIES, "quantised"} - set(values)
    if missing:
        return f"it lacks {', '.join(sorted(missing))}"
    if type(values["n_images"]) is not int or values["n_images"] < 1:
        return f"n_images is {short(values['n_images'])}, expected a positive number"
    quantised = values["quantised"]
    if not isinstance(quantised, dict) or any(bits not in ("2", "4", "8") for bits in quantised):
        return f"quantised is {short(quantised)}, expected accuracies by width: 2, 4 or 8"
    accuracies = {name: values[name] for name in ACCURACIES if values[name] is not None}
    for name, percent in {**accuracies, **quantised}.items():
        if isinstance(percent, bool) or not isinstance(percent, int | float):
            return f"the accuracy {name} is {short(percent)}, expected a number"
        if not 0 <= percent <= 100:
            return f"the accuracy {name} is {percent}, expected 0 to 100 percent"
    intervals = values.get("intervals", {})
    if not isinstance(intervals, dict) or not all(map(_is_interval, intervals.values())):
        return f"intervals is {short(intervals)}, expected two percentages for each accuracy"
    return None


def _is_interval(value: Any) -> bool:
    """Return whether a JSON value is an interval in percent: a list of its lower and upper end."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        and 0 <= value[0] <= value[1] <= 100
    )
