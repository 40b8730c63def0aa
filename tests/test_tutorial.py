"""Check that the commands of docs/tutorial.md work in their order, and print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.shown import require_shown

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
SHAPES = re.compile(r"\b(?:circle|cross|square|triangle) *")
"""Pattern of a class name in output. Predicted classes are not compared, because a network that was
trained on another machine may predict others."""


def steps() -> list[tuple[str, list[str]]]:
    """Return every command of a ``console`` block with the lines of output below it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL):
        assert block.startswith("$ "), block
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            text, *shown = step.replace("\\\n", " ").splitlines()
            found.append((" ".join(text.split()), shown))
    return found


def library_use() -> str:
    """Return the Python code of docs/tutorial.md as a program that classifies two images."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    before = "import numpy as np\nimages = np.zeros((2, 3, 16, 16), np.uint8)\n"
    return f"{before}{code}assert logits.shape == (2, 4) and logits.dtype == np.int64\n"


def lines(text: list[str]) -> list[str]:
    """Return lines of output in which ``shape`` replaces the class names that a network on a board
    has predicted."""
    return [SHAPES.sub("shape ", line) if line.startswith("device:") else line for line in text]


def test_the_tutorial_goes_from_images_to_a_board() -> None:
    commands = [command.split()[1] for command, _ in steps()]
    assert commands[0] == "examples/draw_shapes.py"
    assert list(dict.fromkeys(commands[1:])) == ["train", "export", "run", "report"]


def test_the_commands_print_what_the_tutorial_shows(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    for command, shown in steps():
        ran = subprocess.run(
            command.split(),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}"
        require_shown(lines(shown), lines(ran.stdout.splitlines()), mask=True)
    program = [sys.executable, "-c", library_use()]
    used = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert used.returncode == 0, used.stderr
