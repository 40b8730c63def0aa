"""COBS in both directions against the reference library, with random stalls."""

import random

import pytest
from cobs import cobs

from hw.link.cobs import CobsDecoder, CobsEncoder
from hw.protocol import DELIMITER
from tests.streams import get, packet_items, put, simulate, stays_valid

LENGTHS = (1, 2, 3, 253, 254, 255, 256, 508, 509, 600)


def packets(rng: random.Random) -> list[bytes]:
    """Packets with the block lengths at which the code changes, and zeros anywhere."""
    chosen = [b"\0", b"\0\0", b"\x01\0", b"\0\x01", b"\xff" * 254 + b"\0", b"\xff" * 255]
    for length in LENGTHS:
        zeros = rng.choice((0.0, 0.0, 0.02, 0.5))
        chosen.append(
            bytes(0 if rng.random() < zeros else rng.randrange(1, 256) for _ in range(length))
        )
    return chosen


@pytest.mark.parametrize("stall", (0.0, 0.4))
def test_encoder_equals_the_library(stall):
    rng = random.Random(5)
    sent = packets(rng)
    dut = CobsEncoder()
    wire = bytearray()
    expected = b"".join(cobs.encode(packet) + bytes([DELIMITER]) for packet in sent)

    async def packets_in(ctx):
        for packet in sent:
            await put(ctx, dut.i, packet_items(packet), rng=rng, stall=stall)

    async def bytes_out(ctx):
        for _ in expected:
            wire.append(await get(ctx, dut.o, rng=rng, stall=stall))
        for _ in range(4):
            await ctx.tick()
        assert not ctx.get(dut.busy)

    simulate(dut, packets_in, bytes_out, background=[stays_valid(dut.o)])
    assert bytes(wire) == expected


def test_encoder_waits_for_a_line_that_takes_nothing():
    rng = random.Random(6)
    sent = bytes(rng.randrange(1, 256) for _ in range(2000))
    dut = CobsEncoder()
    expected = cobs.encode(sent) + bytes([DELIMITER])
    wire = bytearray()

    async def packets_in(ctx):
        await put(ctx, dut.i, packet_items(sent), rng=rng, stall=0.0)

    async def bytes_out(ctx):
        await ctx.tick().repeat(3000)
        for _ in expected:
            wire.append(await get(ctx, dut.o, rng=rng, stall=0.0))

    simulate(dut, packets_in, bytes_out)
    assert bytes(wire) == expected


async def decode(ctx, dut: CobsDecoder, n_items: int, rng: random.Random, stall: float):
    """Frames of the next ``n_items`` items, each with whether it was truncated."""
    frames = []
    frame = bytearray()
    for _ in range(n_items):
        item = await get(ctx, dut.o, rng=rng, stall=stall)
        if item.end:
            frames.append((bytes(frame), bool(item.truncated)))
            frame.clear()
        else:
            frame.append(item.byte)
    return frames


@pytest.mark.parametrize("stall", (0.0, 0.4))
def test_decoder_inverts_the_library(stall):
    rng = random.Random(7)
    sent = packets(rng)
    dut = CobsDecoder()
    # Delimiters with nothing between them are no frames.
    wire = b"\0\0" + b"\0\0".join(cobs.encode(packet) for packet in sent) + b"\0"
    decoded = []

    async def bytes_in(ctx):
        await put(ctx, dut.i, wire, rng=rng, stall=stall)

    async def frames_out(ctx):
        n_items = sum(len(packet) + 1 for packet in sent)
        decoded.extend(await decode(ctx, dut, n_items, rng, stall))

    simulate(dut, bytes_in, frames_out, background=[stays_valid(dut.o)])
    assert decoded == [(packet, False) for packet in sent]


def test_decoder_marks_every_truncation_and_recovers():
    rng = random.Random(8)
    dut = CobsDecoder()
    whole = bytes([1, 2, 0, 3, 4])
    encoded = cobs.encode(whole)  # 03 01 02 03 03 04
    cut = [encoded[:n] for n in range(1, len(encoded))]
    wire = b"".join(part + b"\0" for part in (*cut, encoded))
    # A cut at the end of a block is a shorter, well-formed frame: the CRC has to find it.
    expected = [
        (b"", True),
        (b"\x01", True),
        (b"\x01\x02", False),
        (b"\x01\x02\x00", True),
        (b"\x01\x02\x00\x03", True),
        (whole, False),
    ]
    decoded = []

    async def bytes_in(ctx):
        await put(ctx, dut.i, wire, rng=rng)

    async def frames_out(ctx):
        n_items = sum(len(frame) + 1 for frame, _ in expected)
        decoded.extend(await decode(ctx, dut, n_items, rng, 0.3))

    simulate(dut, bytes_in, frames_out)
    assert decoded == expected
