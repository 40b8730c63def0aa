"""Tests of bounds against every possible input of tiny layers: no value exceeds them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hw.spec import Leak, Reset, carried_over, fire, leaked
from sw.network.bounds import Bounds, bank_bounds, layer_bounds
from sw.network.network import INPUT, Layer

FAN_IN, TIMESTEPS = 3, 3


def tiny_layer(rng: np.random.Generator, leak: Leak, reset: Reset, per_timestep: bool) -> Layer:
    t = TIMESTEPS if per_timestep else 1
    return Layer(
        name="tiny",
        source=INPUT,
        kernel=(1, 1),
        weight=rng.integers(-9, 10, (t, 1, 1, 1, FAN_IN, 1, 1)).astype(np.int8),
        bias=rng.integers(-4, 5, (t, 1, 1, 1)).astype(np.int32),
        threshold=rng.integers(1, 15, (1, 1, 1)).astype(np.int32),
        leak=leak,
        leak_shift=0 if leak == Leak.NONE else 1,
        finer_shifts=() if leak == Leak.NONE else ((), (2,), (2, 4))[rng.integers(3)],
        reset=reset,
    )


def extremes(layer: Layer) -> tuple[int, int]:
    """Return the smallest and largest value that a register for sums or membranes must hold.

    All 2**(FAN_IN * TIMESTEPS) inputs are tried.
    """
    values = {0}
    assert layer.threshold is not None
    threshold = int(layer.threshold[0, 0, 0])
    for bits in itertools.product((0, 1), repeat=FAN_IN * TIMESTEPS):
        left = 0
        for t in range(TIMESTEPS):
            weights = layer.weight[t % len(layer.weight)].reshape(FAN_IN)
            active = np.array(bits[t * FAN_IN : (t + 1) * FAN_IN])
            total = int(weights @ active)
            values.add(total)
            drive = total + int(layer.bias[t % len(layer.bias)].item())
            membrane = left + drive
            values |= {drive, membrane, membrane - threshold}
            spike, membrane = fire(membrane, threshold, layer.reset)
            left = carried_over(
                membrane, spike, threshold, layer.reset, layer.leak, *layer.leak_shifts
            )
            values |= {membrane, left}
    return min(values), max(values)


@pytest.mark.parametrize("leak", Leak)
@pytest.mark.parametrize("reset", Reset)
@pytest.mark.parametrize("per_timestep", [False, True])
def test_bounds_hold_for_every_input(leak: Leak, reset: Reset, per_timestep: bool) -> None:
    rng = np.random.default_rng([leak, reset, per_timestep])
    n_tight = 0
    for _ in range(6):
        layer = tiny_layer(rng, leak, reset, per_timestep)
        low, high = extremes(layer)
        bounds = layer_bounds(layer, TIMESTEPS)
        assert bounds.low <= low and high <= bounds.high
        n_tight += (bounds.low, bounds.high) == (low, high)
    assert n_tight >= 3, "the bounds are much wider than need be"


def test_output_layer_counts_every_timestep_and_the_bias_once() -> None:
    layer = Layer(
        name="fc",
        source=INPUT,
        kernel=(2, 2),
        weight=np.array([5, -3], np.int8).reshape(1, 1, 1, 2, 1, 1, 1),
        bias=np.array([7, -2], np.int32).reshape(1, 1, 1, 2),
        output=True,
    )
    # Four positions share the weight, over three timesteps: 5*12 + 7 and -3*12 - 2.
    assert layer_bounds(layer, 3) == Bounds(-38, 67)


def test_bounds_of_bit_planes() -> None:
    """Check that the bounds of a layer that reads pixels cover all its sums and membranes, tightly.

    The layer reads one bit-plane (one bit of each pixel) at a time, and doubles its sum before it
    adds the next one. The sums count before and after they are doubled.
    """
    layer = Layer(
        name="stem",
        source=INPUT,
        kernel=(1, 1),
        weight=np.array([7, -3], np.int8).reshape(1, 1, 1, 1, 2, 1, 1),
        bias=np.array([4], np.int32).reshape(1, 1, 1, 1),
        threshold=np.array([100], np.int32).reshape(1, 1, 1),
        leak=Leak.SUBTRACT,
        leak_shift=1,
        reset=Reset.SOFT,
    )
    bounds = layer_bounds(layer, 3, 255)
    values = set()
    for first, second in itertools.product((0, 1, 85, 128, 200, 254, 255), repeat=2):
        total = 0
        for plane in range(7, -1, -1):
            drive = 7 * (first >> plane & 1) - 3 * (second >> plane & 1)
            values |= {drive, 2 * total}
            total = 2 * total + drive
            values.add(total)
        assert total == 7 * first - 3 * second
        membrane = 0
        for _ in range(3):
            membrane = leaked(membrane, layer.leak, layer.leak_shift) + total + 4
            values |= {membrane, membrane - 100}
            membrane -= 100 * (membrane >= 100)
            values.add(membrane)
    assert bounds.low <= min(values) and max(values) <= bounds.high
    # The input is the same at every timestep, so the ends are reached.
    assert (bounds.low, bounds.high) == (min(values), max(values))
    assert layer_bounds(layer, 3).high < bounds.high // 100


@pytest.mark.parametrize("output", [False, True])
def test_every_summand_counts(output: bool) -> None:
    """Check that the bounds of a layer that reads three maps cover spikes of all three at once.

    This must hold whether the maps share weights or have weights of their own.
    """
    weight = np.array([7, -3], np.int8).reshape(1, 1, 1, 1, 2, 1, 1)
    layer = Layer(
        name="sum",
        source=INPUT,
        addends=("one", "two"),
        kernel=(1, 1),
        weight=weight,
        bias=np.zeros((1, 1, 1, 1), np.int32),
        threshold=None if output else np.array([1000], np.int32).reshape(1, 1, 1),
        output=output,
    )
    assert layer.fan_in == 6
    n_times = 4
    low, high = (-1000 - 36 if not output else -36), 84
    assert layer_bounds(layer, n_times) == Bounds(low, high)
    sums = (-36, 84) if output else (-9, 21)
    assert bank_bounds(layer, n_times, [(0, 1)]) == Bounds(*sums)
    stacked = replace(layer, weight=weight.repeat(3, axis=4), stacked=True)
    assert stacked.fan_in == 6
    assert layer_bounds(stacked, n_times) == Bounds(low, high)
    assert bank_bounds(stacked, n_times, [range(6)]) == Bounds(*sums)


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("taps", [(2, 1), (1, 1), (2, 3)])
def test_bounds_of_banks(output: bool, taps: tuple[int, int]) -> None:
    """Check that the bounds of banks are the extremes of the sums over each bank's own channels.

    In an output layer, a bank's sum runs over all timesteps.
    """
    rng = np.random.default_rng(0)
    for n_times in (1, 3):
        weight = rng.integers(-8, 8, (n_times, 1, 1, 2, 5, *taps)).astype(np.int8)
        layer = Layer(
            name="layer",
            source=INPUT,
            kernel=(2, 3),
            weight=weight,
            bias=np.full((1, 1, 1, 2), 1000, np.int32),
            threshold=None if output else np.ones((1, 1, 2), np.int32),
            output=output,
        )
        full = np.broadcast_to(weight, (3, 1, 1, 2, 5, 2, 3)).astype(np.int64)
        lows, highs = [0], [0]
        for channels in ((3, 0, 1), (4, 2)):
            own = full[:, 0, 0][:, :, list(channels)]
            low, high = (np.where(own * sign > 0, own, 0).sum((2, 3, 4)) for sign in (-1, 1))
            lows += list((low.sum(0) if output else low).ravel())
            highs += list((high.sum(0) if output else high).ravel())
        found = bank_bounds(layer, 3, [(3, 0, 1), (4, 2)])
        assert found == Bounds(min(lows), max(highs))


@pytest.mark.parametrize(
    ("low", "high", "n_bits"),
    [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-3, 1, 3), (-128, 127, 8), (-129, 0, 9)],
)
def test_bits_of_bounds(low: int, high: int, n_bits: int) -> None:
    assert Bounds(low, high).n_bits == n_bits
