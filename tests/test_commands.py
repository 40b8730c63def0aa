"""Habits of all commands: help with examples, no progress and no colours where nobody wants them;
and how those of :mod:`sw` end."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from sw.commands import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    OutputError,
    command,
    write_output,
)
from sw.link import LinkTimeout

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("hw", "sw", "sim") for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


COMMANDS = [module_of(path) for path in SOURCES if '__name__ == "__main__"' in path.read_text()]


def test_commands_are_found() -> None:
    assert {"sw.run", "sw.report", "sw.train", "sim.faults", "hw.build"} <= {*COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"{name}.__main__" if name == "sw.report" else name)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: python -m {name} " in out
    _, found, examples = out.partition("example")
    assert found and f"python -m {name}" in examples


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_progress_is_quiet_without_a_terminal_and_nothing_has_a_colour_of_its_own(
    path: Path,
) -> None:
    """``disable=None`` asks the stream whether it is a terminal. Colours are those of rich, which
    leaves them out where NO_COLOR is set."""
    text = path.read_text()
    assert "\\x1b[" not in text and "\\033[" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tqdm", "trange"):
            given = {word.arg: word.value for word in node.keywords}
            assert "disable" in given, f"line {node.lineno}: without disable=None it is never quiet"
            values = [part for part in ast.walk(given["disable"]) if isinstance(part, ast.Constant)]
            assert any(part.value is None for part in values), f"line {node.lineno}"
            assert "colour" not in given


def ending(error: BaseException | None) -> int:
    @command(ZeroDivisionError, interrupted="interrupted, nothing was written")
    def main(argv: list[str] | None = None) -> int:
        if error is not None:
            raise error
        return EXIT_OK

    return main([])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, EXIT_OK, ""),
        (ZeroDivisionError("by what?"), EXIT_BAD_INPUT, "error: by what?\n"),
        (LinkTimeout("no answer"), EXIT_DEVICE, "error: no answer\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted, nothing was written\n"),
    ],
)
def test_errors_end_with_a_message_and_a_code(
    error: BaseException | None, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(error) == code
    assert capsys.readouterr() == ("", message)


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(AssertionError):
        ending(AssertionError())


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_output(tmp_path / "there", b"results")
    assert (tmp_path / "there").read_bytes() == b"results"
    with pytest.raises(OutputError, match="nowhere/there cannot be written: No such file or dir"):
        write_output(tmp_path / "nowhere" / "there", b"results")
