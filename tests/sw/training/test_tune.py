"""Tests of fine-tuning a folded network in integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hw.spec import Gate, Leak, Reset
from sw.convert import quantize
from sw.exchange import integers
from sw.exchange.assembly import Imported, assemble
from sw.exchange.graph import Connect, Convolve, FireNode, Join, Node, Pool, Source
from sw.exchange.neurons import neurons
from sw.model.resnet import to_input
from sw.network import reference
from sw.network.network import IMAGE, INPUT
from sw.training import loop, tune
from sw.training.recipes import TrainConfig
from tests.datasets import easy_data

T = 3
SHAPE = (1, 14, 10)
CONFIG = TrainConfig(epochs=3, batch_size=20, learning_rate=tune.LEARNING_RATE, shift_px=0)


def network(*, frames: bool = False) -> Imported:
    """Return an imported network with different leaks, resets and thresholds, a gate, and a layer
    that computes ORs.
    """
    rng = np.random.default_rng(1)
    n_in = SHAPE[0]

    def conv(n: int) -> Convolve:
        return Convolve(weight=rng.normal(0, 0.4, (4, n, 3, 3)), padding=(1, 1))

    def fire(decay: float, soft: bool = False) -> FireNode:
        return neurons(0.5, decay, soft=soft, strict=True)

    pool = Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    fc = Connect(weight=rng.normal(0, 1, (10, 4 * 7 * 5)), bias=rng.normal(0, 1, 10))
    steps = [
        ("stem", conv(n_in), (IMAGE,)), ("n0", fire(1.0), ("stem",)),
        ("pool", pool, ("n0",)), ("inner", conv(4), ("pool",)), ("n1", fire(0.75), ("inner",)),
        ("second", conv(4), ("n1",)), ("n2", fire(0.5, soft=True), ("second",)),
        ("join", Join(gate=Gate.OR), ("pool", "n2")), ("fc", fc, ("join",)),
    ]  # fmt: skip
    source = Source(timesteps=T, image_shape=SHAPE, pixel_max=None if frames else 1.0)
    nodes = [Node(name=name, step=step, sources=sources) for name, step, sources in steps]
    return assemble(nodes, source, {})


@pytest.mark.parametrize("weight_bits", [2, 8])
def test_what_is_trained_is_what_is_exported(weight_bits: int) -> None:
    """Check that a fine-tuned network has the same spikes and logits as its exported integers."""
    imported, data = network(), easy_data()
    ors = integers.or_layers(imported.folded)
    assert len(ors) == 1
    assert {x.leak for x in imported.folded.layers} > {Leak.NONE}
    assert {x.reset for x in imported.folded.layers} > {Reset.HARD}
    calibration = data.train.images[:40]
    losses: list[float] = []
    tuned = tune.fine_tune(
        imported.folded,
        weight_bits,
        data,
        CONFIG,
        calibration=calibration,
        frozen=ors,
        on_epoch=lambda _, loss: losses.append(loss),
    )
    assert losses[-1] < 0.8 * losses[0]
    exported = integers.quantised(replace(imported, folded=tuned), weight_bits)
    trace = reference.run(exported, data.test.images)
    assert tuned.scales is not None
    net = tune.FoldedNet(tuned, tuned.scales, frozen=ors)
    maps: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        logits = net(to_input(torch.from_numpy(data.test.images)), maps.__setitem__).spike
    for name, spikes in maps.items():
        np.testing.assert_array_equal(spikes.transpose(0, 1).numpy(), trace.spikes[name], name)
    np.testing.assert_allclose(logits / tuned.scales.output, trace.logits, atol=0.01, rtol=1e-5)
    before = integers.quantised(imported, weight_bits, calibration=calibration)
    right = [
        float(np.mean(reference.run(x, data.test.images).predictions == data.test.labels))
        for x in (before, exported)
    ]
    assert right[1] > right[0] + 0.3
    for name in ors:
        (layer,) = (x for x in exported.layers if x.name == name)
        assert set(np.unique(layer.weight)) == {0, 1} and (layer.threshold == 1).all()


def test_binary_frames_are_trained_on() -> None:
    imported = network(frames=True)
    frames = np.repeat(easy_data().train.images[:, None] > 127, T, axis=1).astype(np.uint8)
    split = replace(easy_data().train, images=frames)
    data = replace(easy_data(), train=split, validation=split, test=split)
    tuned = tune.fine_tune(
        imported.folded, 4, data, replace(CONFIG, epochs=1), calibration=frames[:20]
    )
    exported = quantize.quantize(tuned, 4)
    trace = reference.run(exported, frames)
    assert tuned.scales is not None
    found = loop.predictions(tune.FoldedNet(tuned, tuned.scales), split, "")
    np.testing.assert_array_equal(found["spike"], trace.predictions)
    assert INPUT in trace.spikes


def test_a_network_in_units_of_its_thresholds_is_the_same() -> None:
    imported = network()
    plain = tune.in_thresholds(imported.folded)
    assert all((x.threshold == 1).all() for x in plain.layers if x.threshold is not None)
    pixels = easy_data().test.images
    a, b = (quantize.quantize(x, 8, calibration=pixels) for x in (imported.folded, plain))
    traces = [reference.run(x, pixels) for x in (a, b)]
    np.testing.assert_array_equal(traces[0].predictions, traces[1].predictions)
