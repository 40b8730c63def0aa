"""Tests of the portable Verilog, and of the constraints and scripts for vendors' tools."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hw.boards.board_file import SHIPPED, Board, Pin
from hw.boards.configs import config_by_name, load_board
from hw.spec import Config, SpecError
from hw.tools import build, portable
from hw.tools.command import EXIT_BAD_INPUT, EXIT_NO, EXIT_OK
from hw.tools.netlist import BuildError
from hw.tools.portable import Fit, UnfitError, board_for, check_fit, files_for, module_name
from tests.hw.boards.test_board_file import MINE, written
from tests.hw.boards.test_platforms import SMALL

SYNTHESISED = Config(
    name="small",
    lanes=8,
    fire_lanes=2,
    membrane_bits=16,
    sum_bits=16,
    weight_depth=2048,
    spike_bytes=4096,
    clk_hz=50_000_000,
    baud=1_000_000,
)


@pytest.fixture
def no_verilog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the generation of portable Verilog, which takes seconds, by an empty module."""
    monkeypatch.setattr(portable, "portable_verilog", lambda board: "module spikefold; endmodule\n")


def test_verilog_has_arrays_and_nothing_of_a_vendor() -> None:
    config = replace(SMALL, clk_hz=50_000_000, baud=1_000_000)
    text = portable.portable_verilog(Board(config=config, clock_hz=config.clk_hz))
    (head,) = re.findall(r"^module spikefold\(([^)]*)\);", text, re.MULTILINE)
    assert {port.strip() for port in head.split(",")} == {"clk", "rst", "rx", "tx", "activity"}
    arrays = {
        (int(depth) + 1, int(width) + 1)
        for width, depth in re.findall(r"^  reg \[(\d+):0\] \S+ *\[(\d+):0\];", text, re.MULTILINE)
    }
    assert (config.weight_depth, config.lanes * config.weight_bits) in arrays  # weights
    assert (config.spike_bytes // 8, 8) in arrays  # a column of spikes
    modules = set(re.findall(r"^module (\S+)", text, re.MULTILINE))
    instances = set(re.findall(r"^  (\\?[\w.$]+) +\\?[\w.$]+ +\(\n", text, re.MULTILINE))
    assert instances and instances <= modules
    assert not re.search(r"PLL|BUFG|altera|SB_|EHX|initial\s+\\?\w+ *\[", text)
    assert not re.search(r"[\w\])}] +\* +[\w\\({]", text), "nothing is multiplied"


def test_vivado(no_verilog: None) -> None:
    files = files_for(load_board("basys3"))
    assert set(files) == {"basys3.v", "basys3_board.v", "basys3.xdc", "basys3.tcl"}
    wrapper = files["basys3_board.v"]
    assert "module board_basys3 (" in wrapper and ".rst(~locked | rst)," in wrapper
    assert ".CLKFBOUT_MULT(9)," in wrapper and ".CLKOUT0_DIVIDE(15)\n" in wrapper
    constraints = files["basys3.xdc"]
    for port, pin in (("clk", "W5"), ("rst", "U18"), ("uart_rx", "B18"), ("uart_tx", "A18")):
        line = f"set_property -dict {{ PACKAGE_PIN {pin} IOSTANDARD LVCMOS33 }} "
        assert f"{line}[get_ports {{ {port} }}]\n" in constraints
    assert "create_clock -name clk -period 10.000 [get_ports { clk }]\n" in constraints
    script = files["basys3.tcl"]
    for line in (
        "read_verilog {basys3.v basys3_board.v}",
        "read_xdc {basys3.xdc}",
        "synth_design -top board_basys3 -part xc7a35tcpg236-1 -max_dsp 0",
        "write_bitstream -force {basys3.bit}",
    ):
        assert f"\n{line}\n" in script
    ports = set(re.findall(r"(?:in|out)put wire (\w+)", wrapper))
    named = re.findall(r"get_ports \{ ([\w ]+) \}", constraints)
    assert {port for names in named for port in names.split()} == ports


def test_quartus(no_verilog: None) -> None:
    files = files_for(load_board("de10-nano"))
    names = {f"de10-nano{end}" for end in (".v", "_board.v", ".qpf", ".qsf", ".sdc")}
    assert set(files) == names
    wrapper = files["de10-nano_board.v"]
    assert "module board_de10_nano (" in wrapper and "altera_pll" not in wrapper
    assert ".clk(clk),\n      .rst(~1'b1 | ~rst)," in wrapper
    settings = files["de10-nano.qsf"]
    for line in (
        'FAMILY "Cyclone V"',
        "DEVICE 5CSEBA6U23I7",
        "TOP_LEVEL_ENTITY board_de10_nano",
        'VERILOG_FILE "de10-nano_board.v"',
        'SDC_FILE "de10-nano.sdc"',
    ):
        assert f"set_global_assignment -name {line}\n" in settings
    assert "set_location_assignment PIN_AG13 -to uart_rx\n" in settings
    assert "create_clock -name clk -period 20.000 [get_ports {clk}]\n" in files["de10-nano.sdc"]
    assert 'PROJECT_REVISION = "de10-nano"' in files["de10-nano.qpf"]


def test_clocks_of_other_frequencies(no_verilog: None, tmp_path: Path) -> None:
    board = load_board("de10-nano")
    faster = replace(board, config=replace(board.config, clk_hz=60_000_000))
    wrapper = files_for(faster)["de10-nano_board.v"]
    assert '.output_clock_frequency0("60.000000 MHz")' in wrapper and ".outclk(core_clk)" in wrapper
    for change, message in (
        ({"part": "10M50DAF484C7G"}, r"the PLL|that of 10M50DAF484C7G is not known here: use clk"),
        ({"config": replace(board.config, clk_hz=60_000_001)}, "PLL cannot make it from 50000000"),
    ):
        with pytest.raises(SpecError, match=message):
            portable.write(replace(faster, **change), tmp_path / "none")
    assert not (tmp_path / "none").exists(), "nothing is written"


def test_polarities_and_boards_without_button_or_led(no_verilog: None) -> None:
    board = load_board("basys3")
    low = replace(
        board, led=Pin(name="U16", active_low=True), reset=Pin(name="U18", active_low=True)
    )
    wrapper = files_for(low)["basys3_board.v"]
    assert ".rst(~locked | ~rst)" in wrapper and "assign led = ~activity;" in wrapper
    files = files_for(replace(board, led=None, reset=None))
    assert ".rst(~locked)," in files["basys3_board.v"] and "led" not in files["basys3_board.v"]
    assert "get_ports { uart_rx }" in files["basys3.xdc"]


def test_choice_of_configuration_and_board(tmp_path: Path) -> None:
    path = written(tmp_path, MINE)
    assert board_for("ulx3s-25f").config == config_by_name("ulx3s-25f")
    assert board_for("basys3").part == "xc7a35tcpg236-1"
    assert board_for("basys3/w4").config.weight_bits == 4
    assert board_for(str(path)) == board_for("mine", path)
    merged = board_for("ulx3s-25f", path)
    assert (merged.name, merged.config.banks, merged.config.lanes) == ("mine", 2, 16)
    assert (
        module_name(replace(merged, config=replace(merged.config, name="1.b-c"))) == "board_1_b_c"
    )


def test_command(no_verilog: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = written(tmp_path, MINE), tmp_path / "out"
    assert build.main(["--verilog", str(path), "--out", str(out)]) == EXIT_OK
    printed = capsys.readouterr().out
    assert printed.endswith("next: vivado -mode batch -source mine.tcl\n")
    assert {str(p) for p in out.iterdir()} == set(printed.split("\n")[:-2])
    assert (out / "mine.v").read_text().startswith("// Spikefold for mine: 1 x 16 lanes of 8 bits")
    arguments = ["--verilog", "ulx3s-25f", "--out", str(out), "--json"]
    assert build.main(arguments) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["files"] == [str(out / "ulx3s-25f.v")]
    for arguments, message in (
        (["--verilog", "nope"], "unknown board 'nope': known are sim, "),
        (["--verilog", "none.toml"], "none.toml cannot be read: No such file"),
        (["--verilog", "basys3", "--board", "x.txt"], "the name of a board file ends with .toml"),
        (["--verilog", "basys3", "--all"], "--verilog takes one configuration"),
        (["--fit"], "--fit is for Verilog: name a configuration with --verilog"),
        (["basys3"], "made by its vendor's tool: 'python -m hw.build --verilog basys3'"),
        (["--verilog", "ulx3s-25f", "--fit", "--out", str(out)], "--fit needs the key 'tool'"),
    ):
        assert build.main(arguments) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err


def test_fit_knows_one_family_of_intel(tmp_path: Path) -> None:
    board = replace(load_board("de10-nano"), part="10CL025YU256C8G")
    with pytest.raises(BuildError, match="--fit knows Cyclone V among Intel's devices, not '10CL"):
        portable.estimate(board, [tmp_path / "x.v"])


def test_a_device_that_is_too_small_is_said(
    no_verilog: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    board = load_board("basys3")
    fit = Fit(luts=5000, flip_flops=100, block_ram_kbit=1440, n_dsp=0)
    assert check_fit(board, fit) == (
        "basys3: about 5,000 of 20,800 LUTs, 1,440 of 1,800 kbit of block RAM, 100 flip-flops"
    )
    with pytest.raises(UnfitError, match="1 DSP blocks are used"):
        check_fit(board, replace(fit, n_dsp=1))
    large = replace(fit, luts=20801)
    monkeypatch.setattr(portable, "estimate", lambda board, paths: large)
    arguments = ["--verilog", "basys3", "--fit", "--out", str(tmp_path)]
    assert build.main(arguments) == EXIT_NO
    assert "the device is too small (20,801 of 20,800 LUTs). Use fewer" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["basys3", "de10-nano"])
def test_memories_are_inferred_as_block_ram(name: str, tmp_path: Path) -> None:
    shipped = load_board(name)
    board = replace(shipped, config=replace(SYNTHESISED, clk_hz=60_000_000))  # with a PLL
    fit = portable.estimate(board, portable.write(board, tmp_path))
    assert fit.n_dsp == 0 and 1000 < fit.luts < 4000 and 2000 < fit.flip_flops < 5000
    large = sum(portable.memory_bits(board.config).values()) / 1024
    assert large <= fit.block_ram_kbit < 3 * large


def test_shipped_boards_fit_by_their_own_sizes() -> None:
    for name in SHIPPED:
        board = load_board(name)
        assert board.luts and board.block_ram_kbit
        assert sum(portable.memory_bits(board.config).values()) < 1024 * board.block_ram_kbit
