"""Tests of the checks of a network: error messages name the layer, the fault and the expected
value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from hw.spec import Gate, Leak
from sw.network.network import IMAGE, INPUT, Layer, Network, NetworkError
from sw.network.schema import Range, hints

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
        ({"leak": Leak.KEEP}, "leak_shift 0 and finer_shifts [] are not valid with leak KEEP"),
        ({"leak": Leak.KEEP, "leak_shift": 3, "finer_shifts": (3,)},
         "leak_shift 3 and finer_shifts [3] are not valid with leak KEEP"),
        ({"name": INPUT}, "the name is used twice, or stands for the input"),
        ({"name": IMAGE}, "the name is used twice, or stands for the input"),
        ({"weight": CONV.weight[:, :, :, :0]}, "it has no output channel"),
        ({"pool": (7, 1)}, "the map that it writes is empty: (4, 0, 5)"),
        ({"source": "later"}, "reads 'later', which no earlier layer writes"),
        ({"addends": ("later",)}, "reads 'later', which no earlier layer writes"),
        ({"addends": (INPUT,)}, "reads a map twice (input, input): double its weights instead"),
        ({"stacked": True}, "it cannot be stacked without addends"),
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


def test_added_maps_have_one_shape() -> None:
    wide = replace(FC, addends=(INPUT,))
    message = "layer 'fc': adds 'input' of shape (2, 6, 5) to 'conv' of shape (4, 6, 5): both must"
    assert_refused(message, layers=(CONV, wide))
    other = replace(CONV, name="other")
    wider = FC.weight.repeat(2, axis=4)
    for stacked, right, wrong, n_in in ((True, wider, FC.weight, 8), (False, FC.weight, wider, 4)):
        both = replace(FC, addends=("other",), stacked=stacked)
        replace(NETWORK, layers=(CONV, other, replace(both, weight=right)))
        message = f"weight has shape {wrong.shape}, expected (2, 1, 1, 3, {n_in}, 6, 5) or 1 where"
        layers = (CONV, other, replace(both, weight=wrong))
        assert_refused(f"layer 'fc': {message}", layers=layers)


def test_a_network_that_is_wrong_says_where() -> None:
    assert_refused("network.timesteps is 0, expected a whole number from 1 to 4096", timesteps=0)
    assert_refused("network.layers has 0, expected 1 to 255 entries", layers=())
    assert_refused(
        "layer 'input': the map that it writes, 2 timesteps of (2, 1048576, 1048576), has more "
        "than 1073741824 spikes",
        image_shape=(2, 1 << 20, 1 << 20),
    )
    assert_refused("layer 'fc': 3 classes but 2 labels", labels=("a", "b"))
    replace(NETWORK, encoder=STEM)
    message = (
        "layer 'stem': an encoder fires, shares weights over time and positions, and has no "
        "addends or gate"
    )
    for changes in ({"gate": Gate.AND}, {"output": True}, {"weight": STEM.weight.repeat(2, 0)}):
        assert_refused(message, encoder=replace(STEM, **changes))
    assert_refused(message, encoder=replace(STEM, identity=INPUT))
    assert_refused(message, encoder=replace(STEM, addends=(INPUT,)))
    assert_refused(
        "layer 'stem': an encoder reads 'image', not 'conv'", encoder=replace(STEM, source="conv")
    )
    assert_refused("layer 'conv': the name is used twice", encoder=replace(STEM, name="conv"))
    assert_refused("layer 'stem': kernel (9, 3) exceeds", encoder=replace(STEM, kernel=(9, 3)))


def numbers(cls: type) -> Iterator[tuple[str, Range, Any]]:
    """Yield the name, range, and default or an example value of every field that :class:`Range`
    limits.
    """
    for name, hint in hints(cls).items():
        for one in (hint, *get_args(hint)):
            rule = next((r for r in getattr(one, "__metadata__", ()) if isinstance(r, Range)), None)
            if rule is not None:
                yield name, rule, getattr(NETWORK if cls is Network else CONV, name)
                break


@pytest.mark.parametrize("cls", [Network, Layer])
def test_every_number_has_a_range(cls: type) -> None:
    found = {name: (rule, value) for name, rule, value in numbers(cls)}
    plain = {name for name, hint in hints(cls).items() if hint is int}
    assert not plain, "numbers without a range"
    assert len(found) == {Network: 4, Layer: 5}[cls]
    for name, (rule, value) in found.items():
        for wrong in (rule.low - 1, rule.high + 1, -1, 1 << 63, True, 1.0, "1", None):
            changed = (wrong, *value[1:]) if isinstance(value, tuple) else wrong
            place = f"{name}.0" if isinstance(value, tuple) else name
            if cls is Network:
                assert_refused(f"network.{place} is ", **{name: changed})
            else:
                layer = replace(CONV, **{name: changed})
                assert_refused(f"network.layers.0.{place} is ", layers=(layer, FC))


@pytest.mark.parametrize(
    "text", ["", "x" * 1001, "a\nb", "\x1b[2J", "\ud800", "\x7f", "\u2028", 7, None, b"a"]
)
def test_names_and_labels_are_printable(text: Any) -> None:
    expected = "expected " + ("printable text" if isinstance(text, str) else "a text")
    for changes in ({"name": text}, {"source": text}):
        field = next(iter(changes))
        with pytest.raises(NetworkError, match=rf"^network\.layers\.0\.{field} is .*{expected}"):
            replace(NETWORK, layers=(replace(CONV, **changes), FC))
    with pytest.raises(NetworkError, match=rf"^network\.labels\.2 is .*{expected}"):
        replace(NETWORK, labels=("a", "b", text))
    with pytest.raises(
        NetworkError, match=r'^network\.labels is \["a", "b", "c"\], expected a tuple$'
    ):
        replace(NETWORK, labels=["a", "b", "c"])
    replace(NETWORK, labels=("T-shirt/top", "Äpfel 🍎", " "))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "AND"}, 'gate is "AND", expected one of NONE, AND'),
        ({"kernel": [3, 3]}, "kernel is [3, 3], expected a tuple of 2"),
        ({"kernel": (3, 3, 3)}, "kernel is [3, 3, 3], expected a tuple of 2"),
        ({"output": 0}, "output is 0, expected true or false"),
        ({"weight": [1]}, "weight is [1], expected a value of type ndarray"),
    ],
)
def test_fields_have_their_types(changes: dict[str, Any], message: str) -> None:
    assert_refused(f"network.layers.0.{message}", layers=(replace(CONV, **changes), FC))
