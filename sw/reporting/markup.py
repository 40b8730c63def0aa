"""Small pieces of HTML that all sections of the report are made of."""

from __future__ import annotations

N_COLOURS = 7
"""Number of colours of layers in the style sheet."""


def colour(number: int) -> str:
    """Return the CSS class of the colour of layer ``number``; colours repeat."""
    return f"c{number % N_COLOURS}"


def chip(number: int) -> str:
    """Mark a layer by its number on its colour."""
    return f'<span class="chip {colour(number)}">{number}</span>'


def note(text: str) -> str:
    """Put an explanation above what it explains; ``text`` is HTML."""
    return f'<p class="note">{text}</p>'


def tile(value: str, what: str, detail: str = "") -> str:
    """Show one figure in the page's head: value, what it is, and a remark, all of them HTML."""
    return f'<div class="tile"><b>{value}</b><span>{what}</span><small>{detail}</small></div>'


def short(value: float) -> str:
    """Write a number with about three digits and k or M."""
    for scale, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= scale:
            digits = 2 if value < 10 * scale else 1 if value < 100 * scale else 0
            return f"{value / scale:.{digits}f}&thinsp;{suffix}"
    return f"{value:,.0f}"
