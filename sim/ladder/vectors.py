"""The networks and samples on which a board is checked, and their expected results.

All checks of a board (:mod:`sim.ladder.rungs`) use the same ones: random networks with every
feature that the device has, a network that fills weight memory, and the largest shipped network
that the device can run, on real samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hw.protocol import Space, n_rows, row_bytes
from hw.spec import Config, signed_range
from sim.ladder.netlist import LadderError
from sw import shipped
from sw.cli import zoo
from sw.compile.compiler import compile_network
from sw.compile.program import FitError, Program
from sw.convert import fold, quantize
from sw.data import catalogue
from sw.driver.selftest import random_network
from sw.model import checkpoint
from sw.network import reference
from sw.network.network import INPUT, Layer, Network
from sw.network.reference import Trace

SHIPPED, FILLING = "shipped", "filling"
MIN_FILL = 0.7
"""Smallest share of weight memory that the network generated to fill this memory must use."""
MAX_DRAWS = 40
"""Largest number of random networks that are tried until one fits the device."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Vector:
    """Network with samples to run on a board, and its expected results.

    Attributes
    ----------
    samples : images uint8 (N, C, H, W), or spikes uint8 (N, T, C, H, W) if the network has no
        encoder.
    checkpoint : name of the shipped checkpoint that the network comes from, or None.
    """

    name: str
    network: Network
    program: Program
    samples: NDArray[np.uint8]
    checkpoint: str | None = None

    @cached_property
    def trace(self) -> Trace:
        """All spikes and logits, from the integer reference in PyTorch."""
        return reference.run(self.network, self.samples)

    @property
    def fill(self) -> float:
        """Share of the device's weight memory that the network takes, from 0 to 1."""
        config = self.program.config
        available = n_rows(Space.WEIGHT, config) * row_bytes(Space.WEIGHT, config)
        return len(self.program.images[Space.WEIGHT]) / available


def vectors(config: Config, *, n_random: int, n_samples: int, seed: int) -> list[Vector]:
    """Return the networks with samples for a device's configuration, the smallest networks first.

    Parameters
    ----------
    n_random : number of random networks.
    n_samples : number of samples of each network.
    seed : seed of the random networks and samples, at least 0.
    """
    found = [random_vector(config, f"random {i}", n_samples, (seed, i)) for i in range(n_random)]
    found.append(filling_vector(config, n_samples, seed))
    return [*found, *shipped_vectors(config, n_samples)]


def random_vector(config: Config, name: str, n_samples: int, seed: tuple[int, ...]) -> Vector:
    """Return a random network that fits the device, with random samples.

    Raises
    ------
    LadderError
        After :data:`MAX_DRAWS` random networks, none fits.
    """
    for draw in range(MAX_DRAWS):
        rng = np.random.default_rng((*seed, draw))
        network = random_network(rng, config, small=draw > 0)
        with suppress(FitError):
            program = compile_network(network, config)
            samples = random_samples(network, rng, n_samples)
            return Vector(name=name, network=network, program=program, samples=samples)
    raise LadderError(f"no random network fits {config.name}: use another --seed")


def random_samples(network: Network, rng: np.random.Generator, n_samples: int) -> NDArray[np.uint8]:
    """Return random input of a network: the first sample is dense, the others are sparser."""
    if network.encoder is not None:
        return rng.integers(0, 256, (n_samples, *network.image_shape), np.uint8)
    shape = (n_samples, network.timesteps, *network.image_shape)
    density = np.linspace(0.5, 0.1, n_samples).reshape(-1, 1, 1, 1, 1)
    return (rng.random(shape) < density).astype(np.uint8)


def filling_vector(config: Config, n_samples: int, seed: int) -> Vector:
    """Return a network that takes as much of weight memory as possible, with samples.

    Raises
    ------
    LadderError
        The largest such network takes less than :data:`MIN_FILL` of the memory.
    """
    low, high = 0, 1 << 16
    best: Vector | None = None
    while high - low > 1:
        middle = (low + high) // 2
        network = _sized(config, middle, np.random.default_rng(seed))
        try:
            program = compile_network(network, config)
        except FitError:
            high = middle
            continue
        low = middle
        samples = random_samples(network, np.random.default_rng(seed), n_samples)
        best = Vector(name=FILLING, network=network, program=program, samples=samples)
        if len(program.images[Space.WEIGHT]) > 0.97 * n_rows(Space.WEIGHT, config) * row_bytes(
            Space.WEIGHT, config
        ):
            break
    if best is None or best.fill < MIN_FILL:
        raise LadderError(f"no network of this form fills {MIN_FILL:.0%} of {config.name}")
    return best


def _sized(config: Config, size: int, rng: np.random.Generator) -> Network:
    """Return a network of two layers whose number of weights grows with ``size``.

    The input has ``1 + size`` channels and is one row high. The weights of the first layer are
    different at each position of that row, so that each further channel adds weights at every
    position.
    """
    n_out, width = config.lanes, 4
    channels = 1 + size
    low, high = signed_range(config.weight_bits)
    first = Layer(
        name="first",
        source=INPUT,
        kernel=(1, 3),
        padding=(0, 1),
        weight=rng.integers(low, high, (1, 1, width, n_out, channels, 1, 3), np.int8, True),
        bias=rng.integers(low, high, (1, 1, 1, n_out), np.int32, True),
        threshold=rng.integers(1, 1 + high * 4, (1, 1, n_out), np.int32, True),
    )
    output = Layer(
        name="output",
        source="first",
        kernel=(1, width),
        weight=rng.integers(low, high, (1, 1, 1, 3, n_out, 1, width), np.int8, True),
        bias=rng.integers(low, high, (1, 1, 1, 3), np.int32, True),
        output=True,
    )
    return Network(
        timesteps=1,
        image_shape=(channels, 1, width),
        encoder=None,
        layers=(first, output),
        weight_bits=config.weight_bits,
        labels=("a", "b", "c"),
    )


def shipped_vectors(config: Config, n_samples: int) -> Iterator[Vector]:
    """Yield the largest shipped network that fits the device, if any does, on real samples."""
    available = n_rows(Space.WEIGHT, config) * row_bytes(Space.WEIGHT, config)
    for entry in sorted(zoo.load(), key=lambda entry: entry.n_synapses, reverse=True):
        path = shipped.CHECKPOINTS / f"{entry.name}.pt"
        # Folding takes seconds. It is left out if the weights alone would be far too many.
        if not path.exists() or entry.n_synapses * config.weight_bits // 8 > 2 * available:
            continue
        network = quantize.quantize(fold.fold(path), config.weight_bits)
        with suppress(FitError):
            yield Vector(
                name=SHIPPED,
                network=network,
                program=compile_network(network, config),
                samples=shipped_samples(entry.name)[:n_samples],
                checkpoint=entry.name,
            )
            return


def shipped_samples(name: str) -> NDArray[np.uint8]:
    """Return real samples of a shipped checkpoint's data set."""
    values = checkpoint.load(shipped.CHECKPOINTS / f"{name}.pt")
    if values["data"]["name"] == "fashion-mnist":
        return catalogue.load_samples().images
    found = checkpoint.calibration(values)
    if found is None:
        raise LadderError(f"the checkpoint {name} has no samples")
    return found
