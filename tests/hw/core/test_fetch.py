"""Tests of the fetch unit of a bank, and of the merger in it, which drops chunks without spikes.

A *chunk* is the inputs that a bank reads from spike memory in one cycle; it is *silent* if none of
them is a spike. A *job* (one output position, channel group and timestep) has several chunks. A
*slot* is one cycle's read of spike memory: of a chunk, of identity spikes or of a byte for the
host. *Identity spikes* are those of a residual block's shortcut.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from amaranth import ResetInserter, Signal

from hw.core.fetch import Fetch, Merger
from hw.core.nest import address_widths
from hw.core.spikes import SpikeMemory
from hw.spec import (
    CHUNK_DEPTH,
    FETCH_LATENCY,
    GRANULE_BITS,
    PIECE_BITS,
    QUEUE_LATENCY,
    Config,
)
from tests.streams import get, simulate, stays_valid, wait_until

CONFIG = Config(spike_bytes=2048, weight_depth=4096, param_depth=256)
LAST_BANK = replace(CONFIG, lanes=64, banks=8, chunk_bits=32)
"""Configuration with eight banks. Slots are handed on from bank to bank, so the last one sees them
latest."""

JOBS_BEHIND = 8
"""Number of further jobs that may end, one per cycle, before the identity spikes of a job are
taken. These jobs are in the scanner, in weight memory and in the lanes."""

SILENT = 1
"""Address of a window of spike memory in which no bit is set."""


def chunks_of(jobs: list[list[int]]) -> list[tuple[int, int, bool]]:
    """Return (bits, index, last) of every chunk that the merger must keep.

    ``jobs`` has the bits of all chunks of each job. ``index`` counts the chunks of all jobs. The
    merger keeps the chunks with a spike, and the last chunk of a job without any spike. ``last``
    marks the last chunk of a job that is kept.
    """
    result, number = [], 0
    for job in jobs:
        active = [(bits, number + i) for i, bits in enumerate(job) if bits]
        left = active or [(0, number + len(job) - 1)]
        result += [(bits, n, n == left[-1][1]) for bits, n in left]
        number += len(job)
    return result


@pytest.mark.parametrize("seed", range(6))
def test_merger_keeps_jobs_and_drops_silence(seed: int) -> None:
    """Check that the merger drops silent chunks, and marks the last chunk of each job that it
    keeps.

    This chunk leaves one cycle after the last chunk of the job, silent or not, has arrived.
    """
    rng = random.Random(seed)
    jobs = [
        [rng.getrandbits(64) | 1 if rng.random() < 0.4 else 0 for _ in range(rng.randrange(1, 6))]
        for _ in range(80)
    ]
    assert any(not any(job) for job in jobs)
    tails = [rng.randrange(2) for _ in jobs]
    dut = Merger(CONFIG)
    got = []

    async def feed(ctx):
        number = 0
        for job, tail in zip(jobs, tails, strict=True):
            for i, bits in enumerate(job):
                while rng.random() < 0.3 * (seed % 2):
                    ctx.set(dut.chunk.valid, 0)
                    ctx.set(dut.chunk.p.bits, rng.randrange(2))
                    ctx.set(dut.chunk.p.last, rng.randrange(2))
                    await ctx.tick()
                chunk = {
                    "bits": bits,
                    "weight": number,
                    "last": i == len(job) - 1,
                    "tail": tail,
                }
                ctx.set(dut.chunk.valid, 1)
                ctx.set(dut.chunk.p, chunk)
                number += 1
                await ctx.tick()
        ctx.set(dut.chunk.valid, 0)
        await ctx.tick().repeat(3)

    async def collect(ctx):
        ended = False  # a job, in the cycle before
        trigger = ctx.tick().sample(dut.merged.valid, dut.merged.p, dut.chunk.valid, dut.chunk.p)
        async for _, _, valid, chunk, given, given_chunk in trigger:
            assert ended == bool(valid and chunk.last), "when a job's last chunk comes"
            ended = bool(given and given_chunk.last)
            if valid:
                got.append((chunk.bits, chunk.weight, bool(chunk.last), chunk.tail))

    simulate(dut, feed, background=[collect])
    wanted = chunks_of(jobs)
    assert [chunk[:3] for chunk in got] == wanted, f"seed {seed}"
    of_job = [j for j, job in enumerate(jobs) for _ in job]
    assert [chunk[3] for chunk in got] == [tails[of_job[n]] for _, n, _ in wanted]


def window_of(bit: int, gather: int, seed: int, density: float) -> int:
    """Return random contents for a window of spike memory, always the same for the same address."""
    rng = random.Random(f"{seed} {bit} {gather}")
    if rng.random() >= density or (gather and bit == SILENT):
        return 0
    return int.from_bytes(hashlib.sha256(f"{seed} {bit} {gather}".encode()).digest()[:8], "little")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Layer to run, and stalls of the units that are connected to the fetch unit.

    A job has at least ``n_chunks[0]`` and less than ``n_chunks[1]`` chunks. A window of spike
    memory has no spike with probability ``1 - density``; chunks with an index in ``silent_chunks``
    have none. All chunks of a job are silent with probability ``after_planes``. ``feed_stall`` and
    ``scan_stall`` are probabilities: that in a cycle no chunk is requested, or that the scanner
    takes none. The scanner takes the first chunk after ``scan_sleeps`` cycles. ``host_reads`` is
    the number of bytes that the host reads meanwhile.

    Slots arrive ``bank`` cycles later than in bank 0. After ``abort_after`` chunks the layer is
    aborted and begins again.
    """

    seed: int
    bank: int = 0
    n_jobs: int = 60
    n_chunks: tuple[int, int] = (1, 5)
    density: float = 0.4
    gated: bool = False
    after_planes: float = 0.0
    feed_stall: float = 0.0
    scan_stall: float = 0.0
    scan_sleeps: int = 0
    host_reads: int = 0
    silent_chunks: range = range(0)
    abort_after: int | None = None


def check(case: Case, config: Config = CONFIG) -> None:
    rng = random.Random(case.seed)
    widths = address_widths(config)
    n_pieces = config.chunk_bits // PIECE_BITS
    n_body = [rng.randrange(PIECE_BITS + 1) for _ in range(n_pieces)]
    n_tail = [rng.randrange(PIECE_BITS + 1) for _ in range(n_pieces)]
    if case.density == 1:
        n_body = n_tail = [PIECE_BITS] * n_pieces
    body_mask, tail_mask = (
        sum(((1 << n) - 1) << PIECE_BITS * k for k, n in enumerate(n_bits))
        for n_bits in (n_body, n_tail)
    )

    def read(bit: int, gather: int) -> int:
        window = window_of(bit, gather, case.seed, case.density)
        return window & ((1 << config.chunk_bits) - 1)

    # Windows are random, so that a wrong mask, a wrong tag or a wrong order is noticed.
    slots: list[dict[str, int]] = []
    identity_bits: dict[int, int] = {}  # of the job that ends with a slot
    jobs: list[list[int]] = []
    for _ in range(case.n_jobs):
        n_chunks = rng.randrange(*case.n_chunks)
        tail = rng.randrange(2)
        silent = rng.random() < case.after_planes
        bits = []
        for i in range(n_chunks):
            number = len(slots)
            cut = rng.randrange(2)
            source = SILENT if number in case.silent_chunks else rng.getrandbits(widths["source"])
            slots.append(
                {
                    "chunk": 1,
                    "bit": source,
                    "gather": 1,
                    "silent": silent,
                    "weight": number,
                    "cut": cut,
                    "last": i == n_chunks - 1,
                    "tail": tail,
                }
            )
            bits.append(0 if silent else read(source, 1) & (tail_mask if cut else body_mask))
        identity_bits[len(slots) - 1] = rng.getrandbits(widths["identity"]) * GRANULE_BITS
        jobs.append(bits)
    identities = {
        n: read(bit, 0) & ((1 << config.bank_lanes) - 1) for n, bit in identity_bits.items()
    }
    granules = [rng.getrandbits(widths["target"]) * GRANULE_BITS for _ in range(case.host_reads)]
    dut, abort = Fetch(config, case.bank), Signal()
    wanted = chunks_of(jobs)
    n_ended = 0  # jobs whose last chunk has been taken

    async def memory(ctx):
        pipeline = [0] * SpikeMemory.LATENCY
        ctx.set(dut.layer.body_bits, n_body)
        ctx.set(dut.layer.tail_bits, n_tail)
        async for _, _, bit, gather in ctx.tick().sample(dut.read_bit, dut.gather):
            pipeline = [read(bit, gather), *pipeline[:-1]]
            ctx.set(dut.window, pipeline[-1])

    async def walk(ctx):
        """Send slots to the bank; signals take ``bank`` cycles in each direction."""
        rng_feed = random.Random(0)
        nothing = {"chunk": 0, "host": 0}
        under_way = deque([nothing] * case.bank)
        rooms = deque([0] * case.bank)
        todo, waiting = deque(enumerate(slots)), deque(granules)
        due = None
        abort_after = case.abort_after
        while todo or due is not None or waiting:
            rooms.append(ctx.get(dut.room))
            room = rooms.popleft()
            slot = {  # what a slot without a chunk carries has no meaning
                "host": 0,
                "bit": rng_feed.getrandbits(widths["source"]),
                "last": rng_feed.randrange(2),
                "weight": rng_feed.randrange(1 << widths["weight"]),
            }
            if due is not None:
                slot |= {"bit": due, "gather": 0}
                due = None
            elif waiting and rng_feed.random() < 0.3:
                slot |= {"bit": waiting.popleft(), "gather": 0, "host": 1}
            elif room and todo and rng_feed.random() >= case.feed_stall:
                n, chunk = todo.popleft()
                slot |= chunk
                if case.gated:
                    due = identity_bits.get(n)
            under_way.append(slot)
            ctx.set(dut.slot, under_way.popleft())
            if abort_after is not None and len(slots) - len(todo) == abort_after:
                abort_after = None
                ctx.set(abort, 1)
                await ctx.tick()
                ctx.set(abort, 0)
                todo, due = deque(enumerate(slots)), None
                under_way = deque([nothing] * case.bank)
                ctx.set(dut.slot, nothing)
            await ctx.tick()
        for slot in (*under_way, nothing):
            ctx.set(dut.slot, slot)
            await ctx.tick()

    async def chunks(ctx):
        nonlocal n_ended
        if case.abort_after is not None:
            await wait_until(ctx, abort)
        await ctx.tick().repeat(case.scan_sleeps + 1)
        for bits, n, last in wanted:
            chunk = await get(ctx, dut.chunks, rng=random.Random(n), stall=case.scan_stall)
            assert (chunk.bits, chunk.weight, chunk.last) == (bits, n, last), case
            assert chunk.tail == slots[n]["tail"], case
            n_ended += last
        await ctx.tick().repeat(40)
        assert not ctx.get(dut.chunks.valid), "more than one last chunk per job"

    async def identity_spikes(ctx):
        """Take the identity spikes of each job when its sums would be complete."""
        for job, spikes in enumerate(identities.values()):
            while n_ended < min(job + 1 + JOBS_BEHIND, case.n_jobs):
                await ctx.tick()
            got = await get(ctx, dut.identities, rng=random.Random(job), stall=case.scan_stall)
            assert got == spikes or not case.gated, f"{case}, job {job}"
        await ctx.tick().repeat(40)
        assert not ctx.get(dut.identities.valid), "more than one entry per job"

    async def host_hears(ctx):
        for granule in granules:
            value = await wait_until(ctx, dut.granule.valid, dut.granule.payload)
            assert value == read(granule, 0) & 0xFF

    async def no_more_granules(ctx):
        n = 0
        async for _, _, valid in ctx.tick().sample(dut.granule.valid):
            n += valid
            assert n <= len(granules), "a granule that was not asked for"

    benches: list[Callable] = [walk, chunks, identity_spikes]
    if granules:
        benches += [host_hears]
    background = [memory, no_more_granules]
    if case.abort_after is None:
        background += [stays_valid(dut.chunks), stays_valid(dut.identities)]
    simulate(ResetInserter(abort)(dut), *benches, background=background)


@pytest.mark.parametrize("after_planes", [0.0, 0.5])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("host_reads", [0, 30])
def test_everything_in_order(gated: bool, after_planes: float, host_reads: int) -> None:
    """Check that chunks with a spike, identity spikes and bytes for the host arrive complete and in
    order.

    The identity spikes arrive once per job. In a layer that takes pixels (``after_planes``), some
    jobs come after the bit-planes; all their chunks count as silent.
    """
    check(
        Case(
            seed=4 * gated + 2 * (after_planes > 0) + (host_reads > 0),
            gated=gated,
            after_planes=after_planes,
            host_reads=host_reads,
            feed_stall=0.1,
            scan_stall=0.5,
        )
    )


@pytest.mark.parametrize("bank", [0, 3, 7])
def test_every_bank(bank: int) -> None:
    case = Case(seed=bank, bank=bank, gated=True, host_reads=20, scan_stall=0.8, density=0.7)
    check(case, LAST_BANK)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_chunks", [1, 3])
def test_a_full_queue_loses_nothing(density: float, gated: bool, n_chunks: int) -> None:
    """Check that no chunk and no identity spikes are lost while the scanner stops for 150 cycles.

    This includes layers without any spike. The layers have more jobs than the queue has entries.
    """
    check(
        Case(
            seed=int(10 * density) + gated,
            n_jobs=96 if n_chunks == 1 else 40,
            n_chunks=(n_chunks, n_chunks + 1),
            density=density,
            gated=gated,
            scan_sleeps=150,
            scan_stall=0.5,
        )
    )


@pytest.mark.parametrize("bank", [0, 7])
@pytest.mark.parametrize("seed", range(4))
def test_a_full_queue_at_its_worst(seed: int, bank: int) -> None:
    """Check that no chunk is lost when the queue fills up while the pipeline is as full as
    possible.

    Every chunk has a spike, and one arrives per cycle. With odd seeds, two chunks are silent, so
    that the merger holds the chunk before them for longer.
    """
    begin = 10 + seed + CONFIG.chunk_room(bank) - CONFIG.chunk_room(0)
    case = Case(
        seed=seed,
        bank=bank,
        n_jobs=40,
        n_chunks=(1, 5) if seed < 2 else (1, 2),
        density=1.0,
        scan_sleeps=100,
        silent_chunks=range(max(begin, 1), max(begin, 1) + 2) if seed % 2 else range(0),
    )
    check(case, LAST_BANK)


@pytest.mark.parametrize("abort_after", range(3, 9))
def test_an_abort_leaves_nothing(abort_after: int) -> None:
    """Check that no chunk of an aborted layer arrives later, and that all chunks of the next layer
    arrive."""
    check(Case(seed=abort_after, gated=True, density=0.8, abort_after=abort_after, scan_stall=0.2))


def test_cycles_from_slot_to_chunk() -> None:
    """Check that a chunk leaves the queue as many cycles after its slot as ``hw.spec`` says.

    Chunks follow one per cycle. The identity spikes of a job arrive one cycle before its last
    chunk.
    """
    n_chunks = CHUNK_DEPTH - 2
    dut = Fetch(CONFIG)
    arrived, identities = [], []

    async def feed(ctx):
        ctx.set(dut.layer.body_bits, [1, 0, 0, 0])
        ctx.set(dut.window, 1)
        ctx.set(dut.chunks.ready, 1)
        ctx.set(dut.identities.ready, 1)
        await ctx.tick()
        for n in range(n_chunks):
            ctx.set(dut.slot, {"chunk": 1, "weight": n, "last": 1})
            await ctx.tick()
        ctx.set(dut.slot, {"chunk": 0})
        await ctx.tick().repeat(20)

    async def watch(ctx):
        cycle = -1  # the first slot is used in cycle 0
        trigger = ctx.tick().sample(dut.chunks.valid, dut.identities.valid)
        async for _, _, valid, identity_valid in trigger:
            arrived.extend([cycle] * valid)
            identities.extend([cycle] * identity_valid)
            cycle += 1

    simulate(dut, feed, background=[watch])
    first = FETCH_LATENCY + 1 + QUEUE_LATENCY
    assert arrived == list(range(first, first + n_chunks))
    assert identities == [cycle - 1 for cycle in arrived]
