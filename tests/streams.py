"""Helpers of Amaranth test benches: streams with random stalls, and a simulation with a limit of
cycles."""

from __future__ import annotations

import gc
import random
import traceback
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from amaranth.hdl import UnusedElaboratable
from amaranth.lib import stream, wiring
from amaranth.sim import Simulator

Bench = Callable[..., Coroutine]
"""Async test bench, which takes the simulator's context."""

CLOCK_PERIOD = 1e-6
"""Clock period in seconds."""


async def wait_until(ctx, condition, value=0):
    """Wait for a clock edge at which ``condition`` is high; return the value that the signal
    ``value`` has just before it.

    If ``value`` is None, the value of ``condition`` is returned. Unlike ``ctx.tick().until()``,
    this function gives no warning if the simulation ends while it waits.
    """
    while True:
        _, _, met, sampled = await ctx.tick().sample(
            condition, condition if value is None else value
        )
        if met:
            return sampled


async def put(
    ctx, target: stream.Interface, items: Iterable, *, rng: random.Random, stall: float = 0.3
) -> None:
    """Send ``items`` to a component's input stream.

    Before each item, it waits for a cycle with probability ``stall``, then for another one with the
    same probability, and so on.
    """
    for item in items:
        while rng.random() < stall:
            await ctx.tick()
        ctx.set(target.payload, item)
        ctx.set(target.valid, 1)
        await wait_until(ctx, target.ready)
        ctx.set(target.valid, 0)


async def get(ctx, source: stream.Interface, *, rng: random.Random, stall: float = 0.3):
    """Take and return the next item of a component's output stream.

    Before that, it waits for a cycle with probability ``stall``, then for another one with the same
    probability, and so on.
    """
    while rng.random() < stall:
        await ctx.tick()
    ctx.set(source.ready, 1)
    item = await wait_until(ctx, source.valid, source.payload)
    ctx.set(source.ready, 0)
    return item


async def get_packet(
    ctx, source: stream.Interface, *, rng: random.Random, stall: float = 0.3
) -> bytes:
    """Return the next packet from a stream of :class:`hw.link.packet.PacketByte`."""
    packet = bytearray()
    while True:
        item = await get(ctx, source, rng=rng, stall=stall)
        packet.append(item.byte)
        if item.last:
            return bytes(packet)


def packet_items(packet: bytes) -> list[dict[str, int]]:
    """Return the items of :class:`hw.link.packet.PacketByte` that make up a packet."""
    return [{"byte": byte, "last": i == len(packet) - 1} for i, byte in enumerate(packet)]


def stays_valid(source: stream.Interface) -> Bench:
    """Return a test bench which checks that ``source`` offers an item unchanged until it is
    taken."""

    async def check(ctx) -> None:
        offered = None
        trigger = ctx.tick().sample(source.valid, source.ready, source.payload)
        while True:
            _, _, valid, ready, payload = await trigger
            if offered is not None:
                assert valid, f"an offered item was taken back: {offered}"
                assert payload == offered, f"an offered item changed: {offered} to {payload}"
            offered = payload if valid and not ready else None

    return check


@contextmanager
def refuses(error: type[Exception], match: str) -> Iterator[None]:
    """Check that the ``with`` block, which constructs a component, raises ``error``.

    Amaranth's warnings of unused components are silenced.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        with pytest.raises(error, match=match) as refused:
            yield
        # Parts of the component warn when they are freed: free them while warnings are off.
        traceback.clear_frames(refused.tb)
        gc.collect()


def simulate(
    dut: wiring.Component,
    *benches: Bench,
    background: Iterable[Bench] = (),
    max_ticks: int = 20_000,
    vcd: Path | None = None,
) -> None:
    """Simulate ``dut`` until all benches have ended; ``background`` benches need not end.

    If ``vcd`` is given, the waveforms are written to this file.

    Raises
    ------
    AssertionError
        A bench failed, or has not ended after ``max_ticks`` cycles.
    """
    ended = 0

    def counted(bench: Bench) -> Bench:
        async def run(ctx) -> None:
            nonlocal ended
            await bench(ctx)
            ended += 1

        return run

    simulator = Simulator(dut)
    simulator.add_clock(CLOCK_PERIOD)
    for bench in benches:
        simulator.add_testbench(counted(bench))
    for bench in background:
        simulator.add_testbench(bench, background=True)
    with nullcontext() if vcd is None else simulator.write_vcd(str(vcd)):
        for _ in range(2 * max_ticks):  # two steps a cycle: one for each edge of the clock
            if not simulator.advance():
                return
    raise AssertionError(f"{len(benches) - ended} benches still wait after {max_ticks} cycles")
