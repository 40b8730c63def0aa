"""Tests of ``python -m sw.throughput``, with a fake port that measures time by the bytes on the
line.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hw.boards.configs import CONFIGS
from sw.cli import throughput
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_OK
from sw.cli.throughput import main
from sw.compile.compiler import compile_network
from sw.driver import transport
from sw.driver.device import Device
from tests.networks import random_network
from tests.sw.fake_device import FakeDevice, TimedPort


def test_loading_and_streaming_fill_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that payload takes at least the share ``GOAL`` of the line in loading, in streaming and
    in reading back.

    The fake port has the latency of a USB adapter, and a clock of its own, so that other load on
    the machine does not change the result.
    """
    config = CONFIGS["sim"]
    device = FakeDevice(throughput.network(config), config, port=TimedPort)
    device._direct = True
    monkeypatch.setattr(Device, "open", lambda *_: device)
    assert main(["-n", "20", "--json"]) == EXIT_OK
    assert device.direct, "it is loaded past the line again after the measurement"
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert [f["what"] for f in figures] == ["loading", "streaming", "reading back"]
    for f in figures:
        assert throughput.GOAL <= f["share"] < 1
        sent = f["n_bytes_in"] if f["what"] == "reading back" else f["n_bytes_out"]
        # Each byte takes ten bits; a little of the time is waiting.
        assert 10 * sent / f["baud"] <= f["seconds"] * 1.001
        assert f["n_payload_bytes"] < sent
    program = compile_network(device.network, config)
    sample = np.zeros((throughput.TIMESTEPS, *throughput.SHAPE), np.uint8)
    loaded = program.spike_bytes + sum(map(len, program.images.values()))
    assert figures[0]["n_payload_bytes"] == loaded
    assert figures[1]["n_payload_bytes"] == 20 * len(program.pack_input(sample))


@pytest.mark.parametrize(
    "name", ["sim", "ulx3s-85f", "ulx3s-85f-wide", "ulx3s-85f-usb", "icebreaker"]
)
def test_the_network_of_the_measurement_fits_boards_of_all_sizes(name: str) -> None:
    config = CONFIGS[name]
    assert compile_network(throughput.network(config), config).layers


@pytest.mark.parametrize("limit", ["MAX_IN_FLIGHT", "MAX_BYTES_IN_FLIGHT"])
def test_requests_one_after_the_other_do_not_fill_the_line(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, limit, 1)
    config = CONFIGS["sim"]
    device = FakeDevice(throughput.network(config), config, port=TimedPort)
    monkeypatch.setattr(Device, "open", lambda *_: device)
    assert main(["-n", "2"]) == throughput.EXIT_NO


def test_line_that_is_not_filled_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--board", "sim?latency=0.5", "-n", "2"]) == throughput.EXIT_NO
    text = capsys.readouterr().out
    assert "12,000,000 baud, 1,200,000 bytes/s each way" in text
    assert "times are of the simulated clock" in text and "of the line" in text


def test_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = dataclasses.replace(CONFIGS["sim"], name="tiny", weight_depth=64)
    device = FakeDevice(random_network(5), CONFIGS["sim"])
    device.identity = dataclasses.replace(device.identity, config=tiny)
    monkeypatch.setattr(Device, "open", lambda *_: device)
    assert main([]) == EXIT_BAD_INPUT
    assert "does not fit 'tiny': weight needs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["-n", "0"])
    assert "-n takes a number of at least 1" in capsys.readouterr().err


def test_no_board_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--board", "/dev/nowhere"]) == EXIT_DEVICE, EXIT_OK
    assert "cannot open /dev/nowhere" in capsys.readouterr().err
