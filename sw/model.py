"""Full-spike residual network with auxiliary accumulation pathway and Real-Spike coefficients.

Every tensor between layers is binary. A block joins the spike of its residual branch with the
spike of its identity through a binary gate (Chen et al., arXiv 2301.11929); a trainable coefficient
then scales the joined spike for the layers that read it (Guo et al., arXiv 2210.06686), so that
:mod:`sw.fold` can move every coefficient into its consumers' weights. The auxiliary pathway sums
the branches' spikes during training and is removed afterwards.

One block description makes the whole family: basic and bottleneck blocks, images or binary frames
as input, two-dimensional maps or, if the input has height 1, one-dimensional signals.

Tensors hold the timesteps in the batch axis, timestep major: ``(T * N, C, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import reduce
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from hw.spec import Gate, Leak, Reset
from sw.network import INPUT, Shape

GRANULARITIES = ("none", "layer", "channel", "element")
PER_TIMESTEP = "/per-timestep"
Functions = tuple[Callable[..., Any], ...]
"""What :func:`use` takes, in the order of :data:`PLAIN`."""
SURROGATES = ("sigmoid", "arctan", "rectangle", "triangle")
"""Derivatives that stand in for the step's, as functions of ``x = slope * (membrane - threshold)``,
each of area 1: ``s(x) (1 - s(x))`` of the logistic ``s``; ``1 / (2 (1 + (pi x / 2)^2))``; 1 where
``|x| <= 1/2``; ``max(0, 1 - |x|)``."""
KINDS = ("basic", "bottleneck")
EXPANSION = 4
"""A bottleneck's output has this many times the channels of its middle."""
MAX_NUMBER = 1 << 20
"""No number of a configuration is as large."""
LEARNED = "LEARNED"
"""A leak that is trained (PLIF); the device has shifts only, see :func:`round_leaks`."""


class ModelError(ValueError):
    """A model configuration that cannot be built; the message names the field and what works."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ModelError(message)


def _check_types(config: Any) -> None:
    """Numbers, words and truth values of a configuration, which may come from a file of anyone's:
    of their types, and finite."""
    kinds = {"int": int, "float": int | float, "str": str, "bool": bool}
    for known in fields(config):
        value, kind = getattr(config, known.name), kinds.get(str(known.type))
        if kind is not None:
            ok = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
            ok = ok and (kind is str or abs(cast(float, value)) < MAX_NUMBER)
            _require(ok, f"{known.name} = {value!r}: use a value of type {known.type}")


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

    ``leak`` and ``reset`` are names of :class:`hw.spec.Leak` and :class:`hw.spec.Reset`; a leak may
    also be :data:`LEARNED`, which starts as ``SUBTRACT``.
    """

    threshold: float = 1.0
    leak: str = "NONE"
    leak_shift: int = 0
    reset: str = "HARD"
    surrogate: str = "sigmoid"
    surrogate_slope: float = 4.0

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("threshold", "surrogate_slope"):
            number = getattr(self, name)
            _require(number > 0, f"{name} = {number}: use a positive number")
        _require(
            self.leak in Leak.__members__ or self.leak == LEARNED,
            f"leak = {self.leak!r}: use {[*Leak.__members__, LEARNED]}",
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
        return {"NONE": 1.0, "SUBTRACT": 1.0 - kept, "KEEP": kept, LEARNED: 1.0 - kept}[self.leak]


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block: its gate, the granularity of its coefficients, and its kind.

    A granularity is one of :data:`GRANULARITIES`, and with the suffix :data:`PER_TIMESTEP` the
    coefficient also varies from timestep to timestep. A gate is AND, IAND, OR, XOR, or ADD, which
    sends integers from block to block: a reference for the others that cannot be exported.
    """

    gate: str = "IAND"
    inner: str = "channel"
    """Coefficients between the block's convolutions."""
    outer: str = "channel"
    """Coefficient on the block's output, after the gate."""
    kind: str = "basic"
    """``basic``: two 3x3 convolutions; ``bottleneck``: 1x1, 3x3 and 1x1."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            (self.gate in Gate.__members__ and self.gate != "NONE") or self.gate == "ADD",
            f"gate = {self.gate!r}: use AND, IAND, OR or XOR (or ADD, which cannot be exported)",
        )
        _require(self.kind in KINDS, f"kind = {self.kind!r}: use one of {KINDS}")
        for granularity in (self.inner, self.outer):
            _check_granularity(granularity)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Blocks of one width (that of their output); the first one has the stride."""

    channels: int
    stride: int = 1
    blocks: tuple[BlockConfig, ...] = (BlockConfig(),)

    def __post_init__(self) -> None:
        _check_types(self)
        _require(len(self.blocks) >= 1, "blocks: use at least one")
        _require(
            min(self.channels, self.stride) >= 1,
            f"channels = {self.channels}, stride = {self.stride}: use at least 1",
        )
        _require(
            self.channels % EXPANSION == 0 or all(b.kind == "basic" for b in self.blocks),
            f"channels = {self.channels}: a stage of bottlenecks needs a multiple of {EXPANSION}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole network. :meth:`to_dict` and :meth:`from_dict` convert to and from JSON values."""

    timesteps: int = 4
    image_shape: Shape = (1, 28, 28)
    """(channels, height, width); with height 1 all kernels and strides are one-dimensional."""
    frames: bool = False
    """The input is a binary frame for every timestep and the stem a layer of the device, instead of
    one image for all timesteps and the stem the host's."""
    n_classes: int = 10
    stem_channels: int = 32
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: int = 2
    stem_coefficient: str = "channel"
    stages: tuple[StageConfig, ...] = (StageConfig(channels=32),)
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    neurons: dict[str, NeuronConfig] = field(default_factory=dict)
    """Exceptions from ``neuron`` by name of the layer: ``conv1``, ``layer1.0.conv2``, ..."""
    batch_norm: str = "shared"
    """``shared`` statistics over all timesteps, or statistics ``per-timestep``."""
    aap: bool = True
    """With the auxiliary accumulation pathway, which exists for training only."""
    shared_classifier: bool = True
    """One classifier for spikes and auxiliary pathway, as in the paper's code; else one each."""
    spiking: bool = True
    """If not, every neuron is a ReLU and passes on a real number: a reference for the others and
    their teacher, which cannot be exported."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("timesteps", "n_classes", "stem_channels", "stem_stride", "stem_pool"):
            number = getattr(self, name)
            _require(number >= 1, f"{name} = {number}: use at least 1")
        _require(
            len(self.image_shape) == 3
            and all(isinstance(n, int) and 1 <= n < MAX_NUMBER for n in self.image_shape),
            f"image_shape = {self.image_shape}: use three positive numbers",
        )
        _require(len(self.stages) >= 1, "stages: use at least one")
        _require(
            self.stem_kernel % 2 == 1 and self.stem_kernel > 0,
            f"stem_kernel = {self.stem_kernel}: use an odd number",
        )
        _require(
            self.batch_norm in ("shared", "per-timestep"),
            f"batch_norm = {self.batch_norm!r}: use 'shared' or 'per-timestep'",
        )
        _require(
            self.spiking or self.frames or self.timesteps == 1,
            f"timesteps = {self.timesteps} of equal images are all the same without spikes: use 1",
        )
        _require(
            self.spiking or all(b.gate == "ADD" for s in self.stages for b in s.blocks),
            "gates are for spikes: without them (spiking = false) use ADD",
        )
        _check_granularity(self.stem_coefficient)

    @property
    def exportable(self) -> bool:
        """Every tensor between layers is binary, as the device has it."""
        return all(block.gate != "ADD" for stage in self.stages for block in stage.blocks)

    def neuron_of(self, layer: str) -> NeuronConfig:
        """The neurons of a layer."""
        return self.neurons.get(layer, self.neuron)

    def along(self, n: int) -> tuple[int, int]:
        """A kernel's or stride's length along rows and columns."""
        return (1 if self.image_shape[1] == 1 else n), n

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
        try:
            values = dict(values)
            values["image_shape"] = tuple(values["image_shape"])
            values["neuron"] = NeuronConfig(**values["neuron"])
            values["neurons"] = {
                name: NeuronConfig(**neuron) for name, neuron in values.get("neurons", {}).items()
            }
            values["stages"] = tuple(
                StageConfig(**{**stage, "blocks": tuple(BlockConfig(**b) for b in stage["blocks"])})
                for stage in values["stages"]
            )
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
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


def resnet(depth: int, *, gate: str = "IAND", granularity: str = "channel") -> ModelConfig:
    """The family for ImageNet-shaped input: 18 and 34 layers of basic blocks; 50, 101 and 152 of
    bottlenecks. The stem pools windows of 2 x 2, as the device does, where He et al. have 3 x 3.

    Raises
    ------
    ModelError
        Another depth.
    """
    n_blocks = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }
    _require(depth in n_blocks, f"depth = {depth}: use one of {list(n_blocks)}")
    kind, widening = ("basic", 1) if depth < 50 else ("bottleneck", EXPANSION)
    block = BlockConfig(gate=gate, inner=granularity, outer=granularity, kind=kind)
    return ModelConfig(
        image_shape=(3, 224, 224),
        n_classes=1000,
        stem_channels=64,
        stem_kernel=7,
        stem_stride=2,
        stem_coefficient=granularity,
        stages=tuple(
            StageConfig(
                channels=64 * 2**n * widening, stride=1 if n == 0 else 2, blocks=(block,) * m
            )
            for n, m in enumerate(n_blocks[depth])
        ),
    )


def with_blocks(config: ModelConfig, **changes: str) -> ModelConfig:
    """``config`` with every block changed, for example ``gate="XOR"`` or ``inner="element"``."""
    return replace(
        config,
        stages=tuple(
            replace(stage, blocks=tuple(replace(block, **changes) for block in stage.blocks))
            for stage in config.stages
        ),
    )


def with_granularity(config: ModelConfig, granularity: str) -> ModelConfig:
    """``config`` with every coefficient of this granularity, the stem's too."""
    changed = with_blocks(config, inner=granularity, outer=granularity)
    return replace(changed, stem_coefficient=granularity)


def widened(x: Tensor) -> Tensor:
    """``x`` in float32, if it has less than 32 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _run(
    drives: Sequence[Tensor],
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    shift: int = 0,
) -> tuple[list[Tensor], list[Tensor]]:
    """Spikes and membranes before reset, by timestep."""
    spikes, membranes = [], []
    left = torch.zeros_like(drives[0])
    for drive in drives:
        if shift:
            shifted = torch.floor(left * 2.0 ** -abs(shift))
            left = shifted if shift > 0 else left - shifted
        else:
            left = decay * left
        membrane = left + drive
        spike = (membrane >= threshold).to(drive.dtype)
        left = membrane * (1 - spike) if hard else membrane - threshold * spike
        spikes.append(spike)
        membranes.append(membrane)
    return spikes, membranes


def _run_back(
    grad: Sequence[Tensor],
    membranes: Sequence[Tensor],
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    surrogate: str,
    slope: float | Tensor,
) -> list[Tensor]:
    """Gradients of the drives from those of the spikes, by timestep."""
    grads: list[Tensor] = []
    left = torch.zeros_like(grad[0])
    for t in reversed(range(len(grad))):
        above = membranes[t] - threshold
        x = slope * above
        if surrogate == "sigmoid":
            sigmoid = torch.sigmoid(x)
            here = sigmoid * (1 - sigmoid)
        elif surrogate == "arctan":
            here = 0.5 / (1 + (torch.pi / 2 * x) ** 2)
        elif surrogate == "rectangle":
            here = (x.abs() <= 0.5).to(left.dtype)
        else:
            here = torch.relu(1 - x.abs())
        kept = left * (above < 0).to(left.dtype) if hard else left
        grads.append(grad[t] * (slope * here) + kept)
        left = decay * grads[-1]
    return grads[::-1]


def _by_time(drive: Tensor, timesteps: int) -> list[Tensor]:
    return [drive[t if len(drive) > 1 else 0] for t in range(timesteps)]


def neuron_forward(
    drive: Tensor,
    timesteps: int,
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    shift: int = 0,
) -> tuple[Tensor, Tensor]:
    """Spikes and membranes before reset, both ``(T, ...)``; ``drive`` is ``(T, ...)`` or, if it is
    the same at every timestep, ``(1, ...)``. Fires at ``membrane >= threshold``.

    Membranes shrink by ``decay``; or, where ``shift`` is not 0, as integers do
    (:func:`hw.spec.leaked`): to ``v >> shift``, and if it is negative by ``v >> -shift``.
    """
    spikes, membranes = _run(_by_time(drive, timesteps), decay, threshold, hard, shift)
    return torch.stack(spikes), torch.stack(membranes)


def neuron_backward(
    grad: Tensor,
    membranes: Tensor,
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    surrogate: str,
    slope: float | Tensor,
    total: bool = False,
) -> Tensor:
    """Gradient ``(T, ...)`` of the drive from that of the spikes, or its ``total`` over time
    ``(1, ...)``; the reset is not differentiated (Chen et al.)."""
    grads = _run_back(list(grad), list(membranes), decay, threshold, hard, surrogate, slope)
    return sum(grads[1:], grads[0])[None] if total else torch.stack(grads)


def _windows(maps: Tensor, pool: tuple[int, int], axis: int) -> list[Tensor]:
    """The first, second, ... element of every window of pooling over ``axis`` and the next."""
    sizes = [n // p * p for n, p in zip(maps.shape[axis : axis + 2], pool, strict=True)]
    maps = maps.narrow(axis, 0, sizes[0]).narrow(axis + 1, 0, sizes[1])
    rows = [maps[(slice(None),) * axis + (slice(y, None, pool[0]),)] for y in range(pool[0])]
    return [
        row[(slice(None),) * (axis + 1) + (slice(x, None, pool[1]),)]
        for row in rows
        for x in range(pool[1])
    ]


def pooled_forward(
    drive: Tensor,
    timesteps: int,
    decay: float,
    threshold: float,
    hard: bool,
    pool: tuple[int, int],
    axis: int,
) -> Tensor:
    """:func:`neuron_forward`'s spikes, OR-pooled over ``axis`` and the next."""
    runs = [
        _run(_by_time(part, timesteps), decay, threshold, hard)[0]
        for part in _windows(drive, pool, axis)
    ]
    return torch.stack([reduce(torch.maximum, spikes) for spikes in zip(*runs, strict=True)])


def pooled_backward(
    grad: Tensor,
    drive: Tensor,
    decay: float,
    threshold: float,
    hard: bool,
    surrogate: str,
    slope: float,
    pool: tuple[int, int],
    axis: int,
) -> list[Tensor]:
    """Gradients of the drive, window element by window element (:func:`_windows`). Runs the neurons
    again, which costs less than to keep what they did. The gradient goes to the first spike of a
    window, or to its first neuron, as in max-pooling."""
    timesteps = len(grad)
    parts = _windows(drive, pool, axis)
    runs = [_run(_by_time(part, timesteps), decay, threshold, hard) for part in parts]
    left = list(grad)
    result = []
    for n, (spikes, membranes) in enumerate(runs):
        taken = []
        for t in range(timesteps):
            takes = spikes[t]
            if n == 0:
                takes = takes + 1 - reduce(torch.maximum, [run[0][t] for run in runs])
            taken.append(left[t] * takes)
            left[t] = left[t] - taken[t]
        grads = _run_back(taken, membranes, decay, threshold, hard, surrogate, slope)
        result.append(sum(grads[1:], grads[0])[None] if len(drive) == 1 else torch.stack(grads))
    return result


_forward: Callable[..., tuple[Tensor, Tensor]] = neuron_forward
_backward: Callable[..., Tensor] = neuron_backward
_pooled_forward: Callable[..., Tensor] = pooled_forward
_pooled_backward: Callable[..., list[Tensor]] = pooled_backward


_gate: Callable[[str, Tensor, Tensor], Tensor]  # set below, where gates are


def use(functions: Functions) -> None:
    """Compute neurons and gates with these from now on."""
    global _forward, _backward, _pooled_forward, _pooled_backward, _gate
    _forward, _backward, _pooled_forward, _pooled_backward, _gate = functions


def compiled(functions: Functions) -> Functions:
    """By torch's compiler, which fuses their loops."""
    torch._dynamo.config.recompile_limit = 256  # shapes of maps; beyond, it compiles no more
    return tuple(torch.compile(function, dynamic=False) for function in functions)


def compile_neurons() -> None:
    """Let torch's compiler fuse the loops of neurons and the gates: about 1.5 times as fast on a
    CPU, but a minute of compilation and a C++ compiler first. For long training runs."""
    use(compiled(PLAIN))


class Fire(torch.autograd.Function):
    """Neurons over all timesteps, with a hand-written backward pass through time."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        decay: Tensor | float,
        timesteps: int,
        config: NeuronConfig,
        threshold: float | Tensor,
        shift: int,
    ) -> Tensor:
        """``drive`` (T|1, ...) and spikes (T, ...); membranes are never of less than 32 bits.

        ``threshold`` may differ from the configuration's, and be one per neuron: membranes are then
        in other units, by which the surrogate's slope is divided.
        """
        hard = config.reset == "HARD"
        wide = widened(drive)
        spikes, membranes = _forward(wide, timesteps, decay, threshold, hard, shift)
        learned = decay if isinstance(decay, Tensor) else None
        unit = threshold if isinstance(threshold, Tensor) else None
        ctx.save_for_backward(membranes, learned, unit)
        ctx.config, ctx.repeated = config, len(drive) < timesteps
        ctx.decay = None if isinstance(decay, Tensor) else decay
        return spikes.to(drive.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        membranes, learned, unit = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        hard = config.reset == "HARD"
        decay = ctx.decay if learned is None else learned
        threshold = config.threshold if unit is None else unit
        slope = config.surrogate_slope
        if unit is not None:
            slope = slope * config.threshold / unit
        grad = _backward(
            grads[0].to(membranes.dtype),
            membranes,
            decay,
            threshold,
            hard,
            config.surrogate,
            slope,
            ctx.repeated and learned is None,
        )
        of_decay = None
        if learned is not None:
            before = membranes[:-1]
            fired = (before >= threshold).to(before.dtype)
            left = before * (1 - fired) if hard else before - threshold * fired
            of_decay = (grad[1:] * left).sum()
        if ctx.repeated and learned is not None:
            grad = grad.sum(0, keepdim=True)
        return grad.to(grads[0].dtype), of_decay, None, None, None, None


class FirePooled(torch.autograd.Function):
    """:class:`Fire` and OR-pooling in one, without a map in between, for leaks that are constant.
    ``drive`` (T|1, ...) has rows and columns at ``axis`` and the next."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        timesteps: int,
        config: NeuronConfig,
        pool: tuple[int, int],
        axis: int,
    ) -> Tensor:
        hard = config.reset == "HARD"
        ctx.save_for_backward(drive)
        ctx.config, ctx.pool, ctx.axis = config, pool, axis
        spikes = _pooled_forward(
            widened(drive), timesteps, config.decay, config.threshold, hard, pool, axis
        )
        return spikes.to(drive.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (drive,) = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        wide = widened(drive)
        parts = _pooled_backward(
            grads[0].to(wide.dtype),
            wide,
            config.decay,
            config.threshold,
            config.reset == "HARD",
            config.surrogate,
            config.surrogate_slope,
            ctx.pool,
            ctx.axis,
        )
        sizes = drive.shape[ctx.axis : ctx.axis + 2]
        whole = all(n % p == 0 for n, p in zip(sizes, ctx.pool, strict=True))
        result = torch.empty_like(drive) if whole else torch.zeros_like(drive)
        for place, part in zip(_windows(result, ctx.pool, ctx.axis), parts, strict=True):
            place.copy_(part)
        return result, None, None, None, None


class Neuron(nn.Module):
    """IF or LIF neurons. Input ``(T * N, C, H, W)``, or ``(N, C, H, W)`` with ``repeated`` drive;
    output binary ``(T * N, C, H, W)``. With a :data:`LEARNED` leak ``decay_logit`` is trained."""

    def __init__(self, config: NeuronConfig, timesteps: int):
        super().__init__()
        self.config = config
        self.timesteps = timesteps
        self.decay_logit = (
            nn.Parameter(torch.logit(torch.tensor(config.decay)))
            if config.leak == LEARNED
            else None
        )

    def forward(
        self, drive: Tensor, repeated: bool = False, pool: tuple[int, int] = (1, 1)
    ) -> Tensor:
        """``pool``: windows of which one spike passes."""
        n_drives = 1 if repeated else self.timesteps
        config = self.config
        decay = config.decay if self.decay_logit is None else torch.sigmoid(self.decay_logit)
        timed = drive.unflatten(0, (n_drives, len(drive) // n_drives))
        # Neurons do not care where they are: in the order of memory the loops over them are fast.
        channels_last = drive.is_contiguous(memory_format=torch.channels_last)
        if channels_last:
            timed = timed.permute(0, 1, 3, 4, 2)
        fused = max(pool) > 1 and self.decay_logit is None
        if fused:
            axis = 2 if channels_last else 3
            fired = FirePooled.apply(timed, self.timesteps, config, pool, axis)
        else:
            fired = Fire.apply(timed, decay, self.timesteps, config, config.threshold, 0)
        spikes = cast(Tensor, fired)
        if channels_last:
            spikes = spikes.permute(0, 1, 4, 2, 3)
        spikes = spikes.flatten(0, 1)
        return spikes if fused or max(pool) == 1 else F.max_pool2d(spikes, pool)


class Rectifier(Neuron):
    """ReLU and max-pooling, in the place of neurons in a network that does not spike."""

    def forward(
        self, drive: Tensor, repeated: bool = False, pool: tuple[int, int] = (1, 1)
    ) -> Tensor:
        return F.relu(drive if max(pool) == 1 else F.max_pool2d(drive, pool))


class _MeanOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        return cast(Tensor, _MeanOverProcesses.apply(grads[0].contiguous()))


class Norm(nn.BatchNorm2d):
    """Batch-norm over all timesteps, or with statistics ``(T, C)`` of every timestep and one gain
    and bias for all. Under DistributedDataParallel the statistics are those of all processes'
    batches, on any device (torch's own does not know CPUs)."""

    def __init__(self, n_channels: int, timesteps: int = 1):
        super().__init__(n_channels)
        self.timesteps = timesteps
        if timesteps > 1:
            self.running_mean = torch.zeros(timesteps, n_channels)
            self.running_var = torch.ones(timesteps, n_channels)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and dist.is_initialized() and dist.get_world_size() > 1:
            return self._synchronised(input)
        if self.timesteps == 1:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        parts = zip(input.chunk(self.timesteps), self.running_mean, self.running_var, strict=True)
        done = [
            F.batch_norm(
                x, mean, var, self.weight, self.bias, self.training, self.momentum or 0.1, self.eps
            )
            for x, mean, var in parts
        ]
        return torch.cat(done)

    def _synchronised(self, input: Tensor) -> Tensor:
        """In training, with mean and variance over the batches of all processes, which are equally
        large; gradients pass through both."""
        x = widened(input).unflatten(0, (self.timesteps, -1))
        n_processes = dist.get_world_size()
        axes = (1, 3, 4)
        mean = cast(Tensor, _MeanOverProcesses.apply(x.mean(axes)))
        centred = x - mean[:, None, :, None, None]
        var = cast(Tensor, _MeanOverProcesses.apply(centred.square().mean(axes)))
        n_values = n_processes * x[0].numel() // x.shape[2]
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            momentum = self.momentum or 0.1
            shape = self.running_mean.shape
            unbiased = var * (n_values / max(1, n_values - 1))
            self.running_mean.lerp_(mean.reshape(shape), momentum)
            self.running_var.lerp_(unbiased.reshape(shape), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        gain = self.weight * torch.rsqrt(var + self.eps)
        result = centred * gain[:, None, :, None, None] + self.bias[:, None, None]
        return result.flatten(0, 1).to(input.dtype)


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
    """Binary gate of two binary tensors, see :class:`hw.spec.Gate`, in differentiable form; or
    their sum."""
    if gate == "AND":
        return identity * branch
    if gate == "IAND":
        return identity * (1 - branch)
    if gate == "OR":
        return identity + branch - identity * branch
    if gate == "ADD":
        return identity + branch
    return identity + branch - 2 * identity * branch


PLAIN: Functions = neuron_forward, neuron_backward, pooled_forward, pooled_backward, join
_gate = join


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
        joined = _gate(self.gate, branch, identity)
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
        _require(min(shape) >= 1, f"nothing is left of the map {self.map_shape}: use less stride")
        self.fc = nn.Linear(shape[0], config.n_classes)
        if not config.shared_classifier:
            carries["fc"] = nn.Linear(shape[0], config.n_classes)
        self.aap = nn.ModuleDict(carries) if config.aap else None
        unknown = set(config.neurons) - set(self.neurons())
        _require(not unknown, f"neurons: there are no layers {', '.join(sorted(unknown))}")
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
        network (:data:`sw.network.INPUT` for the frames, or the stem's spikes of an image)."""
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
