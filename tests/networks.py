"""Random small networks that spike and use all features of :class:`sw.network.network.Network`.

:func:`random_network` makes one from a seed; :func:`networks` is a hypothesis strategy that uses
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from hw.spec import N_LEAK_SHIFTS, Gate, Leak, Reset, carried_over, fire, joined, signed_range
from sw.network.network import IMAGE, INPUT, Layer, Network, Shape, conv_size

CHANNELS = (1, 2, 3, 8, 12, 16, 24)
GRANULARITIES = ("shared", "element", "per-timestep", "element per-timestep", "mixed")
"""Choices for the axes along which a layer's weights and biases differ: none, positions
("element"), timesteps, or both. "mixed" chooses timesteps, rows and columns independently, and may
also share weights along the kernel's axes."""
MAX_WEIGHTS = 40_000
"""Largest number of weights in a layer; a layer that would have more shares weights along further
axes."""
MAX_PARAM = signed_range(16)[1]
CALIBRATION_DENSITY = 0.3


def random_input(network: Network, rng: np.random.Generator, n_images: int) -> NDArray[np.uint8]:
    """Return random input for a network: images (N, C, H, W), or frames of spikes (N, T, C, H, W).

    Frames are for networks without an encoder. They have random densities; some are all 0 or all 1.
    """
    if network.encoder is not None:
        return rng.integers(0, 255, (n_images, *network.image_shape), np.uint8, endpoint=True)
    shape = (n_images, network.timesteps, *network.image_shape)
    density = rng.choice(
        (0.0, 0.05, 0.2, 0.5, 1.0), (n_images, 1, 1, 1, 1), p=(0.1, 0.3, 0.3, 0.2, 0.1)
    )
    return (rng.random(shape) < density).astype(np.uint8)


def random_network(
    seed: int | np.random.Generator,
    *,
    n_layers: int | None = None,
    timesteps: int | None = None,
    weight_bits: int | None = None,
    encoder: bool | None = None,
    granularity: str | None = None,
    leak: Leak | None = None,
    reset: Reset | None = None,
    channels: Sequence[int] = CHANNELS,
    full_neurons: bool = True,
    sums: float = 0.3,
    pixel_bits: int | None = None,
) -> Network:
    """Return a random valid network of one to five layers; every option that is None is drawn, too.

    ``sums`` is the probability that a layer reads the sum of several maps, if there are several of
    one shape. Without ``full_neurons``, leaks have one shift and no reset is delayed, as on small
    devices. Thresholds and biases are set so that about 5 to 50 % of a layer's neurons fire.
    """
    rng = np.random.default_rng(seed)
    timesteps = int(rng.integers(1, 6)) if timesteps is None else timesteps
    weight_bits = int(rng.choice((2, 4, 8))) if weight_bits is None else weight_bits
    encoder = bool(rng.random() < 0.4) if encoder is None else encoder
    n_layers = int(rng.integers(1, 6)) if n_layers is None else n_layers
    height, width = (int(n) for n in rng.integers(3, 10, 2))
    image_shape: Shape = (int(rng.choice(CHANNELS[:3] if encoder else channels)), height, width)
    maker = _Maker(
        rng, timesteps, weight_bits, granularity, leak, reset, channels, full_neurons, sums
    )

    stem = None
    if pixel_bits is None:
        widths = (8, 8, 8, 4, 4, 1, 2, 3, 5, 6, 7)
        pixel_bits = widths[image_shape[1] * image_shape[2] % 11] if encoder else 8
    if encoder:
        images = rng.integers(0, 2**pixel_bits, (4, *image_shape), np.int64)
        source = np.repeat(images[:, None], timesteps, axis=1)
        stem, spikes = maker.firing("stem", Reads((IMAGE,)), {IMAGE: source}, encoder=True)
    else:
        spikes = (rng.random((4, timesteps, *image_shape)) < CALIBRATION_DENSITY).astype(np.int64)
    maps = {INPUT: spikes}
    layers: list[Layer] = []
    for n in range(n_layers - 1):
        names = list(maps)
        source_name = names[-1] if rng.random() < 0.75 else str(rng.choice(names))
        layer, spikes = maker.firing(f"layer{n + 1}", maker.reads(source_name, maps), maps)
        layers.append(layer)
        maps[layer.name] = spikes
    names = list(maps)
    layers.append(maker.output("fc", maker.reads(names[-1], maps), maps))
    return Network(
        timesteps=timesteps,
        image_shape=image_shape,
        encoder=stem,
        pixel_bits=pixel_bits,
        layers=tuple(layers),
        weight_bits=weight_bits,
        labels=tuple(f"class {n}" for n in range(layers[-1].n_out)),
        provenance={"seed": seed if isinstance(seed, int) else "generator"},
        statistics={layer.name: {"input_density": float(rng.random())} for layer in layers},
    )


def networks(**options: object) -> st.SearchStrategy[Network]:
    """Return a hypothesis strategy for random networks; ``options`` are those of
    :func:`random_network`."""
    return st.integers(0, 2**32 - 1).map(
        lambda seed: random_network(seed, **options)  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Reads:
    """Names of the maps that a layer reads. If ``stacked``, their channels are concatenated, so
    that each map has weights of its own; otherwise the maps are added up."""

    names: tuple[str, ...]
    stacked: bool = False

    def input(self, maps: dict[str, NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return the input (N, T, C, H, W) that the layer multiplies by its weights."""
        parts = [maps[name] for name in self.names]
        return np.concatenate(parts, axis=2) if self.stacked else np.sum(parts, axis=0)

    def fields(self) -> dict[str, Any]:
        """Return the values of those fields of a ``Layer`` that name the maps it reads."""
        return {"source": self.names[0], "addends": self.names[1:], "stacked": self.stacked}


class _Maker:
    """Generator of random layers; it chooses thresholds so that neurons fire on example spikes (N,
    T, C, H, W)."""

    def __init__(
        self,
        rng: np.random.Generator,
        timesteps: int,
        weight_bits: int,
        granularity: str | None,
        leak: Leak | None,
        reset: Reset | None,
        channels: Sequence[int],
        full_neurons: bool,
        sums: float,
    ):
        self.channels = channels
        self.sums = sums
        self.full_neurons = full_neurons
        # With generators of their own, these features leave all others of a seed as they are.
        seeds = rng.bit_generator.seed_seq.spawn(2)  # type: ignore[attr-defined]
        self.full_rng, self.sum_rng = map(np.random.default_rng, seeds)
        self.rng = rng
        self.timesteps = timesteps
        self.weight_bits = weight_bits
        self.granularity = granularity
        self.leak = leak
        self.reset = reset

    def firing(
        self,
        name: str,
        reads: Reads,
        maps: dict[str, NDArray[np.int64]],
        encoder: bool = False,
    ) -> tuple[Layer, NDArray[np.int64]]:
        """Return a random layer of spiking neurons, and the spikes (N, T, O, H', W') that it
        computes from ``maps``.

        ``name`` is the layer's name, and ``reads`` says which of ``maps`` it reads. An ``encoder``
        is an image network's first layer: it has shared 8-bit weights and no gate.
        """
        rng = self.rng
        source = reads.input(maps)
        shape: Shape = maps[reads.names[0]].shape[2:]  # type: ignore[assignment]
        same = (
            not encoder and rng.random() < 0.6
        )  # the layer keeps the shape, so that a gate can join it
        kernel, stride, padding = zip(*(self._axis(n, same) for n in shape[1:]), strict=True)
        n_out = shape[0] if same else int(rng.choice(self.channels))
        conv = conv_size(shape[1:], kernel, stride, padding)
        partners = (
            []
            if encoder
            else [key for key, spikes in maps.items() if spikes.shape[2:] == (n_out, *conv)]
        )
        identity = str(rng.choice(partners)) if partners and rng.random() < 0.8 else None
        pool = tuple(2 if n >= 2 and rng.random() < 0.25 else 1 for n in conv)
        weight = self._weight(conv, n_out, source.shape[2], kernel, encoder)
        leak = Leak(rng.integers(3)) if self.leak is None else self.leak
        reset = Reset(rng.integers(2)) if self.reset is None else self.reset
        drive = _drive(weight, source, kernel, stride, padding)
        silent = drive.max(axis=(0, 1, 2, 3)) <= 0
        if silent.any():  # these channels could never fire: negate their weights, roughly
            weight[:, :, :, silent] = ~weight[:, :, :, silent]
            drive = _drive(weight, source, kernel, stride, padding)
        spread = max(1, int(drive.std()))
        full = self._axes()
        bias_shape = [n if f else 1 for n, f in zip((self.timesteps, *conv), full, strict=True)]
        if encoder:
            bias_shape = [1, 1, 1]
        bias = rng.integers(-(spread // 4), spread // 4 + 1, (*bias_shape, n_out))
        if not encoder and rng.random() < 0.2:
            bias = np.zeros((1, 1, 1, n_out), np.int64)
        threshold_shape = [n if rng.random() < 0.5 and not encoder else 1 for n in conv]
        jitter = rng.uniform(0.6, 1.5, (*threshold_shape, n_out))
        shifts = [0 if leak == Leak.NONE else int(rng.integers(1, 5))]
        if self.full_neurons:
            full = self.full_rng
            if self.reset is None and full.random() < 0.3:
                reset = Reset.DELAYED
            if leak != Leak.NONE:
                n_finer = int(full.integers(N_LEAK_SHIFTS))
                finer = full.choice(range(shifts[0] + 1, 9), n_finer, replace=False)
                shifts += sorted(int(shift) for shift in finer)
        layer = Layer(
            name=name,
            **reads.fields(),
            kernel=kernel,  # type: ignore[arg-type]
            stride=stride,  # type: ignore[arg-type]
            padding=padding,  # type: ignore[arg-type]
            weight=weight,
            bias=bias.clip(-MAX_PARAM, MAX_PARAM).astype(np.int32),
            threshold=np.ones((*threshold_shape, n_out), np.int32),
            leak=leak,
            leak_shift=shifts[0],
            finer_shifts=tuple(shifts[1:]),
            reset=reset,
            gate=Gate.NONE if identity is None else Gate(rng.integers(1, 5)),
            identity=identity,
            pool=pool,  # type: ignore[arg-type]
        )
        drive = drive + layer.bias
        level = float(rng.uniform(1.0, 3.0)) * spread
        for _ in range(12):  # until 5 to 50 % of neurons fire
            threshold = np.rint(level * jitter).clip(1, MAX_PARAM).astype(np.int32)
            layer = replace(layer, threshold=threshold)
            spikes = _fire(layer, drive)
            if spikes.mean() > 0.5:
                level *= 1.7
            elif spikes.mean() < 0.05 and level > 1:
                level /= 1.7
            else:
                break
        return layer, _join(layer, spikes, maps)

    def reads(self, name: str, maps: dict[str, NDArray[np.int64]]) -> Reads:
        """Choose at random which maps a layer reads: ``name`` alone, or ``name`` and further maps
        of the same shape."""
        rng = self.sum_rng
        others = [n for n, x in maps.items() if n != name and x.shape == maps[name].shape]
        if not others or rng.random() >= self.sums:
            return Reads((name,))
        n_others = int(rng.integers(1, min(3, len(others)), endpoint=True))
        addends = (str(n) for n in rng.choice(others, n_others, replace=False))
        return Reads((name, *addends), bool(rng.random() < 0.4))

    def output(self, name: str, reads: Reads, maps: dict[str, NDArray[np.int64]]) -> Layer:
        """Return an output layer whose kernel covers the whole map, sometimes with padding."""
        rng = self.rng
        n_in, *shape = reads.input(maps).shape[2:]
        around = int(rng.random() < 0.2)
        kernel = (shape[0] + 2 * around, shape[1] + 2 * around)
        n_classes = int(rng.choice((2, 3, 5, 10, 12, 17)))
        weight = self._weight((1, 1), n_classes, n_in, kernel, False)
        spread = signed_range(self.weight_bits)[1] + 1
        return Layer(
            name=name,
            **reads.fields(),
            kernel=kernel,
            padding=(around, around),
            weight=weight,
            bias=rng.integers(-spread, spread, (1, 1, 1, n_classes), np.int32),
            output=True,
        )

    def _axis(self, size: int, same: bool) -> tuple[int, int, int]:
        """Return a random kernel size, stride and padding for an axis of ``size`` positions.

        If ``same``, the layer's output has the same size along this axis.
        """
        rng = self.rng
        kernel = int(rng.choice((1, 3, 5), p=(0.25, 0.6, 0.15)))
        if same:
            kernel = min(kernel, 3)
            return kernel, 1, kernel // 2
        padding = int(rng.integers(2)) if kernel > 1 else 0
        if kernel > size + 2 * padding:
            kernel, padding = 1, 0
        return kernel, int(rng.choice((1, 2), p=(0.6, 0.4))), padding

    def _axes(self) -> tuple[bool, bool, bool]:
        """Choose at random whether weights differ along timesteps, rows and columns."""
        granularity = self.granularity or str(self.rng.choice(GRANULARITIES))
        if granularity == "mixed":
            t, y, x = (bool(b) for b in self.rng.random(3) < 0.5)
            return t, y, x
        return "per-timestep" in granularity, "element" in granularity, "element" in granularity

    def _weight(
        self,
        conv: tuple[int, ...],
        n_out: int,
        n_in: int,
        kernel: tuple[int, ...],
        encoder: bool,
    ) -> NDArray[np.int8]:
        rng = self.rng
        lead = [n if f else 1 for n, f in zip((self.timesteps, *conv), self._axes(), strict=True)]
        taps = list(kernel)
        if self.granularity in (None, "mixed") and not encoder and rng.random() < 0.15:
            taps = [1 if rng.random() < 0.5 else n for n in taps]
        if encoder:
            lead = [1, 1, 1]
        for axis in rng.permutation(3):
            if math.prod(lead) * n_out * n_in * math.prod(taps) > MAX_WEIGHTS:
                lead[axis] = 1
        low, high = signed_range(8 if encoder else self.weight_bits)
        weight = rng.integers(low, high, (*lead, n_out, n_in, *taps), np.int8, endpoint=True)
        if rng.random() < 0.3:  # folded networks have zeros for inputs outside the map
            weight[rng.random(weight.shape) < 0.3] = 0
        return weight


def _drive(
    weight: NDArray[np.int8],
    source: NDArray[np.int64],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> NDArray[np.int64]:
    """Return weighted sums (N, T, H', W', O) of ``source`` (N, T, C, H, W), without bias."""
    padded = np.pad(source, ((0, 0),) * 3 + tuple((p, p) for p in padding))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(3, 4))
    windows = windows[:, :, :, :: stride[0], :: stride[1]]
    n_times, _, height, width = windows.shape[1:5]
    taps = np.broadcast_to(
        weight.astype(np.int64), (n_times, height, width, *weight.shape[3:5], *kernel)
    )
    return np.einsum("ntcyxij,tyxocij->ntyxo", windows, taps, optimize=False)


def _fire(layer: Layer, drive: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return spikes (N, T, O, H', W') before gate and pooling; ``drive`` includes the bias."""
    assert layer.threshold is not None
    left = np.zeros_like(drive[:, 0])
    spikes = np.zeros_like(drive)
    for t in range(drive.shape[1]):
        spikes[:, t], membrane = fire(left + drive[:, t], layer.threshold, layer.reset)
        left = carried_over(
            membrane, spikes[:, t], layer.threshold, layer.reset, layer.leak, *layer.leak_shifts
        )
    return spikes.transpose(0, 1, 4, 2, 3)


def _join(
    layer: Layer, spikes: NDArray[np.int64], maps: dict[str, NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return spikes after the layer's gate and pooling."""
    if layer.identity is not None:
        spikes = joined(layer.gate, spikes, maps[layer.identity])
    rows, columns = (n // p for n, p in zip(spikes.shape[3:], layer.pool, strict=True))
    spikes = spikes[:, :, :, : rows * layer.pool[0], : columns * layer.pool[1]]
    return spikes.reshape(*spikes.shape[:3], rows, layer.pool[0], columns, layer.pool[1]).max(
        axis=(4, 6)
    )
