"""Tests of the sequencer: loading of descriptors, order of layers, counters and results."""

import random
from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.core.nest import LoopNest
from hw.core.sequencer import ROW_LATENCY, Sequencer
from hw.protocol import (
    HEADER_WORDS,
    LEVEL_WORDS,
    N_PIECES,
    WORD_BYTES,
    Descriptor,
    Space,
    descriptor_rows,
    pack,
    row_bytes,
)
from hw.spec import N_LEVELS, PIECE_BITS, Config
from tests.streams import get, put, simulate, stays_valid, wait_until

BUILDS = [
    Config(
        lanes=lanes,
        weight_bits=bits,
        fire_lanes=fire_lanes,
        chunk_bits=chunk_bits,
        param_depth=1024,
    )
    for lanes, bits, fire_lanes, chunk_bits in (
        (16, 8, 16, 64),
        (8, 4, 1, 32),
        (16, 4, 2, 32),
        (32, 8, 4, 64),
        (64, 8, 8, 64),
        (64, 2, 64, 64),
    )
]


def random_descriptor(rng: random.Random, config: Config, n_levels: int, final: bool) -> dict:
    header: dict[str, Any] = {
        "source": rng.getrandbits(20),
        "spacing": rng.randrange(1, 256),
        "leak_shift": rng.randrange(16),
        "weight": rng.getrandbits(20),
        "identity": rng.getrandbits(16),
        "target": rng.getrandbits(16),
        "param": rng.getrandbits(16),
        "tail_lanes": rng.randrange(1, config.lanes + 1),
        "last_beat": rng.randrange(256),
        "n_levels": n_levels,
        "final": final,
        "n_classes": rng.getrandbits(16),
        "job_levels": 0xFF,
    }
    for name in ("body_bits", "tail_bits"):
        header[name] = [rng.randrange(PIECE_BITS + 1) for _ in range(N_PIECES)]
    for name in ("piece_rows", "piece_weights"):
        header[name] = [rng.getrandbits(8) for _ in range(N_PIECES)]
    levels = [
        {
            "last": rng.randrange(4096),
            "source": rng.randrange(-(1 << 19), 1 << 19),
            "weight": rng.randrange(-(1 << 19), 1 << 19),
            "target": rng.randrange(-(1 << 15), 1 << 15),
            "slot": rng.randrange(-32, 32),
        }
        for _ in range(n_levels)
    ]
    return {"header": header, "levels": levels + [{}] * (N_LEVELS - n_levels)}


def image_of(descriptors: list[dict], config: Config) -> list[int]:
    """Return rows of weight memory with descriptors; bytes that are not used are not zero."""
    size = row_bytes(Space.WEIGHT, config)
    image = bytearray()
    for descriptor in descriptors:
        raw = bytearray(pack(Descriptor, descriptor))
        n_used = (HEADER_WORDS + LEVEL_WORDS * descriptor["header"]["n_levels"]) * WORD_BYTES
        raw[n_used:] = b"\xee" * (len(raw) - n_used)
        image += raw.ljust(descriptor_rows(config) * size, b"\xdd")
    return [int.from_bytes(image[i : i + size], "little") for i in range(0, len(image), size)]


async def weight_memory(ctx, dut, memory: dict[int, int]) -> None:
    """Deliver rows ``ROW_LATENCY`` cycles after they are requested while ``loading``."""
    pipeline = [0] * ROW_LATENCY
    async for _, _, loading, row in ctx.tick().sample(dut.loading, dut.row):
        pipeline = [memory.get(row, 0x5555) if loading else 0xAAAA, *pipeline[:-1]]
        ctx.set(dut.row_data, pipeline[-1])


@pytest.mark.parametrize("build", range(len(BUILDS)))
def test_layers_one_after_the_other(build: int) -> None:
    config = BUILDS[build]
    rng = random.Random(build)
    dut = Sequencer(config)
    runs, memory = [], {}
    for entry, n_layers in ((1000, 3), (40, 1), (2000, 2)):
        layers = [
            random_descriptor(rng, config, rng.randrange(1, N_LEVELS + 1), n == n_layers - 1)
            for n in range(n_layers)
        ]
        runs.append((entry, layers))
        memory |= {entry + i: row for i, row in enumerate(image_of(layers, config))}
    words: list[tuple] = []
    stored: dict[tuple[int, int], int] = {}

    async def weights(ctx):
        await weight_memory(ctx, dut, memory)

    async def watch(ctx):
        trigger = ctx.tick().sample(
            dut.header_en,
            dut.header_word,
            dut.level_en,
            dut.level,
            dut.level_word,
            dut.word,
            dut.clear,
            dut.counter_en,
            dut.counter_index,
            dut.counter_data,
            dut.bank,
        )
        async for _, _, *now in trigger:
            header_en, header_word, level_en, level, level_word, word, clear = now[:7]
            counter_en, index, value, bank = now[7:]
            if clear:
                words.clear()
            assert not (header_en and level_en)
            if header_en:
                words.append(("header", header_word, word))
            if level_en:
                words.append((level, level_word, word))
            if counter_en:
                stored[bank, index] = value

    async def bench(ctx):
        for tag, (entry, layers) in enumerate(runs):
            bank = ctx.get(dut.bank)
            assert not ctx.get(dut.busy)
            await put(ctx, dut.run, [{"tag": tag, "entry": entry}], rng=rng, stall=0)
            wanted_counters = []
            for layer in layers:
                n_load = 0
                while not ctx.get(dut.start):
                    await ctx.tick()
                    n_load += 1
                n_words = HEADER_WORDS + LEVEL_WORDS * layer["header"]["n_levels"]
                assert n_load <= n_words + 12, "a word of a descriptor a cycle"
                header = pack(Descriptor, layer)
                wanted = [
                    int.from_bytes(header[i : i + WORD_BYTES], "little")
                    for i in range(0, n_words * WORD_BYTES, WORD_BYTES)
                ]
                names = [("header", i) for i in range(HEADER_WORDS)] + [
                    (i, n) for i in range(layer["header"]["n_levels"]) for n in range(LEVEL_WORDS)
                ]
                assert words == [(*name, w) for name, w in zip(names, wanted, strict=True)]
                bits = sum(w << 32 * i for i, w in enumerate(wanted[:HEADER_WORDS]))
                assert ctx.get(dut.header.as_value()) == bits
                await ctx.tick()
                n_reads = n_ops = n_spikes = 0
                n_run = rng.randrange(20, 60)
                for cycle in range(n_run):
                    assert not ctx.get(dut.start) and not ctx.get(dut.loading)
                    read, n_synapses = rng.randrange(2), rng.randrange(config.lanes + 1)
                    spikes = rng.randrange(config.lanes + 1)
                    ctx.set(dut.read, read)
                    ctx.set(dut.n_synapses, n_synapses)
                    ctx.set(dut.n_spikes, spikes)
                    ctx.set(dut.finished, cycle == n_run - 3)
                    n_reads += read
                    n_ops += read * n_synapses
                    n_spikes += spikes
                    await ctx.tick()
                ctx.set(dut.read, 0)  # two cycles after `finished`, nothing is counted any more
                ctx.set(dut.n_spikes, 5)
                wanted_counters.append((n_reads, n_ops, n_spikes, n_load + n_run))
                if layer is not layers[-1]:
                    await wait_until(ctx, dut.meets)
                    for _ in range(rng.randrange(4)):
                        assert ctx.get(dut.meets) and not ctx.get(dut.clear), "others are behind"
                        await ctx.tick()
                    ctx.set(dut.all_met, 1)
                    await ctx.tick()
                    ctx.set(dut.all_met, 0)
                    assert ctx.get(dut.clear)
                    ctx.set(dut.n_spikes, 0)
            await wait_until(ctx, dut.argmax_start)
            ctx.set(dut.n_spikes, 0)
            assert ctx.get(dut.header.n_classes) == layers[-1]["header"]["n_classes"]
            await ctx.tick().repeat(5)
            assert ctx.get(dut.busy) and ctx.get(dut.bank) == bank
            assert not ctx.get(dut.done.valid)
            ctx.set(dut.argmax_done, 1)
            ctx.set(dut.argmax_index, 300 + tag)
            await ctx.tick()
            ctx.set(dut.argmax_done, 0)
            ctx.set(dut.argmax_index, 0)
            await ctx.tick().repeat(rng.randrange(1, 9))
            assert ctx.get(dut.bank) == bank, "until it is known, the run before has the results"
            result = await get(ctx, dut.done, rng=rng, stall=0.5)
            assert (result.tag, result.argmax) == (tag, 300 + tag)
            assert ctx.get(dut.bank) == 1 - bank, "results of a run that has ended are kept"
            total = 0
            for n, counters in enumerate(wanted_counters):
                n_rows = config.counter_rows
                row_bits = 32 * config.fire_lanes
                value = sum(stored[bank, n * n_rows + i] << i * row_bits for i in range(n_rows))
                got = [value >> 32 * i & 0xFFFFFFFF for i in range(4)]
                assert got[1:] == list(counters[:3]), f"layer {n}"
                assert abs(got[0] - counters[3]) <= 3
                total += got[0]
            assert len([i for b, i in stored if b == bank]) == len(layers) * config.counter_rows
            assert (
                total < result.n_cycles <= total + (9 + 3 * config.counter_rows) * len(layers) + 9
            )
            stored.clear()

    simulate(dut, bench, background=[watch, weights, stays_valid(dut.done)])


class Loader(wiring.Component):
    """Sequencer with the loop nest that it loads."""

    def __init__(self, config: Config):
        self.sequencer, self.nest = Sequencer(config), LoopNest(config)
        super().__init__({"steps": Out(self.nest.steps.signature)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sequencer, m.submodules.nest = sequencer, nest = self.sequencer, self.nest
        connect(m, nest.steps, flipped(self.steps))
        m.d.comb += nest.header.eq(sequencer.header)
        for name in ("word", "header_en", "header_word", "level_en", "level", "level_word"):
            m.d.comb += getattr(nest, name).eq(getattr(sequencer, name))
        m.d.comb += [nest.clear.eq(sequencer.clear), nest.start.eq(sequencer.start)]
        return m


@pytest.mark.parametrize("build", [0, 1, 4])
def test_the_nest_is_ready_when_it_is_started(build: int) -> None:
    """State of the layer before is cleared, and the last word loaded takes effect in time."""
    config = BUILDS[build]
    rng = random.Random(100 + build)
    dut = Loader(config)
    shapes = [(3, 2, 4), (2,), (1,), (2, 3, 1, 2, 2, 1, 2, 2), (1, 5), (7,), (2, 1, 1, 3)]
    layers = []
    for n, counts in enumerate(shapes):
        header = {"n_levels": len(counts), "job_levels": 1, "final": n == len(shapes) - 1}
        # Every level moves the addresses by one, so that they count the iterations.
        header |= {"weight": 100 * n, "target": 50}
        levels = [
            {"last": count - 1, "weight": 1, "target": 1, "slot": rng.randrange(2)}
            for count in counts
        ]
        layers.append({"header": header, "levels": levels + [{}] * (N_LEVELS - len(counts))})
    memory = {7 + i: row for i, row in enumerate(image_of(layers, config))}

    async def weights(ctx):
        await weight_memory(ctx, dut.sequencer, memory)

    async def bench(ctx):
        ctx.set(dut.sequencer.all_met, 1)
        await put(ctx, dut.sequencer.run, [{"tag": 1, "entry": 7}], rng=rng, stall=0)
        for n, counts in enumerate(shapes):
            n_steps = 1
            for count in counts:
                n_steps *= count
            for i in range(n_steps):
                step = await get(ctx, dut.steps, rng=rng, stall=0.2)
                assert (step.weight, step.target) == (100 * n + i, 50 + i), f"layer {n}"
                assert step.last == (i % counts[0] == counts[0] - 1)
                assert step.end == (i == n_steps - 1)
            ctx.set(dut.steps.ready, 1)
            for _ in range(5):
                await ctx.tick()
                assert not ctx.get(dut.steps.valid)
            ctx.set(dut.steps.ready, 0)
            ctx.set(dut.sequencer.finished, 1)
            await ctx.tick()
            ctx.set(dut.sequencer.finished, 0)

    simulate(dut, bench, background=[weights])


def test_an_idle_core_starts_no_jobs() -> None:
    """The core stores counters of layers in which it has no jobs, and waits for other cores."""
    config = BUILDS[0]
    rng = random.Random(3)
    dut = Sequencer(config)
    layers = [random_descriptor(rng, config, 3, n == 1) for n in range(2)]
    for layer in layers:
        layer["header"]["idle"] = 1
    memory = {5 + i: row for i, row in enumerate(image_of(layers, config))}
    starts, stored = [], []

    async def weights(ctx):
        await weight_memory(ctx, dut, memory)

    async def watch(ctx):
        trigger = ctx.tick().sample(dut.start, dut.counter_en, dut.counter_index)
        async for _, _, start, counter_en, index in trigger:
            if start:
                starts.append(start)
            if counter_en:
                stored.append(index)

    async def bench(ctx):
        await put(ctx, dut.run, [{"tag": 1, "entry": 5}], rng=rng, stall=0)
        await wait_until(ctx, dut.meets)
        ctx.set(dut.all_met, 1)
        await wait_until(ctx, dut.argmax_start)
        ctx.set(dut.argmax_done, 1)
        assert (await get(ctx, dut.done, rng=rng, stall=0)).tag == 1
        assert not starts and stored == list(range(2 * config.counter_rows))

    simulate(dut, bench, background=[watch, weights])
