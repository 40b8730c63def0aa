"""The configuration: what can be built, and what it comes to; the neuron's leak."""

import numpy as np
import pytest

from hw.spec import Config, Leak, SpecError, leaked, signed_range


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
        ("cores", 3),
        ("max_layers", 256),
        ("sum_queue", 1),
    ],
)
def test_what_cannot_be_built_is_refused(field: str, value: int) -> None:
    with pytest.raises(SpecError) as refused:
        Config(**{field: value})
    named = str(refused.value)
    assert named.startswith("Config.") and "is not supported: use" in named
    assert f"Config.{field} = {value}" in named or field == "lanes"


def test_a_row_of_weights_holds_a_word() -> None:
    with pytest.raises(SpecError, match="at least 32 bits"):
        Config(lanes=8, weight_bits=2, chunk_bits=32, fire_lanes=8)
    Config(lanes=16, weight_bits=2, fire_lanes=8)


@pytest.mark.parametrize("fire_lanes", [1, 2, 4, 8, 16])
def test_rows_of_results_and_counters(fire_lanes: int) -> None:
    config = Config(fire_lanes=fire_lanes, max_layers=12, result_rows=16, param_depth=1024)
    assert config.fire_beats == 16 // fire_lanes
    assert config.counter_rows == {1: 4, 2: 2}.get(fire_lanes, 1)
    assert config.bank_rows == {1: 64, 2: 64}.get(fire_lanes, 32)
    assert config.n_param_rows == 1024 - 2 * config.bank_rows


def test_the_same_memory_for_another_weight_width() -> None:
    config = Config(weight_depth=1000)
    for bits in (2, 4, 8):
        other = config.with_weight_bits(bits)
        assert other.weight_bits * other.weight_depth == 8000
        assert other.with_weight_bits(8) == config


def test_a_small_device_keeps_the_length_of_its_rows() -> None:
    config = Config(lanes=8, fire_lanes=1, chunk_bits=32, max_layers=8)
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


def test_signed_ranges() -> None:
    assert signed_range(8) == (-128, 127)
    assert signed_range(2) == (-2, 1)
