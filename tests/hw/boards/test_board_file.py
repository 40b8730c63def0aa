"""Tests of board files: the shipped ones can be used, and faulty ones are refused with a clear
message."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from amaranth_boards.arty_a7 import ArtyA7_100Platform
from amaranth_boards.de10_nano import DE10NanoPlatform
from hypothesis import given
from hypothesis import strategies as st

from hw.boards import configs
from hw.boards.board_file import SHIPPED, Board, BoardFileError, Pin, load, memory_bits
from hw.boards.configs import CONFIGS, board_name, config_by_name, load_board
from hw.spec import SpecError
from hw.tools.folders import ROOT

MINE = """
name = "mine"
tool = "vivado"
part = "xc7a35tcpg236-1"
block_ram_kbit = 1800
[clock]
pin = "W5"
hz = 100_000_000
[reset]
pin = "U18"
active = "low"
[uart]
rx = "B18"
tx = "A18"
[io]
standard = "LVCMOS33"
[core]
lanes = 16
weight_depth = 2048
spike_bytes = 8192
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def pins(board: Board) -> dict[str, str]:
    return {port: pin.name for port, pin in board.pins.items()}


def platform_pins(platform, reset: str) -> dict[str, str]:
    """Return a board's FPGA pins as amaranth-boards lists them, by the top module's port names.

    ``reset`` is the name of the button that resets the device, as amaranth-boards calls it.
    """
    uart = {sub.name: sub.ios[0].names[0] for sub in platform.lookup("uart", 0).ios}
    clk, rst, led = (
        platform.lookup(name, 0).ios[0].names[0] for name in (platform.default_clk, reset, "led")
    )
    return {"clk": clk, "rst": rst, "uart_rx": uart["rx"], "uart_tx": uart["tx"], "led": led}


def test_pins_of_shipped_boards_are_the_published_ones() -> None:
    assert SHIPPED == ("arty-a7-100t", "basys3", "de10-nano")
    assert pins(load_board("arty-a7-100t")) == platform_pins(ArtyA7_100Platform(), "rst")
    assert pins(load_board("de10-nano")) == platform_pins(DE10NanoPlatform(), "button")
    # From Digilent's Basys-3-Master.xdc: clk, btnC, RsRx, RsTx, led[0].
    expected = {"clk": "W5", "rst": "U18", "uart_rx": "B18", "uart_tx": "A18", "led": "U16"}
    assert pins(load_board("basys3")) == expected
    low = {name: load_board(name).reset for name in SHIPPED}
    assert {name: pin is not None and pin.active_low for name, pin in low.items()} == {
        "arty-a7-100t": True,
        "basys3": False,
        "de10-nano": True,
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_boards_are_known_by_their_names(name: str) -> None:
    config = config_by_name(name)
    assert config.name == name and board_name(config) == name
    narrow = config_by_name(f"{name}/w4")
    assert narrow.weight_bits == 4 and board_name(narrow) == f"{name}/w4"
    assert memory_bits(narrow)["weights"] == memory_bits(config)["weights"]


def test_a_file_of_a_user(tmp_path: Path) -> None:
    path = written(tmp_path, MINE)
    board = load(path)
    assert board.reset == Pin(name="U18", active_low=True) and board.led is None
    assert board.clock_hz == board.config.clk_hz == 100_000_000
    assert board.config.baud == 1_000_000 and board.config.weight_depth == 2048
    config = config_by_name(str(path))
    assert config == board.config and board_name(config) == "mine"
    based = load(path, CONFIGS["ulx3s-25f"])
    assert (based.config.banks, based.config.lanes, based.config.clk_hz) == (2, 16, 75_000_000)
    assert based.clock_hz == 100_000_000


def test_a_file_for_verilog_only_needs_no_more_than_a_name(tmp_path: Path) -> None:
    board = load(written(tmp_path, 'name = "mine"'))
    assert board.tool is None and not board.pins and board.clock_hz == board.config.clk_hz


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight_depth", "weigth_depth", r"unknown key 'weigth_depth' in \[core\]: did you mean"),
        ("[uart]", "[serial]", r"unknown key 'serial': use block_ram_kbit, clock, core, io,"),
        ("[uart]", "[[uart]]", r"uart = \[.* cannot be used: \[uart\] is a table"),
        ('name = "mine"', "", "the key 'name' is missing: give the board a name"),
        ('"mine"', '"My Board"', "name = 'My Board' cannot be used: write up to 16 lower-case"),
        ('"mine"', '"ulx3s-25f"', "the name 'ulx3s-25f' is that of another board: choose one of"),
        ('"mine"', '"sim"', "the name 'sim' is that of another board"),
        ('"vivado"', '"ise"', "tool = 'ise' is not known: use vivado or quartus, or leave it out"),
        ('rx = "B18"', "", r"tool = 'vivado' also needs \[uart\] rx: add them"),
        ('rx = "B18"', 'rx = "A18"', "the ports uart_rx and uart_tx have the same pin, A18"),
        ('"W5"', '"W5 }; exit"', r"\[clock\] pin = 'W5 }; exit' cannot be used: write the name of"),
        ('"low"', '"falling"', r"\[reset\] active = 'falling' cannot be used: write high or low"),
        ("lanes = 16", "lanes = 24", r"\[core\] lanes = 24 is not supported: use a power of two"),
        ("lanes = 16", "lanes = true", r"\[core\] lanes = True cannot be used: write a whole num"),
        ("lanes = 16", "lanes = '16'", r"\[core\] lanes = '16' cannot be used: write a whole num"),
        ("lanes = 16", "lanes = -16", r"\[core\] lanes = -16 cannot be used: write a whole number"),
        (
            "lanes = 16",
            "lanes = 512\nbanks = 8",
            r"\[core\] lanes = 512 is not supported: use a power of two of at least 8",
        ),
        ("lanes = 16", f"lanes = 0x{'f' * 5000}", r"lanes = a number of 20000 bits cannot be used"),
        (
            "lanes = 16",
            f"lanes = [{'0x' + 'f' * 5000}]",
            r"\[core\] lanes = .{1,60} cannot be used",
        ),
        ("lanes = 16", f"{'x' * 500} = 1", r"unknown key 'x{56}\.\.\. in \[core\]"),
        ('pin = "U18"', "", r"\[reset\] pin is missing: add it, or leave \[reset\] out"),
        ("lanes = 16", "baud = 0", r"\[core\] baud = 0 cannot be used: write a whole number from"),
        ("lanes = 16", "baud = 30_000_000", r"\[core\] baud = 30000000 is not supported: use 1"),
        ("lanes = 16", "baud = 21_000_000", r"does not give the \[core\] baud of 21000000 baud"),
        ("100_000_000", "2_000_000", r"\[core\] baud = 1000000 is not supported: use 1 to clk"),
        ("100_000_000", "4_500_000", r"give the default rate of 1000000 baud .*, such as 4000000"),
        ("weight_depth = 2048", "weight_depth = 20000", "use a weight_depth of less than 11841"),
        ("weight_depth = 2048", "weight_depth = 1e4000", "weight_depth = inf cannot be used"),
        ("block_ram_kbit = 1800", "block_ram_kbit = 8", "use fewer lanes or banks, or a smaller"),
        ("[io]", "[io", "is no TOML file: .*line 15"),
    ],
)
def test_what_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert MINE.count(old) == 1
    path = written(tmp_path, MINE.replace(old, new))
    with pytest.raises(BoardFileError, match=message) as error:
        load_board(str(path))
    assert str(error.value).startswith(str(path))


def test_a_clock_that_needs_a_pll_needs_a_tool(tmp_path: Path) -> None:
    text = 'name = "mine"\nclock = {hz = 50_000_000}\ncore = {clk_hz = 60_000_000}'
    with pytest.raises(BoardFileError, match=r"clk_hz = 60000000 needs a PLL .* \[clock\] hz = 50"):
        load(written(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none.toml", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(BoardFileError, match=message):
            load(path)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * 70000)
    with pytest.raises(BoardFileError, match="has more than 65536 bytes"):
        load(large)


def test_an_unknown_name_says_how_to_describe_another_board() -> None:
    with pytest.raises(SpecError, match=r"known are sim, .*basys3.*write a board file \(docs/any"):
        config_by_name("my-board")
    assert not set(SHIPPED) & set(configs.BOARDS)


VALUES = st.recursive(
    st.integers() | st.booleans() | st.floats() | st.text("aA1 -", max_size=3).map(repr),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(line=st.integers(1, len(MINE.splitlines()) - 1), value=VALUES)
def test_any_other_value_is_used_or_refused(tmp_path_factory, line: int, value: object) -> None:
    lines = MINE.splitlines()
    lines[line] = f"{lines[line].partition('=')[0]}= {str(value).replace('True', 'true')}"
    path = tmp_path_factory.mktemp("board") / "mine.toml"
    path.write_text("\n".join(lines))
    try:
        board = load_board(str(path))
    except BoardFileError as error:
        assert str(error).startswith(str(path))
    else:
        assert board.config.lanes >= 8


@given(content=st.binary(max_size=60))
def test_any_bytes_are_used_or_refused(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("board") / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(BoardFileError):
        load(path)


DOCUMENT = (ROOT / "docs" / "any-fpga.md").read_text()


def test_the_document_has_every_key_and_an_example_that_works(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    board = load_board(str(written(tmp_path, example)))
    assert board.tool == "vivado" and set(board.pins) == {"clk", "rst", "uart_rx", "uart_tx"}
    rows = "".join(re.findall(r"^\| `.*$", DOCUMENT, re.MULTILINE))
    tables = tomllib.loads(MINE.replace("[io]", '[led]\npin = "U16"\n[io]'))
    for table, keys in tables.items():
        if isinstance(keys, dict):
            assert f"`[{table}]" in rows
        assert all(f"{key}`" in rows for key in (keys if isinstance(keys, dict) else [table]))
    assert all(f"`{name}`" in DOCUMENT for name in SHIPPED)
