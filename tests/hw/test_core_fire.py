"""The fire unit against the neuron of :mod:`hw.spec`, written as plain integers."""

import random

import pytest

from hw.core.fire import Fire
from hw.spec import GRANULE_BITS, MEMBRANE_LATENCY, Config, Gate, Leak, Reset, leaked
from tests.streams import put, simulate

CONFIG = Config(
    lanes=16,
    fire_lanes=4,
    membrane_bits=16,
    membrane_slots=4,
    param_depth=64,
    spike_bytes=1024,
    weight_depth=64,
)
TAIL_LANES = 11


def join(gate: Gate, spike: int, identity: int) -> int:
    return {
        Gate.NONE: spike,
        Gate.AND: spike & identity,
        Gate.IAND: (1 - spike) & identity,
        Gate.OR: spike | identity,
        Gate.XOR: spike ^ identity,
    }[gate]


@pytest.mark.parametrize("reset", Reset)
@pytest.mark.parametrize("leak", Leak)
@pytest.mark.parametrize(
    ("gate", "pool"), [(Gate.NONE, 1), (Gate.AND, 1), (Gate.IAND, 2), (Gate.OR, 1), (Gate.XOR, 2)]
)
@pytest.mark.parametrize("fire_lanes", [4, 16])
def test_equals_the_neuron(leak, reset, gate, pool, fire_lanes) -> None:
    config = Config(
        **{
            name: getattr(CONFIG, name)
            for name in ("lanes", "membrane_bits", "membrane_slots", "param_depth", "spike_bytes")
        },
        fire_lanes=fire_lanes,
        weight_depth=64,
    )
    rng = random.Random(f"{leak}{reset}{gate}{pool}{fire_lanes}")
    shift = 0 if leak == Leak.NONE else rng.randrange(1, 4)
    # Order of jobs: pooling children, interleaved slots, timesteps, groups; the last is a tail.
    n_groups, timesteps, n_slots = 3, 4, 4
    n_beats = config.fire_beats
    spacing = max(n_beats, -(-MEMBRANE_LATENCY // n_slots))
    params = {
        (g, slot, lane): (rng.randrange(-300, 300), rng.randrange(1, 1500))
        for g in range(n_groups)
        for slot in range(n_slots)
        for lane in range(config.lanes)
    }
    jobs, sums, identities, expected = [], [], [], []
    for g in range(n_groups):
        membranes = {}
        for t in range(timesteps):
            pooled = [0] * config.lanes
            for slot in range(n_slots):
                drive = [rng.randrange(-1500, 1500) for _ in range(config.lanes)]
                identity = [rng.randrange(2) for _ in range(config.lanes)]
                tail = g == n_groups - 1
                first, last = slot % pool == 0, slot % pool == pool - 1
                if first:
                    pooled = [0] * config.lanes
                for lane in range(config.lanes):
                    bias, threshold = params[g, slot, lane]
                    old = membranes.get((slot, lane), 0)
                    membrane = leaked(old, leak, shift) + drive[lane] + bias
                    spike = int(membrane >= threshold)
                    if spike:
                        membrane = membrane - threshold if reset == Reset.SOFT else 0
                    membranes[slot, lane] = membrane
                    if lane < (TAIL_LANES if tail else config.lanes):
                        pooled[lane] |= join(gate, spike, identity[lane])
                target = len(jobs)
                jobs.append(
                    {
                        "target": target,
                        "param": (g * n_slots + slot) * n_beats,
                        "slot": slot,
                        "end": (g, t, slot) == (n_groups - 1, timesteps - 1, n_slots - 1),
                        "fresh": t == 0,
                        "pool_first": first,
                        "pool_last": last,
                        "tail": tail,
                    }
                )
                sums.append(drive)
                identities.append(sum(bit << i for i, bit in enumerate(identity)))
                if last:
                    bits = sum(bit << i for i, bit in enumerate(pooled))
                    n_real = TAIL_LANES if tail else config.lanes
                    expected.append((target, -(-n_real // GRANULE_BITS), bits))
    dut = Fire(config)
    got, counted, finished = [], [0], [0]

    async def feed(ctx):
        ctx.set(
            dut.header,
            {
                "gate": gate,
                "leak": leak,
                "leak_shift": shift,
                "reset": reset,
                "tail_lanes": TAIL_LANES,
            },
        )
        await ctx.tick().repeat(4)
        for drive in sums:
            ctx.set(dut.sums, drive)
            ctx.set(dut.done, 1)
            await ctx.tick()
            ctx.set(dut.done, 0)
            ctx.set(dut.sums, [-7] * config.lanes)  # the lanes go on with the next job
            wait = spacing - 1 + (rng.randrange(5) if rng.random() < 0.2 else 0)
            if wait:
                await ctx.tick().repeat(wait)
        await ctx.tick().repeat(20)

    async def feed_jobs(ctx):
        await put(ctx, dut.jobs, jobs, rng=rng, stall=0)

    async def feed_identities(ctx):
        if gate != Gate.NONE:
            await put(ctx, dut.identities, identities, rng=rng, stall=0)

    async def parameter_memory(ctx):
        async for _, _, row in ctx.tick().sample(dut.param_row):
            slot_row, beat = divmod(row, n_beats)
            g, slot = divmod(slot_row, n_slots)
            values = [
                params.get((g, slot, beat * fire_lanes + j), (0, 1)) for j in range(fire_lanes)
            ]
            ctx.set(dut.params, [{"bias": b, "threshold": t} for b, t in values])

    async def collect(ctx):
        trigger = ctx.tick().sample(dut.spikes.valid, dut.spikes.p, dut.n_spikes, dut.finished)
        async for _, _, valid, spikes, n_spikes, end in trigger:
            counted[0] += n_spikes
            finished[0] += end
            if valid:
                got.append((spikes.granule, spikes.count, spikes.bits))

    simulate(
        dut,
        feed,
        feed_jobs,
        feed_identities,
        background=[parameter_memory, collect],
        max_ticks=2000,
    )
    assert got == expected
    assert counted[0] == sum(bits.bit_count() for _, _, bits in expected)
    assert finished[0] == 1
    assert sum(bits.bit_count() for _, _, bits in expected) > 50, "a test without spikes"


def test_output_layer_stores_sum_plus_bias() -> None:
    dut = Fire(CONFIG)
    sums = [100 * i - 700 for i in range(CONFIG.lanes)]
    stored = {}

    async def feed(ctx):
        ctx.set(dut.header, {"output": 1, "tail_lanes": 10})
        ctx.set(dut.params, [{"bias": j - 1, "threshold": 1} for j in range(CONFIG.fire_lanes)])
        ctx.set(dut.jobs.valid, 1)
        ctx.set(
            dut.jobs.p,
            {"target": 3, "end": 1, "fresh": 1, "pool_first": 1, "pool_last": 1, "tail": 1},
        )
        ctx.set(dut.sums, sums)
        ctx.set(dut.done, 1)
        await ctx.tick()
        ctx.set(dut.done, 0)
        for _ in range(20):
            _, _, en, row, result, writes = await ctx.tick().sample(
                dut.result_en, dut.result_row, dut.result, dut.spikes.valid
            )
            assert not writes, "an output layer writes no spikes"
            if en:
                stored[row] = list(result)

    simulate(dut, feed)
    assert stored == {3 + beat: [sums[4 * beat + j] + j - 1 for j in range(4)] for beat in range(4)}
