"""Tests of the experiments: variants, statistics, tables, and resuming after an interruption."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest
import torch

from sw.cli import experiments as command
from sw.cli.commands import EXIT_BAD_INPUT
from sw.data import catalogue
from sw.model.config import with_blocks
from sw.model.resnet import SpikingResNet
from sw.reporting.plots import dot_plot
from sw.training import experiments, significance
from sw.training.experiments import ExperimentError, Variant
from sw.training.recipes import TrainConfig
from tests.datasets import easy_data
from tests.trained import small_config

TRAINING = TrainConfig(epochs=1, batch_size=16, max_images=48, shift_px=1)


def variants() -> dict[str, Variant]:
    plain = small_config()
    return {
        "plain": Variant(config=plain),
        "AND": Variant(config=with_blocks(plain, gate="AND"), base="plain", coefficient_rate=0.5),
    }


def test_variants_differ_in_one_thing_each() -> None:
    found = experiments.ablation_variants()
    assert len(found) == 15
    sizes = {}
    for name, variant in found.items():
        assert variant.base in (None, *found), name
        model = SpikingResNet(variant.config)
        assert (model.aap is not None) == ("AAP" in name)
        sizes[name] = sum(p.numel() for n, p in model.named_parameters() if "coefficient" in n)
        gates = {block.gate for stage in variant.config.stages for block in stage.blocks}
        assert gates == {"ADD" if "ADD" in name else "IAND" if "IAND" in name else "OR"}
    grown = [sizes[f"Real Spike {g}"] for g in ("layer", "channel", "element")]
    assert 0 < grown[0] < grown[1] < grown[2] and sizes["vanilla"] == 0
    assert sizes["Real Spike element/per-timestep"] == 4 * sizes["Real Spike element"]
    for variants in experiments.EXPERIMENTS.values():
        for name, variant in variants().items():
            assert variant.base in (None, *variants()), name
            SpikingResNet(variant.config)
    assert experiments.rate_variants()["Real Spike element, rate x 10"].coefficient_rate == 10


def test_permutation_test() -> None:
    a, b = (3.0, 4.0, 5.0), (1.0, 2.0, 2.5)
    assert significance.permutation_test(a, b) == pytest.approx(2 / 20)
    assert significance.permutation_test(a, a) == 1
    values = [1.0, 7.0, 2.0, 5.0, 3.0]
    expected = [
        abs(sum(part) / 2 - (18 - sum(part)) / 3) >= abs(4 - 10 / 3) - 1e-9
        for part in combinations(values, 2)
    ]
    found = significance.permutation_test(values[:2], values[2:])
    assert found == pytest.approx(sum(expected) / 10)


def test_blocked_test() -> None:
    """Check that the differences and p-values of ``blocked_test`` are those counted by hand, and
    that ``together`` reports them.
    """
    difference, p = significance.blocked_test((1.0, 2.0), [(2.0, 4.0)])
    assert difference == pytest.approx(1.5) and p == pytest.approx(2 / 4)
    difference, p = significance.blocked_test((1.0, 2.0, 3.0), [(2.0, 3.0, 4.0), (3.0, 4.0, 5.0)])
    assert difference == pytest.approx(1.5) and p == pytest.approx(2 / 27)
    assert significance.blocked_test((1.0, 1.0), [(1.0, 1.0)])[1] == 1
    several = {"vanilla": (1.0, 2.0), "Real Spike a": (2.0, 4.0), "Real Spike b": (2.0, 4.0)}
    assert "All 2 variants of Real Spike against vanilla: +1.50" in experiments.together(several)
    assert not experiments.together({"vanilla": (1.0,), "Real Spike a": (2.0,)})


def test_comparisons_are_with_the_own_base_and_corrected() -> None:
    accuracies = {
        "a": (1.0, 2.0, 3.0),
        "b": (11.0, 12.0, 13.0),
        "c": (1.5, 2.5, 3.5),
        "d": (0.0, 0.0, 0.0),
    }
    rows = significance.compare(accuracies, {"a": None, "b": "a", "c": "a", "d": "b"})
    by_name = {row.name: row for row in rows}
    assert by_name["a"].difference is None and by_name["a"].sd == pytest.approx(1)
    assert by_name["b"].difference == pytest.approx(10)
    assert by_name["d"].difference == pytest.approx(-12)
    assert by_name["b"].p == pytest.approx(0.1) and by_name["b"].p_holm == pytest.approx(0.3)
    assert by_name["c"].p_holm == by_name["c"].p, "the largest is not multiplied"
    table = experiments.as_markdown(rows, "things")
    assert "| b | 12.00 | 1.00 | +10.00 | 0.100 | 0.300 |" in table
    drawing = ET.fromstring(dot_plot([(row.name, row.accuracies) for row in rows], "a < b"))
    circles = [e for e in drawing.iter() if e.tag.endswith("circle")]
    assert len(circles) == 12
    places = [float(c.attrib["cx"]) for c in circles]
    assert places[3] == max(places[:4]) and places[0] < places[1] < places[2]


def test_an_interrupted_experiment_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    train = experiments.train

    def count(config, training, dataset, out, **options):
        gate = config.stages[0].blocks[0].gate
        trained.append(f"{gate} {training.seed}")
        assert training.coefficient_rate == (0.5 if gate == "AND" else 1)
        if len(trained) == 4:
            raise KeyboardInterrupt
        return train(config, training, dataset, out, **options)

    monkeypatch.setattr(experiments, "train", count)
    options = {"variants": variants(), "training": TRAINING}
    with pytest.raises(KeyboardInterrupt):
        experiments.run_ablation(tmp_path, easy_data(), seeds=(1, 2), **options)
    assert not (tmp_path / "table.md").exists()
    rows = experiments.run_ablation(tmp_path, easy_data(), seeds=(1, 2), **options)
    assert trained == ["OR 1", "AND 1", "OR 2", "AND 2", "AND 2"]
    assert [len(row.accuracies) for row in rows] == [2, 2]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["runs"]["AND, seed 2"]["test"] == rows[1].accuracies[1]
    assert "AND" in (tmp_path / "table.md").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"results.json", "table.md", "plot.svg"}
    with pytest.raises(ExperimentError, match="results of another setting: use another folder"):
        experiments.run_ablation(
            tmp_path, easy_data(), variants={"plain": variants()["plain"]}, training=TRAINING
        )


def test_standard_deviation_of_coefficients() -> None:
    state = {
        "layer1.0.coefficient1.value": torch.tensor([[0.0, 2.0]]),
        "coefficient.value": torch.ones(2),
        "fc.weight": torch.zeros(5),
    }
    assert experiments.coefficient_sd(state) == pytest.approx(0.5**0.5)
    assert experiments.coefficient_sd({"fc.weight": torch.zeros(5)}) is None


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "load", lambda *_: easy_data())
    monkeypatch.setitem(experiments.EXPERIMENTS, "ablation", variants)
    monkeypatch.setattr(experiments, "ablation_training", lambda seed: TRAINING)
    words = ["ablation", "--out", str(tmp_path / "new"), "--seeds", "1"]
    assert command.main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["plain", "AND"]
    (tmp_path / "no").write_text("a file, not a folder")
    assert command.main(["ablation", "--out", str(tmp_path / "no" / "new")]) == EXIT_BAD_INPUT
    assert "cannot be created: Not a directory" in capsys.readouterr().err
    for option in (["--seeds", "9"], ["--threads", "0"]):
        with pytest.raises(SystemExit):
            command.main([*words, *option])
        assert f"{option[0]} takes" in capsys.readouterr().err


def test_the_frontier_has_fewer_cycles_for_a_penalty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiments, "FRONTIER_BOARD", "ulx3s-85f")
    training = TrainConfig(**{**vars(TRAINING), "epochs": 4, "learning_rate": 1e-2})
    options = {"penalties": (0.0, 100.0), "model": small_config(), "training": training}
    rows = experiments.run_frontier(tmp_path, easy_data(), **options)
    assert rows[1]["n_cycles"] < rows[0]["n_cycles"] and rows[1]["n_spikes"] < rows[0]["n_spikes"]
    assert (
        f"| 0 | {rows[0]['test']:.2f} | {rows[0]['n_cycles']:,.0f} (1.00) |"
        in (tmp_path / "table.md").read_text()
    )
    monkeypatch.setattr(experiments, "train", None)  # a second call must not train again
    assert experiments.run_frontier(tmp_path, easy_data(), **options) == rows
