"""Tests of the UART at several divisors, with clocks that differ and with faulty bits on the
line."""

import random

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hw.link.uart import UartReceiver, UartTransmitter
from tests.streams import get, put, simulate, stays_valid

DIVISORS = (4, 5, 7, 16)


def line_bits(byte: int, stop: int = 1) -> list[int]:
    return [0, *(byte >> i & 1 for i in range(8)), stop]


class Event(wiring.Component):
    """UART receiver with a counter for each of its error signals, which are high for one cycle per
    error."""

    overruns: Out(8)
    framing_errors: Out(8)
    breaks: Out(8)

    def __init__(self, receiver: UartReceiver):
        self.receiver = receiver
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = self.receiver
        m.d.sync += [
            self.overruns.eq(self.overruns + self.receiver.overrun),
            self.framing_errors.eq(self.framing_errors + self.receiver.framing_error),
            self.breaks.eq(self.breaks + self.receiver.line_break),
        ]
        return m


async def send_line(ctx, rx, bits, ticks_per_bit: float, phase: float = 0.0) -> float:
    """Drive the line with bits of ``ticks_per_bit`` clock cycles each, which need not be a whole
    number.

    A bit ends at a clock edge, up to a cycle early. ``phase`` is the fraction of a cycle that is
    left over from the bits before; return the fraction that is left over at the end.
    """
    for bit in bits:
        ctx.set(rx, bit)
        phase += ticks_per_bit
        await ctx.tick().repeat(int(phase))
        phase -= int(phase)
    return phase


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("mismatch", (-0.03, 0.0, 0.03))
def test_receiver_takes_back_to_back_bytes(divisor, mismatch):
    rng = random.Random(divisor)
    sent = [rng.randrange(256) for _ in range(20)] + [0x00, 0xFF, 0x55, 0xAA]
    dut = UartReceiver()
    received = []

    async def line(ctx):
        ctx.set(dut.divisor_less_1, divisor - 1)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20)
        phase = 0.0
        for byte in sent:
            bits = line_bits(byte)
            phase = await send_line(ctx, dut.rx, bits, divisor * (1 + mismatch), phase)
            if rng.random() < 0.2:
                await ctx.tick().repeat(rng.randrange(1, 30))
        ctx.set(dut.rx, 1)

    async def bytes_out(ctx):
        for _ in sent:
            received.append(await get(ctx, dut.o, rng=rng, stall=0.0))

    simulate(dut, line, bytes_out, background=[stays_valid(dut.o)], max_ticks=100_000)
    assert received == sent


@pytest.mark.parametrize("divisor", DIVISORS)
def test_missing_stop_bit_drops_the_byte_and_no_other(divisor):
    dut = UartReceiver()
    counts = Event(dut)
    received = []

    async def line(ctx):
        ctx.set(dut.divisor_less_1, divisor - 1)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20)
        await send_line(ctx, dut.rx, line_bits(0x12), divisor)
        # A line that stays low after the frame is one error and not a sequence of zero bytes.
        await send_line(ctx, dut.rx, line_bits(0x34, stop=0) + [0] * 25, divisor)
        await send_line(ctx, dut.rx, [1, *line_bits(0x56), 1], divisor)

    async def bytes_out(ctx):
        for _ in range(2):
            received.append(await get(ctx, dut.o, rng=random.Random(0), stall=0.0))
        await ctx.tick().repeat(3 * divisor)
        assert not ctx.get(dut.o.valid)
        assert ctx.get(counts.framing_errors) == 1
        assert ctx.get(counts.breaks) == 0
        assert ctx.get(counts.overruns) == 0

    simulate(counts, line, bytes_out, max_ticks=100_000)
    assert received == [0x12, 0x56]


def test_byte_not_taken_in_time_is_counted_and_the_older_one_kept():
    dut = UartReceiver()
    counts = Event(dut)

    async def line(ctx):
        ctx.set(dut.divisor_less_1, 3)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(8)
        for byte in (1, 2, 3):
            await send_line(ctx, dut.rx, line_bits(byte), 4)
        await ctx.tick().repeat(8)
        assert await get(ctx, dut.o, rng=random.Random(0), stall=0.0) == 1
        assert not ctx.get(dut.o.valid)
        assert ctx.get(counts.overruns) == 2
        assert ctx.get(counts.framing_errors) == 0

    simulate(counts, line)


@pytest.mark.parametrize("divisor", (16, 40))
def test_glitch_is_no_start_bit(divisor):
    dut = UartReceiver()

    async def line(ctx):
        ctx.set(dut.divisor_less_1, divisor - 1)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(8)
        ctx.set(dut.rx, 0)
        await ctx.tick().repeat(divisor // 4)
        await send_line(ctx, dut.rx, [1] * 12 + line_bits(0xA5), divisor)
        assert await get(ctx, dut.o, rng=random.Random(0), stall=0.0) == 0xA5

    simulate(dut, line)


@pytest.mark.parametrize("divisor", DIVISORS)
def test_transmitter_bits_last_exactly_a_divisor_and_leave_no_gap(divisor):
    dut = UartTransmitter()
    sent = [0x00, 0xFF, 0x5A, 0x01]
    wave = []

    async def bytes_in(ctx):
        ctx.set(dut.divisor_less_1, divisor - 1)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.tx) == 1
        await put(ctx, dut.i, sent, rng=random.Random(0), stall=0.0)

    async def line(ctx):
        await ctx.tick().until(~dut.tx)
        # The line has been low for one cycle already.
        wave.append(0)
        for _ in range(10 * divisor * len(sent) - 1):
            wave.append(ctx.get(dut.tx))
            await ctx.tick()
        assert ctx.get(dut.tx) == 1
        assert not ctx.get(dut.busy)

    simulate(dut, bytes_in, line)
    expected = [bit for byte in sent for bit in line_bits(byte) for _ in range(divisor)]
    assert wave == expected


@pytest.mark.parametrize("divisor", DIVISORS)
def test_only_a_byte_without_any_high_bit_is_a_break(divisor):
    dut = UartReceiver()
    counts = Event(dut)

    async def line(ctx):
        ctx.set(dut.divisor_less_1, divisor - 1)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20)
        await send_line(ctx, dut.rx, line_bits(0x00) + line_bits(0x80, stop=0) + [1] * 3, divisor)
        assert ctx.get(counts.breaks) == 0
        await send_line(ctx, dut.rx, [0] * 60 + [1] * 3, divisor)
        assert ctx.get(counts.breaks) == 1
        assert ctx.get(counts.framing_errors) == 2

    simulate(counts, line, max_ticks=100_000)
