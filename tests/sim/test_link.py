"""Run the cocotb tests of the link on its generated Verilog."""

import json
from dataclasses import asdict, replace

import pytest

from hw.top import Top
from sim.cosim import LINK_CONFIG, simulate_link
from sim.link_tests import CONFIG_VARIABLE
from sim.runner import CocotbError, run_cocotb
from sim.stub_core import StubCore

CONFIGS = {
    4: LINK_CONFIG,
    7: replace(
        LINK_CONFIG,
        name="divisor-7",
        lanes=8,
        fire_lanes=2,
        clk_hz=21_000_000,
        baud=3_000_000,
    ),
}


@pytest.mark.parametrize("divisor", [4, pytest.param(7, marks=pytest.mark.slow)])
def test_link(divisor):
    assert simulate_link(divisor, CONFIGS[divisor]).startswith("8 tests")


def test_run_without_tests_is_refused():
    with pytest.raises(CocotbError, match="no test was executed"):
        run_cocotb(
            Top(LINK_CONFIG, core=StubCore(LINK_CONFIG)),
            "sim.link_tests",
            name=f"link-{LINK_CONFIG.name}",
            test_filter="there_is_no_such_test",
            env={CONFIG_VARIABLE: json.dumps(asdict(LINK_CONFIG))},
        )


def test_failing_test_is_reported():
    config = LINK_CONFIG
    wrong = replace(config, weight_depth=65)
    with pytest.raises(CocotbError, match="identifies_itself"):
        run_cocotb(
            Top(config, core=StubCore(config)),
            "sim.link_tests",
            name=f"link-{config.name}",
            test_filter="identifies_itself",
            env={CONFIG_VARIABLE: json.dumps(asdict(wrong))},
        )
