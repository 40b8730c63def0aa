"""Tests of the loader, which reads descriptors of layers from all banks and gives their words to
the loop nest."""

import random
from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.core.descriptor import DescriptorLoader
from hw.core.nest import WORD_BITS, LoopNest
from hw.protocol import (
    HEADER_WORDS,
    LEVEL_WORDS,
    N_PIECES,
    WORD_BYTES,
    Descriptor,
    Space,
    descriptor_rows,
    n_rows,
    pack,
    row_bytes,
)
from hw.spec import N_LEVELS, PIECE_BITS, Config
from tests.streams import get, simulate, wait_until

BUILDS = [
    Config(lanes=lanes, weight_bits=bits, fire_lanes=banks, banks=banks, param_depth=1024)
    for lanes, bits, banks in (
        (16, 8, 1),
        (8, 4, 1),
        (16, 4, 2),
        (32, 8, 4),
        (64, 4, 8),
        (64, 8, 4),
    )
]
WORD_CYCLES = 6
"""Number of cycles in these tests from a request for a word to its arrival."""


def random_descriptor(rng: random.Random, config: Config, n_levels: int) -> dict:
    header: dict[str, Any] = {
        "source": rng.getrandbits(20),
        "spacing": rng.randrange(1, 256),
        "leak_shift": rng.randrange(16),
        "weight": rng.getrandbits(20),
        "identity": rng.getrandbits(16),
        "target": rng.getrandbits(16),
        "param": rng.getrandbits(16),
        "granule_rows": rng.randrange(4),
        "tail_lanes": rng.randrange(1, config.lanes + 1),
        "last_beat": rng.randrange(256),
        "n_levels": n_levels,
        "final": rng.randrange(2),
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
    """Return rows of weight memory that hold descriptors; their unused bytes are not zero."""
    size = row_bytes(Space.WEIGHT, config)
    image = bytearray()
    for descriptor in descriptors:
        raw = bytearray(pack(Descriptor, descriptor))
        n_used = (HEADER_WORDS + LEVEL_WORDS * descriptor["header"]["n_levels"]) * WORD_BYTES
        raw[n_used:] = b"\xee" * (len(raw) - n_used)
        image += raw.ljust(descriptor_rows(config) * size, b"\xdd")
    return [int.from_bytes(image[i : i + size], "little") for i in range(0, len(image), size)]


async def banks(ctx, dut: DescriptorLoader, config: Config, rows: dict[int, int]) -> None:
    """Answer the loader's requests for words after ``WORD_CYCLES``; row ``r`` is in bank ``r %
    banks``."""
    due: list[int | None] = [None] * (WORD_CYCLES - 1)
    async for _, _, valid, request in ctx.tick().sample(dut.requests.valid, dut.requests.p):
        word = None
        if valid:
            assert request.bank.bit_count() == 1
            row = request.place.row * config.banks + request.bank.bit_length() - 1
            value = rows.get(row, 0x5555)
            word = value >> WORD_BITS * request.place.word & (1 << WORD_BITS) - 1
        due.append(word)
        word = due.pop(0)
        ctx.set(dut.words.valid, word is not None)
        ctx.set(dut.words.p, 0xAAAA if word is None else word)


@pytest.mark.parametrize("build", range(len(BUILDS)))
def test_words_of_descriptors(build: int) -> None:
    """Check that the loader reads successive descriptors, whatever row and bank the first begins
    in."""
    config = BUILDS[build]
    rng = random.Random(build)
    dut = DescriptorLoader(config)
    size = 3 * descriptor_rows(config)
    last = n_rows(Space.WEIGHT, config) - size
    runs, rows = [], {}
    for n, entry in enumerate((2 * size + rng.randrange(config.banks), 3, last)):
        numbers = ((1, N_LEVELS, 3), (N_LEVELS,), (2, 1))[n]
        descriptors = [random_descriptor(rng, config, n_levels) for n_levels in numbers]
        runs.append((entry, descriptors))
        rows |= {entry + i: row for i, row in enumerate(image_of(descriptors, config))}
    words: list[tuple] = []

    async def memory(ctx):
        await banks(ctx, dut, config, rows)

    async def watch(ctx):
        trigger = ctx.tick().sample(
            dut.header_en, dut.header_word, dut.level_en, dut.level, dut.level_word, dut.word
        )
        async for _, _, header_en, header_word, level_en, level, level_word, word in trigger:
            assert not (header_en and level_en)
            if header_en:
                words.append(("header", header_word, word))
            if level_en:
                words.append((level, level_word, word))

    async def bench(ctx):
        for entry, descriptors in runs:
            ctx.set(dut.entry, entry)
            ctx.set(dut.go_to, 1)
            await ctx.tick()
            ctx.set(dut.entry, rng.randrange(last))
            ctx.set(dut.go_to, 0)
            for descriptor in descriptors:
                words.clear()
                await ctx.tick().repeat(rng.randrange(1, 4))
                assert not ctx.get(dut.loaded)
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
                n_levels = descriptor["header"]["n_levels"]
                n_words = HEADER_WORDS + LEVEL_WORDS * n_levels
                n_cycles = 0
                while not ctx.get(dut.loaded):
                    await ctx.tick()
                    n_cycles += 1
                assert n_cycles <= n_words + 2 * WORD_CYCLES + 3, "a word of a descriptor a cycle"
                await ctx.tick()
                raw = pack(Descriptor, descriptor)
                wanted = [
                    int.from_bytes(raw[i : i + WORD_BYTES], "little")
                    for i in range(0, n_words * WORD_BYTES, WORD_BYTES)
                ]
                names = [("header", i) for i in range(HEADER_WORDS)] + [
                    (i, n) for i in range(n_levels) for n in range(LEVEL_WORDS)
                ]
                assert words == [(*name, w) for name, w in zip(names, wanted, strict=True)]
                bits = sum(w << WORD_BITS * i for i, w in enumerate(wanted[:HEADER_WORDS]))
                assert ctx.get(dut.header.as_value()) == bits
                for _ in range(2 * WORD_CYCLES):  # nothing more is asked for, nothing arrives
                    assert not ctx.get(dut.requests.valid) and not ctx.get(dut.words.valid)
                    await ctx.tick()
                assert not ctx.get(dut.loaded) and len(words) == n_words

    simulate(dut, bench, background=[memory, watch])


class LoadedNest(wiring.Component):
    """Descriptor loader, connected to the loop nest that receives its words."""

    def __init__(self, config: Config):
        self.loader, self.nest = DescriptorLoader(config), LoopNest(config)
        super().__init__({"steps": Out(self.nest.steps.signature)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.loader, m.submodules.nest = loader, nest = self.loader, self.nest
        connect(m, nest.steps, flipped(self.steps))
        for name in (
            *("header", "word", "header_en", "header_word"),
            *("level_en", "level", "level_word"),
        ):
            m.d.comb += getattr(nest, name).eq(getattr(loader, name))
        return m


@pytest.mark.parametrize("build", [0, 1, 4])
def test_the_nest_is_ready_two_cycles_after_it_is_loaded(build: int) -> None:
    """Check that the loop nest may be started two cycles after ``loaded``, as the sequencer does.

    By then the state of the layer before has been cleared and the last word has been stored.
    """
    config = BUILDS[build]
    rng = random.Random(100 + build)
    dut = LoadedNest(config)
    shapes = [(3, 2, 4), (2,), (1,), (2, 3, 1, 2, 2, 1, 2, 2), (1, 5), (7,), (2, 1, 1, 3)]
    layers = []
    for n, counts in enumerate(shapes):
        # Every level moves the addresses by one, so that they count the iterations.
        header = {"n_levels": len(counts), "job_levels": 1, "weight": 100 * n, "target": 50}
        levels = [
            {"last": count - 1, "weight": 1, "target": 1, "slot": rng.randrange(2)}
            for count in counts
        ]
        layers.append({"header": header, "levels": levels + [{}] * (N_LEVELS - len(counts))})
    rows = {7 + i: row for i, row in enumerate(image_of(layers, config))}

    async def memory(ctx):
        await banks(ctx, dut.loader, config, rows)

    async def pulse(ctx, *signals):
        for value in (1, 0):
            for signal in signals:
                ctx.set(signal, value)
            if value:
                await ctx.tick()

    async def bench(ctx):
        ctx.set(dut.loader.entry, 7)
        await pulse(ctx, dut.loader.go_to)
        for n, counts in enumerate(shapes):
            await pulse(ctx, dut.loader.start, dut.nest.clear)
            await wait_until(ctx, dut.loader.loaded)
            await ctx.tick()
            await pulse(ctx, dut.nest.start)
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

    simulate(dut, bench, background=[memory])
