"""Requests against a stub core: every opcode, every refusal, and no effect of what is refused."""

import random

import pytest
from amaranth import Module
from amaranth.lib import wiring

from hw.link.dispatch import Dispatcher
from hw.protocol import (
    REPLY,
    WRITABLE,
    DeviceStatus,
    Identity,
    Opcode,
    Result,
    RunState,
    Space,
    Status,
    identity,
    n_rows,
    pack,
    row_bytes,
)
from hw.spec import Config, SpecError
from sim.stub_core import StubCore
from tests.hw.wire import read_payload, reply, request, run_payload, write_payload
from tests.streams import get_packet, packet_items, put, refuses, simulate, stays_valid

CONFIGS = [
    Config(
        name="narrow",
        lanes=8,
        weight_bits=2,
        weight_depth=40,
        fire_lanes=1,
        param_bits=8,
        param_depth=10,
        chunk_bits=32,
        spike_bytes=64,
        program_words=30,
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
        param_depth=6,
        spike_bytes=64,
        program_words=16,
        max_layers=4,
        result_rows=3,
        max_payload_bytes=200,
        rx_buffer_bytes=512,
    ),
]
RUN_CYCLES = 150


@pytest.fixture(params=CONFIGS, ids=lambda config: config.name)
def config(request) -> Config:
    return request.param


class Host:
    """The other end of a dispatcher in a bench: sends requests, receives replies."""

    def __init__(self, ctx, dut: Dispatcher, rng: random.Random, stall: float):
        self.ctx, self.dut, self.rng, self.stall = ctx, dut, rng, stall
        self.seq = 0

    async def send(self, opcode: int, payload: bytes = b"") -> int:
        self.seq = (self.seq + 1) % 256
        packet = request(self.seq, opcode, payload)
        self.ctx.set(self.dut.n_payload_bytes, len(payload))
        await put(self.ctx, self.dut.i, packet_items(packet), rng=self.rng, stall=self.stall)
        return self.seq

    async def receive(self) -> bytes:
        return await get_packet(self.ctx, self.dut.o, rng=self.rng, stall=self.stall)

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

    async def expect_done(self, seq: int, tag: int, entry: int) -> None:
        result = pack(Result, {"tag": tag, "argmax": entry, "n_cycles": RUN_CYCLES})
        assert await self.receive() == reply(seq, Opcode.DONE, result)


def run_bench(config: Config, *bodies, stall: float = 0.2, seed: int = 0) -> None:
    """Runs each ``async body(host, core)`` against a dispatcher with a stub core."""
    core = StubCore(config, run_cycles=RUN_CYCLES)
    dut = Dispatcher(config)

    class Bench(wiring.Component):
        def __init__(self):
            super().__init__({})

        def elaborate(self, platform):
            m = Module()
            m.submodules.core = core
            m.submodules.dispatcher = dut
            wiring.connect(m, dut.bus, core.bus)
            m.d.comb += [dut.n_bad_frames.eq(0x1234), dut.n_overruns.eq(0xFFFF)]
            return m

    def bench(body, number: int):
        async def run(ctx) -> None:
            await body(Host(ctx, dut, random.Random(seed + number), stall), core)

        return run

    benches = [bench(body, number) for number, body in enumerate(bodies)]
    simulate(Bench(), *benches, background=[stays_valid(dut.o)], max_ticks=60_000)


def test_identify(config):
    async def body(host, core):
        for _ in range(2):
            await host.expect(Opcode.IDENTIFY, data=pack(Identity, identity(config)))

    run_bench(config, body)


@pytest.mark.parametrize("stall", (0.0, 0.3))
def test_every_space_reads_back_what_was_written(config, stall):
    rng = random.Random(3)

    async def body(host, core):
        images = {}
        for space in WRITABLE:
            size = row_bytes(space, config)
            rows = min(n_rows(space, config), (config.max_payload_bytes - 4) // size)
            first = n_rows(space, config) - rows
            images[space] = first, rows, rng.randbytes(rows * size)
            await host.expect(Opcode.WRITE, write_payload(space, first, images[space][2]))
        for space, (first, rows, image) in images.items():
            size = row_bytes(space, config)
            step = (config.max_payload_bytes - 1) // size
            for at in range(0, rows, step):
                count = min(step, rows - at)
                await host.expect(
                    Opcode.READ,
                    read_payload(space, first + at, count),
                    data=image[at * size : (at + count) * size],
                )

    run_bench(config, body, stall=stall)


def test_empty_write_and_read_are_accepted(config):
    async def body(host, core):
        await host.expect(Opcode.WRITE, write_payload(Space.WEIGHT, 0))
        await host.expect(Opcode.WRITE, write_payload(Space.WEIGHT, n_rows(Space.WEIGHT, config)))
        await host.expect(Opcode.READ, read_payload(Space.SPIKE, 0, 0))
        assert host.ctx.get(core.n_writes) == 0

    run_bench(config, body)


def test_refusals_name_the_reason_and_write_nothing(config):
    weight_bytes = row_bytes(Space.WEIGHT, config)
    n_weights = n_rows(Space.WEIGHT, config)
    longest = config.max_payload_bytes
    row = bytes(weight_bytes)
    refused = [
        (Opcode.WRITE, write_payload(Space.WEIGHT, 0, row[:-1]), Status.BAD_LENGTH),
        (Opcode.WRITE, write_payload(Space.WEIGHT, 0, row + b"x"), Status.BAD_LENGTH),
        (Opcode.WRITE, b"", Status.BAD_LENGTH),
        (Opcode.WRITE, b"\0\0\0", Status.BAD_LENGTH),
        (Opcode.WRITE, write_payload(Space.WEIGHT, n_weights, row), Status.BAD_ADDRESS),
        (Opcode.WRITE, write_payload(Space.WEIGHT, n_weights - 1, 2 * row), Status.BAD_ADDRESS),
        (Opcode.WRITE, write_payload(Space.WEIGHT, 2**24 - 1, row), Status.BAD_ADDRESS),
        (Opcode.WRITE, write_payload(Space.RESULT, 0, bytes(32)), Status.BAD_SPACE),
        (Opcode.WRITE, write_payload(Space.COUNTER, 0, bytes(16)), Status.BAD_SPACE),
        (Opcode.WRITE, write_payload(6, 0, bytes(16)), Status.BAD_SPACE),
        (Opcode.WRITE, write_payload(255, 0), Status.BAD_SPACE),
        (Opcode.WRITE, write_payload(255, 0, bytes(longest - 4)), Status.BAD_SPACE),
        (Opcode.READ, read_payload(6, 0, 1), Status.BAD_SPACE),
        (Opcode.READ, read_payload(Space.WEIGHT, n_weights, 1), Status.BAD_ADDRESS),
        (Opcode.READ, read_payload(Space.RESULT, 2**24 - 1, 1), Status.BAD_ADDRESS),
        (Opcode.READ, read_payload(Space.SPIKE, 0, longest), Status.BAD_LENGTH),
        (Opcode.READ, read_payload(Space.SPIKE, 0, 0xFFFF), Status.BAD_LENGTH),
        (Opcode.READ, read_payload(Space.SPIKE, 0, 1)[:-1], Status.BAD_LENGTH),
        (Opcode.READ, read_payload(Space.SPIKE, 0, 1) + b"x", Status.BAD_LENGTH),
        (Opcode.READ, bytes(longest), Status.BAD_LENGTH),
        (Opcode.RUN, run_payload(1, config.program_words), Status.BAD_ADDRESS),
        (Opcode.RUN, b"", Status.BAD_LENGTH),
        (Opcode.RUN, run_payload(1, 0) + b"x", Status.BAD_LENGTH),
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
        # ... and the last row of each kind is not refused.
        await host.expect(Opcode.WRITE, write_payload(Space.WEIGHT, n_weights - 1, row))
        assert host.ctx.get(core.n_writes) == 1

    run_bench(config, body)


def test_run_is_announced_and_may_be_repeated(config):
    async def body(host, core):
        seq = await host.send(Opcode.RUN, run_payload(7, 5))
        assert await host.receive() == reply(seq, Opcode.RUN)
        await host.expect_done(seq, 7, 5)
        # Repeated because its announcement was lost: not run again, announced again.
        again = await host.send(Opcode.RUN, run_payload(7, 5))
        assert await host.receive() == reply(again, Opcode.RUN)
        assert not host.ctx.get(core.bus.busy)
        await host.expect_done(again, 7, 5)
        # Another tag: another run, and while it goes on a repetition is only acknowledged.
        first = await host.send(Opcode.RUN, run_payload(8, 9))
        assert await host.receive() == reply(first, Opcode.RUN)
        second = await host.send(Opcode.RUN, run_payload(8, 9))
        assert await host.receive() == reply(second, Opcode.RUN)
        assert host.ctx.get(core.bus.busy)
        await host.expect_done(second, 8, 9)

    run_bench(config, body, stall=0.0)


def test_status_follows_a_run(config):
    counters = {"n_bad_frames": 0x1234, "n_overruns": 0xFFFF}

    async def body(host, core):
        idle = {"state": RunState.IDLE, **counters}
        await host.expect(Opcode.STATUS, data=pack(DeviceStatus, idle))
        seq = await host.send(Opcode.RUN, run_payload(3, 4))
        assert await host.receive() == reply(seq, Opcode.RUN)
        await host.expect(
            Opcode.STATUS, data=pack(DeviceStatus, {**idle, "state": RunState.RUNNING})
        )
        await host.expect_done(seq, 3, 4)
        result = {"tag": 3, "argmax": 4, "n_cycles": RUN_CYCLES}
        done = {"state": RunState.DONE, "result": result, **counters}
        await host.expect(Opcode.STATUS, data=pack(DeviceStatus, done))

    run_bench(config, body, stall=0.0)


def test_during_a_run_only_what_does_not_disturb_it(config):
    async def body(host, core):
        seq = await host.send(Opcode.RUN, run_payload(1, 2))
        assert await host.receive() == reply(seq, Opcode.RUN)
        row = bytes(row_bytes(Space.PROGRAM, config))
        await host.expect(Opcode.WRITE, write_payload(Space.PROGRAM, 0, row), status=Status.BUSY)
        await host.expect(Opcode.READ, read_payload(Space.PROGRAM, 0, 1), status=Status.BUSY)
        await host.expect(Opcode.RUN, run_payload(2, 2), status=Status.BUSY)
        assert host.ctx.get(core.n_writes) == 0
        await host.expect(Opcode.WRITE, write_payload(Space.SPIKE, 1, b"\x5a"))
        await host.expect(Opcode.READ, read_payload(Space.SPIKE, 1, 1), data=b"\x5a")
        assert host.ctx.get(core.bus.busy)
        await host.expect_done(seq, 1, 2)

    run_bench(config, body, stall=0.0)


def test_abort_ends_a_run_without_announcement(config):
    async def body(host, core):
        seq = await host.send(Opcode.RUN, run_payload(1, 2))
        assert await host.receive() == reply(seq, Opcode.RUN)
        await host.expect(Opcode.ABORT)
        assert not host.ctx.get(core.bus.busy)
        await host.ctx.tick().repeat(2 * RUN_CYCLES)
        assert not host.ctx.get(host.dut.o.valid)
        # The tag of an aborted run is forgotten: the same one starts again.
        seq = await host.send(Opcode.RUN, run_payload(1, 2))
        assert await host.receive() == reply(seq, Opcode.RUN)
        await host.expect_done(seq, 1, 2)
        await host.expect(Opcode.ABORT)
        await host.expect(
            Opcode.STATUS,
            data=pack(
                DeviceStatus,
                {
                    "state": RunState.IDLE,
                    "result": {"tag": 1, "argmax": 2, "n_cycles": RUN_CYCLES},
                    "n_bad_frames": 0x1234,
                    "n_overruns": 0xFFFF,
                },
            ),
        )

    run_bench(config, body, stall=0.0)


@pytest.mark.parametrize("seed", range(3))
def test_any_undamaged_request_is_answered_and_the_next_one_too(config, seed):
    """Random opcodes and payloads, biased towards the legal ones, with random stalls."""
    rng = random.Random(seed)
    requests = []
    for _ in range(80):
        opcode = rng.choice([*Opcode, rng.randrange(256)])
        space = rng.choice([*Space, 6])
        first, count = rng.randrange(12), rng.randrange(4)
        payload = rng.choice(
            [
                b"",
                read_payload(space, first, count),
                write_payload(space, first, rng.randbytes(count * 4)),
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

    run_bench(config, body, receiver, seed=seed)
    for seq, ((opcode, _), answer) in enumerate(zip(requests, answers, strict=True), start=1):
        assert answer[:2] == bytes([seq, opcode | REPLY])
        assert answer[2] in set(Status)
    assert answers[-1][2:] == bytes([Status.OK]) + pack(Identity, identity(config))
    assert len({answer[2] for answer in answers}) >= 4, "the requests are too much alike"


def test_row_that_fits_no_frame_is_refused():
    with refuses(SpecError, "a row of WEIGHT takes 68 bytes"):
        Dispatcher(Config(lanes=64, max_payload_bytes=64))
