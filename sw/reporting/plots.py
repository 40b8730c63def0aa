"""Draw plots as separate SVG files, for the documentation.

The charts of the HTML report are in :mod:`sw.reporting.charts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import mean


def dot_plot(rows: Sequence[tuple[str, Sequence[float]]], title: str) -> str:
    """Return a plot, as the text of an SVG file, that compares groups of values on one scale.

    Each of ``rows`` is (name, values), such as the accuracies of one setting over several seeds. It
    becomes a horizontal row of dots, with a short upright line at their mean. A dashed line through
    all rows marks the mean of the first row.
    """
    left, width, step, top = 290, 640, 24, 34
    low = min(min(values) for _, values in rows)
    high = max(max(values) for _, values in rows)
    margin = max(0.2, 0.05 * (high - low))
    low, high = low - margin, high + margin
    height = top + step * len(rows) + 34

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 16)

    bottom = top + step * len(rows)
    first = mean(rows[0][1])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="18">{escape(title)}</text>',
        f'<line x1="{x(first):.1f}" x2="{x(first):.1f}" y1="{top - 6}" '
        f'y2="{bottom}" stroke="#bbb" stroke-dasharray="4 3"/>',
    ]
    for n, (name, values) in enumerate(rows):
        y, middle = top + step * n + step / 2, x(mean(values))
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        parts += [
            f'<circle cx="{x(value):.1f}" cy="{y}" r="3.5" fill="#1f77b4" fill-opacity="0.5"/>'
            for value in values
        ]
        parts.append(
            f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 8}" y2="{y + 8}" '
            f'stroke="#d62728" stroke-width="2"/>'
        )
    for n in range(5):
        value = low + (high - low) * n / 4
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 20}" text-anchor="middle" fill="#555">'
            f"{value:.1f}</text>"
        )
    return "\n".join([*parts, "</svg>\n"])
