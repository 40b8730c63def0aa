"""Tests of the messages of failed simulations, with a fake simulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim import runner, verilate
from sim.runner import CocotbError, run_cocotb

RESULTS = """<testsuites><testsuite>
<testcase classname="tests" name="fine" />
<testcase classname="tests" name="left_out"><skipped /></testcase>
{failures}</testsuite></testsuites>"""
FAILURE = '<testcase classname="tests" name="wrong"><failure message="1 is not 2" /></testcase>\n'


class Simulator:
    """Fake simulator that writes the given test results to the expected file, or nothing if they
    are None."""

    def __init__(self, builds: bool, results: str | None, ends: bool):
        self.builds, self.results, self.ends = builds, results, ends

    def build(self, *, log_file: Path, **_: object) -> None:
        log_file.write_text("what the compiler said")
        if not self.builds:
            raise RuntimeError("exit code 2")

    def test(self, *, results_xml: str, log_file: Path, **_: object) -> None:
        log_file.write_text("what the simulator said")
        if self.results is not None:
            Path(results_xml).write_text(self.results)
        if not self.ends:
            raise SystemExit(1)


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs the fake simulator and returns the message of the error it
    raises."""
    monkeypatch.setattr(runner, "BUILD_DIR", tmp_path)
    monkeypatch.setattr(verilate, "to_verilog", lambda _: "module top; endmodule")
    monkeypatch.setattr(verilate, "environment", lambda: {"PATH": ""})

    def message(builds: bool = True, results: str | None = None, ends: bool = True) -> str:
        monkeypatch.setattr(runner, "get_runner", lambda _: Simulator(builds, results, ends))
        with pytest.raises(CocotbError) as error:
            run_cocotb("a design", "some_tests", name="thing", test_filter="one")
        return str(error.value)

    return message


def test_failures_say_what_failed_and_show_the_end_of_the_log(
    simulate: Callable[..., str],
) -> None:
    assert simulate(builds=False).startswith("thing: build failed: exit code 2\n")
    assert simulate(builds=False).endswith("what the compiler said")
    for said, ends in (("simulation failed: 1", False), ("the simulation left no results", True)):
        found = simulate(ends=ends)
        assert found.startswith(f"thing: {said}\n") and found.endswith("what the simulator said")
    found = simulate(results=RESULTS.format(failures=FAILURE), ends=False)
    assert found.startswith("thing: 1 of 2 tests failed:\ntests.wrong: 1 is not 2\n")
    assert found.endswith("what the simulator said")
    assert simulate(results="<testsuites />") == (
        "thing: no test was executed (module some_tests, filter one)"
    )
