"""Tests of the loop nest, which generates the addresses of a layer, against nested loops in
Python."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace

import pytest

from hw.core.nest import FLAGS, LoopNest, Phase, address_widths
from hw.protocol import HEADER_WORDS, LEVEL_WORDS, WORD_BYTES, Header, Level, pack
from hw.spec import N_LEVELS, N_PLANES, Config
from tests.streams import get, simulate, stays_valid

CONFIG = Config(weight_depth=500, param_depth=256, spike_bytes=1024)
ADDRESSES = tuple(address_widths(CONFIG))
MASKS = ("job_levels", "time_levels", "pool_levels", "tail_levels")


@dataclass(frozen=True, kw_only=True)
class Nest:
    """Description of a loop nest: its loops, innermost first, and the base and strides of each
    address."""

    counts: list[int]
    strides: dict[str, list[int]]
    bases: dict[str, int]
    masks: dict[str, int]
    pixels: bool = False

    @staticmethod
    def random(rng: random.Random, counts: list[int], pixels: bool = False) -> Nest:
        n = len(counts)
        strides = {name: [rng.randrange(-20, 20) for _ in counts] for name in ADDRESSES}
        strides["slot"] = [rng.randrange(0, 2) for _ in counts]
        bases = {name: rng.randrange(60) for name in ADDRESSES} | {"slot": 0}
        masks = {name: rng.getrandbits(n) if rng.random() < 0.7 else 0 for name in MASKS}
        masks["time_levels"] = 1 << rng.randrange(n) if rng.random() < 0.8 else 0
        return Nest(counts=counts, strides=strides, bases=bases, masks=masks, pixels=pixels)

    def header_words(self) -> list[int]:
        bases = {name: base for name, base in self.bases.items() if name != "slot"}
        return words(Header, bases | self.masks | {"pixels": int(self.pixels)})

    def level_words(self) -> list[list[int]]:
        """Return the words of each level, with the increments computed from the strides."""
        levels = [{"last": count - 1} for count in self.counts]
        for name, strides in self.strides.items():
            inner = 0
            for level, count, stride in zip(levels, self.counts, strides, strict=True):
                level[name] = stride - inner
                inner += (count - 1) * stride
        return [words(Level, level) for level in levels]

    def steps(self, config: Config) -> list[dict[str, int]]:
        """Return the expected step of each iteration, computed from the loop indices."""
        widths = address_widths(config)
        levels = range(len(self.counts))

        def ends(index: tuple[int, ...], mask: int, last: bool) -> bool:
            at = [self.counts[i] - 1 if last else 0 for i in levels]
            return all(index[i] == at[i] for i in levels if mask >> i & 1)

        def phase(index: tuple[int, ...]) -> Phase:
            if not (self.pixels and config.pixels):
                return Phase.SPIKES
            n_first = N_PLANES // config.banks  # each bank has a plane of its own
            t = sum(index[i] for i in levels if self.masks["time_levels"] >> i & 1)
            if t < n_first:
                return Phase.PLANE
            return Phase.FIRST if t == n_first else Phase.LATER

        result = []
        for reverse in itertools.product(*(range(n) for n in reversed(self.counts))):
            index = reverse[::-1]
            step: dict[str, int] = {
                name: (base + sum(i * s for i, s in zip(index, self.strides[name], strict=True)))
                % (1 << widths[name])
                for name, base in self.bases.items()
            }
            step |= {
                "last": ends(index, self.masks["job_levels"], True),
                "end": ends(index, -1, True),
                "cut": ends(index, 1, True),
                "fresh": ends(index, self.masks["time_levels"], False),
                "pool_first": ends(index, self.masks["pool_levels"], False),
                "pool_last": ends(index, self.masks["pool_levels"], True),
                "tail": ends(index, self.masks["tail_levels"], True),
                "phase": phase(index),
            }
            result.append(step)
        return result


def words(layout: type, values: dict[str, int]) -> list[int]:
    raw = pack(layout, values)
    return [
        int.from_bytes(raw[i : i + WORD_BYTES], "little") for i in range(0, len(raw), WORD_BYTES)
    ]


async def load(ctx, dut: LoopNest, nest: Nest) -> None:
    """Clear the loop nest, write the words of its header and levels as the sequencer does, and
    start it."""
    ctx.set(dut.clear, 1)
    await ctx.tick()
    ctx.set(dut.clear, 0)
    ctx.set(dut.header_en, 1)
    header = nest.header_words()
    assert len(header) == HEADER_WORDS
    for i, word in enumerate(header):
        ctx.set(dut.header_word, i)
        ctx.set(dut.word, word)
        await ctx.tick()
    ctx.set(dut.header_en, 0)
    bits = sum(word << 32 * i for i, word in enumerate(header))
    ctx.set(dut.header, Header.from_bits(bits))
    ctx.set(dut.level_en, 1)
    for i, level in enumerate(nest.level_words()):
        assert len(level) == LEVEL_WORDS
        for n, word in enumerate(level):
            ctx.set(dut.level, i)
            ctx.set(dut.level_word, n)
            ctx.set(dut.word, word)
            await ctx.tick()
    ctx.set(dut.level_en, 0)
    ctx.set(dut.word, 0xFFFFFFFF)
    await ctx.tick()  # registers derived from the last word
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)


def check(nests: list[Nest], config: Config, rng: random.Random, stall: float, what: str) -> None:
    """Check that a loop nest yields exactly the steps that :meth:`Nest.steps` computes in Python.

    All ``nests`` are run on the same component, so that state left by an earlier one is noticed.
    ``what`` names the check in messages.
    """
    dut = LoopNest(config)

    async def bench(ctx):
        for number, nest in enumerate(nests):
            await load(ctx, dut, nest)
            for n, step in enumerate(nest.steps(config)):
                item = await get(ctx, dut.steps, rng=rng, stall=stall)
                got = {name: getattr(item, name) for name in (*ADDRESSES, *FLAGS, "phase")}
                assert got == step, f"{what}, nest {number} {nest}, iteration {n}"
            ctx.set(dut.steps.ready, 1)
            for _ in range(12):
                await ctx.tick()
                assert not ctx.get(dut.steps.valid), f"{what}: more iterations than loops"
            ctx.set(dut.steps.ready, 0)

    simulate(dut, bench, background=[stays_valid(dut.steps)])


@pytest.mark.parametrize("seed", range(8))
def test_equals_nested_loops(seed: int) -> None:
    rng = random.Random(seed)
    nests = [
        Nest.random(rng, [rng.choice((1, 1, 2, 3)) for _ in range(n_levels)])
        for n_levels in (N_LEVELS, rng.randrange(1, 5), 1, rng.randrange(4, N_LEVELS))
    ]
    check(nests, CONFIG, rng, 0.3 * (seed % 2), f"seed {seed}")


def test_longest_loop() -> None:
    """Check a loop with the largest number of iterations that a descriptor can encode."""
    nest = Nest.random(random.Random(5), [4096, 1])
    check([nest], CONFIG, random.Random(0), 0, "4096 iterations")


@pytest.mark.parametrize("banks", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_phases_of_pixels(seed: int, banks: int) -> None:
    """Check the phases of a layer that takes pixels: bit-planes, first timestep, later timesteps.

    Each bank takes a bit-plane of its own, so that one iteration covers ``banks`` planes.
    """
    rng = random.Random(100 + 10 * banks + seed)
    config = replace(CONFIG, banks=banks, lanes=64)
    inside = [rng.randrange(1, 4) for _ in range(rng.randrange(0, 3))]
    outside = [rng.randrange(1, 4) for _ in range(rng.randrange(0, 3))]
    nests = []
    for pixels in (True, False, True):
        counts = [*inside, N_PLANES // banks + rng.randrange(1, 4), *outside]
        nest = Nest.random(rng, counts, pixels)
        masks = nest.masks | {"time_levels": 1 << len(inside)}
        nests.append(replace(nest, masks=masks))
    phases = [step["phase"] for step in nests[0].steps(config)]
    n_neurons = math.prod(inside) * math.prod(outside)
    assert phases.count(Phase.PLANE) == N_PLANES // banks * n_neurons
    assert phases.count(Phase.FIRST) == n_neurons
    check(nests, config, rng, 0.2 * (seed % 2), f"seed {seed}, {banks} banks")


def test_no_phases_without_pixels() -> None:
    rng = random.Random(7)
    nest = replace(Nest.random(rng, [2, 9]), pixels=True)
    config = replace(CONFIG, pixels=False)
    assert {step["phase"] for step in nest.steps(config)} == {Phase.SPIKES}
    check([nest], config, rng, 0, "no pixels")


def test_tail_without_channel_groups() -> None:
    """Check a layer with a single channel group: it has no loop over groups, and ``tail`` is always
    set."""
    rng = random.Random(8)
    nest = Nest.random(rng, [3, 2])
    masks = nest.masks | {"tail_levels": 0}
    nest = replace(nest, masks=masks)
    assert all(step["tail"] for step in nest.steps(CONFIG))
    check([nest], CONFIG, rng, 0, "no groups")


def test_one_iteration_per_cycle() -> None:
    dut = LoopNest(CONFIG)
    nest = Nest.random(random.Random(3), [2] * N_LEVELS)
    arrivals = []

    async def bench(ctx):
        ctx.set(dut.steps.ready, 1)
        await load(ctx, dut, nest)
        for cycle in range(2**N_LEVELS + 10):
            _, _, valid = await ctx.tick().sample(dut.steps.valid)
            if valid:
                arrivals.append(cycle)

    simulate(dut, bench)
    assert len(arrivals) == 2**N_LEVELS
    assert arrivals[-1] - arrivals[0] == 2**N_LEVELS - 1


def test_start_while_running_is_ignored() -> None:
    dut = LoopNest(CONFIG)
    nest = Nest.random(random.Random(4), [3, 4])

    async def bench(ctx):
        await load(ctx, dut, nest)
        for n, step in enumerate(nest.steps(CONFIG)):
            ctx.set(dut.start, 0 < n < 8)
            item = await get(ctx, dut.steps, rng=random.Random(n), stall=0.2)
            assert {name: getattr(item, name) for name in ADDRESSES} == {
                name: step[name] for name in ADDRESSES
            }

    simulate(dut, bench)
