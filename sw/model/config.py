"""Configuration of a full-spike residual network: neurons, blocks, stages. Needs no torch.

Full-spike means that all maps (outputs of layers) are binary. The network is
:class:`sw.model.resnet.SpikingResNet`: a first convolution (the stem), stages of residual blocks,
and a classifier. A trainable factor, the Real-Spike coefficient, scales the spikes of a map. Its
granularity says how many values it has: one for the whole map, one per channel, or one per element
(:data:`GRANULARITIES`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from hw.spec import MAX_LEAK_SHIFT, N_LEAK_SHIFTS, Gate, Leak, Reset, decay, valid_shifts
from sw.network.network import Shape

GRANULARITIES = ("none", "layer", "channel", "element")
"""Granularities of a Real-Spike coefficient, the trainable factor of a map's spikes.

``none``: no coefficient; ``layer``: one value for the whole map; ``channel``: one per channel;
``element``: one per channel, row and column."""
PER_TIMESTEP = "/per-timestep"
"""Suffix of a granularity whose coefficient also varies from timestep to timestep."""
SURROGATES = ("sigmoid", "arctan", "rectangle", "triangle")
"""Surrogate gradients, in place of the spike's derivative in the backward pass.

They are functions of ``x = slope * (membrane - threshold)``; the area under each is 1:

- ``sigmoid``: ``s(x) (1 - s(x))``, where ``s`` is the logistic function;
- ``arctan``: ``1 / (2 (1 + (pi x / 2)^2))``;
- ``rectangle``: 1 where ``|x| <= 1/2``, else 0;
- ``triangle``: ``max(0, 1 - |x|)``."""
KINDS = ("basic", "bottleneck")
"""Kinds of residual block (He et al., arXiv 1512.03385)."""
EXPANSION = 4
"""Ratio of a bottleneck's output channels to those of its 3x3 convolution."""
MAX_NUMBER = 1 << 20
"""Exclusive upper bound on the absolute value of any number in a configuration."""
MAX_BLOCKS = 1000
"""Largest number of blocks of a network."""
ADD = "ADD"
"""Name of the gate that adds spikes, with an integer result. On the device, the layers that use the
sum read the added maps one by one."""
LEARNED = "LEARNED"
"""Name of the leak that is trained (PLIF neurons, Fang et al., arXiv 2007.05785).

The device leaks by shifts only. Before export, :func:`sw.model.resnet.round_leaks` replaces a
trained leak by the nearest leak that shifts can compute.
"""


class ModelError(ValueError):
    """Raised if a configuration is not supported; the message says what is wrong."""


def require(ok: bool, message: str) -> None:
    """Raise an error with ``message`` unless ``ok``, a condition on a configuration, is true.

    Raises
    ------
    ModelError
        ``ok`` is False, so the configuration is not supported.
    """
    if not ok:
        raise ModelError(message)


def _check_types(config: Any) -> None:
    """Check that scalar fields have their declared types, and that numbers are not too large.

    The absolute value of a number must be below :data:`MAX_NUMBER`. Configurations may come from
    untrusted files, so types cannot be relied on.

    Raises
    ------
    ModelError
        A field has another type, or a number is too large.
    """
    kinds = {"int": int, "float": int | float, "str": str, "bool": bool}
    for known in fields(config):
        value, kind = getattr(config, known.name), kinds.get(str(known.type))
        if kind is not None:
            ok = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
            ok = ok and (kind is str or abs(cast(float, value)) < MAX_NUMBER)
            require(ok, f"{known.name} = {value!r}: use a value of type {known.type}")


def _check_granularity(granularity: str) -> None:
    spatial = granularity.removesuffix(PER_TIMESTEP)
    require(
        spatial in GRANULARITIES and granularity != "none" + PER_TIMESTEP,
        f"granularity {granularity!r}: use one of {GRANULARITIES}, "
        f"all but 'none' with or without {PER_TIMESTEP!r}",
    )


@dataclass(frozen=True, kw_only=True)
class NeuronConfig:
    """Settings of a layer's IF or LIF neurons: threshold, leak, reset and surrogate gradient."""

    threshold: float = 1.0
    """Threshold, positive: a neuron fires if its membrane is at or above it."""
    leak: str = "NONE"
    """Name of a :class:`hw.spec.Leak`, or ``LEARNED`` for a trained leak, which starts out as
    ``SUBTRACT``."""
    leak_shift: int = 0
    """First shift of the leak (:class:`hw.spec.Leak`), in bits; 0 if the leak is ``NONE``."""
    finer_shifts: tuple[int, ...] = ()
    """Further shifts of the leak, for decay factors that a single shift does not reach."""
    reset: str = "HARD"
    """Name of a :class:`hw.spec.Reset`: ``HARD`` sets the membrane to 0, ``SOFT`` subtracts the
    threshold at once, ``DELAYED`` in the next timestep, after the leak."""
    surrogate: str = "sigmoid"
    """Name of the surrogate gradient, one of :data:`SURROGATES`."""
    surrogate_slope: float = 4.0
    """Steepness of the surrogate; positive."""

    def __post_init__(self) -> None:
        if isinstance(self.finer_shifts, list):  # as in JSON
            object.__setattr__(self, "finer_shifts", tuple(self.finer_shifts))
        _check_types(self)
        require(
            isinstance(self.finer_shifts, tuple),
            f"finer_shifts = {self.finer_shifts!r}: use a list of integers",
        )
        for name in ("threshold", "surrogate_slope"):
            number = getattr(self, name)
            require(number > 0, f"{name} = {number}: use a positive number")
        require(
            self.leak in Leak.__members__ or self.leak == LEARNED,
            f"leak = {self.leak!r}: use {[*Leak.__members__, LEARNED]}",
        )
        require(
            self.reset in Reset.__members__,
            f"reset = {self.reset!r}: use {list(Reset.__members__)}",
        )
        require(
            self.leak_shifts == (0,) if self.leak == "NONE" else valid_shifts(self.leak_shifts),
            f"leak_shift = {self.leak_shift} and finer_shifts = {self.finer_shifts} with leak "
            f"{self.leak}: use 0 and none for NONE, otherwise up to {N_LEAK_SHIFTS} rising shifts "
            f"from 1 to {MAX_LEAK_SHIFT}",
        )
        require(self.surrogate in SURROGATES, f"surrogate = {self.surrogate!r}: use {SURROGATES}")

    @property
    def decay(self) -> float:
        """Factor by which the leak multiplies a membrane in one timestep.

        :func:`hw.spec.decay` computes it from the shifts. For a leak that is trained
        (:data:`LEARNED`), it is the value at the start of training, the same as for ``SUBTRACT``.
        """
        kind = Leak.SUBTRACT if self.leak == LEARNED else Leak[self.leak]
        return decay(kind, *self.leak_shifts)

    @property
    def leak_shifts(self) -> tuple[int, ...]:
        """Shifts of the leak in the order of its formula (:class:`hw.spec.Leak`)."""
        return (self.leak_shift, *self.finer_shifts)


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Configuration of a residual block: its kind, its gate and its coefficients.

    A block has two paths: the residual branch, which has the convolutions, and the identity, which
    passes on the block's input. The gate joins the spikes of both.

    The granularity of a coefficient is one of :data:`GRANULARITIES`. All but ``none`` may have the
    suffix ``/per-timestep``: then every timestep has values of its own.
    """

    gate: str = "IAND"
    """Name of the gate: ``AND``, ``IAND``, ``OR`` or ``XOR`` (:class:`hw.spec.Gate`); or ``ADD``,
    which sums spikes to integers, so that layers after it read several maps."""
    inner: str = "channel"
    """Granularity of the coefficients between the block's convolutions."""
    outer: str = "channel"
    """Granularity of the coefficient on the block's output, after the gate."""
    kind: str = "basic"
    """Kind of block: ``basic`` has two convolutions, both 3x3; ``bottleneck`` has three: 1x1, 3x3
    and 1x1."""

    def __post_init__(self) -> None:
        _check_types(self)
        require(
            (self.gate in Gate.__members__ and self.gate != "NONE") or self.gate == ADD,
            f"gate = {self.gate!r}: use AND, IAND, OR, XOR or ADD",
        )
        require(self.kind in KINDS, f"kind = {self.kind!r}: use one of {KINDS}")
        for granularity in (self.inner, self.outer):
            _check_granularity(granularity)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Configuration of a stage: a sequence of blocks with the same number of output channels."""

    channels: int
    """Number of output channels of every block; a multiple of 4 if there are bottlenecks."""
    stride: int = 1
    """Stride of the first block, the same vertically and horizontally; all other blocks have 1."""
    blocks: tuple[BlockConfig, ...] = (BlockConfig(),)
    """Blocks in order, at least one."""

    def __post_init__(self) -> None:
        _check_types(self)
        require(len(self.blocks) >= 1, "blocks: use at least one")
        require(
            min(self.channels, self.stride) >= 1,
            f"channels = {self.channels}, stride = {self.stride}: use at least 1",
        )
        require(
            self.channels % EXPANSION == 0 or all(b.kind == "basic" for b in self.blocks),
            f"channels = {self.channels}: a stage of bottlenecks needs a multiple of {EXPANSION}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configuration of a whole network: input, stem, stages, neurons and training features.

    :meth:`to_dict` and :meth:`from_dict` convert it to and from JSON values.
    """

    timesteps: int = 4
    """Number of timesteps, at least 1."""
    image_shape: Shape = (1, 28, 28)
    """Shape (channels, height, width) of an image or frame. With height 1 the input is a signal,
    and all kernels and strides are one-dimensional."""
    frames: bool = False
    """Whether the input is a binary frame for every timestep. Otherwise it is one image, which
    drives the stem, the first convolution, equally at every timestep."""
    n_classes: int = 10
    """Number of classes."""
    stem_channels: int = 32
    """Number of output channels of the stem's convolution."""
    stem_kernel: int = 3
    """Height and width of the stem's kernel; odd."""
    stem_stride: int = 1
    """Stride of the stem's convolution, the same vertically and horizontally."""
    stem_pool: int = 2
    """Height and width of the windows over which the stem's spikes are ORed; 1 for no pooling."""
    stem_coefficient: str = "channel"
    """Granularity of the coefficient on the stem's spikes, see :class:`BlockConfig`."""
    stages: tuple[StageConfig, ...] = (StageConfig(channels=32),)
    """Stages in order, at least one."""
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    """Settings of the neurons of all layers that ``neurons`` does not name."""
    neurons: dict[str, NeuronConfig] = field(default_factory=dict)
    """Settings of single layers' neurons, by names such as ``layer1.0.conv2``."""
    batch_norm: str = "shared"
    """Whether batch-norm statistics are ``shared`` by all timesteps, or ``per-timestep``."""
    aap: bool = True
    """Whether the network has the auxiliary accumulation pathway (:mod:`sw.model.resnet`), which
    is for training only."""
    shared_classifier: bool = True
    """Whether spikes and auxiliary pathway share a classifier, as in the code of Chen et al."""
    spiking: bool = True
    """Whether neurons spike. If not, they are ReLUs that output real numbers, and all gates must be
    ``ADD``. Such a network serves as a reference and a teacher for spiking networks, and cannot be
    exported."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("timesteps", "n_classes", "stem_channels", "stem_stride", "stem_pool"):
            number = getattr(self, name)
            require(number >= 1, f"{name} = {number}: use at least 1")
        require(
            len(self.image_shape) == 3
            and all(isinstance(n, int) and 1 <= n < MAX_NUMBER for n in self.image_shape),
            f"image_shape = {self.image_shape}: use three positive numbers",
        )
        require(len(self.stages) >= 1, "stages: use at least one")
        n_blocks = sum(len(stage.blocks) for stage in self.stages)
        require(n_blocks <= MAX_BLOCKS, f"{n_blocks} blocks: use at most {MAX_BLOCKS}")
        require(
            self.stem_kernel % 2 == 1 and self.stem_kernel > 0,
            f"stem_kernel = {self.stem_kernel}: use an odd number",
        )
        require(
            self.batch_norm in ("shared", "per-timestep"),
            f"batch_norm = {self.batch_norm!r}: use 'shared' or 'per-timestep'",
        )
        require(
            self.spiking or self.frames or self.timesteps == 1,
            f"timesteps = {self.timesteps} of equal images are all the same without spikes: use 1",
        )
        require(
            self.spiking or all(b.gate == ADD for s in self.stages for b in s.blocks),
            "gates are for spikes: without them (spiking = false) use ADD",
        )
        _check_granularity(self.stem_coefficient)

    @property
    def exportable(self) -> bool:
        """Whether a device can run the network.

        It can if the network has neurons instead of ReLUs, and every leak is one that the device
        has. Trained leaks must first be rounded (:func:`sw.model.resnet.round_leaks`).
        """
        neurons = (self.neuron, *self.neurons.values())
        return self.spiking and all(neuron.leak != LEARNED for neuron in neurons)

    def neuron_of(self, layer: str) -> NeuronConfig:
        """Return the settings of the neurons of the layer called ``layer``."""
        return self.neurons.get(layer, self.neuron)

    def along(self, n: int) -> tuple[int, int]:
        """Return a kernel size, stride or pooling size ``n`` as (rows, columns).

        It is ``(n, n)`` for images, and ``(1, n)`` for one-dimensional signals, whose height is 1.
        """
        return (1 if self.image_shape[1] == 1 else n), n

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON values; tuples become lists."""
        return cast(dict[str, Any], _listed(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Return the configuration that JSON values describe; the inverse of :meth:`to_dict`.

        Raises
        ------
        ModelError
            A field is unknown, or a value is not supported.
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


def with_blocks(config: ModelConfig, **changes: str) -> ModelConfig:
    """Return a copy of ``config`` with fields of every block replaced, such as ``gate="XOR"``."""
    return replace(
        config,
        stages=tuple(
            replace(stage, blocks=tuple(replace(block, **changes) for block in stage.blocks))
            for stage in config.stages
        ),
    )


def with_granularity(config: ModelConfig, granularity: str) -> ModelConfig:
    """Return a copy of ``config`` in which every coefficient has the same granularity.

    ``granularity`` is one of :data:`GRANULARITIES`, which may have the suffix ``/per-timestep``.
    """
    changed = with_blocks(config, inner=granularity, outer=granularity)
    return replace(changed, stem_coefficient=granularity)
