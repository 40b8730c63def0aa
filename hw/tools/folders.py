"""Folders for caches, intermediate results and bitstreams, in a checkout or in an installed
package."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Folder that contains ``hw``, ``sw`` and ``sim``: the checkout, or site-packages."""

IN_CHECKOUT = (ROOT / "pyproject.toml").exists()
"""Whether these files are a checkout of the repository, so that its git history describes them."""


def cache_dir() -> Path:
    """Return the folder in which compiled simulators are cached: ``spikefold`` in $XDG_CACHE_HOME
    or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spikefold"


def work_dir() -> Path:
    """Return the folder for intermediate results.

    It is ``build`` in a checkout, or in :func:`cache_dir` for an installed package.
    """
    return ROOT / "build" if IN_CHECKOUT else cache_dir() / "build"


def bitstream_dir() -> Path:
    """Return the folder with the bitstreams, in the checkout or in the installed package."""
    return ROOT / "bitstreams" if IN_CHECKOUT else ROOT / "hw" / "bitstreams"
