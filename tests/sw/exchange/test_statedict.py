"""Tests of the import of state dicts, against SpikingJelly and snnTorch themselves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from hw.spec import Gate, Leak, Reset
from sw.cli import export
from sw.convert.folded import simulate
from sw.exchange import integers, statedict, statefile, topology
from sw.exchange.assembly import Imported
from sw.exchange.describe import describe
from sw.exchange.graph import ExchangeError
from sw.exchange.statedict import from_state_dict
from sw.network import netfile, reference
from tests.damage import empty_pickle
from tests.datasets import easy_split
from tests.sw.csnn import CSNN, T

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SHAPE = (1, 12, 12)
IMAGES = np.random.default_rng(5).integers(0, 256, (20, *SHAPE), np.uint8)


def lived_in(net: nn.Module, seed: int = 0) -> nn.Module:
    """Set random weights and batch-norm statistics with which neurons fire; return the network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.bias):
                    assert values is not None
                    values.copy_(torch.randn(len(values), generator=generator) * 0.3)
                assert module.running_var is not None
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.2)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                weight = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(weight * 1.5 / weight[0].numel() ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(len(module.bias), generator=generator) * 0.1)
    return net.eval()


def jelly(net: nn.Module, images: np.ndarray = IMAGES) -> np.ndarray:
    """Run a network in SpikingJelly; return its mean output over the timesteps in float64."""
    net = net.double()
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    x = torch.from_numpy(images).double() / 255
    with torch.no_grad():
        total = sum(net(x) for _ in range(T))
    functional.reset_net(net)
    net.float()
    return np.asarray(total) / T


def imported(net: nn.Module, **options: Any) -> Imported:
    """Import a network from its state dict and its topology in JSON."""
    values = json.loads(json.dumps(describe(net, T, SHAPE, **options)))
    return from_state_dict(net.state_dict(), values)


NEURONS = {
    "IF": lambda: neuron.IFNode(),
    "IF, soft reset": lambda: neuron.IFNode(v_reset=None, v_threshold=0.75),
    "IF, shifted": lambda: neuron.IFNode(v_reset=0.5, v_threshold=1.25),
    "LIF, input decays": lambda: neuron.LIFNode(tau=2.0, v_threshold=0.25),
    "LIF": lambda: neuron.LIFNode(tau=4.0, decay_input=False, v_reset=-0.2, v_threshold=0.6),
    "LIF that keeps a quarter": lambda: neuron.LIFNode(tau=4 / 3, decay_input=False),
    "PLIF": lambda: neuron.ParametricLIFNode(init_tau=2.0, v_threshold=0.25),
}


@pytest.mark.parametrize("make", NEURONS.values(), ids=NEURONS.keys())
def test_every_neuron_of_spikingjelly_fires_as_there(make: Any) -> None:
    net = lived_in(CSNN(4, make=make))
    expected = jelly(net)
    found = simulate(imported(net).folded, IMAGES).logits
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert len(np.unique(expected)) > 2, "neurons must fire"


def test_the_shipped_topology_is_the_examples() -> None:
    net = lived_in(CSNN(3, 28))
    described = describe(net, T, (1, 28, 28))
    images = np.random.default_rng(1).integers(0, 256, (5, 1, 28, 28), np.uint8)
    known = from_state_dict(net.state_dict(), topology.load_topology("spikingjelly-csnn"))
    same = from_state_dict(net.state_dict(), described)
    np.testing.assert_array_equal(
        simulate(known.folded, images).logits, simulate(same.folded, images).logits
    )
    np.testing.assert_allclose(simulate(known.folded, images).logits, jelly(net, images), atol=1e-9)


class BasicBlock(nn.Module):
    """Block with the parts, names and gates of SpikingJelly's ``sew_resnet.BasicBlock``, which
    cannot be imported without torchvision."""

    def __init__(self, n_in: int, n_out: int, stride: int, cnf: str):
        super().__init__()
        self.conv1 = layer.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = layer.BatchNorm2d(n_out)
        self.sn1 = neuron.IFNode()
        self.conv2 = layer.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = layer.BatchNorm2d(n_out)
        self.sn2 = neuron.IFNode()
        self.downsample = None
        if n_in != n_out or stride != 1:
            conv = layer.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, layer.BatchNorm2d(n_out))
            self.downsample_sn = neuron.IFNode()
        self.cnf = cnf

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.sn1(self.bn1(self.conv1(x)))
        y = self.sn2(self.bn2(self.conv2(y)))
        if self.downsample is not None:
            x = self.downsample_sn(self.downsample(x))
        if self.cnf == "ADD":
            return x + y
        return x * y if self.cnf == "AND" else x * (1 - y)


class Residual(nn.Module):
    """Network of two SEW blocks, the second of which has weights on its shortcut."""

    def __init__(self, gate: str):
        super().__init__()
        self.conv1 = layer.Conv2d(1, 4, 3, padding=1)
        self.sn1 = neuron.IFNode()
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1, gate), BasicBlock(4, 6, 2, gate))
        self.avgpool = layer.AvgPool2d(3)
        self.fc = layer.Linear(24, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.avgpool(self.layer1(self.sn1(self.conv1(x)))).flatten(1))


ORDER = ("conv1", "sn1", "layer1", "avgpool", "fc")


@pytest.mark.parametrize("gate", ["AND", "IAND"])
def test_residual_blocks(gate: str) -> None:
    net = lived_in(Residual(gate), 3)
    description = describe(net, T, SHAPE)
    assert description == describe(net, T, SHAPE, order=ORDER) | {"layers": description["layers"]}
    assert [e["gate"] for e in description["layers"] if "block" in e] == [gate, gate]
    folded = from_state_dict(net.state_dict(), description).folded
    np.testing.assert_allclose(simulate(folded, IMAGES).logits, jelly(net), atol=1e-9)
    assert [x.gate for x in folded.layers if x.gate != Gate.NONE] == [Gate[gate]] * 2
    assert np.ptp(jelly(net)) > 0


def test_blocks_that_add() -> None:
    net = lived_in(Residual("ADD"), 3)
    description = describe(net, T, SHAPE)
    folded = from_state_dict(net.state_dict(), description).folded
    np.testing.assert_allclose(simulate(folded, IMAGES).logits, jelly(net), atol=1e-9)
    sums = [{"input", "layer1.0.conv2"}] * 2 + [{"layer1.1.downsample.0", "layer1.1.conv2"}]
    assert [set(layer.sources) for layer in folded.layers if layer.addends] == sums
    assert np.ptp(jelly(net)) > 0


def test_unknown_gates_are_named() -> None:
    net = Residual("ADD")
    description = describe(net, T, SHAPE)
    for n, entry in enumerate(e for e in description["layers"] if "block" in e):
        entry["gate"] = ("NAND", "NONE")[n]
    with pytest.raises(ExchangeError) as error:
        from_state_dict(net.state_dict(), description)
    gates = "use one of ADD, AND, IAND, OR, XOR"
    assert f"layer1.0: gate NAND is not known: {gates}" in str(error.value)
    assert f"layer1.1: gate NONE is not known: {gates}" in str(error.value)


def test_votes_are_means_of_groups() -> None:
    net = nn.Sequential(
        layer.Conv2d(1, 3, 3), neuron.IFNode(), layer.Flatten(), layer.Dropout(0.5),
        layer.Linear(300, 20), neuron.IFNode(), layer.VotingLayer(5),
    )  # fmt: skip
    net = lived_in(net, 1)
    expected = jelly(net)
    np.testing.assert_allclose(simulate(imported(net).folded, IMAGES).logits, expected)
    assert expected.shape == (20, 4) and np.ptp(expected) > 0


class Snn(nn.Module):
    """Network of snnTorch's neurons, which return spikes and membranes."""

    def __init__(self, **options: Any):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.lif1 = snntorch.Leaky(**options)
        self.fc = nn.Linear(4 * 12 * 12, 10)
        self.lif2 = snntorch.Leaky(**options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        total = torch.zeros(())
        for _ in range(T):
            spikes, mem1 = self.lif1(self.conv(x), mem1)
            spikes, mem2 = self.lif2(self.fc(spikes.flatten(1).to(x.dtype)), mem2)
            total = total + spikes
        return total / T


SNN_ORDER = ("conv", "lif1", "fc", "lif2")
SNN_NEURONS = (
    {"beta": 1.0, "reset_mechanism": "subtract", "threshold": 0.25},
    {"beta": 0.5, "reset_mechanism": "zero", "threshold": 0.25},
    {"beta": 0.875, "reset_mechanism": "zero", "threshold": 0.25, "reset_delay": False},
)


@pytest.mark.parametrize("options", SNN_NEURONS, ids=str)
def test_snntorch_fires_as_there(options: dict[str, Any]) -> None:
    net = lived_in(Snn(**options), 2).double()
    with torch.no_grad():
        expected = net(torch.from_numpy(IMAGES).double() / 255).numpy()
    folded = imported(net, order=SNN_ORDER).folded
    np.testing.assert_allclose(simulate(folded, IMAGES).logits, expected, atol=1e-9)
    assert len(np.unique(expected)) > 2
    assert folded.encoder is not None
    soft = options["reset_mechanism"] == "subtract"
    assert folded.encoder.reset == (Reset.SOFT if soft else Reset.HARD)


def test_snntorch_fires_above_its_threshold_not_at_it() -> None:
    """Check that neurons from snnTorch fire above their threshold, and SpikingJelly's also at
    it.
    """
    net = nn.Sequential(nn.Conv2d(1, 1, 1), snntorch.Leaky(beta=1.0, reset_mechanism="zero"))
    state = net.state_dict() | {"0.weight": torch.ones(1, 1, 1, 1), "0.bias": torch.zeros(1)}
    state |= {"2.weight": torch.eye(144)[:10]}
    values = describe(net, T, SHAPE, pixel_max=None)
    values["layers"] += [{"flatten": True}, {"linear": "2"}]
    network = integers.quantised(from_state_dict(state, values), 8)
    frames = np.ones((1, T, *SHAPE), np.uint8)
    assert reference.run(network, frames).logits.tolist() == [[2] * 10], "fires at 2, twice"
    jelly_like = {"format": topology.FORMAT, "framework": "spikingjelly", "timesteps": T}
    jelly_like |= {"image_shape": list(SHAPE), "pixel_max": None}
    layers = [{"conv": "0"}, {"neuron": "IF"}, {"flatten": True}, {"linear": "2"}]
    weights = {k: v for k, v in state.items() if not k.startswith("1.")}
    at = integers.quantised(from_state_dict(weights, {**jelly_like, "layers": layers}), 8)
    assert reference.run(at, frames).logits.tolist() == [[4] * 10], "fires at 1, every time"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.6, "reset_mechanism": "zero"}, "lif1: its membrane is multiplied by 0.6 at"),
        ({"beta": 0.5, "reset_mechanism": "none"}, "lif1: reset_mechanism='none'"),
        (
            {"beta": torch.tensor([0.5, 0.9, 0.8, 1.0]), "reset_mechanism": "zero"},
            "lif1: its membrane is multiplied by 0.8, 0.9 at every timestep",
        ),
        ({"beta": 1.0, "graded_spikes_factor": 2.0}, "lif1: graded spikes"),
    ],
)
def test_snntorch_neurons_that_the_device_has_not(options: dict[str, Any], message: str) -> None:
    net = Snn(**options)
    with pytest.raises(ExchangeError) as error:
        imported(net, order=SNN_ORDER)
    assert message in str(error.value)


def test_leaks_that_no_shift_is_are_named() -> None:
    net = CSNN(2, make=lambda: neuron.LIFNode(tau=3.0))
    with pytest.raises(ExchangeError) as error:
        imported(net)
    names = "conv_fc.2, conv_fc.6, conv_fc.10, conv_fc.12"
    assert f"{names}: its membrane is multiplied by 0.6667 at every timestep" in str(error.value)


def test_the_nearest_leak_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = lived_in(CSNN(3, make=lambda: neuron.LIFNode(tau=3.0, v_threshold=0.3)))
    torch.save(net.state_dict(), tmp_path / "csnn.pt")
    (tmp_path / "csnn.json").write_text(json.dumps(describe(net, T, SHAPE)))
    np.savez(tmp_path / "in.npz", images=IMAGES, labels=jelly(net).argmax(axis=1))
    options = [str(tmp_path / "csnn.pt"), "--topology", str(tmp_path / "csnn.json")]
    options += ["--input", str(tmp_path / "in.npz")]
    assert export.main(options) == export.EXIT_BAD_INPUT
    assert "take the nearest, 0.6875, with --nearest-leak" in capsys.readouterr().err
    assert export.main([*options, "--nearest-leak"]) == export.EXIT_OK
    said = capsys.readouterr().out
    assert "nearest    conv_fc.0: leak 0.6667 becomes 0.6875; " in said
    assert "of 20 samples; --data DATA --fine-tune 3 trains its integers with these leaks" in said
    assert export.main([*options, "--nearest-leak", "--json"]) == export.EXIT_OK
    change = json.loads(capsys.readouterr().out)["nearest_leak"]
    assert change["n_samples"] == 20 and len(change["layers"]) == 4
    assert change["layers"][0]["nearest"] == 0.6875 and change["layers"][0]["n_changed"] > 0
    network = netfile.load(tmp_path / "csnn.spikefold").network
    recorded = network.provenance["nearest_leak"]["conv_fc.4"]
    assert recorded == {"decay": [pytest.approx(2 / 3)]}


def test_an_imported_network_is_fine_tuned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that fine-tuning an imported network with approximated leaks reaches 100 % accuracy."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        neuron.LIFNode(tau=3.0, v_threshold=0.3),
        nn.Flatten(),
        nn.Linear(4 * 12 * 8, 2),
    )
    torch.save(net.state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.json").write_text(json.dumps(describe(net, T, (1, 14, 10))))
    arrays = {}
    for n_images, seed, part in ((200, 1, "train"), (60, 2, "test")):
        split = easy_split(n_images, seed)
        arrays |= {f"x_{part}": split.images, f"y_{part}": split.labels}
    np.savez(tmp_path / "mine.npz", **arrays)
    command = [str(tmp_path / "net.pt"), "--topology", str(tmp_path / "net.json")]
    command += ["--nearest-leak", "--fine-tune", "4"]
    with pytest.raises(SystemExit):
        export.main(command)
    assert "and needs --data to train on" in capsys.readouterr().err
    command += ["--data", str(tmp_path / "mine.npz")]
    assert export.main(command) == export.EXIT_OK
    said = capsys.readouterr().out
    assert "epoch 4/4: loss " in said and "nearest    0: leak 0.6667 becomes 0.6875" in said
    assert re.search(
        r"fine-tuned 4 epochs of 180 samples: accuracy \d+\.\d\d% becomes 100\.00%, [\d,]+ spikes "
        r"a sample become [\d,]+ \(in integers, on 20 validation images of mine",
        said,
    )
    assert export.main([*command, "--json"]) == export.EXIT_OK
    report = json.loads(capsys.readouterr().out)
    tuning = report["fine_tuning"]
    assert tuning["after"]["accuracy"] == report["accuracy"]["quantised"] == 1
    assert tuning["before"]["accuracy"] < 0.8
    network = netfile.load(tmp_path / "net.spikefold").network
    assert network.provenance["fine_tuned"] == {"data": "mine", "epochs": 4, "n_samples": 180}


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "net.pt")
    with pytest.raises(ExchangeError, match=r"net\.pt is damaged or no checkpoint: "):
        statefile.load(tmp_path / "net.pt")


def test_state_dicts_of_other_networks_are_refused() -> None:
    net = CSNN(2)
    values = describe(net, T, SHAPE)
    state = net.state_dict()
    for given, message in (
        ({k: v for k, v in state.items() if not k.startswith("conv_fc.4")},
         "conv_fc.4: the file has no tensor 'conv_fc.4.weight'; similar ones are conv_fc.0.weight"),
        ({**state, "aux.weight": torch.ones(2)}, "the topology does not use aux.weight"),
        ({**state, "conv_fc.0.weight": torch.ones(2, 3)}, "has 2 axes instead of 3 or 4"),
        (CSNN(2, 16).state_dict(), "node 'conv_fc.9': it takes 32 inputs, but the map"),
    ):  # fmt: skip
        with pytest.raises(ExchangeError) as error:
            from_state_dict(given, values)
        assert message in str(error.value)


def changed(**entries: Any) -> dict[str, Any]:
    return {**topology.TOPOLOGIES["spikingjelly-csnn"], **entries}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], '"format" must be "spikefold-topology"'),
        (changed(framework="lava"), '"framework" must be one of spikingjelly, snntorch'),
        (changed(image_shape=[28, 28]), '"image_shape" must be [channels, height, width]'),
        (changed(timesteps=0), '"timesteps" must be a whole number of at least 1'),
        (changed(pixel_max=-1), '"pixel_max" must be the value of a pixel of 255'),
        (changed(labels=5), '"labels" must be a list of names'),
        (changed(labels=["a", 1]), '"labels" must be a list of names'),
        (changed(colour=1), "unknown entries: colour"),
        (changed(layers={}), "layers must be a list"),
        (changed(layers=[{"con": "a"}]), "layers[0] must have one of conv, linear"),
        (changed(layers=[{"linear": "a", "padding": 1}]), "layers[0]: linear takes no padding"),
        (changed(layers=[{"block": "a", "gate": "OR"}]), "layers[0].branch must be a list"),
    ],
)
def test_topologies_are_checked(values: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ExchangeError) as error:
        topology.load_topology(str(path))
    assert message in str(error.value) and "net.json" in str(error.value)


class Attack:
    """Object that makes a folder if it is unpickled, which must not happen."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_state_dicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof = tmp_path / "attacked"
    torch.save({"conv_fc.0.weight": Attack(proof)}, tmp_path / "hostile.pt")
    torch.save(CSNN(2), tmp_path / "module.pt")
    torch.save({"a": torch.ones(1), "b": 3}, tmp_path / "mixed.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"format": "spikefold-checkpoint"}, tmp_path / "ours.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    empty_pickle(tmp_path / "cut.pt")
    for name, message in (
        ("hostile", "hostile.pt holds more than tensors and plain values, which could run code"),
        ("module", "torch.save(net.state_dict(), path)"),
        ("mixed", "mixed.pt holds b besides tensors"),
        ("list", "list.pt holds no state dict (a dict of tensors by name): save net.state_dict("),
        ("old", "old.pt has the format of PyTorch before 1.6, write it again with torch.save(tor"),
        ("ours", "ours.pt was made by sw.train: it needs no --topology"),
        ("text", "text.pt is damaged or no checkpoint: torch.save did not write it"),
        ("empty", "empty.pt is damaged or no checkpoint: torch.save did not write it"),
        ("cut", "cut.pt is damaged or no checkpoint: pop from empty list"),
        ("missing", "missing.pt: no such file"),
    ):
        path = tmp_path / f"{name}.pt"
        code = export.main([str(path), "--topology", "spikingjelly-csnn"])
        assert code == export.EXIT_BAD_INPUT, name
        assert message in capsys.readouterr().err
        assert not path.with_suffix(".spikefold").exists()
    assert not proof.exists(), "nothing in the file may run"
    assert export.main([str(path), "--topology", "resnet"]) == export.EXIT_BAD_INPUT
    assert (
        "topology 'resnet': No such file or directory; known are spikingjelly-csnn; or give"
        in capsys.readouterr().err
    )
    (tmp_path / "bad.json").write_text("{")
    assert export.main([str(path), "--topology", str(tmp_path / "bad.json")]) == 2
    assert "is not JSON" in capsys.readouterr().err


WRAPPED: dict[str, Any] = {
    "as it is": lambda state: state,
    "compiled and parallel": lambda state: prefixed(state, "_orig_mod.module."),
    "parallel and compiled": lambda state: prefixed(state, "module._orig_mod."),
    "a part of a LightningModule": lambda state: {
        "state_dict": prefixed(state, "net."), "epoch": 3, "hyper_parameters": {"lr": 0.1}
    },
    "under a key of its own": lambda state: {"model_state": state, "epoch": 3, "optimizer": {}},
}  # fmt: skip


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_names_of_tensors_in_wrappers(wrap: Any, tmp_path: Path) -> None:
    net, csnn = lived_in(CSNN(2, 28)), topology.TOPOLOGIES["spikingjelly-csnn"]
    torch.save(wrap(net.state_dict()), tmp_path / "net.pt")
    found = statedict.read(tmp_path / "net.pt", csnn).folded
    expected = from_state_dict(net.state_dict(), csnn).folded
    for a, b in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)


def test_files_without_a_topology_name_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(CSNN(2).state_dict(), tmp_path / "csnn.pt")
    torch.save({"net": CSNN(2).state_dict(), "epoch": 3}, tmp_path / "nested.pt")
    torch.save(CSNN(2), tmp_path / "module.pt")
    for name, message in (
        ("csnn", "csnn.pt is a state dict of another framework (conv_fc.0.weight, conv_fc.1.w"),
        ("nested", "nested.pt is a state dict of another framework"),
        ("module", "save only the state dict: torch.save(net.state_dict(), path); then give --to"),
    ):
        assert export.main([str(tmp_path / f"{name}.pt")]) == export.EXIT_BAD_INPUT
        said = capsys.readouterr().err
        assert message in said
        assert "--topology FILE, a JSON file that sw.exchange.describe makes" in said
        assert "--topology spikingjelly-csnn" in said


def test_export_takes_state_dicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a state dict is exported that is stored in a checkpoint under the key ``net``."""
    net = lived_in(CSNN(3))
    torch.save({"net": net.state_dict(), "epoch": 3}, tmp_path / "csnn.pt")
    (tmp_path / "csnn.json").write_text(json.dumps(describe(net, T, SHAPE)))
    labels = jelly(net).argmax(axis=1)
    np.savez(tmp_path / "in.npz", images=IMAGES, labels=labels)
    options = ["--topology", str(tmp_path / "csnn.json"), "--input", str(tmp_path / "in.npz")]
    assert export.main([str(tmp_path / "csnn.pt"), *options, "--json"]) == export.EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"]["folded"] == 1.0, "the folded network is SpikingJelly's"
    network = netfile.load(tmp_path / "csnn.spikefold").network
    assert [x.name for x in network.layers] == ["conv_fc.4", "conv_fc.9", "conv_fc.11", "count"]
    assert network.provenance["imported"]["from"] == "spikingjelly"
    assert all(x.leak == Leak.NONE for x in network.layers)


def test_modules_that_cannot_be_described() -> None:
    for net, message in (
        (nn.Sequential(nn.ReLU()), "0: a ReLU cannot be mapped"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="reflect")), "0: padding_mode='reflect'"),
    ):
        with pytest.raises(ExchangeError) as error:
            describe(net, T, SHAPE)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"conv": "conv_fc.0", "padding": "same"},
            "conv_fc.0: padding 'same' must be one whole number or two, of at least 0",
        ),
        ({"conv": "conv_fc.0", "stride": 0}, "conv_fc.0: stride 0 must be"),
        ({"conv": "conv_fc.0", "stride": 1.5}, "conv_fc.0: stride 1.5 must be"),
        ({"conv": "conv_fc.0", "dilation": None}, "conv_fc.0: dilation None must be"),
        ({"pool": "max", "kernel": 0}, "pool 0: kernel 0 must be one whole number or two, of at"),
        ({"pool": "max", "kernel": None}, "pool 0: kernel None must be"),
        ({"pool": "max", "stride": 0}, "pool 0: stride 0 must be"),
        (
            {"norm": "conv_fc.1", "eps": None},
            "conv_fc.1: eps None must be a finite number of at least 0",
        ),
        (
            {"norm": "conv_fc.1", "eps": -1},
            "conv_fc.1: eps -1 must be a finite number of at least 0",
        ),
        ({"neuron": "IF", "threshold": "x"}, "neuron 0: threshold 'x' must be a finite number"),
        (
            {"neuron": "IF", "threshold": float("nan")},
            "neuron 0: threshold nan must be a finite number",
        ),
        ({"neuron": "IF", "reset": []}, "neuron 0: reset [] must be a finite number"),
        ({"neuron": "LIF", "tau": None}, "neuron 0: tau None must be a finite number"),
        ({"vote": "x"}, "vote 0: 8 neurons cannot be divided into groups of 'x'"),
        ({"conv": "conv_fc.0", "dilation": 0}, "conv_fc.0: dilation 0 must be"),
        ({"conv": "conv_fc.0", "groups": 3}, "8 output channels cannot be divided into 3 groups"),
        ({"conv": "conv_fc.0", "groups": None}, "groups None must be a whole number"),
        ({"pool": "max", "kernel": 2, "output": [1, 1]}, "an output size excludes kernel"),
        ({"pool": "average", "divisor": 0.5}, "divisor 0.5 must be a whole number"),
        ({"pool": "max", "ceil": 1}, "ceil 1 must be true or false"),
        ({"pool": "max", "divisor": 2}, "pool 0: only average pooling takes a divisor"),
        ({"neuron": "IF", "tau": 2.0}, "neuron 0: IF neurons take no tau"),
        ({"pool": "median"}, "pool 0: pool 'median' is not supported; use max or average"),
        ({"vote": 3}, "vote 0: 8 neurons cannot be divided into groups of 3"),
        ({"neuron": "Izhikevich"}, "neuron 0: neuron 'Izhikevich' is not supported"),
        ({"neuron": "LIF", "tau": 1.0}, "neuron 0: tau = 1 must be above 1"),
        ({"neuron": "PLIF", "name": "sn"}, "sn: the file has no tensor 'sn.w'"),
        ({"norm": "conv_fc.4"}, "conv_fc.4: the file has no tensor 'conv_fc.4.running_mean'"),
    ],
)
def test_wrong_entries_are_named(entry: dict[str, Any], message: str) -> None:
    state = CSNN(8).state_dict()
    width = [{"block": "b", "gate": "OR", "branch": [{"conv": "conv_fc.4"}], "identity": []}]
    layers = [entry, *width] if "vote" not in entry else [*width, entry]
    values = {**describe(CSNN(8), T, SHAPE), "layers": layers}
    with pytest.raises(ExchangeError) as error:
        from_state_dict(state, values)
    assert message.replace("vote 0", "vote 1") in str(error.value)


def test_snntorch_neurons_that_are_not_there() -> None:
    net = Snn(beta=1.0)
    values = describe(net, T, SHAPE, order=SNN_ORDER)
    state = net.state_dict()
    for given, message in (
        ({k: v for k, v in state.items() if k != "lif1.beta"}, "no lif1.threshold or no lif1.beta"),
        ({**state, "lif2.alpha": torch.ones(())}, "synaptic and recurrent neurons are"),
    ):
        with pytest.raises(ExchangeError) as error:
            from_state_dict(given, values)
        assert message in str(error.value)
    values["layers"][1]["threshold"] = 0.5
    with pytest.raises(ExchangeError, match="lif1: snnTorch's neurons take no threshold: the file"):
        from_state_dict(state, values)
