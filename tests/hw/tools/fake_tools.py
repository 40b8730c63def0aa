"""Fast replacements for synthesis, place and route, and packing, for tests of the build."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hw.boards.configs import config_by_name
from hw.tools import build, manifest, netlist, place
from hw.tools.netlist import Netlist

FAKE_NEXTPNR = """
import json, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
fmax = {fmax}[int(options["--seed"])]
if fmax is None:
    sys.exit("ERROR: no room")
assert pathlib.Path("top.json").read_text() == "synthesised"
report = {{
    "fmax": {{"$glbnet$clk": {{"achieved": fmax, "constraint": {constraint}}}}},
    "utilization": {{
        "TRELLIS_COMB": {{"used": 100, "available": 1000}},
        "DP16KD": {{"used": 5, "available": 56}},
        "MULT18X18D": {{"used": {n_dsp}, "available": 28}},
        "ALU54B": {{"used": 0, "available": 14}},
    }},
}}
pathlib.Path("report.json").write_text(json.dumps(report))
pathlib.Path("top.config").write_text(options["--seed"])
"""
FAKE_PACK = """
import pathlib
pathlib.Path("top.bit").write_bytes(b"bits of " + pathlib.Path("top.config").read_bytes())
"""


class FakeTools:
    """Replace synthesis, place and route, and packing by functions that quickly write fake
    results."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.n_runs = 0
        self.rtlil = "one"
        monkeypatch.setattr(manifest, "BITSTREAMS", folder / "bitstreams")
        monkeypatch.setattr(netlist, "WORK", folder / "work")
        monkeypatch.setattr(place, "tool_command", self.command)
        monkeypatch.setattr(build, "netlist", self.netlist)
        monkeypatch.setattr(manifest, "tool_versions", lambda source: {"nextpnr": "0"})
        monkeypatch.setattr(build, "synthesised", self.synthesise)
        self.set()

    def set(
        self, fmax: dict[int, float | None] | None = None, constraint: float = 60.0, n_dsp: int = 0
    ) -> None:
        fmax = fmax or {1: 61.0, 2: 65.0, 3: 59.0}
        text = FAKE_NEXTPNR.format(fmax=fmax, constraint=constraint, n_dsp=n_dsp)
        (self.folder / "place").write_text(text)
        (self.folder / "pack").write_text(FAKE_PACK)

    def command(self, name: str) -> list[str]:
        self.n_runs += name == "place"
        return [sys.executable, str(self.folder / name)]

    def netlist(self, board: str) -> Netlist:
        return Netlist(
            board=board,
            config=replace(config_by_name(board), clk_hz=60_000_000),
            device="a device",
            files={"top.il": self.rtlil, "top.lpf": "pins"},
            place=("place",),
            pack=("pack",),
            suffix=".bit",
        )

    def synthesise(self, source: Netlist, folder: Path) -> Path:
        target = folder / "synthesis"
        target.mkdir(parents=True, exist_ok=True)
        (target / "top.json").write_text("synthesised")
        return target
