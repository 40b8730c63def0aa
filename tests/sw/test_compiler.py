"""The compiler: what it stores, where, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from hw.boards import config_by_name
from hw.protocol import DESCRIPTOR_WORDS, Descriptor, Space, row_bytes, unpack
from hw.spec import GRANULE_BITS, Config, Gate
from sw.compiler import FitError, compile_network
from sw.network import INPUT, Layer, Network
from tests.networks import random_network

CONFIG = Config(weight_depth=1 << 17, param_depth=1 << 13, spike_bytes=1 << 15)


def conv(weight_shape: tuple[int, ...], kernel: int = 3, **options) -> Layer:
    rng = np.random.default_rng(0)
    n_out = weight_shape[3]
    return Layer(
        **{
            "name": "conv",
            "source": INPUT,
            "kernel": (kernel, kernel),
            "padding": (kernel // 2, kernel // 2),
            "weight": rng.integers(-8, 8, weight_shape).astype(np.int8),
            "bias": np.zeros((1, 1, 1, n_out), np.int32),
            "threshold": np.full((1, 1, n_out), 9, np.int32),
        }
        | options
    )


def classifier(source: str, shape: tuple[int, int, int], weight_kernel=(1, 1)) -> Layer:
    channels, height, width = shape
    return Layer(
        name="fc",
        source=source,
        kernel=(height, width),
        weight=np.ones((1, 1, 1, 10, channels, *weight_kernel), np.int8),
        bias=np.zeros((1, 1, 1, 10), np.int32),
        output=True,
    )


def network(layer: Layer, shape=(16, 8, 8), timesteps: int = 4) -> Network:
    return Network(
        timesteps=timesteps,
        image_shape=shape,
        encoder=None,
        layers=(layer, classifier("conv", layer.map_shape(shape))),
        weight_bits=8,
        labels=tuple("0123456789"),
    )


@pytest.mark.parametrize("t", [1, 4])
@pytest.mark.parametrize("y", [1, 8])
@pytest.mark.parametrize("x", [1, 8])
def test_sharing_is_a_stride_of_zero(t: int, y: int, x: int) -> None:
    """Stored rows are what is not shared, and a shared axis moves the weight address by nothing."""
    program = compile_network(network(conv((t, y, x, 32, 16, 3, 3))), CONFIG)
    plan = program.layers[0]
    assert plan.weight_rows == t * y * x * 2 * 9 * 16
    descriptor = unpack(Descriptor, program.images[Space.PROGRAM][: 4 * DESCRIPTOR_WORDS])
    levels = [descriptor.levels[i] for i in range(8)]
    counts = [level.last + 1 for level in levels]
    assert counts == list(plan.counts)
    # Undo the increments: the stride of level l is its increment plus the span of all inner ones.
    strides, span = [], 0
    for level, count in zip(levels, counts, strict=True):
        strides.append(level.weight + span)
        span += (count - 1) * strides[-1]
    # chunk, kernel row, interleaved x, timestep, group, x, y
    assert counts == [1, 3, 2, 4, 2, 4, 8, 1]
    per_job, per_t = 9 * 16, 9 * 16 * (1 if t == 1 else 4)
    per_x = 2 * per_t
    per_y = per_x * x
    assert strides[1] == 48
    assert strides[2] == (per_x if x > 1 else 0)
    assert strides[3] == (per_job if t > 1 else 0)
    assert strides[4] == per_t
    assert strides[5] == (2 * per_x if x > 1 else 0)
    assert strides[6] == (per_y if y > 1 else 0)


@pytest.mark.parametrize("seed", range(20))
def test_maps_lie_apart_and_keep_their_spikes(seed: int) -> None:
    net = random_network(seed)
    program = compile_network(net, CONFIG)
    rng = np.random.default_rng(seed)
    taken = np.zeros(8 * program.spike_bytes, bool)
    for name, place in program.placements.items():
        assert place.start % GRANULE_BITS == 0
        region = slice(place.start, place.start + place.n_bits)
        assert not taken[region].any(), f"{name} overlaps another map"
        taken[region] = True
        spikes = (rng.random((net.timesteps, *place.shape)) < 0.5).astype(np.uint8)
        raw = place.pack(spikes)
        assert (place.unpack(raw) == spikes).all()
        assert np.unpackbits(np.frombuffer(raw, np.uint8)).sum() == spikes.sum()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_lie_lane_by_lane(bits: int) -> None:
    config = Config(weight_bits=bits, weight_depth=4096)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    layer = conv((1, 1, 1, 12, 5, 3, 3))
    weight = np.clip(layer.weight, low, high)
    net = replace(network(replace(layer, weight=weight), (5, 8, 8)), weight_bits=8)
    net = replace(net, weight_bits=bits)
    image = compile_network(net, config).images[Space.WEIGHT]
    size = row_bytes(Space.WEIGHT, config)
    for row, (ky, kx, c) in enumerate(np.ndindex(3, 3, 5)):
        word = int.from_bytes(image[row * size : (row + 1) * size], "little")
        for lane in range(16):
            field = word >> lane * bits & ((1 << bits) - 1)
            value = field - (1 << bits) if field >> (bits - 1) else field
            assert value == (weight[0, 0, 0, lane, c, ky, kx] if lane < 12 else 0)


def test_pooling_that_drops_a_column_drops_its_weights() -> None:
    layer = conv((1, 7, 7, 16, 16, 3, 3), pool=(2, 2))
    program = compile_network(network(layer, (16, 7, 7)), CONFIG)
    assert program.layers[0].weight_rows == 6 * 6 * 9 * 16


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (replace(CONFIG, weight_depth=100), {}, r"weight needs 160 of 100"),
        (replace(CONFIG, spike_bytes=512), {}, r"spike needs \d+ of 512"),
        (replace(CONFIG, max_layers=2, program_words=64), {}, r"program needs 80 of 64"),
        (replace(CONFIG, weight_bits=4), {}, r"8-bit weights, the device 4-bit.*--bits 4"),
        (replace(CONFIG, param_bits=8), {"threshold": 200}, r"'conv'.*threshold.*8 bits"),
        (
            replace(CONFIG, membrane_bits=8, param_bits=8),
            {},
            r"layer 'conv' needs membranes of \d+ bits, 'sim' has 8",
        ),
        (replace(CONFIG, membrane_slots=2), {"pool": (2, 2)}, r"4 membrane slots of 2"),
    ],
)
def test_what_does_not_fit_is_said(config: Config, options: dict, message: str) -> None:
    if "threshold" in options:
        options = {"threshold": np.full((1, 1, 16), options["threshold"], np.int32)}
    layer = conv((1, 1, 1, 16, 16, 3, 3), **options)
    with pytest.raises(FitError, match=message):
        compile_network(network(layer), config)


def test_a_gate_reads_its_identity_map() -> None:
    first = conv((1, 1, 1, 16, 16, 3, 3))
    second = replace(first, name="conv2", source="conv", gate=Gate.OR, identity=INPUT)
    net = network(first)
    net = replace(net, layers=(first, second, classifier("conv2", (16, 8, 8))))
    program = compile_network(net, CONFIG)
    raw = program.images[Space.PROGRAM][4 * DESCRIPTOR_WORDS : 8 * DESCRIPTOR_WORDS]
    header = unpack(Descriptor, raw).header
    assert header.gate == Gate.OR
    assert header.identity == program.placements[INPUT].base


@pytest.mark.parametrize("board", ["sim", "ulx3s-85f", "icebreaker/w2"])
def test_a_program_says_what_it_takes(board: str) -> None:
    config = config_by_name(board)
    layer = conv((1, 1, 1, 8, 8, 3, 3))
    net = network(replace(layer, weight=np.clip(layer.weight, -2, 1)), (8, 8, 8))
    net = replace(net, weight_bits=2)
    program = compile_network(net, config)
    usage = program.usage()
    assert set(usage) == {"program", "weight", "param", "spike"}
    assert all(0 < used <= available for used, available in usage.values())
    assert usage["program"] == (2 * DESCRIPTOR_WORDS, config.program_words)
