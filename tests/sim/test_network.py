"""Tests of random networks under cocotb: the Verilog of the core against the golden model.

The golden model (:mod:`tests.golden`) computes a network in plain Python loops.
"""

import sys

import numpy as np
import pytest

import sim.cosim
from hw.spec import Config
from sim.runner import CocotbError
from sim.vectors import Expected, run_network
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_NO
from sw.compile.compiler import compile_network
from sw.network import netfile
from sw.network.network import INPUT, Network
from tests import golden
from tests.networks import random_network

CONFIG = Config(lanes=8, fire_lanes=4, weight_depth=16384, spike_bytes=4096, param_depth=2048)


def expected(network: Network, seed: int, n_images: int = 1) -> list[Expected]:
    rng = np.random.default_rng(seed)
    shape = (network.timesteps, *network.map_shapes()[INPUT])
    return [
        golden.run_network(network, (rng.random(shape) < 0.3).astype(np.uint8))
        for _ in range(n_images)
    ]


@pytest.mark.parametrize("seed", range(2))  # without stalls and with them
def test_spikes_and_logits_under_stalls(seed: int) -> None:
    network = random_network(seed)
    program = compile_network(network, CONFIG, pixels=False)
    run_network(
        network,
        program,
        expected(network, seed, 2),
        name="network",
        stall=0.3 * (seed % 2),
        seed=seed,
    )


def test_a_wrong_spike_is_found() -> None:
    network = random_network(0)
    program = compile_network(network, CONFIG, pixels=False)
    ((maps, logits),) = expected(network, 0)
    name = network.layers[0].name
    flipped = maps[name].copy()
    flipped[-1, -1, -1, -1] ^= 1
    with pytest.raises(CocotbError, match=r"1 of \d+ spikes differ"):
        run_network(network, program, [(maps | {name: flipped}, logits)], name="network")


def test_the_command_runs_a_network_file(tmp_path, capsys) -> None:
    """Check that the command of ``make sim`` runs a network file and compares it with the
    reference."""
    network = random_network(2, encoder=False)
    path = tmp_path / "small.spikefold"
    netfile.save(path, network, CONFIG)
    assert sim.cosim.main(["--network", str(path), "--only", "network", "-n", "1"]) == 0
    assert "1 images on sim" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch) -> None:
    path = tmp_path / "none.spikefold"
    assert sim.cosim.main(["--network", str(path), "--only", "network"]) == EXIT_NO
    printed = capsys.readouterr()
    assert "network: FAILED" in printed.err and f"{path} cannot be read: No such" in printed.err
    assert "0 passed, 1 failed" in printed.out
    monkeypatch.setitem(sys.modules, "sim.runner", None)
    assert sim.cosim.main([]) == EXIT_BAD_INPUT
    printed = capsys.readouterr()
    assert printed.err.startswith("error: this needs cocotb (") and printed.out == ""
    assert printed.err.endswith("): pip install 'spikefold[test]'\n")
