"""Wording of messages: suggestions for mistyped names, and texts that are safe to print."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, lone surrogates, and separators of lines."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint, for a message about an unknown name, with the known name that is most like it;
    an empty text if no known name is similar.

    >>> did_you_mean("icebraker", ["icebreaker", "ulx3s-85f"])
    "did you mean 'icebreaker'? "
    >>> did_you_mean("de10", ["icebreaker", "ulx3s-85f"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def unprintable(text: str, allowed: str = "") -> str | None:
    """Return the first character of a text that a terminal cannot print on a line, or None.

    Such characters are control characters, separators of lines and lone surrogates. Characters in
    ``allowed`` do not count.

    >>> unprintable("bell: \\a"), unprintable("two\\nlines", allowed="\\n")
    ('\\x07', None)
    """
    if text.isprintable():
        return None
    return next(
        (c for c in text if unicodedata.category(c) in _UNPRINTABLE and c not in allowed), None
    )


def printable(text: str, allowed: str = "") -> str:
    """Return a text with escapes in place of unprintable characters (:func:`unprintable`).

    Names in files, and those that a device reports, may have characters that would control the
    terminal on which a message is printed, or that cannot be printed at all.

    >>> printable("line 1\\nbell: \\a", allowed="\\n")
    'line 1\\nbell: \\\\x07'
    """
    if unprintable(text, allowed) is None:
        return text
    return "".join(c if unprintable(c, allowed) is None else ascii(c)[1:-1] for c in text)
