"""Tests of the decoder of packed rows, in which bytes of zero are left out.

The decoder returns the rows that were packed, and reports packed forms that are malformed.
"""

import random

import pytest

from hw.link.unpack import Unpacker
from hw.protocol import pack_zeros
from tests.hw.wire import unpacked
from tests.streams import packet_items, simulate

MOST = 300


def sparse(rng: random.Random, n: int) -> bytes:
    """Return ``n`` random bytes in stretches of random length; each stretch has another share of
    zeros."""
    rows = bytearray()
    while len(rows) < n:
        share = rng.choice((0.0, 0.1, 0.5, 1.0))
        stretch = rng.randrange(1, 90)
        rows += bytes(rng.randrange(1, 256) if rng.random() < share else 0 for _ in range(stretch))
    return bytes(rows[:n])


def damaged(packed: bytes, rng: random.Random) -> bytes:
    """Return ``packed`` cut short, with more bytes, or with a bit flipped; or random bytes."""
    kind = rng.randrange(4)
    if kind == 0:
        return packed[: rng.randrange(1, len(packed) + 1)]
    if kind == 1:
        return packed + rng.randbytes(rng.randrange(1, 4))
    if kind == 2:
        at = rng.randrange(len(packed))
        return packed[:at] + bytes([packed[at] ^ 1 << rng.randrange(8)]) + packed[at + 1 :]
    return rng.randbytes(rng.randrange(1, 60))


def test_the_packed_form_is_short_and_complete():
    rng = random.Random(1)
    for n in (1, 7, 8, 9, 63, 64, 65, 128, 300):
        rows = sparse(rng, n)
        packed = pack_zeros(rows)
        assert unpacked(packed, n) == rows
        assert unpacked(packed[:-1], n) is None
        assert unpacked(packed + b"\0", n) is None
        n_groups = sum(any(rows[at : at + 8]) for at in range(0, n, 8))
        assert len(packed) == -(-n // 64) + n_groups + sum(map(bool, rows))


@pytest.mark.parametrize("stall", (0.0, 0.3))
def test_rows_are_decoded_and_malformed_forms_are_found(stall):
    rng = random.Random(int(10 * stall))
    dut = Unpacker(MOST)
    cases = []
    for n in (1, 8, 9, 64, 65, 129, *(rng.randrange(1, MOST + 1) for _ in range(40))):
        packed = pack_zeros(sparse(rng, n))
        cases.append((n, packed if rng.random() < 0.4 else damaged(packed, rng)))
    expected = [unpacked(packed, n) for n, packed in cases]
    assert sum(rows is None for rows in expected) > 10

    async def body(ctx):
        for (n, packed), rows in zip(cases, expected, strict=True):
            assert ctx.get(dut.ended)
            ctx.set(dut.n_bytes, n)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.n_bytes, 0)
            items, got = packet_items(packed), []
            while not ctx.get(dut.ended):
                wants = rng.random() >= stall
                ctx.set(dut.o.ready, wants)
                offers = bool(items) and rng.random() >= stall
                ctx.set(dut.i.valid, offers)
                if offers:
                    ctx.set(dut.i.payload, items[0])
                taken, valid, item = ctx.get(dut.i.ready), ctx.get(dut.o.valid), ctx.get(dut.o.p)
                await ctx.tick()
                if offers and taken:
                    del items[0]
                if wants and valid:
                    got.append(item.byte)
                    assert item.last == (len(got) == n)
            ctx.set(dut.i.valid, 0)
            assert ctx.get(dut.sound) == (rows is not None), packed.hex(" ")
            assert ctx.get(dut.input_ended) == (not items)
            if rows is not None:
                assert bytes(got) == rows

    simulate(dut, body, max_ticks=60_000)
