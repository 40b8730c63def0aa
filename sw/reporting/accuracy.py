"""Make the section of the HTML report that shows accuracies and the confusion matrix."""

from __future__ import annotations

from html import escape

import numpy as np

from sw.reporting import charts
from sw.reporting.evaluation import AccuracyStep
from sw.reporting.markup import note
from sw.reporting.report import Report

MIN_TO_SCALE = 100
"""Smallest number of images on which an accuracy must be measured to influence the plot's scale.
With fewer, its confidence interval would be so wide that other accuracies could not be told apart.
"""


def accuracy(report: Report) -> str:
    """Return the section as HTML: a plot of the accuracies of a network's versions, from the
    trained float network to the integers on the device, and the confusion matrix."""
    seen, network = report.observation, report.network
    parts = []
    if report.steps:
        # Intervals of a few images are so wide that the others could not be told apart.
        scaling = [
            s for s in report.steps if (s.n_images or MIN_TO_SCALE) >= MIN_TO_SCALE
        ] or report.steps
        shown = [end for step in scaling for end in _ends(step)]
        low, high = max(0.0, min(shown) - 1), min(100.0, max(shown) + 1)
        rows = []
        for step in report.steps:
            a, b = _ends(step)
            left, right, at = (
                min(max(100 * (v - low) / (high - low), 0.0), 100.0) for v in (a, b, step.percent)
            )
            whisker = (
                f'<i class="whisker" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
                if step.interval
                else ""
            )
            rows.append(
                f'<tr><th scope="row">{escape(step.name)}<small>{escape(step.on)}</small></th>'
                f'<td class="number">{step.percent:.2f} %</td><td class="plot"><div>{whisker}'
                f'<i class="dot" style="left:{at:.2f}%"></i></div></td></tr>'
            )
        rows.append(
            f'<tr class="scale"><td></td><td></td><td><span>{low:.1f} %</span>'
            f"<span>{high:.1f} %</span></td></tr>"
        )
        words = "Lines are 95 % intervals. Only figures on the same images can be compared."
        parts.append(
            '<h3>From float to the device</h3><table class="steps"><tbody>'
            f"{''.join(rows)}</tbody></table>"
            + (note(words) if any(step.interval for step in report.steps) else "")
        )
    matrix = None if seen is None else seen.confusion(network.n_classes)
    if matrix is not None and seen is not None:
        right = int(np.trace(matrix))
        what = escape(seen.description[:1].upper() + seen.description[1:])
        words = f"{what}: {right:,} right. A row is a class, a column what it was taken for."
        table = f'<div class="scroll">{charts.confusion(matrix, network.labels)}</div>'
        parts.append(f"<h3>Confusion</h3>{note(words)}{table}")
    return f'<div class="accuracy">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _ends(step: AccuracyStep) -> tuple[float, float]:
    """Return the lower and upper end of an accuracy's 95 % confidence interval, in percent.

    If it has no interval, both ends are the accuracy itself.
    """
    return step.interval or (step.percent, step.percent)
