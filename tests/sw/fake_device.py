"""Fake devices that compute in Python in place of gateware, for tests of the driver."""

from __future__ import annotations

import re
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hw.protocol import (
    ARGUMENT_BYTES,
    DEFAULT_BAUD,
    END,
    PROTOCOL_VERSION,
    REPLY,
    DeviceStatus,
    LayerCounters,
    Opcode,
    Result,
    Rows,
    Run,
    RunState,
    Space,
    Status,
    decode_frame,
    encode_frame,
    identity_bytes,
    n_rows,
    pack,
    row_bytes,
    spaces,
    spec_hash,
    unpack,
)
from hw.spec import N_PLANES, Config
from sw.compile.compiler import compile_network
from sw.compile.costs import n_synaptic_ops
from sw.compile.program import PIXELS, Program, device_layers
from sw.driver.device import Device
from sw.driver.discovery import BoardIdentity
from sw.driver.transport import Transport
from sw.network.encoder import encode
from sw.network.network import INPUT, Network
from tests.golden import run_network
from tests.hw.wire import unpacked


class FakeGateware:
    """Fake gateware: it holds memories and replies to the protocol's requests.

    ``compute`` stands in for the core: it is called with the ``entry`` of a run
    (:class:`hw.protocol.Run`), and returns the class ``argmax`` and the duration ``n_cycles``. Some
    attributes make the gateware behave wrongly.

    Attributes
    ----------
    requests : sequence number and opcode of each request received.
    done_is_lost : whether all announcements of ended runs (DONE) are lost.
    n_done_lost : number of announcements of ended runs that will be lost from now on.
    run_never_ends : whether runs stay in progress.
    divisor : agreed clock cycles per bit; None means the default rate.
    lied : whether the port has reported success to the driver for a request that was refused. The
        driver cannot know this, so the memories may differ from what it has written.
    accepts_any_crc : whether every valid CHECK is answered with OK.
    """

    def __init__(self, config: Config, compute: Callable[[int], dict[str, int]] | None = None):
        self.config = config
        self.memories = {
            s: bytearray(row_bytes(s, config) * n_rows(s, config)) for s in spaces(config)
        }
        self.identity = identity_bytes(config)
        self.requests: list[tuple[int, int]] = []
        self.n_runs = 0
        self.done_is_lost = False
        self.n_done_lost = 0
        self.run_never_ends = False
        self.divisor: int | None = None
        self.lied = False
        self.accepts_any_crc = False
        self._compute = compute or (lambda entry: {"argmax": entry + 1, "n_cycles": 1000})
        self.reset()

    def reset(self) -> None:
        """Reset everything but the memories."""
        self._was_reset = True
        self.divisor = None
        self._state, self._result, self._rows = RunState.IDLE, {}, b""

    def answer(self, seq: int, opcode: int, payload: bytes) -> list[bytes]:
        """Return the packets with which the device answers a request."""
        self.requests.append((seq, opcode))
        status, data, more = self._execute(opcode, payload)
        return [bytes([seq, opcode | REPLY, status]) + data, *more]

    def _execute(self, opcode: int, payload: bytes) -> tuple[Status, bytes, list[bytes]]:
        if opcode == Opcode.IDENTIFY:
            return Status.OK, self.identity, []
        if opcode == Opcode.STATUS:
            state = {"state": self._state, "result": self._result, "n_overruns": 3}
            return Status.OK, pack(DeviceStatus, state), []
        if opcode == Opcode.ABORT:
            self._state, self._was_reset = RunState.IDLE, False
            return Status.OK, b"", []
        if opcode == Opcode.RATE:
            self.divisor = payload[0] + 1
            return Status.OK, b"", []
        if self._was_reset:
            return Status.WAS_RESET, b"", []
        if opcode == Opcode.RUN:
            return Status.OK, b"", self._run(unpack(Run, payload))
        rows: Any = unpack(Rows, payload[:ARGUMENT_BYTES])
        data = payload[ARGUMENT_BYTES:]
        space, row, count = Space(int(rows.address.space)), int(rows.address.row), int(rows.n_rows)
        size, memory = row_bytes(space, self.config), self.memories[space]
        start, end = row * size, (row + count) * size
        if end > len(memory):
            return Status.BAD_ADDRESS, b"", []
        if opcode == Opcode.CHECK:
            matches = zlib.crc32(memory[start:end]).to_bytes(4, "little") == data
            accepted = matches or self.accepts_any_crc
            return Status.OK if accepted else Status.MISMATCH, b"", []
        if opcode == Opcode.WRITE_PACKED:
            assert self.config.packed_writes
            rows = unpacked(data, end - start)
            assert rows is not None
            data = rows
        if opcode in (Opcode.WRITE, Opcode.WRITE_PACKED):
            assert len(data) == end - start
            memory[start:end] = data
            return Status.OK, b"", []
        return Status.OK, bytes(memory[start:end]), []

    def _run(self, run: Any) -> list[bytes]:
        tag = int(run.tag)
        if self._state == RunState.RUNNING:
            return []
        if self._state == RunState.IDLE or self._result.get("tag") != tag:
            self.n_runs += 1
            if self.run_never_ends:
                self._state = RunState.RUNNING
                return []
            self._result = {"tag": tag} | self._compute(int(run.entry))
            self._rows = b"".join(
                bytes(self.memories[space][: int(count) * row_bytes(space, self.config)])
                for space, count in (
                    (Space.RESULT, run.n_result_rows),
                    (Space.COUNTER, run.n_counter_rows),
                )
            )
        self._state = RunState.DONE
        done = bytes([tag, Opcode.DONE | REPLY, Status.OK]) + pack(Result, self._result)
        if self.n_done_lost:
            self.n_done_lost -= 1
            return []
        return [] if self.done_is_lost else [done + self._rows]


class FakePort:
    """Serial port in memory, behind which a :class:`FakeGateware` answers."""

    port = "fake"
    baudrate = DEFAULT_BAUD

    def __init__(self, gateware: FakeGateware):
        self.gateware = gateware
        self._received = bytearray()
        self._replies = bytearray()

    @property
    def in_waiting(self) -> int:
        return len(self._replies)

    def read(self, size: int, /) -> bytes:
        if not self._replies:
            time.sleep(0.001)
        data = bytes(self._replies[:size])
        del self._replies[:size]
        return data

    def write(self, raw: bytes, /) -> int:
        self._received += raw
        *frames, self._received = self._received.split(bytes([END]))
        for frame in frames:
            packet = decode_frame(bytes(frame))
            if packet is not None:
                for reply in self.gateware.answer(packet[0], packet[1], packet[2:]):
                    self._replies += encode_frame(reply)
        return len(raw)

    def flush(self) -> None:
        pass

    def reset_input_buffer(self) -> None:
        self._replies.clear()

    def reset_output_buffer(self) -> None:
        pass

    def close(self) -> None:
        pass


class TimedPort(FakePort):
    """A fake port with a clock of its own, which counts the time that the bytes take on the line.

    A byte takes ten bits in its direction, and an adapter delays each direction by ``LATENCY_S``;
    the gateware answers at once. The clock advances only while the driver waits for a reply, so the
    host's own computing takes no time.

    Attributes
    ----------
    now_s : the clock, in seconds.
    """

    LATENCY_S = 1e-4

    def __init__(self, gateware: FakeGateware):
        super().__init__(gateware)
        self.now_s = self._sent_s = self._returned_s = 0.0
        self._arrivals: deque[tuple[float, bytes]] = deque()

    @property
    def in_waiting(self) -> int:
        if not self._replies and self._arrivals:
            self.now_s = max(self.now_s, self._arrivals[0][0])
        while self._arrivals and self._arrivals[0][0] <= self.now_s:
            self._replies += self._arrivals.popleft()[1]
        return len(self._replies)

    def write(self, raw: bytes, /) -> int:
        arrived, self._replies = self._replies, bytearray()
        self._sent_s = max(self._sent_s, self.now_s)
        for part in re.findall(rb"[^\x7e]*\x7e|[^\x7e]+$", raw):  # up to the end of each frame
            self._sent_s += self._bits_s(part)
            super().write(part)
            if self._replies:
                self._returned_s = max(self._returned_s, self._sent_s + self.LATENCY_S)
                self._returned_s += self._bits_s(self._replies)
                self._arrivals.append((self._returned_s + self.LATENCY_S, bytes(self._replies)))
                self._replies.clear()
        self._replies = arrived
        return len(raw)

    def _bits_s(self, raw: bytes | bytearray) -> float:
        return 10 * len(raw) / self.baudrate


class FakeDevice(Device):
    """Fake device that computes ``network`` by the golden model, and checks that its memories hold
    ``program``.

    Parameters
    ----------
    program : compiled network; by default, ``network`` is compiled for ``config``.
    fails_at : number of the run, counted from 0, at which ``error`` is raised.
    port : class of the fake port through which the driver reaches the device.
    """

    def __init__(
        self,
        network: Network,
        config: Config,
        fails_at: int | None = None,
        error: BaseException | None = None,
        program: Program | None = None,
        port: type[FakePort] = FakePort,
    ):
        self.network = network
        self.expected = program or compile_network(network, config)
        self.fails_at, self.error = fails_at, error
        self.gateware = FakeGateware(config, self._compute)
        self.memories[Space.SPIKE][:] = b"\xff" * n_rows(Space.SPIKE, config)
        self.n_computed = 0
        super().__init__(
            Transport(port(self.gateware)),
            BoardIdentity(config, PROTOCOL_VERSION, spec_hash(config)),
        )

    @property
    def memories(self) -> dict[Space, bytearray]:
        return self.gateware.memories

    def clock_cycles(self) -> int | None:
        port = self.transport.port
        return round(port.now_s * self.config.clk_hz) if isinstance(port, TimedPort) else None

    def _assert_loaded(self) -> None:
        """Assert that the memories hold the program, and that the padding of maps is clear."""
        for space, image in self.expected.images.items():
            assert self.memories[space][: len(image)] == image, f"{space.name} is not the program's"
        spikes = self.memories[Space.SPIKE]
        for place in self.expected.placements.values():
            raw = bytes(spikes[place.first_row : place.first_row + place.n_rows])
            assert place.pack(place.unpack(raw)) == raw, "padding must be clear"

    def _compute(self, entry: int) -> dict[str, int]:
        if self.n_computed == self.fails_at and self.error is not None:
            raise self.error
        self.n_computed += 1
        program, config = self.expected, self.config
        spikes = self.memories[Space.SPIKE]
        if not self.gateware.lied:
            self._assert_loaded()
        place = program.inputs[program.entries.index(entry)]
        raw = bytes(spikes[place.first_row : place.first_row + place.n_rows])
        given = place.unpack(raw)
        if program.pixels:  # compute the device's own encoder from the bit-planes
            worth = 1 << np.arange(N_PLANES - 1, -1, -1)[:, None, None, None]
            image = (given * worth).sum(axis=0).astype(np.uint8)
            unrounded = replace(self.network, pixel_bits=N_PLANES)  # the host has rounded them
            maps, logits = run_network(self.network, encode(unrounded, image[None])[0])
            maps[PIXELS] = given
        else:
            maps, logits = run_network(self.network, given)
            maps[INPUT] = given
        counters = b""
        for layer in device_layers(self.network, program.pixels):
            if not layer.output:
                place = program.places(program.entries.index(entry))[layer.name]
                self._store(Space.SPIKE, place.first_row, place.pack(maps[layer.name]))
            counters += pack(
                LayerCounters,
                {
                    "n_cycles": 100,
                    "n_weight_reads": 50,
                    "n_synaptic_ops": n_synaptic_ops(layer, maps),
                    "n_spikes": 0 if layer.output else int(maps[layer.name].sum()),
                },
            ).ljust(config.counter_rows * row_bytes(Space.COUNTER, config), b"\0")
        self._store(Space.COUNTER, 0, counters)
        padded = np.zeros(program.n_result_rows * config.fire_lanes, "<i4")
        padded[: len(logits)] = logits
        self._store(Space.RESULT, 0, padded.tobytes())
        return {"argmax": int(np.argmax(logits)), "n_cycles": 1234}

    def _store(self, space: Space, row: int, data: bytes) -> None:
        start = row * row_bytes(space, self.config)
        self.memories[space][start : start + len(data)] = data
