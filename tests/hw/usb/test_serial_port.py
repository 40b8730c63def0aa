"""Tests of the serial port over USB at D+ and D-, with the host of ``sim/usb_host.hpp``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hw.usb.serial_port import UsbSerialPort
from sim.usb_bench import MAIN, play

SCENES = re.findall(r'^    {"(\w+)", \w+},$', MAIN.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("usb") / "enumeration.vcd"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return play()


@pytest.mark.parametrize("scene", SCENES)
def test_scene_goes_as_it_must(results, scene):
    assert results[scene]["good"]
    assert results[scene]["n_violations"] == 0


def test_all_scenes_were_played(results):
    assert len(SCENES) > 10
    assert set(results) == set(SCENES)


def test_answers_begin_long_before_a_host_gives_up(results):
    for counters in results.values():
        assert 4 < counters["min_answer_bits"] <= counters["max_answer_bits"] <= 11


def test_throughput_is_near_that_of_the_bus(results):
    assert results["throughput"]["out_bytes_per_s"] > 1.15e6
    assert results["throughput"]["in_bytes_per_s"] > 1.1e6


def test_trace_has_both_pins_and_reset(trace):
    play(["enumeration"], vcd=trace)
    text = trace.read_text()
    assert "$var wire 1 p dp $end" in text
    changes = re.findall(r"^#(\d+)\n([01])p\n([01])m$", text, re.MULTILINE)
    assert {(p, m) for _, p, m in changes} == {("0", "0"), ("0", "1"), ("1", "0")}


def test_elaboration_does_not_depend_on_the_run():
    # LUNA names a second component of the same class after its address in memory.
    from hw.tools.verilog import to_rtlil

    text = to_rtlil(UsbSerialPort())
    assert not re.search(r"_\d{9,}", text)
