"""Tests that the shipped network file equals an export of the shipped checkpoint by this code."""

from __future__ import annotations

import hashlib
import json

import pytest

from hw.boards.configs import config_by_name
from sw import shipped
from sw.cli import run
from sw.compile.compiler import compile_network
from sw.data import catalogue, fashion_mnist
from sw.network import encoder, netfile

REMEDY = (
    "export it again: python -m sw.export sw/checkpoints/fashion-mnist.pt "
    "-o sw/networks/fashion-mnist.spikefold"
)


def test_network_is_the_checkpoint() -> None:
    provenance = netfile.load(shipped.NETWORK).network.provenance
    digest = hashlib.sha256(shipped.CHECKPOINT.read_bytes()).hexdigest()
    assert provenance["export"]["checkpoint_sha256"] == digest, REMEDY
    assert "validation images" in provenance["export"]["measured_on"], REMEDY


def test_network_has_an_unshared_and_a_per_timestep_layer_and_fits() -> None:
    file = netfile.load(shipped.NETWORK)
    assert file.config == config_by_name("ulx3s-85f"), f"{file.unknown}; {REMEDY}"
    assert compile_network(file.network, file.config).pixels
    shapes = [layer.weight.shape for layer in file.network.layers]
    assert any(shape[0] > 1 for shape in shapes), "per-timestep weights"
    assert any(shape[1] * shape[2] > 1 for shape in shapes), "weights per position"


def test_it_classifies_the_sample() -> None:
    """Check that the shipped network has the labels of Fashion-MNIST, and makes spikes of the
    shipped images.
    """
    network = netfile.load(shipped.NETWORK).network
    split = catalogue.load_samples()
    assert network.labels == fashion_mnist.LABELS and len(split) >= 100
    spikes = encoder.encode(network, split.images[:4])
    assert 0 < spikes.mean() < 1


def test_the_virtual_board_equals_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    """Check that the virtual board gives the reference's spikes for two images, as in ``make
    demo``.
    """
    assert run.main(["--board", "sim", "-n", "2", "--check", "--json"]) == run.EXIT_OK
    results = json.loads(capsys.readouterr().out)
    assert results["n_checked"] == 2 and results["mismatches"] == []
    assert results["check"] == "spikes" and len(results["logits"]) == 2
