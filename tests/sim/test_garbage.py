"""Tests of the program that sends random bytes to the frame decoder: it passes after some seconds
of them, and it reports a wrong frame."""

from __future__ import annotations

import json

import pytest

from sim import garbage
from sim.garbage import main
from sw.cli.commands import EXIT_NO


def test_decoder_works_after_every_kind_of_garbage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "8", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["n_rounds"] == outcome["n_answered"] == outcome["n_passed"] == 8
    assert outcome["n_bytes"] > 8 * garbage.BYTES_PER_S and outcome["n_dropped"] > 10_000


def test_frame_that_is_not_passed_on_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = garbage.encode_frame(garbage.PACKET)
    wrong = bytes([right[0] ^ 1]) + right[1:]
    monkeypatch.setattr(garbage, "encode_frame", lambda _: wrong)
    assert main(["--seconds", "2"]) == EXIT_NO
    assert "of 2 undamaged ones 0 passed on; 0 times something else" in capsys.readouterr().out
