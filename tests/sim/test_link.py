"""The link's cocotb benches on its generated Verilog."""

import json
from dataclasses import asdict

import pytest

from hw.spec import Config
from hw.top import Top
from sim.link_tests import CONFIG_VARIABLE
from sim.runner import CocotbError, run_cocotb
from tests.hw.stub_core import StubCore

SMALL = {
    "weight_depth": 64,
    "param_depth": 32,
    "spike_bytes": 256,
    "program_words": 64,
    "max_payload_bytes": 160,
    "rx_buffer_bytes": 1024,
}
CONFIGS = {
    4: Config(name="divisor-4", **SMALL),
    7: Config(name="divisor-7", lanes=8, fire_lanes=2, clk_hz=21_000_000, baud=3_000_000, **SMALL),
}


def run(config: Config, **options):
    return run_cocotb(
        Top(config, core=StubCore(config)),
        "sim.link_tests",
        name=f"link-{config.name}",
        env={CONFIG_VARIABLE: json.dumps(asdict(config))},
        **options,
    )


@pytest.mark.parametrize("divisor", [4, pytest.param(7, marks=pytest.mark.slow)])
def test_link(divisor):
    results = run(CONFIGS[divisor], seed=divisor)
    assert results.n_tests == 7


def test_run_without_tests_is_refused():
    with pytest.raises(CocotbError, match="no test was executed"):
        run(CONFIGS[4], test_filter="there_is_no_such_test")


def test_failing_test_is_reported():
    wrong = Config(name="divisor-4", **SMALL | {"weight_depth": 65})
    config = CONFIGS[4]
    with pytest.raises(CocotbError, match="identifies_itself"):
        run_cocotb(
            Top(config, core=StubCore(config)),
            "sim.link_tests",
            name=f"link-{config.name}",
            test_filter="identifies_itself",
            env={CONFIG_VARIABLE: json.dumps(asdict(wrong))},
        )
