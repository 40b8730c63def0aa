"""Random small networks that use everything a :class:`sw.network.Network` can say."""

from __future__ import annotations

import numpy as np

from hw.spec import Gate, Leak, Reset, signed_range
from sw.network import INPUT, Layer, Network, Shape


def _random_layer(
    rng: np.random.Generator,
    name: str,
    source: str,
    shape: Shape,
    n_out: int,
    timesteps: int,
    weight_bits: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    identity: str | None = None,
    pool: int = 1,
    shared: bool | None = None,
) -> Layer:
    """A firing layer with "same" padding and a random granularity (``shared`` fixes it)."""
    low, high = signed_range(weight_bits)
    padding = kernel // 2
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in shape[1:])
    static = shared if shared is not None else rng.random() < 0.5
    local = not shared and rng.random() < 0.5
    t = 1 if static else timesteps
    y, x = (height, width) if local else (1, 1)
    fan_in = shape[0] * kernel * kernel
    leak = Leak(rng.integers(3))
    threshold_high = 2 + int(high * fan_in**0.5 / 2)
    return Layer(
        name=name,
        source=source,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(padding, padding),
        weight=rng.integers(
            low, high, (t, y, x, n_out, shape[0], kernel, kernel), np.int8, endpoint=True
        ),
        bias=rng.integers(-high, high, (t, y, x, n_out), np.int32, endpoint=True),
        threshold=rng.integers(1, threshold_high, (y, x, n_out), np.int32, endpoint=True),
        leak=leak,
        leak_shift=0 if leak == Leak.NONE else int(rng.integers(1, 4)),
        reset=Reset(rng.integers(2)),
        gate=Gate.NONE if identity is None else Gate(rng.integers(1, 5)),
        identity=identity,
        pool=(pool, pool),
    )


def random_network(seed: int) -> Network:
    """A network of four to five layers: a stem, a residual block, a strided or pooled layer and an
    output layer, with odd sizes, random gates, leaks, resets and granularities."""
    rng = np.random.default_rng(seed)
    timesteps = int(rng.integers(1, 5))
    weight_bits = int(rng.choice((2, 4, 8)))
    channels, size, n_classes = (int(n) for n in rng.integers((1, 5, 2), (12, 9, 12)))
    image_shape = (int(rng.integers(1, 4)), size, size + int(rng.integers(2)))
    encoder = None
    shape = image_shape
    if rng.random() < 0.5:
        encoder = _random_layer(
            rng, "stem", "image", shape, channels, timesteps, 8, pool=2, shared=True
        )
        shape = encoder.map_shape(shape)

    def add(source: str, name: str, n_out: int, **options: int | str) -> str:
        layer = _random_layer(
            rng,
            name,
            source,
            shapes[source],
            n_out,
            timesteps,
            weight_bits,
            **options,  # type: ignore[arg-type]
        )
        layers.append(layer)
        shapes[name] = layer.map_shape(shapes[source])
        return name

    shapes, layers = {INPUT: shape}, []
    first = add(INPUT, "layer1.0.conv1", channels)
    branch = add(first, "layer1.0.conv2", channels, identity=first)
    last = add(branch, "layer2.0.conv1", 2 * channels, stride=int(rng.integers(1, 3)))
    if rng.random() < 0.5 and shapes[last][1] >= 2:
        last = add(last, "layer2.0.conv2", channels, kernel=1, pool=2)
    low, high = signed_range(weight_bits)
    kernel = shapes[last][1:]
    layers.append(
        Layer(
            name="fc",
            source=last,
            kernel=kernel,
            weight=rng.integers(
                low,
                high,
                (int(rng.choice((1, timesteps))), 1, 1, n_classes, shapes[last][0], *kernel),
                np.int8,
                endpoint=True,
            ),
            bias=rng.integers(-high, high, (1, 1, 1, n_classes), np.int32, endpoint=True),
            output=True,
        )
    )
    return Network(
        timesteps=timesteps,
        image_shape=image_shape,
        encoder=encoder,
        layers=tuple(layers),
        weight_bits=weight_bits,
        labels=tuple(f"class {n}" for n in range(n_classes)),
        provenance={"seed": seed},
        statistics={layer.name: {"input_density": rng.random()} for layer in layers},
    )
