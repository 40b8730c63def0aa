"""Tests of the core with weights and parameters in memory outside the FPGA, of any latency."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from hw.core.core import Core
from hw.protocol import Space, descriptor_rows
from hw.spec import Config
from sw.compile.compiler import compile_network
from sw.network.network import Network
from tests import golden
from tests.hw.core.test_core import Bench
from tests.networks import random_input, random_network
from tests.streams import simulate

CONFIG = Config(
    lanes=8,
    fire_lanes=4,
    weight_depth=8 * 40,
    param_depth=128,
    spike_bytes=4096,
    max_layers=8,
    result_rows=8,
    offchip_depth=1 << 12,
    offchip_row_cycles=4,
)


class Memory:
    """Model of the memory outside the FPGA: rows arrive in order, after random numbers of cycles.

    It starts with junk, and refuses requests and writes at random.
    """

    def __init__(self, dut: Core, config: Config, seed: int, longest: int = 20):
        self.dut, self.rng, self.longest = dut, random.Random(seed), longest
        n_bits = config.lanes * config.weight_bits
        self.rows = [
            [self.rng.getrandbits(n_bits) for _ in range(config.offchip_depth)]
            for _ in range(config.banks)
        ]
        self.n_reads = 0

    def benches(self):
        return [*(self._port(n) for n in range(len(self.rows))), self._writer]

    def _port(self, number: int):
        port, rows, rng = getattr(self.dut.offchip, f"port{number}"), self.rows[number], self.rng

        async def serve(ctx):
            due: list[tuple[int, int]] = []
            cycle = last = 0
            asked = ctx.tick().sample(port.requests.valid, port.requests.ready, port.requests.p)
            while True:
                _, _, valid, ready, row = await asked
                cycle += 1
                if valid and ready:
                    last = max(last + 1, cycle + 3 + rng.randrange(self.longest))
                    due.append((last, rows[row]))
                    self.n_reads += 1
                arrives = bool(due) and due[0][0] <= cycle
                ctx.set(port.rows.valid, arrives)
                ctx.set(port.rows.p, due.pop(0)[1] if arrives else rng.getrandbits(8))
                ctx.set(port.requests.ready, rng.random() < 0.7)

        return serve

    async def _writer(self, ctx):
        write, layout = self.dut.offchip.write, None
        sampled = ctx.tick().sample(
            write.valid, write.ready, write.p.bank, write.p.row, write.p.data
        )
        while True:
            _, _, valid, ready, bank, row, data = await sampled
            if valid and ready:
                self.rows[bank][row] = data
            ctx.set(write.ready, self.rng.random() < 0.7)
        del layout


def run(net: Network, frames: np.ndarray, config: Config, seed: int, longest: int = 20) -> Memory:
    """Run one inference, check every spike and logit, and return the memory."""
    program = compile_network(net, config)
    image = program.images[Space.OFFCHIP]
    dut = Core(config)
    memory = Memory(dut, config, seed, longest)
    out = []

    async def bench(ctx):
        bus = Bench(dut, program, ctx)
        await bus.load()
        found = await bus.read(Space.OFFCHIP, 0, 9)
        assert found[: len(image)] == image[: len(found)]
        memory.n_reads = 0
        await bus.start(frames)
        out.extend([await bus.done(), *await bus.results()])

    simulate(dut, bench, background=memory.benches(), max_ticks=400_000)
    result, maps, logits, counters = out
    expected_maps, expected_logits = golden.run_network(net, frames)
    for name, spikes in expected_maps.items():
        assert (maps[name] == spikes).all(), name
    assert (logits == expected_logits).all()
    assert result.argmax == np.argmax(expected_logits)
    outside = [plan.name for plan in program.layers if plan.weights_offchip]
    assert memory.n_reads >= sum(counters[name].n_weight_reads for name in outside)
    return memory


def depth_for(net: Network, config: Config, n_more: int) -> int:
    """Return a depth of weight memory that has room for the descriptors and ``n_more`` rows."""
    rows = 2 * (len(net.layers) + 1) * descriptor_rows(config)
    return -(-rows // config.banks) + n_more


@pytest.mark.parametrize("banks", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_random_networks_outside(banks: int, seed: int) -> None:
    config = replace(CONFIG, banks=banks, lanes=8 * banks, chunk_bits=32, param_depth=256)
    net = random_network(seed, encoder=False, weight_bits=8, timesteps=2, n_layers=3)
    config = replace(config, weight_depth=depth_for(net, config, 0 if seed % 2 else 40))
    frames = random_input(net, np.random.default_rng(seed), 1)[0]
    memory = run(net, frames, config, seed, longest=(1, 20, 60)[seed % 3])
    assert memory.n_reads > 0 or not frames.any()
