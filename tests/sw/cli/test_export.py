"""Tests of ``python -m sw.export``: its file, its report and its error messages."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hw.boards.configs import BOARDS, config_by_name
from hw.spec import Gate
from sw.cli import export
from sw.compile.compiler import compile_network
from sw.compile.costs import device_maps
from sw.compile.cycles import predict_cycles
from sw.convert.fold import fold
from sw.convert.folded import simulate
from sw.convert.quantize import quantize
from sw.data import catalogue
from sw.data.dataset import DataError, Dataset, Split
from sw.data.fashion_mnist import LABELS
from sw.exchange import export as exporting
from sw.model.config import ModelConfig, StageConfig
from sw.model.resnet import SpikingResNet
from sw.network import netfile
from sw.network.reference import run
from tests.damage import damaged_arrays
from tests.trained import a_checkpoint

SEED = 5
N_IMAGES = 6


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Replace Fashion-MNIST by random images, and return them."""
    rng = np.random.default_rng(SEED)

    def split() -> Split:
        images = rng.integers(0, 256, (N_IMAGES, 1, 12, 12), np.uint8)
        return Split(images=images, labels=(np.arange(N_IMAGES) % 3).astype(np.uint8))

    made = Dataset(
        name="fashion-mnist",
        labels=LABELS,
        train=split(),
        validation=split(),
        test=split(),
        sha256="",
        place="",
    )
    monkeypatch.setattr(catalogue, "load", lambda *_, **__: made)
    return made


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_file_and_report_agree(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str], bits: int
) -> None:
    path = a_checkpoint(tmp_path / "ckpt.pt")
    assert export.main([str(path), "--bits", str(bits), "--json"]) == export.EXIT_OK
    found = json.loads(capsys.readouterr().out)
    file = netfile.load(tmp_path / "ckpt.spikefold")
    network = file.network
    assert network.weight_bits == bits
    assert file.config == config_by_name(found["board"])
    program = compile_network(network, file.config)
    assert found["board"] == ("ulx3s-85f" if bits == 8 else f"ulx3s-85f/w{bits}")
    assert network.provenance["results"] == {"full_spike": 12.5}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert network.provenance["export"]["checkpoint_sha256"] == digest
    assert {layer.gate for layer in network.layers} == {Gate.NONE, Gate.OR, Gate.IAND}

    folded = fold(path)
    calibrated = quantize(folded, bits, calibration=dataset.train.images)
    for layer, expected in zip(network.layers, calibrated.layers, strict=True):
        np.testing.assert_array_equal(layer.bias, expected.bias)

    labels = dataset.validation.labels
    trace = run(network, dataset.validation.images)
    before = simulate(folded, dataset.validation.images).predictions
    assert found["accuracy"] == {
        "folded": np.mean(before == labels),
        "quantised": np.mean(trace.predictions == labels),
        "agreement": np.mean(before == trace.predictions),
    }
    maps = device_maps(network, dataset.validation.images, trace.spikes)
    cycles = [sum(predict_cycles(program, maps[n]).values()) for n in range(N_IMAGES)]
    assert found["n_cycles"] == pytest.approx(np.mean(cycles))
    assert found["latency_s"] == pytest.approx(np.mean(cycles) / file.config.clk_hz)
    for layer in found["layers"]:
        density = np.mean([images[layer["source"]].mean() for images in maps])
        assert layer["input_density"] == pytest.approx(density)
        if layer["source"] in trace.spikes:
            rates = network.statistics[layer["source"]]["channel_rates"]
            assert np.mean(rates) == pytest.approx(density, abs=1e-4)
        if layer["name"] == "input":  # the stem, which is no layer of the network
            continue
        assert network.statistics[layer["name"]]["input_density"] == layer["input_density"]
        assert layer["membrane_bits"] <= file.config.membrane_bits
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["layer2.0.conv2"]["unshared"] and not by_name["layer1.0.conv2"]["unshared"]
    assert by_name["fc"]["per_timestep"] and by_name["fc"]["unshared"]


def test_accuracy_before_and_after_is_not_confused(tmp_path: Path, dataset: Dataset) -> None:
    """Check that ``measure`` returns the accuracies before and after quantisation in the right
    fields.

    The output layer's weights and bias are negated in the integer network only, so that the
    accuracies differ.
    """
    folded = fold(a_checkpoint(tmp_path / "ckpt.pt"))
    network = quantize(folded)
    last = replace(
        network.layers[-1], weight=-network.layers[-1].weight, bias=-network.layers[-1].bias
    )
    turned = replace(network, layers=(*network.layers[:-1], last))
    split = Split(
        images=dataset.test.images,
        labels=run(turned, dataset.test.images).predictions.astype(np.uint8),
    )
    trace = run(turned, split.images)
    _, accuracy = exporting.measure(folded, turned, None, split.images, split.labels, trace)
    assert accuracy.quantised == 1.0
    assert accuracy.folded == accuracy.agreement < 1.0


def test_text_names_every_layer_and_board(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_checkpoint(tmp_path / "ckpt.pt")
    out = tmp_path / "other.spikefold"
    assert export.main([str(path), "-o", str(out), "--measure", "3"]) == export.EXIT_OK
    text = capsys.readouterr().out
    assert "3 validation images" in text and f"wrote {out}" in text
    for layer in netfile.load(out).network.layers:
        assert layer.name in text
    for board in BOARDS:
        assert f"\n{board}" in text
    assert "unshared, per timestep" in text and "no overflow can occur" in text


def test_a_named_width_of_the_board_may_be_wider(tmp_path: Path, dataset: Dataset) -> None:
    path = a_checkpoint(tmp_path / "ckpt.pt")
    assert export.main([str(path), "--bits", "4", "--board", "ulx3s-25f/w8"]) == export.EXIT_OK
    file = netfile.load(path.with_suffix(".spikefold"))
    assert file.network.weight_bits == 4
    assert file.config == config_by_name("ulx3s-25f")


def test_without_data_the_sample_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> Dataset:
        raise DataError("there is none")

    rng = np.random.default_rng(SEED)
    sample = Split(
        images=rng.integers(0, 256, (4, 1, 12, 12), np.uint8), labels=np.zeros(4, np.uint8)
    )
    monkeypatch.setattr(catalogue, "load", fail)
    monkeypatch.setattr(catalogue, "load_samples", lambda: sample)
    path = a_checkpoint(tmp_path / "ckpt.pt")
    assert export.main([str(path)]) == export.EXIT_OK
    text = capsys.readouterr().out
    assert "without the data set: there is none" in text and "4 shipped test images" in text
    assert export.main([str(path), "--data-dir", "nowhere"]) == export.EXIT_BAD_INPUT
    assert "there is none" in capsys.readouterr().err


def test_too_large_a_network_writes_nothing_and_says_what_would_fit(
    tmp_path: Path,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = a_checkpoint(tmp_path / "ckpt.pt")
    out = tmp_path / "net.spikefold"
    out.write_text("an older file")
    small = replace(config_by_name("ulx3s-85f"), name="small", weight_depth=1200)
    monkeypatch.setattr(export, "config_by_name", lambda _: small)
    code = export.main([str(path), "-o", str(out)])
    assert code == export.EXIT_NO
    printed = capsys.readouterr()
    assert "the network does not fit 'small': weight needs" in printed.err
    assert "nothing was written" in printed.err
    assert "would fit with --bits 4" in printed.out
    assert "layer2.0.conv2 shared over positions" in printed.out
    assert out.read_text() == "an older file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt.pt", "net.spikefold"]


def with_gate(gate: str) -> dict[str, Any]:
    config = ModelConfig(image_shape=(1, 12, 12), stages=(StageConfig(channels=8),)).to_dict()
    config["stages"][0]["blocks"][0]["gate"] = gate
    return {"model_config": config}


def test_bad_checkpoints_are_refused(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 2), whole)
    text = tmp_path / "text.pt"
    text.write_text("hello")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(a_checkpoint(tmp_path / "good.pt").read_bytes()[:3000])
    mixed = with_gate("ADD")
    blocks = mixed["model_config"]["stages"][0]["blocks"]
    blocks += [blocks[0], {**blocks[0], "gate": "OR"}]
    mixed["model"] = SpikingResNet(ModelConfig.from_dict(mixed["model_config"])).state_dict()
    mixed = a_checkpoint(tmp_path / "mixed.pt", **mixed)
    wrong = a_checkpoint(tmp_path / "wrong.pt", **with_gate("OR"))
    for path, message in (
        (whole, "more than tensors and plain values"),
        (text, "text.pt"),
        (cut, "cut.pt is damaged or no checkpoint"),
        (tmp_path / "missing.pt", "missing.pt: no such file"),
        (Path(), ".: no such file"),
        (mixed, "block 'layer1.2': its gate OR would join spikes with the sums of block"),
        (wrong, "does not fit model_config"),
    ):
        assert export.main([str(path)]) == export.EXIT_BAD_INPUT, message
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.spikefold"))


def test_other_bad_arguments(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_checkpoint(tmp_path / "ckpt.pt")
    assert export.main([str(path), "--board", "de10"]) == export.EXIT_BAD_INPUT
    assert "unknown board 'de10': did you mean 'de10-nano'? " in capsys.readouterr().err
    assert export.main([str(path), "-o", str(tmp_path / "no" / "net")]) == export.EXIT_BAD_INPUT
    assert "cannot be written" in capsys.readouterr().err
    for options, message in (
        (["--measure", "0"], "--measure takes a number of at least 1"),
        (["--timesteps", "0"], "--timesteps takes a number of at least 1"),
        (["--pixel-max", "0"], "--pixel-max and --dt take positive numbers"),
        (["--dt", "-1"], "--pixel-max and --dt take positive numbers"),
        (["--data", "x", "--input", "in.npz"], "--input: not allowed with argument --data"),
        (["--data-dir", "x", "--input", "in.npz"], "--data-dir is the folder of a data set"),
        (
            ["--timesteps", "8"],
            "--timesteps is for .nir files and state dicts only; read a state dict with --topology",
        ),
        (["--frames"], "--frames is for .nir files only"),
        (["--dt", "1"], "--dt is for .nir files only"),
        (["--pixel-max", "1"], "--pixel-max is for .nir files only"),
        (["--fires-at-threshold"], "--fires-at-threshold is for .nir files only"),
        (["--topology", "x", "--frames"], "--frames is for .nir files only"),
        (["net.nir", "--topology", "x"], "--topology is for state dicts only"),
    ):
        given = options if options[0] == "net.nir" else [str(path), *options]
        with pytest.raises(SystemExit) as exit_info:
            export.main(given)
        assert exit_info.value.code == export.EXIT_BAD_INPUT
        assert message in capsys.readouterr().err


def test_labels_to_measure_on_that_are_no_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.zeros((2, 1, 12, 12), np.uint8)
    np.savez(tmp_path / "in.npz", images=images, labels=[0, 10])
    path = a_checkpoint(tmp_path / "ckpt.pt")
    code = export.main([str(path), "--input", str(tmp_path / "in.npz")])
    assert code == export.EXIT_BAD_INPUT and not path.with_suffix(".spikefold").exists()
    assert "in.npz: labels are whole numbers from 0 to 9" in capsys.readouterr().err


def test_files_to_measure_on_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, ckpt = tmp_path / "in.npz", a_checkpoint(tmp_path / "ckpt.pt")

    def refused(message: str) -> None:
        assert export.main([str(ckpt), "--input", str(path)]) == export.EXIT_BAD_INPUT
        assert message in capsys.readouterr().err

    np.savez(path, images=np.zeros((2, 1, 12, 12), np.uint8), labels=np.zeros(3))
    refused("in.npz: 2 images but labels of shape (3,)")
    np.savez(path, images=np.zeros((0, 1, 12, 12), np.uint8))
    refused("in.npz holds no images to measure on")
    np.savez(path, images=np.zeros((2, 1, 12, 13), np.uint8))
    refused("(2, 1, 12, 13)")
    for raw in damaged_arrays():
        path.write_bytes(raw)
        refused("is no .npy or .npz file of plain arrays")


@pytest.mark.parametrize("labelled", [True, False])
def test_measuring_on_a_file_with_or_without_labels(
    labelled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = np.random.default_rng(1).integers(0, 256, (9, 144), np.uint8)
    arrays = {"images": flat} | ({"labels": np.arange(9)} if labelled else {})
    np.savez(tmp_path / "in.npz", **arrays)
    words = [str(a_checkpoint(tmp_path / "ckpt.pt")), "--input", str(tmp_path / "in.npz")]
    assert export.main(words) == export.EXIT_OK
    text = capsys.readouterr().out
    assert "on 9 images of in.npz: " in text
    assert ("folded " in text) is labelled and ("because of no labels" in text) is not labelled
    assert export.main([*words, "--json"]) == export.EXIT_OK
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert (accuracy["folded"] is not None) is labelled and 0 <= accuracy["agreement"] <= 1


def test_an_export_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a checkpoint is exported when its data set is missing.

    The report is then measured on the samples in the checkpoint; if there are none either, it has
    no measurements.
    """
    own = {"data": {"name": "mine", "own": True, "path": str(tmp_path / "gone.npz")}}
    samples = np.random.default_rng(1).integers(0, 256, (20, 1, 12, 12), np.uint8)
    ckpt = a_checkpoint(tmp_path / "ckpt.pt", calibration=torch.from_numpy(samples), **own)
    assert export.main([str(ckpt)]) == export.EXIT_OK
    text = capsys.readouterr().out
    assert "on the training samples in the checkpoint: the network was trained on own data" in text
    assert "quantising to 8 bits, compiling for ulx3s-85f, measuring on 20 training sa" in text
    assert "measured   on 20 training samples of the checkpoint: same class in" in text
    bare = a_checkpoint(tmp_path / "bare.pt", **own)
    assert export.main([str(bare)]) == export.EXIT_OK
    text = capsys.readouterr().out
    assert "measuring nothing, because the checkpoint holds no samples" in text
    assert "measured   nothing: no accuracy, spikes or cycles" in text and "latency" not in text
    assert netfile.load(bare.with_suffix(".spikefold")).config is not None
    assert export.main([str(bare), "--json"]) == export.EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] is found["n_cycles"] is None and found["layers"][0]["n_weights"]


def test_an_export_depends_on_the_checkpoint_alone(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that the compiled program depends on the checkpoint alone.

    It is compared for 1 and 4 threads, with and without samples to measure on.
    """
    samples = np.random.default_rng(1).integers(0, 256, (20, 1, 12, 12), np.uint8)
    ckpt = a_checkpoint(tmp_path / "ckpt.pt", calibration=torch.from_numpy(samples))
    np.savez(tmp_path / "in.npz", images=samples[:3])
    files = []
    n_threads = torch.get_num_threads()
    for threads, options in ((1, []), (4, ["--input", str(tmp_path / "in.npz")])):
        torch.set_num_threads(threads)
        try:
            assert export.main([str(ckpt), *options]) == export.EXIT_OK
        finally:
            torch.set_num_threads(n_threads)
        files.append(netfile.load(ckpt.with_suffix(".spikefold")))
    programs = [compile_network(file.network, config_by_name("ulx3s-85f")) for file in files]
    assert programs[0].images == programs[1].images
    assert programs[0].placements == programs[1].placements


def test_idle_threads_of_an_export_sleep(tmp_path: Path) -> None:
    """Check that OpenMP's wait policy is set when torch is imported, which reads it only then."""
    torch_py = "import os; raise SystemExit(os.environ.get('OMP_WAIT_POLICY'))"
    (tmp_path / "torch.py").write_text(torch_py)
    environ = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    ended = subprocess.run(
        [sys.executable, "-c", "import sw.cli.export"],
        env=environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"},
        capture_output=True,
        text=True,
    )
    assert ended.stderr == "PASSIVE\n"
