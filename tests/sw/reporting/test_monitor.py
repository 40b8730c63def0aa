"""Tests of ``python -m sw.monitor`` with a fake device, which computes networks by the golden
model.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hw.boards.configs import CONFIGS
from sw.cli import monitor
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_INTERRUPTED, EXIT_OK
from sw.driver.board import Board
from sw.driver.errors import LinkLost
from sw.network import netfile
from sw.reporting import live
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice

CONFIG = CONFIGS["sim"]


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command's arguments: a network file, images with labels, and a fake board."""
    network = random_network(
        11, n_layers=4, timesteps=3, weight_bits=4, encoder=True, granularity="shared"
    )
    netfile.save(tmp_path / "net.spikefold", network, CONFIG)
    images = random_input(network, np.random.default_rng(3), 3)
    np.savez(tmp_path / "images.npz", images=images, labels=np.zeros(3, int))
    options: dict[str, Any] = {}
    monkeypatch.setattr(Board, "open", lambda *_: Board(FakeDevice(network, CONFIG, **options)))
    monkeypatch.setattr(monitor, "OPTIONS", options, raising=False)
    return [str(tmp_path / "net.spikefold"), "--input", str(tmp_path / "images.npz")]


def test_json_lines_describe_the_board(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert monitor.main([*arguments, "-n", "7", "--json"]) == EXIT_OK
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["n_images"] == 7 and 0 <= last["n_correct"] <= 7
    assert last["images_per_s"] > 0 and last["n_repeated"] == last["n_bad_frames"] == 0
    assert last["cycles"]["fc"] == 100 and last["spikes"]["fc"] == 0
    assert 0 < max(last["rates"].values()) <= 1


def test_without_a_terminal_it_prints_a_summary_and_writes_a_picture(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "view.svg"
    assert monitor.main([*arguments, "-n", "4", "--picture", str(picture)]) == EXIT_OK
    out = capsys.readouterr().out
    assert out.startswith("4 images in ") and out.count("\n") == 1 and "\x1b" not in out
    svg = picture.read_text()
    assert svg.startswith("<svg") and "damaged&#160;frames" in svg and "layer1" in svg
    missing = tmp_path / "nowhere" / "view.svg"
    assert monitor.main([*arguments, "-n", "1", "--picture", str(missing)]) == EXIT_BAD_INPUT
    assert "nowhere/view.svg cannot be written" in capsys.readouterr().err


def test_ctrl_c_ends_it_in_order(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    monitor.OPTIONS |= {"fails_at": 3, "error": KeyboardInterrupt()}  # type: ignore[attr-defined]
    assert monitor.main(arguments) == EXIT_OK
    assert " images in " in capsys.readouterr().out


def test_ctrl_c_before_the_first_image(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monitor.OPTIONS |= {"fails_at": 0, "error": KeyboardInterrupt()}  # type: ignore[attr-defined]
    assert monitor.main(arguments) == EXIT_INTERRUPTED
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert monitor.main(["none.spikefold", *arguments[1:]]) == EXIT_BAD_INPUT
    assert "error: none.spikefold" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        monitor.main([*arguments, "--seconds", "0"])
    assert ended.value.code == EXIT_BAD_INPUT
    assert "-n and --seconds take numbers above 0" in capsys.readouterr().err


def test_lost_board_is_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    monitor.OPTIONS |= {"fails_at": 2, "error": LinkLost("unplugged")}  # type: ignore[attr-defined]
    assert monitor.main(arguments) == EXIT_DEVICE
    assert "error: unplugged" in capsys.readouterr().err


def test_no_color_is_respected(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert monitor.main([*arguments, "-n", "2", "--json"]) == EXIT_OK
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    panel = live.view(live.Snapshot(**values), "title", [1.0, 2.0], simulated=False)

    def drawn() -> str:
        console = Console(file=io.StringIO(), force_terminal=True, width=90, color_system="256")
        console.print(panel)
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert "\x1b[3" in drawn()  # a colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in drawn() and "core at work" in drawn()
