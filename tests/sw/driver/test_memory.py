"""Tests of how rows of memory are split into write requests, and of packed (compressed) rows."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, cast

import pytest

from hw.boards.configs import CONFIGS
from hw.protocol import ARGUMENT_BYTES, Opcode, Rows, Space, unpack
from hw.spec import Config
from sw.driver.memory import Memory
from sw.driver.transport import Request
from tests.hw.wire import unpacked
from tests.sw.fake_device import FakeGateware

PLAIN = replace(CONFIGS["ulx3s-85f-wide"], packed_writes=0)
PACKED = replace(PLAIN, packed_writes=1)


def requests(config: Config, space: Space, row: int, data: bytes) -> list[Request]:
    return Memory(cast(Any, None), config).write_requests(space, row, data)


@pytest.mark.parametrize("density", (0.0, 0.02, 0.3, 1.0))
@pytest.mark.parametrize("space", (Space.SPIKE, Space.WEIGHT))
def test_packed_rows_are_shorter_and_write_the_same(space: Space, density: float) -> None:
    rng = random.Random(int(100 * density))
    data = bytes(rng.randrange(1, 256) * (rng.random() < density) for _ in range(16 * 330))
    gateware = FakeGateware(PACKED)
    gateware.answer(0, Opcode.ABORT, b"")
    sent = requests(PACKED, space, 8, data)
    memory = Memory(cast(Any, None), PACKED)
    for request in sent:
        assert len(request.payload) <= PACKED.max_payload_bytes
        assert gateware.answer(1, request.opcode, request.payload)[0][2] == 0
    size = memory.n_written_bytes(sent[0]) // int(unpack_rows(sent[0]).n_rows)
    assert gateware.memories[space][8 * size : 8 * size + len(data)] == data
    assert sum(map(memory.n_written_bytes, sent)) == len(data)
    plain = requests(PLAIN, space, 8, data)
    assert {request.opcode for request in plain} == {Opcode.WRITE}
    n_packed = sum(len(request.payload) for request in sent)
    n_plain = sum(len(request.payload) for request in plain)
    if density == 1.0:
        assert {request.opcode for request in sent} == {Opcode.WRITE} and n_packed == n_plain
    else:
        assert Opcode.WRITE_PACKED in {request.opcode for request in sent}
        assert n_packed < (0.06 + 1.4 * density) * n_plain and len(sent) <= len(plain)


def unpack_rows(request: Request) -> Any:
    return unpack(Rows, request.payload[:ARGUMENT_BYTES])


def test_each_request_takes_the_shorter_form() -> None:
    rng = random.Random(3)
    data = bytes(900) + rng.randbytes(1500) + bytes(300)
    sent = requests(PACKED, Space.SPIKE, 0, data)
    assert {request.opcode for request in sent} == {Opcode.WRITE, Opcode.WRITE_PACKED}
    for request in sent:
        n = int(unpack_rows(request).n_rows)
        rows = request.payload[ARGUMENT_BYTES:]
        if request.opcode == Opcode.WRITE_PACKED:
            assert len(rows) < n and unpacked(rows, n) is not None
        else:
            assert len(rows) == n
