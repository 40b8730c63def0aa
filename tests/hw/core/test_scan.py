"""Tests of the scanner: every active input once, in order, one per cycle, with any stalls."""

import random

import pytest

from hw.core.scan import Scanner
from hw.protocol import N_PIECES
from hw.spec import PIECE_BITS, Config
from tests.streams import put, simulate

Chunk = dict[str, int]


def build(chunk_bits: int) -> Config:
    return Config(spike_bytes=256, weight_depth=4096, chunk_bits=chunk_bits)


def random_chunks(rng: random.Random, chunk_bits: int, n_jobs: int) -> list[Chunk]:
    """Return sparse, dense and full chunks of ``n_jobs`` jobs, each with an active input."""
    chunks = []
    for _ in range(n_jobs):
        n_chunks = rng.randrange(1, 4)
        for n in range(n_chunks):
            bits = rng.getrandbits(chunk_bits)
            for _ in range(rng.randrange(5)):
                bits &= rng.getrandbits(chunk_bits)
            if rng.random() < 0.1:
                bits = (1 << chunk_bits) - 1
            chunks.append(
                {
                    "bits": bits or 1 << rng.randrange(chunk_bits),
                    "weight": rng.randrange(4096),
                    "last": n == n_chunks - 1,
                    "tail": rng.randrange(2),
                }
            )
    return chunks


def events_of(chunks: list[Chunk], piece_weights: list[int]) -> list[tuple[int, bool, bool, int]]:
    """Return (row, last, tail) of every event that the scanner must emit."""
    events = []
    for chunk in chunks:
        active = [i for i in range(chunk["bits"].bit_length()) if chunk["bits"] >> i & 1]
        for i in active:
            row = chunk["weight"] + piece_weights[i // PIECE_BITS] + i % PIECE_BITS
            last = bool(chunk["last"]) and i == active[-1]
            events.append((row % 4096, last, chunk["tail"]))
    return events


def run(
    config: Config,
    chunks: list[Chunk],
    piece_weights: list[int],
    *,
    stall: float = 0,
    hold: float = 0,
    seed: int = 0,
):
    """Run a scanner and return (cycle, row, last, tail) of each event.

    In each cycle, the next chunk is late with probability ``stall``, and the pipeline does not
    advance with probability ``hold``.
    """
    dut = Scanner(config)
    events = []
    n_events = sum(chunk["bits"].bit_count() for chunk in chunks)

    async def feed(ctx):
        ctx.set(dut.piece_weights, piece_weights)
        ctx.set(dut.room, 1)
        await put(ctx, dut.chunks, chunks, rng=random.Random(seed), stall=stall)

    async def collect(ctx):
        rng = random.Random(seed)
        ctx.set(dut.move, 1)
        before = None
        for cycle in range(20 * n_events + 100):
            _, _, valid, event, move = await ctx.tick().sample(
                dut.event.valid, dut.event.p, dut.move
            )
            now = (valid, event.weight, event.last, event.tail)
            assert before is None or now == before, "an event changed while nothing moved"
            before = None if move else now
            if valid and move:
                events.append((cycle, event.weight, bool(event.last), event.tail))
            ctx.set(dut.move, rng.random() >= hold)
            if len(events) == n_events and cycle > events[-1][0] + 20:
                break

    simulate(dut, feed, collect, max_ticks=40_000)
    return events


@pytest.mark.parametrize("chunk_bits", [32, 64])
@pytest.mark.parametrize("seed", range(4))
def test_every_active_input_once(chunk_bits: int, seed: int) -> None:
    rng = random.Random(10 * seed + chunk_bits)
    chunks = random_chunks(rng, chunk_bits, 20)
    piece_weights = [rng.randrange(256) for _ in range(N_PIECES)]
    events = run(
        build(chunk_bits),
        chunks,
        piece_weights,
        stall=0.4 * (seed % 2),
        hold=0.3 * (seed // 2),
        seed=seed,
    )
    assert [event[1:] for event in events] == events_of(chunks, piece_weights), f"seed {seed}"


@pytest.mark.parametrize("chunk_bits", [32, 64])
def test_no_bubble_between_chunks_and_jobs(chunk_bits: int) -> None:
    """Events follow in every cycle, within and between pieces, chunks and jobs."""
    rng = random.Random(chunk_bits)
    top = chunk_bits - 1
    bits = [0b1, 1 << top, 1 << top | 1, 0x80018001, (1 << chunk_bits) - 1, 0b10, 0b1, 0x10001]
    bits += [rng.getrandbits(chunk_bits) | 1 for _ in range(10)] + [1] * 5
    chunks = [{"bits": b, "weight": 64 * n, "last": rng.randrange(2)} for n, b in enumerate(bits)]
    events = run(build(chunk_bits), chunks, [0, 16, 32, 48])
    cycles = [event[0] for event in events]
    assert cycles == list(range(cycles[0], cycles[0] + len(cycles)))
    assert len(cycles) == sum(b.bit_count() for b in bits)


def test_a_stall_costs_its_own_cycles_only() -> None:
    """However the pipeline stalls, each event takes one cycle in which the pipeline advances."""
    rng = random.Random(6)
    chunks = random_chunks(rng, 64, 12)
    dut = Scanner(build(64))
    n_events = sum(chunk["bits"].bit_count() for chunk in chunks)
    moves = []

    async def feed(ctx):
        ctx.set(dut.room, 1)
        await put(ctx, dut.chunks, chunks, rng=rng, stall=0)

    async def collect(ctx):
        n_moves = 0
        while len(moves) < n_events:
            ctx.set(dut.move, rng.random() < 0.5)
            _, _, valid, move = await ctx.tick().sample(dut.event.valid, dut.move)
            n_moves += move
            if valid and move:
                moves.append(n_moves)

    simulate(dut, feed, collect)
    assert moves == list(range(moves[0], moves[0] + n_events))


@pytest.mark.parametrize("seed", range(2))
def test_events_only_with_room(seed: int) -> None:
    """An active input enters in each cycle with room, and becomes an event three cycles later."""
    rng = random.Random(seed)
    chunks = random_chunks(rng, 64, 12)
    dut = Scanner(build(64))
    wanted = events_of(chunks, [0] * N_PIECES)
    rooms, events = [], []

    async def feed(ctx):
        await put(ctx, dut.chunks, chunks, rng=rng, stall=0)

    async def collect(ctx):
        ctx.set(dut.move, 1)
        while len(events) < len(wanted):
            room = rng.random() < 0.5
            ctx.set(dut.room, room)
            _, _, valid, event = await ctx.tick().sample(dut.event.valid, dut.event.p)
            assert not valid or len(rooms) < 4 or rooms[-3], f"seed {seed}"
            rooms.append(room)
            if valid:
                events.append((event.weight, bool(event.last), event.tail))
        assert events == wanted, f"seed {seed}"
        begin = 4  # cycles until the first chunk arrives
        assert sum(rooms[begin:-3]) <= len(events), f"seed {seed}"

    simulate(dut, feed, collect)
