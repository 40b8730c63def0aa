"""Tests of the report of the resources that each block of a design takes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from hw.boards.configs import BOARDS, config_by_name
from hw.spec import Config
from hw.tools import area
from hw.tools.command import EXIT_BAD_INPUT
from hw.tools.netlist import WORK, Netlist


def design(*cells: tuple[str, str, str | None]) -> dict:
    """Return a Yosys netlist of cells, each given as (name, type, name of the net it drives)."""
    nets = {net: {"bits": [i]} for i, (_, _, net) in enumerate(cells) if net}
    return {
        "modules": {
            "top": {
                "netnames": nets | {"$abc$1": {"bits": list(range(len(cells)))}},
                "cells": {
                    name: {
                        "type": kind,
                        "connections": {"A": [0, "x"], "Z": [i, "0"]},
                        "port_directions": {"A": "input", "Z": "output"},
                    }
                    for i, (name, kind, _) in enumerate(cells)
                },
            }
        }
    }


def test_a_cell_is_counted_for_the_block_whose_net_it_drives():
    assert area.blocks(
        design(
            ("$abc$7", "LUT4", "top.core.banks.bank0.lanes.total3[2]"),
            ("$abc$8", "CCU2C", "top.core.banks.bank0.lanes.sums__payload"),
            ("$abc$9", "TRELLIS_FF", "top.core.banks.bank0.slot__chunk"),
            ("top.core.params$178.rows.0.0", "DP16KD", "top.core.argmax.logits"),
            ("$abc$11", "SB_DFFESR", "top.link.rate.divisor"),
            ("$abc$12", "LUT4", None),
            ("$abc$13", "PFUMX", "top.link.rate.divisor2"),
        )
    ) == {
        "core.banks.bank0.lanes": Counter(lut=3),
        "core.banks.bank0": Counter(ff=1),
        "core.params": Counter(block_ram=1),
        "link.rate": Counter(ff=1),
        "other": Counter(lut=1),
    }


def test_more_lanes_keep_the_bits_of_weight_memory():
    config = config_by_name("ulx3s-25f/w4")
    other = area.with_lanes(config, 64)
    assert other.lanes == 64
    assert other.lanes * other.weight_depth == config.lanes * config.weight_depth


@pytest.fixture
def yosys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Config]:
    """Replace synthesis by a fake whose result has 30 LUTs and 7 more per lane.

    Return the list to which the fake adds each configuration that is synthesised.
    """
    seen = []

    def netlist(board: str, config: Config) -> Netlist:
        assert board.partition("/")[0] in BOARDS
        seen.append(config)
        files = {"lanes": str(config.lanes)}
        return Netlist(
            board=board, config=config, device="", files=files, place=(), pack=(), suffix=""
        )

    def synthesised(source: Netlist, folder: Path) -> Path:
        config = seen[-1]
        assert source.config == config
        assert folder.parent == WORK and folder.name.endswith(source.digest[:12])
        cells = [(f"$base{i}", "LUT4", f"top.link.a{i}") for i in range(30)]
        cells += [(f"$l{i}", "LUT4", f"top.core.core0.b{i}") for i in range(7 * config.lanes)]
        target = tmp_path / str(config.lanes)
        target.mkdir()
        (target / "top.json").write_text(json.dumps(design(*cells)))
        return target

    monkeypatch.setattr(area, "netlist", netlist)
    monkeypatch.setattr(area, "synthesised", synthesised)
    return seen


def test_the_cost_of_a_lane(yosys: list[Config], capsys: pytest.CaptureFixture):
    assert area.main(["ulx3s-25f", "--lanes", "32", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| | lut, 16 lanes | lut, 32 lanes |"
    assert lines[2:5] == [
        "| `core.core0` | 112 | 224 |",
        "| `link` | 30 | 30 |",
        "| all | 142 | 254 |",
    ]
    assert lines[-1] == "A lane costs 7.0 LUTs and 0.0 flip-flops."


def test_membrane_width_is_an_option(yosys: list[Config], capsys: pytest.CaptureFixture):
    assert area.main(["ulx3s-25f", "--lanes", "32", "16", "--membrane-bits", "18"]) == 0
    assert [config.membrane_bits for config in yosys] == [18, 18]
    assert capsys.readouterr().out.startswith("| | lut, 16 lanes |")


def test_boards_own_lanes_are_the_default(yosys: list[Config], capsys: pytest.CaptureFixture):
    assert area.main(["icebreaker", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "16": {"link": {"lut": 30}, "core.core0": {"lut": 112}}
    }
    assert yosys == [config_by_name("icebreaker")]


def test_boards_without_support_are_refused(capsys: pytest.CaptureFixture):
    for board, message in (
        ("tang-nano-20k", "only cells of ECP5 and iCE40 are counted"),
        ("sim", "sim is the virtual board"),
    ):
        assert area.main([board]) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err


def test_unsupported_numbers_of_lanes_are_refused(capsys: pytest.CaptureFixture):
    assert area.main(["icebreaker", "--lanes", "12"]) == EXIT_BAD_INPUT
    assert "Config.lanes = 12 is not supported: use a power of two" in capsys.readouterr().err
