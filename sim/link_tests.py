"""cocotb tests of the link at the serial pins of a device whose core only stores rows.

The environment variable ``LINK_CONFIG`` holds the device's configuration as JSON.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, with_timeout

from hw.protocol import (
    ARGUMENT_BYTES,
    DEFAULT_BAUD,
    END,
    REPLY,
    WRITABLE,
    DeviceStatus,
    Identity,
    Opcode,
    Rate,
    Result,
    Rows,
    Run,
    Space,
    Status,
    decode_frame,
    encode_frame,
    identity,
    n_rows,
    pack,
    row_bytes,
    spaces,
    unpack,
)
from hw.spec import Config
from sim.uart import UartSink, UartSource

CONFIG_VARIABLE = "LINK_CONFIG"
CLOCK_NS = 10
REPLY_TIMEOUT_NS = 2_000_000


class Bench:
    """Host side of the serial line in a cocotb test, which sends requests and receives replies."""

    def __init__(self, dut: Any, config: Config):
        self.dut, self.config = dut, config
        divisor = config.clk_hz // DEFAULT_BAUD
        Clock(dut.clk, CLOCK_NS, unit="ns").start()
        self.source = UartSource(dut.rx, dut.clk, divisor)
        self.sink = UartSink(dut.tx, dut.clk, divisor)
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.seq = 0

    @classmethod
    async def start(cls, dut: Any) -> Bench:
        """Reset a device and return a bench for it, at the highest rate of the configuration.

        The bench has sent an ABORT, which acknowledges the reset, so the device now takes all
        requests.
        """
        bench = cls(dut, Config(**json.loads(os.environ[CONFIG_VARIABLE])))
        await bench.reset()
        await bench.set_rate(bench.config.clk_hz // bench.config.baud)
        assert await bench.ask(Opcode.ABORT) == b""
        return bench

    async def reset(self) -> None:
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 4)

    async def set_rate(self, divisor: int) -> None:
        """Change the rate of device and host to ``divisor`` clock cycles per bit."""
        assert await self.ask(Opcode.RATE, pack(Rate, {"divisor_less_1": divisor - 1})) == b""
        await ClockCycles(self.dut.clk, 2 * self.source.divisor)  # until after the stop bit
        self.source.divisor = self.sink.divisor = divisor

    async def send(self, opcode: int, payload: bytes = b"") -> None:
        self.seq = (self.seq + 1) % 256
        await self.source.send(encode_frame(bytes([self.seq, opcode]) + payload))

    async def receive(self) -> bytes:
        """Return the next packet from the device: the content of its next frame, without CRC.

        A damaged frame fails the test.
        """
        raw = await with_timeout(self.sink.read_until(END), REPLY_TIMEOUT_NS, "ns")
        packet = decode_frame(raw)
        assert packet is not None, f"the device sent a damaged frame: {raw.hex(' ')}"
        return packet

    async def ask(self, opcode: int, payload: bytes = b"") -> bytes:
        """Send a request and return the data of its reply, whose status must be OK."""
        await self.send(opcode, payload)
        packet = await self.receive()
        assert packet[:3] == bytes([self.seq, opcode | REPLY, Status.OK]), packet.hex(" ")
        return packet[3:]

    async def write(self, space: Space, row: int, rows: bytes) -> None:
        count = len(rows) // row_bytes(space, self.config)
        assert await self.ask(Opcode.WRITE, self.rows(space, row, count) + rows) == b""

    async def read(self, space: Space, row: int, count: int) -> bytes:
        return await self.ask(Opcode.READ, self.rows(space, row, count))

    async def status(self) -> Any:
        return unpack(DeviceStatus, await self.ask(Opcode.STATUS))

    @staticmethod
    def rows(space: Space, row: int, count: int) -> bytes:
        return pack(Rows, {"address": {"space": space, "row": row}, "n_rows": count})


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def identifies_itself(dut):
    bench = await Bench.start(dut)
    assert await bench.ask(Opcode.IDENTIFY) == pack(Identity, identity(bench.config))
    await ClockCycles(dut.clk, 100)
    assert dut.activity.value == 0


@cocotb.test(timeout_time=200, timeout_unit="ms")
@cocotb.parametrize(pauses=[0.0, 0.2])
async def stores_rows(dut, pauses):
    """Check that the longest possible WRITE of every memory stores rows that READ returns.

    The bytes of requests come at full rate, or with pauses of the probability ``pauses``.
    """
    bench = await Bench.start(dut)
    config = bench.config
    bench.source.set_pauses(pauses, bench.rng)
    for space in sorted(WRITABLE & set(spaces(config))):
        size = row_bytes(space, config)
        count = min(n_rows(space, config), (config.max_payload_bytes - ARGUMENT_BYTES) // size)
        first = bench.rng.randrange(n_rows(space, config) - count + 1)
        rows = bench.rng.randbytes(count * size)
        await bench.write(space, first, rows)
        assert await bench.read(space, first, count) == rows


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def takes_requests_back_to_back(dut):
    """Check that the device executes requests that arrive while it is busy, as many as its buffer
    holds."""
    bench = await Bench.start(dut)
    rows = bench.rng.randbytes(40)
    requests = [
        encode_frame(bytes([i, Opcode.WRITE]) + bench.rows(Space.SPIKE, i, 1) + rows[i : i + 1])
        for i in range(len(rows))
    ]
    assert sum(map(len, requests)) <= bench.config.rx_buffer_bytes
    await bench.source.send(b"".join(requests))
    for i in range(len(rows)):
        assert await bench.receive() == bytes([i, Opcode.WRITE | REPLY, Status.OK])
    assert await bench.read(Space.SPIKE, 0, len(rows)) == rows


@cocotb.test(timeout_time=200, timeout_unit="ms")
async def drops_damaged_frames(dut):
    """Check that frames with flipped bits, missing ends or line errors are counted and have no
    other effect."""
    bench = await Bench.start(dut)
    rng = bench.rng
    await bench.write(Space.SPIKE, 0, b"\x11\x22\x33")
    frame = encode_frame(bytes([9, Opcode.WRITE]) + bench.rows(Space.SPIKE, 0, 3) + b"\xaa\xbb\xcc")
    n_sent = 0
    for bit in rng.sample(range(8 * len(frame)), 24):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        await bench.source.send(bytes(damaged) + bytes([END]))
        n_sent += 1
    for cut in rng.sample(range(1, len(frame) - 1), 4):
        await bench.source.send(frame[:cut] + bytes([END]))
        n_sent += 1
    too_long = bytes([9, Opcode.IDENTIFY]) + bytes(bench.config.max_payload_bytes + 1)
    await bench.source.send(encode_frame(too_long))
    n_sent += 1
    assert await bench.read(Space.SPIKE, 0, 3) == b"\x11\x22\x33"
    status = await bench.status()
    assert status.n_bad_frames >= n_sent
    assert status.n_overruns == 0

    # A byte without its stop bit inside a frame counts as an overrun and as a damaged frame.
    await bench.source.send(frame[:3])
    await bench.source.send_bits([0, 1, *[0] * 8, *[1] * 12])
    await bench.source.send(frame[4:])
    after = await bench.status()
    assert after.n_overruns == 1
    assert after.n_bad_frames == status.n_bad_frames + 1
    assert await bench.read(Space.SPIKE, 0, 3) == b"\x11\x22\x33"


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def announces_the_end_of_a_run(dut):
    bench = await Bench.start(dut)
    assert await bench.ask(Opcode.RUN, pack(Run, {"tag": 3, "entry": 5})) == b""
    done = await bench.receive()
    assert done[:3] == bytes([3, Opcode.DONE | REPLY, Status.OK])
    result = unpack(Result, done[3:])
    assert (result.tag, result.argmax) == (3, 5)


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def recovers_from_a_reset_inside_a_frame(dut):
    bench = await Bench.start(dut)
    frame = encode_frame(bytes([9, Opcode.WRITE]) + bench.rows(Space.SPIKE, 0, 1) + b"\xaa")
    await bench.source.send(frame[: len(frame) // 2])
    await bench.reset()
    # After the reset comes the rest of a frame, at a rate that the device no longer uses.
    await bench.source.send(frame[len(frame) // 2 :])
    bench.source.divisor = bench.sink.divisor = bench.config.clk_hz // DEFAULT_BAUD
    await bench.source.send_bits([1] * 10)  # so that the next start bit is recognised
    await bench.source.send(bytes([END]))
    assert await bench.ask(Opcode.IDENTIFY) == pack(Identity, identity(bench.config))
    await bench.send(Opcode.READ, bench.rows(Space.SPIKE, 0, 1))
    assert (await bench.receive())[2:] == bytes([Status.WAS_RESET])


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def break_brings_back_the_default_rate(dut):
    bench = await Bench.start(dut)
    default = bench.config.clk_hz // DEFAULT_BAUD
    await bench.source.send_bits([0] * 10 + [1] * 12)
    bench.source.divisor = bench.sink.divisor = default
    await bench.source.send(bytes([END]))
    assert await bench.ask(Opcode.IDENTIFY) == pack(Identity, identity(bench.config))
    # The device was not reset, so that no ABORT is needed.
    assert await bench.read(Space.SPIKE, 0, 0) == b""
