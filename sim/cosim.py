"""Simulate the gateware with cocotb; ``make sim`` calls this.

There are two simulations. One runs a network file on the generated Verilog of the core: every spike
of every layer at every timestep and every logit must equal those of the PyTorch integer reference.
The other tests a device's link at its serial pins, with a core that only stores rows.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from hw.spec import Config, SpecError
from sim.verilate import ToolError
from sw.cli.commands import EXIT_NO, EXIT_OK, CommandParser, command, exit_codes
from sw.compile.program import FitError
from sw.network.netfile import NetworkFileError
from sw.shipped import NETWORK

LINK_CONFIG = Config(
    name="divisor-4",
    weight_depth=64,
    param_depth=32,
    fire_lanes=4,
    max_layers=2,
    result_rows=2,
    spike_bytes=256,
    max_payload_bytes=160,
    rx_buffer_bytes=1024,
)


def simulate_network(path: Path, n_images: int, seed: int) -> str:
    """Run a network file on sample images, and compare every spike and logit with the reference.

    A network without an encoder, which takes spikes instead of images, is run on random spikes.

    Returns
    -------
    One line of text for the user, with the numbers of images, spikes and logits that were compared.

    Raises
    ------
    sim.runner.CocotbError
        A result differs, or the simulation could not be built.
    """
    import numpy as np

    from sim.vectors import run_network
    from sw.compile.compiler import compile_network
    from sw.data import catalogue
    from sw.network import encoder, netfile, reference

    file = netfile.load(path)
    network = file.network
    program = compile_network(network, file.config or Config())
    if network.encoder is None:
        rng = np.random.default_rng(seed)
        shape = (n_images, network.timesteps, *network.image_shape)
        images = (rng.random(shape) < 0.1).astype(np.uint8)
    else:
        images = catalogue.load_samples().images[:n_images]
    trace = reference.run(network, images)
    frames = encoder.encode(network, images)
    samples = encoder.inputs(network, images, program.pixels)
    expected = [
        (
            {name: spikes[i] for name, spikes in trace.spikes.items()} | {"input": frames[i]},
            trace.logits[i],
        )
        for i in range(len(images))
    ]
    results = run_network(network, program, expected, samples=samples, name="network", seed=seed)
    n_spikes = sum(maps[name].size for maps, _ in expected for name in maps)
    waves = f"; waveform in {results.waves}" if results.waves else ""
    return (
        f"{len(images)} images on {program.config.name}: {n_spikes:,} spikes and "
        f"{trace.logits.size} logits equal{waves}"
    )


def simulate_link(seed: int, config: Config = LINK_CONFIG) -> str:
    """Run the tests of the link at a device's serial pins.

    Returns
    -------
    One line of text for the user, with the number of tests.

    Raises
    ------
    sim.runner.CocotbError
        A test failed, or the simulation could not be built.
    """
    from hw.top import Top
    from sim.link_tests import CONFIG_VARIABLE
    from sim.runner import run_cocotb
    from sim.stub_core import StubCore

    results = run_cocotb(
        Top(config, core=StubCore(config)),
        "sim.link_tests",
        name=f"link-{config.name}",
        seed=seed,
        env={CONFIG_VARIABLE: json.dumps(asdict(config))},
    )
    waves = f"; waveform in {results.waves}" if results.waves else ""
    return f"{results.n_tests} tests at {config.clk_hz // config.baud} cycles a bit{waves}"


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m sim.cosim",
        description=__doc__,
        epilog=f"""examples:
  python -m sim.cosim
  python -m sim.cosim --network net.spikefold -n 1 --only network --waves

{exit_codes("a simulation failed", done="all simulations passed")}""",
    )
    parser.add_argument("--network", type=Path, default=NETWORK, help="network file")
    parser.add_argument("-n", type=int, default=2, metavar="IMAGES", help="sample images (2)")
    parser.add_argument("--only", choices=("network", "link"), help="run only one of the two")
    parser.add_argument("--waves", action="store_true", help="write waveforms to build/cocotb")
    parser.add_argument(
        "--seed", type=int, help="seed of stalls and random data (default: random, printed)"
    )
    return parser


@command(ToolError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sim.cosim`` with the arguments ``argv``, and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.n < 1:
        parser.error("-n must be at least 1")
    if arguments.waves:
        os.environ["WAVES"] = "1"
    try:
        from sim.runner import CocotbError
    except ImportError as error:
        raise ToolError(f"this needs cocotb ({error}): pip install 'spikefold[test]'") from error
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}")
    jobs: dict[str, Callable[[], str]] = {
        "network": lambda: simulate_network(arguments.network, arguments.n, seed),
        "link": lambda: simulate_link(seed),
    }
    n_passed, n_failed = 0, 0
    for name, job in jobs.items():
        if arguments.only not in (None, name):
            continue
        begin = time.monotonic()
        print(f"{name}: building and running ...", flush=True)
        try:
            line = job()
        except (CocotbError, ToolError, FitError, NetworkFileError, SpecError, OSError) as error:
            n_failed += 1
            print(f"{name}: FAILED\n{error}", file=sys.stderr)
        else:
            n_passed += 1
            print(f"{name}: {line} ({time.monotonic() - begin:.0f} s)")
    print(f"{n_passed} passed, {n_failed} failed")
    return EXIT_NO if n_failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
