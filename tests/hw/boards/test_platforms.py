"""Tests of the netlists, pin constraints and tool options of the boards."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

import pytest

from hw.boards.configs import BOARDS, config_by_name
from hw.boards.platforms import TARGETS
from hw.spec import Config, SpecError
from hw.tools.folders import ROOT
from hw.tools.netlist import Netlist, netlist

SMALL = Config(
    name="small",
    lanes=8,
    fire_lanes=1,
    membrane_bits=16,
    sum_bits=16,
    weight_depth=64,
    spike_bytes=64,
    param_depth=64,
    max_layers=2,
    result_rows=2,
    rx_buffer_bytes=256,
    max_payload_bytes=64,
)


EXTRA = {
    text.partition("==")[0]
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["build"]
}


def tools(made: Netlist) -> set[str]:
    """Return the names of the Python packages whose tools build the netlist ``made``."""
    packer = {"gowin_pack": "apycula"}.get(made.pack[0], f"yowasp-{made.place[0]}")
    return {f"yowasp-{made.place[0]}", packer}


def small_netlist(board: str, clk_hz: int) -> Netlist:
    return netlist(board, replace(SMALL, clk_hz=clk_hz, baud=1_000_000))


def test_every_board_has_a_target_and_a_configuration() -> None:
    assert set(BOARDS) == set(TARGETS)


@pytest.mark.parametrize("board", TARGETS)
def test_names_of_boards_fit_the_identity(board: str) -> None:
    assert len(board) <= 16


def test_ulx3s() -> None:
    made = small_netlist("ulx3s-85f", 75_000_000)
    text = made.files["top.lpf"]
    for port, site in {
        "clk25_0__io": "G2",
        "uart_0__rx__io": "M1",
        "uart_0__tx__io": "L4",
        "led_0__io": "B2",
    }.items():
        assert f'LOCATE COMP "{port}" SITE "{site}";' in text
    assert 'FREQUENCY PORT "clk25_0__io" 25000000.0 HZ;' in text
    rtlil = made.files["top.il"]
    assert "cell \\EHXPLLL" in rtlil and re.search(r"\\CLKOS_DIV 6$", rtlil, re.MULTILINE)
    assert made.place[0] == "nextpnr-ecp5" and "--85k" in made.place
    assert made.suffix == ".bit"
    assert tools(made) <= EXTRA


def test_icebreaker_has_its_weights_in_spram_and_its_clock_on_the_pll_pad() -> None:
    made = small_netlist("icebreaker", 24_000_000)
    rtlil = made.files["top.il"]
    assert rtlil.count("cell \\SB_SPRAM256KA") == 4  # 64 bits a row
    assert rtlil.count("cell \\SB_PLL40_PAD") == 1
    assert "set_io clk12_0__io 35\n" in made.files["top.pcf"]
    assert made.place[0] == "nextpnr-ice40" and "--up5k" in made.place
    assert tools(made) <= EXTRA


def test_hx8k_has_no_spram() -> None:
    rtlil = small_netlist("ice40-hx8k", 24_000_000).files["top.il"]
    assert "SB_SPRAM256KA" not in rtlil and rtlil.count("cell \\SB_PLL40_CORE") == 1


def test_gowin() -> None:
    made = small_netlist("tang-nano-20k", 54_000_000)
    assert "family=GW2A-18C" in made.place and "GW2A-18C" in made.pack
    assert made.files["top.il"].count("cell \\rPLL") == 1
    assert tools(made) <= EXTRA


def test_a_clock_that_the_pll_cannot_make_is_refused() -> None:
    with pytest.raises(SpecError, match="clk_hz = 41000000"):
        small_netlist("icebreaker", 41_000_000)


def test_rows_that_spram_cannot_hold_are_refused() -> None:
    with pytest.raises(SpecError, match="4 SPRAMs"):
        netlist("icebreaker", replace(config_by_name("icebreaker"), weight_depth=16385))
