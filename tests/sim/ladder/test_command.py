"""Tests of ``python -m sim.ladder``: results of the checks, their records in manifests, and the
table of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hw.tools import build, manifest
from hw.tools.command import EXIT_BAD_INPUT, EXIT_NO, EXIT_OK
from sim.ladder import devices, main
from sim.ladder.netlist import LadderError
from sim.ladder.rungs import RUNGS
from tests.hw.tools.fake_tools import FakeTools

BOARD = "ulx3s-25f"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    """Build a bitstream with fake tools, and replace every check (rung) by one that passes."""
    tools = FakeTools(tmp_path, monkeypatch)
    monkeypatch.setattr(devices, "netlist", tools.netlist)
    build.build(BOARD, n_seeds=1, progress=False)
    pass_all(monkeypatch)
    return tools


def pass_all(monkeypatch: pytest.MonkeyPatch, but: str = "") -> None:
    """Replace every check (rung) of the ladder by one that passes, except the one named ``but``."""

    def run(name: str) -> str:
        if name == but:
            raise LadderError("two spikes differ")
        return f"{name} compared"

    rungs = tuple(replace(rung, run=lambda climb, name=rung.name: run(name)) for rung in RUNGS)
    monkeypatch.setattr(main, "RUNGS", rungs)


def records() -> dict[str, dict]:
    return manifest.climbed(manifest.load_manifest(BOARD))


def test_what_has_been_climbed_is_recorded(
    tools: FakeTools, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([BOARD, "--rung", "folded", "--rung", "routed"]) == EXIT_OK
    assert f"{BOARD} routed     passed  routed compared" in capsys.readouterr().out
    assert list(records()) == ["folded", "routed"]
    record = records()["routed"]
    assert record["compared"] == "routed compared" and record["netlist"]
    assert record["command"].startswith(f"python -m sim.ladder {BOARD} --networks 4")
    assert "; passed folded, routed" in build.summary(manifest.load_manifest(BOARD))
    assert main.main([BOARD, "--check"]) == EXIT_NO
    assert f"{BOARD} has not climbed integers, cocotb" in capsys.readouterr().out
    assert main.main([BOARD]) == EXIT_OK
    shown = capsys.readouterr().out
    assert shown.count("climbed before") == 2 and shown.count("passed") == len(RUNGS) - 2
    assert main.main([BOARD, "--check"]) == EXIT_OK


def test_a_failure_ends_the_climb_and_takes_the_record_away(
    tools: FakeTools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main.main([BOARD])
    pass_all(monkeypatch, but="synthesis")
    capsys.readouterr()
    assert main.main([BOARD, "--again", "--json"]) == EXIT_NO
    outcomes = json.loads(capsys.readouterr().out)
    assert [outcome["rung"] for outcome in outcomes][-1] == "synthesis"
    assert outcomes[-1]["state"] == "FAILED" and outcomes[-1]["detail"] == "two spikes differ"
    assert set(records()) == {rung.name for rung in RUNGS} - {"synthesis"}


def test_records_of_other_netlists_and_bitstreams_do_not_count(tools: FakeTools) -> None:
    main.main([BOARD])
    values = manifest.load_manifest(BOARD)
    assert len(manifest.climbed(values)) == len(RUNGS)
    for key in ("netlist", "sha256"):
        assert manifest.climbed(values | {key: "0" * 64}) == {}
    tools.rtlil = "another"
    assert "check it: python -m sim.ladder" in build.summary(
        build.build(BOARD, n_seeds=1, progress=False)
    )


def test_a_stale_bitstream_is_not_climbed(
    tools: FakeTools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {rung.name: rung.run for rung in main.RUNGS}
    real = next(rung for rung in RUNGS if rung.name == "synthesis")
    rungs = tuple(replace(rung, run=real.run if rung is real else run[rung.name]) for rung in RUNGS)
    monkeypatch.setattr(main, "RUNGS", rungs)
    tools.rtlil = "another"
    assert main.main([BOARD]) == EXIT_NO
    *above, last = capsys.readouterr().out.splitlines()
    assert len(above) == 4 and all("passed" in line for line in above)
    assert "synthesis  FAILED" in last and "was built from other sources" in last
    assert records() == {}, "rungs of sources are no merit of the bitstream"


def test_nothing_is_recorded_unless_wanted(tools: FakeTools) -> None:
    assert main.main([BOARD, "--no-record"]) == EXIT_OK
    assert records() == {}


def test_table(tools: FakeTools, capsys: pytest.CaptureFixture[str]) -> None:
    main.main([BOARD, "--rung", "folded"])
    capsys.readouterr()
    assert main.main(["--table"]) == EXIT_OK
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == f"| bitstream | {' | '.join(rung.name for rung in RUNGS)} |"
    date = records()["folded"]["date"]
    assert row == f"| `{BOARD}` | {date}{' | –' * (len(RUNGS) - 1)} |"


def test_bad_numbers_are_refused(tools: FakeTools, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([BOARD, "--samples", "1"])
    assert ended.value.code == EXIT_BAD_INPUT
    assert "--samples at least 2" in capsys.readouterr().err
