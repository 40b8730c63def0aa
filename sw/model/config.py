"""Configuration of a full-spike residual network: neurons, blocks, stages. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from hw.spec import Gate, Leak, Reset
from sw.network.network import Shape

GRANULARITIES = ("none", "layer", "channel", "element")
PER_TIMESTEP = "/per-timestep"
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


def require(ok: bool, message: str) -> None:
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
            (0 < self.leak_shift <= 15) == (self.leak != "NONE") and 0 <= self.leak_shift <= 15,
            f"leak_shift = {self.leak_shift} with leak {self.leak}: use 1 to 15, and 0 for NONE",
        )
        require(self.surrogate in SURROGATES, f"surrogate = {self.surrogate!r}: use {SURROGATES}")

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
        require(
            (self.gate in Gate.__members__ and self.gate != "NONE") or self.gate == "ADD",
            f"gate = {self.gate!r}: use AND, IAND, OR or XOR (or ADD, which cannot be exported)",
        )
        require(self.kind in KINDS, f"kind = {self.kind!r}: use one of {KINDS}")
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
            require(number >= 1, f"{name} = {number}: use at least 1")
        require(
            len(self.image_shape) == 3
            and all(isinstance(n, int) and 1 <= n < MAX_NUMBER for n in self.image_shape),
            f"image_shape = {self.image_shape}: use three positive numbers",
        )
        require(len(self.stages) >= 1, "stages: use at least one")
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
