"""Tests of the compiler: programs compute their network, memory regions do not overlap, and a
network that does not fit is refused with a reason.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hw.protocol import Descriptor, Space, descriptor_rows, n_bytes, row_bytes
from hw.spec import GRANULE_BITS, N_PLANES, PIECE_BITS, Config, Gate
from sw.compile.compiler import N_INPUTS, compile_network
from sw.compile.levels import Level, Strides, increments
from sw.compile.program import PIXELS, FitError, Placement, Program
from sw.network.encoder import InputError, encode, rounded
from sw.network.network import INPUT, Layer, Network
from tests.networks import random_network
from tests.sw.walk import Walk, descriptors, params_of, rows_of, walk, weights_of

CONFIG = Config(weight_depth=1 << 17, param_depth=1 << 13, spike_bytes=1 << 15)
"""Configuration whose memories hold every network of these tests."""
BUILDS = (
    CONFIG,
    replace(CONFIG, lanes=8, chunk_bits=32, fire_lanes=4, membrane_slots=8),
    replace(CONFIG, lanes=32, fire_lanes=2, param_depth=1 << 15, result_rows=32, membrane_slots=32),
    replace(
        CONFIG, chunk_bits=32, fire_lanes=1, param_depth=1 << 15, result_rows=32, membrane_slots=4
    ),
    replace(CONFIG, lanes=64, fire_lanes=16, membrane_slots=8),
)


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


def index_of(place: Placement) -> NDArray[np.int64]:
    """Return the bit address in spike memory of each spike (t, c, y, x) of a map."""
    t, c, y, x = np.indices((place.timesteps, *place.shape))
    return place.base + t * place.plane + y * place.row + x * place.pixel + c


def job_positions(
    layer: Layer, done: Walk, program: Program, places: dict[str, Placement]
) -> dict[str, NDArray[np.int64]]:
    """Return timestep, row, column and channel group of every job, as arrays t, y, x and g.

    They are derived from the job's target address and its position in the pooling window. ``done``
    has the jobs of the layer, and ``places`` has the places of all maps in spike memory.
    """
    fields, config = done.fields, program.config
    n_groups = -(-layer.n_out // config.lanes)
    if layer.output:
        rows, rest = np.divmod(fields["target"], config.fire_beats)
        assert (rest == 0).all() and done.header.target == 0
        zero = np.zeros_like(rows)
        return {"t": zero, "y": zero, "x": zero, "g": rows}
    place = places[layer.name]
    assert not any(n % GRANULE_BITS for n in (place.base, place.plane, place.row, place.pixel)), (
        "the device writes whole granules"
    )
    t = fields["time"] - (N_PLANES if done.header.pixels else 0)
    height, width = place.shape[1:]
    y, x, g = np.indices((height, width, n_groups)).reshape(3, -1)
    granules = (place.base + y * place.row + x * place.pixel + g * config.lanes) // GRANULE_BITS
    order = np.argsort(granules)
    wanted = (fields["target"] - t * (place.plane // GRANULE_BITS)) % config.spike_bytes
    found = order[np.searchsorted(granules[order], wanted).clip(max=len(order) - 1)]
    assert (granules[found] == wanted).all(), "spikes go where no position of the map is"
    n_children = layer.pool[0] * layer.pool[1]
    child = np.arange(len(done)) % n_children
    assert (fields["pool_first"] == (child == 0)).all()
    assert (fields["pool_last"] == (child == n_children - 1)).all()
    starts = np.arange(len(done)) - child
    for values in (found, t):
        assert (values == values[starts]).all(), "children of one pooling window are apart"
    child_y, child_x = np.divmod(child, layer.pool[1])
    return {
        "t": t,
        "y": y[found] * layer.pool[0] + child_y,
        "x": x[found] * layer.pool[1] + child_x,
        "g": g[found],
    }


def weights_of_map(layer: Layer, n: int) -> Layer:
    """Return the layer with only the weights of map ``n``, counted among the maps that it reads."""
    if not layer.stacked:
        return layer
    n_in = layer.weight.shape[4] // len(layer.sources)
    return replace(layer, weight=layer.weight[:, :, :, :, n * n_in : (n + 1) * n_in])


def direct_reads(
    layer: Layer, place: Placement, at: dict[str, NDArray[np.int64]], lanes: int, pixels: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Return which inputs each job must read, and their weights, computed from the layer itself.

    Inputs in the padding are left out. The result has three arrays with an element per read: the
    index of the job, the bit address of the input in spike memory, and the weights (lanes,).

    Parameters
    ----------
    place : place in spike memory of the map that the layer reads.
    at : position of each job, from :func:`job_positions`.
    pixels : whether the map holds the bit-planes of an image.
    """
    n_t, n_y, n_x, n_out, n_in, n_ky, n_kx = layer.weight.shape
    n_groups = -(-n_out // lanes)
    weight = np.zeros((n_t, n_y, n_x, n_groups * lanes, n_in, n_ky, n_kx), np.int8)
    weight[:, :, :, :n_out] = layer.weight
    weight = np.moveaxis(weight.reshape(n_t, n_y, n_x, n_groups, lanes, n_in, n_ky, n_kx), 4, -1)
    job = np.arange(len(at["t"]))
    t = at["t"]
    if layer.output:
        job, t = (v.reshape(-1) for v in np.meshgrid(job, np.arange(place.timesteps)))
    source_t = t + N_PLANES if pixels else t
    job, t, source_t = (
        v[(source_t >= 0) & (source_t < place.timesteps)] for v in (job, t, source_t)
    )
    y, x, g = (at[name][job] for name in "yxg")
    job, t, source_t, y, x, g = (v[:, None, None, None] for v in (job, t, source_t, y, x, g))
    c, ky, kx = np.indices((n_in, *layer.kernel))[:, None]
    in_y = y * layer.stride[0] - layer.padding[0] + ky
    in_x = x * layer.stride[1] - layer.padding[1] + kx
    height, width = place.shape[1:]
    inside = (in_y >= 0) & (in_y < height) & (in_x >= 0) & (in_x < width)
    job, t, source_t, y, x, g, c, ky, kx, in_y, in_x = (
        np.broadcast_to(v, inside.shape)[inside]
        for v in (job, t, source_t, y, x, g, c, ky, kx, in_y, in_x)
    )
    bits = index_of(place)[source_t, c, in_y, in_x]
    rows = weight[
        *(i if n > 1 else 0 * i for i, n in zip((t, y, x), (n_t, n_y, n_x), strict=True)),
        g,
        c,
        ky if n_ky > 1 else 0 * ky,
        kx if n_kx > 1 else 0 * kx,
    ]
    return job, bits, rows


def check_sums(program: Program, layer: Layer, done: Walk, places: dict[str, Placement]) -> None:
    """Check that each job reads exactly the inputs of its window, with the right weights, and that
    the jobs have the right parameters, targets, membranes and flags.

    ``done`` has the jobs of the layer, and ``places`` has the places of all maps in spike memory.
    """
    config = program.config
    at = job_positions(layer, done, program, places)
    place = places[layer.source]
    pixels = bool(done.header.pixels)
    parts = [
        direct_reads(weights_of_map(layer, n), places[name], at, config.lanes, pixels)
        for n, name in enumerate(layer.sources)
    ]
    job, bits, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    n_bits = 8 * config.spike_bytes
    owner = np.full(n_bits, -1)
    for n, other in enumerate(places.values()):
        owner[index_of(other)] = n
    own = [list(places).index(name) for name in layer.sources]
    read_owner = owner[done.reads[:, 1]]
    assert set(read_owner.tolist()) <= {*own, -1}, "another map's spikes are read"
    real = done.reads[np.isin(read_owner, own)]
    order, wanted_order = (
        np.argsort(jobs * n_bits + addresses, kind="stable")
        for jobs, addresses in ((real[:, 0], real[:, 1]), (job, bits))
    )
    assert np.array_equal(real[order, 0], job[wanted_order])
    assert np.array_equal(real[order, 1], bits[wanted_order])
    assert np.array_equal(weights_of(program)[real[order, 2]], weights[wanted_order])

    # Every neuron is computed once per timestep, with its own parameters, identity and membrane.
    n_out, height, width = layer.conv_shape(place.shape)
    height, width = (n // p * p for n, p in zip((height, width), layer.pool, strict=True))
    n_groups = -(-n_out // config.lanes)
    n_times = 1 if layer.output else places[layer.name].timesteps
    n_times += N_PLANES if done.header.pixels else 0
    keys = np.stack([at[name] for name in "tyxg"])
    assert len(np.unique(keys, axis=1).T) == len(done) == n_times * height * width * n_groups
    fields, header = done.fields, done.header
    tail = at["g"] == n_groups - 1
    tail_lanes = n_out - (n_groups - 1) * config.lanes
    assert (fields["tail"] == tail).all() and header.tail_lanes == tail_lanes
    n_beats = header.last_beat + 1
    assert n_beats <= config.fire_beats
    assert n_beats * config.fire_lanes >= (config.lanes if n_groups > 1 else tail_lanes)
    assert header.spacing >= n_beats

    threshold = layer.threshold
    if threshold is None:
        threshold = np.ones((1, 1, n_out), np.int32)
    chosen = np.flatnonzero(at["t"] >= 0)  # bit-planes take no parameters

    def pick(values: NDArray[Any], *axes: str) -> NDArray[np.int64]:
        index = (
            at[a][chosen] if n > 1 else np.zeros(len(chosen), np.int64)
            for a, n in zip(axes, values.shape, strict=False)
        )
        padded = np.full((*values.shape[:-1], n_groups * config.lanes), int(values is threshold))
        padded[..., :n_out] = values
        by_group = padded.reshape(*values.shape[:-1], n_groups, config.lanes)
        return by_group[*index, at["g"][chosen]][:, : n_beats * config.fire_lanes]

    rows = params_of(program)[fields["param"][chosen, None] + np.arange(n_beats)]
    neurons = rows.reshape(len(chosen), -1, 2)
    assert np.array_equal(neurons[..., 0], pick(layer.bias, "t", "y", "x"))
    assert np.array_equal(neurons[..., 1], pick(threshold, "y", "x"))
    if layer.identity is not None:
        granules = index_of(places[layer.identity])[:, 0]
        wanted = granules[at["t"], at["y"], at["x"]] + at["g"] * config.lanes
        assert np.array_equal(fields["identity"] * GRANULE_BITS, wanted)
    if layer.output:
        assert header.n_classes == n_out and header.output and header.final
        assert fields["fresh"].all()
        return
    assert not header.output and not header.final
    shifts = (header.leak_shift, header.leak_shift2, header.leak_shift3)
    assert header.leak == layer.leak
    assert shifts == (*layer.leak_shifts, 0, 0)[:3]
    assert (header.reset, header.gate) == (layer.reset, layer.gate)
    assert (fields["fresh"] == (fields["time"] == 0)).all()
    for slot in np.unique(fields["slot"]):
        turns = np.flatnonzero(fields["slot"] == slot).reshape(-1, n_times)
        assert (fields["time"][turns] == np.arange(n_times)).all()
        for name in "yxg":
            assert (at[name][turns] == at[name][turns[:, :1]]).all(), "two neurons share a slot"
        assert (np.diff(turns, axis=1) * header.spacing >= config.membrane_latency).all()
    written = np.flatnonzero(fields["pool_last"] & (at["t"] >= 0))
    own_place = places[layer.name]
    for g in range(n_groups):
        n_real = tail_lanes if g == n_groups - 1 else config.lanes
        first = fields["target"][written[at["g"][written] == g]] * GRANULE_BITS
        assert first.min() >= own_place.start
        assert first.max() + -(-n_real // GRANULE_BITS) * GRANULE_BITS <= (
            own_place.start + own_place.n_bits
        )


def moved(program: Program, buffers: set[int]) -> dict[str, Placement]:
    """Return the places of the maps that have a different place in spike memory for each buffer.

    These are the input map, and the maps that are read together with it. ``buffers`` are the
    numbers of the input buffers; a key of the result names the buffer and the map.
    """
    return {
        f"buffer {n}: {name}": program.places(n)[name] for n in buffers for name in program.moved
    }


def check_program(network: Network, program: Program) -> list[Walk]:
    """Check that a program computes every layer right from every input buffer; return the jobs of
    its layers.
    """
    layers = network.layers
    if program.pixels:
        assert network.encoder is not None
        layers = (replace(network.encoder, source=PIXELS, name=INPUT), *layers)
    first = next(iter(program.placements))
    walks = []
    for buffer, place in enumerate(program.inputs):
        places = program.places(buffer)
        assert places[first] == place and first in program.moved
        others = moved(program, {*range(len(program.inputs))} - {buffer})
        found = descriptors(program, buffer)
        assert len(found) == len(layers)
        for n, (layer, descriptor) in enumerate(zip(layers, found, strict=True)):
            if buffer and not {layer.name, layer.identity, *layer.sources} & {*program.moved}:
                assert descriptor.as_bits() == descriptors(program, 0)[n].as_bits()
                continue
            done = walk(descriptor, program.config)
            assert bool(descriptor.header.pixels) == (program.pixels and n == 0)
            check_sums(program, layer, done, places | others)
            walks.append(done)
    return walks


def short_run_networks() -> list[Network]:
    """Return networks whose input has few channels and is read by kernels of several rows.

    Some inputs are also read by a layer with another kernel, or only by a classifier.
    """
    networks = []
    for n, (channels, kernel, width) in enumerate(
        [
            (1, (3, 3), 8),
            (1, (3, 3), 9),
            (1, (5, 5), 7),
            (2, (3, 3), 5),
            (2, (2, 3), 16),
            (3, (3, 3), 11),
            (3, (4, 2), 6),
            (1, (6, 1), 4),
            (1, (7, 7), 10),
            (1, (3, 9), 13),
            (1, (3, 10), 13),
            (4, (3, 2), 8),
        ]
    ):
        rng = np.random.default_rng(n)
        shape = (channels, int(rng.integers(7, 11)), width)
        shared = n in (1, 8)  # all rows of the kernel have the same weights
        layer = conv((1, 1, 1, 9, channels, 1 if shared else kernel[0], kernel[1]), kernel=1)
        padding = (int(rng.integers(3)), int(rng.integers(2)))
        stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        layer = replace(layer, kernel=kernel, padding=padding, stride=stride)
        layers = [layer]
        if n % 3 == 1:
            layers.append(replace(conv((1, 1, 1, 4, channels, 1, 1), 1), name="other"))
        if n % 4 == 2:
            weight = rng.integers(-8, 8, (1, 1, 1, 10, channels, *shape[1:])).astype(np.int8)
            layers.append(replace(classifier(INPUT, shape), weight=weight))
        else:
            layers.append(classifier("conv", layer.map_shape(shape)))
        networks.append(replace(network(layer, shape, 2), layers=tuple(layers)))
    return networks


def pixel_network(seed: int) -> Network:
    """Return a network with an encoder of random kernel, stride, padding and pooling."""
    return random_network(1000 + seed, encoder=True, n_layers=2, weight_bits=8)


@pytest.mark.parametrize("seed", range(40))
def test_descriptors_add_up_to_the_convolution(seed: int) -> None:
    """Check that the jobs described by the layers' descriptors compute random networks.

    The networks have all kinds of weight sharing, strides, paddings, poolings and gates. They are
    compiled for several configurations.
    """
    net = random_network(seed)
    check_program(net, compile_network(net, BUILDS[seed % len(BUILDS)]))


@pytest.mark.parametrize("build", [0, 1, 3])
def test_short_runs_add_up_to_the_convolution(build: int) -> None:
    n_rows = []
    for net in short_run_networks():
        walks = check_program(net, compile_network(net, BUILDS[build]))
        header = walks[0].header
        used = [k for k in range(4) if header.body_bits[k]]
        gathers = any(header.piece_weights[k] != PIECE_BITS * k for k in used)
        n_rows.append(len(used) if gathers else 1)
    assert max(n_rows) == (2 if BUILDS[build].chunk_bits == 32 else 4), "no chunk of several rows"
    assert 1 in n_rows, "a kernel row that is no short run"


@pytest.mark.parametrize("seed", range(12))
def test_pixels_add_up_to_the_encoder(seed: int) -> None:
    net = pixel_network(seed)
    program = compile_network(net, BUILDS[seed % len(BUILDS)], pixels=True)
    assert program.pixels and program.layers[0].n_plane_steps == N_PLANES
    check_program(net, program)


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("taps", [(5, 7), (1, 7), (5, 1), (1, 1)])
def test_fully_connected_layers_are_one_run(timesteps: int, taps: tuple[int, int]) -> None:
    """Check that classifiers with all kinds of weight sharing compute the right sums.

    One whose weights differ at every position must read the whole map as one sequence of full
    chunks.
    """
    rng = np.random.default_rng(0)
    weight = rng.integers(-8, 8, (timesteps, 1, 1, 10, 16, *taps)).astype(np.int8)
    net = network(conv((1, 1, 1, 16, 3, 1, 1), kernel=1), (3, 5, 7), timesteps)
    layers = (net.layers[0], replace(net.layers[1], weight=weight))
    net = replace(net, layers=layers)
    program = compile_network(net, CONFIG)
    check_program(net, program)
    if taps != (5, 7):
        return
    counts = program.layers[1].counts
    assert counts[0] == -(-16 * 5 * 7 // CONFIG.chunk_bits)
    assert np.prod(counts) == counts[0] * timesteps


def test_networks_here_use_what_there_is() -> None:
    """Check that the random networks of these tests contain every kind of layer."""
    kinds = set()
    for seed in range(40):
        for layer in random_network(seed).layers:
            t, y, x, _, _, ky, kx = layer.weight.shape
            kinds |= {
                f"weights of own {what}" for what, n in zip("tyx", (t, y, x), strict=True) if n > 1
            }
            kinds |= {"strided"} if max(layer.stride) > 1 else set()
            kinds |= {"pooled"} if max(layer.pool) > 1 else set()
            kinds |= {"padded"} if max(layer.padding) > 0 and not layer.output else set()
            kinds |= {"padded output"} if max(layer.padding) > 0 and layer.output else set()
            kinds |= {"gated"} if layer.gate != Gate.NONE else set()
            kinds |= {"shared kernel column"} if kx < layer.kernel[1] else set()
            kinds |= {"shared kernel row"} if ky < layer.kernel[0] else set()
            kinds |= {"groups"} if layer.n_out > 16 else set()
    assert len(kinds) == 11, kinds


@pytest.mark.parametrize("seed", range(6))
def test_inputs_are_packed_as_the_network_has_them(seed: int) -> None:
    """Check that both input buffers hold the packed sample: spikes unchanged, or the bit-planes of
    an image whose pixels are rounded to the encoder's width.
    """
    net = pixel_network(seed)
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, net.image_shape).astype(np.uint8)
    for pixels in (False, True):
        program = compile_network(net, CONFIG, pixels=pixels)
        assert program.pixels == pixels
        sample = image if pixels else encode(net, image[None])[0]
        assert len(program.inputs) == N_INPUTS
        assert program.inputs[0] == next(iter(program.placements.values()))
        for buffer, place in enumerate(program.inputs):
            raw = program.pack_input(image if pixels else sample, buffer)
            assert len(raw) * 8 == place.n_bits
            maps = place.unpack(raw)
            if pixels:
                maps = (maps * (128 >> np.arange(N_PLANES))[:, None, None, None]).sum(axis=0)
                sample = rounded(image, net.pixel_bits)
            assert np.array_equal(maps, sample)
        end = max(p.start + p.n_bits for p in program.placements.values())
        for place in program.inputs[1:]:
            assert place.start >= end
            end = place.start + place.n_bits
        assert end <= 8 * program.spike_bytes


def test_there_are_as_many_input_buffers_as_fit() -> None:
    """Check programs for devices whose spike memory or weight memory lacks room for one buffer
    more than the program has. A program with a single buffer needs no spare room."""
    net = network(conv((1, 1, 1, 16, 16, 3, 3)))
    most = compile_network(net, CONFIG)
    assert len(most.inputs) == len(most.entries) == N_INPUTS
    buffer_bytes = most.inputs[1].n_rows
    buffer_rows = len(net.layers) * descriptor_rows(CONFIG)
    n_rows = most.usage()["weight"][0]
    for n in range(N_INPUTS - 1, 0, -1):
        n_less = N_INPUTS - n
        spike_bytes = -(-(most.spike_bytes - n_less * buffer_bytes) // 8) * 8
        short_of_rows = replace(CONFIG, weight_depth=n_rows - n_less * buffer_rows)
        for config in (replace(CONFIG, spike_bytes=spike_bytes), short_of_rows):
            program = compile_network(net, config)
            assert len(program.inputs) == len(program.entries) == n
            check_program(net, program)
    with pytest.raises(FitError, match=f"weight needs {n_rows - (N_INPUTS - 1) * buffer_rows} of"):
        compile_network(
            net, replace(CONFIG, weight_depth=n_rows - (N_INPUTS - 1) * buffer_rows - 1)
        )


def test_an_encoder_that_the_device_cannot_compute_is_the_hosts() -> None:
    net = replace(pixel_network(0), pixel_bits=8)
    assert compile_network(net, CONFIG, pixels=True).pixels
    assert not compile_network(net, CONFIG, pixels=False).pixels
    assert not compile_network(net, replace(CONFIG, pixels=False), pixels=True).pixels
    assert not compile_network(
        net, replace(CONFIG, membrane_bits=17, sum_bits=17), pixels=True
    ).pixels
    assert net.encoder is not None
    loud = replace(net, encoder=replace(net.encoder, bias=net.encoder.bias + 40_000))
    assert not compile_network(loud, CONFIG, pixels=True).pixels
    low = replace(net.encoder, bias=net.encoder.bias - 40_000)
    assert not compile_network(replace(net, encoder=low), CONFIG, pixels=True).pixels


def test_jobs_take_turns() -> None:
    """Check that jobs of different neurons are interleaved, so that none waits for a membrane.

    With enough columns, rows or channel groups to interleave, the compiler lets jobs start in
    consecutive cycles. A single job per timestep, or few membrane slots, need larger distances.
    """
    for shape, n_out in (((16, 7, 7), 16), ((16, 7, 5), 16), ((16, 1, 1), 112), ((16, 2, 4), 16)):
        kernel = min(3, shape[1])
        net = network(conv((1, 1, 1, n_out, 16, kernel, kernel), kernel), shape)
        header = descriptors(compile_network(net, CONFIG), 0)[0].header
        assert header.spacing == 1, shape
    few = network(conv((1, 1, 1, 16, 16, 1, 1), 1), (16, 1, 1))
    assert descriptors(compile_network(few, CONFIG), 0)[0].header.spacing == CONFIG.membrane_latency
    slots = replace(CONFIG, membrane_slots=2)
    net = network(conv((1, 1, 1, 16, 16, 3, 3)), (16, 8, 8))
    spacing = -(-CONFIG.membrane_latency // 2)
    assert descriptors(compile_network(net, slots), 0)[0].header.spacing == spacing


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_maps_lie_apart_and_keep_their_spikes(seed: int, pixels: bool) -> None:
    net = random_network(seed)
    program = compile_network(net, BUILDS[seed % len(BUILDS)], pixels=pixels)
    rng = np.random.default_rng(seed)
    taken = np.zeros(8 * program.spike_bytes, bool)
    places = program.placements | moved(program, {*range(1, len(program.inputs))})
    for name, place in places.items():
        assert place.start % GRANULE_BITS == 0
        region = slice(place.start, place.start + place.n_bits)
        assert not taken[region].any(), f"{name} overlaps another map"
        taken[region] = True
        spikes = (rng.random((place.timesteps, *place.shape)) < 0.5).astype(np.uint8)
        raw = place.pack(spikes)
        assert (place.unpack(raw) == spikes).all()
        assert np.unpackbits(np.frombuffer(raw, np.uint8)).sum() == spikes.sum()
    assert taken.all(), "spike memory counted that no map uses"


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_lie_lane_by_lane(bits: int) -> None:
    config = Config(weight_bits=bits, weight_depth=4096)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    layer = conv((1, 1, 1, 12, 5, 3, 3))
    weight = np.clip(layer.weight, low, high)
    net = replace(network(replace(layer, weight=weight), (5, 8, 8)), weight_bits=bits)
    image = compile_network(net, config).images[Space.WEIGHT]
    size = row_bytes(Space.WEIGHT, config)
    for row, (ky, kx, c) in enumerate(np.ndindex(3, 3, 5)):
        word = int.from_bytes(image[row * size : (row + 1) * size], "little")
        for lane in range(16):
            field = word >> lane * bits & ((1 << bits) - 1)
            value = field - (1 << bits) if field >> (bits - 1) else field
            assert value == (weight[0, 0, 0, lane, c, ky, kx] if lane < 12 else 0)


@pytest.mark.parametrize("t", [1, 4])
@pytest.mark.parametrize("y", [1, 8])
@pytest.mark.parametrize("x", [1, 8])
def test_what_is_shared_is_stored_once(t: int, y: int, x: int) -> None:
    net = network(conv((t, y, x, 32, 16, 3, 3)))
    program = compile_network(net, CONFIG)
    assert program.layers[0].weight_rows == t * y * x * 2 * 9 * 16
    check_program(net, program)


def test_pooling_that_drops_a_column_drops_its_weights() -> None:
    layer = conv((1, 7, 7, 16, 16, 3, 3), pool=(2, 2))
    net = network(layer, (16, 7, 7))
    program = compile_network(net, CONFIG)
    assert program.layers[0].weight_rows == 6 * 6 * 9 * 16
    check_program(net, program)


def test_descriptors_follow_the_weights() -> None:
    program = compile_network(network(conv((1, 1, 1, 16, 16, 3, 3))), CONFIG)
    n_weights = sum(plan.weight_rows for plan in program.layers)
    per_run = 2 * descriptor_rows(CONFIG)
    assert program.entries == tuple(n_weights + n * per_run for n in range(N_INPUTS))
    rows = rows_of(program, Space.WEIGHT)
    assert len(rows) == n_weights + N_INPUTS * per_run
    assert descriptor_rows(CONFIG) == -(-n_bytes(Descriptor) // 16)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (replace(CONFIG, weight_depth=100), {}, r"weight needs \d+ of 100"),
        (replace(CONFIG, spike_bytes=512), {}, r"spike needs \d+ of 512"),
        (replace(CONFIG, param_depth=256, max_layers=16), {}, r"param needs 401 of 192"),
        (replace(CONFIG, max_layers=2, result_rows=2), {"n_out": 40}, r"result needs 3 of 2"),
        (replace(CONFIG, weight_bits=4), {}, r"8-bit weights, the device 4-bit.*--bits 4"),
        (CONFIG, {"threshold": 40_000}, r"'conv'.*threshold.*16 bits"),
        (
            replace(CONFIG, membrane_bits=16, sum_bits=16),
            {"bias": np.full((1, 1, 1, 16), 32_767, np.int32)},
            r"layer 'conv' needs membranes of \d+ bits, 'sim' has 16",
        ),
        (
            replace(CONFIG, banks=2, sum_bits=9),
            {},
            r"layer 'fc' needs sums of 13 bits in a bank, 'sim' has 9; quantise",
        ),
        (replace(CONFIG, membrane_slots=2), {"pool": (2, 2)}, r"4 membrane slots.* has 2"),
    ],
)
def test_what_does_not_fit_is_said(config: Config, options: dict, message: str) -> None:
    options = dict(options)
    if "threshold" in options:
        options["threshold"] = np.full((1, 1, 16), options["threshold"], np.int32)
    n_classes = options.pop("n_out", 10)
    if "param" in message:
        options["bias"] = np.zeros((4, 10, 10, 16), np.int32)
    layer = conv((1, 1, 1, 16, 16, 3, 3), **options)
    net = network(layer, (16, 10, 10))
    fc = net.layers[1]
    fc = replace(
        fc,
        weight=np.ones((1, 1, 1, n_classes, *fc.weight.shape[4:]), np.int8),
        bias=np.zeros((1, 1, 1, n_classes), np.int32),
    )
    net = replace(net, layers=(layer, fc), labels=tuple(map(str, range(n_classes))))
    with pytest.raises(FitError, match=message):
        compile_network(net, config)


@pytest.mark.parametrize(
    ("config", "layer", "shape", "message"),
    [
        (
            CONFIG,
            conv((1, 1, 1, 32, 80, 3, 1), pool=(2, 2)),
            (80, 10, 10),
            "layer 'conv' needs more than the 8 loop levels of the device; drop its pooling",
        ),
        (
            replace(CONFIG, count_bits=3),
            conv((1, 1, 1, 16, 16, 3, 3)),
            (16, 9, 4),
            "layer 'conv' needs a loop of 9 iterations; the device's loops have at most 8",
        ),
        (
            replace(CONFIG, fire_lanes=1, param_depth=1 << 17, result_rows=32),
            conv((1, 1, 1, 16, 16, 3, 3), bias=np.zeros((4, 3, 400, 16), np.int32)),
            (16, 3, 400),
            r"layer 'fc' is too large for the device's addresses \(param 76800 does not fit its",
        ),
    ],
)
def test_layers_that_the_device_cannot_loop_over_or_reach_are_said(
    config: Config, layer: Layer, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        compile_network(network(layer, shape), config)


def test_samples_of_another_shape_are_refused() -> None:
    program = compile_network(network(conv((1, 1, 1, 16, 16, 3, 3))), CONFIG)
    with pytest.raises(InputError, match=r"uint8 and shape \(4, 16, 8, 8\), not uint8 \(1, 2\)$"):
        program.pack_input(np.zeros((1, 2), np.uint8))
    with pytest.raises(ValueError, match=r"spikes have shape \(1, 2\), the map is \(4, 16, 8, 8\)"):
        program.inputs[0].pack(np.zeros((1, 2), np.uint8))
    with pytest.raises(InputError, match=r"spikes of 0 and 1, the largest value is 2$"):
        program.pack_input(np.full((4, 16, 8, 8), 2, np.uint8))
    with pytest.raises(InputError, match=r"not float32 \(4, 16, 8, 8\)$"):
        program.pack_input(np.zeros((4, 16, 8, 8), np.float32))  # type: ignore[arg-type]
    pixels = replace(program, pixels=True)
    with pytest.raises(InputError, match=r"an image of type uint8 and shape \(16, 8, .*\(1, 2\)"):
        pixels.pack_input(np.zeros((1, 2), np.uint8))
    with pytest.raises(InputError, match=r"not float64 \(16, 8, 8\)$"):
        pixels.pack_input(np.zeros((16, 8, 8)))  # type: ignore[arg-type]


def test_too_many_layers_are_said() -> None:
    config = replace(CONFIG, max_layers=2)
    first = conv((1, 1, 1, 16, 16, 3, 3))
    net = network(first)
    layers = (first, replace(first, name="conv2"), net.layers[1])
    compile_network(net, config)
    with pytest.raises(FitError, match="layers needs 3 of 2") as failed:
        compile_network(replace(net, layers=layers), config)
    assert failed.value.needs == {"layers": (3, 2)}


@pytest.mark.parametrize("build", BUILDS)
def test_a_program_says_what_it_takes(build: Config) -> None:
    program = compile_network(network(conv((1, 1, 1, 8, 8, 3, 3)), (8, 8, 8)), build)
    usage = program.usage()
    assert set(usage) == {"weight", "param", "spike"}
    assert all(0 < used <= available for used, available in usage.values())
    n_rows = sum(plan.weight_rows for plan in program.layers)
    n_rows += len(program.inputs) * 2 * descriptor_rows(build)
    assert usage["weight"] == (n_rows, build.weight_depth)
    assert usage["param"][1] == build.n_param_rows


def test_addresses_after_timesteps_without_inputs() -> None:
    """Check the addresses of bit-planes if the loops of a job do not advance in the timesteps after
    them."""
    strides = (2, 10, 7, 100, 1000)
    counts = (3, 2, 4, 3, 2)  # loop in the job, interleaved jobs, timesteps, two loops around them
    levels = [
        Level(count=n, strides=Strides(weight=s), in_job=i == 0, is_time=i == 2)
        for i, (n, s) in enumerate(zip(counts, strides, strict=True))
    ]
    n_direct = 3
    moves = [move.weight for move in increments(levels, n_direct)]
    index, address, n_planes = [0] * len(counts), 0, 0
    while True:
        is_plane = index[2] < counts[2] - n_direct
        if is_plane:
            n_planes += 1
            assert address == sum(i * s for i, s in zip(index, strides, strict=True))
        at_end = [
            i == n - 1 or (level.in_job and not is_plane)
            for i, n, level in zip(index, counts, levels, strict=True)
        ]
        if all(at_end):
            break
        moving = at_end.index(False)
        index[: moving + 1] = [*[0] * moving, index[moving] + 1]
        address += moves[moving]
    assert n_planes == 3 * 2 * 3 * 2
