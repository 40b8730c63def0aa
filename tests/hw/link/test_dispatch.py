"""Tests of the dispatcher with a stub core: it executes every opcode, and refused requests change
nothing."""

import random
from dataclasses import replace

import pytest
from amaranth import Module
from amaranth.lib import wiring

from hw.link.dispatch import Dispatcher
from hw.link.frame import FrameSender
from hw.protocol import (
    ARGUMENT_BYTES,
    END,
    REPLY,
    WRITABLE,
    DeviceStatus,
    Opcode,
    Result,
    RunState,
    Space,
    Status,
    identity_bytes,
    max_request_rows,
    n_bytes,
    n_rows,
    pack,
    pack_zeros,
    row_bytes,
    spaces,
)
from hw.spec import Config, SpecError
from sim.stub_core import StubCore
from tests.hw.wire import (
    check_payload,
    packet_of,
    rate_payload,
    reply,
    request,
    rows_payload,
    run_payload,
    unpacked,
)
from tests.streams import get, packet_items, put, refuses, simulate, stays_valid

CONFIGS = [
    Config(
        name="narrow",
        lanes=8,
        weight_bits=4,
        weight_depth=40,
        fire_lanes=1,
        param_depth=128,
        chunk_bits=32,
        spike_bytes=64,
        max_layers=3,
        result_rows=5,
        max_payload_bytes=64,
        rx_buffer_bytes=128,
    ),
    Config(
        name="wide",
        lanes=64,
        weight_bits=4,
        weight_depth=24,
        fire_lanes=8,
        param_depth=32,
        spike_bytes=64,
        max_layers=4,
        result_rows=3,
        packed_writes=1,
        max_payload_bytes=200,
        rx_buffer_bytes=512,
    ),
]
PACKED = [replace(CONFIGS[0], name="narrow-packed", packed_writes=1), CONFIGS[1]]
RUN_CYCLES = 150


@pytest.fixture(params=CONFIGS, ids=lambda config: config.name)
def config(request) -> Config:
    return request.param


class Host:
    """Host side of the link: sends requests to a dispatcher and receives its replies."""

    def __init__(
        self, ctx, dut: Dispatcher, wire, rng: random.Random, stall: float, run_cycles: int
    ):
        self.ctx, self.dut, self.wire, self.rng, self.stall = ctx, dut, wire, rng, stall
        self.run_cycles = run_cycles
        self.seq = 0

    async def send(self, opcode: int, payload: bytes = b"") -> int:
        self.seq = (self.seq + 1) % 256
        packet = request(self.seq, opcode, payload)
        await self.ctx.tick().repeat(5)  # on the serial line, frames are further apart
        self.ctx.set(self.dut.n_data_bytes, len(payload) - ARGUMENT_BYTES)
        twice = self.dut.config.packed_writes and opcode == Opcode.WRITE_PACKED
        for _ in range(1 + twice):
            await put(self.ctx, self.dut.i, packet_items(packet), rng=self.rng, stall=self.stall)
        return self.seq

    async def receive(self) -> bytes:
        raw = bytearray()
        while (byte := await get(self.ctx, self.wire, rng=self.rng, stall=self.stall)) != END:
            raw.append(byte)
        return packet_of(bytes(raw))

    async def expect(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        status: Status = Status.OK,
        data: bytes = b"",
    ) -> None:
        seq = await self.send(opcode, payload)
        assert await self.receive() == reply(seq, opcode, data, status), (opcode, payload)

    async def start(self, tag: int, entry: int, *n_rows: int) -> None:
        await self.expect(Opcode.RUN, run_payload(tag, entry, *n_rows))

    async def expect_done(self, tag: int, entry: int, rows: bytes = b"") -> None:
        result = pack(Result, {"tag": tag, "argmax": entry, "n_cycles": self.run_cycles})
        assert await self.receive() == reply(tag, Opcode.DONE, result + rows)


def run_bench(
    config: Config,
    *bodies,
    stall: float = 0.2,
    seed: int = 0,
    after_reset: bool = False,
    run_cycles: int = RUN_CYCLES,
    watch=None,
) -> None:
    """Simulate a dispatcher with a stub core, and run each ``async body(host, core)`` in turn.

    The host first acknowledges the reset with an ABORT, unless ``after_reset``. ``watch(ctx, dut)``
    runs in the background. A run of the stub core lasts ``run_cycles`` cycles.
    """
    core = StubCore(config, run_cycles=run_cycles)
    dut = Dispatcher(config)
    sender = FrameSender()

    class Bench(wiring.Component):
        def __init__(self):
            super().__init__({})

        def elaborate(self, platform):
            m = Module()
            m.submodules.core = core
            m.submodules.dispatcher = dut
            m.submodules.sender = sender
            wiring.connect(m, dut.bus, core.bus)
            wiring.connect(m, dut.o, sender.i)
            m.d.comb += [
                sender.fold.eq(dut.fold),
                dut.folded_intact.eq(sender.folded_intact),
                dut.n_bad_frames.eq(0x1234),
                dut.n_overruns.eq(0xFFFF),
            ]
            return m

    def bench(body, number: int):
        async def run(ctx) -> None:
            rng = random.Random(seed + number)
            host = Host(ctx, dut, sender.o, rng, stall, run_cycles)
            if number == 0 and not after_reset:
                await host.expect(Opcode.ABORT)
                host.seq = 0
            await body(host, core)

        return run

    benches = [bench(body, number) for number, body in enumerate(bodies)]
    background = [stays_valid(sender.o)]
    if watch is not None:

        async def watched(ctx) -> None:
            await watch(ctx, dut)

        background.append(watched)
    simulate(Bench(), *benches, background=background, max_ticks=300_000)


def test_identify(config):
    async def body(host, core):
        for _ in range(2):
            await host.expect(Opcode.IDENTIFY, data=identity_bytes(config))

    run_bench(config, body)


@pytest.mark.parametrize("stall", (0.0, 0.3))
def test_every_space_reads_back_what_was_written(config, stall):
    rng = random.Random(3)

    async def body(host, core):
        images = {}
        for space in WRITABLE & set(spaces(config)):
            size = row_bytes(space, config)
            rows = min(n_rows(space, config), (config.max_payload_bytes - 6) // size)
            first = n_rows(space, config) - rows
            images[space] = first, rows, rng.randbytes(rows * size)
            request = rows_payload(space, first, rows) + images[space][2]
            await host.expect(Opcode.WRITE, request)
        for space, (first, rows, image) in images.items():
            size = row_bytes(space, config)
            step = (config.max_payload_bytes - 1) // size
            for at in range(0, rows, step):
                count = min(step, rows - at)
                await host.expect(
                    Opcode.READ,
                    rows_payload(space, first + at, count),
                    data=image[at * size : (at + count) * size],
                )

    run_bench(config, body, stall=stall)


def test_empty_write_and_read_are_accepted(config):
    async def body(host, core):
        n_weights = n_rows(Space.WEIGHT, config)
        await host.expect(Opcode.WRITE, rows_payload(Space.WEIGHT, 0, 0))
        await host.expect(Opcode.WRITE, rows_payload(Space.WEIGHT, n_weights, 0))
        await host.expect(Opcode.READ, rows_payload(Space.SPIKE, 0, 0))
        await host.expect(Opcode.CHECK, check_payload(Space.WEIGHT, n_weights, 0, b""))
        assert host.ctx.get(core.n_writes) == 0

    run_bench(config, body)


def test_refusals_name_the_reason_and_write_nothing(config):
    n_weights = n_rows(Space.WEIGHT, config)
    longest = config.max_payload_bytes
    row = bytes(row_bytes(Space.WEIGHT, config))

    def write(space: int, row: int, n: int, rows: bytes) -> tuple[Opcode, bytes]:
        return Opcode.WRITE, rows_payload(space, row, n) + rows

    def read(space: int, row: int, n: int) -> tuple[Opcode, bytes]:
        return Opcode.READ, rows_payload(space, row, n)

    def check(space: int, row: int, n: int) -> tuple[Opcode, bytes]:
        return Opcode.CHECK, check_payload(space, row, n, b"")

    refused = [
        (*write(Space.WEIGHT, 0, 1, row[:-1]), Status.BAD_LENGTH),
        (*write(Space.WEIGHT, 0, 1, row + b"x"), Status.BAD_LENGTH),
        (*write(Space.WEIGHT, 0, 2, row), Status.BAD_LENGTH),
        (*write(Space.WEIGHT, 0, 0x4000, b""), Status.BAD_LENGTH),
        (Opcode.WRITE, b"", Status.BAD_LENGTH),
        (Opcode.WRITE, b"\0\0\0\0\0", Status.BAD_LENGTH),
        (*write(Space.WEIGHT, n_weights, 1, row), Status.BAD_ADDRESS),
        (*write(Space.SPIKE, config.spike_bytes - 1, 2, b"xx"), Status.BAD_ADDRESS),
        (*write(Space.WEIGHT, 2**24 - 1, 1, row), Status.BAD_ADDRESS),
        (*write(Space.WEIGHT, 2**16, 1, row), Status.BAD_ADDRESS),
        (*write(Space.RESULT, 0, 1, bytes(4 * config.fire_lanes)), Status.BAD_SPACE),
        (*write(Space.COUNTER, 0, 1, bytes(16)), Status.BAD_SPACE),
        (*write(6, 0, 1, bytes(16)), Status.BAD_SPACE),
        (*write(255, 0, 0, b""), Status.BAD_SPACE),
        (*write(255, 0, 0, bytes(longest - 6)), Status.BAD_SPACE),
        (*read(6, 0, 1), Status.BAD_SPACE),
        (*read(Space.WEIGHT, n_weights, 1), Status.BAD_ADDRESS),
        (*read(Space.RESULT, 2**24 - 1, 1), Status.BAD_ADDRESS),
        (*read(Space.SPIKE, 0, longest), Status.BAD_LENGTH),
        (*read(Space.SPIKE, 0, 0xFFFF), Status.BAD_LENGTH),
        (*read(Space.COUNTER, 0, 0x1000), Status.BAD_LENGTH),
        (Opcode.READ, rows_payload(Space.SPIKE, 0, 1)[:-1], Status.BAD_LENGTH),
        (Opcode.READ, rows_payload(Space.SPIKE, 0, 1) + b"x", Status.BAD_LENGTH),
        (Opcode.READ, rows_payload(Space.SPIKE, 0, 1) + bytes(longest - 6), Status.BAD_LENGTH),
        (*check(6, 0, 1), Status.BAD_SPACE),
        (*check(Space.WEIGHT, n_weights, 1), Status.BAD_ADDRESS),
        (*check(Space.WEIGHT, 0, 0xFFFF), Status.BAD_LENGTH),
        (Opcode.CHECK, rows_payload(Space.WEIGHT, 0, 1), Status.BAD_LENGTH),
        (Opcode.CHECK, check_payload(Space.WEIGHT, 0, 1, b"") + b"x", Status.BAD_LENGTH),
        (Opcode.RUN, run_payload(1, config.weight_depth), Status.BAD_ADDRESS),
        (Opcode.RUN, run_payload(1, 0, config.result_rows + 1), Status.BAD_ADDRESS),
        (Opcode.RUN, run_payload(1, 0, 0, n_rows(Space.COUNTER, config) + 1), Status.BAD_ADDRESS),
        (Opcode.RUN, b"", Status.BAD_LENGTH),
        (Opcode.RUN, run_payload(1, 0) + b"x", Status.BAD_LENGTH),
        (Opcode.RATE, rate_payload(9)[:-1], Status.BAD_LENGTH),
        (Opcode.RATE, rate_payload(9) + b"x", Status.BAD_LENGTH),
        (Opcode.IDENTIFY, b"x", Status.BAD_LENGTH),
        (Opcode.STATUS, b"x", Status.BAD_LENGTH),
        (Opcode.ABORT, b"x", Status.BAD_LENGTH),
        (Opcode.DONE, b"", Status.BAD_OPCODE),
        (0x00, b"", Status.BAD_OPCODE),
        (0x42, bytes(longest), Status.BAD_OPCODE),
    ]

    async def body(host, core):
        for opcode, payload, status in refused:
            await host.expect(opcode, payload, status=status)
        assert host.ctx.get(core.n_writes) == 0
        # The last row of weight memory is accepted.
        await host.expect(*write(Space.WEIGHT, n_weights - 1, 1, row))
        assert host.ctx.get(core.n_writes) == 1

    run_bench(config, body)


def test_run_is_announced_and_may_be_repeated(config):
    async def body(host, core):
        await host.start(7, 5)
        await host.expect_done(7, 5)
        # A repeated RUN, as after a lost DONE, sends DONE again without another run.
        await host.start(7, 5)
        assert not host.ctx.get(core.bus.busy)
        await host.expect_done(7, 5)
        # Another tag starts another run; repeated during that run, RUN is only acknowledged.
        await host.start(8, 9)
        await host.start(8, 9)
        assert host.ctx.get(core.bus.busy)
        await host.expect_done(8, 9)
        await host.ctx.tick().repeat(2 * host.run_cycles)
        assert not host.ctx.get(host.wire.valid)

    run_bench(config, body, stall=0.0, run_cycles=600)


def test_done_carries_the_requested_rows(config):
    sizes = [row_bytes(space, config) for space in (Space.RESULT, Space.COUNTER)]
    rows = [random.Random(4).randbytes(2 * size) for size in sizes]

    async def body(host, core):
        for name, size, raw in zip(("result", "counter"), sizes, rows, strict=True):
            for i in range(2):
                row = int.from_bytes(raw[i * size : (i + 1) * size], "little")
                host.ctx.set(core.rows[name].data[i], row)
        for n_results, n_counters in ((2, 2), (1, 0), (0, 2), (0, 0)):
            tag = 10 * n_results + n_counters
            await host.start(tag, 1, n_results, n_counters)
            expected = rows[0][: n_results * sizes[0]] + rows[1][: n_counters * sizes[1]]
            await host.expect_done(tag, 1, expected)

    run_bench(config, body)


def test_one_run_may_wait_for_another(config):
    async def body(host, core):
        await host.start(1, 2)
        await host.start(2, 3)
        await host.start(2, 3)  # repeated: still one waiting run
        await host.expect(Opcode.RUN, run_payload(3, 4), status=Status.BUSY)
        await host.start(1, 2)
        await host.expect_done(1, 2)
        await host.expect_done(2, 3)
        await host.ctx.tick().repeat(2 * host.run_cycles)
        assert not host.ctx.get(host.wire.valid)
        await host.start(3, 4)
        await host.expect_done(3, 4)

    run_bench(config, body, stall=0.0, run_cycles=1500)


def test_waiting_run_starts_before_the_one_before_it_is_announced(config):
    async def body(host, core):
        ctx = host.ctx
        await host.start(1, 2, 2, 2)
        await host.start(2, 3)
        await ctx.tick().repeat(2 * host.run_cycles)  # the first run is over; DONE is not taken
        assert ctx.get(host.wire.valid)
        started = ctx.get(core.bus.done.valid)
        assert started and not ctx.get(core.bus.busy), "the second is over, and must wait"
        rows = bytes(2 * (row_bytes(Space.RESULT, config) + row_bytes(Space.COUNTER, config)))
        await host.expect_done(1, 2, rows)
        await host.expect_done(2, 3)
        # Only the run that ended last can be announced again, however long ago that was.
        await host.start(3, 4)
        await host.start(2, 3)
        await host.expect_done(2, 3)
        assert ctx.get(core.bus.busy)
        await host.send(Opcode.STATUS)
        status = (await host.receive())[3:]
        result = pack(Result, {"tag": 2, "argmax": 3, "n_cycles": host.run_cycles})
        assert status[: len(result)] == result and status[-1] == RunState.RUNNING
        await host.expect_done(3, 4)

        # Run 3 is repeated while run 4 comes to its end.
        await host.start(4, 5)
        await host.send(Opcode.RUN, run_payload(3, 4))
        await ctx.tick().repeat(host.run_cycles)
        assert ctx.get(core.bus.done.valid)
        await host.receive()
        await host.expect_done(3, 4)
        await host.expect_done(4, 5)

    run_bench(config, body, stall=0.0, run_cycles=2500)


def test_run_that_ends_inside_a_request_is_not_forgotten(config):
    async def body(host, core):
        ctx, dut = host.ctx, host.dut
        await host.start(1, 2)
        first, second = packet_items(request(77, Opcode.STATUS, b""))
        ctx.set(dut.n_data_bytes, -ARGUMENT_BYTES)
        await put(ctx, dut.i, [first], rng=host.rng, stall=0)
        await ctx.tick().repeat(host.run_cycles)
        assert ctx.get(core.bus.done.valid)
        await put(ctx, dut.i, [second], rng=host.rng, stall=0)
        assert (await host.receive())[-1] == RunState.RUNNING
        await host.expect_done(1, 2)

    run_bench(config, body, stall=0.0)


def test_status_follows_a_run(config):
    errors = {"n_bad_frames": 0x1234, "n_overruns": 0xFFFF}

    async def status_after_result(host) -> bytes:
        await host.send(Opcode.STATUS)
        return (await host.receive())[3 + n_bytes(Result) :]

    def expected(state: RunState, result: dict) -> bytes:
        return pack(DeviceStatus, {"state": state, "result": result, **errors})

    async def body(host, core):
        size = n_bytes(Result)
        assert await status_after_result(host) == expected(RunState.IDLE, {})[size:]
        await host.start(3, 4)
        assert await status_after_result(host) == expected(RunState.RUNNING, {})[size:]
        await host.expect_done(3, 4)
        result = {"tag": 3, "argmax": 4, "n_cycles": host.run_cycles}
        await host.expect(Opcode.STATUS, data=expected(RunState.DONE, result))

    run_bench(config, body, stall=0.0, run_cycles=1500)


def test_check_compares_rows(config):
    rng = random.Random(5)

    async def body(host, core):
        for space in sorted(WRITABLE & set(spaces(config))):
            size = row_bytes(space, config)
            rows = rng.randbytes(3 * size)
            await host.expect(Opcode.WRITE, rows_payload(space, 2, 3) + rows)
            await host.expect(Opcode.CHECK, check_payload(space, 2, 3, rows))
            await host.expect(Opcode.CHECK, check_payload(space, 3, 1, rows[size : 2 * size]))
            other = rows[:-1] + bytes([rows[-1] ^ 0x80])
            for n, expected in ((3, other), (2, rows), (3, rows[:-1])):
                payload = check_payload(space, 2, n, expected)
                await host.expect(Opcode.CHECK, payload, status=Status.MISMATCH)

    run_bench(config, body)


def test_rate_is_passed_on_after_the_reply(config):
    handed_on = []

    async def body(host, core):
        await host.expect(Opcode.RATE, rate_payload(77)[:-1], status=Status.BAD_LENGTH)
        assert not handed_on
        await host.expect(Opcode.RATE, rate_payload(77))
        await host.expect(Opcode.IDENTIFY, data=identity_bytes(config))
        assert handed_on == [76]

    async def watch(ctx, dut):
        trigger = ctx.tick().sample(dut.set_rate, dut.divisor_less_1)
        while True:
            _, _, set_rate, wanted = await trigger
            if set_rate:
                handed_on.append(wanted)

    run_bench(config, body, watch=watch)


def test_after_a_reset_memories_are_out_of_reach_until_an_abort(config):
    row = bytes(row_bytes(Space.WEIGHT, config))
    refused = [
        (Opcode.WRITE, rows_payload(Space.WEIGHT, 0, 1) + row),
        (Opcode.READ, rows_payload(Space.RESULT, 0, 1)),
        (Opcode.CHECK, check_payload(Space.WEIGHT, 0, 1, row)),
        (Opcode.RUN, run_payload(1, 0)),
    ]

    async def body(host, core):
        for opcode, payload in refused:
            await host.expect(opcode, payload, status=Status.WAS_RESET)
        await host.expect(Opcode.IDENTIFY, data=identity_bytes(config))
        await host.expect(Opcode.RATE, rate_payload(9))
        assert host.ctx.get(core.n_writes) == 0
        await host.expect(Opcode.ABORT)
        await host.expect(*refused[0])
        assert host.ctx.get(core.n_writes) == 1

    run_bench(config, body, after_reset=True)


def test_during_a_run_only_spike_memory_can_be_accessed(config):
    row = bytes(row_bytes(Space.PARAM, config))
    refused = [
        (Opcode.WRITE, rows_payload(Space.PARAM, 0, 1) + row),
        (Opcode.READ, rows_payload(Space.PARAM, 0, 1)),
        (Opcode.READ, rows_payload(Space.RESULT, 0, 1)),
        (Opcode.CHECK, check_payload(Space.PARAM, 0, 1, row)),
    ]

    async def body(host, core):
        await host.start(1, 2)
        for opcode, payload in refused:
            await host.expect(opcode, payload, status=Status.BUSY)
        assert host.ctx.get(core.n_writes) == 0
        await host.expect(Opcode.WRITE, rows_payload(Space.SPIKE, 1, 1) + b"\x5a")
        await host.expect(Opcode.READ, rows_payload(Space.SPIKE, 1, 1), data=b"\x5a")
        assert host.ctx.get(core.bus.busy)
        await host.expect_done(1, 2)

    run_bench(config, body, stall=0.0, run_cycles=2500)


def test_abort_ends_runs_without_announcement(config):
    async def body(host, core):
        await host.start(1, 2)
        await host.start(2, 3)
        await host.expect(Opcode.ABORT)
        assert not host.ctx.get(core.bus.busy)
        await host.ctx.tick().repeat(3 * host.run_cycles)
        assert not host.ctx.get(host.wire.valid)
        # The tag of an aborted run is forgotten, so that the same tag starts a new run.
        await host.start(1, 2)
        await host.expect_done(1, 2)
        await host.expect(Opcode.ABORT)
        await host.send(Opcode.STATUS)
        assert (await host.receive())[-1] == RunState.IDLE

    run_bench(config, body, stall=0.0, run_cycles=1500)


@pytest.mark.parametrize("seed", range(3))
def test_any_undamaged_request_is_answered_and_the_next_one_too(config, seed):
    """Check that random requests, valid and invalid, are all answered, with random stalls."""
    rng = random.Random(seed)
    requests = [(Opcode.ABORT, b"")]
    for _ in range(60):
        opcode = rng.choice([*Opcode, rng.randrange(256)])
        space = rng.choice([*Space, 6])
        first, count = rng.randrange(12), rng.randrange(4)
        payload = rng.choice(
            [
                b"",
                rows_payload(space, first, count),
                rows_payload(space, first, count) + rng.randbytes(count * 4),
                check_payload(space, first, count, b""),
                run_payload(rng.randrange(3), rng.randrange(8)),
                rng.randbytes(rng.randrange(config.max_payload_bytes + 1)),
            ]
        )
        requests.append((opcode, payload))
    requests.append((Opcode.ABORT, b""))
    requests.append((Opcode.IDENTIFY, b""))
    answers = []

    async def body(host, core):
        for opcode, payload in requests:
            await host.send(opcode, payload)

    async def receiver(host, core):
        while len(answers) < len(requests):
            answer = await host.receive()
            is_announcement = answer[1] == Opcode.DONE | REPLY and answer[2] == Status.OK
            if not is_announcement:
                answers.append(answer)

    run_bench(config, body, receiver, seed=seed, after_reset=True)
    for seq, ((opcode, _), answer) in enumerate(zip(requests, answers, strict=True), start=1):
        assert answer[:2] == bytes([seq, opcode | REPLY])
        assert answer[2] in set(Status)
    assert answers[-1][2:] == bytes([Status.OK]) + identity_bytes(config)
    assert len({answer[2] for answer in answers}) >= 4, "the requests are too much alike"


@pytest.mark.parametrize("config", PACKED, ids=lambda config: config.name)
def test_packed_rows_are_written(config):
    rng = random.Random(7)

    async def body(host, core):
        for space in sorted(WRITABLE & set(spaces(config))):
            size = row_bytes(space, config)
            n = min(n_rows(space, config), max_request_rows(config))
            share = 1.0
            packed = bytes(config.max_payload_bytes)
            while len(packed) > config.max_payload_bytes - ARGUMENT_BYTES:
                share /= 2
                rows = bytes(rng.randrange(256) * (rng.random() < share) for _ in range(n * size))
                packed = pack_zeros(rows)
            before = host.ctx.get(core.n_writes)
            count = len(rows) // size
            await host.expect(Opcode.WRITE_PACKED, rows_payload(space, 0, count) + packed)
            assert host.ctx.get(core.n_writes) == before + count
            check = check_payload(space, 0, count, rows)
            await host.expect(Opcode.CHECK, check)
        await host.expect(Opcode.WRITE_PACKED, rows_payload(Space.SPIKE, 0, 0))

    run_bench(config, body)


@pytest.mark.parametrize("config", PACKED, ids=lambda config: config.name)
def test_malformed_packed_rows_are_refused_and_write_nothing(config):
    """Check that a WRITE_PACKED is refused and writes nothing if its packed rows are malformed.

    In packed rows, bytes of zero are left out. The malformed ones here are cut at every length, too
    long, or random bytes, or have wrong masks. Afterwards, a sound WRITE_PACKED is executed.
    """
    rng = random.Random(8)
    rows = bytes([0, 1, 0, 2, 0, 0, 0, 0] + [0] * 8 + [3] * 9 + [0] * 7)
    whole = pack_zeros(rows)
    bad = [whole[:n] for n in range(len(whole))] + [whole + b"\0", whole + bytes(20)]
    bad += [b"\xff" + whole[1:], bytes([whole[0] | 0x80]) + whole[1:], b"\0\0", b"\0" * 40]
    bad += [
        packed
        for _ in range(20)
        if unpacked(packed := rng.randbytes(rng.randrange(40)), len(rows)) is None
    ]
    n = len(rows)

    async def body(host, core):
        for packed in bad:
            payload = rows_payload(Space.SPIKE, 3, n) + packed
            await host.expect(Opcode.WRITE_PACKED, payload, status=Status.BAD_LENGTH)
        for payload, status in (
            (b"", Status.BAD_LENGTH),
            (rows_payload(Space.SPIKE, 0, 1)[:-1], Status.BAD_LENGTH),
            (rows_payload(Space.SPIKE, 0, 0) + b"\0", Status.BAD_LENGTH),
            (rows_payload(Space.SPIKE, 0, 0xFFFF) + whole, Status.BAD_LENGTH),
            (
                rows_payload(Space.SPIKE, n_rows(Space.SPIKE, config) - 1, n) + whole,
                Status.BAD_ADDRESS,
            ),
            (rows_payload(Space.RESULT, 0, 1) + b"\0", Status.BAD_SPACE),
            (rows_payload(6, 0, 1) + b"\0", Status.BAD_SPACE),
        ):
            await host.expect(Opcode.WRITE_PACKED, payload, status=status)
        assert host.ctx.get(core.n_writes) == 0
        await host.expect(Opcode.WRITE_PACKED, rows_payload(Space.SPIKE, 3, n) + whole)
        assert host.ctx.get(core.n_writes) == n

    run_bench(config, body)


def test_packed_rows_of_weights_are_refused_during_a_run():
    config = PACKED[1]

    async def body(host, core):
        await host.start(1, 5)
        row = rows_payload(Space.WEIGHT, 0, 1) + b"\0"
        await host.expect(Opcode.WRITE_PACKED, row, status=Status.BUSY)
        await host.expect(Opcode.WRITE_PACKED, rows_payload(Space.SPIKE, 0, 8) + b"\0")
        await host.expect_done(1, 5)

    run_bench(config, body, run_cycles=3000)


def test_row_that_fits_no_frame_is_refused():
    with refuses(SpecError, "a row of WEIGHT takes 70 bytes"):
        Dispatcher(Config(lanes=64, max_payload_bytes=64))
