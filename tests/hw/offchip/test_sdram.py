"""Tests of the SDRAM controller against a model that checks every timing rule."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from hw.offchip.sdram import SdramRows
from hw.offchip.timing import CHIPS, SdramChip
from sim.sdram_model import SdramModel, sdram_bench
from tests.streams import get, put, simulate, stays_valid


def quick(name: str, **changes: object) -> SdramChip:
    """Return a chip that powers up quickly and has few pages, so that a test visits many twice."""
    return replace(CHIPS[name], power_up=500, **changes)


def some_rows(dut: SdramRows, rng: random.Random, n: int) -> list[int]:
    """Return ascending rows with gaps, and some jumps to other pages."""
    rows, row = [], 0
    for _ in range(n):
        row += rng.choice((1, 1, 1, 2, 5, dut.layout.slots))
        if rng.random() < 0.03:
            row = rng.randrange(dut.layout.n_rows)
        rows.append(row := row % dut.layout.n_rows)
    return rows


def stored(model: SdramModel, dut: SdramRows, port: int, row: int) -> int:
    """Return the contents of a row in the model."""
    layout, width = dut.layout, dut.layout.chip.data_bits
    first = layout.word_address(port, row)
    return sum(model.peek(first + n) << n * width for n in range(layout.row_words))


@pytest.mark.parametrize(
    ("name", "n_ports", "row_bits", "clk_hz", "latency"),
    [
        ("ulx3s", 1, 256, 75e6, 0),
        ("ulx3s", 2, 128, 133e6, 1),
        ("ulx3s", 4, 64, 60e6, 2),
        ("ulx3s", 8, 256, 120e6, 0),
        ("tang-nano-20k", 1, 64, 48.6e6, 0),
        ("colorlight-i5", 2, 128, 142e6, 3),
        ("colorlight-i5", 8, 64, 75e6, 0),
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
    asked = [some_rows(dut, rng, 60) for _ in range(n_ports)]
    # Some rows are written before the ports read them, others that no port reads meanwhile.
    others = {(p, layout.n_rows - 1 - p): rng.getrandbits(row_bits) for p in range(n_ports)}
    written = {
        (rng.randrange(n_ports), rng.choice(asked[0])): rng.getrandbits(row_bits) for _ in range(12)
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
