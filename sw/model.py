"""Full-spike residual network with auxiliary accumulation pathway and Real-Spike coefficients.

Every tensor between layers is binary. A block joins the spike of its residual branch with the
spike of its identity through a binary gate (Chen et al., arXiv 2301.11929); a trainable coefficient
then scales the joined spike for the layers that read it (Guo et al., arXiv 2210.06686), so that
:mod:`sw.fold` can move every coefficient into its consumers' weights. The auxiliary pathway sums
the branches' spikes during training and is removed afterwards.

Tensors hold the timesteps in the batch axis, timestep major: ``(T * N, C, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hw.spec import Gate, Leak, Reset
from sw.network import INPUT, Shape

GRANULARITIES = ("none", "layer", "channel", "element")
PER_TIMESTEP = "/per-timestep"
SURROGATES = ("sigmoid", "arctan")


class ModelError(ValueError):
    """A model configuration that cannot be built; the message names the field and what works."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ModelError(message)


def _check_granularity(granularity: str) -> None:
    spatial = granularity.removesuffix(PER_TIMESTEP)
    _require(
        spatial in GRANULARITIES and granularity != "none" + PER_TIMESTEP,
        f"granularity {granularity!r}: use one of {GRANULARITIES}, "
        f"all but 'none' with or without {PER_TIMESTEP!r}",
    )


@dataclass(frozen=True, kw_only=True)
class NeuronConfig:
    """Neuron, all of whose numbers are kept here because none of them is in a state dict.

    ``leak`` and ``reset`` are names of :class:`hw.spec.Leak` and :class:`hw.spec.Reset`.
    """

    threshold: float = 1.0
    leak: str = "NONE"
    leak_shift: int = 0
    reset: str = "HARD"
    surrogate: str = "sigmoid"
    surrogate_slope: float = 4.0

    def __post_init__(self) -> None:
        _require(self.threshold > 0, f"threshold = {self.threshold}: use a positive number")
        _require(
            self.leak in Leak.__members__, f"leak = {self.leak!r}: use {list(Leak.__members__)}"
        )
        _require(
            self.reset in Reset.__members__,
            f"reset = {self.reset!r}: use {list(Reset.__members__)}",
        )
        _require(
            (0 < self.leak_shift <= 15) == (self.leak != "NONE") and 0 <= self.leak_shift <= 15,
            f"leak_shift = {self.leak_shift} with leak {self.leak}: use 1 to 15, and 0 for NONE",
        )
        _require(self.surrogate in SURROGATES, f"surrogate = {self.surrogate!r}: use {SURROGATES}")

    @property
    def decay(self) -> float:
        """Factor by which a membrane shrinks in one timestep."""
        kept = 2.0**-self.leak_shift
        return {"NONE": 1.0, "SUBTRACT": 1.0 - kept, "KEEP": kept}[self.leak]


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One basic block: its gate and the granularity of its two coefficients.

    A granularity is one of :data:`GRANULARITIES`, and with the suffix :data:`PER_TIMESTEP` the
    coefficient also varies from timestep to timestep.
    """

    gate: str = "IAND"
    inner: str = "channel"
    """Coefficient between the block's two convolutions."""
    outer: str = "channel"
    """Coefficient on the block's output, after the gate."""

    def __post_init__(self) -> None:
        _require(
            self.gate != "ADD",
            "gate = 'ADD' is not full-spike: it sends integers from block to block; "
            "use AND, IAND, OR or XOR",
        )
        _require(
            self.gate in Gate.__members__ and self.gate != "NONE",
            f"gate = {self.gate!r}: use AND, IAND, OR or XOR",
        )
        for granularity in (self.inner, self.outer):
            _check_granularity(granularity)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Blocks of one width; the first one has the stride."""

    channels: int
    stride: int = 1
    blocks: tuple[BlockConfig, ...] = (BlockConfig(),)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole network. :meth:`to_dict` and :meth:`from_dict` convert to and from JSON values."""

    timesteps: int = 4
    image_shape: Shape = (1, 28, 28)
    n_classes: int = 10
    stem_channels: int = 32
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: int = 2
    stem_coefficient: str = "channel"
    stages: tuple[StageConfig, ...] = (StageConfig(channels=32),)
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    aap: bool = True
    """With the auxiliary accumulation pathway, which exists for training only."""

    def __post_init__(self) -> None:
        _require(self.timesteps >= 1, f"timesteps = {self.timesteps}: use at least 1")
        _require(len(self.stages) >= 1, "stages: use at least one")
        _require(self.stem_kernel % 2 == 1, f"stem_kernel = {self.stem_kernel}: use an odd number")
        _check_granularity(self.stem_coefficient)

    def to_dict(self) -> dict[str, Any]:
        """JSON values (tuples become lists)."""
        return cast(dict[str, Any], _listed(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of :meth:`to_dict`.

        Raises
        ------
        ModelError
            An unknown field, or a value that no network supports.
        """
        values = dict(values)
        try:
            values["image_shape"] = tuple(values["image_shape"])
            values["neuron"] = NeuronConfig(**values["neuron"])
            values["stages"] = tuple(
                StageConfig(**{**stage, "blocks": tuple(BlockConfig(**b) for b in stage["blocks"])})
                for stage in values["stages"]
            )
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ModelError(f"not a model configuration: {error}") from error


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def fashion_mnist() -> ModelConfig:
    """Network of the ``fashion-mnist`` preset: fewer than 300,000 weights after folding, among them
    an unshared layer and an unshared per-timestep one."""
    return ModelConfig(
        stem_channels=32,
        stages=(
            StageConfig(channels=32, blocks=(BlockConfig(gate="OR"),)),
            StageConfig(channels=64, stride=2, blocks=(BlockConfig(gate="OR"),)),
            StageConfig(
                channels=32,
                stride=2,
                blocks=(BlockConfig(gate="OR", inner="element", outer="element" + PER_TIMESTEP),),
            ),
        ),
    )


PRESETS: dict[str, Callable[[], ModelConfig]] = {"fashion-mnist": fashion_mnist}


def neuron_forward(
    drive: Tensor, timesteps: int, decay: float, threshold: float, hard: bool
) -> tuple[Tensor, Tensor]:
    """Spikes and membranes before reset, both ``(T, ...)``; ``drive`` is ``(T, ...)`` or, if it is
    the same at every timestep, ``(1, ...)``. Fires at ``membrane >= threshold``."""
    spikes, membranes = [], []
    left = torch.zeros_like(drive[0])
    for t in range(timesteps):
        membrane = decay * left + drive[t if len(drive) > 1 else 0]
        spike = (membrane >= threshold).to(drive.dtype)
        left = membrane * (1 - spike) if hard else membrane - threshold * spike
        spikes.append(spike)
        membranes.append(membrane)
    return torch.stack(spikes), torch.stack(membranes)


def neuron_backward(
    grad: Tensor,
    membranes: Tensor,
    decay: float,
    threshold: float,
    hard: bool,
    surrogate: str,
    slope: float,
) -> Tensor:
    """Gradient ``(T, ...)`` of the drive from that of the spikes; the reset is not differentiated
    (Chen et al.)."""
    grads: list[Tensor] = []
    left = torch.zeros_like(grad[0])
    for t in reversed(range(len(grad))):
        above = membranes[t] - threshold
        if surrogate == "sigmoid":
            sigmoid = torch.sigmoid(slope * above)
            slope_here = slope * sigmoid * (1 - sigmoid)
        else:
            slope_here = slope / 2 / (1 + (torch.pi / 2 * slope * above) ** 2)
        kept = left * (above < 0).to(grad.dtype) if hard else left
        here = grad[t] * slope_here + kept
        grads.append(here)
        left = decay * here
    return torch.stack(grads[::-1])


_forward: Callable[..., tuple[Tensor, Tensor]] = neuron_forward
_backward: Callable[..., Tensor] = neuron_backward


def compile_neurons() -> None:
    """Let torch's compiler fuse the neurons' loops: about 1.5 times as fast on a CPU, but a minute
    of compilation and a C++ compiler first. For long training runs."""
    global _forward, _backward
    _forward = torch.compile(neuron_forward, dynamic=False)
    _backward = torch.compile(neuron_backward, dynamic=False)


class _Fire(torch.autograd.Function):
    """Neurons over all timesteps, with a hand-written backward pass through time."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, timesteps: int, config: NeuronConfig) -> Tensor:
        hard = config.reset == "HARD"
        spikes, membranes = _forward(drive, timesteps, config.decay, config.threshold, hard)
        ctx.save_for_backward(membranes)
        ctx.config, ctx.repeated = config, len(drive) < timesteps
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (membranes,) = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        grad = _backward(
            grads[0],
            membranes,
            config.decay,
            config.threshold,
            config.reset == "HARD",
            config.surrogate,
            config.surrogate_slope,
        )
        return (grad.sum(0, keepdim=True) if ctx.repeated else grad), None, None


class Neuron(nn.Module):
    """IF or LIF neurons. Input ``(T * N, C, H, W)``, or ``(N, C, H, W)`` with ``repeated`` drive;
    output binary ``(T * N, C, H, W)``."""

    def __init__(self, config: NeuronConfig, timesteps: int):
        super().__init__()
        self.config = config
        self.timesteps = timesteps

    def forward(self, drive: Tensor, repeated: bool = False) -> Tensor:
        n_drives = 1 if repeated else self.timesteps
        spikes = _Fire.apply(
            drive.unflatten(0, (n_drives, len(drive) // n_drives)), self.timesteps, self.config
        )
        return cast(Tensor, spikes).flatten(0, 1)


class Coefficient(nn.Module):
    """Real-Spike coefficient ``a`` of one spike map: ``(T * N, C, H, W) -> a * spikes``.

    ``value`` has shape ``(T|1, C|1, H|1, W|1)``, 1 along the axes that share it, and starts at 1.
    """

    def __init__(self, granularity: str, timesteps: int, shape: Shape):
        super().__init__()
        spatial = granularity.removesuffix(PER_TIMESTEP)
        channels, height, width = shape
        axes = {
            "layer": (1, 1, 1),
            "channel": (channels, 1, 1),
            "element": (channels, height, width),
        }
        n_times = timesteps if granularity.endswith(PER_TIMESTEP) else 1
        self.value = (
            None if spatial == "none" else nn.Parameter(torch.ones(n_times, *axes[spatial]))
        )

    def forward(self, spikes: Tensor) -> Tensor:
        if self.value is None:
            return spikes
        if len(self.value) == 1:
            return spikes * self.value
        n_times = len(self.value)
        timed = spikes.unflatten(0, (n_times, len(spikes) // n_times))
        return (timed * self.value[:, None]).flatten(0, 1)


def join(gate: str, branch: Tensor, identity: Tensor) -> Tensor:
    """Binary gate of two binary tensors, see :class:`hw.spec.Gate`, in differentiable form."""
    if gate == "AND":
        return identity * branch
    if gate == "IAND":
        return identity * (1 - branch)
    if gate == "OR":
        return identity + branch - identity * branch
    return identity + branch - 2 * identity * branch


class Block(nn.Module):
    """Basic residual block: convolution, neuron, convolution, neuron, gate."""

    def __init__(self, config: ModelConfig, stage: StageConfig, index: int, source: Shape):
        super().__init__()
        block = stage.blocks[index]
        stride = stage.stride if index == 0 else 1
        channels = stage.channels
        self.shape: Shape = (channels, _halved(source[1], stride), _halved(source[2], stride))
        self.gate = block.gate
        self.conv1 = nn.Conv2d(source[0], channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.neuron1 = Neuron(config.neuron, config.timesteps)
        self.coefficient1 = Coefficient(block.inner, config.timesteps, self.shape)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.neuron2 = Neuron(config.neuron, config.timesteps)
        self.coefficient2 = Coefficient(block.outer, config.timesteps, self.shape)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(source[0], channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
                Neuron(config.neuron, config.timesteps),
            )
            if stride != 1 or source[0] != channels
            else None
        )

    def forward(
        self, spikes: Tensor, scaled: Tensor, record: Callable[[str, Tensor], None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From the binary and the scaled input spikes: binary output, scaled output, and the
        branch's spikes before the gate, all ``(T * N, C, H, W)``."""
        inner = self.neuron1(self.bn1(self.conv1(scaled)))
        record("conv1", inner)
        branch = self.neuron2(self.bn2(self.conv2(self.coefficient1(inner))))
        identity = spikes
        if self.downsample is not None:
            identity = self.downsample(scaled)
            record("downsample", identity)
        joined = join(self.gate, branch, identity)
        record("conv2", joined)
        return joined, self.coefficient2(joined), branch


def _halved(size: int, stride: int) -> int:
    """Size after a 3x3 convolution with padding 1, and after a 1x1 one without."""
    return (size - 1) // stride + 1


class Carry(nn.Module):
    """Brings the auxiliary pathway's sums to the next block's shape. With a stride: depthwise 3x3
    strided convolution first; then 1x1 convolution, batch-norm, ReLU (Chen et al.)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        depthwise = (
            [nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)]
            if stride != 1
            else []
        )
        self.layers = nn.Sequential(
            *depthwise,
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
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
        channels, height, width = config.image_shape
        pool = config.stem_pool
        kernel, stride = config.stem_kernel, config.stem_stride
        self.conv1 = nn.Conv2d(
            channels, config.stem_channels, kernel, stride, kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(config.stem_channels)
        height, width = _halved(height, stride), _halved(width, stride)
        self.neuron = Neuron(config.neuron, config.timesteps)
        shape: Shape = (config.stem_channels, height // pool, width // pool)
        self.map_shape = shape
        """(C, H, W) of the stem's pooled spikes."""
        self.coefficient = Coefficient(config.stem_coefficient, config.timesteps, shape)
        self.block_names: list[str] = []
        carries: dict[str, nn.Module] = {}
        for n, stage in enumerate(config.stages, 1):
            blocks = nn.ModuleList()
            for index in range(len(stage.blocks)):
                block = Block(config, stage, index, shape)
                if block.downsample is not None:
                    stride = stage.stride if index == 0 else 1
                    carries[f"layer{n}_{index}"] = Carry(shape[0], stage.channels, stride)
                blocks.append(block)
                self.block_names.append(f"layer{n}.{index}")
                shape = block.shape
            self.add_module(f"layer{n}", blocks)
        self.fc = nn.Linear(shape[0], config.n_classes)
        self.aap = nn.ModuleDict(carries) if config.aap else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def block(self, name: str) -> Block:
        """The block called, e.g., ``layer2.0``."""
        return cast(Block, self.get_submodule(name))

    def forward(self, images: Tensor) -> Logits:
        """``images`` is floating point ``(N, C, H, W)``, pixels divided by 255 and nothing else, so
        that zero padding means black in the integer network too."""
        return self._run(images, lambda name, spikes: None)

    def spike_maps(self, images: Tensor) -> tuple[Logits, dict[str, Tensor]]:
        """:meth:`forward`, and every spike map ``(T, N, C, H, W)`` under its layer's name in the
        integer network (:data:`sw.network.INPUT` for the stem's)."""
        maps: dict[str, Tensor] = {}

        def record(name: str, spikes: Tensor) -> None:
            maps[name] = spikes.unflatten(0, (self.config.timesteps, len(images)))

        return self._run(images, record), maps

    def _run(self, images: Tensor, record: Callable[[str, Tensor], None]) -> Logits:
        spikes = self.neuron(self.bn1(self.conv1(images)), repeated=True)
        if self.config.stem_pool > 1:
            spikes = F.max_pool2d(spikes, self.config.stem_pool)
        record(INPUT, spikes)
        scaled = self.coefficient(spikes)
        sums = spikes
        for name in self.block_names:
            spikes, scaled, branch = self.block(name)(
                spikes, scaled, lambda part, s, name=name: record(f"{name}.{part}", s)
            )
            if self.aap is not None:
                carry = name.replace(".", "_")
                sums = (self.aap[carry](sums) if carry in self.aap else sums) + branch
        return Logits(self._classify(scaled), None if self.aap is None else self._classify(sums))

    def _classify(self, features: Tensor) -> Tensor:
        """Shared classifier on features averaged over positions and timesteps."""
        pooled = features.mean((2, 3))
        timed = pooled.unflatten(0, (self.config.timesteps, len(pooled) // self.config.timesteps))
        return self.fc(timed.mean(0))

    def detach_aap(self) -> SpikingResNet:
        """The deployable, full-spike network: a copy without the auxiliary pathway."""
        plain = SpikingResNet(replace(self.config, aap=False)).to(self.fc.weight.dtype)
        plain.load_state_dict(
            {k: v for k, v in self.state_dict().items() if not k.startswith("aap.")}
        )
        return plain.train(self.training)
