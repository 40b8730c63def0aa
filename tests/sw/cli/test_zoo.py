"""Tests of ``python -m sw.zoo`` and of the stored table of the shipped networks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from sw.cli import zoo
from sw.cli.commands import EXIT_BAD_INPUT
from sw.compile import costs
from sw.compile.program import bit_planes
from sw.convert import fold, quantize
from sw.data import catalogue
from sw.data.metrics import wilson
from sw.model import checkpoint
from sw.network import reference
from sw.training import loop
from sw.training.recipes import TrainConfig
from tests.datasets import easy_data
from tests.trained import small_config

CONFIG = TrainConfig(epochs=1, batch_size=16, shift_px=1)


def test_an_entry_is_what_the_network_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.pt"
    values = loop.train(small_config(), CONFIG, easy_data(), path, command="the command")
    tuned = tmp_path / "tuned.pt"
    tuning = TrainConfig(**{**vars(CONFIG), "weight_bits": 4})
    loop.train(small_config(), tuning, easy_data(), tuned, init=values["model"])
    monkeypatch.setattr(catalogue, "load", lambda *_, **__: easy_data())
    assert zoo.main([str(path), str(tuned), "--json"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "zoo.json").write_text(text)
    entry, second = json.loads(text)
    network = quantize.quantize(fold.fold(path), 8)
    test = easy_data().test
    trace = reference.run(network, test.images)
    assert entry["on_device"] == pytest.approx(100 * np.mean(trace.predictions == test.labels))
    right = int((trace.predictions == test.labels).sum())
    assert entry["interval"] == pytest.approx([100 * v for v in wilson(right, len(test))])
    assert entry["full_spike"] == values["results"]["test"]["spike"]
    n_spikes = sum(int(maps.sum()) for maps in trace.spikes.values())
    assert entry["n_spikes"] == pytest.approx(n_spikes / len(test))
    for one, n_multiplications in ((entry, 0), (second, 6 * 14 * 10 * 9)):  # stem on the host
        assert one["n_multiplications"] == n_multiplications
        energy = 0.9e-3 * one["n_synaptic_ops"] + 4.6e-3 * n_multiplications
        assert one["energy_nj"] == pytest.approx(energy)
    # With 8 bits the device computes the stem: a weight is added for each bit set in a pixel.
    stem = network.encoder
    assert stem is not None
    n_ops = sum(
        costs.n_synaptic_ops(stem, {stem.source: bit_planes(image)}) for image in test.images
    ) + sum(
        costs.n_synaptic_ops(layer, {layer.source: spikes})
        for layer in network.layers
        for spikes in trace.spikes[layer.source]
    )
    assert entry["n_synaptic_ops"] == pytest.approx(n_ops / len(test))
    assert entry["n_synapses"] == sum(layer.weight.size for layer in network.layers)
    assert entry["granularity"].startswith("element/per-timestep, layer, channel")
    assert entry["board"].startswith("ulx3s-") and entry["n_cycles"] > 0
    assert second["weight_bits"] == 4 and second["full_spike"] is None
    assert second["board"].endswith("/w4")
    assert zoo.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "`small`" in text and "the command" in text
    kept = zoo.load(tmp_path / "zoo.json")[0]
    kept = dataclasses.replace(kept, on_device=12.5, n_spikes=1.0)
    renewed = zoo.measure(path, None, kept)
    assert (renewed.on_device, renewed.n_spikes) == (12.5, entry["n_spikes"])
    anew = zoo.measure(path, None, dataclasses.replace(kept, sha256="0" * 64))
    assert anew.on_device == entry["on_device"]  # a figure of another file is not kept
    checkpoint.save(path, {**values, "results": {}})
    assert zoo.measure(path, None, None).full_spike is None  # training has not ended
    assert zoo.as_json(zoo.load(tmp_path / "zoo.json")) == (tmp_path / "zoo.json").read_text()
    path.write_text("hello")
    assert zoo.main([str(path)]) == EXIT_BAD_INPUT
    assert f"error: {path} is damaged or no checkpoint" in capsys.readouterr().err


@pytest.fixture(scope="module")
def entries() -> dict[str, zoo.Entry]:
    return {entry.name: entry for entry in zoo.load()}


REMEDY = "measure them again: python -m sw.zoo --update"


def test_the_shipped_table_is_of_the_shipped_checkpoints(entries: dict[str, zoo.Entry]) -> None:
    assert list(entries) == sorted(path.stem for path in zoo.FOLDER.glob("*.pt")), REMEDY


@pytest.mark.parametrize("path", sorted(zoo.FOLDER.glob("*.pt")), ids=lambda path: path.stem)
def test_what_the_shipped_table_says_follows_from_the_checkpoint(
    path: Path, entries: dict[str, zoo.Entry]
) -> None:
    """Check that all figures in the stored table that need no test set equal those computed from
    the checkpoint.
    """
    folded = dataclasses.replace(fold.fold(path), calibration=None)  # biases change no size
    network = quantize.quantize(folded, zoo.weight_bits(folded))
    board, _ = zoo.smallest_board(network)
    found = zoo.described(path, checkpoint.load(path), network, board)
    assert {key: getattr(entries[path.stem], key) for key in found} == found, REMEDY


def test_the_documents_have_the_tables() -> None:
    for path, text in zoo.pages(zoo.load()).items():
        assert path.read_text() == text, f"{path.name}: {REMEDY}"


def test_update_writes_what_was_measured_and_keeps_the_rest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    entries: dict[str, zoo.Entry],
) -> None:
    results = tmp_path / "results.md"
    results.write_text("before\n<!-- zoo -->\nold\n<!-- /zoo -->\nafter\n")
    (tmp_path / "checkpoints").mkdir()
    commands = tmp_path / "checkpoints" / "README.md"
    commands.write_text("<!-- commands -->\n<!-- /commands -->\n")
    monkeypatch.setattr(zoo, "RESULTS", results)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "checkpoints")
    monkeypatch.setattr(zoo, "TABLE", tmp_path / "checkpoints" / "zoo.json")
    first, *others = entries.values()
    zoo.TABLE.write_text(zoo.as_json([first, *others]))
    changed = dataclasses.replace(first, on_device=12.34)
    monkeypatch.setattr(zoo, "measure", lambda path, root, known: changed)
    assert zoo.main(["--update", "some.pt"]) == 0
    assert zoo.load(zoo.TABLE) == [changed, *others]
    assert results.read_text() == f"before\n<!-- zoo -->\n{zoo.as_markdown([changed, *others])}" + (
        "<!-- /zoo -->\nafter\n"
    )
    assert others[0].command in commands.read_text()
    results.write_text("no marks")
    before = zoo.TABLE.read_text()
    assert zoo.main(["--update", "some.pt"]) == EXIT_BAD_INPUT
    assert "no marks <!-- zoo -->" in capsys.readouterr().err
    assert zoo.TABLE.read_text() == before
