"""Tests of the self-test of boards: the faults that it finds, and the state in which it leaves a
board.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hw.boards.board_file import SHIPPED
from hw.boards.configs import BOARDS, config_by_name
from hw.protocol import PROTOCOL_VERSION, Opcode, Rows, Space, Status, row_bytes, spec_hash, unpack
from hw.spec import Config
from sw.cli import boards
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_NO, EXIT_OK
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.driver.device import Device
from sw.driver.discovery import BoardIdentity
from sw.driver.selftest import Step, _samples, patterns, random_network, self_test
from sw.driver.transport import Transport
from sw.network import reference
from tests.sw.fake_board import CONFIG, FakeBoard
from tests.sw.fake_device import FakeGateware, FakePort

SMALL = replace(CONFIG, weight_depth=64, spike_bytes=256)
Change = Callable[[bytearray], None]


class Faulty(FakeGateware):
    """Fake gateware with a faulty memory ``space``, whose contents ``change`` alters after each
    write.
    """

    def __init__(self, config: Config, space: Space, change: Change):
        self.space, self.change = space, change
        super().__init__(config)

    def _execute(self, opcode: int, payload: bytes) -> tuple[Status, bytes, list[bytes]]:
        done = super()._execute(opcode, payload)
        if opcode == Opcode.WRITE and int(unpack(Rows, payload[:6]).address.space) == self.space:
            self.change(self.memories[self.space])
        return done


def test_networks_are_loaded_over_the_line_only_during_the_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check that the self-test, and nothing after it, loads a virtual board over its serial line.

    Otherwise, a virtual board is loaded directly, without the line. This must be so again after the
    self-test, even if it fails.
    """
    gateware = FakeGateware(CONFIG)
    identity = BoardIdentity(CONFIG, PROTOCOL_VERSION, spec_hash(CONFIG))
    device = Device(Transport(FakePort(gateware)), identity)
    device._direct = True
    seen = []
    monkeypatch.setattr(Device, "preload", lambda device, images: seen.append(device.direct))
    assert failed({step.name: step for step in self_test(device, n_networks=1)}) == {"networks"}
    assert seen == [False] and device.direct


def steps_of(gateware: FakeGateware, n_networks: int = 0) -> dict[str, Step]:
    config = gateware.config
    identity = BoardIdentity(config, PROTOCOL_VERSION, spec_hash(config))
    device = Device(Transport(FakePort(gateware)), identity)
    return {step.name: step for step in self_test(device, n_networks=n_networks)}


def failed(steps: dict[str, Step]) -> set[str]:
    return {name for name, step in steps.items() if step.passed is False}


def test_a_sound_board_passes() -> None:
    steps = steps_of(FakeGateware(SMALL))
    assert list(steps) == [
        *("identity", "rate 1000000", "rate 2000000", "rate 3000000", "rate 6000000"),
        *(
            "rate 12000000",
            "rate in use",
            "memory WEIGHT",
            "memory PARAM",
            "memory SPIKE",
            "networks",
            "line",
        ),
    ]
    assert not failed(steps) and steps["networks"].passed is None
    size = 8 * 64 * row_bytes(Space.WEIGHT, SMALL)
    assert steps["memory WEIGHT"].detail == f"{size:,} bits, each with 6 patterns"


def test_a_board_with_the_default_rate_only() -> None:
    gateware = FakeGateware(replace(SMALL, baud=1_000_000))
    identity = BoardIdentity(gateware.config, PROTOCOL_VERSION, spec_hash(gateware.config))
    device = Device(Transport(FakePort(gateware)), identity)
    names = [step.name for step in self_test(device, n_networks=0)]
    assert names[:3] == ["identity", "rate 1000000", "rate in use"]


def stuck_high(memory: bytearray) -> None:
    memory[35] |= 0x04


def joined(memory: bytearray) -> None:
    memory[35] = memory[35] & 0xFD | memory[35] >> 1 & 2


def aliased(memory: bytearray) -> None:
    memory[16:32] = memory[0:16]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stuck_high, r"0x00: 1 bits differ: row 2 bit 26 is 1; 0xaa: "),
        (joined, r"0x55: 1 bits differ: row 2 bit 25 is 1"),
        (aliased, r"random: \d+ bits differ: row 1 bit \d+ is [01], .*, \.\.\.; complement: "),
    ],
)
def test_faults_of_memories_are_found(change: Change, message: str) -> None:
    expected_row = row_bytes(Space.WEIGHT, SMALL)
    assert expected_row == 16
    steps = steps_of(Faulty(SMALL, Space.WEIGHT, change))
    assert failed(steps) == {"memory WEIGHT"}
    assert re.search(message, steps["memory WEIGHT"].detail)


def test_patterns_give_every_bit_both_values_and_every_row_its_own() -> None:
    contents = dict(patterns(64 * 4, np.random.default_rng(0)))
    bits = [int.from_bytes(content, "little") for content in contents.values()]
    ones, zeros = 0, 0
    for content in bits:
        ones |= content
        zeros |= ~content & (1 << 8 * 64 * 4) - 1
    assert ones == zeros == (1 << 8 * 64 * 4) - 1
    random = contents["random"]
    assert len({random[at : at + 4] for at in range(0, len(random), 4)}) == 64


def test_wrong_results_of_networks_are_found() -> None:
    steps = steps_of(FakeGateware(CONFIG), n_networks=1)
    assert failed(steps) == {"networks"}
    assert "random network 0 (seed 0, draw " in steps["networks"].detail
    assert "predicts class" in steps["networks"].detail


class Cable(FakePort):
    """Fake port whose cable works at the default rate and at 3 Mbaud only."""

    def write(self, raw: bytes, /) -> int:
        if raw == b"\0":  # a break
            self.gateware.divisor = None
            return 1
        divisor = self.gateware.divisor
        if divisor not in (None, round(self.gateware.config.clk_hz / 3_000_000)):
            return len(raw)
        return super().write(raw)


def test_rates_that_the_cable_does_not_carry() -> None:
    gateware = FakeGateware(SMALL)
    identity = BoardIdentity(SMALL, PROTOCOL_VERSION, spec_hash(SMALL))
    device = Device(Transport(Cable(gateware), settle_s=0.0), identity)
    device.transport.timeout_s = 0.02
    steps = {step.name: step for step in self_test(device, n_networks=0)}
    rates = {name: step.passed for name, step in steps.items() if name.startswith("rate")}
    assert rates == {
        "rate 1000000": True,
        "rate 2000000": False,
        "rate 3000000": True,
        "rate 6000000": False,
        "rate 12000000": False,
        "rate in use": True,
    }
    assert steps["rate in use"].detail == "3000000 baud"
    assert "does not answer at this rate" in steps["rate 12000000"].detail
    assert steps["memory SPIKE"].passed


def test_a_board_that_vanishes_ends_the_test_with_a_report(tmp_path: Path, capsys) -> None:
    board, report = FakeBoard(SMALL), tmp_path / "report.txt"
    board.unplug_after = 60
    try:
        arguments = ["--self-test", board.port, "--report", str(report), "--n-networks", "0"]
        assert boards.main(arguments) == EXIT_NO
    finally:
        board.close()
    said = capsys.readouterr().out
    assert "FAILED: attach the report to an issue" in said
    assert report.read_text().startswith("Self-test of a Spikefold board: FAILED: ")
    assert "lost the board" in report.read_text() and f"port {board.port}: no USB" in (
        report.read_text()
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board, report = FakeBoard(SMALL), tmp_path / "report.txt"
    try:
        arguments = ["--self-test", board.port, "--report", str(report), "--n-networks", "0"]
        assert boards.main([*arguments, "--json", "--baud", "2000000"]) == EXIT_OK
    finally:
        board.close()
    values = json.loads(capsys.readouterr().out)
    assert values["passed"] and values["port"] == board.port
    names = [step["name"] for step in values["steps"]]
    assert names[:4] == ["identity", "rate 1000000", "rate 2000000", "rate in use"]
    text = report.read_text()
    assert text.startswith("Self-test of a Spikefold board: passed\n") and "Spikefold 0." in text
    assert f"fake, gateware {spec_hash(SMALL):016x}, protocol {PROTOCOL_VERSION}" in text
    for arguments, code, message in (
        (["--self-test", "/dev/no-such"], EXIT_DEVICE, "cannot open /dev/no-such"),
        (["--self-test", "sim:nope"], EXIT_BAD_INPUT, "unknown board 'nope'"),
        (["--self-test", "ulx3s-85f"], EXIT_BAD_INPUT, "is a board's name, not a serial port"),
        (["a.spikefold", "--self-test"], EXIT_BAD_INPUT, "--self-test takes a port, and neither"),
        (["--self-test", "x", "--seed", "-1"], EXIT_BAD_INPUT, "--seed take 0 or more"),
        (["--self-test", "x", "--baud", "0"], EXIT_BAD_INPUT, "--baud takes at least 1"),
        (
            ["--self-test", "x", "--report", str(tmp_path / "no" / "r.txt")],
            EXIT_BAD_INPUT,
            "there is no folder",
        ),
    ):
        assert boards.main(arguments) == code
        assert message in capsys.readouterr().err


def test_random_networks_read_one_map_or_several() -> None:
    config = config_by_name("ulx3s-85f")
    drawn = [random_network(np.random.default_rng(draw), config) for draw in range(60)]
    ways = {(len(net.layers[-1].sources), net.layers[-1].stacked) for net in drawn}
    assert ways == {(1, False), (2, False), (2, True)}


def test_random_networks_fit_every_board_and_spike() -> None:
    shares = []
    for name in (*BOARDS, *SHIPPED):
        config, n_fits = config_by_name(name), 0
        for draw in range(6):
            rng = np.random.default_rng((1, draw))
            network = random_network(rng, config, small=name == "ice40-hx8k")
            try:
                compile_network(network, config)
            except FitError:
                continue
            n_fits += 1
            if name == "icebreaker":
                trace = reference.run(network, _samples(network, rng))
                shares += [float(spikes.mean()) for spikes in trace.spikes.values()]
        assert n_fits, f"no network fits {name}"
    assert 0.1 < np.mean(shares) < 0.6 and np.mean([share > 0 for share in shares]) > 0.7
