"""Tests of the layouts of descriptors, of memory rows, and of the identity and its hash."""

from dataclasses import replace

import pytest
from amaranth.lib import data

from hw.boards.configs import CONFIGS
from hw.core.nest import address_widths, word_of
from hw.protocol import (
    DESCRIPTOR_WORDS,
    HEADER_WORDS,
    LEVEL_WORDS,
    N_PIECES,
    WORD_BYTES,
    Address,
    Descriptor,
    Header,
    Identity,
    LayerCounters,
    Level,
    Neuron,
    Result,
    Run,
    Space,
    descriptor_rows,
    identity,
    identity_bytes,
    identity_name,
    n_bytes,
    n_rows,
    pack,
    parse_identity,
    row_bytes,
    spec_hash,
    unpack,
)
from hw.spec import N_LEVELS, PARAM_BITS, Config, Gate, Leak, Reset

WORD_BITS = 8 * WORD_BYTES


@pytest.mark.parametrize("layout", [Header, Level])
def test_no_field_crosses_a_word(layout: type[data.Struct]) -> None:
    """Check that each field lies within one 32-bit word, because the gateware reads it from one
    word."""
    crossing = []
    for name, field in data.Layout.cast(layout):
        first, last = field.offset // WORD_BITS, (field.offset + field.width - 1) // WORD_BITS
        if first != last:
            crossing.append(name)
    assert not crossing
    assert data.Layout.cast(layout).size % WORD_BITS == 0


def test_a_descriptor_is_a_header_and_levels_of_whole_words() -> None:
    assert n_bytes(Header) == HEADER_WORDS * WORD_BYTES
    assert n_bytes(Level) == LEVEL_WORDS * WORD_BYTES
    assert DESCRIPTOR_WORDS == HEADER_WORDS + N_LEVELS * LEVEL_WORDS
    assert LEVEL_WORDS == 4, "the loader takes a level's number and its word from one counter"
    assert HEADER_WORDS < 16, "a header's word has a 4-bit number"
    assert data.Layout.cast(Descriptor)["levels"].offset == HEADER_WORDS * WORD_BITS


def test_every_address_fits_its_fields() -> None:
    """Check that the address fields of a descriptor are wide enough for the largest
    configuration."""
    config = Config(weight_depth=1 << 20, param_depth=1 << 16, spike_bytes=65536, membrane_slots=64)
    widths = address_widths(config)
    for name, width in widths.items():
        field = data.Layout.cast(Level)[name]
        assert field.width >= width
        if name != "slot":
            assert data.Layout.cast(Header)[name].width >= width
            place = word_of(Header, name)[1]
            assert place.stop - place.start == data.Layout.cast(Header)[name].width


@pytest.mark.parametrize(("enum", "field"), [(Gate, "gate"), (Leak, "leak"), (Reset, "reset")])
def test_neuron_options_fit_their_fields(enum, field) -> None:
    for member in enum:
        header = unpack(Header, pack(Header, {field: member}))
        assert getattr(header, field) == member


def test_packing_keeps_every_field() -> None:
    values = {
        "source": (1 << 20) - 1,
        "spacing": 255,
        "weight": 0xABCDE,
        "identity": 0x1234,
        "body_bits": [1, 2, 3, 4],
        "piece_weights": [255, 0, 128, 1],
        "n_levels": 8,
        "pixels": 1,
        "gate": Gate.XOR,
        "granule_rows": 3,
    }
    header = unpack(Header, pack(Header, values))
    for name, value in values.items():
        got = getattr(header, name)
        assert ([got[i] for i in range(N_PIECES)] if isinstance(value, list) else got) == value
    level = unpack(Level, pack(Level, {"source": -(1 << 19), "slot": -32, "weight": -1}))
    assert (level.source, level.slot, level.weight) == (-(1 << 19), -32, -1)
    with pytest.raises(ValueError, match="Level takes 16 bytes, not 3"):
        unpack(Level, b"abc")


@pytest.mark.parametrize("fire_lanes", [1, 2, 4, 16])
@pytest.mark.parametrize(("lanes", "weight_bits"), [(16, 8), (16, 2), (64, 4)])
def test_sizes_and_numbers_of_rows(fire_lanes: int, lanes: int, weight_bits: int) -> None:
    config = Config(lanes=lanes, weight_bits=weight_bits, fire_lanes=fire_lanes, param_depth=1024)
    assert row_bytes(Space.WEIGHT, config) * 8 == lanes * weight_bits
    assert row_bytes(Space.PARAM, config) == fire_lanes * 2 * PARAM_BITS // 8
    assert row_bytes(Space.RESULT, config) == row_bytes(Space.PARAM, config), "one memory"
    assert row_bytes(Space.COUNTER, config) <= row_bytes(Space.PARAM, config)
    assert descriptor_rows(config) * row_bytes(Space.WEIGHT, config) >= n_bytes(Descriptor)
    assert (descriptor_rows(config) - 1) * row_bytes(Space.WEIGHT, config) < n_bytes(Descriptor)
    counted = config.counter_rows * row_bytes(Space.COUNTER, config)
    assert counted >= n_bytes(LayerCounters)
    # Results and counters are stored behind the parameters, in two pages.
    used = n_rows(Space.RESULT, config) + n_rows(Space.COUNTER, config)
    assert used <= config.page_rows < 2 * used
    assert config.page_rows & (config.page_rows - 1) == 0
    assert n_rows(Space.PARAM, config) == config.param_depth - 2 * config.page_rows
    assert n_rows(Space.PARAM, config) % (2 * config.page_rows) == 0
    assert n_bytes(Neuron) == 4 and n_bytes(Result) == 8


@pytest.mark.parametrize("banks", [2, 8])
def test_spikes_and_weights_have_rows_in_all_banks(banks: int) -> None:
    one = Config(lanes=64, fire_lanes=8, param_depth=1024)
    config = replace(one, banks=banks)
    for space in Space:
        divided = space in (Space.WEIGHT, Space.SPIKE)
        assert n_rows(space, config) == n_rows(space, one) * (banks if divided else 1)
        assert row_bytes(space, config) == row_bytes(space, one)


def test_the_rows_of_the_largest_device_have_addresses() -> None:
    config = Config(lanes=64, banks=8, weight_depth=1 << 20, spike_bytes=65536)
    for layout, field in ((Address, "row"), (Run, "entry")):
        n_bits = data.Layout.cast(layout)[field].width
        assert max(n_rows(space, config) for space in Space) <= 1 << n_bits


def test_identity_holds_the_configuration() -> None:
    config = Config(lanes=64, banks=8, name="board")
    told = unpack(Identity, pack(Identity, identity(config)))
    for name in (
        "lanes",
        "chunk_bits",
        "weight_depth",
        "max_layers",
        "baud",
        "pixels",
        "banks",
        "sum_bits",
    ):
        assert getattr(told, name) == getattr(config, name)
    assert told.spec_hash == spec_hash(config)


def test_identity_holds_the_largest_configuration() -> None:
    config = Config(
        lanes=128,
        fire_lanes=128,
        banks=8,
        membrane_bits=32,
        sum_bits=32,
        membrane_slots=128,
        max_layers=255,
        weight_depth=1 << 20,
        param_depth=1 << 20,
        spike_bytes=65536,
        result_rows=255,
        sum_queue=255,
        rx_buffer_bytes=65535,
        max_payload_bytes=65534,
        clk_hz=(1 << 32) - 1,
        baud=(1 << 30) - 1,
        name="n" * 16,
    )
    outside = replace(
        config,
        weight_depth=1 << 19,
        param_depth=1 << 15,
        fire_lanes=16,
        offchip_depth=1 << 19,
        offchip_row_cycles=255,
    )
    for expected in (config, outside):
        told = parse_identity(identity_bytes(expected))
        assert told is not None
        values = {name: told[name] for name in vars(expected) if name != "name"}
        assert values == {n: value for n, value in vars(expected).items() if n != "name"}
        assert identity_name(told) == expected.name
    assert parse_identity(identity_bytes(outside)[:-1]) is None


def test_devices_without_an_extension_have_the_hash_of_older_releases() -> None:
    assert spec_hash(CONFIGS["ulx3s-85f"]) == 0xF5DA7A077B945175
    assert len(identity_bytes(CONFIGS["ulx3s-85f"])) == n_bytes(Identity)


def test_hash_depends_on_what_must_agree() -> None:
    config = Config()
    same = replace(config, name="other", clk_hz=60_000_000, baud=3_000_000)
    assert spec_hash(same) == spec_hash(config)
    others = [
        replace(config, lanes=32),
        replace(config, banks=2),
        replace(config, sum_bits=16),
        replace(config, max_layers=16),
        replace(config, pixels=False),
        replace(config, param_depth=1024),
        replace(config, membrane_slots=8),
    ]
    assert len({spec_hash(c) for c in (config, *others)}) == 1 + len(others)
