"""Tests of the walk, which turns the steps of a layer into reads for the banks and jobs for the
fire unit.

A *job* is one output position, channel group and timestep. A *step* reads one *chunk*: some of a
job's inputs. A *slot* is one cycle's read of spike memory: of a chunk, of a byte for the host, or
of *identity spikes*, those of a residual block's shortcut.
"""

import random
from dataclasses import dataclass, replace

import pytest
from amaranth import ResetInserter, Signal

from hw.core.nest import Phase, address_widths
from hw.core.walk import Walk, granule_layout, job_layout
from hw.spec import GRANULE_BITS, JOB_DEPTH, QUEUE_LATENCY, Config
from tests.streams import get, put, simulate, stays_valid

CONFIG = Config(spike_bytes=2048, weight_depth=4096, param_depth=256, lanes=32, banks=4)

Step = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Layer to run, and stalls of the units that are connected to the walk
    (:class:`hw.core.walk.Walk`).

    A job has at least ``n_chunks[0]`` and less than ``n_chunks[1]`` chunks. ``feed_stall``,
    ``room_stall`` and ``fire_stall`` are probabilities: that in a cycle the loop nest offers no
    step, the banks have no room, or the fire unit takes no job. The fire unit takes the first job
    after ``fire_sleeps`` cycles. ``host_reads`` is the number of bytes that the host reads
    meanwhile.
    """

    seed: int
    n_jobs: int = 60
    n_chunks: tuple[int, int] = (1, 5)
    gated: bool = False
    pixels: bool = False
    feed_stall: float = 0.0
    room_stall: float = 0.0
    fire_stall: float = 0.0
    fire_sleeps: int = 0
    host_reads: int = 0


def random_steps(rng: random.Random, case: Case, config: Config) -> list[Step]:
    """Return the random steps of a layer.

    All steps of a job have equal fields, apart from ``source``, ``weight`` and ``cut``.
    """
    widths = address_widths(config)
    steps = []
    for j in range(case.n_jobs):
        n_chunks = rng.randrange(*case.n_chunks)
        job = {name: rng.getrandbits(widths[name]) for name in ("target", "param", "slot")}
        job |= {name: rng.randrange(2) for name in ("fresh", "pool_first", "pool_last", "tail")}
        job["phase"] = rng.randrange(1, 4) if case.pixels else Phase.SPIKES
        job["identity"] = rng.getrandbits(widths["identity"])
        for i in range(n_chunks):
            last = i == n_chunks - 1
            steps.append(
                job
                | {
                    "source": rng.getrandbits(widths["source"]),
                    "weight": rng.getrandbits(widths["weight"]),
                    "last": last,
                    "end": j == case.n_jobs - 1 and last,
                    "cut": rng.randrange(2),
                }
            )
    return steps


def slots_of(steps: list[Step], gated: bool) -> list[dict[str, int] | int]:
    """Return the slots of a layer that must be sent, in order.

    A slot that reads a chunk is given as its fields. In a gated layer, the slot behind a job's last
    chunk reads the identity spikes, and is given as their address in bits.
    """
    slots: list[dict[str, int] | int] = []
    for step in steps:
        slots.append(
            {name: step[name] for name in ("weight", "cut", "last", "tail")}
            | {
                "bit": step["source"],
                "gather": 1,
                "silent": step["phase"] in (Phase.FIRST, Phase.LATER),
                "host": 0,
            }
        )
        if gated and step["last"]:
            slots.append(step["identity"] * GRANULE_BITS)
    return slots


def job_of(step: Step) -> dict[str, int]:
    """Return the fields of the job that must be queued after its last step."""
    fields = ("target", "param", "slot", "fresh", "pool_first", "tail", "phase", "end")
    writes = step["pool_last"] and step["phase"] != Phase.PLANE
    return {name: step[name] for name in fields} | {"pool_last": writes}


def check(case: Case, config: Config = CONFIG) -> list[str]:
    """Run a layer, and check that its slots and jobs are those that its steps require.

    Return for each cycle what its slot was used for: "chunk", "identity", "host" or, if for
    nothing, "".
    """
    rng = random.Random(case.seed)
    steps = random_steps(rng, case, config)
    slots = slots_of(steps, case.gated)
    ends = [step for step in steps if step["last"]]
    granules = [
        {
            "granule": rng.getrandbits(address_widths(config)["target"]),
            "banks": 1 << rng.randrange(config.banks),
        }
        for _ in range(case.host_reads)
    ]
    dut = Walk(config)
    uses, hosts = [], []
    n_queued = n_taken = 0

    async def feed(ctx):
        ctx.set(dut.gated, case.gated)
        await ctx.tick().repeat(3)  # until the queue of jobs says that it has room
        await put(ctx, dut.steps, steps, rng=random.Random(0), stall=case.feed_stall)

    async def host_asks(ctx):
        await put(ctx, dut.granules, granules, rng=random.Random(2), stall=0.7)

    async def rooms(ctx):
        rng_room = random.Random(1)
        while True:
            ctx.set(dut.room, rng_room.random() >= case.room_stall)
            await ctx.tick()

    async def watch(ctx):
        nonlocal n_queued
        n = 0
        due = False
        trigger = ctx.tick().sample(dut.slot, dut.room, dut.granules.valid, dut.granules.p)
        async for _, _, slot, room, asks, granule in trigger:
            assert not (slot.chunk and slot.host), case
            if due:  # a job's identity spikes, in the slot after its last chunk
                assert (slot.chunk, slot.host, slot.gather) == (0, 0, 0), f"{case}, slot {n}"
                assert slot.bit == slots[n], f"{case}, slot {n}"
                uses.append("identity")
            elif asks:  # does not wait for a chunk
                assert (slot.chunk, slot.host, slot.gather) == (0, granule.banks, 0), case
                assert slot.bit == granule.granule * GRANULE_BITS, case
                hosts.append({"granule": granule.granule, "banks": granule.banks})
                uses.append("host")
            elif slot.chunk:
                assert room, f"{case}: a chunk without room, slot {n}"
                got = {name: getattr(slot, name) for name in slots[n]}
                assert got == slots[n], f"{case}, slot {n}"
                n_queued += slot.last
                assert n_queued - n_taken <= JOB_DEPTH + 1, "a job without room"
                uses.append("chunk")
            else:
                assert not slot.host, case
                uses.append("")
            n += uses[-1] in ("chunk", "identity")
            due = bool(slot.chunk and slot.last and case.gated)

    async def fire(ctx):
        nonlocal n_taken
        await ctx.tick().repeat(case.fire_sleeps + 1)
        if case.fire_sleeps:
            assert n_queued >= min(JOB_DEPTH - 4, case.n_jobs), "the queue is not used"
        for j, end in enumerate(ends):
            job = await get(ctx, dut.jobs, rng=random.Random(j), stall=case.fire_stall)
            n_taken += 1
            wanted = job_of(end)
            assert set(wanted) == {name for name, _ in job_layout(config)}
            assert {name: getattr(job, name) for name in wanted} == wanted, f"{case}, job {j}"
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.jobs.valid), "more than one entry per job"

    simulate(dut, feed, fire, host_asks, background=[watch, rooms, stays_valid(dut.jobs)])
    assert hosts == granules, f"{case}: host reads"
    assert uses.count("chunk") + uses.count("identity") == len(slots), case
    return uses


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("host_reads", [0, 30])
def test_everything_in_order(gated: bool, pixels: bool, host_reads: int) -> None:
    check(
        Case(
            seed=4 * gated + 2 * pixels + (host_reads > 0),
            gated=gated,
            pixels=pixels,
            host_reads=host_reads,
            feed_stall=0.1,
            room_stall=0.3,
            fire_stall=0.5,
        )
    )


@pytest.mark.parametrize("banks", [1, 2, 8])
def test_any_number_of_banks(banks: int) -> None:
    """Check the slots and jobs of cores with 1, 2 and 8 banks, while the host reads bytes of one
    bank at a time."""
    config = replace(CONFIG, lanes=64, banks=banks)
    assert dict(granule_layout(config))["banks"].shape == banks
    case = Case(seed=banks, gated=True, host_reads=40, room_stall=0.2, fire_stall=0.2)
    check(case, config)


@pytest.mark.parametrize("gated", [False, True])
def test_one_slot_per_cycle(gated: bool) -> None:
    """Check that a layer takes one cycle per chunk and, with a gate, one more per job."""
    case = Case(seed=7, n_jobs=40, gated=gated)
    uses = check(case)
    used = uses[uses.index("chunk") :]
    n = used.count("chunk") + used.count("identity")
    assert "" not in used[:n]
    assert used.count("identity") == (case.n_jobs if gated else 0)


def test_the_host_costs_its_own_slots_only() -> None:
    """Check that the host's reads of spikes delay a layer only by the cycles that they take
    themselves."""
    uses = check(Case(seed=8, n_jobs=80, gated=True, host_reads=40))
    last = max(cycle for cycle, use in enumerate(uses) if use == "chunk")
    used = uses[uses.index("chunk") : last]
    assert "" not in used
    assert used.count("host") > 20


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("n_chunks", [1, 3])
def test_a_full_queue_loses_no_job(n_chunks: int, gated: bool) -> None:
    """Check that no job is lost while the fire unit takes nothing for a long time.

    With one chunk per job, a job begins and ends in every cycle.
    """
    case = Case(
        seed=n_chunks,
        n_jobs=150,
        n_chunks=(n_chunks, n_chunks + 1),
        gated=gated,
        fire_sleeps=400,
    )
    uses = check(case)
    assert uses[300:400] == [""] * 100, "the walk did not stop"


@pytest.mark.parametrize("gated", [False, True])
def test_a_job_is_queued_in_the_cycle_of_its_last_slot(gated: bool) -> None:
    """Check that a job enters the queue in the cycle in which its last chunk is read.

    It can be taken as soon as the latency of the queue allows.
    """
    case = Case(seed=9, n_jobs=20, gated=gated)
    steps = random_steps(random.Random(case.seed), case, CONFIG)
    dut = Walk(CONFIG)
    ended, arrived = [], []

    async def feed(ctx):
        ctx.set(dut.gated, gated)
        ctx.set(dut.room, 1)
        ctx.set(dut.jobs.ready, 1)
        await ctx.tick().repeat(3)
        await put(ctx, dut.steps, steps, rng=random.Random(0), stall=0.3)
        await ctx.tick().repeat(10)

    async def watch(ctx):
        cycle = 0
        trigger = ctx.tick().sample(dut.slot, dut.jobs.valid)
        async for _, _, slot, valid in trigger:
            ended.extend([cycle] * (slot.chunk & slot.last))
            arrived.extend([cycle] * valid)
            cycle += 1

    simulate(dut, feed, background=[watch])
    assert len(ended) == case.n_jobs
    assert arrived == [cycle + QUEUE_LATENCY for cycle in ended]


@pytest.mark.parametrize("seed", range(6))
def test_an_abort_leaves_nothing(seed: int) -> None:
    """Check that no jobs and no identity spikes of an aborted layer come later, and that all jobs
    of the next layer come."""
    rng = random.Random(seed)
    case = Case(seed=seed, n_jobs=12, n_chunks=(1, 3), gated=True)
    before, after = random_steps(rng, case, CONFIG), random_steps(rng, case, CONFIG)
    n_before = [n for n, step in enumerate(before) if step["last"]][4] + 1 - seed % 2
    dut, abort = Walk(CONFIG), Signal()
    slots = []

    async def bench(ctx):
        ctx.set(dut.room, 1)
        ctx.set(dut.gated, 1)
        await ctx.tick().repeat(3)
        ctx.set(dut.steps.valid, 1)
        for step in before[:n_before]:
            ctx.set(dut.steps.p, step)
            while not ctx.get(dut.slot.chunk):
                await ctx.tick()
            if step is not before[n_before - 1]:
                await ctx.tick()
        for _ in range(seed // 2):  # else the abort comes in the cycle of the last slot
            await ctx.tick()
        ctx.set(abort, 1)
        await ctx.tick()
        ctx.set(abort, 0)
        ctx.set(dut.steps.valid, 0)
        for _ in range(seed % 3):
            await ctx.tick()
        await put(ctx, dut.steps, after, rng=rng, stall=0)
        for j, end in enumerate(step for step in after if step["last"]):
            job = await get(ctx, dut.jobs, rng=rng)
            assert {name: getattr(job, name) for name in job_of(end)} == job_of(end), f"job {j}"
        await ctx.tick().repeat(10)
        assert not ctx.get(dut.jobs.valid)

    async def watch(ctx):
        due = False
        async for _, _, slot, aborted in ctx.tick().sample(dut.slot, abort):
            if aborted:
                slots.clear()
            elif slot.chunk:
                slots.append({name: getattr(slot, name) for name in slots_of(after, True)[0]})
            elif due:
                slots.append(slot.bit)
            due = bool(slot.chunk and slot.last and not aborted)

    simulate(ResetInserter(abort)(dut), bench, background=[watch])
    assert slots == slots_of(after, True), f"seed {seed}"
