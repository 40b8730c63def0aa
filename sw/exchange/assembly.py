"""Networks of other frameworks: a graph of the steps that they have, folded into ours.

:mod:`sw.exchange.nir_read` and :mod:`sw.exchange.statedict` read files into :class:`Node`; :func:`assemble` makes a
:class:`sw.convert.folded.FoldedNetwork` of them, which from there on goes the way of every network. What is
linear folds into the weights behind it: batch-norm, average and sum pooling, scaling, voting. What
the core cannot do is refused by the name of its node, with what to do instead.

A neuron's membrane may be measured in any unit: with an input gain ``g`` and a reset to ``r``, a
threshold ``t`` is ours at ``(t - r) / g``. One that fires at ``v > t`` fires, in ours, at the next
larger number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.spec import PARAM_BITS, Gate, Leak, Reset, signed_range
from sw.convert import quantize
from sw.convert.folded import FoldedLayer, FoldedNetwork
from sw.exchange.graph import (
    SAME,
    Connect,
    Convolve,
    ExchangeError,
    Fire,
    Flatten,
    Float,
    Join,
    Node,
    Normalise,
    Pair,
    Pool,
    Scale,
    Source,
)
from sw.network.network import IMAGE, INPUT, Layer, Network, Shape, conv_size


@dataclass(frozen=True, eq=False, kw_only=True)
class Imported:
    """A folded network, and the multipliers that make its layers integers if they once were:
    (y|1, x|1, o) by name of the layer, :data:`IMAGE` for the encoder."""

    folded: FoldedNetwork
    multipliers: dict[str, Float]


def leak_of(decay: float) -> tuple[Leak, int] | None:
    """The leak that keeps this share of a membrane in a timestep, None if no shift does."""
    if abs(decay - 1) <= SAME:
        return Leak.NONE, 0
    for shift in range(1, 16):
        if abs(decay - (1 - 2.0**-shift)) <= SAME:
            return Leak.SUBTRACT, shift
        if abs(decay - 2.0**-shift) <= SAME:
            return Leak.KEEP, shift
    return None


def decay_error(decay: float) -> str:
    """What to say if :func:`leak_of` finds none."""
    return (
        f"its membrane keeps {decay:.4g} in a timestep; the device's leaks are shifts, which keep "
        "1 - 2**-k or 2**-k (0.5, 0.75, 0.875, ... or 0.25, 0.125, ...): train it with one of those"
    )


@dataclass(frozen=True, eq=False)
class _Spikes:
    """A map of spikes, or the image, and linear steps on it that wait for weights."""

    name: str
    shape: Shape
    node: str
    factor: Float | None = None
    pool: Pool | None = None

    @property
    def pooled(self) -> Shape:
        if self.pool is None:
            return self.shape
        return self.shape[0], *conv_size(self.shape[1:], self.pool.kernel, self.pool.stride)


@dataclass(frozen=True, eq=False)
class _Sum:
    """Weighted sums that wait for their neuron; weight and bias as in :class:`FoldedLayer`."""

    name: str
    source: str
    weight: Float
    bias: Float
    kernel: Pair
    stride: Pair
    padding: Pair
    shape: Shape


_Value = _Spikes | _Sum


def assemble(nodes: Sequence[Node], source: Source, provenance: dict[str, Any]) -> Imported:
    """Fold a graph.

    Parameters
    ----------
    nodes : in an order in which a node comes after what it reads; the last one is the output.

    Raises
    ------
    ExchangeError
        Something in it cannot be mapped.
    """
    return _Assembly(nodes, source).run(provenance)


class _Assembly:
    def __init__(self, nodes: Sequence[Node], source: Source):
        self.nodes = nodes
        self.source = source
        self.frames = source.pixel_max is None
        self.readers = Counter(name for node in nodes for name in node.sources)
        first = INPUT if self.frames else IMAGE
        self.values: dict[str, _Value] = {IMAGE: _Spikes(first, source.image_shape, IMAGE)}
        self.encoder: FoldedLayer | None = None
        self.layers: dict[str, FoldedLayer] = {}
        self.multipliers: dict[str, Float] = {}

    def run(self, provenance: dict[str, Any]) -> Imported:
        if not self.nodes:
            raise ExchangeError("there is no node in the graph")
        for node in self.nodes:
            inputs = [self.values[name] for name in node.sources]
            try:
                self.values[node.name] = self.step(node, inputs)
            except ExchangeError as error:
                raise ExchangeError(f"node {node.name!r}: {error}") from None
        self.finish(self.nodes[-1].name)
        n_classes = list(self.layers.values())[-1].weight.shape[3]
        labels = self.source.labels or tuple(f"class {n}" for n in range(n_classes))
        folded = FoldedNetwork(
            timesteps=self.source.timesteps,
            image_shape=self.source.image_shape,
            encoder=self.encoder,
            layers=tuple(self.layers.values()),
            labels=labels,
            provenance=provenance,
        )
        return Imported(folded=folded, multipliers=self.multipliers)

    def step(self, node: Node, inputs: list[_Value]) -> _Value:
        step = node.step
        if isinstance(step, Join):
            if len(inputs) != 2:
                raise ExchangeError(
                    f"a gate has a branch and an identity, not {len(inputs)} inputs"
                )
            return self.join(step.gate, *map(_spikes, inputs), node=node)
        if isinstance(step, Fire) and len(inputs) == 2:
            branch, identity = map(_spikes, inputs)
            if _always_fires(step, 1.0):
                return self.join(Gate.OR, branch, identity, node=node)
            raise ExchangeError(
                "it adds two inputs, of which the device can only join spikes by a gate: OR is an "
                "IF neuron with a hard reset whose threshold one spike reaches"
            )
        if len(inputs) != 1:
            raise ExchangeError(
                f"it adds {len(inputs)} inputs, which is not full-spike: join spikes by a gate"
            )
        (value,) = inputs
        if isinstance(step, Convolve | Connect):
            return _weighted(node.name, step, _spikes(value, "weights on weights: multiply them"))
        if isinstance(step, Fire):
            return self.fire(step, value, node)
        if isinstance(step, Pool):
            return self.pool(step, _spikes(value, "pooling of sums: pool the spikes"), node)
        if isinstance(step, Flatten):
            return value
        return _scaled(step, value)

    # -- neurons

    def fire(self, step: Fire, value: _Value, node: Node) -> _Value:
        if isinstance(value, _Spikes):
            if value.pool is not None and value.factor is None and value.name != IMAGE:
                one = 1.0 if value.pool.kind == "sum" else 1 / np.prod(value.pool.kernel)
                if _always_fires(step, float(one)):
                    return self.or_pool(value.pool, replace(value, pool=None), node)
            # Neurons without weights: each has one of its own, of 1.
            eye = np.eye(value.shape[0])[:, :, None, None]
            value = _weighted(node.name, Convolve(weight=eye), value)
        n_out = value.shape[0]
        threshold = _to_rows(step.threshold, value.shape)
        if not (threshold > 0).all():
            raise ExchangeError("its threshold is not above its reset")
        multiplier = np.ones((1, 1, n_out))
        if step.integer_threshold is not None:
            multiplier = _to_rows(step.integer_threshold.astype(np.float64), value.shape)
        layer = FoldedLayer(
            name=value.name,
            source=value.source,
            kernel=value.kernel,
            stride=value.stride,
            padding=value.padding,
            weight=value.weight,
            bias=value.bias,
            threshold=np.nextafter(threshold, np.inf) if step.strict else threshold,
            leak=step.leak,
            leak_shift=step.leak_shift,
            reset=step.reset,
        )
        if value.source != IMAGE:
            return self.add(layer, value.shape, multiplier, node)
        if self.encoder is not None:
            raise ExchangeError("a second layer reads the image; the device has one stem")
        if max(layer.weight.shape[:3]) > 1:
            raise ExchangeError("the stem's weights differ from position to position")
        assert self.source.pixel_max is not None
        gain = self.source.pixel_max / 255
        self.encoder = replace(layer, weight=layer.weight * gain)
        self.multipliers[IMAGE] = multiplier
        return _Spikes(INPUT, value.shape, node.name)

    def add(self, layer: FoldedLayer, shape: Shape, multiplier: Float, node: Node) -> _Spikes:
        if layer.name in self.layers or layer.name == INPUT:
            raise ExchangeError(f"there is another layer {layer.name!r}")
        self.layers[layer.name] = layer
        self.multipliers[layer.name] = multiplier
        return _Spikes(layer.name, shape, node.name)

    # -- pooling and gates

    def pool(self, step: Pool, value: _Spikes, node: Node) -> _Spikes:
        if step.kind == "max":
            if value.name == IMAGE:
                raise ExchangeError("max pooling of the image: pool the data, or behind the stem")
            return self.or_pool(step, value, node)
        if value.pool is not None or value.factor is not None:
            raise ExchangeError("pooling or scaling twice before the weights: make them one")
        if step.padding != (0, 0):
            raise ExchangeError("pooling with padding: give the convolution behind it the padding")
        if min(replace(value, pool=step).pooled) < 1:
            raise ExchangeError(f"its window {step.kernel} exceeds the map {value.shape}")
        return replace(value, pool=step)

    def or_pool(self, step: Pool, value: _Spikes, node: Node) -> _Spikes:
        if step.kernel != step.stride or step.padding != (0, 0):
            raise ExchangeError(
                f"max pooling of {step.kernel} with stride {step.stride} and padding "
                f"{step.padding}: windows must lie side by side, without padding"
            )
        layer = self.encoder if value.name == INPUT else self.layers[value.name]
        if layer is None or layer.pool != (1, 1) or value.factor is not None:
            raise ExchangeError("only a layer's own spikes can be pooled, and once")
        if self.readers[value.node] > 1:
            raise ExchangeError(f"{value.node!r} is also read without pooling")
        layer = replace(layer, pool=step.kernel)
        if value.name == INPUT:
            self.encoder = layer
        else:
            self.layers[value.name] = layer
        channels, height, width = value.shape
        shape = channels, height // step.kernel[0], width // step.kernel[1]
        if min(shape) < 1:
            raise ExchangeError(f"its window {step.kernel} exceeds the map {value.shape}")
        return _Spikes(value.name, shape, node.name)

    def join(self, gate: Gate, branch: _Spikes, identity: _Spikes, node: Node) -> _Spikes:
        if branch.shape != identity.shape:
            raise ExchangeError(f"a map {branch.shape} cannot be joined with one {identity.shape}")
        if any(v.factor is not None or v.pool is not None for v in (branch, identity)):
            raise ExchangeError("spikes are scaled or pooled before the gate, which takes bits")

        def is_branch(value: _Spikes) -> bool:
            layer = self.layers.get(value.name)
            alone = self.readers[value.node] == 1
            return alone and layer is not None and (layer.gate, layer.pool) == (Gate.NONE, (1, 1))

        if gate != Gate.IAND and not is_branch(branch):
            branch, identity = identity, branch
        if not is_branch(branch):
            raise ExchangeError(
                "none of its inputs is a layer's own spikes that nothing else reads; a gate stands "
                "right behind a layer"
            )
        layer = self.layers.pop(branch.name)  # and behind the identity's, if that comes later
        self.layers[branch.name] = replace(layer, gate=gate, identity=identity.name)
        return _Spikes(branch.name, branch.shape, node.name)

    # -- the end

    def finish(self, name: str) -> None:
        """Make the last value the output layer, which adds up over the timesteps; if it is spikes,
        how often each neuron fired."""
        value = self.values[name]
        if isinstance(value, _Spikes):
            if value.name in (IMAGE, INPUT):
                raise ExchangeError(f"node {name!r}: there is no layer before the output")
            shape = value.pooled
            if shape[1:] != (1, 1):
                raise ExchangeError(f"node {name!r}: the output is a map {shape}, not classes")
            eye = Convolve(weight=np.eye(shape[0])[:, :, None, None])
            value = _weighted("count" if "count" not in self.layers else "counts", eye, value)
        if value.source == IMAGE:
            raise ExchangeError(f"node {name!r}: there is no neuron between image and output")
        if value.shape[1:] != (1, 1):
            raise ExchangeError(f"node {name!r}: the output is a map {value.shape}, not classes")
        if value.name in self.layers:
            raise ExchangeError(f"node {name!r}: there is another layer {value.name!r}")
        divisor = self.source.timesteps if self.source.averaged else 1
        self.layers[value.name] = FoldedLayer(
            name=value.name,
            source=value.source,
            kernel=value.kernel,
            stride=value.stride,
            padding=value.padding,
            weight=value.weight / divisor,
            bias=value.bias * self.source.timesteps / divisor,
            output=True,
        )
        self.multipliers[value.name] = np.full((1, 1, value.shape[0]), float(divisor))


def _spikes(value: _Value, otherwise: str = "it is no map of spikes") -> _Spikes:
    if isinstance(value, _Sum):
        raise ExchangeError(f"there is no neuron before it ({otherwise})")
    return value


def _always_fires(step: Fire, least: float) -> bool:
    """Whether an input of ``least`` or more makes the neuron fire at once, so that it has no
    memory."""
    threshold = step.threshold
    reached = threshold < least if step.strict else threshold <= least
    fires = bool(((threshold > 0) & reached).all())
    return fires and step.leak == Leak.NONE and step.reset == Reset.HARD


def _to_rows(values: Float, shape: Shape) -> Float:
    """Numbers that broadcast to a map (C, H, W) as (y|1, x|1, o)."""
    if values.size == np.prod(shape):
        values = values.reshape(shape)
    elif values.size == shape[0] and values.ndim <= 1:
        values = values.reshape(-1, 1, 1)
    try:
        full = np.broadcast_to(values, shape)
    except ValueError:
        raise ExchangeError(f"{values.shape} parameters for a map {shape}") from None
    if (full == full[:, :1, :1]).all():
        full = full[:, :1, :1]
    return np.ascontiguousarray(full.transpose(1, 2, 0)).astype(np.float64)


def _scaled(step: Normalise | Scale, value: _Value) -> _Value:
    if isinstance(value, _Spikes):
        if isinstance(step, Normalise):
            raise ExchangeError("batch-norm of spikes: put it behind the weights")
        if value.pool is not None or value.factor is not None:
            raise ExchangeError("pooling or scaling twice before the weights: make them one")
        return replace(value, factor=_to_rows(step.factor, value.shape).transpose(2, 0, 1))
    if isinstance(step, Scale):
        rows = _to_rows(step.factor, value.shape)
        if rows.shape[:2] != (1, 1):
            raise ExchangeError("sums are scaled by position: scale the spikes before the weights")
        step = Normalise(gain=rows[0, 0], shift=np.zeros(value.shape[0]))
    if step.gain.shape != (value.shape[0],):
        raise ExchangeError(f"batch-norm of {step.gain.size} channels on {value.shape[0]}")
    gain = step.gain[:, None, None, None]
    return replace(value, weight=value.weight * gain, bias=value.bias * step.gain + step.shift)


def _weighted(name: str, step: Convolve | Connect, value: _Spikes) -> _Sum:
    """Weights on spikes, with the pooling and scaling before them folded in."""
    shape = value.pooled
    if isinstance(step, Connect):
        if step.weight.shape[1] != np.prod(shape):
            raise ExchangeError(
                f"it takes {step.weight.shape[1]} inputs, the map before it {shape} has "
                f"{np.prod(shape)}"
            )
        weight = step.weight.reshape(-1, *shape)
        step = Convolve(weight=weight, bias=step.bias)
    if step.weight.shape[1] != shape[0]:
        raise ExchangeError(
            f"it takes {step.weight.shape[1]} channels, the map before it has {shape[0]}"
        )
    weight = step.weight.astype(np.float64)
    kernel: Pair = (weight.shape[2], weight.shape[3])
    stride, padding = step.stride, step.padding
    height, width = conv_size(shape[1:], kernel, stride, padding)
    if min(height, width) < 1:
        raise ExchangeError(f"its kernel {kernel} exceeds the map {shape}")
    if value.pool is not None:
        weight, kernel, stride, padding = _composed(weight, stride, padding, value)
    full = weight[None, None, None]
    if value.factor is not None:
        full = _with_factor(weight, value.factor, kernel, stride, padding)
    n_out = weight.shape[0]
    bias = np.zeros(n_out) if step.bias is None else step.bias.astype(np.float64)
    return _Sum(
        name=name,
        source=value.name,
        weight=np.ascontiguousarray(full),
        bias=bias[None, None, None],
        kernel=kernel,
        stride=stride,
        padding=padding,
        shape=(n_out, height, width),
    )


def _composed(
    weight: Float, stride: Pair, padding: Pair, value: _Spikes
) -> tuple[Float, Pair, Pair, Pair]:
    """Weight, kernel, stride and padding of pooling and convolution as one convolution."""
    pool = value.pool
    assert pool is not None
    overlaps = pool.kernel != pool.stride
    left_over = any(
        (n - k) % s for n, k, s in zip(value.shape[1:], pool.kernel, pool.stride, strict=True)
    )
    if padding != (0, 0) and (overlaps or left_over):
        raise ExchangeError(
            "a convolution with padding behind a pooling whose windows overlap or leave some of "
            "the map: the padding would be read as a part of the map; use whole windows"
        )
    rows, columns = (
        (k - 1) * s + w for k, s, w in zip(weight.shape[2:], pool.stride, pool.kernel, strict=True)
    )
    whole = np.zeros((*weight.shape[:2], rows, columns))
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            top, left = y * pool.stride[0], x * pool.stride[1]
            whole[:, :, top : top + pool.kernel[0], left : left + pool.kernel[1]] += weight[
                :, :, y : y + 1, x : x + 1
            ]
    if pool.kind == "average":
        whole /= np.prod(pool.kernel)
    # A pooling over the whole map leaves one weight for all of it.
    if (whole == whole[:, :, :1]).all():
        whole = whole[:, :, :1]
    if (whole == whole[:, :, :, :1]).all():
        whole = whole[:, :, :, :1]
    return (
        whole,
        (rows, columns),
        (stride[0] * pool.stride[0], stride[1] * pool.stride[1]),
        (padding[0] * pool.stride[0], padding[1] * pool.stride[1]),
    )


def _with_factor(weight: Float, factor: Float, kernel: Pair, stride: Pair, padding: Pair) -> Float:
    """(1, y|1, x|1, o, c, ky, kx): weights of spikes that ``factor`` (c, H|1, W|1) scales."""
    if factor.shape[1:] == (1, 1):
        return (weight * factor[None])[None, None, None]
    padded = np.pad(factor, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    windows = windows[:, :: stride[0], :: stride[1]].transpose(1, 2, 0, 3, 4)
    return (weight * windows[:, :, None])[None]


def quantised(
    imported: Imported,
    weight_bits: int,
    *,
    param_bits: int = PARAM_BITS,
    calibration: NDArray[np.uint8] | None = None,
) -> Network:
    """The integer network: the very integers if it is made of integers that fit, else rounded by
    :func:`sw.convert.quantize.quantize`.

    Raises
    ------
    sw.convert.quantize.QuantizeError
    """
    exact = as_integers(imported, weight_bits, param_bits)
    if exact is not None:
        return exact
    return quantize.quantize(
        imported.folded, weight_bits, param_bits=param_bits, calibration=calibration
    )


def as_integers(imported: Imported, weight_bits: int, param_bits: int) -> Network | None:
    """The network without any rounding, None if that is not possible. A leak rounds, and a network
    whose membranes never did is not the same with it."""
    folded, multipliers = imported.folded, imported.multipliers
    encoder = None
    if folded.encoder is not None:
        encoder = _integers(
            folded.encoder,
            multipliers[IMAGE],
            quantize.ENCODER_WEIGHT_BITS,
            quantize.HOST_PARAM_BITS,
        )
        if encoder is None:
            return None
    layers = []
    for layer in folded.layers:
        integers = _integers(layer, multipliers[layer.name], weight_bits, param_bits)
        if integers is None:
            return None
        layers.append(integers)
    return Network(
        timesteps=folded.timesteps,
        image_shape=folded.image_shape,
        encoder=encoder,
        layers=tuple(layers),
        weight_bits=weight_bits,
        labels=folded.labels,
        provenance={**folded.provenance, "weight_bits": weight_bits},
    )


def _integers(
    layer: FoldedLayer, multiplier: Float, weight_bits: int, param_bits: int
) -> Layer | None:
    weight = layer.weight * multiplier[None, :, :, :, None, None, None]
    bias = layer.bias * multiplier[None]
    low, high = signed_range(weight_bits)
    param_high = signed_range(param_bits)[1]
    rounded, rounded_bias = np.rint(weight), np.rint(bias)
    threshold = None if layer.threshold is None else np.ceil(layer.threshold * multiplier)
    if (
        layer.leak != Leak.NONE
        or bool((np.abs(rounded - weight) > SAME * np.maximum(1, np.abs(weight))).any())
        or bool((np.abs(rounded_bias - bias) > SAME * np.maximum(1, np.abs(bias))).any())
        or rounded.min() < low
        or rounded.max() > high
        or np.abs(rounded_bias).max() > param_high
        or (threshold is not None and threshold.max() > param_high)
        or (layer.output and rounded_bias.shape[:3] != (1, 1, 1))
    ):
        return None
    return quantize.integer_layer(layer, rounded, rounded_bias, threshold)


def report_problems(problems: Mapping[str, str], where: str) -> None:
    """Raise one error that names every node that cannot be mapped, if there is one."""
    if problems:
        lines = [f"  {name}: {why}" for name, why in problems.items()]
        raise ExchangeError("\n".join([f"{where} holds what cannot be mapped:", *lines]))
