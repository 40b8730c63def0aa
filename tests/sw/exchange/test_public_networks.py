"""Tests of the table of public networks in docs/exchange.md: each is imported and compared with its
own framework.

Networks are built with fewer channels where their classes allow it, and get random weights. Every
spike of an imported network must equal the framework's, or the network must be refused for the
reason that the table gives.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import snntorch
import torch
from numpy.typing import NDArray
from snntorch import utils as snn_utils
from snntorch.export_nir import export_to_nir as from_snntorch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.examples.memopt import models as memopt
from spikingjelly.activation_based.model import ms_resnet, parametric_lif_net, qkformer, spikformer
from spikingjelly.activation_based.nir_exchange import export_to_nir as from_spikingjelly
from torch import Tensor, nn
from torch.nn import functional as F

from hw.spec import Reset
from sw.convert.folded import FoldedNetwork, simulate
from sw.exchange import nearest
from sw.exchange.assembly import Imported
from sw.exchange.describe import describe
from sw.exchange.graph import ExchangeError
from sw.exchange.nir_read import NirOptions, from_graph, read
from sw.exchange.statedict import from_state_dict
from tests.sw.csnn import CSNN
from tests.sw.exchange.test_nir_files import simulated
from tests.sw.exchange.test_statedict import lived_in

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)
DOCUMENT = (Path(__file__).parents[3] / "docs" / "exchange.md").read_text()
T = 3
LIF = {"spiking_neuron": neuron.LIFNode, "v_threshold": 0.3}

Shape = tuple[int, int, int]


@pytest.fixture
def sequential_examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import and return SpikingJelly's example ``rsnn_sequential_fmnist.py``.

    It imports torchvision and TensorBoard, only to train, so stand-ins take their places.
    """
    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    from spikingjelly.activation_based.examples import rsnn_sequential_fmnist

    yield rsnn_sequential_fmnist


@pytest.fixture
def resnets(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ...]]:
    """Import and return three modules of SpikingJelly's networks.

    They import torchvision, only to download weights, so a stand-in takes its place.
    """
    name = "torchvision._internally_replaced_utils"
    stub = ModuleType(name)
    stub.load_state_dict_from_url = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, name, stub)
    from spikingjelly.activation_based.model import sew_resnet, spiking_resnet, spiking_vgg

    yield sew_resnet, spiking_resnet, spiking_vgg


@dataclass
class Recorded:
    """Results of a network in its own framework: its output, as a mean over the timesteps, and the
    spikes of all neurons."""

    output: NDArray[np.float64]
    spikes: dict[str, NDArray[np.uint8]]
    """Spikes (N, T, ...) of all neurons, by name of their module, in the order of the modules."""


def samples(shape: Shape, frames: bool, n: int = 2) -> NDArray[np.uint8]:
    rng = np.random.default_rng(9)
    if frames:
        return (rng.random((n, T, *shape)) < 0.3).astype(np.uint8)
    return rng.integers(0, 256, (n, *shape), np.uint8)


def recorded(net: nn.Module, inputs: NDArray[np.uint8], is_neuron: Any) -> Recorded:
    """Run a network in its framework, in float64 and timestep by timestep; return output and
    spikes.

    ``inputs`` are images (N, C, H, W) or frames (N, T, C, H, W), and ``is_neuron`` is the base
    class of the framework's neurons.
    """
    net = net.double().eval()
    spikes: dict[str, list[Tensor]] = {}
    hooks = []
    for name, module in net.named_modules():
        if not isinstance(module, is_neuron):
            continue

        def keep(module: nn.Module, given: Any, result: Any, name: str = name) -> Any:
            now = result[0] if isinstance(result, tuple) else result
            spikes.setdefault(name, []).append(now)
            doubled = now.double()  # snnTorch's spikes are float32
            return (doubled, *result[1:]) if isinstance(result, tuple) else doubled

        hooks.append(module.register_forward_hook(keep))
    total: Any = 0
    with torch.no_grad():
        for t in range(T):
            now = inputs[:, t] if inputs.ndim == 5 else inputs / 255
            result = net(torch.from_numpy(now).double())
            total = total + (result[0] if isinstance(result, tuple) else result)
    for hook in hooks:
        hook.remove()
    net.float()
    found = {name: torch.stack(parts, 1).numpy().astype(np.uint8) for name, parts in spikes.items()}
    return Recorded(np.asarray(total) / T, found)


class AtOnce(nn.Module):
    """Network that returns all of its outputs at its first call, and then 0.

    It is made from a network that takes the frames of all timesteps at once.
    """

    def __init__(self, net: nn.Module, sequence: NDArray[np.uint8]):
        super().__init__()
        self.net = net
        self.sequence = torch.from_numpy(sequence.copy()).double()
        self.done = False

    def forward(self, x: Tensor) -> Tensor:
        if self.done:
            return torch.zeros(())
        self.done = True
        outputs = self.net(self.sequence)
        return T * outputs if outputs.ndim == 2 else outputs.sum(0)


def in_sequence(
    net: nn.Module, inputs: NDArray[np.uint8], is_neuron: Any, samples_first: bool = False
) -> Recorded:
    """Run a network that takes the frames of all timesteps at once; return its mean output and its
    spikes.

    ``samples_first`` says that its input has the axes (N, T, ...) instead of (T, N, ...).
    """
    found = recorded(
        AtOnce(net, inputs if samples_first else inputs.swapaxes(0, 1)), inputs, is_neuron
    )
    spikes = {k.removeprefix("net."): v for k, v in found.spikes.items()}
    if is_neuron is neuron.BaseNode:  # one call for all timesteps, whose axis comes first
        spikes = {k: v[:, 0].swapaxes(0, 1) for k, v in spikes.items()}
    return Recorded(found.output, spikes)


def check_spikes(imported: Imported, expected: Recorded, inputs: NDArray[np.uint8]) -> None:
    """Check that the layers of an imported network, which has no gates, fire the framework's
    spikes.
    """
    trace = simulate(imported.folded, inputs, keep_spikes=True)
    np.testing.assert_allclose(trace.logits, expected.output, atol=1e-9)
    folded = imported.folded
    names = (["input"] if folded.encoder else []) + [x.name for x in folded.layers[:-1]]
    assert len(names) == len(expected.spikes)
    for name, spikes in zip(names, expected.spikes.values(), strict=True):
        found = trace.spikes[name]
        layer = (
            folded.encoder if name == "input" else next(x for x in folded.layers if x.name == name)
        )
        assert layer is not None
        own = (
            torch.from_numpy(spikes)
            .double()
            .reshape(*spikes.shape[:3], *(spikes.shape[3:] or (1, 1)))
        )
        pooled = F.max_pool2d(own.flatten(0, 1), layer.pool)
        np.testing.assert_array_equal(found.reshape(pooled.shape), pooled.numpy())
        assert 0 < spikes.mean() < 1, f"{name} must fire, but not always"


def jelly(net: nn.Module, shape: Shape, frames: bool) -> None:
    """Check that every spike of an imported SpikingJelly network equals SpikingJelly's.

    Its input has the shape ``shape`` (C, H, W), and is binary frames or, without ``frames``,
    images.
    """
    net = lived_in(net, 2)
    functional.set_step_mode(net, "s")
    values = describe(net, T, shape, pixel_max=None if frames else 1.0)
    inputs = samples(shape, frames)
    expected = recorded(net, inputs, neuron.BaseNode)
    functional.reset_net(net)
    check_spikes(from_state_dict(net.state_dict(), values), expected, inputs)


PARAMETRIC: dict[str, tuple[Any, Shape, bool]] = {
    "MNISTNet": (parametric_lif_net.MNISTNet, (1, 28, 28), False),
    "FashionMNISTNet": (parametric_lif_net.FashionMNISTNet, (1, 28, 28), False),
    "NMNISTNet": (parametric_lif_net.NMNISTNet, (2, 34, 34), True),
    "CIFAR10Net": (parametric_lif_net.CIFAR10Net, (3, 32, 32), False),
    "CIFAR10DVSNet": (parametric_lif_net.CIFAR10DVSNet, (2, 128, 128), True),
    "DVSGestureNet": (parametric_lif_net.DVSGestureNet, (2, 128, 128), True),
}


@pytest.mark.parametrize(("make", "shape", "frames"), PARAMETRIC.values(), ids=PARAMETRIC.keys())
def test_networks_of_parametric_lif_net(make: Any, shape: Shape, frames: bool) -> None:
    jelly(make(channels=2, **LIF), shape, frames)


def test_parametric_neurons_of_other_time_constants_take_the_nearest() -> None:
    """Check that PLIF neurons with a time constant of 1.8 are imported with the nearest leak of the
    device.
    """
    make, shape, frames = PARAMETRIC["MNISTNet"]
    net = make(channels=2, spiking_neuron=neuron.ParametricLIFNode, v_threshold=0.3, init_tau=1.8)
    near(lived_in(net, 2), shape, frames, neuron.BaseNode, functional.reset_net)


def near(net: nn.Module, shape: Shape, frames: bool, is_neuron: Any, reset: Any) -> nearest.Change:
    """Check that a network is imported with approximated leaks only on request, and return the
    reported change.

    The report must compare with the spikes that the framework itself computes. ``is_neuron`` is the
    base class of the framework's neurons, and ``reset`` resets the membranes of a network.
    """
    values = describe(net, T, shape, pixel_max=None if frames else 1.0)
    with pytest.raises(ExchangeError, match="--nearest-leak"):
        from_state_dict(net.state_dict(), values)
    inputs = samples(shape, frames)
    expected = recorded(net, inputs, is_neuron)
    reset(net)
    imported = from_state_dict(net.state_dict(), values, nearest_leak=3)
    logits, _ = nearest.in_framework(imported, inputs)
    np.testing.assert_allclose(logits, expected.output, atol=1e-5)
    change = nearest.measure(imported, inputs)
    assert len(change.layers) == len(expected.spikes)
    assert sum(x.n_spikes for x in change.layers) > 0
    return change


def test_spikingjelly_examples() -> None:
    jelly(CSNN(3, 28), (1, 28, 28), False)
    lif = neuron.LIFNode(tau=2.0, v_threshold=0.2)
    mlp = nn.Sequential(layer.Flatten(), layer.Linear(784, 10, bias=False), lif)
    jelly(mlp, (1, 28, 28), True)


def test_sequential_fashion_mnist(sequential_examples: ModuleType) -> None:
    """Check the networks of ``rsnn_sequential_fmnist.py``, which read one row at every timestep."""
    net = lived_in(sequential_examples.PlainNet(), 2)
    functional.set_step_mode(net, "m")
    inputs = samples((28, 1, 1), True)
    imported = from_state_dict(net.state_dict(), describe(net, T, (28,), pixel_max=None))
    check_spikes(imported, in_sequence(net, inputs[..., 0, 0], neuron.BaseNode), inputs)
    for name, reason in (
        ("StatefulSynapseNet", r"fc\.2: a SynapseFilter .* synapses have a state of their own"),
        ("FeedBackNet", r"fc\.1: a LinearRecurrentContainer cannot be mapped: it is recurrent"),
    ):
        with pytest.raises(ExchangeError, match=reason):
            describe(getattr(sequential_examples, name)(), T, (28,), pixel_max=None)


def test_vgg_of_memopt() -> None:
    """Check the network of SpikingJelly's example ``memopt``, with fewer blocks and channels.

    Its stock neurons have a time constant of 1.333, so they take the nearest leak.
    """
    options = {"decay_input": False, "step_mode": "m", "v_threshold": 0.3}
    for tau in (2.0, 1.333):
        net = memopt.CIFAR10DVSVGG(tau=tau)
        net.features = nn.Sequential(
            memopt.VGGBlock(2, 4, 3, 1, 1, tau=tau, **options),
            memopt.VGGBlock(4, 3, 3, 1, 1, True, tau=tau, **options),
            layer.AvgPool2d(2),
        )
        net.classifier = nn.Sequential(nn.Dropout(0.25), nn.Linear(27, 10))
        net = lived_in(functional_mode(net), 2)
        values = describe(net, T, (2, 12, 12), pixel_max=None)
        if tau != 2.0:
            with pytest.raises(
                ExchangeError, match=r"0\.24981 at every .*0\.24982, with --nearest-leak"
            ):
                from_state_dict(net.state_dict(), values)
            assert from_state_dict(net.state_dict(), values, nearest_leak=3).near
            continue
        inputs = samples((2, 12, 12), True)
        expected = in_sequence(net, inputs, neuron.BaseNode, samples_first=True)
        check_spikes(from_state_dict(net.state_dict(), values), expected, inputs)


def functional_mode(net: nn.Module) -> nn.Module:
    functional.set_step_mode(net, "m")
    return net


def test_membrane_shortcuts() -> None:
    """Check MS-ResNets, whose blocks add weighted sums of all blocks before them.

    On images, several layers would have to read the image, which only one can.
    """
    net = ms_resnet.MSResNet(
        T, 2, 5, (1, 1, 2), base_channels=4, spiking_neuron=neuron.IFNode, v_threshold=0.3
    )
    net = lived_in(net, 2)
    inputs = samples((2, 24, 24), True)
    expected = in_sequence(net, inputs, neuron.BaseNode)
    values = describe(net, T, (2, 24, 24), pixel_max=None)
    folded = from_state_dict(net.state_dict(), values).folded
    trace = simulate(folded, inputs, keep_spikes=True)
    np.testing.assert_allclose(trace.logits, expected.output, atol=1e-9)
    assert np.ptp(expected.output, axis=0).min() > 0
    with pytest.raises(ExchangeError, match=r"adds weights of the image to spikes.* put neurons"):
        from_state_dict(net.state_dict(), describe(net, T, (2, 24, 24)))


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_depthwise_vgg_with_soft_reset(pool: Any) -> None:
    """Check that a small VGG with soft reset, as model zoos define it, keeps every spike.

    It has batch-norms and a depthwise convolution.
    """

    def fires() -> nn.Module:
        return neuron.LIFNode(tau=2.0, v_threshold=0.3, v_reset=None, decay_input=False)

    net = nn.Sequential(
        layer.Conv2d(3, 4, 3, padding=1), layer.BatchNorm2d(4), fires(), pool(2),
        layer.Conv2d(4, 4, 3, padding=1, groups=4), layer.BatchNorm2d(4), fires(),
        layer.Conv2d(4, 6, 1), layer.BatchNorm2d(6), fires(), pool(2),
        layer.Flatten(), layer.Linear(54, 5),
    )  # fmt: skip
    jelly(net, (3, 12, 12), False)


def resnet(net: nn.Module, layers: dict[str, str]) -> FoldedNetwork:
    """Check that an 18-layer network has the same spikes after the import as in SpikingJelly.

    Return the imported network in folded form. ``layers`` maps the name of a block's neurons in
    SpikingJelly to the name of the imported layer that must fire the same spikes.
    """
    net = lived_in(net, 1)
    values = describe(net, T, (3, 32, 32))
    folded = from_state_dict(net.state_dict(), values).folded
    inputs = samples((3, 32, 32), False, 1)
    expected = recorded(net, inputs, neuron.BaseNode)
    trace = simulate(folded, inputs, keep_spikes=True)
    np.testing.assert_allclose(trace.logits, expected.output, atol=1e-6)
    active = 0
    for name in (f"layer{stage}.{n}" for stage in (1, 2, 3, 4) for n in (0, 1)):
        for neurons, own in layers.items():
            spikes = trace.spikes[f"{name}.{own}"]
            np.testing.assert_array_equal(spikes, expected.spikes[f"{name}.{neurons}"])
            active += bool(spikes.any()) and not bool(spikes.all())
    assert active > 4
    return folded


@pytest.mark.parametrize("gate", ["AND", "IAND", "ADD"])
def test_sew_resnet18(gate: str, resnets: tuple[ModuleType, ...]) -> None:
    net = resnets[0].sew_resnet18(cnf=gate, spiking_neuron=neuron.IFNode, num_classes=4)
    layers = {"sn1": "conv1"} | ({"sn2": "conv2"} if gate == "ADD" else {})
    folded = resnet(net, layers)
    sums = {layer.name: layer.addends for layer in folded.layers if layer.addends}
    assert (gate == "ADD") == (sums.get("layer2.1.conv1") == ("layer2.0.conv2",))


def test_spiking_resnet18(resnets: tuple[ModuleType, ...]) -> None:
    """Check that Spiking ResNet-18 is imported with the same spikes and with the expected layers.

    Its blocks add their shortcut to the input of their last neurons. So the last layer of a block
    must read several maps, each with weights of its own. A block with a stride also needs a layer
    that copies the shortcut's spikes.
    """
    net = resnets[1].spiking_resnet18(spiking_neuron=neuron.IFNode, num_classes=4)
    folded = resnet(net, {"sn1": "conv1", "sn2": "conv2"})
    added = [layer for layer in folded.layers if layer.addends]
    assert len(added) == 8 and all(layer.stacked for layer in added)
    copies = [layer.name for layer in folded.layers if ".copy" in layer.name]
    assert copies == [f"layer{n}.0.conv2.copy1" for n in (2, 3, 4)]


@pytest.mark.parametrize("size", [12, 28])
def test_spiking_vgg(size: int, resnets: tuple[ModuleType, ...]) -> None:
    """Check SpikingJelly's VGG with fewer layers and channels, and small matrices behind them.

    Before the matrices, maps of 3 x 3 are enlarged to 7 x 7, and those of 7 x 7 stay.
    """
    with torch.device("meta"):  # its own matrices have 119 million weights
        net = resnets[2].SpikingVGG([4, "M", 5, "M"], True, spiking_neuron=neuron.IFNode)
    net.classifier = nn.Sequential(layer.Linear(245, 9), neuron.IFNode(), layer.Linear(9, 4))
    net.features.to_empty(device="cpu")
    for module in net.features:
        if isinstance(module, layer.BatchNorm2d):
            nn.init.ones_(module.weight)
    jelly(net, (3, size, size), False)


def test_networks_that_were_converted_from_relus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check SpikingJelly's ``ann2snn``, which imports requests, only to download weights."""
    monkeypatch.setitem(sys.modules, "requests", ModuleType("requests"))
    from spikingjelly.activation_based import ann2snn
    from spikingjelly.activation_based.ann2snn.sample_models import mnist_cnn

    inputs = samples((1, 28, 28), False)
    batches = [(torch.from_numpy(inputs / 255).float(), None)]
    recipe = ann2snn.RateCodingRecipe(batches, mode=0.3)  # high rates in few timesteps
    net = ann2snn.FXConverter(recipe).convert(lived_in(mnist_cnn.CNN(), 2))
    values = describe(net, T, (1, 28, 28))
    expected = recorded(net, inputs, neuron.BaseNode)
    check_spikes(from_state_dict(net.state_dict(), values), expected, inputs)


def test_transformers_are_refused_by_what_they_contain() -> None:
    net = spikformer.spikformer_ti(num_classes=4)
    with pytest.raises(ExchangeError, match=r"blocks\.0\.attn, .*SpikingSelfAttention cannot be"):
        describe(net, T, (3, 32, 32))

    net = qkformer.QKFormer(num_classes=4)
    with pytest.raises(
        ExchangeError, match=r"stage1\.0\.attn: a QKAttention cannot be mapped: it m"
    ):
        describe(net, T, (3, 32, 32))


class SnnBlock(nn.Module):
    """Fully connected neurons that run all timesteps in a loop of their own.

    Each layer of the controllers of prostheses in the repository
    ``parkjunho12/snn-controller-neuroprosthetic`` is such a block.
    """

    def __init__(self, n_in: int, n_out: int, beta: float):
        super().__init__()
        self.fc = nn.Linear(n_in, n_out)
        self.lif = snntorch.Leaky(beta=beta, threshold=0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        timesteps, _, _ = x.shape
        mem = self.lif.init_leaky()
        spikes, membranes = [], []
        for t in range(timesteps):
            spk, mem = self.lif(self.fc(x[t]), mem)
            spikes.append(spk)
            membranes.append(mem)
        return torch.stack(spikes, 0), torch.stack(membranes, 0)


class EmgClassifier(nn.Module):
    """Classifier made of :class:`SnnBlock` layers, without its random rate coding."""

    def __init__(self, beta: float):
        super().__init__()
        self.layers = nn.ModuleList([SnnBlock(14, 24, beta), SnnBlock(24, 32, beta)])
        self.output_layer = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x, _ = block(x)
        return self.output_layer(x.mean(dim=0))


def test_a_controller_of_prostheses() -> None:
    inputs = samples((14, 1, 1), True)
    for beta in (0.9375, 0.95):
        net = lived_in(EmgClassifier(beta), 2)
        expected = in_sequence(net, inputs[..., 0, 0], snntorch.SpikingNeuron)
        values = describe(net, T, (14, 1, 1), pixel_max=None)
        if beta == 0.9375:
            check_spikes(from_state_dict(net.state_dict(), values), expected, inputs)
            continue
        imported = from_state_dict(net.state_dict(), values, nearest_leak=3)
        logits, _ = nearest.in_framework(imported, inputs)
        np.testing.assert_allclose(logits, expected.output, atol=1e-5)


class Tutorial5(nn.Module):
    """The fully connected network of snnTorch's tutorial 5, which loops over the timesteps."""

    def __init__(self, beta: float = 0.95, **options: Any):
        super().__init__()
        self.fc1 = nn.Linear(784, 40)
        self.lif1 = snntorch.Leaky(beta=beta, **options)
        self.fc2 = nn.Linear(40, 10)
        self.lif2 = snntorch.Leaky(beta=beta, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spikes, membranes = [], []
        for _ in range(T):
            spk1, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class Once(nn.Module):
    """Network that runs all timesteps in one call, made from a network that runs one per call."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.t = -1

    def forward(self, x: Tensor) -> Tensor:
        if self.t < 0:
            self.outputs = self.net(x)[0]
        self.t += 1
        return self.outputs[self.t]


def loops(net: nn.Module) -> Recorded:
    """Run a network whose forward method loops over the timesteps; return its output and spikes."""
    inputs = samples((1, 28, 28), False)
    found = recorded(Once(net), inputs, snntorch.SpikingNeuron)
    return Recorded(found.output, {k.removeprefix("net."): v for k, v in found.spikes.items()})


def tutorial_networks(beta: float) -> dict[str, tuple[nn.Module, Shape, bool]]:
    """Return the networks of three tutorials of snnTorch, with fewer neurons, by name: each with
    the shape of its input, and whether its input is binary frames; otherwise it is images."""

    def fires(**options: Any) -> nn.Module:
        return snntorch.Leaky(beta=beta, init_hidden=True, threshold=0.3, **options)

    def hidden() -> list[nn.Module]:
        return [part for _ in range(3) for part in (nn.Linear(32, 32), fires())]

    tactile = nn.Sequential(
        nn.Conv2d(2, 8, 4), fires(), nn.Conv2d(8, 8, 3), fires(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 10), fires(output=True),
    )  # fmt: skip
    speech = nn.Sequential(nn.Flatten(), nn.Linear(350, 32), fires(), *hidden(), nn.Dropout(0.4))
    speech.append(nn.Linear(32, 35)).append(fires(output=True))
    population = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 32), fires(), nn.Linear(32, 50), fires(output=True)
    )
    return {
        "tutorial_stmnist": (tactile, (2, 10, 10), True),
        "tutorial_ssc": (speech, (1, 1, 350), True),
        "tutorial_pop": (population, (1, 28, 28), False),
    }


@pytest.mark.parametrize("name", tutorial_networks(0.5))
def test_more_tutorials_of_snntorch(name: str) -> None:
    for beta in (0.9375, 0.95):
        net, shape, frames = tutorial_networks(beta)[name]
        net = lived_in(net, 2)
        if beta == 0.95:
            near(net, shape, frames, snntorch.SpikingNeuron, snn_utils.reset)
            continue
        inputs = samples(shape, frames)
        values = describe(net, T, shape, pixel_max=None if frames else 1.0)
        expected = recorded(net, inputs, snntorch.SpikingNeuron)
        check_spikes(from_state_dict(net.state_dict(), values), expected, inputs)


def test_tutorials_that_are_refused() -> None:
    """Check that transposed convolutions, as in the spiking autoencoder, and recurrent neurons are
    refused.
    """
    leaky = snntorch.Leaky(beta=0.5, init_hidden=True)
    decoder = nn.Sequential(nn.Conv2d(1, 4, 3), leaky, nn.ConvTranspose2d(4, 1, 3))
    with pytest.raises(
        ExchangeError, match=r"2: a ConvTranspose2d .* Linear layer can compute the"
    ):
        describe(decoder, T, (1, 8, 8))
    recurrent = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), snntorch.RLeaky(0.9, all_to_all=False)
    )
    with pytest.raises(ExchangeError, match=r"2: a RLeaky .* use feed-forward neurons"):
        describe(recurrent, T, (1, 8, 8))


def test_tutorial_5() -> None:
    exact = lived_in(Tutorial5(0.9375, reset_mechanism="zero", threshold=0.3), 3)
    inputs = samples((1, 28, 28), False)
    expected = loops(exact)
    imported = from_state_dict(exact.state_dict(), describe(exact, T, (1, 28, 28)))
    check_spikes(imported, expected, inputs)
    stock = lived_in(Tutorial5(threshold=0.3), 3)
    with pytest.raises(ExchangeError, match=r"multiplied by 0\.95.*0\.9492, with --nearest-leak"):
        from_state_dict(stock.state_dict(), describe(stock, T, (1, 28, 28)))
    imported = from_state_dict(stock.state_dict(), describe(stock, T, (1, 28, 28)), nearest_leak=3)
    np.testing.assert_allclose(
        nearest.in_framework(imported, inputs)[0], loops(stock).output, atol=1e-5
    )
    change = nearest.measure(imported, inputs)
    assert all(x.nearest == 0.94921875 for x in change.layers)
    assert all(layer.reset == Reset.DELAYED for layer in imported.folded.layers[:-1])
    assert "0.95 becomes 0.9492; " in change.as_text()


def tutorial(channels: tuple[int, int, int], size: int, pool_first: bool, **options: Any) -> Any:
    """Return the convolutional network of snnTorch's tutorials 6 and 7, with beta 0.5.

    Parameters
    ----------
    channels : channels of the input and of both convolutions.
    size : height and width of the map that the classifier reads.
    pool_first : whether pooling comes before the neurons, as in the tutorials, or behind them.
    """

    def stage(n_in: int, n_out: int) -> list[nn.Module]:
        fire = snntorch.Leaky(beta=0.5, init_hidden=True, threshold=0.3, **options)
        parts: list[nn.Module] = [nn.MaxPool2d(2), fire]
        return [nn.Conv2d(n_in, n_out, 5), *(parts if pool_first else parts[::-1])]

    stages = [*stage(*channels[:2]), *stage(*channels[1:])]
    last = snntorch.Leaky(beta=0.5, init_hidden=True, output=True, threshold=0.3, **options)
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(channels[2] * size**2, 10), last)


@pytest.mark.parametrize(
    ("shape", "channels", "size", "frames"),
    [((1, 28, 28), (1, 4, 6), 4, False), ((2, 34, 34), (2, 4, 6), 5, True)],
    ids=["tutorial 6", "tutorial 7"],
)
def test_tutorials_6_and_7(
    shape: Shape, channels: tuple[int, int, int], size: int, frames: bool
) -> None:
    stock = tutorial(channels, size, True)
    values = describe(stock, T, shape, pixel_max=None if frames else 1.0)
    with pytest.raises(ExchangeError, match="the maximum of sums is not linear: pool the spikes"):
        from_state_dict(stock.state_dict(), values, nearest_leak=3)
    inputs = samples(shape, frames)
    for options in ({}, {"reset_mechanism": "zero"}):
        behind = lived_in(tutorial(channels, size, False, **options), 4)
        expected = recorded(behind, inputs, snntorch.SpikingNeuron)
        values = describe(behind, T, shape, pixel_max=None if frames else 1.0)
        imported = from_state_dict(behind.state_dict(), values)
        check_spikes(imported, expected, inputs)
        delayed = {layer.reset == Reset.DELAYED for layer in imported.folded.layers[:-1]}
        assert delayed == {not options}


def old_file(path: Path, graph: Any) -> Path:
    """Write a graph to a file as version 0.2 of the package nir did: neurons have no
    ``v_reset``.
    """
    nir.write(path, graph)
    with h5py.File(path, "a") as file:
        for node in file["node/nodes"].values():
            node.pop("v_reset", None)
    return path


def test_the_lif_graph_of_nir(tmp_path: Path) -> None:
    """Check that a graph like NIR's lif_norse.nir is imported only if its leak may be approximated.

    It has one LIF neuron with a time constant of 2.5 ms, and timesteps of 0.1 ms.
    """
    one = np.ones(1)
    nodes = {"0": nir.Affine(np.ones((1, 1)), 0 * one)}
    nodes["1"] = nir.LIF(2.5e-3 * one, one, 0 * one, 0.1 * one)
    ends = nir.Input({"input": one}), nir.Output({"output": one})
    every = {"input": ends[0], **nodes, "output": ends[1]}
    names = list(every)
    graph = nir.NIRGraph(every, [*zip(names, names[1:], strict=False)])  # noqa: RUF007
    path = old_file(tmp_path / "lif_norse.nir", graph)
    options = {"timesteps": 60, "pixel_max": None, "reset": "subtract"}
    with pytest.raises(ExchangeError, match=r"by 0\.96 at every timestep.*0\.9609, with --near"):
        read(path, NirOptions(**options))
    imported = read(path, NirOptions(**options, nearest_leak=3))
    frames = np.ones((1, 60, 1, 1, 1), np.uint8)
    logits, spikes = nearest.in_framework(imported, frames)
    np.testing.assert_allclose(logits, simulated(nodes, frames, soft=True), atol=1e-12)
    assert spikes["0"].sum() == nearest.measure(imported, frames).layers[0].n_spikes > 5


def test_graphs_that_norse_exports() -> None:
    """Check a graph as norse 1.1 writes it: the time constant of its ``LIFBoxCell`` is multiplied
    by the timestep, here 1 ms, and modules that it does not know are empty nodes.
    """
    rng = np.random.default_rng(3)
    full, zero = np.ones(6), np.zeros(6)
    nodes = {"0": nir.Affine(rng.normal(0, 1.5, (6, 20)), zero)}
    nodes["1"] = nir.LIF(8e-3 * 1e-3 * full, full, zero, 0.3 * full, v_reset=zero)
    every = {"input": nir.Input({"input": np.array([20])}), **nodes}
    every["output"] = nir.Output({"output": np.array([6])})
    names = list(every)
    graph = nir.NIRGraph(every, [*zip(names, names[1:], strict=False)])  # noqa: RUF007
    options: dict[str, Any] = {"timesteps": 12, "pixel_max": None}
    with pytest.raises(
        ExchangeError, match=r"8e-06 s is shorter than a timestep of 0\.0001 s: .*--dt"
    ):
        from_graph(graph, NirOptions(**options))
    frames = (rng.random((4, 12, 20, 1, 1)) < 0.3).astype(np.uint8)
    imported = from_graph(graph, NirOptions(**options, dt_s=1e-6))
    found = simulate(imported.folded, frames).logits
    np.testing.assert_allclose(found, simulated(nodes, frames, dt=1e-6), atol=1e-12)
    assert np.ptp(found) > 0
    graph.nodes["1"] = None
    with pytest.raises(
        ExchangeError, match="the nodes 1 are empty, because the exporter does not k"
    ):
        from_graph(graph, NirOptions(**options))


def test_the_cnn_graph_of_nir(tmp_path: Path) -> None:
    """Check that a graph like NIR's cnn_sinabs.nir is imported once the user names the reset.

    It has IF neurons without ``v_reset``, whose spikes subtract the threshold, and sum pooling.
    """
    rng = np.random.default_rng(7)

    def conv(size: int, n_out: int, n_in: int, kernel: int, stride: int) -> Any:
        weight = rng.normal(0, 1 / n_in, (n_out, n_in, kernel, kernel))
        two = np.array([1, 1])
        return nir.Conv2d((size, size), weight, stride * two, two, two, 1, np.zeros(n_out))

    def fire(*shape: int) -> Any:
        return nir.IF(r=np.ones(shape), v_threshold=np.ones(shape))

    def pool() -> Any:
        return nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))

    nodes = {
        "0": conv(34, 16, 2, 5, 2), "1": fire(16, 16, 16), "2": conv(16, 16, 16, 3, 1),
        "3": fire(16, 16, 16), "4": pool(), "5": conv(8, 8, 16, 3, 1), "6": fire(8, 8, 8),
        "7": pool(), "8": nir.Flatten({"input": np.array([8, 4, 4])}, 0, -1),
        "9": nir.Affine(rng.normal(0, 0.2, (256, 128)), np.zeros(256)), "10": fire(256),
        "11": nir.Affine(rng.normal(0, 0.2, (10, 256)), np.zeros(10)), "12": fire(10),
    }  # fmt: skip
    every = {"input": nir.Input({"input": np.array([2, 34, 34])}), **nodes}
    every["output"] = nir.Output({"output": np.array([10])})
    names = list(every)
    graph = nir.NIRGraph(every, [*zip(names, names[1:], strict=False)])  # noqa: RUF007
    path = old_file(tmp_path / "cnn_sinabs.nir", graph)
    with pytest.raises(ExchangeError, match=r"1 \(IF\), .*12 \(IF\).*: it has no v_reset"):
        read(path, NirOptions(timesteps=T))
    imported = read(path, NirOptions(timesteps=T, pixel_max=None, reset="subtract"))
    frames = samples((2, 34, 34), True)
    found = simulate(imported.folded, frames).logits
    np.testing.assert_allclose(found, simulated(nodes, frames, True, dt=1.0), atol=1e-9)
    assert np.ptp(found) > 0


def test_the_recurrent_graph_of_nir() -> None:
    """Check that a graph like NIR's braille.nir is refused for its loop and its CubaLIF neurons."""
    size = np.ones(4)
    neurons = [nir.CubaLIF(*[size] * 5) for _ in range(2)]
    nodes = {"input": nir.Input({"input": np.array([4])}), "fc1": nir.Linear(np.eye(4))}
    nodes |= {"lif1.lif": neurons[0], "lif1.w_rec": nir.Linear(np.eye(4)), "lif2": neurons[1]}
    nodes["output"] = nir.Output({"output": np.array([4])})
    edges = [("input", "fc1"), ("fc1", "lif1.lif"), ("lif1.lif", "lif1.w_rec")]
    edges += [("lif1.w_rec", "lif1.lif"), ("lif1.lif", "lif2"), ("lif2", "output")]
    with pytest.raises(ExchangeError) as error:
        from_graph(nir.NIRGraph(nodes, edges), NirOptions(timesteps=T))
    for name in ("lif1.lif (CubaLIF): it is part of a loop", "lif1.w_rec (Linear): it is part"):
        assert name in str(error.value)
    assert "lif2 (CubaLIF): its synapses have a state" in str(error.value)


def test_graphs_that_snntorch_exports() -> None:
    """Check that a NIR graph exported by snnTorch is imported with snnTorch's own results.

    Every ``v_reset`` in such a graph is 0.
    """

    def leaky(beta: float, size: int, **options: Any) -> nn.Module:
        beta_of_each, threshold = torch.full((size,), beta), torch.full((size,), 0.2)
        options |= {"init_hidden": True, "reset_mechanism": "zero"}
        return snntorch.Leaky(beta_of_each, threshold=threshold, **options)

    parts = (nn.Linear(20, 12), leaky(0.5, 12), nn.Linear(12, 5), leaky(0.75, 5, output=True))
    net = lived_in(nn.Sequential(*parts), 6)
    graph = from_snntorch(net, torch.rand(20))
    inputs = samples((20, 1, 1), True, 6)
    expected = recorded(nn.Sequential(nn.Flatten(), net), inputs, snntorch.SpikingNeuron)
    imported = from_graph(graph, NirOptions(timesteps=T, pixel_max=None))
    np.testing.assert_allclose(simulate(imported.folded, inputs).logits, expected.output, atol=1e-5)
    assert np.ptp(expected.output) > 0


def test_graphs_that_spikingjelly_exports() -> None:
    net = nn.Sequential(
        layer.Conv2d(1, 3, 3, padding=1), neuron.IFNode(v_threshold=0.4), layer.AvgPool2d(2),
        layer.Flatten(), layer.Linear(48, 5), neuron.LIFNode(tau=2.0, v_threshold=0.2),
    )  # fmt: skip
    net = lived_in(net, 6)
    graph = from_spikingjelly(net, torch.rand(1, 1, 8, 8), dt=1e-4)
    functional.reset_net(net)
    inputs = samples((1, 8, 8), False, 6)
    expected = recorded(net, inputs, neuron.BaseNode)
    imported = from_graph(graph, NirOptions(timesteps=T, fires_at_threshold=True))
    np.testing.assert_allclose(simulate(imported.folded, inputs).logits, expected.output, atol=1e-5)
    assert np.ptp(expected.output) > 0


EXACT = (
    test_spikingjelly_examples,
    test_networks_of_parametric_lif_net,
    test_sew_resnet18,
    test_spiking_resnet18,
    test_spiking_vgg,
    test_networks_that_were_converted_from_relus,
    test_graphs_that_snntorch_exports,
    test_graphs_that_spikingjelly_exports,
    test_the_cnn_graph_of_nir,
    test_graphs_that_norse_exports,
    test_membrane_shortcuts,
    test_sequential_fashion_mnist,
)
NEAREST = (
    test_tutorial_5,
    test_more_tutorials_of_snntorch,
    test_the_lif_graph_of_nir,
    test_vgg_of_memopt,
    test_a_controller_of_prostheses,
    test_parametric_neurons_of_other_time_constants_take_the_nearest,
)
HELD_BY: dict[str, Any] = {
    "SpikingJelly `lif_fc_mnist.py`": test_spikingjelly_examples,
    "SpikingJelly CSNN (`conv_fashion_mnist.py`)": test_spikingjelly_examples,
    **{f"SpikingJelly `{name}`": test_networks_of_parametric_lif_net for name in PARAMETRIC},
    "SpikingJelly SEW-ResNet18 with AND": test_sew_resnet18,
    "SpikingJelly SEW-ResNet18 with IAND": test_sew_resnet18,
    "SpikingJelly SEW-ResNet18 with ADD": test_sew_resnet18,
    "SpikingJelly Spiking-ResNet18": test_spiking_resnet18,
    "SpikingJelly Spiking-VGG11": test_spiking_vgg,
    "SpikingJelly `ann2snn` (its CNN for MNIST)": test_networks_that_were_converted_from_relus,
    "SpikingJelly `PlainNet` (`rsnn_sequential_fmnist.py`)": test_sequential_fashion_mnist,
    "SpikingJelly VGG of `memopt` (CIFAR10-DVS)": test_vgg_of_memopt,
    "SpikingJelly MS-ResNet18 on binary frames": test_membrane_shortcuts,
    "SpikingJelly MS-ResNet18 on images": test_membrane_shortcuts,
    "SpikingJelly `StatefulSynapseNet`, `FeedBackNet`": test_sequential_fashion_mnist,
    "SpikingJelly QKFormer": test_transformers_are_refused_by_what_they_contain,
    "SpikingJelly Spikformer": test_transformers_are_refused_by_what_they_contain,
    "snnTorch tutorial 5": test_tutorial_5,
    "snnTorch tutorial 6": test_tutorials_6_and_7,
    "snnTorch tutorial 7": test_tutorials_6_and_7,
    "snnTorch `tutorial_stmnist` (tonic's ST-MNIST)": test_more_tutorials_of_snntorch,
    "snnTorch `tutorial_ssc` (Spiking Speech Commands)": test_more_tutorials_of_snntorch,
    "snnTorch `tutorial_pop`": test_more_tutorials_of_snntorch,
    "snnTorch `tutorial_sae`": test_tutorials_that_are_refused,
    "snnTorch `tutorial_regression_2`": test_tutorials_that_are_refused,
    "`SNNClassifier` of `snn-controller-neuroprosthetic` (EMG)": test_a_controller_of_prostheses,
    "snnTorch networks exported to NIR": test_graphs_that_snntorch_exports,
    "SpikingJelly networks exported to NIR": test_graphs_that_spikingjelly_exports,
    "NIR's LIF graph (`lif_norse.nir`)": test_the_lif_graph_of_nir,
    "NIR's CNN graph (`cnn_sinabs.nir`)": test_the_cnn_graph_of_nir,
    "NIR's RNN graph (`braille.nir`)": test_the_recurrent_graph_of_nir,
    "norse networks of `LIFBoxCell` or `IAFCell`": test_graphs_that_norse_exports,
}
"""Test function that covers each row of the table of public networks, by the row's name."""


REFUSED_ROWS = (
    "SpikingJelly MS-ResNet18 on images",
    "SpikingJelly `StatefulSynapseNet`, `FeedBackNet`",
)
"""Rows of networks that are refused, whose test also checks one that is not."""


def test_the_table_says_what_these_tests_hold() -> None:
    """Check that every row of the table has a test, and states the result that this test
    asserts.

    Only rows of libraries that are not installed have none: they exchange networks as NIR graphs,
    which are tested.
    """
    table = DOCUMENT.partition("## Public networks")[2]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE))
    through = [name for name, result in rows.items() if result.startswith("through NIR")]
    assert {name.split()[0] for name in through} == {"sinabs", "norse", "Rockpool"}
    assert [name for name in rows if name not in ("network", *through)] == list(HELD_BY)
    for name, test in HELD_BY.items():
        word = "exact" if test in EXACT else "nearest" if test in NEAREST else "refused"
        word = "refused" if name in REFUSED_ROWS else word
        assert rows[name].startswith((word, "as `MNISTNet`" if word == "exact" else word)), name
    refused = [name for name, result in rows.items() if "refused" in result.partition(":")[0]]
    text = f"Of these {len(rows) - 1} networks, {len(rows) - 1 - len(refused)} run"
    assert text in " ".join(DOCUMENT.split())
