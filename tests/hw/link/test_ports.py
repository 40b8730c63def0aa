"""Tests of a link with two serial ports: the one on which the last break arrived is in use."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from amaranth import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hw.link.link import Link
from hw.protocol import DEFAULT_BAUD, REPLY, Opcode
from hw.spec import Config
from sim.stub_core import StubCore
from tests.hw.wire import frame, packet_of

DIVISOR = 4
CONFIG = Config(
    name="two-ports",
    clk_hz=DIVISOR * DEFAULT_BAUD,
    baud=DEFAULT_BAUD,
    rx_buffer_bytes=512,
    max_payload_bytes=256,
)
BREAK = [0] * 11


class Bench(Elaboratable):
    """A link whose core only stores rows, with the host's ends of both ports."""

    def __init__(self):
        self.link = Link(CONFIG, usb=True)
        self.core = StubCore(CONFIG)

    def elaborate(self, platform):
        m = Module()
        m.submodules.link, m.submodules.core = self.link, self.core
        wiring.connect(m, self.link.bus, self.core.bus)
        return m

    async def uart(self, ctx, bits: Iterable[int]) -> None:
        for bit in bits:
            ctx.set(self.link.rx, bit)
            await ctx.tick().repeat(DIVISOR)

    async def usb(self, ctx, raw: bytes) -> None:
        ctx.set(self.link.usb.rx.valid, 1)
        for byte in raw:
            ctx.set(self.link.usb.rx.payload, byte)
            await ctx.tick().until(self.link.usb.rx.ready)
        ctx.set(self.link.usb.rx.valid, 0)

    async def replies(self, ctx, n_cycles: int = 3600) -> tuple[bytes, bool]:
        """Return the bytes that the device sends over USB, and whether its UART was busy."""
        link = self.link
        over_usb, uart_busy = bytearray(), False
        ctx.set(link.usb.tx.ready, 1)
        for _ in range(n_cycles):
            _, _, valid, payload, tx = await ctx.tick().sample(
                link.usb.tx.valid, link.usb.tx.payload, link.tx
            )
            if valid:
                over_usb.append(payload)
            uart_busy |= not tx
        ctx.set(link.usb.tx.ready, 0)
        return bytes(over_usb), uart_busy

    async def usb_break(self, ctx) -> None:
        ctx.set(self.link.usb.line_break, 1)
        await ctx.tick()
        ctx.set(self.link.usb.line_break, 0)


def uart_bits(raw: bytes) -> list[int]:
    return list(itertools.chain.from_iterable([0, *(b >> i & 1 for i in range(8)), 1] for b in raw))


def run(test) -> None:
    bench = Bench()
    simulator = Simulator(bench)
    simulator.add_clock(1e-6)

    async def process(ctx) -> None:
        ctx.set(bench.link.rx, 1)
        await test(ctx, bench)

    simulator.add_testbench(process)
    simulator.run()


ASK = frame(7, Opcode.IDENTIFY)


def answers(raw: bytes) -> bool:
    """Return whether bytes are one undamaged reply to :data:`ASK`."""
    if not raw:
        return False
    packet = packet_of(raw.removesuffix(b"\x7e"))
    return packet[:2] == bytes([7, Opcode.IDENTIFY | REPLY])


def test_last_break_chooses_the_port():
    async def test(ctx, bench):
        await bench.uart(ctx, uart_bits(ASK))
        assert await bench.replies(ctx) == (b"", True)
        await bench.usb(ctx, ASK)  # the port that is not in use gets rid of its bytes
        assert await bench.replies(ctx) == (b"", False)

        await bench.usb_break(ctx)
        await bench.usb(ctx, ASK)
        over_usb, uart_busy = await bench.replies(ctx)
        assert answers(over_usb)
        assert not uart_busy
        await bench.uart(ctx, uart_bits(ASK))
        assert await bench.replies(ctx) == (b"", False)

        await bench.uart(ctx, [*BREAK, 1, 1])
        await bench.uart(ctx, uart_bits(ASK))
        assert await bench.replies(ctx) == (b"", True)

    run(test)


def test_break_drops_what_was_not_processed():
    async def test(ctx, bench):
        await bench.usb_break(ctx)
        # The replies are not taken, so that requests pile up in the queue behind the first.
        await bench.usb(ctx, ASK * 12)
        await bench.usb_break(ctx)
        await ctx.tick()
        n_replies = (await bench.replies(ctx))[0].count(b"\x7e")
        assert 1 <= n_replies <= 3
        assert await bench.replies(ctx, 1000) == (b"", False)
        # A frame that had arrived in part is not dropped; the host ends it.
        await bench.usb(ctx, b"\0\x7e" + ASK)
        assert answers((await bench.replies(ctx))[0])

    run(test)
