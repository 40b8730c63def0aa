"""Write the API reference into build/docs, one page a module, from the docstrings (``make docs``).

pdoc makes the pages. Docstrings follow numpydoc, except that the items of a section have the form
``name : description``, because types are in the annotations. :func:`readable` makes lists of them.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
ITEM = re.compile(r"^([\w`*][\w`*,. ]*?) : (.*)$")


def readable(docstring: str) -> str:
    """Return a docstring in which sections and literal blocks have the form of Markdown.

    >>> print(readable('''Return the sum::
    ...
    ...     a + b
    ...
    ... Parameters
    ... ----------
    ... a, b : numbers of
    ...     any size.
    ...
    ... Raises
    ... ------
    ... SpecError
    ...     The sum is too large.'''))
    Return the sum:
    <BLANKLINE>
        a + b
    <BLANKLINE>
    ###### Parameters
    <BLANKLINE>
    - **a, b**: numbers of
        any size.
    <BLANKLINE>
    ###### Raises
    <BLANKLINE>
    - `SpecError`:
        The sum is too large.
    """
    docstring = re.sub(r" ::(?=\n\n)", "", docstring)
    first, *rest = SECTION.split(re.sub(r"::(?=\n\n)", ":", docstring))
    text = first
    for heading, content in zip(rest[::2], rest[1::2], strict=True):
        lines = content.split("\n")
        for n, line in enumerate(lines):
            indented_below = n + 1 < len(lines) and lines[n + 1].startswith("    ")
            if item := ITEM.match(line):
                lines[n] = f"- **{item[1]}**: {item[2]}"
            elif re.match(r"\w", line) and indented_below:
                lines[n] = "- " + ", ".join(f"`{name}`" for name in line.split(", ")) + ":"
        text += f"###### {heading}\n\n" + "\n".join(lines)
    return text


def entry_points() -> list[str]:
    """Return the names of the modules that only call a command; they get no page."""
    paths = [path for part in ("hw", "sw") for path in (ROOT / part).glob("*.py")]
    return [
        f"{path.parent.name}.{path.stem}"
        for path in paths
        if '__name__ == "__main__"' in path.read_text()
    ]


def main() -> None:
    """Write all pages."""
    import pdoc
    import pdoc.render

    # pdoc looks for the types of generated constructors in modules that do not import them.
    warnings.filterwarnings("ignore", message="Error parsing type annotation")
    to_markdown = pdoc.render.env.filters["to_markdown"]

    def of_docstring(context: object, docstring: str) -> str:
        return to_markdown(context, readable(docstring))

    # The mark of jinja2 by which a filter is given the context of the page.
    of_docstring.jinja_pass_arg = to_markdown.jinja_pass_arg
    pdoc.render.env.filters["to_markdown"] = of_docstring
    pdoc.render.configure(
        docformat="restructuredtext",
        include_undocumented=False,
        footer_text="Spikefold",
    )
    out = ROOT / "build" / "docs"
    left_out = [f"!{module}$" for module in entry_points()]
    pdoc.pdoc("hw", "sw", "sim", *left_out, output_directory=out)
    print(f"wrote {out / 'index.html'}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
