"""Tests of imported graphs that add spike maps or weighted sums.

The folded network is compared with the graph's steps, computed one after another in torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hw.spec import Gate, Leak, Reset
from sw.compile.compiler import compile_network
from sw.convert.folded import FoldedNetwork
from sw.exchange.assembly import assemble
from sw.exchange.graph import Add, Convolve, ExchangeError, Flatten, Join, Node, Scale
from sw.exchange.integers import quantised
from sw.network import reference
from sw.network.network import IMAGE, INPUT
from tests.sw.compile.test_banks import build
from tests.sw.exchange.test_assembly import (
    FRAMES,
    IMAGES,
    check,
    connect,
    conv,
    fire,
    frames,
    pooling,
    some,
    stem,
    two,
)
from tests.sw.machine import Machine

SAME: Any = {"padding": (1, 1)}


def layers_of(folded: FoldedNetwork) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Return, for each layer, the maps that it reads, and whether each map has weights of its
    own.
    """
    return {layer.name: (layer.sources, layer.stacked) for layer in folded.layers}


def block(n: int, source: str, seed: int, channels: int = 3) -> list[Node]:
    """Return the nodes ``c{n}`` and ``s{n}``, a convolution that reads ``source``, and its
    neurons.
    """
    step = conv(channels, channels, seed=seed, **SAME)
    return [two(f"c{n}", step, source), two(f"s{n}", fire(), f"c{n}")]


def chain_of_sums() -> list[Node]:
    """Return the nodes of two residual blocks with added shortcuts, and a classifier after average
    pooling.
    """
    return [
        *stem(),
        *block(1, "n1", 1),
        two("a1", Add(), "n1", "s1"),
        *block(2, "a1", 2),
        two("a2", Add(), "a1", "s2"),
        two("pool", pooling("average", 3, 4), "a2"),
        two("flat", Flatten(), "pool"),
        two("fc", connect(5, 3 * 3 * 2), "flat"),
    ]


def check_on_device(nodes: list[Node], banks: int = 2) -> None:
    """Check that a compiled network computes the integer reference's spikes and logits."""
    network = quantised(assemble(nodes, FRAMES, {}), 8)
    given = frames(2)
    trace = reference.run(network, given)
    program = compile_network(network, build(banks))
    for buffer in range(len(program.inputs)):
        maps, logits = Machine(program).run(given[1], buffer)
        np.testing.assert_array_equal(logits, trace.logits[1])
        for name, spikes in maps.items():
            np.testing.assert_array_equal(spikes, trace.spikes[name][1], name)


@pytest.mark.parametrize("source", [FRAMES, IMAGES], ids=["frames", "images"])
def test_sums_of_spikes_are_maps_with_the_same_weights(source) -> None:
    folded = check(chain_of_sums(), source)
    first = "n0" if source is FRAMES else INPUT
    assert {name: reads for name, reads in layers_of(folded).items() if name != "n0"} == {
        "c1": ((first,), False),
        "c2": ((first, "c1"), False),
        "fc": ((first, "c1", "c2"), False),
    }
    if source is FRAMES:
        check_on_device(chain_of_sums())


def test_spikes_may_be_counted_and_fire_as_sums() -> None:
    """Check that neurons, or the output, can read a sum of spike maps directly, without weights.

    If the maps of a sum are scaled differently, each map has weights of its own in the folded
    layer.
    """
    nodes = [
        *stem(),
        *block(1, "n1", 1),
        two("n", fire(1.5, reset=Reset.SOFT, leak=Leak.SUBTRACT, leak_shift=1), "n1", "s1"),
        two("twice", Scale(factor=np.full((), 2.0)), "s1"),
        two("n2", fire(2.5), "n1", "twice", "n"),
        two("all", Add(), "n2", "n"),
        two("pool", pooling("sum", 9, 8), "all"),
    ]
    folded = check(nodes, FRAMES)
    assert layers_of(folded) == {
        "n0": ((INPUT,), False),
        "c1": (("n0",), False),
        "n": (("n0", "c1"), False),
        "n2": (("n0", "c1", "n"), True),
        "count": (("n2", "n"), False),
    }
    check_on_device(nodes)


def test_the_same_map_twice_has_double_weights() -> None:
    nodes = [*stem(), two("two", Add(), "n1", "n1"), two("c", conv(4, 3), "two"),
             two("s", fire(), "c"), two("fc", connect(5, 4 * 7 * 6), "s")]  # fmt: skip
    folded = check(nodes, FRAMES)
    assert layers_of(folded)["c"] == (("n0",), False)
    # A shortcut around a convolution of the same map is part of the kernel.
    nodes[2:4] = [two("c3", conv(3, 3, **SAME), "n1"), two("c", Add(), "c3", "n1")]
    nodes[-1] = two("fc", connect(5, 3 * 9 * 8), "s")
    folded = check(nodes, FRAMES)
    assert [layer.name for layer in folded.layers] == ["n0", "c3", "fc"]


SHORTCUTS = {
    "identity": (1, 3, []),
    "1x1": (1, 4, [conv(4, 3, 1, seed=5)]),
    "3x3, stride 2": (2, 4, [conv(4, 3, 3, seed=5, stride=(2, 2), **SAME)]),
    "1x1, stride 2, fewer channels": (2, 5, [conv(5, 3, 1, seed=5, stride=(2, 2))]),
    "average, then 1x1": (2, 4, [pooling("average", 1, 2, 2, 2), conv(4, 3, 1, seed=5)]),
    "more channels": (2, 2, [conv(2, 3, 1, seed=5, stride=(2, 2))]),
}


@pytest.mark.parametrize(("stride", "channels", "steps"), SHORTCUTS.values(), ids=SHORTCUTS)
def test_shortcuts_into_membranes(stride: int, channels: int, steps: list) -> None:
    """Check that a shortcut may be added to the weighted sums of a block's last convolution.

    If the shortcut has a stride or another number of channels, layers are added that copy the
    spikes that it reads.
    """
    nodes = [*stem(), two("c1", conv(channels, 3, seed=1, stride=(stride, stride), **SAME), "n1")]
    nodes += [two("s1", fire(0.5), "c1"), two("c2", conv(channels, channels, seed=2, **SAME), "s1")]
    before = "n1"
    for n, step in enumerate(steps):
        nodes.append(two(f"d{n}", step, before))
        before = f"d{n}"
    nodes += [two("sum", Add(), "c2", before), two("s2", fire(), "sum")]
    size = (9, 8) if stride == 1 else (5, 4)
    nodes.append(two("fc", connect(5, channels * size[0] * size[1]), "s2"))
    folded = check(nodes, FRAMES)
    copies = [layer for layer in folded.layers if ".copy" in layer.name]
    main = next(layer for layer in folded.layers if layer.name == "c2")
    assert main.stacked and len(main.sources) == 1 + max(1, len(copies))
    assert (not copies) == (stride == 1 and channels == 3)
    check_on_device(nodes)


def test_kernels_of_different_sizes_and_paddings() -> None:
    nodes = [*stem(), *block(1, "n1", 1)]
    nodes += [
        two("a", conv(4, 3, 3, seed=3, stride=(2, 2)), "n1"),
        two("b", conv(4, 3, 5, seed=4, stride=(2, 2), **SAME), "s1"),
        two("c", conv(4, 3, 3, seed=6, stride=(2, 2)), "s1"),
        two("s", fire(), "a", "b", "c"),
    ]
    nodes += [two("fc", connect(5, 4 * 4 * 3), "s")]
    folded = check(nodes, FRAMES)
    assert layers_of(folded)["b"] == (("c1", "n0"), True)
    assert folded.layers[-2].kernel == (5, 5) and folded.layers[-2].padding == (1, 1)
    check_on_device(nodes, 4)


def test_a_spike_of_two_maps_is_or_whoever_adds_them() -> None:
    """Check that neurons that fire for any spike of two added maps become an OR gate.

    A map that another node reads as well stays unchanged.
    """
    nodes = [*stem(), *block(1, "n1", 1), two("sum", Add(), "n1", "s1"), two("any", fire(), "sum"),
             two("fc", connect(5, 3 * 9 * 8), "any")]  # fmt: skip
    folded = check(nodes, FRAMES)
    assert [(layer.name, layer.gate) for layer in folded.layers[1:]] == [
        ("c1", Gate.OR),
        ("fc", Gate.NONE),
    ]
    nodes[-1] = two("c9", conv(3, 3, seed=9, **SAME), "sum")
    nodes += [two("s9", fire(), "c9"), two("j", Join(gate=Gate.AND), "s9", "any")]
    nodes.append(two("fc", connect(5, 3 * 9 * 8), "j"))
    folded = check(nodes, FRAMES)
    assert layers_of(folded)["c9"] == (("n0", "c1"), False)
    check_on_device(nodes)


def test_the_image_is_read_by_one_layer() -> None:
    nodes = [two("c", conv(3, 2, **SAME), IMAGE), two("s", fire(), "c")]
    nodes += [two("d", conv(3, 2, seed=1, **SAME), IMAGE), two("e", fire(), "d", "s")]
    with pytest.raises(ExchangeError, match="node 'e': it adds weights of the image to spikes"):
        assemble(nodes, IMAGES, {})
    # Two convolutions of the image are one, if they have the same stride.
    nodes = [two("c", conv(3, 2, **SAME), IMAGE), two("d", conv(3, 2, 1, seed=1), IMAGE)]
    nodes += [two("s", fire(), "c", "d"), two("fc", connect(5, 3 * 9 * 8), "s")]
    folded = check(nodes, IMAGES)
    assert folded.encoder is not None and folded.encoder.kernel == (3, 3)
    check(nodes, FRAMES)
    nodes[1] = two("d", conv(3, 2, 1, seed=1, stride=(2, 2)), IMAGE)
    with pytest.raises(ExchangeError, match="adds maps of different shapes"):
        assemble(nodes, IMAGES, {})


def test_extreme_copies() -> None:
    """Check that weights of 0 need no copies of spikes, and that too many copies are refused.

    A shortcut with a stride is imported with layers that copy its spikes. With a 7x7 kernel, it
    would need so many of them that one layer had to read 148 maps.
    """
    none = Convolve(weight=np.zeros((4, 3, 1, 1)), stride=(2, 2))
    nodes = [*stem(), two("c1", conv(4, 3, seed=1, stride=(2, 2), **SAME), "n1")]
    nodes += [two("s1", fire(0.5), "c1"), two("c2", conv(4, 4, **SAME), "s1")]
    nodes += [two("d", none, "n1"), two("s2", fire(), "c2", "d"), two("fc", connect(5, 80), "s2")]
    check(nodes, FRAMES)
    nodes = [*stem(), two("c1", conv(1, 3, 1, stride=(4, 4)), "n1"), two("s1", fire(), "c1")]
    nodes += [two("c2", conv(4, 1, 5, padding=(2, 2)), "s1")]
    nodes += [two("d", conv(4, 3, 7, padding=(3, 3), stride=(4, 4)), "n1")]
    nodes += [two("s2", fire(), "c2", "d"), two("fc", connect(5, 24), "s2")]
    with pytest.raises(ExchangeError, match="reads 148 maps, and a layer reads at most 64: put"):
        assemble(nodes, FRAMES, {})


def test_biases_and_norms_of_both_sums_count() -> None:
    shift = replace(conv(3, 3, 1, seed=8), bias=np.array([0.3, -0.2, 0.5]))
    nodes = [*stem(), *block(1, "n1", 1), two("d", shift, "s1"), two("e", conv(3, 3, **SAME), "n1")]
    nodes += [two("f", fire(0.7), "d", "e", "s1"), two("fc", connect(5, 3 * 9 * 8), "f")]
    check(nodes, FRAMES)
    assert some(FRAMES).any()
