"""Accuracies on the way from training to the device, from files and measurements."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sw.network.network import Network
from sw.reporting.observe import Observation


class EvaluationError(ValueError):
    """A file is no evaluation; the message says how to make one."""


@dataclass(frozen=True, kw_only=True)
class AccuracyStep:
    """An accuracy on the way from training to the device.

    Attributes
    ----------
    on : which images it was measured on, in words.
    n_images : their number, if it is known and the accuracy is a share of them.
    """

    name: str
    percent: float
    on: str
    n_images: int | None = None


def accuracy_steps(
    network: Network, evaluation: dict[str, Any] | None, observation: Observation | None
) -> list[AccuracyStep]:
    """List all known accuracies, from training to the device: those of an evaluation
    (:func:`read_evaluation`), or else those in the network file; then those measured here."""
    steps = []
    if evaluation is not None:
        balanced = _balanced(evaluation)
        on = f"{evaluation['n_images']:,} test images{balanced}"
        n = None if balanced else evaluation["n_images"]
        named = [
            ("training network, with auxiliary pathway", evaluation["training_with_aap"]),
            ("full-spike, float", evaluation["full_spike"]),
            ("folded, float", evaluation["folded"]),
        ]
        widths = sorted(evaluation["quantised"].items(), key=lambda item: -int(item[0]))
        named += [(f"integers, {bits}-bit weights", percent) for bits, percent in widths]
        steps += [
            AccuracyStep(name=name, percent=percent, on=on, n_images=n)
            for name, percent in named
            if percent is not None
        ]
    else:
        with contextlib.suppress(KeyError, TypeError):
            test = network.provenance["results"]["test"]
            on = f"whole test set, when trained{_balanced(network.provenance.get('data'))}"
            for key, name in (
                ("both", "training network, with auxiliary pathway"),
                ("spike", "full-spike, float"),
            ):
                steps.append(AccuracyStep(name=name, percent=float(test[key]), on=on))
        with contextlib.suppress(KeyError, TypeError):
            exported = network.provenance["export"]
            for key, name in (("folded", "folded, float"), ("quantised", "integers")):
                steps.append(
                    AccuracyStep(
                        name=name,
                        percent=100 * float(exported["accuracy"][key]),
                        on=f"{exported['measured_on']}, when exported",
                        n_images=_leading_number(exported["measured_on"]),
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


def _balanced(record: Any) -> str:
    """Say that accuracies are means over classes, if their record has it so. They are no shares of
    a number of images then, and have no interval."""
    balanced = isinstance(record, dict) and record.get("metric") == "balanced"
    return ", balanced" if balanced else ""


def _leading_number(text: str) -> int | None:
    """Return the number that a description of images begins with, if it does."""
    first = text.split()[0]
    return int(first) if first.isdigit() else None


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read what ``python -m sw.evaluate --json`` printed.

    Raises
    ------
    EvaluationError
        The file cannot be read or is something else.
    """
    hint = "python -m sw.evaluate --json > FILE makes one"
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}; {hint}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is no JSON file: {error}; {hint}") from error
    needed = {"n_images", "training_with_aap", "full_spike", "folded", "quantised"}
    if not isinstance(values, dict) or not needed <= set(values):
        raise EvaluationError(f"{path} is no evaluation; {hint}")
    return values
