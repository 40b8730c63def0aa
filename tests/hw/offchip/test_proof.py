"""Proofs that the SDRAM controller keeps every timing rule of the chip, and that each of its
commands can occur.

The proofs are bounded: whatever the inputs are and whenever refreshes become due, no rule is
violated within some number of cycles after reset. The controllers here initialise the chip with two
refreshes and refresh in batches of two, so that this number covers normal operation, too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import hw.offchip.sdram
import tests.hw.offchip.rules
from tests.hw.offchip.proof import Proof, small
from tests.hw.offchip.rules import TimingRules

N_REFRESHES = 2


@pytest.fixture(autouse=True)
def small_batches(monkeypatch) -> None:
    for module in (hw.offchip.sdram, tests.hw.offchip.rules):
        monkeypatch.setattr(module, "REFRESH_BATCH", N_REFRESHES)


@pytest.mark.slow
@pytest.mark.parametrize(("n_ports", "row_words", "n_cycles"), [(1, 2, 40), (2, 4, 40), (4, 2, 40)])
def test_no_rule_is_violated(n_ports: int, row_words: int, n_cycles: int, tmp_path: Path) -> None:
    proof = Proof(small(n_ports, row_words), lambda rules: rules.bad.any())
    assert proof.search(tmp_path, n_cycles, 600) == (n_cycles, False)


@pytest.mark.slow
@pytest.mark.parametrize("event", TimingRules.EVENTS)
def test_every_command_is_reached(event: str, tmp_path: Path) -> None:
    index = TimingRules.EVENTS.index(event)
    _, found = Proof(small(1, 2), lambda rules: rules.seen[index]).search(tmp_path, 60, 60)
    assert found


@pytest.mark.parametrize(
    ("rule", "too_few"),
    [
        pytest.param("rp", {"rp": 2}, marks=pytest.mark.slow),
        ("ras", {"ras": 3}),
        pytest.param("rfc", {"rfc": 7}, marks=pytest.mark.slow),
    ],
)
def test_a_planted_bug_is_found(rule: str, too_few: dict[str, int], tmp_path: Path) -> None:
    dut = small(1, 2)
    index = TimingRules.RULES.index(rule)
    proof = Proof(dut, lambda rules: rules.bad[index])  # has the right timing
    dut.cycles = replace(dut.cycles, **too_few)
    _, found = proof.search(tmp_path, 60, 60)
    assert found
