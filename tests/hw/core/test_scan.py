"""Tests of the scanner, which emits an event for every active input, in order, at most one per
cycle.

A *job* is one output position, group of ``lanes`` output channels and timestep. A *chunk* is some
of a job's inputs, one bit each. An *event* asks for one row of weights, ends a job, or does both. A
*granule* is a byte of spikes.
"""

import random

import pytest
from amaranth import ResetInserter, Signal

from hw.core.scan import Scanner
from hw.spec import GRANULE_BITS, PIECE_BITS, Config
from tests.streams import put, simulate, stays_valid

Chunk = dict[str, int]
Event = tuple[int, int, int, int]
"""Event of the scanner: index of a row of weights, and three flags. ``add`` is 1 if the row is to
be added, and 0 if no input is active; the index is then 0. ``last`` marks the last event of a job,
``tail`` a job of the last group of channels."""

ALL_ROWS = 3
"""Value of ``granule_rows`` for a layer in which each of a granule's 8 bits has a row of weights;
it is the logarithm of their number."""


def build(chunk_bits: int) -> Config:
    return Config(spike_bytes=256, weight_depth=4096, chunk_bits=chunk_bits, lanes=16)


def random_chunks(
    rng: random.Random,
    config: Config,
    n_jobs: int,
    granule_rows: int = ALL_ROWS,
    silent: float = 0.2,
) -> list[Chunk]:
    """Return the chunks of ``n_jobs`` random jobs.

    A job has up to three chunks, which are sparse, dense or full; the larger ``silent`` is, the
    more jobs have a single one. A single chunk is often empty, so that its job has no active input.
    Only the lowest ``2 ** granule_rows`` bits of a granule have rows of weights; the others are
    never set.
    """
    n_bits = config.chunk_bits
    used = [i for i in range(n_bits) if i % GRANULE_BITS < 1 << granule_rows]
    mask = sum(1 << i for i in used)
    chunks = []
    for _ in range(n_jobs):
        n_chunks = 1 if rng.random() < silent else rng.randrange(1, 4)
        is_silent = n_chunks == 1 and rng.random() < 0.7
        for n in range(n_chunks):
            bits = rng.getrandbits(n_bits)
            for _ in range(rng.randrange(5)):
                bits &= rng.getrandbits(n_bits)
            if rng.random() < 0.1:
                bits = (1 << n_bits) - 1
            chunks.append(
                {
                    "bits": 0 if is_silent else bits & mask or 1 << rng.choice(used),
                    "weight": rng.randrange(4096),
                    "last": n == n_chunks - 1,
                    "tail": rng.randrange(2),
                }
            )
    return chunks


def events_of(
    chunks: list[Chunk], piece_weights: list[int], granule_rows: int = ALL_ROWS
) -> list[Event]:
    """Return every event that the scanner must emit for the chunks of several jobs.

    There is one event for each active input, and one for each empty chunk.
    """
    events = []
    for chunk in chunks:
        active = [i for i in range(chunk["bits"].bit_length()) if chunk["bits"] >> i & 1]
        for i in active:
            piece, in_piece = divmod(i, PIECE_BITS)
            granule, bit = divmod(in_piece, GRANULE_BITS)
            row = chunk["weight"] + piece_weights[piece] + (granule << granule_rows) + bit
            events.append((row % 4096, 1, int(chunk["last"] and i == active[-1]), chunk["tail"]))
        if not active:
            events.append((0, 0, int(chunk["last"]), chunk["tail"]))
    return events


def event_of(event) -> Event:
    """Return an event as a tuple; the row of an event that adds nothing is 0."""
    row = event.weight if event.add else 0
    return row, event.add, event.last, event.tail


def run(
    config: Config,
    chunks: list[Chunk],
    piece_weights: list[int],
    *,
    granule_rows: int = ALL_ROWS,
    stall: float = 0,
    hold: float = 0,
    seed: int = 0,
) -> list[tuple[int, Event]]:
    """Run a scanner on chunks; return each event with the cycle in which it leaves.

    In each cycle, the next chunk is late with probability ``stall``, and the next stage is not
    ready with probability ``hold``.
    """
    dut = Scanner(config)
    events: list[tuple[int, Event]] = []
    n_events = sum(max(chunk["bits"].bit_count(), 1) for chunk in chunks)

    async def feed(ctx):
        ctx.set(dut.layer.piece_weights, piece_weights)
        ctx.set(dut.layer.granule_rows, granule_rows)
        ctx.set(dut.room, 1)
        await put(ctx, dut.chunks, chunks, rng=random.Random(seed), stall=stall)

    async def collect(ctx):
        rng = random.Random(seed)
        ctx.set(dut.event.ready, 1)
        for cycle in range(20 * n_events + 100):
            _, _, valid, event, ready = await ctx.tick().sample(
                dut.event.valid, dut.event.p, dut.event.ready
            )
            if valid and ready:
                events.append((cycle, event_of(event)))
            ctx.set(dut.event.ready, rng.random() >= hold)
            if len(events) == n_events and cycle > events[-1][0] + 20:
                break

    simulate(dut, feed, collect, background=[stays_valid(dut.event)], max_ticks=40_000)
    return events


@pytest.mark.parametrize("chunk_bits", [32, 64])
@pytest.mark.parametrize("seed", range(8))
def test_every_active_input_once(chunk_bits: int, seed: int) -> None:
    """Check that each active input has one event, in order.

    A job without active inputs has one event, which adds nothing and ends the job.
    """
    rng = random.Random(10 * seed + chunk_bits)
    config = build(chunk_bits)
    chunks = random_chunks(rng, config, 20)
    assert any(not chunk["bits"] for chunk in chunks)
    piece_weights = [rng.randrange(256) for _ in range(chunk_bits // PIECE_BITS)]
    stall, hold = 0.4 * (seed % 2), 0.3 * (seed // 2 % 2)
    events = run(config, chunks, piece_weights, stall=stall, hold=hold, seed=seed)
    assert [event for _, event in events] == events_of(chunks, piece_weights), f"seed {seed}"


@pytest.mark.parametrize("granule_rows", range(ALL_ROWS + 1))
@pytest.mark.parametrize("chunk_bits", [32, 64])
def test_granules_with_fewer_rows(chunk_bits: int, granule_rows: int) -> None:
    """Check the rows of weights if only the lowest 1, 2, 4 or 8 bits of a granule are inputs.

    The other bits of the granule are never set, and have no row of weights.
    """
    rng = random.Random(chunk_bits + granule_rows)
    config = build(chunk_bits)
    chunks = random_chunks(rng, config, 25, granule_rows)
    # In order, so that each bit of a piece occurs.
    used = [i for i in range(PIECE_BITS) if i % GRANULE_BITS < 1 << granule_rows]
    chunks += [{**chunks[0], "bits": sum(1 << i for i in used)}]
    piece_weights = [rng.randrange(256) for _ in range(chunk_bits // PIECE_BITS)]
    events = run(config, chunks, piece_weights, granule_rows=granule_rows, stall=0.2, hold=0.2)
    wanted = events_of(chunks, piece_weights, granule_rows)
    assert [event for _, event in events] == wanted
    first = chunks[0]["weight"] + piece_weights[0]
    rows = [(event[0] - first) % 4096 for event in wanted[-len(used) :]]
    assert rows == list(range(2 << granule_rows)), "rows without padding"


@pytest.mark.parametrize("chunk_bits", [32, 64])
def test_no_bubble_between_chunks_and_jobs(chunk_bits: int) -> None:
    """Check that an event leaves in every cycle, also at the borders of chunks and jobs.

    A job without active inputs takes one cycle, as an active input does.
    """
    rng = random.Random(chunk_bits)
    top = chunk_bits - 1
    bits = [0b1, 1 << top, 1 << top | 1, 0x80018001, (1 << chunk_bits) - 1, 0b10, 0b1, 0x10001]
    bits += [rng.getrandbits(chunk_bits) | 1 for _ in range(10)] + [1] * 5
    bits += [0, 0, 1, 0, 0x8000_0000, 0, 1]
    chunks = [
        {"bits": b, "weight": 64 * n, "last": rng.randrange(2) if b else 1}
        for n, b in enumerate(bits)
    ]
    events = run(build(chunk_bits), chunks, [0, 16, 32, 48][: chunk_bits // PIECE_BITS])
    cycles = [cycle for cycle, _ in events]
    assert cycles == list(range(cycles[0], cycles[0] + len(cycles)))
    assert len(cycles) == sum(max(b.bit_count(), 1) for b in bits)


def test_a_stall_costs_its_own_cycles_only() -> None:
    """Check that a stall costs no further cycles: whenever the next stage is ready, one event
    leaves."""
    rng = random.Random(6)
    config = build(64)
    chunks = random_chunks(rng, config, 12)
    dut = Scanner(config)
    n_events = sum(max(chunk["bits"].bit_count(), 1) for chunk in chunks)
    moves = []

    async def feed(ctx):
        ctx.set(dut.room, 1)
        await put(ctx, dut.chunks, chunks, rng=rng, stall=0)

    async def collect(ctx):
        n_moves = 0
        while len(moves) < n_events:
            ctx.set(dut.event.ready, rng.random() < 0.5)
            _, _, valid, ready = await ctx.tick().sample(dut.event.valid, dut.event.ready)
            n_moves += ready
            if valid and ready:
                moves.append(n_moves)

    simulate(dut, feed, collect)
    assert moves == list(range(moves[0], moves[0] + n_events))


@pytest.mark.parametrize("seed", range(2))
def test_events_only_with_room(seed: int) -> None:
    """Check that an event enters the pipeline only in cycles with ``room``, and leaves three cycles
    later."""
    rng = random.Random(seed)
    config = build(64)
    chunks = random_chunks(rng, config, 12)
    dut = Scanner(config)
    wanted = events_of(chunks, [0] * 4)
    rooms, events = [], []

    async def feed(ctx):
        ctx.set(dut.layer.granule_rows, ALL_ROWS)
        await put(ctx, dut.chunks, chunks, rng=rng, stall=0)

    async def collect(ctx):
        ctx.set(dut.event.ready, 1)
        while len(events) < len(wanted):
            room = rng.random() < 0.5
            ctx.set(dut.room, room)
            _, _, valid, event = await ctx.tick().sample(dut.event.valid, dut.event.p)
            assert not valid or len(rooms) < 4 or rooms[-3], f"seed {seed}"
            rooms.append(room)
            if valid:
                events.append(event_of(event))
        assert events == wanted, f"seed {seed}"
        begin = 4  # cycles until the first chunk arrives
        assert sum(rooms[begin:-3]) <= len(events), f"seed {seed}"

    simulate(dut, feed, collect)


@pytest.mark.parametrize("seed", range(6))
def test_an_abort_leaves_nothing(seed: int) -> None:
    """Check that no event of an aborted job comes out later, and that the next job is complete."""
    rng = random.Random(seed)
    config = build(32)
    before = random_chunks(rng, config, 4, silent=0)
    after = random_chunks(rng, config, 4)
    dut, abort = Scanner(config), Signal()
    events = []

    async def bench(ctx):
        ctx.set(dut.layer.granule_rows, ALL_ROWS)
        ctx.set(dut.room, 1)
        ctx.set(dut.event.ready, 1)
        ctx.set(dut.chunks.valid, 1)
        ctx.set(dut.chunks.p, before[0])
        await ctx.tick().repeat(1 + seed)
        ctx.set(abort, 1)
        await ctx.tick()
        ctx.set(abort, 0)
        ctx.set(dut.chunks.valid, 0)
        for _ in range(rng.randrange(3)):
            assert not ctx.get(dut.event.valid)
            await ctx.tick()
        await put(ctx, dut.chunks, after, rng=rng, stall=0)
        await ctx.tick().repeat(40)

    async def collect(ctx):
        trigger = ctx.tick().sample(dut.event.valid, dut.event.p, abort)
        async for _, _, valid, event, aborted in trigger:
            if aborted:
                events.clear()
            elif valid:
                events.append(event_of(event))

    simulate(ResetInserter(abort)(dut), bench, background=[collect])
    assert events == events_of(after, [0, 0]), f"seed {seed}"
