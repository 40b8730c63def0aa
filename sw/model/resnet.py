"""Full-spike residual network with auxiliary accumulation pathway and Real-Spike coefficients.

Every tensor between layers is binary. A block joins the spike of its residual branch with the
spike of its identity through a binary gate (Chen et al., arXiv 2301.11929); a trainable coefficient
then scales the joined spike for the layers that read it (Guo et al., arXiv 2210.06686), so that
:mod:`sw.convert.fold` can move every coefficient into its consumers' weights. The auxiliary pathway sums
the branches' spikes during training and is removed afterwards.

One block description makes the whole family: basic and bottleneck blocks, images or binary frames
as input, two-dimensional maps or, if the input has height 1, one-dimensional signals.

Tensors hold the timesteps in the batch axis, timestep major: ``(T * N, C, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sw.model import functional
from sw.model.config import EXPANSION, ModelConfig, StageConfig, require
from sw.model.modules import Coefficient, Neuron, Norm, Rectifier
from sw.network.network import INPUT, Shape


class Block(nn.Module):
    """Residual block: convolutions, each with batch-norm and neuron, then the gate. Convolution
    ``n`` is ``conv{n}``, ``bn{n}``, ``neuron{n}``, and ``coefficient{n}`` on the spikes behind it:
    the last one on the gate's."""

    def __init__(
        self, config: ModelConfig, stage: StageConfig, index: int, source: Shape, name: str
    ):
        super().__init__()
        block = stage.blocks[index]
        stride = stage.stride if index == 0 else 1
        channels, middle = stage.channels, stage.channels // EXPANSION
        self.gate = block.gate
        convs = (  # kernel, output channels, stride
            ((3, channels, stride), (3, channels, 1))
            if block.kind == "basic"
            else ((1, middle, 1), (3, middle, stride), (1, channels, 1))
        )
        self.n_convs = len(convs)
        self.shapes: list[Shape] = [source]
        """(C, H, W) of the block's input and of every convolution's output."""
        for n, (kernel, width, step) in enumerate(convs, 1):
            conv = _conv(config, self.shapes[-1][0], width, kernel, step)
            self.shapes.append(_conv_shape(conv, self.shapes[-1]))
            granularity = block.outer if n == len(convs) else block.inner
            self.add_module(f"conv{n}", conv)
            self.add_module(f"bn{n}", _norm(config, width))
            self.add_module(f"neuron{n}", _neuron(config, f"{name}.conv{n}"))
            self.add_module(
                f"coefficient{n}", Coefficient(granularity, config.timesteps, self.shapes[-1])
            )
        self.downsample = (
            nn.Sequential(
                _conv(config, source[0], channels, 1, stride),
                _norm(config, channels),
                _neuron(config, f"{name}.downsample"),
            )
            if stride != 1 or source[0] != channels
            else None
        )

    def conv(self, n: int) -> nn.Conv2d:
        """Convolution ``n``, counted from 1."""
        return cast(nn.Conv2d, self.get_submodule(f"conv{n}"))

    def norm(self, n: int) -> Norm:
        return cast(Norm, self.get_submodule(f"bn{n}"))

    def neuron(self, n: int) -> Neuron:
        return cast(Neuron, self.get_submodule(f"neuron{n}"))

    def coefficient(self, n: int) -> Coefficient:
        return cast(Coefficient, self.get_submodule(f"coefficient{n}"))

    @property
    def shape(self) -> Shape:
        """(C, H, W) of the output."""
        return self.shapes[-1]

    def forward(
        self, spikes: Tensor, scaled: Tensor, record: Callable[[str, Tensor], None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From the binary and the scaled input spikes: binary output, scaled output, and the
        branch's spikes before the gate, all ``(T * N, C, H, W)``."""
        branch, inner = spikes, scaled
        for n in range(1, self.n_convs + 1):
            branch = self.neuron(n)(self.norm(n)(self.conv(n)(inner)))
            if n < self.n_convs:
                record(f"conv{n}", branch)
                inner = self.coefficient(n)(branch)
        identity = spikes
        if self.downsample is not None:
            identity = self.downsample(scaled)
            record("downsample", identity)
        joined = functional._gate(self.gate, branch, identity)
        record(f"conv{self.n_convs}", joined)
        return joined, self.coefficient(self.n_convs)(joined), branch


def _conv(
    config: ModelConfig, n_in: int, n_out: int, kernel: int, stride: int, groups: int = 1
) -> nn.Conv2d:
    """Convolution that keeps the size but for its stride, along the axes that the input has."""
    size, step = config.along(kernel), config.along(stride)
    padding = (size[0] // 2, size[1] // 2)
    return nn.Conv2d(n_in, n_out, size, step, padding, groups=groups, bias=False)


def _conv_shape(conv: nn.Conv2d, source: Shape) -> Shape:
    height, width = ((n - 1) // s + 1 for n, s in zip(source[1:], conv.stride, strict=True))
    return conv.out_channels, height, width


def _norm(config: ModelConfig, n_channels: int) -> Norm:
    return Norm(n_channels, config.timesteps if config.batch_norm == "per-timestep" else 1)


def _neuron(config: ModelConfig, layer: str) -> Neuron:
    kind = Neuron if config.spiking else Rectifier
    return kind(config.neuron_of(layer), config.timesteps)


class Carry(nn.Module):
    """Brings the auxiliary pathway's sums to the next block's shape. With a stride: depthwise 3x3
    strided convolution first; then 1x1 convolution, batch-norm, ReLU (Chen et al.)."""

    def __init__(self, config: ModelConfig, n_in: int, n_out: int, stride: int):
        super().__init__()
        depthwise = [_conv(config, n_in, n_in, 3, stride, groups=n_in)] if stride != 1 else []
        self.layers = nn.Sequential(
            *depthwise, _conv(config, n_in, n_out, 1, 1), _norm(config, n_out), nn.ReLU()
        )

    def forward(self, sums: Tensor) -> Tensor:
        return self.layers(sums)


class Logits(NamedTuple):
    """Class scores ``(N, n_classes)`` of the spike stream and, while attached, of the auxiliary
    pathway."""

    spike: Tensor
    aap: Tensor | None


class SpikingResNet(nn.Module):
    """The network. State-dict names are those of a ResNet: ``conv1, bn1, layer1.0.conv1, ...,
    layer2.0.downsample.0, ..., fc``; coefficients are ``coefficient.value``,
    ``layer1.0.coefficient1.value``, ...; the auxiliary pathway's are ``aap.*``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        timesteps = config.timesteps
        self.conv1 = _conv(
            config,
            config.image_shape[0],
            config.stem_channels,
            config.stem_kernel,
            config.stem_stride,
        )
        # An image drives the stem equally at every timestep: there is nothing to tell apart.
        self.bn1 = (
            _norm(config, config.stem_channels) if config.frames else Norm(len(self.conv1.weight))
        )
        self.neuron = _neuron(config, "conv1")
        self.stem_pool = config.along(config.stem_pool)
        shape = _conv_shape(self.conv1, config.image_shape)
        shape = (shape[0], shape[1] // self.stem_pool[0], shape[2] // self.stem_pool[1])
        self.map_shape: Shape = shape
        """(C, H, W) of the stem's pooled spikes."""
        self.coefficient = Coefficient(config.stem_coefficient, timesteps, shape)
        self.block_names: list[str] = []
        carries: dict[str, nn.Module] = {}
        for n, stage in enumerate(config.stages, 1):
            blocks = nn.ModuleList()
            for index in range(len(stage.blocks)):
                name = f"layer{n}.{index}"
                block = Block(config, stage, index, shape, name)
                if block.downsample is not None:
                    stride = stage.stride if index == 0 else 1
                    carry = Carry(config, shape[0], stage.channels, stride)
                    carries[name.replace(".", "_")] = carry
                blocks.append(block)
                self.block_names.append(name)
                shape = block.shape
            self.add_module(f"layer{n}", blocks)
        require(min(shape) >= 1, f"nothing is left of the map {self.map_shape}: use less stride")
        self.fc = nn.Linear(shape[0], config.n_classes)
        if not config.shared_classifier:
            carries["fc"] = nn.Linear(shape[0], config.n_classes)
        self.aap = nn.ModuleDict(carries) if config.aap else None
        unknown = set(config.neurons) - set(self.neurons())
        require(not unknown, f"neurons: there are no layers {', '.join(sorted(unknown))}")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def block(self, name: str) -> Block:
        """The block called, e.g., ``layer2.0``."""
        return cast(Block, self.get_submodule(name))

    def neurons(self) -> dict[str, Neuron]:
        """All neurons by name of their layer."""
        found = {"conv1": self.neuron}
        for name in self.block_names:
            block = self.block(name)
            found |= {f"{name}.conv{n}": block.neuron(n) for n in range(1, block.n_convs + 1)}
            if block.downsample is not None:
                found[f"{name}.downsample"] = cast(Neuron, block.downsample[2])
        return found

    def forward(
        self, images: Tensor, record: Callable[[str, Tensor], None] | None = None
    ) -> Logits:
        """``images`` is what :func:`to_input` makes. ``record`` is called with the name, in the
        integer network, and the spikes ``(T, N, C, H, W)`` of every map, through which gradients
        may flow."""
        timesteps = self.config.timesteps

        def note(name: str, spikes: Tensor) -> None:
            if record is not None:
                record(name, spikes.unflatten(0, (timesteps, len(images))))

        if self.config.frames:
            frames = images.transpose(0, 1).flatten(0, 1)
            note(INPUT, frames)
            spikes = self.neuron(self.bn1(self.conv1(frames)), pool=self.stem_pool)
        else:
            drive = self.bn1(self.conv1(images))
            spikes = self.neuron(drive, repeated=True, pool=self.stem_pool)
        note("conv1" if self.config.frames else INPUT, spikes)
        scaled = self.coefficient(spikes)
        sums = spikes
        for name in self.block_names:
            spikes, scaled, branch = self.block(name)(
                spikes, scaled, lambda part, s, name=name: note(f"{name}.{part}", s)
            )
            if self.aap is not None:
                carry = name.replace(".", "_")
                sums = (self.aap[carry](sums) if carry in self.aap else sums) + branch
        if self.aap is None:
            return Logits(self._classify(self.fc, scaled), None)
        head = self.fc if self.config.shared_classifier else self.aap["fc"]
        return Logits(self._classify(self.fc, scaled), self._classify(head, sums))

    def spike_maps(self, images: Tensor) -> tuple[Logits, dict[str, Tensor]]:
        """:meth:`forward`, and every spike map ``(T, N, C, H, W)`` under its name in the integer
        network (:data:`sw.network.network.INPUT` for the frames, or the stem's spikes of an image)."""
        maps: dict[str, Tensor] = {}
        return self(images, maps.__setitem__), maps

    def _classify(self, head: nn.Module, features: Tensor) -> Tensor:
        """Classifier on features averaged over positions and timesteps."""
        pooled = features.mean((2, 3))
        timed = pooled.unflatten(0, (self.config.timesteps, len(pooled) // self.config.timesteps))
        return head(timed.mean(0))

    def detach_aap(self) -> SpikingResNet:
        """The deployable, full-spike network: a copy without the auxiliary pathway."""
        plain = SpikingResNet(replace(self.config, aap=False)).to(self.fc.weight.dtype)
        plain.load_state_dict(
            {k: v for k, v in self.state_dict().items() if not k.startswith("aap.")}
        )
        return plain.train(self.training)


def to_input(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a network takes, from uint8 images ``(N, C, H, W)``, whose pixels are divided by 255 and
    nothing else, so that zero padding means black in the integer network too; or from binary uint8
    frames ``(N, T, C, H, W)``."""
    if images.ndim == 5:
        return images.to(dtype)
    return images.to(dtype).div_(255).to(memory_format=torch.channels_last)


def round_leaks(model: SpikingResNet) -> ModelConfig:
    """The configuration in which every :data:`LEARNED` leak is the nearest one that the device has:
    none, or a shift. Weights fit it as they are, but want some training at the new leaks."""
    available = [("NONE", 0)] + [(leak, k) for leak in ("SUBTRACT", "KEEP") for k in range(1, 16)]
    neurons = {}
    for name, neuron in model.neurons().items():
        config = neuron.config
        if neuron.decay_logit is not None:
            decay = float(torch.sigmoid(neuron.decay_logit.detach()))
            candidates = [replace(config, leak=leak, leak_shift=k) for leak, k in available]
            config = min(candidates, key=lambda c: abs(c.decay - decay))
        neurons[name] = config
    return replace(model.config, neurons=neurons)
