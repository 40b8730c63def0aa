"""Tests of the mutants of the gateware: how they are selected, run and counted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hw.boards.configs import CONFIGS
from hw.tools.verilog import ToolError
from sim import mutants
from sim.ladder.netlist import LadderError
from sim.mutants import KILLED, SILENT, SURVIVED, Mutant, Outcome, Results
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_NO, EXIT_OK
from sw.driver.errors import LinkLost, LinkTimeout, NotABoard

CONFIG = CONFIGS["ice40-hx8k"]
NETLIST = """module spikefold(rst, mutant_select, clk);
  input [15:0] mutant_select;
  wire [15:0] mutant_select;
  assign one = mutant_select == 16'h0001;
"""


def found(number: int, state: str) -> Outcome:
    return Outcome(number=number, state=state, detail="", change=f"-mode inv -cell c{number}")


def test_the_number_of_the_mutant_is_set_by_the_host() -> None:
    text = mutants._selected_by_host(NETLIST)
    assert "module spikefold(rst, clk);" in text and "input" not in text and "  wire" not in text
    assert "  initial mutant_select = spikefold_mutant();" in text
    first = NETLIST.replace("(rst, mutant_select, clk)", "(mutant_select, rst, clk)")
    assert "module spikefold(rst, clk);" in mutants._selected_by_host(first)
    with pytest.raises(ToolError, match="has no input mutant_select"):
        mutants._selected_by_host(NETLIST.replace("input [15:0]", "input [7:0]"))


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, SURVIVED),
        (LadderError("it differs"), KILLED),
        (NotABoard("it is silent"), KILLED),
        (LinkTimeout("no answer"), SILENT),
        (LinkLost("its time was over"), SILENT),
    ],
)
def test_a_mutant_is_killed_by_a_difference_or_by_silence(
    error: Exception | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected = []

    def climb(*arguments: object, patience_s: float) -> str:
        selected.append((os.environ[mutants.VARIABLE], os.environ.get(mutants.LIMIT_VARIABLE)))
        if error is not None:
            raise error
        return "all equal"

    monkeypatch.setattr(mutants.pins, "climb", climb)
    monkeypatch.delenv(mutants.VARIABLE, raising=False)
    one = mutants.outcome(Path("model"), CONFIG, [], Mutant(number=7, change="-mode inv"), 9)
    assert (one.number, one.state, one.change) == (7, state, "-mode inv")
    assert one.detail == (str(error) if error else "all equal")
    assert mutants.outcome(Path("model"), CONFIG, [], None).number == 0
    assert selected == [("7", "9"), ("0", None)] and mutants.VARIABLE not in os.environ


def test_a_run_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def outcome(
        program: Path,
        config: object,
        vectors: object,
        mutant: Mutant | None,
        limit_s: int | None = None,
    ) -> Outcome:
        if mutant is None:
            return found(0, SURVIVED)
        if len(ran) == 3:
            raise KeyboardInterrupt
        if mutant.number not in ran:
            ran.append(mutant.number)
        return found(mutant.number, SURVIVED if mutant.number == 2 else KILLED)

    drawn = [Mutant(number=n, change="") for n in range(1, 6)]
    monkeypatch.setattr(mutants, "mutated", lambda config, n, seed: ("netlist", drawn))
    monkeypatch.setattr(mutants, "build_executable", lambda *_, **options: Path("model"))
    monkeypatch.setattr(mutants, "random_vector", lambda *_: None)
    monkeypatch.setattr(mutants, "outcome", outcome)
    monkeypatch.setattr(mutants, "work_dir", lambda: tmp_path)
    assert [one.number for one in mutants.run(CONFIG, n=5, seed=0, limit=1)] == [1]
    with pytest.raises(KeyboardInterrupt):
        mutants.run(CONFIG, n=5, seed=0)
    ran.clear()
    assert mutants.main(["-n", "5", "--goal", "0.8"]) == EXIT_OK
    assert ran == [4, 5]
    ran.clear()
    assert mutants.main(["-n", "5", "--goal", "0.9"]) == EXIT_NO and not ran
    (path,) = (tmp_path / "mutants").iterdir()
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_a_mutant_that_survives_is_run_on_more_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(
        program: Path,
        config: object,
        vectors: list[str],
        mutant: Mutant | None,
        limit_s: int | None = None,
    ) -> Outcome:
        return found(mutant.number if mutant else 0, KILLED if "random 5" in vectors else SURVIVED)

    monkeypatch.setattr(mutants, "mutated", lambda *_, **__: ("x", [Mutant(number=1, change="")]))
    monkeypatch.setattr(mutants, "build_executable", lambda *_, **options: Path("model"))
    monkeypatch.setattr(mutants, "random_vector", lambda config, name, *_: name)
    monkeypatch.setattr(mutants, "outcome", outcome)
    monkeypatch.setattr(mutants, "work_dir", lambda: tmp_path)
    assert [one.state for one in mutants.run(CONFIG, n=1, seed=0)] == [KILLED]


def test_an_original_that_fails_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "mutated", lambda config, n, seed: ("netlist", []))
    monkeypatch.setattr(mutants, "build_executable", lambda *_, **options: Path("model"))
    monkeypatch.setattr(mutants, "random_vector", lambda *_: None)
    monkeypatch.setattr(mutants, "outcome", lambda *_: found(0, KILLED))
    with pytest.raises(LadderError, match="the device without mutants fails"):
        mutants.run(CONFIG, n=5, seed=0)


def test_summary_names_the_survivors(tmp_path: Path) -> None:
    results = Results(tmp_path / "new" / "results.jsonl")
    for number, state in enumerate((KILLED, SURVIVED, SILENT, KILLED), 1):
        results.add(found(number, state))
    assert Results(tmp_path / "new" / "results.jsonl").outcomes == results.outcomes
    text = mutants.summary(list(results.outcomes.values()))
    assert text == "4 mutants: 2 killed, 1 survived, 1 silent\n  2: -mode inv -cell c2"


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mutants.main(["-n", "65536"])
    assert ended.value.code == EXIT_BAD_INPUT
    assert "-n takes 1 to 65535" in capsys.readouterr().err
    assert mutants.main(["--board", "no-such"]) == EXIT_BAD_INPUT


@pytest.mark.slow
def test_mutants_of_a_device_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "work_dir", lambda: tmp_path)
    outcomes = mutants.run(CONFIG, n=1000, seed=0, limit=4)
    assert [one.state for one in outcomes].count(SURVIVED) <= 1
    assert all("hw/" in one.change for one in outcomes)
