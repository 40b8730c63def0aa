"""Test that the virtual board passes the self-test of boards, and that the self-test leaves no
state in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.virtual_board import virtual_board
from sw.cli import boards
from sw.cli.commands import EXIT_OK
from tests.sim.test_board_networks import CONFIGS


def test_the_virtual_board_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.txt"
    with virtual_board(CONFIGS["4-bit"]) as port:
        arguments = ["--self-test", port, "--n-networks", "2", "--report", str(report)]
        assert boards.main(arguments) == EXIT_OK
    printed = capsys.readouterr().out
    assert printed.count("passed  ") == 12 and "2 random networks, " in printed
    assert report.read_text().startswith("Self-test of a Spikefold board: passed\n")
