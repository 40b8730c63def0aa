"""Tests of the fault campaign: a short campaign finds no wrong result, and planted errors are
counted."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from sim import campaign
from sim.campaign import KILLED, NOISE, SECOND_HOST, SESSIONS, Campaign, Tally, main
from sim.virtual_board import virtual_board
from sw.cli.commands import EXIT_DEVICE, EXIT_NO, EXIT_OK
from sw.compile.program import Counters
from sw.driver.errors import LinkTimeout
from sw.driver.faults import KINDS
from sw.driver.inference import Inference
from tests.sw.fake_device import FakeDevice


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixture that makes the campaign's sessions so short that each takes a second or less."""
    for name, value in {"N_SAMPLES": 6, "N_READ_BACK": 2, "NOISE_BYTES": 5000}.items():
        monkeypatch.setattr(campaign, name, value)


def test_short_campaign_has_every_kind_and_no_wrong_answer(
    short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-n", "1", "--seed", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if "|" in line}
    assert {*KINDS, *KILLED, SECOND_HOST, NOISE} <= {*SESSIONS} <= rows.keys()
    n_injected, n_sessions, *_, n_stuck, n_compared, n_wrong = (
        int(cell.strip(" |").replace(",", "")) for cell in rows["**together**"].split(" | ")[1:]
    )
    assert n_injected >= 1 and n_sessions == len(SESSIONS)
    assert n_stuck == n_wrong == 0 < n_compared


def outcome(**changes: object) -> Inference:
    """Return the result of an inference with ``changes`` to its fields, without running a
    sample."""
    counters = {"fc": Counters(n_cycles=4, n_weight_reads=3, n_synaptic_ops=2, n_spikes=1)}
    plain = Inference(prediction=1, n_cycles=5, logits=np.arange(2), counters=counters)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_every_difference_is_seen() -> None:
    maps = {"fc": np.zeros((1, 1, 1, 2), np.uint8)}
    right = outcome(maps=maps)
    assert campaign.same_outcome(outcome(), right) and campaign.same_outcome(
        outcome(maps=maps), right
    )
    changed = Counters(n_cycles=4, n_weight_reads=3, n_synaptic_ops=2, n_spikes=0)
    for changes in (
        {"prediction": 0},
        {"n_cycles": 6},
        {"logits": np.arange(2) + 1},
        {"counters": {"fc": changed}},
        {"maps": {"fc": maps["fc"] + 1}},
    ):
        assert not campaign.same_outcome(outcome(**changes), right)


def one_session(kind: str, expected: list[Inference]) -> Campaign:
    own = Campaign()
    with virtual_board(campaign.CONFIG) as path:
        campaign.run_session(path, 0, kind, 1, expected, own)
    return own


def test_wrong_answers_are_counted(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "TIMEOUT_S", 1.0)
    tally = one_session(NOISE, [outcome()] * 6).tallies[NOISE]
    assert tally.n_wrong == tally.n_samples == 8 and tally.n_injected == 1


def test_sessions_without_an_end_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(*_: object, **__: object) -> None:
        time.sleep(30)

    def crash(*_: object, **__: object) -> None:
        raise ValueError("a bug in the driver")

    monkeypatch.setattr(campaign, "STUCK_S", 0.05)
    for happens, words in ((endless, "no end after 0.05 s"), (crash, "bug in the driver")):
        own = Campaign()
        monkeypatch.setattr(campaign, "session", happens)
        campaign.run_session("nowhere", 0, "flip", 1, [], own)
        assert own.tallies["flip"] == Tally(n_sessions=1, n_stuck=1)
        assert words in capsys.readouterr().err


def test_errors_are_counted_with_what_happened_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        error = LinkTimeout("no answer")
        error.add_note(json.dumps([{"flip": 3}, {"n_repeated": 2}]))
        raise error

    monkeypatch.setattr(campaign, "session", fails)
    own = Campaign()
    campaign.run_session("nowhere", 0, "flip", 1, [], own)
    assert own.tallies["flip"] == Tally(n_injected=3, n_sessions=1, n_errors=1, n_repeated=2)
    assert own.errors == {"LinkTimeout": 1}
    assert "Errors: 1 LinkTimeout. Requests sent again: 2" in campaign.as_table(own)


@pytest.mark.parametrize(
    ("tally", "code"),
    [
        (Tally(n_errors=1), EXIT_OK),
        (Tally(n_wrong=1), EXIT_NO),
        (Tally(n_stuck=1), EXIT_NO),
    ],
)
def test_exit_code(
    tally: Tally, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Campaign(tallies={"flip": tally})
    monkeypatch.setattr(campaign, "run_campaign", lambda *_, **__: own)
    assert main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)["total"]["n_wrong"] == tally.n_wrong


def test_a_virtual_board_that_ends_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "board"
    program.write_text("#!/bin/sh\necho /dev/nowhere\n")
    program.chmod(0o755)
    monkeypatch.setattr(campaign, "executable", lambda _: program)
    assert main([]) == EXIT_DEVICE
    assert "error: cannot open /dev/nowhere: " in capsys.readouterr().err
    device = FakeDevice(campaign.network(np.random.default_rng(0)), campaign.CONFIG)
    monkeypatch.setattr(campaign.Device, "open_with", lambda *_: device)
    monkeypatch.setattr(campaign, "run_session", lambda *_: time.sleep(0.01))
    assert main([]) == EXIT_DEVICE
    assert "error: the virtual board has ended" in capsys.readouterr().err


def test_ctrl_c_leaves_the_table_of_what_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run_session", interrupt)
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert "interrupted; so far:" in err and "| **together** | 0 |" in out
