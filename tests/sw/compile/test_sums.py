"""Tests of the placement of maps that layers read together, and of the loops that read them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hw.spec import N_LEVELS
from sw.compile import placement
from sw.compile.compiler import N_INPUTS, compile_network
from sw.compile.placement import series_of_maps
from sw.compile.program import FitError
from sw.network.network import INPUT, Layer, Network
from tests.sw.compile.test_banks import build, check, with_rates
from tests.sw.compile.test_compiler import CONFIG, classifier, conv

SHAPE = (8, 6, 6)


def reader(*names: str) -> Layer:
    return replace(conv((1, 1, 1, 8, 8, 3, 3)), source=names[0], addends=names[1:])


def residual(n_blocks: int, *, stacked: bool = False, pool: tuple[int, int] = (1, 1)) -> Network:
    """Return a network of residual blocks, each of which adds its shortcut to its output.

    The shortcut of the first block is the input. The last layer before the classifier reads the sum
    and has the pooling ``pool``. If ``stacked``, layers have weights of their own for each map of a
    sum that they read.
    """
    layers: list[Layer] = []
    names = [INPUT]
    for n in range(n_blocks):
        n_in = SHAPE[0] * (len(names) if stacked else 1)
        layer = replace(conv((1, 1, 1, 8, n_in, 3, 3), name=f"c{n}"), addends=tuple(names[1:]))
        layers.append(replace(layer, stacked=stacked and n > 0))
        names.append(layer.name)
    n_in = SHAPE[0] * (len(names) if stacked else 1)
    last = replace(conv((1, 1, 1, 8, n_in, 3, 3), name="last"), addends=tuple(names[1:]), pool=pool)
    layers.append(replace(last, stacked=stacked))
    layers.append(classifier("last", last.map_shape(SHAPE)))
    return Network(
        timesteps=2,
        image_shape=SHAPE,
        encoder=None,
        layers=tuple(layers),
        weight_bits=8,
        labels=tuple("0123456789"),
    )


def full_nest() -> Network:
    """Return a network with a layer that needs one loop more than the device has.

    It fits only because a loop over a single chunk can be left out.
    """
    net = residual(1)
    wide = conv((1, 1, 1, 40, 8, 3, 3), name="last", pool=(2, 2), addends=("c0",))
    layers = (net.layers[0], wide, classifier("last", (40, 3, 3)))
    return replace(net, layers=layers, weight_bits=4)


@pytest.mark.parametrize(
    ("reads", "rows"),
    [
        ([("a",), ("b",)], [("a",), ("b",), ("c",), ("d",)]),
        ([("a", "b"), ("a", "b", "c")], [("a", "b", "c"), ("d",)]),
        ([("d", "a")], [("a", "d"), ("b",), ("c",)]),
        # A pair always lies at an equal distance, of one or more regions.
        ([("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")], [("a", "b", "c", "d")]),
        ([("a", "b", "d"), ("b", "d", "c")], [("a", "b", "d", "c")]),
        ([("a", "c"), ("b", "d")], [("a", "c"), ("b", "d")]),
    ],
)
def test_maps_that_are_read_together_lie_side_by_side(
    reads: Sequence[tuple[str, ...]], rows: list[tuple[str, ...]]
) -> None:
    assert series_of_maps("abcd", [reader(*names) for names in reads]) == rows


def test_sums_without_an_even_order_are_refused() -> None:
    reads = [("a", "b", "c"), ("a", "b", "d"), ("a", "c", "d"), ("b", "c", "d")]
    with pytest.raises(FitError, match="sums of a, b, c, d, and these maps cannot all"):
        series_of_maps("abcd", [reader(*names) for names in reads])


def first_even_order(names: str, reads: list[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the first permutation of ``names`` in which the maps of each read lie at equal
    distances; None if there is none.

    A read is a tuple of names of maps that one layer reads together.
    """
    for order in itertools.permutations(names):
        if all(len(set(np.diff(sorted(map(order.index, one))))) <= 1 for one in reads):
            return order
    return None


def test_the_first_of_all_even_orders_is_found() -> None:
    rng, n_found = np.random.default_rng(0), 0
    for _ in range(60):
        names = "abcdef"[: rng.integers(4, 7)]
        reads = [
            tuple(rng.permutation(list(names))[: rng.integers(3, len(names))].tolist())
            for _ in range(rng.integers(1, 5))
        ]
        reads.append((names[0], names[-1]))
        for one, other in itertools.pairwise(names):  # pairs make one series of all maps
            reads.append((one, other))
        expected = first_even_order(names, reads)
        n_found += expected is not None
        if expected is None:
            with pytest.raises(FitError, match="these maps cannot all lie at equal distances"):
                series_of_maps(names, [reader(*one) for one in reads])
        else:
            assert series_of_maps(names, [reader(*one) for one in reads]) == [expected]
    assert 10 < n_found < 50


def test_an_even_order_of_many_maps_is_found() -> None:
    """Check that an order of 20 maps is found in which each layer reads three neighbouring maps.

    The maps are named at random, so that the order cannot follow from the names. Its reverse is
    right, too.
    """
    names = [f"m{n}" for n in range(20)]
    hidden = np.random.default_rng(1).permutation(names).tolist()
    reads = [tuple(hidden[at : at + 3]) for at in range(len(names) - 2)]
    (order,) = series_of_maps(names, [reader(*one) for one in reads])
    assert list(order) in (hidden, hidden[::-1])


def test_many_maps_without_an_even_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "abcdefghij"
    impossible = [("a", "b", "c"), ("a", "b", "d"), ("a", "c", "d"), ("b", "c", "d")]
    chain = [tuple(names[at : at + 3]) for at in range(3, 8)] + [("d", "a")]
    layers = [reader(*one) for one in (*impossible, *chain)]
    with pytest.raises(FitError, match="these maps cannot all lie at equal distances"):
        series_of_maps(names, layers)
    monkeypatch.setattr(placement, "MAX_STEPS", 30)
    with pytest.raises(FitError, match=r"and no order in which all .* was found in 30 steps; join"):
        series_of_maps(names, layers)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_stage_of_sums_runs_from_every_input(stacked: bool) -> None:
    """Check that all maps of a sum that includes the input map have a region for each input buffer.

    A layer reads the maps of a sum at equal distances; so the other maps must move together with
    the input map.
    """
    net = residual(3, stacked=stacked)
    (one, two) = check(with_rates(net, 1), [build(1), build(4)])
    for program in (one, two):
        assert program.moved == (INPUT, "c0", "c1", "c2")
        first = program.places(0)
        starts = [first[name].start for name in program.moved]
        assert set(np.diff(starts)) == {first[INPUT].n_bits}
        assert len(program.inputs) == N_INPUTS
        for n in range(1, N_INPUTS):
            later = program.places(n)
            offset = n * 4 * first[INPUT].n_bits + first["last"].n_bits
            assert all(later[m].start - first[m].start == offset for m in program.moved)
            assert later["last"] == first["last"]


def test_one_region_less_where_there_is_no_room_for_all_sums() -> None:
    net = residual(3)
    spike_bytes = compile_network(net, CONFIG).spike_bytes
    config = replace(CONFIG, spike_bytes=-(-spike_bytes // 8) * 8 - 8)
    (program,) = check(net, [config])
    assert len(program.inputs) == N_INPUTS - 1


def test_a_sum_takes_one_level() -> None:
    """Check that reading several maps takes one loop level, and that too many levels are
    refused.

    A layer that needs one level too many fits if its loop over chunks has only one iteration.
    """
    counts = [len(compile_network(residual(n), CONFIG).layers[-2].counts) for n in (0, 1)]
    assert counts[1] == counts[0] + 1
    net = full_nest()
    layers, wide = net.layers, net.layers[1]
    for program in check(net, [build(1), build(2)]):
        assert len(program.layers[1].counts) == N_LEVELS
        assert program.layers[1].counts[:2] == (3, 2), "kernel rows, then maps"
    message = f"more than the {N_LEVELS} loop levels of the device; let it read one map, by a gate"
    shared = replace(wide, weight=wide.weight[..., :1])
    for layer, fits in ((shared, False), (replace(shared, addends=()), True)):
        layers = (layers[0], layer, layers[2])
        if fits:
            check(replace(net, layers=layers), [build(1)])
            continue
        with pytest.raises(FitError, match=message):
            compile_network(replace(net, layers=layers), CONFIG)
