"""Check that the examples in docstrings give the output that they show."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    path.relative_to(ROOT)
    for folder in ("hw", "sw", "sim", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text()
)


def load(path: Path) -> ModuleType:
    """Import the module in a file, also if the file is a script in no package."""
    if path.parts[0] != "docs":
        return importlib.import_module(".".join(path.with_suffix("").parts))
    spec = importlib.util.spec_from_file_location(path.stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_examples(path: Path) -> None:
    module = load(path)
    found = sum(len(test.examples) for test in doctest.DocTestFinder().find(module))
    assert found == (ROOT / path).read_text().count(">>> "), (
        "an example is in no docstring of the module"
    )
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_examples() -> None:
    assert Path("hw/spec.py") in WITH_EXAMPLES
