"""Tests of building bitstreams, and of whether the shipped bitstreams were built from these
sources."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hw.boards.configs import BOARDS, config_by_name
from hw.link.dispatch import Dispatcher
from hw.protocol import ARGUMENT_BYTES, Opcode, parse_identity, spec_hash
from hw.tools import build, manifest, netlist, place
from hw.tools.command import EXIT_BAD_INPUT
from hw.tools.folders import ROOT
from hw.tools.netlist import BuildError
from hw.tools.place import Routed
from tests.hw.tools.fake_tools import FakeTools
from tests.hw.wire import reply, request
from tests.streams import get, packet_items, put, simulate

SHIPPED = [board for board in BOARDS if manifest.manifest_path(board).exists()]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    return FakeTools(tmp_path, monkeypatch)


def run(n_seeds: int = 3, **kwargs) -> dict:
    return build.build("ulx3s-25f", n_seeds=n_seeds, progress=False, **kwargs)


def test_the_fastest_seed_is_kept(tools: FakeTools) -> None:
    values = run(jobs=2)
    assert values["seed"] == 2
    assert values["fmax_mhz_by_seed"] == {"1": 61.0, "2": 65.0, "3": 59.0}
    assert values["clocks"] == {"clk": {"fmax_mhz": 65.0, "constraint_mhz": 60.0, "met": True}}
    assert values["utilization"] == {"lut": [100, 1000], "block_ram": [5, 56], "dsp": [0, 42]}
    assert values["gateware_hash"] == f"{spec_hash(config_by_name('ulx3s-25f')):016x}"
    bitstream = manifest.BITSTREAMS / "ulx3s-25f.bit"
    assert bitstream.read_bytes() == b"bits of 2"
    assert values["sha256"] == hashlib.sha256(b"bits of 2").hexdigest()
    assert manifest.load_manifest("ulx3s-25f") == values
    assert {path.name for path in manifest.BITSTREAMS.iterdir()} == {
        "ulx3s-25f.bit",
        "ulx3s-25f.json",
    }


def test_an_unchanged_netlist_is_not_built_again(tools: FakeTools) -> None:
    before = run()
    assert run() == before and tools.n_runs == 3
    tools.rtlil = "another"
    assert run()["netlist"] != before["netlist"] and tools.n_runs == 6
    run(force=True)
    assert tools.n_runs == 9


def test_seeds_that_were_tried_are_not_tried_again(tools: FakeTools) -> None:
    tools.set({1: 59.0, 2: 58.0, 3: 61.0})
    with pytest.raises(BuildError):
        run(n_seeds=2)
    assert run(n_seeds=3)["seed"] == 3
    assert tools.n_runs == 3


def test_failed_builds_leave_the_bitstream_unchanged(tools: FakeTools) -> None:
    before = run()
    for rtlil, settings, message in (
        ("slow", {"fmax": {1: 59.9, 2: 50.0, 3: 40.0}}, "59.9 MHz at best of the 60 MHz"),
        ("unconstrained", {"constraint": 12.0}, "no clock is constrained to 60000000 Hz"),
        ("multiplies", {"n_dsp": 1}, "1 DSP blocks are used"),
        (
            "full",
            {"fmax": {1: 61.0, 2: None, 3: 62.0}},
            "seed 2 failed with exit code 1(.|\n)*no room",
        ),
    ):
        tools.rtlil = rtlil
        tools.set(**settings)
        with pytest.raises(BuildError, match=message):
            run()
        assert manifest.load_manifest("ulx3s-25f") == before


def test_a_stale_or_damaged_bitstream_names_the_command(tools: FakeTools) -> None:
    source = tools.netlist("ulx3s-25f")
    with pytest.raises(
        BuildError, match=r"no bitstream for ulx3s-25f.*python -m hw.build ulx3s-25f"
    ):
        manifest.check_current(source)
    run()
    manifest.check_current(source)
    tools.rtlil = "another"
    with pytest.raises(BuildError, match=r"is stale.*'python -m hw.build ulx3s-25f'"):
        manifest.check_current(tools.netlist("ulx3s-25f"))
    bitstream = manifest.BITSTREAMS / "ulx3s-25f.bit"
    bitstream.write_bytes(bitstream.read_bytes() + b"?")
    with pytest.raises(BuildError, match=r"is damaged.*'python -m hw.build ulx3s-25f'"):
        manifest.check_current(source)
    bitstream.unlink()
    with pytest.raises(BuildError, match=r"is missing.*'python -m hw.build ulx3s-25f'"):
        manifest.check_current(source)
    assert run()["seed"] == 2, "and it is built again"


def test_command(tools: FakeTools, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["ulx3s-25f", "--seeds", "2", "--json"]) == 0
    (values,) = json.loads(capsys.readouterr().out)
    assert values["board"] == "ulx3s-25f"
    assert build.main(["--check", "ulx3s-25f"]) == 0
    assert "65.0 MHz of 60.0" in capsys.readouterr().out
    assert build.main(["--table"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "ulx3s-25f" in line]
    assert "60 MHz (65.0)" in row and "100 of 1,000 LUT" in row and "5 of 56" in row
    for arguments, message in (
        ([], "name a board, or --all: known are ulx3s-85f, "),
        (["no-such-board"], "unknown board 'no-such-board': known are"),
        (["ulx3s-25f", "--seeds", "0"], "--seeds and --jobs take at least 1"),
        (["ulx3s-25f", "--jobs", "0"], "--seeds and --jobs take at least 1"),
        (["--check", "icebreaker"], "there is no bitstream for icebreaker: build it with"),
    ):
        assert build.main(arguments) == EXIT_BAD_INPUT
        assert f"error: {message}" in capsys.readouterr().err


def test_synthesis_without_output_names_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesise = place.synthesised
    source = FakeTools(tmp_path, monkeypatch).netlist("ulx3s-25f")
    monkeypatch.setattr(place, "run_tool", lambda *_: None)
    with pytest.raises(BuildError, match=rf"synthesis failed: see {tmp_path}/.*yosys\.log"):
        synthesise(source, tmp_path)
    assert not (tmp_path / "synthesis").exists()


def test_a_missing_tool_says_what_to_install() -> None:
    with pytest.raises(BuildError, match=r"no-such-tool is missing.*\[build\]"):
        place.tool_command("no-such-tool")


def test_a_routed_design_is_as_fast_as_its_slowest_clock() -> None:
    clocks = {
        "a": {"fmax_mhz": 90.0, "constraint_mhz": 60.0, "met": True},
        "b": {"fmax_mhz": 11.0, "constraint_mhz": 12.0, "met": False},
    }
    routed = Routed(seed=1, folder=Path(), clocks=clocks, utilization={})
    assert routed.fmax_mhz == 11.0 and not routed.met
    clocks["b"] = {"fmax_mhz": 48.0, "constraint_mhz": 12.0, "met": True}
    assert routed.fmax_mhz == 90.0 and routed.met


def test_a_netlist_does_not_depend_on_hash_seed_or_folder(tmp_path: Path) -> None:
    (tmp_path / "hw").symlink_to(ROOT / "hw")
    program = "from hw.tools.netlist import netlist; print(netlist('icebreaker').digest)"
    digests = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder, seed in ((ROOT, "1"), (tmp_path, "2"))
    ]
    assert len(set(digests)) == 1 and len(digests[0]) == 65


@pytest.mark.parametrize("board", SHIPPED)
def test_the_bitstream_is_built_from_these_sources(board: str) -> None:
    """Check that the shipped bitstream of a board was built from the present sources.

    If it was not, the error names the command that builds it again.
    """
    found = manifest.check_current(netlist.netlist(board))
    config = config_by_name(board)
    assert found["gateware_hash"] == f"{spec_hash(config):016x}"
    assert all(clock["met"] for clock in found["clocks"].values())
    assert found["utilization"].get("dsp", [0])[0] == 0  # some devices have no DSP blocks
    assert found["utilization"]["block_ram"][0] > 0
    assert reported_hash(board) == found["gateware_hash"]


def reported_hash(board: str) -> str:
    """Return the ``spec_hash`` that a simulated dispatcher reports in its reply to IDENTIFY."""
    dut = Dispatcher(config_by_name(board))
    answer = bytearray()

    async def host(ctx) -> None:
        ctx.set(dut.n_data_bytes, -ARGUMENT_BYTES)
        packet = packet_items(request(7, Opcode.IDENTIFY))
        await put(ctx, dut.i, packet, rng=random.Random(0), stall=0)

    async def receive(ctx) -> None:
        while not (item := await get(ctx, dut.o, rng=random.Random(0), stall=0)).end:
            answer.append(item.byte)

    simulate(dut, host, receive)
    header = reply(7, Opcode.IDENTIFY)
    assert answer.startswith(header)
    identity = parse_identity(bytes(answer[len(header) :]))
    assert identity is not None
    return f"{identity['spec_hash']:016x}"


def test_the_table_in_the_document_of_results() -> None:
    if SHIPPED:
        assert manifest.table() in (ROOT / "docs/results.md").read_text()
