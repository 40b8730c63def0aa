"""Tests of configurations and their derived numbers, and of the neuron's integer semantics."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hw.spec import (
    CHUNK_DEPTH,
    MAX_LEAK_SHIFT,
    Config,
    Gate,
    Leak,
    Reset,
    SpecError,
    after_spike,
    carried_over,
    decay,
    fire,
    joined,
    leak_shifts,
    leaked,
    signed_range,
    valid_shifts,
)

KINDS: dict[str, Callable[[Any], Any]] = {"numpy": np.array, "torch": torch.tensor}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_bits", 3),
        ("weight_bits", 16),
        ("lanes", 4),
        ("lanes", 24),
        ("lanes", 128),
        ("fire_lanes", 0),
        ("fire_lanes", 3),
        ("fire_lanes", 32),
        ("chunk_bits", 16),
        ("chunk_bits", 48),
        ("chunk_bits", 128),
        ("membrane_bits", 15),
        ("membrane_bits", 33),
        ("membrane_slots", 1),
        ("membrane_slots", 12),
        ("spike_bytes", 1001),
        ("spike_bytes", 65544),
        ("weight_depth", 1),
        ("weight_depth", (1 << 20) + 1),
        ("max_layers", 1),
        ("result_rows", 1),
        ("param_depth", 128),
        ("param_depth", 500),
        ("param_depth", 0),
        ("baud", 13_000_000),
        ("max_payload_bytes", 63),
        ("max_payload_bytes", 2048),
        ("pixels", 2),
        ("count_bits", 0),
        ("count_bits", 13),
        ("banks", 0),
        ("banks", 3),
        ("banks", 16),
        ("sum_bits", 8),
        ("sum_bits", 33),
        ("max_layers", 256),
        ("sum_queue", 1),
        ("baud", 0),
        ("baud", -1),
        ("baud", 12_000_001),
        ("clk_hz", 1 << 32),
        ("lanes", 256),
        ("membrane_slots", 256),
        ("spike_bytes", 0),
        ("spike_bytes", -8),
        ("param_depth", 1 << 21),
        ("result_rows", 256),
        ("rx_buffer_bytes", 1 << 16),
        ("sum_queue", 256),
    ],
)
def test_unsupported_values_are_refused(field: str, value: int) -> None:
    with pytest.raises(SpecError) as refused:
        Config(**{field: value})
    named = str(refused.value)
    assert named.startswith("Config.") and "is not supported: use" in named
    assert f"Config.{field} = {value}" in named or field == "lanes"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"banks": 4}, "Config.lanes = 16 .* at least 8 for each bank"),
        ({"banks": 2, "fire_lanes": 1}, "Config.fire_lanes = 1 .* from banks to lanes"),
        ({"lanes": 64, "chunk_bits": 32}, "Config.chunk_bits = 32 .* at least lanes / banks"),
        ({"banks": 2, "sum_queue": 0}, "Config.sum_queue = 0 .* with a single bank"),
        ({"weight_registers": 9}, "Config.weight_registers = 9 .* use 0, or up to 8"),
        ({"weight_registers": 1, "sum_queue": 0}, "weight_registers = 1 .* a queue of sums"),
        ({"half_rows": 1, "sum_queue": 0}, "half_rows = 1 .* a queue of sums"),
        ({"half_rows": 1, "weight_depth": 1 << 19}, "half_rows = 1 .* at most 262144"),
        ({"direct_timesteps": 1, "pixels": 0}, "direct_timesteps = 1 .* with pixels"),
        ({"clk_hz": 0}, "Config.baud = 12000000 .* use 1 to clk_hz / 4"),
        ({"baud": "1"}, "Config.baud = '1' .* a whole number from 0"),
        ({"weight_depth": 20480.0}, "Config.weight_depth = 20480.0 .* a whole number from 0"),
        ({"name": "a\x1b[2J"}, r"Config.name = 'a\\x1b\[2J' .* printable ASCII"),
        ({"name": "Zürich"}, "Config.name = 'Zürich' .* printable ASCII"),
        ({"name": 7}, "Config.name = 7 .* printable ASCII"),
    ],
)
def test_values_that_do_not_fit_one_another_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Config(**fields)


@pytest.mark.parametrize("banks", [1, 2, 4, 8])
def test_numbers_that_depend_on_the_banks(banks: int) -> None:
    config = Config(lanes=64, banks=banks, fire_lanes=8, param_depth=1024)
    assert config.bank_lanes * banks == 64
    assert config.fire_beats == 8
    assert config.param_latency == {1: 3, 2: 5, 4: 7, 8: 11}[banks]
    rooms = [config.chunk_room(bank) for bank in range(banks)]
    # A slot takes a cycle to each further bank, and so does the signal of its room.
    assert [a - b for a, b in itertools.pairwise(rooms)] == [2] * (banks - 1)
    assert rooms[0] < CHUNK_DEPTH and rooms[-1] > 0


def test_a_small_device_receives_sums_in_the_next_cycle() -> None:
    assert Config(sum_queue=0).param_latency == 1


def test_a_row_of_weights_holds_a_word_of_a_descriptor() -> None:
    with pytest.raises(SpecError, match="at least 32 bits"):
        Config(lanes=8, weight_bits=2, chunk_bits=32, fire_lanes=8)
    Config(lanes=16, weight_bits=2, fire_lanes=8)


@pytest.mark.parametrize("fire_lanes", [1, 2, 4, 8, 16])
def test_rows_of_results_and_counters(fire_lanes: int) -> None:
    config = Config(fire_lanes=fire_lanes, max_layers=12, result_rows=16, param_depth=1024)
    assert config.fire_beats == 16 // fire_lanes
    assert config.counter_rows == {1: 4, 2: 2}.get(fire_lanes, 1)
    assert config.page_rows == {1: 64, 2: 64}.get(fire_lanes, 32)
    assert config.n_param_rows == 1024 - 2 * config.page_rows


def test_another_weight_width_keeps_the_bits_of_weight_memory() -> None:
    config = Config(weight_depth=1000)
    for bits in (2, 4, 8):
        other = config.with_weight_bits(bits)
        assert other.weight_bits * other.weight_depth == 8000
        assert other.sum_bits - other.weight_bits == config.sum_bits - config.weight_bits
        assert other.with_weight_bits(8) == config


def test_accumulators_are_never_wider_than_membranes() -> None:
    config = Config(weight_bits=2, weight_depth=1000, sum_bits=20, membrane_bits=24)
    assert config.with_weight_bits(8).sum_bits == 24


def test_a_small_device_keeps_the_length_of_its_rows() -> None:
    config = Config(lanes=8, fire_lanes=1, chunk_bits=32, max_layers=8, sum_queue=0)
    for bits in (2, 4, 8):
        other = config.with_weight_bits(bits)
        assert other.weight_bits * other.lanes == 64 and other.weight_depth == config.weight_depth
        assert other.with_weight_bits(8) == config


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("membrane", [0, 1, 5, 1000, -1, -5, -1000])
def test_leaks_round_towards_minus_infinity(membrane: int, shift: int) -> None:
    kept = int(np.floor(membrane / 2**shift))
    assert leaked(membrane, Leak.NONE, shift) == membrane
    assert leaked(membrane, Leak.KEEP, shift) == kept
    assert leaked(membrane, Leak.SUBTRACT, shift) == membrane - kept
    assert leaked(np.array([membrane]), Leak.KEEP, shift).tolist() == [kept]


@pytest.mark.parametrize("shifts", [(1,), (3,), (15,), (3, 5), (1, 2), (1, 3, 4), (2, 9, 15)])
@pytest.mark.parametrize("leak", Leak)
def test_decay_is_the_leak_without_rounding(leak: Leak, shifts: tuple[int, ...]) -> None:
    membrane = 1 << 20
    assert decay(leak, *shifts) * membrane == leaked(membrane, leak, *shifts)


def test_leaks_of_several_shifts() -> None:
    """Check leaks of two and three shifts: signs alternate, and each term is rounded down by
    itself."""
    assert leaked(1000, Leak.SUBTRACT, 3, 5) == 1000 - 125 + 31
    assert leaked(1000, Leak.SUBTRACT, 1, 2, 4) == 1000 - 500 + 250 - 62
    assert leaked(-1000, Leak.KEEP, 1, 3, 5) == -500 + 125 - 32
    assert decay(Leak.SUBTRACT, 3, 5) == 0.90625


def test_every_leak_is_monotone() -> None:
    """Check that of two membranes the larger one stays at least as large after a leak.

    Also check that a leak never increases the absolute value. The proof that nothing overflows
    (:mod:`sw.network.bounds`) relies on both.
    """
    # A period of the largest shift, and both sides of 0.
    membranes = np.arange(-(1 << MAX_LEAK_SHIFT) - 9, (1 << MAX_LEAK_SHIFT) + 9)
    for shifts in leak_shifts():
        assert valid_shifts(shifts)
        for leak in (Leak.SUBTRACT, Leak.KEEP):
            remains = leaked(membranes, leak, *shifts)
            assert (np.diff(remains) >= 0).all(), (leak, shifts)
            assert (np.abs(remains) <= np.abs(membranes)).all(), (leak, shifts)


@pytest.mark.parametrize("shifts", [(), (0,), (16,), (2, 2), (3, 1), (1, 2, 3, 4), (1.0,), (True,)])
def test_shifts_that_no_leak_has(shifts: tuple) -> None:
    assert not valid_shifts(shifts)


def test_a_leak_of_any_decay_is_near() -> None:
    """Check that for any factor from 0 to 1 some leak has a decay within 1/32 of it."""
    available = {decay(Leak.NONE)}
    available |= {decay(leak, *s) for leak in (Leak.SUBTRACT, Leak.KEEP) for s in leak_shifts()}
    wanted = np.linspace(0, 1, 1001)
    nearest = np.abs(wanted[:, None] - np.array(sorted(available))).min(axis=1)
    assert nearest.max() <= 1 / 32


def test_a_delayed_reset_follows_the_leak() -> None:
    """Check that a delayed reset subtracts the threshold after the leak of the next timestep.

    snnTorch computes the same with ``reset_mechanism="subtract"``: beta * U - threshold.
    """
    spike, membrane = fire(130, 100, Reset.DELAYED)
    assert (spike, membrane) == (True, 130)
    assert carried_over(membrane, spike, 100, Reset.DELAYED, Leak.SUBTRACT, 1) == 65 - 100
    assert carried_over(90, False, 100, Reset.DELAYED, Leak.SUBTRACT, 1) == 45
    assert carried_over(30, True, 100, Reset.SOFT, Leak.SUBTRACT, 1) == 15


@pytest.mark.parametrize(
    ("membrane", "hard", "soft"),
    [(-7, -7, -7), (0, 0, 0), (4, 4, 4), (5, 0, 0), (6, 0, 1), (1000, 0, 995)],
)
def test_spikes_and_membranes_after_them(membrane: int, hard: int, soft: int) -> None:
    spikes = membrane >= 5
    assert fire(membrane, 5, Reset.HARD) == (spikes, hard)
    assert fire(membrane, 5, Reset.SOFT) == (spikes, soft)
    for make in KINDS.values():
        for reset, left in ((Reset.HARD, hard), (Reset.SOFT, soft)):
            fires, membranes = fire(make([membrane]), make([5]), reset)
            assert (fires.tolist(), membranes.tolist()) == ([spikes], [left])
            assert membranes.dtype == make([membrane]).dtype


@pytest.mark.parametrize("reset", Reset)
def test_floating_point_resets_are_exact(reset: Reset) -> None:
    """Check a spike and the reset after it on floating-point membranes.

    A membrane below the threshold must stay bit-identical. Any other fires, and must become exactly
    the value that the reset leaves.
    """
    membranes = torch.randn(1000, dtype=torch.float64)
    fires, left = fire(membranes, 0.3, reset)
    expected = after_spike(membranes, 0.3, reset)
    assert torch.equal(left, torch.where(membranes >= 0.3, expected, membranes))
    assert torch.equal(fires, membranes >= 0.3)


@pytest.mark.parametrize("reset", Reset)
def test_resets_are_monotone_and_never_raise_a_membrane(reset: Reset) -> None:
    """Check that of two membranes the larger one stays at least as large after a reset.

    Also check that a reset leaves a value from 0 to the membrane. The proof that nothing overflows
    (:mod:`sw.network.bounds`) relies on both.
    """
    membranes = np.arange(7, 100)
    left = after_spike(membranes, 7, reset)
    assert (np.diff(left) >= 0).all() and left.min() >= 0 and (left <= membranes).all()


@pytest.mark.parametrize(
    ("gate", "table"),
    [
        (Gate.NONE, [0, 1, 0, 1]),
        (Gate.AND, [0, 0, 0, 1]),
        (Gate.IAND, [0, 0, 1, 0]),
        (Gate.OR, [0, 1, 1, 1]),
        (Gate.XOR, [0, 1, 1, 0]),
    ],
)
def test_gates(gate: Gate, table: list[int]) -> None:
    branch, identity = [0, 1, 0, 1], [0, 0, 1, 1]
    assert [joined(gate, s, o) for s, o in zip(branch, identity, strict=True)] == table
    for dtype in (np.uint8, np.int64, np.bool_):
        arrays = np.array(branch, dtype), np.array(identity, dtype)
        assert joined(gate, *arrays).tolist() == table
        assert joined(gate, *map(torch.from_numpy, arrays)).tolist() == table


def test_signed_ranges() -> None:
    assert signed_range(8) == (-128, 127)
    assert signed_range(2) == (-2, 1)
