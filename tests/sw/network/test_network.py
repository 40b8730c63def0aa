"""Tests of the checks of a network: messages name the layer, the fault and what is expected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hw.spec import Gate, Leak
from sw.network.network import IMAGE, INPUT, Layer, Network, NetworkError

CONV = Layer(
    name="conv",
    source=INPUT,
    kernel=(3, 3),
    padding=(1, 1),
    weight=np.ones((1, 1, 1, 4, 2, 3, 3), np.int8),
    bias=np.zeros((1, 1, 1, 4), np.int32),
    threshold=np.ones((1, 1, 4), np.int32),
)
FC = Layer(
    name="fc",
    source="conv",
    kernel=(6, 5),
    weight=np.ones((1, 1, 1, 3, 4, 6, 5), np.int8),
    bias=np.zeros((1, 1, 1, 3), np.int32),
    output=True,
)
STEM = replace(CONV, name="stem", source=IMAGE, weight=np.ones((1, 1, 1, 2, 2, 3, 3), np.int8))
STEM = replace(STEM, bias=STEM.bias[..., :2], threshold=np.ones((1, 1, 2), np.int32))
NETWORK = Network(
    timesteps=2,
    image_shape=(2, 6, 5),
    encoder=None,
    layers=(CONV, FC),
    weight_bits=2,
    labels=("a", "b", "c"),
)


def assert_refused(message: str, **changes: Any) -> None:
    with pytest.raises(NetworkError) as error:
        replace(NETWORK, **changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": (9, 3)}, "kernel (9, 3) exceeds map (2, 6, 5)"),
        ({"weight": CONV.weight[:, :, :, :, :1]},
         "weight has shape (1, 1, 1, 4, 1, 3, 3), expected (2, 6, 5, 4, 2, 3, 3) or 1 where"),
        ({"weight": CONV.weight[0]}, "weight has shape (1, 1, 4, 2, 3, 3), expected"),
        ({"weight": CONV.weight.astype(np.int16)}, "weight is int16, not int8"),
        ({"weight": 2 * CONV.weight}, "weights exceed 2 bits"),
        ({"bias": CONV.bias.astype(np.int64)}, "bias is int64, not int32"),
        ({"bias": CONV.bias.repeat(3, 0)}, "bias has shape (3, 1, 1, 4), expected (2, 6, 5, 4) or"),
        ({"threshold": None}, "a firing layer needs thresholds"),
        ({"threshold": np.ones((2, 1, 4), np.int32)},
         "threshold has shape (2, 1, 4), expected (6, 5, 4)"),
        ({"threshold": np.zeros((1, 1, 4), np.int32)}, "thresholds must be positive"),
        ({"leak_shift": 2}, "leak_shift 2 and finer_shifts [] are not valid with leak NONE"),
        ({"leak": Leak.KEEP, "leak_shift": 16},
         "leak_shift 16 and finer_shifts [] are not valid with leak KEEP"),
        ({"leak": Leak.KEEP, "leak_shift": 3, "finer_shifts": (3,)},
         "leak_shift 3 and finer_shifts [3] are not valid with leak KEEP"),
        ({"name": INPUT}, "the name is used twice"),
        ({"source": "later"}, "reads 'later', which no earlier layer writes"),
        ({"gate": Gate.OR}, "a layer must have an identity map if it has a gate"),
        ({"identity": INPUT}, "a layer must have an identity map if it has a gate"),
        ({"identity": "later", "gate": Gate.OR}, "no earlier layer writes its identity 'later'"),
        ({"identity": INPUT, "gate": Gate.OR},
         "identity 'input' has shape (2, 6, 5), the branch (4, 6, 5)"),
        ({"output": True}, "the last layer, and no other, must be an output layer"),
    ],
)  # fmt: skip
def test_a_firing_layer_that_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    layer = replace(CONV, **changes)
    assert_refused(f"layer {layer.name!r}: {message}", layers=(layer, FC))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": CONV.threshold}, "an output layer has no threshold, gate or pooling"),
        ({"pool": (2, 2)}, "an output layer has no threshold, gate or pooling"),
        ({"kernel": (5, 5), "weight": FC.weight[..., :5, :]},
         "an output layer's kernel covers its whole map; it has 2 x 1 outputs"),
        ({"bias": FC.bias.repeat(2, 0)}, "bias has shape (2, 1, 1, 3), expected (1, 1, 1, 3) or"),
        ({"output": False}, "the last layer, and no other, must be an output layer"),
    ],
)  # fmt: skip
def test_an_output_layer_that_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    assert_refused(f"layer 'fc': {message}", layers=(CONV, replace(FC, **changes)))


def test_a_network_that_is_wrong_says_where() -> None:
    assert_refused("0 timesteps: a network has at least 1", timesteps=0)
    assert_refused("a network has at least one layer, this one has none", layers=())
    assert_refused("layer 'fc': 3 classes but 2 labels", labels=("a", "b"))
    replace(NETWORK, encoder=STEM)
    message = (
        "layer 'stem': an encoder fires, shares weights over time and positions, and has no gate"
    )
    for changes in ({"gate": Gate.AND}, {"output": True}, {"weight": STEM.weight.repeat(2, 0)}):
        assert_refused(message, encoder=replace(STEM, **changes))
    assert_refused("layer 'stem': kernel (9, 3) exceeds", encoder=replace(STEM, kernel=(9, 3)))
