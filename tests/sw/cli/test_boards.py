"""Tests of ``python -m sw.boards``: attached boards, and networks that fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from serial.tools import list_ports

from hw.boards.configs import config_by_name
from sw import shipped
from sw.cli import boards, options
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_NO, EXIT_OK
from sw.compile import fitting
from sw.network import netfile
from sw.network.encoder import InputError
from tests.networks import random_network
from tests.sw.fake_board import FakeBoard


def test_attached_boards_are_listed(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    board, silent = FakeBoard(), FakeBoard()
    silent.silent = True
    ports = [
        SimpleNamespace(
            device=port,
            description="USB serial",
            vid=vid,
            pid=0x6015,
            location="1-2",
            serial_number="",
            product="",
        )
        for port, vid in ((board.port, 0x403), (silent.port, 0x403), ("/dev/ttyS0", None))
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    try:
        assert boards.main(["--json"]) == EXIT_OK
    finally:
        board.close()
        silent.close()
    listed = json.loads(capsys.readouterr().out)
    assert [(one["port"], one["weight_bits"]) for one in listed["boards"]] == [(board.port, 8)]
    assert any("Is its bitstream loaded?" in line for line in listed["others"])
    assert any("/dev/ttyS0 (USB serial): not USB, not tried" in line for line in listed["others"])


def test_networks_that_fit(capsys) -> None:
    network = str(shipped.NETWORK)
    assert boards.main([network, "--config", "ulx3s-85f"]) == EXIT_OK
    assert f"{network}: fits (" in capsys.readouterr().out
    assert boards.main([network, "--config", "icebreaker"]) == EXIT_OK
    text = capsys.readouterr().out
    assert f"{network}: does not fit: " in text and "\n    would fit with " in text


def test_the_export_reports_the_same_on_every_board(tmp_path: Path) -> None:
    network, path = random_network(18, weight_bits=8), tmp_path / "net.spikefold"
    netfile.save(path, network)
    for report in fitting.all_boards(network):
        found = boards.fit(path, config_by_name(report.board))
        assert (found["fits"], found["usage"]) == (report.fits, report.usage), report.board
        assert (found["why"], found["remedies"]) == (report.problem, list(report.remedies))


def test_a_board_file_is_a_configuration(tmp_path: Path, capsys) -> None:
    network, path = str(shipped.NETWORK), tmp_path / "mine.toml"
    path.write_text('name = "mine"\ncore = {weight_depth = 18432, baud = 1_000_000}')
    assert boards.main([network, "--config", str(path)]) == EXIT_OK
    assert f"{network}: fits (" in capsys.readouterr().out
    assert options.port_of(f"sim:{path}", None) == f"sim:{path}"
    path.write_text('name = "mine"\ncore = {weight_dept = 64}')
    with pytest.raises(
        InputError, match=r"--board sim:.*mine.toml: .* did you mean 'weight_depth'"
    ):
        options.port_of(f"sim:{path}", None)
    path.write_text('name = "mine"\ncore = {weight_depth = 9216}')
    assert boards.main([network, "--config", str(path)]) == EXIT_OK
    assert f"{network}: does not fit: " in capsys.readouterr().out
    report = fitting.board_report(netfile.load(shipped.NETWORK).network, config_by_name(str(path)))
    assert (
        "--bits 4, and a board file and bitstream with weight_bits = 4, weight_depth = 18432"
        in (report.remedies)
    )


def test_no_board(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(list_ports, "comports", list)
    assert boards.main([]) == EXIT_NO
    assert "no board is attached" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "fpga9000"], "error: unknown board 'fpga9000': known are sim, "),
        (["none.spikefold", "--config", "sim"], "error: none.spikefold cannot be read: No such"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys) -> None:
    assert boards.main(arguments) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_files_are_read_without_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(list_ports, "comports", list)
    path, damaged = tmp_path / "net.spikefold", tmp_path / "damaged.spikefold"
    netfile.save(path, random_network(18, weight_bits=8))
    assert boards.main([str(path)]) == EXIT_NO
    text = capsys.readouterr().out
    assert "no board is attached." in text and f"  {path}: fits ulx3s-85f" in text
    damaged.write_bytes(path.read_bytes()[:-9])
    for bad in (damaged, tmp_path / "missing.spikefold"):
        assert boards.main([str(path), str(bad)]) == EXIT_BAD_INPUT
        assert str(bad) in capsys.readouterr().err
