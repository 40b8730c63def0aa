"""Tests of :class:`Board` and of groups of boards: loading, streaming, recovery."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw.boards.configs import CONFIGS
from hw.protocol import REPLY, LayerCounters, Opcode, Space, n_bytes
from sw.compile.compiler import compile_network
from sw.compile.program import PIXELS, FitError
from sw.driver.board import Board
from sw.driver.errors import (
    DeviceError,
    InvalidMessage,
    LinkLost,
    LinkTimeout,
    MemoryFault,
    RunLost,
)
from sw.driver.group import BoardGroup
from sw.driver.loading import exported_for_another, load_bytes
from sw.driver.pipeline import Pipeline
from sw.driver.results import Results
from sw.driver.session import classify
from sw.network import encoder
from sw.network.encoder import InputError
from sw.network.netfile import NetworkFile
from sw.network.network import INPUT, Network
from tests.golden import run_network
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice, FakeGateware, FakePort

CONFIG = dataclasses.replace(CONFIGS["sim"], weight_depth=1 << 17, param_depth=1 << 14)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_outcomes_are_those_of_the_device(seed: int) -> None:
    network = random_network(seed)
    try:
        program = compile_network(network, CONFIG)
    except FitError:
        assume(False)
        raise
    board = Board(FakeDevice(network, CONFIG))
    written: list[int] = []
    board.load(program, written.append)
    assert sum(written) == load_bytes(program)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        images = random_input(network, rng, 1)
        maps, logits = run_network(network, encoder.encode(network, images)[0])
        inference = board.observe(images[0], maps=True)
        np.testing.assert_array_equal(inference.logits, logits)
        assert inference.prediction == int(np.argmax(logits))
        assert inference.maps.keys() - {PIXELS} == maps.keys()
        for name, expected in maps.items():
            np.testing.assert_array_equal(inference.maps[name], expected)
        for layer in network.layers[:-1]:
            assert inference.counters[layer.name].n_spikes == maps[layer.name].sum()


def test_a_program_for_another_device_is_refused() -> None:
    network = random_network(5)
    board = Board(FakeDevice(network, CONFIG))
    other = compile_network(network, dataclasses.replace(CONFIG, name="other", lanes=16))
    with pytest.raises(ValueError, match="for 'other', the device is 'sim'; compile it again"):
        board.load(other)
    with pytest.raises(RuntimeError, match="no program is loaded: call load first"):
        board.infer([np.zeros(1, np.uint8)])


def test_a_file_that_was_exported_for_another_device_is_named() -> None:
    network = random_network(5)
    other = dataclasses.replace(CONFIG, name="other", lanes=16)
    note = exported_for_another(NetworkFile(network=network, config=other), CONFIG)
    assert note == "compiled for 'sim'; the file was exported for 'other'"
    twin = dataclasses.replace(CONFIG, name="twin", clk_hz=25_000_000, baud=115200)
    assert exported_for_another(NetworkFile(network=network, config=twin), CONFIG) is None
    assert exported_for_another(NetworkFile(network=network), CONFIG) is None
    note = exported_for_another(NetworkFile(network=network, unknown="why"), CONFIG)
    assert note == "compiled for 'sim'; why"


def loaded(network: Network, **options: Any) -> Board:
    board = Board(FakeDevice(network, CONFIG, **options))
    board.load(network)
    return board


def test_what_the_memories_hold_is_not_sent_again() -> None:
    network = random_network(5)
    board = Board(FakeDevice(network, CONFIG))
    program = compile_network(network, CONFIG)
    first = board.load(network)
    assert first.n_bytes == load_bytes(program)
    again = board.load(program)
    assert again.n_written == program.spike_bytes < first.n_written


def test_memory_that_does_not_hold_what_is_written_is_named() -> None:
    network = random_network(5)
    device = FakeDevice(network, CONFIG)
    kept = device.memories[Space.WEIGHT]

    class Broken(bytearray):
        def __setitem__(self, *_: Any) -> None:
            pass

    device.memories[Space.WEIGHT] = Broken(kept)
    with pytest.raises(MemoryFault, match=r"WEIGHT of the board on fake does not hold what was"):
        Board(device).load(network)


def test_reset_while_streaming_is_survived() -> None:
    """Check that streaming goes on after a board was reset and has lost its weights.

    The memories must be loaded again, and unfinished samples must be run again.
    """
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    rng = np.random.default_rng(1)
    shape = (6, network.timesteps, *network.map_shapes()[INPUT])
    samples = rng.integers(0, 2, shape, np.uint8)
    expected = board.infer(samples)
    found = []
    for n, inference in enumerate(board.stream(samples)):
        found.append(inference.logits)
        if n == 2:
            device.gateware.reset()
            device.memories[Space.WEIGHT][:] = bytes(len(device.memories[Space.WEIGHT]))
    np.testing.assert_array_equal(np.stack(found), expected)
    assert device.transport.counters.n_recoveries >= 1


def test_reset_while_maps_are_read_back_is_survived() -> None:
    network = random_network(5)
    shape = (3, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.random.default_rng(1).integers(0, 2, shape, np.uint8)
    expected = list(loaded(network).stream(samples, maps=True))
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    n_reads = 0

    def answer(seq: int, opcode: int, payload: bytes) -> list[bytes]:
        nonlocal n_reads
        n_reads += opcode == Opcode.READ
        if opcode == Opcode.READ and n_reads == 2:
            device.gateware.reset()
        return FakeGateware.answer(device.gateware, seq, opcode, payload)

    device.gateware.answer = answer  # type: ignore[method-assign]
    device.transport.port = ImpatientPort(device.gateware)
    for found, right in zip(board.stream(samples, maps=True), expected, strict=True):
        assert found.maps.keys() == right.maps.keys()
        for name, spikes in found.maps.items():
            np.testing.assert_array_equal(spikes, right.maps[name])
    assert device.transport.counters.n_recoveries == 1


class ImpatientPort(FakePort):
    """Fake port that fails the test if the driver reads it 1000 times: it would wait forever."""

    n_left = 1000

    def read(self, size: int, /) -> bytes:
        self.n_left -= 1
        assert self.n_left, "the driver waits forever"
        return super().read(size)


def test_board_that_fails_hands_its_work_to_the_others() -> None:
    network = random_network(5)
    good = loaded(network)
    bad = loaded(network, fails_at=2, error=LinkLost("it was unplugged"))
    shape = (20, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.random.default_rng(2).integers(0, 2, shape, np.uint8)
    expected = loaded(network).infer(samples)
    with BoardGroup([bad, good]) as boards:
        np.testing.assert_array_equal(boards.infer(samples), expected)
        assert boards.boards == [good] and boards.failures[0][0] is bad.device
        assert boards.devices == [good.device]
        # The counters include those of a board that has failed.
        counters = boards.counters
        assert counters.n_bytes_out == good.counters.n_bytes_out + bad.counters.n_bytes_out
        assert counters.n_bytes_out > good.counters.n_bytes_out


def test_last_board_that_fails_is_an_error() -> None:
    network = random_network(5)
    boards = BoardGroup([loaded(network, fails_at=n, error=LinkLost(f"gone {n}")) for n in (1, 2)])
    shape = (9, network.timesteps, *network.map_shapes()[INPUT])
    with pytest.raises(
        DeviceError, match=r"all boards have failed:\n  fake: gone \d\n  fake: gone \d"
    ):
        boards.infer(np.zeros(shape, np.uint8))


def test_board_that_fails_in_loading_is_left_out() -> None:
    network = random_network(5)
    boards = BoardGroup([Board(FakeDevice(network, CONFIG)) for _ in range(2)])
    good, bad = boards.boards

    def lost(_: bytes) -> None:
        raise OSError("it was unplugged")

    bad.device.transport.port.write = lost  # type: ignore[method-assign]
    boards.load(network)
    assert boards.boards == [good] and isinstance(boards.failures[0][1], LinkLost)
    shape = (3, network.timesteps, *network.map_shapes()[INPUT])
    assert len(boards.infer(np.zeros(shape, np.uint8))) == 3
    good.device.transport.port.write = lost  # type: ignore[method-assign]
    with pytest.raises(
        DeviceError, match=r"all boards have failed:\n  fake: lost the board on fake: it was"
    ):
        boards.load(network)


def test_wrong_program_for_several_boards_is_no_failure_of_a_board() -> None:
    network = random_network(5)
    boards = BoardGroup([Board(FakeDevice(network, CONFIG)) for _ in range(2)])
    other = compile_network(network, dataclasses.replace(CONFIG, name="other", lanes=16))
    with pytest.raises(ValueError, match="for 'other', the device is 'sim'; compile it again"):
        boards.load(other)
    assert not boards.failures


def test_network_that_does_not_fit_one_of_several_boards_changes_none() -> None:
    network, larger = random_network(5, n_layers=1), random_network(5, n_layers=3)
    n_rows = compile_network(network, CONFIG).usage()["weight"][0]
    small = dataclasses.replace(CONFIG, weight_depth=n_rows)
    devices = [FakeDevice(network, config) for config in (CONFIG, small)]
    boards = BoardGroup([Board(device) for device in devices])
    boards.load(network)
    assert [program.config for program in boards.compiled(network)] == [CONFIG, small]
    before = [bytes(device.memories[Space.WEIGHT]) for device in devices]
    programs = [board.program for board in boards.boards]
    with pytest.raises(FitError, match="weight needs"):
        boards.load(larger)
    assert [bytes(device.memories[Space.WEIGHT]) for device in devices] == before
    assert [board.program for board in boards.boards] == programs and not boards.failures


def test_boards_of_different_kinds_take_the_same_samples() -> None:
    network = random_network(11, n_layers=3, encoder=True)
    configs = [CONFIG, dataclasses.replace(CONFIG, pixels=0), CONFIG]
    spikes_only = compile_network(network, CONFIG, pixels=False)
    assert compile_network(network, CONFIG).pixels
    devices = [
        FakeDevice(network, config, program=compile_network(network, config, pixels=False))
        for config in configs
    ]
    images = random_input(network, np.random.default_rng(4), 9)
    expected = loaded(network).infer(images)
    with BoardGroup([Board(device) for device in devices]) as boards:
        boards.load(network)
        assert not boards.program.pixels and boards.program.images == spikes_only.images
        results = Results(network="", sha256="", board="", clk_hz=1, n_requested=9)
        classify(boards, network, images, results)
        assert results.n_done == 9 and results.stopped is None
        assert results.layers.keys() == {layer.name for layer in network.layers}
        np.testing.assert_array_equal(results.logits, expected)


def test_progress_adds_up_over_a_reset() -> None:
    network = random_network(5)
    device = FakeDevice(network, CONFIG)
    n_writes = 0

    def answer(seq: int, opcode: int, payload: bytes) -> list[bytes]:
        nonlocal n_writes
        n_writes += opcode == Opcode.WRITE
        if opcode == Opcode.WRITE and n_writes in (5, 60):
            device.gateware.reset()
        return FakeGateware.answer(device.gateware, seq, opcode, payload)

    device.gateware.answer = answer  # type: ignore[method-assign]
    written: list[int] = []
    board = Board(device)
    board.load(network, written.append)
    assert device.transport.counters.n_recoveries == 2
    assert sum(written) == load_bytes(board.program) and min(written) > 0


@pytest.mark.parametrize("encoder", [True, False])
def test_samples_that_the_network_does_not_take_are_refused(encoder: bool) -> None:
    network = random_network(13, encoder=encoder)
    board = loaded(network)
    shape = network.image_shape if encoder else (network.timesteps, *network.image_shape)
    wrong = [
        np.zeros(shape, np.float32),
        np.zeros((1, *shape), np.uint8),
        np.zeros(shape[1:], np.uint8),
        np.zeros(shape, np.int64),
    ]
    if not encoder:
        wrong.append(np.full(shape, 2, np.uint8))
    for sample in wrong:
        with pytest.raises(InputError, match=r"of type uint8 and shape|must be 0 or 1"):
            board.infer([sample])
    assert len(board.infer([np.zeros(shape, np.uint8)])) == 1


@pytest.mark.parametrize("argmax", [1, 2, 1000, 65535])
def test_class_that_is_not_that_of_the_largest_logit_is_refused(argmax: int) -> None:
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    shape = (1, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.zeros(shape, np.uint8)
    right = int(np.argmax(board.infer(samples)[0]))
    compute = device.gateware._compute
    device.gateware._compute = lambda entry: (
        compute(entry)
        | {  # type: ignore[method-assign]
            "argmax": (right + argmax) % 65536
        }
    )
    message = rf"predicts class {(right + argmax) % 65536}, but of its {network.n_classes} logits"
    with pytest.raises(InvalidMessage, match=message):
        board.infer(samples)


@pytest.mark.parametrize("more", [-1, -20, 4])
def test_announcement_of_another_length_is_no_lost_run(more: int) -> None:
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)

    def run(request: Any) -> list[bytes]:
        (done,) = FakeGateware._run(device.gateware, request)
        return [(done + bytes(4))[: len(done) + more]]

    device.gateware._run = run  # type: ignore[method-assign]
    shape = (1, network.timesteps, *network.map_shapes()[INPUT])
    with pytest.raises(InvalidMessage, match=r"the end of a run with \d+ bytes, not \d+\. Its bit"):
        board.infer(np.zeros(shape, np.uint8))
    assert device.transport.counters.n_recoveries == 0


def test_errors_of_samples_for_several_boards_are_raised() -> None:
    network = random_network(5)
    shape = (network.timesteps, *network.map_shapes()[INPUT])

    def samples() -> Any:
        yield np.zeros(shape, np.uint8)
        raise ZeroDivisionError

    for sample in (samples(), [np.zeros((1, 2), np.uint8)]):
        with pytest.raises((ZeroDivisionError, encoder.InputError, ValueError)):
            BoardGroup([loaded(network), loaded(network)]).infer(sample)


def test_run_that_the_board_loses_is_run_again() -> None:
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    device.transport.timeout_s = 0.02
    shape = (2, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.random.default_rng(3).integers(0, 2, shape, np.uint8)
    expected = board.infer(samples)
    for n_lost, survives in ((2, True), (100, False)):

        def lose(run: Any) -> list[bytes]:
            nonlocal n_lost
            n_lost -= 1
            return [] if n_lost >= 0 else FakeGateware._run(device.gateware, run)

        device.gateware._run = lose  # type: ignore[method-assign]
        if survives:
            np.testing.assert_array_equal(board.infer(samples), expected)
            assert device.transport.counters.n_recoveries
        else:
            with pytest.raises(RunLost, match="the board lost the run that it had started, and"):
                board.infer(samples)


def test_run_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    device.gateware.run_never_ends = True
    device.transport.timeout_s = 0.02
    monkeypatch.setattr("sw.driver.pipeline.RUN_TIMEOUT_S", 0.05)
    shape = (1, network.timesteps, *network.map_shapes()[INPUT])
    with pytest.raises(LinkTimeout, match=r"a run did not end within 0\.05 s\. Is the program"):
        board.infer(np.zeros(shape, np.uint8))
    device.gateware.run_never_ends = False
    assert len(board.infer(np.zeros(shape, np.uint8))) == 1


def test_lost_announcement_is_asked_for_again() -> None:
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    shape = (1, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.zeros(shape, np.uint8)
    expected = board.infer(samples)
    device.gateware.n_done_lost = 1
    np.testing.assert_array_equal(board.infer(samples), expected)
    assert device.n_computed == 2


def test_results_of_runs_without_their_input_are_discarded() -> None:
    """Check that every result belongs to its own sample if any single frame is lost.

    The driver requests a run right after it has sent the input, before the input is acknowledged.
    If a frame of the input is lost, the run's result must be discarded.
    """
    network = random_network(5)
    shape = (3, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.random.default_rng(3).integers(0, 2, shape, np.uint8)
    expected = loaded(network).infer(samples)
    assert len({logits.tobytes() for logits in expected}) == 3
    n_again = 0
    for deaf in (False, True):  # with and without the acknowledgements of the next requests
        for lost in range(6):
            board = loaded(network)
            device = board.device
            assert isinstance(device, FakeDevice)
            device.transport.timeout_s = 0.05
            port = LossyPort(device.gateware, lost, deaf)
            device.transport.port = port
            np.testing.assert_array_equal(board.infer(samples), expected)
            counters = device.transport.counters
            assert counters.n_repeated and not counters.n_recoveries
            n_again += device.n_computed - 3
    assert n_again >= 2


class LossyPort(FakePort):
    """Fake port that loses one frame from the host: number ``lost``, counted from 0.

    With ``deaf``, it also loses the next three replies, except announcements of ended runs (DONE).
    """

    def __init__(self, gateware: FakeGateware, lost: int, deaf: bool):
        super().__init__(gateware)
        self.n_left, self.n_to_lose = lost, 3 * deaf

    def write(self, raw: bytes, /) -> int:
        for frame in raw.split(b"\x7e")[:-1]:
            self.n_left -= bool(frame)
            if self.n_left == -1 and frame:
                continue
            before = len(self._replies)
            super().write(frame + b"\x7e")
            replies = [*self._replies[before:].split(b"\x7e")][:-1]
            del self._replies[before:]
            for reply in replies:
                if self.n_left < -1 and self.n_to_lose and reply[1] != Opcode.DONE | REPLY:
                    self.n_to_lose -= 1
                else:
                    self._replies += reply + b"\x7e"
        return len(raw)


def test_announcement_of_a_later_run_shows_that_an_earlier_one_was_lost() -> None:
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    shape = (4, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.random.default_rng(3).integers(0, 2, shape, np.uint8)
    expected = board.infer(samples)
    device.gateware.n_done_lost = 1
    np.testing.assert_array_equal(board.infer(samples), expected)
    assert device.n_computed == 4 + 5 and not device.transport.counters.n_recoveries


def test_a_run_is_requested_before_the_next_input_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check the order of requests: on the line, a run's request must not wait behind an input."""
    order: list[str] = []
    for name, request in (("_write", Pipeline._write), ("_run", Pipeline._run)):

        def noted(self: Pipeline, job: Any, name: str = name, request: Any = request) -> None:
            order.append(name)
            request(self, job)

        monkeypatch.setattr(Pipeline, name, noted)
    network = random_network(3)
    board = loaded(network)
    assert len(board.program.inputs) == 3
    n_samples = 7
    list(board.stream(random_input(network, np.random.default_rng(3), n_samples)))
    assert order == ["_write", "_run"] * n_samples


def test_results_without_counters_are_shorter_and_otherwise_the_same() -> None:
    network = random_network(11, n_layers=3)
    board = loaded(network)
    images = random_input(network, np.random.default_rng(4), 3)
    full, short = (list(board.stream(images, counters=asked)) for asked in (True, False))
    for one, other in zip(full, short, strict=True):
        assert one.counters and not other.counters
        assert np.array_equal(one.logits, other.logits) and one.n_cycles == other.n_cycles
        assert one.work is not None and other.work is not None
        n_less = one.work.n_bytes_done - other.work.n_bytes_done
        assert n_less >= 3 * n_bytes(LayerCounters) - 4, "fewer bytes may need escapes"
    results = Results(network="", sha256="", board="", clk_hz=1, n_requested=3)
    classify(board, network, images, results, checked="spikes", counters=False)
    assert not results.mismatches and results.n_done == 3
    assert results.layers == {} and results.to_dict()["energy_pj"] is None


def test_outcomes_do_not_wait_for_samples_that_are_not_available_yet() -> None:
    network = random_network(5)
    shape = (3, network.timesteps, *network.map_shapes()[INPUT])
    samples = np.random.default_rng(3).integers(0, 2, shape, np.uint8)
    expected = loaded(network).infer(samples)
    for board in (loaded(network), BoardGroup([loaded(network), loaded(network)])):
        outcomes: list[np.ndarray] = []

        def one_at_a_time(outcomes: list[np.ndarray] = outcomes) -> Any:
            for n, sample in enumerate(samples):
                while len(outcomes) < n:
                    yield None
                yield sample

        for inference in board.stream(one_at_a_time()):
            outcomes.append(inference.logits)
        np.testing.assert_array_equal(np.stack(outcomes), expected)


def test_reply_that_arrived_while_this_process_slept_is_not_requested_again() -> None:
    network = random_network(5)
    board = loaded(network)
    device = board.device
    assert isinstance(device, FakeDevice)
    device.transport.timeout_s = 0.0
    shape = (3, network.timesteps, *network.map_shapes()[INPUT])
    board.infer(np.zeros(shape, np.uint8))
    assert device.n_computed == 3 and not device.transport.counters.n_repeated
