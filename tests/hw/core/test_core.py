"""Tests of the whole core through its bus: results, counters, cycles and aborts."""

import random
from dataclasses import replace

import numpy as np
import pytest

from hw.core.core import Core
from hw.protocol import Address, Space, row_bytes
from hw.spec import Config, Gate
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.compile.program import Program
from sw.network.network import INPUT, Layer, Network
from tests import golden
from tests.streams import get, put, simulate, wait_until

CONFIG = Config(
    lanes=8,
    fire_lanes=4,
    weight_depth=600,
    spike_bytes=1024,
    param_depth=128,
    max_layers=8,
    result_rows=8,
    membrane_bits=16,
    sum_bits=16,
)


def network(*, timesteps: int = 2, channels: int = 8, size: int = 6, bias: int = 0) -> Network:
    """Return a network of two 3x3 convolutions, the second one with a gate, and a classifier."""
    rng = np.random.default_rng(1)

    def layer(name: str, source: str, **options) -> Layer:
        return Layer(
            name=name,
            source=source,
            kernel=(3, 3),
            padding=(1, 1),
            weight=rng.integers(-20, 30, (timesteps, 1, 1, channels, channels, 3, 3)).astype(
                np.int8
            ),
            bias=np.full((1, 1, 1, channels), bias, np.int32),
            threshold=np.full((1, 1, channels), 60, np.int32),
            **options,
        )

    classifier = Layer(
        name="fc",
        source="conv2",
        kernel=(size, size),
        weight=rng.integers(-20, 30, (1, 1, 1, 5, channels, 1, 1)).astype(np.int8),
        bias=np.arange(5, dtype=np.int32)[None, None, None],
        output=True,
    )
    return Network(
        timesteps=timesteps,
        image_shape=(channels, size, size),
        encoder=None,
        layers=(
            layer("conv1", INPUT),
            layer("conv2", "conv1", gate=Gate.XOR, identity="conv1"),
            classifier,
        ),
        weight_bits=8,
        labels=tuple("abcde"),
    )


class Bench:
    """Access to the bus of a core in Amaranth's simulator: writes, runs, reads."""

    def __init__(self, dut: Core, program: Program, ctx, stall: float = 0.0):
        self.dut, self.program, self.ctx = dut, program, ctx
        self.rng, self.stall = random.Random(0), stall

    async def write(self, space: Space, row: int, image: bytes) -> None:
        size = row_bytes(space, self.program.config)
        items = (
            {
                "address": {"space": space, "row": row + i // size},
                "data": int.from_bytes(image[i : i + size], "little"),
            }
            for i in range(0, len(image), size)
        )
        await put(self.ctx, self.dut.bus.write, items, rng=self.rng, stall=self.stall)

    async def read(self, space: Space, row: int, n_rows: int) -> bytes:
        size = row_bytes(space, self.program.config)
        rows = []
        for i in range(n_rows):
            address = Address.const({"space": space, "row": row + i})
            await put(self.ctx, self.dut.bus.read, [address], rng=self.rng, stall=self.stall)
            data = self.dut.bus.read_data
            value = await wait_until(self.ctx, data.valid, data.p)
            rows.append(value.to_bytes(size, "little"))
        return b"".join(rows)

    async def load(self) -> None:
        for space, image in self.program.images.items():
            await self.write(space, 0, image)

    async def start(self, frames: np.ndarray, tag: int = 1, buffer: int = 0) -> None:
        place = self.program.inputs[buffer]
        await self.write(Space.SPIKE, place.first_row, self.program.pack_input(frames, buffer))
        run = {"tag": tag, "entry": self.program.entries[buffer]}
        await put(self.ctx, self.dut.bus.run, [run], rng=self.rng, stall=0)

    async def done(self):
        return await get(self.ctx, self.dut.bus.done, rng=self.rng, stall=self.stall)

    async def results(self):
        """Read the spikes of all maps, the logits, and the counters of each layer from the core."""
        maps = {}
        for name, place in self.program.placements.items():
            n_rows = place.n_rows
            maps[name] = place.unpack(await self.read(Space.SPIKE, place.first_row, n_rows))
        logits = self.program.logits(await self.read(Space.RESULT, 0, self.program.n_result_rows))
        counters = self.program.counters(
            await self.read(Space.COUNTER, 0, self.program.n_counter_rows)
        )
        return maps, logits, counters


def run(net: Network, frames: np.ndarray, *, stall: float = 0.0, config: Config = CONFIG):
    """Run one inference, and compare its spikes and logits with the golden model.

    The golden model (:mod:`tests.golden`) computes a network in plain Python loops.

    Returns
    -------
    The compiled program, the reported result, the spikes of each map and the counters of each
    layer.
    """
    program = compile_network(net, config)
    dut = Core(config)
    out = []

    async def bench(ctx):
        bus = Bench(dut, program, ctx, stall)
        await bus.load()
        await bus.start(frames)
        result = await bus.done()
        out.extend([result, *await bus.results()])

    simulate(dut, bench, max_ticks=100_000)
    result, maps, logits, counters = out
    expected_maps, expected_logits = golden.run_network(net, frames)
    for name, spikes in expected_maps.items():
        assert (maps[name] == spikes).all(), name
    assert (logits == expected_logits).all()
    assert result.argmax == np.argmax(expected_logits)
    return program, result, maps, counters


def random_frames(net: Network, density: float, seed: int = 0) -> np.ndarray:
    shape = (net.timesteps, *net.map_shapes()[INPUT])
    return (np.random.default_rng(seed).random(shape) < density).astype(np.uint8)


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_counters_equal_the_counts_in_the_maps(stall: float) -> None:
    net = network(size=5)
    frames = random_frames(net, 0.2)
    program, result, maps, counters = run(net, frames, stall=stall)
    predicted = predict_cycles(program, maps)
    for layer in net.layers:
        spikes = maps[layer.source]
        pad = layer.padding[0]
        padded = np.pad(spikes, ((0, 0), (0, 0), (pad, pad), (pad, pad))).astype(int)
        windows = np.lib.stride_tricks.sliding_window_view(padded, layer.kernel, (2, 3))
        n_reads = int(windows.sum())
        assert counters[layer.name].n_weight_reads == n_reads
        assert counters[layer.name].n_synaptic_ops == n_reads * layer.n_out
        assert counters[layer.name].n_spikes == (0 if layer.output else maps[layer.name].sum())
        assert counters[layer.name].n_cycles == predicted[layer.name]
    assert result.n_cycles >= sum(c.n_cycles for c in counters.values())


def test_silent_input_reads_no_weight() -> None:
    net = network(size=4)
    _, _, _, counters = run(net, random_frames(net, 0.0))
    assert [c.n_weight_reads for c in counters.values()] == [0, 0, 0]


def test_every_cycle_brings_a_weight_when_all_inputs_fire() -> None:
    net = network(size=4)
    _, _, _, counters = run(net, random_frames(net, 1.1))
    first = counters["conv1"]
    assert first.n_weight_reads / (first.n_cycles - 76) > 0.999


def test_abort_ends_a_run_and_the_next_one_is_right() -> None:
    net = network(size=4)
    frames = random_frames(net, 0.5)
    program = compile_network(net, CONFIG)
    dut = Core(CONFIG)
    expected_maps, expected_logits = golden.run_network(net, frames)

    async def bench(ctx):
        bus = Bench(dut, program, ctx)
        await bus.load()
        for n_cycles in (1, 234, 502):
            await bus.start(frames, tag=9)
            await ctx.tick().repeat(n_cycles)
            ctx.set(dut.bus.abort, 1)
            await ctx.tick()
            ctx.set(dut.bus.abort, 0)
            await ctx.tick().repeat(3)
            assert not ctx.get(dut.bus.busy)
            assert not ctx.get(dut.bus.done.valid)
            await bus.start(frames, tag=5)
            result = await bus.done()
            assert result.tag == 5
            logits = program.logits(await bus.read(Space.RESULT, 0, program.n_result_rows))
            assert (logits == expected_logits).all(), f"after an abort in cycle {n_cycles}"
        maps, _, _ = await bus.results()
        for name, spikes in expected_maps.items():
            assert (maps[name] == spikes).all(), name

    simulate(dut, bench, max_ticks=100_000)


def test_results_are_kept_until_those_of_the_next_run_are_taken() -> None:
    net = network(size=5)
    program = compile_network(net, CONFIG)
    dut = Core(CONFIG)
    inputs = [random_frames(net, density) for density in (0.5, 0.1)]
    expected = [golden.run_network(net, frames)[1] for frames in inputs]
    assert (expected[0] != expected[1]).any()

    async def bench(ctx):
        bus = Bench(dut, program, ctx)
        await bus.load()
        await bus.start(inputs[0])
        await bus.done()
        await bus.start(inputs[1])
        n_rows = program.n_result_rows
        n_during = 0
        while not ctx.get(dut.bus.done.valid):
            logits = program.logits(await bus.read(Space.RESULT, 0, n_rows))
            assert (logits == expected[0]).all()
            n_during += ctx.get(dut.bus.busy)
        assert n_during > 3
        for n, _ in enumerate(expected):
            if n:
                await bus.done()
            logits = program.logits(await bus.read(Space.RESULT, 0, n_rows))
            assert (logits == expected[n]).all()

    simulate(dut, bench, max_ticks=100_000)


@pytest.mark.parametrize("banks", [1, 2])
def test_a_run_goes_on_while_the_host_reads_spikes(banks: int) -> None:
    """Check that the host reads the right spikes at any time of a run, without changing its
    results.

    This includes the times at which the core reads a layer's descriptor.
    """
    config = replace(CONFIG, banks=banks, lanes=8 * banks, chunk_bits=32, param_depth=256)
    net = network(size=3)
    program = compile_network(net, config)
    dut = Core(config)
    rng = random.Random(banks)

    async def bench(ctx):
        bus = Bench(dut, program, ctx)
        await bus.load()
        first_row = program.inputs[0].first_row
        for number in range(4):
            frames = random_frames(net, 0.4, seed=number)
            image = program.pack_input(frames, 0)
            expected_maps, expected_logits = golden.run_network(net, frames)
            n_read = 0
            await bus.start(frames, tag=number)
            while not ctx.get(dut.bus.done.valid):
                row = rng.choice([row for row, granule in enumerate(image) if granule])
                assert await bus.read(Space.SPIKE, first_row + row, 1) == image[row : row + 1]
                n_read += ctx.get(dut.bus.busy)
                for _ in range(rng.choice((0, 0, 1, 2, 5))):
                    await ctx.tick()
            assert n_read > 10
            result = await bus.done()
            assert (result.tag, result.argmax) == (number, np.argmax(expected_logits))
            logits = program.logits(await bus.read(Space.RESULT, 0, program.n_result_rows))
            assert (logits == expected_logits).all(), f"run {number}"
        maps, _, _ = await bus.results()
        for name, spikes in expected_maps.items():
            assert (maps[name] == spikes).all(), name

    simulate(dut, bench)


def test_memories_read_back_what_was_written() -> None:
    net = network()
    program = compile_network(net, CONFIG)
    dut = Core(CONFIG)

    async def bench(ctx):
        bus = Bench(dut, program, ctx, stall=0.2)
        await bus.load()
        for space, image in program.images.items():
            n_rows = min(20, len(image) // row_bytes(space, CONFIG))
            wanted = image[: n_rows * row_bytes(space, CONFIG)]
            assert await bus.read(space, 0, n_rows) == wanted, space

    simulate(dut, bench, max_ticks=50_000)


@pytest.mark.parametrize("lanes, weight_bits", [(8, 4), (16, 2), (16, 4)])
@pytest.mark.parametrize("fire_lanes", [1, 2, 8])
def test_other_builds(lanes: int, fire_lanes: int, weight_bits: int) -> None:
    config = Config(
        lanes=lanes,
        fire_lanes=fire_lanes,
        weight_bits=weight_bits,
        chunk_bits=32,
        weight_depth=1024,
        spike_bytes=1024,
        param_depth=1024,
        max_layers=8,
        result_rows=16,
        membrane_bits=16,
        sum_bits=16,
        membrane_slots=8,
    )
    net = network(size=4)
    low, high = -(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1
    layers = tuple(
        replace(
            layer,
            weight=np.clip(layer.weight // 8, low, high).astype(np.int8),
            threshold=None if layer.threshold is None else layer.threshold // 12,
        )
        for layer in net.layers
    )
    net = replace(net, layers=layers, weight_bits=weight_bits)
    _, _, maps, _ = run(net, random_frames(net, 0.3), config=config)
    assert maps["conv1"].any()


@pytest.mark.parametrize(
    ("banks", "channels", "size"),
    [(2, 8, 3), (4, 7, 2), pytest.param(8, 20, 3, marks=pytest.mark.slow)],
)
def test_several_banks_are_one(banks: int, channels: int, size: int) -> None:
    """Check that a core with several banks computes the same as one with one bank, in fewer cycles.

    In one case the channels cannot be divided evenly among the banks.
    """
    config = replace(
        CONFIG,
        banks=banks,
        lanes=8 * banks,
        fire_lanes=max(4, banks),
        weight_depth=1024 if banks == 8 else 600,
        chunk_bits=32,
        param_depth=256,
    )
    net = network(channels=channels, size=size)
    frames = random_frames(net, 0.6)
    one_bank = replace(config, banks=1, chunk_bits=max(32, config.lanes))
    _, alone, maps_alone, counters_alone = run(net, frames, config=one_bank)
    program, together, maps, counters = run(net, frames, config=config)
    for name, spikes in maps.items():
        assert spikes.any() and (spikes == maps_alone[name]).all(), name
    assert together.n_cycles < alone.n_cycles
    predicted = predict_cycles(program, maps)
    for name, found in counters.items():
        assert found.n_cycles == predicted[name], name
        assert found.n_weight_reads == counters_alone[name].n_weight_reads, name
