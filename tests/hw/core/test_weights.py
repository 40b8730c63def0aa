"""Tests of weight memory in block RAM and in SPRAM: reads return what was written.

An *event* of the scanner asks for one row of weights, ends a job, or does both. A *job* is one
output position, group of ``lanes`` output channels and timestep.
"""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from amaranth import Elaboratable, Module, Signal, Value
from amaranth.hdl import Fragment
from amaranth.lib import memory

import hw.core.weights
from hw.core.nest import WORD_BITS
from hw.core.weights import WeightMemory, spram_grid
from hw.parts.memories import SPRAM_BITS, SPRAM_DEPTH
from hw.spec import Config, SpecError
from tests.streams import simulate

CONFIG = Config(
    fire_lanes=4, lanes=16, weight_bits=4, weight_depth=SPRAM_DEPTH
)  # 64 bits per row, in four SPRAMs side by side
DEEP = replace(CONFIG, lanes=8, weight_depth=2 * SPRAM_DEPTH)  # two SPRAMs wide and two deep
NARROW = replace(
    CONFIG, lanes=8, weight_bits=4, weight_depth=2 * SPRAM_DEPTH - 5
)  # the last five rows of the SPRAMs are not used
BANK = replace(CONFIG, banks=2)
LARGE = Config(
    fire_lanes=4, lanes=32, weight_depth=3000
)  # four groups of columns, each in block RAMs of two shapes


class Spram(Elaboratable):
    """Model of the primitive SB_SPRAM256KA, after its data sheet.

    It has one port, whose output is undefined after a write; in this model all output bits are then
    1.
    """

    def __init__(self, cell: str, **ports: object):
        assert cell == "SB_SPRAM256KA"
        self.port = {name.partition("_")[2]: Value.cast(value) for name, value in ports.items()}
        constants = {"STANDBY": 0, "SLEEP": 0, "POWEROFF": 1, "MASKWREN": 15}
        for name, value in constants.items():
            assert self.port[name].value == value
        assert len(self.port["ADDRESS"]) == 14 and len(self.port["DATAIN"]) == SPRAM_BITS

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = memory.Memory(shape=SPRAM_BITS, depth=SPRAM_DEPTH, init=[])
        read, write = words.read_port(), words.write_port()
        port = self.port
        wrote = Value.cast(port["CHIPSELECT"] & port["WREN"])
        undefined = Signal()
        with m.If(port["CHIPSELECT"]):
            m.d.sync += undefined.eq(wrote)
        m.d.comb += [
            read.addr.eq(port["ADDRESS"]),
            read.en.eq(port["CHIPSELECT"] & ~port["WREN"]),
            write.addr.eq(port["ADDRESS"]),
            write.data.eq(port["DATAIN"]),
            write.en.eq(wrote),
            port["DATAOUT"].eq(read.data | undefined.replicate(SPRAM_BITS)),
        ]
        return m


def built(config: Config, device: str, monkeypatch) -> tuple[WeightMemory, Fragment]:
    """Return a weight memory, and the fragment that Amaranth elaborates from it for ``device``."""
    monkeypatch.setattr(hw.core.weights, "Instance", Spram)
    dut = WeightMemory(config)
    return dut, Fragment.get(dut, SimpleNamespace(device=device))


def rows_to_use(config: Config, rng: random.Random) -> list[int]:
    """Return the rows at the ends of block RAMs, of SPRAMs and of the memory, and some others."""
    depth = config.weight_depth
    ends = (0, 2048, SPRAM_DEPTH)
    return [(end + n) % depth for end in ends for n in (-1, 0, 1)] + rng.sample(range(depth), 5)


def random_event(config: Config, rng: random.Random, rows: list[int]) -> dict[str, int]:
    """Return a random event.

    Most events have an active input and ask for one of ``rows``; the others only end a job.
    """
    return {
        "weight": rng.choice(rows),
        "add": rng.random() < 0.7,
        "last": rng.random() < 0.4,
        "tail": rng.randrange(2),
    }


async def write(ctx, dut: WeightMemory, rows: list[int], rng: random.Random) -> dict[int, int]:
    """Write random weights into ``rows``, one row per cycle, and return them."""
    contents = {row: rng.getrandbits(len(dut.write.p.data)) for row in rows}
    ctx.set(dut.write.valid, 1)
    for row, value in contents.items():
        ctx.set(dut.write.p, {"row": row, "data": value})
        await ctx.tick()
    ctx.set(dut.write.valid, 0)
    await ctx.tick().repeat(3)
    return contents


def check_row(ctx, dut: WeightMemory, wanted: dict[str, int] | None, what: str) -> None:
    """Check the row that comes out in this cycle.

    ``wanted`` has the expected flags and weights; a value None stands for any. If ``wanted`` itself
    is None, no row may come out. ``what`` names the check in messages.
    """
    row = ctx.get(dut.rows.p)
    assert ctx.get(dut.rows.valid) == (wanted is not None), what
    if wanted is None:
        assert (row.add, row.last) == (0, 0), f"{what}: flags without an event"
        return
    for name in ("add", "last", "weights"):
        if wanted[name] is not None:
            assert getattr(row, name) == wanted[name], f"{what}, {name}"


BUILDS = pytest.mark.parametrize(
    "config", [CONFIG, DEEP, NARROW, BANK], ids=["wide", "deep", "narrow", "bank"]
)
DEVICES = ("LFE5U-85F", "iCE40UP5K")


@pytest.mark.parametrize(
    ("config", "device"),
    [
        *((config, device) for config in (CONFIG, DEEP, NARROW, BANK) for device in DEVICES),
        (LARGE, "LFE5U-85F"),
    ],
)
def test_what_is_read_is_what_was_written(config: Config, device: str, monkeypatch) -> None:
    """Check that rows are read as they were written, and that events without an active input have
    weights 0."""
    dut, fragment = built(config, device, monkeypatch)
    rng = random.Random(1)
    used = rows_to_use(config, rng)

    async def bench(ctx) -> None:
        contents: dict[int, int] = {}
        under_way: list[dict | None] = [None] * config.weight_latency
        just_written = None
        n_checked = 0
        ctx.set(dut.rows.ready, 1)
        for cycle in range(400):
            writes, reads = rng.random() < 0.2, rng.random() < 0.7
            row = rng.choice(used)
            value = rng.getrandbits(config.lanes * config.weight_bits)
            ctx.set(dut.write.valid, writes)
            ctx.set(dut.write.p, {"row": row, "data": value})
            event = random_event(config, rng, used)
            ctx.set(dut.events.valid, reads)
            ctx.set(dut.events.p, event)
            assert ctx.get(dut.events.ready)
            if writes:  # it may spoil what has been read in the last two cycles
                for other in under_way[-2:]:
                    if other is not None and other["add"]:
                        other["weights"] = None
            weights = contents.get(event["weight"])
            if writes or event["weight"] == just_written:
                weights = None
            under_way.append(event | {"weights": weights if event["add"] else 0} if reads else None)
            just_written = row if writes else None
            if writes:
                contents[row] = value
            await ctx.tick()
            wanted = under_way[-config.weight_latency]
            check_row(ctx, dut, wanted, f"cycle {cycle}")
            n_checked += bool(wanted is not None and wanted["weights"])
        assert n_checked > 40

    simulate(fragment, bench)


@pytest.mark.parametrize(
    "config",
    [CONFIG, DEEP, NARROW, BANK, replace(CONFIG, sum_queue=0), replace(DEEP, sum_queue=0)],
    ids=["wide", "deep", "narrow", "bank", "wide without queue", "deep without queue"],
)
@pytest.mark.parametrize("device", DEVICES)
def test_rows_wait_and_are_dropped(config: Config, device: str, monkeypatch) -> None:
    """Check that a row waits until the next stage is ready, and that an abort drops all rows in the
    pipeline.

    An event that arrives in the cycle of the abort is dropped, too; an event in the next cycle is
    kept.
    """
    dut, fragment = built(config, device, monkeypatch)
    # Lanes without a queue of sums look at `add`.
    zeros = 0 if config.sum_queue or device != "iCE40UP5K" else None
    rng = random.Random(2)
    used = rows_to_use(config, rng)

    async def bench(ctx) -> None:
        contents = await write(ctx, dut, used, rng)
        stages: list[dict | None] = [None] * config.weight_latency
        n_aborts = n_rows = 0
        for cycle in range(400):
            aborted, ready, valid = (rng.random() < p for p in (0.06, 0.6, 0.8))
            event = random_event(config, rng, used)
            ctx.set(dut.aborted, aborted)
            ctx.set(dut.rows.ready, ready)
            ctx.set(dut.events.valid, valid)
            ctx.set(dut.events.p, event)
            assert ctx.get(dut.events.ready) == ready
            check_row(ctx, dut, stages[-1], f"cycle {cycle}")
            n_rows += ready and stages[-1] is not None
            n_aborts += aborted and None not in stages
            if aborted:
                stages = [None] * config.weight_latency
            elif ready:
                weights = contents[event["weight"]] if event["add"] else zeros
                stages = [event | {"weights": weights} if valid else None, *stages[:-1]]
            await ctx.tick()
        assert n_rows > 80 and n_aborts > 3

    simulate(fragment, bench)


@BUILDS
@pytest.mark.parametrize("device", DEVICES)
def test_words_of_rows(config: Config, device: str, monkeypatch) -> None:
    """Check that a 32-bit word can be read in each cycle, and that the lanes receive no row for
    it."""
    dut, fragment = built(config, device, monkeypatch)
    rng = random.Random(3)
    used = rows_to_use(config, rng)
    n_words = config.lanes * config.weight_bits // WORD_BITS

    async def bench(ctx) -> None:
        contents = await write(ctx, dut, used, rng)
        ctx.set(dut.rows.ready, 1)
        ctx.set(dut.events.p, {"weight": used[0], "add": 1, "last": 1})  # not valid
        under_way: list[int | None] = [None] * config.weight_latency
        for _ in range(150):
            asks = rng.random() < 0.8
            row, word = rng.choice(used), rng.randrange(n_words)
            ctx.set(dut.word.valid, asks)
            ctx.set(dut.word.p, {"row": row, "word": word})
            wanted = contents[row] >> word * WORD_BITS & (1 << WORD_BITS) - 1
            under_way.append(wanted if asks else None)
            await ctx.tick()
            check_row(ctx, dut, None, "a word")
            if (wanted := under_way[-config.weight_latency]) is not None:
                assert ctx.get(dut.word_data) == wanted

    simulate(fragment, bench)


@pytest.mark.parametrize(("device", "n_registers"), [("LFE5U-85F", 0), ("", 2)])
def test_halves_of_rows(device: str, n_registers: int, monkeypatch) -> None:
    """Check that an address that counts halves of rows brings its half to the lower lanes, and that
    any other brings the whole row.

    A row comes later by a cycle for each register.
    """
    config = replace(LARGE, half_rows=1, weight_registers=n_registers)
    dut, fragment = built(config, device, monkeypatch)
    assert config.weight_latency == 3 + n_registers and config.half_row == 1 << 13
    rng = random.Random(4)
    n_bits = config.lanes * config.weight_bits // 2
    lower = (1 << n_bits) - 1
    used = rows_to_use(config, rng)

    async def bench(ctx) -> None:
        contents = await write(ctx, dut, used, rng)
        ctx.set(dut.rows.ready, 1)
        under_way: list[dict | None] = [None] * config.weight_latency
        for cycle in range(150):
            row, halved, upper, add = rng.choice(used), *(rng.randrange(2) for _ in range(3))
            weight = config.half_row + 2 * row + upper if halved else row
            ctx.set(dut.events.valid, 1)
            ctx.set(dut.events.p, event := {"weight": weight, "add": add, "last": 1, "tail": 0})
            wanted = contents[row]
            if halved and upper:
                wanted = (wanted >> n_bits << n_bits) | (wanted >> n_bits & lower)
            under_way.append(event | {"weights": wanted * add})
            await ctx.tick()
            check_row(ctx, dut, under_way[-config.weight_latency], f"cycle {cycle}")

    simulate(fragment, bench)


def test_rows_that_do_not_fit_are_refused() -> None:
    assert (
        spram_grid(CONFIG) == (4, 1) and spram_grid(DEEP) == (2, 2) and spram_grid(NARROW) == (2, 2)
    )
    with pytest.raises(SpecError, match="weight_depth = 16385"):
        spram_grid(replace(CONFIG, weight_depth=SPRAM_DEPTH + 1))
    with pytest.raises(SpecError, match=r"half_rows = 1 is not supported .* use 0"):
        spram_grid(replace(CONFIG, half_rows=1))
