"""Tests that the netlist of the whole device has no multiplier.

So synthesis has none to map to DSP blocks. How many DSP blocks and block RAMs a bitstream takes is
in its manifest, for every board; ``tests/hw/tools/test_build.py`` checks it.
"""

import json
from collections import Counter

import pytest

from hw.boards.configs import config_by_name
from hw.spec import Config
from hw.top import Top
from sim.verilate import to_rtlil

MULTIPLIERS = {"$mul", "$macc", "$macc_v2", "$div", "$mod", "$divfloor", "$modfloor", "$pow"}


def cells(config: Config, tmp_path) -> Counter[str]:
    """Return the number of cells of each type in the netlist before synthesis."""
    libyosys = pytest.importorskip("pyosys.libyosys")
    source, stat = tmp_path / "top.il", tmp_path / "stat.json"
    source.write_text(to_rtlil(Top(config)))
    design = libyosys.Design()
    for command in (
        f"read_rtlil {source}",
        "hierarchy -auto-top",
        "proc",
        "opt_expr",
        "flatten",
        f"tee -q -o {stat} stat -json",
    ):
        libyosys.run_pass(command, design)
    return Counter(json.loads(stat.read_text())["design"]["num_cells_by_type"])


@pytest.mark.parametrize("board", ["sim", "icebreaker", "icebreaker/w8"])
def test_netlist_has_no_multiplier(board: str, tmp_path) -> None:
    config = config_by_name(board)
    found = cells(config, tmp_path)
    assert found["$add"] > 0
    assert not MULTIPLIERS & set(found)
