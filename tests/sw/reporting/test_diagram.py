"""Tests of the words and numbers that the diagram of a network shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.spec import Leak, Reset
from sw.network.network import Layer
from sw.reporting.diagram import neuron_text

LAYER = Layer(
    name="conv",
    source="input",
    kernel=(1, 1),
    weight=np.ones((1, 1, 1, 1, 1, 1, 1), np.int8),
    bias=np.zeros((1, 1, 1, 1), np.int32),
    threshold=np.ones((1, 1, 1), np.int32),
)


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
