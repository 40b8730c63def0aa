"""Tests of deliberate bugs: each can be planted, and the ladder catches one in the sources.

The ladder is the series of checks from the trained network down to the bitstream
(:mod:`sim.ladder.rungs`).
"""

from __future__ import annotations

import pytest

from hw.tools.folders import ROOT
from sim.ladder import plants
from sim.ladder.devices import ECP5, ICE40
from sim.ladder.rungs import RUNGS

NAMES = [rung.name for rung in RUNGS]


@pytest.mark.parametrize("bug", plants.SOURCE_BUGS, ids=lambda bug: bug.name)
def test_the_text_of_a_bug_is_in_its_file_once(bug: plants.SourceBug) -> None:
    assert (ROOT / bug.file).read_text().count(bug.old) == 1
    assert bug.caught_by in plants.OF_SOURCES and bug.old != bug.new


def test_every_rung_has_a_bug_that_it_must_catch() -> None:
    bugs = (*plants.SOURCE_BUGS, *plants.TOOL_BUGS)
    assert {bug.caught_by for bug in bugs} == set(NAMES)
    assert len({bug.name for bug in bugs}) == len(bugs) >= 20
    for bug in plants.TOOL_BUGS:
        assert [bug.cells, bug.bits, bug.settings].count(None) == 2
        assert bug.family == (ICE40 if bug.settings is None else ECP5)


def test_a_row_says_if_another_rung_caught_a_bug() -> None:
    caught = plants.Caught(name="a bug", expected="routed", rung="routed", message="it differs")
    assert plants.row(caught) == "| a bug | routed | it differs |"
    missed = plants.Caught(name="a bug", expected="routed", rung=None, message="")
    assert plants.row(missed) == "| a bug | nothing (expected: routed) |  |"
    assert caught.as_expected and not missed.as_expected
