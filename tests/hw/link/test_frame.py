"""Tests of frames: FrameReceiver passes on only undamaged frames, and FrameSender builds frames."""

import random

import pytest

from hw.link.frame import FrameReceiver, FrameSender
from hw.protocol import END
from tests.hw.wire import checked, packet_of, stuffed
from tests.streams import get, get_packet, put, simulate, stays_valid

MAX_PAYLOAD_BYTES = 64
HEADER_BYTES = 2
ARGUMENT_BYTES = 6


def random_packet(rng: random.Random, n_payload_bytes: int) -> bytes:
    """Return a random packet in which half of the bytes are END or ESCAPE, which must be
    escaped."""
    return bytes(
        rng.choice((0x7E, 0x7D, rng.randrange(256), rng.randrange(256)))
        for _ in range(HEADER_BYTES + n_payload_bytes)
    )


@pytest.mark.parametrize("stall", (0.0, 0.4))
def test_undamaged_frames_pass_and_others_are_dropped(stall):
    rng = random.Random(11)
    dut = FrameReceiver(MAX_PAYLOAD_BYTES)
    good = [random_packet(rng, n) for n in (0, 1, 7, MAX_PAYLOAD_BYTES - 1, MAX_PAYLOAD_BYTES)]
    whole = checked(good[2])
    bad = [
        stuffed(bytes(byte ^ 0x10 * (i == 3) for i, byte in enumerate(whole))),
        stuffed(whole) + b"\x7d",
        stuffed(whole[:-1]),
        stuffed(whole + b"\0"),
        stuffed(checked(random_packet(rng, MAX_PAYLOAD_BYTES + 1))),
        stuffed(checked(random_packet(rng, 3 * MAX_PAYLOAD_BYTES))),
        stuffed(checked(random_packet(rng, 20 * MAX_PAYLOAD_BYTES))),
        stuffed(checked(b"")),
        stuffed(checked(b"\x01")),
        b"\x7d",
    ]
    sent = [(stuffed(checked(packet)), packet) for packet in good] + [(raw, None) for raw in bad]
    rng.shuffle(sent)
    sent.append((stuffed(checked(good[0])), good[0]))
    received = []
    n_events = {"dropped": 0, "passed": 0}

    async def bytes_in(ctx):
        for raw, _ in sent:
            ends = [END] * rng.choice((1, 1, 2, 3))  # adjacent ends enclose no frame
            await put(ctx, dut.i, [*raw, *ends], rng=rng, stall=stall)

    async def frames_out(ctx):
        for _ in range(len(good) + 1):
            packet = await get_packet(ctx, dut.o, rng=rng, stall=stall)
            received.append(packet)
            n_data_bytes = len(packet) - HEADER_BYTES - ARGUMENT_BYTES
            for _ in range(6):  # the dispatcher reads it for some cycles
                assert ctx.get(dut.n_data_bytes) == n_data_bytes
                await ctx.tick()
        await ctx.tick().repeat(40)
        assert not ctx.get(dut.busy)

    async def count(ctx):
        trigger = ctx.tick().sample(dut.dropped, dut.passed)
        while True:
            _, _, dropped, passed = await trigger
            n_events["dropped"] += dropped
            n_events["passed"] += passed

    simulate(dut, bytes_in, frames_out, background=[count, stays_valid(dut.o)], max_ticks=60_000)
    assert received == [packet for _, packet in sent if packet is not None]
    assert n_events == {"dropped": len(bad), "passed": len(good) + 1}


def test_requests_that_are_checked_first_are_passed_on_twice():
    rng = random.Random(13)
    dut = FrameReceiver(MAX_PAYLOAD_BYTES, twice=0x0A)
    packets = [
        bytes([n, rng.choice((0x0A, 0x0A, 0x02, 0x7E))]) + rng.randbytes(rng.choice((0, 1, 9, 64)))
        for n in range(30)
    ]
    expected = [packet for packet in packets for _ in range(1 + (packet[1] == 0x0A))]
    assert len(expected) > len(packets) + 5

    async def bytes_in(ctx):
        for packet in packets:
            await put(ctx, dut.i, [*stuffed(checked(packet)), END], rng=rng, stall=0.1)

    async def frames_out(ctx):
        for packet in expected:
            assert await get_packet(ctx, dut.o, rng=rng, stall=0.3) == packet
            assert ctx.get(dut.n_data_bytes) == len(packet) - HEADER_BYTES - ARGUMENT_BYTES
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.busy)

    simulate(dut, bytes_in, frames_out, background=[stays_valid(dut.o)], max_ticks=60_000)


def test_every_flipped_bit_is_dropped():
    rng = random.Random(12)
    dut = FrameReceiver(MAX_PAYLOAD_BYTES)
    packet = random_packet(rng, 6)
    raw = stuffed(checked(packet)) + bytes([END])

    async def bytes_in(ctx):
        for bit in range(8 * len(raw)):
            damaged = bytearray(raw)
            damaged[bit // 8] ^= 1 << bit % 8
            await put(ctx, dut.i, [*damaged, END], rng=rng, stall=0.0)
        await put(ctx, dut.i, raw, rng=rng, stall=0.0)

    async def frames_out(ctx):
        assert await get_packet(ctx, dut.o, rng=rng) == packet
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.busy)

    simulate(dut, bytes_in, frames_out, max_ticks=60_000)


def test_busy_until_a_byte_has_been_processed():
    """Check that ``busy`` is low before a byte arrives, and high once it has been taken in.

    A simulation may skip the time in which nothing is busy, and must not skip a byte.
    """
    dut = FrameReceiver(MAX_PAYLOAD_BYTES)

    async def bytes_in(ctx):
        for byte in (END, 0x00, 0x7D, 0x01, END):  # an empty frame, then one that is too short
            assert not ctx.get(dut.busy)
            await put(ctx, dut.i, [byte], rng=random.Random(0), stall=0.0)
            assert ctx.get(dut.busy), f"byte {byte:#x}"
            await ctx.tick().repeat(20)

    simulate(dut, bytes_in)


def reply_items(packet: bytes) -> list[dict[str, int]]:
    return [*({"byte": byte, "end": 0} for byte in packet), {"byte": 0x7E, "end": 1}]


@pytest.mark.parametrize("stall", (0.0, 0.4))
def test_sender_makes_frames(stall):
    rng = random.Random(13)
    dut = FrameSender()
    # Many packets, because only one CRC in 32 contains an end or an escape.
    packets = [b"\0", b"123456789", *(random_packet(rng, rng.randrange(9)) for _ in range(80))]
    received = []

    async def packets_in(ctx):
        for packet in packets:
            await put(ctx, dut.i, reply_items(packet), rng=rng, stall=stall)

    async def frames_out(ctx):
        for _ in packets:
            raw = bytearray()
            while (byte := await get(ctx, dut.o, rng=rng, stall=stall)) != END:
                raw.append(byte)
            received.append(bytes(raw))
        await ctx.tick()
        assert not ctx.get(dut.busy)

    simulate(dut, packets_in, frames_out, background=[stays_valid(dut.o)], max_ticks=60_000)
    assert [packet_of(raw) for raw in received] == packets
    assert received == [stuffed(checked(packet)) for packet in packets]
    assert any(packet_of(raw) + raw[-4:] != checked(packet_of(raw)) for raw in received)
    assert received[1] == b"123456789\x26\x39\xf4\xcb"


def test_folded_bytes_are_compared_and_not_sent():
    rng = random.Random(14)
    dut = FrameSender()
    rows = random_packet(rng, 30)
    whole, damaged = checked(rows), checked(rows)[:-1] + b"\x99"

    async def fold(ctx, raw: bytes) -> bool:
        ctx.set(dut.fold, 1)
        await put(ctx, dut.i, reply_items(raw)[:-1], rng=rng)
        ctx.set(dut.i.payload, {"byte": 0, "end": 1})
        ctx.set(dut.i.valid, 1)
        while not ctx.get(dut.i.ready):
            await ctx.tick()
        intact = bool(ctx.get(dut.folded_intact))
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
        ctx.set(dut.fold, 0)
        return intact

    async def bench(ctx):
        assert await fold(ctx, whole)
        assert not await fold(ctx, damaged)
        assert await fold(ctx, whole)
        await put(ctx, dut.i, reply_items(b"after"), rng=rng)

    async def wire(ctx):
        raw = bytearray()
        while (byte := await get(ctx, dut.o, rng=rng)) != END:
            raw.append(byte)
        assert packet_of(bytes(raw)) == b"after"

    simulate(dut, bench, wire)
