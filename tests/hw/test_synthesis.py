"""Tests that the whole device has no multiplier or DSP block, and its memories in block RAM.

The manifests of the bitstreams state for every board how many DSP blocks and block RAMs it takes;
``tests/hw/tools/test_build.py`` checks them. The tests of this file need no such build.
"""

import json
from collections import Counter

import pytest

from hw.boards.configs import config_by_name
from hw.spec import Config
from hw.top import Top
from sim.verilate import to_rtlil

SMALL = Config(
    lanes=8,
    fire_lanes=2,
    membrane_bits=16,
    sum_bits=16,
    weight_depth=2048,
    spike_bytes=4096,
    param_depth=512,
)
MULTIPLIERS = {"$mul", "$macc", "$macc_v2", "$div", "$mod", "$divfloor", "$modfloor", "$pow"}


def cells(config: Config, *passes: str, tmp_path) -> Counter[str]:
    """Return the number of cells of each type after the Yosys passes ``passes``."""
    libyosys = pytest.importorskip("pyosys.libyosys")
    source, stat = tmp_path / "top.il", tmp_path / "stat.json"
    source.write_text(to_rtlil(Top(config)))
    design = libyosys.Design()
    for command in (
        f"read_rtlil {source}",
        "hierarchy -auto-top",
        *passes,
        "flatten",
        f"tee -q -o {stat} stat -json",
    ):
        libyosys.run_pass(command, design)
    return Counter(json.loads(stat.read_text())["design"]["num_cells_by_type"])


@pytest.mark.parametrize("board", ["sim", "icebreaker", "icebreaker/w8"])
def test_netlist_has_no_multiplier(board: str, tmp_path) -> None:
    config = config_by_name(board)
    found = cells(config, "proc", "opt_expr", tmp_path=tmp_path)
    assert found["$add"] > 0
    assert not MULTIPLIERS & set(found)


def test_ecp5_has_no_dsp(tmp_path) -> None:
    found = cells(SMALL, "synth_ecp5", tmp_path=tmp_path)
    assert found["LUT4"] > 1000
    assert found["DP16KD"] > 0, "memories are not in block RAM"
    assert not {name for name in found if name.startswith(("MULT", "ALU", "$mul"))}
