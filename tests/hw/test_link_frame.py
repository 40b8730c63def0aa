"""Whole frames only: what FrameBuffer hands on and drops, what CrcAppender adds."""

import random

import pytest

from hw.link.frame import CrcAppender, FrameBuffer
from hw.protocol import CRC_BYTES, HEADER_BYTES
from tests.hw.wire import checked
from tests.streams import get_packet, packet_items, put, simulate, stays_valid

MAX_PAYLOAD_BYTES = 64


def decoded_items(body: bytes, truncated: bool = False) -> list[dict[str, int]]:
    items = [{"byte": byte, "end": 0, "truncated": 0} for byte in body]
    return [*items, {"byte": 0, "end": 1, "truncated": int(truncated)}]


def random_packet(rng: random.Random, n_payload_bytes: int) -> bytes:
    return rng.randbytes(HEADER_BYTES + n_payload_bytes)


@pytest.mark.parametrize("stall", (0.0, 0.4))
def test_undamaged_frames_pass_and_others_are_dropped(stall):
    rng = random.Random(11)
    dut = FrameBuffer(MAX_PAYLOAD_BYTES)
    good = [random_packet(rng, n) for n in (0, 1, 7, MAX_PAYLOAD_BYTES - 1, MAX_PAYLOAD_BYTES)]
    flipped = bytearray(checked(good[2]))
    flipped[3] ^= 0x10
    bad = [
        (bytes(flipped), False),
        (checked(good[2]), True),
        (checked(good[2])[:-1], False),
        (checked(good[2]) + b"\0", False),
        (checked(random_packet(rng, MAX_PAYLOAD_BYTES + 1)), False),
        (checked(random_packet(rng, 3 * MAX_PAYLOAD_BYTES)), False),
        (b"", False),
        (checked(b""), False),
        (checked(b"\x01"), False),
    ]
    sent = [(checked(packet), False, True) for packet in good] + [
        (body, truncated, False) for body, truncated in bad
    ]
    rng.shuffle(sent)
    sent.append((checked(good[0]), False, True))
    received = []
    n_dropped = 0

    async def bytes_in(ctx):
        for body, truncated, _ in sent:
            await put(ctx, dut.i, decoded_items(body, truncated), rng=rng, stall=stall)

    async def frames_out(ctx):
        for _ in range(len(good) + 1):
            packet = await get_packet(ctx, dut.o, rng=rng, stall=stall)
            received.append(packet)
            assert ctx.get(dut.n_payload_bytes) == len(packet) - HEADER_BYTES

    async def count_dropped(ctx):
        nonlocal n_dropped
        trigger = ctx.tick().sample(dut.dropped)
        while True:
            _, _, dropped = await trigger
            n_dropped += dropped

    simulate(
        dut, bytes_in, frames_out, background=[count_dropped, stays_valid(dut.o)], max_ticks=5000
    )
    assert received == [body[:-CRC_BYTES] for body, _, is_good in sent if is_good]
    assert n_dropped == len(bad)


def test_every_flipped_bit_is_dropped():
    rng = random.Random(12)
    dut = FrameBuffer(MAX_PAYLOAD_BYTES)
    packet = random_packet(rng, 6)
    body = checked(packet)

    async def bytes_in(ctx):
        for bit in range(8 * len(body)):
            damaged = bytearray(body)
            damaged[bit // 8] ^= 1 << bit % 8
            await put(ctx, dut.i, decoded_items(bytes(damaged)), rng=rng, stall=0.0)
        await put(ctx, dut.i, decoded_items(body), rng=rng, stall=0.0)

    async def frames_out(ctx):
        assert await get_packet(ctx, dut.o, rng=rng) == packet
        for _ in range(5):
            await ctx.tick()
        assert not ctx.get(dut.busy)

    simulate(dut, bytes_in, frames_out)


@pytest.mark.parametrize("stall", (0.0, 0.4))
def test_appender_adds_the_crc(stall):
    rng = random.Random(13)
    dut = CrcAppender()
    sent = [b"\0", b"123456789", *(rng.randbytes(rng.randrange(1, 40)) for _ in range(10))]
    received = []

    async def packets_in(ctx):
        for packet in sent:
            await put(ctx, dut.i, packet_items(packet), rng=rng, stall=stall)

    async def packets_out(ctx):
        for _ in sent:
            received.append(await get_packet(ctx, dut.o, rng=rng, stall=stall))

    simulate(dut, packets_in, packets_out, background=[stays_valid(dut.o)])
    assert received == [checked(packet) for packet in sent]
    assert received[1] == b"123456789\xd6\x4e"
