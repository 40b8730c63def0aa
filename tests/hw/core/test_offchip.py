"""Tests of the core with weights and parameters in memory outside the FPGA, with random and real
latencies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.core.core import Core
from hw.offchip.memory import SdramMemory
from hw.offchip.pins import SdramPins
from hw.offchip.timing import CHIPS, SdramChip
from hw.protocol import Space, descriptor_rows
from hw.spec import Config
from sim.sdram_model import SdramModel, sdram_bench
from sw.compile.compiler import compile_network
from sw.compile.program import Program
from sw.network.network import Network
from tests import golden
from tests.hw.core.test_core import Bench
from tests.networks import random_input, random_network
from tests.streams import put, simulate

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
    """Model of the memory outside the FPGA; rows arrive in order, each after a random number of
    cycles.

    Its initial contents are random, and it refuses requests and writes at random.
    """

    def __init__(self, dut: Core, config: Config, seed: int, longest: int = 20):
        self.dut, self.rng, self.longest = dut, random.Random(seed), longest
        n_bits = config.lanes * config.weight_bits
        self.rows = [
            [self.rng.getrandbits(n_bits) for _ in range(config.offchip_depth)]
            for _ in range(config.banks)
        ]

    def benches(self):
        return [*(self._port(n) for n in range(len(self.rows))), self._writer]

    def _port(self, number: int):
        port, rows, rng = getattr(self.dut.offchip, f"port{number}"), self.rows[number], self.rng

        async def serve(ctx):
            due: list[tuple[int, int]] = []
            cycle = last = 0
            asked = ctx.tick().sample(
                port.requests.valid,
                port.requests.ready,
                port.requests.p,
                port.rows.valid,
                port.rows.ready,
            )
            while True:
                _, _, valid, ready, row, arrived, taken = await asked
                cycle += 1
                if arrived and taken:
                    due.pop(0)
                if valid and ready:
                    last = max(last + 1, cycle + 1 + rng.randrange(self.longest))
                    due.append((last, rows[row]))
                arrives = bool(due) and due[0][0] <= cycle
                ctx.set(port.rows.valid, arrives)
                ctx.set(port.rows.p, due[0][1] if arrives else rng.getrandbits(8))
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


def run(
    net: Network,
    frames: np.ndarray,
    config: Config,
    attach: Callable[[Core], tuple[wiring.Component, list]],
    *,
    aborts: tuple[int, ...] = (),
) -> Program:
    """Run one inference, compare it with the golden model, and return the program.

    Every spike and logit must be equal. The golden model (:mod:`tests.golden`) computes a network
    in plain Python loops.

    Parameters
    ----------
    attach : function that connects a core to its memory outside the FPGA. It returns the component
        to simulate and the test benches that serve the memory.
    aborts : for each additional run before the one that is checked, the number of cycles after
        which it is aborted.
    """
    program = compile_network(net, config)
    image = program.images[Space.OFFCHIP]
    core = Core(config)
    dut, benches = attach(core)
    out = []

    async def bench(ctx):
        bus = Bench(core, program, ctx)
        await bus.load()
        found = await bus.read(Space.OFFCHIP, 0, 9)
        assert found[: len(image)] == image[: len(found)]
        await bus.start(frames)
        for n_cycles in aborts:
            await ctx.tick().repeat(n_cycles)
            ctx.set(core.bus.abort, 1)
            await ctx.tick()
            ctx.set(core.bus.abort, 0)
            start = {"tag": 1, "entry": program.entries[0]}
            await put(ctx, core.bus.run, [start], rng=bus.rng, stall=0)
        out.extend([await bus.done(), *await bus.results()])

    simulate(dut, bench, background=benches, max_ticks=200_000)
    result, maps, logits, _ = out
    expected_maps, expected_logits = golden.run_network(net, frames)
    for name, spikes in expected_maps.items():
        assert (maps[name] == spikes).all(), name
    assert (logits == expected_logits).all()
    assert result.argmax == np.argmax(expected_logits)
    return program


def junk_memory(config: Config, seed: int, longest: int):
    """Return a function for :func:`run` that connects a :class:`Memory` to the core.

    ``longest`` is the largest latency of a row in cycles.
    """

    def attach(core: Core) -> tuple[wiring.Component, list]:
        return core, Memory(core, config, seed, longest).benches()

    return attach


def outside(seed: int, config: Config, *, n_rows: int = 0) -> tuple[Network, np.ndarray, Config]:
    """Return a random network, its input, and a configuration with too little memory on the FPGA
    for it.

    ``n_rows`` is the number of rows of weights that fit into a bank's weight memory besides the
    descriptors. All other rows are outside the FPGA.
    """
    bits = config.weight_bits
    net = random_network(seed, encoder=False, weight_bits=bits, timesteps=2, n_layers=3)
    n_descriptors = 2 * (len(net.layers) + 1) * descriptor_rows(config)
    depth = -(-n_descriptors // config.banks) + n_rows
    frames = random_input(net, np.random.default_rng(seed), 1)[0]
    return net, frames, replace(config, weight_depth=depth)


@pytest.mark.parametrize(
    ("seed", "banks", "longest", "aborts"),
    [
        (2, 1, 400, (150, 163, 180, 200, 220)),
        (3, 2, 20, ()),
        *(
            pytest.param(seed, banks, longest, (300,), marks=pytest.mark.slow)
            for seed, longest in enumerate((20, 1, 60, 20, 1, 60, 20, 1))
            for banks in (1, 2)
        ),
    ],
)
def test_random_networks(seed: int, banks: int, longest: int, aborts: tuple[int, ...]) -> None:
    """Check random networks whose rows arrive after random numbers of cycles, also after aborted
    runs."""
    config = replace(CONFIG, banks=banks, lanes=8 * banks, chunk_bits=32, param_depth=256)
    net, frames, config = outside(seed, config, n_rows=40 * (seed % 2))
    program = run(net, frames, config, junk_memory(config, seed, longest), aborts=aborts)
    assert any(plan.weights_offchip for plan in program.layers)


def test_parameters_outside() -> None:
    net, frames, config = outside(2, replace(CONFIG, param_depth=64))
    program = run(net, frames, config, junk_memory(config, 1, 30))
    assert any(plan.params_offchip for plan in program.layers)


class WithSdram(wiring.Component):
    """A core connected to the controller of an SDRAM, whose pins are members."""

    def __init__(self, config: Config, core: Core, chip: SdramChip):
        self._core = core
        self._sdram = SdramMemory(config, chip)
        super().__init__({"pins": Out(SdramPins(chip))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core, m.submodules.sdram = self._core, self._sdram
        connect(m, self._core.offchip, self._sdram.memory)
        connect(m, self._sdram.pins, flipped(self.pins))
        return m


@pytest.mark.slow
def test_sdram() -> None:
    """Check a network whose weights are in an SDRAM, with the real controller and a model of the
    chip.

    The model checks every timing rule of the data sheet.
    """
    chip = replace(CHIPS["ulx3s"], rows=64, power_up=500)
    config = replace(
        CONFIG,
        banks=4,
        lanes=32,
        weight_bits=4,
        chunk_bits=32,
        param_depth=256,
        clk_hz=60_000_000,
        baud=3_000_000,
    )
    net, frames, config = outside(2, config)

    def attach(core: Core) -> tuple[wiring.Component, list]:
        dut = WithSdram(config, core, chip)
        return dut, [sdram_bench(SdramModel(chip, config.clk_hz), dut.pins)]

    program = run(net, frames, config, attach)
    assert any(plan.weights_offchip for plan in program.layers)
