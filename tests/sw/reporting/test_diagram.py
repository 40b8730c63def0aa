"""Tests of the texts and numbers in the diagram of a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.spec import Leak, Reset
from sw.network.network import Layer
from sw.reporting.diagram import conv_text, neuron_text

LAYER = Layer(
    name="conv",
    source="input",
    kernel=(1, 1),
    weight=np.ones((1, 1, 1, 1, 1, 1, 1), np.int8),
    bias=np.zeros((1, 1, 1, 1), np.int32),
    threshold=np.ones((1, 1, 1), np.int32),
)


def test_several_maps_are_counted() -> None:
    three = replace(LAYER, addends=("one", "two"), stride=(2, 2))
    assert conv_text(three, (16, 4, 4)) == "1×1 conv /2 · 16→1, 3 maps"
    assert conv_text(three, (16, 1, 1)) == "fully connected · 16→1, 3 maps"
    assert conv_text(LAYER, (16, 4, 4)) == "1×1 conv · 16→1"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "IF"),
        ({"reset": Reset.SOFT}, "IF, soft reset"),
        ({"leak": Leak.SUBTRACT, "leak_shift": 2}, "LIF, loses 1/4"),
        ({"leak": Leak.KEEP, "leak_shift": 1, "reset": Reset.SOFT}, "LIF, keeps 1/2, soft reset"),
        ({"output": True, "threshold": None}, "sums over time"),
    ],
)
def test_neurons_in_words(changes: dict, text: str) -> None:
    assert neuron_text(replace(LAYER, **changes)) == text
