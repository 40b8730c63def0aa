"""Tests of the SDRAM chips' data, of their timing in clock cycles, and of where rows are placed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from amaranth import Module, Signal
from amaranth.sim import Simulator

from hw.offchip.layout import PORTS, RowLayout
from hw.offchip.timing import (
    CHIPS,
    REFRESH_BATCH,
    ULX3S_SDRAM,
    SdramChip,
    timing_cycles,
)
from hw.spec import SpecError

CLOCKS = (30e6, 48.6e6, 60e6, 75e6, 96e6, 100e6, 120e6, 133e6)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("clk_hz", CLOCKS)
def test_cycles_cover_the_times_of_the_data_sheet(chip: SdramChip, clk_hz: float) -> None:
    t = timing_cycles(chip, int(clk_hz))
    period = 1e9 / clk_hz
    pairs = {"rcd": "t_rcd", "rp": "t_rp", "ras": "t_ras", "rrd": "t_rrd", "rfc": "t_rfc"}
    for cycles, time in (*pairs.items(), ("wr", "t_wr"), ("power_up", "power_up")):
        assert getattr(t, cycles) * period >= getattr(chip, time) - 1e-3
        if cycles not in ("ras", "wr"):
            assert (getattr(t, cycles) - 1) * period < getattr(chip, time)
    assert (t.ras + t.rp) * period >= chip.t_rc
    assert t.wr >= 2
    # A batch may begin just before the refresh period does, and the last one a whole batch late.
    n_late = chip.n_refreshes + 2 * REFRESH_BATCH
    assert n_late * t.refresh_interval * period <= chip.refresh_period
    assert t.refresh_interval * period * chip.n_refreshes > 0.98 * chip.refresh_period


def test_literal_cycles_of_the_ulx3s() -> None:
    t = timing_cycles(ULX3S_SDRAM, 75_000_000)
    assert (t.rcd, t.rp, t.ras, t.rc, t.rrd, t.rfc, t.wr, t.mrd) == (2, 2, 4, 5, 2, 5, 2, 2)
    assert (t.cas_latency, t.refresh_interval, t.power_up) == (3, 584, 15_000)
    assert [chip.n_bytes >> 20 for chip in CHIPS.values()] == [32, 8, 8]


def test_clocks_and_latencies_that_the_chip_lacks_are_refused() -> None:
    with pytest.raises(SpecError, match=r"use at most 133333333 Hz$"):
        timing_cycles(ULX3S_SDRAM, 140_000_000)
    with pytest.raises(SpecError, match="at most 100000000 Hz or a CAS latency of 3 cycles"):
        timing_cycles(ULX3S_SDRAM, 120_000_000, cas_latency=2)
    with pytest.raises(SpecError, match=r"CAS latency of 1 .* use one of \[2, 3\]"):
        timing_cycles(ULX3S_SDRAM, 20_000_000, cas_latency=1)
    with pytest.raises(SpecError, match="too slow"):
        timing_cycles(ULX3S_SDRAM, 200_000)
    with pytest.raises(SpecError, match="power of two"):
        replace(ULX3S_SDRAM, rows=5000)
    with pytest.raises(SpecError, match="at most 1024"):
        replace(ULX3S_SDRAM, columns=2048)


@pytest.mark.parametrize("n_ports", PORTS)
@pytest.mark.parametrize("row_bits", [64, 128, 256])
@pytest.mark.parametrize("name", ["ulx3s", "colorlight"])
def test_rows_fill_the_chip_and_gateware_agrees(name: str, n_ports: int, row_bits: int) -> None:
    chip = replace(CHIPS[name], rows=8)
    layout = RowLayout(chip=chip, n_ports=n_ports, row_bits=row_bits)
    used = set()
    row = Signal(range(layout.n_rows))
    fields = [layout.fields(port, row) for port in range(n_ports)]

    async def compare(ctx) -> None:
        for index in range(layout.n_rows):
            ctx.set(row, index)
            for port, values in enumerate(fields):
                at = layout.place(port, index)
                got = {key: ctx.get(value) for key, value in values.items()}
                slot, rest = divmod(at.column, layout.row_words)
                assert got == {"bank": at.bank, "page": at.page, "slot": slot} and rest == 0
                first = layout.word_address(port, index)
                used.update(range(first, first + layout.row_words))
                if n_ports <= 4:  # no two ports share a bank
                    assert at.bank % n_ports == port

    module = Module()
    module.d.comb += Signal().eq(row[0])
    simulator = Simulator(module)
    simulator.add_testbench(compare)
    simulator.run()
    assert used == set(range(chip.n_bytes * 8 // chip.data_bits))
    assert math.prod((n_ports, layout.n_rows, row_bits)) == 8 * chip.n_bytes


def test_layouts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match=r"3 ports .* use one of \(1, 2, 4, 8\)"):
        RowLayout(chip=ULX3S_SDRAM, n_ports=3, row_bits=128)
    for row_bits in (16, 96, 16384):
        with pytest.raises(SpecError, match=f"{row_bits} bits .* power of two from 32 to 8192"):
            RowLayout(chip=ULX3S_SDRAM, n_ports=1, row_bits=row_bits)
    layout = RowLayout(chip=ULX3S_SDRAM, n_ports=4, row_bits=256)
    assert layout.n_rows == 32 << 20 >> 2 >> 5
    with pytest.raises(SpecError, match="row 262144 of port 0 does not exist"):
        layout.place(0, layout.n_rows)
