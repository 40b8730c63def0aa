"""Make the small pieces of HTML that all sections of the report share.

Layers are numbered from 1, and each has a colour that is the same all over the page.
"""

from __future__ import annotations

N_COLOURS = 7
"""Number of different layer colours in ``style.css``."""


def colour(number: int) -> str:
    """Return the CSS class of the colour of layer ``number``; colours repeat after
    :data:`N_COLOURS`."""
    return f"c{number % N_COLOURS}"


def chip(number: int) -> str:
    """Return a small coloured label with a layer's number, as HTML."""
    return f'<span class="chip {colour(number)}">{number}</span>'


def note(text: str) -> str:
    """Return an HTML paragraph with ``text`` (HTML), which explains a chart or table."""
    return f'<p class="note">{text}</p>'


def tile(value: str, what: str, detail: str = "") -> str:
    """Return a box for one figure at the top of the page, as HTML.

    It shows the value, its name (``what``) and a remark (``detail``); all three are HTML.
    """
    return f'<div class="tile"><b>{value}</b><span>{what}</span><small>{detail}</small></div>'


def short(value: float) -> str:
    """Return a number as HTML, thousands as k and millions as M, with at most three digits."""
    for scale, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= scale:
            digits = 2 if value < 10 * scale else 1 if value < 100 * scale else 0
            return f"{value / scale:.{digits}f}&thinsp;{suffix}"
    return f"{value:,.0f}"
