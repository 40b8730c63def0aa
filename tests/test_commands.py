"""Tests of what all commands share: help, progress bars, colours, exit codes and messages."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hw.boards.configs import CONFIGS
from sim.verilate import ToolError
from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    called_through,
    command,
    exit_codes,
)
from sw.data import catalogue, dataset
from sw.driver.board import Board
from sw.driver.errors import LinkTimeout
from sw.files import OutputError, write_output
from sw.network import netfile
from tests.datasets import easy_data
from tests.hw.tools.fake_tools import FakeTools
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice
from tests.trained import a_checkpoint, small_config

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("hw", "sw", "sim") for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


COMMANDS = [
    module_of(path)
    for path in SOURCES
    if '__name__ == "__main__"' in path.read_text() and path.name != "__main__.py"
]
"""Names of the modules that are commands, except ``__main__`` modules, which
tests/sw/cli/test_main.py covers."""


def test_commands_are_found() -> None:
    assert {"sw.run", "sw.report", "sw.train", "sim.campaign", "hw.build"} <= {*COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
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
    """Check the sources: progress bars use ``disable=None``, and no escape codes for colours are
    written.

    tqdm with ``disable=None`` shows nothing unless the stream is a terminal. Only rich draws
    colours, and it draws none if NO_COLOR is set.
    """
    text = path.read_text()
    assert "\\x1b[" not in text and "\\033[" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tqdm", "trange"):
            given = {word.arg: word.value for word in node.keywords}
            assert "disable" in given, f"line {node.lineno}: without disable=None it is never quiet"
            values = [part for part in ast.walk(given["disable"]) if isinstance(part, ast.Constant)]
            assert any(part.value is None for part in values), f"line {node.lineno}"
            assert "colour" not in given


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "sw.experiments",
            ["depth", "--out", "x", "--seeds", "0"],
            "--seeds takes 1 to ",
        ),
        ("sim.cosim", ["-n", "0"], "-n must be at least 1"),
        ("sim.bench", ["--banks", "3"], "Config.banks = 3 is not supported: use 1, 2, 4 or 8"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(
    name: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main(arguments)
    assert ended.value.code == EXIT_BAD_INPUT
    assert f"python -m {name}: error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sim.virtual_board", "sim.campaign", "sim.bench", "sim.garbage"])
def test_simulators_without_their_tools_say_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ToolError("a C++ compiler and make are needed")

    for module in ("sim.virtual_board", "sim.garbage"):
        monkeypatch.setattr(f"{module}.build_executable", fail)
    assert importlib.import_module(name).main([]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.endswith("error: a C++ compiler and make are needed\n")


def with_a_board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return arguments that run a network, and let ``Board.open`` return a fake board."""
    network = random_network(11, n_layers=4, timesteps=3, weight_bits=4, encoder=True)
    netfile.save(folder / "net.spikefold", network, CONFIGS["sim"])
    np.save(folder / "images.npy", random_input(network, np.random.default_rng(3), 3))
    monkeypatch.setattr(Board, "open", lambda *_: Board(FakeDevice(network, CONFIGS["sim"])))
    return [str(folder / "net.spikefold"), "--input", str(folder / "images.npy")]


def with_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    images = np.random.default_rng(3).integers(0, 256, (20, 1, 12, 12), np.uint8)
    part = dataset.Split(images=images, labels=np.arange(20) % 10)
    made = dataset.Dataset(
        name="fashion-mnist",
        labels=tuple("abcdefghij"),
        train=part,
        validation=part,
        test=part,
        sha256="",
        place="",
    )
    monkeypatch.setattr(catalogue, "load", lambda *_, **__: made)
    return [str(a_checkpoint(folder / "net.pt"))]


def with_training_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(catalogue, "load", lambda *_, **__: easy_data())
    (folder / "model.json").write_text(json.dumps(small_config().to_dict()))
    return ["--out", str(folder / "net.pt"), "--model-config", str(folder / "model.json")]


def with_tools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    FakeTools(folder, monkeypatch)
    return ["ulx3s-25f", "--force"]


def printed_on_a_terminal(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> str:
    """Call ``do`` with a pseudo-terminal as standard output and error, and return what it
    printed."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 90))
    sent: list[bytes] = []

    def collect() -> None:
        try:
            while raw := os.read(ours, 4096):
                sent.append(raw)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=collect)
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(theirs, "w") as terminal:
        patch.setattr("sys.stdout", terminal)
        patch.setattr("sys.stderr", terminal)
        do()
    reader.join()
    os.close(ours)
    return b"".join(sent).decode()


@pytest.mark.parametrize(
    ("name", "given", "options"),
    [
        ("sw.run", with_a_board, ["--check"]),
        ("sw.monitor", with_a_board, ["-n", "3"]),
        ("sw.cli.report", with_a_board, ["--text", "--board", "sim"]),
        ("sw.export", with_a_checkpoint, ["--measure", "5"]),
        ("sw.evaluate", with_a_checkpoint, ["--bits", "4"]),
        (
            "sw.train",
            with_training_data,
            ["--epochs", "1", "--max-images", "32", "--batch-size", "16"],
        ),
        ("hw.build", with_tools, ["--seeds", "1"]),
    ],
)
def test_a_terminal_is_sent_progress_without_colours_if_wanted_and_a_file_plain_text(
    name: str,
    given: Callable[[Path, pytest.MonkeyPatch], list[str]],
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = importlib.import_module(name).main
    arguments = [*given(tmp_path, monkeypatch), *options]
    assert main(arguments) == 0
    assert not re.search(r"[\x1b\r]", "".join(capsys.readouterr()))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    sent = printed_on_a_terminal(monkeypatch, lambda: main(arguments))
    escapes = re.findall(r"\x1b(?:\[[0-9;?]*[A-Za-z])?", sent)
    assert escapes or "\r" in sent.replace("\r\n", ""), "no progress was shown"
    for escape in escapes:  # move or hide the cursor, clear a line, set or end bold
        assert re.fullmatch(r"\x1b\[(\??[0-9]*[A-Khl]|[01]?m)", escape), escape


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


def test_errors_name_commands_in_the_form_that_was_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = ZeroDivisionError("load it again: python -m hw.flash BOARD, python -m sw.run")
    with called_through("spikefold"):
        assert ending(error) == EXIT_BAD_INPUT
    message = "error: load it again: spikefold flash BOARD, spikefold run\n"
    assert capsys.readouterr().err == message


def test_exit_codes_are_explained() -> None:
    assert exit_codes() == "exit codes: 0 done; 2 bad input; 130 interrupted"
    assert exit_codes("it is stale", done="written", device=True) == (
        "exit codes: 0 written; 1 it is stale; 2 bad input; 3 no device, or lost; 130 interrupted"
    )


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(AssertionError):
        ending(AssertionError())


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_output(tmp_path / "results", b"results")
    assert (tmp_path / "results").read_bytes() == b"results"
    with pytest.raises(OutputError, match="nowhere/results cannot be written: No such file or dir"):
        write_output(tmp_path / "nowhere" / "results", b"results")


@pytest.mark.parametrize("package", ["sw.cli", "hw.tools"])
def test_ctrl_c_while_modules_are_imported_has_no_traceback(package: str) -> None:
    code = f"import {package}; raise KeyboardInterrupt"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (EXIT_INTERRUPTED, "interrupted\n")
    code = f"import {package}; raise ValueError('bad')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.endswith("ValueError: bad\n")


def test_ctrl_c_ends_a_command_even_if_an_imported_module_ignores_it() -> None:
    """Check Ctrl-C while modules are imported, in a command, and when the process ends."""
    start = "import os, signal, sys; sys.argv[0] = '/bin/spikefold'; import sw.cli.commands as c\n"
    ctrl_c = "try: os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException: print('ignored')\n"
    command = "@c.command()\ndef main():\n  os.kill(os.getpid(), signal.SIGINT)\nprint(main())\n"
    for code, out in ((ctrl_c, ""), (command + ctrl_c, "130\n")):
        ended = subprocess.run(
            [sys.executable, "-c", start + code],
            capture_output=True,
            text=True,
            # Background jobs may ignore SIGINT, and children inherit that: restore the default.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        assert (ended.returncode, ended.stdout) == (EXIT_INTERRUPTED, out)
        assert ended.stderr == "interrupted\n" * (1 + bool(out))
