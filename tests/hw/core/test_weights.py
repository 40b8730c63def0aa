"""Tests of weight memory in block RAM and in SPRAM: reads return what was written."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from amaranth import Elaboratable, Module, Signal, Value
from amaranth.hdl import Fragment
from amaranth.lib import memory

import hw.core.weights
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


class Spram(Elaboratable):
    """Model of SB_SPRAM256KA after its data sheet.

    It has one port, whose output is undefined after a write; here all of its bits are 1 then.
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


@pytest.mark.parametrize("config", [CONFIG, DEEP, NARROW], ids=["wide", "deep", "narrow"])
@pytest.mark.parametrize("device", ["LFE5U-85F", "iCE40UP5K"])
def test_what_is_read_is_what_was_written(config: Config, device: str, monkeypatch) -> None:
    monkeypatch.setattr(hw.core.weights, "Instance", Spram)
    dut = WeightMemory(config)
    rng = random.Random(1)
    row_bits = config.lanes * config.weight_bits
    used = [0, 1, SPRAM_DEPTH - 1, config.weight_depth - 1, *rng.sample(range(SPRAM_DEPTH), 6)]
    used += [row % config.weight_depth for row in (SPRAM_DEPTH, SPRAM_DEPTH + 1)]

    async def bench(ctx) -> None:
        contents: dict[int, int] = {}
        under_way: list[int | None] = [None] * dut.LATENCY
        just_written = None
        for _ in range(300):
            writes, reads = rng.random() < 0.4, rng.random() < 0.7
            row = rng.choice(used)
            ctx.set(dut.write_en, writes)
            ctx.set(dut.write_row, row)
            ctx.set(dut.write_data, value := rng.getrandbits(row_bits))
            ctx.set(dut.move, 1)
            ctx.set(dut.read_en, reads)
            ctx.set(dut.read_row, read_row := rng.choice(used))
            defined = reads and not writes and read_row != just_written
            if writes:
                under_way[-2:] = [None, None]
            under_way.append(contents.get(read_row) if defined else None)
            just_written = row if writes else None
            if writes:
                contents[row] = value
            await ctx.tick()
            if (expected := under_way[-dut.LATENCY]) is not None:
                assert ctx.get(dut.read_data) == expected

    simulate(Fragment.get(dut, SimpleNamespace(device=device)), bench)


def test_rows_that_do_not_fit_are_refused() -> None:
    assert (
        spram_grid(CONFIG) == (4, 1) and spram_grid(DEEP) == (2, 2) and spram_grid(NARROW) == (2, 2)
    )
    with pytest.raises(SpecError, match="weight_depth = 16385"):
        spram_grid(replace(CONFIG, weight_depth=SPRAM_DEPTH + 1))
