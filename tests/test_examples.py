"""Check that every program in examples/ runs, and prints what its docstring shows."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw.boards.configs import config_by_name
from sim.virtual_board import virtual_board
from tests.shown import require_shown

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
WITH_PORT = ("classify", "observe", "stream")
"""Examples whose first argument is the serial port of a board."""
ARGUMENTS = {"draw_shapes": ["shapes"], "stream": ["demo"]}
"""Further arguments of examples, after the port, as in their docstrings."""
TRAINED = ("train_in_python", "import_spikingjelly")
"""Examples that train a network, so that their numbers differ from machine to machine."""


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    """Run one virtual board for all examples that need one."""
    with virtual_board(config_by_name("sim")) as path:
        yield path


def documented(example: Path) -> list[str]:
    """Return the lines of output in an example's docstring, which are its last indented block."""
    text = ast.get_docstring(ast.parse(example.read_text()))
    assert text and "::\n\n" in text, f"{example.name}: its docstring shows no output"
    block = text.rpartition("::\n\n")[2].partition("\n\n")[0]
    return [line.removeprefix("    ") for line in block.splitlines()]


def test_a_difference_is_found() -> None:
    shown = ["one 1", "...", "three 3"]
    require_shown(shown, ["one 1", "two", "two", "three 3"], mask=False)
    require_shown(shown, ["one  -1,000.5", "three 4"], mask=True)
    for printed in (["one 2", "three 3"], ["one 1", "three 3", "four"], ["one 1"]):
        with pytest.raises(AssertionError, match="differs from what is shown"):
            require_shown(shown, printed, mask=False)


def test_examples_are_found() -> None:
    assert {*WITH_PORT, *ARGUMENTS, *TRAINED, "two_boards"} <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path) -> None:
    text = example.read_text()
    docstring = ast.parse(text).body[0]
    n_lines = len(text.splitlines()) - (docstring.end_lineno or 0)
    assert n_lines < 60


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_its_docstring_says(
    example: Path, port: str, tmp_path: Path
) -> None:
    arguments = [port] * (example.stem in WITH_PORT) + ARGUMENTS.get(example.stem, [])
    ran = subprocess.run(
        [sys.executable, example, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    require_shown(documented(example), ran.stdout.splitlines(), mask=example.stem in TRAINED)
