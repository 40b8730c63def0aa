"""Tests of the chain of banks against NumPy: sums over all banks, identity spikes and host reads.

A *granule* is a byte of spike memory. A *slot* is one cycle's read of spike memory. A *chunk* is
the inputs that a bank reads in a slot. A *job* computes one output position of one group of output
channels at one timestep, from several chunks. *Identity spikes* are those of a residual block's
shortcut.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest

from hw.core.banks import Banks, Join
from hw.core.nest import WORD_BITS
from hw.spec import GRANULE_BITS, PIECE_BITS, Config, signed_range
from tests.streams import simulate

WEIGHT_ROWS = 64
SPIKE_BYTES = 128
READ_ONLY = SPIKE_BYTES // 2
"""Address of the first granule that jobs in these tests never read. From here on, granules may be
written while jobs run."""


def build(banks: int, *, lanes: int = 0, fire_lanes: int = 0, sum_queue: int = 16) -> Config:
    return Config(
        banks=banks,
        lanes=lanes or 8 * banks,
        fire_lanes=fire_lanes or max(banks, 4),
        weight_bits=8,
        weight_depth=WEIGHT_ROWS,
        sum_bits=16,
        membrane_bits=24,
        chunk_bits=32,
        spike_bytes=SPIKE_BYTES,
        param_depth=1024,
        sum_queue=sum_queue,
    )


BUILDS = {
    "1 bank, no queue": build(1, lanes=16, sum_queue=0),
    "1 bank": build(1, lanes=16, fire_lanes=16),
    "2 banks": build(2, lanes=32, fire_lanes=4),
    "2 banks, 1 beat": build(2, fire_lanes=16),
    "4 banks": build(4, fire_lanes=8),
    "8 banks": build(8, fire_lanes=16),
}


@pytest.mark.parametrize("seed", range(6))
def test_join_counts_jobs_that_are_complete_in_both_places(seed: int) -> None:
    """Check that ``Join`` counts a job one cycle after the slower of two banks has completed it."""
    config, rng = build(2), random.Random(seed)
    most = config.sum_queue + 1
    dut = Join(config)
    share = rng.choice((0.5, 0.9))

    async def bench(ctx):
        n_first = n_second = n_both = 0
        lead = []
        for cycle in range(600):
            phase = cycle // 100 % 3  # the first place leads, then the second one, then both run on
            first = rng.random() < (share, 0.05, 0.8)[phase] and n_first - n_second < most
            second = rng.random() < (0.05, share, 0.8)[phase] and n_second - n_first < most
            ctx.set(dut.first, first)
            ctx.set(dut.second, second)
            n_first, n_second = n_first + first, n_second + second
            lead.append(n_first - n_second)
            await ctx.tick()
            n_both += ctx.get(dut.both)
            assert n_both == min(n_first, n_second), f"cycle {cycle}"
        assert min(lead) == -most and max(lead) == most

    simulate(dut, bench)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Slot that reads a chunk of a job's inputs."""

    bit: int
    weight: int
    gather: bool
    silent: bool
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """Job: the slots that read its inputs, and how the fire unit reads its sums."""

    chunks: list[Chunk]
    identity: int
    """Address of the granule with the first identity spikes."""
    tail: bool
    plane: bool
    n_beats: int


@dataclass(kw_only=True)
class Model:
    """Model of all banks in NumPy, with the same spikes and weights."""

    config: Config
    spikes: np.ndarray
    """Contents of each bank's spike memory, one array element per bit."""
    weights: np.ndarray
    """Contents of each bank's weight memory: (bank, row, lane)."""
    layer: dict = field(default_factory=dict)

    @staticmethod
    def random(rng: np.random.Generator, config: Config, density: float) -> Model:
        low, high = signed_range(config.weight_bits)
        shape = (config.banks, WEIGHT_ROWS, config.lanes)
        model = Model(
            config=config,
            spikes=(rng.random((config.banks, 8 * SPIKE_BYTES)) < density).astype(np.int64),
            weights=rng.integers(low, high + 1, shape),
        )
        model.spikes[0, : 8 * READ_ONLY // 2] = 0  # jobs that are silent in one bank only
        return model

    def granule(self, bank: int, granule: int) -> int:
        return self.number(self.spikes[bank, 8 * granule :][:8])

    def row(self, bank: int, row: int) -> int:
        """Return row ``row`` of a bank's weight memory as one integer."""
        raw = self.weights[bank, row].astype(f"i{self.config.weight_bits // 8}").tobytes()
        return int.from_bytes(raw, "little")

    @staticmethod
    def number(bits: np.ndarray) -> int:
        return sum(int(bit) << i for i, bit in enumerate(bits))

    def active_rows(self, bank: int, chunk: Chunk) -> list[int]:
        """Return the indices of the rows of weights that the active inputs of a chunk select in a
        bank."""
        if chunk.silent:
            return []
        rows = []
        layer, columns = self.layer, self.config.chunk_bits
        n_bits = layer["tail_bits" if chunk.cut else "body_bits"]
        for k, count in enumerate(n_bits):
            start = chunk.bit + k * PIECE_BITS + chunk.gather * layer["piece_rows"][k] * columns
            for i in np.flatnonzero(self.spikes[bank, start:][:count]):
                granule, bit = divmod(int(i), GRANULE_BITS)
                in_piece = (granule << layer["granule_rows"]) + bit % (1 << layer["granule_rows"])
                rows.append(chunk.weight + layer["piece_weights"][k] + in_piece)
        return rows

    def sums(self, job: Job) -> np.ndarray:
        """Return the sums of a job over all banks, one per lane.

        If the job reads bit-planes of pixels, each bank reads another plane. The sums of a bank
        then count twice as much as those of the next bank.
        """
        total = np.zeros(self.config.lanes, np.int64)
        for bank in range(self.config.banks):
            rows = [row for chunk in job.chunks for row in self.active_rows(bank, chunk)]
            total = total * (2 if job.plane else 1) + self.weights[bank, rows].sum(axis=0)
        return total

    def n_reads(self, job: Job) -> int:
        return sum(
            len(self.active_rows(bank, chunk))
            for bank in range(self.config.banks)
            for chunk in job.chunks
        )

    def identity(self, job: Job) -> np.ndarray:
        """Return one identity spike per lane; that of lane ``l`` is read from bank ``l %
        banks``."""
        lanes = np.arange(self.config.lanes)
        bits = 8 * job.identity + lanes // self.config.banks
        return self.spikes[lanes % self.config.banks, bits]


def random_layer(rng: random.Random) -> dict:
    """Return the fields of a random layer: how a window of spikes is read and which weights belong
    to it.

    All addresses that result from these fields are valid.
    """
    n_pieces = 2
    granule_rows = rng.choice((0, 1, 2, 3, 3))
    return {
        "body_bits": [rng.choice((PIECE_BITS, PIECE_BITS, rng.randrange(17)))] * n_pieces,
        "tail_bits": [rng.randrange(PIECE_BITS + 1) for _ in range(n_pieces)],
        "piece_rows": [rng.randrange(3) for _ in range(n_pieces)],
        "piece_weights": [rng.randrange(32) for _ in range(n_pieces)],
        "granule_rows": granule_rows,
    }


def random_job(rng: random.Random, config: Config, *, planes: bool) -> Job:
    silent = rng.random() < 0.15
    last_bit = 8 * READ_ONLY - config.chunk_bits * 5
    return Job(
        chunks=[
            Chunk(
                bit=rng.randrange(0, last_bit, 8),
                weight=rng.randrange(WEIGHT_ROWS - 32 - PIECE_BITS),
                gather=True,
                silent=silent or rng.random() < 0.1,
                cut=rng.random() < 0.3,
            )
            for _ in range(rng.choice((1, 1, 2, 5)))
        ],
        identity=rng.randrange(READ_ONLY - config.bank_lanes // 8),
        tail=rng.random() < 0.3,
        plane=planes and rng.random() < 0.7,
        n_beats=rng.choice((config.fire_beats, config.fire_beats, 1)),
    )


class Bench:
    """Test bench for the chain of banks, in place of the units before and after it (walk and fire
    unit).

    It sends reads and writes to the banks, and compares all outputs with :class:`Model`.
    """

    def __init__(self, config: Config, seed: int, *, density: float = 0.2):
        self.config, self.dut = config, Banks(config)
        self.rng = random.Random(seed)
        self.model = Model.random(np.random.default_rng(seed), config, density)
        self.reads: deque[int] = deque()
        self.n_reads = {"real": 0, "tail": 0}
        self.room_fell = False

    async def load(self, ctx) -> None:
        """Write the contents of all spike and weight memories, in random order and with pauses."""
        config, dut, rng = self.config, self.dut, self.rng
        every_bank = (1 << config.banks) - 1
        granules = []  # each is written into some of the banks, and into the others
        for granule in range(SPIKE_BYTES):
            some = rng.randrange(1, every_bank + 1)
            granules += [(some, granule), (every_bank & ~some, granule)]
        rows = [(b, r) for b in range(config.banks) for r in range(WEIGHT_ROWS)]
        rng.shuffle(granules)
        rng.shuffle(rows)
        for (banks, granule), (weight_bank, row) in itertools.zip_longest(
            granules, rows, fillvalue=(0, 0)
        ):
            # Lane l is of bank l % banks; what is for the other banks is not written.
            bits = rng.getrandbits(config.lanes)
            for bank in range(config.banks):
                if banks >> bank & 1:
                    lanes = self.model.spikes[bank, 8 * granule :][:GRANULE_BITS]
                    for i, bit in enumerate(lanes):
                        lane = 1 << i * config.banks + bank
                        bits = bits | lane if bit else bits & ~lane
            ctx.set(dut.spikes.valid, 1)
            ctx.set(dut.spikes.p, {"banks": banks, "granule": granule, "count": 1, "bits": bits})
            ctx.set(dut.weights.valid, 1)
            ctx.set(dut.weight_bank, 1 << weight_bank)
            ctx.set(dut.weights.p, {"row": row, "data": self.model.row(weight_bank, row)})
            await ctx.tick()
            ctx.set(dut.spikes.valid, 0)
            ctx.set(dut.weights.valid, 0)
            if rng.random() < 0.05:
                await ctx.tick()
        await ctx.tick().repeat(10)

    async def set_layer(self, ctx) -> None:
        """Set the banks' layer inputs to a random layer, while the banks are idle."""
        self.model.layer = random_layer(self.rng)
        ctx.set(self.dut.layer, self.model.layer)
        await ctx.tick().repeat(20)

    async def idle_slot(self, ctx) -> None:
        ctx.set(self.dut.slot, self.garbage())
        await ctx.tick()

    def garbage(self) -> dict[str, int]:
        """Return random values for the fields of a slot that reads nothing."""
        rng = self.rng
        return {
            "chunk": 0,
            "host": 0,
            "bit": rng.randrange(8 * SPIKE_BYTES),
            "gather": rng.getrandbits(1),
            "weight": rng.randrange(WEIGHT_ROWS),
            "last": rng.getrandbits(1),
        }

    async def walk(self, ctx, jobs: list[Job], *, gated: bool, stall: float, host: float) -> None:
        """Send a slot to the banks in each cycle, for one job after another.

        A slot reads a chunk of the job's inputs, if all banks have room for it, or, with
        probability ``host``, a byte for the host. If ``gated``, one more slot after the last chunk
        reads the job's identity spikes. With probability ``stall``, no chunk is read in a cycle.
        """
        dut, rng = self.dut, self.rng
        for job in jobs:
            chunks = deque(job.chunks)
            while chunks:
                slot = self.garbage()
                room = ctx.get(dut.room)
                self.room_fell |= not room
                if rng.random() < host:
                    bank, granule = rng.randrange(self.config.banks), rng.randrange(READ_ONLY)
                    slot |= {"host": 1 << bank, "bit": 8 * granule, "gather": 0}
                    self.reads.append(self.model.granule(bank, granule))
                elif room and rng.random() >= stall:
                    chunk = chunks.popleft()
                    slot |= chunk.__dict__ | {"chunk": 1, "last": not chunks, "tail": job.tail}
                ctx.set(dut.slot, slot)
                await ctx.tick()
            if gated:
                ctx.set(dut.slot, self.garbage() | {"bit": 8 * job.identity, "gather": 0})
                await ctx.tick()
            name = "tail" if job.tail else "real"
            self.n_reads[name] += self.model.n_reads(job)
        await self.idle_slot(ctx)

    async def fire(
        self, ctx, jobs: list[Job], *, gated: bool, stall: float, late: bool = False
    ) -> None:
        """Read the sums of jobs as the fire unit does, and compare them with the model.

        In each cycle, ``fire_lanes`` sums are read. Before a job, each cycle is a pause with
        probability ``stall``. If ``late``, begin only when the banks' queues are full.
        """
        config, dut, rng = self.config, self.dut, self.rng
        due: deque = deque([None] * (config.param_latency - 1))

        async def tick(asked=None) -> None:
            due.append(asked)
            await ctx.tick()
            wanted = due.popleft()
            if wanted is not None:
                what, sums, identity = wanted
                assert list(ctx.get(dut.sums.p.sums)) == sums, what
                assert not gated or ctx.get(dut.sums.p.identity) == identity, what

        while late and not self.room_fell:
            await tick()
        for number, job in enumerate(jobs):
            sums, identity = self.model.sums(job), self.model.identity(job)
            while rng.random() < stall or not ctx.get(dut.sums.available):
                ctx.set(dut.sums.plane, rng.getrandbits(1))
                await tick()
            for beat in range(job.n_beats):
                ctx.set(dut.sums.begin, beat == 0)
                ctx.set(dut.sums.beat, beat)
                ctx.set(dut.sums.last, beat == job.n_beats - 1)
                ctx.set(dut.sums.plane, job.plane)
                lanes = slice(beat * config.fire_lanes, (beat + 1) * config.fire_lanes)
                what = f"job {number}: {job}, beat {beat}"
                await tick((what, sums[lanes].tolist(), self.model.number(identity[lanes])))
            ctx.set(dut.sums.begin, 0)
            ctx.set(dut.sums.last, 0)
        for _ in range(40):
            await tick()
            assert not ctx.get(dut.sums.available), "more sums than jobs"

    async def watch_reads(self, ctx) -> None:
        """Compare what the host reads with the model, in the order of the requests."""
        read = self.dut.read
        async for _, _, valid, value in ctx.tick().sample(read.valid, read.p):
            if valid:
                assert self.reads, "nothing has been asked for"
                assert value == self.reads.popleft()

    async def count_reads(self, ctx) -> None:
        """Compare the number of rows of weights that the banks report as read with the number of
        active inputs."""
        async for _, _, real, tail in ctx.tick().sample(self.dut.n_real, self.dut.n_tail):
            self.n_reads["real"] -= real
            self.n_reads["tail"] -= tail

    def jobs(self, n_jobs: int, *, planes: bool = False) -> list[Job]:
        return [random_job(self.rng, self.config, planes=planes) for _ in range(n_jobs)]

    def simulate(self, *benches, max_ticks: int = 20_000) -> None:
        simulate(
            self.dut,
            *benches,
            background=[self.watch_reads, self.count_reads],
            max_ticks=max_ticks,
        )
        assert not self.reads, "reads without an answer"


def run_layers(bench: Bench, layers: list[dict]) -> None:
    """Run layers one after another on the chain of banks, and compare all outputs with the model.

    Each entry of ``layers`` has the jobs, whether they have a gate, and the probabilities of pauses
    (``walk_stall`` for the slots, ``fire_stall`` for the sums) and of reads by the host.
    """
    ready = []

    async def walk(ctx):
        await bench.load(ctx)
        for number, layer in enumerate(layers):
            await bench.set_layer(ctx)
            ready.append(number)
            await bench.walk(
                ctx,
                layer["jobs"],
                gated=layer["gated"],
                stall=layer["walk_stall"],
                host=layer["host"],
            )
            while number in ready:
                await bench.idle_slot(ctx)
            assert bench.n_reads == {"real": 0, "tail": 0}, "rows of weights read"

    async def fire(ctx):
        for number, layer in enumerate(layers):
            while number not in ready:
                await ctx.tick()
            await bench.fire(
                ctx,
                layer["jobs"],
                gated=layer["gated"],
                stall=layer["fire_stall"],
                late=number == 0,
            )
            ready.remove(number)

    bench.simulate(walk, fire)


@pytest.mark.parametrize("build", BUILDS)
def test_sums_over_all_banks(build: str) -> None:
    """Check the sums of random jobs, with and without gate, with spikes or bit-planes as input,
    while the host reads spikes.

    Some jobs have no active input in one bank or in all banks. At first the queues become full;
    later the banks wait for inputs.
    """
    config = BUILDS[build]
    bench = Bench(config, seed=len(build))
    n_jobs = 30 if config.banks < 4 else 9
    layers = [
        {
            "jobs": bench.jobs(36 if number == 0 else n_jobs, planes=number == 1),
            "gated": number < 2,
            "walk_stall": (0.0, 0.3, 0.0)[number],
            "host": (0.0, 0.2, 0.1)[number],
            "fire_stall": (0.2, 0.3, 0.0)[number],
        }
        for number in range(3)
    ]
    run_layers(bench, layers)


@pytest.mark.parametrize("build", ["1 bank, no queue", "4 banks"])
def test_words_and_granules(build: str) -> None:
    """Check that words of weights and granules of spikes arrive in the order of the requests.

    Words are requested one per cycle, from one bank after another. Spikes are written to a single
    bank, as by the host, or to all banks, as by the fire unit.
    """
    config = BUILDS[build]
    bench = Bench(config, seed=50 + len(build))
    dut, rng, model = bench.dut, bench.rng, bench.model
    n_words = config.lanes * config.weight_bits // WORD_BITS

    async def read_words(ctx, stall: float) -> None:
        for n in range(80):
            bank = n % config.banks if rng.random() < 0.8 else rng.randrange(config.banks)
            row, word = rng.randrange(WEIGHT_ROWS), rng.randrange(n_words)
            ctx.set(dut.word.valid, 1)
            ctx.set(dut.word_bank, 1 << bank)
            ctx.set(dut.word.p, {"row": row, "word": word})
            bench.reads.append(model.row(bank, row) >> WORD_BITS * word & (1 << WORD_BITS) - 1)
            await ctx.tick()
            while rng.random() < stall:
                ctx.set(dut.word.valid, 0)
                await ctx.tick()
        ctx.set(dut.word.valid, 0)
        await ctx.tick().repeat(20)

    async def write_spikes(ctx) -> None:
        granules = config.bank_lanes // GRANULE_BITS
        for n in range(20):
            count = rng.randrange(1, granules + 1)
            first = rng.randrange(SPIKE_BYTES - granules)
            bits = np.array([rng.getrandbits(1) for _ in range(config.lanes)])
            banks = (1 << config.banks) - 1 if n % 2 else 1 << rng.randrange(config.banks)
            for bank in range(config.banks):
                if banks >> bank & 1:
                    of_bank = bits[bank :: config.banks][: 8 * count]
                    model.spikes[bank, 8 * first :][: 8 * count] = of_bank
            ctx.set(dut.spikes.valid, 1)
            ctx.set(
                dut.spikes.p,
                {"banks": banks, "granule": first, "count": count, "bits": model.number(bits)},
            )
            await ctx.tick()
        ctx.set(dut.spikes.valid, 0)
        ctx.set(dut.spikes.p.banks, (1 << config.banks) - 1)
        await ctx.tick().repeat(20)

    async def read_granules(ctx, stall: float) -> None:
        granules = list(itertools.product(range(SPIKE_BYTES), range(config.banks)))
        for granule, bank in granules if stall == 0 else rng.sample(granules, 40):
            while rng.random() < stall:
                await bench.idle_slot(ctx)
            slot = bench.garbage() | {"host": 1 << bank, "bit": 8 * granule, "gather": 0}
            ctx.set(dut.slot, slot)
            bench.reads.append(model.granule(bank, granule))
            await ctx.tick()
        for _ in range(30):
            await bench.idle_slot(ctx)

    async def run(ctx):
        await bench.load(ctx)
        await bench.set_layer(ctx)
        await read_words(ctx, 0.0)
        await write_spikes(ctx)
        await read_granules(ctx, 0.0)
        await read_words(ctx, 0.5)
        await read_granules(ctx, 0.5)

    bench.simulate(run)
    assert bench.n_reads == {"real": 0, "tail": 0}, "a read of a word is no read of weights"


@pytest.mark.parametrize("build", ["1 bank, no queue", "1 bank", "2 banks"])
def test_an_abort_drops_everything(build: str) -> None:
    """Check that an abort at any time leaves no old sums, and that later sums are right."""
    config = BUILDS[build]
    bench = Bench(config, seed=70 + len(build))
    dut, rng = bench.dut, bench.rng

    async def run(ctx):
        await bench.load(ctx)
        await bench.set_layer(ctx)
        for number, n_jobs in enumerate((1, 2, 3, 5, 8, 30)):
            # Jobs that never end: with more slots than there is room for, the queues are full.
            for job in bench.jobs(n_jobs):
                for chunk in job.chunks:
                    if ctx.get(dut.room):
                        last = chunk is job.chunks[-1]
                        used = {"chunk": 1, "last": last and rng.random() < 0.8}
                        ctx.set(dut.slot, bench.garbage() | chunk.__dict__ | used)
                    await ctx.tick()
                    ctx.set(dut.slot, bench.garbage())
            for _ in range(rng.randrange(30)):
                await bench.idle_slot(ctx)
            ctx.set(dut.aborted, 1)
            for _ in range(1 if config.banks == 1 else 2 * config.banks + 4):
                await bench.idle_slot(ctx)
            ctx.set(dut.aborted, 0)
            for _ in range(12):
                await bench.idle_slot(ctx)
                assert not ctx.get(dut.sums.available), f"abort {number}"
            jobs = bench.jobs(6)
            bench.n_reads = {"real": 0, "tail": 0}
            await bench.walk(ctx, jobs, gated=True, stall=0, host=0.1)
            await bench.fire(ctx, jobs, gated=True, stall=0)
            assert bench.n_reads == {"real": 0, "tail": 0}, "rows of weights read"

    bench.simulate(run)
