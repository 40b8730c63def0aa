"""Layers, and the integer network that is exported, compiled and run. NumPy only, no torch.

Weights always have the form of one array, ``weight[t, y, x, o, c, ky, kx]``, however they are
shared. Output channels ``o`` and input channels ``c`` always have weights of their own. An axis of
timesteps ``t``, output rows ``y``, output columns ``x``, kernel rows ``ky`` or kernel columns
``kx`` has its full length, or length 1 if the weights are shared along it. In shapes, ``t|1``
stands for an axis of either length.

A *map* is the spikes (T, C, H, W) that a layer writes, and that other layers read by its name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hw.spec import (
    MAX_LEAK_SHIFT,
    N_LEAK_SHIFTS,
    N_PLANES,
    Gate,
    Leak,
    Reset,
    signed_range,
    valid_shifts,
)
from sw.network.schema import Label, Length, Range, faults

MAX_SIZE = 1 << 20
"""Largest size of a map, kernel, stride or pooling window along one axis, in positions."""

MAX_TIMESTEPS = 1 << 12
"""Largest number of timesteps: the largest number of iterations of a loop on any device."""

MAX_LAYERS = 255
"""Largest number of layers, without the encoder, for which a device can be built, see
:attr:`hw.spec.Config.max_layers`."""

MAX_ADDENDS = 63
"""Largest number of maps that a layer reads besides its ``source``."""

MAX_MAP = 1 << 30
"""Largest number of elements of a map over all timesteps, and of pixels of an image."""

IMAGE = "image"
"""Name of the map of pixels that the encoder reads."""

INPUT = "input"
"""Name of the first map of spikes, written by the encoder, or by the user if there is none."""

Size = Annotated[int, Range(1, MAX_SIZE)]
"""Number of positions along one axis of a map, kernel or window."""

Padding = Annotated[int, Range(0, MAX_SIZE)]
"""Number of zeros around a map on each side of an axis."""

Shape = tuple[Size, Size, Size]
"""Shape of a map or an image: (channels, height, width)."""

Weight = TypeVar("Weight", bound=np.generic)
Param = TypeVar("Param", bound=np.generic)


class NetworkError(ValueError):
    """Error that a network is inconsistent, or that a layer passes on other values than spikes.

    The message names the layer.
    """


def conv_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (0, 0),
) -> tuple[int, int]:
    """Return the height and width of the output of a convolution or pooling.

    Every argument is a pair (vertical, horizontal); ``size`` is the height and width of the input.
    A result below 1 means that the kernel exceeds the padded input.

    >>> conv_size((28, 28), kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    (14, 14)
    """
    height, width = (
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )
    return height, width


@dataclass(frozen=True, eq=False, kw_only=True)
class AnyLayer(Generic[Weight, Param]):
    """A layer: convolution, neurons, gate and pooling, in this order, with numbers of any type.

    The type variables are the number types of weights and of parameters (biases and thresholds).
    :mod:`hw.spec` defines neuron and gate. A layer whose kernel is as large as its map is fully
    connected. An output layer has no neurons: it sums over all timesteps and adds the bias once.

    A network file stores the fields of this class in the order in which they are defined
    (:mod:`sw.network.netfile`).
    """

    name: Label
    source: Label
    """Name of the map that the layer reads: :data:`INPUT`, the name of an earlier layer, or, in an
    encoder, :data:`IMAGE`."""
    addends: Annotated[tuple[Label, ...], Length(0, MAX_ADDENDS)] = field(
        default=(), metadata={"since": 3}
    )
    """Names of further maps that the layer reads. All have the shape of ``source``."""
    stacked: bool = field(default=False, metadata={"since": 3})
    """Whether each of several maps that the layer reads has weights of its own. If true, the input
    channels of ``weight`` are the channels of all maps, one map after another. If false, the maps
    share their weights, so that the layer's input is the sum of the maps. It is false for a layer
    that reads a single map."""
    kernel: tuple[Size, Size]
    stride: tuple[Size, Size] = (1, 1)
    padding: tuple[Padding, Padding] = (0, 0)
    weight: NDArray[Weight]
    """Weights (t|1, y|1, x|1, o, c, ky|1, kx|1)."""
    bias: NDArray[Param]
    """Biases (t|1, y|1, x|1, o); (1, 1, 1, o) in an output layer."""
    threshold: NDArray[Param] | None = None
    """Positive thresholds (y|1, x|1, o); None in an output layer."""
    leak: Leak = Leak.NONE
    leak_shift: Annotated[int, Range(0, MAX_LEAK_SHIFT)] = 0
    """First shift of the leak (:class:`hw.spec.Leak`); 0 without a leak."""
    finer_shifts: Annotated[
        tuple[Annotated[int, Range(1, MAX_LEAK_SHIFT)], ...], Length(0, N_LEAK_SHIFTS - 1)
    ] = field(default=(), metadata={"since": 2})
    """Further shifts of the leak, for decay factors that a single shift does not reach."""
    reset: Reset = Reset.HARD
    gate: Gate = Gate.NONE
    identity: Label | None = None
    """Name of the map with which the gate joins the layer's spikes; it has the shape of the output
    before pooling. None without a gate."""
    pool: tuple[Size, Size] = (1, 1)
    """Height and width of the windows over which spikes are ORed, after the gate."""
    output: bool = False

    @property
    def leak_shifts(self) -> tuple[int, ...]:
        """Shifts of the leak in the order of its formula (:class:`hw.spec.Leak`)."""
        return (self.leak_shift, *self.finer_shifts)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all maps whose spikes the layer weighs: ``source``, then ``addends``."""
        return (self.source, *self.addends)

    @property
    def n_summed(self) -> int:
        """Number of maps that are added up before the sum is multiplied by weights.

        It is also the largest value of the sum. It is 1 if each map has weights of its own.
        """
        return 1 if self.stacked else len(self.sources)

    @property
    def n_out(self) -> int:
        """Number of output channels; in an output layer, the number of classes."""
        return self.weight.shape[3]

    @property
    def fan_in(self) -> int:
        """Number of synapses of a neuron at one timestep, including those in the padding."""
        return self.n_summed * self.weight.shape[4] * self.kernel[0] * self.kernel[1]

    def conv_shape(self, source: Shape) -> Shape:
        """Return the shape (O, H', W') of the layer's output at a timestep, before pooling.

        O is the number of output channels. ``source`` is the shape (C, H, W) of the map that the
        layer reads.
        """
        return self.n_out, *conv_size(source[1:], self.kernel, self.stride, self.padding)

    def map_shape(self, source: Shape) -> Shape:
        """Return the shape (O, H', W') of the map that the layer writes, after pooling.

        O is the number of output channels. ``source`` is the shape (C, H, W) of the map that the
        layer reads. Pooling drops incomplete windows.
        """
        _, height, width = self.conv_shape(source)
        return self.n_out, height // self.pool[0], width // self.pool[1]

    def structure(self) -> dict[str, Any]:
        """Return the values of the layer's fields by name, except weight, bias and threshold.

        Use them to make a layer of the same structure with other weights, biases and thresholds.
        """
        numbers = ("weight", "bias", "threshold")
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in numbers
        }


class Layer(AnyLayer[np.int8, np.int32]):
    """A layer with integer numbers, as the device computes it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """A network with integer numbers, whose layers communicate by binary spikes only.

    Parameters
    ----------
    timesteps : number of timesteps T.
    image_shape : shape (C, H, W) of the input: of a uint8 image if there is an encoder, else of the
        binary frame of one timestep.
    encoder : first layer of a network for images, which reads the same pixels at every timestep.
        Its ``source`` is :data:`IMAGE`; its weights are shared over positions and timesteps, and it
        has no gate. The host computes it unless the device takes pixels. None if the input is
        binary frames.
    pixel_bits : width of the pixels that the encoder reads. Each pixel of an image, 0 to 255, is
        first rounded to a whole number from 0 to ``2**pixel_bits - 1``
        (:func:`sw.network.encoder.rounded`). With 8, pixels stay as they are. It is 8 if there is
        no encoder.
    layers : the other layers, in an order in which every map is written before it is read. The last
        one, and no other, is an output layer.
    weight_bits : width in bits that suffices for every weight of ``layers``.
    labels : names of the classes, in the order of the logits.
    provenance : how the network was made: training configuration, seed, checksum of the data,
        accuracies (JSON values).
    statistics : measurements on validation data, such as spike densities, by name of the layer or
        map (JSON values).
    """

    timesteps: Annotated[int, Range(1, MAX_TIMESTEPS)]
    image_shape: Shape
    encoder: Layer | None
    pixel_bits: Annotated[int, Range(1, N_PLANES)] = field(default=N_PLANES, metadata={"since": 4})
    layers: Annotated[tuple[Layer, ...], Length(1, MAX_LAYERS)]
    weight_bits: Annotated[int, Range(2, 8)]
    labels: tuple[Label, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def n_classes(self) -> int:
        """Number of classes that the network distinguishes."""
        return self.layers[-1].n_out

    @property
    def n_weights(self) -> int:
        """Number of weights of all layers, without those of the encoder."""
        return sum(layer.weight.size for layer in self.layers)

    def map_shapes(self) -> dict[str, Shape]:
        """Return the shape (C, H, W) of every map of spikes by name, :data:`INPUT` first."""
        shapes = {
            INPUT: self.image_shape
            if self.encoder is None
            else self.encoder.map_shape(self.image_shape)
        }
        for layer in self.layers[:-1]:
            shapes[layer.name] = layer.map_shape(shapes[layer.source])
        return shapes


def validate(network: Network) -> None:
    """Check that the types, ranges, shapes, values and names in a network agree with each other.

    Raises
    ------
    NetworkError
        They disagree; the message names the layer, what is wrong and what is expected.
    """
    for fault in faults(Network, network, "network"):
        raise NetworkError(fault)
    _check_map("input", network.image_shape, network.timesteps if network.encoder is None else 1)
    if network.encoder is None and network.pixel_bits != N_PLANES:
        raise NetworkError(
            f"network.pixel_bits is {network.pixel_bits}, but no encoder reads pixels: expected "
            f"{N_PLANES}"
        )
    shapes = {INPUT: network.image_shape}
    if network.encoder is not None:
        _check_encoder(network.encoder)
        _check_arrays(network.encoder, network.image_shape, network.timesteps)
        shapes[INPUT] = network.encoder.map_shape(network.image_shape)
        _check_map(network.encoder.name, shapes[INPUT], network.timesteps)
    names = {IMAGE, INPUT} if network.encoder is None else {IMAGE, INPUT, network.encoder.name}
    for n, layer in enumerate(network.layers):
        _require(
            layer.name not in names,
            layer.name,
            f"the name is used twice, or stands for the input ({IMAGE!r}, {INPUT!r})",
        )
        names.add(layer.name)
        _require(
            layer.output == (n == len(network.layers) - 1),
            layer.name,
            "the last layer, and no other, must be an output layer",
        )
        _check_sources(layer, shapes)
        source = shapes[layer.source]
        _check_arrays(layer, source, network.timesteps)
        _check_weights(layer, network.weight_bits)
        _check_gate(layer, shapes)
        if not layer.output:
            shapes[layer.name] = layer.map_shape(source)
            _check_map(layer.name, shapes[layer.name], network.timesteps)
    _require(
        len(network.labels) == network.n_classes,
        network.layers[-1].name,
        f"{network.n_classes} classes but {len(network.labels)} labels",
    )


def _require(ok: bool, layer: str, message: str) -> None:
    """Raise :class:`NetworkError` with the name of a layer and a message unless ``ok``."""
    if not ok:
        raise NetworkError(f"layer {layer!r}: {message}")


def _check_map(layer: str, shape: Shape, timesteps: int) -> None:
    """Check that the map that ``layer`` writes is neither empty nor larger than :data:`MAX_MAP`."""
    _require(min(shape) >= 1, layer, f"the map that it writes is empty: {shape}")
    _require(
        timesteps * math.prod(shape) <= MAX_MAP,
        layer,
        f"the map that it writes, {timesteps} timesteps of {shape}, has more than {MAX_MAP} spikes",
    )


def _check_encoder(encoder: Layer) -> None:
    """Check the restrictions that apply to encoders only."""
    _require(
        encoder.source == IMAGE, encoder.name, f"an encoder reads {IMAGE!r}, not {encoder.source!r}"
    )
    _require(
        not encoder.output
        and encoder.gate == Gate.NONE
        and encoder.identity is None
        and not encoder.addends
        and not encoder.stacked
        and encoder.weight.shape[:3] == (1, 1, 1)
        and encoder.bias.shape[:3] == (1, 1, 1),
        encoder.name,
        "an encoder fires, shares weights over time and positions, and has no addends or gate",
    )


def _check_sources(layer: Layer, shapes: dict[str, Shape]) -> None:
    """Check the names of the maps that a layer reads, and of the map that its gate joins.

    Earlier layers must have written all of these maps; ``shapes`` has their shapes by name. The
    maps that the layer reads must have the same shape and different names.
    """
    for name in layer.sources:
        _require(name in shapes, layer.name, f"reads {name!r}, which no earlier layer writes")
        _require(
            shapes[name] == shapes[layer.source],
            layer.name,
            f"adds {name!r} of shape {shapes[name]} to {layer.source!r} of shape "
            f"{shapes[layer.source]}: both must have the same shape",
        )
    _require(
        len(set(layer.sources)) == len(layer.sources),
        layer.name,
        f"reads a map twice ({', '.join(layer.sources)}): double its weights instead",
    )
    _require(
        bool(layer.addends) or not layer.stacked,
        layer.name,
        "it cannot be stacked without addends",
    )
    _require(
        (layer.identity is None) == (layer.gate == Gate.NONE),
        layer.name,
        "a layer must have an identity map if it has a gate, and only then",
    )
    _require(
        layer.identity is None or layer.identity in shapes,
        layer.name,
        f"no earlier layer writes its identity {layer.identity!r}",
    )


def _check_gate(layer: Layer, shapes: dict[str, Shape]) -> None:
    """Check that the map that a gate joins with a layer's spikes has the shape of these spikes."""
    if layer.identity is not None:
        identity, branch = shapes[layer.identity], layer.conv_shape(shapes[layer.source])
        _require(
            identity == branch,
            layer.name,
            f"identity {layer.identity!r} has shape {identity}, the branch {branch}",
        )


def _check_weights(layer: Layer, weight_bits: int) -> None:
    low, high = signed_range(weight_bits)
    _require(
        int(layer.weight.min()) >= low and int(layer.weight.max()) <= high,
        layer.name,
        f"weights exceed {weight_bits} bits: they must lie between {low} and {high}",
    )


def _check_arrays(layer: Layer, source: Shape, timesteps: int) -> None:
    """Check the shapes and types of a layer's arrays, the shifts of its leak, and that its
    thresholds are positive.

    An output layer must have neither thresholds nor gate nor pooling, and only one position.
    ``source`` is the shape of the map that the layer reads.
    """
    where, weight, bias = layer.name, layer.weight, layer.bias
    _require(weight.ndim == 7, where, f"weight has shape {weight.shape}, expected 7 axes")
    channels, height, width = layer.conv_shape(source)
    _require(channels >= 1, where, "it has no output channel")
    _require(height >= 1 and width >= 1, where, f"kernel {layer.kernel} exceeds map {source}")
    n_in = source[0] * (len(layer.sources) if layer.stacked else 1)
    expected = (timesteps, height, width, channels, n_in, *layer.kernel)
    _require(
        weight.shape[3:5] == expected[3:5] and _shared(weight.shape, expected),
        where,
        f"weight has shape {weight.shape}, expected {expected} or 1 where shared",
    )
    _require(weight.dtype == np.int8, where, f"weight is {weight.dtype}, not int8")
    _require(bias.dtype == np.int32, where, f"bias is {bias.dtype}, not int32")
    full = (1, 1, 1) if layer.output else (timesteps, height, width)
    _require(
        bias.ndim == 4 and bias.shape[3] == channels and _shared(bias.shape[:3], full),
        where,
        f"bias has shape {bias.shape}, expected {(*full, channels)} or 1 where shared",
    )
    if layer.output:
        _require(
            layer.threshold is None and layer.gate == Gate.NONE and layer.pool == (1, 1),
            where,
            "an output layer has no threshold, gate or pooling",
        )
        _require(
            (height, width) == (1, 1),
            where,
            f"an output layer's kernel covers its whole map; it has {height} x {width} outputs",
        )
        return
    _require(layer.threshold is not None, where, "a firing layer needs thresholds")
    threshold = layer.threshold
    assert threshold is not None
    _require(
        threshold.dtype == np.int32
        and threshold.ndim == 3
        and threshold.shape[2] == channels
        and _shared(threshold.shape[:2], full[1:]),
        where,
        f"threshold has shape {threshold.shape}, expected {(*full[1:], channels)}",
    )
    _require(bool((threshold > 0).all()), where, "thresholds must be positive")
    shifts = layer.leak_shifts
    _require(
        shifts == (0,) if layer.leak == Leak.NONE else valid_shifts(shifts),
        where,
        f"leak_shift {layer.leak_shift} and finer_shifts {list(layer.finer_shifts)} are not "
        f"valid with leak {layer.leak.name}: use 0 and none with NONE, otherwise up to "
        f"{N_LEAK_SHIFTS} rising shifts from 1 to {MAX_LEAK_SHIFT}",
    )


def _shared(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Return whether an array of this shape has the length ``full`` or 1 along each axis."""
    return all(n in (1, length) for n, length in zip(shape, full, strict=True))
