"""Fuzzer of the serial link: the driver must return a result or raise a ``DeviceError``, whatever a
board sends.

The driver must refuse messages that the protocol does not allow, and must not wait forever.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import termios

import numpy as np
import pytest
import serial

from hw.boards.configs import CONFIGS
from hw.protocol import (
    END,
    HEADER_BYTES,
    REPLY,
    Identity,
    Opcode,
    Status,
    encode_frame,
    identity_bytes,
    n_bytes,
)
from hw.spec import Config
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.driver import pipeline
from sw.driver.board import Board
from sw.driver.device import Device
from sw.driver.discovery import connect
from sw.driver.errors import DeviceError
from sw.driver.transport import Request, Transport
from sw.network.network import Network
from tests.fuzz import STRANGE, rounds
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice, FakeGateware, FakePort

CONFIG = CONFIGS["sim"]
N_SAMPLES = 3
STATUS_AT = HEADER_BYTES
"""Index of the status byte in the packet of a reply."""
TIMEOUT_S = 0.004
HANG_UPS = (
    OSError(5, "Input/output error"),
    serial.SerialException("device disconnected"),
    serial.SerialTimeoutException("Write timeout"),
    termios.error(5, "Input/output error"),
    TypeError("'NoneType' object cannot be interpreted as an integer"),
)


def edited_packet(packet: bytes, rng: random.Random) -> list[bytes]:
    """Return the packets that a faulty board sends in place of a packet (sequence number, opcode,
    payload).
    """
    at = rng.randrange(len(packet))
    return [
        [packet[:at] + bytes([rng.randrange(256)]) + packet[at + 1 :]],
        [packet[:at]],
        [packet[: rng.choice((2, 3, 4))]],
        [packet + rng.randbytes(rng.choice((1, 4, 16, 600)))],
        [packet, packet],
        [],
        [bytes([packet[0], Opcode.DONE | REPLY, 0]) + rng.randbytes(rng.randrange(40)), packet],
        [packet[:2] + bytes([rng.randrange(12)]) + packet[3:]],
        [bytes([rng.randrange(256)]) + packet[1:]],
        [packet[:1] + bytes([rng.choice(list(Opcode)) | REPLY]) + packet[2:]],
        [packet[:2] + rng.randbytes(len(packet) - 2)],
        [packet[:3] + rng.randbytes(len(packet) - 3)],
        [packet[:3] + bytes([packet[0]]) + rng.randbytes(len(packet) - 4)] if packet[3:] else [],
        [packet[:4] + rng.randbytes(2) + packet[6:]] if packet[6:] else [],  # the class, in a DONE
    ][rng.randrange(14)]


class FaultyPort(FakePort):
    """Fake port that damages each reply of a fake gateware with probability ``rate``, and may hang
    up.

    If a damaged reply says OK to a request that the gateware did not accept, the port sets the
    attribute ``lied`` of the gateware.
    """

    def __init__(self, gateware: FakeGateware, rng: random.Random, rate: float):
        super().__init__(gateware)
        self.rng, self.rate = rng, rate
        self.n_left = rng.randrange(300) if rng.random() < 0.2 else -1
        """Number of calls until the port hangs up; negative if it never does."""
        self._accepted: set[tuple[int, int]] = set()
        """Sequence numbers and opcodes of the replies whose status the gateware last set to OK."""
        self._answer = gateware.answer
        gateware.answer = self._answer_wrongly  # type: ignore[method-assign]

    def _answer_wrongly(self, seq: int, opcode: int, payload: bytes) -> list[bytes]:
        packets = self._answer(seq, opcode, payload)
        key = packets[0][0], packets[0][1]
        ok = packets[0][STATUS_AT] == Status.OK
        (self._accepted.add if ok else self._accepted.discard)(key)
        sent = [
            one
            for packet in packets
            for one in (
                edited_packet(packet, self.rng) if self.rng.random() < self.rate else [packet]
            )
        ]
        self.gateware.lied |= any(map(self._lies, sent))
        return sent

    def _lies(self, packet: bytes) -> bool:
        says_ok = packet[STATUS_AT : STATUS_AT + 1] == bytes([Status.OK])
        is_reply = packet[1:2] != bytes([Opcode.DONE | REPLY])
        return says_ok and is_reply and (packet[0], packet[1]) not in self._accepted

    def _call(self) -> None:
        self.n_left -= 1
        if self.n_left == 0:
            raise self.rng.choice(HANG_UPS)

    def read(self, size: int, /) -> bytes:
        self._call()
        if self.rng.random() < 0.02 * (self.rate > 0):
            self._replies += self.rng.randbytes(self.rng.randrange(50)) + bytes([END])
        return super().read(size)

    def write(self, raw: bytes, /) -> int:
        self._call()
        return super().write(raw)

    def flush(self) -> None:
        self._call()


def transport_to(port: FakePort) -> Transport:
    return Transport(port, timeout_s=TIMEOUT_S, n_retries=1, settle_s=0)


@functools.cache
def a_network() -> Network:
    return random_network(11, n_layers=3, channels=(1, 3, 8), timesteps=2, encoder=True)


def claimed(rng: random.Random) -> bytes:
    """Return the bytes of a board's identity with random changes.

    Often the hash of the definitions is then made to match the changed configuration.
    """
    values = dataclasses.asdict(rng.choice(list(CONFIGS.values())))
    for name in rng.sample(sorted(values), rng.choice((0, 1, 2))):
        numbers = [n for n in STRANGE if type(n) is int and 0 <= n < 1 << 32]
        values[name] = rng.choice(numbers) if name != "name" else rng.choice(("\x1b[2J", "a" * 20))
    config = object.__new__(Config)  # without its checks, as a faulty device has none
    for name, value in values.items():
        object.__setattr__(config, name, value)
    raw = bytearray(identity_bytes(config))
    for _ in range(rng.choice((0, 0, 0, 1))):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)[: rng.randrange(n_bytes(Identity)) if rng.random() < 0.1 else None]


def fuzz_identities(n: int, seed: int | None) -> tuple[int, int]:
    """Let the driver open ``n`` boards with edited identities; return how many it refused and
    accepted.
    """
    n_refused = n_accepted = 0
    for rng, noted in rounds(n, seed):
        with noted:
            gateware = FakeGateware(CONFIG)
            gateware.identity = claimed(rng)
            try:
                link, found = connect(transport_to(FakePort(gateware)), TIMEOUT_S, 1)
                Device(link, found)
            except DeviceError as error:
                assert str(error).isprintable()
                n_refused += 1
                continue
            n_accepted += 1
            assert found.config.name.isprintable()
            try:
                compile_network(a_network(), found.config)
            except FitError as error:
                assert str(error).isprintable()
    return n_refused, n_accepted


def fuzz_messages(n: int, seed: int | None, config: Config = CONFIG) -> tuple[int, int]:
    """Load and run a network on ``n`` faulty boards; return how many of these rounds failed with a
    ``DeviceError``, and how many returned all results.

    Rounds with all results are not counted if the board said OK to a request that it had refused.
    """
    n_failed = n_done = 0
    network = a_network()
    program = compile_network(network, config)
    images = random_input(network, np.random.default_rng(3), N_SAMPLES)
    for rng, noted in rounds(n, seed):
        with noted:
            gateware = FakeDevice(network, config, program=program).gateware
            gateware.reset()
            gateware.n_done_lost = rng.choice((0, 0, 1, 2))
            rate = rng.choice((0.0, 0.02, 0.1, 0.3))
            port = FaultyPort(gateware, rng, rate * rng.randrange(2))  # from the start, or later
            try:
                link, found = connect(transport_to(port), TIMEOUT_S, 1)
                board = Board(Device(link, found))
                board.load(program)
                port.rate = rate
                for inference in board.stream(images, maps=rng.random() < 0.3):
                    assert inference.prediction == np.argmax(inference.logits)
                    assert inference.logits.shape == (network.n_classes,)
            except DeviceError as error:
                assert str(error).isprintable()
                n_failed += 1
            else:
                n_done += not gateware.lied
    return n_failed, n_done


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the driver's timeout for a run, so that lost runs do not slow the tests."""
    monkeypatch.setattr(pipeline, "RUN_TIMEOUT_S", 0.05)


def test_boards_that_claim_anything() -> None:
    n_refused, n_accepted = fuzz_identities(150, 0)
    assert n_refused > 30 and n_accepted > 30


def test_boards_that_send_anything() -> None:
    n_failed, n_done = fuzz_messages(80, 0)
    assert n_failed > 15 and n_done > 15


def test_boards_with_packed_writes_that_send_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: set[Opcode] = set()
    frame = Request.frame

    def noted(request: Request, seq: int) -> bytes:
        sent.add(request.opcode)
        return frame(request, seq)

    monkeypatch.setattr(Request, "frame", noted)
    n_failed, n_done = fuzz_messages(40, 1, dataclasses.replace(CONFIG, packed_writes=1))
    assert n_failed > 5 and n_done > 5 and Opcode.WRITE_PACKED in sent


@pytest.mark.slow
def test_many_boards_that_claim_or_send_anything() -> None:
    assert min(fuzz_identities(10_000, None)) > 1000
    assert min(fuzz_messages(2000, None)) > 200
    packed = dataclasses.replace(CONFIG, packed_writes=1)
    assert min(fuzz_messages(2000, None, packed)) > 200


def test_a_board_that_lies_once_about_a_memory_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check that a network is loaded and run if the board answers OK once instead of MISMATCH.

    MISMATCH says that the CRC of a memory is wrong. No driver can notice a single false OK, so the
    fuzzer must not count it as an error (seeds 2569755646 and 354456219). A board that accepts
    every CRC is refused.
    """
    mismatches = itertools.count()

    def forged(packet: bytes, rng: random.Random) -> list[bytes]:
        is_mismatch = packet[1:] == bytes([Opcode.CHECK | REPLY, Status.MISMATCH])
        lies = is_mismatch and next(mismatches) == 1  # the first one refuses a wrong CRC
        return [packet[:STATUS_AT] + bytes([Status.OK])] if lies else [packet]

    monkeypatch.setattr("tests.sw.driver.test_fuzz.edited_packet", forged)
    network = a_network()
    device = FakeDevice(network, CONFIG)
    port = FaultyPort(device.gateware, random.Random(1), 1.0)
    port.n_left = -1
    board = Board(Device(transport_to(port), device.identity))
    board.load(network)
    assert device.gateware.lied and next(mismatches) > 1
    (inference,) = board.stream(random_input(network, np.random.default_rng(3), 1))
    assert inference.logits.shape == (network.n_classes,)


@pytest.mark.parametrize("forged", [False, True])
def test_the_fuzzer_knows_when_the_board_lies(
    forged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateware = FakeGateware(CONFIG)
    port = FaultyPort(gateware, random.Random(1), 1.0)
    monkeypatch.setattr(
        "tests.sw.driver.test_fuzz.edited_packet",
        lambda packet, rng: [packet[:STATUS_AT] + bytes(1)] if forged else [packet],
    )
    gateware.answer(7, Opcode.IDENTIFY, b"")
    assert not gateware.lied
    gateware.answer(7, Opcode.RUN, bytes(6))  # WAS_RESET
    assert gateware.lied == forged
    assert port._lies(bytes([8, Opcode.CHECK | REPLY, Status.OK]))  # of a request never answered


def test_frames_of_the_fuzzer_are_undamaged() -> None:
    """Check that the faulty port encodes its messages as valid frames, which the driver decodes."""
    gateware = FakeGateware(CONFIG)
    port = FaultyPort(gateware, random.Random(1), 0.0)
    port.n_left = -1
    port.write(encode_frame(bytes([3, Opcode.IDENTIFY])))
    assert port.read(1000) == encode_frame(
        bytes([3, Opcode.IDENTIFY | REPLY, 0]) + gateware.identity
    )
