"""Tests of the ``spikefold`` command, which runs all other commands."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from sw.cli import main as command
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_OK
from sw.cli.main import NAMES, main

ROOT = Path(__file__).parents[3]


def exit_code(arguments: list[str], **options: str) -> int:
    try:
        return main(arguments, **options)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def test_every_entry_point_is_a_command() -> None:
    entries = [
        path.stem
        for folder in ("hw", "sw")
        for path in (ROOT / folder).glob("*.py")
        if path.name != "__main__.py" and '__name__ == "__main__"' in path.read_text()
    ]
    assert sorted(NAMES) == sorted(entries)
    for name in NAMES:
        assert command.module_of(name) in (ROOT / _entry(name)).read_text()


def _entry(name: str) -> str:
    return f"{command.module_of(name).partition('.')[0]}/{name}.py"


def test_the_installed_script_is_this_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"spikefold": f"{main.__module__}:{main.__name__}"}


def test_help_lists_every_command_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--help"]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: spikefold [-h] [--version] COMMAND ..."
    for name in NAMES:
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert len(line.split()) >= 3 and "``" not in line
        assert not command.summary_of(name).endswith(".")


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == EXIT_OK
    assert capsys.readouterr().out == f"{metadata.version('spikefold')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a command: spikefold --help lists them"),
        (["exprot"], "unknown command 'exprot': did you mean 'export'?"),
        (["xyz"], "unknown command 'xyz': spikefold --help lists the commands"),
        (["--verbose"], "unrecognized arguments: --verbose"),
        (["completion", "csh"], "invalid choice: 'csh'"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("prog", ["spikefold", "python -m sw"])
@pytest.mark.parametrize(
    "name",
    [
        "run",
        "monitor",
        "boards",
        "throughput",
        "train",
        "evaluate",
        "checkpoint",
        "zoo",
        "experiments",
        "speed",
        "export",
        "report",
        "nir",
        "build",
        "area",
        "flash",
    ],
)
def test_help_shows_the_form_that_was_called(
    prog: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code([name, "--help"], prog=prog) == EXIT_OK
    out = capsys.readouterr().out
    assert f"usage: {prog} {name} " in out and f"\n  {prog} {name}" in out
    assert f"python -m sw.{name}" not in out and f"python -m hw.{name}" not in out


def test_a_command_returns_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "none.spikefold"]) == EXIT_BAD_INPUT
    assert "error: none.spikefold cannot be read" in capsys.readouterr().err


def test_commands_are_imported_only_when_they_are_called() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['rich'] = None\n"
        "from sw.cli.main import main\n"
        "main(['completion', 'bash'])\n"
        "assert not any(name.startswith('sw.cli.run') for name in sys.modules)\n"
        "main(['run', '--help'])\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_python_m_sw_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sw", "boards", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == EXIT_OK and done.stdout.startswith("usage: python -m sw boards ")


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_bash_completes_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == EXIT_OK
    script = capsys.readouterr().out + (
        "COMP_WORDS=(spikefold ex) COMP_CWORD=1\n_spikefold\necho ${COMPREPLY[*]}\n"
        "COMP_WORDS=(spikefold run net) COMP_CWORD=2 COMPREPLY=()\n_spikefold\n"
        "echo files: ${COMPREPLY[*]}\n"
    )
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.stdout == "experiments export\nfiles:\n" or done.stdout == (
        "export experiments\nfiles:\n"
    )
