"""Tests of the output files of all commands, which are checked before any work."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from sw.cli.commands import EXIT_BAD_INPUT, check_output, output_path
from sw.files import OutputError

OUTPUTS = {
    "export": ["NO-INPUT", "-o", "OUT"],
    "nir": ["NO-INPUT", "-o", "OUT"],
    "report": ["NO-INPUT", "-o", "OUT"],
    "report --screenshot": ["NO-INPUT", "--screenshot", "OUT"],
    "run": ["NO-INPUT", "--out", "OUT"],
    "monitor": ["NO-INPUT", "--picture", "OUT"],
    "boards": ["--self-test", "NO-INPUT", "--report", "OUT"],
    "train": ["--data", "NO-INPUT", "--out", "OUT"],
    "experiments": ["ablation", "--data-dir", "NO-INPUT", "--out", "OUT"],
}
"""Arguments of every command that writes a file: ``OUT`` is an output that cannot be written, and
``NO-INPUT`` an input that does not exist, which the command would find out next."""


@pytest.mark.parametrize("case", OUTPUTS)
def test_an_output_is_checked_before_any_work(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    out = "file/out" if case == "experiments" else "missing/out"
    words = {"OUT": out, "NO-INPUT": "no-input.spikefold"}
    command = importlib.import_module(f"sw.cli.{case.split()[0]}")
    assert command.main([words.get(word, word) for word in OUTPUTS[case]]) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert out in message and "no-input" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outputs_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "missing" / "file")
    for path, message in (
        (tmp_path, "it is a folder, name a file in it"),
        (tmp_path / "missing" / "file", "there is no folder .*missing, create it first"),
        (tmp_path / "dangling", "there is no folder .*missing, create it first"),
    ):
        with pytest.raises(OutputError, match=message):
            check_output(path)
    for path in (None, tmp_path / "ünï cödé", Path("/dev/stdout"), Path("here")):
        check_output(path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=f"no permission to write to the folder {tmp_path}"):
        check_output(tmp_path / "file")


def test_an_output_is_not_the_input(tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "net.pt")
    for out in ("net.pt", "link"):
        with pytest.raises(OutputError, match=f"{out} is the file that is read: name another"):
            output_path(tmp_path / out, tmp_path / "net.pt", ".spikefold")
    assert output_path(None, tmp_path / "net.pt", ".x") == tmp_path / "net.x"
    assert output_path(None, Path("missing/net.pt"), ".x", here=True) == Path("net.x")
