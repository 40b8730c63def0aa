"""Check that the independent model, written from docs/network-file.md alone, computes the exact
results."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from hw.spec import Gate, Leak, Reset
from sim.ladder import independent_model
from sw import shipped
from sw.data import catalogue
from sw.network import netfile, reference
from sw.network.network import INPUT, Network
from tests.networks import GRANULARITIES, random_input, random_network

PAGE = (Path(__file__).parents[1] / "docs/network-file.md").read_text()


def assert_same(path: Path, network: Network, samples: np.ndarray) -> None:
    """Check that the independent model computes the spikes, logits and classes of the reference."""
    file = independent_model.read(path)
    expected = reference.run(network, samples)
    assert set(expected.spikes) == {INPUT, *(layer.name for layer in network.layers[:-1])}
    for n, sample in enumerate(samples):
        maps, logits, prediction = independent_model.classify(file, sample)
        for name, spikes in expected.spikes.items():
            np.testing.assert_array_equal(maps[name], spikes[n], name)
        assert logits.tolist() == expected.logits[n].tolist()
        assert prediction == expected.predictions[n]


def test_the_shipped_network() -> None:
    samples = catalogue.load_samples().images[:3]
    assert_same(shipped.NETWORK, netfile.load(shipped.NETWORK).network, samples)


CASES = [
    (granularity, leak, reset) for granularity in GRANULARITIES for leak in Leak for reset in Reset
]


def some_networks(case: tuple[str, Leak, Reset]) -> list[Network]:
    """Return small random networks with the granularity of weights, leak and reset of ``case``.

    The first network has an encoder.
    """
    granularity, leak, reset = case
    return [
        random_network(
            CASES.index(case) * 3 + n,
            granularity=granularity,
            leak=leak,
            reset=reset,
            encoder=n == 0,
            channels=(1, 2, 3, 8),
        )
        for n in range(3)
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1].name}-{case[2].name}")
def test_random_networks(case: tuple[str, Leak, Reset], tmp_path: Path) -> None:
    for network in some_networks(case):
        netfile.save(tmp_path / "net.spikefold", network)
        samples = random_input(network, np.random.default_rng(1), 2)
        assert_same(tmp_path / "net.spikefold", network, samples)


def test_random_networks_have_every_feature() -> None:
    seen: set[object] = set()
    for case in CASES:
        for network in some_networks(case):
            for layer in network.layers:
                seen |= {layer.gate, ("pool", layer.pool), ("stride", layer.stride)}
                seen |= {("padded", max(layer.padding) > 0), ("first", layer.source == INPUT)}
                seen |= {("joins", layer.identity in (None, INPUT))}
                seen |= {("added", layer.n_summed > 1), ("stacked", layer.stacked)}
                seen |= {("shared kernel", layer.weight.shape[5:] != layer.kernel)}
    for name in ("padded", "first", "joins", "shared kernel", "added", "stacked"):
        assert seen >= {(name, False), (name, True)}, name
    assert seen >= {*Gate, ("pool", (2, 1)), ("pool", (1, 2)), ("stride", (2, 1))}


def test_equal_logits_give_the_first_class(tmp_path: Path) -> None:
    network = random_network(5, n_layers=1, encoder=False)
    (last,) = network.layers
    last.weight[...] = 0
    last.bias[...] = 3
    last.bias[..., 0] = 2
    netfile.save(tmp_path / "net.spikefold", network)
    samples = random_input(network, np.random.default_rng(1), 1)
    assert_same(tmp_path / "net.spikefold", network, samples)
    file = independent_model.read(tmp_path / "net.spikefold")
    assert independent_model.classify(file, samples[0])[2] == 1


def test_the_model_imports_nothing_of_the_product() -> None:
    tree = ast.parse(Path(independent_model.__file__).read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {
        *("__future__", "dataclasses", "json", "pathlib", "typing", "numpy", "safetensors")
    }


def test_the_page_has_a_neuron_step_by_step() -> None:
    rows = re.findall(r"^\| (\d) \|" + r" (\S+) \|" * 5 + "$", PAGE, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(7))
    membrane = 0
    for row in rows:
        total, left, v, spike, after = (int(cell.replace("−", "-")) for cell in row[1:])
        assert independent_model.leaked(membrane, "SUBTRACT", [1]) == left
        assert v == left + total - 1 and spike == int(v >= 5)
        membrane = int(independent_model.reset(np.array(v), spike, 5, "SOFT"))
        assert membrane == after


def test_the_page_shows_a_layer_of_the_shipped_network() -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert json.loads(text) == independent_model.read(shipped.NETWORK).network["layers"][1]


def test_the_page_names_every_field_and_value() -> None:
    for enum in (Gate, Leak, Reset):
        for member in enum:
            assert f'`"{member.name}"`' in PAGE or f"| {member.name} |" in PAGE, member
    network = random_network(1)
    for fields in (network.__dataclass_fields__, network.layers[0].__dataclass_fields__):
        for name in fields:
            assert re.search(rf"^\|[^|]*`{name}`[^|]*\|", PAGE, re.MULTILINE), name
