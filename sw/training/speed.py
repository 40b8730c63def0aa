"""Benchmark of training speed against other frameworks, with the same network and batch.

The network is a convolution (the stem) with batch-norm, IF neurons and OR-pooling, a residual block
with an OR gate, another one with stride 2, and a classifier. The contenders are Spikefold, with and
without ``torch.compile``, and the other frameworks, called peers. All compute the stem's
convolution once for all timesteps.

The benchmark has several rounds. In each round every contender runs for some seconds, one after the
other, so that other load on the machine affects all of them about equally. In each round, a
contender's speed is divided by the speed of the fastest peer; its result is the median of these
ratios.

Peers run in their fastest modes. SpikingJelly runs in multi-step mode, with the timesteps in the
batch axis for all stateless layers; on a GPU it chooses its CUDA or Triton kernels itself. snnTorch
loops over time for its neurons only. Each peer is timed twice, with contiguous and with
channels-last memory layout; the faster one counts.
"""

from __future__ import annotations

import copy
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sw.model import functional, resnet
from sw.model.config import BlockConfig, ModelConfig, StageConfig
from sw.model.resnet import SpikingResNet

PEERS = ("spikingjelly", "snntorch")
"""Frameworks that Spikefold can be compared with."""
INSTALL = "pip install 'spikefold[peers]'"
"""Command that installs the peers."""


class SpeedError(RuntimeError):
    """Error: the benchmark cannot run; the message says what to install or change."""


def network(timesteps: int, image_size: int, channels: int) -> ModelConfig:
    """Return the configuration of the network to time, which other frameworks can build as well.

    Its images are ``image_size`` pixels high and wide, with one channel. It has neither auxiliary
    pathway nor Real-Spike coefficients (:mod:`sw.model.resnet`). ``channels`` is the number of
    channels of the stem and of the first block; the second block has twice as many.
    """
    block = (BlockConfig(gate="OR", inner="none", outer="none"),)
    return ModelConfig(
        timesteps=timesteps,
        image_shape=(1, image_size, image_size),
        stem_channels=channels,
        stem_coefficient="none",
        stages=(
            StageConfig(channels=channels, blocks=block),
            StageConfig(channels=2 * channels, stride=2, blocks=block),
        ),
        aap=False,
    )


class PeerNet(nn.Module):
    """Network that shares the layers of the Spikefold network ``plain``, but has another
    framework's neurons.

    ``make`` is called once for every layer of neurons. It must return a module that turns input
    currents ``(T, N, C, H, W)`` into spikes of the same shape.
    """

    def __init__(self, plain: SpikingResNet, make: Callable[[], nn.Module]):
        super().__init__()
        self.plain, self.timesteps = plain, plain.config.timesteps
        self.fire = nn.ModuleList(make() for _ in plain.neurons())

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores (N, n_classes) of images (N, 1, H, W)."""
        net, fire = self.plain, iter(self.fire)

        def neurons(drive: Tensor) -> Tensor:
            timed = drive.unflatten(0, (self.timesteps, -1))
            return cast(Tensor, next(fire)(timed)).flatten(0, 1)

        drive = net.bn1(net.conv1(images))
        spikes = neurons(drive.expand(self.timesteps, *drive.shape).flatten(0, 1))
        spikes = F.max_pool2d(spikes, net.stem_pool)
        for name in net.block_names:
            block = net.block(name)
            branch = neurons(block.norm(1)(block.conv(1)(spikes)))
            branch = neurons(block.norm(2)(block.conv(2)(branch)))
            identity = spikes
            if block.downsample is not None:
                identity = neurons(block.downsample[1](block.downsample[0](spikes)))
            spikes = identity + branch - identity * branch
        return net.fc(spikes.mean((2, 3)).unflatten(0, (self.timesteps, -1)).mean(0))


class _SnnTorchNeuron(nn.Module):
    """Layer of snnTorch's neurons, which compute one timestep per call, in a loop over time."""

    def __init__(self, leaky: nn.Module):
        super().__init__()
        self.leaky = leaky

    def forward(self, drives: Tensor) -> Tensor:
        membrane = torch.zeros_like(drives[0])
        spikes = []
        for drive in drives:
            spike, membrane = self.leaky(drive, membrane)
            spikes.append(spike)
        return torch.stack(spikes)


def peer_neuron(peer: str) -> Callable[[], nn.Module]:
    """Return a function that makes a layer of another framework's IF neurons.

    ``peer`` is one of :data:`PEERS`. The neurons have threshold 1, a reset to 0 and a sigmoid
    surrogate gradient of slope 4.

    Raises
    ------
    SpeedError
        The framework is not installed.
    """
    try:
        if peer == "spikingjelly":
            neuron = importlib.import_module("spikingjelly.activation_based.neuron")
            return partial(neuron.IFNode, step_mode="m", detach_reset=True)
        snntorch = importlib.import_module("snntorch")
        surrogate = importlib.import_module("snntorch.surrogate").sigmoid(slope=4)
    except ImportError as error:
        raise SpeedError(f"{peer} is not installed: {INSTALL}") from error
    options: dict[str, Any] = {"reset_mechanism": "zero", "reset_delay": False}
    return lambda: _SnnTorchNeuron(snntorch.Leaky(beta=1.0, spike_grad=surrogate, **options))


class Contender(NamedTuple):
    """Contender of the benchmark: a network to time."""

    net: nn.Module
    """The network to time, in training mode."""
    layout: torch.memory_format
    """Memory layout of the network and of its images."""
    before: Callable[[], None]
    """Function to call before each pass. It resets the neurons if they keep their state."""


def contenders(config: ModelConfig, peers: Sequence[str], compiled: bool) -> dict[str, Contender]:
    """Return the contenders of the benchmark by name; all have the same weights.

    - ``spikefold``;
    - ``spikefold --compile``, which uses ``torch.compile``; only if ``compiled``;
    - two for each of ``peers``, which are names of other frameworks: one in the contiguous memory
      layout, one in channels-last.
    """
    torch.manual_seed(1)
    last = torch.channels_last
    plain = SpikingResNet(config).train().to(memory_format=last)  # type: ignore[call-overload]
    found = {"spikefold": Contender(plain, last, _nothing)}
    if compiled:
        fast = copy.deepcopy(plain).set_backend(functional.compiled())
        found["spikefold --compile"] = Contender(fast, last, _nothing)
    for peer in peers:
        for layout, suffix in ((torch.contiguous_format, ""), (last, ", channels last")):
            net = PeerNet(copy.deepcopy(plain), peer_neuron(peer)).train()
            net = net.to(memory_format=layout)  # type: ignore[call-overload]
            before: Callable[[], None] = _nothing
            if peer == "spikingjelly":
                peer_functional = importlib.import_module(
                    "spikingjelly.activation_based.functional"
                )
                before = partial(peer_functional.reset_net, net)
            found[peer + suffix] = Contender(net, layout, before)
    return found


def _nothing() -> None:
    pass


def one_pass(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Run one forward and one backward pass, and return the class scores (N, n_classes)."""
    scores = net(images)
    scores = scores.spike if isinstance(scores, resnet.Logits) else scores
    net.zero_grad(set_to_none=True)
    F.cross_entropy(scores, labels).backward()
    return scores.detach()


def measure(
    config: ModelConfig,
    *,
    batch: int,
    rounds: int,
    seconds: float,
    peers: Sequence[str] = PEERS,
    compiled: bool = True,
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Time a network in Spikefold and in other frameworks; return their speeds in each round.

    The result has a list of speeds, one for each round, by name of the contender: Spikefold, with
    and without ``torch.compile`` (``compiled``), and the other frameworks (``peers``). A speed is
    in samples per second. Contenders run forward and backward passes on ``batch`` random
    images, which count as ``batch`` samples for each pass. In each round, a contender runs for
    ``seconds``.

    Raises
    ------
    SpeedError
        The device does not exist; a peer is not installed; or the class scores of SpikingJelly or
        of compiled Spikefold differ from Spikefold's, so that they compute another network.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # AssertionError: torch without CUDA
        raise SpeedError(f"--device {device}: {str(error).splitlines()[0]}") from error
    images = torch.rand(batch, *config.image_shape, device=device)
    labels = torch.randint(config.n_classes, (batch,), device=device)
    nets = contenders(config, peers, compiled)
    scores: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}
    for name, (net, layout, before) in nets.items():
        net.to(device)
        given[name] = images.to(memory_format=layout)
        for _ in range(2):  # compile, and fill caches
            before()
            scores[name] = one_pass(net, given[name], labels)
    for name, found in scores.items():
        # snnTorch fires only above the threshold, not at it; and another memory layout changes the
        # order of summation, which rounds differently and changes a few spikes.
        same = nets[name].layout == nets["spikefold"].layout and not name.startswith("snntorch")
        if same and not torch.allclose(found, scores["spikefold"], atol=1e-4):
            raise SpeedError(f"{name} computes other scores: this is not the same network")
    rates: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(rounds):
        for name, (net, _, before) in nets.items():
            n_passes, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds:
                before()
                one_pass(net, given[name], labels)
                if device != "cpu":
                    torch.cuda.synchronize()
                n_passes += 1
            rates[name].append(n_passes * batch / (time.perf_counter() - started))
    return rates


def compared(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return each contender's speed relative to that of the fastest peer, by name.

    ``rates`` is the result of :func:`measure`. Peers are the contenders whose names do not start
    with ``spikefold``; the fastest one has the highest median speed. In each round, every speed is
    divided by that of the fastest peer. The result has the median over rounds of these ratios. It
    is empty if there are no peers.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peers = [name for name in rates if not name.startswith("spikefold")]
    if not peers:
        return {}
    fastest = rates[max(peers, key=lambda name: medians[name])]
    return {
        name: statistics.median(a / b for a, b in zip(values, fastest, strict=True))
        for name, values in rates.items()
    }
