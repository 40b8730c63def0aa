"""Tests of the fire unit against the neuron of :mod:`hw.spec` in Python integers.

A *job* is one output position, group of ``lanes`` output channels and timestep. Its *sums* are one
number per lane.
"""

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from hw.core.fire import FireUnit
from hw.core.nest import Phase, address_widths
from hw.spec import (
    GRANULE_BITS,
    N_PLANES,
    Config,
    Gate,
    Leak,
    Reset,
    carried_over,
    fire,
)
from tests.streams import simulate, wait_until

BUILDS = pytest.mark.parametrize(
    ("fire_lanes", "sum_queue", "banks"),
    [(1, 0, 1), (2, 16, 1), (4, 0, 1), (16, 16, 1), (4, 16, 2)],
)


def build(
    fire_lanes: int,
    sum_queue: int = 16,
    banks: int = 1,
    *,
    pixels: bool = False,
    result_rows: int = 16,
) -> Config:
    return Config(
        sum_queue=sum_queue,
        banks=banks,
        lanes=16 * banks,
        fire_lanes=fire_lanes,
        sum_bits=16,
        membrane_bits=24 if pixels else 16,
        membrane_slots=4,
        param_depth=1024,
        spike_bytes=1024,
        weight_depth=64,
        result_rows=result_rows,
        max_layers=4,
        pixels=pixels,
    )


def join(gate: Gate, spike: int, identity: int) -> int:
    return {
        Gate.NONE: spike,
        Gate.AND: spike & identity,
        Gate.IAND: (1 - spike) & identity,
        Gate.OR: spike | identity,
        Gate.XOR: spike ^ identity,
    }[gate]


@dataclass(kw_only=True)
class LayerCase:
    """Jobs of one layer, and the spikes or logits that the fire unit must compute from them."""

    header: dict[str, int]
    jobs: list[dict[str, int]] = field(default_factory=list)
    sums: list[tuple[list[int], int]] = field(default_factory=list)
    """For each job: its sums over all banks, and the spikes of the residual block's shortcut as a
    number with one bit per lane."""
    params: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Bias and threshold of each neuron, for every row of parameter memory that is used."""
    spikes: list[tuple[int, int, int]] = field(default_factory=list)
    """Expected writes to spike memory: (address of the first byte, number of bytes, bits)."""
    results: dict[int, list[int]] = field(default_factory=dict)


def resets(config: Config) -> list[Reset]:
    """Return the kinds of reset that a device has."""
    return [reset for reset in Reset if config.full_neurons or reset != Reset.DELAYED]


def firing_layer(
    rng: random.Random,
    config: Config,
    *,
    gate: Gate,
    leak: Leak,
    reset: Reset,
    pool: int = 1,
    n_slots: int = 4,
    n_groups: int = 2,
    tail_lanes: int = 11,
    timesteps: int = 3,
    pixels: bool = False,
) -> LayerCase:
    """Return a layer of random jobs with spikes as output, together with the expected spikes.

    The order of jobs is that of nested loops, innermost first: positions of a pooling window,
    ``n_slots`` interleaved output positions, timesteps (after bit-planes if ``pixels``), groups of
    output channels. The last group has only ``tail_lanes`` channels.
    """
    n_shifts = rng.randint(1, config.n_leak_shifts)
    shifts = sorted(rng.sample(range(1, 7), n_shifts)) if leak != Leak.NONE else [0]
    n_beats = config.fire_beats if n_groups > 1 else -(-tail_lanes // config.fire_lanes)
    n_planes = N_PLANES // config.banks if pixels else 0
    case = LayerCase(
        header={
            "gate": gate,
            "leak": leak,
            **dict(zip(("leak_shift", "leak_shift2", "leak_shift3"), shifts, strict=False)),
            "reset": reset,
            "tail_lanes": tail_lanes,
            "last_beat": n_beats - 1,
            "spacing": max(n_beats, -(-config.membrane_latency // n_slots)),
            "pixels": int(pixels),
        }
    )
    base = rng.randrange(16)
    n_lanes = n_beats * config.fire_lanes
    # The sum of a job of bit-planes is that of one plane per bank.
    worst = 60 * ((1 << config.banks) - 1) if pixels else 1200
    widths = address_widths(config)
    n_times = timesteps + n_planes
    for g in range(n_groups):
        params = {}
        for slot, beat in itertools.product(range(n_slots), range(n_beats)):
            row = base + (g * n_slots + slot) * n_beats + beat
            case.params[row] = [
                (rng.randrange(-300, 300), rng.randrange(1, 540 if pixels else worst))
                for _ in range(config.fire_lanes)
            ]
            for j, values in enumerate(case.params[row]):
                params[slot, beat * config.fire_lanes + j] = values
        membranes: dict[tuple[int, int], int] = defaultdict(int)
        fired: dict[tuple[int, int], bool] = defaultdict(bool)
        weighted: dict[tuple[int, int], int] = defaultdict(int)
        tail = g == n_groups - 1
        n_real = tail_lanes if tail else config.lanes
        for t in range(n_times):
            phase = Phase.SPIKES
            if pixels:
                phase = Phase.PLANE if t < n_planes else Phase.FIRST
                phase = Phase.LATER if t > n_planes else phase
            pooled = [0] * config.lanes
            for slot in range(n_slots):
                silent = rng.random() < 0.3 or phase in (Phase.FIRST, Phase.LATER)
                drive = [0 if silent else rng.randrange(-worst, worst) for _ in range(config.lanes)]
                identity = rng.getrandbits(config.lanes)
                first, last = slot % pool == 0, slot % pool == pool - 1
                if first:
                    pooled = [0] * config.lanes
                for lane in range(n_lanes):
                    if phase == Phase.PLANE:
                        weighted[slot, lane] += drive[lane] << config.banks * (n_planes - 1 - t)
                        continue
                    bias, threshold = params[slot, lane]
                    total = weighted[slot, lane] if pixels else drive[lane]
                    membrane = (
                        total
                        + bias
                        + carried_over(
                            membranes[slot, lane],
                            fired[slot, lane],
                            threshold,
                            reset,
                            leak,
                            *shifts,
                        )
                    )
                    spike, membranes[slot, lane] = fire(membrane, threshold, reset)
                    fired[slot, lane] = spike
                    if lane < n_real:
                        pooled[lane] |= join(gate, spike, identity >> lane & 1)
                target = rng.getrandbits(widths["target"])
                writes = last and phase != Phase.PLANE
                case.jobs.append(
                    {
                        "param": base + (g * n_slots + slot) * n_beats,
                        "slot": slot,
                        "fresh": t == 0,
                        "phase": phase,
                        "target": target,
                        "end": (g, t, slot) == (n_groups - 1, n_times - 1, n_slots - 1),
                        "pool_first": first,
                        "pool_last": writes,
                        "tail": tail,
                    }
                )
                case.sums.append((drive, identity))
                if writes:
                    bits = sum(bit << i for i, bit in enumerate(pooled))
                    n_granules = -(-n_real // (GRANULE_BITS * config.banks))
                    case.spikes.append((target, n_granules, bits))
    return case


def output_layer(rng: random.Random, config: Config, n_groups: int, tail_lanes: int) -> LayerCase:
    """Return an output layer with random sums, some of them all 0, together with its expected
    logits."""
    n_beats = config.fire_beats if n_groups > 1 else -(-tail_lanes // config.fire_lanes)
    case = LayerCase(
        header={
            "output": 1,
            "tail_lanes": tail_lanes,
            "last_beat": n_beats - 1,
            "spacing": n_beats,
            "leak": Leak.NONE,
        }
    )
    for g in range(n_groups):
        silent = rng.random() < 0.4
        drive = [0 if silent else rng.randrange(-9000, 9000) for _ in range(config.lanes)]
        for beat in range(n_beats):
            biases = [rng.randrange(-9000, 9000) for _ in range(config.fire_lanes)]
            case.params[7 + g * n_beats + beat] = [(bias, 1) for bias in biases]
            sums = drive[beat * config.fire_lanes :]
            case.results[g * config.fire_beats + beat] = [
                a + b for a, b in zip(sums, biases, strict=False)
            ]
        case.jobs.append(
            {
                "param": 7 + g * n_beats,
                "fresh": 1,
                "phase": Phase.SPIKES,
                "target": g * config.fire_beats,
                "end": g == n_groups - 1,
                "pool_first": 1,
                "pool_last": 1,
                "tail": g == n_groups - 1,
            }
        )
        case.sums.append((drive, rng.getrandbits(config.lanes)))
    return case


def run(config: Config, cases: list[LayerCase], *, seed: int) -> None:
    """Run layers on one fire unit, and compare all spikes and logits with those of ``cases``.

    Running them one after another on the same unit shows that no layer depends on the state that an
    earlier one left. Jobs and sums of every second layer arrive without gaps, those of the other
    layers with random pauses.
    """
    dut = FireUnit(config)
    rng = random.Random(seed)
    current: list[LayerCase] = []

    async def feed(ctx):
        for number, case in enumerate(cases):
            current[:] = [case]
            stall = 0.4 * (number % 2)
            ctx.set(dut.header, case.header)
            await ctx.tick().repeat(3)
            state.update(written=[], results={}, begins=[], n_spikes=0, since_end=None)
            sums.update(case=case, arrived=0, begun=0, stall=stall)
            offered = taken = False
            jobs = iter(case.jobs)
            for _ in range(200 + 40 * len(case.jobs) * (1 + config.fire_beats)):
                if not offered and rng.random() >= stall:
                    job = next(jobs, None)
                    if job is not None:
                        ctx.set(dut.jobs.p, job)
                        ctx.set(dut.jobs.valid, 1)
                        offered = True
                _, _, taken = await ctx.tick().sample(dut.jobs.ready)
                if offered and taken:
                    ctx.set(dut.jobs.valid, 0)
                    offered = False
                if state["since_end"] is not None and state["since_end"] >= 8:
                    break
            what = f"seed {seed}, layer {number}: {case.header}"
            assert not offered and next(jobs, None) is None, f"{what}: jobs are left"
            assert sums["begun"] == len(case.jobs), f"{what}: sums are left"
            assert state["written"] == case.spikes, what
            n_spikes = sum(bits.bit_count() for _, _, bits in case.spikes)
            assert state["n_spikes"] == n_spikes, f"{what}: spikes counted"
            assert {i: state["results"].get(i) for i in case.results} == case.results, what
            if not case.header.get("output"):
                assert not state["results"], f"{what}: a firing layer has no logits"
            gaps = [b - a for a, b in itertools.pairwise(state["begins"])]
            spacing = case.header["spacing"]
            assert len(state["begins"]) == len(case.jobs)
            assert min(gaps, default=spacing) >= spacing, what
            if stall == 0:
                assert max(gaps, default=spacing) == spacing, f"{what}: a bubble"

    state: dict = {}
    sums: dict = {}

    async def sum_queue(ctx):
        """Offer the sums of each job, sometimes late, and deliver ``fire_lanes`` of them per
        cycle."""
        n = config.fire_lanes

        def garbage() -> tuple[list[int], int]:
            return [rng.randrange(-9000, 9000) for _ in range(n)], rng.getrandbits(n)

        on_the_way = [garbage() for _ in range(config.param_latency - 1)]
        in_job = False
        trigger = ctx.tick().sample(
            dut.sums.available, dut.sums.begin, dut.sums.last, dut.sums.beat, dut.sums.plane
        )
        async for _, _, available, begin, last, beat, plane in trigger:
            wanted = garbage()
            if begin:
                assert available and not in_job, "sums that are not available"
                sums["begun"] += 1
            in_job |= begin
            if in_job:
                case, number = sums["case"], sums["begun"] - 1
                values, identity = case.sums[number]
                wanted = values[beat * n :][:n], identity >> beat * n & (1 << n) - 1
                assert plane == (case.jobs[number]["phase"] == Phase.PLANE)
            else:
                assert not last
            in_job &= not last
            on_the_way.append(wanted)
            values, identity = on_the_way.pop(0)
            ctx.set(dut.sums.p, {"sums": values, "identity": identity})
            if sums:
                if sums["stall"] == 0:
                    sums["arrived"] = len(sums["case"].sums)
                elif sums["arrived"] < len(sums["case"].sums):
                    sums["arrived"] += rng.random() >= sums["stall"]
                ctx.set(dut.sums.available, sums["arrived"] > sums["begun"])

    async def watch(ctx):
        trigger = ctx.tick().sample(
            dut.spikes.valid,
            dut.spikes.p,
            dut.result_en,
            dut.result_index,
            dut.result,
            dut.n_spikes,
            dut.finished,
            dut.jobs.ready,
        )
        cycle = 0
        async for _, _, valid, spikes, result_en, index, result, n_spikes, end, begins in trigger:
            cycle += 1
            if not state:
                continue
            if state["since_end"] is not None:
                state["since_end"] += 1
                assert not (valid or result_en or end), "more after the end"
            elif end:
                assert not (valid or result_en), "the end before the last write"
                state["since_end"] = 0
            if valid:
                assert spikes.banks == (1 << config.banks) - 1
                state["written"].append((spikes.granule, spikes.count, spikes.bits))
            if result_en:
                state["results"][index] = list(result)
            if begins:
                state["begins"].append(cycle)
            if state["since_end"] is None or state["since_end"] <= 2:
                state["n_spikes"] += n_spikes
            else:
                assert n_spikes == 0, "spikes counted too late"

    async def parameter_memory(ctx):
        nothing = [(0x5A5A, -0x5A5A)] * config.fire_lanes
        on_the_way = [nothing] * (config.param_latency - 1)
        async for _, _, row, en in ctx.tick().sample(dut.param_row, dut.param_en):
            rows = current[0].params if current and en else {}
            on_the_way.append(rows.get(row, nothing))
            values = on_the_way.pop(0)
            ctx.set(dut.params, [{"bias": b, "threshold": t} for b, t in values])

    simulate(dut, feed, background=[parameter_memory, sum_queue, watch], max_ticks=200_000)


def shuffled(rng: random.Random, cases: list[LayerCase]) -> list[LayerCase]:
    rng.shuffle(cases)
    return cases


@BUILDS
@pytest.mark.parametrize("gate", Gate)
def test_equals_the_neuron(gate: Gate, fire_lanes: int, sum_queue: int, banks: int) -> None:
    """Check random layers with all kinds of leak and reset, one after another, against ``hw.spec``.

    Pooling, the number of interleaved positions and the size of the last channel group are random.
    """
    config = build(fire_lanes, sum_queue, banks)
    seed = 100 * gate + 10 * fire_lanes
    rng = random.Random(seed)
    cases = []
    for leak, reset in itertools.product(Leak, resets(config)):
        n_slots, pool = rng.choice([(4, 1), (4, 2), (4, 4), (2, 2), (1, 1), (2, 1)])
        n_groups = rng.choice((1, 2))
        cases.append(
            firing_layer(
                rng,
                config,
                gate=gate,
                leak=leak,
                reset=reset,
                pool=pool,
                n_slots=n_slots,
                n_groups=n_groups,
                tail_lanes=banks * rng.choice((1, 3, 8, 9, 11, 16)) - rng.randrange(banks),
                timesteps=3 if n_slots == 4 else 4,
            )
        )
    n_bits = sum(bits.bit_count() for case in cases for _, _, bits in case.spikes)
    assert n_bits > 20, "a test without spikes"
    run(config, shuffled(rng, cases), seed=seed)


@BUILDS
def test_pixels(fire_lanes: int, sum_queue: int, banks: int) -> None:
    """Check layers that take pixels, as bit-planes before the timesteps, in turn with layers of
    spikes."""
    config = build(fire_lanes, sum_queue, banks, pixels=True)
    seed = 1000 + 10 * fire_lanes
    rng = random.Random(seed)
    cases = []
    for leak, reset in itertools.product(Leak, resets(config)):
        n_slots, pool = rng.choice([(4, 1), (4, 4), (2, 2), (1, 1)])
        for pixels in (True, False):
            cases.append(
                firing_layer(
                    rng,
                    config,
                    gate=Gate.NONE,
                    leak=leak,
                    reset=reset,
                    pool=pool,
                    n_slots=n_slots,
                    n_groups=1 + (fire_lanes > 2 and pixels),
                    tail_lanes=banks * rng.choice((5, 8, 16)) - rng.randrange(banks),
                    timesteps=3 if pixels else 2,
                    pixels=pixels,
                )
            )
    n_bits = sum(bits.bit_count() for case in cases for _, _, bits in case.spikes)
    assert n_bits > 100, "a test without spikes"
    run(config, shuffled(rng, cases), seed=seed)


@BUILDS
def test_output_layers(fire_lanes: int, sum_queue: int, banks: int) -> None:
    config = build(fire_lanes, sum_queue, banks, result_rows=48)
    rng = random.Random(2000 + fire_lanes)
    cases = [
        output_layer(rng, config, n_groups, tail_lanes)
        for n_groups, tail_lanes in ((1, 10), (2, 1), (3, 16), (1, 1), (3, 5))
    ]
    # Between output layers runs a firing layer, whose biases would be noticed in the logits.
    firing = firing_layer(rng, config, gate=Gate.OR, leak=Leak.KEEP, reset=Reset.SOFT)
    run(config, [*cases[:3], firing, *cases[3:]], seed=fire_lanes)
    run(config, cases[::-1], seed=fire_lanes)


def test_a_job_per_cycle() -> None:
    """Check that a job can begin in every cycle, if ``fire_lanes`` equals ``lanes``.

    There are as many interleaved output positions as the latency of the membranes requires.
    """
    config = Config(**{**build(16).__dict__, "membrane_slots": 8})
    case = firing_layer(
        random.Random(3),
        config,
        gate=Gate.XOR,
        leak=Leak.SUBTRACT,
        reset=Reset.SOFT,
        n_slots=8,
        n_groups=1,
        tail_lanes=16,
        timesteps=4,
    )
    assert case.header["spacing"] == 1
    run(config, [case], seed=0)


@pytest.mark.parametrize("kind", ["spikes", "pixels"])
@pytest.mark.parametrize("fire_lanes", [8, 16])
def test_membrane_latency_is_tight(fire_lanes: int, kind: str) -> None:
    """Check that a neuron's next timestep may begin ``membrane_latency`` cycles later, but not one
    earlier.

    One cycle earlier it reads the old membrane.
    """
    config = build(fire_lanes, pixels=True)
    n_beats = config.fire_beats
    phases = [Phase.SPIKES] * 2
    if kind == "pixels":
        phases = [Phase.PLANE] * N_PLANES + [Phase.FIRST]
    totals = {}

    for spacing in (config.membrane_latency, config.membrane_latency - 1):
        dut = FireUnit(config)
        spikes = []

        async def bench(ctx, dut=dut, spacing=spacing, spikes=spikes):
            # Each job adds 1, so that two timesteps add up to 2 and eight bit-planes to 255.
            threshold = 2 if kind == "spikes" else 255
            ctx.set(dut.params, [{"bias": 0, "threshold": threshold}] * fire_lanes)
            ctx.set(
                dut.header,
                {
                    "spacing": spacing,
                    "tail_lanes": 16,
                    "last_beat": n_beats - 1,
                    "pixels": kind == "pixels",
                },
            )
            await ctx.tick().repeat(3)
            ctx.set(dut.sums.available, 1)
            ctx.set(dut.sums.p, {"sums": [1] * fire_lanes})
            ctx.set(dut.jobs.valid, 1)
            for t, phase in enumerate(phases):
                job = {"fresh": t == 0, "phase": phase}
                ctx.set(dut.jobs.p, job | {"pool_first": 1, "pool_last": 1})
                await wait_until(ctx, dut.jobs.ready)
            ctx.set(dut.jobs.valid, 0)
            await ctx.tick().repeat(20)

        async def watch(ctx, dut=dut, spikes=spikes):
            async for _, _, valid, bits in ctx.tick().sample(dut.spikes.valid, dut.spikes.p.bits):
                if valid:
                    spikes.append(bits)

        simulate(dut, bench, background=[watch])
        totals[spacing] = spikes
    right = [0] * (len(phases) - 1) + [0xFFFF]
    assert totals[config.membrane_latency] == right
    assert totals[config.membrane_latency - 1] != right


def test_a_job_begins_when_its_sums_are_available() -> None:
    """Check that a job does not begin before its sums are available."""
    config = build(4)
    dut = FireUnit(config)

    async def bench(ctx):
        ctx.set(dut.header, {"spacing": 4, "tail_lanes": 16, "last_beat": 3})
        await ctx.tick().repeat(3)
        for first in (dut.jobs.valid, dut.sums.available):
            second = dut.sums.available if first is dut.jobs.valid else dut.jobs.valid
            ctx.set(first, 1)
            for _ in range(6):
                await ctx.tick()
                assert not ctx.get(dut.sums.begin) and not ctx.get(dut.param_en)
            ctx.set(second, 1)
            for beat in range(4):
                assert ctx.get(dut.param_en) and ctx.get(dut.sums.beat) == beat
                assert ctx.get(dut.sums.begin) == (beat == 0)
                assert ctx.get(dut.sums.last) == ctx.get(dut.jobs.ready) == (beat == 3)
                await ctx.tick()
                ctx.set(dut.sums.available, 0)
            ctx.set(dut.jobs.valid, 0)
            await ctx.tick().repeat(3)

    simulate(dut, bench)
