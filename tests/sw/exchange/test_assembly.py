"""Tests of the folding of imported graphs into layers.

The folded network is compared with the graph's steps, computed one after another in torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hw.boards.configs import CONFIGS
from hw.spec import PARAM_BITS, Gate, Leak, Reset, after_spike
from sw.compile.compiler import compile_network
from sw.convert.folded import FoldedNetwork, simulate
from sw.exchange import graph, integers, neurons
from sw.exchange.assembly import assemble
from sw.exchange.graph import (
    AdaptivePool,
    Add,
    Connect,
    Convolve,
    ExchangeError,
    FireNode,
    Flatten,
    Join,
    Node,
    Normalise,
    Pool,
    Scale,
    Source,
)
from sw.exchange.integers import as_integers
from sw.network import reference
from sw.network.network import IMAGE, INPUT, conv_size

T = 4
SHAPE = (2, 9, 8)
FRAMES = Source(timesteps=T, image_shape=SHAPE, pixel_max=None)
IMAGES = Source(timesteps=T, image_shape=SHAPE)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def chain(*steps: Any) -> list[Node]:
    """Return a graph's nodes n0, n1, ..., each of which applies one step to the result of the last.

    A step is an operation of :mod:`sw.exchange.graph`, such as ``Convolve``.
    """
    names = [IMAGE, *(f"n{i}" for i in range(len(steps)))]
    return [Node(name=names[i + 1], step=step, sources=(names[i],)) for i, step in enumerate(steps)]


def fire(threshold: Any = 1.0, **changes: Any) -> FireNode:
    return FireNode(threshold=np.asarray(threshold, np.float64), strict=False, **changes)


def conv(n_out: int, n_in: int, kernel: int = 3, seed: int = 0, **changes: Any) -> Convolve:
    generator = np.random.default_rng(seed)
    weight = generator.normal(0, 0.5, (n_out, n_in, kernel, kernel))
    return Convolve(weight=weight, bias=generator.normal(0, 0.2, n_out), **changes)


def connect(n_out: int, n_in: int) -> Connect:
    generator = np.random.default_rng(n_in)
    return Connect(
        weight=generator.normal(0, 0.5, (n_out, n_in)), bias=generator.normal(0, 1, n_out)
    )


def naive(nodes: list[Node], source: Source, images: np.ndarray) -> np.ndarray:
    """Run the nodes in torch, one after another and timestep by timestep.

    Return the last node's output, averaged over the timesteps.
    """
    membranes: dict[str, Tensor] = {}
    total = torch.zeros(())
    for t in range(source.timesteps):
        if source.pixel_max is None:
            x = torch.from_numpy(images[:, t]).double()
        else:
            x = torch.from_numpy(images).double() * source.pixel_max / 255
        values = {IMAGE: x}
        for node in nodes:
            inputs = [values[s] for s in node.sources]
            values[node.name] = naive_step(node, inputs, membranes)
        total = total + values[nodes[-1].name]
    return (total / source.timesteps).numpy().reshape(len(images), -1)


def naive_step(node: Node, inputs: list[Tensor], membranes: dict[str, Tensor]) -> Tensor:
    step, x = node.step, sum(inputs[1:], inputs[0])
    assert isinstance(x, Tensor)
    if isinstance(step, Convolve):
        weight, bias = torch.from_numpy(step.weight), step.bias
        bias = None if bias is None else torch.from_numpy(bias)
        return F.conv2d(x, weight, bias, step.stride, step.padding)
    if isinstance(step, Connect):
        bias = 0 if step.bias is None else torch.from_numpy(step.bias)
        return (x.flatten(1) @ torch.from_numpy(step.weight).T + bias)[:, :, None, None]
    if isinstance(step, Normalise):
        gain, shift = (torch.from_numpy(v)[:, None, None] for v in (step.gain, step.shift))
        return x * gain + shift
    if isinstance(step, Scale):
        return x * torch.from_numpy(step.factor)
    if isinstance(step, AdaptivePool):
        height, width = (n or None for n in step.output)
        pool = F.adaptive_max_pool2d if step.kind == "max" else F.adaptive_avg_pool2d
        result = pool(x, (height, width))
        assert isinstance(result, Tensor)
        return result
    if isinstance(step, Pool):
        sizes = (step.kernel, step.stride, step.padding)
        if step.kind == "max":
            return F.max_pool2d(x, *sizes, ceil_mode=step.ceil)
        divisor = 1 if step.kind == "sum" else step.divisor
        return F.avg_pool2d(x, *sizes, step.ceil, True, divisor)
    if isinstance(step, Flatten | Add):
        return x
    if isinstance(step, Join):
        s, o = inputs[0].bool(), inputs[1].bool()
        joined = {Gate.AND: s & o, Gate.OR: s | o, Gate.XOR: s ^ o, Gate.IAND: o & ~s}[step.gate]
        return joined.double()
    threshold = torch.from_numpy(np.asarray(step.threshold))
    if threshold.ndim == 1:
        threshold = threshold[:, None, None]
    kept = {
        Leak.NONE: 1.0,
        Leak.SUBTRACT: 1 - 2.0**-step.leak_shift,
        Leak.KEEP: 2.0**-step.leak_shift,
    }
    before = membranes.get(node.name, torch.zeros_like(x))
    v = before * kept[step.leak] + x
    if step.reset == Reset.DELAYED:
        v = v - threshold * (before > threshold if step.strict else before >= threshold)
    spikes = v > threshold if step.strict else v >= threshold
    after = after_spike(v, threshold, step.reset)
    membranes[node.name] = torch.where(spikes, after, v)
    return spikes.double()


def frames(n: int = 6) -> np.ndarray:
    return (rng().random((n, T, *SHAPE)) < 0.3).astype(np.uint8)


def images(n: int = 6) -> np.ndarray:
    brightness = np.linspace(0, 1, n)[:, None, None, None]
    return (brightness * rng().integers(0, 256, (n, *SHAPE))).astype(np.uint8)


def check(nodes: list[Node], source: Source) -> FoldedNetwork:
    """Check that the folded network has the same logits as the nodes; return the folded network."""
    given = some(source)
    folded = assemble(nodes, source, {}).folded
    expected = naive(nodes, source, given)
    np.testing.assert_allclose(simulate(folded, given).logits, expected, atol=1e-9)
    assert np.ptp(expected, axis=0).max() > 0, "the answers must depend on the images"
    return folded


def pooling(kind: str, height: int, width: int, *stride: int) -> Pool:
    return Pool(kind=kind, kernel=(height, width), stride=stride or (height, width))  # type: ignore[arg-type]


def stem(*steps: Any) -> list[Node]:
    return chain(conv(3, 2, padding=(1, 1)), fire(), *steps)


def two(name: str, step: Any, *sources: str) -> Node:
    return Node(name=name, step=step, sources=sources)


def some(source: Source) -> np.ndarray:
    """Return random frames or images that a network of this source takes as input."""
    return frames() if source.pixel_max is None else images()


TAIL = (Flatten(), connect(5, 3 * 9 * 8))
TALL = (Flatten(), connect(5, 4 * 3 * 2))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reset", list(Reset))
@pytest.mark.parametrize("leak", list(Leak))
def test_neurons(leak: Leak, reset: Reset, strict: bool) -> None:
    neuron = fire(0.75, leak=leak, leak_shift=0 if leak == Leak.NONE else 2, reset=reset)
    check(chain(conv(3, 2, padding=(1, 1)), replace(neuron, strict=strict), *TAIL), FRAMES)


@pytest.mark.parametrize("source", [FRAMES, IMAGES], ids=["frames", "images"])
def test_stem_batch_norm_and_or_pooling(source: Source) -> None:
    norm = Normalise(gain=rng().uniform(0.5, 2, 3), shift=rng().normal(0, 0.3, 3))
    pool = pooling("max", 2, 2)
    steps = (conv(3, 2, padding=(1, 1)), norm, fire(), pool, conv(4, 3), fire(), Flatten())
    folded = check(chain(*steps, connect(5, 16)), source)
    assert (folded.encoder is None) == (source.pixel_max is None)
    assert (folded.encoder or folded.layers[0]).pool == (2, 2)


def test_a_pixel_of_255_is_what_the_source_says() -> None:
    nodes = chain(conv(3, 2, padding=(1, 1)), fire(60.0), *TAIL)
    check(nodes, replace(IMAGES, pixel_max=255.0))


@pytest.mark.parametrize("kind", ["average", "sum"])
@pytest.mark.parametrize(
    ("pool", "after"),
    [
        (pooling("", 2, 2), (conv(4, 3), fire(), Flatten(), connect(5, 16))),
        (pooling("", 3, 2), (conv(4, 3, padding=(1, 1)), fire(), Flatten(), connect(5, 48))),
        (pooling("", 3, 3, 2, 1), (conv(4, 3, stride=(2, 2)), fire(), Flatten(), connect(5, 8))),
        (pooling("", 9, 8), (Flatten(), connect(5, 3))),
        (pooling("", 2, 2), (Flatten(), connect(5, 48))),
        (pooling("", 4, 4), (fire(0.4), Flatten(), connect(5, 12))),
        (pooling("", 3, 3, 2, 2), (conv(4, 3, padding=(1, 1)), fire(), Flatten(), connect(5, 48))),
        (pooling("", 2, 3), (conv(4, 3, stride=(2, 1), padding=(2, 1)), fire(), *TALL)),
        (
            replace(pooling("", 3, 3), padding=(1, 1)),
            (conv(4, 3), fire(), Flatten(), connect(5, 4)),
        ),
        (replace(pooling("", 3, 3, 2, 2), padding=(1, 1)), (Flatten(), connect(5, 60))),
        (
            replace(pooling("", 3, 3, 2, 2), padding=(1, 1)),
            (conv(4, 3, padding=(1, 1)), fire(), Flatten(), connect(5, 80)),
        ),
        (replace(pooling("", 2, 2), divisor=3), (Flatten(), connect(5, 48))),
        (pooling("", 2, 2), (pooling("average", 2, 2), Flatten(), connect(5, 12))),
        (pooling("", 3, 3, 2, 2), (pooling("sum", 2, 2, 1, 1), Flatten(), connect(5, 18))),
        (AdaptivePool(kind="average", output=(3, 2)), (Flatten(), connect(5, 18))),
        (AdaptivePool(kind="average", output=(1, 0)), (Flatten(), connect(5, 24))),
        # Windows of different sizes, which overlap, and a map that becomes larger.
        (AdaptivePool(kind="average", output=(7, 3)), (Flatten(), connect(5, 63))),
        (AdaptivePool(kind="average", output=(2, 11)), (connect(6, 66), fire(), connect(5, 6))),
    ],
)
def test_linear_pooling_folds_into_what_follows(pool: Pool, after: tuple, kind: str) -> None:
    if isinstance(pool, Pool):
        pool = replace(pool, kind=kind)
    check(chain(conv(3, 2, padding=(1, 1)), fire(), pool, *after), FRAMES)


@pytest.mark.parametrize("kind", ["average", "sum"])
@pytest.mark.parametrize(
    "pool",
    [
        pooling("", 2, 2),
        pooling("", 3, 2, 2, 1),
        pooling("", 9, 8),
        replace(pooling("", 3, 4), divisor=5),
    ],
)
@pytest.mark.parametrize("source", [FRAMES, IMAGES], ids=["frames", "images"])
def test_pooling_before_neurons_folds_into_the_weights_before_it(
    pool: Pool, source: Source, kind: str
) -> None:
    size = conv_size(SHAPE[1:], pool.kernel, pool.stride)
    level = 0.3 * (np.prod(pool.kernel) if kind == "sum" else 1)
    norm = Normalise(gain=rng().uniform(0.5, 2, 3), shift=rng().normal(0, 0.3, 3))
    steps = (conv(3, 2, padding=(1, 1)), replace(pool, kind=kind), norm, fire(level), Flatten())
    folded = check(chain(*steps, connect(5, 3 * int(np.prod(size)))), source)
    assert len(folded.layers) == 2 - (folded.encoder is not None)
    strided = (conv(3, 2, stride=(2, 1)), pooling(kind, 2, 2), fire(0.3), Flatten(), connect(5, 18))
    check(chain(*strided), source)


def test_weights_that_follow_weights_are_one_layer() -> None:
    """Check that weighted steps without neurons between them are folded into one layer.

    These are a depthwise and a pointwise convolution, and two fully connected steps.
    """
    depthwise = Convolve(
        weight=graph.plain_kernel(rng().normal(0, 0.6, (3, 1, 3, 3)), 3, (1, 1)),
        bias=rng().normal(0, 0.1, 3),
        padding=(1, 1),
        stride=(2, 1),
    )
    norm = Normalise(gain=rng().uniform(0.5, 2, 3), shift=rng().normal(0, 0.3, 3))
    steps = (conv(3, 2, padding=(1, 1)), fire(), depthwise, norm, conv(4, 3, 1), conv(4, 4, 2))
    steps += (fire(0.4), Flatten(), connect(7, 112), connect(5, 7))
    folded = check(chain(*steps), FRAMES)
    assert [x.kernel for x in folded.layers] == [(3, 3), (5, 4), (4, 7)]
    assert [x.stride for x in folded.layers] == [(1, 1), (2, 1), (1, 1)]


def test_classes_can_be_means_of_sums() -> None:
    """Check that averaging one map per class can be the output, as in an all-convolutional
    network.
    """
    steps = (conv(3, 2, padding=(1, 1)), fire(), conv(5, 3), pooling("average", 7, 6), Flatten())
    folded = check(chain(*steps), FRAMES)
    assert len(folded.layers) == 2 and folded.layers[-1].output


@pytest.mark.parametrize("source", [FRAMES, IMAGES], ids=["frames", "images"])
@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (replace(pooling("max", 3, 3, 2, 2), padding=(1, 1)), 20),
        (pooling("max", 2, 3, 1, 2), 24),
        (replace(pooling("max", 2, 2), padding=(1, 1)), 25),
    ],
)
def test_overlapping_max_pooling_is_a_layer_of_ors(pool: Pool, size: int, source: Source) -> None:
    steps = (conv(3, 2, padding=(1, 1)), fire(), pool, Flatten(), connect(5, 3 * size))
    folded = check(chain(*steps), source)
    ors = folded.layers[-2]
    assert (ors.name, ors.weight.size, ors.kernel) == ("n2", 9, pool.kernel)
    trace = reference.run(integers.quantised(assemble(chain(*steps), source, {}), 8), some(source))
    spikes = trace.spikes
    before = torch.from_numpy(spikes[ors.source]).flatten(0, 1).double()
    pooled = F.max_pool2d(before, pool.kernel, pool.stride, pool.padding)
    np.testing.assert_array_equal(spikes["n2"].reshape(pooled.shape), pooled.numpy())
    assert 0 < pooled.mean() < 1, "some windows must be empty"


def test_calibration_changes_no_layer_of_ors() -> None:
    steps = (conv(3, 2, padding=(1, 1)), fire(), pooling("max", 3, 3, 2, 2), Flatten())
    imported = assemble(chain(*steps, connect(5, 36)), FRAMES, {})
    network = integers.quantised(imported, 4, calibration=frames(20))
    ors = network.layers[1]
    assert ors.threshold is not None and (ors.threshold == 1).all() and not ors.bias.any()
    np.testing.assert_array_equal(ors.weight.reshape(3, 3), np.eye(3))
    assert network.layers[0].bias.any()


def test_max_pooling_of_what_cannot_take_it_is_a_layer_of_ors() -> None:
    """Check that max pooling becomes a layer of its own where no layer can take it over.

    This is so for input frames, for spikes that are pooled already, and for spikes that another
    node reads unpooled. Each neuron of that layer computes the OR of a window.
    """
    check(chain(pooling("max", 2, 2), conv(3, 2), fire(), Flatten(), connect(5, 12)), FRAMES)
    twice = (conv(3, 2, padding=(1, 1)), fire(), pooling("max", 2, 2), pooling("max", 2, 2))
    check(chain(*twice, Flatten(), connect(5, 12)), FRAMES)
    nodes = [*stem(pooling("max", 2, 2)), two("q", conv(3, 3, padding=(1, 1)), "n1")]
    nodes += [two("f", fire(), "q"), two("p", pooling("max", 2, 2), "f")]
    nodes += [two("join", Join(gate=Gate.XOR), "n2", "p"), two("fc", connect(5, 48), "join")]
    folded = check(nodes, FRAMES)
    assert [x.name for x in folded.layers] == ["n0", "q", "n2", "fc"]
    assert [x.pool for x in folded.layers[:3]] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("gate", [g for g in Gate if g != Gate.NONE])
@pytest.mark.parametrize("through", ["n1", "flat"])
def test_a_gate_of_spikes_that_others_read_takes_a_copy(gate: Gate, through: str) -> None:
    """Check that a gate leaves its input spikes unchanged for other nodes that read them.

    In one case, the gate reads the spikes through a Flatten node.
    """
    nodes = [*stem(), two("flat", Flatten(), "n1")]
    nodes += [two("c", conv(3, 3, padding=(1, 1), seed=3), "n1"), two("d", fire(0.5), "c")]
    nodes += [two("join", Join(gate=gate), through, "d"), two("again", conv(3, 3, 1), "d")]
    nodes += [two("e", fire(0.4), "again"), two("last", Join(gate=Gate.OR), "e", "join")]
    nodes += [two("more", Join(gate=Gate.XOR), through, "last")]
    check([*nodes, two("fc", connect(5, 216), "more")], FRAMES)


def test_a_convolution_that_two_nodes_read() -> None:
    nodes = [*stem(), two("c", conv(3, 3, padding=(1, 1)), "n1"), two("a", fire(0.5), "c")]
    nodes += [two("b", fire(1.5), "c"), two("join", Join(gate=Gate.XOR), "a", "b")]
    check([*nodes, two("fc", connect(5, 216), "join")], FRAMES)


@pytest.mark.parametrize(("groups", "dilation"), [(1, (2, 1)), (3, (1, 1)), (3, (1, 2))])
def test_groups_and_dilation_become_weights_of_0(groups: int, dilation: tuple[int, int]) -> None:
    weight = rng().normal(0, 1, (6, 6 // groups, 3, 2))
    plain = graph.plain_kernel(weight, groups, dilation)
    x = torch.from_numpy(rng().normal(0, 1, (2, 6, 9, 8)))
    expected = F.conv2d(x, torch.from_numpy(weight), dilation=dilation, groups=groups)
    found = F.conv2d(x, torch.from_numpy(plain))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-12)


def test_a_mean_over_the_whole_map_has_one_weight_for_all_of_it() -> None:
    pool = pooling("average", 9, 8)
    steps = (conv(3, 2, padding=(1, 1)), fire(), pool, Flatten(), connect(5, 3))
    folded = check(chain(*steps), FRAMES)
    assert folded.layers[-1].weight.shape == (1, 1, 1, 5, 3, 1, 1)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 9, 8), (1, 9, 8)])
def test_scaling_before_and_behind_weights(shape: tuple[int, ...]) -> None:
    scale = Scale(factor=rng().uniform(0.5, 2, shape))
    by_channel = Scale(factor=rng().uniform(0.5, 2, (4, 1, 1)))
    steps = (conv(3, 2, padding=(1, 1)), fire(), scale, conv(4, 3, stride=(2, 1), padding=(1, 1)))
    folded = check(chain(*steps, by_channel, fire(), Flatten(), connect(5, 160)), FRAMES)
    assert (folded.layers[1].weight.shape[1:3] != (1, 1)) == (shape[1:] != (1, 1))


@pytest.mark.parametrize("gate", [g for g in Gate if g != Gate.NONE])
def test_gates(gate: Gate) -> None:
    """Check that a gate becomes part of the branch's layer if the shortcut has a layer of its own.

    The shortcut's layer must then come before the branch's layer, although the branch comes first
    in the list of nodes.
    """
    nodes = chain(conv(3, 2, padding=(1, 1)), fire())
    nodes += [
        Node(name="b1", step=conv(4, 3, padding=(1, 1), seed=1), sources=("n1",)),
        Node(name="b2", step=fire(), sources=("b1",)),
        Node(name="d1", step=conv(4, 3, 1, seed=2), sources=("n1",)),
        Node(name="d2", step=fire(), sources=("d1",)),
        Node(name="join", step=Join(gate=gate), sources=("b2", "d2")),
        Node(name="pool", step=pooling("max", 3, 2), sources=("join",)),
        Node(name="fc", step=connect(5, 48), sources=("pool",)),
    ]
    folded = check(nodes, FRAMES)
    branch = folded.layers[-2]
    assert (branch.name, branch.gate, branch.identity) == ("b1", gate, "d1")


def test_a_sum_that_one_spike_makes_fire_is_or() -> None:
    nodes = chain(conv(3, 2, padding=(1, 1)), fire())
    nodes += [
        Node(name="b1", step=conv(3, 3, padding=(1, 1), seed=1), sources=("n1",)),
        Node(name="b2", step=fire(), sources=("b1",)),
        Node(name="any", step=fire(0.5), sources=("n1", "b2")),
        Node(name="pool", step=pooling("average", 2, 2), sources=("any",)),
        Node(name="or", step=fire(0.25), sources=("pool",)),
        Node(name="fc", step=connect(5, 48), sources=("or",)),
    ]
    folded = check(nodes, FRAMES)
    assert (folded.layers[1].gate, folded.layers[1].identity) == (Gate.OR, "n0")
    assert folded.layers[1].pool == (2, 2) and len(folded.layers) == 3
    nodes[6] = replace(
        nodes[6], step=fire(0.26)
    )  # one spike does not suffice: this becomes a layer
    check(nodes, FRAMES)


def test_spikes_at_the_end_are_counted() -> None:
    folded = check(chain(conv(3, 2, padding=(1, 1)), fire(), *TAIL, fire(0.8)), FRAMES)
    assert folded.layers[-1].name == "count" and folded.layers[-1].output


def integer_nodes() -> tuple[list[Node], Source]:
    """Return an integer network in which many membranes equal their thresholds."""
    weight = rng().integers(-3, 4, (3, 2, 3, 3)).astype(np.float64)
    out = rng().integers(-5, 6, (5, 216)).astype(np.float64)
    steps = (Convolve(weight=weight, padding=(1, 1)), fire(3.0), Flatten(), Connect(weight=out))
    return chain(*steps), FRAMES


@pytest.mark.parametrize("strict", [False, True])
def test_integers_stay_what_they_are(strict: bool) -> None:
    nodes, source = integer_nodes()
    nodes[1] = replace(nodes[1], step=replace(fire(3.0), strict=strict))
    imported = assemble(nodes, source, {})
    network = integers.quantised(imported, 4)
    assert network.layers[0].threshold is not None
    assert int(network.layers[0].threshold[0, 0, 0]) == (4 if strict else 3)
    found = reference.run(network, frames())
    np.testing.assert_array_equal(found.logits, T * naive(nodes, source, frames()))
    others = assemble([nodes[0], replace(nodes[1], step=fire(3.0)), *nodes[2:]], source, {})
    other = reference.run(integers.quantised(others, 4), frames())
    assert np.array_equal(other.logits, found.logits) != strict, "ties must have been met"
    assert integers.as_integers(imported, 2, 16) is None, "3 does not fit 2 bits"
    assert integers.quantised(imported, 2).weight_bits == 2


def test_what_is_no_integer_is_quantised() -> None:
    nodes = chain(conv(3, 2, padding=(1, 1)), fire(), *TAIL)
    imported = assemble(nodes, FRAMES, {})
    assert integers.as_integers(imported, 8, 16) is None
    found = reference.run(integers.quantised(imported, 8), frames(40)).predictions
    expected = naive(nodes, FRAMES, frames(40)).argmax(axis=1)
    assert (found == expected).mean() > 0.8
    leaky = [nodes[0], replace(nodes[1], step=fire(leak=Leak.SUBTRACT, leak_shift=1)), *nodes[2:]]
    assert integers.as_integers(assemble(leaky, FRAMES, {}), 8, 16) is None


def test_wide_integers_of_a_stem_stay_what_they_are() -> None:
    """Check that a first layer with integers too wide for the device is not rounded.

    The host computes this layer, with biases of up to 32 bits.
    """
    weight = rng().integers(-3, 4, (3, 2, 3, 3)).astype(np.float64)
    bias = np.array([-70_000.0, 5.0, 70_000.0])
    out = rng().integers(-5, 6, (5, 216)).astype(np.float64)
    source = replace(IMAGES, pixel_max=255.0)
    nodes = chain(
        Convolve(weight=weight, bias=bias, padding=(1, 1)),
        fire(90_000.0),
        Flatten(),
        Connect(weight=out),
    )
    network = as_integers(assemble(nodes, source, {}), 4, PARAM_BITS)
    assert network is not None and network.encoder is not None
    assert network.encoder.bias.ravel().tolist() == bias.tolist()
    found = reference.run(network, images())
    np.testing.assert_array_equal(found.logits, T * naive(nodes, source, images()))
    assert found.n_spikes[INPUT].any(), "the stem must fire for the test to say something"
    config = replace(CONFIGS["sim"], weight_bits=4, weight_depth=1 << 14)
    assert not compile_network(network, config).pixels


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "the graph has no nodes"),
        (stem(conv(4, 5)), "node 'n2': it takes 5 channels, but the map before it has 3"),
        (stem(Flatten(), connect(5, 7)), "it takes 7 inputs, but the map (3, 9, 8)"),
        (stem(conv(4, 3, 11)), "node 'n2': its kernel (11, 11) is larger than the map"),
        (stem(conv(4, 3), conv(4, 4, padding=(1, 1))), "node 'n3': padding of sums: put neurons"),
        (stem(conv(4, 3), conv(4, 5)), "node 'n3': it takes 5 channels, but the map before it"),
        (stem(conv(4, 3), fire(0.0)), "node 'n3': its threshold is not above its reset"),
        (stem(conv(4, 3), fire(np.inf)), "node 'n3': 1 numbers of its threshold are not finite"),
        (stem(Convolve(weight=np.full((4, 3, 1, 1), np.nan))), "12 numbers of its weight are not"),
        (stem(conv(4, 3)), "node 'n2': the output is a map (4, 7, 6); classes need"),
        (stem(), "node 'n1': the output is a map (3, 9, 8); classes need"),
        (
            stem(pooling("sum", 2, 2), replace(pooling("sum", 2, 2), padding=(1, 1))),
            "pooling with padding follows another pooling",
        ),
        (
            stem(conv(4, 3), replace(pooling("sum", 2, 2), padding=(1, 1)), fire()),
            "padding of sums: put neurons before it",
        ),
        (
            stem(Scale(factor=rng().random(SHAPE[1:])), conv(4, 3), pooling("sum", 2, 2)),
            "the weights before it differ by position",
        ),
        (
            stem(pooling("sum", 2, 2), Scale(factor=rng().random((4, 4)))),
            "pooled spikes are scaled by position",
        ),
        (
            stem(AdaptivePool(kind="max", output=(2, 2))),
            "adaptive pooling of a map (3, 9, 8) to 2 x 2 has windows of different sizes",
        ),
        (
            stem(AdaptivePool(kind="average", output=(2, 2)), conv(4, 3, 1)),
            "the pooling before it has windows of different sizes: pool to a size that divides",
        ),
        (
            stem(AdaptivePool(kind="average", output=(2, 2)), pooling("sum", 2, 2)),
            "pooling follows one to windows of different sizes: pool once",
        ),
        (
            stem(pooling("sum", 2, 2), AdaptivePool(kind="average", output=(3, 3))),
            "pooling to windows of different sizes follows a pooling: pool once",
        ),
        (
            stem(replace(pooling("max", 2, 2), ceil=True)),
            "ceil_mode: windows (2, 2) with stride (2, 2) leave a rest of the map (3, 9, 8)",
        ),
        (stem(Normalise(gain=np.ones(3), shift=np.ones(3))), "batch-norm of spikes"),
        (
            stem(conv(4, 3), Normalise(gain=np.ones(3), shift=np.ones(3))),
            "its 3 channels do not match",
        ),
        (stem(conv(4, 3), Scale(factor=np.arange(42.0).reshape(1, 7, 6))), "sums are scaled by"),
        (stem(conv(4, 3), fire(np.ones((5, 1)))), "shape (5, 1) do not fit a map (4, 7, 6)"),
        (
            [*stem(), two("add", conv(4, 3), "n1", IMAGE)],
            "node 'add': it adds maps of different shapes: (3, 9, 8), (2, 9, 8)",
        ),
        (
            [*stem(), two("add", Add(), "n1", "n1"), two("j", Join(gate=Gate.OR), "n1", "add")],
            "node 'j': a sum of spikes comes before it (a gate joins spikes only); lead the sum",
        ),
        (
            [*stem(), two("add", Add(), "n1", "n1"), two("p", pooling("max", 2, 2), "add")],
            "node 'p': a sum of spikes comes before it (the maximum of sums is not linear",
        ),
        ([*stem(), two("j", Join(gate=Gate.OR), "n1", IMAGE)], "a map (3, 9, 8) cannot be joined"),
        ([*stem(), two("j", Join(gate=Gate.OR), "n1")], "branch and identity; it has 1"),
        (stem(pooling("average", 20, 20)), "node 'n2': its window (20, 20) is larger than the map"),
        (stem(pooling("max", 20, 20)), "node 'n2': its window (20, 20) is larger than the map"),
        (stem(pooling("sum", 2, 2), pooling("max", 2, 2)), "max pooling must follow neurons"),
        (
            stem(conv(4, 3), pooling("max", 2, 2)),
            "no neurons come before it (the maximum of sums is not linear: pool the spikes behind",
        ),
        (
            [
                *stem(),
                two("s", Scale(factor=np.full((), 2.0)), "n1"),
                two("j", Join(gate=Gate.OR), "s", "n1"),
            ],
            "node 'j': its inputs are scaled or pooled; a gate joins spikes",
        ),
        (
            [two("input", conv(3, 2), IMAGE), two("f", fire(), "input")],
            "node 'f': another layer is already named 'input'",
        ),
        ([two("a", Flatten(), IMAGE)], "node 'a': the network has no layer before its output"),
        (
            [
                *(two("a", Convolve(weight=np.ones((3, 2, 9, 8))), IMAGE), two("f", fire(), "a")),
                two("a", Convolve(weight=np.ones((2, 3, 1, 1))), "f"),
            ],
            "node 'a': another layer is already named 'a'",
        ),
    ],
)
def test_errors_name_the_node_and_what_is_wrong(nodes: list[Node], message: str) -> None:
    with pytest.raises(ExchangeError) as error:
        assemble(nodes, FRAMES, {})
    assert message in str(error.value)


def test_errors_of_the_stem() -> None:
    pool = pooling("max", 2, 2)
    twice = [*stem(), two("a", conv(4, 2), IMAGE), two("b", fire(), "a")]
    for nodes, message in (
        (chain(pool), "max pooling of the image"),
        (chain(Flatten(), connect(5, 144)), "no neurons between image and output"),
        (twice, "node 'b': a second layer reads the image"),
        (chain(Scale(factor=rng().random(SHAPE)), conv(3, 2), fire()), "from position to position"),
    ):
        with pytest.raises(ExchangeError) as error:
            assemble(nodes, IMAGES, {})
        assert message in str(error.value)


def test_leaks() -> None:
    assert neurons.leak_of(1.0) == (Leak.NONE, (0,))
    assert neurons.leak_of(0.5) == (Leak.SUBTRACT, (1,))
    assert neurons.leak_of(0.875) == (Leak.SUBTRACT, (3,))
    assert neurons.leak_of(0.25) == (Leak.KEEP, (2,))
    assert neurons.leak_of(0.90625) == (Leak.SUBTRACT, (3, 5))
    assert neurons.leak_of(0.6875) == (Leak.SUBTRACT, (1, 2, 4))
    assert neurons.leak_of(float(np.float32(1) - np.float32(1 / 3))) is None
    assert neurons.nearest_leak(0.9, 1) == (Leak.SUBTRACT, (3,))
    assert neurons.nearest_leak(0.9, 2) == (Leak.SUBTRACT, (3, 5))
    assert neurons.nearest_leak(0.9) == (Leak.SUBTRACT, (3, 5, 7))
    assert neurons.nearest_leak(0.3, 1) == (Leak.KEEP, (2,))
    assert neurons.nearest_leak(0.0, 1) == (Leak.KEEP, (15,))
    assert neurons.nearest_leak(1 - 2**-17) == (Leak.NONE, (0,))
    said = neurons.decay_error([2 / 3])
    assert "multiplied by 0.6667 at every timestep" in said
    assert "take the nearest, 0.6875, with --nearest-leak" in said
