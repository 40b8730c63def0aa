"""Tests of the SDRAM controller against a model that checks every timing rule."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from hw.offchip.layout import RowLayout
from hw.offchip.sdram import SdramRows
from hw.offchip.timing import CHIPS, SdramChip
from sim.sdram_bench import active_rows, measure
from sim.sdram_model import SdramError, SdramModel, sdram_bench
from tests.streams import get, put, simulate, stays_valid


def quick(name: str, **changes: object) -> SdramChip:
    """Return the chip ``name`` with a short power-up time and few pages, and with ``changes``.

    With few pages, a test visits many of them twice.
    """
    return replace(CHIPS[name], **{"power_up": 500, **changes})


def some_rows(dut: SdramRows, rng: random.Random, n: int) -> list[int]:
    """Return ``n`` random row indices: ascending with gaps, and sometimes a jump to another
    page."""
    rows, row = [], 0
    for _ in range(n):
        row += rng.choice((1, 1, 1, 2, 5, dut.layout.slots))
        if rng.random() < 0.03:
            row = rng.randrange(dut.layout.n_rows)
        rows.append(row := row % dut.layout.n_rows)
    return rows


def stored(model: SdramModel, dut: SdramRows, port: int, row: int) -> int:
    """Return the contents of a port's row in the model's memory, as one integer."""
    layout, width = dut.layout, dut.layout.chip.data_bits
    first = layout.word_address(port, row)
    return sum(model.peek(first + n) << n * width for n in range(layout.row_words))


@pytest.mark.parametrize(
    ("name", "n_ports", "row_bits", "clk_hz", "latency"),
    [
        ("ulx3s", 1, 256, 75e6, 0),
        ("ulx3s", 4, 64, 133e6, 1),
        ("tang", 1, 64, 48.6e6, -1),
        pytest.param("colorlight", 2, 128, 142e6, 2, marks=pytest.mark.slow),
        pytest.param("ulx3s", 8, 256, 120e6, 0, marks=pytest.mark.slow),
        pytest.param("colorlight", 8, 64, 75e6, 3, marks=pytest.mark.slow),
    ],
)
def test_ports_and_host_get_what_was_written(
    name: str, n_ports: int, row_bits: int, clk_hz: float, latency: int
) -> None:
    rng = random.Random(f"{name}{n_ports}")
    dut = SdramRows(
        quick(name), int(clk_hz), n_ports=n_ports, row_bits=row_bits, read_latency=latency
    )
    layout = dut.layout
    model = SdramModel(dut.layout.chip, int(clk_hz), seed=n_ports)
    asked = [some_rows(dut, rng, 50) for _ in range(n_ports)]
    # Some rows are written before the ports read them, others that no port reads meanwhile.
    others = {(p, layout.n_rows - 1 - p): rng.getrandbits(row_bits) for p in range(n_ports)}
    written = {
        (rng.randrange(n_ports), rng.choice(asked[0])): rng.getrandbits(row_bits) for _ in range(8)
    }
    ports_done = []

    starts = []

    async def host(ctx) -> None:
        stalls = random.Random(1)
        for rows in (written, others):
            items = [{"port": p, "row": r, "data": d} for (p, r), d in rows.items()]
            await put(ctx, dut.write, items, rng=stalls, stall=0.1)
            starts.append(True)
        for (port, row), contents in (written | others).items():
            await put(ctx, dut.read, [{"port": port, "row": row}], rng=stalls)
            assert await get(ctx, dut.read_row, rng=stalls) == contents
        assert ctx.get(dut.ready)

    def requests(port: int):
        async def bench(ctx) -> None:
            while not starts:
                await ctx.tick()
            await put(ctx, dut.requests[port], asked[port], rng=random.Random(port), stall=0.05)

        return bench

    def rows(port: int):
        async def bench(ctx) -> None:
            stalls = random.Random(port)
            got = [
                await get(ctx, dut.rows[port], rng=stalls, stall=0.9 if n % 30 < 6 else 0.1)
                for n in range(len(asked[port]))
            ]
            for row, contents in zip(asked[port], got, strict=True):
                assert contents == stored(model, dut, port, row)
            ports_done.append(port)

        return bench

    simulate(
        dut,
        host,
        *(requests(port) for port in range(n_ports)),
        *(rows(port) for port in range(n_ports)),
        background=[sdram_bench(model, dut.pins, latency), *map(stays_valid, dut.rows)],
        max_ticks=40_000,
    )
    assert len(ports_done) == n_ports


CLK_HZ = 100_000_000


@pytest.mark.parametrize(
    ("slower", "rule"),
    [
        ({"t_rcd": 90}, "tRCD"),
        ({"t_rp": 60}, "tRP"),
        ({"t_ras": 150}, "tRAS"),
        ({"t_rc": 200}, "tRC"),
        ({"t_rrd": 250}, "tRRD"),
        ({"t_rfc": 80}, "tRFC"),
        ({"t_wr": 200}, "tWR"),
        ({"t_mrd_cycles": 9}, "cycles after the mode was set"),
        ({"power_up": 20e3}, "power-up"),
        ({"n_refreshes": 400_000}, "refreshes in"),
        ({"rows": 2}, "page . does not exist"),
        ({"t_ck": {2: 12, 3: 12}}, "too fast"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_model_refuses_the_timing_of_a_faster_chip(slower: dict[str, float], rule: str) -> None:
    chip = quick("ulx3s", rows=8)
    dut = SdramRows(chip, CLK_HZ, n_ports=1, row_bits=64)
    slots = dut.layout.slots
    # Pages of different banks, and different pages of the same bank.
    rows = [n * slots for n in (0, 1, 2, 5, 1, 9, 2, 0, 4, 8, 12)]

    async def bench(ctx) -> None:
        await put(ctx, dut.write, [{"row": n} for n in rows], rng=random.Random(), stall=0)
        ctx.set(dut.rows[0].ready, 1)
        await put(ctx, dut.requests[0], rows * 4, rng=random.Random(), stall=0)

    model = SdramModel(replace(chip, **slower), CLK_HZ)
    with pytest.raises(SdramError, match=rule):
        simulate(dut, bench, background=[sdram_bench(model, dut.pins)])


def test_abort_drops_rows_and_nothing_else() -> None:
    chip = quick("ulx3s")
    dut = SdramRows(chip, CLK_HZ, n_ports=1, row_bits=64)
    model = SdramModel(chip, CLK_HZ)
    rng = random.Random(4)
    n_aborts = 25
    kept = []

    async def port(ctx) -> None:
        await ctx.tick().until(dut.ready)
        for n in range(n_aborts):
            # After each abort the first row that comes is the first one asked for since then.
            for row in range(1000 * n, 1000 * n + rng.randrange(12)):
                await put(ctx, dut.requests[0], [row], rng=rng, stall=0)
            ctx.set(dut.rows[0].ready, rng.randrange(2))
            await ctx.tick().repeat(1 + rng.randrange(25))
            ctx.set(dut.rows[0].ready, 0)
            ctx.set(dut.aborted, 1)
            await ctx.tick()
            ctx.set(dut.aborted, 0)
            row, start = rng.randrange(dut.layout.n_rows), model.cycle
            await put(ctx, dut.requests[0], [row], rng=rng, stall=0)
            assert await get(ctx, dut.rows[0], rng=rng) == stored(model, dut, 0, row)
            kept.append(model.cycle - start)

    simulate(dut, port, background=[sdram_bench(model, dut.pins)])
    assert len(kept) == n_aborts
    assert max(kept) < 250  # no bank is kept for a request that was dropped


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_ports", "row_bits"),
    [("ulx3s", 1, 256), ("ulx3s", 4, 128), ("ulx3s", 8, 64), ("colorlight", 2, 128)],
)
def test_bus_brings_rows_97_percent_of_the_time(name: str, n_ports: int, row_bits: int) -> None:
    layout = RowLayout(chip=CHIPS[name], n_ports=n_ports, row_bits=row_bits)
    rng = random.Random(5)
    rows = [list(active_rows(0.2, 288 // n_ports, 100, rng)) for _ in range(n_ports)]
    use = measure(layout, 75_000_000, rows)
    assert use.done and use.wrong_words == 0 and use.violations == 0
    assert use.words == sum(map(len, rows)) * layout.row_words
    assert use.transfers == use.words and use.refreshes > 0
    assert use.share >= 0.97
    # The model counts violations: this chip needs more time than the controller gives it.
    slow = replace(CHIPS[name], t_rcd=CHIPS[name].t_rcd + 20)
    assert measure(layout, 75_000_000, rows, model=slow).violations > 0
